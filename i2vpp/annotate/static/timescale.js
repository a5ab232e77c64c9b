// Which part of the video the timeline shows, and where frames lie on it.

import { clamp } from "./dom.js";
import { app, emit } from "./state.js";

const LEAST = 8; // frames on the timeline

let [first, span] = [0, 1]; // frames; `first` may lie between two

export const shownRange = () => ({ first, span });
export const isZoomed = () => app.video !== null && span < app.video.frames;

/** The first and the last frame of which something is seen. */
export const seenFrames = () => [Math.floor(first), Math.min(Math.ceil(first + span), app.video.frames) - 1];

export const xOf = (frame, width) => ((frame + 0.5 - first) / span) * width;

/** The frame at a place of the timeline; beyond its ends those that are not seen, too. */
export const frameAt = (x, width) => clamp(Math.floor(first + (x / width) * span), 0, app.video.frames - 1);

function set(from, frames) {
  const [before, spanBefore] = [first, span];
  span = clamp(frames, Math.min(LEAST, app.video.frames), app.video.frames);
  first = clamp(from, 0, app.video.frames - span);
  if (first !== before || span !== spanBefore) emit("timescale");
}

/** Zoom by a factor; what lies at a share (0 to 1) of the timeline's width stays there. */
export function zoomTime(factor, share = null) {
  if (!app.video) return;
  const middle = clamp((app.frame + 0.5 - first) / span, 0, 1);
  const at = share ?? middle;
  const still = first + at * span;
  const frames = clamp(span / factor, Math.min(LEAST, app.video.frames), app.video.frames);
  set(still - at * frames, frames);
}

/** Move along by a number of frames. */
export const panTime = (frames) => app.video && set(first + frames, span);
export const panTo = (from) => app.video && set(from, span);
export const showAll = () => app.video && set(0, app.video.frames);

/** Move so far that a frame is seen, or by a whole page, so that what moves on has room. */
export function revealFrame(frame, byPages) {
  if (frame >= first && frame + 1 <= first + span) return;
  if (byPages) set(frame, span);
  else set(frame < first ? frame : frame + 1 - span, span);
}

/** Another video: all of it is seen. */
export function resetTime() {
  [first, span] = [0, app.video?.frames ?? 1];
}
