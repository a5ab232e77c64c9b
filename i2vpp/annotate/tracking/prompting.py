"""From the prompts of an object on a frame to its mask."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from i2vpp.annotate.storage.masks import Stroke, encode_runs, paint
from i2vpp.annotate.storage.store import Annotation
from i2vpp.annotate.storage.values import Prompts, StoredMask
from i2vpp.annotate.tracking.tracks import ModelTracks, ObjectMask
from i2vpp.errors import PromptError

MAX_BASES = 256


@dataclass(frozen=True, kw_only=True)
class Key:
    """Everything that a mask without strokes depends on; the key of its cache."""

    obj_id: int
    frame: int
    points: tuple[tuple[float, float, int], ...]
    box: tuple[float, float, float, float] | None
    imported: bool

    @classmethod
    def of(cls, obj_id: int, frame: int, prompts: Prompts) -> Key:
        """Return the key of the mask that prompts give without their strokes.

        Args:
            obj_id: the object.
            frame: index of the frame.
            prompts: prompts of the object on that frame.
        """
        return cls(obj_id=obj_id, frame=frame, points=prompts.points, box=prompts.box, imported=prompts.imported)


class Prompter:
    """Computes the masks of prompts. Masks without strokes are cached, so that a change of a stroke runs no network.

    Args:
        store: the annotation.
        tracks: returns the network's memory; called only where the network is needed, as it may have to be built.
    """

    def __init__(self, store: Annotation, tracks: Callable[[], ModelTracks]) -> None:
        self._store = store
        self._tracks = tracks
        self._bases: OrderedDict[Key, StoredMask] = OrderedDict()

    def answer(self, obj_id: int, frame: int, old: Prompts, new: Prompts) -> ObjectMask:
        """Return the mask of an object on a frame for new prompts in place of the stored ones.

        Args:
            obj_id: the object.
            frame: index of the frame.
            old: the stored prompts there.
            new: the prompts that replace them.

        Raises:
            PromptError: the mask below the strokes came from a file and is no longer known without them.
        """
        key = Key.of(obj_id, frame, new)
        same_base = key == Key.of(obj_id, frame, old)
        if same_base and old.strokes and new.strokes[: len(old.strokes)] == old.strokes:
            return _painted(self._stored(key), new.strokes[len(old.strokes) :])
        base = self._base(key, old, new) if old.strokes or not same_base else self._stored(key)
        if new.strokes:
            self._bases[key] = base.stored()
            self._bases.move_to_end(key)
            while len(self._bases) > MAX_BASES:
                self._bases.popitem(last=False)
        return _painted(base, new.strokes)

    def _base(self, key: Key, old: Prompts, new: Prompts) -> ObjectMask:
        """Return the mask that strokes are painted on, where it is not the stored one."""
        same_base = key == Key.of(key.obj_id, key.frame, old)
        known = self._bases.get(key) if same_base else None
        if known is not None and self._lies_below(known, key, old.strokes):
            return self._found(known)
        if new.points or new.box:
            return self._tracks().click(key.obj_id, key.frame, new, refines=not same_base and _refines(old, new))
        if new.imported:
            raise PromptError(
                "the imported mask below these strokes is no longer known by itself: undo, or paint over them"
            )
        below = self._store.tracked(key.obj_id, key.frame)
        if below is not None:
            return self._found(below)
        return self._tracks().without_prompts(key.obj_id, key.frame) or self._nothing()

    def _lies_below(self, known: StoredMask, key: Key, strokes: Sequence[Stroke]) -> bool:
        """Whether strokes on a mask give the stored one; undo and copies of masks may have put another one below."""
        stored = self._store.mask(key.obj_id, key.frame)
        painted = paint(known.decode(self._store.height, self._store.width), strokes)
        return stored is not None and stored.runs == encode_runs(painted)

    def _stored(self, key: Key) -> ObjectMask:
        mask = self._store.mask(key.obj_id, key.frame)
        return self._nothing() if mask is None else self._found(mask)

    def _found(self, mask: StoredMask) -> ObjectMask:
        return ObjectMask(mask=mask.decode(self._store.height, self._store.width), score=mask.score, iou=mask.iou)

    def _nothing(self) -> ObjectMask:
        return ObjectMask(mask=np.zeros((self._store.height, self._store.width), bool), score=math.nan, iou=math.nan)


def _painted(found: ObjectMask, strokes: Sequence[Stroke]) -> ObjectMask:
    return replace(found, mask=paint(found.mask, strokes)) if strokes else found


def _refines(old: Prompts, new: Prompts) -> bool:
    """Whether new points and box only add to the old ones, so that the network goes on from the present mask."""
    return bool(old) and new.box == old.box and new.points[: len(old.points)] == old.points
