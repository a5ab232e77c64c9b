"""Smooth motion, and the warping of pictures by it: the geometry of synthetic videos.

Pixels are counted at their centres: the first one of a row lies at x = 0. Matrices are homographies [3, 3], float64.
Legend: C channels, h, w size of a picture, H, W size of a frame or of a window in it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

GRID_STEP = 8  # pixels between the points at which a warp is computed; linear between them
SHORTEST_SWING = 8.0  # least frames from one end to the other, so that nothing shakes


@dataclass(frozen=True, kw_only=True)
class Swing:
    """A value that goes from one end to the other and back along a cosine.

    Args:
        start: the value at one end, which it is near at t = 0.
        end: the value at the other end.
        frames: it takes from one end to the other.
        phase: radians already gone at t = 0.
    """

    start: float
    end: float
    frames: float
    phase: float = 0.0

    def at(self, t: float) -> float:
        """Return the value at frame t, which may lie between frames."""
        share = (1 - math.cos(math.pi * t / self.frames + self.phase)) / 2
        return float(self.start + (self.end - self.start) * share)

    @classmethod
    def draw(cls, rng: np.random.Generator, start: float, end: float, *, frames: float | None = None) -> Swing:
        """Draw how fast a value swings between two ends; `frames` sets it, but for what makes no two alike.

        Args:
            rng: source of all draws.
            start: value at one end.
            end: value at the other end.
            frames: frames from one end to the other, changed a little at random; None: 8 to 32.
        """
        frames = rng.uniform(SHORTEST_SWING, 4 * SHORTEST_SWING) if frames is None else frames * rng.uniform(0.85, 1.2)
        return cls(start=start, end=end, frames=max(frames, SHORTEST_SWING), phase=rng.uniform(0, math.pi / 4))


@dataclass(frozen=True, kw_only=True)
class Pose:
    """How a picture lies on a frame.

    Args:
        x: place of the picture's centre on the frame in pixels.
        y: likewise.
        angle: rotation in radians.
        scale: pixels of the frame per pixel of the picture.
        tilt_x: perspective: relative change of scale per pixel of the frame.
        tilt_y: likewise.
    """

    x: float
    y: float
    angle: float
    scale: float
    tilt_x: float = 0.0
    tilt_y: float = 0.0

    def to_picture(self, size: Sequence[int]) -> NDArray[np.float64]:
        """Return the homography from pixels of the frame to pixels of a picture of `size` (h, w)."""
        cos, sin = math.cos(self.angle) / self.scale, math.sin(self.angle) / self.scale
        turn = np.array([[cos, sin, 0.0], [-sin, cos, 0.0], [self.tilt_x, self.tilt_y, 1.0]])
        return shift((size[1] - 1) / 2, (size[0] - 1) / 2) @ turn @ shift(-self.x, -self.y)


@dataclass(frozen=True, kw_only=True)
class Motion:
    """A pose that changes smoothly with time; the fields are those of `Pose`, with the logarithm of the scale."""

    x: Swing
    y: Swing
    angle: Swing
    log_scale: Swing
    tilt_x: Swing
    tilt_y: Swing

    def at(self, t: float) -> Pose:
        """Return the pose at frame t, which may lie between frames."""
        values = {name: getattr(self, name).at(t) for name in ("x", "y", "angle", "tilt_x", "tilt_y")}
        return Pose(scale=math.exp(self.log_scale.at(t)), **values)


@dataclass(frozen=True, kw_only=True)
class Window:
    """A part of a frame: rows `top` to `bottom`, columns `left` to `right`, the last ones excluded."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def empty(self) -> bool:
        """Whether it has no pixel."""
        return self.top >= self.bottom or self.left >= self.right

    @property
    def part(self) -> tuple[slice, slice]:
        """Rows and columns, to index with."""
        return slice(self.top, self.bottom), slice(self.left, self.right)


@dataclass(frozen=True, kw_only=True, eq=False)
class Ripple:
    """A smooth non-rigid deformation: plane waves that run through a picture.

    Args:
        waves: wave vectors [K, 2], radians per pixel, x before y.
        offsets: amplitudes [K, 2], pixels.
        rates: [K], radians per frame.
        phases: [K], radians.
    """

    waves: NDArray[np.float64]
    offsets: NDArray[np.float64]
    rates: NDArray[np.float64]
    phases: NDArray[np.float64]

    @property
    def reach(self) -> float:
        """How far a point can move, pixels."""
        return float(np.linalg.norm(self.offsets, axis=1).sum())

    def at(self, points: NDArray[np.float64], t: float) -> NDArray[np.float64]:
        """Move points [..., 2] to where they lie at frame t.

        Args:
            points: places in the picture in pixels.
            t: frame, which may lie between frames.
        """
        return points + np.sin(points @ self.waves.T + self.rates * t + self.phases) @ self.offsets

    @classmethod
    def draw(cls, rng: np.random.Generator, size: float, *, strain: float, count: int = 2) -> Ripple:
        """Draw waves about as long as `size` pixels that stretch nothing by more than `strain` (below 1: no folds).

        Args:
            rng: source of all draws.
            size: about the length of the waves in pixels.
            strain: largest relative stretch, below 1, so that nothing folds.
            count: number of waves.
        """
        lengths = rng.uniform(0.7, 1.6, count) * size
        along, across = rng.uniform(0, 2 * math.pi, (2, count))
        amplitudes = strain / count * lengths / (2 * math.pi)
        return cls(
            waves=np.stack([np.cos(along), np.sin(along)], axis=1) * (2 * math.pi / lengths)[:, None],
            offsets=np.stack([np.cos(across), np.sin(across)], axis=1) * amplitudes[:, None],
            rates=rng.uniform(0.1, 0.5, count),
            phases=rng.uniform(0, 2 * math.pi, count),
        )


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """Draw a number whose logarithm is uniform.

    Args:
        rng: source of the draw.
        low: least value, positive.
        high: largest value.
    """
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def shift(x: float, y: float) -> NDArray[np.float64]:
    """Return the homography that adds (x, y).

    Args:
        x: added to x, in pixels.
        y: added to y, in pixels.
    """
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])


