"""Runs combinations one after the other, each in a process of its own, or in turns with another checkout's library."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarking.cases import BenchmarkError, Case, Settings
from benchmarking.report import CHECKOUT
from benchmarking.results import pool

TOOLS = CHECKOUT / "tools"


def run_case(case: Case, settings: Settings, *, label: str, checkout: Path = CHECKOUT) -> dict[str, Any]:
    """Measure one combination of the library in `checkout`; if its process fails, return the case and `failed`.

    Args:
        case: the combination.
        settings: of the benchmark.
        label: of the progress bar.
        checkout: whose `i2vpp` is measured; the tools are always this checkout's.
    """
    paths = [str(checkout), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    with tempfile.TemporaryDirectory(prefix="i2vpp-benchmark-") as folder:
        request, reply = Path(folder) / "request.json", Path(folder) / "reply.json"
        asked = {"case": asdict(case), "settings": asdict(settings), "label": label}
        request.write_text(json.dumps(asked), encoding="utf-8")
        command = [sys.executable, str(TOOLS / "benchmark_worker.py"), str(checkout), str(request), str(reply)]
        status = subprocess.run(command, check=False, env=environment).returncode
        if status or not reply.exists():
            return {**asdict(case), "failed": f"the process ended with status {status}"}
        found: dict[str, Any] = json.loads(reply.read_text(encoding="utf-8"))
        return found


def run_cases(cases: Sequence[Case], settings: Settings) -> Iterator[dict[str, Any]]:
    """Measure each combination once."""
    for number, case in enumerate(cases, start=1):
        yield run_case(case, settings, label=f"[{number}/{len(cases)}] {case}")


def run_pairs(
    cases: Sequence[Case], settings: Settings, other: Path, *, rounds: int
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Measure each combination with this library and with another in turns, so that both see the same machine.

    Args:
        cases: the combinations.
        settings: of the benchmark.
        other: the other checkout.
        rounds: processes of each library.

    Yields:
        The rounds of this library as one result, and those of the other.
    """
    for number, case in enumerate(cases, start=1):
        sides: dict[Path, list[dict[str, Any]]] = {CHECKOUT: [], other: []}
        for turn in range(1, rounds + 1):
            for name, checkout in (("this", CHECKOUT), ("other", other)):
                label = f"[{number}/{len(cases)}] {case}, {name} {turn}/{rounds}"
                sides[checkout].append(run_case(case, settings, label=label, checkout=checkout))
        yield _combined(sides[CHECKOUT]), _combined(sides[other])


def _combined(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """All rounds as one result; a failed one if any failed."""
    return next((result for result in rounds if "failed" in result), None) or pool(rounds)


def check_checkout(path: Path) -> Path:
    """Return the checkout's absolute path.

    Raises:
        BenchmarkError: there is no i2vpp in it, or it is this one.
    """
    found = path.resolve()
    library = path / "i2vpp" / "__init__.py"
    if not library.is_file():
        raise BenchmarkError(f"--against must name a clone of this project; there is no {library}")
    if found == CHECKOUT:
        raise BenchmarkError(f"--against names this checkout itself: {path}")
    return found
