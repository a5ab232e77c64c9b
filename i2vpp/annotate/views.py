"""What a page is told of a video: its whole state, or what changed since the revision that the page knows.

Both have the revision that they lead to, in `revision`, and the one that they start from, in `since`: null for a whole
state. A page applies a message whose `since` is not beyond the revision that it knows and whose `revision` is, and
leaves out all others; it asks for what it misses. So answers and events may overtake each other, and come twice.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any, Protocol, TypeAlias

from i2vpp.annotate.jobs import PROPAGATE, JobRunner
from i2vpp.annotate.library import Video
from i2vpp.annotate.storage.cells import Cell
from i2vpp.annotate.storage.doubt import is_doubtful
from i2vpp.annotate.storage.store import Annotation
from i2vpp.annotate.storage.values import Prompts, Touched
from i2vpp.annotate.tracking.plans import Plan

ABSENT, PRESENT, DOUBTFUL, NO_MASK = 0, 1, 2, 3
"""Kinds of masks in timelines: empty, not empty, doubtful (a person should look at it), and no mask, on a frame that is
accepted."""

STALE, ACCEPTED = 4, 8
"""Added to the kind: a correction has made the mask stale; a person has accepted the object on the frame."""

Run: TypeAlias = "tuple[int, int, Any]"  # first frame, last frame, value
IMPORTED = Prompts(imported=True)


class Shown(Protocol):
    """What is told of an open video; `VideoSession` is one."""

    video: Video
    store: Annotation
    jobs: JobRunner
    height: int
    width: int
    fps: float | None
    durations: list[int] | None
    frames: int


def state(shown: Shown, since: int | None = None) -> dict[str, Any]:
    """Return what a page shows of a video, or what changed there.

    Args:
        shown: the video.
        since: the revision that the page knows; None: nothing.

    Returns:
        The message for the page, see the module. `timeline` and `imported` have runs of frames; `prompts` of a message
        with `since` have null for those that were deleted, and its `timeline` for masks. `durations` are null where the
        rate is constant, see `frame_durations`.
    """
    store = shown.store
    with store.still():
        touched = None if since is None else store.changes(since)
        return {
            "id": shown.video.id,
            "since": None if touched is None else since,
            "revision": store.revision,
            **_labels(shown),
            "job": shown.jobs.to_json(),
            **(_everything(shown) if touched is None else _changes(store, touched)),
        }


def news(shown: Shown, since: int) -> dict[str, Any]:
    """Return the event that tells what changed in a video.

    Args:
        shown: the video.
        since: the revision that the event before led to.
    """
    store = shown.store
    with store.still():
        touched = store.changes(since)
        ends = {"id": shown.video.id, "since": since, "revision": store.revision}
        if touched is None:  # too much for an event: whoever shows the video asks for it
            return {**ends, "since": store.revision}
        return {**ends, **_labels(shown), **_changes(store, touched)}


def _labels(shown: Shown) -> dict[str, Any]:
    return {"undo": shown.store.undo_label, "redo": shown.store.redo_label, "broken": broken_off(shown)}


def broken_off(shown: Shown) -> dict[str, Any] | None:
    """Return which propagation broke off when the server ended: label, next frame, frames left; None if none did."""
    job = shown.jobs.to_json()
    found = shown.store.propagation()
    if found is None or (job is not None and job["kind"] == PROPAGATE and job["state"] == "running"):
        return None
    left = Plan.from_json(found[0]).after(found[1])
    return {"label": left.label, "frame": left.legs[0].frames[0], "left": len(left)} if left else None


def _everything(shown: Shown) -> dict[str, Any]:
    store = shown.store
    prompts = store.prompts()
    imported = {o: [f for f, p in frames.items() if p == IMPORTED] for o, frames in prompts.items()}
    kinds: dict[int, list[tuple[int, int]]] = {}
    for cell in store.cells():
        kinds.setdefault(cell.obj_id, []).append((cell.frame, kind_of(cell)))
    return {
        "name": shown.video.shown_name,
        "width": shown.width,
        "height": shown.height,
        "fps": shown.fps,
        "durations": shown.durations,
        "frames": shown.frames,
        "objects": [asdict(info) for info in store.objects()],
        "labels": [asdict(label) for label in store.labels()],
        "prompts": {
            str(obj_id): {str(frame): p.to_json() for frame, p in frames.items() if p != IMPORTED}
            for obj_id, frames in prompts.items()
        },
        "imported": {str(o): [run[:2] for run in runs((f, None) for f in found)] for o, found in imported.items()},
        "timeline": {str(obj_id): runs(found) for obj_id, found in kinds.items()},
    }


def _changes(store: Annotation, touched: Touched) -> dict[str, Any]:
    changed: dict[str, Any] = {"masks": sorted({frame for _, frame in touched.masks})}
    if touched.labels:
        changed["labels"] = [asdict(label) for label in store.labels()]
    if touched.objects or touched.labels:
        changed["objects"] = [asdict(info) for info in store.objects()]
    prompts: dict[str, dict[str, Any]] = {}
    for obj_id, frame in sorted(touched.prompts):
        found = store.prompts_on(obj_id, frame)
        prompts.setdefault(str(obj_id), {})[str(frame)] = found.to_json() if found else None
    if prompts:
        changed["prompts"] = prompts
    frames: dict[int, list[int]] = {}
    for obj_id, frame in sorted(touched.masks | touched.prompts | touched.marks):
        frames.setdefault(obj_id, []).append(frame)
    changed["timeline"] = {str(obj_id): _kinds(store, obj_id, some) for obj_id, some in frames.items()}
    return changed


def _kinds(store: Annotation, obj_id: int, frames: Sequence[int]) -> list[Run]:
    """Return the values in the timeline of an object's frames that changed; null where there is none any more."""
    cells = {cell.frame: cell for cell in store.cells(obj_id, first=frames[0], last=frames[-1])}
    return runs((frame, kind_of(cells[frame]) if frame in cells else None) for frame in frames)


def kind_of(cell: Cell) -> int:
    """Return the value of an object's frame in its timeline: a kind of mask, and STALE and ACCEPTED added to it."""
    kind = NO_MASK if cell.area is None else PRESENT if cell.area else ABSENT
    judged = cell.prompted or cell.accepted
    if kind == PRESENT and not judged and is_doubtful(cell.score, cell.iou):
        kind = DOUBTFUL
    return kind + STALE * cell.stale + ACCEPTED * cell.accepted


def runs(values: Iterable[tuple[int, Any]]) -> list[Run]:
    """Return runs of neighbouring frames with one value.

    Args:
        values: frames with their values, in the order of frames.
    """
    found: list[Run] = []
    for frame, value in values:
        if found and found[-1][1] == frame - 1 and found[-1][2] == value:
            found[-1] = (found[-1][0], frame, value)
        else:
            found.append((frame, frame, value))
    return found


def masks(store: Annotation, frame: int) -> bytes:
    """Return a frame's masks: of each object id, number of run lengths, and these; little-endian uint32.

    Args:
        store: the annotation.
        frame: index of the frame.
    """
    parts = []
    for obj_id, mask in store.masks(frame).items():
        parts += [struct.pack("<II", obj_id, len(mask.runs) // 4), mask.runs]
    return b"".join(parts)
