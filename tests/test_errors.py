"""What errors say: lines that stay lines, whatever they quote."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from i2vpp import cli
from i2vpp.config import load_config
from i2vpp.data.files import read_image, require_folder
from i2vpp.errors import ConfigError, DataError, I2VPPError, PromptError, VideoError
from i2vpp.session.images import open_image
from i2vpp.session.video import open_source


@pytest.mark.parametrize("kind", [I2VPPError, VideoError, ConfigError, DataError])
@pytest.mark.parametrize(("quoted", "said"), [
    ("two\nlines.png", "two\\nlines.png"),
    ("a\r\nb", "a\\r\\nb"),
    ("\x1b[31mred", "\\x1b[31mred"),
    ("no text\0", "no text\\x00"),
    ("para\u2029graph", "para\\u2029graph"),
    ("latin\udce9.mp4", "latin\\udce9.mp4"),
    ("C:\\new\\file", "C:\\new\\file"),
    ("naïve  　漢字 🐇 مرحبا", "naïve  　漢字 🐇 مرحبا"),
])  # fmt: skip
def test_what_is_quoted_does_not_end_the_line(kind: type[I2VPPError], quoted: str, said: str) -> None:
    error = kind(f"cannot read {quoted}")
    assert str(error) == f"cannot read {said}"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    str(error).encode()


def test_a_message_of_several_lines_is_given_line_by_line() -> None:
    assert str(PromptError("first", "second\nline")) == "first\nsecond\\nline"
    assert str(PromptError()) == ""


def test_an_overlong_name_lacks_its_middle_and_others_are_whole() -> None:
    path = "/data/" + "/".join(["a folder of some length"] * 20) + "/" + "f" * 250
    assert str(VideoError(f"{path} is gone")) == f"{path} is gone"
    name = f"begin{'x' * 3000}end.mp4"
    said = str(VideoError(f"video {name} is gone"))
    assert said.startswith("video beginxxx")
    assert said.endswith("xxxend.mp4 is gone")
    assert "... (3012 characters) ..." in said
    assert len(said) < 500


@pytest.mark.parametrize("name", ["x" * 3000, "/nowhere/" + "/".join(["y" * 200] * 15)])
@pytest.mark.parametrize(("call", "said"), [
    (open_source, "does not exist"),
    (open_image, "does not exist"),
    (load_config, "is neither a file"),
    (lambda name: load_config("i2vpp-256", [f"model.{name}=1"]), "unknown key"),
    (lambda name: read_image(Path(name)), "cannot read the image"),
    (lambda name: require_folder(Path(name), "images"), "does not exist"),
])  # fmt: skip
def test_names_longer_than_the_system_allows(name: str, call: Callable[[str], Any], said: str) -> None:
    with pytest.raises(I2VPPError, match=said) as refused:
        call(name)
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize("words", [["track", "x" * 3000], ["x" * 3000], ["annotate", "x" * 3000], ["info", "x" * 3000]])
def test_commands_shorten_names(capsys: pytest.CaptureFixture[str], tmp_path: Path, words: list[str]) -> None:
    options = ["-o", str(tmp_path / "o"), "--point", "3,3", "--untrained"] if words[0] == "track" else []
    assert cli.main([*words, *options]) in (1, 2)
    said = capsys.readouterr().err.splitlines()[-1]
    assert "error: " in said
    assert "... (30" in said
    assert len(said) < 1000
