// Files in and out: the formats of the export dialog, downloads, uploads by drop, and what can be imported.

import { loadLibrary } from "./actions.js";
import { call, request, videoPath } from "./api.js";
import { byId, el, setText } from "./dom.js";
import { notify } from "./notices.js";
import { app, on } from "./state.js";

const FIRST = "sav"; // the format that is chosen at first

function choice({ name, title, hint }) {
  const input = el("input", { type: "radio", name: "kind", value: name });
  input.checked = name === FIRST;
  return el("label", { class: "choice" }, input, el("span", {}, el("strong", { text: title }), el("small", { text: hint })));
}

async function showFormats() {
  const { formats } = await call("GET", "/api/formats");
  byId("export-form").querySelector(".choices").replaceChildren(...formats.map(choice));
}

let awaited = null; // number of the latest job when an export was asked for that is to be downloaded; null: none is

/** The export dialog was confirmed: the export comes as a zip when it is done, if that is chosen. */
function expectExport() {
  awaited = byId("download").checked ? (app.video?.job?.number ?? 0) : null;
}

function download(id, kind) {
  const link = el("a", { href: videoPath(id, `/exports/${encodeURIComponent(kind)}.zip`), download: "" });
  document.body.append(link);
  link.click();
  link.remove();
}

function takeExport() {
  const job = app.video?.job ?? null;
  if (awaited === null || job?.kind !== "export" || job.number === awaited || job.state === "running") return;
  awaited = null;
  if (job.state === "done") download(app.video.id, job.result.folder.split("/").at(-1));
}

let asked = 0; // for what can be imported: the answer to a later question is the newer one

/** Show what can be imported; a click on a name takes it. */
async function showSources(chosen = null) {
  asked += 1;
  const turn = asked;
  const { sources } = await call("GET", videoPath(app.video.id, "/importable"));
  if (turn !== asked) return;
  const field = byId("import-form").elements.folder;
  const list = byId("sources");
  list.replaceChildren(...sources.map((name) => el("option", { value: name, text: name })));
  list.size = Math.min(Math.max(sources.length, 2), 6);
  list.hidden = !sources.length;
  setText(byId("sources-hint"), sources.length ? "Found in the opened folder, in that of --masks, and among uploads and exports." : "No masks were found; drop a file here, or type a name.");
  if (chosen !== null) field.value = sources.find((name) => name === chosen || name.startsWith(`${chosen}/`)) ?? chosen;
  list.value = field.value;
}

async function upload(file) {
  const close = notify("info", `Uploading “${file.name}”…`);
  try {
    const answer = await request(`/api/uploads/${encodeURIComponent(file.name)}`, { method: "PUT", headers: { "Content-Type": "application/octet-stream" }, body: file });
    return await answer.json();
  } catch (error) {
    notify("error", `“${file.name}” was not taken: ${error.message}`);
    return null;
  } finally {
    close();
  }
}

/** Take dropped or chosen files: videos into the list, masks into the import dialog. */
async function take(files) {
  for (const file of files) {
    const taken = await upload(file);
    if (taken?.video !== undefined) {
      notify("success", `“${file.name}” is in the list of videos.`);
      await loadLibrary();
    } else if (taken && app.video) {
      const dialog = byId("import-dialog");
      if (!dialog.open) dialog.showModal();
      await showSources(taken.masks);
    } else if (taken) notify("success", `“${file.name}” can be imported once a video is open.`);
  }
}

function startDropping() {
  let depth = 0; // of elements that were entered: "dragleave" comes for inner ones, too
  const holdsFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  const show = (shown) => document.body.classList.toggle("dropping", shown);
  addEventListener("dragenter", (event) => holdsFiles(event) && show(++depth > 0));
  addEventListener("dragleave", (event) => holdsFiles(event) && show(--depth > 0));
  addEventListener("dragover", (event) => holdsFiles(event) && event.preventDefault());
  addEventListener("drop", (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    depth = 0;
    show(false);
    take([...event.dataTransfer.files]);
  });
}

/** The parts of both dialogs that are about files of the person. */
function fillDialogs() {
  const wanted = el("input", { id: "download", type: "checkbox" });
  wanted.checked = true;
  byId("export-form").querySelector(".buttons").before(el("label", { class: "check" }, wanted, "Download as a zip"));
  const list = el("select", { id: "sources", size: "4", "aria-label": "What can be imported" });
  const field = byId("import-form").elements.folder;
  list.addEventListener("change", () => (field.value = list.value));
  field.addEventListener("input", () => (list.value = field.value));
  const chooser = el("input", { id: "upload", type: "file", multiple: true, "aria-label": "Upload masks or videos" });
  chooser.addEventListener("change", () => take([...chooser.files]).then(() => (chooser.value = "")));
  field.closest(".field").before(list, el("p", { id: "sources-hint", class: "hint" }));
  byId("import-form").querySelector(".choices").before(el("label", { class: "field" }, "Or drop a file on the page, or choose one: a zip of PNGs or of a YOLO folder, .json, .xml", chooser));
}

export function startExchange() {
  fillDialogs();
  showFormats();
  byId("export-form").addEventListener("submit", expectExport);
  byId("show-import").addEventListener("click", () => app.video && showSources());
  on("job", takeExport);
  startDropping();
}
