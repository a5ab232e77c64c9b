"""Distinguishing masks with soft edges from maps of object ids: both have several values, but in different places.

Blur, resizing and JPEG put values between an object and the background that stand for no object. In a map of ids a
pixel hardly ever has a value strictly between those of its two neighbours in a row or a column: that takes an object of
one pixel's width with a lower id on one side and a higher one on the other. At a soft edge nearly all pixels are so.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.integer[Any]]

MANY_BETWEEN = 0.25
"""Share of the objects' outermost pixels whose value lies between their neighbours', from which edges are soft."""

SOME_BETWEEN = 0.15
"""The same where MOSTLY_BETWEEN of the values are hardly ever anything else."""

MOSTLY_BETWEEN = 0.25

SMALL_IDS = 16
"""Below this a single value in between is an object, such as 1 around 2, as is a single colour; edges have more."""

MOST_COLOURS = 254
"""Objects of a mask with a colour each; more come from smoothing or JPEG."""

NOISE = 16
"""JPEG changes the values near an edge by up to about this much, and few of them lie between their neighbours."""


def has_soft_edges(pixels: Pixels) -> bool:
    """Return whether the values of a mask come from smoothed edges, so that they are no object ids.

    Args:
        pixels: [H, W] values or [H, W, 3] colours; 0 is the background.
    """
    planes = pixels.reshape(*pixels.shape[:2], -1).astype(np.int32)
    foreground: NDArray[np.bool_] = np.asarray(planes.any(axis=2))
    if not foreground.any():
        return False
    rows, columns = (slice(max(0, i.min() - 1), i.max() + 2) for i in np.nonzero(foreground))
    planes, foreground = planes[rows, columns], foreground[rows, columns]
    between, outermost = _neighbours(planes)
    codes = (planes << (8 * np.arange(planes.shape[2]))).sum(axis=2) if planes.shape[2] > 1 else planes[..., 0]
    values, index, counts = np.unique(codes[foreground], return_inverse=True, return_counts=True)
    if len(values) < 2:
        return False
    if planes.shape[2] > 1 and len(values) > MOST_COLOURS:
        return True
    passed = np.bincount(index.ravel()[between[foreground]], minlength=len(values))
    share = between[foreground].sum() / outermost[foreground].sum()
    mostly = (passed >= counts / 2).mean()
    if share >= MANY_BETWEEN or (share >= SOME_BETWEEN and mostly >= MOSTLY_BETWEEN):
        grey = planes.shape[2] == 1 and planes.max() >= SMALL_IDS
        return bool(grey or (passed > 0).sum() > 1)
    return any(_is_noise(plane, outermost) for plane in np.moveaxis(planes, 2, 0))


def _neighbours(planes: Pixels) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return where a value lies strictly between those before and behind it, and where it differs from any of them."""
    between, outermost = np.zeros((2, *planes.shape[:2]), bool)
    for axis in (0, 1):
        steps = np.sign(np.diff(np.moveaxis(planes, axis, 0), axis=0))
        passing = (steps[:-1] * steps[1:] > 0).any(axis=2)
        np.moveaxis(between, axis, 0)[1:-1] |= passing
        edge = steps.any(axis=2)
        for part in (slice(1, None), slice(None, -1)):
            np.moveaxis(outermost, axis, 0)[part] |= edge
    return between, outermost


def _is_noise(channel: Pixels, outermost: NDArray[np.bool_]) -> bool:
    """Whether nearly all values are close to 0 or to the highest one, and lie along edges, as in JPEG of good quality.

    Args:
        channel: [H, W] the mask, or one of its colours.
        outermost: [H, W] where the mask differs from a neighbour.
    """
    highest = channel.max()
    low, high = (channel > 0) & (channel <= NOISE), (channel >= highest - NOISE) & (channel < highest)
    near = low | high
    if highest < 128 or not low.any() or not high.any() or len(np.unique(channel[near])) < 3:
        return False
    if np.count_nonzero(near | (channel == highest)) < 0.9 * np.count_nonzero(channel):
        return False
    return bool(outermost[near].mean() >= 0.8)
