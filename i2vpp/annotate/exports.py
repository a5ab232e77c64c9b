"""Annotations as files: SA-V and DAVIS masks, COCO RLE, an overlay video.

sav:      `<object>/<frame>.png`, black and white PNGs of one bit; objects may overlap. An empty PNG says that the
          object is known to be absent; a frame without a PNG was not annotated, which readers take as empty, too
davis:    `<frame>.png`, palette PNGs of object ids, of the frames with any annotation. Where objects overlap, the one
          with the smaller mask on that frame lies on top, of equal ones the higher id
coco:     `masks.json` with names and scores, see `RleWriter`
overlay:  `overlay.mp4`, the objects that are not hidden in their colours, overlaps as in davis

Objects are named by their ids, three digits in SA-V; `objects.json` tells their names and colours. `<frame>` is the
name of the frame's file, or its index, such as 00012.
"""

from __future__ import annotations

import json
import shutil
import struct
import zlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import av
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ImageColor

from i2vpp.annotate.errors import CancelledError, DiskFullError, MaskFolderError, is_disk_full
from i2vpp.annotate.store import Annotation
from i2vpp.annotate.values import StoredMask
from i2vpp.errors import I2VPPError
from i2vpp.structures import FrameResult
from i2vpp.utils.arrays import Mask
from i2vpp.utils.files import atomic_write, sync_files, sync_folder
from i2vpp.utils.json_files import read_json
from i2vpp.utils.overlay_video import OverlayWriter
from i2vpp.utils.result_files import MaskWriter, RleWriter, VideoInfo
from i2vpp.utils.visualize import overlay

UInt8 = NDArray[np.uint8]
Kind: TypeAlias = Literal["sav", "davis", "coco", "overlay"]

KINDS: tuple[Kind, ...] = get_args(Kind)
OBJECTS_FILE = "objects.json"
MADE_BY = "i2vpp annotate"


@dataclass(frozen=True, kw_only=True)
class Footage:
    """The video that was annotated.

    Args:
        frames: how many there are.
        read_frame: returns a frame as uint8 RGB [H, W, 3]; called for overlays only.
        fps: frames per second; None where the source has no clock.
        time: returns when a frame is shown, in seconds from the start; None where that is not known.
        frame_names: names of the frames' files without suffix; None: indices with five digits.

    Raises:
        MaskFolderError: two frames have one name.
    """

    frames: int
    read_frame: Callable[[int], UInt8]
    fps: float | None = None
    time: Callable[[int], float | None] = lambda frame: None
    frame_names: Sequence[str] | None = None

    def __post_init__(self) -> None:
        seen = Counter(self.frame_names or ())
        if twice := [name for name, count in seen.items() if count > 1]:
            raise MaskFolderError(
                f"two frames are called {twice[0]!r}, so that their masks would overwrite each other; rename one"
            )

    def name(self, frame: int) -> str:
        """Return what a frame's files are called, without suffix."""
        return f"{frame:05d}" if self.frame_names is None else self.frame_names[frame]


