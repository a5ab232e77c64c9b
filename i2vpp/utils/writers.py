"""Files that tracking leaves behind: index masks, overlay video, RLE masks and scores.

Every writer appends as frames come, keeps memory flat and leaves valid files when it is closed early. A finished frame
survives whatever happens to a later one.
"""

from __future__ import annotations

import csv
import importlib
import json
import math
import re
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, TextIO

import av
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from i2vpp.errors import I2VPPError
from i2vpp.structures import FrameResult
from i2vpp.utils.visualize import davis_palette, overlay

UInt8 = NDArray[np.uint8]

DEFAULT_FPS = 24
MAX_OBJECT_ID = 255
_HYBRID_MP4 = (61, 7, 100)  # libavformat of FFmpeg 7.1: files stay playable when the process is killed
_MASK_NAME = re.compile(r"\d{5,}\.png")
_SPOOL_PREFIX = ".masks-"


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What writers need to know of a video; `fps` is None where the source has no clock."""

    height: int
    width: int
    fps: float | None = None
    num_frames: int | None = None


@dataclass(frozen=True, kw_only=True)
class OutputChoice:
    """Which files are wanted.

    Args:
        masks: `masks/00000.png`, indexed PNGs whose pixels are object ids.
        overlay: `overlay.mp4`.
        rle: `masks.json`, COCO RLE.
        scores: `scores.csv`.
    """

    masks: bool = True
    overlay: bool = True
    rle: bool = False
    scores: bool = True

    def __bool__(self) -> bool:
        return self.masks or self.overlay or self.rle or self.scores


def check_object_ids(obj_ids: Sequence[int]) -> None:
    """Raise I2VPPError where an id is no index of a PNG: 1 to 255, 0 is the background."""
    outside = sorted({obj_id for obj_id in obj_ids if not 1 <= obj_id <= MAX_OBJECT_ID})
    if outside:
        raise I2VPPError(
            f"object ids must be 1 to {MAX_OBJECT_ID} in mask PNGs and overlays, got {', '.join(map(str, outside))}; "
            "renumber them, or write --json and --scores only (--no-masks --no-overlay)"
        )


def require_coco() -> Any:
    """Return `pycocotools.mask`, or raise I2VPPError that says how to install it."""
    try:
        return importlib.import_module("pycocotools.mask")
    except ImportError as error:
        raise I2VPPError('COCO RLE needs pycocotools: pip install "i2vpp[coco]"') from error


def index_map(result: FrameResult) -> UInt8:
    """Return [H, W] object ids: the object with the highest logit, or 0 where no logit is positive."""
    logits = result.masks[:, 0]
    if not len(logits):
        return np.zeros(tuple(logits.shape[1:]), np.uint8)
    best, position = logits.max(0)
    ids = torch.tensor(result.obj_ids, dtype=torch.uint8, device=logits.device)
    found: UInt8 = torch.where(best > 0, ids[position], ids.new_zeros(())).cpu().numpy()
    return found


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold back Ctrl-C until the block is done, so that no file is left half written."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed = []
    previous = signal.signal(signal.SIGINT, lambda *_: pressed.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
    if pressed:
        raise KeyboardInterrupt


class MaskWriter:
    """Index masks in a folder, `00000.png` and on, with the palette of DAVIS."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._palette = davis_palette()

    def add(self, frame_idx: int, index: UInt8) -> None:
        """Write one frame; its file appears only when it is complete."""
        image = Image.fromarray(index).convert("P")
        image.putpalette(self._palette)
        partial = self.folder / ".partial"
        image.save(partial, format="PNG")
        partial.replace(self.path(frame_idx))

    def read(self, frame_idx: int) -> UInt8:
        """Return the [H, W] ids of a written frame."""
        with Image.open(self.path(frame_idx)) as image:
            return np.array(image)

    def path(self, frame_idx: int) -> Path:
        """Return the file of a frame."""
        return self.folder / f"{frame_idx:05d}.png"


