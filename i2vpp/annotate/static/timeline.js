// The timeline: pictures along the video, and for each object where it is present, doubtful and prompted.

import { videoPath } from "./api.js";
import { byId, clamp, debounce, el, setText } from "./dom.js";
import { showLabelTag } from "./labels.js";
import { visit } from "./playback.js";
import { drawReview } from "./review.js";
import { kindOf } from "./runs.js";
import { app, changeOf, emit, isEmpty, objects, on, onChanges, promptsOf, select } from "./state.js";
import * as scale from "./timescale.js";

const LANE = 20; // height of an object's row, as in style.css
const RULER = 18;
const STRIP = 40;
const THUMBNAIL_WIDTH = 160;
const MARK = 5; // half the width of a prompt's mark
const NEAREST_MARKS = 2 * MARK + 1; // pixels between the marks of prompts: they do not cover each other

const head = byId("timeline-head");
const lanes = byId("timeline-lanes");
const body = byId("timeline-body");

let measured = 0; // asking for the width makes the browser lay the page out: 20,000 marks would be slow
const width = () => measured;
const xOf = (frame) => scale.xOf(frame, width());
const frameAt = (x) => scale.frameAt(x, width());

function prepare(canvas, height) {
  const ratio = devicePixelRatio;
  const [pixels, rows] = [Math.round(width() * ratio), Math.round(height * ratio)];
  if (canvas.width !== pixels || canvas.height !== rows) Object.assign(canvas, { width: pixels, height: rows });
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width(), height);
  return context;
}

