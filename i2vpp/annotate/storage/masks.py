"""Masks as run lengths, and brush strokes painted onto masks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from i2vpp.utils.arrays import Mask

Floats = NDArray[np.float64]

RUN = np.dtype("<u4")
THINNEST = math.sqrt(0.5)
"""Radius in pixels of the thinnest brush: wherever its centre lies, it reaches the centre of that pixel."""


@dataclass(frozen=True, kw_only=True)
class Stroke:
    """One line of a round brush, or a polygon, in pixels of the video; it may leave the frame.

    Args:
        points: x, y; a single point is a dab. A polygon is closed from the last point to the first.
        radius: radius of the brush; None: the points are the corners of a polygon, whose inside is painted.
        erase: whether it takes away.
    """

    points: tuple[tuple[float, float], ...]
    radius: float | None
    erase: bool = False


def encode_runs(mask: Mask) -> bytes:
    """Return the lengths of the runs of a bool mask [H, W] in row-major order, as little-endian uint32.

    The first run is background, 0 long where the mask begins set; no other run is empty. They sum to H * W.
    """
    if mask.ndim != 2 or mask.dtype != np.bool_ or not mask.size:
        raise ValueError(f"mask must be bool [H, W], got {mask.dtype} {mask.shape}")
    flat = mask.ravel()
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    starts = np.concatenate([[0, 0] if flat[0] else [0], changes, [flat.size]])
    return np.diff(starts).astype(RUN).tobytes()


def decode_runs(runs: bytes, size: tuple[int, int]) -> Mask:
    """Return the bool mask [H, W] of `encode_runs`.

    Args:
        runs: lengths, as `encode_runs` makes them.
        size: height and width.

    Raises:
        ValueError: the lengths do not sum to H * W.
    """
    lengths = _lengths(runs)
    if (total := int(lengths.sum())) != size[0] * size[1]:
        raise ValueError(f"runs cover {total} pixels; a mask of {size[0]} x {size[1]} has {size[0] * size[1]}")
    values = np.zeros(len(lengths), bool)
    values[1::2] = True
    return np.repeat(values, lengths).reshape(size)


def covered(runs: bytes) -> int:
    """Return the number of pixels, set or not, that run lengths stand for."""
    return int(_lengths(runs).sum())


def runs_area(runs: bytes) -> int:
    """Return the number of set pixels."""
    return int(_lengths(runs)[1::2].sum())


def _lengths(runs: bytes) -> NDArray[np.int64]:
    if not runs or len(runs) % RUN.itemsize:
        raise ValueError(f"runs must be a positive number of uint32, got {len(runs)} bytes")
    return np.frombuffer(runs, RUN).astype(np.int64)


def paint(mask: Mask, strokes: Sequence[Stroke]) -> Mask:
    """Return a copy of a mask with strokes of a round brush and polygons set or erased, in their order.

    A stroke takes the pixels whose centres lie within its radius of its line; pixel (row i, column j) has its centre
    at x = j + 0.5, y = i + 0.5. What lies outside the frame is cut off. A brush thinner than a pixel paints as one of
    about a pixel, so that no stroke inside the frame is without effect. A polygon takes the pixels whose centres it
    goes around, in either direction, once or more often.

    Args:
        mask: bool [H, W].
        strokes: strokes in pixels of the mask.
    """
    painted = mask.copy()
    for stroke in strokes:
        radius = 0.0 if stroke.radius is None else max(stroke.radius, THINNEST)
        ys = [y for _, y in stroke.points]
        top = max(math.floor(min(ys) - radius), 0)
        bottom = min(math.ceil(max(ys) + radius), len(mask))
        if top < bottom:
            rows, width = range(top, bottom), mask.shape[1]
            polygon = stroke.radius is None
            taken = _inside(stroke.points, rows, width) if polygon else _swept(stroke.points, radius, rows, width)
            painted[top:bottom][taken] = not stroke.erase
    return painted


def _inside(corners: Sequence[tuple[float, float]], rows: range, width: int) -> Mask:
    """Return what a polygon covers of some rows, as bool [len(rows), width].

    Each side turns the winding number of what lies to the right of it, in the rows that it crosses, by 1 up or down.
    """
    turns = np.zeros((len(rows), width + 1), np.int32)
    for (x0, y0), (x1, y1) in zip(corners, [*corners[1:], corners[0]], strict=True):
        low, high = sorted((y0, y1))
        number = np.arange(max(math.ceil(low - 0.5), rows.start), min(math.ceil(high - 0.5), rows.stop))
        if len(number):
            crossed = x0 + (number + 0.5 - y0) * ((x1 - x0) / (y1 - y0))
            column = np.ceil(np.clip(crossed - 0.5, 0, width)).astype(np.int64)
            turns[number - rows.start, column] += 1 if y0 < y1 else -1
    winding: NDArray[np.int32] = np.cumsum(turns[:, :-1], axis=1)
    return winding != 0


def _swept(points: Sequence[tuple[float, float]], radius: float, rows: range, width: int) -> Mask:
    """Return what a disc moved along a polyline covers of some rows, as bool [len(rows), width].

    A disc that moves along one segment sweeps a convex region, which covers one interval of each row. A table gets +1
    at the beginning and -1 behind the end of each interval; its cumulative sum along the rows is the number of
    segments that cover a pixel.
    """
    steps = np.zeros((len(rows), width + 1), np.int32)
    for start, end in zip(points, points[1:] or points, strict=False):
        first = max(math.floor(min(start[1], end[1]) - radius), rows.start)
        last = min(math.ceil(max(start[1], end[1]) + radius), rows.stop)
        if first >= last:
            continue
        number = np.arange(first, last)
        left, right = _intervals(start, end, radius, (number + 0.5).astype(np.float64))
        from_column = np.ceil(np.clip(left - 0.5, 0, width)).astype(np.int64)
        to_column = np.floor(np.clip(right - 0.5, -1, width - 1)).astype(np.int64) + 1
        hit = from_column < to_column
        row = number[hit] - rows.start
        steps[row, from_column[hit]] += 1
        steps[row, to_column[hit]] -= 1
    covering: NDArray[np.int32] = np.cumsum(steps[:, :-1], axis=1)
    return covering > 0


def _intervals(
    start: tuple[float, float], end: tuple[float, float], radius: float, ys: Floats
) -> tuple[Floats, Floats]:
    """Return the left and right end, at each y, of a disc moved from start to end; (inf, -inf) where it is not."""
    (x0, y0), (x1, y1) = start, end
    lefts, rights = [], []
    for x, y in (start, end):
        inside = np.abs(ys - y) <= radius
        half = np.sqrt(np.maximum(radius**2 - (ys - y) ** 2, 0))
        lefts.append(np.where(inside, x - half, np.inf))
        rights.append(np.where(inside, x + half, -np.inf))
    if length := math.hypot(x1 - x0, y1 - y0):
        dx, dy = (x1 - x0) / length, (y1 - y0) / length
        along = _between(dx, (ys - y0) * dy, 0, length)
        across = _between(dy, -(ys - y0) * dx, -radius, radius)
        left, right = np.maximum(along[0], across[0]) + x0, np.minimum(along[1], across[1]) + x0
        there = left <= right
        lefts.append(np.where(there, left, np.inf))
        rights.append(np.where(there, right, -np.inf))
    return np.min(lefts, axis=0), np.max(rights, axis=0)


def _between(slope: float, offsets: Floats, low: float, high: float) -> tuple[Floats, Floats]:
    """Return the interval of x, for each offset, where low <= slope * x + offset <= high."""
    if abs(slope) < 1e-12:
        fits = (offsets >= low) & (offsets <= high)
        return np.where(fits, -np.inf, np.inf), np.where(fits, np.inf, -np.inf)
    ends = (low - offsets) / slope, (high - offsets) / slope
    return np.minimum(*ends), np.maximum(*ends)
