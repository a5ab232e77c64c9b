"""A synthetic video: discs that move over a texture."""

from __future__ import annotations

import io
from collections.abc import Iterator

import av
import numpy as np

from benchmarking.cases import Settings


def disc_masks(settings: Settings, objects: int, t: int = 0) -> list[np.ndarray]:
    """Return the bool masks [H, W] of the discs on frame t."""
    y, x = np.mgrid[: settings.height, : settings.width].astype(np.float32)
    radius = max(2.0, min(settings.height / 8, settings.width / (3 * objects)))
    rows = [settings.height * (0.5 + 0.25 * np.sin(0.1 * t + number)) for number in range(objects)]
    columns = [(number + 0.5) / objects * settings.width for number in range(objects)]
    return [(x - column) ** 2 + (y - row) ** 2 <= radius**2 for row, column in zip(rows, columns, strict=True)]


def make_frames(settings: Settings, objects: int, count: int) -> Iterator[np.ndarray]:
    """Yield uint8 RGB frames [H, W, 3]."""
    y, x = np.mgrid[: settings.height, : settings.width].astype(np.float32)
    texture = 90 + 40 * np.sin(x / 17) * np.cos(y / 23) + 20 * np.sin(x * y / 5000)
    background = np.stack([texture, 0.8 * texture, 200 - texture], axis=2).astype(np.uint8)
    for t in range(count):
        frame = background.copy()
        for number, mask in enumerate(disc_masks(settings, objects, t)):
            frame[mask] = (250, 220 - 20 * (number % 8), 60 + 20 * (number % 8))
        yield frame


def make_video(settings: Settings, objects: int) -> bytes | list[np.ndarray]:
    """Return a video of `settings.num_frames` frames: an H.264 file, or the decoded frames if the settings say so."""
    if settings.decoded:
        return list(make_frames(settings, objects, settings.num_frames))
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        options = {"preset": "ultrafast", "crf": "23"}
        stream = container.add_stream("libx264", rate=24, options=options)
        stream.width, stream.height, stream.pix_fmt = settings.width, settings.height, "yuv420p"
        for frame in make_frames(settings, objects, settings.num_frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()
