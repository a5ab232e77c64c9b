// What the pointer does on the frame: prompts, boxes, strokes, moving marks, zoom and pan.

import { addObject, deletePrompt, editPrompts } from "./actions.js";
import { clamp } from "./dom.js";
import { markerAt } from "./markers.js";
import { canvas, isCurrent, panBy, toVideo, view, zoomBy } from "./stage.js";
import { visit } from "./playback.js";
import { cornerAt, abandonPolygon, closePolygon, hoverPolygon, polygonDraft, pressPolygon } from "./polygon.js";
import { objectsAt, selectAt } from "./select.js";
import { app, on, promptsOf, select, selectMarker, selectedObject, setDraft } from "./state.js";

const CLICK_REACH = 4; // screen pixels a click may wander before it becomes a box
const CORNER_REACH = { touch: 16, other: 8 }; // screen pixels from a corner of a polygon
const STROKE_STEP = 1.5; // screen pixels between the points of a stroke
const WHEEL_SPEED = 0.0016;

/** Set while the space bar is down: the left button pans, then; `used` tells the keyboard that it did. */
export const space = { down: false, used: false };

let gesture = null; // {move(event), up(event), draws} of the pressed button; what it draws belongs to the frame where it began

const round = (value) => Math.round(value * 10) / 10;

/** The nearest point inside the video, in tenths of a pixel. */
export function inside({ x, y }) {
  return { x: round(clamp(x, 0, app.video.width - 1)), y: round(clamp(y, 0, app.video.height - 1)) };
}

const isInside = ({ x, y }) => x >= 0 && y >= 0 && x < app.video.width && y < app.video.height;

/** Add a click of the selected object, and an object if there is none. */
export function addPoint(at, positive) {
  const { x, y } = inside(at);
  return editPrompts((prompts) => ({ ...prompts, points: [...prompts.points, [x, y, positive ? 1 : 0]] }));
}

function pan(event) {
  let [x, y] = [event.clientX, event.clientY];
  canvas.dataset.cursor = "grabbing";
  return {
    move(next) {
      panBy(next.clientX - x, next.clientY - y);
      [x, y] = [next.clientX, next.clientY];
    },
    up: () => showCursor(),
  };
}

/** A press that selects what is under it or, where it may, moves the frame. */
function pick(event, mayPan) {
  let panning = null;
  return {
    move(next) {
      if (mayPan && !panning && Math.hypot(next.clientX - event.clientX, next.clientY - event.clientY) > CLICK_REACH) panning = pan(event);
      panning?.move(next);
    },
    up() {
      if (panning) panning.up();
      else selectAt(toVideo(event));
    },
  };
}

function polygonCorner(event, takesAway) {
  const reach = (CORNER_REACH[event.pointerType] ?? CORNER_REACH.other) / view.scale;
  const press = pressPolygon(inside(toVideo(event)), takesAway, reach);
  return press && { move: (next) => press.move(inside(toVideo(next))), up: press.up };
}

function boxOf(a, b) {
  const [p, q] = [inside(a), inside(b)];
  return [Math.min(p.x, q.x), Math.min(p.y, q.y), Math.max(p.x, q.x), Math.max(p.y, q.y)];
}

/** A press that becomes a click or, when it wanders, a box. */
function clickOrBox(event, { positive, canClick, canBox }) {
  const from = toVideo(event);
  const wandered = (next) => Math.hypot(next.clientX - event.clientX, next.clientY - event.clientY) > CLICK_REACH;
  let box = null;
  return {
    move(next) {
      if (!canBox || !(box || wandered(next))) return;
      box = boxOf(from, toVideo(next));
      setDraft({ box });
    },
    up() {
      setDraft(null);
      if (box && box[2] - box[0] >= 1 && box[3] - box[1] >= 1) editPrompts((prompts) => ({ ...prompts, box }));
      else if (!box && canClick && isInside(from)) addPoint(from, positive);
    },
  };
}

function paint(event, erase) {
  const stroke = { points: [], radius: app.brush, erase };
  const add = (next) => {
    const { x, y } = inside(toVideo(next));
    const [lastX, lastY] = stroke.points.at(-1) ?? [Infinity, Infinity];
    if (Math.hypot(x - lastX, y - lastY) * view.scale >= STROKE_STEP) stroke.points.push([x, y]);
    setDraft({ stroke, brush: toVideo(next) });
  };
  add(event);
  return {
    move: (next) => (next.getCoalescedEvents?.() ?? [next]).forEach(add),
    up() {
      setDraft(null);
      editPrompts((prompts) => ({ ...prompts, strokes: [...prompts.strokes, stroke] }));
    },
  };
}

