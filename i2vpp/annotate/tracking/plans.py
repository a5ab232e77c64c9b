"""Plans of propagation: which objects are tracked over which frames, in which order."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from i2vpp.annotate.storage.cells import Cell
from i2vpp.errors import PromptError

DIRECTIONS = ("forward", "backward", "both")


@dataclass(frozen=True, kw_only=True)
class Leg:
    """A run of frames, up or down, over which the same objects are tracked.

    Args:
        frames: the frames in their order.
        obj_ids: the objects.
    """

    frames: range
    obj_ids: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a propagation does.

    Args:
        label: label of the job and of its step, for people.
        legs: what it tracks, in this order.
    """

    label: str
    legs: tuple[Leg, ...]

    def __len__(self) -> int:
        return sum(len(leg.frames) for leg in self.legs)

    @property
    def obj_ids(self) -> list[int]:
        """All objects that take part."""
        return sorted({obj_id for leg in self.legs for obj_id in leg.obj_ids})

    def to_json(self) -> str:
        """Return a text that `from_json` reads."""
        legs = [[leg.frames.start, leg.frames.stop, leg.frames.step, list(leg.obj_ids)] for leg in self.legs]
        return json.dumps({"label": self.label, "legs": legs})

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read what `to_json` returned, or what stores of version 3 have: `objects`, and `ways` for all of them."""
        value = json.loads(text)
        legs = value["legs"] if "legs" in value else [[*way, value["objects"]] for way in value["ways"]]
        return cls(
            label=value["label"],
            legs=tuple(Leg(frames=range(*way), obj_ids=tuple(obj_ids)) for *way, obj_ids in legs),
        )

    def after(self, done: int) -> Plan:
        """Return what is left of the plan after a number of frames."""
        left = []
        for leg in self.legs:
            if rest := leg.frames[done:]:
                left.append(replace(leg, frames=rest))
            done = max(done - len(leg.frames), 0)
        return replace(self, legs=tuple(left))

    def only(self, obj_ids: Collection[int], accepted: Mapping[int, Collection[int]]) -> Plan:
        """Return the plan without what is not to be tracked.

        Args:
            obj_ids: the objects that may be tracked.
            accepted: frames by object that are left out.
        """
        left = []
        for leg in self.legs:
            some = [obj_id for obj_id in leg.obj_ids if obj_id in obj_ids]
            left += make_legs(leg.frames, {f: [i for i in some if f not in accepted.get(i, ())] for f in leg.frames})
        return replace(self, legs=tuple(left))


def make_legs(frames: range, obj_ids: Mapping[int, Iterable[int]]) -> list[Leg]:
    """Return the legs that track certain objects on each of some frames.

    Args:
        frames: the frames in the order of tracking.
        obj_ids: the objects by frame; frames that are not named, or for which there are none, are left out.
    """
    legs: list[Leg] = []
    for frame in frames:
        some = tuple(sorted(obj_ids.get(frame, ())))
        if not some:
            continue
        last = legs[-1] if legs else None
        if last is not None and last.obj_ids == some and last.frames[-1] + frames.step == frame:
            legs[-1] = replace(last, frames=range(last.frames.start, frame + frames.step, frames.step))
        else:
            legs.append(Leg(frames=range(frame, frame + frames.step, frames.step), obj_ids=some))
    return legs


def ways(start: int, direction: str, stop: int | None, frames: int) -> list[range]:
    """Return the frames that a propagation goes over, in runs up or down.

    Args:
        start: the first frame.
        direction: `forward`, `backward` or `both`.
        stop: the last frame, None for the end of the video.
        frames: how many the video has.

    Raises:
        PromptError: there is no such direction, or the last frame lies in the other one.
    """
    if direction not in DIRECTIONS:
        raise PromptError(f"direction must be one of {', '.join(DIRECTIONS)}; got {direction!r:.40}")
    if direction == "both" and stop is None:
        return [range(start, frames), *([range(start - 1, -1, -1)] if start else [])]
    if direction == "both":
        direction = "backward" if stop is not None and stop < start else "forward"
    last = stop if stop is not None else frames - 1 if direction == "forward" else 0
    step = 1 if direction == "forward" else -1
    if (last - start) * step < 0:
        raise PromptError(f"frame {last} does not lie {direction} of frame {start}")
    return [range(start, last + step, step)]


def legs_of_missing(cells: Iterable[Cell], prompted: Mapping[int, Collection[int]], frames: int) -> list[Leg]:
    """Return the legs that compute the masks which are missing or stale, and no others.

    A stale mask is tracked in the direction that it was tracked in before. A missing one is tracked forward if a
    prompted frame lies before it, otherwise backward. Accepted frames are not computed, whatever is there.

    Args:
        cells: the cells of all objects.
        prompted: frames with prompts, by object; only these objects are considered.
        frames: how many the video has.
    """
    known = {(cell.obj_id, cell.frame): cell for cell in cells}
    needed: dict[bool, dict[int, list[int]]] = {False: {}, True: {}}
    for obj_id, at in prompted.items():
        first = min(at)
        for frame in range(frames):
            cell = known.get((obj_id, frame))
            if frame in at or (cell is not None and (cell.accepted or not cell.stale)):
                continue
            reverse = frame < first if cell is None or cell.reverse is None else cell.reverse
            needed[reverse].setdefault(frame, []).append(obj_id)
    forward, backward = range(frames), range(frames - 1, -1, -1)
    return [*make_legs(forward, needed[False]), *make_legs(backward, needed[True])]
