// The panel of objects, and the list of prompts that the selected one has on this frame.

import { addObject, changeObject, clearPrompts, deleteObject, deletePrompt } from "./actions.js";
import { byId, count, debounce, el, icon, iconButton, setIcon, setText } from "./dom.js";
import { fillLabel, labelSelect } from "./labels.js";
import { isAccepted, isStale, kindOf, valueAt } from "./runs.js";
import { app, changeOf, isEmpty, objects, onChanges, promptsOf, select, selectMarker, selectedObject } from "./state.js";

const list = byId("objects");
const rows = new Map(); // object id -> its <li>
const recolor = debounce((id, color) => changeObject(id, { color }), 300);

const objectOf = (id) => objects().find((object) => object.id === id);

function makeRow(id) {
  const name = el("input", { class: "name", type: "text", maxlength: "100", readonly: true, spellcheck: "false", autocomplete: "off" });
  const rename = () => {
    name.readOnly = true;
    const wanted = name.value.trim();
    if (wanted && wanted !== objectOf(id)?.name) changeObject(id, { name: wanted });
    else name.value = objectOf(id)?.name ?? "";
  };
  name.addEventListener("dblclick", () => startRenaming(id));
  name.addEventListener("blur", () => !name.readOnly && rename());
  name.addEventListener("keydown", (event) => {
    if (name.readOnly) return;
    if (event.key === "Escape") name.value = objectOf(id).name;
    if (event.key === "Enter" || event.key === "Escape") name.blur();
    event.stopPropagation();
  });
  const color = el("input", { type: "color", class: "color", title: "Colour", on: { input: (event) => recolor(id, event.target.value) } });
  const row = el(
    "li",
    { class: "object", "data-object": id, on: { pointerdown: () => select(id), focusin: () => select(id) } },
    el("kbd", { class: "place" }),
    color,
    el("div", { class: "names" }, name, labelSelect(id)),
    el("span", { class: "presence" }),
    iconButton("eye", "Hide", () => changeObject(id, { hidden: !objectOf(id).hidden }), { "data-role": "eye" }),
    iconButton("unlocked", "Lock", () => changeObject(id, { locked: !objectOf(id).locked }), { "data-role": "lock" }),
    iconButton("trash", "Delete", () => deleteObject(objectOf(id)), { "data-role": "delete" }),
  );
  rows.set(id, row);
  return row;
}

/** Let the person type a new name in the object's row. */
export function startRenaming(id) {
  const name = rows.get(id)?.querySelector(".name");
  if (!name) return;
  name.readOnly = false;
  name.focus();
  name.select();
}

function label(button, text) {
  button.title = text;
  button.setAttribute("aria-label", text);
}

function fillRow(row, object, place) {
  const part = (selector) => row.querySelector(selector);
  setText(part(".place"), place < 10 ? String((place + 1) % 10) : "");
  row.classList.toggle("selected", object.id === app.selected);
  row.setAttribute("aria-current", object.id === app.selected);
  row.classList.toggle("faint", object.hidden);
  const name = part(".name");
  if (name.readOnly && name.value !== object.name) name.value = object.name;
  name.setAttribute("aria-label", `Name of object ${object.id}`);
  name.title = `${object.name} (double click to rename)`;
  fillLabel(part(".label-select"), object);
  part(".color").value = object.color;
  part(".color").setAttribute("aria-label", `Colour of ${object.name}`);
  row.style.setProperty("--color", object.color);
  const [eye, lock] = [part("[data-role=eye]"), part("[data-role=lock]")];
  setIcon(eye, object.hidden ? "eye-off" : "eye");
  label(eye, `${object.hidden ? "Show" : "Hide"} ${object.name}`);
  eye.classList.toggle("on", object.hidden);
  setIcon(lock, object.locked ? "locked" : "unlocked");
  label(lock, `${object.locked ? "Unlock" : "Lock"} ${object.name}`);
  lock.classList.toggle("on", object.locked);
  label(part("[data-role=delete]"), `Delete ${object.name}`);
}

const rowsChanged = changeOf();

