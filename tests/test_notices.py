"""Where warnings say that they come from: the user's line in Python, nowhere in commands."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from i2vpp.build_i2vpp import build_i2vpp, build_i2vpp_video_predictor
from i2vpp.checkpoint import load_checkpoint, save_checkpoint
from i2vpp.errors import I2VPPWarning
from i2vpp.utils.notices import plain_warnings
from media import moving_disc, write_video
from models import make_predictor
from training.config import StartConfig
from training.model.initialise import start

REPO = Path(__file__).resolve().parent.parent
SIZE = ["model.image_size=80"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "mine.pt"
    save_checkpoint(make_predictor().model, path, image_size=64)
    return path


def test_a_warning_is_from_the_line_that_called(checkpoint: Path) -> None:
    calls = [
        lambda: build_i2vpp_video_predictor("i2vpp-256", checkpoint, device="cpu", hydra_overrides_extra=SIZE),
        lambda: build_i2vpp("i2vpp-256", checkpoint, device="cpu", hydra_overrides_extra=SIZE),
        lambda: load_checkpoint(make_predictor().model, checkpoint, image_size=80),
    ]
    for call in calls:
        with pytest.warns(I2VPPWarning, match="trained at image_size 64, but the model runs at 80") as caught:
            call()
        assert [(one.filename, one.lineno) for one in caught] == [(__file__, call.__code__.co_firstlineno)]


def test_training_says_it_without_advice(checkpoint: Path) -> None:
    model = make_predictor(image_size=80).model
    with pytest.warns(I2VPPWarning) as caught:
        start(model, StartConfig(checkpoint=str(checkpoint)), seed=0)
    assert [str(one.message) for one in caught] == [
        f"{checkpoint} was trained at image_size 64, and this run trains it at 80"
    ]


def test_the_command_shows_one_sentence(checkpoint: Path, tmp_path: Path) -> None:
    video = write_video(tmp_path / "disc.mp4", moving_disc(2)[0])
    words = ["track", str(video), "-o", str(tmp_path / "out"), "--point", "-0.5,9", "--checkpoint", str(checkpoint)]
    options = ["--config", "i2vpp-256", "--override", *SIZE, "--device", "cpu", "--quiet"]
    done = subprocess.run(
        [sys.executable, "-m", "i2vpp.cli", *words, *options], cwd=REPO, capture_output=True, text=True, check=True
    )
    lines = done.stderr.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"i2vpp: warning: {checkpoint} was trained at image_size 64, but the model runs at 80")


def test_other_warnings_are_shown_as_ever(capsys: pytest.CaptureFixture[str]) -> None:
    before = warnings.formatwarning
    with plain_warnings("tool: "):
        text = warnings.formatwarning(UserWarning("theirs"), UserWarning, "file.py", 3, "")
        assert text == before(UserWarning("theirs"), UserWarning, "file.py", 3, "")
        assert warnings.formatwarning(I2VPPWarning("ours"), I2VPPWarning, "f.py", 3) == "tool: warning: ours\n"
    assert warnings.formatwarning is before
    with warnings.catch_warnings(record=True) as caught, plain_warnings(silent=True):
        warnings.warn("ours", I2VPPWarning, stacklevel=1)
    assert not caught
