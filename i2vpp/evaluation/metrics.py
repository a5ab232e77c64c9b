"""J and F, the measures of the DAVIS and SA-V benchmarks, for bool masks [H, W].

J is the Jaccard index (IoU) of two masks, F the F-measure of their boundaries with a small tolerance. Defined in
Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation", CVPR 2016.
All values are fractions, 0 to 1; benchmarks report them times 100.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from i2vpp.utils.arrays import Mask

TOLERANCE = 0.008
"""Share of the frame's diagonal by which two boundaries may lie apart; the benchmarks' value."""


@dataclass(frozen=True, kw_only=True)
class ObjectScore:
    """How well one object was followed.

    Args:
        frame_j: J of each scored frame.
        frame_f: F of each scored frame.
    """

    frame_j: tuple[float, ...]
    frame_f: tuple[float, ...]

    @property
    def j(self) -> float:
        """Mean J over the scored frames."""
        return math.fsum(self.frame_j) / len(self.frame_j)

    @property
    def f(self) -> float:
        """Mean F over the scored frames."""
        return math.fsum(self.frame_f) / len(self.frame_f)

    @property
    def jf(self) -> float:
        """J&F, the mean of both."""
        return (self.j + self.f) / 2


def jaccard(pred: Mask, truth: Mask) -> float:
    """Compute the intersection over the union of two masks.

    Args:
        pred: predicted mask, bool [H, W].
        truth: true mask, bool [H, W].

    Returns:
        J, from 0 to 1; 1 where both masks are empty.

    Raises:
        ValueError: not bool, not 2-D, or of different sizes.
    """
    _check(pred, truth)
    union = np.count_nonzero(pred | truth)
    return np.count_nonzero(pred & truth) / union if union else 1.0


def boundary_f(pred: Mask, truth: Mask, *, tolerance: float = TOLERANCE) -> float:
    """Compute the F-measure of the boundaries of two masks.

    Precision is the share of the prediction's boundary that lies within the tolerance of the true one, recall the
    reverse. Where both boundaries are empty F is 1, where only one is 0. A mask that fills the frame has no boundary.

    Args:
        pred: predicted mask, bool [H, W].
        truth: true mask, bool [H, W].
        tolerance: below 1: share of the frame's diagonal, rounded up to whole pixels; from 1 on: whole pixels.

    Returns:
        F, from 0 to 1.

    Raises:
        ValueError: masks that are not bool, not 2-D or of different sizes; a tolerance that is negative or not whole.
    """
    _check(pred, truth)
    radius = _pixels(tolerance, pred.shape)
    window = _window(pred | truth)
    if window is None:
        return 1.0
    pred_edge, true_edge = boundary(pred[window]), boundary(truth[window])
    num_pred, num_true = np.count_nonzero(pred_edge), np.count_nonzero(true_edge)
    if not num_pred or not num_true:
        return float(num_pred == num_true)
    precision = _count_near(pred_edge, true_edge, radius) / num_pred
    recall = _count_near(true_edge, pred_edge, radius) / num_true
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def score_object(
    preds: Sequence[Mask], truths: Sequence[Mask], *, skip_ends: bool = True, tolerance: float = TOLERANCE
) -> ObjectScore:
    """Score one object over the annotated frames of a video, in order.

    Args:
        preds: bool [H, W] per frame; may load on access.
        truths: bool [H, W] per frame; may load on access.
        skip_ends: leave out the first frame, on which the object was given, and the last one, as the benchmarks do.
        tolerance: of `boundary_f`.

    Returns:
        J and F of each scored frame.

    Raises:
        ValueError: another number of predictions than of truths, or no frame left to score.
    """
    if len(preds) != len(truths):
        raise ValueError(f"{len(preds)} predicted masks but {len(truths)} true ones; give one of each per frame")
    frames = range(1, len(truths) - 1) if skip_ends else range(len(truths))
    if not frames:
        raise ValueError(
            f"no frame to score among {len(truths)}; skip_ends=True needs at least 3 frames, skip_ends=False 1"
        )
    scores: list[tuple[float, float]] = []
    for t in frames:
        pred, truth = preds[t], truths[t]
        scores.append((jaccard(pred, truth), boundary_f(pred, truth, tolerance=tolerance)))
    return ObjectScore(frame_j=tuple(j for j, _ in scores), frame_f=tuple(f for _, f in scores))


def boundary(mask: Mask) -> Mask:
    """Return the pixels [H, W] that differ from their right, lower or lower right neighbour inside the frame.

    That is the benchmarks' one pixel wide boundary; it lies on either side of the true outline.
    """
    edge = np.zeros_like(mask)
    edge[:, :-1] |= mask[:, :-1] != mask[:, 1:]
    edge[:-1] |= mask[:-1] != mask[1:]
    edge[:-1, :-1] |= mask[:-1, :-1] != mask[1:, 1:]
    return edge


def _check(pred: Mask, truth: Mask) -> None:
    for name, mask in (("pred", pred), ("truth", truth)):
        if mask.dtype != np.bool_ or mask.ndim != 2:
            raise ValueError(f"{name} must be a bool mask [H, W], got {mask.dtype} {list(mask.shape)}; compare with 0")
    if pred.shape != truth.shape:
        raise ValueError(f"pred is {list(pred.shape)} but truth {list(truth.shape)}; resize the prediction first")


def _pixels(tolerance: float, size: tuple[int, ...]) -> int:
    if not tolerance >= 0 or (tolerance >= 1 and tolerance != int(tolerance)):
        raise ValueError(f"tolerance = {tolerance}; allowed: 0 to below 1 (share of the diagonal), or whole pixels")
    return int(tolerance) if tolerance >= 1 else math.ceil(tolerance * math.hypot(*size))


def _window(either: Mask) -> tuple[slice, slice] | None:
    """Bound all set pixels, with a margin of one so that their boundary is the same inside as in the whole frame."""
    rows, columns = np.flatnonzero(either.any(1)), np.flatnonzero(either.any(0))
    if not len(rows):
        return None
    return slice(max(rows[0] - 1, 0), rows[-1] + 2), slice(max(columns[0] - 1, 0), columns[-1] + 2)


def _count_near(points: Mask, targets: Mask, radius: int) -> int:
    """Count the set points that have a set target within a disc, which is what dilating the targets would tell.

    Each row of the disc is one difference of running sums, looked up for those points only that have found nothing yet.
    """
    padded = np.pad(targets, ((radius, radius), (radius + 1, radius)))
    sums = np.cumsum(padded, axis=1, dtype=np.int32)  # sums[y + radius, x + radius + 1] counts targets up to x in row y
    y, x = np.nonzero(points)
    total = len(y)
    for dy in sorted(range(-radius, radius + 1), key=abs):
        reach = math.isqrt(radius * radius - dy * dy)
        row = y + (radius + dy)
        alone = sums[row, x + (radius + 1 + reach)] == sums[row, x + (radius - reach)]
        y, x = y[alone], x[alone]
        if not len(y):
            break
    return total - len(y)
