"""The loss through the decoder: for the same prompts, the student's masks should be the teacher's.

Each crop is prompted twice: by a click at random, and by the box of the mask that the teacher answers it with. The
teacher's prompt encoder and mask decoder say what the answer is; they work on the teacher's embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from i2vpp.checkpoint import load_parts
from i2vpp.modeling.backbones.image_encoder import STRIDE
from i2vpp.modeling.i2vpp import I2VPP
from i2vpp.modeling.sam.mask_decoder import DecodedMasks, MaskDecoder
from i2vpp.modeling.sam.prompt_encoder import PromptEncoder
from i2vpp.structures import Conditioned, FrameFeatures, Prompt
from training.config import UserConfig
from training.loss_fns import structure_loss
from training.model.simulated_user import first_click, noisy_box, object_generators


@dataclass(frozen=True, kw_only=True, eq=False)
class Heads:
    """What turns an embedding and a prompt into masks."""

    prompt_encoder: PromptEncoder
    mask_decoder: MaskDecoder

    @classmethod
    def of(cls, model: I2VPP) -> Heads:
        """The heads of a network."""
        return cls(prompt_encoder=model.sam_prompt_encoder, mask_decoder=model.sam_mask_decoder)

    @classmethod
    def load(cls, path: str, device: torch.device) -> Heads:
        """Load the teacher's heads, in evaluation mode.

        Args:
            path: file of `torch.save` with entries under the network's names.
            device: where they run.

        Raises:
            CheckpointError: the file is missing, unreadable or does not fit.
        """
        model = I2VPP()
        load_parts(model, path)
        return cls.of(model.requires_grad_(requires_grad=False).eval().to(device))

    def __call__(self, conditioned: Conditioned, prompt: Prompt) -> DecodedMasks:
        """Decode three masks for a click, and one for a box.

        Unlike `I2VPP.decode`, this leaves masks as they are where the object score says that there is no object.

        Args:
            conditioned: embedding [B, D, h, w] of a frame without memory, and memory prompts [B, Q, D].
            prompt: one click or one box for each of B crops, in pixels of the crop.

        Returns:
            Logits [B, K, 4h, 4w] with predicted IoUs [B, K].
        """
        embedding = conditioned.embedding
        height, width = embedding.shape[-2:]
        encoder = self.prompt_encoder
        sparse = encoder.sparse(prompt, batch=len(embedding), image_size=height * STRIDE)
        masks: DecodedMasks = self.mask_decoder(
            embedding + encoder.dense(prompt, grid=embedding.shape[-2:]),
            encoder.pe_layer.grid(height, width),
            torch.cat([sparse, conditioned.memory_prompts], dim=1),
            multimask=prompt.num_points == 1,
        )
        return masks


@dataclass(frozen=True, kw_only=True, eq=False)
class PromptedMask:
    """The teacher's answer for each of B crops.

    Args:
        prompt: one click or one box.
        logits: mask logits [B, 1, 4h, 4w].
        iou: IoU [B] that the teacher predicts for its mask.
    """

    prompt: Prompt
    logits: Tensor
    iou: Tensor


@torch.no_grad()
def teacher_masks(teacher: Heads, embedding: Tensor, seeds: Sequence[int]) -> list[PromptedMask]:
    """Prompt the teacher by a random click on each crop, and by the box of the mask that it answers.

    Args:
        teacher: the teacher's heads.
        embedding: the teacher's embeddings [B, D, h, w], with its embedding for "no memory".
        seeds: one for each crop.

    Returns:
        The answers to the clicks and to the boxes.
    """
    batch, width, *grid = embedding.shape
    conditioned = Conditioned(embedding=embedding, memory_prompts=embedding.new_zeros(batch, 0, width))
    generators = object_generators(seeds)
    size = [side * STRIDE for side in grid]
    everywhere = torch.ones(batch, *size, dtype=torch.bool, device=embedding.device)

    def answer(clicks: tuple[Tensor, Tensor]) -> PromptedMask:
        prompt = Prompt(coords=clicks[0], labels=clicks[1])
        masks = teacher(conditioned, prompt)
        iou, best = masks.ious.max(dim=1)
        rows = torch.arange(batch, device=embedding.device)
        return PromptedMask(prompt=prompt, logits=masks.logits[rows, best][:, None], iou=iou)

    clicked = answer(first_click(everywhere, generators))
    shown = F.interpolate(clicked.logits, size, mode="bilinear", align_corners=False)[:, 0] > 0
    return [clicked, answer(noisy_box(shown, generators, UserConfig()))]


def mask_distance(model: I2VPP, features: FrameFeatures, answers: Sequence[PromptedMask]) -> Tensor:
    """Compute how much the student's masks differ from the teacher's.

    Of the three masks for a click, the one nearest to the teacher's counts. Answers weigh as much as the IoU that the
    teacher predicts for them.

    Args:
        model: the student; it is decoded by its own prompt encoder and mask decoder.
        features: of B crops.
        answers: the teacher's.

    Returns:
        Mean structure loss, scalar.
    """
    heads = Heads.of(model)
    losses: list[Tensor] = []
    with torch.autocast(model.device.type, enabled=False):
        plain = model.condition_on_memory(features, None)
        conditioned = Conditioned(embedding=plain.embedding.float(), memory_prompts=plain.memory_prompts.float())
        for answer in answers:
            logits = heads(conditioned, answer.prompt).logits
            truth = (answer.logits > 0).float()
            losses.append(structure_loss(logits, truth, torch.ones_like(truth)).amin(dim=1) * answer.iou)
    return torch.stack(losses).mean()
