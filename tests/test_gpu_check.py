"""The script for whoever has a GPU: it keeps to nine minutes, and its commands are understood."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tools import benchmark, benchmark_training, profile_kernels

SCRIPT = Path(__file__).resolve().parent.parent / "tools" / "gpu_check.sh"
TEXT = SCRIPT.read_text(encoding="utf-8").replace("\\\n", " ")
PARSERS: dict[str, Callable[[list[str]], argparse.Namespace]] = {
    "tools/benchmark.py": benchmark.build_parser().parse_args,
    "tools/benchmark_training.py": benchmark_training.build_parser().parse_args,
    "tools/profile_kernels.py": profile_kernels.build_parser().parse_args,
}


def parts() -> dict[str, tuple[int, list[str]]]:
    """Limit and command of each part."""
    frames = re.search(r"^frames=\((.*)\)$", TEXT, re.MULTILINE)
    assert frames is not None
    found = {}
    for line in re.findall(r"^part (.*)$", TEXT, re.MULTILINE):
        name, limit, _, *command = shlex.split(line.replace('"${frames[@]}"', frames[1]))
        found[name] = int(limit), command
    return found


def test_all_parts_together_take_less_than_nine_minutes() -> None:
    assert list(parts()) == ["plain", "kernels", "training", "compiled", "tests"]
    assert sum(limit for limit, _ in parts().values()) < 9 * 60


@pytest.mark.parametrize("name", ["plain", "kernels", "training", "compiled"])
def test_a_part_is_understood(name: str) -> None:
    program, *options = parts()[name][1]
    arguments = PARSERS[program](options)
    assert arguments.device in ("cuda", ["cuda"])
    if name in ("plain", "compiled"):
        assert (arguments.objects, arguments.config) == ([1, 5, 20], ["i2vpp-infer", "i2vpp-512"])
        assert arguments.compile == (name == "compiled")


def test_without_a_gpu_it_says_so() -> None:
    if torch.cuda.is_available():
        pytest.skip("a GPU is there")
    environment = {"PYTHON": sys.executable, "PATH": "/usr/bin:/bin"}
    ended = subprocess.run([str(SCRIPT)], env=environment, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (2, "gpu_check.sh: PyTorch finds no GPU\n")


def test_the_longest_operators_of_a_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--config", "i2vpp-256", "--override", "model.image_size=64", "--warmup", "0", "--frames", "1"]
    assert profile_kernels.main([*options, "--device", "cpu"]) == 0
    table = capsys.readouterr().out
    assert "Self CPU time total" in table
    assert table.count("aten::") == profile_kernels.ROWS
    assert profile_kernels.main([*options, "--device", "abacus"]) == 1
    assert "unknown device 'abacus'" in capsys.readouterr().err
