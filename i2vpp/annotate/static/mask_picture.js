// Masks drawn into one picture of the video's size.

const littleEndian = new Uint8Array(new Uint32Array([1]).buffer)[0] === 1;
const STRIPES = 200; // on the width of a picture

function packed(color) {
  const [red, green, blue] = [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16));
  return littleEndian ? (0xff000000 | (blue << 16) | (green << 8) | red) >>> 0 : ((red << 24) | (green << 16) | (blue << 8) | 0xff) >>> 0;
}

/** One picture [H, W] of masks. Where they overlap, their colours alternate in stripes, or the later one is on top. */
export class MaskPicture {
  constructor() {
    this.canvas = new OffscreenCanvas(1, 1);
    this.context = this.canvas.getContext("2d");
    this.key = "";
  }

  /** Draw masks {number, runs, color}, unless the picture already shows them: equal numbers are the same run lengths. */
  draw(masks, { width, height }, stripes) {
    const key = `${width}x${height};${stripes};${masks.map(({ number, color }) => number + color).join()}`;
    if (this.key === key) return this.canvas;
    this.key = key;
    if (this.image?.width !== width || this.image.height !== height) this.resize(width, height);
    this.pixels.fill(0);
    const size = stripes ? Math.max(2, Math.round(width / STRIPES)) : 0;
    const over = Uint8Array.from({ length: width + height }, (_, diagonal) => size === 0 || Math.floor(diagonal / size) % 2);
    for (const { runs, color } of masks) paint(this.pixels, runs, packed(color), width, over);
    this.context.putImageData(this.image, 0, 0);
    return this.canvas;
  }

  resize(width, height) {
    Object.assign(this.canvas, { width, height });
    this.image = new ImageData(width, height);
    this.pixels = new Uint32Array(this.image.data.buffer);
  }
}

/** Colour a mask's pixels; those that have a colour already only on the diagonals `over`. */
function paint(pixels, runs, color, width, over) {
  let at = 0;
  for (let i = 0; i < runs.length; i++) {
    const end = at + runs[i];
    let x = at % width;
    let diagonal = x + Math.floor(at / width);
    for (let p = at; i % 2 && p < end; p++) {
      if (pixels[p] === 0 || over[diagonal]) pixels[p] = color;
      x += 1;
      diagonal += 1;
      if (x === width) [x, diagonal] = [0, diagonal + 1 - width];
    }
    at = end;
  }
}
