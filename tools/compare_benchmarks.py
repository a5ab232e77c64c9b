#!/usr/bin/env python3
"""Compare two JSON files of tools/benchmark.py: Markdown tables of time and memory, whole frames and parts.

    python tools/compare_benchmarks.py outputs/before.json outputs/after.json

Machines are shared, and their speed changes from minute to minute. So each time stands there twice: raw, and as a
multiple of the published floor, which is measured in the same process (docs/benchmark.md says what that is).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # this clone's i2vpp

from benchmarking.cases import BenchmarkError
from benchmarking.comparison import check_settings, format_comparison, match
from benchmarking.report import read_report, short_commit
from benchmarking.results import IDENTITY
from benchmarking.tables import name_case

from i2vpp.utils.parser import Parser

EXIT_FAILED = 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0 done, 1 the files do not fit."""
    arguments = build_parser().parse_args(argv)
    try:
        before, after = read_report(arguments.before), read_report(arguments.after)
        check_settings(before, after)
        pairs = match(before, after, ignore=arguments.ignore)
    except BenchmarkError as error:
        print(f"compare_benchmarks.py: error: {error}", file=sys.stderr)
        return EXIT_FAILED
    for name, report, path in (("before", before, arguments.before), ("after", after, arguments.after)):
        print(f"- {name}: {describe(report)} ({path.name})")
    print(f"\n{format_comparison(pairs)}")
    for title, report, side in (("before", before, 0), ("after", after, 1)):
        paired = [id(pair[side]) for pair in pairs]
        if alone := [name_case(result) for result in report["cases"] if id(result) not in paired]:
            print(f"\nOnly {title}: {'; '.join(alone)}.")
    return 0


def describe(report: dict[str, Any]) -> str:
    """Say which commit was measured, and where."""
    where = dict.fromkeys(result["device_name"] for result in report["cases"])
    return ", ".join([f"commit {short_commit(report)}", *where, f"torch {report['torch']}", report["date"]])


def build_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", metavar="OLD.json", type=Path)
    parser.add_argument("after", metavar="NEW.json", type=Path)
    parser.add_argument("--ignore", metavar="KEY", action="append", default=[], choices=IDENTITY,
                        help="compare combinations that differ in KEY, such as compiled, dtype or overrides; "
                        "may be repeated")  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(main())
