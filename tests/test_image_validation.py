"""Scores on photos that nothing is trained on, and the promise that nothing is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_files import build, write_image, write_mask
from i2vpp.config import ModelConfig
from i2vpp.data.files import read_items
from i2vpp.modeling.i2vpp import I2VPP
from i2vpp.structures import Conditioned, MaskPrediction, Prompt
from training.image_validation import HELD_OUT, held_out_photos, main, score_photos
from training.recipes import load_recipe

SIDE = 64
HEIGHT, WIDTH = 60, 120


class Draws(I2VPP):
    """A network that fills the box that it is given, and answers a click with the whole photo."""

    def decode(self, conditioned: Conditioned, prompt: Prompt, *, multimask: bool | None = None) -> MaskPrediction:
        assert prompt.coords is not None
        logits = torch.full((1, 1, SIDE // 4, SIDE // 4), 10.0)
        if prompt.num_points == 2:
            (x0, y0), (x1, y1) = (prompt.coords[0] / 4).round().int().tolist()
            logits.fill_(-10.0)[..., y0:y1, x0:x1] = 10.0
        one = torch.ones(1)
        return MaskPrediction(
            logits=logits, iou=one, object_score=one, pointer=torch.zeros(1, 256), candidates=logits,
            candidate_ious=one[:, None],
        )  # fmt: skip


@pytest.fixture(scope="module")
def model() -> Draws:
    return Draws(ModelConfig(image_size=SIDE))


def photo_of(folder: Path, ids: np.ndarray) -> Any:
    write_image(folder / "images" / "a.png", *ids.shape)
    write_mask(folder / "masks" / "a.png", ids)
    return build("palette_image", folder / "images")[0]


def test_boxes_and_clicks_are_scaled_to_the_network_and_scored_at_the_size_of_the_photo(
    model: Draws, tmp_path: Path
) -> None:
    ids = np.zeros((HEIGHT, WIDTH), np.uint8)
    ids[15:45, 30:90] = 1  # whole cells of the mask logits: 4 to 12 of 16 in both directions
    model.train()
    scores = score_photos(model, [photo_of(tmp_path, ids)], dtype=torch.float32)
    assert scores.objects == 1
    assert scores.box == pytest.approx(1, abs=0.03)
    assert scores.point == pytest.approx(0.25), "the object covers a quarter of the photo"
    assert model.training, "the mode is restored"


def test_the_five_largest_objects_of_a_photo_count_and_specks_do_not(model: Draws, tmp_path: Path) -> None:
    ids = np.zeros((HEIGHT, WIDTH), np.uint8)
    for i in range(7):
        ids[10:20, 4 + 16 * i : 8 + 16 * i] = i + 1
    assert score_photos(model, [photo_of(tmp_path / "many", ids)]).objects == 5
    ids[:] = 0
    ids[3, 3:8] = 1
    scores = score_photos(model, [photo_of(tmp_path / "speck", ids)])
    assert scores.objects == 0
    assert np.isnan(scores.box)


def test_no_recipe_of_the_demo_checkpoint_trains_on_the_held_out_photos(monkeypatch: pytest.MonkeyPatch) -> None:
    names = read_items(HELD_OUT)
    assert len(names) == 128
    for recipe in ("i2vpp-demo-photos", "i2vpp-demo"):
        for name, source in load_recipe(recipe).data.sources.items():
            if "coco128" in str(source.images) or "duts" in str(source.images):
                assert source.exclude is not None, f"{name} of {recipe}"
                assert read_items(Path(source.exclude)) >= names, f"{name} of {recipe}"


def test_the_held_out_photos_are_there(shared_data: Path) -> None:
    photos = held_out_photos(shared_data / "data")
    assert len(photos) == 128
    assert all(len(photo) == 1 for photo in photos)


def test_a_missing_folder_is_one_clear_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([str(tmp_path / "no.pt"), "--data", str(tmp_path)])
    assert end.value.code == 1
    assert capsys.readouterr().err.count("\n") == 1
