"""The JSON file of a run: what it says of itself, how it is written and read again."""

from __future__ import annotations

import datetime
import json
import os
import platform
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarking.cases import BenchmarkError
from i2vpp.utils.files import atomic_write
from i2vpp.utils.machine import cpu_name

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

CHECKOUT = Path(__file__).resolve().parents[2]
"""The clone that this file belongs to."""

FORMAT = 2
"""Of the JSON file; the keys of format 1 meant other things."""

WEIGHTS = "untrained; cost depends on sizes only"


def about(command: Sequence[str], settings: DataclassInstance) -> dict[str, Any]:
    """Return what a reader of the numbers has to know."""
    return {
        "format": FORMAT,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(command),
        "commit": commit(),
        "i2vpp": version("i2vpp"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cpu_count": os.cpu_count(),
        "weights": WEIGHTS,
        "settings": asdict(settings),
    }


def commit(checkout: Path = CHECKOUT) -> str | None:
    """Return the commit that is checked out, `+` behind it where files differ; None outside a checkout."""
    git = ["git", "-C", str(checkout)]
    try:
        known = [
            subprocess.run([*git, *words], check=True, capture_output=True, text=True).stdout.strip()
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain"])
        ]
    except (OSError, subprocess.CalledProcessError):
        return None
    return known[0] + ("+" if known[1] else "")


def short_commit(report: dict[str, Any]) -> str:
    """Write the commit of a report in ten digits, `+` behind it where files differed."""
    known = report["commit"] or "unknown"
    return known[:10] + "+" * known.endswith("+")


def write_report(path: Path, report: dict[str, Any]) -> None:
    """Write a report, together with the folders it lies in."""
    with atomic_write(path, "w") as file:
        file.write(json.dumps(report, indent=2) + "\n")


def read_report(path: Path) -> dict[str, Any]:
    """Read a report of tracked frames.

    Raises:
        BenchmarkError: the file is none, is an older one, or one of its combinations failed.
    """
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BenchmarkError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise BenchmarkError(f"{path} is no JSON file: {error}") from error
    if not isinstance(report, dict) or "cases" not in report:
        raise BenchmarkError(f"{path} is no result of tools/benchmark.py: it has no `cases`")
    if report.get("format") != FORMAT:
        raise BenchmarkError(
            f"{path} has format {report.get('format', 1)}, not {FORMAT}: another version of tools/benchmark.py wrote "
            "it; measure again with this one (--against CHECKOUT measures an older commit beside the present one)"
        )
    if not report["cases"]:
        raise BenchmarkError(f"{path} holds no tracked frames (`cases` is empty)")
    for result in report["cases"]:
        if "failed" in result:
            raise BenchmarkError(
                f"{path}: {result['config']}, {result['dtype']}, {result['objects']} objects failed: "
                f"{result['failed']}; measure again without it"
            )
        if "published_floor_seconds" not in result:
            raise BenchmarkError(f"{path} holds no tracked frames; another benchmark wrote it: {report.get('command')}")
    return report
