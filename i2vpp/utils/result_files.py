"""Files of one kind that tracking leaves behind: index masks, RLE masks and scores.

Every writer appends as frames come, in constant memory. A file that cannot be written stays as it was after the frame
before.
"""

from __future__ import annotations

import csv
import importlib
import io
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from i2vpp.errors import I2VPPError
from i2vpp.structures import FrameResult
from i2vpp.utils.files import atomic_write
from i2vpp.utils.suggest import how_to_install
from i2vpp.utils.visualize import davis_palette

UInt8 = NDArray[np.uint8]

MAX_OBJECT_ID = 255
_SOFTWARE = "i2vpp"
"""Text in the header of mask PNGs by which a later run recognises them, whatever their names, and replaces them."""


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What writers need to know of a video; `fps` is None where the source has no clock."""

    height: int
    width: int
    fps: float | None = None
    num_frames: int | None = None


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
        raise I2VPPError(f"COCO RLE needs pycocotools: {how_to_install('coco')}") from error


def index_map(result: FrameResult) -> UInt8:
    """Return [H, W] object ids: the object with the highest logit, or 0 where no logit is positive."""
    logits = result.masks[:, 0]
    if not len(logits):
        return np.zeros(tuple(logits.shape[1:]), np.uint8)
    best, position = logits.max(0)
    numbers = torch.where(best > 0, position + 1, 0).to(torch.uint8)
    # The ids stay on the CPU: what waits for a GPU is the one copy of the numbers.
    found: UInt8 = np.array([0, *result.obj_ids], np.uint8)[numbers.cpu().numpy()]
    return found


def save_index_mask(path: str | PathLike[str], result: FrameResult) -> None:
    """Write the masks of a frame as one PNG of object ids with the palette of DAVIS.

    Args:
        path: path of the file.
        result: result of the frame.

    Raises:
        I2VPPError: an id is none of 1 to 255.
        OSError: the file cannot be written; an earlier file stays.
    """
    check_object_ids(result.obj_ids)
    image = Image.fromarray(index_map(result)).convert("P")
    image.putpalette(davis_palette())
    write_png(Path(path), image)


def write_png(path: Path, image: Image.Image, **options: Any) -> None:
    """Write an image as a PNG that appears only when it is complete.

    Args:
        path: path of the file.
        image: image to write.
        options: options of Pillow's PNG writer.

    Raises:
        OSError: it cannot be written; an earlier file stays.
    """
    write_whole(path, png_content(image, **options))


def png_content(image: Image.Image, **options: Any) -> bytes:
    """Return an image as the content of a PNG file.

    Args:
        image: the image.
        options: options of Pillow's PNG writer.

    Returns:
        The content.
    """
    content = io.BytesIO()
    image.save(content, "PNG", **options)
    return content.getvalue()


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that appears only when it is complete.

    Args:
        path: path of the file.
        content: all of it.

    Raises:
        OSError: it cannot be written; an earlier file stays.
    """
    with atomic_write(path) as file:
        file.write(content)


def index_name(frame_idx: int) -> str:
    """Return what the mask of a frame without a name is called: its index, in five digits."""
    return f"{frame_idx:05d}"


def marked() -> PngInfo:
    """Return the text by which `is_written_here` recognises a PNG."""
    mark = PngInfo()
    mark.add_text("Software", _SOFTWARE)
    return mark


class MaskWriter:
    """Index masks in a folder, with the palette of DAVIS.

    Args:
        folder: made if need be.
        name: returns what a frame is called; its mask is `<name>.png`. By default its index: `00000.png` and on.
    """

    def __init__(self, folder: Path, name: Callable[[int], str] = index_name) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._name = name
        self._palette = davis_palette()
        self._mark = marked()

    def add(self, frame_idx: int, index: UInt8) -> None:
        """Write the mask of one frame; its file appears only when it is complete.

        Args:
            frame_idx: index of the frame.
            index: [H, W] object ids.
        """
        self.write(frame_idx, self.encode(index))

    def encode(self, index: UInt8) -> bytes:
        """Return object ids [H, W] as the content of a file; may be called from any thread."""
        image = Image.fromarray(index).convert("P")
        image.putpalette(self._palette)
        return png_content(image, pnginfo=self._mark)

    def write(self, frame_idx: int, content: bytes) -> None:
        """Write the file of one frame; it appears only when it is complete.

        Args:
            frame_idx: index of the frame.
            content: result of `encode`.
        """
        write_whole(self.path(frame_idx), content)

    def read(self, frame_idx: int) -> UInt8:
        """Return the [H, W] ids of a written frame."""
        with Image.open(self.path(frame_idx)) as image:
            return np.array(image)

    def path(self, frame_idx: int) -> Path:
        """Return the file of a frame."""
        return self.folder / f"{self._name(frame_idx)}.png"


