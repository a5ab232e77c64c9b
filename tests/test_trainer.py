"""The training loop, whole: it learns, stops and resumes, shares work between processes, and survives bad steps."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing
from PIL import Image

from data_files import write_mask
from i2vpp.build_i2vpp import build_i2vpp_video_predictor
from i2vpp.checkpoint import read_checkpoint
from i2vpp.errors import RunError
from i2vpp.utils.distributed import Ranks, find_free_port
from training.checkpoint import keep_best
from training.config import TrainConfig
from training.dataset.clips import ClipBatch
from training.loss_fns import LossTerms
from training.model.objective import Objective
from training.recipes import load_recipe
from training.trainer import run
from training.utils.records import Records
from training.validation import SequenceScore

REPO = Path(__file__).resolve().parent.parent
ALONE = Ranks(rank=0, local_rank=0, world_size=1)
TINY = (
    "run.picture_every=0",
    "data.sources.made_up.clip.num_frames=2",
    "data.sources.made_up.clip.max_objects=1",
    "data.sources.made_up.batch_size=1",
    "user.corrections=1",
)


def recipe(folder: Path, *overrides: str) -> TrainConfig:
    return load_recipe("i2vpp-smoke", [f"run.folder={folder}", *TINY, *overrides])


def metrics(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in metrics(folder)]


def interrupt_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process get SIGTERM when it records a step."""
    record = Records.step

    def and_interrupt(self: Records, number: int, scalars: Any, *, frames: int) -> None:
        record(self, number, scalars, frames=frames)
        if number == step:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Records, "step", and_interrupt)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_smoke_recipe_learns_and_its_checkpoint_tracks(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "training.train", "-c", "configs/i2vpp-smoke.yaml", f"run.folder={folder}"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False, timeout=550)
    assert done.returncode == 0, done.stderr[-2000:]
    records = metrics(folder)
    assert [line["step"] for line in records] == list(range(1, 21))
    masks = [line["loss/mask"] + line["loss/auxiliary"] for line in records]
    assert np.mean(masks[-5:]) < 0.95 * np.mean(masks[:5])
    assert all(line["gradient_norm"] < 1e4 for line in records)

    predictor = build_i2vpp_video_predictor(
        "i2vpp-256", folder / "checkpoint.pt", device="cpu", hydra_overrides_extra=["model.image_size=64"]
    )
    with predictor.init_state([np.zeros((48, 64, 3), np.uint8)] * 3) as state:
        predictor.add_new_mask(state, 0, 1, np.eye(48, 64, dtype=bool))
        assert len(list(predictor.propagate_in_video(state))) == 3

    resumed = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False, timeout=300)
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    assert metrics(folder) == records, "a finished run has nothing left to do"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_five_and_five_steps_are_ten_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = ("run.max_steps=10", "optimizer.ema=0.9", "optimizer.dropout=true", "optimizer.batch_norm=train",
                 "data.sources.made_up.length=4", "run.epochs=3")  # fmt: skip
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    run(recipe(whole, *overrides), ALONE)
    with monkeypatch.context() as patch:
        interrupt_after(5, patch)
        run(recipe(halves, *overrides), ALONE)
    assert len(losses(halves)) == 5
    run(recipe(halves, *overrides), ALONE)
    assert losses(halves) == losses(whole)
    assert [line["epoch"] for line in metrics(whole)] == [0] * 3 + [1] * 4 + [2] * 3
    one, other = (read_checkpoint(folder / "checkpoint.pt") for folder in (whole, halves))
    for name, value in one["model"].items():
        assert torch.equal(value, other["model"][name]), name
    for name, value in one["training"]["weights"].items():
        assert torch.equal(value, other["training"]["weights"][name]), name


