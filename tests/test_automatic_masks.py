"""Automatic masks: what is found, what is dropped, the format of the records, and the shipped checkpoint's."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace
from functools import cache
from importlib.resources import as_file, files
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from i2vpp.automatic_mask_generator import (
    I2VPPAutomaticMaskGenerator,
    crops,
    non_maximum_suppression,
    point_grid,
)
from i2vpp.build_i2vpp import build_i2vpp_image_predictor
from i2vpp.config import ModelConfig
from i2vpp.data.rle import RunLengths, parse_segmentation
from i2vpp.errors import ConfigError, I2VPPWarning, VideoError
from i2vpp.evaluation.metrics import jaccard
from i2vpp.execution.runner import Runner
from i2vpp.i2vpp_image_predictor import I2VPPImagePredictor
from i2vpp.modeling.i2vpp import I2VPP
from i2vpp.session.video import open_source
from i2vpp.structures import Conditioned, FrameFeatures, MaskPrediction, Prompt
from models import make_predictor

SIDE = 64
LOW = SIDE // 4
RABBIT = (135, 25, 305, 305)  # on the last frame of the bundled clip
COLORS = np.array([[20, 20, 20], [250, 30, 30], [30, 250, 30], [30, 30, 250]], np.uint8)


class Knows(I2VPP):
    """A network that answers a click with what has the colour of the clicked pixel, and what has another one."""

    def __init__(self) -> None:
        super().__init__(ModelConfig(image_size=SIDE))
        self.batches: list[int] = []
        self.starts = 0
        self.seen = torch.zeros(3, LOW, LOW)

    def encode(self, clip: Tensor) -> FrameFeatures:
        self.seen = clip[0, :, -1, 2::4, 2::4]  # one pixel for each cell of the mask logits
        cells = torch.zeros(1, 256, SIDE // 16, SIDE // 16)
        return FrameFeatures(embedding=cells, position=cells)

    def decode(self, conditioned: Conditioned, prompt: Prompt, *, multimask: bool | None = None) -> MaskPrediction:
        assert prompt.coords is not None
        cells = (prompt.coords[:, 0] / 4).long().clamp(max=LOW - 1)
        self.batches.append(len(cells))
        self.starts += prompt.mask is not None
        color = self.seen[:, cells[:, 1], cells[:, 0]].T  # [B, 3]
        same = (self.seen[None] - color[:, :, None, None]).abs().sum(1) < 0.5
        logits = torch.where(same, 60.0, -60.0)[:, None]
        unstable = torch.where(same, 0.5, -0.5)[:, None]
        ious = torch.full((len(cells), 1), 0.9)
        if multimask:
            logits, ious = torch.cat([logits, -logits, unstable], 1), torch.cat([ious, ious - 0.4, ious], 1)
        rest = torch.ones(len(cells))
        return MaskPrediction(
            logits=logits[:, :1], iou=ious[:, 0], object_score=rest, pointer=torch.zeros(len(cells), 256),
            candidates=logits, candidate_ious=ious,
        )  # fmt: skip


@pytest.fixture(scope="module")
def model() -> Knows:
    return Knows().eval()


def scene() -> np.ndarray:
    """Ids 96 high, 128 wide: two boxes of whole cells, and one of which a part lies apart."""
    ids = np.zeros((96, 128), np.uint8)
    ids[12:48, 16:48] = 1
    ids[54:84, 64:120] = 2
    ids[6:24, 80:112] = 3
    ids[36:42, 112:120] = 3
    return ids


def test_every_thing_is_found_once(model: Knows) -> None:
    ids = scene()
    records = I2VPPAutomaticMaskGenerator(model, points_per_side=8).generate(COLORS[ids])
    assert len(records) == 4
    for record in records:
        x, y = record["point_coords"][0]
        expected = ids == ids[int(y), int(x)]
        mask = record["segmentation"]
        assert mask.dtype == bool
        assert jaccard(mask, expected) > 0.85, "bilinear edges of 4 pixels"
        assert record["area"] == mask.sum()
        rows, columns = np.nonzero(mask)
        assert record["bbox"] == [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
        assert record["predicted_iou"] == pytest.approx(0.9)
        assert 0.8 <= record["stability_score"] <= 1
        assert record["crop_box"] == [0, 0, 128, 96]
        assert set(record) == {
            "segmentation", "area", "bbox", "predicted_iou", "point_coords", "stability_score", "crop_box"
        }  # fmt: skip
    json.dumps([{name: value for name, value in record.items() if name != "segmentation"} for record in records])


def test_run_lengths_say_the_same(model: Knows) -> None:
    pytest.importorskip("pycocotools")
    image = COLORS[scene()]
    masks, runs, coco = (
        I2VPPAutomaticMaskGenerator(model, points_per_side=8, output_mode=mode).generate(image)
        for mode in ("binary_mask", "uncompressed_rle", "coco_rle")
    )
    for mask, run, compressed in zip(masks, runs, coco, strict=True):
        for record in (run, compressed):
            written = json.loads(json.dumps(record))["segmentation"]
            decoded = parse_segmentation(written, size=(96, 128), where="record").decode()
            assert np.array_equal(decoded, mask["segmentation"])
        assert isinstance(compressed["segmentation"]["counts"], str)


def test_masks_are_encoded_and_decoded() -> None:
    rng = np.random.default_rng(0)
    for mask in (rng.random((7, 5)) < 0.5, np.zeros((3, 4), bool), np.ones((3, 4), bool)):
        runs = RunLengths.encode(mask)
        assert np.array_equal(runs.decode(), mask)
        assert runs.area == mask.sum()
        assert (runs.lengths[1:] > 0).all()


@pytest.mark.filterwarnings("ignore:no mask passed")
def test_what_is_dropped(model: Knows) -> None:
    image = COLORS[scene()]

    def count(**options: Any) -> int:
        return len(I2VPPAutomaticMaskGenerator(model, points_per_side=8, **options).generate(image))

    assert count(pred_iou_thresh=0.95) == 0
    assert count(pred_iou_thresh=0.4) > 4, "the masks of everything else"
    assert count(stability_score_thresh=1.01) == 0
    assert count(multimask_output=False) == 4
    assert count(stability_score_thresh=0.0, box_nms_thresh=1.0) > 50, "no two boxes overlap by more than 1"
    assert count(mask_threshold=70.0) == 0, "empty masks"


def test_batches_are_bounded(model: Knows) -> None:
    for use_m2m in (False, True):
        model.batches, model.starts = [], 0
        generator = I2VPPAutomaticMaskGenerator(model, points_per_side=6, points_per_batch=10, use_m2m=use_m2m)
        assert len(generator.generate(COLORS[scene()])) == 4
        assert max(model.batches) == 10
        assert sum(model.batches) == 36 * (4 if use_m2m else 1)
        assert model.starts == (11 if use_m2m else 0)


def test_few_pixels_at_once_give_the_same(model: Knows, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = I2VPPAutomaticMaskGenerator(model, points_per_side=6, output_mode="uncompressed_rle")
    expected = generator.generate(COLORS[scene()])
    monkeypatch.setattr("i2vpp.automatic_mask_generator.PIXELS_AT_ONCE", 1)
    assert generator.generate(COLORS[scene()]) == expected


def test_crops_find_what_the_whole_image_does_not(model: Knows) -> None:
    ids = np.zeros((192, 256), np.uint8)
    ids[24:54, 30:72] = 1  # between the clicks on the whole image
    ids[120:180, 120:220] = 2  # cut by crops
    whole = I2VPPAutomaticMaskGenerator(model, points_per_side=5).generate(COLORS[ids])
    assert not any(jaccard(record["segmentation"], ids == 1) > 0.5 for record in whole)
    generator = I2VPPAutomaticMaskGenerator(model, points_per_side=5, crop_n_layers=1, crop_nms_thresh=0.5)
    records = generator.generate(COLORS[ids])
    small = [record for record in records if jaccard(record["segmentation"], ids == 1) > 0.7]
    assert len(small) == 1
    assert small[0]["crop_box"] != [0, 0, 256, 192], "the smaller crop wins"
    large = [record for record in records if (record["segmentation"] & (ids == 2)).sum() > 1000]
    assert jaccard(large[0]["segmentation"], ids == 2) > 0.85
    assert not any(record["segmentation"].shape != ids.shape for record in records)


def test_small_regions_are_cleaned_away(model: Knows) -> None:
    ids = scene()
    generator = I2VPPAutomaticMaskGenerator(model, points_per_side=8, min_mask_region_area=150)
    records = generator.generate(COLORS[ids])
    part = [record for record in records if record["segmentation"][15, 96] and record["area"] < 2000]
    assert len(part) == 1
    assert not part[0]["segmentation"][38, 115], "the part apart has 48 pixels"
    assert part[0]["bbox"][1] + part[0]["bbox"][3] < 34


def test_own_grids(model: Knows) -> None:
    grid = np.array([[0.25, 0.3], [0.7, 0.7]])
    records = I2VPPAutomaticMaskGenerator(model, points_per_side=None, point_grids=[grid]).generate(COLORS[scene()])
    assert sorted(record["point_coords"][0] for record in records) == [
        pytest.approx([32, 28.8]), pytest.approx([89.6, 67.2])
    ]  # fmt: skip


def test_parts_of_the_search() -> None:
    np.testing.assert_allclose(point_grid(2), [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]])
    parts = list(crops(100, 200, layers=2, overlap=0.3))
    assert [layer for layer, _ in parts].count(1) == 4
    assert [layer for layer, _ in parts].count(2) == 16
    for layer in (1, 2):
        covered = np.zeros((100, 200), int)
        for _, (x0, y0, x1, y1) in (part for part in parts if part[0] == layer):
            covered[y0:y1, x0:x1] += 1
        assert covered.min() == 1
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [20, 0, 30, 10], [0, 0, 10, 5]], float)
    scores = np.array([0.5, 0.9, 0.7, 0.8])
    assert non_maximum_suppression(boxes, scores, 0.7) == [1, 3, 2]
    assert non_maximum_suppression(boxes, scores, 0.4) == [1, 2]
    assert non_maximum_suppression(boxes, scores, 1.0) == [1, 3, 2, 0]
    assert non_maximum_suppression(boxes[:0], scores[:0], 0.5) == []


def test_boxes_are_chosen_as_torchvision_does() -> None:
    torchvision = pytest.importorskip("torchvision")
    rng = np.random.default_rng(1)
    corners = rng.random((300, 2)) * 100
    boxes = np.concatenate([corners, corners + 1 + rng.random((300, 2)) * 60], axis=1)
    scores = rng.random(300)
    for threshold in (0.3, 0.7):
        expected = torchvision.ops.nms(torch.from_numpy(boxes), torch.from_numpy(scores), threshold)
        assert non_maximum_suppression(boxes, scores, threshold) == expected.tolist()


@pytest.mark.parametrize(("options", "message"), [
    ({"points_per_side": None}, "pass either points_per_side or point_grids"),
    ({"point_grids": [[[0.5, 0.5]]]}, "pass either points_per_side or point_grids"),
    ({"points_per_side": 0}, "points_per_side must be a whole number from 1 on; got 0"),
    ({"points_per_batch": 0}, "points_per_batch must be a whole number from 1 on"),
    ({"crop_n_layers": -1}, "crop_n_layers must be a whole number from 0 on"),
    ({"crop_overlap_ratio": 1}, r"crop_overlap_ratio must lie in \[0, 1\); got 1"),
    ({"output_mode": "rle"}, "unknown output_mode 'rle'; did you mean 'coco_rle'"),
    ({"points_per_side": None, "point_grids": [[[5, 5]]]}, r"point_grids must be 1 arrays \[N, 2\]"),
    ({"points_per_side": None, "point_grids": [[[0.5, 0.5]]], "crop_n_layers": 1}, "point_grids must be 2 arrays"),
    ({"model": "i2vpp-demo"}, "model must be a network .*, a video predictor or an image predictor; got 'i2vpp-demo'"),
])  # fmt: skip
def test_impossible_parameters(model: Knows, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        I2VPPAutomaticMaskGenerator(**{"model": model, **options})


def test_a_missing_image_is_one_error(model: Knows) -> None:
    with pytest.raises(VideoError, match="does not exist"):
        I2VPPAutomaticMaskGenerator(model).generate("none.jpg")


def test_the_parameters_are_sam2s() -> None:
    parameters = inspect.signature(I2VPPAutomaticMaskGenerator).parameters
    assert {name: parameter.default for name, parameter in parameters.items() if name != "model"} == {
        "points_per_side": 32, "points_per_batch": 64, "pred_iou_thresh": 0.8, "stability_score_thresh": 0.95,
        "stability_score_offset": 1.0, "mask_threshold": 0.0, "box_nms_thresh": 0.7, "crop_n_layers": 0,
        "crop_nms_thresh": 0.7, "crop_overlap_ratio": 512 / 1500, "crop_n_points_downscale_factor": 1,
        "point_grids": None, "min_mask_region_area": 0, "output_mode": "binary_mask", "use_m2m": False,
        "multimask_output": True,
    }  # fmt: skip


def test_a_network_with_random_weights() -> None:
    generator = I2VPPAutomaticMaskGenerator(
        make_predictor().model, points_per_side=3, pred_iou_thresh=0.0, stability_score_thresh=0.0, use_m2m=True
    )
    for record in generator.generate(COLORS[scene()]):
        assert record["area"] == record["segmentation"].sum() > 0
    with pytest.raises(RuntimeError, match="No image is set"):
        generator.predictor.predict([[1, 1]], [1])


def test_an_image_predictor_keeps_its_image(model: Knows) -> None:
    """The generator's own predictor has the same network, runner, dtype and thresholds."""
    runners = []

    def runner(network: I2VPP) -> Runner:
        runners.append(Runner(network))
        return runners[-1]

    predictor = I2VPPImagePredictor(model, 0.25, 3, 4, dtype=torch.bfloat16, runner=runner)
    predictor.set_image(COLORS[scene()])
    before = predictor.get_image_embedding()
    generator = I2VPPAutomaticMaskGenerator(predictor, points_per_side=8)
    assert len(generator.generate(COLORS[scene()][:, ::-1])) == 4
    assert torch.equal(predictor.get_image_embedding(), before)
    own = generator.predictor
    assert (own.model, own.dtype, own.mask_threshold, own.max_hole_area, own.max_sprinkle_area) == (
        model, torch.bfloat16, 0.25, 3, 4
    )  # fmt: skip
    assert own._runner is predictor._runner and len(runners) == 1


