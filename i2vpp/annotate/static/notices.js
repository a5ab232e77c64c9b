// Messages to the person: notices that come and go, and the banner that stays while the server is away.

import { byId, el, iconButton } from "./dom.js";

const SHOWN_MS = { info: 5000, success: 12000, warning: 9000, error: 0 }; // 0: until it is closed
const MOST = 4;

/** Show a message and return what closes it; `action` is {label, run}. Equal messages are shown once. */
export function notify(kind, message, action = null) {
  const list = byId("notices");
  for (const old of [...list.children]) if (old.dataset.message === message) old.remove();
  while (list.children.length >= MOST) list.firstChild.remove();
  const close = () => notice.remove();
  const notice = el(
    "div",
    { class: `notice ${kind}`, role: kind === "error" ? "alert" : "status", "data-message": message },
    el("p", { text: message }),
    action && el("button", { type: "button", class: "link", text: action.label, on: { click: () => [action.run(), close()] } }),
    iconButton("close", "Close this message", close),
  );
  list.append(notice);
  if (SHOWN_MS[kind]) setTimeout(close, SHOWN_MS[kind]);
  return close;
}

export const dropNotices = () => byId("notices").replaceChildren();

/** Show the banner, or hide it with null. It lies over the page and moves nothing. */
export function banner(message) {
  const bar = byId("banner");
  bar.hidden = message === null;
  byId("banner-text").textContent = message ?? "";
}
