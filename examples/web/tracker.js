// A live session in constant memory, as in `i2vpp_onnx.py`: push frames, prompt objects on the current one, get masks.
// B objects, S side of the network's input, h, w its cells (S / 16), H, W size of the video, D and M widths.

import { fitMask, fromBfloat16, normalise, resizeFrame, resizeLinear, toBfloat16 } from "./image.js";
import { select } from "./selection.js";

const BATCH_CELLS = 2 ** 15; // of all memory frames of objects that are tracked at once: attention takes memory in proportion

/** A frame or prompt that cannot be used; the message says what to do. */
export class TrackerError extends Error {}

/** @typedef {{ data: Float32Array, dims: number[] }} Value */
/** @typedef {{ data: Uint8ClampedArray, width: number, height: number }} Frame RGBA pixels, such as an ImageData */
/** @typedef {(graph: string, feeds: Record<string, Value>) => Promise<Record<string, Float32Array>>} Run */

/**
 * What is remembered of an object on a frame: bfloat16 bits [M, h, w], its cells [h, w], its pointer [D].
 * @typedef {{ values: Uint16Array, foreground: Uint8Array, pointer: Float32Array }} Memory
 */

/**
 * An object on the current frame: logits [4h, 4w], and a drawn mask [H, W] that is shown in their place.
 * @typedef {{ logits: Float32Array, iou: number, score: number, drawn?: Uint8Array }} Output
 */

/**
 * @typedef {object} FrameMasks
 * @property {number} frame
 * @property {number[]} objIds
 * @property {Float32Array[]} masks logits [H, W] of each object, positive = object
 * @property {number[]} scores positive = visible
 * @property {number[]} ious predicted
 */

/** One object: memories of prompted and of tracked frames, clicks and output on the current frame. */
class Track {
  /** @type {Map<number, Memory>} */ prompted = new Map();
  /** @type {Map<number, Memory>} */ tracked = new Map();
  /** @type {Output | null} */ output = null;
  /** @type {{ coords: number[][], labels: number[] } | null} */ clicks = null;
  passed = -1;

  /**
   * Keep a memory, in place of an earlier one of the frame, and the output.
   * @param {number} frame
   * @param {{ memory: Memory, output: Output }} found
   * @param {Map<number, Memory>} store
   */
  keep(frame, { memory, output }, store) {
    this.prompted.delete(frame);
    this.tracked.delete(frame);
    store.set(frame, memory);
    this.output = output;
    this.clicks = null;
  }

  /** A track that keeps what this one has now. */
  copy() {
    return Object.assign(new Track(), this, { prompted: new Map(this.prompted), tracked: new Map(this.tracked) });
  }
}

export class Tracker {
  /**
   * @param {any} manifest content of `i2vpp.json`
   * @param {Run} run runs a graph of the manifest by its name
   */
  constructor(manifest, run) {
    this.manifest = manifest;
    this.run = run;
    /** @type {number} */ this.side = manifest.image_size;
    /** @type {[number, number]} */ this.size = [0, 0];
    /** @type {Float32Array[]} */ this.frames = []; // [3, S, S], the current one and up to two before it
    /** @type {Float32Array | null} */ this.embedding = null;
    /** @type {Map<number, Float32Array>} */ this.keys = new Map();
    /** @type {Map<number, number>} */ this.similarities = new Map(); // of other frames to the current one
    /** @type {Map<number, Track>} */ this.tracks = new Map();
    this.frame = -1;
  }

  /**
   * Push the next frame and track all objects on it. If that fails, the frame may be pushed again.
   * @param {Frame} frame
   * @returns {Promise<FrameMasks>}
   */
  async step(frame) {
    const [height, width] = this.size;
    if (!(frame.width > 0 && frame.height > 0) || frame.data.length !== 4 * frame.width * frame.height) {
      throw new TrackerError(`a frame must be RGBA of its width and height; got ${frame.width}x${frame.height}, ${frame.data.length} bytes`);
    }
    if (this.frame >= 0 && (frame.height !== height || frame.width !== width)) {
      throw new TrackerError(`all frames must be of one size, ${width}x${height}; got ${frame.width}x${frame.height}`);
    }
    const { size, frames, embedding, keys, frame: before } = this;
    const tracks = new Map([...this.tracks].map(([objId, track]) => [objId, track.copy()]));
    try {
      this.frames = [...frames.slice(-2), normalise(resizeFrame(frame, this.side), this.manifest)];
      Object.assign(this, { size: [frame.height, frame.width], embedding: null, frame: before + 1 });
      this.similarities.clear();
      if (this.tracks.size) await this.trackAll([...this.tracks.values()]);
      return this.result();
    } catch (error) {
      Object.assign(this, { size, frames, embedding, keys, frame: before, tracks }); // the frame before stays the current one
      this.similarities.clear();
      throw error;
    }
  }

