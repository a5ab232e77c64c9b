// The panel that starts a propagation, and the bar of whatever job is running.

import { cancel, change, giveUp, goOn, propagate } from "./actions.js";
import { byId, count, duration, el, setText } from "./dom.js";
import { notify } from "./notices.js";
import { isStale } from "./runs.js";
import { app, jobRunning, objects, on, onChanges } from "./state.js";

const form = byId("propagate");
const chosen = new Set(); // ids of the objects that are not to be propagated: new objects take part

function choice() {
  const { direction, range, which, stop } = form.elements;
  const all = which.value === "all";
  return {
    direction: direction.value,
    stop: range.value === "all" ? null : stop.value.trim() === "" ? NaN : Number(stop.value),
    objects: all ? null : objects().map(({ id }) => id).filter((id) => !chosen.has(id)),
  };
}

/** Start with what the panel says, or stop what is running. */
export function propagateOrCancel() {
  if (jobRunning()) return cancel();
  if (!app.video) return null;
  const wanted = choice();
  const trouble = troubleOf(wanted);
  if (trouble) return notify("warning", trouble);
  app.following = app.follow;
  return propagate(wanted);
}

/** How many masks of the chosen objects are missing or stale: of those that have prompts and are not locked. */
function missingMasks() {
  const ids = choice().objects;
  const taking = objects().filter(({ id, locked }) => !locked && (ids?.includes(id) ?? true) && Object.keys(app.video.prompts[id] ?? {}).length);
  const known = (id) => (app.timeline[id] ?? []).reduce((sum, [first, last, value]) => sum + (isStale(value) ? 0 : last - first + 1), 0);
  return taking.reduce((sum, { id }) => sum + app.video.frames - known(id), 0);
}

/** Propagate where masks are missing or stale, and nowhere else. */
export function propagateMissing() {
  if (!app.video || jobRunning()) return null;
  if (!missingMasks()) return notify("info", "No mask is missing or stale: there is nothing to propagate.");
  app.following = app.follow;
  return change("POST", "/propagate-missing", { objects: choice().objects });
}

function showMissing() {
  const button = byId("propagate-missing");
  const number = app.video ? missingMasks() : 0;
  button.disabled = !number;
  button.title = `Propagate only where masks are missing, or stale since a correction: ${count(number, "mask")} (Shift + P)`;
}

function troubleOf({ direction, stop, objects: ids }) {
  if (ids?.length === 0) return "No object is chosen: tick at least one.";
  if (stop === null) return null;
  const last = app.video.frames - 1;
  if (!Number.isInteger(stop) || stop < 0 || stop > last) return `“Up to” needs a whole number of a frame, 0 to ${last}.`;
  if (direction === "forward" && stop <= app.frame) return `Forward from frame ${app.frame} cannot end at frame ${stop}: choose a later one.`;
  if (direction === "backward" && stop >= app.frame) return `Backward from frame ${app.frame} cannot end at frame ${stop}: choose an earlier one.`;
  return null;
}

/** Which frames a propagation would go over, in words. */
function extent({ direction, stop }) {
  const last = app.video.frames - 1;
  if (direction === "both" && stop === null) return `From frame ${app.frame} on to ${last} and back to 0`;
  return `From frame ${app.frame} to ${stop ?? (direction === "backward" ? 0 : last)}`;
}

function showChoice() {
  const { range, which, stop } = form.elements;
  stop.disabled = range.value === "all" || !app.video;
  stop.max = app.video ? app.video.frames - 1 : 0;
  byId("chosen").hidden = which.value === "all";
  setText(byId("propagate-hint"), app.video ? extent(choice()) : "");
  if (which.value !== "all") showChosen();
}

