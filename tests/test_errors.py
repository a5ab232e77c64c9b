"""What errors say: lines that stay lines, whatever they quote."""

from __future__ import annotations

import pickle

import pytest

from i2vpp.errors import ConfigError, DataError, I2VPPError, PromptError, VideoError


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
