"""What arrays, tensors and images mean as masks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from i2vpp.data.mask_arrays import parse_mask_array
from i2vpp.errors import PromptError
from i2vpp.prompts.tensors import parse_mask

HEIGHT, WIDTH = 24, 32
Y, X = np.mgrid[:HEIGHT, :WIDTH]
MASK = (X - 12) ** 2 + (Y - 10) ** 2 <= 36
LOGITS = np.where(MASK, 7.0, -5.0)


def parse(mask: Any) -> np.ndarray:
    return parse_mask_array(mask, height=HEIGHT, width=WIDTH)


KINDS: dict[str, Any] = {
    "bool": MASK,
    "nested lists": MASK.tolist(),
    "lists of numbers": MASK.astype(int).tolist(),
    **{f"{k}, 1": MASK.astype(k) for k in ("u1", "i1", "u2", "i4", ">u2", ">i4", "i8", "u8", "f2", "f4", ">f8")},
    **{f"{k}, 255": MASK.astype(k) * 255 for k in ("u1", "u2", "i8", "f2", "f4", "f8")},
    "7 and 9": MASK * 7 + (MASK & (X > 12)) * 2,
    "objects": MASK.astype(object),
    "objects, numbers": np.where(MASK, 1, 0).astype(object),
    "not contiguous": np.repeat(MASK, 2, axis=1)[:, ::2],
    "negative strides": np.ascontiguousarray(MASK[::-1, ::-1])[::-1, ::-1],
    "Fortran order": np.asfortranarray(MASK),
    "read only": np.frombuffer(MASK.tobytes(), bool).reshape(MASK.shape),
    "[1, H, W]": MASK[None],
    "[H, W, 1]": MASK[..., None],
    "[1, 1, H, W]": MASK[None, None],
    "logits": LOGITS,
    "logits of one sign each, integers": np.where(MASK, 1, -1).astype(np.int8),
    "logits, nearly all within 1": np.where(MASK, 0.01, -0.01).astype(np.float32),
    "probabilities": 1 / (1 + np.exp(-LOGITS)),
    "probabilities, float16": np.where(MASK, 0.51, 0.5).astype(np.float16),
    "tensor": torch.from_numpy(MASK),
    "tensor of numbers": torch.from_numpy(MASK.astype(np.int64)),
    "uint16 tensor": torch.from_numpy(MASK.astype(np.uint16)),
    "bfloat16": torch.from_numpy(LOGITS).bfloat16(),
    "half": torch.from_numpy(LOGITS).half(),
    "requires grad": torch.from_numpy(LOGITS).requires_grad_(),
    "turned tensor": torch.from_numpy(np.ascontiguousarray(LOGITS.T)).T,
    "result of the predictor": torch.from_numpy(LOGITS).float()[None, None],
    "image, black and white": Image.fromarray(MASK),
    "image, grey": Image.fromarray(MASK.astype(np.uint8) * 200),
    "image, colour": Image.fromarray(np.dstack([MASK * 255, MASK * 9, MASK * 0]).astype(np.uint8)),
    "image, 16 bits": Image.fromarray(MASK.astype(np.uint16) * 700),
    "image, palette": Image.fromarray(MASK.astype(np.uint8) * 3).convert("P"),
    "image, transparent": Image.fromarray(np.dstack([MASK * 0 + 255, MASK * 255]).astype(np.uint8), "LA"),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_masks_of_all_kinds_mean_the_same(kind: str) -> None:
    found = parse(KINDS[kind])
    assert found.dtype == bool
    np.testing.assert_array_equal(found, MASK)
    tensor = parse_mask(KINDS[kind], height=HEIGHT, width=WIDTH)
    assert (tensor.shape, tensor.dtype) == ((1, 1, HEIGHT, WIDTH), torch.float32)
    np.testing.assert_array_equal(tensor[0, 0].numpy(), MASK)


@pytest.mark.parametrize("kind", ["bool", "probabilities", "logits"])
def test_an_empty_mask_is_empty(kind: str) -> None:
    assert not parse({"bool": MASK & False, "probabilities": MASK * 0.2, "logits": LOGITS - 20}[kind]).any()


def test_soft_edges_of_an_image_are_cut_at_half_its_maximum() -> None:
    image = Image.fromarray(MASK.astype(np.uint8) * 200).filter(ImageFilter.GaussianBlur(0.8))
    assert np.count_nonzero(parse(image) != MASK) < 10 < np.count_nonzero((np.asarray(image) > 0) != MASK)


NAN = np.where(MASK, np.nan, 0.0)
BAD = [
    (MASK.T, r"\[height, width\] = \[24, 32\]; got \[32, 24\]"),
    (MASK.ravel(), r"got \[768\]"),
    (np.stack([MASK] * 3), r"got \[3, 24, 32\]"),
    (np.dstack([MASK] * 3), r"got \[24, 32, 3\]"),
    (np.zeros((0, 32), bool), r"got \[0, 32\]"),
    ([], r"got \[0\]"),
    (True, r"got \[\]"),
    (Image.fromarray(MASK.T), r"got \[32, 24\]"),
    (Image.fromarray(LOGITS.astype(np.float32)), "mask holds float32"),
    (NAN, "NaN or infinite"),
    (torch.from_numpy(NAN).half(), "NaN or infinite"),
    (np.where(MASK, np.inf, -np.inf), "NaN or infinite"),
    (MASK * 2.0, r"floats from 0 to 2; allowed: booleans, integers .* floats in \[0, 1\] .* logits"),
    (MASK * 254.5, "floats from 0 to 254.5"),
    (np.where(MASK, 255.0, 0.5), "floats from 0.5 to 255"),
    ("mask.png", "must be numbers .* got 'mask.png'"),
    (None, "must be numbers"),
    ([[10**400] * WIDTH] * HEIGHT, "must be numbers"),
    ([[1, 2], [3]], "must be numbers"),
    ([["a"] * WIDTH] * HEIGHT, "must be numbers"),
    (np.full((HEIGHT, WIDTH), "1", object), "must be numbers"),
    (np.full((HEIGHT, WIDTH), None), "must be numbers"),
    (MASK.astype(complex), "must be numbers"),
    ({"counts": "1"}, "must be numbers"),
]


@pytest.mark.parametrize(("mask", "message"), BAD)
def test_what_is_no_mask(mask: Any, message: str) -> None:
    with pytest.raises(PromptError, match=message) as caught:
        parse(mask)
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


def test_frames_of_one_pixel_in_a_row() -> None:
    for shape in ((1, 5), (5, 1), (1, 1)):
        mask = np.ones(shape, bool)
        for view in (mask, mask[None], mask[..., None]):
            assert parse_mask_array(view, height=shape[0], width=shape[1]).shape == shape
