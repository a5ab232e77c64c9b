"""Validation: the predictor is scored on whole sequences with the weights as they are in training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
from i2vpp.metrics import jaccard, score_object
from i2vpp.modeling.i2vpp import I2VPP
from i2vpp.session.state import InferenceState
from i2vpp.utils.clicks import Click, central_click, correcting_click
from training.config import SourceConfig, ValidationConfig
from training.dataset.build import build_source
from training.dataset.clips import AnnotatedVideo, Source

Mask = NDArray[np.bool_]
NUM_CLICKS = {"1 click": 1, "3 clicks": 3}
PROMPTS = ("mask", "box", *NUM_CLICKS)


@dataclass(frozen=True, kw_only=True)
class SequenceScore:
    """Scores of one sequence in [0, 1], means over its objects; the first and the last frame are not scored."""

    name: str
    j: float
    f: float

    @property
    def jf(self) -> float:
        """The mean of J and F."""
        return (self.j + self.f) / 2


def open_validation(config: ValidationConfig) -> Source | None:
    """Open the sequences to validate on; None where none are configured."""
    if config.images is None:
        return None
    source = SourceConfig(kind="palette", images=config.images, annotations=config.annotations, include=config.include)
    return build_source("validation", source)


@dataclass(frozen=True, kw_only=True, eq=False)
class Tracked:
    """What was found and what is true in the first frames of a sequence.

    Args:
        name: of the sequence.
        length: frames.
        start: by object, the frame on which it was prompted: the first that shows it.
        found: by object and frame, from `start` on, masks [H, W].
        truths: by frame and object, true masks [H, W] of the objects that are present.
    """

    name: str
    length: int
    start: Mapping[int, int]
    found: Mapping[int, Mapping[int, Mask]]
    truths: Sequence[Mapping[int, Mask]]

    def mask(self, obj: int, t: int) -> Mask:
        """Return what was found of an object on a frame, nothing before it was prompted."""
        return self.found[obj][t] if t in self.found[obj] else np.zeros_like(self.found[obj][self.start[obj]])

    def truth(self, obj: int, t: int) -> Mask:
        """Return the true mask, empty where the object is absent."""
        mask = self.truths[t].get(obj)
        return np.zeros_like(self.found[obj][self.start[obj]]) if mask is None else mask


def validate(
    model: I2VPP, sequences: Source, indices: Sequence[int], config: ValidationConfig, *, dtype: torch.dtype
) -> Iterator[SequenceScore]:
    """Score the chosen sequences one after the other; the model is in eval mode meanwhile.

    Args:
        model: the network as it is trained.
        sequences: annotated videos; frames without annotation are not seen.
        indices: which of them, such as one rank's share.
        config: what is prompted.
        dtype: of the heavy arithmetic.
    """
    modes = {module: module.training for module in model.modules()}
    predictor = I2VPPVideoPredictor(model.eval(), dtype=dtype)
    try:
        for index in indices:
            yield score_tracked(
                track_sequence(predictor, sequences[index], prompt=config.prompt, max_frames=config.max_frames)
            )
    finally:
        for module, training in modes.items():
            module.training = training


def track_sequence(predictor: I2VPPVideoPredictor, video: AnnotatedVideo, *, prompt: str, max_frames: int) -> Tracked:
    """Track every object of a sequence from the first frame that shows it; `prompt` is one of `PROMPTS`."""
    length = min(len(video), max_frames)
    truths = [dict(video.masks(t)) for t in range(length)]
    start = {obj: t for t in reversed(range(length)) for obj in truths[t]}
    found: dict[int, dict[int, Mask]] = {obj: {} for obj in start}
    with predictor.init_state([video.image(t) for t in range(length)]) as state:
        for obj, t in start.items():
            prompt_object(predictor, state, t, obj, truths[t][obj], prompt=prompt)
        for t, obj_ids, logits in predictor.propagate_in_video(state, progress=False):
            for obj, mask in zip(obj_ids, (logits[:, 0] > 0).cpu().numpy(), strict=True):
                if t >= start[obj]:
                    found[obj][t] = mask
    return Tracked(name=video.name, length=length, start=start, found=found, truths=truths)


def score_tracked(tracked: Tracked) -> SequenceScore:
    """Score every object from the frame it was prompted on; those with no frame between first and last are left out."""
    frames = {obj: range(start, tracked.length) for obj, start in tracked.start.items()}
    scores = [
        score_object([tracked.mask(obj, t) for t in span], [tracked.truth(obj, t) for t in span])
        for obj, span in frames.items()
        if len(span) > 2
    ]
    return SequenceScore(
        name=tracked.name,
        j=float(np.mean([score.j for score in scores])),
        f=float(np.mean([score.f for score in scores])),
    )


def prompt_object(
    predictor: I2VPPVideoPredictor, state: InferenceState, t: int, obj: int, truth: Mask, *, prompt: str
) -> None:
    """Prompt an object as the evaluation protocols do; of several clicks those up to the best mask are kept."""
    if prompt == "mask":
        predictor.add_new_mask(state, t, obj, truth)
    elif prompt == "box":
        ys, xs = np.nonzero(truth)
        predictor.add_new_points_or_box(state, t, obj, box=[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
    else:
        clicks, ious = [central_click(truth)], []
        for _ in range(NUM_CLICKS[prompt]):
            found = _click(predictor, state, t, obj, clicks[-1:])
            ious.append(jaccard(found, truth))
            clicks.append(correcting_click(truth, found))
        best = int(np.argmax(ious)) + 1
        if best < len(ious):
            predictor.remove_object(state, obj)
            for click in clicks[:best]:
                _click(predictor, state, t, obj, [click])


def _click(predictor: I2VPPVideoPredictor, state: InferenceState, t: int, obj: int, clicks: Sequence[Click]) -> Mask:
    _, obj_ids, logits = predictor.add_new_points_or_box(
        state,
        t,
        obj,
        points=[(click.x, click.y) for click in clicks],
        labels=[int(click.positive) for click in clicks],
        clear_old_points=False,
    )
    mask: Mask = (logits[obj_ids.index(obj), 0] > 0).cpu().numpy()
    return mask
