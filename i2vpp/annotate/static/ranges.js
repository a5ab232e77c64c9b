// The panel's block "Range and review": frames from a to b are accepted, cleared, declared absent; tracks are merged, cut, swapped.

import { change, offerUndo } from "./actions.js";
import { byId, clamp, el, setText } from "./dom.js";
import { notify } from "./notices.js";
import { ALL_OBJECTS, scope, scopeIds } from "./review.js";
import { app, emit, jobRunning, keep, kept, objects, on, select, selectedObject } from "./state.js";

const current = () => app.range ?? { first: app.frame, last: app.frame };
const inWords = ({ first, last }) => (first === last ? `frame ${first}` : `frames ${first} to ${last}`);

/** Set the first or the last frame of the range, or both; an end that is passed comes along. */
export function setRange({ first, last }) {
  if (!app.video) return;
  const inside = (frame) => clamp(Math.round(frame), 0, app.video.frames - 1);
  const from = inside(first ?? current().first);
  const to = inside(last ?? (app.range ? app.range.last : app.frame));
  app.range = last === undefined ? { first: from, last: Math.max(from, to) } : { first: Math.min(from, to), last: to };
  emit("timeline");
  show();
}

function dropRange() {
  app.range = null;
  emit("timeline");
  show();
}

/** What the tools act on, or null where there is nothing, which is said. */
function target() {
  if (!app.video) return null;
  const ids = scopeIds();
  if (!objects().length || ids?.length === 0) {
    notify("warning", "There is no object yet: click one in the frame first.");
    return null;
  }
  return { ...current(), objects: ids };
}

const whose = () => (scope.which === ALL_OBJECTS ? "all objects" : `“${selectedObject()?.name}”`);

/** Accept what is there in the range (without one: on this frame), or set it to do. */
export function reviewRange(accepted) {
  const wanted = target();
  return wanted && change("PUT", "/review", { ...wanted, accepted });
}

async function changeRange(kind, said) {
  const wanted = target();
  if (!wanted) return;
  const message = `${said} ${whose()} on ${inWords(wanted)}.`;
  const state = await change("POST", `/ranges/${kind}`, wanted);
  if (state) offerUndo(state, message);
}

export const clearRange = () => changeRange("clear", "Cleared the masks of");
export const absentRange = () => changeRange("absent", "Declared absent:");

/** Make a new object of what the selected one is from this frame on. */
export async function cutHere() {
  const object = selectedObject();
  if (!object) return;
  const { frame } = app;
  const state = await change("POST", `/objects/${object.id}/cut`, { frame });
  if (!state) return;
  select(state.created);
  offerUndo(state, `Cut “${object.name}” at frame ${frame}: the later part is “${selectedObject()?.name}”.`);
}

async function withOther(kind, body, said) {
  const object = selectedObject();
  const other = objects().find(({ id }) => id === Number(byId("range-other").value));
  if (!object || !other) return;
  const state = await change("POST", `/objects/${object.id}/${kind}`, { other: other.id, ...body });
  if (state) offerUndo(state, said(object.name, other.name));
}

const mergeOther = () => withOther("merge", {}, (name, other) => `Merged “${other}” into “${name}”.`);
const swapOther = () => withOther("swap", { frame: app.frame }, (name, other) => `Swapped “${name}” and “${other}” from here on.`);

const button = (id, text, title, run) => el("button", { id, type: "button", class: "text-button small outlined", text, title, on: { click: run } });

function number(id, label, part) {
  const field = el("input", { id, type: "number", min: "0", class: "number", "aria-label": label });
  field.addEventListener("change", () => (field.value.trim() === "" ? show() : setRange({ [part]: Number(field.value) })));
  return field;
}

function choice(value, text) {
  const input = el("input", { type: "radio", name: "scope", value });
  input.checked = scope.which === value;
  input.addEventListener("change", () => {
    scope.which = value;
    keep("range.which", value);
    emit("timeline");
    show();
  });
  return el("label", {}, input, el("span", { text }));
}

function makeBlock() {
  const block = el(
    "details",
    { id: "range", class: "block range" },
    el("summary", {}, el("h2", { text: "Range and review" }), el("span", { id: "range-text", class: "muted" })),
    el("div", { class: "range-row" }, button("range-begin", "From", "The range begins on this frame (I)", () => setRange({ first: app.frame })), number("range-first", "First frame of the range", "first"), button("range-end", "To", "The range ends on this frame (Shift + I)", () => setRange({ last: app.frame })), number("range-last", "Last frame of the range", "last"), button("range-all", "All", "", () => (app.range ? dropRange() : setRange({ first: 0, last: app.video.frames - 1 })))),
    el("fieldset", { class: "segments", "aria-label": "Which objects the range is about" }, choice("selected", "Selected object"), choice(ALL_OBJECTS, "All objects")),
    el("div", { class: "range-row" }, button("range-accept", "Accept", "Accept what is there (A); propagation leaves it as it is", () => reviewRange(true)), button("range-to-do", "To do", "Not accepted any more (Shift + A)", () => reviewRange(false)), button("range-clear", "Clear", "Delete masks and prompts (Shift + X)", clearRange), button("range-absent", "Absent", "The object is not to be seen there (U): empty masks, accepted", absentRange)),
    el("div", { class: "range-row" }, button("range-cut", "Cut here", "What the selected object is from this frame on becomes a new object (K)", cutHere), el("select", { id: "range-other", "aria-label": "The other object, to merge or to swap with" }), button("range-merge", "Merge", "The other object's track becomes a part of the selected object", mergeOther), button("range-swap", "Swap", "Exchange both tracks from this frame on", swapOther)),
  );
  block.open = kept("range.open", false);
  block.addEventListener("toggle", () => keep("range.open", block.open));
  byId("propagate").before(block);
}

function show() {
  const { video } = app;
  const range = current();
  setText(byId("range-text"), !video ? "" : app.range ? `${range.first} to ${range.last}` : `frame ${range.first}`);
  for (const part of ["first", "last"]) {
    const field = byId(`range-${part}`);
    field.max = video ? video.frames - 1 : 0;
    field.disabled = !video;
    if (document.activeElement !== field || field.value === "") field.value = range[part];
  }
  showOthers();
  const running = jobRunning();
  const none = !video || !objects().length;
  for (const id of ["begin", "end", "all"]) byId(`range-${id}`).disabled = !video;
  setText(byId("range-all"), app.range ? "None" : "All");
  byId("range-all").title = app.range ? "No range: the current frame is meant" : "The whole video";
  for (const id of ["accept", "to-do"]) byId(`range-${id}`).disabled = none;
  for (const id of ["clear", "absent", "cut"]) byId(`range-${id}`).disabled = none || running;
  for (const id of ["merge", "swap"]) byId(`range-${id}`).disabled = running || !byId("range-other").value;
}

function showOthers() {
  const list = byId("range-other");
  const others = objects().filter(({ id }) => id !== app.selected);
  const entries = others.map(({ id, name }) => [String(id), name]);
  const shown = JSON.stringify(entries);
  if (list.dataset.shown === shown) return;
  const { value } = list;
  list.replaceChildren(...entries.map(([id, text]) => el("option", { value: id, text })));
  if (!entries.length) list.append(el("option", { value: "", text: "no other object" }));
  list.disabled = !entries.length;
  if (entries.some(([id]) => id === value)) list.value = value;
  list.dataset.shown = shown;
}

export function startRanges() {
  makeBlock();
  on("video", () => (app.range = null));
  for (const name of ["video", "state", "selection", "frame", "job"]) on(name, show);
  on("selection", () => emit("timeline")); // the range is drawn in the selected object's row
  show();
}
