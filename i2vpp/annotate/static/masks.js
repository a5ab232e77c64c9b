// Masks: run lengths from the server, drawn into one picture of the video's size, and their outlines as paths.

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

/** Put the run lengths that were here before in place of equal ones: their outlines are known. */
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
  ready: () => emit("pixels"),
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

const rgb = (color) => [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16));

function packed([red, green, blue]) {
  return littleEndian ? (0xff000000 | (blue << 16) | (green << 8) | red) >>> 0 : ((red << 24) | (green << 16) | (blue << 8) | 0xff) >>> 0;
}

/** One picture [H, W] of all shown masks of a frame. Where objects overlap, their colours alternate in stripes, or the smaller one is on top. */
export class MaskPicture {
  constructor() {
    this.canvas = document.createElement("canvas");
    this.key = "";
    this.masks = null;
  }

  /** Draw these masks, unless they are what the picture already shows; return the canvas. */
  draw(masks, width, height) {
    const shown = objects().filter((object) => !object.hidden && masks.has(object.id));
    if (!app.stripes) shown.sort((a, b) => areaOf(masks.get(b.id)) - areaOf(masks.get(a.id)) || a.id - b.id); // the order of exports
    const key = `${width}x${height};${app.stripes};${shown.map((object) => object.id + object.color).join()}`;
    if (this.masks === masks && this.key === key) return this.canvas;
    this.masks = masks;
    this.key = key;
    if (this.canvas.width !== width || this.canvas.height !== height) this.resize(width, height);
    this.pixels.fill(0);
    const stripe = app.stripes ? Math.max(2, Math.round(width / 200)) : 0;
    for (const object of shown) paint(this.pixels, masks.get(object.id), packed(rgb(object.color)), width, stripe);
    this.context.putImageData(this.image, 0, 0);
    return this.canvas;
  }

  resize(width, height) {
    Object.assign(this.canvas, { width, height });
    this.context = this.canvas.getContext("2d");
    this.image = new ImageData(width, height);
    this.pixels = new Uint32Array(this.image.data.buffer);
  }
}

export const areaOf = (runs) => runs.reduce((sum, run, i) => (i % 2 ? sum + run : sum), 0);

function paint(pixels, runs, color, width, stripe) {
  let at = 0;
  for (let i = 0; i < runs.length; i++) {
    const end = at + runs[i];
    if (i % 2) {
      for (let p = at; p < end; p++) {
        const below = pixels[p];
        if (below === 0 || stripe === 0 || Math.floor(((p % width) + Math.floor(p / width)) / stripe) % 2) pixels[p] = color;
      }
    }
    at = end;
  }
}

const outlines = new WeakMap(); // run lengths -> Path2D

/** The mask's edge along the edges of its pixels, in video pixels: it stays sharp at any zoom. */
export function outlineOf(runs, width, height) {
  let path = outlines.get(runs);
  if (!path) {
    path = traceEdges(togglesByRow(runs, width, height));
    outlines.set(runs, path);
  }
  return path;
}

/** For each row the columns where the mask begins and ends, in order. */
function togglesByRow(runs, width, height) {
  const rows = Array.from({ length: height }, () => []);
  let at = 0;
  for (let i = 0; i < runs.length; i++) {
    const end = at + runs[i];
    for (let start = at; i % 2 && start < end; ) {
      const row = Math.floor(start / width);
      const stop = Math.min(end, (row + 1) * width);
      rows[row].push(start - row * width, stop - row * width);
      start = stop;
    }
    at = end;
  }
  return rows;
}

function traceEdges(rows) {
  const path = new Path2D();
  const open = new Map(); // column -> row where a vertical edge began
  let above = [];
  for (let y = 0; y <= rows.length; y++) {
    const here = rows[y] ?? [];
    const now = new Set(here);
    for (const [x, from] of open) {
      if (!now.has(x)) {
        line(path, x, from, x, y);
        open.delete(x);
      }
    }
    for (const x of here) if (!open.has(x)) open.set(x, y);
    const differing = symmetricDifference(above, here);
    for (let i = 0; i + 1 < differing.length; i += 2) line(path, differing[i], y, differing[i + 1], y);
    above = here;
  }
  return path;
}

function line(path, x0, y0, x1, y1) {
  path.moveTo(x0, y0);
  path.lineTo(x1, y1);
}

/** Numbers that are in one of two sorted lists only: where one row is inside and its neighbour is not, it begins and ends. */
function symmetricDifference(a, b) {
  const found = [];
  let [i, j] = [0, 0];
  while (i < a.length || j < b.length) {
    if (j === b.length || a[i] < b[j]) found.push(a[i++]);
    else if (i === a.length || b[j] < a[i]) found.push(b[j++]);
    else [i, j] = [i + 1, j + 1];
  }
  return found;
}
