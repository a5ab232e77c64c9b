"""Which frames a person should look at next."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import TypeAlias

Row: TypeAlias = tuple[int, int, int, float, float]
"""Object, frame, area in pixels, object score (logit), predicted IoU; in the order of objects and frames."""

THRESHOLD = 0.25
REACH = 5
SMALL_AREA = 64
SURE_IOU = 0.6  # predicted overlap; timelines mark lower ones
SURE_SCORE = 1.0  # object score, a logit: between 0 (not there) and this it is hardly there


def next_doubtful(rows: Sequence[Row], judged: Collection[tuple[int, int]], after: int) -> int | None:
    """Return the first doubtful frame after `after`, or else the first of all; None if no frame is doubtful.

    The doubt of an object on a frame is the largest of
    - how undecided its object score is: 2 min(p, 1 - p) with p = sigmoid(score);
    - how low the predicted IoU of a visible object is: 1 - IoU;
    - how much its area changed since its last frame with a mask: |a - b| / max(a, b, 64 pixels).
    Unknown numbers count as 0, and so does an object on a frame where a person prompted or accepted it. The doubt of a
    frame is that of its most doubtful object. A frame is doubtful if its doubt is at least 0.25, higher than on the 5
    frames before it and not lower than on the 5 frames after it, so that a run of bad frames is shown once.

    Args:
        rows: numbers of all masks that are considered.
        judged: (object, frame) with prompts, or accepted.
        after: a frame; -1 looks from the beginning.
    """
    doubts: dict[int, float] = {}
    previous: tuple[int, int] | None = None  # object and area of the row before
    for obj_id, frame, area, score, iou in rows:
        before = previous[1] if previous is not None and previous[0] == obj_id else area
        previous = obj_id, area
        doubt = 0.0 if (obj_id, frame) in judged else _doubt(before, area, score, iou)
        doubts[frame] = max(doubts.get(frame, 0.0), doubt)
    peaks = sorted(frame for frame in doubts if _is_peak(doubts, frame))
    return next((frame for frame in peaks if frame > after), peaks[0] if peaks else None)


def is_doubtful(score: float, iou: float) -> bool:
    """Whether timelines mark a visible mask of an object that was not prompted there.

    Args:
        score: object score, a logit; NaN if unknown.
        iou: predicted IoU; NaN if unknown.
    """
    return iou < SURE_IOU or score < SURE_SCORE


def _doubt(before: int, area: int, score: float, iou: float) -> float:
    doubt = abs(area - before) / max(area, before, SMALL_AREA)
    if not math.isnan(score):
        doubt = max(doubt, 2 / (1 + math.exp(min(abs(score), 700))))
    if not math.isnan(iou) and area:
        doubt = max(doubt, 1 - iou)
    return doubt


def _is_peak(doubts: dict[int, float], frame: int) -> bool:
    doubt = doubts[frame]
    if doubt < THRESHOLD:
        return False
    near = range(1, REACH + 1)
    return all(doubts.get(frame - n, 0.0) < doubt >= doubts.get(frame + n, 0.0) for n in near)
