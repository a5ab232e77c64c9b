"""How long a run is on few and on many clips, and what a dry run says about that and about what would stop it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_files import SQUARE, write_image, write_mask
from training.config import TrainConfig
from training.length import run_length, shortened
from training.optimizer import schedule
from training.preview import Preview, preview
from training.recipes import load_recipe
from training.train import main


def finetune(*overrides: str) -> TrainConfig:
    return load_recipe("i2vpp-finetune", ["data.sources.own.images=x", *overrides])


@pytest.mark.parametrize("batches", [1, 2, 3, 7, 8, 9, 15, 16, 40, 100])
def test_fine_tuning_on_few_videos_reaches_its_rate_and_is_validated_on_its_way(batches: int) -> None:
    config = finetune()
    length = run_length(config, batches)
    assert length.accumulate == min(8, batches)
    assert length.total_steps == 20 * (batches // length.accumulate)
    optimizer = replace(config.optimizer, warmup_steps=length.warmup_steps)
    factors = [schedule(step, length.total_steps, optimizer) for step in range(length.total_steps)]
    assert max(factors) == 1.0
    assert factors.index(1.0) == length.warmup_steps <= length.total_steps / 10
    assert factors[-1] < 0.05
    validated = [step for step in range(1, length.total_steps) if step % length.validate_every == 0]
    assert validated and validated[0] <= length.total_steps / 2


def test_a_long_run_is_as_its_recipe_says() -> None:
    config = finetune("validation.images=x", "validation.annotations=y")
    length = run_length(config, 800)
    assert (length.accumulate, length.warmup_steps, length.validate_every) == (8, 100, 200)
    assert length.picture_every == config.run.picture_every
    assert not list(shortened(config, length))
    for name in ("i2vpp-train", "i2vpp-smoke", "i2vpp-demo"):
        recipe = load_recipe(name)
        whole = run_length(recipe, 2000)
        asked = (recipe.optimizer.accumulate, recipe.optimizer.warmup_steps, recipe.validation.every)
        assert name == "i2vpp-smoke" or (whole.accumulate, whole.warmup_steps, whole.validate_every) == asked, name


def test_what_is_cut_is_said() -> None:
    config = finetune("validation.images=x", "validation.annotations=y")
    assert list(shortened(config, run_length(config, 4))) == [
        "optimizer.accumulate = 8 is cut to 4, the batches of an epoch",
        "optimizer.warmup_steps = 100 is cut to 2, a tenth of the run",
        "validation.every = 200 is cut to 10, half of the run",
        "run.picture_every = 500 is cut to 10, half of the run",
    ]
    quiet = finetune("run.picture_every=0", "optimizer.warmup_steps=0", "run.epochs=1")
    assert list(shortened(quiet, run_length(quiet, 8))) == []


@pytest.mark.parametrize(("batches", "accumulate"), [(16, 8), (15, 8), (5, 8), (7, 2)])
def test_steps_after_a_place_in_the_epoch(batches: int, accumulate: int) -> None:
    length = run_length(finetune(f"optimizer.accumulate={accumulate}"), batches)
    assert length.steps_after(0) == length.steps_per_epoch
    assert length.steps_after(length.accumulate) == length.steps_per_epoch - 1
    assert length.steps_after(batches) == length.steps_after(batches + 20) == 0


# ---- the dry run


@pytest.fixture
def own(tmp_path: Path) -> Callable[..., TrainConfig]:
    """Make a recipe for one video of three frames, which is scored on, too."""
    for t in range(3):
        write_image(tmp_path / "JPEGImages" / "cat" / f"{t}.jpg")
        write_mask(tmp_path / "Annotations" / "cat" / f"{t}.png", np.where(SQUARE, 1, 0))

    def make(*overrides: str) -> TrainConfig:
        images, masks = tmp_path / "JPEGImages", tmp_path / "Annotations"
        return load_recipe(
            "i2vpp-finetune",
            [f"data.sources.own.images={images}", f"data.sources.own.annotations={masks}", "start.checkpoint=null",
             "model.image_size=64", f"validation.images={images}", f"validation.annotations={masks}",
             f"run.folder={tmp_path / 'run'}", *overrides],
        )  # fmt: skip

    return make


def lines(found: Preview) -> dict[str, str]:
    return dict(found.lines)


def test_a_dry_run_counts_videos_and_steps(own: Callable[..., TrainConfig], tmp_path: Path) -> None:
    found = preview(own(), world_size=1)
    assert not found.problems
    said = lines(found)
    assert said["data own"] == "1 video"
    assert said["scored on"] == "1 sequence"
    assert said["steps"] == "20; an epoch of 1 batch is 1 step of 1 batch"
    assert said["warm-up"] == "2 steps"
    assert said["validation"] == "every 10 steps and at the end"
    assert "repeat=10" in said["few steps"]
    assert said["time"].startswith("not known before the first steps")
    assert not (tmp_path / "run").exists()


def test_a_dry_run_estimates_the_time_from_steps_that_were_made(
    own: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    records = [{"step": step, "seconds/all": 900.0} for step in (1, 2)]
    (tmp_path / "run").mkdir()
    text = "".join(json.dumps(line) + "\n" for line in (*records, {"step": 2, "validation/jf": 0.5}))
    (tmp_path / "run" / "metrics.jsonl").write_text(text + '{"step": 3, "sec')
    said = lines(preview(own("run.max_minutes=30"), world_size=1))
    assert said["time"] == "5.0 hours, if the steps left take 900 s each as the latest did"
    assert said["stops"].startswith("after 30 minutes, saved")


@pytest.mark.parametrize(
    ("overrides", "problems"),
    [
        (
            ["data.sources.own.images=nowhere"],
            ["data.sources.own: the folder of frame folders, nowhere, does not exist"],
        ),
        (
            ["data.sources.own.annotations=nowhere", "validation.images=gone"],
            [
                "data.sources.own: the folder of mask folders, nowhere,",
                "validation: the folder of frame folders, gone,",
            ],
        ),
        (["data.sources.own.include=list.txt"], ["data.sources.own: cannot read the list list.txt: No such file"]),
        (["+data.sources.two.kind=coco", "+data.sources.two.images=a"], ["data.sources.two: the folder of images, a"]),
        (["optimizer.freeze=[imageencoder]"], ["optimizer.freeze: the network has no part 'imageencoder'"]),
        (["start.checkpoint=nowhere.pt"], ["checkpoint nowhere.pt does not exist"]),
        (["run.folder=/dev/null/run"], ["run.folder=/dev/null/run: /dev/null is no folder that this user may write"]),
    ],
)
def test_a_dry_run_finds_what_would_stop_the_run(
    own: Callable[..., TrainConfig], overrides: list[str], problems: list[str]
) -> None:
    found = preview(own(*overrides), world_size=1)
    assert len(found.problems) == len(problems)
    for told, expected in zip(found.problems, problems, strict=True):
        assert expected in told


@pytest.mark.parametrize("broken", ["frames", "masks", "empty", "two frames"])
def test_a_dry_run_reads_the_data(own: Callable[..., TrainConfig], tmp_path: Path, broken: str) -> None:
    config = own("data.max_failures=3")
    if broken == "two frames":
        for folder in ("JPEGImages", "Annotations"):
            next((tmp_path / folder / "cat").glob("2.*")).unlink()
        (problem,) = preview(config, world_size=1).problems
        assert (
            "none of the 1 sequences of `validation` can be scored; the first: cat: no object shows before" in problem
        )
        return
    for t in range(3):
        if broken == "frames":
            (tmp_path / "JPEGImages" / "cat" / f"{t}.jpg").write_bytes(b"no picture")
        elif broken == "masks":
            (tmp_path / "Annotations" / "cat" / f"{t}.png").write_bytes(b"no picture")
        else:
            write_mask(tmp_path / "Annotations" / "cat" / f"{t}.png", np.zeros_like(SQUARE))
    first, second = preview(config, world_size=1).problems
    assert first.startswith("data.sources.own: 3 items in a row cannot be used")
    assert second.startswith("none of the 1 sequences of `validation` can be scored")


def test_a_full_disk_is_found_before_the_run(own: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 2**20})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    (problem,) = preview(own(), world_size=1).problems
    assert "1 MB are free there, and checkpoints may take" in problem


def test_a_dry_run_says_where_a_run_is_resumed(own: Callable[..., TrainConfig], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint.pt").write_bytes(b"no checkpoint")
    (problem,) = preview(own(), world_size=1).problems
    assert "checkpoint.pt" in problem


def test_all_problems_are_printed_and_the_status_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["-c", "i2vpp-finetune", "--dry-run", "run.device=cpu", "start.checkpoint=nowhere.pt"]
    files = [f"data.sources.own.images={tmp_path / 'a'}", f"data.sources.own.annotations={tmp_path / 'b'}"]
    assert main([*arguments, *files]) == 2
    said = capsys.readouterr()
    assert said.out.startswith("run ")
    assert [line.partition(":")[0] for line in said.err.splitlines()] == ["error", "error"]
    assert "a, does not exist" in said.err and "nowhere.pt does not exist" in said.err
