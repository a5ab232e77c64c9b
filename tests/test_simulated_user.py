"""The simulated user: how often it does what, where it clicks, and that an object's clicks depend on nothing else."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor

from training.config import UserConfig
from training.model.simulated_user import (
    PromptPlan,
    append_clicks,
    correction_click,
    first_click,
    noisy_box,
    object_generators,
    plan_prompts,
)

CONFIG = UserConfig()
MISTAKES_ONLY = UserConfig(from_object=0.0)
SIZE = 32


def plans(num_frames: int, config: UserConfig = CONFIG, draws: int = 4000) -> list[PromptPlan]:
    rng = np.random.default_rng(0)
    return [plan_prompts(num_frames, config, rng) for _ in range(draws)]


def rectangle(x0: int, y0: int, x1: int, y1: int) -> Tensor:
    mask = torch.zeros(1, SIZE, SIZE, dtype=torch.bool)
    mask[:, y0:y1, x0:x1] = True
    return mask


OBJECT = rectangle(4, 8, 12, 20)
ABSENT = torch.zeros(1, SIZE, SIZE, dtype=torch.bool)


def at(masks: Tensor, coords: Tensor) -> list[bool]:
    """Whether each object's click lies on its mask; coordinates must be whole pixels inside."""
    x, y = coords[:, 0].unbind(dim=1)
    assert torch.equal(x, x.long().float()) and torch.equal(y, y.long().float())
    return masks[torch.arange(len(masks)), y.long(), x.long()].tolist()


def many(mask: Tensor, count: int = 400) -> Tensor:
    return mask.expand(count, -1, -1)


def seeds(count: int = 400) -> list[torch.Generator]:
    return object_generators(range(count))


def test_kinds_have_the_published_frequencies() -> None:
    kinds = Counter(plan.kind for plan in plans(8))
    assert [kinds[kind] / 4000 for kind in ("mask", "click", "box")] == pytest.approx([0.5, 0.25, 0.25], abs=0.03)


def test_the_first_frame_is_always_prompted_and_others_uniformly() -> None:
    drawn = plans(8)
    assert all(plan.prompted[0] == 0 and plan.prompted == tuple(sorted(set(plan.prompted))) for plan in drawn)
    numbers = Counter(len(plan.prompted) for plan in drawn)
    assert [numbers[n] / 4000 for n in (1, 2)] == pytest.approx([0.5, 0.5], abs=0.03)
    second = Counter(plan.prompted[1] for plan in drawn if len(plan.prompted) == 2)
    assert [second[t] / numbers[2] for t in range(1, 8)] == pytest.approx([1 / 7] * 7, abs=0.03)


def test_masks_are_not_corrected_and_other_prompts_are_with_the_prompted_frames_first() -> None:
    drawn = plans(8)
    assert all(plan.corrected == () for plan in drawn if plan.kind == "mask")
    clicked = [plan for plan in drawn if plan.kind != "mask"]
    assert all(set(plan.prompted) <= set(plan.corrected) for plan in clicked)
    assert all(plan.corrected == tuple(sorted(set(plan.corrected))) for plan in clicked)
    numbers = Counter(len(plan.corrected) for plan in clicked if len(plan.prompted) == 1)
    assert numbers[1] / numbers.total() == pytest.approx(0.5, abs=0.04)
    assert set(numbers) == {1, 2}
    assert {len(plan.corrected) for plan in clicked if len(plan.prompted) == 2} == {2}


def test_more_may_be_prompted_than_corrected_and_never_more_than_there_is() -> None:
    config = UserConfig(mask=0.0, max_prompted=5, max_corrected=1)
    drawn = plans(3, config, draws=300)
    assert {len(plan.prompted) for plan in drawn} == {1, 2, 3}
    assert all(plan.corrected == plan.prompted for plan in drawn)
    assert {len(plan.corrected) for plan in plans(2, UserConfig(mask=0.0, max_corrected=9), draws=300)} == {1, 2}


def test_stills_are_clicked_or_boxed_and_corrected() -> None:
    drawn = plans(1, draws=1000)
    kinds = Counter(plan.kind for plan in drawn)
    assert set(kinds) == {"click", "box"}
    assert kinds["box"] / 1000 == pytest.approx(0.5, abs=0.06)
    assert all(plan.prompted == plan.corrected == (0,) for plan in drawn)
    assert {plan.kind for plan in plans(1, UserConfig(mask=1.0), draws=100)} == {"click", "box"}


def test_plans_follow_the_generator() -> None:
    assert plans(8, draws=50) == plans(8, draws=50)


