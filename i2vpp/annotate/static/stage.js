// The frame on its canvas: zoom and pan, masks, outlines, prompts.

import { byId, clamp } from "./dom.js";
import { bitmapOf, failureOf, nearby, wantFrames } from "./frames.js";
import { drawDraft, drawPrompts } from "./markers.js";
import { MaskPicture, masksOf, masksWaiting, outlineOf, wantMasks } from "./masks.js";
import { lightFilter } from "./display.js";
import { drawNames, drawOnionImages, drawOnionOutlines, onionParts } from "./overlays.js";
import { app, changeOf, emit, on, objects } from "./state.js";

const MARGIN = 16;
const MOST_ZOOM = 60; // screen pixels per video pixel
const MASK_PATIENCE_MS = 250; // a frame waits this long for its masks, so that both change together
const MASKS_NEARBY = 16;
const MOST_OUTLINES_IN_MOTION = 6; // with more objects, only the selected one's while frames rush by
const SHARP_PIXELS = 4; // from this zoom on pixels of the frame are shown as squares

export const canvas = byId("stage");
const context = canvas.getContext("2d");
const picture = new MaskPicture();

/** Screen (CSS pixels in the canvas) = video * scale + offset. */
export const view = { scale: 1, x: 0, y: 0, fitted: true, scrubbing: false };

let shown = null; // {frame, bitmap, masks}: what is on the canvas
let asked = 0; // when the current frame was asked for
let scheduled = false;

export function redraw() {
  canvas.ariaBusy = "true"; // until the current frame with all that was asked for is on it
  if (scheduled) return;
  scheduled = true;
  requestAnimationFrame(() => {
    scheduled = false;
    draw();
  });
}

/** Where a pointer is, in video pixels. */
export function toVideo(event) {
  const box = canvas.getBoundingClientRect();
  return { x: (event.clientX - box.left - view.x) / view.scale, y: (event.clientY - box.top - view.y) / view.scale };
}

/** Whether the current frame itself is on the canvas, not one before it. */
export const isCurrent = () => shown?.frame === app.frame;

const fitScale = () => Math.max(Math.min((canvas.clientWidth - 2 * MARGIN) / app.video.width, (canvas.clientHeight - 2 * MARGIN) / app.video.height), 0.01);

export function fit() {
  if (!app.video) return;
  const scale = fitScale();
  Object.assign(view, { scale, x: (canvas.clientWidth - app.video.width * scale) / 2, y: (canvas.clientHeight - app.video.height * scale) / 2, fitted: true });
  emit("zoom");
  request();
}

/** Zoom by a factor and keep the point at (x, y) of the canvas where it is; without a point, the middle. */
export function zoomBy(factor, x = canvas.clientWidth / 2, y = canvas.clientHeight / 2) {
  if (!app.video) return;
  const scale = clamp(view.scale * factor, Math.min(fitScale(), 1) / 2, MOST_ZOOM);
  const ratio = scale / view.scale;
  Object.assign(view, { scale, x: x - (x - view.x) * ratio, y: y - (y - view.y) * ratio, fitted: false });
  keepInSight();
  emit("zoom");
  request();
}

export function panBy(dx, dy) {
  Object.assign(view, { x: view.x + dx, y: view.y + dy, fitted: false });
  keepInSight();
  redraw();
}

/** Some of the frame always stays on the canvas. */
function keepInSight() {
  const [width, height] = [app.video.width * view.scale, app.video.height * view.scale];
  view.x = clamp(view.x, Math.min(80, canvas.clientWidth / 2) - width, canvas.clientWidth - Math.min(80, canvas.clientWidth / 2));
  view.y = clamp(view.y, Math.min(80, canvas.clientHeight / 2) - height, canvas.clientHeight - Math.min(80, canvas.clientHeight / 2));
}

const wantedPixels = () => app.video.width * view.scale * devicePixelRatio;

/** Ask for what the current frame and its neighbours need, and draw. */
function request() {
  if (app.video) {
    wantFrames(app.frame, wantedPixels(), view.scrubbing);
    wantMasks(view.scrubbing ? [app.frame] : nearby(app.frame).slice(0, MASKS_NEARBY));
  }
  redraw();
}

/** Whether the next frame could be shown now: playing waits for it. */
export const isReady = (frame) => bitmapOf(frame, wantedPixels()) !== undefined && !masksWaiting(frame);

function takeOver() {
  const bitmap = bitmapOf(app.frame, wantedPixels());
  const masks = masksOf(app.frame);
  const patient = performance.now() - asked < MASK_PATIENCE_MS;
  if (!bitmap) return;
  if (masksWaiting(app.frame) && patient && shown?.frame !== app.frame) {
    setTimeout(redraw, MASK_PATIENCE_MS);
    return;
  }
  shown = { frame: app.frame, bitmap, masks };
}

