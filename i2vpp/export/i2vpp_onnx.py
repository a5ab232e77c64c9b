"""Tracks objects through a video with the graphs beside this file; it needs NumPy and onnxruntime, not PyTorch.

    tracker = I2VPPOnnx("DIR")                      # the folder that `i2vpp export` wrote
    for frame in frames:                            # uint8 RGB [H, W, 3], all of one size
        result = tracker.step(frame)
        if result.frame_idx == 0:
            result = tracker.add_points_or_box(1, box=[90, 40, 400, 360])
        masks = result.masks > 0                    # [objects, H, W]

    python DIR/i2vpp_onnx.py video.mp4 --box 90,40,400,360 -o OUT

The command needs Pillow, and PyAV if the video is a file. Masks equal those of a live session of i2vpp on the same
frames, up to rounding. B objects, S side of the network's input, h, w its cells (S / 16), H, W size of the video.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

FORMAT = 1  # version of `i2vpp.json` that this file reads
BATCH_CELLS = 2**15  # of all memory frames of objects that are tracked at once: attention takes memory in proportion
CPU = ("CPUExecutionProvider",)
GRAPHS = ("encoder", "track", "prompt", "mask")
IMAGES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
Array = Any


class I2VPPOnnxError(ValueError):
    """A folder, frame or prompt that cannot be used; the message says what to do."""


class Memory(NamedTuple):
    """What is remembered of an object on a frame: bfloat16 bits [M, h, w], its cells [h, w] bool, pointer [D]."""

    values: Array
    foreground: Array
    pointer: Array


class Output(NamedTuple):
    """An object on the current frame: logits [4h, 4w], predicted IoU, object score, and a drawn mask that is kept."""

    logits: Array
    iou: float
    score: float
    drawn: Array | None = None


@dataclass
class Track:
    """One object: memories of prompted and of tracked frames, clicks and output on the current frame."""

    prompted: dict[int, Memory] = field(default_factory=dict)
    tracked: dict[int, Memory] = field(default_factory=dict)
    output: Output | None = None
    points: tuple[Array, Array] | None = None
    passed: int = -1

    def keep(self, frame: int, memory: Memory, output: Output, *, prompted: bool, points: Any = None) -> None:
        """Keep a memory, in place of an earlier one of the frame, the output and the clicks."""
        for store in (self.prompted, self.tracked):
            store.pop(frame, None)
        (self.prompted if prompted else self.tracked)[frame] = memory
        self.output, self.points = output, points


class FrameMasks(NamedTuple):
    """The masks of a frame: logits [B, H, W], positive = object; scores (positive = visible) and predicted IoUs [B]."""

    frame_idx: int
    obj_ids: list[int]
    masks: Array
    object_scores: Array
    predicted_ious: Array


class I2VPPOnnx:
    """A live session in constant memory: push frames, prompt objects on the current one, get masks.

    Args:
        folder: folder that `i2vpp export` wrote.
        threads: threads of onnxruntime; None for all cores.
        providers: onnxruntime's execution providers.

    Raises:
        I2VPPOnnxError: the folder is no export of this version, or incomplete; all methods raise it for a frame or
            prompt that cannot be used, and then leave the session as it was.
    """

    def __init__(self, folder: str | Path, *, threads: int | None = None, providers: Sequence[str] = CPU) -> None:
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder)
        self.side: int = self.manifest["image_size"]
        self._threads, self._providers = threads or 0, list(providers)
        self.sessions: dict[str, Any] = {}
        self._frames: list[Array] = []  # normalised [3, S, S], the current one and up to two before it
        self._size: tuple[int, int] = (0, 0)
        self._embedding: Array | None = None
        self._keys: dict[int, Array] = {}
        self._similarities: dict[tuple[int, int], float] = {}  # by pair of frames, whose keys are compared once
        self._tracks: dict[int, Track] = {}
        self.frame_idx = -1

    def step(self, frame: Array) -> FrameMasks:
        """Push the next frame, uint8 RGB [H, W, 3], and track all objects on it."""
        frame = np.asarray(frame)
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or not frame.size:
            raise I2VPPOnnxError(f"a frame must be uint8 RGB [H, W, 3]; got {frame.dtype} {list(frame.shape)}")
        if self._frames and frame.shape[:2] != self._size:
            raise I2VPPOnnxError(f"all frames must be of one size, {list(self._size)}; got {list(frame.shape[:2])}")
        tracks = {i: replace(t, prompted={**t.prompted}, tracked={**t.tracked}) for i, t in self._tracks.items()}
        before = self._frames, self._size, self._embedding, self._keys, self.frame_idx, tracks
        try:
            self._frames = [*self._frames[-2:], normalise(resize_frame(frame, self.side), self.manifest)]
            self._size, self._embedding, self.frame_idx = frame.shape[:2], None, self.frame_idx + 1
            if self._tracks:
                self._track(list(self._tracks.values()))
            return self._result()
        except BaseException:  # the frame before stays the current one, and this one may be pushed again
            self._frames, self._size, self._embedding, self._keys, self.frame_idx, self._tracks = before
            raise

    def add_points_or_box(
        self, obj_id: int, points: Any = None, labels: Any = None, box: Any = None, *, clear_old_points: bool = True
    ) -> FrameMasks:
        """Prompt an object with clicks and/or a box; a new id adds an object. Return the masks of all objects.

        Args:
            obj_id: any integer.
            points: [C, 2] x, y in pixels of the video.
            labels: [C] 1 for positive, 0 for negative clicks.
            box: x0, y0, x1, y1 in pixels of the video.
            clear_old_points: replace the frame's earlier clicks; False adds to them.
        """
        self._check_object(obj_id)
        coords, values = parse_clicks(points, labels, box, self._size)
        coords = coords / np.array(self._size[::-1], np.float32) * np.float32(self.side)
        track = self._tracks.get(obj_id) or Track()
        if not clear_old_points and track.points is not None:
            if box is not None:
                raise I2VPPOnnxError("a box comes before clicks: pass it with clear_old_points=True, clicks included")
            coords, values = (np.concatenate(both) for both in zip(track.points, (coords, values), strict=True))
        previous, limit = track.output, self.manifest["constants"]["previous_logit_limit"]
        given = np.zeros((self.side // 4,) * 2, np.float32) if previous is None else previous.logits.clip(-limit, limit)
        reads = track.passed == self.frame_idx
        feeds = {
            "coords": coords[None],
            "labels": values[None],
            "previous_masks": given[None, None],
            "has_previous": np.array([previous is not None], np.float32),
            **self._memories([track] if reads else []),
            "has_memory": np.array([reads], np.float32),
        }
        ((memory, output),) = self._run("prompt", feeds)
        track.keep(self.frame_idx, memory, output, prompted=True, points=(coords, values))
        self._tracks[obj_id] = track
        return self._result()

    def add_mask(self, obj_id: int, mask: Any) -> FrameMasks:
        """Prompt an object with its mask, an empty one if it is absent. Return the masks of all objects.

        Args:
            obj_id: any integer.
            mask: [H, W] bool, integers (the object is not 0), floats in [0, 1] (above 0.5) or logits (above 0).
        """
        self._check_object(obj_id)
        mask = np.asarray(mask)
        if mask.shape != self._size or mask.dtype.kind not in "biuf" or not np.isfinite(mask).all():
            got = f"{mask.dtype} {list(mask.shape)}"
            raise I2VPPOnnxError(f"a mask must be finite numbers of the video's size, {list(self._size)}; got {got}")
        drawn = mask > (0 if mask.min() < 0 else 0.5) if mask.dtype.kind == "f" else mask != 0
        ((memory, output),) = self._run("mask", {"drawn": fit_mask(drawn, self.side)[None, None]})
        if is_too_coarse(output.logits, drawn, self.manifest["constants"]):
            output = output._replace(drawn=drawn)
        self._tracks.setdefault(obj_id, Track()).keep(self.frame_idx, memory, output, prompted=True)
        return self._result()

    def remove_object(self, obj_id: int) -> None:
        """Stop tracking an object."""
        self._check_object(obj_id)
        if obj_id not in self._tracks:
            raise I2VPPOnnxError(f"there is no object {obj_id!r}; known objects: {list(self._tracks)}")
        del self._tracks[obj_id]

    def _track(self, tracks: list[Track]) -> None:
        """Track objects on the current frame, in batches, and forget memories that can no longer be read."""
        t, config = self.frame_idx, self.manifest["selection"]
        self._embed()
        frames = max(len(track.prompted) for track in tracks) + config["num_global"] + config["num_local"]
        size = max(1, BATCH_CELLS // (frames * (self.side // 16) ** 2))
        for batch in (tracks[start : start + size] for start in range(0, len(tracks), size)):
            for track, (memory, output) in zip(batch, self._run("track", self._memories(batch)), strict=True):
                track.passed = t
                track.keep(t, memory, output, prompted=False)
                track.tracked = {f: kept for f, kept in track.tracked.items() if t - f <= config["window"]}

    def _embed(self) -> Array:
        """Return the embedding of the current frame [1, D, h, w]; it is computed once."""
        if self._embedding is None:
            t, frames = self.frame_idx, self._frames
            # The clip of frame 0 is 0, 0, 0 and that of frame 1 is 0, 1, 1, as in training.
            clip = frames if t >= 2 else [frames[0], frames[-1], frames[-1]]
            (self._embedding,) = self.session("encoder").run(None, {"clip": np.stack(clip, axis=1)[None]})
            values, window = self._embedding.ravel(), self.manifest["selection"]["window"]
            self._keys = {f: key for f, key in self._keys.items() if t - f <= window}
            self._similarities.clear()
            self._keys[t] = values / np.sqrt(np.mean(np.square(values)) + np.float32(1e-12))
        return self._embedding

    def _select(self, track: Track) -> list[tuple[int, int, float, int]]:
        """Choose the memories that are read for an object: frame, slot, offset of the pointer, and weight of each."""
        config, t, tracked = self.manifest["selection"], self.frame_idx, track.tracked
        local = config["local_window"]
        near = [f for f in range(t - local, t) if f in tracked]
        far = [f for f in range(t - config["window"], t - local) if f in tracked]
        slots = list(enumerate(self._pick(far, config["num_global"], pool=config["global_pool"]), 1))
        slots += enumerate(self._pick(near, config["num_local"], pool=config["local_pool"]), 1 + config["num_global"])
        length = max(0, min(t - 1, config["num_global"] + config["num_local"]))
        first = 1 + max(0, length - len(slots))  # of the first prompted frame: it stands for frames not there yet
        slots = [(0, f) for f in sorted(track.prompted)] + slots
        return [(f, slot, 1 - slot / (length + 1), 1 if i else first) for i, (slot, f) in enumerate(slots)]

    def _pick(self, frames: list[int], count: int, *, pool: int) -> list[int]:
        """Choose `count` of `frames` by similarity; in mode `sample` draw, by noise of seed, frame and pool alone."""
        if len(frames) <= count:
            return frames
        t, key, known = self.frame_idx, self._keys[self.frame_idx], self._similarities
        known |= {(t, f): float(self._keys[f] @ key / np.float32(key.size)) for f in frames if (t, f) not in known}
        score = np.array([known[t, f] for f in frames])
        if self.manifest["selection"]["mode"] == "sample":
            score += np.random.default_rng((self.manifest["selection"]["seed"], t, pool)).gumbel(size=len(frames))
        return [frames[i] for i in sorted(np.argsort(-score, kind="stable")[:count])]

    def _memories(self, tracks: list[Track]) -> dict[str, Array]:
        """Stack what is read for objects, as the graphs take it; without objects, one of padding only."""
        picks = [self._select(track) for track in tracks]
        length = max([1, *map(len, picks)])
        lengths = {"objects": max(1, len(picks)), "frames": length, "pointers": length}
        shapes = {port["name"]: port["shape"] for port in self.manifest["graphs"]["track"]["inputs"][1:]}
        feeds = {name: np.zeros([lengths.get(a, a) for a in axes], np.float32) for name, axes in shapes.items()}
        for b, track in enumerate(tracks):
            for i, (frame, slot, offset, weight) in enumerate(picks[b]):
                memory = track.prompted.get(frame) or track.tracked[frame]
                feeds["memory_values"][b, i] = from_bfloat16(memory.values)
                feeds["memory_foreground"][b, i] = memory.foreground
                feeds["memory_pointers"][b, i] = memory.pointer
                feeds["memory_slots"][b, i], feeds["pointer_offsets"][b, i] = slot, offset
                feeds["memory_weights"][b, i] = feeds["pointer_weights"][b, i] = weight
        return feeds

    def _run(self, graph: str, feeds: dict[str, Array]) -> list[tuple[Memory, Output]]:
        """Run a graph on the current frame: memory and output of each object."""
        feeds = {"embedding": self._embed(), **feeds}
        masks, ious, scores, pointers, values, foreground = self.session(graph).run(None, feeds)
        rows = zip(to_bfloat16(values), foreground > 0, pointers, masks, ious, scores, strict=True)
        return [(Memory(v.copy(), f, p.copy()), Output(m[0].copy(), float(i), float(s))) for v, f, p, m, i, s in rows]

    def session(self, graph: str) -> Any:
        """Return the session of a graph, which is loaded when it is first needed."""
        if graph not in self.sessions:
            path = self.folder / self.manifest["graphs"][graph]["file"]
            try:
                import onnxruntime  # noqa: PLC0415 - what needs no graph does without it

                options = onnxruntime.SessionOptions()
                options.intra_op_num_threads = self._threads
                self.sessions[graph] = onnxruntime.InferenceSession(str(path), options, providers=self._providers)
            except Exception as error:  # onnxruntime's errors share no class
                hint = "" if isinstance(error, ImportError) else " --upgrade, or export the checkpoint again"
                raise I2VPPOnnxError(f"{path} cannot be loaded: {error}: pip install onnxruntime{hint}") from error
        return self.sessions[graph]

    def _result(self) -> FrameMasks:
        outputs = [track.output for track in self._tracks.values() if track.output is not None]
        masks = np.empty((len(outputs), *self._size), np.float32)
        for mask, output in zip(masks, outputs, strict=True):
            drawn, level = output.drawn, self.manifest["constants"]["drawn_logit"]
            mask[:] = resize_linear(output.logits, self._size) if drawn is None else np.where(drawn, level, -level)
        scores, ious = (np.array([o[i] for o in outputs], np.float32) for i in (2, 1))
        return FrameMasks(self.frame_idx, list(self._tracks), masks, scores, ious)

    def _check_object(self, obj_id: Any) -> None:
        if self.frame_idx < 0:
            raise I2VPPOnnxError("there is no frame to prompt yet: push one with step(frame) first")
        if isinstance(obj_id, bool) or not isinstance(obj_id, (int, np.integer)):
            raise I2VPPOnnxError(f"obj_id must be an integer; got {obj_id!r}")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return `i2vpp.json` of a folder, or raise I2VPPOnnxError."""
    path, again = folder / "i2vpp.json", "export the checkpoint again"
    if not path.is_file():
        raise I2VPPOnnxError(f"{folder} is no export: it holds no i2vpp.json; `i2vpp export` writes one")
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version, wanted = manifest["format"], ("file_format", "image_size", "mean", "std", "selection", "constants")
        absent = [key for key in wanted if key not in manifest]
        files = [manifest["graphs"][name]["file"] for name in GRAPHS] if version == FORMAT else []
    except (ValueError, TypeError, KeyError) as error:
        raise I2VPPOnnxError(f"{path} does not describe an export: {again}") from error
    if version != FORMAT:
        raise I2VPPOnnxError(f"{folder} is of version {version!r}, not {FORMAT}: use its i2vpp_onnx.py, or {again}")
    absent += [file for file in files if not (folder / file).is_file()]
    if absent or manifest["file_format"] != "onnx":
        lack = f"lacks {', '.join(absent)}" if absent else f"holds {manifest['file_format']}, not ONNX"
        raise I2VPPOnnxError(f"{folder} {lack}: {again}")
    return manifest


