// What may be drawn over the masks: names of objects, and the frames before and after as an onion skin.

import { drawnObjects, masksOf } from "./masks.js";
import { app, objects } from "./state.js";

const IMAGE_OPACITY = 0.4;
const FONT = "600 12px system-ui, sans-serif";
const [HEIGHT, PADDING, SWATCH] = [18, 6, 8]; // of a name, screen pixels

/** The neighbouring frames that are to be seen through the current one, as steps from it. */
const steps = () => ({ previous: [-1], next: [1], both: [-1, 1] })[app.onion] ?? [];
const neighbours = () => steps().filter((step) => app.frame + step >= 0 && app.frame + step < app.video.frames);

/** What is here of the neighbouring frames' pictures, if they are to be seen. */
export const onionImages = (bitmapOf) => (app.onionShows === "image" ? neighbours().map((step) => bitmapOf(app.frame + step)).filter((bitmap) => bitmap?.width) : []);

/** The masks of the neighbouring frames whose outlines are to be seen, {runs, color, step}. */
export function onionOutlines() {
  if (app.onionShows !== "outline") return [];
  return neighbours().flatMap((step) => {
    const masks = masksOf(app.frame + step);
    return drawnObjects(masks).map(({ id, color }) => ({ runs: masks.get(id), color, step }));
  });
}

/** Draw the neighbouring frames' pictures over the current one, each by `draw(bitmap)`. */
export function drawOnionImages(context, bitmaps, draw) {
  context.globalAlpha = IMAGE_OPACITY;
  bitmaps.forEach(draw);
  context.globalAlpha = 1;
}

const LONGEST = 130; // of a name, screen pixels

const fitting = new Map(); // name -> as much of it as is shown

function shortened(context, name) {
  if (fitting.size > 1000) fitting.clear();
  if (!fitting.has(name)) {
    let length = name.length;
    while (length > 1 && context.measureText(`${name.slice(0, length)}…`).width > LONGEST) length -= 1;
    fitting.set(name, context.measureText(name).width <= LONGEST ? name : `${name.slice(0, length).trimEnd()}…`);
  }
  return fitting.get(name);
}

const tops = new WeakMap(); // run lengths -> {x, y} of the middle of the highest row, null of an empty mask

function topOf(runs, width) {
  if (!tops.has(runs)) {
    const start = runs[0];
    const row = Math.floor(start / width);
    const end = Math.min(start + (runs[1] ?? 0), (row + 1) * width);
    tops.set(runs, runs.length > 1 ? { x: (start + end) / 2 - row * width, y: row } : null);
  }
  return tops.get(runs);
}

/**
 * Draw the names of objects above their masks; where they would cover each other, the later one moves down. `screen` has
 * width and height of what is seen.
 */
export function drawNames(context, view, masks, screen) {
  const placed = [];
  context.font = FONT;
  context.textBaseline = "middle";
  const shown = objects().filter((object) => !object.hidden && masks.has(object.id));
  shown.sort((a, b) => (b.id === app.selected) - (a.id === app.selected));
  for (const object of shown) {
    const top = topOf(masks.get(object.id), app.video.width);
    const text = shortened(context, object.name);
    if (top) drawName(context, object, text, place(context, text, { x: top.x * view.scale, y: top.y * view.scale }, { view, screen, placed }));
  }
}

/** The rectangle of a name [left, top, width] on the canvas, moved from (0, 0) of the video to where there is room. */
function place(context, text, { x, y }, { view, screen, placed }) {
  const width = context.measureText(text).width + SWATCH + 3 * PADDING;
  const left = Math.max(Math.min(x - width / 2, screen.width - view.x - width), -view.x);
  let top = Math.max(y - HEIGHT - 4, -view.y);
  const overlaps = () => placed.some(([l, t, w]) => left < l + w && l < left + width && Math.abs(t - top) < HEIGHT);
  while (overlaps() && top + view.y < screen.height - HEIGHT) top += HEIGHT / 2;
  placed.push([left, top, width]);
  return [left, top, width];
}

function drawName(context, { color, id }, text, [left, top, width]) {
  context.beginPath();
  context.roundRect(left, top, width, HEIGHT, 4);
  context.fillStyle = "rgb(16 18 22 / 0.82)";
  context.fill();
  if (id === app.selected) {
    context.strokeStyle = "#ffffff";
    context.lineWidth = 1;
    context.stroke();
  }
  context.fillStyle = color;
  context.fillRect(left + PADDING, top + (HEIGHT - SWATCH) / 2, SWATCH, SWATCH);
  context.fillStyle = "#ffffff";
  context.fillText(text, left + SWATCH + 2 * PADDING, top + HEIGHT / 2 + 0.5);
}