  /**
   * Prompt an object with clicks and/or a box on the current frame; a new id adds an object.
   * @param {number} objId
   * @param {object} prompt
   * @param {number[][]} [prompt.points] x, y in pixels of the video
   * @param {number[]} [prompt.labels] 1 for positive, 0 for negative clicks
   * @param {number[]} [prompt.box] x0, y0, x1, y1 in pixels of the video
   * @param {boolean} [prompt.clearOldPoints] replace the frame's earlier clicks; false adds to them
   * @returns {Promise<FrameMasks>}
   */
  async addPointsOrBox(objId, { points, labels, box, clearOldPoints = true }) {
    this.checkObject(objId);
    const [height, width] = this.size;
    const given = parseClicks(points ?? [], labels ?? [], box ?? null, this.size);
    const track = this.tracks.get(objId) ?? new Track();
    const earlier = clearOldPoints ? null : track.clicks;
    if (earlier && box) throw new TrackerError("a box comes before clicks: pass it with clearOldPoints, clicks included");
    const scaled = given.coords.map(([x, y]) => [(x / width) * this.side, (y / height) * this.side]);
    const coords = [...(earlier?.coords ?? []), ...scaled];
    const clicks = { coords, labels: [...(earlier?.labels ?? []), ...given.labels] };
    const reads = track.passed === this.frame;
    const mask = this.side / 4;
    const limit = this.manifest.constants.previous_logit_limit;
    const previous = track.output?.logits.map((x) => Math.min(Math.max(x, -limit), limit));
    const [found] = await this.runObjects("prompt", {
      coords: { data: Float32Array.from(coords.flat()), dims: [1, coords.length, 2] },
      labels: { data: Float32Array.from(clicks.labels), dims: [1, coords.length] },
      previous_masks: { data: previous ?? new Float32Array(mask * mask), dims: [1, 1, mask, mask] },
      has_previous: { data: Float32Array.of(previous ? 1 : 0), dims: [1] },
      ...this.memories(reads ? [track] : []),
      has_memory: { data: Float32Array.of(reads ? 1 : 0), dims: [1] },
    });
    track.keep(this.frame, found, track.prompted);
    track.clicks = clicks;
    this.tracks.set(objId, track);
    return this.result();
  }

  /**
   * Prompt an object with its mask on the current frame; an empty one says that it is absent.
   * @param {number} objId
   * @param {ArrayLike<number>} mask [H, W], 0 where the object is not
   * @returns {Promise<FrameMasks>}
   */
  async addMask(objId, mask) {
    this.checkObject(objId);
    const [height, width] = this.size;
    if (mask.length !== height * width) throw new TrackerError(`the mask must be of the video's size, ${width}x${height}`);
    const drawn = Uint8Array.from(mask, (x) => Number(x !== 0));
    const fitted = { data: fitMask(drawn, this.size, this.side), dims: [1, 1, this.side, this.side] };
    const [found] = await this.runObjects("mask", { drawn: fitted });
    if (this.isTooCoarse(found.output.logits, drawn)) found.output.drawn = drawn;
    const track = this.tracks.get(objId) ?? new Track();
    track.keep(this.frame, found, track.prompted);
    this.tracks.set(objId, track);
    return this.result();
  }

  /**
   * Stop tracking an object.
   * @param {number} objId
   */
  removeObject(objId) {
    if (!this.tracks.delete(objId)) throw new TrackerError(`there is no object ${objId}`);
  }

