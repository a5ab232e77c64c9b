"""The benchmark in tools/: what it counts, and that its numbers and tables are whole."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from conftest import REPO
from i2vpp import tracking
from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
from i2vpp.session.state import InferenceState
from models import SIDE, make_predictor

sys.path.insert(0, str(REPO / "tools"))
import benchmark
import frame_cost

SMALL = frame_cost.Settings(overrides=(f"model.image_size={SIDE}",), width=64, height=48, warmup=0, frames=1)
SMALL_OPTIONS = [
    "--override",
    f"model.image_size={SIDE}",
    "--video",
    "64x48",
    "--warmup",
    "0",
    "--frames",
    "1",
    "--threads",
    "1",
]


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    case = frame_cost.Case(config="i2vpp-256", device="cpu", dtype="float32", objects=1)
    steps: list[None] = []
    measured = frame_cost.measure(case, SMALL, lambda: steps.append(None))
    assert len(steps) == frame_cost.num_steps(SMALL)
    return measured


@pytest.fixture
def session() -> Iterator[tuple[I2VPPVideoPredictor, InferenceState]]:
    """Two prompted objects on frame 0."""
    predictor = make_predictor()
    video, masks = frame_cost.make_video(SMALL, objects=2)
    with predictor.init_state(video) as state:
        for obj_id, mask in enumerate(masks, start=1):
            predictor.add_new_mask(state, 0, obj_id, mask)
        yield predictor, state


def test_every_part_takes_time_and_they_add_up(result) -> None:
    assert list(result["parts"]) == list(frame_cost.PARTS)
    assert all(seconds > 0 for seconds in result["parts"].values())
    assert sum(result["parts"].values()) == pytest.approx(result["parts_seconds_per_frame"])
    assert result["seconds_per_frame"] == result["frame_seconds"][0] > 0
    assert result["fps"] == pytest.approx(1 / result["seconds_per_frame"])


def test_the_floor_is_the_work_over_the_rate(result) -> None:
    assert result["flop_per_frame"] == sum(result["parts_flop"].values())
    assert result["floor_seconds"] == pytest.approx(result["flop_per_frame"] / result["matmul_flop_per_second"])
    assert result["share_of_floor"] == pytest.approx(result["floor_seconds"] / result["seconds_per_frame"])
    # Reading memory multiplies once: the positions of 7 pointers go through a linear layer from 256 to 64 channels.
    assert result["parts_flop"]["read memory"] == 2 * 7 * 256 * 64
    assert result["parts_flop"]["memory attention"] > result["parts_flop"]["memory prompts"] > 0


def test_measured_frames_read_full_memory(result) -> None:
    assert (result["memory_groups"], result["memory_pointers"]) == (7, 7)
    assert result["image_size"] == SIDE
    assert result["peak_memory_bytes"] is None or result["peak_memory_bytes"] >= result["process_bytes_at_start"] > 1e6


@pytest.mark.parametrize("history", [frame_cost.FULL_MEMORY - 1, frame_cost.FULL_MEMORY])
def test_memory_is_filled_without_running_the_network(session, history) -> None:
    predictor, state = session
    frame_cost.fill_memory(state, history)
    assert list(state.features) == [0]
    predictor.track_frame(state, history + 1)
    assert list(state.features) == [0, history + 1]
    expected = 7 if history == frame_cost.FULL_MEMORY else 6  # FULL_MEMORY is the least that gives full memory
    assert frame_cost.memory_shape(state, history + 1) == (expected, expected)


def test_parts_share_out_all_that_a_meter_counts_and_leave_no_trace(session) -> None:
    predictor, state = session
    frame_cost.fill_memory(state, 2)
    before = tracking.Tracker.result, tracking.fill_holes, dict(predictor.model.memory_attention.__dict__)
    ticks = iter(range(1000))
    with frame_cost.split_by_part(predictor, state, lambda: next(ticks)) as shares:
        predictor.track_frame(state, 3)
    assert sum(shares.values()) == next(ticks) - 1
    with pytest.raises(KeyError, match="mine"), frame_cost.split_by_part(predictor, state, lambda: 0.0):
        raise KeyError("mine")
    assert before == (tracking.Tracker.result, tracking.fill_holes, dict(predictor.model.memory_attention.__dict__))


def test_two_per_multiply_and_add() -> None:
    with frame_cost.flop_counter() as counter:
        torch.rand(3, 5) @ torch.rand(5, 7)
    assert counter.get_total_flops() == 2 * 3 * 5 * 7


@pytest.mark.parametrize("masked", [False, True])
def test_fused_attention_counts_like_its_two_products(masked, device) -> None:
    q, k = torch.rand(2, 1, 6, 16, device=device), torch.rand(2, 1, 10, 16, device=device)
    bias = torch.zeros(2, 1, 1, 10, device=device) if masked else None
    with torch.no_grad(), frame_cost.flop_counter() as counter:
        F.scaled_dot_product_attention(q, k, k, attn_mask=bias)
    assert counter.get_total_flops() == 2 * (2 * 2 * 6 * 10 * 16)


def test_command_writes_json_and_tables(tmp_path, capfd) -> None:
    path = tmp_path / "new" / "results.json"
    options = ["--config", "i2vpp-256", "--device", "cpu", "--dtype", "float32", "--objects", "2", "--json", str(path)]
    assert benchmark.main([*SMALL_OPTIONS, *options]) == 0
    report = json.loads(path.read_text())
    assert report["settings"] == {**json.loads(json.dumps(vars(SMALL))), "threads": 1}
    assert report["torch"] == torch.__version__
    assert report["command"].endswith(str(path))
    assert {"date", "cpu", "cpu_count", "weights", "i2vpp", "python", "platform"} <= set(report)
    (case,) = report["cases"]
    assert (case["config"], case["device"], case["dtype"], case["objects"]) == ("i2vpp-256", "cpu", "float32", 2)
    assert case["threads"] == 1
    assert case["device_name"] == report["cpu"]
    out = capfd.readouterr().out
    assert "untrained" in out
    for part in (*frame_cost.PARTS, "whole frame"):
        assert f"\n| {part} " in out
    *_, header, _, row = out.splitlines()
    assert len(header) == len(row)
    assert [cell.strip() for cell in row.split("|")][1:5] == ["i2vpp-256", "cpu", "float32", "2"]


def test_every_combination_runs_and_a_failed_one_is_told(tmp_path, monkeypatch, capsys) -> None:
    asked = []

    def run(command: list[str], *, check: bool) -> Any:
        asked.append(json.loads(Path(command[-2]).read_text())["case"])
        return SimpleNamespace(returncode=-9)

    monkeypatch.setattr(subprocess, "run", run)
    path = tmp_path / "results.json"
    options = ["--config", "i2vpp-256,i2vpp-512", "--dtype", "float32", "--dtype", "bfloat16", "--objects", "1,5"]
    assert benchmark.main([*options, "--device", "cpu", "--json", str(path)]) == 1
    assert [(case["config"], case["dtype"], case["objects"]) for case in asked] == [
        (config, dtype, objects)
        for config in ("i2vpp-256", "i2vpp-512")
        for dtype in ("float32", "bfloat16")
        for objects in (1, 5)
    ]
    assert capsys.readouterr().out.count("failed") == 8 * 7  # columns of numbers
    assert all(case["failed"] == "the process ended with status -9" for case in json.loads(path.read_text())["cases"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dtype", "float64"], "--dtype must be one of float32, bfloat16, float16; got 'float64'"),
        (["--config", "i2vpp-1"], "config 'i2vpp-1' is neither a file"),
        (["--override", "model.imagesize=64"], "unknown key 'model.imagesize'"),
        (["--device", "abacus"], "--device must be cpu, cuda, cuda:N or mps; got 'abacus'"),
        (["--device", "cuda:99"], "--device: there is no 'cuda:99' here; there are cpu (1)"),
        (["--objects", "1,0"], "--objects must be integers of 1 or more; got '0'"),
        (["--frames", "0"], "--frames must be at least 1; got 0"),
        (["--video", "640"], "--video must be WxH, even numbers of at least 16; got '640'"),
    ],
)
def test_wrong_usage_is_one_clear_error(options, message, capsys) -> None:
    assert benchmark.main(options) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"benchmark.py: error: {message}")
    assert printed.err.count("\n") == 1


def test_last_frame_of_the_video_is_the_counted_one() -> None:
    settings = replace(SMALL, history=3, warmup=2, frames=4)
    assert settings.num_frames == 1 + 3 + 2 + 4 + 4 + 1
