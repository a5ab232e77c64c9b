// The page: files in, clicks to the worker, masks onto the canvas.
//
// After each frame, `document` gets an event "i2vpp:masks" whose `detail` is { frame, objIds, masks, scores, ious }, the
// masks as 0 and 1 [height * width] each: the place to take them further from.

import { openFiles } from "./frames.js";

const COLOURS = [[255, 138, 0], [0, 168, 255], [40, 200, 90], [230, 60, 160], [250, 210, 30], [150, 100, 255]];
const PLACE = new URLSearchParams(location.search); // ?model=FOLDER&backend=wasm or webgpu

/** @type {(id: string) => any} */
const byId = (id) => document.getElementById(id);
const [frameCanvas, maskCanvas] = [byId("frame"), byId("masks")];

const state = {
  /** @type {import("./frames.js").Frames | null} */ frames: null,
  /** a frame that was read and is not tracked yet, such as one whose step failed @type {ImageData | null} */ picture: null,
  /** what is being done: "" (a person's turn), "loading", "prompting", "tracking", "stopping" */
  work: "",
  frame: 0,
  objects: 0, // known to the tracker
  active: 1, // the object that clicks belong to
  label: 1,
  ended: false,
};

/** @type {Map<number, { resolve: (value: any) => void, reject: (error: Error) => void }>} */
const asked = new Map();
/** @type {Worker} */ let worker;
let asks = 0;

/**
 * Call a method of the worker.
 * @param {string} method
 * @param {...unknown} args
 * @returns {Promise<any>}
 */
function call(method, ...args) {
  return new Promise((resolve, reject) => {
    asked.set(++asks, { resolve, reject });
    worker.postMessage({ id: asks, method, args });
  });
}

function startWorker() {
  worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
  worker.addEventListener("message", ({ data: { id, value, error, progress } }) => {
    if (progress) return say(`Loading ${progress.file} …`, progress.share);
    const { resolve, reject } = /** @type {any} */ (asked.get(id));
    asked.delete(id);
    if (error === undefined) resolve(value);
    else reject(new Error(error));
  });
  worker.addEventListener("error", () => fail(new Error("This browser cannot run the page: it needs workers that are modules.")));
}

/**
 * Say what is going on.
 * @param {string} text
 * @param {number | null} share done, of 1; null for no bar
 */
function say(text, share = null) {
  byId("status").className = "";
  byId("status").textContent = text;
  byId("bar").hidden = share === null;
  byId("bar").setAttribute("aria-valuenow", String(Math.round(100 * (share ?? 0))));
  byId("bar").firstElementChild.style.width = `${100 * (share ?? 0)}%`;
}

/** @param {unknown} error */
function fail(error) {
  say(error instanceof Error ? error.message : String(error));
  byId("status").className = "bad";
}

/**
 * Do work, one at a time; what fails is said.
 * @param {string} name
 * @param {() => Promise<void>} work
 */
async function busy(name, work) {
  if (state.work) return;
  state.work = name;
  showControls();
  try {
    await work();
  } catch (error) {
    fail(error);
  }
  state.work = "";
  showControls();
}

function showControls() {
  const { work, frames, objects, active, ended } = state;
  byId("pick").hidden = frames !== null;
  byId("view").hidden = byId("controls").hidden = frames === null;
  byId("view").classList.toggle("clickable", !work && !ended);
  byId("track").textContent = work === "tracking" ? "Stop" : state.frame && !ended ? "Go on" : "Track";
  byId("track").disabled = work ? work !== "tracking" : !objects || ended;
  byId("object").disabled = Boolean(work) || active > objects || ended;
  for (const id of ["restart", "other"]) byId(id).disabled = Boolean(work);
  for (const button of byId("sign").children) button.setAttribute("aria-pressed", String(Number(button.dataset.label) === state.label));
}

/** @param {File[]} files */
async function open(files) {
  if (!files.length) return;
  await busy("loading", async () => {
    say("Reading …");
    const frames = await openFiles(files);
    state.frames?.close();
    state.frames = frames;
    await restart();
  });
  if (byId("status").className === "bad") close();
}

function close() {
  state.frames?.close();
  state.frames = state.picture = null;
  byId("files").value = "";
  showControls();
}

async function restart() {
  Object.assign(state, { picture: null, frame: 0, objects: 0, active: 1, ended: false });
  await state.frames?.rewind();
  await call("start");
  await advance();
  say("Click the object. Shift-click what is not of it.");
}

