"""Values from outside: whole numbers, arrays of numbers and places in a frame, each brought into one form."""

from __future__ import annotations

import math
import operator
from contextlib import suppress
from numbers import Real
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from i2vpp.errors import I2VPPError, PromptError
from i2vpp.utils.brief import brief

Array: TypeAlias = "NDArray[Any]"

OVERSHOOT = 2.0
"""Pixels by which points and boxes may leave the frame: detectors round and overshoot; further out is a mistake."""


def whole_number(
    name: str, value: Any, *, least: int | None = None, instead: str = "", error: type[I2VPPError] = PromptError
) -> int:
    """Return a whole number as Python's int, so that ids are equal when they look equal, and numbers do not wrap.

    Args:
        name: of the argument, for the message.
        value: an int, or a NumPy or torch scalar of integers; bool, float and text are refused.
        least: the smallest number allowed; None for any.
        instead: what to suggest for a number below `least`; by default `least` itself.
        error: what is raised.
    """
    is_flag = isinstance(value, bool) or str(getattr(value, "dtype", "")) in ("bool", "torch.bool")
    with suppress(TypeError, ValueError, RuntimeError):
        number = None if is_flag else operator.index(value)
        if number is not None and (least is None or number >= least):
            return number
    allowed = "a whole number" if least is None else f"a whole number from {least} on"
    raise error(f"{name} must be {allowed}; got {brief(value)}{_nearest(value, least, instead)}")


def _nearest(value: Any, least: int | None, instead: str) -> str:
    """Return `; did you mean 1?` for [1], "1" and 1.0, or nothing where no whole number is near."""
    try:
        array = np.asarray(to_array(value))
        number = round(float(array.item()))  # of one entry
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return ""
    if abs(number) > 2**63:
        return ""
    if least is not None and number < least:
        return f"; did you mean {instead or least}?"
    return f"; did you mean {number}?"


def to_array(value: Any) -> Any:
    """Return a tensor on any device as an array, also inside of lists; anything else as it is.

    Floating types that NumPy lacks, such as bfloat16, become float32.
    """
    if isinstance(value, (list, tuple)):
        return [to_array(entry) for entry in value]
    if not hasattr(value, "detach"):  # a tensor; torch itself is not imported here, as that takes seconds
        return value
    tensor = value.detach().cpu().resolve_conj().resolve_neg()
    try:
        return tensor.numpy()
    except TypeError:
        return tensor.float().numpy()


def to_numbers(name: str, value: Any) -> Array:
    """Return numbers of any kind as an array of booleans, integers or floats in this machine's byte order.

    Args:
        name: of the argument, for the message.
        value: nested lists, arrays with any strides and byte order, tensors of any device and dtype.

    Raises:
        PromptError: it is something else.
    """
    try:
        array = np.asarray(to_array(value))
        if array.dtype.kind == "O" and all(isinstance(entry, Real) for entry in array.flat):
            array = array.astype(np.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise PromptError(f"{name} must be numbers; got {brief(value)} ({str(error).splitlines()[0]})") from None
    if array.dtype.kind not in "biuf":
        raise PromptError(f"{name} must be numbers (a list, NumPy array or tensor); got {brief(value)}")
    return array.astype(array.dtype.newbyteorder("="), order="C", copy=False)


def clip_to_frame(name: str, places: Array, *, width: int, height: int, normalized: bool = False) -> Array:
    """Return places [N, 2] in a frame; those that leave it by no more than `OVERSHOOT` are moved to its edge.

    Args:
        name: of the argument, for the message.
        places: x, y.
        width: of the frame in pixels.
        height: of the frame in pixels.
        normalized: the places are fractions of the frame's width and height.

    Raises:
        PromptError: a place is further out, or not finite; the message shows the number as it was given.
    """
    exact = places.astype(np.float64)
    if not np.isfinite(exact).all():
        raise PromptError(f"{name} contains NaN or infinite values.")
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


def check_box(corners: Array) -> Array:
    """Return a box x0, y0, x1, y1 of any shape of four numbers as [2, 2].

    Raises:
        PromptError: not four finite numbers, or a box without area.
    """
    if corners.size != 4:
        raise PromptError(f"box must be four numbers x0, y0, x1, y1; got {corners.size}.")
    x0, y0, x1, y1 = corners.flat
    if not all(math.isfinite(number) for number in (x0, y0, x1, y1)):
        raise PromptError("box contains NaN or infinite values.")
    if x1 <= x0 or y1 <= y0:
        numbers = f"x0={shown(x0)}, y0={shown(y0)}, x1={shown(x1)}, y1={shown(y1)}"
        raise PromptError(f"box is empty or inverted: {numbers}; x0 < x1, y0 < y1 is meant.")
    return corners.reshape(2, 2)


def shown(number: Any) -> str:
    """Return a number with as many digits as its type needs to be told from its neighbours, and no more."""
    return str(number).removesuffix(".0")
