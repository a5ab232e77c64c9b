// Masks: run lengths from the server.

import { request, videoPath } from "./api.js";
import { Loader } from "./loader.js";
import { app, emit, objects } from "./state.js";

const CACHE_RUNS = 12e6; // numbers of four bytes
const littleEndian = new Uint8Array(new Uint32Array([1]).buffer)[0] === 1;

/** Read the body of /masks/{t}: a map from object id to its run lengths. */
export function parseMasks(buffer) {
  if (buffer.byteLength % 4) throw new Error("The masks of this frame are damaged.");
  const words = littleEndian ? new Uint32Array(buffer) : swapped(buffer);
  const found = new Map();
  for (let at = 0; at < words.length; ) {
    const [id, runs] = [words[at], words[at + 1]];
    if (at + 2 + runs > words.length) throw new Error("The masks of this frame are damaged.");
    found.set(id, words.slice(at + 2, at + 2 + runs)); // of its own: it may be kept longer than the others
    at += 2 + runs;
  }
  return found;
}

function swapped(buffer) {
  const view = new DataView(buffer);
  return Uint32Array.from({ length: buffer.byteLength / 4 }, (_, i) => view.getUint32(i * 4, true));
}

const equal = (a, b) => a.length === b.length && a.every((run, i) => run === b[i]);

/** Put the run lengths that were here before in place of equal ones: the worker of mask_layer.js knows them. */
function withKnown(masks, before) {
  for (const [id, runs] of masks) {
    const known = before?.get(id);
    if (known && equal(known, runs)) masks.set(id, known);
  }
  return masks;
}

const keyOf = (frame) => `${app.video.id}/${frame}`;

const loader = new Loader({
  load: async (key, signal) => {
    const [id, frame] = key.split("/");
    const response = await request(videoPath(id, `/masks/${frame}`), { signal, cache: "no-cache" });
    return withKnown(parseMasks(await response.arrayBuffer()), loader.values.get(key));
  },
  size: (masks) => [...masks.values()].reduce((sum, runs) => sum + runs.length, 16),
  limit: CACHE_RUNS,
  slots: 2,
  ready: (key) => emit("pixels", Number(key.split("/")[1])),
});

/** The masks of a frame, or undefined while they are on their way. */
export const masksOf = (frame) => loader.get(keyOf(frame));
export const masksWaiting = (frame) => loader.isWaiting(keyOf(frame));
export const wantMasks = (frames) => loader.want(frames.map(keyOf));
export const clearMasks = () => loader.clear();

/** A frame's masks (or, without a frame, all) changed on the server; the old ones are shown until the new ones are here. */
export function masksChanged(frame = null) {
  if (frame === null) loader.invalidateAll();
  else loader.invalidate(keyOf(frame));
  loader.pump();
}

export const areaOf = (runs) => runs.reduce((sum, run, i) => (i % 2 ? sum + run : sum), 0);

/** The shown objects that have a mask, in the order in which they are drawn: in stripes, or the smaller one on top, as in exports. */
export function drawnObjects(masks) {
  const shown = objects().filter((object) => !object.hidden && masks?.has(object.id));
  if (!app.stripes) shown.sort((a, b) => areaOf(masks.get(b.id)) - areaOf(masks.get(a.id)) || a.id - b.id);
  return shown;
}
