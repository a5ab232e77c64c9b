// Elements without a template language: data enters as text nodes or attributes, never as markup.

const SVG = "http://www.w3.org/2000/svg";

/** The element with this id; the page is broken without it. */
export function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`index.html has no #${id}`);
  return found;
}

/** Make an element: `on` holds listeners, `text` its text, everything else is an attribute; null and false are left out. */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") for (const [type, listener] of Object.entries(value)) node.addEventListener(type, listener);
    else if (name === "text") node.textContent = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

/** An icon of the sprite in index.html. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

/** Point an existing icon at another symbol. */
export function setIcon(button, name) {
  button.querySelector("use").setAttribute("href", `#i-${name}`);
}

/** A button that shows an icon only; its label is read out and shown as a tooltip. */
export function iconButton(name, label, listener, attributes = {}) {
  return el("button", { type: "button", class: "icon-button", title: label, "aria-label": label, on: { click: listener }, ...attributes }, icon(name));
}

/** Set text only where it differs, so that selections and screen readers are left in peace. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Return a function that runs `action` once, `wait` ms after its latest call. */
export function debounce(action, wait) {
  let timer = 0;
  return (...args) => {
    clearTimeout(timer);
    timer = setTimeout(() => action(...args), wait);
  };
}

/** Return a function that runs `action` at once and then every `wait` ms at most; the latest call is never left out. */
export function throttle(action, wait) {
  let [timer, due] = [0, -Infinity];
  return (...args) => {
    clearTimeout(timer);
    const run = () => {
      due = performance.now() + wait;
      action(...args);
    };
    const left = due - performance.now();
    if (left <= 0) run();
    else timer = setTimeout(run, left);
  };
}

/** Seconds in words short enough for a status line. */
export function duration(seconds) {
  if (!Number.isFinite(seconds)) return "";
  if (seconds < 1) return "under 1 s";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

export const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

/** "1 frame", "2 frames". */
export const count = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;
