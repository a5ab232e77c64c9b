"""Cells: what is known of one object on one frame, read in one query for timelines, doubt, review and propagation."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, NamedTuple

from i2vpp.annotate.storage.doubt import next_doubtful

UNTOUCHED, IN_WORK, DOUBTFUL, ACCEPTED = VIDEO_STATES = ("untouched", "in work", "doubtful", "accepted")
"""States of a video: it has no objects; it has objects; a frame of one is doubtful; all objects are accepted on all
frames."""

_QUERY = """
SELECT object, frame, m.area, m.score, m.iou, p.object IS NOT NULL, r.object IS NOT NULL, t.reverse,
    coalesce(t.stale, 0)
FROM (SELECT object, frame FROM masks {where} UNION SELECT object, frame FROM reviewed {where})
LEFT JOIN masks m USING (object, frame) LEFT JOIN prompts p USING (object, frame)
LEFT JOIN reviewed r USING (object, frame) LEFT JOIN tracking t USING (object, frame)
ORDER BY object, frame
"""
_ONE_OBJECT = "WHERE object = :object AND frame BETWEEN :first AND :last"


class Cell(NamedTuple):
    """An object on a frame that has a mask there, or is accepted there.

    Args:
        obj_id: the object.
        frame: index of the frame.
        area: pixels of the mask; None where there is no mask.
        score: object score, a logit; NaN if unknown.
        iou: predicted IoU; NaN if unknown.
        prompted: whether a person prompted it there.
        accepted: whether a person accepted it there.
        reverse: whether the mask was tracked towards frame 0; None where that is not known.
        stale: whether a correction has made it stale, and nobody has judged it since.
    """

    obj_id: int
    frame: int
    area: int | None
    score: float
    iou: float
    prompted: bool
    accepted: bool
    reverse: bool | None
    stale: bool


def read_cells(
    sql: Callable[..., Any], obj_id: int | None = None, *, first: int = 0, last: int | None = None
) -> list[Cell]:
    """Return the cells of a store, in the order of objects and frames.

    Args:
        sql: runs a statement.
        obj_id: only of this object; None: of all objects, on all frames.
        first: only from this frame on.
        last: only up to this frame; None: to the end.
    """
    where = "" if obj_id is None else _ONE_OBJECT
    limits = {"object": obj_id, "first": first, "last": 2**53 if last is None else last}
    rows = sql(_QUERY.format(where=where), {} if obj_id is None else limits).fetchall()
    return [
        Cell(
            obj,
            frame,
            area,
            math.nan if score is None else score,
            math.nan if iou is None else iou,
            bool(prompted),
            bool(accepted),
            None if reverse is None else bool(reverse),
            bool(stale) and area is not None and not prompted and not accepted,
        )
        for obj, frame, area, score, iou, prompted, accepted, reverse, stale in rows
    ]


def doubtful_frame(cells: Iterable[Cell], after: int) -> int | None:
    """Return the next frame that a person should look at, see `next_doubtful`; None if there is none.

    Args:
        cells: the cells that are considered.
        after: index of a frame; later frames come first, then those from the beginning.
    """
    rows, judged = [], set()
    for cell in cells:
        if cell.area is not None:
            rows.append((cell.obj_id, cell.frame, cell.area, cell.score, cell.iou))
            if cell.prompted or cell.accepted:
                judged.add((cell.obj_id, cell.frame))
    return next_doubtful(rows, judged, after)


def video_state(cells: Sequence[Cell], objects: int, watched: Collection[int], frames: int | None) -> str:
    """Return how far the work on a video is, one of `VIDEO_STATES`.

    Args:
        cells: all cells.
        objects: how many objects there are.
        watched: the objects that can be doubtful: neither hidden nor locked.
        frames: how many the video has; None: not known, then it is never accepted.
    """
    if not objects:
        return UNTOUCHED
    if frames is not None and sum(cell.accepted for cell in cells) == objects * frames:
        return ACCEPTED
    doubtful = doubtful_frame([cell for cell in cells if cell.obj_id in watched], -1)
    return IN_WORK if doubtful is None else DOUBTFUL
