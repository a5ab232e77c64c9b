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

from i2vpp.errors import DataError, I2VPPError
from i2vpp.evaluation.metrics import score_object
from i2vpp.evaluation.protocol import GivenObject, PromptProtocol
from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
from i2vpp.modeling.i2vpp import I2VPP
from i2vpp.utils.arrays import Mask
from training.config import ValidationConfig
from training.dataset.build import build_source
from training.dataset.clips import AnnotatedVideo, Source
from training.dataset.errors import item_errors
from training.dataset.file_source import name_of

_UNSCORED = 2  # frames of an object: the one that it is prompted on, and the last one of the sequence


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


@dataclass(frozen=True, kw_only=True)
class SequenceFailure:
    """A sequence that cannot be scored, and why."""

    name: str
    problem: str


@dataclass(frozen=True, kw_only=True, eq=False)
class ReadSequence:
    """The first frames of a sequence in memory.

    Args:
        name: name of the sequence.
        images: RGB [H, W, 3], all of one size.
        truths: true masks [H, W] of the objects that are present, by frame and object.
    """

    name: str
    images: Sequence[NDArray[np.uint8]]
    truths: Sequence[Mapping[int, Mask]]

    def __len__(self) -> int:
        """Count the frames."""
        return len(self.images)


def open_validation(config: ValidationConfig) -> Source | None:
    """Open the sequences to validate on; None where none are configured."""
    return None if config.images is None else build_source("validation", config.source())


@dataclass(frozen=True, kw_only=True, eq=False)
class Tracked:
    """What was found and what is true in a sequence.

    Args:
        name: name of the sequence.
        found: predicted masks [H, W], by object and frame; an object's first frame is the one that it was prompted on.
        truths: true masks [H, W] of the objects that are present, by frame and object.
    """

    name: str
    found: Mapping[int, Mapping[int, Mask]]
    truths: Sequence[Mapping[int, Mask]]


def validate(
    model: I2VPP, sequences: Source, indices: Sequence[int], config: ValidationConfig, *, dtype: torch.dtype
) -> Iterator[SequenceScore | SequenceFailure]:
    """Score the chosen sequences one after the other; the model is in eval mode meanwhile.

    Args:
        model: the network as it is trained.
        sequences: annotated videos; frames without annotation are not seen.
        indices: indices of the sequences to score, such as one rank's share.
        config: prompt and most frames of a sequence.
        dtype: data type of encoder, memory attention and memory encoder.

    Yields:
        For each of them its score, or why it cannot be read or scored.
    """
    modes = {module: module.training for module in model.modules()}
    predictor = I2VPPVideoPredictor(model.eval(), dtype=dtype)
    try:
        for index in indices:
            name = name_of(sequences, index)
            try:
                with item_errors(name):
                    video = read_sequence(sequences[index], max_frames=config.max_frames)
            except I2VPPError as error:
                yield SequenceFailure(name=name, problem=str(error))
                continue
            yield score_tracked(track_sequence(predictor, video, prompt=config.prompt))
    finally:
        for module, training in modes.items():
            module.training = training


def read_sequence(video: AnnotatedVideo, *, max_frames: int) -> ReadSequence:
    """Read what is needed to score a sequence.

    Args:
        video: the sequence.
        max_frames: most frames that are read.

    Raises:
        DataError: the frames differ in size, or no object is there long enough to be scored.
    """
    length = min(len(video), max_frames)
    images = [video.image(t) for t in range(length)]
    truths = [dict(video.masks(t)) for t in range(length)]
    if len({image.shape for image in images}) > 1:
        raise DataError(f"{video.name}: its frames differ in size")
    if not any(truths[: max(0, length - _UNSCORED)]):
        raise DataError(
            f"{video.name}: no object shows before the last {_UNSCORED} of its {length} annotated frames, so nothing "
            "can be scored: the first frame of an object and the last one do not count"
        )
    return ReadSequence(name=video.name, images=images, truths=truths)


def track_sequence(predictor: I2VPPVideoPredictor, video: ReadSequence, *, prompt: str) -> Tracked:
    """Track every object of a sequence from the first frame that shows it.

    Args:
        predictor: the predictor that is scored.
        video: the sequence.
        prompt: name of a protocol, see `PromptProtocol`.
    """
    protocol = PromptProtocol(prompt)
    start = {obj: t for t in reversed(range(len(video))) for obj in video.truths[t]}
    found: dict[int, dict[int, Mask]] = {obj: {} for obj in start}
    with predictor.init_state(list(video.images)) as state:
        given = [GivenObject(obj_id=obj, frame_idx=t, mask=video.truths[t][obj]) for obj, t in start.items()]
        for t, obj_ids, logits in protocol.track(predictor, state, given):
            for obj, mask in zip(obj_ids, (logits[:, 0] > 0).cpu().numpy(), strict=True):
                found[obj][t] = mask
    return Tracked(name=video.name, found=found, truths=video.truths)


def score_tracked(tracked: Tracked) -> SequenceScore:
    """Score every object from the frame it was prompted on; those with no frame between first and last are left out."""
    scores = []
    for obj, masks in tracked.found.items():
        absent = np.zeros_like(next(iter(masks.values())))
        truths = [tracked.truths[t].get(obj, absent) for t in masks]
        if len(masks) > _UNSCORED:
            scores.append(score_object(list(masks.values()), truths))
    j, f = (float(np.mean([getattr(score, name) for score in scores])) for name in ("j", "f"))
    return SequenceScore(name=tracked.name, j=j, f=f)
