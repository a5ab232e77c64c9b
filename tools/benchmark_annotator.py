#!/usr/bin/env python3
"""Measure what a person waits for in the annotator: clicks, brush strokes, exports, and how smooth the page stays.

    python tools/benchmark_annotator.py --checkpoint i2vpp-demo --json outputs/annotator.json

Headless Chromium works on a real server over a synthetic video. The time of a click runs from the release of the
button until the mask is drawn, without the time of the network. The time of a stroke includes the network. Bytes are
those of answers and events. On a loaded machine all times are several times longer, so its load is printed, and also
the time for which the page's main thread worked, which other programs do not lengthen.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the i2vpp of this clone, whatever is installed

from i2vpp.errors import I2VPPError
from i2vpp.model_choice import add_model_options, build_predictor, chosen_model
from i2vpp.utils.parser import Parser, integer
from tools.benchmark import frame_size
from tools.benchmarking.annotator import Case, measure
from tools.benchmarking.report import about, write_report

EXIT_FAILED = 1
GOALS = {"click": 60, "stroke": 150, "bytes": 10_000, "requests": 4, "exports": 1.5, "tasks": 10}
TASKS_SECONDS = 200  # seconds of propagation in which at most GOALS["tasks"] tasks may last longer than 50 ms


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0 done, 1 something cannot be measured, 2 wrong usage."""
    arguments = build_parser().parse_args(argv)
    case = Case(
        width=arguments.video[0],
        height=arguments.video[1],
        **{name: getattr(arguments, name) for name in ("frames", "objects", "repeats", "tracked", "seconds")},
    )
    report = about([Path(__file__).name, *(sys.argv[1:] if argv is None else argv)])
    report["load_before"] = os.getloadavg()
    try:
        predictor = build_predictor(chosen_model(arguments))
        with tempfile.TemporaryDirectory() as folder:
            results = measure(case, predictor, Path(folder), exports=not arguments.no_exports)
            report |= {"load_after": os.getloadavg(), "results": results}
            if arguments.json is not None:
                write_report(arguments.json, report)
    except (I2VPPError, OSError) as error:
        print(f"benchmark_annotator.py: error: {error}", file=sys.stderr)
        return EXIT_FAILED
    print(table(results, case))
    loads = " to ".join(f"{report[when][0]:.1f}" for when in ("load_before", "load_after"))
    print(f"\n{report['cpu']}, {report['cpu_count']} cores; load of the last minute {loads}")
    return 0


def table(results: dict[str, Any], case: Case) -> str:
    """Return the results as a Markdown table.

    Args:
        results: what `measure` returned.
        case: what was measured.
    """
    click, stroke, tracking = results["click"], results["stroke"], results["propagation"]
    scaled = len(tracking["long_tasks"]) * TASKS_SECONDS / tracking["seconds"]
    rows: list[tuple[str, float, float | None]] = [
        ("click to mask beyond the network, ms", click["milliseconds"], GOALS["click"]),
        ("the page's own work on that, ms", click["cpu"], None),
        ("bytes per click", click["bytes"], GOALS["bytes"]),
        ("requests per click", click["requests"], GOALS["requests"]),
        (f"stroke with {case.objects} x {case.frames} masks, ms", stroke["milliseconds"], GOALS["stroke"]),
        ("the page's own work on that, ms", stroke["cpu"], None),
        ("bytes per stroke", stroke["bytes"], GOALS["bytes"]),
        ("requests per stroke", stroke["requests"], GOALS["requests"]),
        (f"tasks over 50 ms in {TASKS_SECONDS} s of propagation ({tracking['seconds']:.0f} s measured, "
         f"{tracking['frames']} frames)", scaled, GOALS["tasks"]),
    ]  # fmt: skip
    rows.append(("the page's own work per frame, ms", 1000 * tracking["cpu"], None))
    if "exports" in results:
        davis, sav = results["exports"]["davis"], results["exports"]["sav"]
        rows.append((f"export, SA-V ({sav:.0f} s) by DAVIS ({davis:.0f} s)", sav / davis, GOALS["exports"]))
    lines = [f"| {what} | {found:.{0 if found > 9 else 2}f} | {'' if goal is None else f'{goal:g}'} |"
             for what, found, goal in rows]  # fmt: skip
    return "\n".join(["| | measured | at most |", "| --- | ---: | ---: |", *lines])


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(
        prog="benchmark_annotator.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = Case()
    add = parser.add_argument
    add("--video", metavar="WxH", type=frame_size, default=(default.width, default.height),
        help=f"size of the synthetic video ({default.width}x{default.height})")  # fmt: skip
    for name, text in (
        ("frames", "frames of the video"),
        ("objects", "objects of the imported annotation, each with a mask on every frame"),
        ("repeats", "clicks and strokes to measure"),
        ("tracked", "objects of the propagation"),
    ):
        add(f"--{name}", metavar="N", type=integer(1), default=getattr(default, name), help=f"{text} (%(default)s)")
    add("--seconds", metavar="S", type=float, default=default.seconds,
        help="for which the page is watched during a propagation (%(default)s)")  # fmt: skip
    add("--no-exports", action="store_true", help="leave exports out, which take longest")
    add("--json", metavar="FILE", type=Path, help="write all results to FILE")
    add_model_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
