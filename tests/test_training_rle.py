"""Segmentations of COCO, SA-1B and SA-V: read as pycocotools writes them, or refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from i2vpp.data.rle import parse_segmentation
from i2vpp.errors import DataError


@pytest.mark.parametrize("density", [0.0, 0.001, 0.02, 0.5, 0.99, 1.0])
def test_run_lengths_are_read_as_pycocotools_writes_them(density: float) -> None:
    coco = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(0)
    for _ in range(20):
        height, width = (int(side) for side in rng.integers(1, 300, 2))
        mask = rng.random((height, width)) < density
        written = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
        written["counts"] = written["counts"].decode()
        read = parse_segmentation(written, size=(1, 1), where="here")
        np.testing.assert_array_equal(read.decode(), mask)
        assert read.area == mask.sum()


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ({"size": [6, 8], "counts": [8, 3]}, "cover 11 pixels, but it has 8 x 6"),
        ({"size": [6, 8], "counts": [50, -2]}, "cover 48 pixels"),
        ({"size": [6, 8], "counts": "8"}, "cover 8 pixels, but it has 8 x 6"),
        ({"size": [6, 8], "counts": "P"}, "neither a list of integers nor a whole compressed string"),
        ({"size": [6, 8], "counts": "é"}, "neither a list of integers nor"),
        ({"size": [6, 8], "counts": ""}, "neither a list of integers nor"),
        ({"size": [6, 8], "counts": [1.5, 46.5]}, "neither a list of integers nor"),
        ({"size": [6, 8], "counts": "P" * 13 + "0"}, "longer than any image"),
        ({"size": [6, 8], "counts": "o" * 11 + "0"}, "longer than any image"),
        ({"size": [6, 8], "counts": [2**63, 5]}, "longer than any image"),
        ({"size": [6, 8], "counts": [5, 2**64 - 1]}, "longer than any image"),
        ({"size": [6, 8], "counts": [5, -(2**63) - 1]}, "longer than any image"),
        ({"size": [6, 8], "counts": [2**62, 2**62, 48]}, "longer than any image"),
        ({"size": [6, 8], "counts": [10**400]}, "longer than any image"),
        ({"size": [6, 8], "counts": [-1] * 48}, "cover -48 pixels"),
        ({"size": [6, 8], "counts": [0, 40, -2, 10]}, "cover 48 pixels"),
        ({"size": [6, 8], "counts": [1] * 49}, "cover 49 pixels"),
        ({"size": [6, 8], "counts": None}, "neither a list of integers nor"),
        ({"size": [6, 8], "counts": [True, 47]}, "neither a list of integers nor"),
        ({"size": [2**40, 2**40], "counts": [2**30] * 2}, "must be polygons or"),
        ({"size": [10**400, 8], "counts": [48]}, "must be polygons or"),
        ({"size": [-6, -8], "counts": [48]}, "must be polygons or"),
        ({"size": [0, 8], "counts": [0]}, "must be polygons or"),
        ({"counts": [48]}, "must be polygons or"),
        ([], "must be polygons or"),
        ([[1, 1, 4, 4]], "at least three corners"),
        ([[1, 1, 4, 4, float("nan"), 2]], "at least three corners"),
        ([[1, 1, 4, 4, 2]], "at least three corners"),
        ([[1, 1, 4, 4, 10**400, 2]], "at least three corners"),
        ([[1, 1, 4, 4, "5", 2]], "at least three corners"),
        ([[0, 0, 9e5, 9e5] * 20], "longer than the outline of any object"),
    ],
)
def test_broken_segmentations(segmentation: Any, message: str) -> None:
    with pytest.raises(DataError, match=rf"^here: .*{message}"):
        parse_segmentation(segmentation, size=(6, 8), where="here")
