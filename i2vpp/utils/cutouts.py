"""Cut-outs: the objects of a video on a transparent background, as PNGs or as a video with alpha."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from i2vpp.utils.overlay_video import OverlayWriter
from i2vpp.utils.result_files import index_name, marked, write_png
from i2vpp.utils.visualize import cut_out

UInt8 = NDArray[np.uint8]

ALPHA_FORMATS = ("png", "webm", "mov")
"""`cutouts/00000.png`, `cutouts.webm` (VP9), `cutouts.mov` (ProRes 4444)."""


class CutoutPngs:
    """Cut-outs as PNGs (RGBA) in a folder.

    Args:
        folder: made if need be.
        name: returns what a frame is called; its file is `<name>.png`.

    Attributes:
        problem: None; a file that cannot be written does not appear.
    """

    def __init__(self, folder: Path, name: Callable[[int], str] = index_name) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.problem: str | None = None
        self.path = folder
        self._name = name

    def add(self, frame_idx: int, frame: UInt8, mask: NDArray[np.bool_], time: float | None = None) -> None:
        """Write a frame.

        Args:
            frame_idx: index of the frame.
            frame: uint8 RGB [H, W, 3].
            mask: bool [H, W], of all objects.
            time: not used; a PNG has no time.
        """
        write_png(self.path / f"{self._name(frame_idx)}.png", cut_out(frame, mask), pnginfo=marked())

    def close(self) -> None:
        """Do nothing: every file is complete."""


class CutoutVideo:
    """Cut-outs as a video with alpha, with the timing of its source.

    Args:
        path: path of the file; the suffix `.webm` stands for VP9, `.mov` for ProRes 4444.
        fps: frames per second of the source; see `OverlayWriter`.
    """

    def __init__(self, path: Path, fps: float | None) -> None:
        self.path = path
        self._video = _Vp9(path, fps) if path.suffix == ".webm" else _ProRes(path, fps)

    @property
    def problem(self) -> str | None:
        """What is wrong with the file after an error, in words; None if it holds all frames."""
        return self._video.problem

    def add(self, frame_idx: int, frame: UInt8, mask: NDArray[np.bool_], time: float | None = None) -> None:
        """Append a frame; see `CutoutPngs.add`.

        Args:
            frame_idx: not used: frames come in order.
            frame: uint8 RGB [H, W, 3].
            mask: bool [H, W], of all objects.
            time: when it is shown, in seconds; None where the source has no clock.

        Raises:
            OSError: the file cannot be written.
            I2VPPError: the frame cannot be encoded.
        """
        self._video.add(np.asarray(cut_out(frame, mask)), time)

    def close(self) -> None:
        """Finish the file; see `OverlayWriter.close`."""
        self._video.close()


class _Vp9(OverlayWriter):
    pixel_format = "rgba"

    def _open(self, height: int, width: int) -> None:
        options = {"crf": "24", "b": "0", "deadline": "realtime", "cpu-used": "6", "row-mt": "1"}
        self._add_stream("webm", "libvpx-vp9", ("yuva420p", height, width), options)

    def _add_stream(self, container: str, encoder: str, frame: tuple[str, int, int], options: dict[str, str]) -> None:
        self._container = av.open(str(self._path), "w", format=container)
        stream: Any = self._container.add_stream(encoder, rate=min(max(self._rate, Fraction(1)), Fraction(240)))
        stream.codec_context.time_base = self._tick
        stream.pix_fmt, stream.height, stream.width = frame
        stream.options = options
        self._stream = stream

    def _salvage(self) -> str | None:
        """Delete a file that is not finished: nothing of it plays everywhere."""
        with suppress(OSError):
            self._path.unlink(missing_ok=True)
        return f"{self._path.name} could not be finished and is deleted"


class _ProRes(_Vp9):
    def _open(self, height: int, width: int) -> None:
        self._add_stream("mov", "prores_ks", ("yuva444p10le", height, width), {"profile": "4444", "vendor": "apl0"})


def cutout_writer(
    folder: Path, kind: str, *, fps: float | None, name: Callable[[int], str] = index_name
) -> CutoutPngs | CutoutVideo:
    """Return the writer of cut-outs of a kind.

    Args:
        folder: folder of the results.
        kind: one of `ALPHA_FORMATS`.
        fps: frames per second of the source.
        name: returns what a frame is called.
    """
    if kind == "png":
        return CutoutPngs(folder / "cutouts", name)
    return CutoutVideo(folder / f"cutouts.{kind}", fps)