def test_a_video_predictor_lends_its_network_and_dtype() -> None:
    video = make_predictor(dtype="bfloat16")
    generator = I2VPPAutomaticMaskGenerator(
        video, points_per_side=2, pred_iou_thresh=0.0, stability_score_thresh=0.0, output_mode="uncompressed_rle"
    )
    assert (generator.predictor.model, generator.predictor.dtype) == (video.model, torch.bfloat16)
    image = COLORS[scene()]
    expected = replace(generator, model=I2VPPImagePredictor(video.model, dtype=torch.bfloat16)).generate(image)
    assert generator.generate(image) == expected != []


@cache
def demo() -> tuple[np.ndarray, I2VPPImagePredictor]:
    """The last frame of the bundled clip, and the shipped checkpoint at the size that it was trained at."""
    with as_file(files("i2vpp") / "assets" / "bunny.mp4") as clip:
        source = open_source(str(clip))
        frame = source[len(source) - 1].copy()
        source.close()
    return frame, build_i2vpp_image_predictor(ckpt_path="i2vpp-demo", device="cpu")


@pytest.mark.slow
def test_the_shipped_checkpoint_finds_the_demos_rabbit() -> None:
    frame, predictor = demo()
    predictor.set_image(frame)
    rabbit, _, _ = predictor.predict(box=RABBIT, multimask_output=False)
    # on the first frame, where the rabbit lies between boulders of its colour, a click on it takes these along
    records = I2VPPAutomaticMaskGenerator(
        predictor, points_per_side=16, pred_iou_thresh=0.6, stability_score_thresh=0.6
    ).generate(frame)
    assert len(records) >= 3
    assert max(jaccard(record["segmentation"], rabbit[0] > 0) for record in records) > 0.85
    assert [record["predicted_iou"] for record in records] == sorted(
        (r["predicted_iou"] for r in records), reverse=True
    )


def test_nothing_good_enough_says_which_threshold_to_lower(model: Knows) -> None:
    generator = I2VPPAutomaticMaskGenerator(model, points_per_side=2, pred_iou_thresh=0.95)
    with pytest.warns(I2VPPWarning, match="highest predicted IoU is 0.90, .* pred_iou_thresh=0.95") as warned:
        assert generator.generate(COLORS[scene()]) == []
    assert warned[0].filename == __file__