class OverlayWriter:
    """An H.264 video (yuv420p) of frames in the order they are added; odd sizes are padded by one pixel.

    No file is made before the first frame.
    """

    def __init__(self, path: Path, fps: float | None) -> None:
        self._path = path
        usable = fps is not None and math.isfinite(fps) and fps > 0
        self._rate = Fraction(fps if usable and fps is not None else DEFAULT_FPS).limit_denominator(1001)
        self._container: Any = None
        self._stream: Any = None
        self._count = 0

    def add(self, image: UInt8) -> None:
        """Append an RGB image [H, W, 3]; all must have one size."""
        if self._container is None:
            self._open(image.shape[0], image.shape[1])
        height, width = image.shape[:2]
        if height % 2 or width % 2:
            image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        frame.pts, frame.time_base = self._count, 1 / self._rate
        self._container.mux(self._stream.encode(frame))
        self._count += 1

    def _open(self, height: int, width: int) -> None:
        options = {}
        if av.library_versions["libavformat"] >= _HYBRID_MP4:
            options["movflags"] = "hybrid_fragmented"
        self._container = av.open(str(self._path), "w", format="mp4", options=options)
        encoder = "libx264" if "libx264" in av.codecs_available else "h264"
        self._stream = self._container.add_stream(encoder, rate=self._rate)
        self._stream.width, self._stream.height = width + width % 2, height + height % 2
        self._stream.pix_fmt = "yuv420p"
        self._stream.options = {"crf": "20", "preset": "veryfast", "g": "48"} if encoder == "libx264" else {}

    def close(self) -> None:
        """Finish the file; further calls do nothing."""
        container, self._container = self._container, None
        if container is not None:
            container.mux(self._stream.encode(None))
            container.close()


class RleWriter:
    """COCO RLE masks: `{"video": {...}, "objects": {"1": {"0": {"size": [H, W], "counts": "..."}}}}`.

    Lines are appended to `<name>.partial` as frames come and put in order, by object and frame, when it is closed.
    """

    def __init__(self, path: Path, video: VideoInfo) -> None:
        self._path = path
        self._coco = require_coco()
        self._video = video
        self._partial = path.with_name(path.name + ".partial")
        self._lines = self._partial.open("w+b")
        self._offsets: dict[int, dict[int, int]] = {}

    def add(self, result: FrameResult) -> None:
        """Append a frame; objects of which nothing is known there yet are left out."""
        masks = (result.masks[:, 0] > 0).cpu().numpy()
        scores = result.object_scores.tolist()
        for obj_id, mask, score in zip(result.obj_ids, masks, scores, strict=True):
            if math.isnan(score) and not mask.any():
                continue
            rle = self._coco.encode(np.asfortranarray(mask, dtype=np.uint8))
            record = {"size": list(mask.shape), "counts": rle["counts"].decode("ascii")}
            self._offsets.setdefault(obj_id, {})[result.frame_idx] = self._lines.tell()
            self._lines.write(json.dumps(record).encode() + b"\n")
        self._lines.flush()

    def close(self) -> None:
        """Write the JSON file; further calls do nothing."""
        if self._lines.closed:
            return
        finished = self._path.with_name(self._path.name + ".tmp")
        with finished.open("w", encoding="utf-8") as file:
            file.write(f'{{"video": {json.dumps(vars(self._video))},\n"objects": {{')
            for position, obj_id in enumerate(sorted(self._offsets)):
                file.write(f'{"," if position else ""}\n"{obj_id}": {{')
                self._write_object(file, self._offsets[obj_id])
                file.write("}")
            file.write("}}\n")
        finished.replace(self._path)
        self._lines.close()
        self._partial.unlink()

    def _write_object(self, file: TextIO, offsets: dict[int, int]) -> None:
        for position, frame_idx in enumerate(sorted(offsets)):
            self._lines.seek(offsets[frame_idx])
            record = self._lines.readline().decode().rstrip()
            file.write(f'{"," if position else ""}\n"{frame_idx}": {record}')


class ScoreWriter:
    """A CSV table, one row per frame and object in the order of tracking; what is not known is left empty."""

    COLUMNS = ("frame", "object", "object_score", "predicted_iou", "area")

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", newline="", encoding="utf-8")
        self._rows = csv.writer(self._file, lineterminator="\n")
        self._rows.writerow(self.COLUMNS)

    def add(self, result: FrameResult) -> None:
        """Append the rows of a frame; `area` counts the pixels of the object's own mask, overlaps included."""
        areas = (result.masks[:, 0] > 0).sum((1, 2)).tolist()
        scores, ious = result.object_scores.tolist(), result.predicted_ious.tolist()
        for obj_id, score, iou, area in zip(result.obj_ids, scores, ious, areas, strict=True):
            self._rows.writerow((result.frame_idx, obj_id, _number(score), _number(iou), area))
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6g}"


