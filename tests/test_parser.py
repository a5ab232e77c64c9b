"""Unknown options, choices and subcommands: each command says what was probably meant."""

from __future__ import annotations

import argparse
import ast
from collections.abc import Callable
from pathlib import Path

import pytest

from i2vpp import cli
from i2vpp.utils.parser import Parser, integer, key_value
from training import train

REPO = Path(__file__).resolve().parent.parent


def parser() -> Parser:
    parser = Parser(prog="tool")
    parser.add_argument("paths", nargs="*")
    parser.add_argument("--override", action="append")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--level", type=int, choices=(1, 2))
    parser.add_argument("--box", "-b")
    return parser


@pytest.mark.parametrize(("words", "message"), [
    (["--overide"], "unrecognized arguments: --overide; did you mean '--override'?"),
    (["--overide=x=1"], "unrecognized arguments: --overide=x=1; did you mean '--override'?"),
    (["--BOX"], "unrecognized arguments: --BOX; did you mean '--box'?"),
    (["--over=x=1"], "unrecognized arguments: --over=x=1; did you mean '--override'?"),
    (["--l=1"], "unrecognized arguments: --l=1; did you mean '--level'?"),
    (["--zzz"], "unrecognized arguments: --zzz\n"),
    (["--dtype", "fp16"], "argument --dtype: invalid choice: 'fp16'; did you mean 'float16'?"),
    (["--dtype", "bf16"], "argument --dtype: invalid choice: 'bf16'; did you mean 'bfloat16'?"),
    (["--dtype", "x"], "argument --dtype: invalid choice: 'x'; allowed: float32, bfloat16, float16"),
    (["--level", "3"], "argument --level: invalid choice: 3; allowed: 1, 2"),
])  # fmt: skip
@pytest.mark.parametrize("intermixed", [False, True])
def test_hints(words: list[str], message: str, intermixed: bool, capsys: pytest.CaptureFixture[str]) -> None:
    parse = parser().parse_intermixed_args if intermixed else parser().parse_args
    with pytest.raises(SystemExit) as end:
        parse(words)
    assert end.value.code == 2
    assert f"tool: error: {message}" in capsys.readouterr().err


def test_right_words_are_parsed_as_ever() -> None:
    found = parser().parse_args(["--override", "a=1", "-b", "-0.5,3,20,30", "--override=b=2", "x", "--", "--y"])
    assert (found.override, found.box, found.paths) == (["a=1", "b=2"], "-0.5,3,20,30", ["x", "--y"])
    assert parser().parse_args(["--box", "-.5,1"]).box == "-.5,1"
    assert parser().parse_intermixed_args(["x", "--box", "-3,1", "y"]).paths == ["x", "y"]


def test_other_spellings_are_accepted_and_named_in_one_line_of_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    tool = parser()
    tool.add_aliases({"--over_ride": "--override", "--kind": "--dtype"})
    found = tool.parse_args(["--over_ride", "a=1", "--override", "b=2", "--kind=float16"])
    assert (found.override, found.dtype) == (["a=1", "b=2"], "float16")
    (line,) = (line for line in tool.format_help().splitlines() if "--over_ride" in line)
    assert line == "Also accepted: --over_ride for --override, --kind for --dtype."
    with pytest.raises(SystemExit):
        tool.parse_args(["--kinds", "float16"])
    assert "unrecognized arguments: --kinds; did you mean '--dtype'?" in capsys.readouterr().err


@pytest.mark.parametrize(("parse", "words", "message"), [
    (integer(1), ["0", "-1", "1.0", "one", ""], "must be an integer of 1 or more; got "),
    (integer(1, 100), ["0", "101"], "must be an integer, 1 to 100; got "),
    (key_value, ["a", "=1"], "expected KEY=VALUE, got "),
])  # fmt: skip
def test_values_of_options(parse: Callable[[str], object], words: list[str], message: str) -> None:
    for word in words:
        with pytest.raises(argparse.ArgumentTypeError) as raised:
            parse(word)
        assert str(raised.value) == f"{message}{word!r}"
    assert integer(1, 100)("100") == 100 and key_value("a=b=c") == "a=b=c"


@pytest.mark.parametrize(("words", "message"), [
    (["trak", "v"], "i2vpp: error: argument COMMAND: invalid choice: 'trak'; did you mean 'track'?"),
    (["track", "v", "-o", "o", "--overide", "x=1"],
     "i2vpp track: error: unrecognized arguments: --overide x=1; did you mean '--override'?"),
    (["track", "v", "--ouput", "o"], "arguments are required: -o/--output; did you mean '--output'?"),
    (["track", "v", "-o", "o", "--dtype", "half"], "argument --dtype: invalid choice: 'half'; did you mean 'float16'?"),
    (["segment", "a.jpg", "-o", "o", "--mask", "m.png"],
     "i2vpp segment: error: unrecognized arguments: --mask m.png; did you mean '--masks'?"),
    (["info", "x", "--js"], "i2vpp info: error: unrecognized arguments: --js; did you mean '--json'?"),
    (["info", "x", "--jsn"], "i2vpp info: error: unrecognized arguments: --jsn; did you mean '--json'?"),
    (["--vresion"], "did you mean '--version'?"),
    (["info", "x", "y"], "i2vpp: error: unrecognized arguments: y\n"),
])  # fmt: skip
def test_the_command(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == cli.EXIT_USAGE
    assert message in capsys.readouterr().err


def test_training(capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["-c", "i2vpp-smoke", "run.epochs=1", "--dry-rn", "run.seed=1"]) == train.EXIT_USAGE
    assert "did you mean '--dry-run'?" in capsys.readouterr().err


def test_all_commands_use_it() -> None:
    """Each place that makes a parser makes this one, but for the runtime that is copied to where i2vpp is not."""
    folders = ("i2vpp", "training", "sav_dataset", "test_pvs", "tools")
    made = {
        file.relative_to(REPO).as_posix()
        for folder in folders
        for file in (REPO / folder).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("ArgumentParser")
    }
    assert made == {"i2vpp/export/i2vpp_onnx.py"}
