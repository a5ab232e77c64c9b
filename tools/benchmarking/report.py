"""The results of the benchmarks: each measured in a process of its own, as a JSON file and as Markdown tables."""

from __future__ import annotations

import datetime
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from i2vpp import __version__
from i2vpp.errors import DataError, I2VPPError
from i2vpp.utils.files import atomic_write
from i2vpp.utils.machine import cpu_name

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

REPO = Path(__file__).resolve().parents[2]

FORMAT = 3
"""Of the JSON file; the keys of the formats before mean other things."""

IDENTITY = ("config", "overrides", "image_size", "device", "dtype", "compiled")
"""What tells combinations apart, but the number of objects."""

WHOLE = "whole frame"

Result = dict[str, Any]
Columns = dict[str, Callable[[Result], str]]
Case = TypeVar("Case", bound="DataclassInstance")


def in_own_process(measure: Callable[[Case], Result], case: Case) -> Result:
    """Measure one combination in a new process, so that its peak of memory is its own.

    Args:
        measure: function of a module, which the new process imports.
        case: the combination.

    Returns:
        What `measure` returns; if it fails or its process is killed, the combination and the reason as `failed`.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        try:
            return process.submit(measure, case).result()
        except (I2VPPError, RuntimeError, MemoryError) as error:  # RuntimeErrors: of PyTorch, or the process was killed
            reason = f"{error}" if isinstance(error, I2VPPError) else f"{type(error).__name__}: {error}"
            print(f"error: {reason}", file=sys.stderr)
            return {**asdict(case), "failed": reason}


# ---- the JSON file


def about(command: Sequence[str]) -> Result:
    """Return the beginning of a report: when, where and with which versions it was measured."""
    return {
        "format": FORMAT,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(command),
        "commit": _commit(),
        "i2vpp": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cpu_count": os.cpu_count(),
    }


def _commit() -> str | None:
    """Return the commit that is checked out, followed by `+` where files differ; None outside a git repository."""
    git = ["git", "-C", str(REPO)]
    try:
        commit, changes = (
            subprocess.run([*git, *words], check=True, capture_output=True, text=True).stdout.strip()
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain"])
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+" if changes else "")


def write_report(path: Path, report: Result) -> None:
    """Write a report, and the folders that its path needs."""
    with atomic_write(path, "w") as file:
        file.write(json.dumps(report, indent=2) + "\n")


def read_report(path: Path) -> Result:
    """Read a report of tracked frames.

    Raises:
        DataError: the file cannot be read, is no such report, or one of its combinations failed.
    """
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise DataError(f"{path} is no JSON file: {error}") from error
    if not isinstance(report, dict) or report.get("format") != FORMAT or not report.get("cases"):
        raise DataError(f"{path} holds no tracked frames that this version of tools/benchmark.py measured")
    for result in report["cases"]:
        if "times_floor" not in result:
            reason = result.get("failed", "another benchmark measured it")
            raise DataError(f"{path}: {result.get('config')} cannot be used: {reason}")
    return report


# ---- tables


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, texts: int) -> str:
    """Return an aligned Markdown table.

    Args:
        header: names of the columns.
        rows: cells of each row, as many as there are columns.
        texts: number of columns of text, which come first; the others are numbers, aligned to the right.

    Returns:
        Lines without a line break at the end.
    """
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(f"{cells[i]:{'<' if i < texts else '>'}{w}}" for i, w in enumerate(widths)) + " |"

    rule = ["-" * w if i < texts else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return "\n".join([line(header), line(rule), *map(line, rows)])


def name_config(result: Result) -> str:
    """Return the config of a combination and all that changes it."""
    size = f"{result['image_size']} px" if result.get("image_size") else ""
    return ", ".join(filter(None, [result["config"], size, "compiled" * result["compiled"], *result["overrides"]]))


def mebibytes(count: float | None) -> str:
    """Write bytes as MiB; "" where they are not known."""
    return "" if count is None else f"{count / 2**20:.0f}"


NAMES: Columns = {
    "config": name_config,
    "device": lambda r: r["device"],
    "dtype": lambda r: r["dtype"] or "",
    "objects": lambda r: str(r["objects"]),
}
TIMES: Columns = {
    "s/frame": lambda r: f"{r['seconds_per_frame']:.4f}",
    "p95 s": lambda r: f"{r['p95_seconds']:.4f}",
}
SUMMARY: Columns = {
    **TIMES,
    "FPS": lambda r: f"{1 / r['seconds_per_frame']:.2f}",
    "peak MiB": lambda r: mebibytes(r["peak_memory_bytes"]),
    "GFLOP": lambda r: f"{r['flop'] / 1e9:.1f}",
    "GFLOP/s": lambda r: f"{r['matmul_flop_per_second'] / 1e9:.0f}",
    "floor s": lambda r: f"{r['floor_seconds']:.4f}",
    "x floor": lambda r: f"{r['times_floor']:.2f}",
    "compile s": lambda r: "" if r["compile_seconds"] is None else f"{r['compile_seconds']:.1f}",
}
STREAM: Columns = {
    "frames": lambda r: str(r["frames"]),
    **TIMES,
    "resident MiB": lambda r: mebibytes(r["resident_bytes"]),
    "device MiB": lambda r: mebibytes(r["device_bytes"]),
    "growth": lambda r: "" if r["growth"] is None else f"{r['growth']:+.1%}",
}
OBJECTS: Columns = {
    "shared ms": lambda r: f"{1000 * r['shared_seconds']:.2f}",
    "ms per object": lambda r: f"{1000 * r['seconds_per_object']:.2f}",
    "floor ms": lambda r: f"{1000 * r['floor_per_object']:.2f}",
}


def _of_combinations(results: Sequence[Result], numbers: Columns) -> str:
    rows = [
        [*(name(r) for name in NAMES.values()), *("failed" if "failed" in r else n(r) for n in numbers.values())]
        for r in results
    ]
    return format_table([*NAMES, *numbers], rows, texts=3)


def format_summary(results: Sequence[Result]) -> str:
    """Return the table of all combinations."""
    return _of_combinations(results, SUMMARY)


def format_parts(result: Result) -> str:
    """Return the table of the parts of a frame of one combination."""
    flop = {**dict.fromkeys(result["parts"], 0), **result["parts_flop"]}
    counts = [(part, seconds, flop[part]) for part, seconds in result["parts"].items()]
    whole = sum(result["parts"].values())
    rows = []
    for part, seconds, count in [*counts, (WHOLE, whole, result["flop"])]:
        floor = count / result["matmul_flop_per_second"]
        work = [f"{count / 1e9:.2f}", f"{1000 * floor:.2f}", f"{seconds / floor:.2f}"] if count else ["", "", ""]
        rows.append([part, f"{1000 * seconds:.2f}", f"{seconds / whole:.1%}", *work])
    return format_table(["part", "ms", "share", "GFLOP", "floor ms", "x floor"], rows, texts=1)


def format_streams(results: Sequence[Result]) -> str:
    """Return the table of live sessions, with a row for each length that was measured."""
    rows = []
    for result in results:
        first = None
        for point in result.get("checkpoints", [{}]):
            kind = "resident_bytes" if point.get("device_bytes") is None else "device_bytes"
            first = first or point.get(kind)
            rows.append({**result, **point, "growth": point[kind] / first - 1 if first else None})
    return _of_combinations(rows, STREAM)


def format_objects(results: Sequence[Result]) -> str:
    """Return the table of what the frame and what each object costs; "" if no combinations differ in objects only.

    The line `shared + n x per object` is fitted to the times by least squares. An object's floor is what it adds to the
    operations, at the median of the rates.
    """
    groups: dict[str, list[Result]] = {}
    for result in results:
        if "failed" not in result:
            groups.setdefault(str([result[key] for key in IDENTITY]), []).append(result)
    lines = []
    for group in groups.values():
        counts = [result["objects"] for result in group]
        if len(set(counts)) > 1:
            per_object, shared = np.polyfit(counts, [result["seconds_per_frame"] for result in group], 1)
            flop = np.polyfit(counts, [result["flop"] for result in group], 1)[0]
            floor = flop / median(result["matmul_flop_per_second"] for result in group)
            costs = {"shared_seconds": shared, "seconds_per_object": per_object, "floor_per_object": floor}
            lines.append({**group[0], "objects": ", ".join(map(str, sorted(set(counts)))), **costs})
    return _of_combinations(lines, OBJECTS) if lines else ""


SPEED: Columns = {
    **NAMES,
    "device": lambda r: r["device_name"],
    "speed": lambda r: _speed(r["seconds_per_frame"]),
    **{name: SUMMARY[name] for name in ("x floor", "peak MiB")},
}


def format_speed(reports: Sequence[Result]) -> str:
    """Return the table of speeds of the README, and for each report a line that says how it was measured."""
    rows = [[text(result) for text in SPEED.values()] for report in reports for result in report["cases"]]
    origins = []
    for report in reports:
        devices = ", ".join(dict.fromkeys(result["device_name"] for result in report["cases"]))
        commit = report["commit"] or "unknown"
        origins.append(
            f"{report['date'][:10]}, {devices} ({report['cpu_count']} CPU cores), torch {report['torch']}, "
            f"commit {commit[:10]}{'+' * commit.endswith('+')}: `{report['command']}`"
        )
    return "\n\n".join([format_table(list(SPEED), rows, texts=3), *origins])


def _speed(seconds: float) -> str:
    """Write seconds per frame as frames per second, or as they are where a frame takes more than one."""
    return f"{seconds:.2f} s/frame" if seconds > 1 else f"{1 / seconds:.{1 if seconds > 0.01 else 0}f} FPS"
