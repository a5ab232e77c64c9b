// When frames are shown: by their own times where the server tells these, otherwise by the constant rate.

import { app } from "./state.js";

const DEFAULT_FPS = 24;

const starts = new WeakMap(); // durations -> the times in milliseconds at which frames begin

function startsOf(durations) {
  if (!starts.has(durations)) {
    const all = new Float64Array(durations.length + 1);
    durations.forEach((duration, i) => (all[i + 1] = all[i] + duration));
    starts.set(durations, all);
  }
  return starts.get(durations);
}

/** Milliseconds from frame 0 to a frame. */
export function timeOf(frame) {
  const { durations, fps } = app.video;
  return durations ? startsOf(durations)[frame] : (1000 * frame) / (fps || DEFAULT_FPS);
}

/** The time of a frame as minutes, seconds and hundredths. */
export function timecode(frame) {
  const hundredths = Math.round(timeOf(frame) / 10);
  const seconds = hundredths / 100;
  return `${Math.floor(seconds / 60)}:${(seconds % 60).toFixed(2).padStart(5, "0")}`;
}
