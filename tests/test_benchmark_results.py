"""What tools/benchmark.py makes of its numbers: floors, rounds, comparisons, tables."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmark_files import cells, made_up, save
from conftest import REPO

sys.path.insert(0, str(REPO / "tools"))
import benchmark
import compare_benchmarks
import speed_table
from benchmarking import meters, results, tables
from benchmarking.cases import Settings
from benchmarking.comparison import format_comparison
from benchmarking.report import CHECKOUT, about

# ---- what follows


def test_percentiles_and_rounds_of_one_combination() -> None:
    assert results.percentiles(range(1, 22)) == {"seconds_per_frame": 11, "p95_seconds": 20}
    one, two = made_up(), made_up(slower=3.0)
    both = results.pool([one, two])
    assert both["frame_seconds"] == [0.5] * 3 + [1.5] * 3
    assert (both["seconds_per_frame"], both["fps"]) == (1.0, 1.0)
    assert both["parts"]["decode"] == pytest.approx((0.05 + 0.15) / 2)
    assert both["matmul_flop_per_second"] == pytest.approx((1e12 + 1e12 / 3) / 2)
    assert (both["objects"], both["dtype"], both["compiled"]) == (1, "float32", False)
    assert both["times_published_floor"] == pytest.approx(1.0 / both["published_floor_seconds"])


def test_compile_seconds_are_what_the_beginning_takes_longer() -> None:
    assert made_up(compiled=True)["compile_seconds"] == pytest.approx(1.0 + 2.0 + 0.5 - 2 * 0.5)
    assert "compile s" in tables.format_summary([made_up(compiled=True)])
    assert "compile s" not in tables.format_summary([made_up()])


def test_the_frame_and_the_object_are_told_apart() -> None:
    line = [made_up(objects=count, seconds=0.3 + 0.5 * count) for count in (1, 2, 10)]
    (cost,) = results.object_costs([*line, made_up(dtype="bfloat16"), {"failed": "so"}])
    assert (cost["config"], cost["dtype"], cost["objects"]) == ("i2vpp-512", "float32", [1, 2, 10])
    assert (cost["shared_seconds"], cost["seconds_per_object"]) == pytest.approx((0.3, 0.5))
    assert cost["published_floor_per_object"] == pytest.approx(0.25)
    assert cost["times_shared_and_floors"] == pytest.approx(5.3 / (0.3 + 10 * 0.25))
    assert cells(tables.format_object_costs([cost]))[1][-4:] == ["300.00", "500.00", "250.00", "1.89"]


def test_the_table_of_parts_says_what_limits_them() -> None:
    memory = {"parts_bytes": dict.fromkeys(meters.PARTS, 0) | {"decode": 8 * 10**9, "resize": 10**9}}
    rows = {row[0]: row[1:] for row in cells(tables.format_parts(made_up(**memory)))}
    assert rows["memory attention"] == ["450.00", "90.0%", *("150.00", "150.00", "200.00", "200.00"), "", "", "compute",
                                        "3.00"]  # fmt: skip
    assert rows["decode"][-4:] == ["8000.0", "80.00", "memory", "0.62"]
    assert rows["resize"][2:8] == ["", "", "", "", "1000.0", "10.00"]
    assert rows["whole frame"][:5] == ["500.00", "100.0%", "200.00", "200.00", "250.00"]


def test_the_docs_explain_every_key_and_column() -> None:
    page = re.sub(r"```.*?```", "", (REPO / "docs" / "benchmark.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    named = set(re.findall(r"`([^`]+)`", page))
    floors = {f"parts_{kind}_seconds" for kind in ("floor", "published_floor", "memory_floor")}
    compiled = made_up(compiled=True)
    reported = {*about([], Settings()), "cases", "streams", "object_costs", "against", "failed"}
    assert {*compiled, *reported} - named == floors  # those are explained together
    cost = results.object_costs([made_up(), made_up(objects=2)])[0]
    assert {*cost} <= named
    found = {"prompt": "mask", "frame_idx": 0, "seconds": 3, "open_seconds": 1, "decode_seconds": 1, "frames": 2}
    compiled["first_masks"] = [found]
    point = {"frames": 9, "seconds_per_frame": 1, "p95_seconds": 1, "resident_bytes": 1, "device_bytes": None}
    assert {*found, *point, "checkpoints"} <= named
    texts = {"config", "device", "dtype", "objects", "part", "first mask", "combination"}
    for table in (
        tables.format_summary([compiled]),
        tables.format_parts(compiled),
        tables.format_first_masks(compiled),
        tables.format_object_costs([cost]),
        tables.format_streams([{**compiled, "checkpoints": [point]}]),
        format_comparison([(compiled, compiled)]),
    ):
        headers = {cell for row in cells(table) if row[0] in texts for cell in row}
        assert headers - texts <= named


def test_the_docs_explain_every_option() -> None:
    page = (REPO / "docs" / "benchmark.md").read_text(encoding="utf-8")
    options = [action.option_strings[-1] for action in benchmark.build_parser()._actions]
    assert [option for option in options if f"`{option}`" not in page] == ["--help"]


# ---- comparing files


def test_a_slower_machine_is_told_from_slower_code(tmp_path, capsys) -> None:
    before = save(tmp_path / "a.json", made_up(seconds=0.6), made_up(objects=9))
    after = save(tmp_path / "b.json", made_up(seconds=0.5, slower=2.0))
    assert compare_benchmarks.main([str(before), str(after)]) == 0
    out = capsys.readouterr().out
    header, whole, *parts = cells(out)
    assert header[1:4] == ["s before", "s after", "faster"]
    assert whole[0] == "i2vpp-512, 512 px, cpu, float32, 1 object"
    assert whole[1:7] == ["0.6000", "1.0000", "0.60", "2.40", "2.00", "1.20"]
    assert whole[7:] == ["1024", "1024", "1.00"]
    assert [row[0] for row in parts[1:]] == ["memory attention", "decode", "whole frame"]
    assert parts[2][1:] == ["60.00", "100.00", "0.60", "0.240", "0.200", "1.20"]
    assert "before: commit 0123456789, Abacus, torch" in out
    assert "Only before: i2vpp-512, 512 px, cpu, float32, 9 objects." in out


def test_combinations_that_differ_on_purpose_can_be_compared(tmp_path, capsys) -> None:
    before = save(tmp_path / "a.json", made_up())
    melted = {"frames": 0.0, "encode": 0.02, "select": 0.0, "find objects": 0.2, "resize": 0.0, "other": 0.0}
    changes = {"compiled": True, "overrides": ["model.selection.mode=top"], "parts": melted}
    after = save(tmp_path / "b.json", made_up() | changes)
    assert compare_benchmarks.main([str(before), str(after)]) == 1
    assert "no combination in common: i2vpp-512, 512 px, cpu" in capsys.readouterr().err
    assert compare_benchmarks.main([str(before), str(after), "--ignore", "compiled", "--ignore", "overrides"]) == 0
    _, whole, _, *parts = cells(capsys.readouterr().out)
    assert [row[:4] for row in parts[:2]] == [
        ["encode", "0.00", "20.00", "0.00"],
        ["find objects", "500.00", "200.00", "2.50"],
    ]
    assert whole[0] == "i2vpp-512, 512 px, compiled, model.selection.mode=top, cpu, float32, 1 object"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read: No such file"),
        ("{", "is no JSON file"),
        ("[]", "is no result of tools/benchmark.py"),
        ('{"cases": [{}]}', "has format 1, not 2: another version of tools/benchmark.py wrote it; measure again"),
        ('{"format": 2, "cases": []}', "holds no tracked frames"),
        ('{"format": 2, "cases": [{}], "command": "x.py"}', "another benchmark wrote it: x.py"),
        (
            '{"format": 2, "cases": [{"config": "x", "dtype": null, "objects": 2, "failed": "it ended"}]}',
            "x, None, 2 objects failed: it ended; measure again without it",
        ),
    ],
)
def test_files_that_do_not_fit_are_one_clear_error(text, message, tmp_path, capsys) -> None:
    good, bad, page = save(tmp_path / "good.json", made_up()), tmp_path / "bad.json", tmp_path / "page.md"
    page.write_text(f"{speed_table.BEGIN}\n{speed_table.END}\n")
    if text is not None:
        bad.write_text(text)
    for main, options in ((compare_benchmarks.main, [good, bad]), (speed_table.main, [bad, "--into", page])):
        assert main(list(map(str, options))) == 1
        error = capsys.readouterr().err
        assert f".py: error: {bad}" in error
        assert message in error
        assert error.count("\n") == 1


def test_other_settings_and_doubled_combinations_cannot_be_compared(tmp_path, capsys) -> None:
    good = save(tmp_path / "a.json", made_up())
    longer = save(tmp_path / "b.json", made_up(), settings=asdict(Settings(history=210)))
    assert compare_benchmarks.main([str(good), str(longer)]) == 1
    assert "different settings: history 14 against 210" in capsys.readouterr().err
    doubled = save(tmp_path / "c.json", made_up(), made_up(dtype="bfloat16"))
    assert compare_benchmarks.main([str(good), str(doubled), "--ignore", "dtype"]) == 1
    assert "two combinations that cannot be told apart" in capsys.readouterr().err


def test_the_speed_table_replaces_what_stands_between_its_markers(tmp_path, capsys) -> None:
    files = [
        save(tmp_path / "a.json", made_up(), made_up(seconds=3.0, config="i2vpp-infer", peak_memory_bytes=None)),
        save(tmp_path / "b.json", made_up(seconds=0.004), commit=None, date="2026-01-02T03:04:05+00:00"),
    ]
    page = tmp_path / "page.md"
    page.write_text(f"above\n{speed_table.BEGIN}\nold\n{speed_table.END}\nbelow\n")
    command = [*map(str, files), "--into", str(page)]
    assert speed_table.main([*command, "--check"]) == 1
    assert "page.md has another table than these results give" in capsys.readouterr().err
    assert "old" in page.read_text()
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
    assert speed_table.main([*command, "--check"]) == 0
    page.write_text(f"{speed_table.END}\n{speed_table.BEGIN}\n")
    assert speed_table.main(command) == 1
    assert "must have one line '<!-- speed table: begin -->' and, below it" in capsys.readouterr().err


# ---- many combinations


class Processes:
    """Stands in for the processes of the benchmark: notes what they are asked, answers as told."""

    def __init__(self, answer: Any) -> None:
        self.asked: list[tuple[dict[str, Any], str]] = []
        self._answer = answer
        self._run = subprocess.run

    def __call__(self, command: list[str], **options: Any) -> Any:
        if command[0] == "git":
            return self._run(command, **options)
        request, reply = map(Path, command[-2:])
        asked = json.loads(request.read_text())
        self.asked.append((asked["case"], options["env"]["PYTHONPATH"].split(":")[0]))
        answer = self._answer(len(self.asked))
        if answer is not None:
            reply.write_text(json.dumps(answer))
        return SimpleNamespace(returncode=-9 if answer is None else 0)


def test_every_combination_runs_and_a_failed_one_is_told(tmp_path, monkeypatch, capsys) -> None:
    processes = Processes(lambda number: None)
    monkeypatch.setattr(subprocess, "run", processes)
    path = tmp_path / "results.json"
    options = ["--config", "i2vpp-256,i2vpp-512", "--dtype", "float32", "--dtype", "bfloat16", "--objects", "1,5"]
    assert benchmark.main([*options, "--image-size", "64,128", "--device", "cpu", "--json", str(path)]) == 1
    assert [(case["config"], case["image_size"], case["dtype"], case["objects"]) for case, _ in processes.asked] == [
        (config, side, dtype, objects)
        for config in ("i2vpp-256", "i2vpp-512")
        for side in (64, 128)
        for dtype in ("float32", "bfloat16")
        for objects in (1, 5)
    ]
    assert {checkout for _, checkout in processes.asked} == {str(CHECKOUT)} == {str(REPO)}
    assert capsys.readouterr().out.count("failed") == 16 * 12  # columns of numbers
    assert all(case["failed"] == "the process ended with status -9" for case in json.loads(path.read_text())["cases"])


def test_turns_of_two_checkouts_alternate_and_are_pooled(tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "i2vpp").mkdir()
    (tmp_path / "i2vpp" / "__init__.py").touch()
    times = [0.5, 2.0, 0.6, 2.2, 0.7, 2.4]
    processes = Processes(lambda number: made_up(seconds=times[number - 1]))
    monkeypatch.setattr(subprocess, "run", processes)
    assert benchmark.main(["--device", "cpu", "--against", str(tmp_path), "--rounds", "3"]) == 0
    assert [checkout for _, checkout in processes.asked] == [str(REPO), str(tmp_path)] * 3
    assert cells(capsys.readouterr().out)[1][1:4] == ["2.2000", "0.6000", "3.67"]


def test_the_table_in_the_readme_is_that_of_the_results_that_are_kept() -> None:
    kept = [str(path) for path in sorted((REPO / "docs" / "performance").glob("*.json"))]
    assert kept
    assert speed_table.main([*kept, "--check"]) == 0
