// Resizing and rounding with the numbers of Pillow, PyTorch and `i2vpp_onnx.py`.

const FIXED = 22; // bits behind the point of Pillow's weights

/**
 * Where each of `count` new positions reads, and how much: `reach` indices and weights each.
 * @typedef {{ count: number, reach: number, index: Int32Array, weights: Float32Array | Float64Array | Int32Array }} Taps
 */

/**
 * An array seen as [outer, length, inner]; `length` is resized.
 * @typedef {{ outer: number, length: number, inner: number }} Axis
 */

/**
 * The filter of linear (reach 1) or bicubic (reach 2) resizing.
 * @param {number} distance
 * @param {number} reach
 */
function kernel(distance, reach) {
  const x = Math.abs(distance);
  if (reach === 1) return Math.max(0, 1 - x);
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  return x < 2 ? -0.5 * (((x - 5) * x + 8) * x - 4) : 0;
}

/**
 * Taps of antialiased resizing.
 * @param {number} old
 * @param {number} count
 * @param {number} kind reach of the filter: 1 linear, 2 bicubic
 * @returns {Taps}
 */
export function areaTaps(old, count, kind) {
  const scale = old / count;
  const support = kind * Math.max(scale, 1);
  const bounds = Array.from({ length: count }, (_, i) => {
    const centre = (i + 0.5) * scale;
    return [centre, Math.max(Math.trunc(centre - support + 0.5), 0), Math.min(Math.trunc(centre + support + 0.5), old)];
  });
  const reach = Math.max(...bounds.map(([, first, last]) => last - first));
  const index = new Int32Array(count * reach);
  const weights = new Float64Array(count * reach);
  bounds.forEach(([centre, first, last], i) => {
    let sum = 0;
    for (let k = 0; k < reach; k++) {
      index[i * reach + k] = Math.min(first + k, old - 1);
      const weight = first + k < last ? kernel((first + k - centre + 0.5) / Math.max(scale, 1), kind) : 0;
      weights[i * reach + k] = weight;
      sum += weight;
    }
    for (let k = 0; k < reach; k++) weights[i * reach + k] /= sum;
  });
  return { count, reach, index, weights };
}

/**
 * Taps of linear resizing without antialiasing; cells are squares around their centres.
 * @param {number} old
 * @param {number} count
 * @returns {Taps}
 */
function linearTaps(old, count) {
  const index = new Int32Array(2 * count);
  const weights = new Float32Array(2 * count);
  const scale = Math.fround(old / count);
  for (let i = 0; i < count; i++) {
    const place = Math.max(Math.fround(Math.fround((i + 0.5) * scale) - 0.5), 0);
    const low = Math.min(Math.trunc(place), old - 1);
    index.set([low, Math.min(low + 1, old - 1)], 2 * i);
    weights.set([1 - Math.fround(place - low), place - low], 2 * i);
  }
  return { count, reach: 2, index, weights };
}

/**
 * Weigh and add up entries along an axis.
 * @template {Float32Array | Int32Array} T
 * @param {ArrayLike<number>} x
 * @param {Axis} axis
 * @param {Taps} taps
 * @param {new (length: number) => T} Out
 * @returns {T} [outer, count, inner]
 */
function resample(x, { outer, length, inner }, { count, reach, index, weights }, Out) {
  const out = new Out(outer * count * inner);
  for (let o = 0, at = 0; o < outer; o++) {
    for (let n = 0; n < count; n++) {
      for (let i = 0; i < inner; i++, at++) {
        let sum = 0;
        for (let k = n * reach; k < (n + 1) * reach; k++) sum += weights[k] * x[(o * length + index[k]) * inner + i];
        out[at] = sum;
      }
    }
  }
  return out;
}

/**
 * Resize RGBA pixels to a square, with the numbers of Pillow's bicubic filter.
 * @param {{ data: Uint8ClampedArray, width: number, height: number }} frame
 * @param {number} side
 * @returns {Int32Array} [side, side, 4]
 */
