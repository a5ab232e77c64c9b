"""What impossible prompts get: one PromptError that names the mistake, and a session that is as it was."""

from __future__ import annotations

import json
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from i2vpp.annotate.storage.values import Prompts
from i2vpp.commands.prompts import box
from i2vpp.errors import PromptError, VideoError
from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
from i2vpp.prompts.checks import ObjectPrompt
from i2vpp.prompts.files import read_prompts_file
from i2vpp.prompts.tensors import parse_clicks
from i2vpp.session.state import Clicks, InferenceState
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
    ({"points": [[66.5, 2]], "labels": [1]}, r"points: \(66.5, 2\) lies .* 64 wide and 48 high; up to 2 pixels"),
    ({"points": [[3, 2], [3, -2.01]], "labels": [1, 1]}, r"points: \(3, -2.01\) lies outside"),
    ({"points": np.float32([[66.00002, 2]]), "labels": [1]}, r"points: \(66.00002, 2\) lies outside"),
    ({"points": [[3, 50.0000001]], "labels": [1]}, r"points: \(3, 50.0000001\) lies outside"),
    ({"points": [[float("nan"), 2]], "labels": [1]}, "points contains NaN"),
    ({"points": [[1, 2]], "labels": [4]}, r"labels must be 1 \(positive\) or 0 \(negative\), .*; got 4"),
    ({"points": [[1, 2]], "labels": [0.5]}, "labels must be .*; got 0.5"),
    ({"points": [[1, 2]], "labels": [2]}, "labels 2 and 3 are the two corners of one box: give each of them once"),
    ({"points": [[1, 2]] * 4, "labels": [2, 3, 2, 3]}, "labels 2 and 3 are the two corners of one box"),
    ({"points": [[1, 2], [9, 9]], "labels": [2, 3], "box": [1, 2, 9, 9]}, "pass them, or box, but not both"),
    ({"points": [[9, 2], [1, 9]], "labels": [2, 3]}, "box must have x0 < x1 and y0 < y1; got 9, 2, 1, 9"),
    ({"points": [[1, 2]], "labels": [-1]}, "points holds no point"),
    ({"points": np.zeros((0, 2)), "labels": np.zeros(0)}, "points holds no point"),
    ({"points": torch.zeros(1, 0, 2), "labels": torch.zeros(1, 0)}, "points holds no point"),
    ({"points": [], "labels": []}, "points holds no point"),
    ({"points": [[1, 2]], "labels": [1, 0]}, "labels must be one per point: 1 points"),
    ({"points": [[1, 2, 3]], "labels": [1]}, r"points must be a list of \(x, y\) pairs"),
    ({"points": [[1, 2], [3]], "labels": [1, 1]}, "points must be numbers"),
    ({"points": "here", "labels": [1]}, "points must be numbers"),
    ({"points": [["1", "2"]], "labels": [1]}, "points must be numbers"),
    ({"points": [[1j, 2]], "labels": [1]}, "points must be numbers"),
    ({"points": [[None, 2]], "labels": [1]}, "points must be numbers"),
    ({"box": [10, 10, 10, 20]}, "box must have x0 < x1 and y0 < y1; got 10, 10, 10, 20"),
    ({"box": [10, 30, 20, 20]}, "box must have x0 < x1"),
    ({"box": [65, 10, 66, 20]}, "box must have x0 < x1 and y0 < y1; got 64, 10, 64, 20"),
    ({"box": [10.0000001, 30, 10.0000001, 40]}, "got 10.0000001, 30, 10.0000001, 40"),
    ({"box": [10, 10, 20]}, "box must be four numbers"),
    ({"box": [10, 10, 20, 51]}, r"box: \(20, 51\) lies outside"),
    ({"box": [10, 10, float("inf"), 20]}, "box contains NaN or infinite"),
    ({"points": [[0.5, 1.2]], "labels": [1], "normalize_coords": False}, "lies outside the frame, which is 1 wide"),
    ({"points": [[1, 2]], "labels": [1], "frame_idx": 3}, "frame_idx=3 is past the end: the video has 3 frames"),
    ({"points": [[1, 2]], "labels": [1], "frame_idx": -1}, "frame_idx must be a whole number from 0 on; got -1"),
    ({"points": [[1, 2]], "labels": [1], "frame_idx": 0.5}, "frame_idx must be a whole number"),
    ({"points": [[1, 2]], "labels": [1], "frame_idx": "0"}, "frame_idx must be a whole number .* did you mean 0"),
    ({"points": [[1, 2]], "labels": [1], "obj_id": [1]}, r"obj_id must be a whole number; got \[1\]; did you mean 1\?"),
    ({"points": [[1, 2]], "labels": [1], "obj_id": None}, "obj_id must be a whole number; got None"),
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
    (np.zeros((64, 48), bool),
     r"mask must have the video's size \[height, width\] = \[48, 64\]; got \[64, 48\]; transpose it first\.$"),
    (np.zeros((24, 32), bool), r"got \[24, 32\]; resize it first, with nearest neighbours\.$"),
    (np.zeros((2, 48, 64), bool), r"got \[2, 48, 64\]\.$"),
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
    with pytest.raises(PromptError, match="start_frame_idx=7 is past the end"):
        predictor.propagate_in_video(state, start_frame_idx=7)
    with pytest.raises(PromptError, match=r"no object 9 .*known objects: \[1\]"):
        predictor.clear_all_prompts_in_frame(state, 0, 9)
    with pytest.raises(
        PromptError, match=r"max_frame_num_to_track must be .*; got -1; did you mean None, for all frames"
    ):
        predictor.propagate_in_video(state, max_frame_num_to_track=-1)
    with pytest.raises(PromptError, match=r"max_frame_num_to_track must be .*; got 2.0; did you mean 2\?"):
        predictor.propagate_in_video(state, max_frame_num_to_track=2.0)
    with pytest.raises(PromptError, match="frame_idx=3 is past the end"):
        predictor.track_frame(state, 3)
    with pytest.raises(PromptError, match="frame_idx must be a whole number"):
        state.frame(-1)
    with pytest.raises(PromptError, match="objects must be a whole number from 1 on; got 0"):
        predictor.warm_up(0)


