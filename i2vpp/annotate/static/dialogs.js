// Export, import and help.

import { exportMasks, importMasks } from "./actions.js";
import { byId, el } from "./dom.js";
import { app, objects } from "./state.js";
import { notify } from "./notices.js";

export function openDialog(id) {
  const dialog = byId(id);
  if (id !== "help-dialog" && !app.video) return;
  if (!dialog.open) dialog.showModal();
}

function fillHelp(bindings) {
  const columns = [...grouped(bindings)].map(([section, keys]) =>
    el(
      "section",
      {},
      el("h3", { text: section }),
      el("dl", {}, ...keys.map(({ shown, does }) => el("div", {}, el("dt", {}, ...shown.map((key) => el("kbd", { text: key }))), el("dd", { text: does })))),
    ),
  );
  byId("help-keys").replaceChildren(...columns);
}

function grouped(bindings) {
  const sections = new Map();
  for (const key of bindings) sections.set(key.section, [...(sections.get(key.section) ?? []), key]);
  return sections;
}

function startExport() {
  const form = byId("export-form");
  form.addEventListener("submit", (event) => {
    event.preventDefault(); // the page's policy forbids sending forms
    byId("export-dialog").close();
    const { kind, every } = form.elements;
    exportMasks(kind.value, Math.max(1, Math.round(Number(every.value)) || 1));
  });
  byId("show-export").addEventListener("click", () => {
    if (!objects().length) notify("warning", "There is nothing to export yet: click an object in the frame first.");
    else openDialog("export-dialog");
  });
}

function startImport() {
  const form = byId("import-form");
  byId("show-import").addEventListener("click", () => openDialog("import-dialog"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    byId("import-dialog").close();
    importMasks(form.elements.folder.value.trim(), form.elements.prompts.value);
  });
}

/** Wire the dialogs; the help sheet shows `bindings` {section, shown, does}. */
export function startDialogs(bindings) {
  fillHelp(bindings);
  startExport();
  startImport();
  byId("show-help").addEventListener("click", () => openDialog("help-dialog"));
  for (const dialog of document.querySelectorAll("dialog")) {
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
    for (const button of dialog.querySelectorAll("[data-close]")) button.addEventListener("click", () => dialog.close());
  }
}
