"""The SAM-I2V++ network: every parameter under its published name, and the verbs that the loops call.

A frame goes through `encode`, then `memory_tokens` and `condition_on_memory`, then `decode` (or `use_mask_as_output`),
then `encode_memory`. The model never sees a frame index, a memory bank, a video or an object id; prediction and
training call the same verbs in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from i2vpp.config import NON_CONDITIONING_SLOTS, ModelConfig
from i2vpp.modeling.backbones.image_encoder import ImageEncoder
from i2vpp.modeling.backbones.temporal_feature_integrator import TemporalFeatureIntegrator
from i2vpp.modeling.backbones.tiny_vit import TinyViT
from i2vpp.modeling.inference import fewer_kernels
from i2vpp.modeling.layers import MLP, take_entry, to_tokens
from i2vpp.modeling.memory_attention import MemoryAttention
from i2vpp.modeling.memory_encoder import MemoryEncoder
from i2vpp.modeling.memory_prompt_generator import MemoryPromptGenerator
from i2vpp.modeling.position_encoding import sine_map, sine_vector
from i2vpp.modeling.sam.mask_decoder import MaskDecoder
from i2vpp.modeling.sam.prompt_encoder import PromptEncoder
from i2vpp.structures import (
    ABSENT_LOGIT,
    Conditioned,
    FrameFeatures,
    FrameMemory,
    MaskPrediction,
    MemoryTokens,
    Prompt,
    SelectedMemory,
)

WIDTH = 256
MEMORY_WIDTH = 64
NUM_SLOTS = NON_CONDITIONING_SLOTS + 1
"""Temporal slots: 0 for conditioning frames, 1 (oldest) to 6 (newest) for non-conditioning ones."""

MEMORY_MASK_SCALE = 20.0
MEMORY_MASK_BIAS = -10.0


class StackedMemories(NamedTuple):
    """The selected memories of B objects in tensors: of each G frames (`MemoryFrame`) and P pointers (`MemoryPointer`).

    Args:
        values: memory features [B, G, M, h, w], bfloat16.
        foreground: [B, G, h, w] bool.
        pointers: [B, P, D].
        slots: [B, G] float32.
        weights: [B, G] float32; 0 for padding, which is not attended to.
        offsets: [B, P] float32.
        pointer_weights: [B, P] float32.
    """

    values: Tensor
    foreground: Tensor
    pointers: Tensor
    slots: Tensor
    weights: Tensor
    offsets: Tensor
    pointer_weights: Tensor


class I2VPP(nn.Module):
    """SAM-I2V++.

    Args:
        config: image size, and how masks are chosen and encoded as memory; the model does not read `config.selection`.
    """

    def __init__(self, config: ModelConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or ModelConfig()
        self.decodes_in_float32 = True  # training may set it to False, to decode in the data type of the rest
        self.image_encoder = ImageEncoder(TinyViT(), TemporalFeatureIntegrator())
        self.memory_attention = MemoryAttention(WIDTH, pooling=config.memory_pooling)
        self.memory_encoder = MemoryEncoder()
        self.memory_prompt_generator = MemoryPromptGenerator(WIDTH, memory_width=MEMORY_WIDTH)
        self.sam_prompt_encoder = PromptEncoder(WIDTH)
        self.sam_mask_decoder = MaskDecoder(WIDTH, stability_fallback=config.dynamic_multimask_via_stability)
        self.mask_downsample = nn.Conv2d(1, 1, 4, stride=4)
        self.obj_ptr_proj = MLP((WIDTH,) * 4)
        self.obj_ptr_tpos_proj = nn.Linear(WIDTH, MEMORY_WIDTH)

        def learned(*shape: int) -> nn.Parameter:
            return nn.Parameter(nn.init.trunc_normal_(torch.empty(shape), std=0.02))

        self.maskmem_tpos_enc = learned(NUM_SLOTS, 1, 1, MEMORY_WIDTH)
        self.no_mem_embed = learned(1, 1, WIDTH)
        self.no_mem_pos_enc = learned(1, 1, WIDTH)  # in every checkpoint, read by nothing
        self.no_obj_ptr = learned(1, WIDTH)
        self.no_obj_embed_spatial = learned(1, MEMORY_WIDTH)
        self.float()  # whatever torch's default dtype is

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return self.no_mem_embed.device

    @property
    def image_size(self) -> int:
        """Side of the square input in pixels."""
        return self.config.image_size

    def encode(self, clip: Tensor) -> FrameFeatures:
        """Encode the last frame of clips [B, 3, T, H, W]; the frames before it give context."""
        layout = torch.channels_last_3d if fewer_kernels(clip) else torch.preserve_format  # the trunks' own layout
        clip = clip.to(self.no_mem_embed.dtype, memory_format=layout)
        features: FrameFeatures = self.image_encoder(clip[:, :, -1], clip)
        return features

    def memory_tokens(self, selected: Sequence[SelectedMemory]) -> MemoryTokens:
        """Turn selected memories of equal shape, concatenated along the batch, into attention keys.

        Spatial tokens come first, frame by frame; then every pointer as WIDTH / MEMORY_WIDTH tokens.
        """
        unit_weights = all(memory.unit_weights for memory in selected)
        return self.stacked_memory_tokens(self.stack_memories(selected), unit_weights=unit_weights)

    def stack_memories(self, selected: Sequence[SelectedMemory]) -> StackedMemories:
        """Stack selected memories of equal shape on the network's device: the first step of `memory_tokens`."""
        batches = [memory.spatial[0].memory.values.shape[0] for memory in selected]
        with torch.autocast(self.device.type, enabled=False):  # it cannot stack bfloat16 in a float16 region
            values = _stack([[e.memory.values for e in memory.spatial] for memory in selected])
            foreground = _stack([[e.memory.foreground for e in memory.spatial] for memory in selected])
            if selected[0].pointers:
                pointers = _stack([[e.pointer for e in memory.pointers] for memory in selected])
            else:
                pointers = values.new_zeros(len(values), 0, WIDTH, dtype=torch.float32)
        slots, weights, offsets, pointer_weights = _numbers(
            [
                [[e.slot for e in memory.spatial] for memory in selected],
                [[e.weight for e in memory.spatial] for memory in selected],
                [[e.offset for e in memory.pointers] for memory in selected],
                [[e.weight for e in memory.pointers] for memory in selected],
            ],
            batches,
            self.device,
        )
        return StackedMemories(
            values=values.to(self.device),
            foreground=foreground.to(self.device),
            pointers=pointers.to(self.device),
            slots=slots,
            weights=weights,
            offsets=offsets,
            pointer_weights=pointer_weights,
        )

    def stacked_memory_tokens(self, memories: StackedMemories, *, unit_weights: bool = False) -> MemoryTokens:
        """Turn stacked memories into attention keys.

        Args:
            memories: of B objects.
            unit_weights: all weights are 1; the tokens then carry none.

        Returns:
            The tokens.
        """
        parts = zip(self._spatial_tokens(memories), self._pointer_tokens(memories), strict=True)
        values, position = (torch.cat(part, dim=1) for part in parts)
        foreground = memories.foreground.flatten(1)
        num_pointer_tokens = values.shape[1] - foreground.shape[1]
        log_weights = None
        if not unit_weights:
            weights = (memories.weights, memories.pointer_weights)
            cells = (foreground.shape[1] // memories.weights.shape[1], WIDTH // MEMORY_WIDTH)
            repeated = [w.repeat_interleave(count, dim=1) for w, count in zip(weights, cells, strict=True)]
            log_weights = torch.cat(repeated, dim=1).log()
        return MemoryTokens(
            values=values,
            position=position,
            foreground=F.pad(foreground, (0, num_pointer_tokens), value=True),
            num_pointer_tokens=num_pointer_tokens,
            log_weights=log_weights,
        )

    def _spatial_tokens(self, memories: StackedMemories) -> tuple[Tensor, Tensor]:
        """Values and positions [B, G * h * w, M] of G memory frames."""
        values = memories.values.to(self.no_mem_embed.dtype)
        slot_position = self.maskmem_tpos_enc[NUM_SLOTS - 1 - memories.slots.long(), 0, 0]  # [B, G, M]
        grid_position = to_tokens(sine_map(MEMORY_WIDTH, *values.shape[-2:], self.device))
        position = (slot_position[:, :, None] + grid_position).flatten(1, 2)
        tokens = values.flatten(3).transpose(2, 3).flatten(1, 2)
        return tokens, position

    def _pointer_tokens(self, memories: StackedMemories) -> tuple[Tensor, Tensor]:
        """Values and positions [B, P * split, M] of P pointers, each split into tokens."""
        split = WIDTH // MEMORY_WIDTH
        offsets = sine_vector(memories.offsets, WIDTH).to(self.obj_ptr_tpos_proj.weight.dtype)
        position = self.obj_ptr_tpos_proj(offsets).repeat_interleave(split, dim=1)
        pointers = memories.pointers.to(self.no_mem_embed.dtype)
        return pointers.unflatten(2, (split, MEMORY_WIDTH)).flatten(1, 2), position

    def condition_on_memory(
        self, features: FrameFeatures, memory: MemoryTokens | None, *, auxiliary: bool = False
    ) -> Conditioned:
        """Condition the features of a frame on memory, or on the embedding for "no memory".

        Args:
            features: of the frame, B = 1 for all objects or one per object.
            memory: of B objects, or None for objects without memory.
            auxiliary: also compute the deep-supervision masks (only with memory).

        Returns:
            Conditioned features and memory prompts.
        """
        if memory is None:
            embedding = features.embedding + self.no_mem_embed.flatten()[:, None, None]
            prompts = self.memory_prompt_generator.without_memory(embedding.shape[0])
            return Conditioned(embedding=embedding, memory_prompts=prompts)
        embedding, masks = self.memory_attention(features, memory, auxiliary=auxiliary)
        prompts = self.memory_prompt_generator(memory, features.embedding.shape[-2:])
        return Conditioned(embedding=embedding, memory_prompts=prompts, auxiliary=masks)

    def decode(self, conditioned: Conditioned, prompt: Prompt, *, multimask: bool | None = None) -> MaskPrediction:
        """Predict the masks of B objects.

        Decoding runs in float32 even under autocast, unless `decodes_in_float32` is False: it is a hundredth of the
        work of a tracked frame.

        Args:
            conditioned: features and memory prompts.
            prompt: clicks, box and previous mask; `Prompt()` for a frame without any.
            multimask: choose the best of three masks; default: if there are fewer than two points.

        Returns:
            The prediction.
        """
        if not self.decodes_in_float32:
            return self._decode(conditioned, prompt, multimask)
        with torch.autocast(self.device.type, enabled=False):
            return self._decode(conditioned, prompt, multimask)

    def _decode(self, conditioned: Conditioned, prompt: Prompt, multimask: bool | None) -> MaskPrediction:
        embedding = conditioned.embedding
        if multimask is None:
            multimask = prompt.num_points <= 1
        encoder = self.sam_prompt_encoder
        sparse = encoder.sparse(prompt, batch=embedding.shape[0], image_size=self.image_size)
        dense = encoder.dense(prompt, grid=embedding.shape[-2:])
        masks = self.sam_mask_decoder(
            embedding + dense.float(),  # in float32, whatever the embedding is in
            encoder.grid_position(embedding.shape[-2:]),
            torch.cat([sparse, conditioned.memory_prompts.float()], dim=1),
            multimask=multimask,
        )
        iou, best = masks.ious.max(dim=1)
        absent = masks.object_score <= 0
        logits = masks.logits.masked_fill(absent[:, None, None, None], ABSENT_LOGIT)
        pointer = self.obj_ptr_proj(take_entry(masks.tokens, best)[:, 0]).float()
        return MaskPrediction(
            logits=take_entry(logits, best),
            iou=iou,
            object_score=masks.object_score,
            pointer=torch.where(absent[:, None], self.no_obj_ptr, pointer),
            candidates=logits,
            candidate_ious=masks.ious,
        )

    def use_mask_as_output(
        self, features: FrameFeatures, mask: Tensor, *, logits: Tensor | None = None
    ) -> MaskPrediction:
        """Use the user's masks as the output; only the object pointers are computed.

        Args:
            features: of the frame, B = 1 or one per object.
            mask: float32 [B, 1, H, W] of 0 and 1 at the network's input size; an empty mask declares the object absent.
            logits: the masks as logits of a quarter of that size, where they were shrunk already.

        Returns:
            The masks as a prediction.
        """
        batch = mask.shape[0]
        if logits is None:
            size = [side // 4 for side in mask.shape[-2:]]
            logits = F.interpolate(mask_logits(mask), size, mode="bilinear", align_corners=False, antialias=True)
        plain = Conditioned(
            embedding=features.embedding.expand(batch, -1, -1, -1),
            memory_prompts=self.memory_prompt_generator.without_memory(batch),
        )
        small = self.mask_downsample(mask.to(self.mask_downsample.weight.dtype)).float()
        pointer = self.decode(plain, Prompt(mask=small), multimask=False).pointer
        visible = (mask > 0.5).flatten(1).any(dim=1)
        iou = torch.ones(batch, dtype=torch.float32, device=mask.device)
        return MaskPrediction(
            logits=logits,
            iou=iou,
            object_score=torch.where(visible, iou, -iou) * -MEMORY_MASK_BIAS,
            pointer=torch.where(visible[:, None], pointer, self.no_obj_ptr),
            candidates=logits,
            candidate_ious=iou[:, None],
        )

    def encode_memory(
        self, features: FrameFeatures, prediction: MaskPrediction, stored: Tensor, *, conditioning: bool
    ) -> FrameMemory:
        """Encode the masks of B objects on one frame as a memory.

        Args:
            features: of the frame, B = 1 or one per object.
            prediction: the decoded prediction.
            stored: mask logits [B, 1, 4h, 4w] as they are kept and returned (holes filled).
            conditioning: encode the stored mask, as 0/1, as for a frame that the user prompted; otherwise encode the
                decoded mask, as probability.

        Returns:
            The memory, its values in bfloat16.
        """
        grid = features.embedding.shape[-2:]
        logits = F.interpolate(
            stored if conditioning else prediction.logits,
            (self.image_size, self.image_size),
            mode="bilinear",
            align_corners=False,
        )
        binary = conditioning and self.config.binarize_mask_from_pts_for_mem_enc
        mask = (logits > 0).float() if binary else logits.sigmoid()
        scaled = mask_logits(mask).to(self.no_mem_embed.dtype)
        values = self.memory_encoder(features.embedding, scaled)
        absent = (prediction.object_score <= 0)[:, None, None, None]
        values = values + absent * self.no_obj_embed_spatial[..., None, None]
        share = F.interpolate(stored.sigmoid(), grid, mode="bilinear", align_corners=False)
        return FrameMemory(values=values.to(torch.bfloat16), foreground=share[:, 0] >= 0.5, pointer=prediction.pointer)


def mask_logits(mask: Tensor) -> Tensor:
    """Logits that stand for a mask of 0 to 1, as memory encoder and decoder take it."""
    return mask * MEMORY_MASK_SCALE + MEMORY_MASK_BIAS


def _stack(rows: list[list[Tensor]]) -> Tensor:
    """Tensors [b, ...] by selected memory and entry as one tensor [B, entries, ...]; B is the sum of all b."""
    if all(len(row[0]) == 1 for row in rows):  # as in tracking: one copy, however many objects there are
        return torch.cat([entry for row in rows for entry in row]).unflatten(0, (len(rows), -1))
    return torch.cat([torch.stack(row, dim=1) for row in rows])


def _numbers(tables: Sequence[Sequence[Sequence[float]]], batches: list[int], device: torch.device) -> list[Tensor]:
    """Tables of numbers by selected memory and entry, each as [B, entries], repeated for the objects of each memory.

    They cross over to the device in one copy, for which a GPU need not wait.
    """
    repeated = [[row for row, batch in zip(table, batches, strict=True) for _ in range(batch)] for table in tables]
    flat = [number for table in repeated for row in table for number in row]
    numbers = torch.tensor(flat, dtype=torch.float32, pin_memory=device.type == "cuda")
    numbers = numbers.to(device, non_blocking=device.type != "mps")  # which would read what is freed by then
    shapes = [(len(table), len(table[0])) for table in repeated]
    parts = numbers.split([rows * columns for rows, columns in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