def parse_clicks(points: Any, labels: Any, box: Any, size: tuple[int, int]) -> tuple[Array, Array]:
    """Return clicks x, y [C, 2] and labels [C], the corners of the box first; the size is (H, W)."""
    got = " ".join(f"got points {points!r:.60}, labels {labels!r:.60}, box {box!r:.60}".split())
    try:
        coords, values = (np.asarray([] if x is None else x, np.float64) for x in (points, labels))
        corners = np.zeros((0, 2)) if box is None else np.asarray(box, np.float64).reshape(2, 2)
    except (TypeError, ValueError):
        raise I2VPPOnnxError(f"points [C, 2], labels [C] and box [4] must be numbers of these shapes; {got}") from None
    coords, values = coords if coords.size else coords.reshape(0, 2), values.reshape(-1)
    if coords.shape != (len(values), 2) or not np.isin(values, (0, 1)).all():
        raise I2VPPOnnxError(f"points must be pairs x, y, and have a label each, 1 (positive) or 0 (negative); {got}")
    coords, values = np.concatenate([corners, coords]), np.concatenate([[2, 3][: len(corners)], values])
    if not len(coords):
        raise I2VPPOnnxError("nothing to prompt with: pass points with labels, a box, or both")
    if not ((coords >= -2) & (coords <= np.add(size[::-1], 2))).all():
        raise I2VPPOnnxError(f"points and box must lie in the frame, {size[1]} wide and {size[0]} high; {got}")
    coords = coords.clip(0, size[::-1])
    if len(corners) and (coords[1] <= coords[0]).any():
        raise I2VPPOnnxError(f"box must have x0 < x1 and y0 < y1 in the frame; {got}")
    return coords.astype(np.float32), values.astype(np.float32)


