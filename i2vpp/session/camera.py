"""Frames of a webcam, by FFmpeg's devices: video4linux2 on Linux, AVFoundation on macOS, DirectShow on Windows."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from i2vpp.errors import VideoError
from i2vpp.utils.brief import brief

UInt8 = NDArray[np.uint8]


def camera_input(device: int | str, platform: str = sys.platform) -> tuple[str, str]:
    """Return FFmpeg's name of a camera and of the format that reads it.

    Args:
        device: number of a camera, from 0 on, or its name: `/dev/video2`, `FaceTime HD Camera`, `Integrated Camera`.
        platform: as `sys.platform`.

    Raises:
        VideoError: it is neither, or a number on Windows, where cameras only have names.
    """
    number = int(device) if isinstance(device, str) and device.isdecimal() else device
    if isinstance(number, bool) or not isinstance(number, (int, str)) or number in ("",) or str(number).startswith("-"):
        raise VideoError(f"a camera is a number from 0 on, or a name; got {brief(device)}")
    if platform == "darwin":
        return str(number), "avfoundation"
    if platform == "win32":
        if isinstance(number, int):
            raise VideoError(
                f"on Windows a camera has a name, such as 'Integrated Camera', and no number; got {number}"
            )
        return f"video={number}", "dshow"
    return (f"/dev/video{number}" if isinstance(number, int) else number), "v4l2"


class Camera:
    """The frames of a webcam as they come: a context manager that is iterated over once.

    FFmpeg keeps a few frames while nobody asks for one, and drops what comes after; so masks may be late by these.

    Args:
        device: see `camera_input`.

    Attributes:
        name: what messages call the camera.
        height: of the frames in pixels.
        width: of the frames in pixels.
        fps: frames per second, as the camera says; None where it does not.
        time: when the latest frame was taken, in seconds since the first one; None where the camera has no clock.

    Raises:
        VideoError: there is no such camera, or it cannot be read.
    """

    def __init__(self, device: int | str = 0) -> None:
        file, kind = camera_input(device)
        self.name = f"camera {device} ({file})"
        self.time: float | None = None
        self._start: float | None = None
        try:
            self._container: Any = av.open(file, format=kind)
            self._stream = self._container.streams.video[0]
        except (OSError, ValueError, IndexError) as error:  # FFmpeg's errors are of these kinds
            raise VideoError(f"{self.name} cannot be opened: {error}{_hint(kind)}") from error
        self.height = int(self._stream.codec_context.height)
        self.width = int(self._stream.codec_context.width)
        rate = self._stream.average_rate
        self.fps = float(rate) if rate else None

    def __enter__(self) -> Camera:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __iter__(self) -> Iterator[UInt8]:
        """Yield frames as uint8 RGB [H, W, 3] until the camera ends or is closed.

        Raises:
            VideoError: the camera fails, as when it is unplugged.
        """
        try:
            for frame in self._container.decode(self._stream):
                if frame.time is not None:
                    self._start = frame.time if self._start is None else self._start
                    self.time = frame.time - self._start
                yield frame.to_ndarray(format="rgb24")
        except (OSError, ValueError) as error:
            raise VideoError(f"{self.name} cannot be read any more: {error}") from error

    def close(self) -> None:
        """Let go of the camera."""
        self._container.close()


def _hint(kind: str) -> str:
    """Say which cameras there are, as far as that is known."""
    if kind != "v4l2":
        return "; is it connected, and may this program use it?"
    there = sorted(str(path) for path in Path("/dev").glob("video*"))
    return f"; cameras of this machine: {', '.join(there)}" if there else "; this machine has no camera"
