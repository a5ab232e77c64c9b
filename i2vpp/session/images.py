"""`open_image` turns whatever a user calls an image into RGB."""

from __future__ import annotations

import http.client
import io
import os
import re
import struct
import urllib.request
from pathlib import Path
from typing import BinaryIO, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from i2vpp.errors import FrameDecodeError, VideoError
from i2vpp.session.sources import FrameLike, to_rgb
from i2vpp.utils.files import exists

ImageLike: TypeAlias = "FrameLike | bytes | bytearray | memoryview | BinaryIO"
"""What is accepted as an image; see `open_image`."""

IMAGE_TYPES = (
    "an image path or URL, bytes or a binary file, a PIL image, or an array or tensor [H, W, 3], [3, H, W] or grey "
    "[H, W], uint8 or float in [0, 1]"
)
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
PATIENCE = 60.0
"""Seconds without an answer after which a URL is given up."""

LARGEST_DOWNLOAD = 2**28
"""Bytes: 256 MB."""


def open_image(image: ImageLike) -> NDArray[np.uint8]:
    """Read an image as RGB, turned upright as its EXIF orientation says.

    Args:
        image: path or URL (http, https, file) of an image file; its bytes, or a binary file object; a PIL image; an
            array or tensor [H, W, 3], [3, H, W] or grey [H, W], uint8 or float in [0, 1]. Of an animation, the first
            frame is read. Alpha is dropped.

    Returns:
        uint8 [H, W, 3]; an array that is given as such is returned, not copied.

    Raises:
        VideoError: there is nothing there, or it is of another type, dtype or shape.
        FrameDecodeError: the file is no image that Pillow can read, or it is damaged.
    """
    if isinstance(image, (str, os.PathLike)):
        return _open_path(os.fspath(image))
    if isinstance(image, (bytes, bytearray, memoryview)):
        return _decode(io.BytesIO(image), "the image in memory")
    if isinstance(image, Image.Image):
        return _upright(image, "the image")
    if hasattr(image, "read"):
        return _decode(cast(BinaryIO, image), str(getattr(image, "name", "the image file object")))
    if not hasattr(image, "shape"):
        raise VideoError(f"the image is of type {type(image).__name__}; allowed: {IMAGE_TYPES}")
    return to_rgb(image, "the image")


def _open_path(path: str) -> NDArray[np.uint8]:
    if URL.match(path):
        return _decode(io.BytesIO(_fetch(path)), f"image {path!r}")
    is_there = bool(path) and exists(path)
    if not is_there or not Path(path).is_file():
        is_folder = "is a folder" if is_there and Path(path).is_dir() else "does not exist"
        raise VideoError(f"image {path!r} {is_folder}; give an image file or a URL")
    return _decode(Path(path), f"image {path!r}")


def _fetch(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            content: bytes = answer.read(LARGEST_DOWNLOAD + 1)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise VideoError(f"image {url!r} cannot be fetched: {error}") from error
    if len(content) > LARGEST_DOWNLOAD:
        raise VideoError(f"image {url!r} is larger than {LARGEST_DOWNLOAD >> 20} MB")
    return content


def _decode(file: Path | BinaryIO, name: str) -> NDArray[np.uint8]:
    try:
        image = Image.open(file)
    except UnidentifiedImageError as error:  # whose text repeats the path, or names an object in memory
        raise FrameDecodeError(f"{name} cannot be read as an image: it is of no format that Pillow knows") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise FrameDecodeError(f"{name} cannot be read as an image: {error}") from error
    with image:
        return _upright(image, name)


def _upright(image: Image.Image, name: str) -> NDArray[np.uint8]:
    try:
        rgb = Image.fromarray(to_rgb(image, name))
        rgb.getexif()[ExifTags.Base.Orientation] = image.getexif().get(ExifTags.Base.Orientation, 1)
        return np.array(ImageOps.exif_transpose(rgb))
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise FrameDecodeError(f"{name} cannot be read as an image: {error}") from error
