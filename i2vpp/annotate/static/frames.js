// Frames as bitmaps of about the size shown, loaded around the playhead.

import { request, videoPath } from "./api.js";
import { Loader } from "./loader.js";
import { app, emit } from "./state.js";

const WIDTHS = [480, 960, 1440, 1920]; // few sizes, so that the server's and the browser's caches help
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
  ready: () => emit("pixels"),
});

/** The width to ask for when `pixels` device pixels are covered by the whole frame. */
function widthFor(pixels) {
  return Math.min(WIDTHS.find((width) => width >= pixels * 0.9) ?? app.video.width, app.video.width);
}

/** The best bitmap that is here for a frame, or undefined. */
export function bitmapOf(frame, pixels) {
  const exact = frames.get(keyOf(frame, widthFor(pixels)));
  if (exact) return exact;
  for (const width of [app.video.width, ...WIDTHS.toReversed()]) {
    const other = frames.get(keyOf(frame, width));
    if (other) return other;
  }
  return undefined;
}

export const failureOf = (frame, pixels) => frames.failures.get(keyOf(frame, widthFor(pixels)));

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
export function wantFrames(frame, pixels, scrubbing) {
  if (frame !== previous) direction = frame >= previous ? 1 : -1;
  previous = frame;
  if (scrubbing) frames.want([keyOf(frame, Math.min(PREVIEW_WIDTH, widthFor(pixels)))]);
  else frames.want(nearby(frame).map((other) => keyOf(other, widthFor(pixels))));
}
