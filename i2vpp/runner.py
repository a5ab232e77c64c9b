"""The network's step for tracked frames: what it gives, and the runner that executes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from i2vpp.modeling.i2vpp import I2VPP
from i2vpp.structures import FrameFeatures, FrameMemory, MaskPrediction, MemoryTokens, Prompt, SelectedMemory
from i2vpp.utils.masks import fill_holes


class ObjectOutput(NamedTuple):
    """The output of B objects on one frame: masks, scores and memory.

    Args:
        decoded: mask logits [B, 1, 4h, 4w] as decoded, in float16.
        logits: the masks as they are returned, holes filled, float32.
        object_score: [B] logits.
        iou: predicted IoU [B].
        pointer: object pointer [B, D].
        values: memory features [B, M, h, w].
        foreground: [B, h, w] bool.
    """

    decoded: Tensor
    logits: Tensor
    object_score: Tensor
    iou: Tensor
    pointer: Tensor
    values: Tensor
    foreground: Tensor

    @property
    def memory(self) -> FrameMemory:
        """The memory of the frame."""
        return FrameMemory(values=self.values, foreground=self.foreground, pointer=self.pointer)

    def split(self) -> list[ObjectOutput]:
        """Return one output per object, with storage of its own: removing an object then frees its memory at once."""
        if len(self.iou) == 1:
            return [self]
        return [
            ObjectOutput(*parts) for parts in zip(*([x.clone() for x in field.split(1)] for field in self), strict=True)
        ]


def track_step(model: I2VPP, features: FrameFeatures, memory: MemoryTokens) -> ObjectOutput:
    """Predict B objects on a frame without prompts from their memory, and encode the output as a memory."""
    prediction = model.decode(model.condition_on_memory(features, memory), Prompt())
    return encode_output(model, features, prediction, conditioning=False)


def encode_output(
    model: I2VPP, features: FrameFeatures, prediction: MaskPrediction, *, conditioning: bool
) -> ObjectOutput:
    """Fill the holes of the predicted masks and encode the prediction as a memory."""
    logits = fill_holes(prediction.logits, model.config.fill_hole_area)
    memory = model.encode_memory(features, prediction, logits, conditioning=conditioning)
    return ObjectOutput(
        decoded=prediction.logits.half(),
        logits=logits,
        object_score=prediction.object_score,
        iou=prediction.iou,
        pointer=memory.pointer,
        values=memory.values,
        foreground=memory.foreground,
    )


class Runner:
    """Runs what every tracked frame goes through, operation by operation; `CompiledRunner` does it faster.

    Args:
        model: in eval mode.
    """

    def __init__(self, model: I2VPP) -> None:
        self.model = model

    def encode(self, clip: Tensor) -> FrameFeatures:
        """See `I2VPP.encode`; B = 1."""
        return self.model.encode(clip)

    def pad(self, selected: SelectedMemory) -> SelectedMemory:
        """Pad the selected memory to a shape that the runner prefers; padded entries have weight 0."""
        return selected

    def track_step(self, features: FrameFeatures, selected: Sequence[SelectedMemory]) -> ObjectOutput:
        """See `track_step`; the selected memories were padded by `pad` and have equal shapes."""
        return track_step(self.model, features, self.model.memory_tokens(selected))
