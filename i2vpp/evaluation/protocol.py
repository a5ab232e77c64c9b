"""What an evaluation tells the network of an object: its mask, its box or a few clicks, made from the true mask."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from i2vpp.errors import PromptError
from i2vpp.evaluation.clicks import Click, central_click, correcting_click
from i2vpp.evaluation.metrics import jaccard
from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
from i2vpp.session.state import InferenceState
from i2vpp.structures import FrameResult
from i2vpp.utils.arrays import Mask
from i2vpp.utils.suggest import nearest_word
from i2vpp.utils.values import whole_number

PUBLISHED_PROTOCOLS = ("gm", "bb", "3c", "1c")
"""Names of the protocols that results are reported for: true mask, bounding box, three clicks, one click."""


@dataclass(frozen=True, kw_only=True, eq=False)
class GivenObject:
    """An object as evaluations give it: its mask [H, W], not empty, on the first annotated frame that shows it."""

    obj_id: int
    frame_idx: int
    mask: Mask


@dataclass(frozen=True)
class PromptProtocol:
    """How an object is prompted on one frame.

    Args:
        name: `gm` (the true mask), `bb` (its bounding box) or `<n>c` (n clicks).

    Raises:
        PromptError: another name.
    """

    name: str

    def __post_init__(self) -> None:
        if self.name not in ("gm", "bb") and not re.fullmatch(r"[1-9]\d*c", str(self.name), re.ASCII):
            near = nearest_word(self.name, PUBLISHED_PROTOCOLS, cutoff=0.6)
            hint = "" if near is None else f"did you mean {near!r}? "
            raise PromptError(
                f"unknown prompt protocol {self.name!r}; {hint}allowed: gm (true mask), bb (bounding box), "
                "<n>c (n clicks, such as 3c)"
            )

    @property
    def num_clicks(self) -> int:
        """How many clicks are made at most; 0 for masks and boxes."""
        return int(self.name[:-1]) if self.name.endswith("c") else 0

    def prompt(
        self, predictor: I2VPPVideoPredictor, state: InferenceState, frame_idx: int, obj_id: int, truth: Mask
    ) -> None:
        """Prompt a new object on a frame.

        Clicks are made one after the other, each where the last mask was wrong (`i2vpp.evaluation.clicks`). Those up to
        the mask with the best IoU are kept.

        Args:
            predictor: that `state` belongs to.
            state: a session without this object.
            frame_idx: of the frame.
            obj_id: of the object.
            truth: the true mask [H, W], not empty, at the video's size.

        Raises:
            PromptError: an empty mask, from which neither a box nor a click can be made.
        """
        if not truth.any():
            raise PromptError(f"object {obj_id} has no pixel on frame {frame_idx}; prompt it where it exists")
        if self.name == "gm":
            predictor.add_new_mask(state, frame_idx, obj_id, truth)
        elif self.name == "bb":
            predictor.add_new_points_or_box(state, frame_idx, obj_id, box=bounding_box(truth))
        else:
            self._click(predictor, state, frame_idx, obj_id, truth)

    def track(
        self, predictor: I2VPPVideoPredictor, state: InferenceState, given: Sequence[GivenObject]
    ) -> Iterator[FrameResult]:
        """Track objects forward together, from the earliest of their first frames to the end of the video.

        An object joins when its own first frame is reached: before, it is not among the results, and nothing that was
        seen there is remembered of it.

        Args:
            predictor: that `state` belongs to.
            state: a session without objects.
            given: the objects; without any, there is no result.

        Returns:
            The result of each frame, in order, with the objects that have joined until then.
        """
        joining: defaultdict[int, list[GivenObject]] = defaultdict(list)
        for one in given:
            joining[whole_number("frame_idx", one.frame_idx, least=0)].append(one)

        def join(frame_idx: int) -> None:
            for one in joining.get(frame_idx, ()):
                self.prompt(predictor, state, frame_idx, one.obj_id, one.mask)

        if not given:
            return
        join(min(joining))
        for result in predictor.propagate_in_video(state, progress=False):
            yield result
            join(result.frame_idx + 1)  # before that frame is tracked

    def _click(
        self, predictor: I2VPPVideoPredictor, state: InferenceState, frame_idx: int, obj_id: int, truth: Mask
    ) -> None:
        clicks, ious = [central_click(truth)], []
        for _ in range(self.num_clicks):
            found = _add_click(predictor, state, frame_idx, obj_id, clicks[-1])
            ious.append(jaccard(found, truth))
            clicks.append(correcting_click(truth, found))
        best = int(np.argmax(ious)) + 1
        if best < len(ious):
            predictor.remove_object(state, obj_id, need_output=False)
            for click in clicks[:best]:
                _add_click(predictor, state, frame_idx, obj_id, click)


def bounding_box(mask: Mask) -> tuple[int, int, int, int]:
    """Return x, y, x + width, y + height of the rectangle around the set pixels of a mask [H, W], which has some."""
    ys, xs = np.nonzero(mask)
    return int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1


def _add_click(
    predictor: I2VPPVideoPredictor, state: InferenceState, frame_idx: int, obj_id: int, click: Click
) -> Mask:
    _, obj_ids, logits = predictor.add_new_points_or_box(
        state, frame_idx, obj_id, points=[(click.x, click.y)], labels=[int(click.positive)], clear_old_points=False
    )
    mask: Mask = (logits[obj_ids.index(obj_id), 0] > 0).cpu().numpy()
    return mask
