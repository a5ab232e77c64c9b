"""Masks as arrays, tensors and PIL images: what their numbers mean; docs/masks.md has the rule."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from i2vpp.data.mask_images import BACKGROUND, WHITE, Mask, mask_image
from i2vpp.errors import DataError, PromptError

_NO_NUMBERS = "mask must be numbers (a list, NumPy array or tensor) or a PIL image"
_SMALL_FLOATS = ("torch.bfloat16", "torch.float8_e4m3fn", "torch.float8_e5m2")


def parse_mask_array(mask: Any, *, height: int, width: int) -> Mask:
    """Return the mask [H, W] that an array of numbers or an image means.

    Booleans are taken as they are, integers as the object where they are not 0, floats in [0, 1] as probabilities,
    which are cut at 0.5. Numbers of which some are negative are logits: the object is where they are positive. Floats
    of nothing but 0 and 255 are black and white.

    Args:
        mask: list, array or tensor [H, W], also with axes of length 1 before or behind; or a PIL image, whose soft
            edges are cut at half the maximum.
        height: of the video.
        width: of the video.

    Raises:
        PromptError: it has another size or holds anything else.
    """
    if isinstance(mask, Image.Image):
        try:
            array: NDArray[Any] = mask_image(mask, "mask").one_object()
        except DataError as error:
            raise PromptError(str(error)) from None
    else:
        array = _numbers(mask)
    if array.size != height * width or [n for n in array.shape if n != 1] != [n for n in (height, width) if n != 1]:
        raise PromptError(
            f"mask must have the video's size [height, width] = [{height}, {width}]; got {list(array.shape)}."
        )
    return _object_of(array.reshape(height, width))


def _object_of(values: NDArray[Any]) -> Mask:
    """Return where numbers [H, W] mean the object."""
    if values.dtype.kind == "b":
        return values
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise PromptError("mask contains NaN or infinite values.")
    low, high = values.min(), values.max()
    if low < 0:  # logits
        return np.asarray(values > 0)
    if values.dtype.kind != "f":
        return np.asarray(values != 0)
    if high <= 1:
        return np.asarray(values > 0.5)
    if np.isin(values, (BACKGROUND, WHITE)).all():
        return np.asarray(values == WHITE)
    raise PromptError(
        f"mask holds floats from {low:g} to {high:g}; allowed: booleans, integers (not 0 is the object), floats in "
        "[0, 1] (cut at 0.5), logits (some are negative; cut at 0)."
    )


def _numbers(value: Any) -> NDArray[Any]:
    """Return numbers of any kind as an array of booleans, integers or floats in this machine's byte order."""
    try:
        if hasattr(value, "detach"):  # a tensor; NumPy lacks some of its types, such as bfloat16
            value = value.detach().cpu().to_dense() if value.is_sparse else value.detach().cpu()
            value = (value.float() if str(value.dtype) in _SMALL_FLOATS else value).numpy()
        array = np.asarray(value)
        if array.dtype.kind == "O" and all(isinstance(entry, bool | int | float | np.number) for entry in array.flat):
            array = array.astype(np.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise PromptError(f"{_NO_NUMBERS}; got {_in_short(value)} ({str(error).splitlines()[0]})") from None
    if array.dtype.kind not in "biuf":
        raise PromptError(f"{_NO_NUMBERS}; got {_in_short(value)}")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _in_short(value: Any) -> str:
    """Return the beginning of a value's spelling, in one line."""
    return f"{' '.join(repr(value).split()):.100}"
