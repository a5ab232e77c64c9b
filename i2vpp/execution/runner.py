"""The network's step for tracked frames: what it gives, and the runner that executes it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import Tensor

from i2vpp.modeling.i2vpp import I2VPP
from i2vpp.structures import FrameFeatures, FrameMemory, MaskPrediction, MemoryTokens, Prompt, SelectedMemory
from i2vpp.utils.masks import fill_holes

OBJECTS_PER_BATCH = 16
MEMORY_CELLS_PER_BATCH, MEMORY_CELLS_PER_BATCH_ON_CUDA = 2**17, 2**19
"""4 objects at 1024 pixels on a CPU, where larger batches need more memory and are no faster; 16 on a GPU, where every
batch launches its kernels anew."""


class ObjectOutput(NamedTuple):
    """The output of B objects on one frame: masks, scores and memory.

    Args:
        decoded: mask logits [B, 1, 4h, 4w] as decoded, in float16.
        logits: mask logits [B, 1, 4h, 4w] as they are returned, holes filled, float32.
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
        fields = ([x.clone() for x in field.split(1)] for field in self)
        return [ObjectOutput(*parts) for parts in zip(*fields, strict=True)]


def track_step(model: I2VPP, features: FrameFeatures, memory: MemoryTokens) -> ObjectOutput:
    """Predict B objects on a frame without prompts and encode the output as a memory.

    Args:
        model: the network.
        features: of the frame, with a batch of 1.
        memory: of B objects.

    Returns:
        The output of B objects, with a non-conditioning memory.
    """
    prediction = model.decode(model.condition_on_memory(features, memory), Prompt())
    return encode_output(model, features, prediction, conditioning=False)


def encode_output(
    model: I2VPP, features: FrameFeatures, prediction: MaskPrediction, *, conditioning: bool
) -> ObjectOutput:
    """Fill the holes of the predicted masks and encode the prediction as a memory.

    Args:
        model: the network.
        features: of the frame, with a batch of 1.
        prediction: of B objects.
        conditioning: the memory is that of a conditioning frame; see `I2VPP.encode_memory`.

    Returns:
        The output of B objects.
    """
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
    """Runs the image encoder and the step of tracked frames operation by operation; `CompiledRunner` compiles them.

    Args:
        model: the network, in eval mode.
    """

    def __init__(self, model: I2VPP) -> None:
        self.model = model

    def encode(self, clip: Tensor) -> FrameFeatures:
        """See `I2VPP.encode`; B = 1."""
        return self.model.encode(clip)

    def track_step(self, features: FrameFeatures, selected: Sequence[SelectedMemory]) -> list[ObjectOutput]:
        """Track objects on a frame, in batches of those whose padded memories have the same shape.

        Args:
            features: of the frame, with a batch of 1.
            selected: the memories that are read, one entry per object.

        Returns:
            The output of each object (B = 1), in the order of `selected`.
        """
        padded = [self._pad(memory) for memory in selected]
        outputs: dict[int, ObjectOutput] = {}
        on_cuda = features.embedding.device.type == "cuda"
        most = MEMORY_CELLS_PER_BATCH_ON_CUDA if on_cuda else MEMORY_CELLS_PER_BATCH
        for batch in _batches(padded, frames=most // features.embedding[0, 0].numel()):
            output = self._run_batch(features, [padded[i] for i in batch])
            outputs.update(zip(batch, output.split(), strict=True))
        return [outputs[i] for i in range(len(padded))]

    def _pad(self, selected: SelectedMemory) -> SelectedMemory:
        """Pad to a shape that the runner prefers; padded entries have weight 0."""
        return selected

    def _run_batch(self, features: FrameFeatures, selected: Sequence[SelectedMemory]) -> ObjectOutput:
        """Run `track_step` for objects whose padded memories have the same shape."""
        return track_step(self.model, features, self.model.memory_tokens(selected))


def _batches(padded: Sequence[SelectedMemory], *, frames: int) -> Iterator[list[int]]:
    """Group the indices of memories of the same shape into batches of nearly equal size.

    `frames` is the largest number of memory frames in a batch.
    """
    groups: dict[tuple[int, int], list[int]] = {}
    for i, memory in enumerate(padded):
        groups.setdefault(memory.shape, []).append(i)
    for (own, _), members in groups.items():
        most = min(OBJECTS_PER_BATCH, max(1, frames // own))
        count = -(-len(members) // most)
        for i in range(count):
            yield members[i * len(members) // count : (i + 1) * len(members) // count]
