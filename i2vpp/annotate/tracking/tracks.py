"""The model's session as a cache of what is stored, rebuilt object by object where it is needed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass

import torch

from i2vpp.annotate.storage.store import Annotation
from i2vpp.annotate.storage.values import Prompts, StoredMask
from i2vpp.annotate.tracking.plans import Plan
from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
from i2vpp.session.state import InferenceState
from i2vpp.session.video import FrameSource
from i2vpp.structures import FrameResult
from i2vpp.utils.arrays import Mask


@dataclass(frozen=True, kw_only=True, eq=False)
class ObjectMask:
    """An object on a frame.

    Args:
        mask: bool [H, W].
        score: object score, a logit; NaN where the network was not asked.
        iou: predicted IoU; NaN where the network was not asked.
    """

    mask: Mask
    score: float
    iou: float

    def stored(self) -> StoredMask:
        """Return it as it is stored."""
        return StoredMask.of(self.mask, score=self.score, iou=self.iou)


@dataclass(frozen=True, kw_only=True, eq=False)
class TrackedFrame:
    """What tracking has found on a frame.

    Args:
        frame: index of the frame.
        reverse: whether it was tracked towards frame 0.
        objects: the objects that were tracked, by id.
    """

    frame: int
    reverse: bool
    objects: dict[int, ObjectMask]


class ModelTracks:
    """What the network remembers of a video's objects; used by one thread at a time.

    The store is the truth: before an object is prompted or tracked, its prompted frames are brought to what is stored,
    with the stored masks as prompts where the network does not know them yet.

    Args:
        predictor: the network.
        source: the video; closed with the tracks.
        store: objects, prompts and masks.
    """

    def __init__(self, predictor: I2VPPVideoPredictor, source: FrameSource, store: Annotation) -> None:
        self._predictor = predictor
        self._store = store
        self._state: InferenceState = predictor.init_state(source)
        self._held: dict[int, dict[int, bytes]] = {}  # object, prompted frame: digest of the mask that is remembered

    def close(self) -> None:
        """Let go of the video and of all memory."""
        self._state.close()
        self._held.clear()
        if self._predictor.device.type == "cuda":
            torch.cuda.empty_cache()  # for other programs; PyTorch would keep it for itself

    def forget(self, obj_id: int) -> None:
        """Forget an object; it is rebuilt from the store when it is needed."""
        self._predictor.remove_object(self._state, obj_id, need_output=False)
        self._held.pop(obj_id, None)

    def click(self, obj_id: int, frame: int, prompts: Prompts, *, refines: bool) -> ObjectMask:
        """Prompt an object with points and box.

        Args:
            obj_id: the object.
            frame: the frame.
            prompts: its points and box, all of them.
            refines: they add to those that are stored: the frame's present mask is where the network starts from. Else
                it starts from what the frame would have without prompts.
        """
        prompted_before = frame in self._store.prompts().get(obj_id, {})
        self._sync([obj_id], besides=None if refines else (obj_id, frame))
        if prompted_before and not refines:
            self._start_over(obj_id, frame)
        elif not prompted_before:
            self._seed(obj_id, frame)
        result = self._predictor.add_new_points_or_box(
            self._state,
            frame,
            obj_id,
            points=[point[:2] for point in prompts.points] or None,
            labels=[point[2] for point in prompts.points] or None,
            box=prompts.box,
            obj_ids=[obj_id],
        )
        found = _found(result, obj_id)
        self._held.setdefault(obj_id, {})[frame] = _digest(found.stored())
        return found

    def without_prompts(self, obj_id: int, frame: int) -> ObjectMask | None:
        """Return what an object would be on a frame if it had no prompts there; None if nothing tells."""
        self._sync([obj_id], besides=(obj_id, frame))
        self._start_over(obj_id, frame)
        if not self._state.object_status(obj_id, frame).has_mask:
            return None
        result = self._predictor.clear_all_prompts_in_frame(self._state, frame, obj_id, obj_ids=[obj_id])
        assert result is not None
        return _found(result, obj_id)

    def propagate(self, plan: Plan, *, stopping: Callable[[], bool]) -> Generator[TrackedFrame, None, None]:
        """Track objects as planned.

        Where a leg does not begin at a frame that the network knows, the latest visible stored mask before it is first
        added to the network's memory.

        Args:
            plan: objects and frames.
            stopping: is asked while memory is brought to what is stored: after a restart, that may take long.

        Yields:
            Each frame, with the objects that were tracked there; those with prompts on it are left out.
        """
        self._sync(plan.obj_ids, stopping=stopping)
        if stopping():
            return
        for leg in plan.legs:
            known = [i for i in leg.obj_ids if i in self._state.obj_ids]
            reverse, start = leg.frames.step < 0, leg.frames[0]
            for obj_id in known:
                if start not in self._held[obj_id]:
                    self._seed_before(obj_id, leg.frames)
            results = self._predictor.propagate_in_video(
                self._state, start, len(leg.frames) - 1, reverse=reverse, progress=False, obj_ids=known
            )
            for result in results:
                tracked = [i for i in result.obj_ids if result.frame_idx not in self._held[i]]
                found = {i: _found(result, i) for i in tracked}
                yield TrackedFrame(frame=result.frame_idx, reverse=reverse, objects=found)

    # ---- bringing the network's memory to what is stored

    def _sync(
        self,
        obj_ids: Iterable[int],
        *,
        besides: tuple[int, int] | None = None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        """Make the stored masks of objects' prompted frames their memory, where they are not yet."""
        prompts = self._store.prompts()
        missing: list[tuple[int, int, StoredMask]] = []
        for obj_id in obj_ids:
            held = self._held.setdefault(obj_id, {})
            stored = {frame: self._store.mask(obj_id, frame) for frame in prompts.get(obj_id, ())}
            for frame in set(held) - set(stored):
                self._predictor.clear_all_prompts_in_frame(self._state, frame, obj_id, need_output=False)
                del held[frame]
            missing += [
                (frame, obj_id, mask)
                for frame, mask in stored.items()
                if mask is not None and (obj_id, frame) != besides and held.get(frame) != _digest(mask)
            ]
        for frame, obj_id, mask in sorted(missing, key=lambda entry: entry[:2]):  # frame by frame: each is encoded once
            if stopping():
                return
            held = self._held[obj_id]
            self._predictor.add_new_mask(self._state, frame, obj_id, self._decoded(mask), obj_ids=[obj_id])
            held[frame] = _digest(mask)
            if len(held) > 1:  # a click on a frame that was prompted reads the other prompted frames as memory
                self._state.mark_tracked(obj_id, held)

    def _decoded(self, mask: StoredMask) -> Mask:
        return mask.decode(self._state.video_height, self._state.video_width)

    def _seed(self, obj_id: int, frame: int, *, reverse: bool = False) -> None:
        """Have the network start from the stored mask of a frame that was tracked, though it may have forgotten it."""
        mask = self._store.mask(obj_id, frame)
        if mask is not None and not self._state.object_status(obj_id, frame).has_mask:
            self._predictor.add_tracked_mask(self._state, frame, obj_id, self._decoded(mask), reverse=reverse)

    def _seed_before(self, obj_id: int, frames: range) -> None:
        """Have the network know the latest visible mask before some frames, if it has forgotten the frame before."""
        before = frames[0] - frames.step
        if not 0 <= before < len(self._state.source) or self._state.object_status(obj_id, before).has_mask:
            return
        areas = {cell.frame: cell.area for cell in self._store.cells(obj_id)}
        while areas.get(before) == 0:  # such as where it was declared absent
            before -= frames.step
        if areas.get(before):
            self._seed(obj_id, before, reverse=frames.step < 0)

    def _start_over(self, obj_id: int, frame: int) -> None:
        """Take an object's prompts on a frame back; if the frame was tracked, track it again."""
        if obj_id not in self._state.obj_ids:
            return
        status = self._state.object_status(obj_id, frame)
        others = [f for f in self._held.get(obj_id, {}) if f != frame]
        tracked = bool(others) and (status.tracked or not status.has_mask)
        reverse = status.reverse if status.has_mask else bool(others) and min(others) > frame
        self._predictor.clear_all_prompts_in_frame(self._state, frame, obj_id, need_output=False)
        self._held.get(obj_id, {}).pop(frame, None)
        if tracked:
            self._predictor.track_frame(self._state, frame, reverse=reverse, obj_ids=[obj_id])


def _found(result: FrameResult, obj_id: int) -> ObjectMask:
    i = result.obj_ids.index(obj_id)
    mask = (result.masks[i, 0] > 0).cpu().numpy()
    return ObjectMask(mask=mask, score=float(result.object_scores[i]), iou=float(result.predicted_ious[i]))


def _digest(mask: StoredMask) -> bytes:
    return hashlib.blake2b(mask.runs, digest_size=16).digest()
