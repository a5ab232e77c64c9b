"""Operations on mask logits that give the same result on every device."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

FILLED_LOGIT = 0.1
HALF = 0.5
NOTHING = 1e-4
"""A smaller share of a cell comes from rounding: a pixel of 8192 x 4096 is twenty times as much of 256 x 256 cells."""


def fill_holes(logits: Tensor, max_area: int) -> Tensor:
    """Fill small holes: 8-connected components of background (logits <= 0) of at most `max_area` pixels.

    Every background pixel takes the largest pixel number within `max_area` - 1 steps in its component. A component that
    small then carries one number throughout; where neighbours still differ, the component is larger.

    Args:
        logits: [B, 1, H, W] float32, H * W < 2^24.
        max_area: largest area of a hole in pixels; 0 fills nothing.

    Returns:
        The logits with the holes' pixels at 0.1; the same tensor where `max_area` is 0.
    """
    if max_area == 0:
        return logits
    background = logits <= 0
    after_last = logits[0].numel() + 1
    labels = torch.arange(1, after_last, dtype=torch.float32, device=logits.device).view_as(logits[0]) * background
    for _ in range(max_area - 1):
        labels = _highest_around(labels) * background
    # A pixel next to a background pixel with another number: its number belongs to no small component, and it counts
    # as so many pixels that none has that area.
    lowest = after_last - _highest_around((after_last - labels) * background)
    torn = _highest_around(labels) != lowest
    index = labels.flatten(1).long()
    count = torch.ones_like(index).masked_fill_(torn.flatten(1), max_area + 1)
    area = index.new_zeros(index.shape[0], after_last).scatter_add_(1, index, count)
    hole = (area <= max_area).gather(1, index).view_as(background) & background
    return logits.masked_fill(hole, FILLED_LOGIT)


def raise_small_parts(coverage: Tensor) -> Tensor:
    """Keep parts of a mask that are too small or thin for a grid.

    A part that covers less than half of every cell around would be lost where the grid is cut at one half; there the
    coverage is divided by its highest value within two cells. Elsewhere nothing changes.

    Args:
        coverage: [B, 1, h, w] share of each cell that the mask covers.
    """
    highest = _highest_around(_highest_around(coverage))
    return torch.where((highest > NOTHING) & (highest < HALF), coverage / highest, coverage)


def _highest_around(x: Tensor) -> Tensor:
    """Highest value of the 3x3 pixels around each pixel of [B, 1, H, W]."""
    if x.device.type != "cpu":
        return F.max_pool2d(x, 3, stride=1, padding=1)
    # On a CPU max_pool2d goes pixel by pixel; whole rows compared at a time take a twentieth of its time.
    padded = F.pad(x, (1, 1, 1, 1), value=-torch.inf)
    across = torch.maximum(torch.maximum(padded[..., :-2], padded[..., 1:-1]), padded[..., 2:])
    return torch.maximum(torch.maximum(across[..., :-2, :], across[..., 1:-1, :]), across[..., 2:, :])
