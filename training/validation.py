"""Validation: the predictor is scored on whole sequences with the weights as they are in training.

An object counts on the frames after the one that it is prompted on, the first that shows it, as by the evaluator's rule
"first-appearance": objects are tracked from there on only, so that no prediction can come too soon.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from i2vpp.evaluation.metrics import score_object
from i2vpp.evaluation.protocol import GivenObject, PromptProtocol
from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
from i2vpp.modeling.i2vpp import I2VPP
from training.config import SourceConfig, ValidationConfig
from training.dataset.build import build_source
from training.dataset.clips import AnnotatedVideo, Source

Mask = NDArray[np.bool_]


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
    """Track every object of a sequence from the first frame that shows it; `prompt` names a protocol."""
    protocol = PromptProtocol(prompt)
    length = min(len(video), max_frames)
    truths = [dict(video.masks(t)) for t in range(length)]
    start = {obj: t for t in reversed(range(length)) for obj in truths[t]}
    found: dict[int, dict[int, Mask]] = {obj: {} for obj in start}
    with predictor.init_state([video.image(t) for t in range(length)]) as state:
        given = [GivenObject(obj_id=obj, frame_idx=t, mask=truths[t][obj]) for obj, t in start.items()]
        for t, obj_ids, logits in protocol.track(predictor, state, given):
            for obj, mask in zip(obj_ids, (logits[:, 0] > 0).cpu().numpy(), strict=True):
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
