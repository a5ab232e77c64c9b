#!/usr/bin/env python3
"""Write the table of speeds in README.md, between two marker lines, from JSON files of tools/benchmark.py.

    python tools/speed_table.py outputs/benchmark_cpu.json outputs/benchmark_gpu.json
    python tools/speed_table.py --check outputs/benchmark_cpu.json outputs/benchmark_gpu.json

All else in the file stays as it is.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # this clone's i2vpp

from benchmarking.cases import BenchmarkError
from benchmarking.report import CHECKOUT, read_report, short_commit
from benchmarking.tables import format_table, mebibytes, name_config

from i2vpp.utils.files import atomic_write
from i2vpp.utils.parser import Parser

BEGIN, END = "<!-- speed table: begin -->", "<!-- speed table: end -->"
EXIT_FAILED = 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0 done, 1 the files do not fit or (`--check`) the text is another."""
    arguments = build_parser().parse_args(argv)
    try:
        table = format_speed([read_report(path) for path in arguments.results])
        written = arguments.into.read_text(encoding="utf-8")
        text = replace_between(written, table, str(arguments.into))
        if not arguments.check:
            with atomic_write(arguments.into, "w") as file:
                file.write(text)
    except (BenchmarkError, OSError) as error:
        print(f"speed_table.py: error: {error}", file=sys.stderr)
        return EXIT_FAILED
    if arguments.check and text != written:
        print(f"speed_table.py: {arguments.into} has another table than these results give", file=sys.stderr)
        return EXIT_FAILED
    return 0


def format_speed(reports: Sequence[dict[str, Any]]) -> str:
    """Return the table of all combinations of some reports, and a line for each report that says where it is from."""
    rows, origins = [], []
    for report in reports:
        rows += [
            [name_config(r), r["device_name"], r["dtype"], str(r["objects"]), speed(r["seconds_per_frame"])]
            + [f"{r['times_published_floor']:.2f}", mebibytes(r["peak_memory_bytes"])]
            for r in report["cases"]
        ]
        names = ", ".join(dict.fromkeys(result["device_name"] for result in report["cases"]))
        origins.append(
            f"{report['date'][:10]}, {names} ({report['cpu_count']} CPU cores), torch {report['torch']}, "
            f"commit {short_commit(report)}: `{report['command']}`"
        )
    header = ["config", "device", "dtype", "objects", "speed", "x floor", "peak MiB"]
    return "\n\n".join([format_table(header, rows, texts=3), *origins])


def speed(seconds: float) -> str:
    """Write seconds per frame as frames per second, or as they are where a frame takes more than one."""
    return f"{seconds:.2f} s/frame" if seconds > 1 else f"{1 / seconds:.{1 if seconds > 0.01 else 0}f} FPS"


def replace_between(text: str, new: str, name: str) -> str:
    """Return `text` with `new` between the marker lines.

    Raises:
        BenchmarkError: the markers are not there, each on a line of its own and once; `name` is the file's.
    """
    lines = text.splitlines()
    if lines.count(BEGIN) != 1 or lines.count(END) != 1 or lines.index(BEGIN) > lines.index(END):
        raise BenchmarkError(f"{name} must have one line {BEGIN!r} and, below it, one line {END!r}")
    before, after = lines[: lines.index(BEGIN) + 1], lines[lines.index(END) :]
    return "\n".join([*before, "", new, "", *after]) + "\n"


def build_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", metavar="RESULTS.json", type=Path, nargs="+")
    parser.add_argument("--into", metavar="FILE", type=Path, default=CHECKOUT / "README.md", help="(%(default)s)")
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 if the table is another one")
    return parser


if __name__ == "__main__":
    sys.exit(main())
