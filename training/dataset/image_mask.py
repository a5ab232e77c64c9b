"""Images with one mask of one object each, such as ECSSD."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from i2vpp.data.files import frame_size, list_files, list_images, require_folder
from i2vpp.data.frame_folders import IMAGE_SUFFIXES
from i2vpp.data.masks import Mask, read_object
from i2vpp.errors import DataError, NoDataError
from training.dataset.file_source import FileSource, FileVideo

OBJECT_ID = 1
MASK_FOLDERS = ("masks", "ground_truth_mask")


class ImageMaskPairs(FileSource):
    """Images and masks of the same names in two folders; items are the images, subfolders included.

    The object, with id 1, is where a mask is not 0; soft edges are cut at half the mask's maximum.

    Args:
        images: folder of images.
        annotations: folder of masks; None: `masks` or `ground_truth_mask` (ECSSD) beside `images`.
        include: see `FileSource`, as for the other arguments.

    Raises:
        NoDataError: a folder is missing.
        DataError: two images, or two masks, have one name.
    """

    @staticmethod
    def read(annotation: Path, image: Path) -> Mapping[int, Mask]:
        """Read the masks [H, W] of the objects of an annotation, by id; its size must be that of the image.

        Args:
            annotation: the mask's file.
            image: the image's file, of which only the header is read.

        Raises:
            DataError: the mask cannot be read, shows several objects or has another size than the image.
        """
        mask = read_object(annotation, frame_size(image))
        return {OBJECT_ID: mask} if mask.any() else {}

    def _list(self, images: Path, annotations: Path | None) -> tuple[Iterable[str], Path]:
        self._images = list_images(require_folder(images, "images"), recursive=True)
        self._mask_folder = require_folder(annotations or _beside(images), "masks")
        self._masks = list_files(self._mask_folder, IMAGE_SUFFIXES, recursive=True)
        return self._images, images

    def _open(self, item: str) -> FileVideo[Path]:
        image = self._images[item]
        if item not in self._masks:
            raise DataError(f"no mask {item}.png in {self._mask_folder} for the image {image}")
        return FileVideo(name=item, images=(image,), annotations=(self._masks[item],), read=self.read)


def _beside(images: Path) -> Path:
    for name in MASK_FOLDERS:
        if (folder := images.parent / name).is_dir():
            return folder
    raise NoDataError(
        f"no folder {' or '.join(MASK_FOLDERS)} beside {images}; name the folder of masks in `annotations`"
    )
