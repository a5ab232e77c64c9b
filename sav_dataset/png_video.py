"""Videos of SA-V's validation and test sets: frames in one folder, one folder of PNG masks per object."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from i2vpp.data.files import frame_size, list_files, list_folders, list_images, read_image
from i2vpp.data.masks import Mask, read_object
from i2vpp.errors import DataError


class PngVideo:
    """A video whose objects have binary PNG masks `<masks>/<object>/00000.png`, `00004.png`, ...; they may overlap.

    Frames are counted over the annotated ones, those that have a mask of any object. Object ids are the folders' names.

    Args:
        name: of the video.
        frames: folder of all frames, named as the masks.
        masks: folder of the objects' folders.

    Raises:
        DataError: there are no masks, a folder's name is no number, or a mask's frame is missing.
    """

    def __init__(self, name: str, frames: Path, masks: Path) -> None:
        self.name = name
        folders = list_folders(masks)
        if other := [folder for folder in folders if not folder.isdecimal()]:
            raise DataError(f"folders in {masks} must be named by object ids such as 000, got {other[0]}")
        self._files = {int(folder): list_files(masks / folder, (".png",)) for folder in folders}
        self._stems = sorted({stem for files in self._files.values() for stem in files})
        if not self._stems:
            raise DataError(f"{masks} holds no masks <object>/00000.png")
        images = list_images(frames)
        if missing := [stem for stem in self._stems if stem not in images]:
            raise DataError(f"{frames} lacks {len(missing)} frames that have masks, the first is {missing[0]}")
        self._images = [images[stem] for stem in self._stems]

    def __len__(self) -> int:
        """Count the annotated frames."""
        return len(self._stems)

    @property
    def obj_ids(self) -> list[int]:
        """All objects, in the order of their ids."""
        return sorted(self._files)

    def frame_name(self, t: int) -> str:
        """Return the name of annotated frame t, which is its index in the video."""
        return self._stems[t]

    def image(self, t: int) -> NDArray[np.uint8]:
        """Read annotated frame t as RGB [H, W, 3]."""
        return read_image(self._images[t])

    def masks(self, t: int) -> Mapping[int, Mask]:
        """Read the masks [H, W] of the objects that are present on annotated frame t, by object id."""
        found = {}
        size = frame_size(self._images[t])
        for obj_id, files in self._files.items():
            if (path := files.get(self._stems[t])) is None:
                continue
            mask = read_object(path, size)
            if mask.any():
                found[obj_id] = mask
        return found
