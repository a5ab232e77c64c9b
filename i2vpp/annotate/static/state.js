// What the page knows, in one place, and a bus that says what changed. The truth is the server's store.

import { clamp } from "./dom.js";

const bus = new EventTarget();

/** Listen to: library, video (another one), state (its annotations), frame, selection, view, job, pixels (of a frame: its picture or masks), timeline, timescale, link. */
export const on = (name, listener) => bus.addEventListener(name, (event) => listener(event.detail));
export const emit = (name, detail) => bus.dispatchEvent(new CustomEvent(name, { detail }));

/** Run a listener once before the next picture after any of these changed, however often they did. */
export function onChanges(names, listener) {
  let waits = false;
  const run = () => {
    waits = false;
    listener();
  };
  const wait = () => {
    if (!waits) requestAnimationFrame(run);
    waits = true;
  };
  for (const name of names) on(name, wait);
}

/** Return a function that tells whether any of the values that it is given differs from those of its last call. */
export function changeOf() {
  let known = [];
  return (...values) => {
    const same = values.length === known.length && values.every((value, i) => value === known[i]);
    known = values;
    return !same;
  };
}

const KEPT = {
  opacity: 0.5,
  brush: 16,
  follow: true,
  stripes: true,
  names: false,
  brightness: 100, // percent
  contrast: 100,
  onion: "off", // which neighbouring frames are seen through the current one: off, previous, next, both
  onionShows: "outline", // or image
  speed: 1,
  loop: false,
  stepSize: 10, // frames of a long step
  timelineHeight: null, // pixels of the objects' rows; null: as the style says
};

const inBrowser = () => localStorage; // reading it may throw

/** What was kept under this name when the page was last here, or a default. */
export function kept(name, otherwise, storage = inBrowser) {
  try {
    return JSON.parse(storage().getItem(`i2vpp.${name}`)) ?? otherwise;
  } catch {
    return otherwise; // storage is off or holds something foreign
  }
}

export function keep(name, value, storage = inBrowser) {
  try {
    storage().setItem(`i2vpp.${name}`, JSON.stringify(value));
  } catch {
    // storage is off or full: the setting lasts as long as the page
  }
}

export const app = {
  library: null, // the answer of /api/library
  video: null, // VideoState of the open video
  timeline: {}, // object id -> runs of frames [first, last, value], see kindOf, isStale and isAccepted of runs.js
  range: null, // {first, last}: the frames that review and the range tools act on; null: the current frame
  frame: 0,
  selected: null, // object id
  marker: null, // the selected prompt on this frame: {kind: "point" | "box" | "stroke", index}
  tool: "click",
  takeAway: false, // clicks and strokes do what they do with Shift: for fingers
  draft: null, // what is being drawn: {box}, {stroke}, {polygon}, and the pointer or the cross over it
  masksShown: true,
  playing: false,
  pending: new Map(), // "object:frame" -> prompts that the server has not confirmed yet
  busy: 0, // requests that change something and are not answered yet
  connected: true,
  ...Object.fromEntries(Object.keys(KEPT).map((name) => [name, kept(name, KEPT[name])])),
};

/** Show what is being drawn, or nothing (null). */
export function setDraft(draft) {
  app.draft = draft;
  emit("draft");
}

/** Change how things are shown or edited: tool, opacity, brush, ... */
export function setView(changes) {
  Object.assign(app, changes);
  for (const name of Object.keys(KEPT)) if (name in changes) keep(name, changes[name]);
  emit("view");
}

export const NO_PROMPTS = Object.freeze({ points: [], box: null, strokes: [], imported: false });
export const promptKey = (objectId, frame) => `${objectId}:${frame}`;

/** Prompts of an object on a frame, as the person sees them: what is not confirmed yet included. */
export function promptsOf(objectId, frame) {
  return app.pending.get(promptKey(objectId, frame)) ?? app.video?.prompts[objectId]?.[frame] ?? NO_PROMPTS;
}

export const isEmpty = (prompts) => !(prompts.points.length || prompts.box || prompts.strokes.length || prompts.imported);

export const objects = () => app.video?.objects ?? [];
export const selectedObject = () => objects().find((object) => object.id === app.selected) ?? null;

/** All frames with prompts of any object, in order. */
export function promptedFrames() {
  const frames = new Set();
  for (const byFrame of Object.values(app.video?.prompts ?? {})) for (const frame of Object.keys(byFrame)) frames.add(Number(frame));
  return [...frames].sort((a, b) => a - b);
}

export function select(objectId) {
  if (app.selected === objectId) return;
  app.selected = objectId;
  app.marker = null;
  emit("selection");
}

export function selectMarker(marker) {
  app.marker = marker;
  emit("selection");
}

/** Show a frame; anything outside the video is brought inside. */
export function goTo(frame) {
  if (!app.video) return;
  const next = clamp(Math.round(frame), 0, app.video.frames - 1);
  if (next === app.frame) return;
  app.frame = next;
  app.marker = null;
  emit("frame");
}

export const jobRunning = () => app.video?.job?.state === "running";
