// Keys: one table, from which the keyboard is served and the help sheet is written.

import { addObject, changeObject, deleteObject, deletePrompt, nextDoubtful, redo, undo } from "./actions.js";
import { copyPrevious } from "./copy.js";
import { closeDisplay, nextOnion, toggleDisplay, toggleNames } from "./display.js";
import { clamp } from "./dom.js";
import { openDialog } from "./dialogs.js";
import { isLibraryOpen, showLibrary, toggleLibrary } from "./library.js";
import { closeNotice } from "./notices.js";
import { startRenaming } from "./objects.js";
import { changeSpeed, jumpToPrompt, step, stepFar, toggleLoop, togglePlay, visit } from "./playback.js";
import { abandon, clickAtCross, moveCross, selectByPlace, space } from "./pointer.js";
import { dropCorner } from "./polygon.js";
import { propagateMissing, propagateOrCancel } from "./propagate.js";
import { absentRange, clearRange, cutHere, reviewRange, setRange } from "./ranges.js";
import { fit, zoomBy } from "./stage.js";
import { app, select, selectMarker, selectedObject, setView } from "./state.js";
import { ZOOM_STEP } from "./timeline_view.js";
import { zoomTime } from "./timescale.js";

const CONTROLS = "button, summary, input[type=radio], input[type=checkbox], input[type=range]";
const CROSS_STEP = 12; // screen pixels
const BRUSH = { least: 1, most: 400, factor: 1.2 };

export function resizeBrush(factor) {
  const wanted = factor > 1 ? Math.ceil(app.brush * factor) : Math.floor(app.brush * factor);
  setView({ brush: clamp(wanted, BRUSH.least, BRUSH.most) });
}

const withObject = (action) => () => {
  const object = selectedObject();
  if (object) action(object);
};

function escape() {
  if (isLibraryOpen() && app.video) return showLibrary(false);
  if (abandon() || closeDisplay() || closeNotice()) return;
  if (app.marker) selectMarker(null);
  else if (document.activeElement !== document.body) document.activeElement.blur();
}

function selectNeighbour(by) {
  const all = app.video?.objects ?? [];
  if (!all.length) return;
  const at = all.findIndex(({ id }) => id === app.selected);
  select(all[(at + by + all.length) % all.length].id);
}

/** Take the latest corner of a polygon back, or else the selected prompt. */
const takeBack = () => dropCorner() || (app.marker && deletePrompt(app.marker));

const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const crossKeys = Object.entries(arrows).flatMap(([key, [x, y]]) => [
  { keys: `alt+${key}`, run: () => moveCross(x * CROSS_STEP, y * CROSS_STEP) },
  { keys: `alt+shift+${key}`, run: () => moveCross(x, y) },
]);