/** Move a prompt; a press that does not move selects it, so that Delete or its × takes it back. */
function moveMarker(event, marker) {
  if (marker.part === "x") return { move() {}, up: () => deletePrompt(marker) };
  const from = toVideo(event);
  const before = promptsOf(app.selected, app.frame);
  let moved = null;
  selectMarker(marker);
  return {
    move(next) {
      if (!moved && Math.hypot(next.clientX - event.clientX, next.clientY - event.clientY) <= CLICK_REACH) return;
      const to = toVideo(next);
      moved = shifted(before, marker, to.x - from.x, to.y - from.y);
      setDraft(markerDraft(moved, marker));
    },
    up() {
      setDraft(null);
      if (moved) editPrompts(() => moved);
    },
  };
}

function markerDraft(prompts, { kind, index }) {
  if (kind === "box") return { box: prompts.box };
  if (kind === "stroke") return { stroke: prompts.strokes[index] };
  const [x, y] = prompts.points[index];
  return { cross: { x, y } };
}

function shifted(prompts, { kind, index, part }, dx, dy) {
  const move = ([x, y, ...rest]) => {
    const to = inside({ x: x + dx, y: y + dy });
    return [to.x, to.y, ...rest];
  };
  if (kind === "point") return { ...prompts, points: prompts.points.map((point, i) => (i === index ? move(point) : point)) };
  if (kind === "stroke") return { ...prompts, strokes: prompts.strokes.map((stroke, i) => (i === index ? { ...stroke, points: stroke.points.map(move) } : stroke)) };
  const [x0, y0, x1, y1] = prompts.box;
  if (part === "all") return { ...prompts, box: boxOf({ x: x0 + dx, y: y0 + dy }, { x: x1 + dx, y: y1 + dy }) };
  const [left, top] = [part === 0 || part === 3, part === 0 || part === 1];
  return { ...prompts, box: boxOf({ x: x0 + (left ? dx : 0), y: y0 + (top ? dy : 0) }, { x: x1 + (left ? 0 : dx), y: y1 + (top ? 0 : dy) }) };
}

function begin(event) {
  if (event.button === 1 || (event.button === 0 && space.down)) {
    space.used = space.down;
    return pan(event);
  }
  if (event.button > 2 || !isCurrent()) return null;
  const picks = app.tool === "select" || event.ctrlKey || event.metaKey;
  if (picks && event.button === 0) return pick(event, app.tool === "select");
  const drawing = beginDrawing(event);
  if (!drawing) return null;
  visit(app.frame); // the frame stays while it is drawn on
  return { ...drawing, draws: true };
}

function beginDrawing(event) {
  const other = (event.button === 2 || event.shiftKey) !== app.takeAway;
  if (app.tool === "brush" || app.tool === "eraser") return paint(event, (app.tool === "eraser") !== other);
  if (app.tool === "polygon") return polygonCorner(event, other);
  if (app.tool === "select") return null;
  const marker = event.button === 0 ? markerAt(toVideo(event), view) : null;
  if (marker) return moveMarker(event, marker);
  if (app.marker) selectMarker(null);
  return clickOrBox(event, { positive: !other, canClick: app.tool === "click", canBox: event.button === 0 && !event.shiftKey && (app.tool === "box" || !app.takeAway) });
}

/** Another frame is shown: what the pressed button draws was for the one before. */
function leaveFrame() {
  if (gesture?.draws) dropGesture();
}

/** Give up what the pressed button draws; the corners of a polygon that are set stay. */
function dropGesture() {
  const had = gesture !== null || app.draft?.cross !== undefined;
  gesture = null;
  if (app.draft) setDraft(polygonDraft());
  return had;
}

/** Give up what is being drawn; true if there was something. */
export function abandon() {
  const had = dropGesture();
  return abandonPolygon() || had;
}

const fingers = new Map(); // pointer id -> its latest event, of the fingers on the frame

/** Two fingers move and zoom the frame: the points of the video stay below them. */
function pinch(moved) {
  const other = [...fingers.values()].find(({ pointerId }) => pointerId !== moved.pointerId);
  const before = fingers.get(moved.pointerId);
  const between = (finger) => [(finger.clientX + other.clientX) / 2, (finger.clientY + other.clientY) / 2, Math.hypot(finger.clientX - other.clientX, finger.clientY - other.clientY)];
  const [[x0, y0, from], [x1, y1, to]] = [between(before), between(moved)];
  const box = canvas.getBoundingClientRect();
  panBy(x1 - x0, y1 - y0);
  if (from > 0 && to > 0) zoomBy(to / from, x1 - box.left, y1 - box.top);
}

