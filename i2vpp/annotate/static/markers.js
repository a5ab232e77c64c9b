// Prompts as marks over the frame: drawing them, and finding the one under the pointer.

import { app, objects, promptKey, promptsOf, selectedObject } from "./state.js";

const RADIUS = 7; // screen pixels
const REACH = 10;
const POSITIVE = "#1fa25a";
const NEGATIVE = "#d8402f";
const UNANSWERED = 0.6; // opacity of clicks that the server is still working on
const BADGE = 13; // how far the small × of the selected mark lies from its middle

const toScreen = (view, [x, y]) => [x * view.scale, y * view.scale];

/** Draw the prompts of all shown objects on the current frame; those of the selected one can be moved. */
export function drawPrompts(context, view) {
  const selected = selectedObject();
  for (const object of objects()) {
    if (object.hidden || object === selected) continue;
    for (const [x, y] of promptsOf(object.id, app.frame).points) dot(context, toScreen(view, [x, y]), 3.5, object.color);
  }
  if (!selected || selected.hidden) return;
  const prompts = promptsOf(selected.id, app.frame);
  if (prompts.box) drawBox(context, view, prompts.box, selected.color, app.marker?.kind === "box");
  prompts.strokes.forEach((stroke, index) => drawHandle(context, view, stroke, selected.color, isMarked("stroke", index)));
  context.globalAlpha = app.pending.has(promptKey(selected.id, app.frame)) ? UNANSWERED : 1;
  prompts.points.forEach(([x, y, label], index) => drawPoint(context, toScreen(view, [x, y]), label, isMarked("point", index)));
  context.globalAlpha = 1;
  const at = app.marker && anchorOf(prompts, app.marker);
  if (at) drawBadge(context, toScreen(view, at));
}

const isMarked = (kind, index) => app.marker?.kind === kind && app.marker.index === index;

/** The point of the video that a mark is drawn at; null if there is no such mark. */
function anchorOf(prompts, { kind, index }) {
  if (kind === "imported") return null;
  if (kind === "box") return prompts.box && [prompts.box[2], prompts.box[1]];
  return kind === "point" ? (prompts.points[index] ?? null) : (prompts.strokes[index]?.points[0] ?? null);
}

function dot(context, [x, y], radius, fill, ring = "#ffffff") {
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
  context.fillStyle = fill;
  context.fill();
  context.lineWidth = 1.5;
  context.strokeStyle = ring;
  context.stroke();
}

function drawPoint(context, [x, y], label, marked) {
  context.save();
  context.shadowColor = "rgb(0 0 0 / 0.5)";
  context.shadowBlur = 4;
  dot(context, [x, y], RADIUS, label ? POSITIVE : NEGATIVE);
  context.restore();
  context.beginPath();
  context.moveTo(x - 3.5, y);
  context.lineTo(x + 3.5, y);
  if (label) {
    context.moveTo(x, y - 3.5);
    context.lineTo(x, y + 3.5);
  }
  context.lineWidth = 2;
  context.strokeStyle = "#ffffff";
  context.stroke();
  if (marked) ring(context, [x, y]);
}

function ring(context, [x, y]) {
  context.beginPath();
  context.arc(x, y, RADIUS + 4, 0, 2 * Math.PI);
  context.lineWidth = 2;
  context.strokeStyle = "#ffffff";
  context.stroke();
}

function drawBadge(context, [x, y]) {
  const at = [x + BADGE, y - BADGE];
  dot(context, at, 6.5, "#20242c");
  context.beginPath();
  for (const sign of [-1, 1]) {
    context.moveTo(at[0] - 2.5, at[1] - 2.5 * sign);
    context.lineTo(at[0] + 2.5, at[1] + 2.5 * sign);
  }
  context.lineWidth = 1.5;
  context.strokeStyle = "#ffffff";
  context.stroke();
}

function drawBox(context, view, [x0, y0, x1, y1], color, marked) {
  const [left, top] = toScreen(view, [x0, y0]);
  const [right, bottom] = toScreen(view, [x1, y1]);
  context.save();
  context.lineWidth = marked ? 3.5 : 2.5;
  context.strokeStyle = "rgb(255 255 255 / 0.75)";
  context.strokeRect(left, top, right - left, bottom - top);
  context.lineWidth = marked ? 2 : 1.5;
  context.strokeStyle = color;
  context.setLineDash([6, 4]);
  context.strokeRect(left, top, right - left, bottom - top);
  context.restore();
  for (const corner of corners([x0, y0, x1, y1])) dot(context, toScreen(view, corner), 3.5, "#ffffff", color);
}

function trace(context, view, points) {
  context.beginPath();
  points.forEach((point, i) => (i ? context.lineTo(...toScreen(view, point)) : context.moveTo(...toScreen(view, point))));
}

function drawHandle(context, view, stroke, color, marked) {
  if (marked) {
    trace(context, view, stroke.points);
    if (stroke.radius === null) context.closePath();
    context.lineWidth = 2;
    context.strokeStyle = "rgb(255 255 255 / 0.8)";
    context.setLineDash([2, 3]);
    context.stroke();
    context.setLineDash([]);
  }
  const at = toScreen(view, stroke.points[0]);
  dot(context, at, 4.5, stroke.erase ? "#20242c" : color);
  if (marked) ring(context, at);
}

