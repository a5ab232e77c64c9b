"""What reading a format of files gives, and how regions of single frames become objects of a video."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from i2vpp.annotate.errors import MaskFolderError
from i2vpp.annotate.storage.values import MAX_NAME, StoredMask
from i2vpp.data.rle import parse_segmentation
from i2vpp.errors import DataError
from i2vpp.utils.arrays import Mask

SAME = 0.3
"""Least IoU of two regions on neighbouring frames that are taken for one object, where the files do not say."""

_INDEX = re.compile(r"(\d+)\D*")


@dataclass(frozen=True, kw_only=True)
class TargetVideo:
    """The video that files are read for.

    Args:
        height: in pixels.
        width: in pixels.
        frames: how many there are; None if that is not known.
        frame_names: names of the frames' files without suffix; None: they are named by index.
    """

    height: int
    width: int
    frames: int | None
    frame_names: Sequence[str] | None = None

    @cached_property
    def _frame_of_name(self) -> dict[str, int]:
        return {name: frame for frame, name in enumerate(self.frame_names or ())}

    def frame(self, name: Any, where: str) -> int:
        """Return the frame of an image by its file name, or by the number at the end of that.

        Args:
            name: file name, with or without folder and suffix; or the index.
            where: names the file in the message.

        Raises:
            MaskFolderError: the video has no such frame.
        """
        stem = PurePosixPath(str(name).replace("\\", "/")).stem
        if stem in self._frame_of_name:
            return self._frame_of_name[stem]
        match = _INDEX.search(stem[::-1])
        number = name if type(name) is int else int(match[1][::-1][-9:]) if match and not self.frame_names else None
        if number is None or number < 0 or (self.frames is not None and number >= self.frames):
            raise MaskFolderError(
                f"{where}: {str(name)!r:.120} is no frame of this video; open the video that the file belongs to"
            )
        return number

    def check_size(self, height: Any, width: Any, where: str) -> None:
        """Raise MaskFolderError unless a size is that of the video.

        Args:
            height: height in pixels.
            width: width in pixels.
            where: names the mask in the message.
        """
        if (height, width) != (self.height, self.width):
            raise MaskFolderError(
                f"{where}: it was made for {width} x {height} pixels, the video has {self.width} x {self.height}"
            )

    def draw(self, segmentation: Any, where: str) -> StoredMask:
        """Return the mask of a segmentation as COCO has them: polygons or run lengths.

        Args:
            segmentation: the value.
            where: names it in messages.

        Raises:
            MaskFolderError: it is no segmentation, or of another size.
        """
        try:
            runs = parse_segmentation(segmentation, size=(self.height, self.width), where=where)
        except DataError as error:
            raise MaskFolderError(str(error)) from error
        self.check_size(*runs.size, where)
        return StoredMask.of(runs.decode())


@dataclass(frozen=True, kw_only=True)
class Region:
    """The mask of something on one frame.

    Args:
        frame: index of the frame.
        mask: its mask, packed.
        label: its class; None: none.
        owner: what regions of the same object have in common; None: the file does not say.
        name: name of the object, if the file has one.
    """

    frame: int
    mask: StoredMask
    label: str | None = None
    owner: str | int | None = None
    name: str | None = None


@dataclass(kw_only=True)
class Found:
    """An object of the files: its masks by frame, what it is called, and its id there, where that is a number."""

    obj_id: int | None = None
    name: str | None = None
    label: str | None = None
    masks: dict[int, StoredMask] = field(default_factory=dict)


Reader = Callable[[Path, Any, TargetVideo], "Reading | None"]
"""Reads a file, given its path and, of a JSON file, its content; returns None where it is of another format."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The regions of a file, in any order, and the frames on which whatever is not there is known to be absent."""

    regions: Iterable[Region]
    frames: frozenset[int] = frozenset()


def assemble(reading: Reading, size: tuple[int, int]) -> dict[int, Found]:
    """Join the regions of each object, numbered from 1 on.

    Regions without an owner go on from the region of the frame before, of the same class, that they overlap most, if
    that is by `SAME` or more; others begin an object.

    Args:
        reading: what was read.
        size: height and width of the video.
    """
    found: dict[int, Found] = {}
    owners: dict[str | int, int] = {}
    loose: dict[int, list[Region]] = {}
    for region in reading.regions:
        if region.owner is None:
            loose.setdefault(region.frame, []).append(region)
        else:
            number = owners.setdefault(region.owner, len(owners) + 1)
            obj_id = region.owner if isinstance(region.owner, int) else None
            _join(found.setdefault(number, Found(obj_id=obj_id)), region, size)
    before: list[tuple[int, Region]] = []
    for frame in sorted(loose):
        before = list(_link(loose[frame], before, len(found), size))
        for number, region in before:
            _join(found.setdefault(number, Found()), region, size)
    nothing = StoredMask.of(np.zeros(size, bool))
    for one in found.values():
        one.masks.update(dict.fromkeys(reading.frames - one.masks.keys(), nothing))
    return found


def _join(found: Found, region: Region, size: tuple[int, int]) -> None:
    """Add a region to an object; several on one frame are its parts."""
    mask = region.mask
    if (other := found.masks.get(region.frame)) is not None:
        mask = StoredMask.of(mask.decode(*size) | other.decode(*size))
    found.masks[region.frame] = mask
    found.label = found.label or region.label
    found.name = found.name or (region.name[:MAX_NAME] if region.name else None)


def _link(
    regions: Sequence[Region], before: Sequence[tuple[int, Region]], used: int, size: tuple[int, int]
) -> Iterator[tuple[int, Region]]:
    """Yield the regions of a frame with the numbers of their objects; new ones follow on `used`."""
    pictures = [region.mask.decode(*size) for region in regions]
    earlier = [(number, old.label, old.mask.decode(*size)) for number, old in before]
    pairs = [
        (_iou(picture, old), place, number)
        for place, picture in enumerate(pictures)
        for number, label, old in earlier
        if label == regions[place].label
    ]
    of_place: dict[int, int] = {}
    for overlap, place, number in sorted(pairs, key=lambda pair: -pair[0]):
        if overlap >= SAME and place not in of_place and number not in of_place.values():
            of_place[place] = number
    for place, region in enumerate(regions):
        if place not in of_place:
            used += 1
            of_place[place] = used
        yield of_place[place], region


def _iou(one: Mask, other: Mask) -> float:
    union = int(np.count_nonzero(one | other))
    return int(np.count_nonzero(one & other)) / union if union else 0.0


def fields(value: Any, where: str, **kinds: type | tuple[type, ...]) -> list[Any]:
    """Return some values of a JSON object.

    Args:
        value: what should be the object.
        where: names it in messages.
        kinds: types of the values by their keys.

    Raises:
        MaskFolderError: it is no object, or a value is missing or of another type.
    """
    if not isinstance(value, Mapping):
        raise MaskFolderError(f"{where} is no JSON object")
    for key, kind in kinds.items():
        if not isinstance(value.get(key), kind) or isinstance(value.get(key), bool):
            raise MaskFolderError(f"{where} has no usable {key!r}")
    return [value[key] for key in kinds]
