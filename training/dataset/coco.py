"""Images with one `instances_*.json` for all of them, as COCO is published."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from i2vpp.utils.writers import require_coco
from training.dataset.errors import DataError, NoDataError
from training.dataset.files import (
    FileSource,
    FileVideo,
    Mask,
    Size,
    check_size,
    image_size,
    list_images,
    read_json,
    require_folder,
)
from training.dataset.rle import masks_of


@dataclass(frozen=True, kw_only=True)
class _Record:
    """What the JSON file says about an image."""

    file: Path  # the JSON file
    image: PurePosixPath  # `file_name` in it
    item: str  # the same without suffix
    size: Size
    annotations: tuple[Any, ...]

    def masks(self, image: Path) -> Mapping[int, Mask]:
        check_size(self.size, of=f"{self.image} in {self.file}", image=image, image_size=image_size(image))
        return masks_of(self.annotations, file=self.file, image=image)


class CocoImages(FileSource):
    """Images with instances of COCO: polygons and run lengths; crowds are left out. Object ids are annotation ids.

    Items are the images that have an annotation other than a crowd.

    Args:
        images: folder of images, which may lie in its subfolders.
        annotations: the JSON file, or the folder that holds it; None: `instances_<folder of images>.json` or the only
            `instances_*.json` in `images`, beside it or in `annotations` beside it.
        include: see `FileSource`, as for the other arguments.

    Raises:
        NoDataError: a folder or the JSON file is missing.
        DataError: the JSON file is broken.
    """

    def _list(self, images: Path, annotations: Path | None) -> tuple[Iterable[str], Path]:
        require_coco()  # now rather than at the first polygon
        self._folder = require_folder(images, "images")
        self._file = annotations if annotations and annotations.is_file() else _find(images, annotations)
        self._records = {record.item: record for record in _records(self._file)}
        return self._records, self._file

    def _open(self, item: str) -> FileVideo[_Record]:
        record = self._records[item]
        image = self._folder / record.image
        if not image.is_file():
            image = self._by_file_name.get(record.image.name, image)
        if not image.is_file():
            raise DataError(f"no image {record.image} in {self._folder}, which {self._file} annotates")
        return FileVideo(name=item, images=(image,), annotations=(record,), read=_Record.masks)

    @cached_property
    def _by_file_name(self) -> dict[str, Path]:
        files = list_images(self._folder, recursive=True)
        return {path.name: path for path in files.values()}


def _find(images: Path, annotations: Path | None) -> Path:
    folders = [annotations] if annotations else [images, images.parent / "annotations", images.parent]
    for folder in folders:
        files = sorted(folder.glob("instances_*.json"))
        named = [file for file in files if file.name == f"instances_{images.name}.json"]
        if len(named or files) == 1:
            return (named or files)[0]
        if files:
            names = ", ".join(file.name for file in files)
            raise NoDataError(f"{folder} holds several annotations, {names}; name one of them in `annotations`")
    looked = ", ".join(map(str, folders))
    raise NoDataError(f"no instances_*.json for the images {images}; looked in {looked}; name it in `annotations`")


def _records(file: Path) -> Iterator[_Record]:
    """Read the file and yield the images that have an instance, in its order."""
    content = read_json(file)
    instances: dict[int, list[Any]] = defaultdict(list)
    try:
        for annotation in content["annotations"]:
            if not annotation.get("iscrowd"):
                instances[annotation["image_id"]].append(annotation)
        for image in content["images"]:
            if found := instances.get(image["id"]):
                name = PurePosixPath(image["file_name"])
                yield _Record(
                    file=file,
                    image=name,
                    item=name.with_suffix("").as_posix(),
                    size=(int(image["height"]), int(image["width"])),
                    annotations=tuple(found),
                )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise DataError(f"{file} is no instances file of COCO: {what}") from error
