"""Reading images, masks and lists from disk; what is common to the sources that consist of files.

Everything here raises `DataError` with the name of the file where one item is broken, and `NoDataError` where a whole
source is missing.
"""

from __future__ import annotations

import abc
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from i2vpp.data.frame_folders import list_frames, natural_key
from i2vpp.data.masks import FrameSize
from i2vpp.errors import VideoError
from i2vpp.session.grey import GreyScale
from i2vpp.session.sources import GREY_SAMPLES, to_rgb
from i2vpp.utils.notices import warn_user
from training.dataset.clips import AnnotatedVideo, Source, problems_of
from training.dataset.errors import DataError, NoDataError

Mask: TypeAlias = "NDArray[np.bool_]"
Size: TypeAlias = tuple[int, int]
"""Height and width."""

A = TypeVar("A")
NAMED_IN_ERRORS = 5
_COMMENT = re.compile(r"(?:^|\s)#")


def read_image(path: Path, grey: GreyScale | None = None) -> NDArray[np.uint8]:
    """Read an image as RGB [H, W, 3]. EXIF orientation is ignored, as the masks of the datasets assume.

    Args:
        path: the file.
        grey: how grey images of more than 8 bits are scaled; None: by the range of this one.
    """
    with _opened(path) as image:
        return to_rgb(image, str(path), grey)


def image_size(path: Path) -> Size:
    """Read the height and width of an image from its header, without decoding it; EXIF orientation is ignored."""
    with _opened(path) as image:
        return image.height, image.width


def frame_size(image: Path) -> FrameSize:
    """Return the size that a mask of an image must have, from the image's header."""
    height, width = image_size(image)
    return FrameSize(height=height, width=width, of=f"its image {image}")


def read_json(path: Path) -> Any:
    """Read a JSON file; a byte order mark is left out."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"cannot read the JSON file {path}: {_reason(error)}") from error


def read_items(path: Path) -> frozenset[str]:
    """Read a list of items, one a line; a byte order mark, blank lines and comments are left out.

    A comment begins with a `#` at the start of a line or after white space: `take#2` is a name.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read the list {path}: {_reason(error)}") from error
    return frozenset(item for line in lines if (item := _COMMENT.split(line, 1)[0].strip()))


def require_folder(path: Path, what: str) -> Path:
    """Return `path`, or raise NoDataError if it is no folder; `what` says what it was to hold."""
    if not path.is_dir():
        raise NoDataError(f"the folder of {what}, {path}, {'is no folder' if path.exists() else 'does not exist'}")
    return path


def list_folders(folder: Path) -> list[str]:
    """Name the folders in a folder, in natural order; hidden ones are left out."""
    with _listed(folder):
        names = [entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith(".")]
    return sorted(names, key=natural_key)


def list_images(folder: Path, *, recursive: bool = False) -> dict[str, Path]:
    """Find the images in a folder, but not the masks beside them; see `i2vpp.data.frame_folders.list_frames`.

    Raises:
        DataError: the folder cannot be read, or two images have one name.
    """
    try:
        return list_frames(folder, recursive=recursive)
    except VideoError as error:
        raise DataError(str(error)) from error


def list_files(folder: Path, suffixes: tuple[str, ...], *, recursive: bool = False) -> dict[str, Path]:
    """Find the files with one of some suffixes, by name without suffix, in natural order; hidden ones are left out.

    Args:
        folder: where to look.
        suffixes: in lower case, with the dot.
        recursive: look into subfolders too; names are then relative to `folder`, such as `part1/photo7`.

    Raises:
        DataError: the folder cannot be read, or two files have one name.
    """
    found: dict[str, Path] = {}
    with _listed(folder):
        if not folder.is_dir():
            raise NotADirectoryError
        for root, folders, files in os.walk(folder, followlinks=True):
            folders[:] = [name for name in folders if recursive and not name.startswith(".")]
            for file in files:
                path = Path(root, file)
                if path.suffix.lower() not in suffixes or file.startswith("."):
                    continue
                other = found.setdefault(path.relative_to(folder).with_suffix("").as_posix(), path)
                if other != path:
                    raise DataError(f"{other} and {path.name} stand for the same item; keep one of them")
    return {name: found[name] for name in sorted(found, key=natural_key)}


def check_size(size: Size, *, of: str, image: Path, image_size: Size) -> None:
    """Raise DataError if an annotation, called `of` in the message, has another size than its image."""
    if size != image_size:
        height, width = image_size
        raise DataError(f"{of} is {size[1]} x {size[0]} pixels, but its image {image} is {width} x {height}")


