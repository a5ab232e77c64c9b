#!/usr/bin/env python3
"""Write the table of speeds into README.md and docs/benchmark.md from JSON files of tools/benchmark.py.

    python tools/speed_table.py docs/performance/cpu.json

The table replaces what is between the two lines `<!-- speed table: begin -->` and `<!-- speed table: end -->`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the i2vpp of this clone, whatever is installed

from i2vpp.errors import DataError
from i2vpp.utils.files import atomic_write
from i2vpp.utils.parser import Parser
from tools.benchmarking.report import REPO, format_speed, read_report

BEGIN, END = "<!-- speed table: begin -->", "<!-- speed table: end -->"
EXIT_FAILED = 1
PAGES = [REPO / "README.md", REPO / "docs" / "benchmark.md"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0 done, 1 a file cannot be read or written, or does not fit."""
    arguments = build_parser().parse_args(argv)
    try:
        table = format_speed([read_report(path) for path in arguments.results])
        for page in arguments.into or PAGES:
            text = replace_table(page.read_text(encoding="utf-8"), table, str(page))
            with atomic_write(page, "w") as file:
                file.write(text)
    except (DataError, OSError) as error:
        print(f"speed_table.py: error: {error}", file=sys.stderr)
        return EXIT_FAILED
    return 0


def replace_table(text: str, table: str, page: str) -> str:
    """Return the text of a page with another table between the marker lines.

    Args:
        text: of the page.
        table: new content between the markers.
        page: name of the page, for the message.

    Raises:
        DataError: the markers are not there, each on a line of its own and once.
    """
    lines = text.splitlines()
    if lines.count(BEGIN) != 1 or lines.count(END) != 1 or lines.index(BEGIN) > lines.index(END):
        raise DataError(f"{page} must have one line {BEGIN!r} and, below it, one line {END!r}")
    before, after = lines[: lines.index(BEGIN) + 1], lines[lines.index(END) :]
    return "\n".join([*before, "", table, "", *after]) + "\n"


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(prog="speed_table.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", metavar="RESULTS.json", type=Path, nargs="+", help="written by --json")
    parser.add_argument("--into", metavar="FILE", type=Path, action="append",
                        help="page to change; may be repeated (README.md and docs/benchmark.md)")  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(main())
