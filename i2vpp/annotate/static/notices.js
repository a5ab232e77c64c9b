// Messages to the person: notices that come and go, and the banner that stays while the server is away.

import { byId, el, iconButton } from "./dom.js";

const SHOWN_MS = { info: 5000, success: 12000, warning: 9000, error: 20000 };
const MOST = 2;
const narrow = matchMedia("(width <= 700px)"); // as in layout.css

/** Show a message and return what closes it; `action` is {label, run}. Equal messages are shown once. */
export function notify(kind, message, action = null) {
  const list = byId("notices");
  for (const old of [...list.children]) if (old.dataset.message === message) old.remove();
  while (list.children.length >= MOST) (list.querySelector(".notice:not(.error)") ?? list.firstChild).remove();
  const close = () => notice.remove();
  const notice = el(
    "div",
    { class: `notice ${kind}`, role: kind === "error" ? "alert" : "status", "data-message": message },
    el("p", { text: message }),
    action && el("button", { type: "button", class: "link", text: action.label, on: { click: () => [action.run(), close()] } }),
    iconButton("close", "Close this message", close),
  );
  list.append(notice);
  setTimeout(close, SHOWN_MS[kind]);
  return close;
}

/** Close the latest notice; false if there is none. */
export function closeNotice() {
  const latest = byId("notices").lastElementChild;
  latest?.remove();
  return latest !== null;
}

/** Notices have a place of their own and cover nothing: below the objects, or in a narrow window below the top bar. */
export function startNotices() {
  const place = () => (narrow.matches ? document.querySelector(".topbar").after(byId("notices")) : byId("objects").after(byId("notices")));
  narrow.addEventListener("change", place);
  place();
}

export const dropNotices = () => byId("notices").replaceChildren();

/** Show the banner, or hide it with null. It lies over the page and moves nothing. */
export function banner(message) {
  const bar = byId("banner");
  bar.hidden = message === null;
  byId("banner-text").textContent = message ?? "";
}