def test_first_click_is_uniform_over_the_object() -> None:
    coords, labels = first_click(many(OBJECT, 4000), seeds(4000))
    assert (coords.shape, coords.dtype) == ((4000, 1, 2), torch.float32)
    assert (labels.shape, labels.dtype) == ((4000, 1), torch.int32)
    assert labels.all() and all(at(many(OBJECT, 4000), coords))
    columns, rows = (Counter(coords[:, 0, axis].int().tolist()) for axis in (0, 1))
    assert [columns[x] / 4000 for x in range(4, 12)] == pytest.approx([1 / 8] * 8, abs=0.025)
    assert [rows[y] / 4000 for y in range(8, 20)] == pytest.approx([1 / 12] * 12, abs=0.025)


def test_first_click_where_the_object_is_absent_is_negative_and_anywhere() -> None:
    coords, labels = first_click(many(ABSENT), seeds())
    assert not labels.any()
    assert coords.min() >= 0 and coords.max() <= SIZE - 1
    assert coords.mean(dim=(0, 1)).tolist() == pytest.approx([(SIZE - 1) / 2] * 2, abs=2)


@pytest.mark.parametrize("pixel", [(0, 0), (SIZE - 1, 0), (0, SIZE - 1), (SIZE - 1, SIZE - 1), (5, 9)])
def test_an_object_of_one_pixel_is_hit(pixel: tuple[int, int]) -> None:
    x, y = pixel
    coords, labels = first_click(many(rectangle(x, y, x + 1, y + 1), 20), seeds(20))
    assert coords[:, 0].tolist() == [[x, y]] * 20
    assert labels.all()


def test_corrections_lie_on_mistakes_and_say_which() -> None:
    predicted = rectangle(8, 8, 20, 20)  # 4 columns missed, 8 invented
    coords, labels = correction_click(many(OBJECT), many(predicted), seeds(), MISTAKES_ONLY)
    assert all(at(many(OBJECT ^ predicted), coords))
    assert labels[:, 0].bool().tolist() == at(many(OBJECT), coords)
    assert labels.float().mean().item() == pytest.approx(4 / 12, abs=0.08)


@pytest.mark.parametrize("predicted", [ABSENT, rectangle(5, 9, 6, 10)], ids=["nothing", "part"])
def test_a_missed_object_gets_positive_clicks(predicted: Tensor) -> None:
    coords, labels = correction_click(many(OBJECT), many(predicted), seeds(), MISTAKES_ONLY)
    assert labels.all() and all(at(many(OBJECT & ~predicted), coords))


def test_an_invented_object_gets_negative_clicks() -> None:
    coords, labels = correction_click(many(ABSENT), many(OBJECT), seeds(), MISTAKES_ONLY)
    assert not labels.any() and all(at(many(OBJECT), coords))


def test_without_mistakes_the_object_is_clicked_or_the_background_where_it_is_absent() -> None:
    coords, labels = correction_click(many(OBJECT), many(OBJECT), seeds(), MISTAKES_ONLY)
    assert labels.all() and all(at(many(OBJECT), coords))
    _, labels = correction_click(many(ABSENT), many(ABSENT), seeds(), MISTAKES_ONLY)
    assert not labels.any()


def test_some_corrections_come_from_the_object() -> None:
    predicted = OBJECT | rectangle(16, 0, 32, 32)  # only inventions, so a positive click comes from the object
    coords, labels = correction_click(many(OBJECT, 3000), many(predicted, 3000), seeds(3000), CONFIG)
    assert labels.float().mean().item() == pytest.approx(0.1, abs=0.02)
    assert labels[:, 0].bool().tolist() == at(many(OBJECT, 3000), coords)
    _, labels = correction_click(many(OBJECT), many(predicted), seeds(), UserConfig(from_object=1.0))
    assert labels.all()


def test_boxes_without_noise_are_tight() -> None:
    truth = torch.cat([OBJECT, rectangle(31, 0, 32, 1), ABSENT])
    coords, labels = noisy_box(truth, seeds(3), UserConfig(box_noise=0.0))
    assert coords.flatten(1).tolist() == [[4, 8, 12, 20], [31, 0, 32, 1], [0, 0, SIZE, SIZE]]
    assert labels.tolist() == [[2, 3]] * 3
    assert (coords.dtype, labels.dtype) == (torch.float32, torch.int32)


