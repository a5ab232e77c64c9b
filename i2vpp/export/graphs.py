"""The four graphs of an export, as modules over the network that take and give plain tensors.

Numbers of objects, memory frames, pointers and clicks may vary; the image size may not. What depends on the values of
a prompt, such as whether there is a previous mask, is computed both ways and chosen by an input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from i2vpp.modeling.i2vpp import I2VPP, MEMORY_WIDTH, WIDTH, StackedMemories, mask_logits
from i2vpp.modeling.layers import take_entry
from i2vpp.modeling.position_encoding import sine_map
from i2vpp.modeling.sam.mask_decoder import replace_unstable
from i2vpp.modeling.sam.prompt_encoder import PADDING_LABEL
from i2vpp.structures import ABSENT_LOGIT, Conditioned, FrameFeatures, MaskPrediction, Prompt
from i2vpp.tracking import with_small_parts
from i2vpp.utils.masks import fill_holes

OUTPUTS = ("masks", "ious", "object_scores", "pointers", "values", "foreground")
"""Outputs of all graphs but the encoder, see `ObjectGraph`."""

MEMORY = ("memory_values", "memory_foreground", "memory_slots", "memory_weights",
          "memory_pointers", "pointer_offsets", "pointer_weights")  # fmt: skip
"""Inputs that hold the memories of B objects: of each G frames and P pointers; an entry with weight 0 is padding."""

Axis = int | str
"""Length of an axis, or the name of one whose length may vary."""


@dataclass(frozen=True, kw_only=True)
class Port:
    """An input or output of a graph.

    Args:
        name: name.
        shape: lengths of the axes; a name stands for a length that may vary. The data type is float32 everywhere.
    """

    name: str
    shape: tuple[Axis, ...]


class Graph(nn.Module):
    """A part of the network with named inputs and outputs.

    Args:
        model: the network, in eval mode, on the CPU, with float32 weights.
    """

    name = ""
    num_variadic = 0
    """How many of the last inputs `forward` takes as `*memory`."""

    def __init__(self, model: I2VPP) -> None:
        super().__init__()
        self.model = model
        self.side = model.image_size
        self.cells = model.image_size // 16

    def inputs(self) -> tuple[Port, ...]:
        """Return the inputs in their order."""
        raise NotImplementedError

    def outputs(self) -> tuple[Port, ...]:
        """Return the outputs in their order."""
        raise NotImplementedError


class EncoderGraph(Graph):
    """The image encoder: from a clip of three normalised frames to the embedding of the last one."""

    name = "encoder"

    def inputs(self) -> tuple[Port, ...]:
        """Return the inputs in their order."""
        return (Port(name="clip", shape=(1, 3, 3, self.side, self.side)),)

    def outputs(self) -> tuple[Port, ...]:
        """Return the outputs in their order."""
        return (_embedding(self.cells),)

    def forward(self, clip: Tensor) -> Tensor:
        """Map a clip [1, 3, 3, H, W] = [batch, channel, time, H, W] to an embedding [1, D, h, w]."""
        return self.model.encode(clip).embedding


class ObjectGraph(Graph):
    """A graph that gives masks and memories of B objects on a frame.

    Its outputs are mask logits [B, 1, 4h, 4w] with holes filled, predicted IoUs [B], object scores [B], pointers
    [B, D], memory features [B, M, h, w] and the objects' cells [B, h, w], 0 or 1. Memory features are to be rounded to
    bfloat16 where they are kept, as the predictor does.
    """

    def __init__(self, model: I2VPP) -> None:
        super().__init__(model)
        cells = self.cells
        self.register_buffer("position", sine_map(WIDTH, cells, cells, torch.device("cpu")).clone(), persistent=False)

    def outputs(self) -> tuple[Port, ...]:
        """Return the outputs in their order."""
        cells, side = self.cells, 4 * self.cells
        shapes: list[tuple[Axis, ...]] = [
            (1, side, side),
            (),
            (),
            (WIDTH,),
            (MEMORY_WIDTH, cells, cells),
            (cells, cells),
        ]
        return tuple(Port(name=n, shape=("objects", *s)) for n, s in zip(OUTPUTS, shapes, strict=True))

    def _features(self, embedding: Tensor) -> FrameFeatures:
        return FrameFeatures(embedding=embedding, position=cast("Tensor", self.position))

    def _encoded(
        self, features: FrameFeatures, prediction: MaskPrediction, *, conditioning: bool
    ) -> tuple[Tensor, ...]:
        """Fill holes, encode the memory and return all outputs; see `encode_output` of the runner."""
        model = self.model
        masks = fill_holes(prediction.logits, model.config.fill_hole_area)
        memory = model.encode_memory(features, prediction, masks, conditioning=conditioning)
        return (
            masks,
            prediction.iou,
            prediction.object_score,
            prediction.pointer,
            memory.values.float(),
            memory.foreground.float(),
        )


class TrackGraph(ObjectGraph):
    """The step of a tracked frame: B objects by their memories."""

    name = "track"
    num_variadic = len(MEMORY)

    def inputs(self) -> tuple[Port, ...]:
        """Return the inputs in their order."""
        return (_embedding(self.cells), *_memory(self.cells))

    def forward(self, embedding: Tensor, *memory: Tensor) -> tuple[Tensor, ...]:
        """Track.

        Args:
            embedding: of the frame [1, D, h, w].
            memory: in the order of `MEMORY`.

        Returns:
            See `ObjectGraph`.
        """
        features = self._features(embedding)
        tokens = self.model.stacked_memory_tokens(_stacked(memory))
        prediction = self.model.decode(self.model.condition_on_memory(features, tokens), Prompt())
        return self._encoded(features, prediction, conditioning=False)


class PromptGraph(ObjectGraph):
    """The prompted frame: B objects by clicks and boxes, and by a previous mask and memories where there are any."""

    name = "prompt"
    num_variadic = len(MEMORY) + 1

    def inputs(self) -> tuple[Port, ...]:
        """Return the inputs in their order."""
        side = 4 * self.cells
        return (
            _embedding(self.cells),
            Port(name="coords", shape=("objects", "clicks", 2)),
            Port(name="labels", shape=("objects", "clicks")),
            Port(name="previous_masks", shape=("objects", 1, side, side)),
            Port(name="has_previous", shape=("objects",)),
            *_memory(self.cells),
            Port(name="has_memory", shape=("objects",)),
        )

    def forward(
        self,
        embedding: Tensor,
        coords: Tensor,
        labels: Tensor,
        previous_masks: Tensor,
        has_previous: Tensor,
        *memory: Tensor,
    ) -> tuple[Tensor, ...]:
        """Predict objects from prompts.

        Args:
            embedding: of the frame [1, D, h, w].
            coords: clicks x, y in pixels of the network's input, box corners first [B, C, 2].
            labels: 0 negative, 1 positive, 2 and 3 box corners [B, C].
            previous_masks: mask logits that decoding starts from [B, 1, 4h, 4w].
            has_previous: 1 where they count, else 0 [B].
            memory: in the order of `MEMORY`, then `has_memory` [B]: 1 where memory counts, else 0.

        Returns:
            See `ObjectGraph`.
        """
        features = self._features(embedding)
        conditioned = self._conditioned(features, _stacked(memory[:-1]), memory[-1])
        prompt = Prompt(coords=coords, labels=labels)
        sparse = self.model.sam_prompt_encoder.sparse(prompt, batch=coords.shape[0], image_size=self.side)
        encoder = self.model.sam_prompt_encoder
        without = encoder.dense(Prompt(), grid=features.embedding.shape[-2:])
        dense = torch.where(
            _column(has_previous, 4), encoder.dense(Prompt(mask=previous_masks), grid=without.shape[-2:]), without
        )
        multimask = (labels != PADDING_LABEL).sum(dim=1) <= 1
        prediction = self._decode(conditioned, sparse, dense, multimask)
        return self._encoded(features, prediction, conditioning=True)

    def _conditioned(self, features: FrameFeatures, memories: StackedMemories, has_memory: Tensor) -> Conditioned:
        """Condition on memory, or on the embedding for "no memory"."""
        there = has_memory[:, None] > 0
        # Without any weight, attention would be divided by 0.
        memories = memories._replace(
            weights=torch.where(there, memories.weights, 1.0),
            pointer_weights=torch.where(there, memories.pointer_weights, 1.0),
        )
        read = self.model.condition_on_memory(features, self.model.stacked_memory_tokens(memories))
        plain = self.model.condition_on_memory(features, None)
        return Conditioned(
            embedding=torch.where(_column(has_memory, 4), read.embedding, plain.embedding),
            memory_prompts=torch.where(_column(has_memory, 3), read.memory_prompts, plain.memory_prompts),
        )

    def _decode(self, conditioned: Conditioned, sparse: Tensor, dense: Tensor, multimask: Tensor) -> MaskPrediction:
        """Compute `I2VPP.decode`, the number of masks chosen by `multimask` [B]."""
        model, decoder = self.model, self.model.sam_mask_decoder
        prompts = torch.cat([sparse, conditioned.memory_prompts], dim=1)
        position = model.sam_prompt_encoder.grid_position(conditioned.embedding.shape[-2:])
        tokens, image = decoder.attend(conditioned.embedding + dense, position, prompts)
        logits, ious, score = decoder.read_out(tokens, image, slice(None))
        return self._choose(logits, ious, tokens[:, 2:], score, multimask)

    def _choose(self, logits: Tensor, ious: Tensor, tokens: Tensor, score: Tensor, multimask: Tensor) -> MaskPrediction:
        """Choose the best of three masks [B, 4, H, W], or the single one."""
        best = 1 + ious[:, 1:].argmax(dim=1)
        single = logits[:, :1], ious[:, :1]
        if self.model.config.dynamic_multimask_via_stability:
            single = replace_unstable(logits, ious)
        chosen = torch.where(_column(multimask, 4), take_entry(logits, best), single[0])
        iou = torch.where(multimask[:, None], take_entry(ious, best), single[1])
        token = torch.where(multimask[:, None], take_entry(tokens, best)[:, 0], tokens[:, 0])
        visible = score > 0
        masks = torch.where(_column(visible, 4), chosen, ABSENT_LOGIT)
        return MaskPrediction(
            logits=masks,
            iou=iou[:, 0],
            object_score=score,
            pointer=torch.where(visible[:, None], self.model.obj_ptr_proj(token), self.model.no_obj_ptr),
            candidates=masks,
            candidate_ious=iou,
        )


class MaskGraph(ObjectGraph):
    """The mask-prompted frame: B objects by their masks."""

    name = "mask"

    def __init__(self, model: I2VPP) -> None:
        super().__init__(model)
        # Shrinking by 4 with antialiasing as a matrix product: the operation itself has no counterpart in ONNX.
        every = torch.eye(self.side)[None, None]
        shrink = F.interpolate(every, (self.side // 4, self.side), mode="bilinear", align_corners=False, antialias=True)
        self.register_buffer("shrink", shrink[0, 0], persistent=False)

    def inputs(self) -> tuple[Port, ...]:
        """Return the inputs in their order."""
        return (_embedding(self.cells), Port(name="drawn", shape=("objects", 1, self.side, self.side)))

    def forward(self, embedding: Tensor, drawn: Tensor) -> tuple[Tensor, ...]:
        """Use masks as output.

        Args:
            embedding: of the frame [1, D, h, w].
            drawn: masks of 0 and 1 at the network's input size [B, 1, H, W].

        Returns:
            See `ObjectGraph`.
        """
        features, shrink = self._features(embedding), cast("Tensor", self.shrink)
        logits = shrink @ mask_logits(drawn) @ shrink.T
        given = self.model.use_mask_as_output(features, drawn, logits=logits)
        return self._encoded(features, with_small_parts(given), conditioning=True)


GRAPHS: tuple[type[Graph], ...] = (EncoderGraph, TrackGraph, PromptGraph, MaskGraph)


def _embedding(cells: int) -> Port:
    return Port(name="embedding", shape=(1, WIDTH, cells, cells))


def _memory(cells: int) -> tuple[Port, ...]:
    frames: tuple[Axis, ...] = ("objects", "frames")
    pointers: tuple[Axis, ...] = ("objects", "pointers")
    shapes = [
        (*frames, MEMORY_WIDTH, cells, cells),
        (*frames, cells, cells),
        frames,
        frames,
        (*pointers, WIDTH),
        pointers,
        pointers,
    ]
    return tuple(Port(name=name, shape=shape) for name, shape in zip(MEMORY, shapes, strict=True))


def _stacked(memory: Sequence[Tensor]) -> StackedMemories:
    """Return inputs in the order of `MEMORY` as the network takes them."""
    values, foreground, slots, weights, pointers, offsets, pointer_weights = memory
    return StackedMemories(
        values=values,
        foreground=foreground > 0.5,
        pointers=pointers,
        slots=slots,
        weights=weights,
        offsets=offsets,
        pointer_weights=pointer_weights,
    )


def _column(flags: Tensor, rank: int) -> Tensor:
    """View flags [B] as bool [B, 1, ...] of a rank."""
    index = (slice(None), *(None,) * (rank - 1))
    return (flags > 0)[index]


def example(ports: Sequence[Port], lengths: dict[str, int], *, seed: int = 0) -> tuple[Tensor, ...]:
    """Return made-up inputs of a graph.

    Args:
        ports: the inputs.
        lengths: lengths of the axes that may vary.
        seed: of the numbers.

    Returns:
        One tensor per input; weights and flags are 1, slots, labels and masks are possible ones.
    """
    generator = torch.Generator().manual_seed(seed)

    def made(port: Port) -> Tensor:
        shape = [lengths[axis] if isinstance(axis, str) else axis for axis in port.shape]
        if port.name in ("memory_weights", "pointer_weights", "has_previous", "has_memory"):
            return torch.ones(shape)
        if port.name == "memory_slots":
            return torch.randint(0, 7, shape, generator=generator).float()
        if port.name == "labels":
            return torch.randint(0, 2, shape, generator=generator).float()
        numbers = torch.rand(shape, generator=generator)
        if port.name in ("memory_foreground", "drawn"):
            return (numbers > 0.5).float()
        if port.name == "coords":
            return numbers * 60
        return numbers if port.name == "pointer_offsets" else 2 * numbers - 1

    return tuple(made(port) for port in ports)
