"""Converting images of more than 8 bits per value to 8 bits."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from i2vpp.utils.notices import warn_user

UInt8 = NDArray[np.uint8]

_DEPTHS = (8, 10, 12, 14, 16)
"""Bits per value of cameras and scanners; a 16-bit file may hold values of any of these depths."""

_WITHOUT_ALPHA = {"rgb48": "rgb48le", "rgba64": "rgb48le", "ya16": "gray16le"}
"""FFmpeg's formats of 16 bits, without the byte order, and what they are converted to; values stay the same."""


@dataclass(frozen=True)
class ValueRange:
    """The values that become 0 and 255; others are clipped."""

    low: float
    high: float

    @classmethod
    def of(cls, low: float, high: float, *, floating: bool) -> ValueRange:
        """Return the range that images with given smallest and largest values are scaled by.

        Whole numbers count from 0 to the end of the smallest of 8, 10, 12, 14 and 16 bits that holds them, and floats
        within 0 and 1 from 0 to 1. Anything else is scaled from its smallest to its largest value.

        Args:
            low: smallest value.
            high: largest value.
            floating: the values are floats.
        """
        if floating:
            return cls(0.0, 1.0) if 0 <= low <= high <= 1 else cls(low, high)
        ends = (2**bits - 1 for bits in _DEPTHS if 0 <= low and high < 2**bits)
        end = next(ends, None)
        return cls(low, high) if end is None else cls(0, end)

    def to_uint8(self, values: NDArray[Any]) -> UInt8:
        """Scale values [H, W] or [H, W, 3]; NaN becomes 0."""
        numbers = np.nan_to_num(values.astype(np.float64), nan=self.low).clip(self.low, self.high)
        scaled: UInt8 = ((numbers - self.low) * (255 / (self.high - self.low or 1.0))).round().astype(np.uint8)
        return scaled


class DeepScale:
    """Converts images of more than 8 bits to 8 bits: all images of a video by one range, which is chosen once.

    Args:
        name: what the warning calls the video.
        samples: returns images of the video, or their files, whose values decide on the range; by default, or where
            none can be read, the first image does.
    """

    def __init__(self, name: str, samples: Callable[[], Iterable[Any]] = tuple) -> None:
        self._name = name
        self._samples = samples
        self._range: ValueRange | None = None
        self._table = np.zeros(0, np.uint8)  # by values of 16 bits, so that they are not scaled anew in each image
        self._lock = threading.Lock()

    def to_uint8(self, values: NDArray[Any]) -> UInt8:
        """Return the `deep_values` of an image in 8 bits; the first call says what is done, as a warning."""
        with self._lock:
            if self._range is None:
                self._range = self._choose(values)
                self._table = self._range.to_uint8(np.arange(2**16))
        return self._table[values] if values.dtype == np.uint16 else self._range.to_uint8(values)

    def _choose(self, values: NDArray[Any]) -> ValueRange:
        seen = list(_values_of(self._samples())) or [values]
        limits = [(float(x.min()), float(x.max())) for x in (v[np.isfinite(v)] for v in seen) if x.size] or [(0.0, 0.0)]
        low, high = min(low for low, _ in limits), max(high for _, high in limits)
        found = ValueRange.of(low, high, floating=any(np.issubdtype(v.dtype, np.floating) for v in seen))
        if found != ValueRange(0, 255):
            warn_user(
                f"{self._name}: values of more than 8 bits (seen: {low:g} to {high:g}) are scaled to 8 bits; "
                f"in all frames, {found.low:g} becomes black and {found.high:g} white"
            )
        return found


def deep_values(image: Image.Image) -> NDArray[Any] | None:
    """Return the values of an image whose pixels have more than 8 bits per value; None for other images.

    Pillow clips grey ones to 0 to 255, and reads the upper 8 bits only of those in colour or with alpha: these are read
    by FFmpeg, if Pillow has not decoded them yet. Alpha is dropped.

    Returns:
        [H, W] or [H, W, 3], of integers or floats.
    """
    if image.mode.partition(";")[0] in ("I", "F"):
        return np.asarray(image)
    return _read_16_bits(image) if _has_16_bits(image) else None


def _has_16_bits(image: Image.Image) -> bool:
    """Whether the file of an image that is not decoded yet holds 16 bits per value, by what Pillow's decoder is told.

    That is a format such as `RGB;16B`, in a PPM file the largest value.
    """
    if image.mode not in ("RGB", "RGBA", "LA") or image.tell():
        return False
    arguments = [tile[3] for tile in getattr(image, "tile", ())[:1]]
    if arguments and isinstance(arguments[0], tuple):
        arguments = list(arguments[0])
    is_ppm = image.format == "PPM" and len(arguments) > 1 and arguments[1] > 255
    return is_ppm or any(isinstance(argument, str) and ";16" in argument for argument in arguments)


def _read_16_bits(image: Image.Image) -> NDArray[Any] | None:
    """Decode the file of an image with FFmpeg; None where it cannot, or finds another format or size."""
    file: Any = getattr(image, "fp", None)
    try:
        position = file.tell()
        file.seek(0)
        data = file.read()
        file.seek(position)
        with av.open(io.BytesIO(data)) as container:
            frame = next(container.decode(video=0))
            values: NDArray[Any] = frame.to_ndarray(format=_WITHOUT_ALPHA[frame.format.name[:-2]])
    except (OSError, ValueError, AttributeError, LookupError, StopIteration, av.error.FFmpegError):
        return None
    return values if values.shape[:2] == (image.height, image.width) else None


def _values_of(samples: Iterable[Any]) -> Iterator[NDArray[Any]]:
    for sample in samples:
        values = None
        if isinstance(sample, Image.Image):
            values = deep_values(sample)
        elif isinstance(sample, (str, os.PathLike)):
            try:
                with Image.open(sample) as image:
                    values = deep_values(image)
            except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
                continue  # the error is raised when the frame itself is read
        if values is not None:
            yield values
