// How the frame is shown: names at the masks, brightness and contrast, onion skin. Nothing of it is in exports.

import { byId, setText } from "./dom.js";
import { app, on, setView } from "./state.js";

const PLAIN = 100; // percent

const ONIONS = ["off", "previous", "next", "both"];

/** Show no other frame, the previous, the next, or both, in turn. */
export function nextOnion() {
  setView({ onion: ONIONS[(ONIONS.indexOf(app.onion) + 1) % ONIONS.length] });
}

export const toggleNames = () => setView({ names: !app.names });
export const resetLight = () => setView({ brightness: PLAIN, contrast: PLAIN });

/** The filter for drawing frames, null where they are shown as they are. */
export function lightFilter() {
  if (app.brightness === PLAIN && app.contrast === PLAIN) return null;
  return `brightness(${app.brightness}%) contrast(${app.contrast}%)`;
}

const isOpen = () => !byId("display").hidden;

/** Open or close the panel; closing gives the keyboard back to its button. */
export function toggleDisplay(open = !isOpen()) {
  if (!app.video || open === isOpen()) return false;
  byId("display").hidden = !open;
  byId("show-display").setAttribute("aria-expanded", open);
  (open ? byId("names") : byId("show-display")).focus();
  return true;
}

/** Close the panel; false if it is not open. */
export const closeDisplay = () => isOpen() && toggleDisplay(false);

function show() {
  byId("names").checked = app.names;
  for (const name of ["brightness", "contrast"]) {
    byId(name).value = app[name];
    setText(byId(`${name}-shown`), `${app[name]} %`);
  }
  byId("reset-light").disabled = lightFilter() === null;
  byId("onion").value = app.onion;
  for (const radio of document.querySelectorAll("input[name=onion-shows]")) {
    radio.checked = radio.value === app.onionShows;
    radio.disabled = app.onion === "off";
  }
  byId("show-display").classList.toggle("on", lightFilter() !== null || app.onion !== "off");
}

export function startDisplay() {
  byId("show-display").addEventListener("click", () => toggleDisplay());
  byId("close-display").addEventListener("click", () => toggleDisplay(false));
  byId("names").addEventListener("change", toggleNames);
  for (const name of ["brightness", "contrast"]) byId(name).addEventListener("input", (event) => setView({ [name]: Number(event.target.value) }));
  byId("reset-light").addEventListener("click", resetLight);
  byId("onion").addEventListener("change", (event) => setView({ onion: event.target.value }));
  for (const radio of document.querySelectorAll("input[name=onion-shows]")) radio.addEventListener("change", () => setView({ onionShows: radio.value }));
  byId("display").addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    event.stopPropagation();
    toggleDisplay(false);
  });
  on("view", show);
  on("video", () => (byId("display").hidden ||= !app.video));
  show();
}
