// Reads the files that a person picks, frame by frame: a video, or images in the natural order of their names.

const PROBED = 12; // frames of a video that are played to learn how long one lasts
const PROBE_MS = 3000;
const [POLL_MS, STAYS_MS, PATIENCE_MS] = [10, 60, 5000]; // while a frame that was sought comes onto the screen
const ASSUMED_FPS = 30; // where the browser does not tell when frames are shown

/** A file that cannot be read; the message says what to do. */
export class FileError extends Error {}

/**
 * @typedef {object} Frames
 * @property {string} name
 * @property {number} count frames, about
 * @property {() => Promise<ImageData | null>} next the next frame; null at the end
 * @property {() => Promise<void>} rewind
 * @property {() => void} close
 */

/**
 * Open what was picked.
 * @param {File[]} files
 * @returns {Promise<Frames>}
 */
export async function openFiles(files) {
  const images = files.filter((file) => file.type.startsWith("image/"));
  if (images.length === files.length && images.length) return new Images(images);
  if (files.length === 1) return Video.open(files[0]);
  throw new FileError("Choose one video, or images only: the frames of one.");
}

/** Draws pictures and gives their pixels. */
class Pixels {
  context = /** @type {CanvasRenderingContext2D} */ (
    document.createElement("canvas").getContext("2d", { willReadFrequently: true, alpha: false })
  );

  /**
   * @param {CanvasImageSource} picture
   * @param {number} width
   * @param {number} height
   */
  read(picture, width, height) {
    Object.assign(this.context.canvas, { width, height });
    this.context.drawImage(picture, 0, 0);
    return this.context.getImageData(0, 0, width, height);
  }
}

/** @implements {Frames} */
class Images {
  pixels = new Pixels();
  at = 0;

  /** @param {File[]} files */
  constructor(files) {
    const { compare } = new Intl.Collator("en", { numeric: true }); // 2 before 10
    this.files = [...files].sort((a, b) => compare(a.name, b.name));
    this.count = files.length;
    this.name = files.length > 1 ? `${files.length} images` : files[0].name;
  }

  async next() {
    if (this.at >= this.count) return null;
    const file = this.files[this.at++];
    const options = /** @type {const} */ ({ colorSpaceConversion: "none" });
    const picture = await createImageBitmap(file, options).catch(() => {
      throw new FileError(`${file.name} cannot be read as an image.`);
    });
    const frame = this.pixels.read(picture, picture.width, picture.height);
    picture.close();
    return frame;
  }

  async rewind() {
    this.at = 0;
  }

  close() {}
}

/** @implements {Frames} */
class Video {
  pixels = new Pixels();
  at = 0;

  /**
   * @param {File} file
   * @param {HTMLVideoElement} video
   * @param {number} duration of a frame, in seconds
   * @param {number} count frames
   */
  constructor(file, video, duration, count) {
    this.name = file.name;
    this.video = video;
    this.duration = duration;
    this.count = count;
  }

  /** @param {File} file */
  static async open(file) {
    const video = document.createElement("video");
    Object.assign(video, { muted: true, playsInline: true, preload: "auto", src: URL.createObjectURL(file) });
    try {
      await happened(video, "loadeddata");
      if (!video.videoWidth) throw new FileError(`${file.name} holds no picture. Choose a video.`);
      const duration = await frameDuration(video);
      const count = 1 + Math.round((await timeOfLast(video, duration)) / duration);
      return new Video(file, video, duration, Math.max(1, count));
    } catch (error) {
      URL.revokeObjectURL(video.src);
      if (error instanceof FileError) throw error;
      throw new FileError(`${file.name} cannot be read: this browser does not know its format. Try an MP4 (H.264) or WebM.`);
    }
  }

  async next() {
    if (this.at >= this.count) return null;
    const seeked = happened(this.video, "seeked");
    this.video.currentTime = Math.min((this.at++ + 0.5) * this.duration, this.video.duration);
    await seeked;
    return this.pixels.read(this.video, this.video.videoWidth, this.video.videoHeight);
  }

