"""Turn the prompts that users pass into tensors; `i2vpp.prompts.checks` has the checks."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from i2vpp.data.mask_arrays import parse_mask_array
from i2vpp.errors import PromptError
from i2vpp.prompts.checks import BOX_LABELS, check_points, clip_box_to_frame, clip_to_frame
from i2vpp.session.state import Clicks
from i2vpp.utils.values import Array


def parse_clicks(
    points: Any, labels: Any, box: Any, *, height: int, width: int, image_size: int, normalize_coords: bool
) -> Clicks:
    """Check clicks and box and scale them to the network's input.

    Points and corners that leave the frame by up to 2 pixels are moved to its edge.

    Args:
        points: [P, 2] or [1, P, 2] x, y; None without clicks.
        labels: [P] or [1, P], 1 positive, 0 negative, 2 and 3 the corners of a box, -1 padding, which is left out.
        box: x0, y0, x1, y1 or None.
        height: video height in pixels.
        width: video width in pixels.
        image_size: side of the network's input.
        normalize_coords: True for coordinates in pixels of the video; False for fractions of its width and height.

    Returns:
        The clicks in pixels of the network's input, corners of the box first.

    Raises:
        PromptError: a field is wrong, see `i2vpp.prompts.checks`, or there is neither a point nor a box.
    """
    if (points is None) != (labels is None):
        raise PromptError("points and labels go together: pass both or neither.")
    coords, values = check_points([] if points is None else points, [] if labels is None else labels)
    if (values >= BOX_LABELS[0]).any():
        if box is not None:
            raise PromptError("labels 2 and 3 are the corners of a box: pass them, or box, but not both.")
        coords, values, box = _take_corners(coords, values)
    if box is None and not len(coords):
        nothing = "Nothing to prompt with" if points is None else "points holds no point"
        raise PromptError(f"{nothing}: pass points with labels, a box, or both.")
    frame: dict[str, Any] = {"width": width, "height": height, "normalized": not normalize_coords}
    coords = clip_to_frame("points", coords, **frame)
    if box is not None:
        coords = np.concatenate([clip_box_to_frame(box, **frame), coords])
        values = np.concatenate([np.array(BOX_LABELS, np.int32), values])
    extent = torch.tensor([width, height] if normalize_coords else [1, 1], dtype=torch.float32)
    scaled = torch.from_numpy(coords.astype(np.float32)) / extent * image_size
    return Clicks(coords=scaled, labels=torch.from_numpy(values))


def merge_clicks(old: Clicks, new: Clicks) -> Clicks:
    """Join the clicks of one object on one frame.

    Args:
        old: earlier clicks, which may begin with a box.
        new: clicks that are added behind them, without a box.

    Returns:
        All of them.
    """
    return Clicks(coords=torch.cat([old.coords, new.coords]), labels=torch.cat([old.labels, new.labels]))


def parse_mask(mask: Any, *, height: int, width: int) -> Tensor:
    """Check a mask of an object on a frame; one without any pixel says that the object is absent.

    Args:
        mask: mask, see `parse_mask_array`.
        height: video height in pixels.
        width: video width in pixels.

    Returns:
        float32 [1, 1, H, W] of 0 and 1.

    Raises:
        PromptError: it does not fit.
    """
    found = parse_mask_array(mask, height=height, width=width)
    return torch.from_numpy(found.astype(np.float32))[None, None]


def _take_corners(coords: Array, values: Array) -> tuple[Array, Array, Array]:
    """Return the clicks [P, 2], their labels [P], and the corners [2, 2] of the box that was among them."""
    corners = values >= BOX_LABELS[0]
    if sorted(values[corners].tolist()) != list(BOX_LABELS):
        raise PromptError("labels 2 and 3 are the two corners of one box: give each of them once.")
    box = np.concatenate([coords[values == label] for label in BOX_LABELS])
    return coords[~corners], values[~corners], box