class _Appended:
    """A file that grows by whole records: one that cannot be written leaves the file as it was before.

    Args:
        path: path of the file, whose earlier content is dropped.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("wb", buffering=0)
        self.size = 0

    def append(self, record: bytes) -> None:
        """Write a record at once; raise OSError if that is not possible."""
        try:
            written = 0
            while written < len(record):
                written += self._file.write(record[written:])
        except OSError as error:
            self._file.truncate(self.size)
            raise _named(error, self._path) from error
        self.size += len(record)

    def close(self) -> None:
        """Close the file once its records are on the disk."""
        if self._file.closed:
            return
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise _named(error, self._path) from error
        finally:
            self._file.close()


def _named(error: OSError, path: Path) -> OSError:
    return OSError(error.errno, error.strerror, str(path))


class RleWriter:
    """COCO RLE masks: `{"video": {...}, "objects": {"1": {"0": {"size": [H, W], "counts": "..."}}}}`.

    Lines, `{"object": 1, "frame": 0, "rle": {...}}`, are appended to `<name>.partial` as frames come and put in order,
    by object and frame, when it is closed.

    Args:
        path: path of the file, whose earlier content is replaced.
        video: the video.
        names: names of the objects. With them the file has these, `"names": {"1": "cup"}`, and each mask has an
            `object_score` (a logit) and a `predicted_iou` beside its size and counts, null where they are not known.

    Attributes:
        problem: what is wrong with the file after an error, in words; None as long as there was none.
    """

    def __init__(self, path: Path, video: VideoInfo, names: Mapping[int, str] | None = None) -> None:
        self.problem: str | None = None
        self._names = names
        self._path = path
        self._coco = require_coco()
        self._video = video
        self._partial = path.with_name(path.name + ".partial")
        self._lines = _Appended(self._partial)
        self._offsets: dict[int, dict[int, int]] = {}
        self._closed = False

    def add(self, result: FrameResult) -> None:
        """Append a frame; objects without a mask and a score there are left out, as their tracking has not begun."""
        masks = (result.masks[:, 0] > 0).cpu().numpy()
        scores = result.object_scores.tolist()
        lines: list[bytes] = []
        places: list[tuple[int, int]] = []
        end = self._lines.size
        ious = result.predicted_ious.tolist()
        for obj_id, mask, score, iou in zip(result.obj_ids, masks, scores, ious, strict=True):
            if math.isnan(score) and not mask.any():
                continue
            rle = self._coco.encode(np.asfortranarray(mask, dtype=np.uint8))
            record = {"size": list(mask.shape), "counts": rle["counts"].decode("ascii")}
            if self._names is not None:
                known = {"object_score": score, "predicted_iou": iou}
                record |= {key: None if math.isnan(value) else value for key, value in known.items()}
            line = json.dumps({"object": obj_id, "frame": result.frame_idx, "rle": record}).encode() + b"\n"
            places.append((obj_id, end))
            lines.append(line)
            end += len(line)
        self._lines.append(b"".join(lines))
        for obj_id, offset in places:
            self._offsets.setdefault(obj_id, {})[result.frame_idx] = offset

    def close(self) -> None:
        """Write the JSON file; further calls do nothing.

        Raises:
            OSError: it cannot be written; its lines are kept in the partial file.
        """
        if self._closed:
            return
        self._closed = True
        self.problem = f"{self._path.name} could not be written; its masks are in {self._partial.name}, one a line"
        self._lines.close()
        try:
            with atomic_write(self._path, "w") as file, self._partial.open("rb") as lines:
                names = "" if self._names is None else f'"names": {json.dumps(self._names, ensure_ascii=False)},\n'
                file.write(f'{{"video": {json.dumps(vars(self._video))},\n{names}"objects": {{')
                for position, obj_id in enumerate(sorted(self._offsets)):
                    file.write(f'{"," if position else ""}\n"{obj_id}": {{')
                    _write_object(file, lines, self._offsets[obj_id])
                    file.write("}")
                file.write("}}\n")
        except OSError as error:
            raise _named(error, self._path) from error
        self._partial.unlink()
        self.problem = None


def _write_object(file: IO[str], lines: IO[bytes], offsets: dict[int, int]) -> None:
    for position, frame_idx in enumerate(sorted(offsets)):
        lines.seek(offsets[frame_idx])
        record = json.dumps(json.loads(lines.readline())["rle"])
        file.write(f'{"," if position else ""}\n"{frame_idx}": {record}')


class ScoreWriter:
    """A CSV table with one row per frame and object, in the order of tracking; unknown numbers are left empty."""

    COLUMNS = ("frame", "time", "object", "object_score", "predicted_iou", "area", "bad_frame")

    def __init__(self, path: Path) -> None:
        self._file = _Appended(path)
        self._append([self.COLUMNS])

    def add(self, result: FrameResult, time: float | None = None) -> None:
        """Append the rows of a frame.

        `area` counts the pixels of the object's own mask, overlaps included. `bad_frame` is 1 where the frame cannot be
        decoded and the one before was tracked in its place, else 0.

        Args:
            result: result of the frame.
            time: time at which it is shown, in seconds from the start of the video; None where that is not known.
        """
        areas = (result.masks[:, 0] > 0).sum((1, 2)).tolist()
        scores, ious = result.object_scores.tolist(), result.predicted_ious.tolist()
        shown = "" if time is None else f"{time:.6f}"
        self._append(
            [
                (result.frame_idx, shown, obj_id, _number(score), _number(iou), area, int(result.bad_frame))
                for obj_id, score, iou, area in zip(result.obj_ids, scores, ious, areas, strict=True)
            ]
        )

    def _append(self, rows: Iterable[Sequence[object]]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        self._file.append(text.getvalue().encode())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6g}"


def is_written_here(path: Path) -> bool:
    """Whether a PNG is marked as written by `MaskWriter` or as a cut-out, whatever it is called."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            return image.info.get("Software") == _SOFTWARE
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False