function fingerDown(event) {
  fingers.set(event.pointerId, event);
  if (fingers.size < 2) return false;
  dropGesture(); // what the first finger had begun
  return true;
}

function showCursor(event = null) {
  if (!app.video) canvas.dataset.cursor = "none";
  else if (space.down) canvas.dataset.cursor = "grab";
  else if (app.tool === "brush" || app.tool === "eraser") canvas.dataset.cursor = "brush";
  else if (app.tool === "select" || event?.ctrlKey || event?.metaKey) canvas.dataset.cursor = event && objectsAt(toVideo(event)).length ? "pointer" : "grab";
  else if (app.tool !== "polygon" && event && markerAt(toVideo(event), view)) canvas.dataset.cursor = "pointer";
  else canvas.dataset.cursor = "cross";
}

function hover(event) {
  showCursor(event);
  const painting = app.tool === "brush" || app.tool === "eraser";
  if (painting) setDraft({ brush: toVideo(event) });
  else if (app.tool === "polygon") hoverPolygon(inside(toVideo(event)));
  else if (app.draft) setDraft(null);
}

/** Move the keyboard's cross by some screen pixels; it starts in the middle of what is seen. */
export function moveCross(dx, dy) {
  if (!app.video) return;
  const from = app.draft?.cross ?? { x: (canvas.clientWidth / 2 - view.x) / view.scale, y: (canvas.clientHeight / 2 - view.y) / view.scale };
  setDraft({ ...polygonDraft(), cross: inside({ x: from.x + dx / view.scale, y: from.y + dy / view.scale }) });
}

/** Do at the keyboard's cross what a click there does: with the polygon tool set a corner, or close it where there is one. */
export function clickAtCross(positive) {
  const cross = app.draft?.cross;
  if (app.tool === "polygon" && !cross) return closePolygon();
  if (!cross) return;
  if (app.tool === "select") return selectAt(cross);
  if (app.tool !== "polygon") return addPoint(cross, positive);
  cornerAt(cross, positive === app.takeAway);
  setDraft(polygonDraft() && { ...polygonDraft(), cross });
}

export function startPointer() {
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("pointerdown", (event) => {
    if (!app.video) return;
    if (event.pointerType === "touch" && fingerDown(event)) return canvas.setPointerCapture(event.pointerId);
    if (gesture) return;
    event.preventDefault();
    canvas.focus({ preventScroll: true });
    canvas.setPointerCapture(event.pointerId);
    gesture = begin(event);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!app.video) return;
    if (fingers.size === 2 && fingers.has(event.pointerId)) pinch(event);
    if (fingers.has(event.pointerId)) fingers.set(event.pointerId, event);
    if (fingers.size > 1) return;
    if (gesture) gesture.move(event);
    else hover(event);
  });
  for (const type of ["pointerup", "pointercancel"]) canvas.addEventListener(type, (event) => fingers.delete(event.pointerId));
  canvas.addEventListener("pointerup", (event) => {
    const ended = gesture;
    gesture = null;
    ended?.up(event);
  });
  canvas.addEventListener("pointercancel", dropGesture);
  canvas.addEventListener("dblclick", () => app.tool === "polygon" && closePolygon());
  canvas.addEventListener("pointerleave", () => !gesture && app.draft?.brush && setDraft(null));
  canvas.addEventListener("pointerleave", () => !gesture && app.draft?.polygon && setDraft(polygonDraft()));
  canvas.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      const lines = event.deltaMode === 1 ? 16 : 1;
      const speed = event.ctrlKey ? 6 : 1; // pinching on a touchpad comes as small steps with Ctrl
      const box = canvas.getBoundingClientRect();
      zoomBy(Math.exp(-event.deltaY * lines * WHEEL_SPEED * speed), event.clientX - box.left, event.clientY - box.top);
    },
    { passive: false },
  );
  on("view", () => showCursor());
  on("video", () => showCursor());
  for (const name of ["frame", "video"]) on(name, leaveFrame);
}

/** Select the object with this place in the list, or add the first one. */
export function selectByPlace(place) {
  const object = app.video?.objects[place];
  if (object) select(object.id);
  else if (app.video && place === 0 && !selectedObject()) addObject();
}