  /**
   * Track objects on the current frame, in batches, and forget memories that can no longer be read.
   * @param {Track[]} tracks
   */
  async trackAll(tracks) {
    const { num_global, num_local, window } = this.manifest.selection;
    await this.embed();
    const frames = Math.max(...tracks.map((track) => track.prompted.size)) + num_global + num_local;
    const size = Math.max(1, Math.floor(BATCH_CELLS / (frames * (this.side / 16) ** 2)));
    for (let start = 0; start < tracks.length; start += size) {
      const batch = tracks.slice(start, start + size);
      const found = await this.runObjects("track", this.memories(batch));
      batch.forEach((track, i) => {
        track.keep(this.frame, found[i], track.tracked);
        track.passed = this.frame;
        forget(track.tracked, this.frame - window);
      });
    }
  }

  /** The embedding of the current frame [1, D, h, w], which is computed once, and its key. */
  async embed() {
    if (!this.embedding) {
      const [t, frames, side] = [this.frame, this.frames, this.side];
      // The clip of frame 0 is 0, 0, 0 and that of frame 1 is 0, 1, 1, as in training.
      const last = frames[frames.length - 1];
      const clip = { data: stackChannels(t >= 2 ? frames : [frames[0], last, last]), dims: [1, 3, 3, side, side] };
      this.embedding = (await this.run("encoder", { clip })).embedding;
      const scale = Math.sqrt(this.embedding.reduce((sum, x) => sum + x * x, 0) / this.embedding.length + 1e-12);
      this.keys = new Map(this.keys);
      forget(this.keys, t - this.manifest.selection.window);
      this.keys.set(t, this.embedding.map((x) => x / scale));
    }
    return this.embedding;
  }

  /**
   * Similarity of a frame to the current one, which is computed once for all objects.
   * @param {number} frame
   */
  similarity(frame) {
    const [a, b] = [frame, this.frame].map((f) => /** @type {Float32Array} */ (this.keys.get(f)));
    const known = this.similarities.get(frame) ?? a.reduce((sum, x, i) => sum + x * b[i], 0) / a.length;
    this.similarities.set(frame, known);
    return known;
  }

  /**
   * Stack what is read for objects, as the graphs take it; without objects, one of padding only.
   * @param {Track[]} tracks
   */
  memories(tracks) {
    const { selection, graphs } = this.manifest;
    const picks = tracks.map((track) => select(selection, this.frame, track, (f) => this.similarity(f)));
    const length = Math.max(1, ...picks.map((pick) => pick.length));
    const lengths = { objects: Math.max(1, tracks.length), frames: length, pointers: length };
    /** @type {Record<string, Value>} */ const feeds = {};
    for (const { name, shape } of graphs.track.inputs.slice(1)) {
      const dims = shape.map((/** @type {keyof lengths | number} */ axis) => (typeof axis === "number" ? axis : lengths[axis]));
      feeds[name] = { data: new Float32Array(product(dims)), dims };
    }
    /** @type {(name: string, b: number, i: number, values: ArrayLike<number>) => void} */
    const put = (name, b, i, values) => feeds[name].data.set(values, (b * feeds[name].dims[1] + i) * values.length);
    tracks.forEach((track, b) => {
      const memory = (/** @type {number} */ frame) => /** @type {Memory} */ (track.prompted.get(frame) ?? track.tracked.get(frame));
      picks[b].forEach(({ frame, slot, offset, weight }, i) => {
        put("memory_values", b, i, fromBfloat16(memory(frame).values));
        put("memory_foreground", b, i, memory(frame).foreground);
        put("memory_pointers", b, i, memory(frame).pointer);
        put("memory_slots", b, i, [slot]);
        put("pointer_offsets", b, i, [offset]);
        put("memory_weights", b, i, [weight]);
        put("pointer_weights", b, i, [weight]);
      });
    });
    return feeds;
  }

  /**
   * Run a graph on the current frame: memory and output of each object.
   * @param {string} graph
   * @param {Record<string, Value>} feeds
   * @returns {Promise<{ memory: Memory, output: Output }[]>}
   */
  async runObjects(graph, feeds) {
    const [embedding] = this.manifest.graphs[graph].inputs;
    const outputs = await this.run(graph, { embedding: { data: await this.embed(), dims: embedding.shape }, ...feeds });
    return Array.from(outputs.ious, (iou, b) => {
      const part = (/** @type {string} */ name) => {
        const length = outputs[name].length / outputs.ious.length;
        return outputs[name].slice(b * length, (b + 1) * length);
      };
      const memory = {
        values: toBfloat16(part("values")),
        foreground: Uint8Array.from(part("foreground"), (x) => Number(x > 0)),
        pointer: part("pointers"),
      };
      return { memory, output: { logits: part("masks"), iou, score: outputs.object_scores[b] } };
    });
  }

