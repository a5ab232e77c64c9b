// Copying the mask that the selected object has on the frame before.

import { change, obstacle } from "./actions.js";
import { byId } from "./dom.js";
import { notify } from "./notices.js";
import { kindOf, valueAt } from "./runs.js";
import { app, onChanges, selectedObject } from "./state.js";

/** Why there is nothing to copy, in words; null if there is something. */
function trouble(object) {
  if (!object) return "Select an object first.";
  if (app.frame === 0) return "There is no frame before this one.";
  if (kindOf(valueAt(app.timeline[object.id] ?? [], app.frame - 1)) === undefined) return `“${object.name}” has no mask on frame ${app.frame - 1} to copy.`;
  return obstacle(object);
}

export function copyPrevious() {
  if (!app.video) return;
  const object = selectedObject();
  const reason = trouble(object);
  if (reason) notify("warning", reason);
  else change("POST", `/objects/${object.id}/copy/${app.frame}`, { source: app.frame - 1 });
}

export function startCopy() {
  const show = () => (byId("copy-mask").disabled = !app.video || trouble(selectedObject()) !== null);
  byId("copy-mask").addEventListener("click", copyPrevious);
  onChanges(["video", "state", "selection", "frame", "timeline"], show);
  show();
}
