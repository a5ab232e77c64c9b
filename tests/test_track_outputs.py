"""What `i2vpp track` leaves: times and names of the video, and whole files when it is told to stop."""

from __future__ import annotations

import csv
import itertools
import json
import os
import signal
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from i2vpp import cli
from i2vpp.commands import track
from i2vpp.structures import FrameResult
from i2vpp.utils.overlay_video import OverlayWriter
from i2vpp.utils.result_files import MaskWriter
from i2vpp.utils.signals import Terminated, exit_status, sigterm_raises, uninterrupted
from i2vpp.utils.writers import remove_results
from media import number_of, numbered, numbered_frame, write_video
from test_cli import FakePredictor, FakeState

NTSC = 1001 / 30000
DAY = 86400.0


def times_of(path: Path) -> list[float]:
    """Return when the frames of a video are shown, in seconds."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.time_base is not None
        return [float(frame.pts * stream.time_base) for frame in container.decode(video=0)]


def duration_of(path: Path) -> float:
    with av.open(str(path)) as container:
        return float(container.duration or 0) / av.time_base


def write_overlay(path: Path, times: list[float] | list[None], fps: float | None) -> Path:
    writer = OverlayWriter(path, fps)
    for i, time in enumerate(times):
        writer.add(numbered_frame(i % 256, 32, 64), time)
    writer.close()
    with av.open(str(path)) as container:
        numbers = [number_of(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    assert numbers == [i % 256 for i in range(len(times))]
    return path


CLOCKS: dict[str, tuple[list[float], float | None]] = {
    "constant": ([i / 25 for i in range(60)], 25.0),
    "NTSC": ([i * NTSC for i in range(130)], 1 / NTSC),
    "film": ([i * 1001 / 24000 for i in range(60)], 24000 / 1001),
    "milliseconds": ([round(i * NTSC, 3) for i in range(60)], 1 / NTSC),
    "variable": ([0, 0.04, 0.08, 0.12, 0.28, 0.56, 0.84], 17.5),
    "a gap of ten seconds": ([0, 0.04, 0.08, 10.08, 10.12], 0.4),
    "a gap between two groups of pictures": ([i / 25 + 10 * (i >= 48) for i in range(60)], 25.0),
    "from 5 s on": ([5 + i / 25 for i in range(10)], 25.0),
    "from -2 s on": ([-2 + i / 25 for i in range(10)], 25.0),
    "one frame an hour": ([3600.0 * i for i in range(5)], 1 / 3600),
    "one frame a day": ([DAY * i for i in range(5)], 1 / DAY),
    "60000 fps in the header": ([i / 25 for i in range(10)], 60000.0),
    "no rate": ([i / 25 for i in range(10)], None),
    "0 fps": ([i / 25 for i in range(10)], 0.0),
    "500 fps": ([i / 500 for i in range(10)], 500.0),
}


@pytest.mark.parametrize("clock", CLOCKS)
def test_an_overlay_has_the_times_of_its_source(tmp_path: Path, clock: str) -> None:
    times, fps = CLOCKS[clock]
    path = write_overlay(tmp_path / "o.mp4", times, fps)
    expected = [time - times[0] for time in times]
    assert times_of(path) == pytest.approx(expected, abs=2e-4, rel=1e-9)
    mean = expected[-1] / (len(times) - 1)
    last = min(expected[-1] - expected[-2], mean)  # how long the last frame is shown
    assert duration_of(path) == pytest.approx(expected[-1] + last, abs=1e-3, rel=1e-6)


@pytest.mark.parametrize(
    ("fps", "rate"), [(1 / NTSC, Fraction(30000, 1001)), (24000 / 1001, Fraction(24000, 1001)), (50, 50)]
)
def test_a_constant_rate_stays_exactly_that(tmp_path: Path, fps: float, rate: Fraction) -> None:
    path = write_overlay(tmp_path / "o.mp4", [i / fps for i in range(60)], fps)
    with av.open(str(path)) as container:
        assert container.streams.video[0].average_rate == rate


MADE_UP: dict[str, tuple[list[float] | list[None], float | None, float]] = {
    "no clock": ([None] * 5, None, 1 / 24),
    "no clock, but a rate": ([None] * 5, 10.0, 0.1),
    "no clock, one frame an hour": ([None] * 5, 1 / 3600, 3600),
    "no clock, 0 fps": ([None] * 5, 0.0, 1 / 24),
    "no clock, -5 fps": ([None] * 5, -5.0, 1 / 24),
    "no clock, 60000 fps": ([None] * 5, 60000.0, 1 / 24),
    "a clock of 60000 fps": ([i / 60000 for i in range(5)], 60000.0, 1 / 24),
    "a clock that stands still": ([3.0] * 5, 25.0, 1 / 25),
    "a clock that runs backwards": ([3.0 - i for i in range(5)], 25.0, 1 / 25),
    "no numbers": ([float("nan"), float("inf"), 1.0, float("nan"), 2.0], float("inf"), 1 / 24),
    "one frame": ([0.0], 25.0, 1 / 25),
    "one frame, no rate": ([0.0], None, 1 / 24),
}


@pytest.mark.parametrize("case", MADE_UP)
def test_without_a_usable_clock_frames_follow_each_other_evenly(tmp_path: Path, case: str) -> None:
    times, fps, period = MADE_UP[case]
    path = write_overlay(tmp_path / "o.mp4", times, fps)
    assert times_of(path) == pytest.approx([i * period for i in range(len(times))], abs=1e-3)
    assert duration_of(path) == pytest.approx(len(times) * period, abs=2e-3, rel=1e-6)


def test_single_times_out_of_order_are_moved_after_the_frame_before(tmp_path: Path) -> None:
    found = times_of(write_overlay(tmp_path / "o.mp4", [0.0, 0.4, 0.2, 0.4, 1.0], 5.0))
    assert found == pytest.approx([0, 0.4, 0.4, 0.4, 1.0], abs=1e-3)
    assert all(a < b for a, b in itertools.pairwise(found))


# `i2vpp track`


@pytest.fixture
def predictor(monkeypatch: pytest.MonkeyPatch) -> FakePredictor:
    fake = SignalledPredictor()
    monkeypatch.setattr("i2vpp.build_i2vpp.build_i2vpp_video_predictor", fake.build)
    return fake


class SignalledPredictor(FakePredictor):
    """Gets a signal when it comes to a frame, if it is told to."""

    signals: dict[int, signal.Signals]

    def __init__(self) -> None:
        super().__init__()
        self.signals = {}

    def _result(self, state: FakeState, frame_idx: int) -> FrameResult:
        if frame_idx in self.signals:
            os.kill(os.getpid(), self.signals[frame_idx])
        return super()._result(state, frame_idx)


def run(video: Path, out: Path, *arguments: str) -> int:
    options = ["-o", str(out), "--point", "20,20", "--untrained", "--quiet"]
    return cli.main(["track", str(video), *options, *arguments])


PTS = [0, 1, 2, 6, 7, 8, 258, 259]  # a pause and a gap of ten seconds, at 25 frames per second
DIRECTIONS: list[list[str]] = [[], ["--start-frame", "7", "--reverse"], ["--start-frame", "3", "--both"]]


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(("suffix", "start"), [("mp4", 0), ("mkv", 125)])
def test_overlay_and_scores_have_the_times_of_the_video(
    predictor: FakePredictor, tmp_path: Path, suffix: str, start: int, direction: list[str]
) -> None:
    pts = [start + time for time in PTS]
    video = write_video(tmp_path / f"v.{suffix}", numbered(len(PTS), 48, 64), fps=25, pts=pts)
    assert run(video, tmp_path / "out", *direction) == 0
    expected = [time / 25 for time in PTS]
    assert times_of(tmp_path / "out/overlay.mp4") == pytest.approx(expected, abs=1.5e-3)
    rows = list(csv.DictReader((tmp_path / "out/scores.csv").open()))
    assert {int(row["frame"]): float(row["time"]) for row in rows} == pytest.approx(
        dict(enumerate(expected)), abs=1.5e-3
    )


def test_an_overlay_of_a_part_begins_at_0_and_its_scores_where_the_part_does(
    predictor: FakePredictor, tmp_path: Path
) -> None:
    video = write_video(tmp_path / "v.mp4", numbered(len(PTS), 48, 64), fps=25, pts=PTS)
    assert run(video, tmp_path / "out", "--start-frame", "3", "--max-frames", "3") == 0
    assert times_of(tmp_path / "out/overlay.mp4") == pytest.approx([0, 0.04, 0.08, 10.08], abs=1e-3)
    rows = list(csv.DictReader((tmp_path / "out/scores.csv").open()))
    assert [float(row["time"]) for row in rows] == pytest.approx([0.24, 0.28, 0.32, 10.32], abs=1e-3)


FOLDERS = {
    "numbers": ["00005", "00010", "00015"],
    "more digits": ["000000", "000001", "1000000"],
    "names": ["left", "middle", "right"],
    "spaces and dots": ["my shot.v1.2", "my shot.v1.10", "my shot.v2"],
    "no sequence": ["frame_1", "frame_2", "frame_10"],
    "not ASCII": ["früh", "spät", "später"],
}


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
@pytest.mark.parametrize("direction", [[], ["--start-frame", "2", "--reverse"]])
@pytest.mark.parametrize("names", FOLDERS.values(), ids=FOLDERS)
def test_masks_are_called_like_the_frames_of_a_folder(
    predictor: FakePredictor, tmp_path: Path, names: list[str], direction: list[str], suffix: str
) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for i, name in enumerate(names):
        Image.fromarray(numbered_frame(i, 48, 64)).save(folder / f"{name}{suffix}")
    assert run(folder, tmp_path / "out", *direction) == 0
    masks = {path.stem: np.asarray(Image.open(path)) for path in (tmp_path / "out/masks").iterdir()}
    assert set(masks) == set(names)
    columns = [int(np.nonzero(masks[name])[1].min()) for name in names]
    assert columns == sorted(columns) and len(set(columns)) == len(names)  # the disc moves to the right
    rows = list(csv.DictReader((tmp_path / "out/scores.csv").open()))
    assert {row["time"] for row in rows} == {""}  # images have no clock
    other = tmp_path / "other"
    other.mkdir()
    for i in range(2):
        Image.fromarray(numbered_frame(i, 48, 64)).save(other / f"other {i}.png")
    assert run(other, tmp_path / "out", "--overwrite") == 0
    assert {path.stem for path in (tmp_path / "out/masks").iterdir()} == {"other 0", "other 1"}


def test_masks_of_somebody_else_are_not_removed(tmp_path: Path) -> None:
    MaskWriter(tmp_path / "masks", "written here {}".format).add(0, np.zeros((4, 4), np.uint8))
    image = Image.new("P", (4, 4))
    image.putpalette([0, 0, 0, 128, 0, 0])
    image.save(tmp_path / "masks/by hand.png")
    (tmp_path / "masks/damaged.png").write_bytes(b"x")
    remove_results(tmp_path)
    assert sorted(path.name for path in (tmp_path / "masks").iterdir()) == ["by hand.png", "damaged.png"]


@pytest.mark.parametrize("direction", [[], ["--start-frame", "0", "--both"]])
@pytest.mark.parametrize(
    ("number", "status", "word"), [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")]
)
def test_a_signal_leaves_whole_files(
    predictor: SignalledPredictor,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
    status: int,
    word: str,
    direction: list[str],
) -> None:
    pytest.importorskip("pycocotools.mask")
    predictor.signals[4] = number
    video = write_video(tmp_path / "v.mp4", numbered(8, 48, 64))
    out = tmp_path / "out"
    assert run(video, out, "--json", *direction) == status
    assert capsys.readouterr().err.splitlines()[-1] == f"i2vpp: {word}; 4 frames written to {out}"
    assert len(times_of(out / "overlay.mp4")) == 4
    assert sorted(json.loads((out / "masks.json").read_text())["objects"]["1"]) == list("0123")
    assert sorted(path.name for path in (out / "masks").iterdir()) == [f"{i:05d}.png" for i in range(4)]
    assert len((out / "scores.csv").read_text().splitlines()) == 5
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_after_sigterm_an_overlay_is_made_for_a_short_time_only(
    predictor: SignalledPredictor, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(track, "TERMINATED_SECONDS", 0.0)
    predictor.signals[4] = signal.SIGTERM
    video = write_video(tmp_path / "v.mp4", numbered(8, 48, 64))
    assert run(video, tmp_path / "out", "--start-frame", "0", "--both") == 143
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.endswith("overlay.mp4 holds the first 0 of 4 frames; masks, scores.csv: 4 frames")


def test_demo_on_sigterm(predictor: SignalledPredictor, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predictor.signals[3] = signal.SIGTERM
    out = tmp_path / "demo"
    assert cli.main(["demo", "-o", str(out), "--quiet", "--checkpoint", "x.pt", "--config", "i2vpp-256"]) == 143
    assert len(times_of(out / "overlay.mp4")) == 3
    assert "terminated; 3 frames written to" in capsys.readouterr().err


# Signals


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGTERM, Terminated), (signal.SIGINT, KeyboardInterrupt)])
def test_a_block_that_holds_signals_back_ends_first(number: signal.Signals, kind: type[BaseException]) -> None:
    done = []
    with pytest.raises(KeyboardInterrupt) as stop, sigterm_raises(), uninterrupted():
        os.kill(os.getpid(), number)
        done.append(True)
    assert done and type(stop.value) is kind
    assert exit_status(stop.value) == 128 + number


def test_who_handles_sigterm_keeps_it() -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    try:
        with sigterm_raises(), uninterrupted():
            os.kill(os.getpid(), signal.SIGTERM)
            assert not seen
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [signal.SIGTERM]
