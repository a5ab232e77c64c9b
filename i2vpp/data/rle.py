"""Segmentations as COCO, SA-1B and SA-V write them: polygons and run lengths, compressed or not.

Run lengths are taken apart here and not by pycocotools: it leaves the rest of a mask uninitialised where the runs end
early, so that a broken annotation would be noise without an error. Polygons are drawn by pycocotools.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from i2vpp.data.files import Size, check_size, image_size
from i2vpp.data.masks import Mask
from i2vpp.errors import DataError
from i2vpp.utils.brief import brief
from i2vpp.utils.result_files import require_coco

_MAX_DIGITS = 12  # of 5 bits each: what fits into int64
_MAX_RUN = 2**31  # pixels; longer runs are refused before anything is computed from them
_WHOLE = re.compile(r"0|-?[1-9][0-9]{0,17}")
_MAX_OUTLINE = 2e6  # pixels; the memory in which pycocotools draws a polygon grows with the length of its outline


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

    @classmethod
    def nothing(cls, size: Size) -> RunLengths:
        """Return the mask of an absent object."""
        return cls(size=size, lengths=np.array([size[0] * size[1]], np.int64))

    @classmethod
    def encode(cls, mask: Mask) -> RunLengths:
        """Take a mask [H, W] apart into runs."""
        flat = np.concatenate([[False], mask.T.ravel()])  # the first run is background, 0 long if need be
        changes = np.flatnonzero(flat[1:] != flat[:-1])
        lengths = np.diff(np.concatenate([[0], changes, [mask.size]]))
        return cls(size=(mask.shape[0], mask.shape[1]), lengths=lengths.astype(np.int64))

    def decode(self) -> Mask:
        """Draw the mask [H, W]."""
        height, width = self.size
        is_object = np.arange(len(self.lengths)) % 2 == 1
        return np.ascontiguousarray(np.repeat(is_object, self.lengths).reshape(width, height).T)


class LazyMasks(Mapping[int, Mask]):
    """Masks [H, W] of the objects on a frame, each decoded anew whenever it is read.

    Args:
        runs: run lengths by object id; objects without a pixel are left out of the mapping and named in `empty`.
        problems: messages about annotations that were left out, see `training.dataset.clips.problems_of`.
    """

    def __init__(self, runs: Mapping[int, RunLengths], problems: Sequence[str] = ()) -> None:
        self._runs = {number: mask for number, mask in runs.items() if mask.area}
        self.empty = frozenset(runs) - frozenset(self._runs)
        self.problems = tuple(problems)

    def sizes(self) -> Mapping[int, Size]:
        """Return the height and width of each mask without drawing it."""
        return {number: mask.size for number, mask in self._runs.items()}

    def __getitem__(self, number: int) -> Mask:
        return self._runs[number].decode()

    def __iter__(self) -> Iterator[int]:
        return iter(self._runs)

    def __len__(self) -> int:
        return len(self._runs)


def masks_of(annotations: Iterable[Any], *, file: Path, image: Path) -> LazyMasks:
    """Take over the objects of an image from its COCO-style annotations.

    An annotation that is broken does not cost the image its other objects: it is left out and described in `problems`.
    So is a polygon with fewer than three corners, which has no area, beside whole ones of the same object.

    Args:
        annotations: each a mapping with `id` and `segmentation`; crowds (`iscrowd`) are left out.
        file: the file that holds them, for messages.
        image: the image that they belong to; its header is read.

    Returns:
        The masks by object id: the annotation's own, where that is a whole number, also as text; other texts are
        numbered by the numbers that are free, from 1 on.

    Raises:
        DataError: all annotations are broken, or two objects have one id.
    """
    size = image_size(image)
    runs: dict[int, RunLengths] = {}
    problems: list[str] = []
    kept = [annotation for annotation in annotations if not is_crowd(annotation)]
    for annotation, number in zip(kept, _object_ids(kept), strict=True):
        if number is None:
            problems.append(f"an annotation of {image} in {file} is not a mapping with a whole number or text as `id`")
            continue
        where = f"object {brief(annotation['id'])} in {file}"
        if number in runs:
            raise DataError(f"{where} is there twice")
        try:
            segmentation = _without_slivers(annotation.get("segmentation"), where, problems)
            found = parse_segmentation(segmentation, size=size, where=where)
            check_size(found.size, of=where, image=image, image_size=size)
        except DataError as error:
            problems.append(str(error))
        else:
            runs[number] = found
    if problems and not runs:
        more = f"; {len(problems) - 1} more annotations of the image are broken" if len(problems) > 1 else ""
        raise DataError(problems[0] + more)
    return LazyMasks(runs, problems)


def is_crowd(annotation: Any) -> bool:
    """Whether an annotation marks a group of objects as a whole; some tools write the flag as text."""
    flag = annotation.get("iscrowd") if isinstance(annotation, Mapping) else None
    return bool(flag) and str(flag).strip().lower() not in ("0", "0.0", "false", "")


def lenient_integer(value: object) -> int | None:
    """Return an id or a count that tools write as 7, 7.0 or "7"; None for anything else."""
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        return int(value)
    if _is_integer(value) or (isinstance(value, float) and value.is_integer()):
        return int(value)  # type: ignore[call-overload]
    return None


def _object_ids(annotations: Sequence[Any]) -> list[int | None]:
    """Return a number for each annotation, None for those without an id."""
    given = [annotation.get("id") if isinstance(annotation, Mapping) else None for annotation in annotations]
    numbers = [lenient_integer(value) for value in given]
    taken = set(numbers)
    free = (number for number in count(1) if number not in taken)
    texts = {value: next(free) for value in given if isinstance(value, str) and lenient_integer(value) is None}
    return [
        texts.get(value) if isinstance(value, str) and number is None else number
        for value, number in zip(given, numbers, strict=True)
    ]


def _without_slivers(segmentation: Any, where: str, problems: list[str]) -> Any:
    """Leave out polygons of one or two corners beside others, and say so; they have no area."""
    if not isinstance(segmentation, list):
        return segmentation
    whole = [part for part in segmentation if not _is_sliver(part)]
    lost = len(segmentation) - len(whole)
    if not whole or not lost:
        return segmentation
    problems.append(f"{where}: {lost} of its {len(segmentation)} polygons have fewer than three corners: left out")
    return whole


def _is_sliver(polygon: Any) -> bool:
    return isinstance(polygon, list) and len(polygon) in (0, 2, 4) and all(map(_is_finite, polygon))


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
        case {"size": [int(height), int(width)], "counts": counts} if 0 < height < _MAX_RUN and 0 < width < _MAX_RUN:
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
        if any(abs(run) > _MAX_RUN for run in counts):
            raise DataError(f"{where}: a run of the mask is longer than any image")
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
    if (np.abs(numbers) > _MAX_RUN).any():
        raise DataError(f"{where}: a run of the mask is longer than any image")
    return numbers


def _draw(polygons: list[Any], size: Size, where: str) -> RunLengths:
    """Draw the union of polygons, as COCO's tools do."""
    for polygon in polygons:
        # fewer than three corners: pycocotools would take four numbers for a box
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2 or not all(map(_is_finite, polygon)):
            raise DataError(f"{where}: a polygon must be a list of at least three corners [x, y, x, y, ...]")
        corners = np.array(polygon, np.float64).reshape(-1, 2)
        if np.abs(corners - np.roll(corners, 1, axis=0)).sum() > _MAX_OUTLINE:
            raise DataError(f"{where}: a polygon is longer than the outline of any object")
    coco = require_coco()
    height, width = size
    merged = coco.merge(coco.frPyObjects(polygons, height, width))
    return RunLengths(size=size, lengths=_run_lengths(merged["counts"], where))


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and abs(value) < 1e6  # also refuses NaN and infinity
