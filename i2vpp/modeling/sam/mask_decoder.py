"""SAM's mask decoder with an object-score token and memory prompts; no high-resolution features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from i2vpp.modeling.inference import FromWeights, fewer_kernels
from i2vpp.modeling.layers import MLP, GELU2d, LayerNorm2d, apply_together, take_entry, to_map
from i2vpp.modeling.sam.transformer import TwoWayTransformer

STABILITY_DELTA = 0.05
STABILITY_THRESHOLD = 0.98


@dataclass(frozen=True, kw_only=True)
class DecodedMasks:
    """K candidate masks of B objects.

    Args:
        logits: [B, K, 4h, 4w].
        ious: predicted IoU [B, K].
        tokens: the masks' output tokens [B, K, D].
        object_score: [B] logits, positive = visible.
    """

    logits: Tensor
    ious: Tensor
    tokens: Tensor
    object_score: Tensor


class MaskDecoder(nn.Module):
    """Predict one mask for clear prompts and three for ambiguous ones, their IoU, and whether the object is there.

    Args:
        width: of tokens and image.
        num_masks: all mask tokens: the single one and the ambiguous ones.
        stability_fallback: in evaluation, replace an unstable single mask by the best of the others.
    """

    def __init__(self, width: int = 256, *, num_masks: int = 4, stability_fallback: bool = True) -> None:
        super().__init__()
        self.stability_fallback = stability_fallback
        self.transformer = TwoWayTransformer(width)
        self.iou_token = nn.Embedding(1, width)
        self.mask_tokens = nn.Embedding(num_masks, width)
        self.obj_score_token = nn.Embedding(1, width)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(width, width // 4, 2, stride=2),
            LayerNorm2d(width // 4),
            GELU2d(),
            nn.ConvTranspose2d(width // 4, width // 8, 2, stride=2),
            GELU2d(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(MLP((width, width, width, width // 8)) for _ in range(num_masks))
        self.iou_prediction_head = MLP((width, width, width, num_masks), sigmoid_output=True)
        self.pred_obj_score_head = MLP((width, width, width, 1))
        self._own_tokens = FromWeights(rounds=False)
        self._together = FromWeights()

    def forward(self, image: Tensor, position: Tensor, prompts: Tensor, *, multimask: bool) -> DecodedMasks:
        """Decode masks.

        Args:
            image: [B, D, h, w], the dense prompt already added.
            position: of the image grid [1, D, h, w].
            prompts: sparse and memory prompts [B, T, D].
            multimask: the three ambiguous masks instead of the single one.

        Returns:
            3 masks, or 1; the token of a single mask is always that of the first mask token.
        """
        tokens, attended = self.attend(image, position, prompts)
        replaceable = not multimask and self.stability_fallback and not self.training
        wanted = slice(1, None) if multimask else slice(0, None if replaceable else 1)
        logits, ious, score = self.read_out(tokens, attended, wanted)
        mask_tokens = tokens[:, 2:][:, wanted]
        if replaceable:
            mask_tokens = mask_tokens[:, :1]
            logits, ious = replace_unstable(logits, ious)
        return DecodedMasks(logits=logits, ious=ious, tokens=mask_tokens, object_score=score)

    def attend(self, image: Tensor, position: Tensor, prompts: Tensor) -> tuple[Tensor, Tensor]:
        """Let the decoder's own tokens, the prompts and the image attend to each other; see `forward`.

        Returns:
            Tokens [B, 2 + num_masks, D], of the object score, of the predicted IoUs and of each mask, and the image
            [B, D, h, w].
        """
        learned = (self.obj_score_token.weight, self.iou_token.weight, self.mask_tokens.weight)
        (own,) = self._own_tokens(lambda: (torch.cat(learned),), *learned)
        prompts = torch.cat([own.expand(prompts.shape[0], -1, -1), prompts], dim=1)
        tokens, cells = self.transformer(image, position, prompts)
        return tokens[:, : len(own)], to_map(cells, image.shape[-2:])

    def read_out(self, tokens: Tensor, image: Tensor, wanted: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Compute masks and scores from what `attend` gives.

        Args:
            tokens: output tokens of object score, IoU and all masks [B, 2 + num_masks, D].
            image: [B, D, h, w].
            wanted: the K masks that are asked for.

        Returns:
            Mask logits [B, K, 4h, 4w], predicted IoUs [B, K] and object scores [B].
        """
        masks = cast("list[MLP]", list(self.output_hypernetworks_mlps))
        if fewer_kernels(tokens):
            mlps = [self.pred_obj_score_head, self.iou_prediction_head, *masks]
            out = apply_together(mlps, tokens.transpose(0, 1), self._together)  # [2 + num_masks, B, D / 8]
            score, ious = out[0, :, 0], out[1, :, : len(masks)].sigmoid()
            weights = out[2:].transpose(0, 1)[:, wanted]
        else:
            score, ious = self.pred_obj_score_head(tokens[:, 0])[:, 0], self.iou_prediction_head(tokens[:, 1])
            pairs = zip(masks[wanted], tokens[:, 2:][:, wanted].unbind(1), strict=True)
            weights = torch.stack([mlp(token) for mlp, token in pairs], dim=1)
        upscaled = self.output_upscaling(image)
        logits = (weights @ upscaled.flatten(2)).unflatten(2, upscaled.shape[-2:])
        return logits.float(), ious.float()[:, wanted], score.float()


def replace_unstable(logits: Tensor, ious: Tensor) -> tuple[Tensor, Tensor]:
    """Take the first mask, or the best of the others where the first is unstable.

    Stability is the area above +0.05 divided by the area above -0.05 (1 if there is none).

    Args:
        logits: [B, 4, H, W].
        ious: predicted IoUs [B, 4].

    Returns:
        Logits [B, 1, H, W] and IoUs [B, 1].
    """
    first = logits[:, 0].flatten(1)
    inner = (first > STABILITY_DELTA).sum(1)
    outer = (first > -STABILITY_DELTA).sum(1)
    stable = (outer == 0) | (inner >= STABILITY_THRESHOLD * outer.float())
    chosen = torch.where(stable, 0, 1 + ious[:, 1:].argmax(1))
    return take_entry(logits, chosen), take_entry(ious, chosen)
