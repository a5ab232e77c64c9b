"""Objects from a detector: its boxes become prompts, unless they lie on objects that the session has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from i2vpp.automatic_mask_generator import box_around
from i2vpp.discovery import DISCOVER_EVERY, Mask, ObjectDiscovery, Proposal, add_proposal
from i2vpp.errors import ConfigError, PromptError
from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
from i2vpp.prompts.checks import check_box
from i2vpp.session.state import InferenceState
from i2vpp.structures import FrameResult
from i2vpp.utils.brief import brief
from i2vpp.utils.values import to_numbers

Detector: TypeAlias = Callable[[NDArray[np.uint8]], tuple[Any, Any, Any]]
"""A function from a frame, uint8 RGB [H, W, 3], to boxes [N, 4] x0, y0, x1, y1 in pixels, N labels (texts or None) and
scores [N]; arrays, tensors or lists. Labels and scores may be None as a whole."""


@dataclass(kw_only=True, eq=False)
class DetectorSearch:
    """Proposes the boxes of a detector; a `Search` of `i2vpp.discovery`.

    Boxes are matched to known objects greedily: in descending order of score, each takes the object whose box has the
    highest IoU with it, among those that no box has taken yet.

    Args:
        detector: finds objects on a frame.
        least_score: boxes of a lower score are left out.
        match_iou: a box with at least this IoU with the box around an object's mask is that object.

    Raises:
        ConfigError: the detector cannot be called, or a number makes no sense.
    """

    detector: Detector
    least_score: float = 0.0
    match_iou: float = 0.5

    def __post_init__(self) -> None:
        if not callable(self.detector):
            raise ConfigError(
                f"the detector must be a function from a frame to boxes, labels and scores; got {brief(self.detector)}"
            )
        if not 0 < self.match_iou <= 1:
            raise ConfigError(f"match_iou must lie in (0, 1]; got {brief(self.match_iou)}")

    def __call__(self, frame: NDArray[np.uint8], known: Mapping[int, Mask]) -> list[Proposal]:
        """Propose what the detector finds, boxes of the highest score first; see `Search`.

        Raises:
            PromptError: the detector does not return boxes, labels and scores that fit together.
        """
        boxes, labels, scores = parse_detections(self.detector(frame), height=frame.shape[0], width=frame.shape[1])
        around = {obj_id: box_around(mask) for obj_id, mask in known.items() if mask.any()}
        proposals: list[Proposal] = []
        taken: list[NDArray[np.float64]] = []
        for i in np.argsort(-scores, kind="stable"):
            x0, y0, x1, y1 = boxes[i].tolist()
            if not scores[i] >= self.least_score or x1 <= x0 or y1 <= y0:
                continue
            ious = {obj_id: box_iou(boxes[i], box) for obj_id, box in around.items()}
            obj_id = max(ious, key=ious.__getitem__, default=None)
            if obj_id is not None and ious[obj_id] >= self.match_iou:
                del around[obj_id]
            elif any(box_iou(boxes[i], other) >= self.match_iou for other in taken):
                continue
            else:
                obj_id = None
            taken.append(boxes[i])
            proposals.append(Proposal(box=(x0, y0, x1, y1), label=labels[i], score=float(scores[i]), obj_id=obj_id))
        return proposals


def parse_detections(
    found: Any, *, height: int, width: int
) -> tuple[NDArray[np.float64], list[str | None], NDArray[np.float64]]:
    """Check what a detector has returned, and clip its boxes to the frame.

    Args:
        found: what it has returned.
        height: of the frame in pixels.
        width: of the frame in pixels.

    Returns:
        Boxes [N, 4], labels, scores [N]; a box that lies beside the frame has no area.

    Raises:
        PromptError: these are not boxes, labels and scores, or their numbers differ.
    """
    if not isinstance(found, Sequence) or isinstance(found, str) or len(found) != 3:
        raise PromptError(f"the detector must return a tuple of boxes, labels and scores; got {brief(found)}")
    boxes = to_numbers("the detector's boxes", found[0]).astype(np.float64)
    if not boxes.size:
        return np.zeros((0, 4)), [], np.zeros(0)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise PromptError(f"the detector's boxes must have the shape [N, 4]; got {list(boxes.shape)}")
    for box in boxes:
        check_box(box)
    labels = [None] * len(boxes) if found[1] is None else list(found[1])
    scores = np.ones(len(boxes)) if found[2] is None else to_numbers("the detector's scores", found[2])
    if len(labels) != len(boxes) or scores.shape != (len(boxes),):
        raise PromptError(
            f"the detector must return one label and one score for each box; got {len(boxes)} boxes, {len(labels)} "
            f"labels, scores of shape {list(scores.shape)}"
        )
    names = [None if label is None else str(label) for label in labels]
    return boxes.clip(0, [width, height, width, height]), names, scores.astype(np.float64)


def box_iou(one: Any, other: Any) -> float:
    """Return the IoU of two boxes x0, y0, x1, y1, of which one has an area."""
    a, b = np.asarray(one, np.float64), np.asarray(other, np.float64)
    shared = float((np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])).clip(0).prod())
    return shared / float((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - shared)


@dataclass(frozen=True, kw_only=True)
class DetectedObject:
    """A box of a detector and the object that it is.

    Args:
        obj_id: the object.
        box: x0, y0, x1, y1 in pixels.
        label: what the detector calls it.
        score: how sure the detector is.
        is_new: the box has added the object; otherwise it matched one.
    """

    obj_id: int
    box: tuple[float, float, float, float]
    label: str | None
    score: float
    is_new: bool


def prompts_from_detector(
    predictor: I2VPPVideoPredictor,
    state: InferenceState,
    detector: Detector,
    frame_idx: int,
    *,
    least_score: float = 0.0,
    match_iou: float = 0.5,
) -> list[DetectedObject]:
    """Add what a detector finds on a frame to a session: each box that matches no object prompts a new one.

    The label of a box is kept on its object, `state.labels[obj_id]`; an object that has one keeps it.

    Args:
        predictor: predictor of the session.
        state: the session.
        detector: function from a frame to boxes, labels and scores, see `Detector`.
        frame_idx: the frame; the objects that the session has are tracked on it first.
        least_score: boxes of a lower score are left out.
        match_iou: see `DetectorSearch`.

    Returns:
        The boxes with their objects, in descending order of score.

    Raises:
        PromptError: there is no such frame, or the detector returns something else.
    """
    search = DetectorSearch(detector=detector, least_score=least_score, match_iou=match_iou)
    with state.lock:
        frame_idx = state.check_frame(frame_idx)
        known: dict[int, Mask] = {}
        if state.obj_ids:
            tracked = predictor.track_frame(state, frame_idx)
            known = dict(zip(tracked.obj_ids, (tracked.masks[:, 0] > 0).cpu().numpy(), strict=True))
        last = max([0, *state.obj_ids])
        found = []
        for proposal in search(state.frame(frame_idx), known):
            obj_id = proposal.obj_id
            if obj_id is None:
                obj_id = last = last + 1
                add_proposal(predictor, state, frame_idx, obj_id, proposal)
            elif obj_id not in state.labels:
                state.set_label(obj_id, proposal.label)
            assert proposal.box is not None
            found.append(
                DetectedObject(
                    obj_id=obj_id,
                    box=proposal.box,
                    label=proposal.label,
                    score=proposal.score,
                    is_new=proposal.obj_id is None,
                )
            )
    return found


def track_detections(
    predictor: I2VPPVideoPredictor,
    state: InferenceState,
    detector: Detector,
    *,
    every: int = DISCOVER_EVERY,
    least_score: float = 0.0,
    match_iou: float = 0.5,
    **options: Any,
) -> Iterator[FrameResult]:
    """Track what a detector finds through a video: its boxes on the first and on every n-th frame become objects.

    Args:
        predictor: the predictor.
        state: its session, whose `labels` has what objects are called.
        detector: function from a frame to boxes, labels and scores, see `Detector`.
        every: the detector is called on every n-th frame; 0: on the first one only.
        least_score: boxes of a lower score are left out.
        match_iou: see `DetectorSearch`.
        options: `start_frame_idx`, `max_frame_num_to_track` and `progress` of `propagate_in_video`; `max_objects`,
            `merge_iou`, `forget_after` and `highest_id` of `ObjectDiscovery`.

    Returns:
        Iterator over the masks of all objects on each frame, as of `propagate_in_video`.

    Raises:
        ConfigError: a number makes no sense.
        PromptError: there is no such frame; later, the detector returns something else than boxes, labels and scores.
    """
    search = DetectorSearch(detector=detector, least_score=least_score, match_iou=match_iou)
    names = ("start_frame_idx", "max_frame_num_to_track", "progress")
    span = {name: options.pop(name) for name in names if name in options}
    return ObjectDiscovery(predictor=predictor, search=search, every=every, **options).track(state, **span)