@pytest.mark.parametrize("number", [np.int64, np.uint8, np.array, torch.tensor, int])
def test_ids_and_indices_of_any_type_become_pythons_int(
    predictor: I2VPPVideoPredictor, state: InferenceState, number: Any
) -> None:
    for frame_idx, points in ((0, [[16, 24]]), (2, [[22, 24]]), (2, [[24, 24]])):
        predictor.add_new_points_or_box(
            state, number(frame_idx), number(7), points=points, labels=[1], clear_old_points=False
        )
    assert state.obj_ids == [7]
    assert sorted(state.tracks[7].clicks) == [0, 2]
    assert len(state.tracks[7].clicks[2].labels) == 2
    results = list(predictor.propagate_in_video(state, number(1), number(1), progress=False))
    assert json.loads(json.dumps([[r.frame_idx, r.obj_ids] for r in results])) == [[1, [7]], [2, [7]]]
    predictor.clear_all_prompts_in_frame(state, number(2), number(7))
    assert json.dumps(predictor.remove_object(state, number(7), strict=True)) == "[[], []]"


def test_small_integers_do_not_wrap(predictor: I2VPPVideoPredictor) -> None:
    with predictor.init_state([FRAMES[0]] * 260) as state:
        predictor.add_new_mask(state, np.uint8(3), 1, MASKS[0])
        results = predictor.propagate_in_video(state, np.uint8(254), np.uint8(3), progress=False)
        assert [result.frame_idx for result in results] == [254, 255, 256, 257]


