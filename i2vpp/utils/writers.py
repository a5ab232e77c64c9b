"""All files that a tracking run leaves behind: index masks, overlay video, RLE masks and scores.

Every writer appends as frames come, in constant memory, and leaves valid files when it is closed early. An error at a
later frame leaves the finished frames as they are.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from i2vpp.structures import FrameResult
from i2vpp.utils.cutouts import CutoutPngs, CutoutVideo, cutout_writer
from i2vpp.utils.overlay_video import OverlayWriter
from i2vpp.utils.result_files import (
    MaskWriter,
    RleWriter,
    ScoreWriter,
    UInt8,
    VideoInfo,
    check_object_ids,
    index_map,
    index_name,
    is_written_here,
)
from i2vpp.utils.signals import uninterrupted
from i2vpp.utils.visualize import overlay

_MASK_NAME = re.compile(r"\d{5,}\.png")
_SPOOL_PREFIX = ".masks-"


@dataclass(frozen=True, kw_only=True)
class OutputChoice:
    """Which files are wanted.

    Args:
        masks: `masks/00000.png`, indexed PNGs whose pixels are object ids.
        overlay: `overlay.mp4`.
        rle: `masks.json`, COCO RLE.
        scores: `scores.csv`.
        alpha: cut-outs, one of `i2vpp.utils.cutouts.ALPHA_FORMATS`; None for none.
    """

    masks: bool = True
    overlay: bool = True
    rle: bool = False
    scores: bool = True
    alpha: str | None = None

    def __bool__(self) -> bool:
        return self.masks or self.overlay or self.rle or self.scores or self.alpha is not None


@dataclass(frozen=True, kw_only=True)
class FrameAccess:
    """What writers need of the frames of a video.

    Args:
        read: returns a frame as uint8 RGB [H, W, 3]; used for the overlay.
        name: returns what the mask of a frame is called.
        time: returns when a frame is shown, in seconds from the start of the video; None where that is not known.
    """

    read: Callable[[int], UInt8]
    name: Callable[[int], str] = index_name
    time: Callable[[int], float | None] = lambda frame_idx: None


class VideoFrame(NamedTuple):
    """What the files take from the video; the picture is None where no file takes it at once."""

    picture: UInt8 | None
    time: float | None


@dataclass(frozen=True, kw_only=True)
class PreparedFrame:
    """A frame as the files take it.

    Args:
        result: result of the frame.
        frame: what the files take from the video.
        picture: its picture for the overlay video [H, W, 3], or None.
        mask: content of its mask file, or None.
    """

    result: FrameResult
    frame: VideoFrame
    picture: UInt8 | None
    mask: bytes | None


class ResultWriter:
    """All chosen files of one tracking run in one folder.

    Args:
        folder: made if need be.
        choice: choice of the files.
        video: size and rate.
        frames: pictures, names and times of the frames.
        in_order: frames will come in the order of the video, so that the overlay can be written at once. Otherwise
            their masks wait on disk, and the overlay is made in the order of the video on `close`.
    """

    def __init__(
        self, folder: Path, choice: OutputChoice, video: VideoInfo, frames: FrameAccess, *, in_order: bool = True
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._choice = choice
        self._source = frames
        self._in_order = in_order
        self._frames: dict[int, tuple[int, ...]] = {}
        self._cut_short: str | None = None
        self._spool: Path | None = None
        self._masks: MaskWriter | None = None
        if choice.masks:
            self._masks = MaskWriter(folder / "masks", frames.name)
        elif choice.overlay and not in_order:
            self._spool = Path(tempfile.mkdtemp(prefix=_SPOOL_PREFIX, dir=folder))
            self._masks = MaskWriter(self._spool)
        self._overlay = OverlayWriter(folder / "overlay.mp4", video.fps) if choice.overlay else None
        self._rle = RleWriter(folder / "masks.json", video) if choice.rle else None
        self._scores = ScoreWriter(folder / "scores.csv") if choice.scores else None
        self._cutouts: CutoutPngs | CutoutVideo | None = None
        if choice.alpha is not None:
            self._cutouts = cutout_writer(folder, choice.alpha, fps=video.fps, name=frames.name)

    @property
    def frames(self) -> list[int]:
        """The frames that all files hold so far, in the order of the video."""
        return sorted(self._frames)

    @property
    def problems(self) -> list[str]:
        """What is wrong with files that do not hold all frames, one sentence each; complete after `close`."""
        of_overlay = (self._overlay and self._overlay.problem) or self._cut_short
        of_cutouts = self._cutouts and self._cutouts.problem
        return [problem for problem in (of_overlay, self._rle and self._rle.problem, of_cutouts) if problem]

    def add(self, result: FrameResult) -> None:
        """Write a frame to all files; a frame that was written before is passed over.

        Raises:
            OSError: a file cannot be written. The others stay as they are; `close` finishes what can be finished.
        """
        if result.frame_idx not in self._frames:
            with uninterrupted():
                self.write(self.prepare(result, self.read(result.frame_idx)))

    def read(self, frame_idx: int) -> VideoFrame:
        """Read what `prepare` needs of the video."""
        is_shown = self._is_drawn_at_once or self._cutouts is not None
        return VideoFrame(self._source.read(frame_idx) if is_shown else None, self._source.time(frame_idx))

    @property
    def _is_drawn_at_once(self) -> bool:
        return self._overlay is not None and self._in_order

    def prepare(self, result: FrameResult, frame: VideoFrame) -> PreparedFrame:
        """Draw and encode what belongs to a frame; may be called from any thread, and for several frames at once.

        Args:
            result: result of the frame.
            frame: result of `read`.

        Returns:
            What `write` takes.
        """
        if not (self._choice.masks or self._choice.overlay):
            return PreparedFrame(result=result, frame=frame, picture=None, mask=None)
        check_object_ids(result.obj_ids)
        index = index_map(result)
        return PreparedFrame(
            result=result,
            frame=frame,
            picture=_draw(frame.picture, index, result.obj_ids)
            if self._is_drawn_at_once and frame.picture is not None
            else None,
            mask=None if self._masks is None else self._masks.encode(index),
        )

    def write(self, prepared: PreparedFrame) -> None:
        """Write a frame to all files; see `add`. Frames are written by one thread at a time, in the order of tracking.

        Raises:
            OSError: a file cannot be written.
        """
        result = prepared.result
        if result.frame_idx in self._frames:
            return
        shown, time = prepared.frame
        if self._overlay is not None and prepared.picture is not None:
            self._overlay.add(prepared.picture, time)
        if self._masks is not None and prepared.mask is not None:
            self._masks.write(result.frame_idx, prepared.mask)
        if self._cutouts is not None and shown is not None:
            self._cutouts.add(result.frame_idx, shown, (result.masks[:, 0] > 0).any(0).cpu().numpy(), time)
        if self._rle is not None:
            self._rle.add(result)
        if self._scores is not None:
            self._scores.add(result, time)
        self._frames[result.frame_idx] = tuple(result.obj_ids)

    def close(self, progress: Callable[[list[int]], Iterable[int]] = iter) -> None:
        """Finish all files with the frames written so far, each of them even if another one cannot be finished.

        Ctrl-C ends an overlay that is made now early.

        Args:
            progress: wraps the frames of an overlay that is made now, `tqdm` for example.

        Raises:
            OSError, I2VPPError: a file cannot be finished; `problems` says what is left of all such files.
        """
        with ExitStack() as last:  # the last entry is called first; a later error has the earlier one as its context
            if self._spool is not None:
                last.callback(shutil.rmtree, self._spool, ignore_errors=True)
            if self._overlay is not None:
                last.callback(_held_back, self._overlay.close)
                last.callback(self._make_overlay, self._overlay, progress)
            for writer in (self._scores, self._rle, self._cutouts, self._overlay if self._in_order else None):
                if writer is not None:
                    last.callback(_held_back, writer.close)

    def _make_overlay(self, writer: OverlayWriter, progress: Callable[[list[int]], Iterable[int]]) -> None:
        if self._in_order or self._masks is None:
            return
        try:
            for frame_idx in progress(self.frames):
                with uninterrupted():
                    picture = _draw(self._source.read(frame_idx), self._masks.read(frame_idx), self._frames[frame_idx])
                    writer.add(picture, self._source.time(frame_idx))
        finally:
            if writer.count < len(self._frames):
                self._cut_short = f"overlay.mp4 holds the first {writer.count} of {len(self._frames)} frames"

    def paths(self) -> list[Path]:
        """Return the files and folders that were written."""
        choice = self._choice
        chosen = {
            "masks": choice.masks,
            "overlay.mp4": choice.overlay,
            "masks.json": choice.rle,
            "scores.csv": choice.scores,
            "cutouts": choice.alpha == "png",
            f"cutouts.{choice.alpha}": choice.alpha in ("webm", "mov"),
        }
        return [path for name, wanted in chosen.items() if wanted and (path := self._folder / name).exists()]


def _draw(frame: UInt8, index: UInt8, obj_ids: Sequence[int]) -> UInt8:
    return overlay(frame, index, obj_ids, labels=len(obj_ids) > 1)


def _held_back(close: Callable[[], None]) -> None:
    with uninterrupted():
        close()


def remove_results(folder: Path) -> None:
    """Delete the files of an earlier run; other files in the folder stay."""
    videos = ("overlay.mp4", "cutouts.webm", "cutouts.mov")
    for name in (*videos, "overlay.png", "masks.json", "masks.json.partial", "scores.csv"):
        (folder / name).unlink(missing_ok=True)
    for spool in folder.glob(f"{_SPOOL_PREFIX}*"):
        shutil.rmtree(spool)
    for pictures in (folder / "masks", folder / "cutouts"):
        if not pictures.is_dir():
            continue
        for path in pictures.glob("*.png"):
            if _MASK_NAME.fullmatch(path.name) or is_written_here(path):
                path.unlink()
        if not any(pictures.iterdir()):
            pictures.rmdir()
