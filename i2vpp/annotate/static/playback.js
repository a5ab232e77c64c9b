// Moving through the video: play, step, jump, and the row of buttons that do it.

import { nextDoubtful } from "./actions.js";
import { byId, setIcon, setText } from "./dom.js";
import { isReady } from "./stage.js";
import { app, emit, goTo, on, promptedFrames, setView } from "./state.js";

const DEFAULT_FPS = 24;
const [SHORTEST_MS, LONGEST_MS] = [1000 / 240, 1000]; // of a frame: some headers say 60000 per second, or one an hour
const PATIENCE_MS = 4000; // a frame that does not come for this long is played over

let clock = 0; // when the frame on the canvas was due

function tick(now) {
  if (!app.playing) return;
  const period = Math.min(Math.max(1000 / (app.video.fps || DEFAULT_FPS), SHORTEST_MS), LONGEST_MS);
  const next = app.frame + 1;
  const late = now - clock;
  if (next >= app.video.frames) return pause();
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
  if (app.frame >= app.video.frames - 1) goTo(0);
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

/** Jump to the nearest prompted frame before (-1) or after (1) this one. */
export function jumpToPrompt(direction) {
  const frames = promptedFrames();
  const next = direction > 0 ? frames.find((frame) => frame > app.frame) : frames.findLast((frame) => frame < app.frame);
  if (next !== undefined) visit(next);
}

function timecode(frame) {
  const seconds = frame / (app.video.fps || DEFAULT_FPS);
  return `${Math.floor(seconds / 60)}:${(seconds % 60).toFixed(2).padStart(5, "0")}`;
}

function show() {
  const there = app.video !== null;
  for (const button of byId("transport").querySelectorAll("button, input")) button.disabled = !there;
  if (!there) return;
  const input = byId("frame-number");
  if (document.activeElement !== input) input.value = app.frame;
  input.max = app.video.frames - 1;
  setText(byId("frame-count"), `/ ${app.video.frames - 1}`);
  setText(byId("timecode"), timecode(app.frame));
}

export function startPlayback() {
  const buttons = {
    "to-start": () => visit(0),
    "to-end": () => visit(app.video.frames - 1),
    "step-back": () => step(-1),
    "step-on": () => step(1),
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