  /** @returns {FrameMasks} */
  result() {
    const { drawn_logit } = this.manifest.constants;
    const outputs = [...this.tracks.values()].map((track) => /** @type {Output} */ (track.output));
    const masks = outputs.map(({ logits, drawn }) =>
      drawn ? Float32Array.from(drawn, (x) => (x ? drawn_logit : -drawn_logit)) : this.enlarge(logits));
    const [scores, ious] = [outputs.map(({ score }) => score), outputs.map(({ iou }) => iou)];
    return { frame: this.frame, objIds: [...this.tracks.keys()], masks, scores, ious };
  }

  /**
   * Whether logits made from a drawn mask are too coarse to show it.
   * @param {Float32Array} logits
   * @param {Uint8Array} drawn
   */
  isTooCoarse(logits, drawn) {
    const { small_area, shown_share } = this.manifest.constants;
    const shown = this.enlarge(logits);
    const area = drawn.reduce((sum, x) => sum + x, 0);
    const both = drawn.reduce((sum, x, i) => sum + (x && shown[i] > 0 ? 1 : 0), 0);
    return (area > 0 && area * logits.length < small_area * drawn.length) || both < shown_share * area;
  }

  /**
   * Logits at the video's size.
   * @param {Float32Array} logits
   */
  enlarge(logits) {
    return resizeLinear(logits, this.side / 4, this.size);
  }

  /** @param {unknown} objId */
  checkObject(objId) {
    if (this.frame < 0) throw new TrackerError("there is no frame to prompt yet: push one with step(frame) first");
    if (!Number.isInteger(objId)) throw new TrackerError(`objId must be an integer; got ${JSON.stringify(objId)}`);
  }
}

/**
 * Clicks x, y and labels, the corners of the box first.
 * @param {number[][]} points
 * @param {number[]} labels
 * @param {number[] | null} box
 * @param {[number, number]} size height and width
 */
function parseClicks(points, labels, box, [height, width]) {
  const pairs = points.every((point) => point.length === 2);
  if (!pairs || points.length !== labels.length || !labels.every((label) => label === 0 || label === 1)) {
    throw new TrackerError("labels must be 1 (positive) or 0 (negative), one per point x, y");
  }
  if (box && box.length !== 4) throw new TrackerError("box must be four numbers x0, y0, x1, y1");
  const coords = [...(box ? [box.slice(0, 2), box.slice(2)] : []), ...points];
  if (!coords.length) throw new TrackerError("nothing to prompt with: pass points with labels, a box, or both");
  if (!coords.every(([x, y]) => x >= -2 && y >= -2 && x <= width + 2 && y <= height + 2)) {
    throw new TrackerError(`points and box must lie in the frame, which is ${width} wide and ${height} high`);
  }
  const clip = (/** @type {number} */ x, /** @type {number} */ end) => Math.min(Math.max(x, 0), end);
  const inside = coords.map(([x, y]) => [clip(x, width), clip(y, height)]);
  if (box && !(inside[0][0] < inside[1][0] && inside[0][1] < inside[1][1])) {
    throw new TrackerError("box must have x0 < x1 and y0 < y1 in the frame");
  }
  return { coords: inside, labels: [...(box ? [2, 3] : []), ...labels] };
}

/**
 * Stack frames [3, S, S] as [3, time, S, S].
 * @param {Float32Array[]} frames
 */
function stackChannels(frames) {
  const plane = frames[0].length / 3;
  const out = new Float32Array(frames.length * frames[0].length);
  for (let c = 0; c < 3; c++) {
    frames.forEach((frame, i) => out.set(frame.subarray(c * plane, (c + 1) * plane), (c * frames.length + i) * plane));
  }
  return out;
}

/**
 * Delete what belongs to frames before one.
 * @param {Map<number, unknown>} store
 * @param {number} oldest
 */
function forget(store, oldest) {
  for (const frame of store.keys()) if (frame < oldest) store.delete(frame);
}

/** @param {number[]} dims */
function product(dims) {
  return dims.reduce((a, b) => a * b, 1);
}
