"""The clicks of the evaluation protocols, computed from masks; the same masks give the same clicks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from i2vpp.utils.arrays import Mask


@dataclass(frozen=True, kw_only=True)
class Click:
    """A click on a pixel: x to the right, y down, both from 0; positive adds to the object."""

    x: int
    y: int
    positive: bool


def central_click(mask: Mask) -> Click:
    """Click on the pixel of a mask [H, W] that is nearest to its centroid.

    Raises:
        ValueError: the mask is empty.
    """
    if not mask.any():
        raise ValueError("central_click: the mask is empty, there is nothing to click on")
    ys, xs = np.nonzero(mask)
    nearest = np.argmin((ys - ys.mean()) ** 2 + (xs - xs.mean()) ** 2)
    return Click(x=int(xs[nearest]), y=int(ys[nearest]), positive=True)


def correcting_click(truth: Mask, found: Mask) -> Click:
    """Click on the deepest pixel of the false negatives or of the false positives, whichever region reaches deeper.

    Depth is the Euclidean distance to the nearest pixel outside the region; what lies beyond the frame is outside.
    Where both reach equally deep, a false positive is clicked; of equally deep pixels, the first row by row. A
    faultless mask is clicked at its own deepest pixel.

    Args:
        truth: the true mask [H, W].
        found: the predicted mask [H, W].

    Returns:
        A positive click on a false negative, or a negative click on a false positive.

    Raises:
        ValueError: both masks are empty, or their sizes differ.
    """
    if truth.shape != found.shape:
        raise ValueError(f"correcting_click: masks of sizes {truth.shape} and {found.shape}")
    false_negative, false_positive = truth & ~found, found & ~truth
    if not (false_negative.any() or false_positive.any()):
        false_negative = truth
    (negative_depth, negative_at), (positive_depth, positive_at) = _deepest(false_negative), _deepest(false_positive)
    if negative_depth == positive_depth == 0:
        raise ValueError("correcting_click: both masks are empty, there is nothing to click on")
    positive = negative_depth > positive_depth  # a positive click adds what the prediction lacks
    y, x = negative_at if positive else positive_at
    return Click(x=x, y=y, positive=positive)


def _deepest(region: Mask) -> tuple[float, tuple[int, int]]:
    """Return the depth and (y, x) of the deepest pixel; depth 0 if the region is empty."""
    from scipy.ndimage import distance_transform_edt  # noqa: PLC0415 - only evaluation and training need scipy

    rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
    if not len(rows):
        return 0.0, (0, 0)
    top, left = rows[0], columns[0]
    depth = distance_transform_edt(np.pad(region[top : rows[-1] + 1, left : columns[-1] + 1], 1))
    y, x = np.unravel_index(int(np.argmax(depth)), depth.shape)
    return float(depth[y, x]), (int(y + top - 1), int(x + left - 1))
