// How the timeline is looked at: zooming into a part of the video, moving along it, and the height of the objects' rows.

import { byId, clamp } from "./dom.js";
import { app, on, setView } from "./state.js";
import { isZoomed, panTime, panTo, shownRange, showAll, zoomTime } from "./timescale.js";

const WHEEL_SPEED = 0.002;
export const ZOOM_STEP = 1.5;
const ROW = 20; // height of an object's row, as in style.css
const LOWEST = ROW + 4;
const HIGHEST_SHARE = 0.6; // of the window

function wheel(event) {
  if (!app.video) return;
  const lines = event.deltaMode === 1 ? 16 : 1;
  const box = byId("timeline-head").getBoundingClientRect();
  const along = event.deltaX || (event.shiftKey ? event.deltaY : 0);
  if (event.ctrlKey || event.metaKey) zoomTime(Math.exp(-event.deltaY * lines * WHEEL_SPEED), clamp((event.clientX - box.left) / box.width, 0, 1));
  else if (along && isZoomed()) panTime(((along * lines) / box.width) * shownRange().span);
  else return; // the objects' rows scroll
  event.preventDefault();
}

function showWindow() {
  const slider = byId("time-window");
  const zoomed = isZoomed();
  const { first, span } = shownRange();
  slider.hidden = !zoomed;
  for (const id of ["time-out", "time-all"]) byId(id).disabled = !zoomed;
  byId("time-in").disabled = !app.video;
  if (!zoomed) return;
  slider.max = app.video.frames - span;
  slider.value = first;
  slider.style.setProperty("--share", `${Math.max((100 * span) / app.video.frames, 4)}%`);
  slider.setAttribute("aria-valuetext", `frames ${Math.floor(first)} to ${Math.ceil(first + span) - 1} of ${app.video.frames - 1}`);
}

const highest = () => Math.max(Math.round(window.innerHeight * HIGHEST_SHARE), LOWEST);

function setHeight(pixels) {
  setView({ timelineHeight: pixels === null ? null : clamp(Math.round(pixels), LOWEST, highest()) });
}

function showHeight() {
  const body = byId("timeline-body");
  const wanted = Number(app.timelineHeight) || null;
  if (wanted) body.style.height = `${clamp(wanted, LOWEST, highest())}px`;
  else body.style.removeProperty("height");
  const bar = byId("time-resize");
  bar.setAttribute("aria-valuemin", LOWEST);
  bar.setAttribute("aria-valuemax", highest());
  bar.setAttribute("aria-valuenow", Math.round(body.clientHeight) || LOWEST);
}

function startResizing() {
  const bar = byId("time-resize");
  const body = byId("timeline-body");
  bar.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    bar.setPointerCapture(event.pointerId);
    const [from, height] = [event.clientY, body.clientHeight];
    const move = (next) => setHeight(height + from - next.clientY);
    bar.addEventListener("pointermove", move);
    for (const type of ["pointerup", "pointercancel"]) bar.addEventListener(type, () => bar.removeEventListener("pointermove", move), { once: true });
  });
  bar.addEventListener("dblclick", () => setHeight(null));
  bar.addEventListener("keydown", (event) => {
    const wanted = { ArrowUp: body.clientHeight + ROW, ArrowDown: body.clientHeight - ROW, Home: LOWEST, End: highest(), Enter: null }[event.key];
    if (wanted === undefined) return;
    event.preventDefault();
    event.stopPropagation(); // the page's own keys
    setHeight(wanted);
  });
  window.addEventListener("resize", showHeight);
  on("view", showHeight);
  showHeight();
}

export function startTimelineView() {
  document.querySelector(".timeline").addEventListener("wheel", wheel, { passive: false });
  byId("time-in").addEventListener("click", () => zoomTime(ZOOM_STEP));
  byId("time-out").addEventListener("click", () => zoomTime(1 / ZOOM_STEP));
  byId("time-all").addEventListener("click", showAll);
  byId("time-window").addEventListener("input", (event) => panTo(Number(event.target.value)));
  for (const name of ["timescale", "video"]) on(name, showWindow);
  startResizing();
  showWindow();
}