  async rewind() {
    this.at = 0;
  }

  close() {
    URL.revokeObjectURL(this.video.src);
    this.video.removeAttribute("src");
  }
}

/**
 * How long a frame of a video lasts, in seconds: from the times of its first frames, which are played.
 * @param {HTMLVideoElement} video
 */
async function frameDuration(video) {
  /** @type {Map<number, number>} */ const times = new Map(); // by the number of the frame
  if ("requestVideoFrameCallback" in video) {
    await new Promise((resolve) => {
      const timer = setTimeout(resolve, PROBE_MS);
      const note = (/** @type {number} */ _, /** @type {VideoFrameCallbackMetadata} */ { presentedFrames, mediaTime }) => {
        times.set(presentedFrames, mediaTime);
        if (times.size < PROBED && !video.ended) video.requestVideoFrameCallback(note);
        else resolve(clearTimeout(timer));
      };
      video.requestVideoFrameCallback(note);
      video.addEventListener("ended", resolve, { once: true });
      video.play().catch(resolve);
    });
    video.pause();
  }
  const [numbers, seconds] = [[...times.keys()], [...times.values()]];
  const shown = seconds.slice(1).map((time, i) => (time - seconds[i]) / (numbers[i + 1] - numbers[i]));
  const shortest = Math.min(...shown.filter((step) => step > 1e-3));
  if (!Number.isFinite(shortest)) return 1 / ASSUMED_FPS;
  const passed = seconds[seconds.length - 1] - seconds[0]; // frames may have been left out, and times be rounded
  return passed / Math.round(passed / shortest);
}

/**
 * When the last frame of a video begins, in seconds: what is shown at the end. The duration that the browser tells does
 * not say it for recordings, whose files do not: it is infinite until the end was sought, and then lacks the last frame.
 * @param {HTMLVideoElement} video
 * @param {number} duration of a frame
 */
async function timeOfLast(video, duration) {
  if (video.ended && video.getVideoPlaybackQuality().totalVideoFrames === 1) return 0;
  let [shown, since, handle] = [-Infinity, 0, 0];
  const note = (/** @type {number} */ _, /** @type {VideoFrameCallbackMetadata} */ { mediaTime }) => {
    [shown, since] = [mediaTime, performance.now()];
    handle = video.requestVideoFrameCallback(note);
  };
  const tells = Boolean(video.requestVideoFrameCallback);
  if (tells) handle = video.requestVideoFrameCallback(note);
  const seeked = happened(video, "seeked");
  video.currentTime = Number.MAX_SAFE_INTEGER;
  if (!(await seeked.then(() => true, () => false))) {
    video.load(); // its end is damaged
    await happened(video, "loadeddata");
    if (Number.isFinite(video.duration)) return video.duration - duration;
    throw new FileError("The end of the video is damaged, and its file does not say how long it is.");
  }
  // What was played before may be shown late, so that the last frame is the one that stays.
  const stays = () => shown > video.duration - 1.5 * duration && performance.now() - since > STAYS_MS;
  for (let waited = 0; tells && !stays() && waited < PATIENCE_MS; waited += POLL_MS) await pause(POLL_MS);
  if (tells) video.cancelVideoFrameCallback(handle);
  return Number.isFinite(shown) ? shown : video.duration - duration;
}

/** @param {number} ms */
function pause(ms) {
  return new Promise((resume) => setTimeout(resume, ms));
}

/**
 * Wait for an event of a video.
 * @param {HTMLVideoElement} video
 * @param {string} event
 */
function happened(video, event) {
  return new Promise((resolve, reject) => {
    const done = new AbortController(); // takes both listeners away: there is one call for each frame
    const listen = (/** @type {string} */ name, /** @type {(value?: any) => void} */ then) => video.addEventListener(name, () => [done.abort(), then()], { signal: done.signal });
    listen(event, resolve);
    listen("error", () => reject(video.error));
  });
}
