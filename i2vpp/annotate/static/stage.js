// The frame on its canvas: zoom and pan; below, masks, names, prompts, drafts.

import { byId, clamp, debounce } from "./dom.js";
import { bitmapOf, failureOf, nearby, wantFrames, widthFor } from "./frames.js";
import { drawDraft, drawPrompts } from "./markers.js";
import { layer, layerWaiting, wantLayer } from "./mask_layer.js";
import { drawnObjects, masksOf, masksWaiting, wantMasks } from "./masks.js";
import { lightFilter } from "./display.js";
import { drawNames, drawOnionImages, onionImages, onionOutlines } from "./overlays.js";
import { app, changeOf, emit, on, objects } from "./state.js";

const MARGIN = 16;
const MOST_ZOOM = 60; // screen pixels per video pixel
const MASK_PATIENCE_MS = 250; // a frame waits this long for its masks, so that both change together
const MASKS_NEARBY = 16;
const MOST_OUTLINES_IN_MOTION = 6; // with more objects, only the selected one's while frames rush by
const SHARP_PIXELS = 4; // from this zoom on pixels of the frame are shown as squares
const RESIZE_WAIT_MS = 150; // while the window is dragged larger or smaller, frames of the former size are shown

export const canvas = byId("stage");
const context = canvas.getContext("2d");

/** Screen (CSS pixels in the canvas) = video * scale + offset. */
export const view = { scale: 1, x: 0, y: 0, fitted: true, scrubbing: false };

let shown = null; // {frame, bitmap, masks}: what is on the canvas, see mask_layer.js
let coming = null; // {frame, bitmap, masks}: what is shown as soon as its layer is drawn
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
  placeWhole();
  request();
}

/** Place the whole frame in the middle, its corner and its width on whole device pixels. */
function placeWhole() {
  const ratio = devicePixelRatio;
  const whole = (pixels) => Math.round(pixels * ratio) / ratio;
  const scale = Math.max(Math.floor(fitScale() * app.video.width * ratio), 1) / (app.video.width * ratio);
  const [x, y] = [canvas.clientWidth - app.video.width * scale, canvas.clientHeight - app.video.height * scale].map((free) => whole(free / 2));
  Object.assign(view, { scale, x, y, fitted: true });
  emit("zoom");
  redraw();
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

const wantedWidth = () => widthFor(app.video.width * view.scale * devicePixelRatio, view.fitted);

/** Ask for what the current frame and its neighbours need, and draw. */
function request() {
  if (app.video) {
    wantFrames(app.frame, wantedWidth(), view.scrubbing);
    wantMasks(view.scrubbing ? [app.frame] : nearby(app.frame).slice(0, MASKS_NEARBY));
  }
  redraw();
}

/** Whether a frame could be shown now, since all that is shown is drawn: playing waits for it. */
export const isReady = (frame) => bitmapOf(frame, wantedWidth()) !== undefined && !masksWaiting(frame) && !layerWaiting();

const isMoving = () => app.playing || view.scrubbing;

/** What is to come onto the canvas: the current frame or, while too little of it is here, what was to come before. */
function available() {
  const bitmap = bitmapOf(app.frame, wantedWidth());
  const masks = masksOf(app.frame);
  const patient = performance.now() - asked < MASK_PATIENCE_MS;
  if (!bitmap) return coming;
  if (masksWaiting(app.frame) && patient && coming?.frame !== app.frame) {
    setTimeout(redraw, MASK_PATIENCE_MS);
    return coming;
  }
  return { frame: app.frame, bitmap, masks };
}

/** Have the masks of what is available drawn, and show that together with them; until then, what the latest layer belongs to. */
function takeOver(place) {
  coming = available();
  if (!coming) return;
  const { masks } = coming;
  const still = coming.frame === app.frame && !isMoving();
  const outlined = isMoving() && drawnObjects(masks).length > MOST_OUTLINES_IN_MOTION ? [app.selected] : objects().map(({ id }) => id);
  const looks = ({ id, color }) => ({ runs: masks.get(id), color, outlined: outlined.includes(id), chosen: id === app.selected });
  wantLayer(coming, place, { objects: app.masksShown ? drawnObjects(masks).map(looks) : [], onion: still ? onionOutlines() : [] });
  const drawn = layer()?.shown;
  if (drawn?.masks === masks) shown = coming;
  else if (drawn) shown = drawn.frame === coming.frame ? { ...coming, masks: drawn.masks } : drawn;
}

function draw() {
  const ratio = devicePixelRatio;
  const size = { width: Math.round(canvas.clientWidth * ratio), height: Math.round(canvas.clientHeight * ratio) };
  if (canvas.width !== size.width || canvas.height !== size.height) Object.assign(canvas, size);
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, size.width, size.height);
  if (!app.video) return;
  takeOver({ size, view, ratio });
  showTrouble();
  if (!shown || shown.bitmap.width === 0) return;
  drawBelow(size, ratio);
  context.drawImage(below.canvas, 0, 0);
  drawLayer(ratio);
  context.setTransform(ratio, 0, 0, ratio, ratio * view.x, ratio * view.y);
  if (shown.masks && app.names) drawNames(context, view, shown.masks, { width: canvas.clientWidth, height: canvas.clientHeight });
  if (isCurrent()) drawPrompts(context, view);
  drawDraft(context, view);
  canvas.dataset.frame = shown.frame;
  canvas.ariaBusy = String(!isCurrent() || !isReady(app.frame) || app.busy > 0);
}

