"""Converting grey images of more than 8 bits to 8 bits."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from i2vpp.utils.notices import warn_user

UInt8 = NDArray[np.uint8]

_DEPTHS = (8, 10, 12, 14, 16)
"""Bits per value of cameras and scanners; a 16-bit file may hold values of any of these depths."""


@dataclass(frozen=True)
class GreyRange:
    """The values that become 0 and 255; others are clipped."""

    low: float
    high: float

    @classmethod
    def of(cls, low: float, high: float, *, floating: bool) -> GreyRange:
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
        """Scale values [H, W]; NaN becomes 0."""
        numbers = np.nan_to_num(values.astype(np.float64), nan=self.low).clip(self.low, self.high)
        scaled: UInt8 = ((numbers - self.low) * (255 / (self.high - self.low or 1.0))).round().astype(np.uint8)
        return scaled


class GreyScale:
    """Converts grey images of more than 8 bits to 8 bits: all images of a video by one range, which is chosen once.

    Args:
        name: what the warning calls the video.
        samples: returns images of the video, or their files, whose values decide on the range; by default, or where
            none can be read, the first image does.
    """

    def __init__(self, name: str, samples: Callable[[], Iterable[Any]] = tuple) -> None:
        self._name = name
        self._samples = samples
        self._range: GreyRange | None = None
        self._lock = threading.Lock()

    def to_uint8(self, image: Image.Image) -> UInt8:
        """Return the grey values [H, W] of an image that `is_deep`; the first call says what is done, as a warning."""
        values = np.asarray(image)
        with self._lock:
            if self._range is None:
                self._range = self._choose(values)
        return self._range.to_uint8(values)

    def _choose(self, values: NDArray[Any]) -> GreyRange:
        seen = list(_deep_values(self._samples())) or [values]
        limits = [(float(x.min()), float(x.max())) for x in (v[np.isfinite(v)] for v in seen) if x.size] or [(0.0, 0.0)]
        low, high = min(low for low, _ in limits), max(high for _, high in limits)
        found = GreyRange.of(low, high, floating=any(np.issubdtype(v.dtype, np.floating) for v in seen))
        if found != GreyRange(0, 255):
            warn_user(
                f"{self._name}: grey values of more than 8 bits (seen: {low:g} to {high:g}) are scaled to 8 bits; "
                f"in all frames, {found.low:g} becomes black and {found.high:g} white"
            )
        return found


def is_deep(image: Image.Image) -> bool:
    """Whether an image is grey with more than 8 bits, which Pillow would clip to 0 to 255."""
    return image.mode.partition(";")[0] in ("I", "F")


def _deep_values(samples: Iterable[Any]) -> Iterator[NDArray[Any]]:
    for sample in samples:
        if isinstance(sample, Image.Image) and is_deep(sample):
            yield np.asarray(sample)
        elif isinstance(sample, (str, os.PathLike)):
            try:
                with Image.open(sample) as image:
                    if is_deep(image):
                        yield np.asarray(image)
            except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
                continue  # the error is raised when the frame itself is read
