// Moving through the video: play, step, jump, and the row of buttons that do it.

import { nextDoubtful } from "./actions.js";
import { byId, clamp, setIcon, setText } from "./dom.js";
import { isReady } from "./stage.js";
import { app, emit, goTo, on, promptedFrames, setView } from "./state.js";
import { timeOf, timecode } from "./times.js";
import { isZoomed, seenFrames } from "./timescale.js";

const SPEEDS = [0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4];
const [SHORTEST_MS, LONGEST_MS] = [1000 / 240, 1000]; // of a frame: some headers say 60000 per second, or one an hour
const PATIENCE_MS = 4000; // a frame that does not come for this long is played over

let clock = 0; // when the frame on the canvas was due

/** Milliseconds for which a frame is shown at normal speed before the one that follows. */
const periodOf = (frame, next) => clamp(timeOf(next) - timeOf(frame), SHORTEST_MS, LONGEST_MS);

/** At more than normal speed only some frames are shown, as many as at normal speed. */
const stride = () => Math.max(1, Math.floor(app.speed));

/** The frames that are played: a part of the video where the timeline shows a part and playing starts again there. */
const playedFrames = () => (app.loop && isZoomed() ? seenFrames() : [0, app.video.frames - 1]);

/** The frame to play after the current one; null at the end. */
function following() {
  const [first, last] = playedFrames();
  if (app.frame < first) return first;
  if (app.frame < last) return Math.min(app.frame + stride(), last);
  return app.loop && last > first ? first : null;
}

function tick(now) {
  if (!app.playing) return;
  const next = following();
  const late = now - clock;
  if (next === null) return pause();
  const period = (next > app.frame ? periodOf(app.frame, next) : periodOf(Math.max(app.frame - 1, 0), app.frame)) / app.speed;
  if (late >= period && (isReady(next) || late > PATIENCE_MS)) {
    clock = late > 3 * period ? now : clock + period;
    goTo(next);
  }
  requestAnimationFrame(tick);
}

function pause() {
  app.playing = false;
  emit("play");
}

export function togglePlay() {
  if (!app.video) return;
  if (app.playing) return pause();
  if (!app.loop && app.frame >= app.video.frames - 1) goTo(0);
  app.playing = true;
  clock = performance.now();
  emit("play");
  requestAnimationFrame(tick);
}

/** Go somewhere because the person said so: playing and following end. */
export function visit(frame) {
  if (app.playing) pause();
  if (app.following) app.following = false;
  goTo(frame);
}

export const step = (by) => visit(app.frame + by);

/** One long step back (-1) or on (1). */
export const stepFar = (direction) => step(direction * app.stepSize);

/** Play slower (-1) or faster (1). */
export function changeSpeed(by) {
  const at = SPEEDS.indexOf(app.speed);
  setView({ speed: SPEEDS[clamp((at < 0 ? SPEEDS.indexOf(1) : at) + by, 0, SPEEDS.length - 1)] });
}

export const toggleLoop = () => setView({ loop: !app.loop });

/** Jump to the nearest prompted frame before (-1) or after (1) this one. */
export function jumpToPrompt(direction) {
  const frames = promptedFrames();
  const next = direction > 0 ? frames.find((frame) => frame > app.frame) : frames.findLast((frame) => frame < app.frame);
  if (next !== undefined) visit(next);
}

function show() {
  const there = app.video !== null;
  for (const button of byId("transport").querySelectorAll("button, input, select")) button.disabled = !there;
  if (!there) return;
  const input = byId("frame-number");
  if (document.activeElement !== input) input.value = app.frame;
  input.max = app.video.frames - 1;
  setText(byId("frame-count"), `/ ${app.video.frames - 1}`);
  setText(byId("timecode"), timecode(app.frame));
}

function showSettings() {
  byId("speed").value = String(app.speed);
  byId("loop").setAttribute("aria-pressed", app.loop);
  if (document.activeElement !== byId("step-size")) byId("step-size").value = app.stepSize;
  for (const [id, word, key] of [["step-far-back", "Back", "←"], ["step-far-on", "On", "→"]]) {
    byId(id).setAttribute("aria-label", `${word} ${app.stepSize} frames`);
    byId(id).title = `${word} ${app.stepSize} frames (Shift + ${key})`;
  }
}

function startSettings() {
  if (!SPEEDS.includes(app.speed)) app.speed = 1; // what was kept may be foreign
  if (!(Number.isInteger(app.stepSize) && app.stepSize > 0)) app.stepSize = 10;
  byId("speed").replaceChildren(...SPEEDS.map((speed) => new Option(`${speed} ×`, String(speed))));
  let pointed = false; // after a choice with the pointer the keyboard belongs to the frame again
  byId("speed").addEventListener("pointerdown", () => (pointed = true));
  byId("speed").addEventListener("keydown", () => (pointed = false));
  byId("speed").addEventListener("change", (event) => {
    setView({ speed: Number(event.target.value) });
    if (pointed) event.target.blur();
  });
  byId("loop").addEventListener("click", toggleLoop);
  byId("step-size").addEventListener("change", (event) => {
    const wanted = Math.round(Number(event.target.value));
    if (wanted > 0) setView({ stepSize: wanted });
    event.target.value = app.stepSize;
  });
  byId("step-size").addEventListener("keydown", (event) => event.key === "Enter" && event.target.blur());
  on("view", showSettings);
  showSettings();
}

export function startPlayback() {
  startSettings();
  const buttons = {
    "to-start": () => visit(0),
    "to-end": () => visit(app.video.frames - 1),
    "step-back": () => step(-1),
    "step-on": () => step(1),
    "step-far-back": () => stepFar(-1),
    "step-far-on": () => stepFar(1),
    "prompt-back": () => jumpToPrompt(-1),
    "prompt-on": () => jumpToPrompt(1),
    play: togglePlay,
    doubtful: nextDoubtful,
  };
  for (const [id, action] of Object.entries(buttons)) byId(id).addEventListener("click", action);
  byId("frame-number").addEventListener("change", (event) => {
    if (event.target.value !== "") visit(Number(event.target.value));
    event.target.value = app.frame;
  });
  byId("frame-number").addEventListener("keydown", (event) => event.key === "Enter" && event.target.blur());
  byId("follow").checked = app.follow;
  byId("follow").addEventListener("change", (event) => setView({ follow: event.target.checked }));
  on("play", () => {
    setIcon(byId("play"), app.playing ? "pause" : "play");
    byId("play").setAttribute("aria-label", app.playing ? "Pause" : "Play");
  });
  for (const name of ["video", "frame"]) on(name, show);
  show();
}