def inverse(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the homography that undoes another one."""
    return np.linalg.inv(matrix).astype(np.float64, copy=False)


def transform(matrix: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Map points [..., 2] by a homography.

    Args:
        matrix: homography [3, 3].
        points: x, y of each point.
    """
    mapped = points @ matrix[:, :2].T + matrix[:, 2]
    return mapped[..., :2] / mapped[..., 2:]


def corners(size: Sequence[int], *, margin: float = 0.0) -> NDArray[np.float64]:
    """Return the four corners [4, 2] of a picture of `size` (h, w), moved outwards by `margin` pixels.

    Args:
        size: height and width in pixels.
        margin: pixels by which the corners lie further out.
    """
    low, bottom, right = -0.5 - margin, size[0] - 0.5 + margin, size[1] - 0.5 + margin
    return np.array([[low, low], [right, low], [right, bottom], [low, bottom]])


def window_of(points: NDArray[np.float64], frame: tuple[int, int], *, margin: float = 1.0) -> Window:
    """Return the part of a frame of size (H, W) that a polygon [N, 2] with some margin covers.

    Args:
        points: corners of the polygon in pixels of the frame.
        frame: size (H, W) of the frame in pixels.
        margin: pixels around the polygon.
    """
    size = (frame[1], frame[0])
    left, top = np.floor(points.min(axis=0) - margin).clip(0, size).astype(int).tolist()
    right, bottom = (np.ceil(points.max(axis=0) + margin) + 1).clip(0, size).astype(int).tolist()
    return Window(top=top, bottom=bottom, left=left, right=right)


def warp(
    picture: Tensor,
    to_picture: NDArray[np.float64],
    window: Window,
    *,
    ripple: Ripple | None = None,
    t: float = 0.0,
    padding: str = "zeros",
) -> Tensor:
    """Draw a picture into a window of a frame, bilinearly.

    Args:
        picture: float32 [C, h, w].
        to_picture: homography from pixels of the frame to pixels of the picture.
        window: not empty.
        ripple: deformation of the picture.
        t: frame, for the ripple.
        padding: values outside of the picture: "zeros" or "border".

    Returns:
        float32 [C, H, W] of the window's size.
    """
    height, width = window.bottom - window.top, window.right - window.left
    ys = np.linspace(window.top, window.bottom - 1, max(2, math.ceil(height / GRID_STEP) + 1))
    xs = np.linspace(window.left, window.right - 1, max(2, math.ceil(width / GRID_STEP) + 1))
    points = transform(to_picture, np.stack(np.meshgrid(xs, ys), axis=-1))
    if ripple is not None:
        points = ripple.at(points, t)
    size = np.array([picture.shape[2], picture.shape[1]])
    coarse = torch.from_numpy(((2 * points + 1) / size - 1).astype(np.float32)).permute(2, 0, 1)[None]
    grid = F.interpolate(coarse, (height, width), mode="bilinear", align_corners=True).permute(0, 2, 3, 1)
    return F.grid_sample(picture[None], grid, mode="bilinear", padding_mode=padding, align_corners=False)[0]


def smear(picture: Tensor, dx: float, dy: float) -> Tensor:
    """Blur a picture [C, H, W] along a line of (dx, dy) pixels around each pixel: motion blur.

    Args:
        picture: float32 [C, H, W].
        dx: length of the line along x in pixels.
        dy: length of the line along y in pixels.
    """
    count = math.ceil(max(abs(dx), abs(dy)))
    if count < 2:
        return picture
    steps = np.rint(np.linspace(-0.5, 0.5, count)[:, None] * np.array([dx, dy])).astype(int)
    border_x, border_y = np.abs(steps).max(axis=0).tolist()
    height, width = picture.shape[1:]
    padded = F.pad(picture[None], (border_x, border_x, border_y, border_y), mode="replicate")[0]
    total = torch.zeros_like(picture)
    for x, y in (steps + [border_x, border_y]).tolist():
        total += padded[:, y : y + height, x : x + width]
    return total / count