def export(
    annotation: Annotation,
    folder: Path,
    kind: Kind,
    *,
    footage: Footage,
    every: int = 1,
    progress: Callable[[int, int], object] = lambda done, total: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Path:
    """Write an annotation into a folder, which appears only when it is whole and replaces an earlier export.

    Args:
        annotation: annotation that is written; it may change meanwhile, and each frame is written as it is then.
        folder: missing, empty, or an earlier export.
        kind: kind of the files, see the module.
        footage: the video.
        every: only frames 0, n, 2n, ...; an overlay then runs at the n-th part of its rate.
        progress: function that is given the number of frames written, and of all.
        cancelled: function that says, before each frame, whether to stop.

    Returns:
        The folder.

    Raises:
        MaskFolderError: there is no mask to export, the folder holds something else, or files cannot be written.
        DiskFullError: no space is left.
        CancelledError: `cancelled` said so.
        I2VPPError: a frame cannot be read, or a package is missing.
    """
    if kind not in KINDS or every < 1:
        raise MaskFolderError(f"cannot export {kind!r} of every {every}. frame; allowed: {', '.join(KINDS)}, 1 or more")
    if not annotation.summary().annotated:
        raise MaskFolderError("there is no mask to export yet; prompt an object first")
    chosen = range(0, footage.frames, every)
    with _in_words(folder), _new_folder(folder) as partial:
        with _finished(_WRITERS[kind](partial, annotation, footage, every)) as writer:
            for done, frame in enumerate(chosen, 1):
                if cancelled():
                    raise CancelledError(f"the export to {folder} was cancelled; nothing of it is left")
                writer.add(frame, annotation.masks(frame))
                progress(done, len(chosen))
        _write_objects(partial / OBJECTS_FILE, annotation, footage, {"kind": kind, "every": every})
    return folder


class _Writer(ABC):
    """Writes the masks of an annotation, frame by frame, into a folder."""

    def __init__(self, folder: Path, annotation: Annotation, footage: Footage, every: int) -> None:
        self._folder, self._footage = folder, footage
        self._size = annotation.height, annotation.width
        self._file: Any = None  # the only file that has to be closed, where there is one

    @abstractmethod
    def add(self, frame: int, masks: Mapping[int, StoredMask]) -> None:
        """Write the masks of a frame, by object id."""

    def close(self) -> None:
        """Finish the files."""
        if self._file is not None:
            self._file.close()


@contextmanager
def _finished(writer: _Writer) -> Iterator[_Writer]:
    """Close a writer after the block. After an error its files get deleted, so that errors of `close` do not matter."""
    try:
        yield writer
    except BaseException:
        with suppress(OSError, I2VPPError):
            writer.close()
        raise
    writer.close()


class _SavWriter(_Writer):
    def add(self, frame: int, masks: Mapping[int, StoredMask]) -> None:
        for obj_id, mask in masks.items():
            folder = self._folder / f"{obj_id:03d}"
            folder.mkdir(exist_ok=True)
            content = one_bit_png(mask.decode(*self._size))
            (folder / f"{self._footage.name(frame)}.png").write_bytes(content)  # `_new_folder` flushes all at once


class _DavisWriter(_Writer):
    def __init__(self, folder: Path, annotation: Annotation, footage: Footage, every: int) -> None:
        super().__init__(folder, annotation, footage, every)
        self._files = MaskWriter(folder, footage.name)

    def add(self, frame: int, masks: Mapping[int, StoredMask]) -> None:
        if masks:
            self._files.add(frame, resolve_overlaps(masks, self._size))


class _CocoWriter(_Writer):
    def __init__(self, folder: Path, annotation: Annotation, footage: Footage, every: int) -> None:
        super().__init__(folder, annotation, footage, every)
        video = VideoInfo(height=self._size[0], width=self._size[1], fps=footage.fps, num_frames=footage.frames)
        names = {info.id: info.name for info in annotation.objects()}
        self._file = RleWriter(folder / "masks.json", video, names)

    def add(self, frame: int, masks: Mapping[int, StoredMask]) -> None:
        if masks:
            stack = torch.from_numpy(np.stack([mask.decode(*self._size) for mask in masks.values()]))
            scores = torch.tensor([mask.score for mask in masks.values()], dtype=torch.float32)
            ious = torch.tensor([mask.iou for mask in masks.values()], dtype=torch.float32)
            self._file.add(FrameResult(frame, list(masks), stack[:, None], scores, ious))


class _OverlayFile(_Writer):
    def __init__(self, folder: Path, annotation: Annotation, footage: Footage, every: int) -> None:
        super().__init__(folder, annotation, footage, every)
        self._file = OverlayWriter(folder / "overlay.mp4", None if footage.fps is None else footage.fps / every)
        self._colors = {info.id: _rgb(info.color) for info in annotation.objects() if not info.hidden}

    def add(self, frame: int, masks: Mapping[int, StoredMask]) -> None:
        shown = {obj_id: mask for obj_id, mask in masks.items() if obj_id in self._colors}
        index, labels = resolve_overlaps(shown, self._size), len(self._colors) > 1
        picture = overlay(self._footage.read_frame(frame), index, list(shown), labels=labels, colors=self._colors)
        self._file.add(picture, self._footage.time(frame))


_WRITERS: Mapping[Kind, Callable[[Path, Annotation, Footage, int], _Writer]] = {
    "sav": _SavWriter,
    "davis": _DavisWriter,
    "coco": _CocoWriter,
    "overlay": _OverlayFile,
}


def one_bit_png(mask: Mask) -> bytes:
    """Return the content of a black and white PNG of one bit.

    Pillow takes five times as long, as it turns bits into bytes and back, and an export has a file for each object on
    each frame.

    Args:
        mask: bool [H, W]; true is white.
    """
    height, width = mask.shape
    rows = np.pad(np.packbits(mask, axis=1), ((0, 0), (1, 0)))  # each begins with its filter: 0, none
    pack = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_RLE)
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)  # grey of one bit, not interlaced
    chunks = ((b"IHDR", head), (b"IDAT", pack.compress(rows.tobytes()) + pack.flush()), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def resolve_overlaps(masks: Mapping[int, StoredMask], size: tuple[int, int]) -> UInt8:
    """Return an index mask, in which a smaller mask covers a larger one, and of equal ones the higher id the lower.

    Args:
        masks: masks by object id.
        size: height and width in pixels.

    Returns:
        [H, W] object ids; 0 is the background.
    """
    index = np.zeros(size, np.uint8)
    for obj_id in sorted(masks, key=lambda one: (-masks[one].area, one)):
        index[masks[obj_id].decode(*size)] = obj_id
    return index


def _rgb(color: str) -> tuple[int, int, int]:
    red, green, blue = ImageColor.getrgb(color)[:3]
    return red, green, blue


def _write_objects(path: Path, annotation: Annotation, footage: Footage, choice: Mapping[str, Any]) -> None:
    video = {
        "name": annotation.video,
        "height": annotation.height,
        "width": annotation.width,
        "fps": footage.fps,
        "frames": footage.frames,
    }
    objects = {info.id: {"name": info.name, "color": info.color} for info in annotation.objects()}
    content = {"made_by": MADE_BY, **choice, "video": video, "objects": objects}
    with atomic_write(path, "w") as file:
        file.write(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """Yield a new folder that replaces `folder` if the block ends without an error, and is deleted otherwise."""
    if folder.exists() and not _replaceable(folder):
        raise MaskFolderError(f"{folder} is no earlier export and is not overwritten; choose another folder")
    partial, old = (folder.with_name(f".{folder.name}.{word}") for word in ("partial", "old"))
    for left in (partial, old):  # left over from a process that was killed
        if left.exists():
            shutil.rmtree(left)
    try:
        partial.mkdir(parents=True)
        yield partial
        sync_files(partial)
        if folder.exists():
            folder.rename(old)
        partial.rename(folder)
        sync_folder(folder.parent)
    finally:
        for left in (partial, old):
            shutil.rmtree(left, ignore_errors=True)


def _replaceable(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    try:
        content = read_json(folder / OBJECTS_FILE)
    except (OSError, ValueError):
        return not any(folder.iterdir())
    return isinstance(content, dict) and content.get("made_by") == MADE_BY


@contextmanager
def _in_words(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, av.FFmpegError) as error:
        if is_disk_full(error):
            raise DiskFullError(
                f"no space is left on the disk of {folder}; nothing of the export is left. Free some and try again"
            ) from error
        raise MaskFolderError(f"cannot write {folder}: {error}") from error
