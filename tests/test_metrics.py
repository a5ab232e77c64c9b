from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from i2vpp.evaluation.metrics import ObjectScore, boundary, boundary_f, jaccard, score_object


def box(height: int, width: int, rows: slice, columns: slice) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    mask[rows, columns] = True
    return mask


EMPTY = box(20, 30, slice(0), slice(0))
FULL = box(20, 30, slice(None), slice(None))
SQUARE = box(20, 30, slice(5, 11), slice(6, 14))
CORNER = box(20, 30, slice(0, 1), slice(0, 1))


# ---- by the definition


def test_jaccard_by_hand():
    assert jaccard(SQUARE, box(20, 30, slice(5, 11), slice(10, 18))) == 24 / 72
    assert jaccard(SQUARE, SQUARE) == 1
    assert jaccard(SQUARE, CORNER) == 0


@pytest.mark.parametrize(
    ("pred", "truth", "j", "f"),
    [
        (EMPTY, EMPTY, 1, 1),
        (EMPTY, SQUARE, 0, 0),
        (SQUARE, EMPTY, 0, 0),
        (FULL, FULL, 1, 1),  # a full frame has no boundary, as an empty one
        (FULL, EMPTY, 0, 1),
        (FULL, SQUARE, 48 / 600, 0),
        (CORNER, SQUARE, 0, 0),
    ],
)
def test_conventions_for_missing_masks_and_boundaries(pred, truth, j, f):
    assert jaccard(pred, truth) == j
    assert boundary_f(pred, truth) == f


def test_boundary_is_right_and_below_of_a_change():
    expected = box(20, 30, slice(4, 11), slice(5, 14)) & ~box(20, 30, slice(5, 10), slice(6, 13))
    assert np.array_equal(boundary(SQUARE), expected)
    # in the last row and column only the neighbours inside the frame count
    assert np.argwhere(boundary(box(3, 4, slice(2, 3), slice(3, 4)))).tolist() == [[1, 2], [1, 3], [2, 2]]
    assert np.argwhere(boundary(box(3, 4, slice(2, 3), slice(0, 1)))).tolist() == [[1, 0], [2, 0]]


def test_boundary_f_by_hand():
    # a bar from edge to edge has the two boundary rows 4 and 10; moved by 3 rows none of them is met within 2 pixels
    bar, moved = box(20, 30, slice(5, 11), slice(None)), box(20, 30, slice(8, 14), slice(None))
    assert boundary_f(bar, moved, tolerance=2) == 0
    assert boundary_f(bar, moved, tolerance=3) == 1
    # a bar one row thinner at one side: one of its two boundary rows is off by 1
    thinner = box(20, 30, slice(6, 11), slice(None))
    assert boundary_f(bar, thinner, tolerance=0) == 0.5
    # a boundary only on one side is met, but half of the truth is missed: P 1, R 1/2
    assert boundary_f(box(20, 30, slice(0, 11), slice(None)), bar, tolerance=0) == pytest.approx(2 / 3)


def test_tolerance_is_rounded_up_from_the_diagonal_of_the_frame():
    size, top = (300, 400), slice(0, 100)  # diagonal 500
    pred, truth = box(*size, top, slice(None)), box(*size, slice(0, 104), slice(None))
    assert boundary_f(pred, truth) == 1  # 0.008 * 500 = 4.0
    assert boundary_f(pred, box(*size, slice(0, 105), slice(None))) == 0
    assert boundary_f(pred, box(*size, slice(0, 105), slice(None)), tolerance=0.0081) == 1  # 4.05 becomes 5


