"""The loss of a rollout, as published: structure loss, auxiliary masks, predicted IoU and presence.

Legend as in `training.dataset.clips`, and: K candidate masks, L auxiliary masks. All terms are sums over objects; the
trainer divides them by the number of objects of all ranks (`normalised`). Everything is computed in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from i2vpp.structures import MaskPrediction
from i2vpp.utils.masks import HALF, raise_small_parts
from training.config import LossConfig

TERMS = ("mask", "auxiliary", "iou", "presence")
"""Names of the terms of a loss, see `LossTerms`."""

BOUNDARY_WEIGHT = 5.0
BOUNDARY_KERNEL = 31  # side of the pooling window in pixels of the network's input


@dataclass(frozen=True, kw_only=True, eq=False)
class StepOutput:
    """One decoding step of a rollout.

    Args:
        prediction: masks, IoUs and scores of B objects.
        auxiliary: logits [B, L, H, W] of the memory attention's mask heads; None where no memory was read: then the
            chosen mask stands for each of them.
    """

    prediction: MaskPrediction
    auxiliary: Tensor | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class LossTerms:
    """The parts of a loss, unweighted, each summed over objects and decoding steps.

    Args:
        mask: structure loss of the best candidate, scalar.
        auxiliary: BCE + soft IoU loss of the auxiliary masks, scalar.
        iou: L1 error of the predicted IoUs, scalar.
        presence: BCE of the object score, scalar.
        steps: number of decoded masks, objects times steps: a term divided by it is a mean per step.
    """

    mask: Tensor
    auxiliary: Tensor
    iou: Tensor
    presence: Tensor
    steps: int

    def total(self, config: LossConfig) -> Tensor:
        """Weigh and add the terms to the scalar that is minimised."""
        return config.mask * (self.mask + self.auxiliary) + config.iou * self.iou + config.presence * self.presence


def clip_loss(
    frames: Sequence[Sequence[StepOutput]], truth: Tensor, ignored: Tensor | None = None, *, scale: float = 1.0
) -> LossTerms:
    """Compute the loss of a clip: the sum, not the mean, over its frames and their steps (SAM 2's choice).

    Mask, auxiliary and IoU terms count only for objects that exist in `truth`; presence counts for all.

    Args:
        frames: the decoding steps of each of T frames; a frame may have none, the clip may not.
        truth: bool [B, T, S, S]; predicted masks are resized to its size times `scale`.
        ignored: bool [B, T, S, S], pixels whose truth is not known: mask, auxiliary and IoU terms leave them out.
        scale: side of the masks that are compared, over S; a cell belongs to the object that covers most of it.

    Returns:
        The terms without weights; `LossTerms.total` applies them.

    Raises:
        ValueError: the number of frames differs from T, or no frame has a step.
    """
    if len(frames) != truth.shape[1]:
        raise ValueError(f"clip_loss: steps of {len(frames)} frames, but truth of {truth.shape[1]}")
    terms: list[LossTerms] = []
    for t, steps in enumerate(frames):
        # Computed once for all steps of the frame, since the boundary weights take most of the time.
        target = _target(truth[:, t], None if ignored is None else ignored[:, t], scale)
        terms.extend(_step_loss(step, target) for step in steps)
    return sum_steps(terms)


def sum_steps(terms: Sequence[LossTerms]) -> LossTerms:
    """Add the terms of several steps of the same objects.

    Raises:
        ValueError: there are no terms.
    """
    if not terms:
        raise ValueError("sum_steps: no decoding step, so nothing to learn from")
    sums = {name: torch.stack([getattr(term, name) for term in terms]).sum() for name in TERMS}
    return LossTerms(**sums, steps=sum(term.steps for term in terms))


def normalised(terms: LossTerms, count: float) -> LossTerms:
    """Divide the four sums by `count`; `terms.steps` stays.

    Args:
        terms: sums of this rank.
        count: number of objects of all ranks. Where gradients are averaged over ranks (DDP), the number divided by the
            number of ranks.

    Raises:
        ValueError: `count` is not positive.
    """
    if count <= 0:
        raise ValueError(f"normalised: count must be positive, got {count}")
    means = {name: getattr(terms, name) / count for name in TERMS}
    return LossTerms(**means, steps=terms.steps)


def boundary_weights(truth: Tensor, *, kernel: int = BOUNDARY_KERNEL) -> Tensor:
    """Weigh pixels by how mixed their surroundings are: 1 inside and outside of objects, up to 6 at boundaries.

    Beyond the border lies background, so that an object weighs more where it touches the border.

    Args:
        truth: float [B, 1, S, S] of 0 and 1.
        kernel: side in pixels of the surroundings, odd. The published 31 belongs to S = 1024; it is kept at every S,
            so that at smaller ones a larger part of the image counts as boundary.

    Returns:
        float [B, 1, S, S].
    """
    half = kernel // 2
    columns = F.avg_pool2d(truth, (kernel, 1), stride=1, padding=(half, 0))  # separable: 62 reads of 961
    return 1 + BOUNDARY_WEIGHT * (F.avg_pool2d(columns, (1, kernel), stride=1, padding=(0, half)) - truth).abs()


def structure_loss(logits: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    """Compute weighted BCE + weighted soft IoU loss of each mask.

    Args:
        logits: float32 [B, K, S, S].
        truth: float [B, 1, S, S] of 0 and 1.
        weights: [B, 1, S, S]; pixels of weight 0 count for nothing.

    Returns:
        [B, K].
    """
    error = F.binary_cross_entropy_with_logits(logits, truth.expand_as(logits), reduction="none")
    bce = (weights * error).sum((2, 3)) / weights.sum((2, 3)).clamp(min=1)  # 0 where all pixels are ignored
    probability = logits.sigmoid()
    overlap = probability * truth
    intersection = (weights * overlap).sum((2, 3))
    union = (weights * (probability + truth - overlap)).sum((2, 3))
    return bce + 1 - (intersection + 1) / (union + 1)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Target:
    """What the masks of a frame are compared with.

    Args:
        truth: float [B, 1, S, S] of 0 and 1.
        known: float [B, 1, S, S], 0 where the truth is not known and 1 elsewhere.
        weights: boundary weights [B, 1, S, S], 0 where the truth is not known.
        present: float [B], 1 where the object exists.
    """

    truth: Tensor
    known: Tensor
    weights: Tensor
    present: Tensor


def _target(truth: Tensor, ignored: Tensor | None, scale: float) -> _Target:
    mask = _coverage(truth, scale)
    if scale != 1:
        mask = (raise_small_parts(mask) >= HALF).float()  # no part is lost, as where masks become memory
    weights, known = boundary_weights(mask), torch.ones_like(mask)
    if ignored is not None:
        known = torch.maximum((_coverage(~ignored, scale) >= HALF).float(), mask)
        weights = weights * known
    return _Target(truth=mask, known=known, weights=weights, present=truth.flatten(1).any(dim=1).float())


def _coverage(mask: Tensor, scale: float) -> Tensor:
    """Return the share of each cell that bool [B, S, S] covers: float [B, 1, s, s], s = scale x S."""
    whole = mask[:, None].float()
    side = max(1, round(scale * mask.shape[-1]))
    return whole if scale == 1 else F.interpolate(whole, (side, side), mode="area")


def _step_loss(step: StepOutput, target: _Target) -> LossTerms:
    prediction, present = step.prediction, target.present
    candidates = _resized(prediction.candidates, target.truth)
    mask = structure_loss(candidates, target.truth, target.weights).min(dim=1).values
    auxiliary = _resized(prediction.logits if step.auxiliary is None else step.auxiliary, target.truth)
    iou_error = (prediction.candidate_ious.float() - _actual_iou(candidates, target.truth, target.known)).abs()
    presence = F.binary_cross_entropy_with_logits(prediction.object_score.float(), present, reduction="sum")
    return LossTerms(
        mask=(mask * present).sum(),
        auxiliary=(structure_loss(auxiliary, target.truth, target.known).mean(1) * present).sum(),
        iou=(iou_error.mean(dim=1) * present).sum(),
        presence=presence,
        steps=len(present),
    )


def _resized(logits: Tensor, truth: Tensor) -> Tensor:
    return F.interpolate(logits.float(), truth.shape[-2:], mode="bilinear", align_corners=False)


@torch.no_grad()
def _actual_iou(logits: Tensor, truth: Tensor, known: Tensor) -> Tensor:
    """IoU [B, K] of binarised masks with the truth where that is known; 0 where both are empty."""
    predicted, true = (logits > 0) & (known > 0), truth > 0
    intersection = (predicted & true).sum((2, 3))
    return intersection / (predicted | true).sum((2, 3)).clamp(min=1)
