"""Images with a JSON file of masks each, as SA-1B is published."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from i2vpp.data.files import list_files, list_images, read_json, require_folder
from i2vpp.data.masks import Mask
from i2vpp.data.rle import masks_of
from i2vpp.errors import DataError
from training.dataset.file_source import FileSource, FileVideo


class Sa1bImages(FileSource):
    """Images `sa_1.jpg` with `sa_1.json`: `{"image": {...}, "annotations": [{"id", "segmentation": RLE, ...}]}`.

    Items are the JSON files, in subfolders too; an image without one does not count. Any other names do as well.

    Args:
        images: folder of images.
        annotations: folder of JSON files, with the same subfolders; None: `images`.
        include: see `FileSource`, as for the other arguments.

    Raises:
        NoDataError: a folder is missing.
        DataError: two images have one name.
    """

    def _list(self, images: Path, annotations: Path | None) -> tuple[Iterable[str], Path]:
        self._folder = require_folder(images, "images")
        self._images = list_images(images, recursive=True)
        folder = require_folder(annotations or images, "JSON files")
        self._annotations = list_files(folder, (".json",), recursive=True)
        return self._annotations, folder

    def _open(self, item: str) -> FileVideo[Path]:
        annotation = self._annotations[item]
        if item not in self._images:
            raise DataError(f"no image {item}.jpg in {self._folder} for {annotation}")
        return FileVideo(name=item, images=(self._images[item],), annotations=(annotation,), read=_read_masks)


def _read_masks(annotation: Path, image: Path) -> Mapping[int, Mask]:
    content = read_json(annotation)
    if not isinstance(content, dict) or not isinstance(content.get("annotations"), list):
        raise DataError(f"{annotation} does not hold a mapping with a list `annotations`, as the files of SA-1B do")
    return masks_of(content["annotations"], file=annotation, image=image)