/** keys: as `chord` spells them, separated by spaces; shown and does: for the help sheet; entries without `does` are variants. */
const BINDINGS = [
  { section: "Prompt", shown: ["click"], does: "this belongs to the object" },
  { section: "Prompt", shown: ["right click", "Shift + click"], does: "this does not" },
  { section: "Prompt", shown: ["drag"], does: "draw a box; move a prompt" },
  { section: "Prompt", keys: "Delete Backspace", shown: ["Delete"], does: "take the selected prompt, or a corner, back", run: takeBack },
  { section: "Prompt", keys: "c", shown: ["C"], does: "click", run: () => setView({ tool: "click" }) },
  { section: "Prompt", keys: "x", shown: ["X"], does: "box", run: () => setView({ tool: "box" }) },
  { section: "Prompt", keys: "b", shown: ["B"], does: "brush (Shift erases)", run: () => setView({ tool: "brush" }) },
  { section: "Prompt", keys: "e", shown: ["E"], does: "eraser", run: () => setView({ tool: "eraser" }) },
  { section: "Prompt", keys: "g", shown: ["G"], does: "polygon (Shift takes away)", run: () => setView({ tool: "polygon" }) },
  { section: "Prompt", shown: ["Enter", "double click"], does: "close the polygon" },
  { section: "Prompt", keys: "shift+c", shown: ["Shift + C"], does: "copy the previous frame's mask", run: copyPrevious },
  { section: "Prompt", keys: "t", shown: ["T"], does: "take away without Shift, on or off", run: () => setView({ takeAway: !app.takeAway }) },
  { section: "Prompt", keys: "[", shown: ["[", "]"], does: "smaller, larger brush", run: () => resizeBrush(1 / BRUSH.factor) },
  { keys: "]", run: () => resizeBrush(BRUSH.factor) },
  { section: "Prompt", shown: ["Alt + arrows", "Enter"], does: "click without a mouse" },
  ...crossKeys,
  { keys: "Enter", run: () => clickAtCross(true) },
  { keys: "shift+Enter", run: () => clickAtCross(false) },
  { section: "Edit", keys: "z ctrl+z", shown: ["Z"], does: "undo", run: undo },
  { section: "Edit", keys: "y ctrl+y ctrl+shift+z", shown: ["Y"], does: "redo", run: redo },
  { section: "Objects", shown: ["Ctrl + click"], does: "select the object there" },
  { section: "Objects", keys: "s", shown: ["S"], does: "select by clicks, pan by dragging", run: () => setView({ tool: "select" }) },
  { section: "Objects", shown: ["1 … 9", "0"], does: "select the first to the tenth object" },
  { section: "Objects", keys: "ArrowDown", shown: ["↓", "↑"], does: "next, previous object", run: () => selectNeighbour(1) },
  { keys: "ArrowUp", run: () => selectNeighbour(-1) },
  { section: "Objects", keys: "n", shown: ["N"], does: "new object", run: addObject },
  { section: "Objects", keys: "r F2", shown: ["R"], does: "rename it", run: withObject(({ id }) => startRenaming(id)) },
  { section: "Objects", keys: "h", shown: ["H"], does: "hide or show it", run: withObject(({ id, hidden }) => changeObject(id, { hidden: !hidden })) },
  { section: "Objects", keys: "l", shown: ["L"], does: "lock or unlock it", run: withObject(({ id, locked }) => changeObject(id, { locked: !locked })) },
  { section: "Objects", keys: "shift+Delete shift+Backspace", shown: ["Shift + Delete"], does: "delete it", run: withObject(deleteObject) },
  { section: "Move", shown: ["Space"], does: "play, pause", run: togglePlay },
  { section: "Move", keys: "ArrowRight", shown: ["←", "→"], does: "one frame", run: () => step(1) },
  { section: "Move", shown: ["Shift + ←", "→"], does: "a long step, as set" },
  { keys: "ArrowLeft", run: () => step(-1) },
  { keys: "shift+ArrowRight PageDown", run: () => stepFar(1) },
  { keys: "shift+ArrowLeft PageUp", run: () => stepFar(-1) },
  { section: "Move", keys: "Home", shown: ["Home", "End"], does: "first, last frame", run: () => visit(0) },
  { keys: "End", run: () => visit(app.video?.frames ?? 0) },
  { section: "Move", keys: ",", shown: [",", "."], does: "previous, next prompted frame", run: () => jumpToPrompt(-1) },
  { keys: ".", run: () => jumpToPrompt(1) },
  { section: "Move", keys: "d", shown: ["D"], does: "next doubtful frame", run: nextDoubtful },
  { section: "Move", keys: "<", shown: ["<", ">"], does: "play slower, faster", run: () => changeSpeed(-1) },
  { keys: ">", run: () => changeSpeed(1) },
  { section: "Move", keys: "shift+l", shown: ["Shift + L"], does: "play again and again", run: toggleLoop },
  { section: "Move", keys: "shift+ArrowUp", shown: ["Shift + ↑", "↓"], does: "zoom the timeline (Ctrl + wheel)", run: () => zoomTime(ZOOM_STEP) },
  { keys: "shift+ArrowDown", run: () => zoomTime(1 / ZOOM_STEP) },
  { section: "Track", keys: "p", shown: ["P"], does: "propagate, or stop it", run: propagateOrCancel },
  { section: "Track", keys: "shift+p", shown: ["Shift + P"], does: "propagate what is missing or stale", run: propagateMissing },
  { section: "Review", keys: "i", shown: ["I", "Shift + I"], does: "the range begins, ends here", run: () => setRange({ first: app.frame }) },
  { keys: "shift+i", run: () => setRange({ last: app.frame }) },
  { section: "Review", keys: "a", shown: ["A", "Shift + A"], does: "range (or frame): accepted, to do", run: () => reviewRange(true) },
  { keys: "shift+a", run: () => reviewRange(false) },
  { section: "Review", keys: "shift+x", shown: ["Shift + X"], does: "clear masks of the range", run: clearRange },
  { section: "Review", keys: "u", shown: ["U"], does: "absent in the range", run: absentRange },
  { section: "Review", keys: "k", shown: ["K"], does: "cut the track here", run: cutHere },
  { section: "See", shown: ["wheel", "two fingers"], does: "zoom" },
  { section: "See", shown: ["middle drag", "Space + drag"], does: "pan" },
  { section: "See", keys: "f", shown: ["F"], does: "fit the frame", run: fit },
  { section: "See", keys: "+ =", shown: ["+", "−"], does: "zoom in, out", run: () => zoomBy(1.25) },
  { keys: "-", run: () => zoomBy(0.8) },
  { section: "See", keys: "o", shown: ["O"], does: "overlaps in stripes, or resolved as in exports", run: () => setView({ stripes: !app.stripes }) },
  { section: "See", keys: "m", shown: ["M"], does: "masks on or off", run: () => setView({ masksShown: !app.masksShown }) },
  { section: "See", keys: "shift+n", shown: ["Shift + N"], does: "names at the masks", run: toggleNames },
  { section: "See", keys: "shift+o", shown: ["Shift + O"], does: "onion skin: previous, next, both, off", run: nextOnion },
  { section: "See", keys: "shift+d", shown: ["Shift + D"], does: "brightness, contrast and more", run: () => toggleDisplay() },
  { section: "See", keys: "v", shown: ["V"], does: "list of videos", run: toggleLibrary },
  { section: "See", keys: "?", shown: ["?"], does: "this sheet", run: () => openDialog("help-dialog") },
  { section: "See", keys: "Escape", shown: ["Esc"], does: "give up, close", run: escape },
];

