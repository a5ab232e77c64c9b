"""What a prompt may be, checked in one place for Python, the command line and the annotator's page.

Every check raises a PromptError that names the field: points, labels, box, frame or object. This module needs NumPy but
not PyTorch, so that a mistake on the command line is told at once; `prompts.tensors` makes tensors of what is right.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from i2vpp.errors import PromptError
from i2vpp.utils.brief import brief
from i2vpp.utils.values import Array, shown, to_numbers, whole_number

BOX_LABELS = (2, 3)
"""Labels of a box's corners: x0, y0 and x1, y1."""

PADDING = -1
"""Label of an entry that is no point: SAM 2 pads the points of several objects to one length with it."""

LABELS = (PADDING, 0, 1, *BOX_LABELS)

MOST_NUMBER = 2**31 - 1
"""Largest index of a frame and largest id of an object in a prompt of the command line."""

OVERSHOOT = 2.0
"""Pixels by which points and boxes may leave the frame: detectors round and overshoot; further out is a mistake."""

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ObjectPrompt:
    """What the user says about one object on one frame: clicks and a box, or a mask.

    Args:
        frame_idx: index of the frame.
        obj_id: 1 or more; 0 is the background.
        points: (x, y) in pixels.
        labels: labels of the points, 1 positive, 0 negative.
        box: x0, y0, x1, y1 in pixels.
        mask: [H, W] bool.
        file: file that the mask was read from.

    Raises:
        PromptError: a value that is wrong whatever the video; the message names the field.
    """

    frame_idx: int = 0
    obj_id: int = 1
    points: tuple[tuple[float, float], ...] = ()
    labels: tuple[int, ...] = ()
    box: Box | None = None
    mask: NDArray[np.bool_] | None = None
    file: Path | None = None

    def __post_init__(self) -> None:
        for name, number, least in (("frame", self.frame_idx, 0), ("object", self.obj_id, 1)):
            if whole_number(name, number, least=least) > MOST_NUMBER:
                raise PromptError(f"{name} must be at most {MOST_NUMBER}; got {brief(number)}")
        check_points(self.points, self.labels)
        if self.box is not None:
            check_box(self.box)


def check_points(points: Any, labels: Any) -> tuple[Array, Array]:
    """Return points and their labels as arrays, without padding.

    Args:
        points: [P, 2] or [1, P, 2] x, y.
        labels: [P] or [1, P], see `LABELS`.

    Returns:
        The points [P, 2] and the labels [P], int32.

    Raises:
        PromptError: they are no numbers, have other shapes, or are none of the labels that there are.
    """
    coords, values = to_numbers("points", points), to_numbers("labels", labels)
    if coords.ndim == 3 and coords.shape[0] == 1:
        coords = coords[0]
    if values.ndim == 2 and values.shape[0] == 1:
        values = values[0]
    if coords.size == 0 and values.size == 0:
        return np.zeros((0, 2)), np.zeros(0, np.int32)
    if coords.dtype.kind == "b" or coords.ndim != 2 or coords.shape[1] != 2:
        raise PromptError(f"points must be a list of (x, y) pairs, shape [P, 2]; got shape {list(coords.shape)}.")
    if values.ndim != 1 or len(values) != len(coords):
        raise PromptError(f"labels must be one per point: {len(coords)} points, labels of shape {list(values.shape)}.")
    wrong = values[~np.isin(values, LABELS)]
    if len(wrong):
        raise PromptError(
            "labels must be 1 (positive) or 0 (negative), 2 and 3 for the corners of a box, or -1 for padding; "
            f"got {shown(wrong[0])}."
        )
    kept = values != PADDING
    _check_finite("points", coords[kept])
    return coords[kept], values[kept].astype(np.int32)


def check_box(box: Any) -> Array:
    """Return a box x0, y0, x1, y1 of any shape of four numbers as [2, 2].

    Raises:
        PromptError: not four finite numbers, or a box without area.
    """
    corners = to_numbers("box", box)
    if corners.size != 4:
        raise PromptError(f"box must be four numbers x0, y0, x1, y1; got {corners.size}.")
    _check_finite("box", corners)
    x0, y0, x1, y1 = corners.flat
    if x1 <= x0 or y1 <= y0:
        raise PromptError(f"box must have x0 < x1 and y0 < y1; got {', '.join(map(shown, corners.flat))}")
    return corners.reshape(2, 2)


def clip_to_frame(name: str, places: Array, *, width: int, height: int, normalized: bool = False) -> Array:
    """Return places in a frame; those that leave it by no more than `OVERSHOOT` are moved to its edge.

    Args:
        name: name of the field, for the message.
        places: [N, 2] x, y.
        width: frame width in pixels.
        height: frame height in pixels.
        normalized: the places are fractions of the frame's width and height.

    Returns:
        The places [N, 2], float64.

    Raises:
        PromptError: a place is further out, or not finite; the message shows the number as it was given.
    """
    _check_finite(name, places)
    exact = places.astype(np.float64)
    pixels = np.array([width, height], np.float64)
    size = np.ones(2) if normalized else pixels
    slack = OVERSHOOT * size / pixels
    outside = ((exact < -slack) | (exact > size + slack)).any(axis=1)
    if outside.any():
        x, y = (shown(number) for number in places[outside][0])
        raise PromptError(
            f"{name}: ({x}, {y}) lies outside the frame, which is {shown(size[0])} wide and {shown(size[1])} high; "
            f"up to {OVERSHOOT:.0f} pixels beyond its edges are allowed."
        )
    return exact.clip(0, size)


def clip_box_to_frame(box: Any, *, width: int, height: int, normalized: bool = False) -> Array:
    """Return a box in a frame as [2, 2], float64; see `check_box` and `clip_to_frame`.

    Args:
        box: four numbers x0, y0, x1, y1.
        width: frame width in pixels.
        height: frame height in pixels.
        normalized: the corners are fractions of the frame's width and height.

    Raises:
        PromptError: it is no box, is further out, or has no area inside the frame.
    """
    corners = clip_to_frame("box", check_box(box), width=width, height=height, normalized=normalized)
    return check_box(corners)  # again: an edge may be all that lay inside


def _check_finite(name: str, numbers: Array) -> None:
    if not np.isfinite(numbers).all():
        raise PromptError(f"{name} contains NaN or infinite values.")
