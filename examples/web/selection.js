// Which memories are read for an object: the policy of `i2vpp.json`, section `selection`, with the draws of Python.

import { Generator } from "./random.js";

/**
 * A memory that is read: its frame, temporal slot, offset of its pointer, and weight.
 * @typedef {{ frame: number, slot: number, offset: number, weight: number }} Pick
 */

/**
 * @typedef {object} Config
 * @property {"sample" | "top"} mode
 * @property {number} seed
 * @property {number} num_global
 * @property {number} num_local
 * @property {number} local_window
 * @property {number} window largest age at which memories of tracked frames are read
 * @property {number} global_pool
 * @property {number} local_pool
 */

/**
 * Choose the memories that are read on frame t.
 * @param {Config} config
 * @param {number} t
 * @param {{ prompted: Map<number, unknown>, tracked: Map<number, unknown> }} track memories of an object, by frame
 * @param {(frame: number) => number} similarity of a frame to frame t
 * @returns {Pick[]}
 */
export function select(config, t, track, similarity) {
  const ordered = [...track.prompted.keys()].sort((a, b) => a - b);
  const known = (/** @type {number} */ from, /** @type {number} */ to) => range(from, to).filter((f) => track.tracked.has(f));
  const draw = (/** @type {number[]} */ frames, /** @type {number} */ count, /** @type {number} */ pool) =>
    pick(frames, count, similarity, config.mode === "sample" ? new Generator([config.seed, t, pool]) : null);
  const far = draw(known(t - config.window, t - config.local_window), config.num_global, config.global_pool);
  const near = draw(known(t - config.local_window, t), config.num_local, config.local_pool);
  const slots = [
    ...far.map((frame, i) => ({ frame, slot: 1 + i })),
    ...near.map((frame, i) => ({ frame, slot: 1 + config.num_global + i })),
  ];
  const length = Math.max(0, Math.min(t - 1, config.num_global + config.num_local));
  const first = 1 + Math.max(0, length - slots.length); // weight of the first prompted frame: it stands for frames not there yet
  return [...ordered.map((frame) => ({ frame, slot: 0 })), ...slots].map(({ frame, slot }, i) => (
    { frame, slot, offset: 1 - slot / (length + 1), weight: i ? 1 : first }));
}

/**
 * Choose `count` of `frames` by similarity, with noise where there is a generator.
 * @param {number[]} frames
 * @param {number} count
 * @param {(frame: number) => number} similarity
 * @param {Generator | null} noise
 */
function pick(frames, count, similarity, noise) {
  if (frames.length <= count) return frames;
  const scores = frames.map((frame) => similarity(frame) + (noise?.gumbel() ?? 0));
  const best = frames.map((_, i) => i).sort((a, b) => scores[b] - scores[a]);
  return best.slice(0, count).sort((a, b) => a - b).map((i) => frames[i]);
}

/**
 * @param {number} from
 * @param {number} to
 */
function range(from, to) {
  return Array.from({ length: to - from }, (_, i) => from + i);
}
