"""Losses against values computed by hand, in plain Python."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from i2vpp.structures import ABSENT_LOGIT, MaskPrediction
from training.config import LossConfig
from training.loss_fns import (
    TERMS,
    LossTerms,
    StepOutput,
    boundary_weights,
    clip_loss,
    normalised,
    structure_loss,
    sum_steps,
)

CONFIG = LossConfig()
TRUTH = torch.tensor([[[1, 1], [0, 0]]], dtype=torch.bool)  # one object on 2 x 2 pixels
NOTHING = torch.zeros(1, 2, 2, dtype=torch.bool)
GOOD = [[2.0, 2.0], [-2.0, -2.0]]
POOR = [[1.0, -1.0], [1.0, -1.0]]  # IoU 1/3


def step(
    *candidates: Sequence[Sequence[float]],
    ious: Sequence[float] = (0.5,),
    score: float = 1.0,
    auxiliary: Sequence[Sequence[Sequence[float]]] | None = None,
    chosen: int = 0,
) -> StepOutput:
    """Make a step of one object."""
    masks = torch.tensor([candidates])
    prediction = MaskPrediction(
        logits=masks[:, chosen : chosen + 1],
        iou=torch.tensor([ious[chosen]]),
        object_score=torch.tensor([score]),
        pointer=torch.zeros(1, 1),
        candidates=masks,
        candidate_ious=torch.tensor([ious]),
    )
    return StepOutput(prediction=prediction, auxiliary=None if auxiliary is None else torch.tensor([auxiliary]))


def step_loss(output: StepOutput, truth: Tensor) -> LossTerms:
    """Loss of a clip of one frame with one step."""
    return clip_loss([[output]], truth[:, None])


def floats(terms: LossTerms) -> dict[str, float]:
    return {name: getattr(terms, name).item() for name in TERMS}


def mask_loss(logits: Sequence[Sequence[float]], truth: Tensor, weights: Sequence[float] = (1, 1, 1, 1)) -> float:
    """Weighted BCE + weighted soft IoU, from the definition."""
    ys = [float(y) for y in truth.flatten()]
    ps = [1 / (1 + math.exp(-x)) for row in logits for x in row]
    rows = list(zip(weights, ps, ys, strict=True))
    bce = sum(-w * (y * math.log(p) + (1 - y) * math.log(1 - p)) for w, p, y in rows) / sum(weights)
    intersection = sum(w * p * y for w, p, y in rows)
    union = sum(w * (p + y - p * y) for w, p, y in rows)
    return bce + 1 - (intersection + 1) / (union + 1)


def edge_weights(truth: Tensor) -> list[float]:
    """Weights of masks so small that the surroundings of every pixel are the whole mask and 31 x 31 pixels large."""
    return [1 + 5 * abs(float(truth.sum()) / 31**2 - float(y)) for y in truth.flatten()]


def test_structure_loss_of_logits_of_zero() -> None:
    # p = 1/2 everywhere, weights 1: BCE ln 2; overlap 1, union 2 + 1: 1 - 2/4
    loss = structure_loss(torch.zeros(1, 1, 2, 2), TRUTH[:, None].float(), torch.ones(1, 1, 2, 2))
    assert loss.item() == pytest.approx(math.log(2) + 0.5)


def test_structure_loss_weighs_pixels() -> None:
    weights = [1.0, 2.0, 3.0, 4.0]
    loss = structure_loss(torch.tensor([[GOOD, POOR]]), TRUTH[:, None].float(), torch.tensor(weights).view(1, 1, 2, 2))
    assert loss[0].tolist() == pytest.approx([mask_loss(GOOD, TRUTH, weights), mask_loss(POOR, TRUTH, weights)])


def test_boundary_weights_by_hand() -> None:
    # kernel 3, zeros beyond the border: a pixel in the corner of a full row sees 2 of 9, in its middle 3 of 9
    truth = torch.tensor([[1.0, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    expected = torch.tensor(
        [
            [1 + 5 * 7 / 9, 1 + 5 * 6 / 9, 1 + 5 * 6 / 9, 1 + 5 * 7 / 9],
            [1 + 5 * 2 / 9, 1 + 5 * 3 / 9, 1 + 5 * 3 / 9, 1 + 5 * 2 / 9],
            [1.0, 1, 1, 1],
            [1.0, 1, 1, 1],
        ]
    )
    assert torch.allclose(boundary_weights(truth[None, None], kernel=3)[0, 0], expected)


def test_boundary_weights_look_15_pixels_far() -> None:
    truth = torch.zeros(1, 1, 80, 80)
    truth[..., 40:] = 1
    row = boundary_weights(truth)[0, 0, 40, :40]  # rows far from the border: the share of columns counts
    assert row[24:].tolist() == pytest.approx([1 + 5 * k / 31 for k in range(16)], rel=1e-4)
    assert row[:25].tolist() == [1.0] * 25


def test_terms_of_a_step_by_hand() -> None:
    terms = step_loss(step(GOOD, ious=(0.25,), score=1.5, auxiliary=[GOOD, POOR, POOR, POOR]), TRUTH)
    mask = mask_loss(GOOD, TRUTH, edge_weights(TRUTH))
    auxiliary = (mask_loss(GOOD, TRUTH) + 3 * mask_loss(POOR, TRUTH)) / 4
    presence = math.log(1 + math.exp(-1.5))
    values = {"mask": mask, "auxiliary": auxiliary, "iou": 0.75, "presence": presence}
    assert floats(terms) == pytest.approx(values)
    assert terms.steps == 1
    weighted = LossConfig(mask=20, iou=3, presence=0.5)
    assert terms.total(weighted).item() == pytest.approx(20 * (mask + auxiliary) + 3 * 0.75 + 0.5 * presence)


def test_without_memory_the_chosen_mask_is_the_auxiliary_one() -> None:
    terms = step_loss(step(GOOD, POOR, ious=(0.1, 0.9), chosen=1), TRUTH)
    assert terms.auxiliary.item() == pytest.approx(mask_loss(POOR, TRUTH))


@pytest.mark.parametrize("candidates", [(POOR, GOOD, POOR), (GOOD, POOR, POOR)])
def test_only_the_best_candidate_counts_and_learns_but_all_ious_do(candidates: tuple[list[list[float]], ...]) -> None:
    output = step(*candidates, ious=(0.5, 0.5, 0.5))
    masks, ious = output.prediction.candidates.requires_grad_(), output.prediction.candidate_ious.requires_grad_()
    terms = step_loss(output, TRUTH)
    assert terms.mask.item() == pytest.approx(mask_loss(GOOD, TRUTH, edge_weights(TRUTH)))
    assert terms.iou.item() == pytest.approx((abs(0.5 - 1) + 2 * abs(0.5 - 1 / 3)) / 3)
    (terms.mask + terms.iou).backward()
    best = candidates.index(GOOD)
    assert masks.grad is not None and ious.grad is not None
    assert [bool(grad.any()) for grad in masks.grad[0]] == [k == best for k in range(3)]
    assert ious.grad[0].tolist() == pytest.approx([-1 / 3 if k == best else 1 / 3 for k in range(3)])


def batch(*steps: StepOutput) -> StepOutput:
    """Join steps of one object each."""
    names = ("logits", "iou", "object_score", "pointer", "candidates", "candidate_ious")
    joined = {name: torch.cat([getattr(s.prediction, name) for s in steps]) for name in names}
    return StepOutput(prediction=MaskPrediction(**joined))


def test_the_best_candidate_is_chosen_for_each_object() -> None:
    one = step(GOOD, POOR, ious=(1.0, 0.0))
    two = step(POOR, GOOD, ious=(1.0, 0.0))
    terms = step_loss(batch(one, two), TRUTH.repeat(2, 1, 1))
    assert terms.mask.item() == pytest.approx(2 * mask_loss(GOOD, TRUTH, edge_weights(TRUTH)))
    assert terms.steps == 2


def test_an_absent_object_counts_for_presence_alone() -> None:
    terms = step_loss(step(GOOD, ious=(0.7,), score=2.0, auxiliary=[POOR]), NOTHING)
    values = {"mask": 0, "auxiliary": 0, "iou": 0, "presence": math.log(1 + math.exp(2))}
    assert floats(terms) == pytest.approx(values)
    seen, unseen = step(GOOD, ious=(0.7,), score=2.0), step(POOR, ious=(0.7,), score=-1.0)
    both = step_loss(batch(seen, unseen), torch.cat([TRUTH, NOTHING]))
    alone = step_loss(seen, TRUTH)
    assert both.mask.item() == pytest.approx(alone.mask.item())
    assert both.presence.item() == pytest.approx(math.log(1 + math.exp(-2)) + math.log(1 + math.exp(-1)))


def test_masks_are_upsampled_to_the_truth() -> None:
    truth = torch.zeros(1, 8, 8, dtype=torch.bool)
    truth[:, :4] = True
    terms = step_loss(step(GOOD, ious=(1.0,), auxiliary=[[[9.0] * 8] * 4 + [[-9.0] * 8] * 4]), truth)
    assert terms.iou.item() == pytest.approx(0)
    # bilinear, half-pixel centres: from 2 rows to 8 the row centres lie at -.375, -.125, .125, ... clamped to [0, 1]
    rows = [2 - 4 * min(max((i + 0.5) / 4 - 0.5, 0), 1) for i in range(8)]
    weights = boundary_weights(truth[:, None].float()).flatten().tolist()
    assert terms.mask.item() == pytest.approx(mask_loss([[x] * 8 for x in rows], truth, weights), rel=1e-5)


def test_masks_can_be_compared_at_half_the_size() -> None:
    output = step(GOOD, POOR, ious=(0.5, 0.4))
    large = TRUTH.repeat_interleave(2, 1).repeat_interleave(2, 2)  # 4 x 4 pixels
    half = clip_loss([[output]], large[:, None], scale=0.5)
    assert floats(half) == pytest.approx(floats(step_loss(output, TRUTH)))
    assert floats(half) != pytest.approx(floats(step_loss(output, large)))


def test_a_cell_of_the_smaller_mask_belongs_to_what_covers_half_of_it() -> None:
    output = step(GOOD)
    large = torch.zeros(1, 4, 4, dtype=torch.bool)
    large[:, 0] = True  # half of the upper cells
    large[:, 2, 0] = True  # a quarter of one lower cell
    assert floats(clip_loss([[output]], large[:, None], scale=0.5)) == pytest.approx(floats(step_loss(output, TRUTH)))


def test_unlabelled_pixels_shrink_with_the_mask() -> None:
    output = step(GOOD)
    large = TRUTH.repeat_interleave(2, 1).repeat_interleave(2, 2)
    ignored = torch.zeros(1, 4, 4, dtype=torch.bool)
    ignored[:, 2:, 2:] = True  # the lower right cell
    half = clip_loss([[output]], large[:, None], ignored[:, None], scale=0.5)
    whole = clip_loss([[output]], TRUTH[:, None], ignored[:, None, ::2, ::2])
    assert floats(half) == pytest.approx(floats(whole))


def test_an_object_too_small_for_the_smaller_mask_fills_a_cell_of_it() -> None:
    large = torch.zeros(1, 4, 4, dtype=torch.bool)
    large[:, 0, 0] = True
    cell = torch.tensor([[[1, 0], [0, 0]]], dtype=torch.bool)
    half = clip_loss([[step(GOOD)]], large[:, None], scale=0.5)
    assert floats(half) == pytest.approx(floats(step_loss(step(GOOD), cell)))


@pytest.mark.parametrize("truth", [TRUTH, NOTHING], ids=["present", "absent"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_extreme_logits_and_half_precision_are_safe(truth: Tensor, dtype: torch.dtype) -> None:
    leaf = torch.full((1, 3, 2, 2), ABSENT_LOGIT, dtype=dtype, requires_grad=True)
    with torch.no_grad():
        leaf[:, 1] = -ABSENT_LOGIT
    scores = torch.tensor([-60.0], dtype=dtype, requires_grad=True)
    ious = torch.rand(1, 3).to(dtype).requires_grad_()
    prediction = MaskPrediction(
        logits=leaf[:, :1], iou=ious[:, 0], object_score=scores, pointer=torch.zeros(1, 1), candidates=leaf,
        candidate_ious=ious,
    )  # fmt: skip
    terms = step_loss(StepOutput(prediction=prediction, auxiliary=leaf), truth)
    total = terms.total(CONFIG)
    assert total.dtype == torch.float32
    total.backward()
    for grad in (leaf.grad, scores.grad, ious.grad):
        assert grad is not None and grad.isfinite().all()
    if truth.any():
        assert terms.mask.item() > 100  # a missed object costs its logits


def test_inputs_are_left_alone() -> None:
    output, truth = step(GOOD, POOR, ious=(0.5, 0.5), auxiliary=[POOR]), TRUTH.clone()
    assert output.auxiliary is not None
    before = [output.prediction.candidates.clone(), output.prediction.candidate_ious.clone(), output.auxiliary.clone()]
    step_loss(output, truth)
    after = [output.prediction.candidates, output.prediction.candidate_ious, output.auxiliary]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert torch.equal(truth, TRUTH)


def test_no_objects_cost_nothing() -> None:
    none = MaskPrediction(
        logits=torch.zeros(0, 1, 2, 2), iou=torch.zeros(0), object_score=torch.zeros(0), pointer=torch.zeros(0, 1),
        candidates=torch.zeros(0, 3, 2, 2), candidate_ious=torch.zeros(0, 3),
    )  # fmt: skip
    terms = step_loss(StepOutput(prediction=none), torch.zeros(0, 8, 8, dtype=torch.bool))
    assert (terms.total(CONFIG).item(), terms.steps) == (0, 0)


def test_a_clip_sums_frames_and_steps() -> None:
    frames = [[step(POOR), step(GOOD)], [], [step(GOOD)]]
    truth = torch.stack([TRUTH, TRUTH, NOTHING], dim=1)
    terms = clip_loss(frames, truth)
    weights = edge_weights(TRUTH)
    assert terms.mask.item() == pytest.approx(mask_loss(POOR, TRUTH, weights) + mask_loss(GOOD, TRUTH, weights))
    assert terms.presence.item() == pytest.approx(2 * math.log(1 + math.exp(-1)) + math.log(1 + math.exp(1)))
    assert terms.steps == 3
    each = [step_loss(frames[0][0], TRUTH), step_loss(frames[0][1], TRUTH)]
    summed = sum_steps([*each, step_loss(frames[2][0], NOTHING)])
    assert floats(summed) == pytest.approx(floats(terms))
    assert summed.steps == 3


def test_a_clip_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="steps of 1 frames, but truth of 2"):
        clip_loss([[step(GOOD)]], torch.stack([TRUTH, TRUTH], dim=1))
    with pytest.raises(ValueError, match="nothing to learn from"):
        clip_loss([[]], TRUTH[:, None])


def test_adding_and_normalising() -> None:
    def terms(value: float, count: int) -> LossTerms:
        mask, auxiliary, iou, presence = torch.tensor([1.0, 2, 3, 4]) * value
        return LossTerms(mask=mask, auxiliary=auxiliary, iou=iou, presence=presence, steps=5 * count)

    both = sum_steps([terms(1, 2), terms(10, 2)])
    assert floats(both) == {"mask": 11, "auxiliary": 22, "iou": 33, "presence": 44}
    assert both.steps == 20
    mean = normalised(both, 4)
    assert floats(mean) == {"mask": 2.75, "auxiliary": 5.5, "iou": 8.25, "presence": 11}
    assert mean.steps == 20
    with pytest.raises(ValueError, match="count must be positive, got 0"):
        normalised(both, 0)


@pytest.mark.gpu
def test_the_gpu_gives_the_same_loss() -> None:
    generator = torch.Generator().manual_seed(0)
    masks, ious, scores = (torch.randn(*shape, generator=generator) for shape in [(2, 3, 16, 16), (2, 3), (2,)])
    truth = torch.rand(2, 64, 64, generator=generator) > 0.5

    def total(device: str) -> float:
        logits = masks.to(device)
        prediction = MaskPrediction(
            logits=logits[:, :1], iou=ious[:, 0].to(device), object_score=scores.to(device),
            pointer=torch.zeros(2, 1, device=device), candidates=logits, candidate_ious=ious.to(device),
        )  # fmt: skip
        return step_loss(StepOutput(prediction=prediction), truth.to(device)).total(CONFIG).item()

    assert total("cuda") == pytest.approx(total("cpu"), rel=1e-5)
