// The layer of masks over the frame: a worker draws it, one at a time, and of those that wait only the newest.

import { notify } from "./notices.js";
import { app, changeOf, emit } from "./state.js";

const NOT_LOADED = "a part of the page did not load. Reload the page.";

const worker = new Worker("/static/mask_worker.js", { type: "module" });
const numbers = new WeakMap(); // run lengths -> what the worker knows them by
let latest = 0;
let sent = new Set(); // numbers of the run lengths that the worker has
let [running, waiting, drawn] = [null, null, null]; // orders; `drawn` with its bitmap
let missing = false; // whether the worker could not be loaded and answers nothing

function numberOf(runs) {
  if (!numbers.has(runs)) numbers.set(runs, (latest += 1));
  return numbers.get(runs);
}

const isNew = changeOf();
const isOtherVideo = changeOf();

/**
 * Have masks drawn, unless just these were asked for last: `objects`, {runs, color, outlined, chosen}, one over the other,
 * and on top the outlines of `onion`, {runs, color, step}. `shown`, {frame, bitmap, masks}, is kept with the layer.
 * The place is the size of the stage in device pixels, its `view` (see stage.js), and the device pixels per screen pixel.
 */
export function wantLayer(shown, { size, view, ratio }, { objects, onion }) {
  const masks = [...objects, ...onion].flatMap(Object.values);
  if (!isNew(app.video.id, shown.masks, size.width, size.height, view.scale, view.x, view.y, ratio, app.opacity, app.stripes, ...masks)) return;
  const numbered = ({ runs, ...looks }) => ({ ...looks, number: numberOf(runs) });
  const { id, width, height } = app.video;
  const order = { size, view: { ...view }, ratio, video: { width, height }, opacity: app.opacity, stripes: app.stripes };
  const runs = new Map([...objects, ...onion].map((mask) => [numberOf(mask.runs), mask.runs]));
  waiting = { id, shown, runs, order: { ...order, objects: objects.map(numbered), onion: onion.map(numbered) } };
  drawNext();
}

const complain = (why) => notify("error", `Masks cannot be drawn: ${why}`);

function drawNext() {
  if (running || !waiting) return;
  [running, waiting] = [waiting, null];
  const { id, runs, order } = running;
  if (missing && runs.size && isOtherVideo(id)) complain(NOT_LOADED);
  if (missing || !runs.size || !order.size.width || !order.size.height) return finish(null);
  const masks = [...runs].map(([number, lengths]) => (sent.has(number) ? { number } : { number, runs: lengths }));
  sent = new Set(runs.keys());
  worker.postMessage({ ...order, masks });
}

function finish(bitmap) {
  drawn?.bitmap?.close();
  [drawn, running] = [{ ...running, bitmap }, null];
  drawNext();
}

function answer(bitmap) {
  finish(bitmap);
  emit("layer");
}

worker.onmessage = ({ data }) => answer(data);
worker.onerror = ({ message }) => {
  missing ||= message === undefined; // an error while it draws has a message, and what comes next is drawn again
  if (!running) return;
  complain(message ?? NOT_LOADED);
  answer(null);
};

/** The latest layer of the open video, {bitmap, shown, order}, bitmap null where nothing is drawn; null before the first. */
export const layer = () => (drawn?.id === app.video.id ? drawn : null);

/** Whether the latest layer is not yet what was asked for. */
export const layerWaiting = () => running !== null;