def random_masks(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw two masks of one size: blobs or noise, the second one like the first or not, somewhere in the frame."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 90, 2)
    smooth = ndimage.gaussian_filter(rng.normal(size=(2, height, width)), (0, *rng.uniform(0, 5, 2)))
    pred = smooth[0] > np.quantile(smooth[0], rng.uniform())
    truth = smooth[int(rng.integers(2))] > np.quantile(smooth[0], rng.uniform())
    window = box(height, width, slice(int(rng.integers(height))), slice(int(rng.integers(width)), None))
    return (pred & window, truth & window) if seed % 2 else (pred, truth)


def dilated_f(pred: np.ndarray, truth: np.ndarray, radius: int) -> float:
    """Compute F over the whole frame, by dilating both boundaries with a disc."""
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    edges = boundary(pred), boundary(truth)
    near = [ndimage.binary_dilation(edge, x**2 + y**2 <= radius**2) for edge in edges]
    if not edges[0].any() or not edges[1].any():
        return float(not edges[0].any() and not edges[1].any())
    precision = (edges[0] & near[1]).sum() / edges[0].sum()
    recall = (edges[1] & near[0]).sum() / edges[1].sum()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0


@pytest.mark.parametrize("radius", [0, 1, 2, 5, 11, 23])
def test_boundary_f_equals_dilation_with_a_disc(radius):
    for seed in range(30):
        pred, truth = random_masks(seed)
        expected = dilated_f(pred, truth, radius)
        assert boundary_f(pred, truth, tolerance=radius) == pytest.approx(expected, abs=1e-12), seed


# ---- an object


def test_score_of_an_object():
    truths = [SQUARE] * 4
    preds = [EMPTY, SQUARE, box(20, 30, slice(5, 11), slice(10, 18)), EMPTY]
    score = score_object(preds, truths, tolerance=1)
    f = boundary_f(preds[2], SQUARE, tolerance=1)
    assert score == ObjectScore(frame_j=(1.0, 1 / 3), frame_f=(1.0, f))
    assert 0 < f < 1
    assert (score.j, score.f) == (2 / 3, (1 + f) / 2)
    assert score.jf == (score.j + score.f) / 2
    whole = score_object(preds, truths, skip_ends=False)
    assert whole.frame_j == (0, 1, 1 / 3, 0)
    assert whole.j == 1 / 3


def test_frames_that_are_skipped_are_not_loaded():
    class Loaded(list):
        def __getitem__(self, i):
            assert i not in (0, 3)
            return super().__getitem__(i)

    assert score_object(Loaded([SQUARE] * 4), Loaded([SQUARE] * 4)).jf == 1


# ---- bad input


@pytest.mark.parametrize(
    ("pred", "truth", "message"),
    [
        (SQUARE.astype(np.uint8), SQUARE, r"pred must be a bool mask \[H, W\], got uint8 \[20, 30\]"),
        (SQUARE, SQUARE[None], r"truth must be a bool mask \[H, W\], got bool \[1, 20, 30\]"),
        (SQUARE, SQUARE[1:], r"pred is \[20, 30\] but truth \[19, 30\]; resize"),
    ],
)
def test_masks_that_do_not_fit(pred, truth, message):
    for measure in (jaccard, boundary_f):
        with pytest.raises(ValueError, match=message):
            measure(pred, truth)


@pytest.mark.parametrize("tolerance", [-0.1, 1.5, math.nan])
def test_senseless_tolerance(tolerance):
    with pytest.raises(ValueError, match=f"tolerance = {tolerance}; allowed: 0 to below 1"):
        boundary_f(SQUARE, SQUARE, tolerance=tolerance)


def test_objects_without_frames():
    with pytest.raises(ValueError, match="2 predicted masks but 3 true ones"):
        score_object([SQUARE] * 2, [SQUARE] * 3)
    with pytest.raises(ValueError, match="no frame to score among 2; skip_ends=True needs at least 3"):
        score_object([SQUARE] * 2, [SQUARE] * 2)
    with pytest.raises(ValueError, match="no frame to score among 0"):
        score_object([], [], skip_ends=False)


# ---- the published evaluator


def sav_objects(folder: Path) -> Iterator[tuple[list[np.ndarray], list[np.ndarray]]]:
    """Yield predictions and truths of each object of the SA-V layout: one folder of PNGs per object."""
    for truth in sorted((folder / "gt").glob("*/*")):
        pred = folder / "pred" / truth.relative_to(folder / "gt")
        names = sorted(path.name for path in truth.iterdir())
        yield [read(pred / name) > 0 for name in names], [read(truth / name) > 0 for name in names]


def davis_objects(folder: Path) -> Iterator[tuple[list[np.ndarray], list[np.ndarray]]]:
    """Yield predictions and truths of each object of the DAVIS layout: index masks."""
    for truth in sorted((folder / "gt").iterdir()):
        names = sorted(path.name for path in truth.iterdir())
        truths = [read(truth / name) for name in names]
        preds = [read(folder / "pred" / truth.name / name) for name in names]
        for obj_id in np.unique(truths[0])[1:]:
            yield [mask == obj_id for mask in preds], [mask == obj_id for mask in truths]


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


@pytest.mark.parametrize("skip_ends", [True, False], ids=["skip_ends", "all_frames"])
@pytest.mark.parametrize(("layout", "objects"), [("sav", sav_objects), ("davis", davis_objects)], ids=["sav", "davis"])
def test_scores_of_the_published_evaluator(shared_data, layout, objects, skip_ends):
    folder = shared_data / "parity" / "jf"
    expected = json.loads((folder / "official.json").read_text())[
        f"{layout}.{'skip_ends' if skip_ends else 'all_frames'}"
    ]
    scores = [score_object(preds, truths, skip_ends=skip_ends) for preds, truths in objects(folder / layout)]
    assert len(scores) > 1
    got = {
        "J": 100 * np.mean([score.j for score in scores]),
        "F": 100 * np.mean([score.f for score in scores]),
        "J&F": 100 * np.mean([score.jf for score in scores]),
    }
    assert got == pytest.approx(expected, abs=1e-6)
