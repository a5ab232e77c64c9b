"""Results that are written in the background: the same files, the same errors, and less waiting."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from i2vpp.structures import FrameResult
from i2vpp.utils.background import WAITING, BackgroundWriter
from i2vpp.utils.result_files import VideoInfo, index_map
from i2vpp.utils.writers import FrameAccess, OutputChoice, PreparedFrame, ResultWriter

HEIGHT, WIDTH, FRAMES = 24, 32, 12
VIDEO = VideoInfo(height=HEIGHT, width=WIDTH, fps=10.0)
CHOICE = OutputChoice(rle=True)


def picture(frame_idx: int) -> np.ndarray:
    return np.full((HEIGHT, WIDTH, 3), 10 * frame_idx, np.uint8)


def result(frame_idx: int) -> FrameResult:
    """Two objects, one of which moves."""
    masks = torch.full((2, 1, HEIGHT, WIDTH), -1.0)
    masks[0, 0, 2:8, frame_idx : frame_idx + 8] = 1
    masks[1, 0, 6:12, 4:20] = 2
    scores = torch.tensor([1.0, frame_idx])
    return FrameResult(frame_idx, [3, 7], masks, scores, scores / 20)


def make(folder: Path, *, in_order: bool = True) -> ResultWriter:
    frames = FrameAccess(read=picture, time=lambda frame_idx: frame_idx / 10)
    return ResultWriter(folder, CHOICE, VIDEO, frames, in_order=in_order)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("i2vpp-")]


@pytest.mark.parametrize("in_order", [True, False])
def test_files_are_the_same_to_the_byte(tmp_path: Path, in_order: bool) -> None:
    order = list(range(FRAMES)) if in_order else [*range(5, FRAMES), *range(5, -1, -1)]  # 5 comes twice
    plain = make(tmp_path / "plain", in_order=in_order)
    writer = make(tmp_path / "background", in_order=in_order)
    background = BackgroundWriter(writer)
    for frame_idx in order:
        plain.add(result(frame_idx))
        background.add(result(frame_idx))
    plain.close()
    background.close()
    background.close()
    assert content(tmp_path / "background") == content(tmp_path / "plain")
    assert len(content(tmp_path / "plain")) == FRAMES + 3
    assert writer.frames == plain.frames == list(range(FRAMES))
    assert threads() == []


def test_an_error_comes_at_once_and_files_end_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = make(tmp_path / "o")
    write = writer.write

    def failing(prepared: PreparedFrame) -> None:
        if prepared.result.frame_idx == 4:
            raise OSError(errno.ENOSPC, "No space left on device", "somewhere")
        write(prepared)

    monkeypatch.setattr(writer, "write", failing)
    background = BackgroundWriter(writer)
    added = []
    with pytest.raises(OSError, match="No space left on device: 'somewhere'"):
        for frame_idx in range(1000):
            added.append(frame_idx)
            background.add(result(frame_idx % FRAMES))
    assert added[-1] <= 4 + WAITING + 3
    background.close()  # says nothing: it was said
    assert writer.frames == [0, 1, 2, 3]
    assert sorted(path.name for path in (tmp_path / "o" / "masks").iterdir()) == [f"{i:05d}.png" for i in range(4)]
    assert threads() == []


@pytest.mark.parametrize("part", ["prepare", "write"])
def test_an_error_at_the_last_frame_comes_when_closing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    writer = make(tmp_path)
    work: Callable[..., Any] = getattr(writer, part)

    def failing(*args: Any) -> Any:
        if part == "write" or args[0].frame_idx == 0:
            time.sleep(0.05)
            raise PermissionError(errno.EACCES, "Permission denied")
        return work(*args)

    monkeypatch.setattr(writer, part, failing)
    background = BackgroundWriter(writer)
    background.add(result(0))
    with pytest.raises(PermissionError, match="Permission denied"):
        background.close()
    assert writer.frames == []
    assert (tmp_path / "scores.csv").read_text().count("\n") == 1


@pytest.mark.parametrize("part", ["prepare", "write"])
def test_tracking_waits_for_neither_drawing_nor_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """Each frame is drawn and written only after tracking has added it and gone on."""
    writer = make(tmp_path)
    work: Callable[..., Any] = getattr(writer, part)
    gone_on = [threading.Event() for _ in range(FRAMES)]
    waited: dict[int, bool] = {}

    def after_tracking(first: Any, *others: Any) -> Any:
        frame_idx = first.frame_idx if part == "prepare" else len(waited)
        waited[frame_idx] = gone_on[frame_idx].wait(30)
        return work(first, *others)

    monkeypatch.setattr(writer, part, after_tracking)
    background = BackgroundWriter(writer)
    for frame_idx in range(FRAMES):
        background.add(result(frame_idx))
        gone_on[frame_idx].set()
    background.close()
    assert waited == dict.fromkeys(range(FRAMES), True)
    assert writer.frames == list(range(FRAMES))


def test_frames_do_not_pile_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow disk slows tracking down rather than filling the memory."""
    writer = make(tmp_path)
    write, gate, added = writer.write, threading.Event(), []
    monkeypatch.setattr(writer, "write", lambda prepared: (gate.wait(30), write(prepared)))
    background = BackgroundWriter(writer)

    def add_all() -> None:
        for frame_idx in range(FRAMES):
            background.add(result(frame_idx))
            added.append(frame_idx)

    tracking = threading.Thread(target=add_all)
    tracking.start()
    tracking.join(0.5)
    assert tracking.is_alive()
    assert len(added) <= WAITING + 1
    gate.set()
    tracking.join()
    background.close()
    assert writer.frames == list(range(FRAMES))


def test_many_ids_are_mapped() -> None:
    ids = [255, 1, 200]
    masks = torch.tensor([[[[1.0, -1.0, 2.0, 0.0]]], [[[3.0, -1.0, 2.0, 0.0]]], [[[2.0, 0.5, 1.0, -1.0]]]])
    scores = torch.zeros(3)
    assert index_map(FrameResult(0, ids, masks, scores, scores)).tolist() == [[1, 200, 255, 0]]
