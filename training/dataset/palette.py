"""Videos with palette PNGs as annotations: DAVIS, MOSE, YouTube-VOS."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from i2vpp.data.files import frame_size, list_files, list_folders, list_images, require_folder
from i2vpp.data.masks import BACKGROUND, IGNORED, Coding, Mask, VideoMasks
from i2vpp.errors import DataError, NoDataError
from training.dataset.clips import PartialMasks
from training.dataset.file_source import FileSource, FileVideo


class PaletteVideos(FileSource):
    """Frames `<images>/<video>/*.jpg` with masks `<annotations>/<video>/*.png` whose pixel values are object ids.

    0 is background, and 255 beside other values is "ignore" and no object; docs/masks.md has the whole rule. Frames
    without an annotation do not count.

    Args:
        images: folder of frame folders.
        annotations: folder of mask folders; None: `images` with `Annotations` in the place of `JPEGImages`.
        include: see `FileSource`, as for the other arguments.

    Raises:
        NoDataError: a folder is missing.
    """

    def _list(self, images: Path, annotations: Path | None) -> tuple[Iterable[str], Path]:
        self._codings: defaultdict[str, Coding] = defaultdict(Coding)
        self._images = require_folder(images, "frame folders")
        self._annotations = require_folder(annotations or _beside(images), "mask folders")
        return list_folders(images), images

    def _open(self, item: str) -> FileVideo[Path]:
        folder = self._images / item
        masks = list_files(self._annotations / item, (".png",))
        frames = list_images(folder)
        if not masks:
            raise DataError(f"the folder {self._annotations / item} holds no annotation (*.png)")
        if lost := [mask.name for frame, mask in masks.items() if frame not in frames]:
            raise DataError(f"no frame in {folder} for {len(lost)} annotations, the first of which is {lost[0]}")
        return FileVideo(
            name=item,
            images=tuple(frames[frame] for frame in masks),
            annotations=tuple(masks.values()),
            read=partial(read_masks, masks=VideoMasks(masks.values(), coding=self._codings[item])),
        )


def _beside(images: Path) -> Path:
    parts = list(images.parts)
    if "JPEGImages" not in parts:
        raise NoDataError(
            f"cannot tell where the annotations of {images} are: no part of the path is `JPEGImages`; "
            "name their folder in `annotations`"
        )
    parts[len(parts) - 1 - parts[::-1].index("JPEGImages")] = "Annotations"
    return Path(*parts)


def read_masks(annotation: Path, image: Path, masks: VideoMasks | None = None) -> Mapping[int, Mask]:
    """Read the masks [H, W] of the objects of an index mask, by id; pixels of value 255 are ignored ones.

    Args:
        annotation: the mask.
        image: the image that the mask belongs to and whose size it must have.
        masks: reads all masks of the video; None for a still image.
    """
    ids = (masks or VideoMasks([annotation])).ids(annotation, frame_size(image))
    values = np.unique(ids)
    objects = {int(value): ids == value for value in values if value not in (BACKGROUND, IGNORED)}
    return PartialMasks(objects, ids == IGNORED if IGNORED in values else None)
