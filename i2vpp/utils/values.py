"""Whole numbers and arrays of numbers from outside, of whatever type, brought into one form."""

from __future__ import annotations

import operator
from contextlib import suppress
from numbers import Real
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from i2vpp.errors import I2VPPError, PromptError
from i2vpp.utils.brief import brief

Array: TypeAlias = "NDArray[Any]"


def whole_number(
    name: str, value: Any, *, least: int | None = None, instead: str = "", error: type[I2VPPError] = PromptError
) -> int:
    """Return a whole number as Python's int, so that equal ids are equal keys, and sums do not overflow as NumPy's do.

    Args:
        name: name of the argument, for the message.
        value: an int, or a NumPy or torch scalar of integers; bool, float and text are refused.
        least: the smallest number allowed; None for any.
        instead: what to suggest for a number below `least`; by default `least` itself.
        error: class of the error that is raised.

    Raises:
        PromptError: or `error`: it is no whole number, or is below `least`; the message suggests the nearest one.
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
        name: name of the argument, for the message.
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


def shown(number: Any) -> str:
    """Return a number in the fewest digits that identify it in its type; 3.0 is shown as 3."""
    return str(number).removesuffix(".0")
