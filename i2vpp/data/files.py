"""Reading images, lists and JSON from disk, with errors that name the file.

Every function raises `DataError` with the name of the file where one item is broken, and `NoDataError` where a whole
folder is missing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from i2vpp.data.frame_folders import by_name, list_frames, natural_key, walk_files
from i2vpp.data.masks import FrameSize
from i2vpp.errors import DataError, NoDataError, VideoError
from i2vpp.session.deep_images import DeepScale
from i2vpp.session.sources import to_rgb
from i2vpp.utils import json_files
from i2vpp.utils.files import exists

Size: TypeAlias = tuple[int, int]
"""Height and width."""

_COMMENT = re.compile(r"(?:^|\s)#")


def read_image(path: Path, scale: DeepScale | None = None) -> NDArray[np.uint8]:
    """Read an image as RGB [H, W, 3]. EXIF orientation is ignored, as the masks of the datasets assume.

    Args:
        path: the file.
        scale: how images of more than 8 bits are scaled; None: by the range of this one.
    """
    with _opened(path) as image:
        return to_rgb(image, str(path), scale)


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
        return json_files.read_json(path)
    except (OSError, ValueError) as error:
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
    """Return a path if it is a folder.

    Args:
        path: path of the folder.
        what: what is expected in it, for the message.

    Raises:
        NoDataError: it is no folder.
    """
    is_there = exists(path)
    if not is_there or not path.is_dir():
        raise NoDataError(f"the folder of {what}, {path}, {'is no folder' if is_there else 'does not exist'}")
    return path


def list_folders(folder: Path) -> list[str]:
    """Name the folders in a folder, in natural order; hidden ones are left out."""
    try:
        names = [entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(f"cannot list the folder {folder}: {_reason(error)}") from error
    return sorted(names, key=natural_key)


def list_images(folder: Path, *, recursive: bool = False) -> dict[str, Path]:
    """Find the images in a folder, but not the masks beside them; see `i2vpp.data.frame_folders.list_frames`.

    Args:
        folder: folder that is searched.
        recursive: whether to look into subfolders, too.

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
        folder: folder that is searched.
        suffixes: suffixes in lower case, with the dot.
        recursive: whether to look into subfolders too; names are then relative to `folder`, such as `part1/photo7`.

    Raises:
        DataError: the folder cannot be read, or two files have one name.
    """

    def matches(path: Path) -> bool:
        return path.suffix.lower() in suffixes and not path.name.startswith(".")

    try:
        return by_name(folder, chain.from_iterable(walk_files(folder, matches, recursive=recursive)))
    except VideoError as error:
        raise DataError(str(error)) from error


def check_size(size: Size, *, of: str, image: Path, image_size: Size) -> None:
    """Check that an annotation has the size of its image.

    Args:
        size: height and width of the annotation.
        of: what the message calls the annotation.
        image: file of the image, for the message.
        image_size: height and width of the image.

    Raises:
        DataError: the sizes differ.
    """
    if size != image_size:
        height, width = image_size
        raise DataError(f"{of} is {size[1]} x {size[0]} pixels, but its image {image} is {width} x {height}")


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
