// Frames as bitmaps of the size shown, loaded around the playhead.

import { request, videoPath } from "./api.js";
import { Loader } from "./loader.js";
import { app, emit } from "./state.js";

const WIDTHS = [480, 960, 1440, 1920]; // of a zoomed frame: few, so that the server's and the browser's caches help
const LEAST_WIDTH = 16; // that the server takes
const MOST_WIDTHS = 8;
const CACHE_BYTES = 256e6;
const AHEAD = 14;
const BEHIND = 4;
const PREVIEW_WIDTH = 480;

const keyOf = (frame, width) => `${app.video.id}/${frame}/${width}`;

async function load(key, signal) {
  const [id, frame, width] = key.split("/");
  const response = await request(videoPath(id, `/frames/${frame}?width=${width}`), { signal });
  return createImageBitmap(await response.blob());
}

export const frames = new Loader({
  load,
  size: (bitmap) => bitmap.width * bitmap.height * 4,
  dispose: (bitmap) => bitmap.close(),
  limit: CACHE_BYTES,
  slots: 2,
  ready: (key) => emit("pixels", Number(key.split("/")[1])),
});

/**
 * The width to ask for when a frame covers `pixels` device pixels. A fitted frame comes in just this width: it is drawn
 * without scaling, which takes longer than everything else that is drawn.
 */
export function widthFor(pixels, fitted) {
  const width = fitted ? Math.round(pixels) : (WIDTHS.find((known) => known >= pixels * 0.9) ?? app.video.width);
  return Math.max(Math.min(width, app.video.width), LEAST_WIDTH);
}

let widths = []; // that were asked for, the latest first

/** The bitmap of a frame in a width or, where that is not here, the widest one of another width; undefined if there is none. */
export function bitmapOf(frame, width) {
  const others = widths.filter((other) => other !== width).sort((a, b) => b - a);
  for (const known of [width, ...others]) {
    const bitmap = frames.get(keyOf(frame, known));
    if (bitmap) return bitmap;
  }
  return undefined;
}

export const failureOf = (frame, width) => frames.failures.get(keyOf(frame, width));

let previous = 0;
let direction = 1;

/** Frames in the order in which a person will want them: this one, those ahead in the direction of travel, a few behind. */
export function nearby(frame) {
  const order = [frame];
  const stride = app.playing ? Math.max(1, Math.floor(app.speed)) : 1; // as in playback.js
  for (let step = 1; step <= AHEAD; step++) {
    order.push(frame + step * stride * direction);
    if (step <= BEHIND) order.push(frame - step * direction);
  }
  return order.filter((other) => other >= 0 && other < app.video.frames);
}

/** Load this frame, then its neighbours. While the person scrubs, small pictures and no neighbours. */
export function wantFrames(frame, width, scrubbing) {
  if (frame !== previous) direction = frame >= previous ? 1 : -1;
  previous = frame;
  const asked = scrubbing ? Math.min(PREVIEW_WIDTH, width) : width;
  widths = [asked, ...widths.filter((other) => other !== asked)].slice(0, MOST_WIDTHS);
  frames.want((scrubbing ? [frame] : nearby(frame)).map((other) => keyOf(other, asked)));
}
