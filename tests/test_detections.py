"""Boxes from a detector: new objects, matched ones, labels, and what a detector may not return."""

from __future__ import annotations

import runpy
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import REPO
from i2vpp import prompts_from_detector, track_detections
from i2vpp.detections import DetectorSearch, box_iou, parse_detections
from i2vpp.errors import ConfigError, PromptError
from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
from media import moving_disc
from models import make_predictor

FRAMES, MASKS = moving_disc(9, seed=5)
HEIGHT, WIDTH = FRAMES[0].shape[:2]


@pytest.fixture(scope="module")
def predictor() -> I2VPPVideoPredictor:
    return make_predictor(dtype="float32")


def mask_of(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[y0:y1, x0:x1] = True
    return mask


def detector(*rows: tuple[list[float], str | None, float]) -> Any:
    return lambda frame: ([box for box, _, _ in rows], [label for _, label, _ in rows], [score for *_, score in rows])


def test_boxes_match_objects_greedily_by_score() -> None:
    known = {1: mask_of(0, 0, 20, 20), 2: mask_of(30, 0, 50, 20), 3: np.zeros((HEIGHT, WIDTH), bool)}
    search = DetectorSearch(detector=detector(
        ([0, 0, 18, 20], "second on 1", 0.6),
        ([0, 0, 20, 20], "first on 1", 0.9),
        ([31, 1, 51, 21], "on 2", 0.3),
        ([40, 30, 60, 45], "new", 0.8),
        ([41, 30, 60, 45], "new, again", 0.7),
        ([5, 25, 15, 40], "too unsure", 0.1),
        ([70, 50, 90, 60], "beside the frame", 0.9),
    ), least_score=0.2)  # fmt: skip
    proposals = search(FRAMES[0], known)
    assert [(proposal.label, proposal.obj_id) for proposal in proposals] == [
        ("first on 1", 1), ("new", None), ("on 2", 2)
    ]  # fmt: skip
    assert proposals[1].box == (40, 30, 60, 45)


def test_prompts_from_a_detector_keep_labels(predictor: I2VPPVideoPredictor) -> None:
    with predictor.init_state(FRAMES) as state:
        predictor.add_new_mask(state, 0, 5, MASKS[0])
        rows, columns = np.flatnonzero(MASKS[0].any(1)), np.flatnonzero(MASKS[0].any(0))
        on_disc = [float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)]
        find = detector((on_disc, "disc", 0.4), ([40, 2, 60, 20], "corner", 0.9))
        found = prompts_from_detector(predictor, state, find, 0)
        assert [(one.obj_id, one.label, one.is_new) for one in found] == [(6, "corner", True), (5, "disc", False)]
        assert state.labels == {6: "corner", 5: "disc"} and state.obj_ids == [5, 6]
        alone = predictor.add_new_points_or_box(state, 0, 9, box=[40, 2, 60, 20], obj_ids=[9])
        assert torch.equal(alone.masks, predictor.track_frame(state, 0, obj_ids=[6]).masks), "a box is a box prompt"
        predictor.remove_object(state, 9)
        prompts_from_detector(predictor, state, detector((on_disc, "another name", 0.4)), 0)
        assert state.labels[5] == "disc", "the first label stays"
        predictor.remove_object(state, 5)
        assert state.labels == {6: "corner"}


def test_detections_are_tracked_from_the_frames_on_which_they_appear(predictor: I2VPPVideoPredictor) -> None:
    calls = []

    def find(frame: np.ndarray) -> Any:
        calls.append(next(i for i, one in enumerate(FRAMES) if np.array_equal(one, frame)))
        boxes = [[2, 2, 14, 14]] if len(calls) == 1 else [[40, 20, 60, 44]]
        return torch.tensor(boxes), ["first" if len(calls) == 1 else "second"], torch.tensor([0.9])

    with predictor.init_state(FRAMES) as state:
        tracking = track_detections(
            predictor, state, find, every=4, max_objects=2, progress=False, forget_after=None, merge_iou=1.0,
            match_iou=1.0, max_frame_num_to_track=7,
        )  # fmt: skip
        results = list(tracking)
        assert state.labels == {1: "first", 2: "second"}
    assert calls == [0, 4]
    assert [result.obj_ids for result in results] == [[1]] * 4 + [[1, 2]] * 4


