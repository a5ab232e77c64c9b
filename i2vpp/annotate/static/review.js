// What the timeline shows of review: accepted frames, stale masks, and the range that the tools act on.

import { isAccepted, isStale } from "./runs.js";
import { app, kept } from "./state.js";

export const ALL_OBJECTS = "all";
const LINE = 2; // pixels of the line of what is accepted

/** Whether review and the range tools act on the selected object or on all. */
export const scope = { which: kept("range.which", "selected") };

/** The ids of the objects that the tools act on; null for all. */
export const scopeIds = () => (scope.which === ALL_OBJECTS ? null : app.selected === null ? [] : [app.selected]);

/** Draw a row's review over its bars with `bar(first, last, top, height, fill)`; the row lies at {top, height}, colours are in `ink`. */
export function drawReview(context, object, bar, { top, height, ink }) {
  const inset = 3; // of the lane in its row
  for (const [first, last, value] of app.timeline[object.id] ?? []) {
    if (isStale(value)) bar(first, last, top + inset + 2, height - 2 * inset - 4, hatching(context, ink.lane));
    if (isAccepted(value)) bar(first, last, top + inset - LINE, LINE, ink.good);
  }
  const inScope = scopeIds()?.includes(object.id) ?? true;
  if (app.range && inScope) {
    const alpha = context.globalAlpha;
    context.globalAlpha = 0.28;
    bar(app.range.first, app.range.last, top + 1, height - 2, ink.accent);
    context.globalAlpha = alpha;
  }
}

const patterns = new Map(); // colour -> pattern of stripes

function hatching(context, color) {
  if (!patterns.has(color)) {
    const tile = document.createElement("canvas");
    Object.assign(tile, { width: 6, height: 6 });
    const pen = tile.getContext("2d");
    pen.strokeStyle = color;
    pen.lineWidth = 2;
    for (const at of [-6, 0, 6]) {
      pen.moveTo(at, 6);
      pen.lineTo(at + 6, 0);
    }
    pen.stroke();
    patterns.set(color, context.createPattern(tile, "repeat"));
  }
  return patterns.get(color);
}