def fit_mask(drawn: Array, side: int) -> Array:
    """Return a mask [H, W] at the network's input size, float32 of 0 and 1; small parts are kept."""
    x = drawn.astype(np.float32)
    for axis in (1, 0):
        x = resample(x, area_taps(drawn.shape[axis], side, 1), axis)
    highest = np.pad(x, 2, constant_values=-np.inf)  # of the 5x5 pixels around each pixel
    for axis in (0, 1):
        highest = np.lib.stride_tricks.sliding_window_view(highest, 5, axis).max(axis=-1)
    small = (highest > 1e-4) & (highest < 0.5)
    return (np.where(small, x / np.where(small, highest, 1), x) >= 0.5).astype(np.float32)


def is_too_coarse(logits: Array, drawn: Array, constants: dict[str, float]) -> bool:
    """Return whether logits made from a drawn mask are too coarse to show it."""
    area, shown = int(drawn.sum()), int(((resize_linear(logits, drawn.shape) > 0) & drawn).sum())
    return 0 < area * logits.size < constants["small_area"] * drawn.size or shown < constants["shown_share"] * area


def normalise(frame: Array, manifest: dict[str, Any]) -> Array:
    """Turn uint8 [S, S, 3] into float32 [3, S, S]."""
    mean, std = (np.array(manifest[name], np.float32) for name in ("mean", "std"))
    return np.ascontiguousarray(((frame.astype(np.float32) / 255 - mean) / std).transpose(2, 0, 1))


