"""Scoring whole sequences: what is prompted, from which frame on it counts, and the commands built on that."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data_files import write_mask
from i2vpp.checkpoint import inspect_checkpoint, save_checkpoint
from i2vpp.evaluation.metrics import jaccard
from i2vpp.evaluation.protocol import PUBLISHED_PROTOCOLS
from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
from models import make_predictor
from training import export
from training.config import ValidationConfig
from training.validation import Tracked, open_validation, read_sequence, score_tracked, track_sequence, validate

HEIGHT, WIDTH, FRAMES = 36, 48, 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sequences in DAVIS's layout; in the second one another object appears on frame 1."""
    root = tmp_path_factory.mktemp("sequences")
    rng = np.random.default_rng(0)
    for name in ("ant", "bee"):
        for part in ("JPEGImages", "Annotations"):
            (root / part / name).mkdir(parents=True)
        for t in range(FRAMES):
            Image.fromarray(rng.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)).save(
                root / "JPEGImages" / name / f"{t:05}.jpg"
            )
            mask = np.zeros((HEIGHT, WIDTH), np.uint8)
            mask[8:20, 6 + t : 20 + t] = 1
            if name == "bee" and t >= 1:
                mask[22:34, 20:40] = 2
            write_mask(root / "Annotations" / name / f"{t:05}.png", mask)
    return root


@pytest.fixture(scope="module")
def config(folder: Path) -> ValidationConfig:
    return ValidationConfig(images=str(folder / "JPEGImages"), annotations=str(folder / "Annotations"))


@pytest.fixture(scope="module")
def predictor() -> I2VPPVideoPredictor:
    return make_predictor()


@pytest.mark.parametrize("prompt", PUBLISHED_PROTOCOLS)
def test_each_object_is_tracked_from_the_frame_that_first_shows_it(
    predictor: I2VPPVideoPredictor, config: ValidationConfig, prompt: str
) -> None:
    sequences = open_validation(config)
    assert sequences is not None
    tracked = track_sequence(predictor, read_sequence(sequences[1], max_frames=FRAMES), prompt=prompt)
    assert tracked.name == "bee"
    assert {obj: sorted(found) for obj, found in tracked.found.items()} == {1: [0, 1, 2, 3], 2: [1, 2, 3]}
    if prompt == "gm":
        assert jaccard(tracked.found[2][1], tracked.truths[1][2]) > 0.8
    assert 0 <= score_tracked(tracked).jf <= 1


def test_scores_leave_out_the_prompted_and_the_last_frame() -> None:
    truth = np.zeros((20, 20), np.bool_)
    truth[5:15, 5:15] = True
    half = truth.copy()
    half[:, 10:] = False
    found = {1: {0: ~truth, 1: truth, 2: half, 3: ~truth}}
    tracked = Tracked(name="x", found=found, truths=[{1: truth}] * 4)
    assert score_tracked(tracked).j == pytest.approx((1 + 0.5) / 2)


def test_validation_leaves_the_network_in_the_mode_it_was(
    predictor: I2VPPVideoPredictor, config: ValidationConfig
) -> None:
    sequences = open_validation(config)
    assert sequences is not None
    model = predictor.model
    model.train()
    model.image_encoder.eval()
    modes = [module.training for module in model.modules()]
    scores = list(validate(model, sequences, [1], config, dtype=torch.float32))
    assert [score.name for score in scores] == ["bee"]
    assert [module.training for module in model.modules()] == modes
    model.eval()


def test_a_checkpoint_is_exported_by_a_command(predictor: I2VPPVideoPredictor, tmp_path: Path) -> None:
    save_checkpoint(predictor.model, tmp_path / "large.pt", image_size=64)
    small = tmp_path / "small.pt"
    assert export.main([str(tmp_path / "large.pt"), str(small), "--card", "licence=none"]) == 0
    assert small.stat().st_size < 40e6 < (tmp_path / "large.pt").stat().st_size
    info = inspect_checkpoint(small)
    assert (info.fits, info.image_size, info.card["licence"]) == (True, 64, "none")


def test_a_checkpoint_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        export.main(["nowhere.pt", str(tmp_path / "small.pt")])
    assert end.value.code == 1
    assert "error: checkpoint nowhere.pt does not exist" in capsys.readouterr().err
