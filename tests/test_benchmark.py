"""The benchmark in tools/: what it measures and counts, and its command line."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from i2vpp.config import ModelConfig
from i2vpp.errors import ConfigError
from i2vpp.execution.compilation import CompiledRunner
from i2vpp.execution.part_times import COMPILED_PARTS, PARTS
from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
from models import SIDE, make_shallow
from tools import benchmark
from tools.benchmarking import floors, measure, report
from tools.benchmarking.measure import TRACK_STEP, Case

SMALL = Case(
    config="i2vpp-256", image_size=SIDE, dtype="float32", width=64, height=48, frames=2, threads=1, matmul_sides=(64,)
)
OPTIONS = [
    *("--config", "i2vpp-256", "--image-size", str(SIDE), "--video", "64x48", "--device", "cpu", "--dtype", "float32"),
    *("--warmup", "1", "--frames", "1", "--threads", "1"),
]


def cells(table: str) -> list[list[str]]:
    """Rows of all tables in a text, headers too."""
    lines = [line for line in table.splitlines() if line.startswith("| ") and not line.startswith("| -")]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    return measure.measure_frames(SMALL)


# ---- one combination


def test_every_part_takes_time(result: dict[str, Any]) -> None:
    assert list(result["parts"]) == list(PARTS)
    assert all(seconds > 0 for seconds in result["parts"].values())
    assert len(result["frame_seconds"]) == 2
    assert result["p95_seconds"] > result["seconds_per_frame"] > 0
    assert result["peak_memory_bytes"] is None or result["peak_memory_bytes"] >= result["process_bytes_at_start"] > 1e6
    assert (result["image_size"], result["dtype"], result["threads"]) == (SIDE, "float32", 1)
    assert result["compile_seconds"] is None


def test_a_floor_is_the_work_over_the_rate(result: dict[str, Any]) -> None:
    assert set(result["parts_flop"]) < set(PARTS)
    assert result["flop"] == sum(result["parts_flop"].values()) > 0
    assert result["matmul_flop_per_second"] > 1e6
    assert result["floor_seconds"] == pytest.approx(result["flop"] / result["matmul_flop_per_second"])
    assert result["times_floor"] == pytest.approx(result["seconds_per_frame"] / result["floor_seconds"])


def test_measured_frames_read_full_memory(result: dict[str, Any]) -> None:
    assert SMALL.warmup == 14
    assert (result["memory_frames"], result["memory_pointers"]) == (7, 7)


@pytest.mark.slow
def test_a_compiled_step_is_one_part(result: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    plain = make_shallow(measure.build(SMALL))

    def build(case: Case) -> I2VPPVideoPredictor:
        """Build what `vos_optimized` builds, without a compiler."""
        return I2VPPVideoPredictor(plain.model, runner=partial(CompiledRunner, backend="eager"))

    monkeypatch.setattr(measure, "build", build)
    compiled = measure.measure_frames(replace(SMALL, compiled=True, frames=1))
    assert list(compiled["parts"]) == list(COMPILED_PARTS)
    assert compiled["compile_seconds"] > 0
    assert compiled["flop"] == result["flop"]
    assert list(compiled["parts_flop"]) == ["image encoder", TRACK_STEP]
    assert "\n| track step " in report.format_parts(compiled)


def test_a_live_session_is_measured_where_it_was_asked_for() -> None:
    case = replace(SMALL, objects=2, video_lengths=(3, 4))
    found = measure.measure_stream(case)
    assert [point["frames"] for point in found["checkpoints"]] == [3, 4]
    assert all(point["p95_seconds"] >= point["seconds_per_frame"] > 0 for point in found["checkpoints"])
    if measure.resident_memory() is not None:
        assert all(point["resident_bytes"] > 1e8 for point in found["checkpoints"])
    found["checkpoints"][0]["resident_bytes"], found["checkpoints"][1]["resident_bytes"] = 100 * 2**20, 102 * 2**20
    rows = cells(report.format_streams([found, {**asdict(case), "failed": "so"}]))
    assert [row[3:5] + row[-3:] for row in rows[1:3]] == [
        ["2", "3", "100", "", "+0.0%"],
        ["2", "4", "102", "", "+2.0%"],
    ]
    assert rows[3].count("failed") == 6


# ---- the floor


def test_the_published_network_takes_402_gflop() -> None:
    flop = floors.network_flop(ModelConfig(), objects=1, memory_frames=7, memory_pointers=7)
    expected = {"image encoder": 110.0, "memory attention": 274.9, "memory prompts": 1.97, "mask decoder": 3.68}
    expected |= {"memory encoder": 11.7}
    assert {part: count / 1e9 for part, count in flop.items()} == pytest.approx(expected, rel=0.01)
    assert sum(flop.values()) == pytest.approx(402.3e9, rel=0.001)
    pooled = ModelConfig(memory_pooling=2)
    five = floors.network_flop(pooled, objects=5, memory_frames=7, memory_pointers=7)
    assert sum(five.values()) == pytest.approx(1549e9, rel=0.001)  # of the network without pooled memory
    assert [five[part] == flop[part] for part in ("image encoder", "mask decoder")] == [True, False]


def test_products_grow_until_they_gain_nothing() -> None:
    def best(rates: dict[int, float]) -> float:
        return floors.best_rate((1024, 2048, 4096, 8192), lambda side: 2 * side**3 / rates[side])

    assert best(dict(zip(floors.MATMUL_SIDES, (1e13, 5e13, 6e13, 7e13), strict=True))) == pytest.approx(7e13)
    assert best({1024: 1.00e11, 2048: 1.05e11, 4096: 1.06e11}) == pytest.approx(1.06e11)
    assert best({1024: 1e9}) == pytest.approx(1e9)  # the next one would take more than a minute


# ---- the command


def test_command_writes_json_and_tables(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    choose = benchmark.choose_cases
    monkeypatch.setattr(
        benchmark, "choose_cases", lambda arguments: [replace(case, matmul_sides=(64,)) for case in choose(arguments)]
    )
    path = tmp_path / "new" / "results.json"
    assert benchmark.main([*OPTIONS, "--objects", "2", "--json", str(path)]) == 0
    written = json.loads(path.read_text())
    assert written["torch"] == torch.__version__
    assert written["command"].endswith(str(path))
    assert {"date", "commit", "cpu", "cpu_count", "i2vpp", "python", "platform"} <= set(written)
    (case,) = written["cases"]
    assert (case["config"], case["device"], case["dtype"], case["objects"]) == ("i2vpp-256", "cpu", "float32", 2)
    assert (case["image_size"], case["threads"], case["width"], case["height"]) == (SIDE, 1, 64, 48)
    assert case["device_name"] == written["cpu"]
    out = capfd.readouterr().out
    assert "random weights" in out
    for part in (*PARTS, report.WHOLE):
        assert f"\n| {part} " in out
    *_, header, _, row = out.splitlines()
    assert len(header) == len(row)
    assert cells(row)[0][:4] == [f"i2vpp-256, {SIDE} px", "cpu", "float32", "2"]


def failing(case: Case) -> dict[str, Any]:
    """Stand in for a measurement that fails, or whose process is killed."""
    if case.objects == 1:
        raise ConfigError("no such thing")
    os._exit(9)


def test_every_combination_runs_and_a_failed_one_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark, "measure_frames", failing)
    path = tmp_path / "results.json"
    options = ["--config", "i2vpp-256", "--objects", "1,2", "--device", "cpu", "--json", str(path)]
    assert benchmark.main(options) == 1
    printed = capfd.readouterr()
    assert printed.out.count("failed") == 2 * len(report.SUMMARY)
    reasons = [case["failed"] for case in json.loads(path.read_text())["cases"]]
    assert reasons[0] == "no such thing"
    assert reasons[1].startswith("BrokenProcessPool: ")
    assert all(f"error: {reason}\n" in printed.err for reason in reasons)


def test_options_with_several_values_are_combined() -> None:
    options = ["--config", "i2vpp-256,i2vpp-512", "--dtype", "float32", "--dtype", "bfloat16", "--objects", "1, 5"]
    options += [
        "--image-size",
        "64,128",
        "--device",
        "cpu",
        "--video-length",
        "9,5,9",
        "--override",
        "model.fill_hole_area=0",
    ]
    cases = benchmark.choose_cases(benchmark.build_parser().parse_args(options))
    assert [(case.config, case.image_size, case.dtype, case.objects) for case in cases] == [
        (config, side, dtype, objects)
        for config in ("i2vpp-256", "i2vpp-512")
        for side in (64, 128)
        for dtype in ("float32", "bfloat16")
        for objects in (1, 5)
    ]
    assert cases[0].video_lengths == (5, 9)
    assert cases[0].all_overrides == ["model.fill_hole_area=0", "model.image_size=64"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dtype", "float64"], "unknown dtype 'float64'; did you mean 'float32'"),
        (["--config", "i2vpp-1"], "config 'i2vpp-1' is neither a file"),
        (["--override", "model.imagesize=64"], "unknown key 'model.imagesize'"),
        (["--image-size", "64,100"], "model.image_size must be an integer, a multiple of 16, from 64 to 4096; got 100"),
        (["--device", "abacus"], "unknown device 'abacus'; "),
        (["--device", "cuda:99"], "this machine has no device 'cuda:99'"),
    ],
)
def test_what_the_library_refuses_is_one_clear_error(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert benchmark.main(["--device", "cpu", *options] if "--device" not in options else options) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"benchmark.py: error: {message}")
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--objects", "1,0"], "argument --objects: must be an integer of 1 or more; got '0'"),
        (["--frames", "0"], "argument --frames: must be an integer of 1 or more; got '0'"),
        (["--video", "640"], "argument --video: must be WxH, even numbers of at least 16; got '640'"),
        (["--video-length", "1"], "argument --video-length: must be an integer of 3 or more; got '1'"),
        (["--dtpye", "float32"], "unrecognized arguments: --dtpye float32; did you mean '--dtype'?"),
    ],
)
def test_wrong_options_are_refused(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        benchmark.main(options)
    assert capsys.readouterr().err.endswith(f"benchmark.py: error: {message}\n")
