"""What tracking leaves when a disk is full: whole files, or none, and a word about each that is not whole."""

from __future__ import annotations

import csv
import errno
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from i2vpp import cli
from i2vpp.errors import I2VPPError
from i2vpp.structures import FrameResult
from i2vpp.utils.overlay_video import OverlayWriter
from i2vpp.utils.result_files import VideoInfo
from i2vpp.utils.writers import FrameAccess, OutputChoice, ResultWriter
from media import write_video
from test_cli import FakePredictor

resource = pytest.importorskip("resource")
pytest.importorskip("pycocotools.mask")

HEIGHT, WIDTH, FRAMES = 96, 128, 60
ALL = OutputChoice(rle=True)
VIDEO = VideoInfo(height=HEIGHT, width=WIDTH, fps=25.0, num_frames=FRAMES)
NOISE = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def result(frame_idx: int) -> FrameResult:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    inside = (x - frame_idx % WIDTH) ** 2 + (y - HEIGHT / 2) ** 2 < 900
    logits = torch.from_numpy(np.where(inside, 4.0, -4.0).astype(np.float32))
    return FrameResult(frame_idx, [1], logits[None, None], torch.tensor([2.0]), torch.tensor([0.9]))


def picture(frame_idx: int) -> np.ndarray:
    return np.roll(NOISE, frame_idx, axis=1)


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let the system refuse what would make a file longer, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def failing_sync(monkeypatch: pytest.MonkeyPatch, successes: int) -> Iterator[None]:
    """Let the disk become full where files are flushed to it, after some that still could be."""
    sync, calls = os.fsync, iter(range(10**6))

    def full(descriptor: int) -> None:
        if next(calls) >= successes:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        yield


def write_all(folder: Path, *, in_order: bool) -> tuple[ResultWriter, list[BaseException]]:
    """Write a run as `track` does; return the writer and what it raised."""
    writer = ResultWriter(folder, ALL, VIDEO, FrameAccess(read=picture), in_order=in_order)
    raised: list[BaseException] = []
    try:
        for frame_idx in range(FRAMES) if in_order else reversed(range(FRAMES)):
            writer.add(result(frame_idx))
    except (OSError, I2VPPError) as error:
        raised.append(error)
    try:
        writer.close()
    except (OSError, I2VPPError) as error:
        raised.append(error)
    return writer, raised


def check_what_is_left(folder: Path, writer: ResultWriter) -> None:
    """Whatever is there can be read, and what is there in part only is named."""
    said = " and ".join(writer.problems)
    names = {path.name for path in folder.iterdir()}
    assert not {name for name in names if name.endswith(".tmp") or name.startswith(".")}
    assert not [path for path in (folder / "masks").iterdir() if path.name.startswith(".")]
    for path in (folder / "masks").iterdir():
        with Image.open(path) as image:
            assert np.array(image).any()
    if "overlay.mp4" in names:
        with av.open(str(folder / "overlay.mp4")) as container:
            count = sum(1 for _ in container.decode(video=0))
        assert count >= len(writer.frames) or f"overlay.mp4 holds the first {count} of " in said
    else:
        assert not writer.frames or "overlay.mp4 could not be finished and is deleted" in said
    if "masks.json" in names:
        objects = json.loads((folder / "masks.json").read_text())["objects"]
        assert set(map(int, objects.get("1", {}))) >= set(writer.frames)
        assert "masks.json.partial" not in names
    elif writer.frames:
        assert "masks.json could not be written; its masks are in masks.json.partial" in said
        lines = [json.loads(line) for line in (folder / "masks.json.partial").read_text().splitlines()]
        assert {line["frame"] for line in lines} >= set(writer.frames)
        assert set(lines[0]) == {"object", "frame", "rle"}
    text = (folder / "scores.csv").read_text()
    assert text.endswith("\n") or not text
    assert {int(row["frame"]) for row in csv.DictReader(text.splitlines())} >= set(writer.frames)


@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize("size", [200, 4000, 9000, 20_000, 60_000, 100_000])
def test_a_disk_that_fills_leaves_whole_files_and_says_what_is_not(tmp_path: Path, size: int, in_order: bool) -> None:
    with files_of_at_most(size):
        writer, raised = write_all(tmp_path, in_order=in_order)
    assert raised
    assert all("File too large" in str(error) for error in raised)
    check_what_is_left(tmp_path, writer)


@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize("successes", [0, 7, *range(2 * FRAMES, 2 * FRAMES + 4)])
def test_a_disk_that_is_full_when_files_are_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, successes: int, in_order: bool
) -> None:
    with failing_sync(monkeypatch, successes):
        writer, raised = write_all(tmp_path, in_order=in_order)
    assert any(isinstance(error, OSError) and error.errno == errno.ENOSPC for error in raised) or successes > 2 * FRAMES
    check_what_is_left(tmp_path, writer)


def test_with_space_enough_nothing_is_said(tmp_path: Path) -> None:
    writer, raised = write_all(tmp_path, in_order=True)
    assert (raised, writer.problems) == ([], [])
    check_what_is_left(tmp_path, writer)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["masks", "masks.json", "overlay.mp4", "scores.csv"]


def test_an_overlay_that_cannot_be_opened_names_its_file(tmp_path: Path) -> None:
    writer = OverlayWriter(tmp_path / "nowhere" / "o.mp4", 25.0)
    with pytest.raises(OSError, match=r"No such file or directory: '.*nowhere/o\.mp4'"):
        writer.add(picture(0))  # the encoder may hold the frame back
        writer.close()
    writer.close()
    assert writer.problem == "o.mp4 could not be finished and is deleted"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Return what makes a disk of so many bytes; for those only who may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def make(size: int) -> Path:
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        try:
            done = subprocess.run(mount, capture_output=True, check=False)
        except FileNotFoundError:
            pytest.skip("there is no `mount` here")
        if done.returncode:
            pytest.skip("only root may mount a small disk")
        return folder

    yield make
    subprocess.run(["umount", str(folder)], capture_output=True, check=False)


@pytest.mark.parametrize(
    ("outputs", "size"),
    [(["--no-masks", "--no-scores"], 40_000), (["--no-masks", "--no-scores", "--json"], 40_000), (["--both"], 190_000)],
)
def test_track_on_a_full_disk_exits_1_and_says_what_is_left(
    tmp_path: Path,
    small_disk: Callable[[int], Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    outputs: list[str],
    size: int,
) -> None:
    monkeypatch.setattr("i2vpp.build_i2vpp.build_i2vpp_video_predictor", FakePredictor().build)
    video = write_video(tmp_path / "v.mp4", [picture(i) for i in range(40)])
    folder = small_disk(size) / "o"
    arguments = ["track", str(video), "-o", str(folder), "--box", "20,20,90,80", "--untrained", "--quiet"]
    assert cli.main([*arguments, *outputs]) == cli.EXIT_ERROR
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("i2vpp: error: [Errno 28] No space left on device: '")
    if (folder / "overlay.mp4").exists():
        with av.open(str(folder / "overlay.mp4")) as container:
            count = sum(1 for _ in container.decode(video=0))
        assert count == 40 or f"overlay.mp4 holds the first {count} of " in said
    else:
        assert "overlay.mp4 could not be finished and is deleted" in said
