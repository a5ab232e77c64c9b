"""Filling holes against a general-purpose implementation."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from i2vpp.utils.masks import FILLED_LOGIT, fill_holes


@pytest.mark.parametrize("max_area", [1, 3, 8, 20])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.8, 0.95])
def test_fills_the_small_components_only(max_area: int, share: float, device: torch.device) -> None:
    noise = np.random.default_rng(0).random((3, 1, 64, 48), dtype=np.float32)
    logits = share - noise
    want = logits.copy()
    for mask in want:
        labels, _ = ndimage.label(mask[0] <= 0, structure=np.ones((3, 3)))
        area = np.bincount(labels.ravel())
        mask[0][(area[labels] <= max_area) & (labels > 0)] = FILLED_LOGIT
    assert (want != logits).any()
    got = fill_holes(torch.from_numpy(logits).to(device), max_area)
    np.testing.assert_array_equal(got.cpu().numpy(), want)


def test_area_zero_changes_nothing() -> None:
    logits = torch.full((1, 1, 8, 8), 3.0)
    logits[0, 0, 4, 4] = -1
    assert fill_holes(logits, 0) is logits
    assert fill_holes(logits, 1)[0, 0, 4, 4] == pytest.approx(FILLED_LOGIT)


def test_a_long_thin_hole_is_not_small() -> None:
    logits = torch.full((1, 1, 16, 40), 1.0)
    logits[0, 0, 8, 5:35] = -1
    torch.testing.assert_close(fill_holes(logits, 8), logits)
