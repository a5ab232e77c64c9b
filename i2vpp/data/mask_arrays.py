"""Masks as arrays, tensors and PIL images: what their numbers mean; docs/masks.md has the rule."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from i2vpp.data.mask_images import BACKGROUND, WHITE, mask_image
from i2vpp.errors import DataError, PromptError
from i2vpp.utils.arrays import Mask
from i2vpp.utils.values import to_numbers


def parse_mask_array(mask: Any, *, height: int, width: int) -> Mask:
    """Return the mask [H, W] that an array of numbers or an image means.

    Booleans are taken as they are, integers as the object where they are not 0, floats in [0, 1] as probabilities,
    which are cut at 0.5. Numbers of which some are negative are logits: the object is where they are positive. Floats
    of nothing but 0 and 255 are black and white.

    Args:
        mask: list, array or tensor [H, W], also with axes of length 1 before or behind; or a PIL image, whose soft
            edges are cut at half the maximum.
        height: video height in pixels.
        width: video width in pixels.

    Raises:
        PromptError: it has another size or holds anything else.
    """
    if isinstance(mask, Image.Image):
        try:
            array: NDArray[Any] = mask_image(mask, "mask").one_object()
        except DataError as error:
            raise PromptError(str(error)) from None
    else:
        array = to_numbers("mask", mask)
    if array.size != height * width or [n for n in array.shape if n != 1] != [n for n in (height, width) if n != 1]:
        hint = "; resize it first, with nearest neighbours" if array.ndim == 2 else ""
        if array.shape == (width, height):
            hint = "; transpose it first"
        raise PromptError(
            f"mask must have the video's size [height, width] = [{height}, {width}]; got {list(array.shape)}{hint}."
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
