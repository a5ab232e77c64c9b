"""Segmentations as COCO, SA-1B and SA-V write them: polygons and run lengths, compressed or not.

Run lengths are taken apart here and not by pycocotools: it leaves the rest of a mask uninitialised where the runs end
early, so that a broken annotation would train on noise without a word. Polygons are drawn by pycocotools.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from i2vpp.utils.writers import require_coco
from training.dataset.errors import DataError
from training.dataset.files import Mask, Size, check_size, image_size

_MAX_DIGITS = 12  # of 5 bits each: what fits into int64


@dataclass(frozen=True, kw_only=True, eq=False)
class RunLengths:
    """A mask as runs of background and object in turn, background first, down the columns from left to right.

    Args:
        size: height and width of the mask.
        lengths: int64 [N], not negative, of the sum height * width.
    """

    size: Size
    lengths: NDArray[np.int64]

    @property
    def area(self) -> int:
        """Pixels of the object."""
        return int(self.lengths[1::2].sum())

    def decode(self) -> Mask:
        """Draw the mask [H, W]."""
        height, width = self.size
        is_object = np.arange(len(self.lengths)) % 2 == 1
        return np.ascontiguousarray(np.repeat(is_object, self.lengths).reshape(width, height).T)


class LazyMasks(Mapping[int, Mask]):
    """Masks [H, W] of the objects on a frame, each drawn when it is asked for, and again when asked again.

    Args:
        runs: by object id; objects without a pixel are left out of the mapping and named in `empty`.
    """

    def __init__(self, runs: Mapping[int, RunLengths]) -> None:
        self._runs = {number: mask for number, mask in runs.items() if mask.area}
        self.empty = frozenset(runs) - frozenset(self._runs)

    def __getitem__(self, number: int) -> Mask:
        return self._runs[number].decode()

    def __iter__(self) -> Iterator[int]:
        return iter(self._runs)

    def __len__(self) -> int:
        return len(self._runs)


def masks_of(annotations: Iterable[Any], *, file: Path, image: Path) -> LazyMasks:
    """Take over the objects of an image from its COCO-style annotations.

    Args:
        annotations: each a mapping with `id` and `segmentation`; crowds (`iscrowd`) are left out.
        file: that holds them, for messages.
        image: that they belong to; its header is read.

    Raises:
        DataError: an annotation is broken, or its mask has another size than the image.
    """
    size = image_size(image)
    runs: dict[int, RunLengths] = {}
    for annotation in annotations:
        if not isinstance(annotation, Mapping) or not _is_integer(annotation.get("id")):
            raise DataError(f"an annotation of {image} in {file} is not a mapping with an integer `id`")
        if annotation.get("iscrowd"):
            continue
        number = annotation["id"]
        where = f"object {number} in {file}"
        if number in runs:
            raise DataError(f"{where} is there twice")
        runs[number] = parse_segmentation(annotation.get("segmentation"), size=size, where=where)
        check_size(runs[number].size, of=where, image=image, image_size=size)
    return LazyMasks(runs)


def parse_segmentation(segmentation: Any, *, size: Size, where: str) -> RunLengths:
    """Read one segmentation.

    Args:
        segmentation: `{"size": [H, W], "counts": ...}`, counts being a list or a compressed string; or a list of
            polygons [x, y, x, y, ...].
        size: height and width that polygons are drawn at.
        where: names the segmentation in messages.

    Raises:
        DataError: it is none of these, or the runs do not fill the mask.
    """
    if isinstance(segmentation, list) and segmentation:
        return _draw(segmentation, size, where)
    match segmentation:
        case {"size": [int(height), int(width)], "counts": counts} if height > 0 and width > 0:
            lengths = _run_lengths(counts, where)
        case _:
            raise DataError(f'{where}: the segmentation must be polygons or {{"size": [H, W], "counts": ...}}')
    if (lengths < 0).any() or lengths.sum() != height * width:
        raise DataError(
            f"{where}: the runs of the mask cover {lengths.sum()} pixels, but it has {width} x {height}; "
            "the annotation is damaged"
        )
    return RunLengths(size=(height, width), lengths=lengths)


def _run_lengths(counts: Any, where: str) -> NDArray[np.int64]:
    """Return int64 [N] of a list of integers or of COCO's compressed string."""
    if isinstance(counts, list) and all(map(_is_integer, counts)):
        return np.array(counts, np.int64)
    if isinstance(counts, str) and counts.isascii():
        counts = counts.encode()
    if isinstance(counts, bytes) and counts:  # as pycocotools has them in memory
        digits = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
        if digits.min() >= 0 and digits.max() < 64 and not digits[-1] & 32:
            return _decompress(digits, where)
    raise DataError(f"{where}: the counts of the mask are neither a list of integers nor a whole compressed string")


def _decompress(digits: NDArray[np.int64], where: str) -> NDArray[np.int64]:
    """Decompress run lengths from characters less 48.

    A number is written in digits of 5 bits, the lowest first; bit 5 says that another digit follows, bit 4 of the last
    one is the sign. From the fourth on, numbers are differences to the run before the last.
    """
    ends = np.flatnonzero((digits & 32) == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    if (ends - starts).max() >= _MAX_DIGITS:
        raise DataError(f"{where}: a run of the mask is longer than any image")
    place = np.arange(len(digits)) - np.repeat(starts, ends - starts + 1)
    numbers: NDArray[np.int64] = np.add.reduceat((digits & 31) << (5 * place), starts)
    numbers -= np.where(digits[ends] & 16, np.int64(1) << (5 * (place[ends] + 1)), 0)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers


def _draw(polygons: list[Any], size: Size, where: str) -> RunLengths:
    """Draw the union of polygons, as COCO's tools do."""
    for polygon in polygons:
        # fewer than three corners: pycocotools would take four numbers for a box
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2 or not all(map(_is_finite, polygon)):
            raise DataError(f"{where}: a polygon must be a list of at least three corners [x, y, x, y, ...]")
    coco = require_coco()
    height, width = size
    merged = coco.merge(coco.frPyObjects(polygons, height, width))
    return RunLengths(size=size, lengths=_run_lengths(merged["counts"], where))


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and abs(value) < 1e6  # also refuses NaN and infinity
