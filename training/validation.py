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
from training.config import SourceConfig, ValidationConfig
from training.dataset.build import build_source
from training.dataset.clips import AnnotatedVideo, Source
from training.dataset.errors import item_errors
from training.dataset.file_source import name_of

_UNSCORED = 2  # frames of an object: the one that it is given on, and the last of the sequence


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
    """The first frames of a sequence in memory, as an `AnnotatedVideo`.

    Args:
        name: of the sequence.
        images: RGB [H, W, 3], all of one size.
        truths: by frame and object, true masks [H, W] of the objects that are present.
    """

    name: str
    images: Sequence[NDArray[np.uint8]]
    truths: Sequence[Mapping[int, Mask]]

    def __len__(self) -> int:
        """Count the frames."""
        return len(self.images)

    def image(self, t: int) -> NDArray[np.uint8]:
        """Return a frame."""
        return self.images[t]

    def masks(self, t: int) -> Mapping[int, Mask]:
        """Return the masks of the objects that are present on a frame, by object id."""
        return self.truths[t]


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
) -> Iterator[SequenceScore | SequenceFailure]:
    """Score the chosen sequences one after the other; the model is in eval mode meanwhile.

    Args:
        model: the network as it is trained.
        sequences: annotated videos; frames without annotation are not seen.
        indices: which of them, such as one rank's share.
        config: what is prompted.
        dtype: of the heavy arithmetic.

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
            yield score_tracked(track_sequence(predictor, video, prompt=config.prompt, max_frames=config.max_frames))
    finally:
        for module, training in modes.items():
            module.training = training


def read_sequence(video: AnnotatedVideo, *, max_frames: int) -> ReadSequence:
    """Read what is needed to score a sequence.

    Args:
        video: the sequence.
        max_frames: so many of its frames are read, at most.

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
        if len(span) > _UNSCORED
    ]
    return SequenceScore(
        name=tracked.name,
        j=float(np.mean([score.j for score in scores])),
        f=float(np.mean([score.f for score in scores])),
    )
