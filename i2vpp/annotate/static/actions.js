// Everything that changes the annotation, in the order in which the person did it, one request at a time.

import { ApiError, call, videoPath } from "./api.js";
import { debounce } from "./dom.js";
import { clearMasks, masksChanged } from "./masks.js";
import { frames } from "./frames.js";
import { dropNotices, notify } from "./notices.js";
import { NO_PROMPTS, app, emit, goTo, isEmpty, jobRunning, objects, promptKey, promptsOf, select, selectedObject } from "./state.js";

const TIMELINE_WAIT = 200;
const CHANGED_ELSEWHERE = "Another window or a running job changed this video in the meantime. The page is up to date now; please repeat your last step.";

let queue = Promise.resolve();

/** Run `task` after everything that was asked for before; failures become notices and give null. */
function enqueue(task) {
  app.busy += 1;
  emit("link");
  const run = queue.then(task).catch(report).finally(() => {
    app.busy -= 1;
    emit("link");
  });
  queue = run.catch(() => null);
  return run;
}

function report(error) {
  if (error instanceof ApiError && error.status === 409 && error.state) {
    receive(error.state);
    notify("warning", CHANGED_ELSEWHERE);
  } else if (error instanceof ApiError) {
    notify(error.status === 409 ? "warning" : "error", error.status === 0 ? "The server does not answer; your last step was not saved. Please repeat it when the connection is back." : error.message);
  } else {
    throw error;
  }
  return null;
}

/** Send a change of the open video and take over the state that comes back; null if it was refused. */
function change(method, rest, body = {}) {
  const { id } = app.video;
  return enqueue(async () => {
    const state = await call(method, videoPath(id, rest), { revision: app.video.revision, ...body });
    receive(state);
    return state;
  });
}

/** Take over a state from the server, unless a newer one is here. */
export function receive(state) {
  if (!app.video || state.id !== app.video.id || state.revision < app.video.revision) return;
  const changed = state.revision !== app.video.revision;
  if (offer && state.revision !== offer.revision) offer.close();
  app.video = state;
  if (changed) {
    masksChanged();
    refreshTimeline();
  }
  if (!selectedObject()) select(objects().at(-1)?.id ?? null);
  emit("state");
  emit("job");
}

export const refreshTimeline = debounce(async () => {
  const { id } = app.video ?? {};
  if (!id) return;
  try {
    const answer = await call("GET", videoPath(id, "/timeline"));
    if (app.video?.id !== id) return;
    app.timeline = answer.objects;
    emit("timeline");
  } catch (error) {
    if (!(error instanceof ApiError)) throw error; // the banner tells about a lost server; the bars are fetched again with it
  }
}, TIMELINE_WAIT);

/** Fetch the state of the open video again, after all that is under way. */
export function refresh() {
  const id = app.video?.id;
  return enqueue(async () => {
    if (app.video?.id === id) receive(await call("GET", videoPath(id)));
  });
}

/** Open a video of the library at a frame. */
export function openVideo(id, frame = 0) {
  return enqueue(async () => {
    const state = await call("POST", videoPath(id, "/open"));
    frames.clear();
    clearMasks();
    dropNotices();
    Object.assign(app, { video: state, timeline: {}, frame: Math.min(frame, state.frames - 1), selected: null, marker: null, playing: false });
    app.pending.clear();
    app.selected = state.objects[0]?.id ?? null;
    for (const change of ["video", "state", "selection", "frame", "job"]) emit(change);
    refreshTimeline();
    loadLibrary();
    return state;
  });
}

/** The server is back, perhaps a new one: open the video again and take over whatever it has. */
export function resume() {
  const id = app.video?.id;
  loadLibrary();
  if (!id) return Promise.resolve(null);
  return enqueue(async () => {
    const state = await call("POST", videoPath(id, "/open"));
    app.video = { ...app.video, revision: -1 };
    frames.failures.clear();
    receive(state);
    return state;
  });
}

export async function loadLibrary() {
  try {
    app.library = await call("GET", "/api/library");
    emit("library");
  } catch (error) {
    if (error instanceof ApiError) report(error);
    else throw error;
  }
}

let creating = null;

/** Add an object and select it. */
export function addObject() {
  creating ??= change("POST", "/objects").then((state) => {
    creating = null;
    if (state) select(state.created);
    return state?.created ?? null;
  });
  return creating;
}

export const changeObject = (id, fields) => change("PATCH", `/objects/${id}`, fields);

let offer = null; // to undo a deletion, until the next change