def resize_frame(frame: Array, side: int) -> Array:
    """Resize uint8 [H, W, 3] to [S, S, 3] with the numbers of Pillow's bicubic filter; by Pillow where it is there."""
    try:
        from PIL import Image  # noqa: PLC0415 - not needed
    except ImportError:
        for axis in (1, 0):
            index, weights = area_taps(frame.shape[axis], side, 2)
            fixed = np.round(weights * 2**22).astype(np.int32)
            frame = (resample(frame.astype(np.int32), (index, fixed), axis) + 2**21 >> 22).clip(0, 255)
        return frame.astype(np.uint8)
    return np.asarray(Image.fromarray(frame).resize((side, side), Image.Resampling.BICUBIC))


def resize_linear(x: Array, size: Sequence[int]) -> Array:
    """Resize [h, w] to (H, W), linearly, without antialiasing; cells are squares around their centres."""
    for axis in (0, 1):
        count = x.shape[axis]
        centre = np.arange(size[axis], dtype=np.float32) + np.float32(0.5)
        place = (centre * np.float32(count / size[axis]) - np.float32(0.5)).clip(0)
        low = np.minimum(place.astype(np.int64), count - 1)
        taps = np.stack([low, np.minimum(low + 1, count - 1)], 1), np.stack([low + 1 - place, place - low], 1)
        x = resample(x, taps, axis)
    return x