function draw() {
  const ratio = devicePixelRatio;
  const [width, height] = [Math.round(canvas.clientWidth * ratio), Math.round(canvas.clientHeight * ratio)];
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, width, height);
  if (!app.video) return;
  takeOver();
  showTrouble();
  if (!shown || shown.bitmap.width === 0) return;
  drawBelow(width, height, ratio);
  context.drawImage(below.canvas, 0, 0);
  context.setTransform(ratio, 0, 0, ratio, ratio * view.x, ratio * view.y);
  if (isCurrent()) drawPrompts(context, view);
  drawDraft(context, view);
  canvas.dataset.frame = shown.frame;
  canvas.ariaBusy = String(!isCurrent() || !isReady(app.frame) || app.busy > 0);
}

const below = document.createElement("canvas").getContext("2d"); // what lies below prompts and drafts: it changes less often
const belowChanged = changeOf();

function drawBelow(width, height, ratio) {
  const still = isCurrent() && !app.playing && !view.scrubbing;
  const here = (frame) => bitmapOf(frame, wantedPixels());
  const { opacity, stripes, masksShown, names, brightness, contrast, selected } = app;
  const looks = [opacity, stripes, masksShown, names, brightness, contrast, selected, still, ...(still ? onionParts(here) : [])];
  if (!belowChanged(width, height, ratio, view.scale, view.x, view.y, shown.bitmap, shown.masks, app.video.id, objects(), ...looks)) return;
  if (below.canvas.width !== width || below.canvas.height !== height) Object.assign(below.canvas, { width, height });
  below.setTransform(1, 0, 0, 1, 0, 0);
  below.clearRect(0, 0, width, height);
  below.setTransform(ratio, 0, 0, ratio, ratio * view.x, ratio * view.y);
  below.imageSmoothingEnabled = view.scale < SHARP_PIXELS;
  below.imageSmoothingQuality = "high";
  below.filter = lightFilter() ?? "none";
  below.drawImage(shown.bitmap, 0, 0, app.video.width * view.scale, app.video.height * view.scale);
  if (still) drawOnionImages(below, view, here);
  below.filter = "none";
  if (shown.masks && masksShown) drawMasks(below, shown.masks);
  if (still) drawOnionOutlines(below, view);
  if (shown.masks && names) drawNames(below, view, shown.masks, { width: width / ratio, height: height / ratio });
}

function drawMasks(context, masks) {
  const { width, height } = app.video;
  context.globalAlpha = app.opacity;
  context.imageSmoothingEnabled = view.scale < 1;
  context.imageSmoothingQuality = view.scale < 0.5 ? "medium" : "low"; // edges are drawn apart; "high" takes longer
  context.drawImage(picture.draw(masks, width, height), 0, 0, width * view.scale, height * view.scale);
  context.globalAlpha = 1;
  context.save();
  context.scale(view.scale, view.scale);
  const outlined = objects().filter((object) => !object.hidden && masks.has(object.id));
  const inMotion = (app.playing || view.scrubbing) && outlined.length > MOST_OUTLINES_IN_MOTION;
  for (const object of outlined) {
    if (inMotion && object.id !== app.selected) continue;
    const path = outlineOf(masks.get(object.id), width, height);
    const chosen = object.id === app.selected;
    context.lineCap = "butt"; // quicker, and the corners lie below those of the line itself
    stroke(context, path, "rgb(0 0 0 / 0.4)", chosen ? 4 : 2.5);
    context.lineCap = "square";
    stroke(context, path, object.color, chosen ? 2 : 1.25);
  }
  context.restore();
}

function stroke(context, path, color, pixels) {
  context.strokeStyle = color;
  context.lineWidth = pixels / view.scale;
  context.stroke(path);
}

function showTrouble() {
  const failure = failureOf(app.frame, wantedPixels());
  const note = byId("stage-note");
  note.hidden = !failure;
  if (failure) {
    note.textContent = `Frame ${app.frame} cannot be shown: ${failure}`;
    shown = null;
  }
}

export function startStage() {
  new ResizeObserver(() => (view.fitted ? fit() : redraw())).observe(canvas);
  on("video", () => {
    shown = null;
    asked = performance.now();
    fit();
    if (document.activeElement === document.body) canvas.focus({ preventScroll: true }); // for its keys
  });
  on("frame", () => {
    asked = performance.now();
    request();
  });
  for (const name of ["state", "selection", "view", "draft", "link"]) on(name, redraw);
  on("pixels", redraw);
  on("play", redraw);
  on("scrub", (scrubbing) => {
    view.scrubbing = scrubbing;
    request();
  });
}