@dataclass(kw_only=True, eq=False)
class FileVideo(Generic[A]):
    """An `AnnotatedVideo` of image files with an annotation each; a still image is one of one frame.

    Args:
        name: of the video, for messages.
        images: the annotated frames.
        annotations: of these frames: a file or whatever else `read` needs.
        read: takes an annotation and the image that it belongs to; returns the masks [H, W] that are not empty.
        problems: of broken annotations that were left out so far, see `problems_of`.
    """

    name: str
    images: tuple[Path, ...]
    annotations: tuple[A, ...]
    read: Callable[[A, Path], Mapping[int, Mask]]
    problems: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        """Count the annotated frames."""
        return len(self.images)

    def image(self, t: int) -> NDArray[np.uint8]:
        """Read a frame as RGB [H, W, 3]."""
        return read_image(self.images[t], self._grey)

    @cached_property
    def _grey(self) -> GreyScale:
        return GreyScale(self.name, lambda: self.images[:: max(1, len(self.images) // GREY_SAMPLES)])

    def masks(self, t: int) -> Mapping[int, Mask]:
        """Read the masks [H, W] of the objects on a frame, by object id; a still image must have one."""
        masks = self.read(self.annotations[t], self.images[t])
        self.problems += [problem for problem in problems_of(masks) if problem not in self.problems]
        if not masks and len(self) == 1:
            raise DataError(f"no object in the annotation of {self.images[t]}")
        return masks


class FileSource(abc.ABC):
    """A `Source` of named items; a subclass lists the names and says how an item is opened.

    Args:
        images: folder of images, of frame folders or of videos.
        annotations: folder or file of annotations; None: where the dataset has them as it is published.
        include: the only items used; None: all. `part\\photo7` stands for `part/photo7`, unless it is a name itself.
        exclude: items that are not used, written in the same way.
        name: of the source.

    Attributes:
        names: of the items that are used, in order.
        missing: names in `include` that are not there; a warning says so.
        problems: entries of the annotations that belong to no item and were left out; a warning says so.
    """

    def __init__(
        self,
        images: Path,
        annotations: Path | None = None,
        *,
        include: frozenset[str] | None = None,
        exclude: frozenset[str] = frozenset(),
        name: str,
    ) -> None:
        self.name = name
        self.problems: list[str] = []
        names, where = self._list(images, annotations)
        there = list(names)
        include, exclude = _with_slashes(include, there), _with_slashes(exclude, there) or frozenset()
        self.names = [item for item in there if (include is None or item in include) and item not in exclude]
        self.missing = sorted((include or frozenset()).difference(there), key=natural_key)
        if self.missing:
            warn_user(
                f"source {name!r}: {len(self.missing)} of {len(include or ())} items to include are not in {where} and "
                f"are left out: {_some(self.missing)}; it holds {_some(there) or 'nothing'}"
            )
        if self.problems:
            warn_user(
                f"source {name!r}: {len(self.problems)} broken entries of {where} are left out: {_some(self.problems)}"
            )

    def __len__(self) -> int:
        """Count the items."""
        return len(self.names)

    def __getitem__(self, index: int) -> AnnotatedVideo:
        """Open an item."""
        return self._open(self.names[index])

    @abc.abstractmethod
    def _list(self, images: Path, annotations: Path | None) -> tuple[Iterable[str], Path]:
        """Find the names of all items, and say what holds them, for messages."""

    @abc.abstractmethod
    def _open(self, item: str) -> AnnotatedVideo: ...


def name_of(source: Source, index: int) -> str:
    """Return the name of an item without opening it, for messages."""
    return source.names[index] if isinstance(source, FileSource) else f"item {index}"


def _with_slashes(names: frozenset[str] | None, there: list[str]) -> frozenset[str] | None:
    """Return the names of a list, with slashes for the backslashes of Windows in those that are not there."""
    known = frozenset(there)
    return names and frozenset(name if name in known else name.replace("\\", "/") for name in names)


def _some(names: list[str]) -> str:
    return ", ".join(names[:NAMED_IN_ERRORS]) + (", ..." if len(names) > NAMED_IN_ERRORS else "")


def _reason(error: Exception) -> str:
    """Say what went wrong without naming the file again."""
    return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open an image; whatever goes wrong then, also while it is decoded in the body, is a DataError."""
    try:
        with Image.open(path) as image:
            yield image
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise DataError(f"cannot read the image {path}: {_reason(error)}") from error


@contextmanager
def _listed(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"cannot list the folder {folder}: {_reason(error)}") from error
