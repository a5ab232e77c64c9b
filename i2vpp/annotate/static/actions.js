// Everything that changes the annotation, in the order in which the person did it, one request at a time.

import { ApiError, call, videoPath } from "./api.js";
import { clearMasks, masksChanged } from "./masks.js";
import { frames } from "./frames.js";
import { forgetNews, newest } from "./news.js";
import { dropNotices, notify } from "./notices.js";
import { withRun } from "./runs.js";
import { NO_PROMPTS, app, emit, goTo, isEmpty, jobRunning, objects, promptKey, promptsOf, select, selectedObject } from "./state.js";

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
export function change(method, rest, body = {}) {
  const { id } = app.video;
  return enqueue(async () => {
    const state = await call(method, videoPath(id, rest), { revision: app.video.revision, ...body });
    receive(state);
    return state;
  });
}

const IMPORTED = Object.freeze({ ...NO_PROMPTS, imported: true });

/** The prompts of a whole state: those that are nothing but imported masks come as runs of frames. */
function allPrompts({ prompts, imported }) {
  const all = Object.fromEntries(Object.entries(prompts).map(([id, byFrame]) => [id, { ...byFrame }]));
  for (const [id, runs] of Object.entries(imported)) {
    const byFrame = (all[id] ??= {});
    for (const [first, last] of runs) for (let frame = first; frame <= last; frame++) byFrame[frame] = IMPORTED;
  }
  return all;
}

/** What the page keeps of a whole state. */
function wholeVideo({ since, timeline, prompts, imported, job, ...video }) {
  return { ...video, prompts: allPrompts({ prompts, imported }), job: newest(`job ${video.id}`, job?.revision ?? -1, job) };
}

/**
 * Take over an answer or event about a video: a whole state (`since` is null), or what changed from `since` to `revision`.
 * What is older than what the page knows is left out, and so is what it cannot use without a change that it has missed;
 * `catchUp` asks for that. So the author of a change takes it from its answer or from the event, whichever comes first.
 */
export function receive(message, { anew = false } = {}) {
  newest(`revision ${message.id}`, message.revision, message.revision);
  const job = message.job === undefined ? undefined : newest(`job ${message.id}`, message.job?.revision ?? -1, message.job);
  if (!app.video || message.id !== app.video.id) return;
  const { revision } = app.video;
  if (message.since === null ? anew || message.revision >= revision : message.since <= revision && message.revision > revision) apply(message);
  else if (message.revision === revision && message.broken !== undefined && message.broken?.frame !== app.video.broken?.frame) {
    app.video = { ...app.video, broken: message.broken };
    emit("state");
  }
  if (job === undefined) return;
  app.video = { ...app.video, job };
  emit("job");
}

function apply(message) {
  const before = app.video;
  if (message.since === null) {
    app.video = wholeVideo(message);
    app.timeline = message.timeline;
    if (before.revision !== message.revision) masksChanged();
  } else {
    const { since, masks, timeline, prompts, tracked, type, created, job, ...rest } = message;
    app.video = { ...before, ...rest, prompts: { ...before.prompts } };
    for (const [id, byFrame] of Object.entries(prompts ?? {})) {
      const all = { ...before.prompts[id], ...byFrame };
      for (const frame of Object.keys(byFrame)) if (all[frame] === null) delete all[frame];
      app.video.prompts[id] = all;
    }
    app.timeline = { ...app.timeline };
    for (const [id, runs] of Object.entries(timeline)) app.timeline[id] = runs.reduce(withRun, app.timeline[id] ?? []);
    for (const frame of masks) masksChanged(frame);
    if (masks.includes(app.frame)) emit("pixels", app.frame);
  }
  if (message.objects) forgetDeleted();
  if (offer && app.video.revision !== offer.revision) offer.close();
  if (!selectedObject()) select(objects().at(-1)?.id ?? null);
  const same = ({ undo, redo, broken }) => JSON.stringify([undo, redo, broken]);
  if (message.since === null || message.objects || message.prompts || message.labels || same(before) !== same(app.video)) emit("state");
  emit("timeline");
  if (message.tracked !== undefined && app.following && !app.playing) goTo(message.tracked);
}

function forgetDeleted() {
  const there = new Set(objects().map(({ id }) => String(id)));
  for (const known of [app.video.prompts, app.timeline]) for (const id of Object.keys(known)) if (!there.has(id)) delete known[id];
}

/** An event of the server: a video's job goes on or has ended. */
export function receiveJob(id, job) {
  const latestJob = newest(`job ${id}`, job.revision, job);
  if (app.video?.id !== id) return;
  const broken = job.kind === "propagate" ? null : app.video.broken;
  app.video = { ...app.video, job: latestJob, broken };
  emit("job");
}

