// The list of videos: a drawer at the left, open by itself while no video is.

import { loadLibrary, openVideo } from "./actions.js";
import { videoPath } from "./api.js";
import { byId, count, el, icon, setText } from "./dom.js";
import { notify } from "./notices.js";
import { app, kept, on } from "./state.js";

const FILTER_FROM = 8; // so many videos deserve a search field
const FOLLOW_MS = 5000; // the open list follows the folder
const STATES = { untouched: "untouched", "in work": "in work", doubtful: "doubtful left", accepted: "accepted" };
const drawer = byId("library");
const stateFilter = el("select", { id: "state-filter", "aria-label": "Show videos by their state", hidden: true }, el("option", { value: "", text: "All states" }), ...Object.entries(STATES).map(([value, text]) => el("option", { value, text })));

export const isLibraryOpen = () => drawer.classList.contains("open");

let opener = null; // what had the keyboard before the list
let watching = 0;

export function showLibrary(open = true) {
  if (open && !isLibraryOpen()) opener = document.activeElement;
  clearInterval(watching);
  if (open) watching = setInterval(() => document.hidden || loadLibrary(), FOLLOW_MS);
  if (!open && drawer.contains(document.activeElement)) giveBack();
  drawer.classList.toggle("open", open);
  drawer.inert = !open;
  byId("show-library").setAttribute("aria-expanded", open);
  if (open) {
    loadLibrary();
    (drawer.querySelector("[aria-current=true]") ?? drawer.querySelector("button.video") ?? byId("close-library")).focus({ preventScroll: true });
  }
}

function giveBack() {
  const to = opener?.isConnected && opener !== document.body ? opener : byId(app.video ? "stage" : "show-library");
  to.focus({ preventScroll: true });
}

export const toggleLibrary = () => showLibrary(!isLibraryOpen());

/** Where a person was in a video when they last looked at it. */
export function lastFrame(id) {
  return Number(kept(`frame.${id}`, 0));
}

/** Open a video where it was left. */
export async function choose(id, frame = lastFrame(id)) {
  const state = await openVideo(id, frame);
  if (state) {
    showLibrary(false);
    byId("stage").focus({ preventScroll: true });
  }
  else loadLibrary(); // it may know by now what is wrong with the video
}

function facts(video) {
  if (video.error) return `${video.error.replace(/\.$/, "")}. Click to try again.`;
  const size = video.frames === null ? "not opened yet" : `${count(video.frames, "frame")} · ${video.width} × ${video.height}`;
  return video.fps ? `${size} · ${Math.round(video.fps * 100) / 100} fps` : size;
}

function progress(video) {
  if (!video.objects || video.error) return null;
  const share = video.frames ? video.annotated / video.frames : 0;
  const bar = el("meter", { class: "progress", min: "0", max: "1", value: String(share), title: `${video.annotated} frames have masks` });
  const state = el("span", { class: "video-state", "data-state": video.state, text: STATES[video.state] });
  return el("span", { class: "video-progress" }, bar, el("span", { text: `${count(video.objects, "object")}, ${video.frames ? Math.round(share * 100) : 0} %` }), state);
}

/** A thumbnail is asked for when it comes into sight, and only then is its video decoded. */
function thumbnail(video) {
  if (video.error) return el("span", { class: "thumbnail broken" }, icon("warning"));
  const picture = el("img", { class: "thumbnail", src: videoPath(video.id, "/thumbnail"), alt: "", loading: "lazy", width: "104", height: "60" });
  picture.addEventListener("error", () => picture.replaceWith(el("span", { class: "thumbnail broken" }, icon("warning"))));
  return picture;
}

function card(video) {
  return el(
    "li",
    { "data-video": video.id },
    el(
      "button",
      { type: "button", class: "video", "aria-current": String(video.id === app.video?.id), on: { click: () => choose(video.id) } },
      thumbnail(video),
      el("span", { class: "video-facts" }, el("strong", { text: video.name }), el("small", { class: video.error ? "wrong" : "", text: facts(video) }), progress(video)),
    ),
  );
}

let drawn = ""; // what the list shows, so that it is rebuilt only for news

function show() {
  const videos = app.library?.videos ?? [];
  const wanted = byId("filter").value.trim().toLowerCase();
  byId("filter").hidden = videos.length < FILTER_FROM;
  stateFilter.hidden = videos.length < 2;
  const shown = videos.filter((video) => video.name.toLowerCase().includes(wanted) && (!stateFilter.value || stateFilter.hidden || video.state === stateFilter.value));
  setText(byId("library-count"), count(videos.length, "video"));
  const news = JSON.stringify([shown, app.video?.id]);
  if (news === drawn) return;
  drawn = news;
  const focused = document.activeElement?.closest?.("[data-video]")?.dataset.video;
  byId("videos").replaceChildren(...shown.map(card));
  if (focused) byId("videos").querySelector(`[data-video="${CSS.escape(focused)}"] button`)?.focus({ preventScroll: true });
  if (!shown.length) byId("videos").append(el("li", { class: "hint", text: videos.length ? (stateFilter.value ? "No video is in this state and has such a name." : "No video has such a name.") : "No videos were found where the server was started." }));
}

let told = null; // the trouble with the model that the person has been told of

function showModel() {
  const model = app.library?.model;
  if (!model) return null;
  if (model.error && model.error !== told) notify("error", `There is no model: ${model.error}. Brush, undo, import and export work without one.`);
  told = model.error ?? null;
  byId("model").classList.toggle("wrong", Boolean(model.error));
  if (model.loading) return setText(byId("model"), "The model is being loaded…");
  setText(byId("model"), model.error ? `No model: ${model.error}` : `${model.checkpoint} · ${model.image_size} px · ${model.device}, ${model.dtype}`);
}

export function startLibrary() {
  byId("show-library").addEventListener("click", toggleLibrary);
  byId("close-library").addEventListener("click", () => showLibrary(false));
  byId("choose-video").addEventListener("click", () => showLibrary(true));
  byId("filter").addEventListener("input", show);
  byId("filter").after(stateFilter);
  stateFilter.addEventListener("change", show);
  for (const name of ["library", "video"]) on(name, show);
  on("library", showModel);
}
