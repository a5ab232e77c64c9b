"""What impossible prompts get: one PromptError that names the mistake, and a session that is as it was."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from i2vpp.errors import PromptError
from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
from i2vpp.session.state import InferenceState
from media import moving_disc
from models import SIDE, make_predictor

FRAMES, MASKS = moving_disc(3)  # 48 high, 64 wide


@pytest.fixture(scope="module")
def predictor() -> I2VPPVideoPredictor:
    return make_predictor()


@pytest.fixture
def state(predictor: I2VPPVideoPredictor) -> Iterator[InferenceState]:
    with predictor.init_state(FRAMES) as state:
        yield state


@pytest.mark.parametrize(("prompt", "message"), [
    ({}, "Nothing to prompt with"),
    ({"points": [[1, 2]]}, "points and labels go together"),
    ({"labels": [1]}, "points and labels go together"),
    ({"points": [[64.5, 2]], "labels": [1]}, r"points: \(64.5, 2\) lies outside .* 64 wide and 48 high"),
    ({"points": [[3, 2], [3, -1]], "labels": [1, 1]}, r"points: \(3, -1\) lies outside"),
    ({"points": [[float("nan"), 2]], "labels": [1]}, "points contains NaN"),
    ({"points": [[1, 2]], "labels": [2]}, r"labels must be 1 \(positive\) or 0 \(negative\); got 2"),
    ({"points": [[1, 2]], "labels": [-1]}, "labels must be .* got -1"),
    ({"points": [[1, 2]], "labels": [1, 0]}, "labels must be one per point: 1 points"),
    ({"points": [[1, 2, 3]], "labels": [1]}, r"points must be a list of \(x, y\) pairs"),
    ({"points": "here", "labels": [1]}, "points must be numbers"),
    ({"box": [10, 10, 10, 20]}, "box is empty or inverted"),
    ({"box": [10, 30, 20, 20]}, "box is empty or inverted"),
    ({"box": [10, 10, 20]}, "box must be four numbers"),
    ({"box": [10, 10, 20, 49]}, r"box: \(20, 49\) lies outside"),
    ({"box": [10, 10, float("inf"), 20]}, "box contains NaN or infinite"),
    ({"points": [[0.5, 1.2]], "labels": [1], "normalize_coords": False}, "lies outside the frame, which is 1 wide"),
    ({"points": [[1, 2]], "labels": [1], "frame_idx": 3}, "frame_idx=3 is past the end: the video has 3 frames"),
    ({"points": [[1, 2]], "labels": [1], "frame_idx": -1}, "frame_idx must be a whole number from 0 on; got -1"),
    ({"points": [[1, 2]], "labels": [1], "frame_idx": 0.5}, "frame_idx must be a whole number"),
])  # fmt: skip
def test_impossible_clicks(
    predictor: I2VPPVideoPredictor, state: InferenceState, prompt: dict[str, Any], message: str
) -> None:
    with pytest.raises(PromptError, match=message):
        predictor.add_new_points_or_box(state, **{"frame_idx": 0, "obj_id": 1, **prompt})
    assert state.obj_ids == []


def test_a_box_cannot_be_added_to_clicks(predictor: I2VPPVideoPredictor, state: InferenceState) -> None:
    predictor.add_new_points_or_box(state, 0, 1, points=[[5, 5]], labels=[1])
    with pytest.raises(PromptError, match="A box comes before clicks"):
        predictor.add_new_points_or_box(state, 0, 1, box=[1, 1, 9, 9], clear_old_points=False)
    assert state.tracks[1].clicks[0].labels.tolist() == [1]


@pytest.mark.parametrize(("mask", "message"), [
    (np.zeros((64, 48), bool), r"mask must have the video's size \[height, width\] = \[48, 64\]; got \[64, 48\]"),
    (np.zeros((2, 48, 64), bool), r"got \[2, 48, 64\]"),
    (np.full((48, 64), np.nan), "mask contains NaN"),
    ("mask.png", "mask must be numbers"),
])  # fmt: skip
def test_impossible_masks(predictor: I2VPPVideoPredictor, state: InferenceState, mask: Any, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        predictor.add_new_mask(state, 0, 1, mask)
    assert state.obj_ids == []


def test_nothing_to_track(predictor: I2VPPVideoPredictor, state: InferenceState) -> None:
    with pytest.raises(PromptError, match="Nothing to track: add points, a box or a mask"):
        predictor.propagate_in_video(state)
    predictor.add_new_points_or_box(state, 0, 1, points=[[5, 5]], labels=[1])
    with pytest.raises(PromptError, match="frame_idx=7 is past the end"):
        predictor.propagate_in_video(state, start_frame_idx=7)
    with pytest.raises(PromptError, match=r"no object 9 .*known objects: \[1\]"):
        predictor.clear_all_prompts_in_frame(state, 0, 9)


@pytest.mark.parametrize("as_type", [list, np.array, torch.tensor])
def test_lists_arrays_and_tensors_mean_the_same(
    predictor: I2VPPVideoPredictor, state: InferenceState, as_type: Any
) -> None:
    predictor.add_new_points_or_box(
        state, 0, 1, points=as_type([[16.0, 12.0]]), labels=as_type([1]), box=as_type([8, 6, 32, 24])
    )
    clicks = state.tracks[1].clicks[0]
    scale = torch.tensor([SIDE / 64, SIDE / 48])
    torch.testing.assert_close(clicks.coords, torch.tensor([[8.0, 6], [32, 24], [16, 12]]) * scale)
    assert clicks.labels.tolist() == [2, 3, 1]


def test_normalised_coordinates(predictor: I2VPPVideoPredictor, state: InferenceState) -> None:
    predictor.add_new_points_or_box(state, 0, 1, points=[[0.25, 0.5]], labels=[1], normalize_coords=False)
    torch.testing.assert_close(state.tracks[1].clicks[0].coords, torch.tensor([[SIDE / 4, SIDE / 2]]))
    predictor.add_new_points_or_box(state, 0, 2, points=[[[16, 24]]], labels=[[1]])  # SAM 2's batch axis
    torch.testing.assert_close(state.tracks[2].clicks[0].coords, torch.tensor([[SIDE / 4, SIDE / 2]]))


def test_masks_of_several_kinds_mean_the_same(predictor: I2VPPVideoPredictor, state: InferenceState) -> None:
    mask = MASKS[0]
    kinds = [mask, mask.astype(np.uint8) * 255, torch.from_numpy(mask), mask[None].astype(np.float32), mask.tolist()]
    results = [predictor.add_new_mask(state, 0, i, kind).masks[i] for i, kind in enumerate(kinds)]
    assert all(torch.equal(results[0], result) for result in results)
