"""Tracking everything: objects are added, merged, let go and limited; sessions and live streams agree."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from i2vpp import I2VPPAutomaticMaskGenerator, I2VPPImagePredictor, ObjectDiscovery, track_everything
from i2vpp.cli import main
from i2vpp.discovery import EverythingSearch, Mask, Proposal
from i2vpp.errors import ConfigError, PromptError
from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
from i2vpp.structures import FrameResult
from i2vpp.utils.result_files import index_map
from media import moving_disc
from models import make_predictor

FRAMES, MASKS = moving_disc(12, seed=5)
SIZE = FRAMES[0].shape[:2]
LOOSE: dict[str, Any] = {"points_per_side": 3, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0}


def square(x: int, y: int, side: int = 8) -> Mask:
    mask = np.zeros(SIZE, bool)
    mask[y : y + side, x : x + side] = True
    return mask


@pytest.fixture(scope="module")
def predictor() -> I2VPPVideoPredictor:
    return make_predictor(dtype="float32")


class Plan:
    """A search that proposes what it is told to at each call, and notes what it was told to know."""

    def __init__(self, *calls: list[Proposal]) -> None:
        self.calls = list(calls)
        self.known: list[list[int]] = []

    def __call__(self, frame: np.ndarray, known: Mapping[int, Mask]) -> list[Proposal]:
        self.known.append(list(known))
        return self.calls.pop(0) if self.calls else []


def result_of(frame_idx: int, masks: Mapping[int, Mask], *, unknown: tuple[int, ...] = ()) -> FrameResult:
    logits = [torch.from_numpy(np.where(mask, 9.0, -9.0)).float()[None] for mask in masks.values()]
    scores = [float("nan") if obj_id in unknown else 5.0 for obj_id in masks]
    return FrameResult(
        frame_idx, list(masks), torch.stack(logits) if logits else torch.zeros(0, 1, *SIZE),
        torch.tensor(scores), torch.full((len(masks),), 0.5),
    )  # fmt: skip


def added(predictor: I2VPPVideoPredictor, state: Any, masks: Mapping[int, Mask]) -> None:
    for obj_id, mask in masks.items():
        predictor.add_new_mask(state, 0, obj_id, mask)


def test_the_first_and_every_nth_frame_are_searched(predictor: I2VPPVideoPredictor) -> None:
    plan = Plan([Proposal(mask=MASKS[0])], [], [Proposal(mask=square(2, 2), label="a square")])
    with predictor.init_state(FRAMES) as state:
        discovery = ObjectDiscovery(predictor=predictor, search=plan, every=4, forget_after=None, merge_iou=1.0)
        results = list(discovery.track(state, progress=False))
        assert state.labels == {2: "a square"}
    assert [result.frame_idx for result in results] == list(range(12))
    assert plan.known == [[], [1], [1]]
    assert [result.obj_ids for result in results] == [[1]] * 8 + [[1, 2]] * 4
    assert ((results[8].masks[1, 0] > 0).numpy() == square(2, 2)).mean() > 0.95


def test_with_zero_only_the_first_frame_is_searched(predictor: I2VPPVideoPredictor) -> None:
    plan = Plan([], [Proposal(mask=MASKS[0])])
    with predictor.init_state(FRAMES) as state:
        discovery = ObjectDiscovery(predictor=predictor, search=plan, every=0)
        results = list(discovery.track(state, start_frame_idx=3, max_frame_num_to_track=4, progress=False))
    assert [result.frame_idx for result in results] == [3, 4, 5, 6, 7]
    assert all(result.masks.shape == (0, 1, *SIZE) for result in results), "a video without objects is no error"
    assert len(plan.known) == 1


def test_objects_are_limited_and_ids_are_never_used_twice(predictor: I2VPPVideoPredictor) -> None:
    three = [Proposal(mask=square(x, 4)) for x in (2, 20, 40)]
    plan = Plan(three, three, three, three)
    with predictor.init_state(FRAMES) as state:
        added(predictor, state, {7: square(2, 30)})
        discovery = ObjectDiscovery(predictor=predictor, search=plan, every=1, max_objects=3, highest_id=10)
        assert discovery.update(state, result_of(0, {7: square(2, 30)})).obj_ids == [7, 8, 9]
        assert discovery.update(state, result_of(1, {7: square(2, 30), 8: square(2, 4), 9: square(20, 4)})).obj_ids
        assert len(plan.known) == 1, "nobody searches where there is no room"
        predictor.remove_object(state, 8)
        predictor.remove_object(state, 9)
        assert discovery.update(state, result_of(2, {7: square(2, 30)})).obj_ids == [7, 10], "10 is the highest id"
        assert state.obj_ids == [7, 10]


def test_duplicates_merge_into_the_earlier_object_when_a_frame_is_searched(predictor: I2VPPVideoPredictor) -> None:
    masks = {1: square(2, 4), 2: square(20, 4), 3: square(3, 4), 4: square(2, 4, 9)}
    with predictor.init_state(FRAMES) as state:
        added(predictor, state, masks)
        discovery = ObjectDiscovery(predictor=predictor, search=Plan(), every=2, merge_iou=0.75)
        result = discovery.update(state, result_of(0, masks))
        assert result.obj_ids == state.obj_ids == [1, 2]
        assert result.masks.shape[0] == result.object_scores.shape[0] == result.predicted_ious.shape[0] == 2
        added(predictor, state, {5: square(20, 4)})
        again = {1: square(2, 4), 2: square(20, 4), 5: square(20, 4)}
        assert discovery.update(state, result_of(1, again)).obj_ids == [1, 2, 5], "not searched, so not merged"
        assert discovery.update(state, result_of(2, again)).obj_ids == [1, 2]
    strict = ObjectDiscovery(predictor=predictor, search=Plan(), merge_iou=0.8)
    with predictor.init_state(FRAMES) as state:
        added(predictor, state, masks)
        assert strict.update(state, result_of(0, masks)).obj_ids == [1, 2, 3, 4], "IoUs of 56/72 and 64/81"


def test_objects_absent_for_long_are_let_go(predictor: I2VPPVideoPredictor) -> None:
    here, away = square(2, 4), np.zeros(SIZE, bool)
    with predictor.init_state(FRAMES) as state:
        added(predictor, state, {1: here, 2: here, 3: here})
        discovery = ObjectDiscovery(predictor=predictor, search=Plan(), every=0, forget_after=2, merge_iou=1.0)
        seen = [(here, away), (here, away), (away, here), (away, away), (here, away)]
        left = [
            discovery.update(state, result_of(i, {1: a, 2: here, 3: away}, unknown=(3,))).obj_ids
            if 1 in state.obj_ids else []
            for i, (_, a) in enumerate(seen)
        ]  # fmt: skip
        assert left == [[1, 2, 3], [2, 3], [], [], []], "3 is not known on these frames, so it is not absent"
        assert state.obj_ids == [2, 3]


def test_a_bad_frame_is_not_searched(predictor: I2VPPVideoPredictor) -> None:
    plan = Plan([Proposal(mask=MASKS[0])])
    with predictor.init_state(FRAMES) as state:
        discovery = ObjectDiscovery(predictor=predictor, search=plan)
        empty = torch.zeros(0)
        result = FrameResult(0, [], torch.zeros(0, 1, *SIZE), empty, empty, bad_frame=True)
        assert discovery.update(state, result).obj_ids == []
    assert plan.known == []


def test_everything_on_a_session_equals_a_live_stream_and_a_second_run(predictor: I2VPPVideoPredictor) -> None:
    generator = I2VPPAutomaticMaskGenerator(I2VPPImagePredictor(predictor.model), **LOOSE)
    limits: dict[str, Any] = {"max_objects": 4, "merge_iou": 0.9}

    def offline() -> list[FrameResult]:
        with predictor.init_state(FRAMES) as state:
            return list(track_everything(predictor, state, generator=generator, discover=3, progress=False, **limits))

    first, second = offline(), offline()
    discovery = ObjectDiscovery(predictor=predictor, search=EverythingSearch(generator=generator), every=3, **limits)
    with predictor.init_stream() as stream:
        live = [discovery.update(stream.state, stream.step(frame)) for frame in FRAMES]
    assert len(first) == len(FRAMES)
    assert max(len(result.obj_ids) for result in first) >= 2
    for one, other in ((first, second), (first, live)):
        assert [result.obj_ids for result in one] == [result.obj_ids for result in other]
        assert all(torch.equal(a.masks, b.masks) for a, b in zip(one, other, strict=True))


class Clicks(I2VPPAutomaticMaskGenerator):
    """A generator that finds fixed masks and notes what was covered."""

    def generate(self, image: Any, *, covered: np.ndarray | None = None) -> list[dict[str, Any]]:
        self.covered = covered
        found = [square(2, 4, 20), square(4, 6, 4), square(40, 4, 10), square(40, 4, 8), square(60, 44, 1)]
        return [{"segmentation": mask, "area": int(mask.sum()), "predicted_iou": 0.9} for mask in found]


def test_covered_and_tiny_masks_are_not_proposed(predictor: I2VPPVideoPredictor) -> None:
    generator = Clicks(I2VPPImagePredictor(predictor.model), points_per_side=1)
    search = EverythingSearch(generator=generator)
    proposals = search(FRAMES[0], {})
    assert generator.covered is None, "then a search without result warns"
    assert [int(proposal.mask.sum()) for proposal in proposals if proposal.mask is not None] == [400, 100]
    known = {3: square(2, 4, 15), 4: np.zeros(SIZE, bool)}
    proposals = search(FRAMES[0], known)
    assert generator.covered is not None
    assert [int(proposal.mask.sum()) for proposal in proposals if proposal.mask is not None] == [100]


def test_the_best_mask_is_proposed_first_in_whatever_order_the_generator_found_them(
    predictor: I2VPPVideoPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with crops and `min_mask_region_area`; of two masks of the same pixels the worse one is left out."""
    generator = I2VPPAutomaticMaskGenerator(I2VPPImagePredictor(predictor.model), points_per_side=1)
    found = [(square(2, 4, 10), 0.5), (square(2, 4, 12), 0.9), (square(40, 4, 10), 0.7)]
    records = [{"segmentation": mask, "area": int(mask.sum()), "predicted_iou": iou} for mask, iou in found]
    monkeypatch.setattr(generator, "generate", lambda frame, covered=None: records)
    proposals = EverythingSearch(generator=generator)(FRAMES[0], {})
    assert [(proposal.score, int(proposal.mask.sum())) for proposal in proposals] == [(0.9, 144), (0.7, 100)]


