"""The benchmark of training in tools/: its runs are the trainer's own, and its numbers come from their records."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tools import benchmark_training
from tools.benchmark_training import Case, compose, format_results, main

SMALL = ["--image-size", "64", "--device", "cpu", "--threads", "1"]
SMALL += ["--override", "user.corrections=1", "--override", "data.workers=0", "--override", "run.precision=float32"]


def test_command_writes_json_and_a_table(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new" / "results.json"
    options = ["--frames", "2", "--clips", "2", "--warmup", "1", "--steps", "2", "--checkpoint-activations", "off"]
    assert main([*SMALL, *options, "--json", str(path)]) == 0
    report = json.loads(path.read_text())
    assert {"date", "cpu", "cpu_count", "i2vpp", "python", "platform", "commit"} <= set(report)
    assert report["torch"] == torch.__version__
    assert report["command"].endswith(str(path))
    assert report["commit"] is None or re.fullmatch(r"[0-9a-f]{40}\+?", report["commit"])
    (case,) = report["cases"]
    assert (case["image_size"], case["checkpoint_activations"], case["device"]) == (64, False, "cpu")
    assert (case["precision"], case["threads"], case["workers"]) == ("float32", 1, 0)
    assert case["frames_per_step"] == 4
    assert len(case["step_seconds"]) == len(case["data_seconds"]) == 2
    assert case["seconds_per_step"] == pytest.approx(sum(case["step_seconds"]) / 2)
    assert case["frames_per_second"] == pytest.approx(8 / sum(case["step_seconds"]))
    assert case["data_share"] == pytest.approx(sum(case["data_seconds"]) / sum(case["step_seconds"]))
    assert 0 < case["data_share"] < 1
    assert case["peak_memory_bytes"] is None or case["peak_memory_bytes"] >= case["process_bytes_at_start"] > 1e6
    *_, header, _, row = capfd.readouterr().out.splitlines()
    assert len(header) == len(row)
    assert [cell.strip() for cell in row.split("|")][1:5] == ["off", "float32", "64", "4"]


def test_a_combination_that_fails_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("I2VPP_DATA", str(tmp_path / "nothing"))
    path = tmp_path / "results.json"
    assert main([*SMALL, "-c", "i2vpp-demo", "--checkpoint-activations", "on", "--json", str(path)]) == 1
    printed = capfd.readouterr()
    assert f"error: cannot read the list {tmp_path / 'nothing'}/davis16/" in printed.err
    assert printed.out.count("failed") == 5  # columns of numbers
    (case,) = json.loads(path.read_text())["cases"]
    assert (case["image_size"], case["checkpoint_activations"], case["recipe"]) == (64, True, "i2vpp-demo")
    assert case["failed"].startswith("cannot read the list ")


def test_a_run_is_the_published_recipe_but_for_data_weights_and_length(tmp_path: Path) -> None:
    options = ["--frames", "4", "--objects", "2", "--device", "cpu", "--dtype", "float32"]
    arguments = benchmark_training.build_parser().parse_args(options)
    cases = benchmark_training.choose_cases(arguments)
    assert [(case.image_size, case.checkpoint_activations) for case in cases] == [
        *((256, False), (256, True)),
        *((512, False), (512, True)),
    ]
    config = compose(cases[1], tmp_path)
    (source,) = config.data.sources.values()
    assert (source.kind, source.batch_size, source.clip.num_frames, source.clip.max_objects) == ("procedural", 1, 4, 2)
    assert (config.user.corrections, config.optimizer.learning_rate, config.data.workers) == (7, 3e-4, 4)
    assert (config.run.max_steps, config.run.recompute, config.model.image_size) == (13, "always", 256)
    assert config.run.precision == "float32"
    assert config.start.image_model is None
    assert config.validation.images is None


def test_a_recipe_keeps_its_data_and_loses_validation_and_start(tmp_path: Path) -> None:
    overrides = ("data.sources.own.images=here",)
    case = Case(
        recipe="i2vpp-finetune", overrides=overrides, device="cpu", image_size=512, checkpoint_activations=False
    )
    config = compose(case, tmp_path)
    assert [source.images for source in config.data.sources.values()] == ["here"]
    assert config.start.checkpoint is None
    assert (config.optimizer.accumulate, config.run.recompute) == (8, "never")


def test_the_table_says_what_was_on() -> None:
    result: dict[str, Any] = {"image_size": 64, "precision": "bfloat16", "peak_memory_bytes": 3 * 2**20}
    result |= {"frames_per_step": 8.0, "seconds_per_step": 2.0, "frames_per_second": 4.0, "data_share": 0.125}
    table = format_results([{**result, "checkpoint_activations": on} for on in (False, True)]).splitlines()
    cells = [[cell.strip() for cell in line.split("|")][1:-1] for line in table]
    assert cells[0][-2:] == ["waits for data", "peak MiB"]
    assert cells[2] == ["off", "bfloat16", "64", "8", "2.000", "4.00", "12.5%", "3"]
    assert cells[3][0] == "on"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--image-size", "100"], "model.image_size must be an integer, a multiple of 16, from 64 to 4096; got 100"),
        (["-c", "i2vpp-nothing"], "recipe 'i2vpp-nothing' is neither a .yaml file"),
        (["--override", "run.precison=float32"], "unknown key 'run.precison'; did you mean 'run.precision'?"),
        (["--dtype", "float64"], "run.precision must be one of "),
        (["--device", "abacus"], "run.device must be one of auto, cuda, cpu, mps; got 'abacus'"),
        (["-c", "i2vpp-smoke", "--frames", "2", "--clips", "3"], "--frames, --clips: a recipe (-c) has its own clips"),
    ],
)
def test_wrong_usage_is_one_clear_error(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--device", "cpu", *options]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"benchmark_training.py: error: {message}")
    assert printed.err.count("\n") == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_told_before_anything_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--device", "cuda"]) == 2
    assert "1 GPUs are asked for, but PyTorch sees 0 on this machine" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps", "0"], "argument --steps: must be an integer of 1 or more; got '0'"),
        (["--image-size", "256,x"], "argument --image-size: must be an integer of 1 or more; got 'x'"),
        (["--stesp", "2"], "unrecognized arguments: --stesp 2; did you mean '--steps'?"),
    ],
)
def test_wrong_options_are_refused(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(options)
    assert capsys.readouterr().err.endswith(f"benchmark_training.py: error: {message}\n")


def test_image_sizes_are_separated_by_commas_or_blanks() -> None:
    for words in (["64,128"], ["64", "128"]):
        arguments = benchmark_training.build_parser().parse_args(["--image-size", *words, "--device", "cpu"])
        assert sorted({case.image_size for case in benchmark_training.choose_cases(arguments)}) == [64, 128]
