"""Changes of ranges of frames (clear, absent, accepted), of whole tracks (merge, cut, swap), and copies of masks.

Each is one step to undo. All but `accept` are to be called in the session's `model_worker`, since the network has to
forget what it knew.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from i2vpp.annotate.problems import NotFoundError
from i2vpp.annotate.session import VideoSession, refuse_locked
from i2vpp.annotate.storage.edit import Edit, TrackRows
from i2vpp.annotate.storage.values import MAX_NAME, ObjectInfo, Prompts, StoredMask, joint_name
from i2vpp.errors import PromptError

_AS_PROMPT = (json.dumps(Prompts(imported=True).to_json()),)  # row of a mask that is a prompt as it is


@dataclass(frozen=True, kw_only=True)
class Span:
    """Frames from the first to the last, both included."""

    first: int
    last: int

    def __str__(self) -> str:
        return f"frame {self.first}" if self.first == self.last else f"frames {self.first} to {self.last}"

    def check(self, session: VideoSession) -> None:
        """Raise NotFoundError or PromptError unless these are frames of the video."""
        session.check_frame(self.first)
        session.check_frame(self.last)
        if self.first > self.last:
            raise PromptError(f"frame {self.first} lies after frame {self.last}; begin with the earlier one")


def accept(session: VideoSession, revision: int, span: Span, obj_ids: Sequence[int] | None, *, accepted: bool) -> None:
    """Note that a person has accepted what is stored of objects on some frames, or that it is to do; in `store_worker`.

    Args:
        session: the video.
        revision: revision of the store that the wish was made in view of.
        span: the frames.
        obj_ids: the objects, locked ones included; None: all.
        accepted: False: they are to do.

    Raises:
        PromptError: the range is wrong, or there is no object.
        NotFoundError: there is no such object or frame.
    """
    span.check(session)
    infos = _objects(session, obj_ids)
    what = "Accept" if accepted else "To do:"
    with session.store.edit(f"{what} {joint_name(infos)}, {span}", expected=revision) as edit:
        for info in infos:
            for frame in range(span.first, span.last + 1):
                edit.accept(info.id, frame, accepted)
    session.tell()


def clear(session: VideoSession, revision: int, span: Span, obj_ids: Sequence[int] | None) -> None:
    """Delete masks and prompts of objects on some frames.

    Args:
        session: the video.
        revision: revision of the store that the wish was made in view of.
        span: the frames.
        obj_ids: the objects; None: all that are not locked.

    Raises:
        BusyError: a job is running.
        PromptError: the range is wrong, an object is locked, or there is nothing to clear.
        NotFoundError: there is no such object or frame.
    """
    infos = _changed(session, span, obj_ids)
    with _step(session, revision, f"Clear {joint_name(infos)}, {span}", infos) as edit:
        for info in infos:
            _empty(edit, info.id, span)
        if not edit.changed:
            raise PromptError(f"nothing to clear: there are no masks of {joint_name(infos)} on {span}")


def declare_absent(session: VideoSession, revision: int, span: Span, obj_ids: Sequence[int] | None) -> None:
    """Declare objects absent on some frames: their masks there are empty, and accepted.

    Args:
        session: the video.
        revision: revision of the store that the wish was made in view of.
        span: the frames.
        obj_ids: the objects; None: all that are not locked.

    Raises:
        BusyError: a job is running.
        PromptError: the range is wrong, or an object is locked.
        NotFoundError: there is no such object or frame.
    """
    infos = _changed(session, span, obj_ids)
    nothing = StoredMask.of(np.zeros((session.height, session.width), bool))
    with _step(session, revision, f"Absent: {joint_name(infos)}, {span}", infos) as edit:
        for info in infos:
            _empty(edit, info.id, span)
            for end in {span.first, span.last}:
                edit.mark_stale(info.id, end)
            for frame in range(span.first, span.last + 1):
                edit.set_mask(info.id, frame, nothing)
                edit.accept(info.id, frame, True)


def merge(session: VideoSession, revision: int, obj_id: int, other_id: int) -> None:
    """Add the track of another object to an object, and delete the other one.

    On frames where one of them is absent, or not known, the track is that of the other.

    Args:
        session: the video.
        revision: revision of the store that the wish was made in view of.
        obj_id: the object that stays, with its name, colour and class.
        other_id: the object that goes.

    Raises:
        BusyError: a job is running.
        PromptError: they are the same, one is locked, or both are visible on a frame.
        NotFoundError: there is no such object.
    """
    info, other = infos = _pair(session, obj_id, other_id)
    with _step(session, revision, f"Merge {other.name} into {info.name}", infos) as edit:
        both = []
        for frame in edit.track_frames(other_id, 0, session.frames - 1):
            ours, theirs = edit.track_rows(obj_id, frame), edit.track_rows(other_id, frame)
            if _area(ours) and _area(theirs):
                both.append(frame)
            elif _area(theirs) or _area(ours) is None:
                edit.put_track_rows(obj_id, frame, theirs)
        if both:
            where = Span(first=both[0], last=both[-1])
            raise PromptError(
                f"{info.name} and {other.name} both have masks on {len(both)} frames, within {where}; clear one of "
                "them there first"
            )
        edit.delete_object(other_id)


def cut(session: VideoSession, revision: int, obj_id: int, frame: int) -> int:
    """Make a new object, with the same class, of what an object is from a frame on.

    Args:
        session: the video.
        revision: revision of the store that the wish was made in view of.
        obj_id: the object, which keeps what lies before.
        frame: the first frame of the new object.

    Returns:
        Id of the new object.

    Raises:
        BusyError: a job is running.
        PromptError: the object is locked, or all of its track lies on one side.
        NotFoundError: there is no such object or frame.
    """
    (info,) = infos = _changed(session, Span(first=frame, last=frame), [obj_id])
    with _step(session, revision, f"Cut {info.name} at frame {frame}", infos) as edit:
        early = {f: edit.track_rows(obj_id, f) for f in edit.track_frames(obj_id, 0, frame - 1)}
        late = {f: edit.track_rows(obj_id, f) for f in edit.track_frames(obj_id, frame, session.frames - 1)}
        if not early or not late:
            side = "before it" if not early else "on it or after it"
            raise PromptError(f"{info.name} cannot be cut at frame {frame}: there is nothing of it {side}")
        new = edit.add_object(_second_name(info.name, {one.name for one in session.store.objects()}))
        edit.set_label(new.id, info.label)
        for f, rows in _with_prompt(late).items():
            edit.put_track_rows(new.id, f, rows)
            edit.put_track_rows(obj_id, f, {})
        if not any(rows["prompts"] for rows in early.values()):
            last = next((f for f in reversed(early) if _area(early[f])), None)
            if last is not None:
                edit.put_track_rows(obj_id, last, _as_prompt(early[last]))
    return new.id


def swap(session: VideoSession, revision: int, obj_id: int, other_id: int, frame: int) -> None:
    """Exchange the tracks of two objects from a frame on.

    Args:
        session: the video.
        revision: revision of the store that the wish was made in view of.
        obj_id: one of them.
        other_id: the other one.
        frame: the first frame.

    Raises:
        BusyError: a job is running.
        PromptError: they are the same, one is locked, or there is nothing to exchange.
        NotFoundError: there is no such object or frame.
    """
    session.check_frame(frame)
    infos = _pair(session, obj_id, other_id)
    label = f"Swap {infos[0].name} and {infos[1].name} from frame {frame}"
    with _step(session, revision, label, infos) as edit:
        frames = {i: edit.track_frames(i, frame, session.frames - 1) for i in (obj_id, other_id)}
        rows = {i: _with_prompt({f: edit.track_rows(i, f) for f in some}) for i, some in frames.items()}
        if not any(rows.values()):
            raise PromptError(f"nothing to swap: neither object has anything on frame {frame} or after it")
        for f in sorted({*frames[obj_id], *frames[other_id]}):
            edit.put_track_rows(obj_id, f, rows[other_id].get(f, {}))
            edit.put_track_rows(other_id, f, rows[obj_id].get(f, {}))


def copy_mask(session: VideoSession, obj_id: int, frame: int, *, revision: int, source: int) -> None:
    """Make an object's mask on one frame a prompt on another, in place of its prompts there; in `model_worker`.

    Args:
        session: the video.
        obj_id: the object.
        frame: the frame that gets the mask.
        revision: revision of the store that the wish was made in view of.
        source: the frame that has it.

    Raises:
        NotFoundError: there is no such object or frame, or no mask to copy.
        PromptError: the object is locked.
        StaleRevisionError: the store was changed since that revision.
    """
    session.check_frame(frame)
    session.check_frame(source)
    store = session.store
    info = session.info(obj_id)
    refuse_locked([info])
    mask = store.mask(obj_id, source)
    if mask is None:
        raise NotFoundError(f"{info.name} has no mask on frame {source} to copy")
    before = store.mask(obj_id, frame)
    prompted = bool(store.prompts_on(obj_id, frame))
    with store.edit(f"Copy: {info.name}, frame {source} to {frame}", expected=revision) as edit:
        edit.set_prompts(obj_id, frame, Prompts(imported=True))
        edit.set_mask(obj_id, frame, mask)
        if not prompted:
            edit.set_tracked(obj_id, frame, before)  # comes back without prompts
        edit.mark_stale(obj_id, frame)
    session.tell()


@contextmanager
def _step(session: VideoSession, revision: int, label: str, infos: Sequence[ObjectInfo]) -> Iterator[Edit]:
    """Change tracks in one step; the network forgets the objects after it."""
    session.jobs.check_idle()
    with session.store.edit(label, expected=revision) as edit:
        yield edit
    session.forget([info.id for info in infos])
    session.tell()


def _objects(session: VideoSession, obj_ids: Sequence[int] | None) -> list[ObjectInfo]:
    infos = session.infos(obj_ids)
    if not infos:
        raise PromptError("there is no object to change")
    return infos


def _changed(session: VideoSession, span: Span, obj_ids: Sequence[int] | None) -> list[ObjectInfo]:
    """Return the objects whose masks are to be changed; locked ones are refused, or left out where all are meant."""
    span.check(session)
    infos = _objects(session, obj_ids)
    if obj_ids is not None:
        refuse_locked(infos)
    free = [info for info in infos if not info.locked]
    if not free:
        raise PromptError("all objects are locked; unlock one first")
    return free


def _pair(session: VideoSession, obj_id: int, other_id: int) -> tuple[ObjectInfo, ObjectInfo]:
    if obj_id == other_id:
        raise PromptError("choose two different objects")
    infos = session.info(obj_id), session.info(other_id)
    refuse_locked(infos)
    return infos


def _second_name(name: str, used: set[str]) -> str:
    """Return the name with the first number from 2 on that makes it a new one."""
    endings = (f" ({number})" for number in range(2, len(used) + 3))
    return next(new for end in endings if (new := name[: MAX_NAME - len(end)] + end) not in used)


def _empty(edit: Edit, obj_id: int, span: Span) -> None:
    """Delete all that is stored of an object on some frames; what depends on its prompts there becomes stale."""
    prompted = []
    for frame in edit.track_frames(obj_id, span.first, span.last):
        if edit.track_rows(obj_id, frame)["prompts"]:
            prompted.append(frame)
        edit.put_track_rows(obj_id, frame, {})
    for frame in prompted:
        edit.mark_stale(obj_id, frame)


def _area(rows: TrackRows) -> int | None:
    """Return the area of the mask among the rows of a frame; None if there is none."""
    mask = rows["masks"]
    return None if mask is None else int(mask[0])


def _as_prompt(rows: TrackRows) -> TrackRows:
    return {**rows, "prompts": _AS_PROMPT, "tracked": rows["masks"]}


def _with_prompt(track: dict[int, TrackRows]) -> dict[int, TrackRows]:
    """Return the rows of a moved track by frame; its first visible mask is a prompt, so that it can be propagated."""
    first = next((frame for frame, rows in track.items() if _area(rows)), None)
    if first is None or track[first]["prompts"]:
        return track
    return {**track, first: _as_prompt(track[first])}