def test_the_generator_clicks_only_what_is_not_covered(predictor: I2VPPVideoPredictor) -> None:
    generator = I2VPPAutomaticMaskGenerator(I2VPPImagePredictor(predictor.model), **LOOSE)
    covered = np.ones(SIZE, bool)
    assert generator.generate(FRAMES[0], covered=covered) == []
    covered[: SIZE[0] // 3, SIZE[1] // 3 : 2 * SIZE[1] // 3] = False
    points = {tuple(record["point_coords"][0]) for record in generator.generate(FRAMES[0], covered=covered)}
    assert points == {(SIZE[1] / 2, SIZE[0] / 6)}
    with pytest.raises(ConfigError, match=r"covered must be \[H, W\] = \[48, 64\]; got \[48, 6\]"):
        generator.generate(FRAMES[0], covered=covered[:, :6])


def test_the_command_tracks_everything(
    predictor: I2VPPVideoPredictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("i2vpp.cli.build_predictor", lambda choice: predictor)
    for i, frame in enumerate(FRAMES):
        Image.fromarray(frame).save(tmp_path / f"{i}.png")
    loose = "--points-per-side 3 --iou-threshold 0 --stability-threshold 0 --discover 2 --max-objects 3".split()
    arguments = ["track", str(tmp_path), "-o", str(tmp_path / "out"), "--everything", "--untrained", *loose]
    assert main([*arguments, "--max-frames", "3", "--start-frame", "1", "--quiet"]) == 0
    generator = I2VPPAutomaticMaskGenerator(I2VPPImagePredictor(predictor.model), **LOOSE)
    with predictor.init_state(FRAMES) as state:
        options: dict[str, Any] = {"generator": generator, "discover": 2, "max_objects": 3, "highest_id": 255}
        results = track_everything(predictor, state, start_frame_idx=1, progress=False, **options)
        expected = {result.frame_idx: index_map(result) for result in itertools.islice(results, 4)}
    written = {int(path.stem): np.array(Image.open(path)) for path in (tmp_path / "out" / "masks").iterdir()}
    assert written.keys() == expected.keys() == {1, 2, 3, 4}
    assert all((written[i] == expected[i]).all() for i in written)
    assert "wrote 4 frames of" in capsys.readouterr().out


@pytest.mark.parametrize(("options", "message"), [
    ({"every": -1}, "every must be a whole number from 0 on"),
    ({"max_objects": 0}, "max_objects must be a whole number from 1 on"),
    ({"forget_after": 0}, "forget_after must be a whole number from 1 on"),
    ({"highest_id": 1.5}, "highest_id must be a whole number from 1 on"),
    ({"merge_iou": 0}, r"merge_iou must lie in \(0, 1\]; got 0"),
])  # fmt: skip
def test_mistakes(predictor: I2VPPVideoPredictor, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ObjectDiscovery(predictor=predictor, search=Plan(), **options)


def test_mistakes_are_told_before_the_first_frame(predictor: I2VPPVideoPredictor) -> None:
    images = I2VPPImagePredictor(predictor.model)
    with pytest.raises(ConfigError, match="output_mode must be 'binary_mask'; got 'uncompressed_rle'"):
        EverythingSearch(generator=I2VPPAutomaticMaskGenerator(images, output_mode="uncompressed_rle"))
    with pytest.raises(ConfigError, match=r"most_covered must lie in \[0, 1\]; got 2"):
        EverythingSearch(generator=I2VPPAutomaticMaskGenerator(images), most_covered=2)
    with predictor.init_state(FRAMES) as state, pytest.raises(PromptError, match="start_frame_idx=99 is past the end"):
        track_everything(predictor, state, start_frame_idx=99)
