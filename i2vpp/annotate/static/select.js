// Which object is under the pointer, and choosing it.

import { areaOf, masksOf } from "./masks.js";
import { app, objects, select } from "./state.js";

/** Whether run lengths have the pixel with this number, counted by rows. */
function covers(runs, pixel) {
  let end = 0;
  for (let i = 0; i < runs.length; i++) {
    end += runs[i];
    if (pixel < end) return i % 2 === 1;
  }
  return false;
}

/** The shown objects whose masks lie under a point of the video, the smallest first. */
export function objectsAt({ x, y }) {
  const { width, height } = app.video;
  const masks = masksOf(app.frame);
  if (!masks || x < 0 || y < 0 || x >= width || y >= height) return [];
  const pixel = Math.floor(y) * width + Math.floor(x);
  const under = objects().filter(({ id, hidden }) => !hidden && masks.has(id) && covers(masks.get(id), pixel));
  return under.sort((a, b) => areaOf(masks.get(a.id)) - areaOf(masks.get(b.id)));
}

/** Select the object under a point of the video; of several ones the next, so that repeated clicks come to each. */
export function selectAt(point) {
  const under = objectsAt(point);
  if (!under.length) return;
  const at = under.findIndex(({ id }) => id === app.selected);
  select(under[(at + 1) % under.length].id);
}