class ResultWriter:
    """All chosen files of one tracking run in one folder.

    Args:
        folder: made if need be.
        choice: which files.
        video: size and rate.
        read_frame: returns a frame of the video as uint8 RGB [H, W, 3]; used for the overlay.
        in_order: frames will come in the order of the video, so that the overlay can be written at once. Otherwise
            their masks wait on disk, and the overlay is made in the order of the video on `close`.
    """

    def __init__(
        self,
        folder: Path,
        choice: OutputChoice,
        video: VideoInfo,
        read_frame: Callable[[int], UInt8],
        *,
        in_order: bool = True,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._choice = choice
        self._read_frame = read_frame
        self._in_order = in_order
        self._frames: dict[int, tuple[int, ...]] = {}
        self._spool: Path | None = None
        self._masks: MaskWriter | None = None
        if choice.masks:
            self._masks = MaskWriter(folder / "masks")
        elif choice.overlay and not in_order:
            self._spool = Path(tempfile.mkdtemp(prefix=_SPOOL_PREFIX, dir=folder))
            self._masks = MaskWriter(self._spool)
        self._overlay = OverlayWriter(folder / "overlay.mp4", video.fps) if choice.overlay else None
        self._rle = RleWriter(folder / "masks.json", video) if choice.rle else None
        self._scores = ScoreWriter(folder / "scores.csv") if choice.scores else None

    @property
    def frames(self) -> list[int]:
        """The frames written so far, in the order of the video."""
        return sorted(self._frames)

    def add(self, result: FrameResult) -> None:
        """Write a frame to all files; a frame that was written before is passed over."""
        if result.frame_idx not in self._frames:
            with uninterrupted():
                self._add(result)

    def _add(self, result: FrameResult) -> None:
        if self._choice.masks or self._choice.overlay:
            check_object_ids(result.obj_ids)
            index = index_map(result)
            if self._overlay is not None and self._in_order:
                self._add_overlay(self._overlay, result.frame_idx, index, result.obj_ids)
            if self._masks is not None:
                self._masks.add(result.frame_idx, index)
        if self._rle is not None:
            self._rle.add(result)
        if self._scores is not None:
            self._scores.add(result)
        self._frames[result.frame_idx] = tuple(result.obj_ids)

    def _add_overlay(self, writer: OverlayWriter, frame_idx: int, index: UInt8, obj_ids: Sequence[int]) -> None:
        writer.add(overlay(self._read_frame(frame_idx), index, obj_ids, labels=len(obj_ids) > 1))

    def close(self, progress: Callable[[list[int]], Any] = iter) -> None:
        """Finish all files with the frames there are. Ctrl-C cuts an overlay that is made now short.

        Args:
            progress: wraps the frames of an overlay that is made now, `tqdm` for example.
        """
        try:
            with uninterrupted():
                if self._rle is not None:
                    self._rle.close()
                if self._scores is not None:
                    self._scores.close()
            if self._overlay is not None and self._masks is not None and not self._in_order:
                for frame_idx in progress(self.frames):
                    with uninterrupted():
                        index = self._masks.read(frame_idx)
                        self._add_overlay(self._overlay, frame_idx, index, self._frames[frame_idx])
        finally:
            with uninterrupted():
                if self._overlay is not None:
                    self._overlay.close()
                if self._spool is not None:
                    shutil.rmtree(self._spool, ignore_errors=True)

    def paths(self) -> list[Path]:
        """Return the files and folders that were written."""
        choice = self._choice
        chosen = {
            "masks": choice.masks,
            "overlay.mp4": choice.overlay,
            "masks.json": choice.rle,
            "scores.csv": choice.scores,
        }
        return [path for name, wanted in chosen.items() if wanted and (path := self._folder / name).exists()]


def remove_results(folder: Path) -> None:
    """Delete the files of an earlier run; other files in the folder stay."""
    for name in ("overlay.mp4", "overlay.png", "masks.json", "masks.json.partial", "scores.csv"):
        (folder / name).unlink(missing_ok=True)
    for spool in folder.glob(f"{_SPOOL_PREFIX}*"):
        shutil.rmtree(spool)
    masks = folder / "masks"
    if not masks.is_dir():
        return
    for path in masks.glob("*.png"):
        if _MASK_NAME.fullmatch(path.name):
            path.unlink()
    if not any(masks.iterdir()):
        masks.rmdir()
