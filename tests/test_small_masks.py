"""Mask prompts that are too small or thin for the network's grid: what the user drew is there, and is remembered."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
from i2vpp.session.state import InferenceState
from i2vpp.utils.masks import raise_small_parts
from models import SIDE, make_predictor

HEIGHT, WIDTH = 270, 480  # on the grid of SIDE = 64 pixels a mask logit covers 17 x 30 pixels, as 1080p does at 256


def box(top: int, left: int, height: int, width: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top : top + height, left : left + width] = True
    return mask


DIAGONAL = np.eye(HEIGHT, WIDTH, dtype=bool)
SMALL = {
    "one pixel": box(101, 203, 1, 1),
    "corner": box(HEIGHT - 3, WIDTH - 3, 3, 3),
    "4 x 4": box(100, 200, 4, 4),
    "16 x 16": box(100, 200, 16, 16),
    "64 x 64": box(30, 60, 64, 64),
    "a line": box(50, 20, 2, 400),
    "a column": box(20, 77, 200, 1),
    "a diagonal": DIAGONAL,
    "two specks": box(10, 10, 3, 3) | box(200, 400, 2, 5),
    "a ring": box(90, 90, 20, 20) & ~box(92, 92, 16, 16),
}


@pytest.fixture(scope="module")
def predictor() -> I2VPPVideoPredictor:
    return make_predictor()


@pytest.fixture
def state(predictor: I2VPPVideoPredictor) -> Iterator[InferenceState]:
    frames = np.random.default_rng(0).integers(0, 255, (3, HEIGHT, WIDTH, 3), np.uint8)
    with predictor.init_state(frames) as state:
        yield state


@pytest.mark.parametrize("name", SMALL)
def test_the_prompted_frame_shows_what_was_drawn(
    predictor: I2VPPVideoPredictor, state: InferenceState, name: str
) -> None:
    result = predictor.add_new_mask(state, 0, 1, SMALL[name])
    np.testing.assert_array_equal(result.masks[0, 0] > 0, SMALL[name])
    assert result.object_scores[0] > 0, "it is not absent"
    tracked = {r.frame_idx: r for r in predictor.propagate_in_video(state, progress=False)}
    assert torch.equal(tracked[0].masks, result.masks)
    record = state.tracks[1].records[0]
    assert record.logits is not None
    assert (record.logits > 0).any(), "what is remembered shows it, too"


@pytest.mark.parametrize("name", SMALL)
def test_the_memory_shows_every_part(predictor: I2VPPVideoPredictor, state: InferenceState, name: str) -> None:
    predictor.add_new_mask(state, 0, 1, SMALL[name])
    logits = state.tracks[1].records[0].logits
    assert logits is not None
    rows, columns = np.nonzero(SMALL[name])
    shown = torch.nn.functional.max_pool2d(logits, 3, stride=1, padding=1)[0, 0] > 0  # beside a cell that is set
    cells = shown[rows * len(shown) // HEIGHT, columns * len(shown) // WIDTH]
    assert cells.float().mean() > 0.95


def test_masks_that_fit_the_grid_are_shown_by_it(predictor: I2VPPVideoPredictor, state: InferenceState) -> None:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    for mask in ((x - 240) ** 2 + (y - 135) ** 2 < 130**2, box(10, 20, 200, 380), np.ones((HEIGHT, WIDTH), bool)):
        result = predictor.add_new_mask(state, 0, 1, mask)
        record = state.tracks[1].records[0]
        assert record.drawn is None
        assert record.logits is not None
        grid = torch.from_numpy(mask)[None, None].float()
        for side in (SIDE, SIDE // 4):
            grid = torch.nn.functional.interpolate(grid, (side, side), mode="bilinear", antialias=True)
            grid = (grid >= 0.5).float() if side == SIDE else grid
        torch.testing.assert_close(record.logits, grid * 20 - 10)
        assert (result.masks[0, 0] > 0).numpy()[mask].mean() > 0.9


def test_an_empty_mask_still_declares_an_object_absent(predictor: I2VPPVideoPredictor, state: InferenceState) -> None:
    result = predictor.add_new_mask(state, 0, 1, np.zeros((HEIGHT, WIDTH), bool))
    assert not (result.masks > 0).any()
    assert result.object_scores[0] < 0
    assert state.tracks[1].records[0].drawn is None


def test_objects_are_drawn_in_their_own_masks(predictor: I2VPPVideoPredictor, state: InferenceState) -> None:
    for obj_id, name in enumerate(("16 x 16", "a line", "one pixel"), 1):
        predictor.add_new_mask(state, 0, obj_id, SMALL[name])
    predictor.add_new_mask(state, 0, 4, box(10, 20, 200, 380))
    masks = predictor.track_frame(state, 0).masks[:, 0] > 0
    for mask, name in zip(masks, ("16 x 16", "a line", "one pixel"), strict=False):
        np.testing.assert_array_equal(mask, SMALL[name])
    assert masks[3].sum() > 70000
    predictor.clear_all_prompts_in_frame(state, 0, 1)
    assert not (predictor.track_frame(state, 0).masks[0] > 0).numpy()[0][~SMALL["16 x 16"]].all()
    clicked = predictor.add_new_points_or_box(state, 0, 2, points=[[240, 135]], labels=[1])
    assert state.tracks[2].records[0].drawn is None, "clicks on the frame take the mask's place"
    assert clicked.obj_ids == [1, 2, 3, 4]


def test_small_parts_are_raised_and_nothing_else_changes() -> None:
    coverage = torch.zeros(1, 1, 16, 24)
    coverage[..., 2:9, 2:9] = 1
    coverage[..., 9, 2:9] = 0.3  # the edge of a part that is kept
    coverage[..., 12, 14:22] = torch.tensor([0.1, 0.1, 0.1, 0.1, 0.2, 0.2, 0.2, 0.2])
    raised = raise_small_parts(coverage)
    torch.testing.assert_close(raised[..., :11, :], coverage[..., :11, :])
    assert (raised[..., 12, 14:22] >= 0.5).all()
    assert raised.max() == 1
    assert (raised[coverage == 0] == 0).all()
    noise = torch.full((1, 1, 8, 8), 1e-6)
    torch.testing.assert_close(raise_small_parts(noise), noise)
