// The page's start: wires the parts together and listens to the server.

import { loadLibrary, openVideo, receiveChange, receiveJob, redo, resume, undo } from "./actions.js";
import { call, listen } from "./api.js";
import { byId, setText, throttle } from "./dom.js";
import { startCopy } from "./copy.js";
import { startDialogs } from "./dialogs.js";
import { startDisplay } from "./display.js";
import { startExchange } from "./exchange.js";
import { KEYS, startKeys } from "./keys.js";
import { choose, lastFrame, showLibrary, startLibrary } from "./library.js";
import { startLabels } from "./labels.js";
import { masksChanged } from "./masks.js";
import { newest } from "./news.js";
import { banner, startNotices } from "./notices.js";
import { startObjects } from "./objects.js";
import { startPlayback } from "./playback.js";
import { startPointer } from "./pointer.js";
import { startPolygon } from "./polygon.js";
import { startPropagate } from "./propagate.js";
import { startRanges } from "./ranges.js";
import { canvas, fit, startStage, view, zoomBy } from "./stage.js";
import { startTimeline } from "./timeline.js";
import { startTimelineView } from "./timeline_view.js";
import { app, emit, isEmpty, keep, kept, on, onChanges, selectedObject, setView } from "./state.js";

const BANNER_WAIT_MS = 800; // a server that is back at once was never away
const KEEP_PLACE_MS = 500; // some browsers refuse an address that changes more than 100 times in 30 s
const HINTS = {
  click: "Click adds, right click takes away, dragging draws a box",
  box: "Drag a box around the object",
  brush: "Paint on the mask; Shift or the right button erases",
  eraser: "Erase from the mask; Shift or the right button paints",
  polygon: "Click corners; Shift or the right button takes away; Enter or a double click closes",
  select: "Click an object to select it, drag to move the frame",
};

const HINTS_TAKING_AWAY = {
  click: "Click takes away, right click adds",
  box: "Drag a box around the object",
  brush: "Erase from the mask; Shift or the right button paints",
  eraser: "Paint on the mask; Shift or the right button erases",
  polygon: "Click the corners of what is taken away; Enter or a double click closes",
  select: HINTS.select,
};

function startTools() {
  for (const button of document.querySelectorAll("[data-tool]")) button.addEventListener("click", () => setView({ tool: button.dataset.tool }));
  byId("brush").addEventListener("input", (event) => setView({ brush: Number(event.target.value) }));
  byId("opacity").addEventListener("input", (event) => setView({ opacity: Number(event.target.value) / 100 }));
  byId("masks-shown").addEventListener("click", () => setView({ masksShown: !app.masksShown }));
  byId("stripes").addEventListener("click", () => setView({ stripes: !app.stripes }));
  byId("zoom-in").addEventListener("click", () => zoomBy(1.25));
  byId("zoom-out").addEventListener("click", () => zoomBy(0.8));
  byId("fit").addEventListener("click", fit);
  byId("take-away").addEventListener("click", () => setView({ takeAway: !app.takeAway }));
  byId("undo").addEventListener("click", undo);
  byId("redo").addEventListener("click", redo);
  onChanges(["view", "state", "selection", "video"], showTools);
  on("zoom", () => setText(byId("zoom"), `${Math.round(view.scale * 100)} %`));
  showTools();
}

function showTools() {
  const painting = app.tool === "brush" || app.tool === "eraser";
  for (const button of document.querySelectorAll("[data-tool]")) {
    button.setAttribute("aria-pressed", button.dataset.tool === app.tool);
    button.disabled = !app.video;
  }
  byId("take-away").setAttribute("aria-pressed", app.takeAway);
  byId("take-away").disabled = !app.video;
  byId("brush-row").hidden = !painting;
  byId("brush").value = app.brush;
  setText(byId("brush-size"), `${2 * app.brush} px`);
  byId("opacity").value = Math.round(app.opacity * 100);
  byId("masks-shown").setAttribute("aria-pressed", app.masksShown);
  byId("stripes").setAttribute("aria-pressed", app.stripes);
  const object = selectedObject();
  byId("tool-object").hidden = !object;
  byId("tool-object").style.setProperty("--color", object?.color ?? "transparent");
  setText(byId("tool-hint"), app.takeAway ? HINTS_TAKING_AWAY[app.tool] : HINTS[app.tool]);
  byId("tool-options").hidden = !app.video;
  byId("view-controls").hidden = !app.video;
}

