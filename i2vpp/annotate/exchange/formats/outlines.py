"""Outlines of masks as polygons, by contourpy."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from i2vpp.errors import I2VPPError
from i2vpp.utils.arrays import Mask
from i2vpp.utils.suggest import how_to_install

Points = NDArray[np.float64]
"""Corners x, y in pixels, [N, 2]; pixel (row i, column j) has its centre at x = j + 0.5, y = i + 0.5."""

LEVEL = 0.5
"""Outlines run half-way between the centres of set and other pixels, so that drawing by centres gives the mask back."""


def outlines(mask: Mask) -> list[Points]:
    """Return the outer outlines of a mask's parts, the largest first. Holes are left out.

    Args:
        mask: bool [H, W].

    Raises:
        I2VPPError: contourpy is missing.
    """
    contourpy = _contourpy()
    if not mask.any():
        return []
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, left = rows[0], columns[0]
    cut = np.pad(mask[top : rows[-1] + 1, left : columns[-1] + 1], 1).astype(np.float64)
    kind = contourpy.FillType.OuterOffset
    generator = contourpy.contour_generator(z=cut, name="serial", fill_type=kind)
    parts, offsets = generator.filled(LEVEL, 2.0)
    found = [_corners(part[: offset[1] - 1]) for part, offset in zip(parts, offsets, strict=True)]
    found.sort(key=lambda part: -abs(_area(part)))
    return [part + (left - 0.5, top - 0.5) for part in found]


def joined(parts: Sequence[Points]) -> Points:
    """Return one polygon of several: each is reached from the first by a line there and back, which has no area.

    Args:
        parts: corners of each.
    """
    whole = parts[0]
    for part in parts[1:]:
        far = ((whole[:, None, :] - part[None, :: _step(len(part)), :]) ** 2).sum(2)
        here, place = divmod(int(far.argmin()), far.shape[1])
        there = place * _step(len(part))
        tour = np.concatenate([part[there:], part[: there + 1]])
        whole = np.concatenate([whole[: here + 1], tour, whole[here:]])
    return whole


def _step(count: int) -> int:
    """Return how many corners lie between those that a line may end at; more would cost memory."""
    return count // 64 + 1


def _corners(points: Points) -> Points:
    """Leave out points on a straight line between their neighbours."""
    before, after = points - np.roll(points, 1, 0), np.roll(points, -1, 0) - points
    return points[np.abs(before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]) > 1e-9]


def _area(points: Points) -> float:
    x, y = points.T
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


def _contourpy() -> Any:
    try:
        return importlib.import_module("contourpy")
    except ImportError as error:
        raise I2VPPError(f"polygons need contourpy: {how_to_install('web')}") from error
