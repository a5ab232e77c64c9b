"""The benchmark in tools/: what it counts, and that its numbers and tables are whole."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from benchmark_files import cells
from conftest import REPO
from i2vpp import tracking
from i2vpp.config import ModelConfig
from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
from i2vpp.session.state import InferenceState
from models import SIDE, make_predictor

sys.path.insert(0, str(REPO / "tools"))
import benchmark
from benchmarking import frame_cost, meters, published, rates, streams, tables, videos
from benchmarking.cases import FULL_MEMORY, Case, Settings

SMALL = Settings(
    overrides=(f"model.image_size={SIDE}",), width=64, height=48, warmup=0, frames=1, first_masks=1, matmul_sides=(64,)
)
SMALL_OPTIONS = [
    *("--config", "i2vpp-256", "--image-size", str(SIDE), "--video", "64x48", "--device", "cpu", "--dtype", "float32"),
    *("--warmup", "0", "--frames", "1", "--first-masks", "0", "--threads", "1"),
]


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    steps: list[None] = []
    measured = frame_cost.measure(
        Case(config="i2vpp-256", device="cpu", dtype="float32", objects=1), SMALL, lambda: steps.append(None)
    )
    assert len(steps) == frame_cost.num_steps(SMALL)
    return measured


Session = tuple[I2VPPVideoPredictor, InferenceState]


@contextmanager
def two_objects() -> Iterator[Session]:
    """Two prompted objects on frame 0."""
    predictor = make_predictor()
    with predictor.init_state(videos.make_video(replace(SMALL, decoded=True), objects=2)) as state:
        for obj_id, mask in enumerate(videos.disc_masks(SMALL, objects=2), start=1):
            predictor.add_new_mask(state, 0, obj_id, mask)
        yield predictor, state


@pytest.fixture
def session() -> Iterator[Session]:
    with two_objects() as opened:
        yield opened


# ---- one combination


def test_every_part_takes_time_and_they_add_up(result) -> None:
    assert list(result["parts"]) == list(meters.PARTS)
    assert all(seconds > 0 for seconds in result["parts"].values())
    assert sum(result["parts"].values()) == pytest.approx(result["parts_seconds_per_frame"])
    assert result["seconds_per_frame"] == result["p95_seconds"] == result["frame_seconds"][0] > 0
    assert result["fps"] == pytest.approx(1 / result["seconds_per_frame"])


def test_a_floor_is_the_work_over_the_rate(result) -> None:
    for floor, work, rate in (
        ("floor", "flop", "matmul_flop_per_second"),
        ("published_floor", "published_flop", "matmul_flop_per_second"),
        ("memory_floor", "bytes", "copy_bytes_per_second"),
    ):
        assert result[f"{work}_per_frame"] == sum(result[f"parts_{work}"].values()) > 0
        assert result[f"{floor}_seconds"] == pytest.approx(result[f"{work}_per_frame"] / result[rate])
        assert sum(result[f"parts_{floor}_seconds"].values()) == pytest.approx(result[f"{floor}_seconds"])
    assert result["times_floor"] == pytest.approx(result["seconds_per_frame"] / result["floor_seconds"])
    assert result["times_published_floor"] * result["published_floor_seconds"] == pytest.approx(
        result["seconds_per_frame"]
    )
    # Reading memory multiplies once: the positions of 7 pointers go through a linear layer from 256 to 64 channels.
    assert result["parts_published_flop"]["read memory"] == 2 * 7 * 256 * 64
    assert result["parts_flop"]["memory attention"] > result["parts_flop"]["memory prompts"] > 0
    assert result["matmul_flop_per_second"] == result["matmul_flop_per_second_by_side"]["64"] > 1e6
    assert result["copy_bytes_per_second"] > 1e6


def test_measured_frames_read_full_memory(result) -> None:
    assert (result["memory_groups"], result["memory_pointers"]) == (7, 7)
    assert (result["image_size"], result["compiled"], result["compile_seconds"]) == (SIDE, False, None)
    assert result["peak_memory_bytes"] is None or result["peak_memory_bytes"] >= result["process_bytes_at_start"] > 1e6


def test_first_masks_are_timed_from_opening_and_told_in_frames(result) -> None:
    found = [(entry["prompt"], entry["frame_idx"]) for entry in result["first_masks"]]
    assert found == [("mask", 0), ("click", 0), ("click", SMALL.num_frames // 2)]
    for entry in result["first_masks"]:
        assert entry["seconds"] > entry["open_seconds"] > 0
        assert entry["decode_seconds"] > 0
        waited = entry["seconds"] - entry["open_seconds"]
        assert entry["frames"] == pytest.approx(waited / result["seconds_per_frame"])
    assert len(cells(tables.format_first_masks(result))) == 4


@pytest.mark.parametrize("history", [FULL_MEMORY - 1, FULL_MEMORY])
def test_memory_is_filled_without_running_the_network(session, history) -> None:
    predictor, state = session
    frame_cost.fill_memory(state, history)
    assert list(state.features) == [0]
    predictor.track_frame(state, history + 1)
    assert list(state.features) == [0, history + 1]
    expected = 7 if history == FULL_MEMORY else 6  # FULL_MEMORY is the least that gives full memory
    assert frame_cost.memory_shape(state, history + 1) == (expected, expected)


def test_parts_share_out_all_that_a_meter_counts_and_leave_no_trace(session) -> None:
    predictor, state = session
    frame_cost.fill_memory(state, 2)
    places = meters.tracking_places(predictor, state)

    def there() -> list[Any]:
        return [tracking.Tracker.result, tracking.fill_holes, dict(predictor.model.memory_attention.__dict__)]

    before, ticks = there(), iter(range(1000))
    with meters.split_by_part(places, lambda: next(ticks)) as shares:
        predictor.track_frame(state, 3)
    assert sum(shares.values()) == next(ticks) - 1
    with pytest.raises(KeyError, match="mine"), meters.split_by_part(places, lambda: 0.0):
        raise KeyError("mine")
    assert before == there()


def test_what_is_compiled_is_timed_as_one_and_counted_by_operation(session) -> None:
    predictor, state = session
    frame_cost.fill_memory(state, SMALL.history)
    runner = predictor._tracker.runner
    whole = frame_cost.measure_parts(predictor, state, replace(SMALL, compiled=True))
    assert predictor._tracker.runner is runner
    assert list(whole.seconds) == ["frames", "encode", "select", "find objects", "resize", "other"]
    assert min(whole.seconds.values()) > 0
    assert list(whole.flop) == list(whole.bytes) == list(whole.seconds)
    with two_objects() as (predictor, state):  # anew: a frame is compared with all others only once
        frame_cost.fill_memory(state, SMALL.history)
        single = frame_cost.measure_parts(predictor, state, SMALL)
    assert whole.flop == meters.by_part(single.flop, compiled=True)
    assert whole.flop["select"] > 0
    assert whole.flop["encode"] == single.flop["image trunk"] + single.flop["temporal integrator"]


def test_a_live_session_is_looked_at_where_it_was_asked_for() -> None:
    case = Case(config="i2vpp-256", device="cpu", dtype="float32", objects=2)
    steps: list[None] = []
    found = streams.measure_stream(case, replace(SMALL, video_lengths=(2, 4)), lambda: steps.append(None))
    assert len(steps) == 4
    assert [point["frames"] for point in found["checkpoints"]] == [2, 4]
    assert all(point["p95_seconds"] >= point["seconds_per_frame"] > 0 for point in found["checkpoints"])
    if rates.resident_memory() is not None:
        assert all(point["resident_bytes"] > 1e8 for point in found["checkpoints"])
    found["checkpoints"][0]["resident_bytes"], found["checkpoints"][1]["resident_bytes"] = 100 * 2**20, 102 * 2**20
    rows = cells(tables.format_streams([found, {**asdict(case), "failed": "so"}]))
    assert [row[3:5] + row[-3:] for row in rows[1:3]] == [
        ["2", "2", "100", "", "+0.0%"],
        ["2", "4", "102", "", "+2.0%"],
    ]
    assert rows[3].count("failed") == 6


# ---- what is counted


def test_the_published_network_takes_402_gflop() -> None:
    before = torch.autocast
    flop = published.published_flop(ModelConfig(), objects=1, groups=7, pointers=7)
    assert torch.autocast is before
    assert sum(flop.values()) == pytest.approx(402e9, rel=0.01)
    expected = {"image trunk": 77.5, "temporal integrator": 32.5, "memory attention": 274.9, "memory prompts": 1.97}
    expected |= {"decode": 3.69, "memorise": 11.7}
    assert {part: flop[part] / 1e9 for part in expected} == pytest.approx(expected, rel=0.01)
    five = published.published_flop(ModelConfig(), objects=5, groups=7, pointers=7)
    assert sum(five.values()) == pytest.approx(1549e9, rel=0.01)
    assert [five[part] == flop[part] for part in ("image trunk", "decode")] == [True, False]


def test_the_published_network_does_not_pool_memory() -> None:
    pooled = published.published_flop(ModelConfig(memory_pooling=2), objects=1, groups=7, pointers=7)
    assert sum(pooled.values()) == pytest.approx(402e9, rel=0.01)


def test_two_per_multiply_and_add() -> None:
    with meters.flop_counter() as counter:
        torch.rand(3, 5) @ torch.rand(5, 7)
    assert counter.get_total_flops() == 2 * 3 * 5 * 7


@pytest.mark.parametrize("masked", [False, True])
def test_fused_attention_counts_like_its_two_products(masked, device) -> None:
    q, k = torch.rand(2, 1, 6, 16, device=device), torch.rand(2, 1, 10, 16, device=device)
    bias = torch.zeros(2, 1, 1, 10, device=device) if masked else None
    with torch.no_grad(), meters.flop_counter() as counter:
        F.scaled_dot_product_attention(q, k, k, attn_mask=bias)
    assert counter.get_total_flops() == 2 * (2 * 2 * 6 * 10 * 16)


A, B = torch.rand(3, 5), torch.rand(5, 7)


@pytest.mark.parametrize(
    ("work", "elements"),
    [
        (lambda: A @ B, 3 * 5 + 5 * 7 + 3 * 7),
        (lambda: A + 1, 15 + 15),
        (lambda: A.t().reshape(-1), 15 + 15),  # a copy: the numbers are in another order
        (lambda: A.t().unsqueeze(0).detach()[:, 1:].split(2, dim=1), 0),  # views
        (lambda: torch.empty_like(A), 0),
        (lambda: torch.empty_like(A).copy_(A), 15 + 15),
        (lambda: torch.zeros(3, 5), 15),
        (lambda: A[:, :1].expand(3, 5) * 2, 3 + 15),  # the repeated column is read once
        (lambda: A.clone().add_(A), (15 + 15) + (15 + 15 + 15)),
        (lambda: B.index_select(0, torch.ones(1, dtype=torch.int64)), (1 * 2) + (7 + 1 * 2 + 7)),  # int64: twice
        (lambda: F.conv2d(torch.ones(1, 2, 4, 4), torch.ones(3, 2, 3, 3)), (32 + 54) + (32 + 54 + 12)),
    ],
)
def test_bytes_of_inputs_and_outputs_are_counted(work, elements) -> None:
    with torch.no_grad(), meters.TrafficCounter() as counter:
        work()
    assert counter.total == 4 * elements


def test_products_grow_until_they_gain_nothing() -> None:
    def seconds(flops: dict[int, float]) -> Any:
        return lambda side: 2 * side**3 / flops[side]

    sides = (1024, 2048, 4096, 8192)
    gpu = dict(zip(sides, (1e13, 5e13, 6e13, 7e13), strict=True))
    assert rates.matmul_rates(sides, seconds(gpu)) == pytest.approx(gpu)
    cpu = {1024: 1.00e11, 2048: 1.05e11, 4096: 1.06e11}
    assert rates.matmul_rates(sides, seconds(cpu)) == pytest.approx(cpu)
    slow = {1024: 1e9}  # the next one would take more than a minute
    assert rates.matmul_rates(sides, seconds(slow)) == pytest.approx(slow)


# ---- the command


@pytest.fixture
def small_products(monkeypatch) -> None:
    """Matrix products that take no time; everything else as the command line says."""
    settings = benchmark._settings
    monkeypatch.setattr(benchmark, "_settings", lambda arguments: replace(settings(arguments), matmul_sides=(64,)))


def test_command_writes_json_and_tables(tmp_path, capfd, small_products) -> None:
    path = tmp_path / "new" / "results.json"
    assert benchmark.main([*SMALL_OPTIONS, "--objects", "2", "--json", str(path)]) == 0
    report = json.loads(path.read_text())
    expected = replace(SMALL, overrides=(), first_masks=0, threads=1)
    assert report["settings"] == json.loads(json.dumps(asdict(expected)))
    assert report["torch"] == torch.__version__
    assert report["command"].endswith(str(path))
    assert {"date", "commit", "cpu", "cpu_count", "weights", "i2vpp", "python", "platform"} <= set(report)
    (case,) = report["cases"]
    assert (case["config"], case["device"], case["dtype"], case["objects"]) == ("i2vpp-256", "cpu", "float32", 2)
    assert (case["image_size"], case["threads"], case["first_masks"]) == (SIDE, 1, [])
    assert case["device_name"] == report["cpu"]
    out = capfd.readouterr().out
    assert "untrained" in out
    for part in (*meters.PARTS, "whole frame"):
        assert f"\n| {part} " in out
    *_, header, _, row = out.splitlines()
    assert len(header) == len(row)
    assert cells(row)[0][:4] == [f"i2vpp-256, {SIDE} px", "cpu", "float32", "2"]


@pytest.mark.slow
def test_two_checkouts_are_measured_in_turns(tmp_path, capfd, small_products) -> None:
    other = tmp_path / "other"
    shutil.copytree(REPO / "i2vpp", other / "i2vpp", ignore=shutil.ignore_patterns("__pycache__"))
    path = tmp_path / "results.json"
    assert benchmark.main([*SMALL_OPTIONS, "--against", str(other), "--json", str(path)]) == 0
    report = json.loads(path.read_text())
    assert report["against"]["checkout"] == str(other)
    assert report["against"]["commit"] is None
    (ours,), (theirs,) = report["cases"], report["against"]["cases"]
    assert len(ours["frame_seconds"]) == len(theirs["frame_seconds"]) == 2
    whole = cells(capfd.readouterr().out)[1]
    assert float(whole[3]) == pytest.approx(theirs["seconds_per_frame"] / ours["seconds_per_frame"], abs=0.01)
    assert benchmark.main([*SMALL_OPTIONS, "--against", str(REPO)]) == 2
    (other / "i2vpp" / "errors.py").write_text("raise SystemExit(7)\n")
    assert benchmark.main([*SMALL_OPTIONS, "--against", str(other), "--rounds", "1"]) == 1
    assert cells(capfd.readouterr().out)[-3][4:] == ["failed"] * 12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dtype", "float64"], "--dtype: unknown dtype 'float64'; did you mean 'float32'"),
        (["--config", "i2vpp-1"], "config 'i2vpp-1' is neither a file"),
        (["--override", "model.imagesize=64"], "unknown key 'model.imagesize'"),
        (["--image-size", "64,100"], "model.image_size must be an integer, a multiple of 16, from 64 to 4096; got 100"),
        (["--device", "abacus"], "unknown device 'abacus'; "),
        (["--device", "cuda:99"], "this machine has no device 'cuda:99'"),
        (["--objects", "1,0"], "--objects must be integers of 1 or more; got '0'"),
        (["--frames", "0"], "--frames must be at least 1; got 0"),
        (["--video", "640"], "--video must be WxH, even numbers of at least 16; got '640'"),
        (["--video-length", "1"], "--video-length must be integers of 2 or more; got '1'"),
        (["--video-length", "9", "--against", "."], "--video-length and --against do not go together"),
        (["--first-mask-video", "gone.mp4"], "--first-mask-video: there is no file 'gone.mp4'"),
        (
            ["--against", "nowhere"],
            "--against must name a clone of this project; there is no nowhere/i2vpp/__init__.py",
        ),
        (["--against", str(REPO)], f"--against names this checkout itself: {REPO}"),
    ],
)
def test_wrong_usage_is_one_clear_error(options, message, capsys) -> None:
    assert benchmark.main(["--device", "cpu", *options] if "--device" not in options else options) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"benchmark.py: error: {message}")
    assert printed.err.count("\n") == 1


def test_last_frames_of_the_video_are_the_counted_ones() -> None:
    settings = replace(SMALL, history=3, warmup=2, frames=4)
    assert settings.num_frames == 1 + 3 + 2 + 4 + 4 + 2