function showTitle() {
  const { video } = app;
  setText(byId("video-name"), video?.name ?? "No video");
  document.title = video ? `${video.name} - i2vpp` : "i2vpp annotate";
  byId("start").hidden = video !== null;
  const prompted = video && Object.values(video.prompts).some((frames) => Object.values(frames).some((prompts) => !isEmpty(prompts)));
  byId("first-step").hidden = !video || prompted || app.pending.size > 0;
  for (const [id, label] of [["undo", video?.undo], ["redo", video?.redo]]) {
    const button = byId(id);
    const name = id === "undo" ? "Undo" : "Redo";
    button.disabled = !label;
    button.title = label ? `${name}: ${label} (${id === "undo" ? "Z" : "Y"})` : `Nothing to ${id}`;
  }
  for (const id of ["show-export", "show-import"]) byId(id).disabled = !video;
}

function showLink() {
  const link = byId("link");
  link.dataset.state = app.connected ? (app.busy ? "busy" : "saved") : "lost";
  const work = app.library?.model?.loading ? "Waiting for the model…" : "Saving…";
  const words = app.connected ? (app.busy ? work : "Saved") : "Not connected";
  setText(byId("link-text"), app.video || !app.connected ? words : "");
}

/** Keep the place in the address, also while frames are played, so that reloading (or a second tab) comes back to it. */
const keepPlace = throttle(() => {
  if (!app.video) return;
  keep(`frame.${app.video.id}`, app.frame);
  history.replaceState(null, "", `#${place()}`);
}, KEEP_PLACE_MS);

const place = () => new URLSearchParams({ video: app.video.id, frame: app.frame });

/** Where the page was when it was left, if it is being reloaded: its address is up to half a second older. */
function placeBefore() {
  const isReload = performance.getEntriesByType("navigation")[0]?.type === "reload";
  return (isReload && kept("place", null, () => sessionStorage)) || location.hash.slice(1);
}

window.addEventListener("pagehide", () => keep("place", app.video && place().toString(), () => sessionStorage));

function received(event) {
  if (event.type === "model") {
    const model = newest("model", event.model.revision, event.model);
    if (!app.library) return; // it will be shown with the list
    app.library.model = model;
    emit("library");
  } else if (event.type === "job") receiveJob(event.id, event.job);
  else if (event.type === "video") receiveChange(event);
}

let bannerTimer = 0;

function opened(again) {
  clearTimeout(bannerTimer);
  banner(null);
  app.connected = true;
  emit("link");
  if (again) resume().then(() => masksChanged());
}

function lost() {
  if (!app.connected) return;
  app.connected = false;
  bannerTimer = setTimeout(async () => {
    emit("link");
    const why = await reason();
    if (!app.connected) banner(why);
  }, BANNER_WAIT_MS);
}

/** Why there are no news from the server: it is away, or it refuses, such as without its token. */
async function reason() {
  try {
    await call("GET", "/api/library");
  } catch (error) {
    if (error.status) return error.message;
  }
  return "The server does not answer. Everything up to your last saved step is kept; trying to connect again…";
}

async function begin() {
  const before = new URLSearchParams(placeBefore());
  if (location.search) history.replaceState(null, "", location.pathname + location.hash); // a token has become a cookie
  await loadLibrary();
  const videos = app.library?.videos ?? [];
  const named = videos.find(({ id }) => id === before.get("video"));
  if (named) await openVideo(named.id, Number(before.get("frame")) || 0);
  else if (videos.length === 1) await choose(videos[0].id, lastFrame(videos[0].id));
  if (!app.video) showLibrary(true);
}

byId("skip").addEventListener("click", (event) => {
  event.preventDefault(); // the part of the address behind # is the place in the video
  canvas.focus();
});
startNotices();
startStage();
startPointer();
startPolygon();
startDisplay();
startPlayback();
startTimeline();
startTimelineView();
startLabels();
startObjects();
startCopy();
startPropagate();
startRanges();
startLibrary();
startExchange();
startDialogs(KEYS);
startKeys();
startTools();
onChanges(["video", "state"], showTitle);
for (const name of ["video", "frame"]) on(name, keepPlace);
for (const name of ["link", "video", "library"]) on(name, showLink);
window.addEventListener("beforeunload", (event) => app.busy && app.connected && event.preventDefault());
showTitle();
showLink();
listen({ received, opened, lost });
begin();
