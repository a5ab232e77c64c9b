"""The gallery of the documentation: the page shows what its script runs, pictures are there, and the examples work."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import i2vpp
from conftest import REPO
from i2vpp.cli import build_parser
from i2vpp.i2vpp_image_predictor import I2VPPImagePredictor
from models import make_predictor
from tools import make_gallery
from tools.make_gallery import EXAMPLES, PAGE, PICTURES, Example

COMMANDS = [example for example in EXAMPLES if example.command]
MOST_BYTES = 500_000


def test_the_page_is_what_the_script_writes() -> None:
    assert PAGE.read_text(encoding="utf-8") == make_gallery.render(), "run python tools/make_gallery.py --page"


def test_every_picture_is_there_and_all_are_small() -> None:
    files = sorted(PICTURES.iterdir())
    assert [path.stem for path in files] == sorted(example.name for example in EXAMPLES)
    assert sum(path.stat().st_size for path in files) <= MOST_BYTES
    for path in files:
        with Image.open(path) as picture:
            assert picture.width == make_gallery.WIDTH


@pytest.mark.parametrize("example", COMMANDS, ids=lambda example: example.name)
def test_a_command_of_the_gallery_has_options_that_exist(example: Example) -> None:
    program, *arguments = shlex.split(example.command)
    assert program == "i2vpp"
    build_parser().parse_args(arguments)


@pytest.mark.filterwarnings("ignore:no mask passed the thresholds")
def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a small network, in the order of the page, and in another folder, so that nothing of the clone changes."""
    (tmp_path / "i2vpp").symlink_to(REPO / "i2vpp")
    monkeypatch.setattr(make_gallery, "REPO", tmp_path)
    monkeypatch.chdir(tmp_path)
    predictor = make_predictor()

    def small(*_: Any, **__: Any) -> Any:
        return predictor

    monkeypatch.setattr("i2vpp.commands.segment.build_predictor", small)
    monkeypatch.setattr("i2vpp.cli.build_predictor", small)
    monkeypatch.setattr(i2vpp, "build_i2vpp_video_predictor", small)
    monkeypatch.setattr(i2vpp, "build_i2vpp_image_predictor", lambda **_: I2VPPImagePredictor(predictor.model))
    names = make_gallery.start()
    for example in EXAMPLES:
        picture = make_gallery.make_picture(example, names)
        assert min(picture.size) > 100, example.name
