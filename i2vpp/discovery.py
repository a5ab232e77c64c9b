"""Objects that come and go while a video is tracked: what a search finds is added, what is not needed is removed.

A search is any function that looks at a frame and proposes objects: `EverythingSearch` here proposes automatic masks,
`i2vpp.detections.DetectorSearch` the boxes of a detector. `ObjectDiscovery` calls it on the first and on every n-th
frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from i2vpp.automatic_mask_generator import I2VPPAutomaticMaskGenerator
from i2vpp.errors import ConfigError
from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor, Progress
from i2vpp.prompts.checks import Box
from i2vpp.session.passes import Pass, follow
from i2vpp.session.state import InferenceState
from i2vpp.structures import FrameResult
from i2vpp.utils.brief import brief
from i2vpp.utils.values import whole_number

Mask = NDArray[np.bool_]

DISCOVER_EVERY = 25
MAX_OBJECTS = 50


@dataclass(frozen=True, kw_only=True, eq=False)
class Proposal:
    """An object that a search has found on a frame.

    Args:
        mask: bool [H, W]; None where there is a box.
        box: x0, y0, x1, y1 in pixels; None where there is a mask.
        label: what the object is called.
        score: how sure the search is.
        obj_id: the object of the session that it is; None for one that the session does not have.
    """

    mask: Mask | None = None
    box: Box | None = None
    label: str | None = None
    score: float = 1.0
    obj_id: int | None = None


class Search(Protocol):
    """Looks for objects on a frame."""

    def __call__(self, frame: NDArray[np.uint8], known: Mapping[int, Mask]) -> Sequence[Proposal]:
        """Propose objects, those that should be added first at the beginning.

        Args:
            frame: uint8 RGB [H, W, 3].
            known: masks [H, W] of the session's objects by id; an object that is absent has an empty one.

        Returns:
            The proposals.
        """
        ...


@dataclass(kw_only=True, eq=False)
class ObjectDiscovery:
    """Adds objects to a session and removes objects from it while its frames are tracked in order.

    `track` plays a whole video; in a live session, call `update(stream.state, stream.step(frame))` for every frame. One
    object of this class belongs to one session.

    Args:
        predictor: predictor of the session.
        search: finds objects on a frame.
        every: a search is made on the first frame and on every n-th after it; 0 searches the first frame only.
        max_objects: most objects that the session has at a time.
        merge_iou: of two objects whose masks have a higher IoU on a searched frame, the one that was added later is
            removed.
        forget_after: an object without a mask on so many consecutive frames is removed; None keeps all.
        highest_id: objects get ids up to this one, none twice; None for no limit.

    Raises:
        ConfigError: a number makes no sense.
    """

    predictor: I2VPPVideoPredictor
    search: Search
    every: int = DISCOVER_EVERY
    max_objects: int = MAX_OBJECTS
    merge_iou: float = 0.7
    forget_after: int | None = 50
    highest_id: int | None = None
    _frames: int = field(default=0, init=False, repr=False)
    _last_id: int = field(default=0, init=False, repr=False)
    _absent: dict[int, int] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        for name, least in (("every", 0), ("max_objects", 1), ("forget_after", 1), ("highest_id", 1)):
            if (value := getattr(self, name)) is not None:
                setattr(self, name, whole_number(name, value, least=least, error=ConfigError))
        if not 0 < self.merge_iou <= 1:
            raise ConfigError(f"merge_iou must lie in (0, 1]; got {brief(self.merge_iou)}")

    def track(
        self,
        state: InferenceState,
        *,
        start_frame_idx: int = 0,
        max_frame_num_to_track: int | None = None,
        progress: Progress = True,
    ) -> Iterator[FrameResult]:
        """Track a video from a frame on, frame by frame, as the caller asks for them.

        Args:
            state: the session; objects that it has are tracked, too.
            start_frame_idx: first frame, which is searched.
            max_frame_num_to_track: how many frames to go on after the first; None for all.
            progress: as of `propagate_in_video`.

        Returns:
            Iterator over the masks of all objects on each frame, which may be none.

        Raises:
            PromptError: there is no such frame.
            FrameDecodeError: a frame cannot be decoded; see `on_bad_frame` of `init_state`.
        """
        start, limit = state.check_frame(start_frame_idx, name="start_frame_idx"), max_frame_num_to_track
        if limit is not None:
            limit = whole_number("max_frame_num_to_track", limit, least=0, instead="None, for all frames")
        bar = None if not progress else progress if callable(progress) else tqdm
        return self._track(state, Pass.forward(state.source, start, limit), bar)

    def _track(
        self, state: InferenceState, frames: Pass, bar: Callable[..., Iterable[int]] | None
    ) -> Iterator[FrameResult]:
        for step in follow([frames], bar):
            state.frames.hint(step.ahead)
            if not (state.source.skips and state.source.is_bad(step.frame_idx)):
                with state.lock:  # no object may be removed between the two calls
                    result = self.update(state, self.predictor.track_frame(state, step.frame_idx))
                yield result

    def update(self, state: InferenceState, result: FrameResult) -> FrameResult:
        """Remove and add objects on a frame that has just been tracked.

        Args:
            state: the session.
            result: what tracking the frame returned, with all objects of the session.

        Returns:
            The masks of all objects that the session has now, on this frame.
        """
        is_due = self._frames == 0 or (self.every > 0 and self._frames % self.every == 0)
        self._frames += 1
        with state.lock:
            gone = self._absent_for_long(result)
            if is_due:
                gone |= _duplicates(result, self.merge_iou)
            if gone:
                result = self._remove(state, result, gone)
            if is_due and not result.bad_frame:
                result = self._discover(state, result)
        return result

    def _absent_for_long(self, result: FrameResult) -> set[int]:
        """Count the frames for which objects have had no mask, and return the objects that are to be removed."""
        has_mask = (result.masks > 0).flatten(1).any(1)
        present = (has_mask | result.object_scores.isnan()).tolist()  # NaN: its first prompt is on a later frame
        self._absent = {
            obj_id: 0 if is_there else self._absent.get(obj_id, 0) + 1
            for obj_id, is_there in zip(result.obj_ids, present, strict=True)
        }
        if self.forget_after is None:
            return set()
        return {obj_id for obj_id, count in self._absent.items() if count >= self.forget_after}

    def _remove(self, state: InferenceState, result: FrameResult, gone: set[int]) -> FrameResult:
        for obj_id in gone:
            self.predictor.remove_object(state, obj_id, need_output=False)
        kept = [i for i, obj_id in enumerate(result.obj_ids) if obj_id not in gone]
        return replace(
            result,
            obj_ids=[result.obj_ids[i] for i in kept],
            masks=result.masks[kept],
            object_scores=result.object_scores[kept],
            predicted_ious=result.predicted_ious[kept],
        )

    def _discover(self, state: InferenceState, result: FrameResult) -> FrameResult:
        """Search a frame and add what is new, as far as there is room."""
        masks = (result.masks[:, 0] > 0).cpu().numpy()
        known = dict(zip(result.obj_ids, masks, strict=True))
        self._last_id = max([self._last_id, *state.obj_ids])
        room = self.max_objects - len(state.obj_ids)
        if self.highest_id is not None:
            room = min(room, self.highest_id - self._last_id)
        added: list[FrameResult] = []
        for proposal in self.search(state.frame(result.frame_idx), known) if room > 0 else []:
            if proposal.obj_id is not None:
                if proposal.obj_id not in state.labels:
                    state.set_label(proposal.obj_id, proposal.label)
            elif len(added) < room:
                self._last_id += 1
                added.append(add_proposal(self.predictor, state, result.frame_idx, self._last_id, proposal))
        return _joined([result, *added])


def add_proposal(
    predictor: I2VPPVideoPredictor, state: InferenceState, frame_idx: int, obj_id: int, proposal: Proposal
) -> FrameResult:
    """Add a proposal to a session as an object.

    Args:
        predictor: predictor of the session.
        state: the session.
        frame_idx: frame that the proposal is of.
        obj_id: id of the new object.
        proposal: the proposal.

    Returns:
        The mask of this object on the frame.
    """
    if proposal.mask is not None:
        result = predictor.add_new_mask(state, frame_idx, obj_id, proposal.mask, obj_ids=[obj_id])
    else:
        result = predictor.add_new_points_or_box(state, frame_idx, obj_id, box=proposal.box, obj_ids=[obj_id])
    state.set_label(obj_id, proposal.label)
    return result


def _joined(results: Sequence[FrameResult]) -> FrameResult:
    """Return the results of different objects on one frame as one result."""
    if len(results) == 1:
        return results[0]
    return replace(
        results[0],
        obj_ids=[obj_id for result in results for obj_id in result.obj_ids],
        masks=torch.cat([result.masks for result in results]),
        object_scores=torch.cat([result.object_scores for result in results]),
        predicted_ious=torch.cat([result.predicted_ious for result in results]),
    )


def _duplicates(result: FrameResult, most: float) -> set[int]:
    """Return the objects whose masks have a higher IoU than `most` with the mask of an object before them."""
    shared, areas = overlaps(result.masks[:, 0] > 0)
    ious = shared / (areas[:, None] + areas - shared).clip(min=1)
    gone: set[int] = set()
    for i, obj_id in enumerate(result.obj_ids):
        earlier = [j for j in range(i) if result.obj_ids[j] not in gone]
        if (ious[i, earlier] > most).any():
            gone.add(obj_id)
    return gone


def overlaps(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many pixels masks [N, H, W] share, [N, N], and their areas [N]: float64, on the CPU."""
    flat = masks.flatten(1).to(torch.float32)  # exact up to 2 ** 24 pixels, which is a square of 4096
    return (flat @ flat.T).double().cpu(), flat.sum(1).double().cpu()