export const KEYS = BINDINGS.filter(({ does }) => does);

const byChord = new Map(BINDINGS.flatMap(({ keys, run }) => (keys ?? "").split(" ").filter(Boolean).map((keys) => [keys, run])));

const bound = new Set([...byChord.keys()].map((keys) => keys.split("+").at(-1) || "+"));
const SIGNS = { BracketLeft: "[", BracketRight: "]", Comma: ",", Period: ".", Minus: "-", Equal: "=" };
const SHIFTED = { Comma: "<", Period: ">" };

/**
 * The key as the table spells it: what it writes, if the table has that, or else what stands at its place (`event.code`) on
 * a US keyboard. So letters are where their labels are, and keyboards of other scripts or with digits on Shift work, too.
 */
function keyOf(event) {
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const place = /^Key[A-Z]$/.test(event.code) ? event.code[3].toLowerCase() : /^Digit[0-9]$/.test(event.code) ? event.code[5] : (event.shiftKey && SHIFTED[event.code]) || SIGNS[event.code];
  return bound.has(key) || /^[0-9]$/.test(key) || (key.length > 1 && key !== "Dead") ? key : (place ?? key);
}

/** A key with its modifiers, such as "ctrl+shift+z"; Shift is left out where it only makes the character. */
function chord(event) {
  const key = keyOf(event);
  const bare = /^[^a-z0-9]$/.test(key);
  return [(event.ctrlKey || event.metaKey) && "ctrl", event.altKey && "alt", event.shiftKey && !bare && "shift", key].filter(Boolean).join("+");
}

function isTyping(target) {
  if (target instanceof HTMLTextAreaElement || target instanceof HTMLSelectElement) return true;
  return target instanceof HTMLInputElement && !target.readOnly && !["checkbox", "radio", "color", "range", "button"].includes(target.type);
}

/** Keys that a control in focus wants for itself. */
function isForControl(event) {
  const { target, key } = event;
  if (target instanceof HTMLElement && target.id === "time-resize") return ["ArrowUp", "ArrowDown", "Home", "End", "Enter"].includes(key);
  if (target instanceof HTMLInputElement && ["radio", "range"].includes(target.type)) return key.startsWith("Arrow") || key === " ";
  if (target instanceof HTMLAnchorElement) return key === "Enter";
  const pressable = target instanceof HTMLButtonElement || target instanceof HTMLInputElement || target.matches("summary");
  return pressable && !target.readOnly && (key === "Enter" || key === " ");
}

function pressed(event) {
  if (document.querySelector("dialog[open]") || isTyping(event.target) || isForControl(event)) return;
  if (event.key === " ") {
    event.preventDefault();
    if (!event.repeat) Object.assign(space, { down: true, used: false });
    return;
  }
  const digit = /^[0-9]$/.test(keyOf(event)) && !event.ctrlKey && !event.altKey && !event.metaKey;
  const run = digit ? () => selectByPlace((Number(keyOf(event)) + 9) % 10) : byChord.get(chord(event));
  if (!run) return;
  event.preventDefault();
  run();
}

function released(event) {
  if (event.key !== " " || !space.down) return;
  if (!space.used) togglePlay();
  Object.assign(space, { down: false, used: false });
}

export function startKeys() {
  document.addEventListener("keydown", pressed);
  document.addEventListener("keyup", released);
  // a control that was clicked gives the keyboard back, so that Space plays and arrows step
  document.addEventListener("pointerup", () => setTimeout(() => !document.querySelector("dialog[open]") && document.activeElement.matches(CONTROLS) && document.activeElement.blur()));
  window.addEventListener("blur", () => Object.assign(space, { down: false, used: false }));
}
