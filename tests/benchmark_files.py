"""Results of tools/benchmark.py with round numbers, and its tables as cells."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from conftest import REPO

sys.path.insert(0, str(REPO / "tools"))

from benchmarking import meters, results
from benchmarking.cases import Settings
from benchmarking.report import about


def made_up(*, objects: int = 1, seconds: float = 0.5, slower: float = 1.0, **changes: Any) -> dict[str, Any]:
    """A result with round numbers on a machine that does 1000 GFLOP/s and copies 100 GB/s, or `slower` times as much.

    Its floors are 0.2 s (executed) and 0.25 s (published) per object, so a frame takes twice the published floor.
    """
    parts = dict.fromkeys(meters.PARTS, 0.0) | {"decode": 0.1 * seconds, "memory attention": 0.9 * seconds}
    flop = dict.fromkeys(meters.PARTS, 0) | {"decode": 50 * 10**9, "memory attention": 150 * 10**9}
    more = flop | {"memory attention": 200 * 10**9}
    measured = {
        **{"config": "i2vpp-512", "overrides": [], "image_size": 512, "device": "cpu", "device_name": "Abacus"},
        **{"dtype": "float32", "objects": objects, "compiled": False, "threads": 2},
        **{"memory_groups": 7, "memory_pointers": 7},
        "frame_seconds": [slower * seconds] * 3,
        "warmup_seconds": [slower * seconds],
        "build_seconds": 1.0,
        "prompt_seconds": 2.0,
        "first_masks": [],
        "parts": {part: slower * time for part, time in parts.items()},
        "parts_flop": {part: objects * count for part, count in flop.items()},
        "parts_published_flop": {part: objects * count for part, count in more.items()},
        "parts_bytes": {part: count // 5 for part, count in flop.items()},
        **{"peak_memory_bytes": 2**30, "peak_memory_of": "process", "process_bytes_at_start": 2**29},
        "matmul_flop_per_second": 1e12 / slower,
        "matmul_flop_per_second_by_side": {"1024": 1e12 / slower},
        "copy_bytes_per_second": 1e11 / slower,
    }
    return results.derive(measured | changes)


def save(path: Path, *cases: dict[str, Any], **changes: Any) -> Path:
    report = {**about(["benchmark.py", "--objects", "1"], Settings()), "cases": cases, "commit": "0123456789abcdef"}
    path.write_text(json.dumps(report | changes))
    return path


def cells(table: str) -> list[list[str]]:
    """Rows of all tables in a text, headers too."""
    lines = [line for line in table.splitlines() if line.startswith("| ") and not line.startswith("| -")]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
