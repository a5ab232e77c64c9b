// Runs the tracker beside the page, which stays responsive; requests are answered one after another.

import { loadModel } from "./model.js";
import { Tracker } from "./tracker.js";

/** @type {import("./model.js").Model} */ let model;
/** @type {Tracker} */ let tracker;

/** @type {Record<string, (...args: any[]) => Promise<unknown>>} */
const METHODS = {
  async load(/** @type {string} */ folder, /** @type {string} */ backend) {
    model = await loadModel(new URL(folder), backend, (file, share) => postMessage({ progress: { file, share } }));
    return { backend: model.backend, side: model.manifest.image_size };
  },
  async start() {
    tracker = new Tracker(model.manifest, model.run);
  },
  step: async (/** @type {ImageData} */ frame) => show(await tracker.step(frame)),
  addPointsOrBox: async (/** @type {number} */ objId, /** @type {object} */ prompt) =>
    show(await tracker.addPointsOrBox(objId, prompt)),
};

/**
 * Masks as the page shows them, of 0 and 1.
 * @param {import("./tracker.js").FrameMasks} result
 */
function show(result) {
  return { ...result, masks: result.masks.map((mask) => Uint8Array.from(mask, (x) => Number(x > 0))) };
}

/** @type {Promise<void>} */ let last = Promise.resolve();

addEventListener("message", ({ data: { id, method, args } }) => {
  last = last.then(async () => {
    try {
      postMessage({ id, value: await METHODS[method](...args) });
    } catch (error) {
      postMessage({ id, error: error instanceof Error ? error.message : String(error) });
    }
  });
});
