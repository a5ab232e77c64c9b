"""Frames as pages show them: JPEGs of the width asked for, in a bounded cache."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Callable

import numpy as np
from PIL import Image

from i2vpp.session.video import FrameSource

CACHE_BYTES = 192 * 2**20
MIN_WIDTH, MAX_WIDTH = 16, 8192
QUALITY = 88


class JpegCache:
    """The most recently used JPEGs of all videos, bounded in bytes. All methods may be called from any thread."""

    def __init__(self, capacity: int = CACHE_BYTES) -> None:
        self._capacity = capacity
        self._bytes = 0
        self._images: OrderedDict[tuple[str, int, int], bytes] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def num_bytes(self) -> int:
        """Bytes held."""
        return self._bytes

    def get(self, key: tuple[str, int, int]) -> bytes | None:
        """Return the JPEG of (video id, frame, width), or None if it is not in the cache."""
        with self._lock:
            if key in self._images:
                self._images.move_to_end(key)
            return self._images.get(key)

    def put(self, key: tuple[str, int, int], jpeg: bytes) -> None:
        """Keep a JPEG, and drop the least recently used ones beyond the capacity.

        Args:
            key: video id, frame and width.
            jpeg: the encoded picture.
        """
        with self._lock:
            self._bytes += len(jpeg) - len(self._images.pop(key, b""))
            self._images[key] = jpeg
            while self._bytes > self._capacity:
                _, oldest = self._images.popitem(last=False)
                self._bytes -= len(oldest)


def to_jpeg(frame: np.ndarray, width: int) -> bytes:
    """Encode a frame as a JPEG.

    Args:
        frame: uint8 RGB [H, W, 3].
        width: largest width in pixels; a wider frame is scaled down to it.

    Returns:
        The content of the JPEG file.
    """
    image = Image.fromarray(frame)
    if width < image.width:
        height = max(round(image.height * width / image.width), 1)
        image = image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


class FrameReader:
    """The frames of one video for display, apart from those that the network reads; used by one thread at a time.

    Args:
        video_id: under which JPEGs are cached.
        open_frames: opens the video.
        cache: shared by all videos.
    """

    def __init__(self, video_id: str, open_frames: Callable[[], FrameSource], cache: JpegCache) -> None:
        self._id = video_id
        self._open = open_frames
        self._cache = cache
        self._source: FrameSource | None = None

    @property
    def source(self) -> FrameSource:
        """The video, opened when first asked for."""
        if self._source is None:
            self._source = self._open()
        return self._source

    def held(self, t: int, width: int) -> bytes | None:
        """Return a JPEG from the cache, or None if it is not there. May be called from any thread.

        Args:
            t: index of the frame.
            width: exact width in pixels.
        """
        return self._cache.get((self._id, t, width))

    def jpeg(self, t: int, width: int) -> bytes:
        """Return a frame as JPEG, from the cache or else decoded and encoded now.

        Args:
            t: index of the frame.
            width: largest width in pixels.

        Raises:
            IndexError: there is no such frame.
            VideoError: it cannot be read.
        """
        width = min(width, self.source.width)
        held = self.held(t, width)
        if held is not None:
            return held
        jpeg = to_jpeg(self.source[t], width)
        self._cache.put((self._id, t, width), jpeg)
        return jpeg

    def close(self) -> None:
        """Close the video; the next use opens it again."""
        if self._source is not None:
            self._source.close()
            self._source = None
