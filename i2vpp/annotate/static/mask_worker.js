// A worker that draws masks as they lie on the stage: outlines of a few objects take longer than a picture may be late.

import { MaskPicture } from "./mask_picture.js";
import { outlineOf } from "./outlines.js";

const DASHES = { "-1": [7, 4], 1: [2, 3] }; // screen pixels, for the frames before and after
const canvas = new OffscreenCanvas(1, 1);
const context = canvas.getContext("2d");
const picture = new MaskPicture();
let known = new Map(); // number -> {runs, path} of each mask of the latest drawing

/** Draw an order of mask_layer.js and answer with the bitmap. Run lengths that it leaves out came with the one before. */
self.onmessage = ({ data: { masks, ...order } }) => {
  known = new Map(masks.map(({ number, runs }) => [number, runs ? { runs, path: null } : known.get(number)]));
  draw(order);
  const bitmap = canvas.transferToImageBitmap();
  self.postMessage(bitmap, [bitmap]);
};

function draw({ size, view, ratio, video, opacity, stripes, objects, onion }) {
  Object.assign(canvas, size);
  const scale = ratio * view.scale;
  context.setTransform(scale, 0, 0, scale, ratio * view.x, ratio * view.y);
  if (objects.length) {
    context.globalAlpha = opacity;
    context.imageSmoothingEnabled = view.scale < 1;
    context.imageSmoothingQuality = view.scale < 0.5 ? "medium" : "low"; // edges are drawn apart; "high" takes longer
    context.drawImage(picture.draw(objects.map(({ number, color }) => ({ number, color, runs: known.get(number).runs })), video, stripes), 0, 0);
    context.globalAlpha = 1;
  }
  const stroke = (number, color, pixels) => {
    const mask = known.get(number);
    mask.path ??= outlineOf(mask.runs, video.width, video.height);
    context.strokeStyle = color;
    context.lineWidth = pixels / view.scale;
    context.stroke(mask.path);
  };
  for (const { number, color, chosen } of objects.filter(({ outlined }) => outlined)) {
    stroke(number, "rgb(0 0 0 / 0.4)", chosen ? 4 : 2.5);
    stroke(number, color, chosen ? 2 : 1.25);
  }
  for (const { number, color, step } of onion) {
    context.setLineDash(DASHES[step].map((length) => length / view.scale));
    stroke(number, "rgb(0 0 0 / 0.5)", 3);
    stroke(number, color, 1.5);
  }
}