/** Draw what is being drawn: a box, a stroke, the brush, the keyboard's cross. */
export function drawDraft(context, view) {
  const { draft } = app;
  if (!draft) return;
  const color = selectedObject()?.color ?? "#ffffff";
  if (draft.box) drawBox(context, view, draft.box, color, true);
  if (draft.stroke) drawStroke(context, view, draft.stroke, color);
  if (draft.polygon) drawPolygon(context, view, draft.polygon, color);
  if (draft.brush) {
    const [x, y] = toScreen(view, [draft.brush.x, draft.brush.y]);
    circle(context, x, y, app.brush * view.scale, 2.5, "rgb(0 0 0 / 0.5)");
    circle(context, x, y, app.brush * view.scale, 1.25, "#ffffff");
  }
  if (draft.cross) drawCross(context, toScreen(view, [draft.cross.x, draft.cross.y]));
}

function circle(context, x, y, radius, width, color) {
  context.beginPath();
  context.arc(x, y, Math.max(radius, 1), 0, 2 * Math.PI);
  context.lineWidth = width;
  context.strokeStyle = color;
  context.stroke();
}

function drawCross(context, [x, y]) {
  for (const [width, color] of [[3.5, "rgb(0 0 0 / 0.6)"], [1.5, "#ffffff"]]) {
    context.beginPath();
    context.moveTo(x - 14, y);
    context.lineTo(x + 14, y);
    context.moveTo(x, y - 14);
    context.lineTo(x, y + 14);
    context.lineWidth = width;
    context.strokeStyle = color;
    context.stroke();
  }
}

/** The polygon that is being drawn: what it would fill, its sides, its corners, and the first one larger where it closes it. */
function drawPolygon(context, view, { corners: points, erase, closable }, color) {
  context.save();
  trace(context, view, points);
  context.globalAlpha = 0.35;
  context.fillStyle = erase ? "#20242c" : color;
  context.fill();
  context.globalAlpha = 1;
  for (const [width, ink] of [[3, "rgb(0 0 0 / 0.6)"], [1.5, "#ffffff"]]) {
    context.lineWidth = width;
    context.strokeStyle = ink;
    context.stroke();
  }
  context.restore();
  points.forEach((point, i) => dot(context, toScreen(view, point), i === 0 && closable ? 6 : 4, erase ? "#20242c" : color));
}

function drawStroke(context, view, stroke, color) {
  context.save();
  context.globalAlpha = stroke.erase ? 0.7 : Math.max(app.opacity, 0.3);
  if (stroke.radius === null) {
    trace(context, view, stroke.points);
    context.fillStyle = stroke.erase ? "#20242c" : color;
    context.fill();
    context.restore();
    return;
  }
  context.lineCap = "round";
  context.lineJoin = "round";
  context.lineWidth = Math.max(2 * stroke.radius * view.scale, 1);
  context.strokeStyle = stroke.erase ? "#20242c" : color;
  trace(context, view, stroke.points);
  if (stroke.points.length === 1) context.lineTo(...toScreen(view, stroke.points[0]));
  context.stroke();
  context.restore();
}

const corners = ([x0, y0, x1, y1]) => [[x0, y0], [x1, y0], [x1, y1], [x0, y1]];

/** The selected object's mark at a point of the video: {kind, index, part}, part "x" for the × beside it; null if there is none. */
export function markerAt({ x, y }, view) {
  const object = selectedObject();
  if (!object || object.hidden) return null;
  const prompts = promptsOf(object.id, app.frame);
  const far = ([px, py], dx = 0, dy = 0) => Math.hypot((px - x) * view.scale + dx, (py - y) * view.scale + dy);
  const anchor = app.marker && anchorOf(prompts, app.marker);
  if (anchor && far(anchor, BADGE, -BADGE) <= 8) return { ...app.marker, part: "x" };
  for (let index = prompts.points.length - 1; index >= 0; index--) if (far(prompts.points[index]) <= REACH) return { kind: "point", index, part: "all" };
  for (let index = prompts.strokes.length - 1; index >= 0; index--) if (far(prompts.strokes[index].points[0]) <= 7) return { kind: "stroke", index, part: "all" };
  if (!prompts.box) return null;
  const corner = corners(prompts.box).findIndex((point) => far(point) <= REACH);
  if (corner >= 0) return { kind: "box", index: 0, part: corner };
  return onEdge(prompts.box, x, y, 5 / view.scale) ? { kind: "box", index: 0, part: "all" } : null;
}

function onEdge([x0, y0, x1, y1], x, y, reach) {
  const within = x >= x0 - reach && x <= x1 + reach && y >= y0 - reach && y <= y1 + reach;
  const inner = x > x0 + reach && x < x1 - reach && y > y0 + reach && y < y1 - reach;
  return within && !inner;
}
