"""Images with one `instances_*.json` for all of them, as COCO is published."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from i2vpp.data.files import Size, check_size, image_size, list_images, read_json, require_folder
from i2vpp.data.rle import LazyMasks, is_crowd, lenient_integer, masks_of
from i2vpp.errors import DataError, NoDataError
from i2vpp.utils.brief import brief
from i2vpp.utils.result_files import require_coco
from training.dataset.file_source import FileSource, FileVideo

MAX_SIDE = 2**31  # pixels of an image


@dataclass(frozen=True, kw_only=True)
class _Record:
    """What the JSON file says about an image.

    Args:
        file: the JSON file.
        image: `file_name` in it, which may have been written on Windows.
        item: the same with slashes and without suffix.
        size: height and width; None where the file does not say.
        annotations: annotations of the image without crowds.
        problem: why nothing of this can be used, None where it can.
    """

    file: Path
    image: str
    item: str
    size: Size | None
    annotations: tuple[Any, ...]
    problem: str | None = None

    def masks(self, image: Path) -> LazyMasks:
        if self.size is not None:
            check_size(self.size, of=f"{self.image} in {self.file}", image=image, image_size=image_size(image))
        return masks_of(self.annotations, file=self.file, image=image)


class CocoImages(FileSource):
    """Images with instances of COCO: polygons and run lengths; crowds are left out. Object ids are annotation ids.

    Items are the images that have an annotation other than a crowd. What export tools write is taken as it comes: ids
    as text, backslashes in paths, images without a size, which is then read from the image itself. An image whose entry
    cannot be used is a broken item; of the other images, broken annotations are left out (`masks_of`).

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
        require_coco()  # an error now instead of at the first polygon
        self._folder = require_folder(images, "images")
        self._file = annotations if annotations and annotations.is_file() else _find(images, annotations)
        self._records = {record.item: record for record in _records(self._file, self.problems)}
        return self._records, self._file

    def _open(self, item: str) -> FileVideo[_Record]:
        record = self._records[item]
        if record.problem:
            raise DataError(record.problem)
        image = self._image(record.image)
        return FileVideo(name=item, images=(image,), annotations=(record,), read=_Record.masks)

    def _image(self, name: str) -> Path:
        """Find the image of an entry: as it is written, with slashes, or by its name alone in any subfolder."""
        path = _posix(name)
        for image in (self._folder / name, self._folder / path):
            if image.is_file():
                return image
        found = self._by_file_name.get(path.name, [])
        if len(found) > 1:
            raise DataError(f"{found[0]} and {found[1]} could both be the image {name} that {self._file} annotates")
        if not found:
            raise DataError(f"no image {name} in {self._folder}, which {self._file} annotates")
        return found[0]

    @cached_property
    def _by_file_name(self) -> Mapping[str, list[Path]]:
        found: dict[str, list[Path]] = defaultdict(list)
        for path in list_images(self._folder, recursive=True).values():
            found[path.name].append(path)
        return found


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


def _records(file: Path, problems: list[str]) -> Iterator[_Record]:
    """Read the file and yield the images that have an instance, in its order; names of items differ.

    Args:
        file: the JSON file.
        problems: entries that belong to no image are described here.

    Raises:
        DataError: it is not JSON or has no lists of images and annotations.
    """
    images, annotations = _entries(file)
    instances: dict[str, list[Any]] = defaultdict(list)
    for annotation in annotations:
        key = _key(annotation, "image_id")
        if key is None:
            problems.append("an annotation without `image_id`")
        elif not is_crowd(annotation):
            instances[key].append(annotation)
    names: set[str] = set()
    for image in images:
        key = _key(image, "id")
        if key is None:
            problems.append("an image without `id`")
        elif found := instances.get(key):
            record = _record(file, image, found)
            if record.item in names:  # `a.jpg` beside `a.png`, or an image that is listed twice
                record = replace(record, item=f"{_posix(record.image)} (id {key})")
            names.add(record.item)
            yield record


def _entries(file: Path) -> tuple[list[Any], list[Any]]:
    content = read_json(file)
    if not isinstance(content, dict):
        raise DataError(f"{file} is no instances file of COCO: it must hold a mapping")
    for key in ("images", "annotations"):
        if not isinstance(content.get(key), list):
            wrong = "must be a list" if key in content else "is missing"
            raise DataError(f"{file} is no instances file of COCO: {key!r} {wrong}")
    return content["images"], content["annotations"]


def _record(file: Path, image: Mapping[str, Any], annotations: list[Any]) -> _Record:
    name, sides, problem = image.get("file_name"), [], None
    for side in ("height", "width"):
        value = image.get(side)
        number = lenient_integer(value)
        if value not in (None, "") and (number is None or not 0 <= number < MAX_SIDE):
            problem = f"{side} = {brief(value)} of the image {brief(name)} in {file} is not a number of pixels"
        sides.append(number)
    height, width = sides
    if not isinstance(name, str) or not _posix(name).name:
        problem = f"file_name = {brief(name)} of the image {brief(image['id'])} in {file} is not the name of a file"
        name = f"image {brief(image['id'])}"
    return _Record(
        file=file,
        image=name,
        item=_posix(name).with_suffix("").as_posix(),
        size=(height, width) if height and width else None,  # tools write 0 for an unknown size
        annotations=tuple(annotations),
        problem=problem,
    )


def _posix(name: str) -> PurePosixPath:
    return PurePosixPath(name.replace("\\", "/"))


def _key(entry: Any, name: str) -> str | None:
    """Return an id as text, so that 7, 7.0 and "7" are the same; None where there is none."""
    value = entry.get(name) if isinstance(entry, Mapping) else None
    number = lenient_integer(value)
    return str(number) if number is not None else value if isinstance(value, str) else None
