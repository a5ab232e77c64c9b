"""Little videos for tests: a moving disc with its masks, frames that carry their index, and files of both."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np

from i2vpp.session.video import FrameSource

BITS = 8


def moving_disc(
    num_frames: int, height: int = 48, width: int = 64, *, seed: int = 0
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return uint8 RGB frames [H, W, 3] of a bright disc on a still, textured background, and its bool masks [H, W]."""
    rng = np.random.default_rng(seed)
    background = rng.integers(20, 110, size=(height, width, 3), dtype=np.uint8)
    y, x = np.mgrid[:height, :width]
    radius = min(height, width) / 6
    frames, masks = [], []
    for t in range(num_frames):
        progress = t / max(num_frames - 1, 1)
        centre_x = radius + progress * (width - 1 - 2 * radius)
        centre_y = height / 2 + np.sin(2 * np.pi * progress) * height / 6
        mask = (x - centre_x) ** 2 + (y - centre_y) ** 2 <= radius**2
        frames.append(np.where(mask[..., None], np.array([250, 220, 60], np.uint8), background))
        masks.append(mask)
    return frames, masks


def numbered(num_frames: int, height: int = 32, width: int = 64) -> list[np.ndarray]:
    """Return frames whose index can be read back with `number_of`, also after lossy coding."""
    return [numbered_frame(i, height, width) for i in range(num_frames)]


def numbered_frame(number: int, height: int = 32, width: int = 64) -> np.ndarray:
    """Draw `number` as eight vertical black or white stripes, lowest bit at the left."""
    frame = np.empty((height, width, 3), np.uint8)
    for bit, columns in enumerate(np.array_split(np.arange(width), BITS)):
        frame[:, columns] = 235 if number >> bit & 1 else 20
    return frame


def number_of(frame: np.ndarray) -> int:
    """Read back the number that `numbered_frame` drew."""
    stripes = np.array_split(frame.mean(axis=(0, 2)), BITS)
    return sum(int(stripe.mean() > 127) << bit for bit, stripe in enumerate(stripes))


@contextmanager
def usual_priority() -> Iterator[None]:
    """Give this thread its priority back: SVT-AV1, run by root, makes the thread that opens it a real-time one.

    All that the thread starts inherits that, such as a browser, which then leaves no time to other tests.
    """
    is_known = hasattr(os, "sched_getscheduler")
    before = (os.sched_getscheduler(0), os.sched_getparam(0)) if is_known else None
    try:
        yield
    finally:
        if before is not None:
            os.sched_setscheduler(0, *before)


@usual_priority()
def write_video(
    path: str | Path,
    frames: list[np.ndarray],
    *,
    fps: int = 24,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    pts: list[int] | None = None,
) -> Path:
    """Encode uint8 RGB frames (even height and width) into `path` and return it.

    Args:
        path: the file; its suffix chooses the container.
        frames: [H, W, 3] each.
        fps: frames per second, and the unit of `pts`.
        codec: an encoder that FFmpeg knows.
        options: options of the encoder, such as {"g": "12", "bf": "2"}.
        pts: presentation time of each frame in 1 / fps seconds, for variable frame rates.
    """
    path = Path(path)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options=options or {})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for i, array in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(array), format="rgb24")
            frame.pts = i if pts is None else pts[i]
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def read_all(source: FrameSource) -> list[np.ndarray]:
    """Read a source in order up to its end, without asking for its length."""
    frames: list[np.ndarray] = []
    while True:
        try:
            frames.append(source[len(frames)])
        except IndexError:
            return frames


def numbers(source: FrameSource, indices: Iterable[int]) -> list[int]:
    """Read back the numbers of some frames of a `numbered` video."""
    return [number_of(source[i]) for i in indices]


def turned(mp4: bytes, matrix: tuple[int, int, int, int]) -> bytes:
    """Give a video file another display matrix: a, b, c, d take (x, y) to (a x + c y, b x + d y)."""
    one, (a, b, c, d) = 1 << 16, matrix
    upright = struct.pack(">9i", one, 0, 0, 0, one, 0, 0, 0, 1 << 30)
    other = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    at = mp4.index(upright, mp4.index(b"tkhd"))
    return mp4[:at] + other + mp4[at + len(other) :]