@dataclass(kw_only=True, eq=False)
class EverythingSearch:
    """Proposes the automatic masks of a frame that no known object covers.

    Args:
        generator: finds masks; it clicks only where no known object is.
        most_covered: share of a mask's pixels that known objects, and masks proposed before it, may cover.
        least_area: masks of fewer pixels, as a share of the frame's, are left out.
    """

    generator: I2VPPAutomaticMaskGenerator
    most_covered: float = 0.5
    least_area: float = 0.0005

    def __post_init__(self) -> None:
        for name in ("most_covered", "least_area"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must lie in [0, 1]; got {brief(getattr(self, name))}")
        if self.generator.output_mode != "binary_mask":
            raise ConfigError(f"the generator's output_mode must be 'binary_mask'; got {self.generator.output_mode!r}")

    def __call__(self, frame: NDArray[np.uint8], known: Mapping[int, Mask]) -> list[Proposal]:
        """Propose masks, those of the highest predicted IoU first; see `Search`."""
        covered = np.zeros(frame.shape[:2], bool)
        for mask in known.values():
            covered |= mask
        proposals = []
        records = self.generator.generate(frame, covered=covered if known else None)
        # With crops or cleaned masks the generator's order is another one.
        for record in sorted(records, key=lambda record: -record["predicted_iou"]):
            mask, area = record["segmentation"], record["area"]
            if area < self.least_area * mask.size or (mask & covered).sum() > self.most_covered * area:
                continue
            covered |= mask
            proposals.append(Proposal(mask=mask, score=record["predicted_iou"]))
        return proposals


def track_everything(
    predictor: I2VPPVideoPredictor,
    state: InferenceState,
    *,
    generator: I2VPPAutomaticMaskGenerator | None = None,
    discover: int = DISCOVER_EVERY,
    start_frame_idx: int = 0,
    max_frame_num_to_track: int | None = None,
    progress: bool | Callable[..., Any] = True,
    **options: Any,
) -> Iterator[FrameResult]:
    """Track everything through a video: automatic masks become objects, on the first frame and on later ones.

    Args:
        predictor: the predictor.
        state: its session.
        generator: finds the masks; default: one of the predictor's network with SAM 2's parameters.
        discover: what no object covers is searched on every n-th frame; 0 searches the first frame only.
        start_frame_idx: first frame.
        max_frame_num_to_track: how many frames to go on after the first; None for all.
        progress: as of `propagate_in_video`.
        options: `max_objects`, `merge_iou`, `forget_after` and `highest_id` of `ObjectDiscovery`.

    Returns:
        Iterator over the masks of all objects on each frame, as of `propagate_in_video`.

    Raises:
        ConfigError: a number makes no sense.
        PromptError: there is no such frame.
    """
    if generator is None:
        generator = I2VPPAutomaticMaskGenerator(predictor)
    discovery = ObjectDiscovery(
        predictor=predictor, search=EverythingSearch(generator=generator), every=discover, **options
    )
    return discovery.track(
        state,
        start_frame_idx=start_frame_idx,
        max_frame_num_to_track=max_frame_num_to_track,
        progress=progress,
    )