def test_box_corners_move_by_a_share_of_the_sides() -> None:
    coords, _ = noisy_box(many(OBJECT), seeds(), CONFIG)
    moved = coords.flatten(1) - torch.tensor([4.0, 8, 12, 20])
    largest = torch.tensor([0.8, 1.2, 0.8, 1.2])
    assert (moved.abs() <= largest + 1e-5).all()
    assert (moved.abs().amax(dim=0) > 0.95 * largest).all()
    assert (moved.mean(dim=0).abs() < 0.15 * largest).all()
    assert abs(torch.corrcoef(moved.T)[0, 2].item()) < 0.15  # corners move independently


def test_box_noise_is_bounded_in_pixels() -> None:
    coords, _ = noisy_box(many(OBJECT), seeds(), UserConfig(box_noise=0.4, box_noise_pixels=0.5))
    moved = (coords.flatten(1) - torch.tensor([4.0, 8, 12, 20])).abs()
    assert 0.45 < moved.max().item() <= 0.5 + 1e-5


@pytest.mark.parametrize("box_noise", [0.1, 3.0])
@pytest.mark.parametrize("truth", [OBJECT, ABSENT, rectangle(0, 0, SIZE, 3), rectangle(31, 31, 32, 32)])
def test_boxes_stay_inside_and_in_order(truth: Tensor, box_noise: float) -> None:
    coords, _ = noisy_box(many(truth), seeds(), UserConfig(box_noise=box_noise))
    assert coords.min() >= 0 and coords.max() <= SIZE
    assert (coords[:, 0] <= coords[:, 1]).all()


def test_boxes_contain_most_of_the_object() -> None:
    coords, _ = noisy_box(many(OBJECT), seeds(), CONFIG)
    overlap = (coords[:, 1].minimum(torch.tensor([12.0, 20]))) - coords[:, 0].maximum(torch.tensor([4.0, 8]))
    assert (overlap.prod(dim=1) / (8 * 12)).min().item() >= 0.8**2


def test_clicks_come_behind_boxes_and_earlier_clicks() -> None:
    box, click = noisy_box(OBJECT, seeds(1), CONFIG), first_click(OBJECT, seeds(1))
    coords, labels = append_clicks(box, click)
    assert labels.tolist() == [[2, 3, 1]]
    assert torch.equal(coords, torch.cat([box[0], click[0]], dim=1))
    coords, labels = append_clicks(None, click)
    assert torch.equal(coords, click[0]) and torch.equal(labels, click[1])


def draw(truth: Tensor, predicted: Tensor, generators: list[torch.Generator]) -> Tensor:
    """Draw everything once, and the click again."""
    click, _ = first_click(truth, generators)
    box, _ = noisy_box(truth, generators, CONFIG)
    corrections = [correction_click(truth, predicted, generators, CONFIG)[0] for _ in range(3)]
    return torch.cat([click, box, *corrections], dim=1)


def test_an_object_gets_the_same_prompts_in_every_batch() -> None:
    truth = torch.cat([OBJECT, ABSENT, rectangle(0, 0, 3, 30), rectangle(20, 20, 21, 21)])
    predicted = torch.cat([ABSENT, OBJECT, rectangle(0, 0, 3, 30), rectangle(10, 20, 31, 31)])
    together = draw(truth, predicted, object_generators([11, 12, 13, 14]))
    for b in range(4):
        alone = draw(truth[b : b + 1], predicted[b : b + 1], object_generators([11 + b]))
        assert torch.equal(alone[0], together[b])
    backwards = draw(truth.flip(0), predicted.flip(0), object_generators([14, 13, 12, 11]))
    assert torch.equal(backwards.flip(0), together)
    assert not torch.equal(draw(truth, predicted, object_generators([1, 2, 3, 4])), together)


def test_the_number_of_draws_does_not_depend_on_what_is_seen() -> None:
    states = []
    for truth, predicted in [(OBJECT, OBJECT), (OBJECT, ABSENT), (ABSENT, OBJECT), (ABSENT, ABSENT)]:
        generators = object_generators([5])
        draw(truth, predicted, generators)
        states.append(generators[0].get_state())
    assert all(torch.equal(states[0], state) for state in states)


def test_one_generator_per_object() -> None:
    with pytest.raises(ValueError, match="1 objects, 2 generators"):
        first_click(OBJECT, object_generators([1, 2]))


@pytest.mark.gpu
def test_the_gpu_gives_the_same_prompts() -> None:
    truth, predicted = many(OBJECT, 8), many(rectangle(8, 8, 20, 20), 8)
    assert torch.equal(draw(truth.cuda(), predicted.cuda(), seeds(8)).cpu(), draw(truth, predicted, seeds(8)))