const below = document.createElement("canvas").getContext("2d"); // the frame, which changes less often than what is over it
const belowChanged = changeOf();

function drawBelow(size, ratio) {
  const onion = isCurrent() && !isMoving() ? onionImages((frame) => bitmapOf(frame, wantedWidth())) : [];
  if (!belowChanged(size.width, size.height, ratio, view.scale, view.x, view.y, lightFilter(), app.video.id, shown.bitmap, ...onion)) return;
  Object.assign(below.canvas, size); // which clears it
  below.setTransform(ratio, 0, 0, ratio, ratio * view.x, ratio * view.y);
  below.filter = lightFilter() ?? "none";
  drawFrame(shown.bitmap, ratio);
  drawOnionImages(below, onion, (bitmap) => drawFrame(bitmap, ratio));
}

/** Draw a frame's picture: as it is if it has the size that is covered, otherwise scaled, which takes far longer. */
function drawFrame(bitmap, ratio) {
  const [width, height] = [app.video.width * view.scale, app.video.height * view.scale];
  below.save();
  if (Math.abs(width * ratio - bitmap.width) < 1 && Math.abs(height * ratio - bitmap.height) < 1) {
    below.setTransform(1, 0, 0, 1, Math.round(view.x * ratio), Math.round(view.y * ratio));
    below.drawImage(bitmap, 0, 0);
  } else {
    below.imageSmoothingEnabled = view.scale < SHARP_PIXELS;
    below.imageSmoothingQuality = "high";
    below.drawImage(bitmap, 0, 0, width, height);
  }
  below.restore();
}

/** Draw the masks; where the frame was zoomed or moved since the layer was asked for, until a new one is here, along with it. */
function drawLayer(ratio) {
  const { bitmap, order } = layer() ?? {};
  if (!bitmap) return;
  const zoom = view.scale / order.view.scale;
  context.setTransform(zoom, 0, 0, zoom, ratio * (view.x - order.view.x * zoom), ratio * (view.y - order.view.y * zoom));
  context.drawImage(bitmap, 0, 0);
}

function showTrouble() {
  const failure = failureOf(app.frame, wantedWidth());
  const note = byId("stage-note");
  note.hidden = !failure;
  if (failure) {
    note.textContent = `Frame ${app.frame} cannot be shown: ${failure}`;
    shown = coming = null;
  }
}

export function startStage() {
  const loadSoon = debounce(request, RESIZE_WAIT_MS);
  new ResizeObserver(() => {
    if (!app.video || !view.fitted) return redraw();
    placeWhole();
    loadSoon();
  }).observe(canvas);
  on("video", () => {
    shown = coming = null;
    asked = performance.now();
    fit();
    if (document.activeElement === document.body) canvas.focus({ preventScroll: true }); // for its keys
  });
  on("frame", () => {
    asked = performance.now();
    request();
  });
  for (const name of ["state", "selection", "view", "draft", "link"]) on(name, redraw);
  on("pixels", (frame) => {
    if (Math.abs(frame - app.frame) <= 1) redraw(); // neighbours are in the onion skin; those farther on are loaded ahead
  });
  on("play", redraw);
  on("layer", redraw);
  on("scrub", (scrubbing) => {
    view.scrubbing = scrubbing;
    request();
  });
}