function showChosen() {
  const boxes = objects().map((object) => {
    const box = el("input", { type: "checkbox", on: { change: () => (box.checked ? chosen.delete(object.id) : chosen.add(object.id)) } });
    box.checked = !chosen.has(object.id);
    const swatch = el("span", { class: "swatch" });
    swatch.style.setProperty("--color", object.color);
    return el("label", { class: "check" }, box, swatch, el("span", { class: "lane-text", text: object.name }));
  });
  byId("chosen").replaceChildren(...boxes);
}

function showJob() {
  const job = app.video?.job ?? null;
  const running = job?.state === "running" && job.kind !== "prompt";
  byId("job").hidden = !running;
  byId("run").hidden = running;
  byId("start-propagation").disabled = !app.video || !objects().length;
  if (!running) return;
  const bar = byId("job-bar");
  bar.max = Math.max(job.total ?? 1, 1);
  bar.value = job.done;
  setText(byId("job-title"), job.label);
  byId("job-title").title = job.label;
  byId("cancel").disabled = job.stopping === true;
  setText(byId("cancel"), job.stopping ? "Stopping…" : "Cancel");
  setText(byId("job-frames"), job.total === null ? "" : `${job.done} / ${job.total}`);
  const speed = job.fps ? `${job.fps.toFixed(1)} frames/s` : "starting…";
  setText(byId("job-speed"), job.seconds_left === null ? speed : `${speed} · ${duration(job.seconds_left)} left`);
}

let told = null; // number of the latest job whose end the person knows of

/** Tell of a job's end, once, whatever brought the news. */
function tellEnd() {
  const job = app.video?.job ?? null;
  if (!job || job.state === "running" || job.number === told) return;
  told = job.number;
  app.following = false;
  const kept = job.kind === "propagate" && job.done > 0 ? " What was done before is kept." : "";
  if (job.state === "failed") notify("error", `${job.label} failed: ${job.error.replace(/\.$/, "")}.${kept}`);
  else if (job.state === "cancelled" && job.kind === "propagate" && job.done > 0) notify("info", `Stopped after ${count(job.done, "frame")}; what was done is kept.`);
  else if (job.state === "cancelled") notify("info", `${job.label} was stopped; nothing was changed.`);
  else if (job.kind === "export") notify("success", `Exported to “${job.result?.folder ?? ""}” in the output folder.`);
  else if (job.kind === "import") notify("success", `Imported ${count(job.result?.objects?.length ?? 0, "object")} with ${count(job.result?.masks ?? 0, "mask")}.`);
  else if (job.kind === "propagate") notify("info", `Propagated over ${count(job.done, "frame")}.`);
}

/** Another video is open: what ended there before is no news. */
function meetVideo() {
  const job = app.video?.job ?? null;
  if (job && job.state !== "running") told = job.number;
  chosen.clear();
}

function showBroken() {
  const broken = jobRunning() ? null : (app.video?.broken ?? null);
  byId("broken").hidden = broken === null;
  if (broken) setText(byId("broken-text"), `“${broken.label}” broke off at frame ${broken.frame}, when the server ended: ${count(broken.left, "frame")} ${broken.left === 1 ? "is" : "are"} left.`);
}

export function startPropagate() {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    propagateOrCancel();
  });
  form.addEventListener("change", () => {
    const { range, stop } = form.elements;
    if (range.value === "stop" && stop.disabled && app.video) stop.value = form.elements.direction.value === "backward" ? 0 : app.video.frames - 1;
    showChoice();
  });
  byId("propagate-missing").addEventListener("click", propagateMissing);
  form.addEventListener("change", showMissing);
  onChanges(["video", "state", "timeline"], showMissing);
  form.noValidate = true; // its own words are the same for the button and the key
  byId("cancel").addEventListener("click", cancel);
  byId("go-on").addEventListener("click", goOn);
  byId("give-up").addEventListener("click", giveUp);
  onChanges(["video", "state", "frame"], showChoice);
  onChanges(["video", "state", "job"], () => [showJob(), showBroken()]);
  on("video", meetVideo);
  on("job", tellEnd);
  showChoice();
  showJob();
}