@pytest.mark.parametrize(("found", "message"), [
    (None, "must return a tuple of boxes, labels and scores; got None"),
    (([[1, 2, 3, 4]], ["a"]), "must return a tuple of boxes, labels and scores"),
    (([1, 2, 3, 4], ["a"], [1]), r"boxes must have the shape \[N, 4\]; got \[4\]"),
    (([[5, 2, 3, 4]], ["a"], [1]), "box must have x0 < x1 and y0 < y1; got 5, 2, 3, 4"),
    (([[1, 2, 3, float("nan")]], ["a"], [1]), "NaN"),
    (([[1, 2, 3, 4]], ["a", "b"], [1]), "one label and one score for each box; got 1 boxes, 2 labels"),
    (([[1, 2, 3, 4]], ["a"], [[1]]), r"scores of shape \[1, 1\]"),
    (([["a", 2, 3, 4]], ["a"], [1]), "the detector's boxes must be numbers"),
])  # fmt: skip
def test_what_a_detector_may_not_return(found: Any, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        DetectorSearch(detector=lambda frame: found)(FRAMES[0], {})


def test_what_a_detector_may_return() -> None:
    boxes, labels, scores = parse_detections((np.array([[-9, 1, 300, 20]]), None, None), height=48, width=64)
    assert boxes.tolist() == [[0, 1, 64, 20]] and labels == [None] and scores.tolist() == [1]
    boxes, labels, scores = parse_detections((torch.zeros(0, 4), [], torch.zeros(0)), height=48, width=64)
    assert boxes.shape == (0, 4) and labels == [] and scores.shape == (0,)


def test_parameters_are_checked() -> None:
    with pytest.raises(ConfigError, match="the detector must be a function from a frame to boxes"):
        DetectorSearch(detector="dino")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="match_iou must lie in"):
        DetectorSearch(detector=detector(), match_iou=1.5)


def test_box_iou() -> None:
    assert box_iou([0, 0, 2, 2], [1, 0, 3, 2]) == pytest.approx(1 / 3)
    assert box_iou([0, 0, 2, 2], [2, 0, 3, 2]) == 0


class FakeProcessor:
    """Stands for the processor of Grounding DINO."""

    def __call__(self, *, images: Image.Image, text: str, return_tensors: str) -> dict[str, Any]:
        return {"input_ids": torch.zeros(1, 4), "pixel_values": torch.from_numpy(np.array(images)), "text": text}

    def post_process_grounded_object_detection(self, outputs: Any, input_ids: Any, *, target_sizes: Any) -> list[Any]:
        height, width = target_sizes[0]
        box = torch.tensor([[0.0, 0.0, width / 2, height / 2]])
        return [{"boxes": box, "scores": torch.tensor([0.8]), "labels": torch.tensor([1]), "text_labels": [outputs]}]


class FakeModel:
    def eval(self) -> FakeModel:
        return self

    def __call__(self, *, text: str, **inputs: Any) -> str:
        return text.partition(".")[0]


def test_the_example_of_grounding_dino(predictor: I2VPPVideoPredictor, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for transformers, which is no dependency; `examples/` is no package."""
    transformers = SimpleNamespace(
        AutoProcessor=SimpleNamespace(from_pretrained=lambda name: FakeProcessor()),
        AutoModelForZeroShotObjectDetection=SimpleNamespace(from_pretrained=lambda name: FakeModel()),
    )
    monkeypatch.setitem(sys.modules, "transformers", transformers)
    example = runpy.run_path(str(REPO / "examples" / "grounding_dino.py"))
    with predictor.init_state(FRAMES) as state:
        found = prompts_from_detector(predictor, state, example["grounding_dino"]("a disc. a stone."), 0)
        assert state.labels == {1: "a disc"}
    assert found[0].box == (0, 0, WIDTH / 2, HEIGHT / 2) and found[0].score == pytest.approx(0.8)
