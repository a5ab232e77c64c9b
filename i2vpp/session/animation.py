"""Animated images, read by Pillow where FFmpeg cannot read them."""

from __future__ import annotations

import threading
from typing import BinaryIO

import numpy as np
from PIL import Image

from i2vpp.errors import FrameDecodeError, VideoError
from i2vpp.session.sources import FrameSource, to_rgb

READ_ERRORS = (OSError, EOFError, SyntaxError, ValueError, Image.DecompressionBombError)
HEAD_BYTES = 32
MILLISECONDS = 1000


def is_animated_webp(head: bytes) -> bool:
    """Whether a file is an animated WebP, by its first bytes; FFmpeg cannot decode these."""
    return head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and len(head) > 20 and bool(head[20] & 2)


def may_be_animated(head: bytes) -> bool:
    """Whether a file is an image of a format that can be animated, by its first bytes."""
    return head[:4] == b"GIF8" or head[:8] == b"\x89PNG\r\n\x1a\n" or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


class AnimatedImage(FrameSource):
    """An animated WebP, GIF or PNG; frames are composed as they are shown, alpha is dropped.

    Args:
        image: path or binary file object, which is not closed.
        name: what error messages call the source.

    Raises:
        VideoError: Pillow cannot read it.
    """

    def __init__(self, image: str | BinaryIO, name: str) -> None:
        super().__init__(name)
        self._lock = threading.RLock()
        self._ends: list[float] = []  # times in seconds at which the first frames end
        try:
            self._image: Image.Image | None = Image.open(image)
            self._length: int = getattr(self._image, "n_frames", 1)
            self._image.load()
        except READ_ERRORS as error:
            raise VideoError(f"{name} cannot be read as an animated image: {error}") from error
        duration = self._image.info.get("duration", 0)
        self.fps = MILLISECONDS / duration if duration > 0 else None

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, i: int) -> np.ndarray:
        with self._lock:
            self.check(i)
            image = self._opened()
            try:
                image.seek(i)
                image.load()
                if len(self._ends) == i:
                    before = self._ends[-1] if self._ends else 0.0
                    self._ends.append(before + image.info.get("duration", 0) / MILLISECONDS)
                return to_rgb(image, f"frame {i} of {self.name}")
            except READ_ERRORS as error:
                raise FrameDecodeError(f"frame {i} of {self.name} cannot be decoded: {error}") from error

    def check(self, i: int) -> None:
        """Raise IndexError if there is no frame i."""
        if not 0 <= i < self._length:
            raise IndexError(f"{self.name} has {self._length} frames, not a frame {i}")

    def time(self, index: int) -> float | None:
        """Return when a frame is shown, in seconds from frame 0; reads the frames before it, once."""
        with self._lock:
            self.check(index)
            for i in range(len(self._ends), index):
                self[i]
            return self._ends[index - 1] if index else 0.0

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            image, self._image = self._image, None
            if image is not None:
                image.close()

    def _opened(self) -> Image.Image:
        if self._image is None:
            raise VideoError(f"{self.name} is closed")
        return self._image