const inks = () => {
  const style = getComputedStyle(document.documentElement);
  return Object.fromEntries(["text", "muted", "line", "doubt", "lane", "panel", "good", "accent"].map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
};

/** A round number of frames between labels that lie at least `pixels` apart. */
function tickStep(pixels) {
  const least = (scale.shownRange().span / width()) * pixels;
  for (let power = 1; ; power *= 10) for (const digit of [1, 2, 5]) if (digit * power >= least) return digit * power;
}

const pictures = new Map(); // frame -> HTMLImageElement, of the open video

function drawHead() {
  const context = prepare(head, RULER + STRIP);
  if (!app.video || !width()) return;
  const ink = inks();
  context.font = "11px system-ui, sans-serif";
  context.textBaseline = "middle";
  const step = tickStep(64);
  const [from, to] = scale.seenFrames();
  for (let frame = Math.floor(from / step) * step; frame <= to; frame += step) {
    context.fillStyle = ink.line;
    context.fillRect(xOf(frame), RULER - 6, 1, 6);
    context.fillStyle = ink.muted;
    if (xOf(frame) < width() - 30) context.fillText(frame, xOf(frame) + 4, RULER / 2);
  }
  const [shown, each] = thumbnails();
  shown.forEach((frame, i) => {
    const picture = pictures.get(frame);
    context.fillStyle = ink.lane;
    context.fillRect(i * each, RULER, each - 1, STRIP);
    if (picture?.complete && picture.naturalWidth) cover(context, picture, i * each, RULER, Math.min(each - 1, width() - i * each), STRIP);
  });
}

/** The frames whose pictures fill the strip, and the width of one. */
function thumbnails() {
  const wanted = Math.max(1, Math.floor(width() / (STRIP * (app.video.width / app.video.height))));
  const number = Math.min(wanted, Math.ceil(scale.shownRange().span), 40);
  const each = width() / number;
  return [Array.from({ length: number }, (_, i) => frameAt((i + 0.5) * each)), each];
}

function cover(context, picture, x, y, w, h) {
  const scale = Math.max(w / picture.naturalWidth, h / picture.naturalHeight);
  const [sw, sh] = [w / scale, h / scale];
  context.drawImage(picture, (picture.naturalWidth - sw) / 2, (picture.naturalHeight - sh) / 2, sw, sh, x, y, w, h);
}

let chain = 0; // which series of thumbnails is loading; older ones stop

/** Load the strip's pictures one after another, so that the frame in the middle is never kept waiting. */
async function loadThumbnails() {
  const mine = ++chain;
  if (!app.video || !width()) return;
  const wanted = thumbnails()[0];
  for (const frame of pictures.keys()) if (!wanted.includes(frame)) pictures.delete(frame);
  for (const frame of wanted) {
    if (mine !== chain) return;
    if (pictures.has(frame)) continue;
    const picture = new Image();
    picture.src = videoPath(app.video.id, `/frames/${frame}?width=${THUMBNAIL_WIDTH}&strip=1`);
    try {
      await picture.decode();
    } catch {
      continue; // a frame that cannot be read leaves a gap; the stage says why when it is looked at
    }
    if (mine !== chain) return;
    pictures.set(frame, picture);
    drawHead();
  }
}

function drawLanes() {
  const rows = objects();
  const context = prepare(lanes, Math.max(rows.length, 1) * LANE);
  lanes.style.height = `${Math.max(rows.length, 1) * LANE}px`;
  if (!app.video || !width()) return;
  const ink = inks();
  rows.forEach((object, row) => {
    const y = row * LANE;
    context.fillStyle = ink.lane;
    context.fillRect(0, y + 3, width(), LANE - 6);
    context.globalAlpha = object.hidden ? 0.35 : 1;
    drawPresence(context, object, y, ink);
    drawPromptMarks(context, object, y, ink);
    context.globalAlpha = 1;
  });
}

/** Bars where the object is, with a line of doubt below where its score is low. */
function drawPresence(context, object, y, ink) {
  const { first: start, span } = scale.shownRange();
  const unit = width() / span;
  const bar = (from, to, top, height, fill) => {
    context.fillStyle = fill;
    context.fillRect((from - start) * unit, top, Math.max((to - from + 1) * unit, 1), height);
  };
  for (const [first, last, value] of app.timeline[object.id] ?? []) {
    if (last < start || first > start + span) continue;
    const kind = kindOf(value);
    if (kind > 0) bar(first, last, y + 5, LANE - 10, object.color);
    if (kind > 1) bar(first, last, y + LANE - 6, 3, ink.doubt);
  }
  drawReview(context, object, bar, { top: y, height: LANE, ink });
}

const framesOf = new WeakMap(); // prompts of an object by frames -> these frames

function promptedOf(byFrame) {
  if (!framesOf.has(byFrame)) framesOf.set(byFrame, Object.keys(byFrame).map(Number));
  return framesOf.get(byFrame);
}

function drawPromptMarks(context, object, y, ink) {
  let latest = -Infinity; // marks that would lie on the one before are left out: a thousand may be on one line
  context.beginPath(); // one path for all: twenty thousand prompts are drawn at each change
  for (const frame of promptedOf(app.video.prompts[object.id] ?? {})) {
    const at = xOf(frame);
    if (at < Math.max(latest + NEAREST_MARKS, -MARK) || at > width() + MARK) continue;
    if (app.pending.size && isEmpty(promptsOf(object.id, frame))) continue; // it is about to be deleted
    latest = at;
    const [x, middle] = [scale.isZoomed() ? at : clamp(at, 6, width() - 6), y + LANE / 2];
    context.moveTo(x, middle - 6);
    context.lineTo(x + MARK, middle);
    context.lineTo(x, middle + 6);
    context.lineTo(x - MARK, middle);
    context.closePath();
  }
  context.fillStyle = ink.text;
  context.strokeStyle = ink.panel;
  context.lineWidth = 1.5;
  context.fill();
  context.stroke();
}

const namesChanged = changeOf();

function drawNames() {
  if (!namesChanged(app.video?.id, app.video?.objects, app.video?.labels, app.selected)) return;
  const list = byId("timeline-names");
  const rows = objects();
  while (list.children.length > rows.length) list.lastChild.remove();
  while (list.children.length < rows.length) {
    const row = el("button", { type: "button", class: "lane-name", tabindex: "-1", on: { click: () => select(Number(row.dataset.object)) } }, el("span", { class: "swatch" }), el("span", { class: "lane-text" }), el("span", { class: "label-tag" }));
    list.append(row);
  }
  rows.forEach((object, i) => {
    const row = list.children[i];
    row.dataset.object = object.id;
    row.classList.toggle("selected", object.id === app.selected);
    row.firstChild.style.setProperty("--color", object.color);
    setText(row.querySelector(".lane-text"), object.name);
    showLabelTag(row.lastChild, object);
  });
  byId("timeline-empty").hidden = !app.video || rows.length > 0;
}

function movePlayhead() {
  const playhead = byId("playhead");
  playhead.hidden = !app.video;
  if (!app.video) return;
  scale.revealFrame(app.frame, app.playing || app.following);
  playhead.style.setProperty("--x", `${xOf(app.frame)}px`);
  const slider = byId("scrubber");
  slider.setAttribute("aria-valuemax", app.video.frames - 1);
  slider.setAttribute("aria-valuenow", app.frame);
  slider.setAttribute("aria-valuetext", `frame ${app.frame} of ${app.video.frames - 1}`);
}

function scrub(event) {
  visit(frameAt(event.clientX - head.getBoundingClientRect().left));
}

function startScrubbing(area) {
  area.addEventListener("pointerdown", (event) => {
    if (!app.video || event.button !== 0) return;
    area.setPointerCapture(event.pointerId);
    if (area === lanes) {
      const row = objects()[Math.floor((event.clientY - lanes.getBoundingClientRect().top) / LANE)];
      if (row) select(row.id);
    }
    scrub(event);
    area.dataset.scrubbing = "true";
  });
  area.addEventListener("pointermove", (event) => {
    if (!area.dataset.scrubbing) return;
    emit("scrub", true);
    scrub(event);
  });
  for (const type of ["pointerup", "pointercancel"]) {
    area.addEventListener(type, () => {
      delete area.dataset.scrubbing;
      emit("scrub", false);
    });
  }
}

function revealLane() {
  const row = objects().findIndex((object) => object.id === app.selected);
  if (row < 0) return;
  const top = row * LANE;
  if (top < body.scrollTop) body.scrollTop = top;
  else if (top + LANE > body.scrollTop + body.clientHeight) body.scrollTop = top + LANE - body.clientHeight;
}

export function startTimeline() {
  const all = () => [drawHead(), drawLanes(), drawNames(), movePlayhead()];
  const loadSoon = debounce(loadThumbnails, 150);
  new ResizeObserver(() => {
    measured = head.clientWidth;
    all();
    loadThumbnails();
  }).observe(head);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", all);
  onChanges(["timescale"], () => {
    drawHead();
    drawLanes();
    byId("playhead").style.setProperty("--x", `${xOf(app.frame)}px`);
    loadSoon();
  });
  on("video", () => {
    pictures.clear();
    scale.resetTime();
    all();
    loadThumbnails();
  });
  on("frame", movePlayhead);
  onChanges(["timeline", "state"], drawLanes);
  onChanges(["state", "selection"], drawNames);
  onChanges(["selection"], revealLane);
  startScrubbing(head);
  startScrubbing(lanes);
}