export function resizeFrame({ data, width, height }, side) {
  const wide = resizeFixed(data, { outer: height, length: width, inner: 4 }, side);
  return resizeFixed(wide, { outer: 1, length: height, inner: 4 * side }, side);
}

/**
 * @param {ArrayLike<number>} x
 * @param {Axis} axis
 * @param {number} side
 */
function resizeFixed(x, axis, side) {
  const taps = areaTaps(axis.length, side, 2);
  const weights = Int32Array.from(taps.weights, (w) => Math.trunc(w * 2 ** FIXED + Math.sign(w) / 2));
  const sums = resample(x, axis, { ...taps, weights }, Int32Array);
  return sums.map((sum) => Math.min(Math.max((sum + (1 << (FIXED - 1))) >> FIXED, 0), 255));
}

/**
 * Turn RGBA pixels [S, S, 4] into the network's input [3, S, S].
 * @param {Int32Array} pixels
 * @param {{ mean: number[], std: number[] }} manifest
 */
export function normalise(pixels, { mean, std }) {
  const plane = pixels.length / 4;
  const out = new Float32Array(3 * plane);
  for (let c = 0; c < 3; c++) {
    const [centre, spread] = [Math.fround(mean[c]), Math.fround(std[c])];
    const table = Float32Array.from({ length: 256 }, (_, v) => Math.fround(Math.fround(v / 255) - centre) / spread);
    for (let i = 0; i < plane; i++) out[c * plane + i] = table[pixels[4 * i + c]];
  }
  return out;
}

/**
 * Resize linearly, without antialiasing.
 * @param {Float32Array} x [side, side]
 * @param {number} side
 * @param {[number, number]} size height and width
 * @returns {Float32Array} [height, width]
 */
export function resizeLinear(x, side, [height, width]) {
  const high = resample(x, { outer: 1, length: side, inner: side }, linearTaps(side, height), Float32Array);
  return resample(high, { outer: height, length: side, inner: 1 }, linearTaps(side, width), Float32Array);
}

/**
 * Fit a drawn mask to the network's input; small parts are kept.
 * @param {Uint8Array} drawn 0 or 1 [height, width]
 * @param {[number, number]} size height and width
 * @param {number} side
 * @returns {Float32Array} 0 or 1 [side, side]
 */
export function fitMask(drawn, [height, width], side) {
  if (height === side && width === side) return Float32Array.from(drawn);
  const wide = resample(drawn, { outer: height, length: width, inner: 1 }, singly(areaTaps(width, side, 1)), Float32Array);
  const x = resample(wide, { outer: 1, length: height, inner: side }, singly(areaTaps(height, side, 1)), Float32Array);
  const highest = highestAround(highestAround(x, side), side);
  return x.map((value, i) => {
    const small = highest[i] > 1e-4 && highest[i] < 0.5;
    return Number((small ? value / highest[i] : value) >= 0.5);
  });
}

/** @param {Taps} taps */
function singly(taps) {
  return { ...taps, weights: Float32Array.from(taps.weights) };
}

/**
 * Highest value of the 3x3 pixels around each pixel.
 * @param {Float32Array} x [side, side]
 * @param {number} side
 */
function highestAround(x, side) {
  return x.map((_, i) => {
    const [row, column] = [Math.floor(i / side), i % side];
    let highest = -Infinity;
    for (let r = Math.max(row - 1, 0); r < Math.min(row + 2, side); r++) {
      for (let c = Math.max(column - 1, 0); c < Math.min(column + 2, side); c++) highest = Math.max(highest, x[r * side + c]);
    }
    return highest;
  });
}

/**
 * Round to the upper 16 bits, ties to even.
 * @param {Float32Array} x
 */
export function toBfloat16(x) {
  const bits = new Uint32Array(x.slice().buffer);
  return Uint16Array.from(bits, (word) => (word + 0x7fff + ((word >>> 16) & 1)) >>> 16);
}

/**
 * Widen 16 bits to 32.
 * @param {Uint16Array} bits
 */
export function fromBfloat16(bits) {
  return new Float32Array(Uint32Array.from(bits, (word) => word << 16).buffer);
}