function showObjects() {
  if (!rowsChanged(app.video?.id, app.video?.objects, app.video?.labels, app.selected)) return;
  const present = objects();
  for (const [id, row] of rows) {
    if (!present.some((object) => object.id === id)) {
      row.remove();
      rows.delete(id);
    }
  }
  present.forEach((object, place) => {
    const row = rows.get(object.id) ?? makeRow(object.id);
    if (list.children[place] !== row) list.insertBefore(row, list.children[place] ?? null);
    fillRow(row, object, place);
  });
  byId("add-object").disabled = !app.video;
  byId("objects-empty").hidden = present.length > 0;
  showPresence();
}

/** Whether each object is on the current frame: there, doubtful, absent or not tracked yet. */
function showPresence() {
  for (const [id, row] of rows) {
    const dot = row.querySelector(".presence");
    const value = valueAt(app.timeline[id] ?? [], app.frame);
    const state = ["absent", "there", "doubtful"][kindOf(value)] ?? "unknown";
    dot.dataset.state = state;
    dot.dataset.review = isAccepted(value) ? "accepted" : isStale(value) ? "stale" : "to do";
    const words = { unknown: "No mask on this frame", absent: "Not visible on this frame", doubtful: "Doubtful on this frame", there: "Present on this frame" }[state];
    dot.title = words + { accepted: ", accepted", stale: ", stale since a correction", "to do": "" }[dot.dataset.review];
  }
}

function chip(name, text, marker) {
  const chosen = app.marker?.kind === marker.kind && app.marker.index === marker.index;
  return el(
    "li",
    { class: `chip ${chosen ? "selected" : ""}` },
    el("button", { type: "button", class: "chip-text", title: "Select this prompt", "aria-pressed": String(chosen), on: { click: () => selectMarker(marker) } }, icon(name), el("span", { text })),
    iconButton("close", `Delete: ${text}`, () => deletePrompt(marker)),
  );
}

function showPrompts() {
  const object = selectedObject();
  const prompts = object ? promptsOf(object.id, app.frame) : null;
  const chips = byId("prompts");
  setText(byId("prompts-title"), app.video ? `Prompts on frame ${app.frame}` : "Prompts");
  byId("clear-prompts").disabled = !prompts || isEmpty(prompts);
  const items = [];
  prompts?.points.forEach(([x, y, positive], index) => items.push(chip(positive ? "plus" : "minus", `${Math.round(x)}, ${Math.round(y)}`, { kind: "point", index })));
  if (prompts?.box) items.push(chip("box", `${Math.round(prompts.box[2] - prompts.box[0])} × ${Math.round(prompts.box[3] - prompts.box[1])}`, { kind: "box", index: 0 }));
  prompts?.strokes.forEach(({ erase, points, radius }, index) => items.push(chip(radius === null ? "polygon" : erase ? "eraser" : "brush", radius === null ? `${count(points.length, "corner")}${erase ? ", off" : ""}` : count(points.length, "point"), { kind: "stroke", index })));
  if (prompts?.imported) items.push(chip("import", "imported mask", { kind: "imported", index: 0 }));
  if (!items.length) items.push(el("li", { class: "hint", text: object ? `None for “${object.name}”.` : "None." }));
  chips.replaceChildren(...items);
}

/** Scroll the list, and not the page, to the selected object. */
function reveal() {
  const row = rows.get(app.selected);
  if (!row) return;
  if (row.offsetTop < list.scrollTop) list.scrollTop = row.offsetTop;
  else if (row.offsetTop + row.offsetHeight > list.scrollTop + list.clientHeight) list.scrollTop = row.offsetTop + row.offsetHeight - list.clientHeight;
}

export function startObjects() {
  byId("add-object").addEventListener("click", () => addObject());
  byId("clear-prompts").addEventListener("click", () => clearPrompts());
  onChanges(["video", "state", "selection"], showObjects);
  onChanges(["video", "state", "selection", "frame"], showPrompts);
  onChanges(["frame", "timeline"], showPresence);
  onChanges(["selection"], reveal);
  showPrompts();
  showObjects();
}
