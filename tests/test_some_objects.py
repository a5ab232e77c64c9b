"""Work on some of a session's objects, masks that are no prompts, and what a session tells of an object on a frame."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from i2vpp.errors import PromptError
from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
from i2vpp.session.state import InferenceState, ObjectStatus
from media import moving_disc
from models import make_predictor

FRAMES, MASKS = moving_disc(6, seed=3)
CLICK = {"points": [[12, 24]], "labels": [1]}


@pytest.fixture(scope="module")
def predictor() -> I2VPPVideoPredictor:
    return make_predictor(dtype="float32")


@pytest.fixture
def state(predictor: I2VPPVideoPredictor) -> Iterator[InferenceState]:
    """Objects 7 and 2, both prompted on frame 0."""
    with predictor.init_state(FRAMES) as state:
        predictor.add_new_points_or_box(state, 0, 7, **CLICK)
        predictor.add_new_mask(state, 0, 2, MASKS[0])
        yield state


def test_only_the_named_objects_are_tracked(predictor: I2VPPVideoPredictor, state: InferenceState) -> None:
    results = list(predictor.propagate_in_video(state, progress=False, obj_ids=[2]))
    assert [r.obj_ids for r in results] == [[2]] * 6
    assert state.object_status(2, 5) == ObjectStatus(tracked=True, has_mask=True)
    assert state.object_status(7, 5) == state.object_status(1, 5) == ObjectStatus()
    with predictor.init_state(FRAMES) as alone:
        predictor.add_new_mask(alone, 0, 2, MASKS[0])
        for result, expected in zip(results, predictor.propagate_in_video(alone, progress=False), strict=True):
            assert torch.equal(result.masks, expected.masks)
    assert predictor.track_frame(state, 1, obj_ids=(7, 2)).obj_ids == [7, 2]
    assert predictor.track_frame(state, 2, obj_ids=[]).obj_ids == []
    assert not state.object_status(7, 2).tracked


def test_results_of_prompts_show_the_named_objects(predictor: I2VPPVideoPredictor, state: InferenceState) -> None:
    assert predictor.add_new_points_or_box(state, 1, 3, **CLICK, obj_ids=[3]).obj_ids == [3]
    assert predictor.add_new_mask(state, 1, 4, MASKS[1], obj_ids=[4, 7]).obj_ids == [7, 4]
    result = predictor.clear_all_prompts_in_frame(state, 1, 4, obj_ids=[4])
    assert result is not None
    assert result.obj_ids == [4]


@pytest.mark.parametrize(
    ("obj_ids", "named"), [([2, 9], "no object 9"), (2, "must be a list"), (["2"], "did you mean 2")]
)
def test_unknown_objects_are_refused_before_anything_changes(
    predictor: I2VPPVideoPredictor, state: InferenceState, obj_ids: object, named: str
) -> None:
    for call in (
        lambda: predictor.propagate_in_video(state, obj_ids=obj_ids),
        lambda: predictor.track_frame(state, 1, obj_ids=obj_ids),
        lambda: predictor.add_new_points_or_box(state, 1, 5, **CLICK, obj_ids=obj_ids),
        lambda: predictor.add_new_mask(state, 1, 5, MASKS[1], obj_ids=obj_ids),
        lambda: predictor.clear_all_prompts_in_frame(state, 0, 2, obj_ids=obj_ids),
    ):
        with pytest.raises(PromptError, match=named):
            call()
    assert state.obj_ids == [7, 2]
    assert state.object_status(2, 0).prompted


def test_an_object_may_be_removed_while_it_is_tracked(predictor: I2VPPVideoPredictor, state: InferenceState) -> None:
    results = predictor.propagate_in_video(state, progress=False, obj_ids=[7, 2])
    assert next(results).obj_ids == [7, 2]
    predictor.remove_object(state, 7)
    assert [r.obj_ids for r in results] == [[2]] * 5


def test_a_tracked_mask_is_no_prompt(predictor: I2VPPVideoPredictor, state: InferenceState) -> None:
    predictor.add_tracked_mask(state, 3, 2, MASKS[3], reverse=True)
    assert state.object_status(2, 3) == ObjectStatus(tracked=True, has_mask=True, reverse=True)
    with pytest.raises(PromptError, match="has prompts on frame 0"):
        predictor.add_tracked_mask(state, 0, 2, MASKS[0])
    with predictor.init_state(FRAMES) as other:
        shown = predictor.add_new_mask(other, 3, 2, MASKS[3])
        given = predictor.add_new_points_or_box(other, 3, 2, **CLICK)
        predictor.remove_object(other, 2)
        predictor.add_tracked_mask(other, 3, 2, MASKS[3])  # of an object without prompts: it is where clicks start
        assert other.object_status(2, 3) == ObjectStatus(has_mask=True)
        assert torch.equal(predictor.add_new_points_or_box(other, 3, 2, **CLICK).masks, given.masks)
    tracked = predictor.track_frame(state, 3, obj_ids=[2])
    assert not torch.equal(tracked.masks, shown.masks)
    assert not state.object_status(2, 3).reverse


def test_a_click_on_a_frame_marked_as_tracked_reads_memory(predictor: I2VPPVideoPredictor) -> None:
    masks = []
    for mark in (False, True):
        with predictor.init_state(FRAMES) as state:
            predictor.add_new_mask(state, 0, 1, MASKS[0])
            if mark:
                state.mark_tracked(1, [4])
            assert state.object_status(1, 4).tracked is mark
            masks.append(predictor.add_new_points_or_box(state, 4, 1, **CLICK).masks)
    assert not torch.equal(*masks)


def test_a_progress_function_may_look_ahead(predictor: I2VPPVideoPredictor, state: InferenceState) -> None:
    seen: list[object] = []

    def bar(frames: Iterator[int], **described: object) -> Iterator[int]:
        seen.extend([*(ahead := list(frames)), described])
        return iter(ahead)

    results = list(predictor.propagate_in_video(state, 3, 2, both=True, progress=bar, obj_ids=[2]))
    assert [r.frame_idx for r in results] == [3, 4, 5, 2, 1]
    assert seen == [3, 4, 5, 2, 1, {"total": 5, "desc": "propagate in video"}]
