"""Connected regions, compared with SciPy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from i2vpp.utils.regions import label_regions, remove_small_regions, small_regions

EIGHT = np.ones((3, 3))


@pytest.mark.parametrize("share", [0.0, 0.2, 0.4, 0.6, 0.9, 1.0])
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (37, 53)])
def test_regions_are_scipys(share: float, size: tuple[int, int]) -> None:
    mask = np.random.default_rng(0).random(size) < share
    labels, areas = label_regions(mask)
    expected, count = ndimage.label(mask, EIGHT)
    assert len(areas) == count + 1
    assert areas[0] == 0
    pairs = set(zip(labels.ravel().tolist(), expected.ravel().tolist(), strict=True))
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs}), "one to one"
    assert (areas[1:] == np.bincount(labels.ravel(), minlength=count + 1)[1:]).all()


def test_a_spiral_is_one_region() -> None:
    mask = np.zeros((41, 41), bool)
    for i in range(0, 20, 2):
        mask[i, i : 41 - i] = mask[i : 41 - i, 40 - i] = mask[40 - i, i : 41 - i] = mask[i + 2 : 41 - i, i] = True
        mask[i + 2, i + 1] = True
    assert len(label_regions(mask)[1]) == ndimage.label(mask, EIGHT)[1] + 1


def test_small_regions_holes_and_what_is_left() -> None:
    mask = np.zeros((20, 30), bool)
    mask[2:12, 2:12] = True
    mask[5:7, 5:7] = False  # a hole of 4 pixels
    mask[15, 20:23] = True  # a part of 3 pixels
    assert small_regions(mask, 3).sum() == 3
    assert not small_regions(mask, 2).any()
    cleaned = remove_small_regions(mask, 5)
    assert cleaned.sum() == 100
    assert remove_small_regions(mask, 4).sum() == 96, "regions of 4 pixels are not smaller than 4"
    assert remove_small_regions(mask, 3) is mask
    assert remove_small_regions(mask, 1000)[5, 5], "the largest region stays, its holes are filled"
    assert not remove_small_regions(np.zeros((4, 4), bool), 2).any()
