"""A folder of photos with a teacher's embeddings of them, written once and read by row.

    images.jsonl     one line an image: its path; a line is written after the image's data
    embeddings.u8    uint8 [N, D, G, G]
    ranges.f32       float32 [N, D, 2]: lowest value and step of each channel; value = lowest + step * byte
    photos.u8        uint8 [N, P, P, 3]: the image in RGB, stretched to a square

A byte per value errs by at most half a step, 0.2 % of the channel's range on that image. An image takes 1 MB for its
embedding of 256 x 64 x 64 and 1.2 MB for its pixels; they stay in the operating system's page cache while they are
trained on.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from i2vpp.errors import DataError, NoDataError

INDEX, VALUES, RANGES, PHOTOS = "images.jsonl", "embeddings.u8", "ranges.f32", "photos.u8"
CHANNELS, GRID = 256, 64
CELL = 10  # pixels of a kept photo per cell of its embedding
PHOTO_SIDE = GRID * CELL  # 640 pixels: as wide as most photos of COCO are
LEVELS = 255


class EmbeddingWriter:
    """Appends embeddings to a folder; what an interrupted run left incomplete is cut off first.

    Args:
        folder: created if it is missing.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.images = _images(folder) if (folder / INDEX).exists() else []
        self._index = (folder / INDEX).open("a", encoding="utf-8")
        self._values = _opened(folder / VALUES, len(self.images) * CHANNELS * GRID * GRID)
        self._ranges = _opened(folder / RANGES, len(self.images) * CHANNELS * 2 * 4)
        self._photos = _opened(folder / PHOTOS, len(self.images) * PHOTO_SIDE**2 * 3)

    def add(self, image: Path, pixels: NDArray[np.uint8], embedding: NDArray[np.float32]) -> None:
        """Append an image and its embedding.

        Args:
            image: path of the image.
            pixels: RGB, uint8 [H, W, 3].
            embedding: float32 [D, G, G].
        """
        square = Image.fromarray(pixels).resize((PHOTO_SIDE, PHOTO_SIDE), Image.Resampling.BILINEAR)
        self._photos.write(square.tobytes())
        self._photos.flush()
        lowest, highest = embedding.min((1, 2)), embedding.max((1, 2))
        step = np.maximum((highest - lowest) / LEVELS, np.finfo(np.float32).tiny)
        rounded = np.rint((embedding - lowest[:, None, None]) / step[:, None, None])
        self._values.write(rounded.clip(0, LEVELS).astype(np.uint8).tobytes())
        self._ranges.write(np.stack([lowest, step], axis=1).astype("<f4").tobytes())
        self._values.flush()
        self._ranges.flush()
        self._index.write(json.dumps(str(image)) + "\n")
        self._index.flush()
        self.images.append(image)

    def __enter__(self) -> EmbeddingWriter:
        return self

    def __exit__(self, *_: object) -> None:
        for file in (self._values, self._ranges, self._photos, self._index):
            file.close()


class EmbeddingReader:
    """Reads embeddings of a folder; the file is mapped into memory, nothing is read before it is asked for.

    Args:
        folder: written by `EmbeddingWriter`.

    Attributes:
        images: path of the image of each row.

    Raises:
        NoDataError: the folder holds no embedding.
        DataError: a file is shorter than the index says, or missing.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / INDEX).is_file():
            raise NoDataError(f"{folder} holds no {INDEX}: run `python -m training.distillation.teacher -o {folder}`")
        self.images = _images(folder)
        if not self.images:
            raise NoDataError(f"{folder} holds no embedding yet: let the teacher run first")
        count = len(self.images)
        self._values = _mapped(folder / VALUES, (count, CHANNELS, GRID, GRID))
        self._photos = _mapped(folder / PHOTOS, (count, PHOTO_SIDE, PHOTO_SIDE, 3))
        self._ranges = np.fromfile(folder / RANGES, "<f4", count * CHANNELS * 2).reshape(-1, CHANNELS, 2)

    def __len__(self) -> int:
        return len(self.images)

    def read(self, row: int, rows: slice = slice(None), columns: slice = slice(None)) -> Tensor:
        """Read a part of an embedding.

        Args:
            row: index of the image.
            rows: rows of the grid.
            columns: columns of the grid.

        Returns:
            float32 [D, rows, columns].
        """
        values = torch.from_numpy(np.array(self._values[row, :, rows, columns])).float()
        lowest, step = torch.from_numpy(self._ranges[row]).unbind(1)
        return values.mul_(step[:, None, None]).add_(lowest[:, None, None])

    def photo(self, row: int, rows: slice, columns: slice) -> Tensor:
        """Read a part of an image.

        Args:
            row: index of the image.
            rows: rows of the grid, with start and stop.
            columns: columns of the grid, with start and stop.

        Returns:
            RGB, uint8 [3, 10 * rows, 10 * columns].
        """
        down, across = (slice(part.start * CELL, part.stop * CELL) for part in (rows, columns))
        return torch.from_numpy(np.array(self._photos[row, down, across])).permute(2, 0, 1)


def _images(folder: Path) -> list[Path]:
    try:
        lines = (folder / INDEX).read_text(encoding="utf-8").splitlines()
        return [Path(json.loads(line)) for line in lines]
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"cannot read {folder / INDEX}: {error}; delete the folder and run the teacher again"
        ) from error


def _mapped(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Map a file of bytes into memory."""
    if not path.is_file() or path.stat().st_size < math.prod(shape):
        raise DataError(f"{path} is shorter than {INDEX} says; delete the folder and run the teacher again")
    return np.memmap(path, np.uint8, "r", shape=shape)


def _opened(path: Path, size: int) -> BinaryIO:
    """Open a file for appending after its first `size` bytes."""
    if path.exists() and path.stat().st_size < size:
        raise DataError(f"{path} is shorter than {INDEX} says; delete the folder and run the teacher again")
    file = path.open("r+b" if path.exists() else "w+b")
    file.truncate(size)
    file.seek(size)
    return file