export async function deleteObject(object) {
  const { id: video } = app.video;
  const done = await enqueue(async () => {
    const state = await call("DELETE", videoPath(video, `/objects/${object.id}?revision=${app.video.revision}`));
    receive(state);
    return state;
  });
  if (done) offer = { revision: done.revision, close: notify("info", `Deleted “${object.name}”.`, { label: "Undo", run: undo }) };
}

/** Why the object cannot be prompted now, in words; null if it can. */
function obstacle(object) {
  if (object?.locked) return `“${object.name}” is locked. Unlock it (L) to change it.`;
  if (object?.hidden) return `“${object.name}” is hidden. Show it (H) to change it.`;
  return null;
}

/** Change the selected object's prompts on the current frame with `edit(prompts) -> prompts`; makes the first object. */
export async function editPrompts(edit) {
  if (!app.video) return;
  const frame = app.frame;
  const id = selectedObject()?.id ?? (await addObject());
  if (id === null) return;
  const reason = obstacle(objects().find((object) => object.id === id));
  if (reason) {
    notify("warning", reason);
    return;
  }
  putPrompts(id, frame, edit(promptsOf(id, frame)));
}

function putPrompts(id, frame, prompts) {
  const key = promptKey(id, frame);
  const waits = app.pending.get(key)?.waits;
  app.pending.set(key, { ...prompts, waits: true });
  emit("state");
  if (waits) return; // a request for this frame is not sent yet: it will carry this set, too
  const { id: video } = app.video;
  enqueue(async () => {
    const latest = app.pending.get(key);
    if (!latest) return; // another video was opened
    const sent = { ...latest, waits: false };
    app.pending.set(key, sent);
    try {
      receive(await call("PUT", videoPath(video, `/objects/${id}/prompts/${frame}`), { revision: app.video.revision, ...wire(sent) }));
    } finally {
      if (app.pending.get(key) === sent) app.pending.delete(key);
      emit("state");
    }
  });
}

const wire = ({ points, box, strokes, imported }) => ({ points, box, strokes, imported });

/** Take one prompt of the selected object on this frame back. */
export function deletePrompt(marker) {
  app.marker = null;
  emit("selection");
  return editPrompts((prompts) => without(prompts, marker));
}

function without(prompts, { kind, index }) {
  if (kind === "point") return { ...prompts, points: prompts.points.filter((_, i) => i !== index) };
  if (kind === "stroke") return { ...prompts, strokes: prompts.strokes.filter((_, i) => i !== index) };
  return kind === "box" ? { ...prompts, box: null } : { ...prompts, imported: false };
}

export const clearPrompts = () => editPrompts(() => NO_PROMPTS);

export const undo = () => app.video && (app.video.undo !== null || app.busy) && change("POST", "/undo");
export const redo = () => app.video && (app.video.redo !== null || app.busy) && change("POST", "/redo");

/** Start a propagation from the current frame; `choice` is {direction, stop, objects}. */
export function propagate(choice) {
  if (!app.video || jobRunning()) return null;
  const prompted = Object.entries(app.video.prompts).some(([id, byFrame]) => (choice.objects?.includes(Number(id)) ?? true) && Object.values(byFrame).some((prompts) => !isEmpty(prompts)));
  if (!prompted) {
    notify("warning", "There is nothing to propagate yet: click an object in the frame first.");
    return null;
  }
  return change("POST", "/propagate", { start: app.frame, ...choice });
}

/** Stop the running job; not queued, since a job may hold the queue up. */
export async function cancel() {
  if (!jobRunning()) return;
  try {
    receive(await call("POST", videoPath(app.video.id, "/cancel")));
  } catch (error) {
    report(error);
  }
}

export const exportMasks = (kind, every) => startJob("/export", { kind, every });
export const importMasks = (folder, prompts) => startJob("/import", { folder, prompts });

function startJob(rest, body) {
  const { id } = app.video;
  return enqueue(async () => {
    const answer = await call("POST", videoPath(id, rest), body);
    const job = answer.job ?? answer; // a state with its job, or the job alone
    if (app.video?.id === id) {
      app.video = { ...app.video, job };
      emit("job");
    }
    return job;
  });
}

/** Jump to the next frame that looks wrong; after the last one the server starts again at the beginning. */
export async function nextDoubtful() {
  if (!app.video) return;
  try {
    const { frame } = await call("GET", videoPath(app.video.id, `/doubtful?after=${app.frame}`));
    if (frame === null) notify("info", "No doubtful frames: scores are high and areas change smoothly wherever there are masks.");
    else if (frame === app.frame) notify("info", "This is the only doubtful frame.");
    else if (frame < app.frame) notify("info", "No doubtful frame after this one: started again at the beginning.");
    if (frame !== null) goTo(frame);
  } catch (error) {
    report(error);
  }
}
