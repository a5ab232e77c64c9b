"""The one reader of masks: what the values and colours of mask files, and the numbers of arrays, mean.

docs/masks.md has the rule in full. In short: the value of a palette or grey image is an object's id, 0 is the
background, 255 beside other values is "ignore", and 255 alone is object 1. Colours are indices of DAVIS's palette, or
ids in the order of the colours. A grey image of one value is object 1 where it is a prompt. Soft edges are refused, or
cut at half the maximum where it is said which object the image shows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from i2vpp.data.mask_images import (
    BACKGROUND,
    IGNORED,
    FrameSize,
    MaskImage,
    SoftEdgesError,
    Values,
    may_have_colours,
    read_mask_image,
    resize_ids,
)
from i2vpp.data.soft_edges import MOST_COLOURS
from i2vpp.errors import DataError
from i2vpp.utils.arrays import Mask
from i2vpp.utils.visualize import davis_palette

__all__ = [
    "BACKGROUND",
    "IGNORED",
    "Coding",
    "FrameSize",
    "Mask",
    "SoftEdgesError",
    "Values",
    "VideoMasks",
    "read_object",
    "read_objects",
    "resize_ids",
]

ONLY_OBJECT = 1
"""Id of an object that a mask shows without saying which it is."""

GREY = 0x010101
"""Code of the darkest grey: that of a colour is red * 65536 + green * 256 + blue."""


@dataclass
class Coding:
    """How the values of all masks of a video are to be read; None where no mask has needed to know that yet.

    Args:
        colours: ids by colour (red * 65536 + green * 256 + blue); empty where no mask has colours.
        only_255: no mask has another value than 255 beside 0.
    """

    colours: dict[int, int] | None = None
    only_255: bool | None = None


class VideoMasks:
    """Reads the masks of one video as object ids.

    Which id a colour is, and whether 255 is an object or "ignore", depends on all masks of the video. The others are
    looked at when a mask asks for it first.

    Args:
        files: all masks of the video.
        lone_255: 255 is object 1 where no mask has another value beside 0; False leaves it as it is.
        like: masks of the same video; colours are then read as there.
        coding: coding of an earlier reader of the same files, which need not be looked through again.
    """

    def __init__(
        self,
        files: Iterable[Path],
        *,
        lone_255: bool = True,
        like: VideoMasks | None = None,
        coding: Coding | None = None,
    ) -> None:
        self._files = tuple(files)
        self._lone_255 = lone_255
        self._like = like
        self._coding = coding or Coding()

    def ids(self, path: Path, size: FrameSize | None = None) -> Values:
        """Read the object ids [H, W] of a mask; 0 is the background, 255 "ignore".

        Args:
            path: one of the files.
            size: size that it must have, None for any.

        Raises:
            DataError: the mask, or another one of the video, cannot be read or has soft edges.
        """
        image = read_mask_image(path, size)
        ids = self.ids_of(image)
        return ids if size is None else size.fit(ids)

    def ids_of(self, image: MaskImage) -> Values:
        """Return the object ids [H, W] of a mask that was read."""
        image.check_hard()
        colours = self.colours if image.rgb else {}
        if colours:
            codes = image.codes if image.pixels.ndim == 3 else image.pixels.astype(np.int32) * GREY
            found, index = np.unique(codes, return_inverse=True)
            ids = np.array([_id(code, colours, image) for code in found.tolist()], np.uint8)
            return ids[index].reshape(image.shape)
        if self._lone_255 and image.values == [IGNORED] and self.only_255:
            return (image.pixels == IGNORED).astype(np.uint8) * ONLY_OBJECT
        return image.pixels

    @property
    def colours(self) -> dict[int, int]:
        """See `Coding`."""
        if self._coding.colours is None:
            self._coding.colours = (self._like and self._like.colours) or self._find_colours()
        return self._coding.colours

    @property
    def only_255(self) -> bool:
        """See `Coding`."""
        if self._coding.only_255 is None:
            self._coding.only_255 = all(read_mask_image(path).values in ([], [IGNORED]) for path in self._files)
        return self._coding.only_255

    def _find_colours(self) -> dict[int, int]:
        coloured = False
        found: set[int] = set()
        for path in self._files:
            if not may_have_colours(path):
                continue
            image = read_mask_image(path)
            image.check_hard()
            coloured = coloured or image.pixels.ndim == 3
            found.update(image.values if image.pixels.ndim == 3 else (value * GREY for value in image.values))
            if len(found) > MOST_COLOURS:
                raise DataError(f"mask {path}: more than {MOST_COLOURS} colours are too many for one object each")
        if not coloured:
            return {}
        palette = _davis_ids()
        if found <= palette.keys():
            return palette
        return {BACKGROUND: BACKGROUND, **{colour: obj_id for obj_id, colour in enumerate(sorted(found), 1)}}


def _id(colour: int, colours: dict[int, int], image: MaskImage) -> int:
    if colour not in colours:
        raise DataError(f"mask {image.name} has the colour #{colour:06x}, which no true mask of its video has")
    return colours[colour]


def read_objects(path: Path, obj_id: int | None = None) -> dict[int, Mask]:
    """Read the masks [H, W] of the objects in a prompt image, by id.

    Args:
        path: the image.
        obj_id: what it shows is one object, with this id; None: its values or colours are objects.

    Raises:
        SoftEdgesError: it has soft edges, and `obj_id` is None.
        DataError: it cannot be read, or shows no object.
    """
    image = read_mask_image(path)
    if obj_id is not None:
        found = {obj_id: image.one_object()}
    else:
        ids = VideoMasks([path]).ids_of(image)
        values = [value for value in np.unique(ids).tolist() if value not in (BACKGROUND, IGNORED)]
        alone = len(image.values) == 1 and not image.indexed and image.pixels.ndim == 2
        found = {ONLY_OBJECT if alone else value: ids == value for value in values}
    if not any(mask.any() for mask in found.values()):
        raise DataError(f"the mask {path} is empty: it shows no object")
    return found


def read_object(path: Path, size: FrameSize | None = None) -> Mask:
    """Read the mask [H, W] of a file that shows one object, as in SA-V and sets of single objects; it may be empty.

    Args:
        path: the file.
        size: size that it must have, None for any.

    Raises:
        DataError: it cannot be read, or shows several objects.
    """
    mask = read_mask_image(path, size).only_object()
    return mask if size is None else size.fit(mask.astype(np.uint8)) > 0


def _davis_ids() -> dict[int, int]:
    palette = np.frombuffer(davis_palette(), np.uint8).reshape(-1, 3)
    codes = (palette.astype(np.int32) << np.array([16, 8, 0])).sum(axis=1)
    return {code: obj_id for obj_id, code in enumerate(codes.tolist())}