def area_taps(old: int, new: int, reach: int) -> tuple[Array, Array]:
    """Return indices and weights [new, K] for resizing `old` to `new` positions, linear (reach 1) or bicubic (2)."""
    scale, support = old / new, reach * max(old / new, 1)
    centre = (np.arange(new) + 0.5) * scale
    first = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    last = np.minimum((centre + support + 0.5).astype(np.int64), old)
    index = first[:, None] + np.arange((last - first).max())
    x = np.abs((index - centre[:, None] + 0.5) / max(scale, 1))
    cubic = np.where(x < 1, (1.5 * x - 2.5) * x * x + 1, np.where(x < 2, -0.5 * (((x - 5) * x + 8) * x - 4), 0))
    weights = (np.maximum(0, 1 - x) if reach == 1 else cubic) * (index < last[:, None])
    return np.minimum(index, old - 1), weights / weights.sum(1, keepdims=True)


def resample(x: Array, taps: tuple[Array, Array], axis: int) -> Array:
    """Weigh and add up the entries of an axis, in the data type of x."""
    shape, pairs = [-1 if i == axis else 1 for i in range(x.ndim)], zip(taps[0].T, taps[1].T, strict=True)
    parts = (np.take(x, i, axis) * w.astype(x.dtype).reshape(shape) for i, w in pairs)
    return sum(parts, start=np.zeros((), x.dtype))