/** Show the next frame with its masks; returns whether there was one. */
async function advance() {
  state.picture ??= (await state.frames?.next()) ?? null;
  const { picture } = state;
  if (!picture) return false;
  const result = await call("step", picture);
  state.picture = null;
  Object.assign(frameCanvas, { width: picture.width, height: picture.height });
  frameCanvas.getContext("2d").putImageData(picture, 0, 0);
  byId("view").style.setProperty("--aspect", picture.width / picture.height);
  byId("marks").replaceChildren();
  show(result);
  return true;
}

/** @param {{ frame: number, objIds: number[], masks: Uint8Array[] }} result */
function show(result) {
  state.frame = result.frame;
  state.objects = result.objIds.length;
  const { width, height } = frameCanvas;
  const picture = new ImageData(width, height);
  const pixels = new Uint32Array(picture.data.buffer);
  result.masks.forEach((mask, i) => {
    const [r, g, b] = COLOURS[(result.objIds[i] - 1) % COLOURS.length];
    const colour = new Uint32Array(Uint8Array.of(r, g, b, 255).buffer)[0];
    mask.forEach((inside, at) => inside && (pixels[at] ||= colour));
  });
  Object.assign(maskCanvas, { width, height });
  maskCanvas.getContext("2d").putImageData(picture, 0, 0);
  byId("view").dataset.frame = String(result.frame);
  document.dispatchEvent(new CustomEvent("i2vpp:masks", { detail: result }));
}

async function track() {
  const frames = /** @type {import("./frames.js").Frames} */ (state.frames);
  const started = performance.now();
  for (let done = 1; state.work === "tracking"; done++) {
    if (!(await advance())) {
      state.ended = true;
      return say(`Done: ${state.frame + 1} frames.`);
    }
    const rate = (1000 * done) / (performance.now() - started);
    say(`Frame ${state.frame + 1} of ${frames.count}, ${rate.toFixed(1)} frames per second`, (state.frame + 1) / frames.count);
  }
  say(`Stopped at frame ${state.frame + 1}. Click to correct the object here, or go on.`);
}

/** @param {MouseEvent} event */
function click(event) {
  if (state.ended) return;
  const box = frameCanvas.getBoundingClientRect();
  const [u, v] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  const label = event.shiftKey ? 0 : state.label;
  busy("prompting", async () => {
    say("Looking for the object …");
    const points = [[u * frameCanvas.width, v * frameCanvas.height]];
    const result = await call("addPointsOrBox", state.active, { points, labels: [label], clearOldPoints: false });
    const mark = document.createElement("span");
    mark.className = label ? "" : "away";
    Object.assign(mark.style, { left: `${100 * u}%`, top: `${100 * v}%` });
    byId("marks").append(mark);
    show(result);
    say("Click again to correct it, or track it through the video.");
  });
}

function startPage() {
  byId("files").addEventListener("change", () => open([...byId("files").files]));
  byId("stage").addEventListener("dragover", (/** @type {DragEvent} */ event) => event.preventDefault());
  byId("stage").addEventListener("drop", (/** @type {DragEvent} */ event) => {
    event.preventDefault();
    if (!byId("files").disabled) open([...(event.dataTransfer?.files ?? [])]);
  });
  byId("view").addEventListener("click", click);
  byId("track").addEventListener("click", () => {
    if (state.work === "tracking") state.work = "stopping";
    else busy("tracking", track);
    showControls();
  });
  byId("sign").addEventListener("click", (/** @type {any} */ { target }) => {
    state.label = Number(target.dataset.label ?? state.label);
    showControls();
  });
  byId("object").addEventListener("click", () => {
    state.active = state.objects + 1;
    say("Click the next object.");
    showControls();
  });
  byId("restart").addEventListener("click", () => busy("loading", restart));
  byId("other").addEventListener("click", () => {
    close();
    say("Choose another file.");
  });
}

async function begin() {
  if (typeof WebAssembly === "undefined" || typeof createImageBitmap === "undefined") {
    return fail(new Error("This browser cannot run the page: it needs WebAssembly. Use a current Chromium, Firefox or Safari."));
  }
  startWorker();
  byId("files").disabled = true;
  await busy("loading", async () => {
    say("Loading …");
    const model = new URL((PLACE.get("model") ?? "model").replace(/\/*$/, "/"), location.href);
    const { backend, side } = await call("load", model.href, PLACE.get("backend") ?? "auto");
    say(`Ready: ${side} pixels, on ${backend === "webgpu" ? "the graphics card (WebGPU)" : "the processor (WebAssembly)"}.`);
    byId("files").disabled = false;
  });
}

startPage();
begin();
