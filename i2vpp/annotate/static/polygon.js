// The polygon tool: corners by clicks, taps or keys; closed, they are painted onto the mask as a stroke is.

import { editPrompts, obstacle } from "./actions.js";
import { byId } from "./dom.js";
import { notify } from "./notices.js";
import { app, on, selectedObject, setDraft } from "./state.js";

const FEWEST = 3;
const SECOND_CLICK_MS = 400; // of a double click on the first corner, which has closed the polygon already: it begins no new one

let corners = []; // [x, y] in pixels of the video
let erase = false;
let closing = { time: -Infinity, x: 0, y: 0 }; // when and where a click on the first corner closed the last one

export const isDrawing = () => corners.length > 0;

/** Show the polygon, with a corner that is not set yet. */
function show(next = null) {
  const all = next ? [...corners, next] : corners;
  setDraft(all.length ? { polygon: { corners: all, erase, closable: corners.length >= FEWEST } } : null);
  showButtons();
}

function mayBegin() {
  const reason = obstacle(selectedObject());
  if (reason) notify("warning", reason);
  return reason === null;
}

/**
 * A press at a point of the video: it sets a corner, moves one that is within `reach` pixels of the video, or closes the
 * polygon at its first corner. Return {move(point), up()}; null if it does nothing.
 */
export function pressPolygon(point, takesAway, reach) {
  const near = (x, y) => Math.hypot(x - point.x, y - point.y) <= reach;
  if (performance.now() - closing.time < SECOND_CLICK_MS && near(closing.x, closing.y)) return null;
  if (!isDrawing() && !mayBegin()) return null;
  if (!isDrawing()) erase = takesAway;
  const index = corners.findIndex(([x, y]) => near(x, y));
  let [at, moved] = [[point.x, point.y], false];
  if (index < 0) show(at);
  return {
    move(next) {
      moved ||= Math.hypot(next.x - point.x, next.y - point.y) > reach / 2;
      if (!moved) return;
      at = [next.x, next.y];
      if (index >= 0) corners[index] = at;
      show(index < 0 ? at : null);
    },
    up() {
      if (index < 0) corners.push(at);
      if (index !== 0 || moved || corners.length < FEWEST) return show();
      closing = { time: performance.now(), x: point.x, y: point.y };
      closePolygon();
    },
  };
}

/** Show where the next corner would be. */
export function hoverPolygon({ x, y }) {
  if (isDrawing()) show([x, y]);
}

/** Set a corner with the keyboard's cross, or close the polygon if there is one already. */
export function cornerAt({ x, y }, takesAway) {
  const last = corners.at(-1);
  if (last && last[0] === x && last[1] === y) return closePolygon();
  if (!isDrawing() && !mayBegin()) return;
  if (!isDrawing()) erase = takesAway;
  corners.push([x, y]);
  showButtons();
}

/** Paint what is inside. */
export function closePolygon() {
  if (!isDrawing()) return;
  if (corners.length < FEWEST) return notify("info", `A polygon needs ${FEWEST} corners or more.`);
  const stroke = { points: corners, radius: null, erase };
  corners = [];
  show();
  editPrompts((prompts) => ({ ...prompts, strokes: [...prompts.strokes, stroke] }));
}

/** Take the latest corner back; false if there is none. */
export function dropCorner() {
  const had = isDrawing();
  corners.pop();
  if (had) show();
  return had;
}

/** Give the polygon up; false if there is none. */
export function abandonPolygon() {
  const had = isDrawing();
  corners = [];
  if (had) show();
  return had;
}

/** What is to be shown of the polygon while nothing is pressed. */
export const polygonDraft = () => (isDrawing() ? { polygon: { corners, erase, closable: corners.length >= FEWEST } } : null);

function showButtons() {
  byId("polygon-row").hidden = app.tool !== "polygon" || !isDrawing();
  byId("polygon-close").disabled = corners.length < FEWEST;
}

export function startPolygon() {
  byId("polygon-close").addEventListener("click", closePolygon);
  byId("polygon-back").addEventListener("click", dropCorner);
  byId("polygon-cancel").addEventListener("click", abandonPolygon);
  for (const name of ["frame", "video"]) on(name, abandonPolygon);
  on("view", () => {
    if (app.tool !== "polygon") abandonPolygon();
    showButtons();
  });
}
