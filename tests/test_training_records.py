"""Records of a run: metrics, TensorBoard, the line of progress, time, and pictures of rollouts."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from i2vpp.errors import RunError
from training.utils.pictures import WIDTH, DrawnPrompt, rollout_picture
from training.utils.records import METRICS, Records, Stopwatch


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]


@pytest.fixture
def no_tensorboard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)


@pytest.mark.usefixtures("no_tensorboard")
def test_without_tensorboard_all_else_works(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Records(tmp_path, total_steps=2) as records:
        records.step(1, {"loss": 2.5, "lr": 1e-3, "loss/mask": math.nan}, frames=8)
        records.picture(1, "rollout", np.zeros((4, 4, 3), np.uint8))
        records.scalars(1, {"validation/jf": 61.0})
        records.message("hello")
    assert capsys.readouterr().err.count("pip install tensorboard") == 1
    first, second = lines(tmp_path)
    assert (first["step"], first["loss"], first["loss/mask"], first["frames"]) == (1, 2.5, None, 8)
    assert first["seconds/all"] >= 0
    assert (second["step"], second["validation/jf"]) == (1, 61.0)
    assert sorted(path.name for path in tmp_path.iterdir()) == [METRICS]


@pytest.mark.usefixtures("no_tensorboard")
def test_after_resuming_each_step_appears_once(tmp_path: Path) -> None:
    with Records(tmp_path, total_steps=6) as records:
        for step in range(1, 5):
            records.step(step, {"loss": 1.0}, frames=1)
    with (tmp_path / METRICS).open("a") as file:
        file.write('{"step": 2, "lo')  # the process was killed here
    with Records(tmp_path, total_steps=6, start=2) as records:
        for step in (3, 4, 5):
            records.step(step, {"loss": 2.0}, frames=1)
    assert [(line["step"], line["loss"]) for line in lines(tmp_path)] == [(1, 1), (2, 1), (3, 2), (4, 2), (5, 2)]
    with Records(tmp_path, total_steps=6):
        assert not lines(tmp_path)  # a run from the start, for example because no checkpoint was written yet


def test_tensorboard_gets_scalars_and_pictures_once(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with Records(tmp_path, total_steps=4) as records:
        for step in (1, 2, 3):
            records.step(step, {"loss": 1.0}, frames=1)
    with Records(tmp_path, total_steps=4, start=1) as records:
        records.step(2, {"loss": 2.0}, frames=1)
        records.picture(2, "rollout", np.zeros((4, 6, 3), np.uint8))
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 1.0), (2, 2.0)]
    (picture,) = events.Images("rollout")
    assert (picture.step, picture.height, picture.width) == (2, 4, 6)


def test_other_ranks_write_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Records(tmp_path / "run", total_steps=2, main=False) as records:
        with records.stopwatch.measure("data"):
            pass
        records.step(1, {"loss": 1.0}, frames=1)
        records.scalars(1, {"jf": 1.0})
        records.picture(1, "rollout", np.zeros((4, 4, 3), np.uint8))
        records.message("hello")
        records.skip("items", "broken")
    assert not (tmp_path / "run").exists()
    assert capsys.readouterr() == ("", "")


@pytest.mark.usefixtures("no_tensorboard")
def test_skipped_things_are_counted_and_the_first_ones_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Records(tmp_path, total_steps=1) as records:
        for number in range(12):
            records.skip("items", f"video {number} is broken")
        records.skip("steps", "loss is nan")
        records.step(1, {"loss": 1.0, "lr": 3e-4}, frames=1)
    told = capsys.readouterr().err
    assert "skipped items: video 8 is broken\n" in told
    assert "skipped items: video 9 is broken (further skipped items are only counted)" in told
    assert "video 10" not in told
    assert "skipped steps: loss is nan" in told
    (line,) = lines(tmp_path)
    assert (line["skipped/items"], line["skipped/steps"]) == (12, 1)
    for part in ("1/1", "loss 1", "frames/s", "data 0%", "lr 3.00e-04", "12 items skipped", "1 steps skipped"):
        assert part in told


@pytest.mark.usefixtures("no_tensorboard")
def test_a_full_disk_ends_the_run_with_one_clear_error(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("there is no /dev/full here")
    records = Records(tmp_path, total_steps=1)
    records._metrics.close()
    records._metrics = full.open("w", buffering=1)
    with pytest.raises(RunError, match="could not be written: No space left on device; make room"):
        records.step(1, {"loss": 1.0}, frames=1)
    records._bar.close()


def test_the_stopwatch_splits_the_time() -> None:
    seconds = 10.0
    watch = Stopwatch(now=lambda: seconds)
    for _ in range(2):
        with watch.measure("data"):
            seconds += 1.0
        with pytest.raises(KeyError), watch.measure("step"):
            seconds += 2.0
            raise KeyError
    seconds += 0.5
    assert watch.lap() == {"all": 6.5, "data": 2.0, "step": 4.0, "rest": 0.5}
    seconds += 3.0
    assert watch.lap() == {"all": 3.0, "rest": 3.0}


def grey_frames(count: int, side: int) -> torch.Tensor:
    return torch.full((count, 3, side, side), 102, dtype=torch.uint8)


@pytest.mark.parametrize("side", [64, 512])
def test_a_rollout_is_drawn_frame_by_frame(side: int) -> None:
    half, quarter = side // 2, side // 4
    truth = torch.zeros(3, side, side, dtype=torch.bool)
    truth[:2, :, :half] = True
    logits = torch.full((3, quarter, quarter), -3.0)
    logits[0, :, : quarter // 2] = 3.0
    prompts = [
        DrawnPrompt(mask=truth[0]),
        DrawnPrompt(points=[(0.75 * side, 0.5 * side)], labels=[0], box=(quarter, quarter, half, half)),
        DrawnPrompt(),
    ]
    picture = rollout_picture(grey_frames(3, side), truth, logits, prompts)
    gap = 4
    assert picture.shape == (3 * (WIDTH + gap) + gap, 3 * (WIDTH + gap) + gap, 3)
    assert picture.dtype == np.uint8

    def color(row: int, column: int, x: float, y: float) -> list[int]:
        corner = gap + row * (WIDTH + gap), gap + column * (WIDTH + gap)
        return picture[corner[0] + int(y * WIDTH), corner[1] + int(x * WIDTH)].tolist()

    grey = [102, 102, 102]
    for row, column, drawn in [(0, 0, True), (0, 1, True), (0, 2, True), (1, 1, False), (1, 2, True), (2, 2, False)]:
        assert (color(row, column, 0.25, 0.75) != grey) == drawn, (row, column)
        assert color(row, column, 0.8, 0.8) == grey
    assert color(0, 1, 0.25, 0.75) == color(1, 2, 0.25, 0.75)  # the object has one colour
    assert color(1, 0, 0.75, 0.512)[0] > 200  # the red disc of a negative click
    assert color(1, 0, 0.25, 0.4)[0] > 200  # the box
    assert color(2, 0, 0.25, 0.75) == grey


def test_prompts_of_a_frame_are_gathered_for_one_object() -> None:
    box = torch.tensor([[[1.0, 2], [3, 4]], [[5.0, 6], [7, 8]]])
    click = torch.tensor([[[9.0, 9]], [[2.0, 3]]])
    padded = torch.tensor([[[9.0, 9]], [[0.0, 0]]])
    prompts = [
        ("box", box, torch.tensor([[2, 3], [2, 3]])),
        ("click", click, torch.tensor([[1], [0]])),
        ("click", padded, torch.tensor([[1], [-1]])),
    ]
    drawn = DrawnPrompt.of(prompts, 1)
    assert drawn.box == (5, 6, 7, 8)
    assert (drawn.points, drawn.labels, drawn.mask) == ([(2, 3)], [0], None)
    assert drawn.description == "box + 1 click"
    assert DrawnPrompt.of(prompts, 0).description == "box + 2 clicks"

    masks = torch.zeros(2, 4, 4, dtype=torch.bool)
    masks[1, 0] = True
    masked = DrawnPrompt.of([("mask", masks, None)], 1)
    assert masked.mask is not None and masked.mask.equal(masks[1])
    assert masked.description == "mask"
    assert DrawnPrompt.of([], 0).description == ""


def test_a_picture_needs_as_many_masks_as_frames() -> None:
    masks = torch.zeros(2, 64, 64, dtype=torch.bool)
    with pytest.raises(ValueError, match="3 frames, 2 true masks, 2 predicted masks, 1 prompts; allowed: as many"):
        rollout_picture(grey_frames(3, 64), masks, masks, [DrawnPrompt()])
