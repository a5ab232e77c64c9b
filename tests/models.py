"""Networks with reproducible weights, small enough for tests."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import torch

from i2vpp.build_i2vpp import build_i2vpp_video_predictor
from i2vpp.errors import UntrainedWarning
from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
from i2vpp.modeling.i2vpp import I2VPP
from parity.det_weights import fill

SIDE = 64


@lru_cache(maxsize=1)
def parity_weights() -> dict[str, torch.Tensor]:
    """The weights that the recorded outputs of the published network were made with."""
    return fill(I2VPP()).state_dict()


def make_predictor(
    *overrides: str, image_size: int = SIDE, device: str | torch.device = "cpu", **kwargs: Any
) -> I2VPPVideoPredictor:
    """A predictor with parity weights, which find every object everywhere, at a small image size."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UntrainedWarning)  # the weights follow
        predictor = build_i2vpp_video_predictor(
            "i2vpp-infer", device=device, hydra_overrides_extra=[f"model.image_size={image_size}", *overrides], **kwargs
        )
    predictor.model.load_state_dict(parity_weights())
    return predictor


def make_shallow(predictor: I2VPPVideoPredictor) -> I2VPPVideoPredictor:
    """Leave one layer of each kind of which there are many; a frame takes half the time. Return the predictor."""
    del predictor.model.memory_attention.layers[1:]
    del predictor.model.image_encoder.trunk_image.layers[2].blocks[1:]
    return predictor


def encode_once(predictor: I2VPPVideoPredictor) -> I2VPPVideoPredictor:
    """Have a predictor remember the features of every clip it has seen: tests show it the same few, again and again."""
    encode, seen = predictor.model.encode, {}

    def remember(clip: torch.Tensor) -> Any:
        key = blake2b(clip.numpy()).digest(), torch.is_autocast_enabled("cpu")
        if key not in seen:
            seen[key] = encode(clip)
        return seen[key]

    predictor.model.encode = remember  # type: ignore[method-assign]
    return predictor


def iou(a: torch.Tensor, b: torch.Tensor) -> float:
    """Intersection over union of two mask logits; 1 where both are empty."""
    a, b = a > 0, b > 0
    union = (a | b).sum()
    return 1.0 if union == 0 else float((a & b).sum() / union)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Set torch's default dtype for a while."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
