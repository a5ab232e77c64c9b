"""Connected regions of masks, with NumPy alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


def label_regions(mask: Mask) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Number the 8-connected regions of a mask.

    The mask is taken apart into runs of set pixels, row by row. A run touches those runs of the next row that begin at
    or before its end and end at or behind its start. Of two touching runs, that with the larger number is linked to
    that with the smaller one, until no link changes.

    Args:
        mask: bool [H, W].

    Returns:
        The region of each pixel [H, W], 0 outside of the mask, and the regions' areas in pixels [regions + 1], of which
        the first is 0.
    """
    height, width = mask.shape
    steps = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = np.nonzero(steps == 1)
    ends = np.nonzero(steps == -1)[1]  # exclusive, of the same runs
    stride = width + 2
    first = np.searchsorted(rows * stride + ends, (rows + 1) * stride + starts, "left")
    last = np.searchsorted(rows * stride + starts, (rows + 1) * stride + ends, "right")
    touching = last - first
    upper = np.repeat(np.arange(len(rows)), touching)
    lower = np.arange(len(upper)) + np.repeat(first - np.cumsum(touching) + touching, touching)
    numbers = np.arange(len(rows))
    while True:
        smaller = np.minimum(numbers[upper], numbers[lower])
        linked = numbers.copy()
        for runs in (upper, lower):
            np.minimum.at(linked, numbers[runs], smaller)
        linked = linked[linked]
        if (linked == numbers).all():
            break
        numbers = linked
    _, region = np.unique(numbers, return_inverse=True)
    region = region.reshape(-1) + 1
    areas = np.bincount(region, ends - starts, minlength=1).astype(np.int64)
    changes = np.zeros((height, width + 1), np.int64)
    changes[rows, starts] = region
    changes[rows, ends] -= region
    return np.cumsum(changes, axis=1)[:, :width], areas


def small_regions(mask: Mask, most: float) -> Mask:
    """Return the pixels [H, W] of a mask's regions of at most `most` pixels."""
    labels, areas = label_regions(mask)
    small: Mask = (labels > 0) & (areas <= most)[labels]
    return small


def remove_small_regions(mask: Mask, least: float) -> Mask:
    """Fill the holes of a mask and remove its regions that are smaller than `least` pixels.

    Where all regions are smaller, the largest stays.

    Args:
        mask: bool [H, W].
        least: area in pixels.

    Returns:
        The mask; the same array where nothing changes.
    """
    holes_labels, holes = label_regions(~mask)
    filled = (holes_labels > 0) & (holes < least)[holes_labels]
    labels, areas = label_regions(mask | filled)
    kept = areas >= least
    kept[areas.argmax()] = True
    kept[0] = False
    found: Mask = kept[labels]
    return mask if (found == mask).all() else found