@pytest.mark.parametrize(("given", "meant"), [
    ({"box": [-0.3, 14, 26, 34]}, {"box": [0, 14, 26, 34]}),
    ({"box": [5, 14, 64.00002, 50]}, {"box": [5, 14, 64, 48]}),
    ({"points": [[-2, 50]], "labels": [1]}, {"points": [[0, 48]], "labels": [1]}),
    ({"box": np.array([-2 / 64, 0.1, 0.9, 1 + 2 / 48]), "normalize_coords": False},
     {"box": [0, 0.1, 0.9, 1], "normalize_coords": False}),
    ({"points": [[26, 34], [5, 14]], "labels": [3, 2]}, {"box": [5, 14, 26, 34]}),
    ({"points": [[9, 9], [5, 14], [26, 34]], "labels": [0, 2, 3]},
     {"box": [5, 14, 26, 34], "points": [[9, 9]], "labels": [0]}),
    ({"points": [[9, 9], [-10, -10], [float("nan"), 0]], "labels": [1, -1, -1]}, {"points": [[9, 9]], "labels": [1]}),
    ({"points": np.zeros((0, 2)), "labels": np.zeros(0), "box": [5, 14, 26, 34]}, {"box": [5, 14, 26, 34]}),
    ({"points": np.array([[24, 15]])[:, ::-1], "labels": [1]}, {"points": [[15, 24]], "labels": [1]}),
    ({"points": np.array([[15, 24]], ">i2"), "labels": np.array([1], ">f8")}, {"points": [[15, 24]], "labels": [1]}),
    ({"points": torch.tensor([[15, 24]]).bfloat16(), "labels": [True]}, {"points": [[15, 24]], "labels": [1]}),
    ({"points": [(torch.tensor(15.0), np.uint8(24))], "labels": (1,)}, {"points": [[15, 24]], "labels": [1]}),
    ({"points": np.array([[15, 24]], object), "labels": [np.int8(1)]}, {"points": [[15, 24]], "labels": [1]}),
    ({"points": np.asfortranarray([[15, 24], [9, 9]]), "labels": np.array([0, 1, 0, 1])[1::2]},
     {"points": [[15, 24], [9, 9]], "labels": [1, 1]}),
])  # fmt: skip
def test_values_that_mean_the_same(given: dict[str, Any], meant: dict[str, Any]) -> None:
    def clicks(points: Any = None, labels: Any = None, box: Any = None, normalize_coords: bool = True) -> Clicks:
        size = {"height": 48, "width": 64, "image_size": SIDE}
        return parse_clicks(points, labels, box, **size, normalize_coords=normalize_coords)

    found, expected = clicks(**given), clicks(**meant)
    assert torch.equal(found.coords, expected.coords)
    assert torch.equal(found.labels, expected.labels)
    assert (found.coords.dtype, found.labels.dtype) == (torch.float32, torch.int32)


def test_a_stream_checks_the_same(predictor: I2VPPVideoPredictor) -> None:
    with predictor.init_stream() as stream:
        stream.step(FRAMES[0])
        for obj_id in (torch.tensor(3), np.uint8(3)):
            assert stream.add_new_points_or_box(obj_id, points=[[-1, 9]], labels=[1]).obj_ids == [3]
        with pytest.raises(PromptError, match="obj_id must be a whole number; got '3'; did you mean 3"):
            stream.add_new_mask("3", MASKS[0])
        with pytest.raises(PromptError, match=r"points: .* lies outside"):
            stream.add_new_points_or_box(3, points=[[-3, 9]], labels=[1])
        with pytest.raises(PromptError, match="obj_id must be a whole number; got True"):
            stream.remove_object(True)
        stream.remove_object(torch.tensor(3))
        assert stream.state.obj_ids == []
    with pytest.raises(VideoError, match=r"keep must be a whole number from 1 on; got 3.0; did you mean 3\?"):
        predictor.init_stream(keep=3.0)


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


def test_a_mistake_is_told_in_the_same_words_at_every_door(tmp_path: Path) -> None:
    file = tmp_path / "prompts.json"
    file.write_text('[{"box": [9, 2, 3, 4]}]')
    doors: list[Callable[[], object]] = [
        lambda: ObjectPrompt(box=(9, 2, 3, 4)),
        lambda: parse_clicks(None, None, [9, 2, 3, 4], height=48, width=64, image_size=SIDE, normalize_coords=True),
        lambda: box("9,2,3,4"),
        lambda: read_prompts_file(file),
        lambda: Prompts.from_json({"box": [9, 2, 3, 4]}),
    ]
    for door in doors:
        with pytest.raises(
            (PromptError, ArgumentTypeError), match=r"box must have x0 < x1 and y0 < y1; got 9, 2, 3, 4$"
        ):
            door()
