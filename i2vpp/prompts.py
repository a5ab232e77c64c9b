"""What users type as prompts, checked and turned into tensors; every mistake gets one PromptError that names it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from i2vpp.errors import PromptError
from i2vpp.session.state import Clicks

BOX_LABELS = (2, 3)


def parse_clicks(
    points: Any, labels: Any, box: Any, *, height: int, width: int, image_size: int, normalize_coords: bool
) -> Clicks:
    """Check clicks and box and scale them to the network's input.

    Args:
        points: [P, 2] or [1, P, 2] x, y; None without clicks.
        labels: [P] or [1, P], 1 positive, 0 negative.
        box: x0, y0, x1, y1 or None.
        height: of the video; coordinates are pixels of it, unless
        width: of the video.
        image_size: side of the network's input.
        normalize_coords: False if coordinates are already fractions of width and height.
    """
    if (points is None) != (labels is None):
        raise PromptError("points and labels go together: pass both or neither.")
    if points is None and box is None:
        raise PromptError("Nothing to prompt with: pass points with labels, a box, or both.")
    extent = torch.tensor([width, height] if normalize_coords else [1, 1], dtype=torch.float32)
    coords, values = torch.zeros(0, 2), torch.zeros(0, dtype=torch.int32)
    if points is not None:
        coords, values = _points(points, labels)
        _check_inside("points", coords, extent)
    if box is not None:
        corners = _box(box)
        _check_inside("box", corners, extent)
        coords = torch.cat([corners, coords])
        values = torch.cat([torch.tensor(BOX_LABELS, dtype=torch.int32), values])
    return Clicks(coords=coords / extent * image_size, labels=values)


def merge_clicks(old: Clicks, new: Clicks) -> Clicks:
    """Add clicks to earlier ones."""
    return Clicks(coords=torch.cat([old.coords, new.coords]), labels=torch.cat([old.labels, new.labels]))


def parse_mask(mask: Any, *, height: int, width: int) -> Tensor:
    """Check a mask and return it as float32 [1, 1, H, W] of 0 and 1.

    Args:
        mask: [H, W] bool or numbers (non-zero = object), of the video's size; all zero declares the object absent.
        height: of the video.
        width: of the video.
    """
    tensor = _tensor("mask", mask)
    while tensor.ndim > 2 and tensor.shape[0] == 1:
        tensor = tensor[0]
    if tensor.shape != (height, width):
        raise PromptError(
            f"mask must have the video's size [height, width] = [{height}, {width}]; got {list(tensor.shape)}."
        )
    if not tensor.isfinite().all():
        raise PromptError("mask contains NaN or infinite values.")
    return (tensor != 0).float()[None, None]


def _tensor(name: str, value: Any) -> Tensor:
    try:
        return torch.as_tensor(value).detach().cpu().float()
    except (TypeError, ValueError, RuntimeError) as error:
        raise PromptError(
            f"{name} must be numbers (a list, NumPy array or tensor); got {value!r:.100} ({error})."
        ) from None


def _points(points: Any, labels: Any) -> tuple[Tensor, Tensor]:
    coords, values = _tensor("points", points), _tensor("labels", labels)
    if coords.ndim == 3 and coords.shape[0] == 1:
        coords = coords[0]
    if values.ndim == 2 and values.shape[0] == 1:
        values = values[0]
    if coords.ndim != 2 or coords.shape[1] != 2:
        raise PromptError(f"points must be a list of (x, y) pairs, shape [P, 2]; got shape {list(coords.shape)}.")
    if values.ndim != 1 or len(values) != len(coords):
        raise PromptError(f"labels must be one per point: {len(coords)} points, labels of shape {list(values.shape)}.")
    wrong = [v for v in values.tolist() if v not in (0, 1)]
    if wrong:
        raise PromptError(f"labels must be 1 (positive) or 0 (negative); got {wrong[0]:g}.")
    return coords, values.int()


def _box(box: Any) -> Tensor:
    corners = _tensor("box", box).flatten()
    if corners.shape != (4,):
        raise PromptError(f"box must be four numbers x0, y0, x1, y1; got {corners.numel()}.")
    x0, y0, x1, y1 = corners.tolist()
    if x1 <= x0 or y1 <= y0:
        raise PromptError(
            f"box is empty or inverted: x0={x0:g}, y0={y0:g}, x1={x1:g}, y1={y1:g}; x0 < x1, y0 < y1 is meant."
        )
    return corners.view(2, 2)


def _check_inside(name: str, coords: Tensor, extent: Tensor) -> None:
    if not coords.isfinite().all():
        raise PromptError(f"{name} contains NaN or infinite values.")
    outside = coords[((coords < 0) | (coords > extent)).any(dim=1)]
    if len(outside):
        x, y = outside[0].tolist()
        width, height = extent.tolist()
        raise PromptError(
            f"{name}: ({x:g}, {y:g}) lies outside the frame, which is {width:g} wide and {height:g} high."
        )
