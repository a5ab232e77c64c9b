"""What tools/benchmark.py makes of its numbers: tables, the JSON file, the table of speeds in the docs."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import REPO
from test_benchmark import cells
from tools import benchmark, benchmark_training, speed_table
from tools.benchmarking import report
from tools.benchmarking.measure import Case, percentiles

PAGES = [page for page in (REPO / "README.md", *(REPO / "docs").glob("*.md")) if speed_table.BEGIN in page.read_text()]


def made_up(*, objects: int = 1, seconds: float = 0.5, **changes: Any) -> dict[str, Any]:
    """A result with round numbers on a machine that does 1000 GFLOP/s; its floor is 0.25 s for each object."""
    parts = {"frames": 0.1 * seconds, "memory attention": 0.8 * seconds, "mask decoder": 0.1 * seconds}
    flop = {"memory attention": objects * 2 * 10**11, "mask decoder": objects * 50 * 10**9}
    measured = {
        **asdict(Case(config="i2vpp-512", image_size=512, dtype="float32", objects=objects)),
        "overrides": [],
        "device_name": "Abacus",
        **{"memory_frames": 7, "memory_pointers": 7, "compile_seconds": None},
        **{"frame_seconds": [seconds] * 3, "seconds_per_frame": seconds, "p95_seconds": seconds},
        "parts": parts,
        **{"parts_flop": flop, "flop": sum(flop.values()), "matmul_flop_per_second": 1e12},
        **{"floor_seconds": objects * 0.25, "times_floor": seconds / (objects * 0.25)},
        **{"peak_memory_bytes": 2**30, "process_bytes_at_start": 2**29},
    }
    return measured | changes


def save(path: Path, *cases: dict[str, Any], **changes: Any) -> Path:
    start = {**report.about(["benchmark.py", "--objects", "1"]), "cases": cases, "commit": "0123456789abcdef"}
    path.write_text(json.dumps(start | changes))
    return path


# ---- tables


def test_percentiles_lie_between_the_nearest_two() -> None:
    assert percentiles(range(1, 22)) == {"seconds_per_frame": 11, "p95_seconds": 20}


def test_shared_costs_and_those_of_an_object_are_fitted() -> None:
    line = [made_up(objects=count, seconds=0.3 + 0.5 * count) for count in (1, 2, 10)]
    table = cells(report.format_objects([*line, made_up(dtype="bfloat16"), {**asdict(Case()), "failed": "so"}]))
    assert table[1:] == [["i2vpp-512, 512 px", "cpu", "float32", "1, 2, 10", "300.00", "500.00", "250.00"]]
    assert report.format_objects([made_up(), made_up(dtype="bfloat16")]) == ""


def test_the_table_of_parts_has_times_and_floors() -> None:
    rows = {row[0]: row[1:] for row in cells(report.format_parts(made_up()))}
    assert rows["memory attention"] == ["400.00", "80.0%", "200.00", "200.00", "2.00"]
    assert rows["mask decoder"] == ["50.00", "10.0%", "50.00", "50.00", "1.00"]
    assert rows["frames"] == ["50.00", "10.0%", "", "", ""]
    assert rows["whole frame"] == ["500.00", "100.0%", "250.00", "250.00", "2.00"]


def test_the_summary_names_what_changes_a_config() -> None:
    changed = made_up(compiled=True, overrides=["model.selection.mode=top"], compile_seconds=61.23)
    header, row = cells(report.format_summary([changed]))
    assert row[0] == "i2vpp-512, 512 px, compiled, model.selection.mode=top"
    assert dict(zip(header, row, strict=True))["compile s"] == "61.2"
    assert dict(zip(header, row, strict=True))["x floor"] == "2.00"


def test_the_docs_explain_every_key_and_column() -> None:
    page = re.sub(r"```.*?```", "", (REPO / "docs" / "benchmark.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    named = set(re.findall(r"`([^`]+)`", page))
    measured = {*made_up()} - {*asdict(Case())}
    assert {*measured, *report.about([]), "cases", "streams", "failed", "checkpoints"} <= named
    point = {"frames": 9, "seconds_per_frame": 1, "p95_seconds": 1, "resident_bytes": 1, "device_bytes": None}
    assert {*point} <= named
    texts = {"config", "device", "dtype", "objects", "part"}
    for table in (
        report.format_summary([made_up()]),
        report.format_parts(made_up()),
        report.format_objects([made_up(), made_up(objects=2)]),
        report.format_streams([{**made_up(), "checkpoints": [point]}]),
    ):
        headers = {cell for row in cells(table) if row[0] in texts for cell in row}
        assert headers - texts <= named


@pytest.mark.parametrize("program", [benchmark, benchmark_training])
def test_the_docs_explain_every_option(program: Any) -> None:
    page = (REPO / "docs" / "benchmark.md").read_text(encoding="utf-8")
    options = [action.option_strings[-1] for action in program.build_parser()._actions]
    told = [option for option in options if f"`{option}`" in page]
    assert set(options) - set(told) <= {"--help", "--config"}


# ---- files


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read: No such file"),
        ("{", "is no JSON file"),
        ("[]", "holds no tracked frames that this version of tools/benchmark.py measured"),
        ('{"format": 2, "cases": [{}]}', "holds no tracked frames that this version of tools/benchmark.py measured"),
        ('{"format": 3, "cases": []}', "holds no tracked frames"),
        ('{"format": 3, "cases": [{}]}', "another benchmark measured it"),
        ('{"format": 3, "cases": [{"config": "x", "failed": "it ended"}]}', "x cannot be used: it ended"),
    ],
)
def test_files_that_do_not_fit_are_one_clear_error(
    text: str | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad, page = tmp_path / "bad.json", tmp_path / "page.md"
    page.write_text(f"{speed_table.BEGIN}\n{speed_table.END}\n")
    if text is not None:
        bad.write_text(text)
    assert speed_table.main([str(bad), "--into", str(page)]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"speed_table.py: error: {bad}")
    assert message in error
    assert error.count("\n") == 1


def test_the_speed_table_replaces_what_is_between_its_markers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [
        save(tmp_path / "a.json", made_up(), made_up(seconds=3.0, config="i2vpp-infer", peak_memory_bytes=None)),
        save(tmp_path / "b.json", made_up(seconds=0.004), commit=None, date="2026-01-02T03:04:05+00:00"),
    ]
    page = tmp_path / "page.md"
    page.write_text(f"above\n{speed_table.BEGIN}\nold\n{speed_table.END}\nbelow\n")
    command = [*map(str, files), "--into", str(page)]
    assert speed_table.main(command) == 0
    text = page.read_text()
    assert text.startswith(f"above\n{speed_table.BEGIN}\n\n| config")
    assert text.endswith(f"{speed_table.END}\nbelow\n")
    assert cells(text) == [
        ["config", "device", "dtype", "objects", "speed", "x floor", "peak MiB"],
        ["i2vpp-512, 512 px", "Abacus", "float32", "1", "2.0 FPS", "2.00", "1024"],
        ["i2vpp-infer, 512 px", "Abacus", "float32", "1", "3.00 s/frame", "12.00", ""],
        ["i2vpp-512, 512 px", "Abacus", "float32", "1", "250 FPS", "0.02", "1024"],
    ]
    assert f"torch {torch.__version__}, commit 0123456789: `benchmark.py --objects 1`" in text
    assert "2026-01-02, Abacus" in text and "commit unknown" in text
    page.write_text(f"{speed_table.END}\n{speed_table.BEGIN}\n")
    assert speed_table.main(command) == 1
    assert "must have one line '<!-- speed table: begin -->' and, below it" in capsys.readouterr().err


def test_there_is_a_speed_table() -> None:
    assert REPO / "docs" / "benchmark.md" in PAGES


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_tables_of_the_docs_are_those_of_the_results_that_are_kept(page: Path) -> None:
    kept = [report.read_report(path) for path in sorted((REPO / "docs" / "performance").glob("*.json"))]
    text = page.read_text(encoding="utf-8")
    assert speed_table.replace_table(text, report.format_speed(kept), page.name) == text