def to_bfloat16(x: Array) -> Array:
    """Round float32 to the upper 16 bits, ties to even."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def from_bfloat16(bits: Array) -> Array:
    """Widen 16 bits to float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def natural_key(file: Path) -> tuple[str, str]:
    """Return a key that sorts file names so that 2 comes before 10."""
    return re.sub(r"\d+", lambda digits: digits[0].zfill(20), file.stem.lower()), file.name


def read_video(path: Path) -> Iterator[Array]:
    """Yield the frames of a video file, or of a folder of images in natural order, upright: uint8 RGB [H, W, 3]."""
    if path.is_dir():
        from PIL import Image, ImageOps  # noqa: PLC0415 - for the command only

        images = (file for file in path.iterdir() if file.suffix.lower() in IMAGES and file.name[0] != ".")
        for file in sorted(images, key=natural_key):
            yield np.asarray(ImageOps.exif_transpose(Image.open(file)).convert("RGB"))
        return
    import av  # noqa: PLC0415 - for video files only

    try:
        with av.open(str(path)) as video:
            for frame in video.decode(video=0):
                rgb, matrix = frame.to_ndarray(format="rgb24"), frame.side_data.get("DISPLAYMATRIX")
                a, b, _, c, d = (1, 0, 0, 0, 1) if matrix is None else np.frombuffer(bytes(matrix), "<i4")[:5]
                if abs(b) > abs(a):  # height and width change places
                    rgb, a, d = rgb.transpose(1, 0, 2), c, b
                yield rgb[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    except (av.FFmpegError, IndexError) as error:
        raise I2VPPOnnxError(f"{path} cannot be read as a video: {error}") from error


def write(folder: Path, frame: Array, result: FrameMasks) -> None:
    """Write a frame's mask, a PNG whose pixels are object ids, and its overlay, a JPEG; both are named by its index."""
    from PIL import Image  # noqa: PLC0415 - for the command only

    colours = np.random.default_rng(1332).integers(64, 256, (256, 3), np.uint8)
    colours[0] = 0
    ids = np.zeros(frame.shape[:2], np.uint8)
    for obj_id, mask in zip(result.obj_ids, result.masks, strict=True):
        ids[(mask > 0) & (ids == 0)] = obj_id
    masks, overlay = (Image.fromarray(pixels) for pixels in (ids, frame // 2 + colours[ids] // 2))
    masks.putpalette(colours.tobytes())
    for kind, picture, suffix in (("masks", masks, "png"), ("overlay", overlay, "jpg")):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        picture.save(folder / kind / f"{result.frame_idx:05}.{suffix}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(allow_abbrev=False, description="Track what is prompted on a video's first frame.")
    parser.add_argument("video", type=Path, help="video file, or folder of images")
    parser.add_argument("--box", action="append", default=[], help="x0,y0,x1,y1: an object; repeatable")
    parser.add_argument("--point", action="append", default=[], help="x,y: an object; repeatable")
    parser.add_argument("-o", "--output", type=Path, default=Path("tracked"), help="folder for the results")
    parser.add_argument("--max-frames", type=int, help="only the first frames")
    chosen = parser.parse_args(argv)
    prompts: list[dict[str, Any]] = [{"box": box.split(",")} for box in chosen.box]
    prompts += [{"points": [point.split(",")], "labels": [1]} for point in chosen.point]
    if not 1 <= len(prompts) <= 255:
        parser.error(f"give --box or --point, once for each of 1 to 255 objects; got {len(prompts)}")
    if chosen.max_frames is not None and chosen.max_frames < 1:
        parser.error(f"--max-frames must be at least 1; got {chosen.max_frames}")
    try:
        tracker = I2VPPOnnx(Path(__file__).parent)
        for frame in itertools.islice(read_video(chosen.video), chosen.max_frames):
            result = tracker.step(frame)
            for number, prompt in enumerate(prompts if result.frame_idx == 0 else (), start=1):
                result = tracker.add_points_or_box(number, **prompt)
            write(chosen.output, frame, result)
        if tracker.frame_idx < 0:
            raise I2VPPOnnxError(f"{chosen.video} holds no frames")
    except (I2VPPOnnxError, OSError, ImportError) as error:
        hint = ": pip install pillow av" if isinstance(error, ImportError) else ""
        print(f"i2vpp_onnx.py: error: {error}{hint}", file=sys.stderr)
        return 1
    print(f"wrote {tracker.frame_idx + 1} frames to {chosen.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