/** An event of the server: a video has changed; without a revision it was closed. */
export function receiveChange(event) {
  if (event.revision === null) return;
  receive(event);
  catchUp(event.id);
}

/** Fetch what the page has missed of the open video, after all that is under way, which may bring it. */
function catchUp(id) {
  const behind = () => app.video?.id === id && app.video.revision < newest(`revision ${id}`, -1, -1);
  if (!behind()) return;
  enqueue(async () => {
    if (behind()) receive(await call("GET", videoPath(id, `?since=${app.video.revision}`)));
  });
}

/** Open a video of the library at a frame. */
export function openVideo(id, frame = 0) {
  return enqueue(async () => {
    const answer = await call("POST", videoPath(id, "/open"));
    const state = wholeVideo(answer);
    frames.clear();
    clearMasks();
    dropNotices();
    Object.assign(app, { video: state, timeline: answer.timeline, frame: Math.min(frame, state.frames - 1), selected: null, marker: null, playing: false });
    app.pending.clear();
    app.selected = state.objects[0]?.id ?? null;
    for (const change of ["video", "state", "selection", "frame", "timeline", "job"]) emit(change);
    catchUp(id);
    loadLibrary();
    return state;
  });
}

/** The server is back, perhaps a new one: open the video again and take over whatever it has. */
export function resume() {
  const id = app.video?.id;
  forgetNews();
  loadLibrary();
  if (!id) return Promise.resolve(null);
  return enqueue(async () => {
    const state = await call("POST", videoPath(id, "/open"));
    frames.failures.clear();
    receive(state, { anew: true });
    catchUp(id);
    return state;
  });
}

let asked = 0; // for the list of videos: the answer to a later question is the newer one

export async function loadLibrary() {
  asked += 1;
  const turn = asked;
  try {
    const { videos, model } = await call("GET", "/api/library");
    app.library = { videos: newest("library", turn, videos), model: newest("model", model.revision, model) };
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

let offer = null; // to undo a large change, until the next one

export async function deleteObject(object) {
  const { id: video } = app.video;
  const done = await enqueue(async () => {
    const state = await call("DELETE", videoPath(video, `/objects/${object.id}?revision=${app.video.revision}`));
    receive(state);
    return state;
  });
  if (done) offerUndo(done, `Deleted “${object.name}”.`);
}

/** Say what was done, with a button that takes it back until the next change. */
export function offerUndo(state, message) {
  offer = { revision: state.revision, close: notify("info", message, { label: "Undo", run: undo }) };
}

/** Why the object cannot be prompted now, in words; null if it can. */
export function obstacle(object) {
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

/** Go on with the propagation that broke off when the server ended, or give it up. */
export const goOn = () => app.video && !jobRunning() && change("POST", "/go-on");
export const giveUp = () => app.video && change("POST", "/go-on", { give_up: true });

/** Stop the running job; not queued, since a job may hold the queue up. */
export async function cancel() {
  if (!jobRunning()) return;
  try {
    receive(await call("POST", videoPath(app.video.id, "/cancel"), { revision: app.video.revision }));
  } catch (error) {
    report(error);
  }
}

export const exportMasks = (kind, every) => startJob("/export", { kind, every });
export const importMasks = (folder, prompts) => startJob("/import", { folder, prompts });

function startJob(rest, body) {
  const { id } = app.video;
  return enqueue(async () => {
    const state = await call("POST", videoPath(id, rest), { revision: app.video.revision, ...body });
    receive(state);
    return state.job;
  });
}

let looked = 0; // for doubtful frames

/**
 * Jump to the next frame that looks wrong; after the last one the server starts again at the beginning. The answer is left
 * out if the person has gone elsewhere, or asked again, before it came.
 */
export async function nextDoubtful() {
  if (!app.video) return;
  const [{ id }, from] = [app.video, app.frame];
  looked += 1;
  const turn = looked;
  try {
    const { frame } = await call("GET", videoPath(id, `/doubtful?after=${from}`));
    if (turn !== looked || app.video?.id !== id || app.frame !== from) return;
    if (frame === null) notify("info", "No doubtful frames: wherever there are masks they are accepted, or their scores are high and their areas change smoothly.");
    else if (frame === app.frame) notify("info", "This is the only doubtful frame.");
    else if (frame < app.frame) notify("info", "No doubtful frame after this one: started again at the beginning.");
    if (frame !== null) goTo(frame);
  } catch (error) {
    report(error);
  }
}
