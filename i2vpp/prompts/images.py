"""The prompts of one or several objects on an image, checked and turned into tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from i2vpp.errors import PromptError
from i2vpp.prompts.tensors import parse_clicks
from i2vpp.session.state import Clicks
from i2vpp.tracking import PREVIOUS_LOGIT_LIMIT
from i2vpp.utils.values import Array, to_numbers


def parse_prompts(
    point_coords: Any,
    point_labels: Any,
    box: Any,
    mask_input: Any,
    *,
    size: tuple[int, int],
    image_size: int,
    normalize_coords: bool,
) -> tuple[list[Clicks | None], Tensor | None]:
    """Check the prompts of one or several objects and scale them to the network's input.

    Args:
        point_coords: see `I2VPPImagePredictor.predict`.
        point_labels: see there.
        box: see there.
        mask_input: see there.
        size: height and width of the image.
        image_size: side of the network's input.
        normalize_coords: see there.

    Returns:
        The clicks of each of B objects, each None if there is only a mask; and the masks to start from [B, 1, s, s],
        or None.

    Raises:
        PromptError: they make no sense.
    """
    start = None if mask_input is None else _parse_start(mask_input, image_size // 4)
    if start is not None and point_coords is None and point_labels is None and box is None:
        return [None] * len(start), start
    clicks: list[Clicks | None] = []
    separate = _separate(point_coords, point_labels, box)
    for i, (points, labels, own_box) in enumerate(separate):
        try:
            own = parse_clicks(
                points, labels, own_box, height=size[0], width=size[1], image_size=image_size,
                normalize_coords=normalize_coords,
            )  # fmt: skip
        except PromptError as error:
            if len(separate) == 1:
                raise
            raise PromptError(f"object {i} of {len(separate)}: {error}") from None
        clicks.append(own)
    if start is not None and len(start) != len(clicks):
        raise PromptError(f"mask_input holds {len(start)} masks, but the other prompts are of {len(clicks)} objects.")
    return clicks, start


def _separate(point_coords: Any, point_labels: Any, box: Any) -> list[tuple[Any, Any, Any]]:
    """Return points, labels and box of each object."""
    points, labels, boxes = (
        None if value is None else to_numbers(name, value)
        for name, value in (("points", point_coords), ("labels", point_labels), ("box", box))
    )
    batched = (
        points is not None and points.ndim == 3,
        labels is not None and labels.ndim == 2,
        boxes is not None and boxes.ndim == 2 and boxes.shape[1] == 4,
    )
    values: tuple[Array | None, ...] = (points, labels, boxes)
    counts = {len(value) for value, many in zip(values, batched, strict=True) if value is not None and many}
    if counts <= {1}:  # one object, with or without an axis for objects
        return [(points, labels, boxes)]
    if len(counts) > 1 or not all(many for value, many in zip(values, batched, strict=True) if value is not None):
        raise PromptError(
            "point_coords [B, P, 2], point_labels [B, P] and box [B, 4] must be of equally many objects B; got shapes "
            f"{', '.join(str(list(value.shape)) for value in values if value is not None)}."
        )
    count = counts.pop()
    return list(zip(*([None] * count if value is None else value for value in values), strict=True))


def _parse_start(mask_input: Any, side: int) -> Tensor:
    """Return masks to start from as float32 [B, 1, s, s], as the video predictor bounds them."""
    logits = to_numbers("mask_input", mask_input)
    if logits.shape == (1, side, side):
        logits = logits[None]
    if logits.ndim != 4 or logits.shape[1:] != (1, side, side):
        raise PromptError(
            f"mask_input must be low-resolution logits [1, {side}, {side}], as predict returns them, or "
            f"[B, 1, {side}, {side}] for B objects; got shape {list(logits.shape)}."
        )
    if not np.isfinite(logits).all():
        raise PromptError("mask_input contains NaN or infinite values.")
    return torch.from_numpy(logits.astype(np.float32)).clamp(-PREVIOUS_LOGIT_LIMIT, PREVIOUS_LOGIT_LIMIT)
