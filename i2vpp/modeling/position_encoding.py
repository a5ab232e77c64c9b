"""Position encodings: sine maps, sine vectors, random Fourier features and axial rotary embedding.

Tables depend on sizes and device only; they are cached per size and device, a bounded number of them.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor, nn

TEMPERATURE = 10000.0


@lru_cache(maxsize=32)
def _frequencies(width: int, device: torch.device) -> Tensor:
    """Divisors in pairs: temperature^(2 * (i // 2) / width), [width]."""
    with torch.inference_mode(False):
        index = torch.arange(width, dtype=torch.float32, device=device)
        return TEMPERATURE ** (2 * (index // 2) / width)


@lru_cache(maxsize=32)
def sine_map(channels: int, height: int, width: int, device: torch.device) -> Tensor:
    """Normalised 2-D sine position map; the y half of the channels comes before the x half.

    Args:
        channels: number of channels.
        height: in cells.
        width: in cells.
        device: device of the map.

    Returns:
        [1, channels, height, width], in channels-last memory as the maps that it is added to.
    """
    with torch.inference_mode(False):
        divisors = _frequencies(channels // 2, device)

        def encode(size: int) -> Tensor:  # [size, channels / 2]
            position = torch.arange(1, size + 1, dtype=torch.float32, device=device) / (size + 1e-6) * (2 * math.pi)
            angle = position[:, None] / divisors
            return torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], dim=2).flatten(1)

        y = encode(height)[:, None, :].expand(-1, width, -1)
        x = encode(width)[None, :, :].expand(height, -1, -1)
        return torch.cat([y, x], dim=2)[None].permute(0, 3, 1, 2)


def sine_vector(position: Tensor, channels: int) -> Tensor:
    """1-D sine encoding: all sines, then all cosines.

    Args:
        position: positions [...].
        channels: number of channels.

    Returns:
        [..., channels].
    """
    angle = position[..., None] / _frequencies(channels // 2, position.device)
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


@lru_cache(maxsize=32)
def rotary_table(channels: int, height: int, width: int, device: torch.device, stride: int = 1) -> Tensor:
    """Axial rotary angles as cosines and sines; the x half of the channels comes before the y half.

    Args:
        channels: number of channels that are turned, in pairs.
        height: in cells.
        width: in cells.
        device: device of the table.
        stride: a cell is a square of `stride` unit cells and has the angle of its centre.

    Returns:
        [height * width, channels / 2, 2].
    """
    with torch.inference_mode(False):
        frequencies = TEMPERATURE ** (-torch.arange(0, channels, 4, dtype=torch.float32, device=device) / channels)
        cell = torch.arange(height * width, device=device)
        x, y = (stride * index.float()[:, None] + (stride - 1) / 2 for index in (cell % width, cell // width))
        angle = torch.cat([x * frequencies, y * frequencies], dim=1)
        return torch.stack([angle.cos(), angle.sin()], dim=-1)


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Turn consecutive channel pairs by the angles of a table.

    Args:
        x: [..., L, C].
        table: cosines and sines [L, C / 2, 2], or what broadcasts to x's pairs.

    Returns:
        [..., L, C], of the dtype of x.
    """
    if x.device.type in {"cpu", "cuda"} and not torch.compiler.is_compiling():  # same numbers, one pass over memory
        pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
        return torch.view_as_real(pairs * torch.view_as_complex(table)).flatten(-2).to(x.dtype)
    cos, sin = table.unbind(-1)
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2).to(x.dtype)


class RandomPositionEncoding(nn.Module):
    """SAM's random Fourier features of points in the unit square; the matrix is part of the checkpoint."""

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, channels // 2))

    def forward(self, points: Tensor) -> Tensor:
        """Encode points [..., 2] (x, y in [0, 1]) as [..., C]."""
        with torch.autocast(points.device.type, enabled=False):
            angle = 2 * math.pi * ((2 * points.float() - 1) @ self.positional_encoding_gaussian_matrix.float())
        return torch.cat([angle.sin(), angle.cos()], dim=-1)

    def grid(self, height: int, width: int) -> Tensor:
        """Encode the cell centres of a grid.

        Args:
            height: in cells.
            width: in cells.

        Returns:
            [1, C, height, width].
        """
        device = self.positional_encoding_gaussian_matrix.device
        y = (torch.arange(height, dtype=torch.float32, device=device) + 0.5) / height
        x = (torch.arange(width, dtype=torch.float32, device=device) + 0.5) / width
        points = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)  # [height, width, 2]
        return self(points).permute(2, 0, 1)[None]
