// Classes of objects ("labels" in the store): the choice in each object's row, the tag on the timeline, and their dialog.

import { change } from "./actions.js";
import { byId, debounce, el, icon, iconButton, setText } from "./dom.js";
import { app, on, selectedObject } from "./state.js";

const NEW = "new"; // value of the entry that opens the dialog
const recolor = debounce((number, color) => change("PATCH", `/labels/${number}`, { color }), 300);

const labels = () => app.video?.labels ?? [];
const labelOf = (object) => labels().find(({ number }) => number === object?.label) ?? null;

/** The choice of an object's class; `fillLabel` keeps it up to date. */
export function labelSelect(id) {
  const select = el("select", { class: "label-select" });
  select.addEventListener("change", () => {
    const { value } = select;
    const object = app.video.objects.find((one) => one.id === id);
    select.value = String(object?.label ?? 0); // what holds until the server has answered
    if (value === NEW) openLabels(id);
    else change("PUT", `/objects/${id}/label`, { label: Number(value) });
  });
  return select;
}

/** Show an object's class in its choice, and all classes to choose from. */
export function fillLabel(select, object) {
  const entries = [["0", "no class"], ...labels().map(({ number, name }) => [String(number), name]), [NEW, "New class…"]];
  const shown = JSON.stringify(entries);
  if (select.dataset.shown !== shown) {
    select.replaceChildren(...entries.map(([value, text]) => el("option", { value, text })));
    select.dataset.shown = shown;
  }
  const label = labelOf(object);
  select.value = String(label?.number ?? 0);
  select.classList.toggle("none", !label);
  select.setAttribute("aria-label", `Class of ${object.name}`);
  select.style.setProperty("--color", label?.color ?? "transparent");
}

/** Show an object's class beside its name. */
export function showLabelTag(tag, object) {
  const label = labelOf(object);
  tag.hidden = !label;
  setText(tag, label?.name ?? "");
  tag.title = label?.name ?? "";
  tag.style.setProperty("--color", label?.color ?? "transparent");
}

let receiver = null; // id of the object that gets the class that is typed next

function openLabels(id = null) {
  if (!app.video) return;
  receiver = id;
  showLabels();
  if (!byId("labels-dialog").open) byId("labels-dialog").showModal();
  byId("new-label").focus();
}

function row(label) {
  const name = el("input", { type: "text", class: "label-name", maxlength: "100", spellcheck: "false", "aria-label": `Name of class ${label.name}` });
  name.value = label.name;
  name.addEventListener("change", () => {
    const wanted = name.value.trim();
    if (wanted && wanted !== label.name) change("PATCH", `/labels/${label.number}`, { name: wanted }).then(showLabels);
    else name.value = label.name;
  });
  const color = el("input", { type: "color", class: "color", value: label.color, "aria-label": `Colour of class ${label.name}`, on: { input: (event) => recolor(label.number, event.target.value) } });
  const used = app.video.objects.filter((object) => object.label === label.number).length;
  return el("li", {}, color, name, el("span", { class: "muted", text: used ? `${used} ×` : "" }), iconButton("trash", `Delete class ${label.name}`, () => change("DELETE", `/labels/${label.number}`)));
}

let drawn = "";

function showLabels() {
  byId("show-labels").disabled = !app.video;
  if (!app.video) return;
  const target = app.video.objects.find((object) => object.id === receiver);
  setText(byId("new-label-hint"), target ? `“${target.name}” gets the class that you add.` : "An object's class is chosen below its name.");
  const news = JSON.stringify([labels(), app.video.objects.map((object) => object.label)]);
  if (news === drawn) return;
  drawn = news;
  byId("labels").replaceChildren(...labels().map(row));
  if (!labels().length) byId("labels").append(el("li", { class: "hint", text: "None yet." }));
}

async function addLabel(event) {
  event.preventDefault(); // the page's policy forbids sending forms
  const field = byId("new-label");
  const name = field.value.trim();
  if (!name) return;
  const object = receiver;
  const state = await change("POST", "/labels", { name, object });
  if (!state) return;
  field.value = "";
  receiver = null;
  if (object !== null) byId("labels-dialog").close();
  showLabels();
}

function makeDialog() {
  const close = () => dialog.close();
  const dialog = el(
    "dialog",
    { id: "labels-dialog", "aria-labelledby": "labels-title" },
    el(
      "form",
      { on: { submit: addLabel } },
      el("h2", { id: "labels-title", text: "Classes" }),
      el("p", { class: "hint", text: "What kinds of things the objects are. They are in every export; each change can be undone." }),
      el("ul", { id: "labels", class: "labels" }),
      el("div", { class: "pair" }, el("input", { id: "new-label", type: "text", maxlength: "100", placeholder: "Name of a new class", "aria-label": "Name of a new class", spellcheck: "false", autocomplete: "off" }), el("button", { type: "submit", class: "primary", text: "Add" })),
      el("p", { id: "new-label-hint", class: "hint" }),
      el("div", { class: "buttons" }, el("button", { type: "button", class: "text-button", text: "Close", on: { click: close } })),
    ),
  );
  dialog.addEventListener("keydown", (event) => event.stopPropagation());
  document.body.append(dialog);
}

export function startLabels() {
  makeDialog();
  const button = el("button", { id: "show-labels", type: "button", class: "text-button small", title: "Classes of objects", on: { click: () => openLabels(labelOf(selectedObject()) ? null : (selectedObject()?.id ?? null)) } }, icon("tag"), el("span", { text: "Classes" }));
  byId("add-object").before(button);
  for (const name of ["video", "state"]) on(name, showLabels);
  showLabels();
}