def _train_as_rank(rank: int, port: int, folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2",
                      LOCAL_RANK=str(rank))  # fmt: skip
    run(recipe(folder, "run.max_steps=4"), Ranks(rank=rank, local_rank=rank, world_size=2))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_are_one_with_the_doubled_batch(tmp_path: Path) -> None:
    run(recipe(tmp_path / "one", "run.max_steps=4", "data.sources.made_up.batch_size=2"), ALONE)
    torch.multiprocessing.spawn(_train_as_rank, args=(find_free_port(), tmp_path / "two"), nprocs=2)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=2e-3)
    one, two = (read_checkpoint(tmp_path / name / "checkpoint.pt")["model"] for name in ("one", "two"))
    name = "memory_attention.layers.0.linear1.weight"
    assert (one[name] - two[name]).abs().max() < 1e-3


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_sigterm_loses_no_finished_step(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "training.train", "-c", "i2vpp-smoke", f"run.folder={tmp_path / 'run'}", *TINY]
    process = subprocess.Popen(command, cwd=REPO, stderr=subprocess.PIPE, text=True)
    records = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and not (records.exists() and len(records.read_text().splitlines()) >= 2):
        assert process.poll() is None, process.stderr and process.stderr.read()[-2000:]
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=200)
    steps = [line["step"] for line in metrics(tmp_path / "run")]
    assert read_checkpoint(tmp_path / "run" / "checkpoint.pt")["training"]["state"]["step"] == steps[-1]
    assert 2 <= steps[-1] < 20
    assert f"stopped after step {steps[-1]} of 20; the same command resumes the run" in told


def write_videos(folder: Path, *names: str, length: int = 3) -> None:
    """A moving square in each video, in DAVIS's layout."""
    for name in names:
        for t in range(length):
            mask = np.zeros((40, 48), np.uint8)
            mask[10:30, 8 + 4 * t : 28 + 4 * t] = 1
            write_mask(folder / "Annotations" / name / f"{t:05}.png", mask)
            picture = folder / "JPEGImages" / name / f"{t:05}.png"
            picture.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.stack([mask * 200] * 3, axis=2)).save(picture)


def scored_on(folder: Path) -> tuple[str, ...]:
    return (f"validation.images={folder / 'JPEGImages'}", f"validation.annotations={folder / 'Annotations'}")


class Killed(BaseException):
    """Stands for a kill -9: nothing handles it."""


@pytest.mark.parametrize(("fault", "at"), [("killed", 1), ("full disk", 2)])
def test_a_run_that_ended_before_its_best_copy_makes_it_when_it_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, at: int
) -> None:
    write_videos(tmp_path, "ant")
    config = recipe(
        tmp_path / "run", "run.max_steps=2", "validation.every=1", "user.corrections=0", *scored_on(tmp_path)
    )
    copied: list[int] = []

    def copy(path: Path) -> Path:
        copied.append(read_checkpoint(path)["training"]["state"]["step"])
        if len(copied) == at:
            raise Killed if fault == "killed" else RunError("best.pt could not be saved: No space left on device")
        return keep_best(path)

    scores = iter([0.25, 0.5, 0.5])
    monkeypatch.setattr("training.trainer.validate", lambda *_, **__: [SequenceScore(name="ant", j=s, f=s) for s in
                                                                       [next(scores)]])  # fmt: skip
    monkeypatch.setattr("training.trainer.keep_best", copy)
    with pytest.raises((Killed, RunError)):
        run(config, ALONE)
    assert copied == list(range(1, at + 1))
    run(config, ALONE)
    best = read_checkpoint(tmp_path / "run/best.pt")["training"]["state"]
    assert (best["step"], best["best"], best["best_step"]) == (2, 0.5, 2)


@pytest.mark.parametrize("file", ["config.yaml", "metrics.jsonl"])
def test_a_full_disk_at_the_start_leaves_the_files_of_the_run_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    config = recipe(tmp_path, "run.max_steps=1")
    run(config, ALONE)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    sync = os.fsync

    def full(descriptor: int) -> None:
        if file in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            raise OSError(28, "No space left on device")
        sync(descriptor)

    if not Path("/proc/self/fd").exists():
        pytest.skip("there is no /proc here")
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(RunError, match=rf"{file} could not be saved: No space left .*file written before is whole"):
        run(config, ALONE)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_the_documented_command_fine_tunes_on_one_video(tmp_path: Path) -> None:
    write_videos(tmp_path, "cat")
    own = (
        f"data.sources.own.images={tmp_path / 'JPEGImages'}",
        f"data.sources.own.annotations={tmp_path / 'Annotations'}",
    )
    small = ("model.image_size=64", "start.checkpoint=null", "run.device=cpu", "run.precision=float32", "run.epochs=2")
    quick = ("user.corrections=0", "data.sources.own.clip.num_frames=2", "data.workers=0")
    config = load_recipe(
        "i2vpp-finetune", [f"run.folder={tmp_path / 'run'}", *own, *scored_on(tmp_path), *small, *quick]
    )
    run(config, ALONE)
    records = metrics(tmp_path / "run")
    assert [line["step"] for line in records if "loss" in line] == [1, 2]
    assert [line["step"] for line in records if "validation/jf" in line] == [1, 2], "one comes before the end"
    assert records[0]["lr"] == config.optimizer.learning_rate, "a run of two steps has no warm-up"


