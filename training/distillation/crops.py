"""Batches of augmented crops of photos, each with the teacher's embedding cropped alike.

Photos are read as the teacher kept them, at one size and without decoding. Pictures are changed one by one, since
temporary tensors as large as a batch cost more than the arithmetic: the system clears their pages anew each time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from i2vpp.session.frames import MEAN, STD
from training.dataset.plan import derive_seed
from training.distillation.embeddings import CHANNELS, GRID, EmbeddingReader

GRID_CROPS = (24, 64)
"""Side of a crop in cells of the teacher's grid, least and most. A crop of 32 cells at 256 px shows objects at the size
that they have on a whole photo at 512 px."""
STRIDE = 16  # pixels of the student's input per cell of its embedding
STATISTICS = 200  # embeddings that the statistics of the channels are taken from
FLOOR = -0.2  # value to which the lowest percent of a channel is raised
BRIGHTNESS = CONTRAST = SATURATION = 0.3  # factors lie in 1 +- this
HUE = 0.03  # of a full turn, in either direction
GREY = 0.05  # probability that a crop is grey
LUMA = (0.299, 0.587, 0.114)  # share of red, green and blue in the brightness
SHIFT = 6  # pixels by which an earlier frame may be shifted, along each axis


@dataclass(frozen=True, kw_only=True, eq=False)
class Channels:
    """What the student learns of each channel [D, 1, 1]: (embedding + offset) at this scale."""

    offset: Tensor
    scale: Tensor


class Crops(Dataset[tuple[Tensor, Tensor]]):
    """Item k is the batch of step k: pictures, and the teacher's embeddings of them.

    Args:
        folders: written by `training.distillation.teacher`.
        image_size: side S of the student's input.
        batch_size: crops of a batch (B).
        seed: seed of the augmentation; item k is always the same for the same folders.
        steps: batches in all.

    Raises:
        NoDataError: a folder holds no embedding.
    """

    def __init__(self, folders: Sequence[Path], *, image_size: int, batch_size: int, seed: int, steps: int) -> None:
        readers = [EmbeddingReader(folder) for folder in folders]
        self.rows = [(reader, row) for reader in readers for row in range(len(reader))]
        self._image_size = image_size
        self._batch_size = batch_size
        self._seed = seed
        self._steps = steps

    def __len__(self) -> int:
        return self._steps

    def channels(self) -> Channels:
        """Measure the channels on some embeddings."""
        chosen = self.rows[:: max(1, len(self.rows) // STATISTICS)]
        part = slice(None, None, 4)
        values = torch.stack([reader.read(row, part, part) for reader, row in chosen], dim=1).flatten(1)  # [D, n]
        lowest = values.quantile(0.01, dim=1)
        return Channels(
            offset=(FLOOR - lowest).clamp(min=0)[:, None, None], scale=values.std(dim=1).clamp(min=0.05)[:, None, None]
        )

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        """Return pictures [B, 3, S, S], normalised, and embeddings [B, D, S / 16, S / 16]."""
        rng = np.random.default_rng(derive_seed(self._seed, step))
        side = self._image_size
        frames = torch.empty(self._batch_size, 3, side, side)
        embeddings = torch.empty(self._batch_size, CHANNELS, side // STRIDE, side // STRIDE)
        for k in range(self._batch_size):
            picture, embeddings[k] = self._crop(rng)
            torch.sub(change_colours(picture, rng), torch.tensor(MEAN)[:, None, None], out=frames[k])
            frames[k] /= torch.tensor(STD)[:, None, None]
        return frames, embeddings

    def _crop(self, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """A part of a photo, uint8 [3, S, S], and its embedding [D, S / 16, S / 16]."""
        reader, row = self.rows[int(rng.integers(len(self.rows)))]
        height, width = rng.integers(*GRID_CROPS, size=2, endpoint=True).tolist()
        top, left = int(rng.integers(GRID - height, endpoint=True)), int(rng.integers(GRID - width, endpoint=True))
        rows, columns = slice(top, top + height), slice(left, left + width)
        side = self._image_size
        photo = reader.photo(row, rows, columns)[None]
        picture = F.interpolate(photo, (side, side), mode="bilinear", antialias=True)[0]
        embedding = F.adaptive_avg_pool2d(reader.read(row, rows, columns), (side // STRIDE, side // STRIDE))
        if rng.random() < 0.5:
            picture, embedding = picture.flip(2), embedding.flip(2)
        return picture, embedding


def as_clips(frames: Tensor, rng: np.random.Generator) -> Tensor:
    """Turn frames into clips, whose earlier frames are the same pictures shifted by a few pixels.

    Args:
        frames: [B, 3, S, S].
        rng: random generator.

    Returns:
        [B, 3, 3 (time), S, S].
    """
    shifts = rng.integers(-SHIFT, SHIFT, size=(2, 2), endpoint=True).tolist()
    earlier = [torch.roll(frames, shift, dims=(2, 3)) for shift in shifts]
    return torch.stack([*earlier, frames], dim=2)


def change_colours(picture: Tensor, rng: np.random.Generator) -> Tensor:
    """Change brightness, contrast, saturation and hue at random, and turn a few pictures grey.

    Each of these changes is affine in red, green and blue, so all of them together are one multiplication by a matrix.

    Args:
        picture: uint8 [3, S, S].
        rng: random generator.

    Returns:
        float32 [3, S, S] in [0, 1].
    """
    brightness, contrast, saturation = (
        float(rng.uniform(1 - spread, 1 + spread)) for spread in (BRIGHTNESS, CONTRAST, SATURATION)
    )
    if rng.random() < GREY:
        saturation = 0.0
    luma = torch.tensor(LUMA)
    colours = saturation * torch.eye(3) + (1 - saturation) * luma
    matrix = brightness * (_hue_rotation(2 * math.pi * float(rng.uniform(-HUE, HUE))) @ colours)
    pixels = picture.flatten(1).float().div_(255)
    mean = luma @ matrix @ pixels.mean(1)
    changed = torch.addmm(((1 - contrast) * mean).expand(3, 1), contrast * matrix, pixels)
    return changed.clamp_(0, 1).view(picture.shape)


def _hue_rotation(angle: float) -> Tensor:
    """Rotation [3, 3] of RGB about the axis of greys."""
    across = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / math.sqrt(3)
    cosine = math.cos(angle)
    return cosine * torch.eye(3) + (1 - cosine) / 3 + math.sin(angle) * across
