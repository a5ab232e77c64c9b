"""Videos of overlays: with the timing of their source, and playable even if writing fails on the way."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from i2vpp.errors import I2VPPError
from i2vpp.utils.files import sync_file

UInt8 = NDArray[np.uint8]

DEFAULT_FPS = 24
FASTEST = 1000
"""Frames per second; a higher rate is taken for a mistake in a file's header and ignored."""
SLOWEST = Fraction(1, 1_000_000)
"""Frames per second, about one in twelve days."""

_TICKS, _SLOW_TICKS = 90_000, 10_000
"""Units of time in a second; with fewer of them, videos of less than a frame per second may have longer gaps."""
_LONGEST = 2**31 - 1
"""Units of time from one frame to the next that an mp4 file can hold."""
_HYBRID_MP4 = (61, 7, 100)  # libavformat of FFmpeg 7.1: files stay playable when the process is killed


class OverlayWriter:
    """An H.264 video (yuv420p) of frames in the order they are added; odd sizes are padded by one pixel.

    A frame is shown at its time, counted from the time of the first frame that is added; without a time, one period of
    `fps` after the frame before. The file is made with the first frame.

    Args:
        path: path of the mp4 file.
        fps: frames per second of the source; None, 0 and rates over 1000 become 24.

    Attributes:
        count: how many frames were added.
        pixel_format: FFmpeg's name of the format of added images; a class for another one overrides it and `_open`.
        problem: what is wrong with the file after an error, in words; None if it holds all frames.
    """

    pixel_format = "rgb24"

    def __init__(self, path: Path, fps: float | None) -> None:
        self.problem: str | None = None
        self._path = path
        self._rate = _usable_rate(fps)
        self._tick = _tick(self._rate)
        self._container: Any = None
        self._stream: Any = None
        self.count = 0
        self._start: float | None = None  # time of the first frame; None: the source has no clock
        self._shown = 0  # when the latest frame is shown, in ticks
        self._duration = round(1 / self._rate / self._tick)  # of the latest frame, in ticks

    def add(self, image: UInt8, time: float | None = None) -> None:
        """Append an RGB image [H, W, 3]; all must have one size.

        Args:
            image: uint8.
            time: time at which it is shown, in seconds from any moment; None where the source has no clock.

        Raises:
            OSError: the file cannot be written. The writer takes no more frames then, but must be closed.
            I2VPPError: the frame cannot be encoded.
        """
        height, width = image.shape[:2]
        if height % 2 or width % 2:
            image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        with self._reporting():
            if self._container is None:
                self._open(image.shape[0], image.shape[1])
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format=self.pixel_format)
            frame.pts, frame.time_base = self._next(time), self._tick
            self._container.mux(self._stream.encode(frame))
        self.count += 1

    def _next(self, time: float | None) -> int:
        """Return when the next frame is shown, in ticks."""
        period = round(1 / self._rate / self._tick)
        if self.count == 0:
            self._start = time if time is not None and math.isfinite(time) else None
            return 0
        if time is None or not math.isfinite(time) or self._start is None:
            shown = self._shown + period
        elif self.count == 1 and time - self._start < 1 / FASTEST:
            self._start = None  # times that run backwards or over 1000 frames per second are not used
            shown = period
        else:
            shown = round((time - self._start) / self._tick)
        shown = min(max(shown, self._shown + 1), self._shown + _LONGEST)
        # The last frame is shown as long as the one before, but not longer than the mean, which a gap would exceed.
        self._duration = min(shown - self._shown, max(1, shown // self.count))
        self._shown = shown
        return shown

    def _open(self, height: int, width: int) -> None:
        options = {}
        if av.library_versions["libavformat"] >= _HYBRID_MP4:
            options["movflags"] = "hybrid_fragmented"
        self._container = av.open(str(self._path), "w", format="mp4", options=options)
        encoder = "libx264" if "libx264" in av.codecs_available else "h264"
        self._stream = self._container.add_stream(encoder, rate=min(max(self._rate, Fraction(1)), Fraction(240)))
        self._stream.codec_context.time_base = self._tick
        self._stream.width, self._stream.height = width, height
        self._stream.pix_fmt = "yuv420p"
        # No B-frames: in fragments, they would move the first frame away from time 0.
        options = {"crf": "20", "preset": "veryfast", "g": "48", "bf": "0"}
        self._stream.options = options if encoder == "libx264" else {}

    def close(self) -> None:
        """Finish the file; further calls do nothing.

        After an error, here or earlier, the file is cut where it stops being playable, or deleted where nothing of it
        is, and `problem` says which.

        Raises:
            OSError, I2VPPError: it cannot be finished.
        """
        container, self._container = self._container, None
        if container is None:
            return
        try:
            if self.problem is None:
                with self._reporting():
                    self._finish(container)
        finally:
            if self.problem is not None:
                with suppress(OSError, av.FFmpegError):
                    container.close()
                self.problem = self._salvage()

    def _finish(self, container: Any) -> None:
        packets = self._stream.encode(None)
        if packets:
            packets[-1].duration = self._duration
        container.mux(packets)
        container.close()
        sync_file(self._path)

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except (OSError, av.FFmpegError) as error:
            self.problem = f"{self._path.name} is not finished"
            if isinstance(error, OSError) and error.errno is not None:
                raise OSError(error.errno, error.strerror, str(self._path)) from error
            raise I2VPPError(f"cannot write {self._path}: {error}") from error

    def _salvage(self) -> str | None:
        """Cut the file to what is playable and return a sentence on what is left; None if all frames are."""
        name = self._path.name
        try:
            kept = _cut_to_whole_fragments(self._path)
        except (OSError, av.FFmpegError):
            kept = 0
        if kept:
            return None if kept >= self.count else f"{name} holds the first {kept} of {self.count} frames"
        with suppress(OSError):
            self._path.unlink(missing_ok=True)
        return f"{name} could not be finished and is deleted"


def _usable_rate(fps: float | None) -> Fraction:
    if fps is None or not math.isfinite(fps) or not SLOWEST <= fps <= FASTEST:
        return Fraction(DEFAULT_FPS)
    return Fraction(fps).limit_denominator(1001 if fps >= 1 else 10**9)


def _tick(rate: Fraction) -> Fraction:
    """Return a unit of time in seconds: fine, and such that a period of the rate is a multiple of it."""
    if rate < 1:
        return Fraction(1, _SLOW_TICKS)
    return Fraction(1, rate.numerator * math.ceil(_TICKS / rate.numerator))


def _cut_to_whole_fragments(path: Path) -> int:
    """Cut an mp4 file after its last whole box of media data; return how many frames it holds then."""
    end, whole = 0, True
    for kind, box_end in _boxes(path):
        if box_end is None:
            whole = False
        elif kind == b"mdat":
            end = box_end
    if not whole:
        os.truncate(path, end)
    with av.open(str(path)) as container:
        return sum(packet.size > 0 for packet in container.demux(video=0))


def _boxes(path: Path) -> Iterator[tuple[bytes, int | None]]:
    """Yield kind and end of each box of an mp4 file; None for the end of one that was cut off."""
    size = path.stat().st_size
    with path.open("rb") as file:
        position = 0
        while position < size:
            file.seek(position)
            head = file.read(16)
            length = int.from_bytes(head[:4], "big")
            if length == 1:
                length = int.from_bytes(head[8:16], "big")
            position += length
            is_whole = len(head) >= 8 and length >= 8 and position <= size
            yield head[4:8], position if is_whole else None
            if not is_whole:
                return