def test_a_run_goes_on_with_fewer_videos_than_it_began_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = ("data.sources.made_up.length=3", "optimizer.accumulate=2")
    with monkeypatch.context() as patch:
        interrupt_after(2, patch)
        run(recipe(tmp_path, "data.sources.made_up.length=8", "optimizer.accumulate=2", "run.max_steps=4"), ALONE)
    with pytest.warns(UserWarning, match="is resumed with another config"):
        run(recipe(tmp_path, *few, "run.epochs=9", "run.max_steps=4"), ALONE)
    assert [(line["step"], line["epoch"]) for line in metrics(tmp_path)] == [(1, 0), (2, 0), (3, 2), (4, 3)]


def test_sequences_that_cannot_be_read_are_counted_and_left_out(tmp_path: Path) -> None:
    write_videos(tmp_path, "ant", "bee")
    write_videos(tmp_path, "short", length=2)
    (tmp_path / "Annotations/ant/00001.png").write_bytes(b"no picture")
    config = recipe(tmp_path / "run", "run.max_steps=1", "user.corrections=0", *scored_on(tmp_path))
    run(config, ALONE)
    assert "validation/jf" in metrics(tmp_path / "run")[-1]
    (tmp_path / "Annotations/bee/00001.png").write_bytes(b"no picture")
    again = recipe(tmp_path / "other", "run.max_steps=1", "user.corrections=0", *scored_on(tmp_path))
    run(again, ALONE)
    assert "validation/jf" not in metrics(tmp_path / "other")[-1]
    assert not (tmp_path / "other/best.pt").exists()


def test_validation_keeps_the_best_checkpoint_and_broken_items_are_counted(tmp_path: Path) -> None:
    write_videos(tmp_path, "ant", "bee", "broken")
    (tmp_path / "JPEGImages/broken/00001.png").write_bytes(b"no picture")
    (tmp_path / "held_out.txt").write_text("bee\n")
    own = ("+data.sources.own.kind=palette", f"+data.sources.own.images={tmp_path / 'JPEGImages'}",
           f"+data.sources.own.exclude={tmp_path / 'held_out.txt'}", "+data.sources.own.clip.num_frames=2",
           "~data.sources.made_up", "+data.sources.own.repeat=4")  # fmt: skip
    config = load_recipe(
        "i2vpp-smoke",
        [f"run.folder={tmp_path / 'run'}", "user.corrections=0", "run.picture_every=1", "run.max_steps=4", *own,
         *scored_on(tmp_path), f"validation.include={tmp_path / 'held_out.txt'}", "validation.every=2"],
    )  # fmt: skip
    run(config, ALONE)
    records = metrics(tmp_path / "run")
    scored = {line["step"]: line["validation/jf"] for line in records if "validation/jf" in line}
    assert sorted(scored) == [2, 4]
    best = read_checkpoint(tmp_path / "run/best.pt")["training"]["state"]
    assert best["best"] == max(scored.values())
    assert scored[best["step"]] == best["best"]
    assert records[-2]["skipped/items"] > 0, "the broken video was drawn, replaced and counted"
    assert list((tmp_path / "run/tensorboard").iterdir())
    assert load_recipe(tmp_path / "run/config.yaml") == config


def test_non_finite_steps_are_skipped_and_too_many_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = Objective.forward

    def broken(self: Objective, batch: ClipBatch) -> LossTerms:
        terms = forward(self, batch)
        return LossTerms(**{**vars(terms), "mask": terms.mask * math.nan})

    monkeypatch.setattr(Objective, "forward", broken)
    with pytest.raises(RunError, match=r"2 steps in a row were skipped, .* gradient's norm is nan on rank 0"):
        run(recipe(tmp_path, "optimizer.max_skipped=2"), ALONE)
    assert read_checkpoint(tmp_path / "checkpoint.pt")["training"]["state"]["step"] == 1, "the weights are still good"
