"""Result files of the tools are whole or as they were before: also where the disk is full."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import REPO
from data_files import SQUARE, write_image, write_mask
from i2vpp.runs.store import Job, RunStore
from sav_dataset.plots import draw_plots
from sav_dataset.results import Evaluation, ObjectResult, write_csv, write_frames_csv, write_json
from sav_dataset.sav_evaluator import evaluate, main
from test_pvs.mask_info import write_mask_info
from tools import make_file_lists, pack_dataset, speed_table
from tools.benchmarking.report import write_report

RESULT = Evaluation(objects=(ObjectResult(video="v", object="1", frames=("00001",), frame_j=(50.0,), frame_f=(60.0,)),))
OLD = b"an earlier result, whole"


@pytest.fixture
def full_disk(monkeypatch):
    """Make a disk on which files can be made, but not kept."""

    def fsync(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)


def pack(path: Path) -> None:
    path.unlink()  # it must not exist
    try:
        with pack_dataset.opened(path.with_suffix(".zip")) as sink:
            sink.write("a.txt", b"a")
    finally:
        assert not path.with_suffix(".zip").exists()
        path.write_bytes(OLD)


WRITERS: dict[str, Callable[[Path], object]] = {
    "json": lambda path: write_json(path, RESULT),
    "csv": lambda path: write_csv(path, RESULT),
    "frames_csv": lambda path: write_frames_csv(path, RESULT),
    "mask_info": lambda path: write_mask_info(path, {0: SQUARE}),
    "list": lambda path: make_file_lists.write_list(path, ["a"], []),
    "benchmark": lambda path: write_report(path, {}),
    "packed": pack,
}


@pytest.mark.parametrize("writer", WRITERS)
def test_an_earlier_result_stays_where_the_disk_is_full(writer, tmp_path, full_disk):
    path = tmp_path / "result"
    path.write_bytes(OLD)
    with pytest.raises(OSError, match="No space left"):
        WRITERS[writer](path)
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("result", OLD)]


def test_records_of_a_run_stay_where_the_disk_is_full(tmp_path, full_disk):
    with pytest.raises(OSError, match="No space left"):
        RunStore(tmp_path / "out").open({"prompt": "gm"}, [Job(name="v", frames=3)])
    assert sorted(entry.name for entry in (tmp_path / "out" / ".run").iterdir()) in ([], ["lock"])


@pytest.fixture
def roots(tmp_path: Path) -> list[str]:
    for root in ("gt", "pred"):
        for t in range(4):
            write_mask(tmp_path / root / "v" / f"{t:05d}.png", SQUARE)
    return ["--gt_root", str(tmp_path / "gt"), "--pred_root", str(tmp_path / "pred")]


def test_the_evaluator_names_each_file_that_it_could_not_write(roots, tmp_path, full_disk, capsys):
    files = {option: tmp_path / "out" / option for option in ("json", "csv", "frames_csv", "markdown")}
    files["json"].parent.mkdir()
    for path in files.values():
        path.write_bytes(OLD)
    assert main([*roots, *(word for option, path in files.items() for word in (f"--{option}", str(path)))]) == 1
    captured = capsys.readouterr()
    assert "| all objects |" in captured.out  # what was scored is not lost
    assert "wrote" not in captured.err
    for path in files.values():
        assert f"cannot write {path}: No space left on device" in captured.err
        assert path.read_bytes() == OLD
    assert len(list(files["json"].parent.iterdir())) == len(files)


def test_one_file_that_cannot_be_written_does_not_stop_the_others(roots, tmp_path, capsys):
    (tmp_path / "taken").mkdir()
    scores = tmp_path / "scores.csv"
    assert main([*roots, "--json", str(tmp_path / "taken"), "--csv", str(scores)]) == 1
    error = capsys.readouterr().err
    assert f"error: cannot write {tmp_path / 'taken'}: " in error
    assert f"wrote {scores}\n" in error
    assert scores.read_text().startswith("video,object,")


def test_plots_stay_where_the_disk_is_full(roots, tmp_path, full_disk):
    pytest.importorskip("matplotlib")
    out, images = tmp_path / "plots", tmp_path / "images"
    for t in range(4):
        write_image(images / "v" / f"{t:05d}.jpg")
    out.mkdir()
    (out / "over_time.png").write_bytes(OLD)
    evaluation = evaluate(tmp_path / "gt", tmp_path / "pred")
    with pytest.raises(OSError, match="No space left"):
        draw_plots(evaluation, out, images=images)
    assert [(entry.name, entry.read_bytes()) for entry in out.iterdir()] == [("over_time.png", OLD)]


def test_the_speed_table_stays_where_the_disk_is_full(tmp_path, full_disk, capsys):
    readme = tmp_path / "README.md"
    readme.write_text(f"{speed_table.BEGIN}\nold\n{speed_table.END}\n")
    before = readme.read_text()
    assert speed_table.main(["--into", str(readme), str(REPO / "docs" / "performance" / "cpu.json")]) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert [entry.name for entry in tmp_path.iterdir()] == ["README.md"]
    assert readme.read_text() == before


def test_leftovers_of_a_killed_pack_are_deleted(tmp_path):
    (tmp_path / ".p.zip.123-0badcafe.tmp").write_bytes(b"half")
    (tmp_path / ".q.zip.123-0badcafe.tmp").write_bytes(b"of another")
    with pack_dataset.opened(tmp_path / "p.zip") as sink:
        sink.write("a.txt", b"a")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".q.zip.123-0badcafe.tmp", "p.zip"]
