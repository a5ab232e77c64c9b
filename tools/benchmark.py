#!/usr/bin/env python3
"""Measure how fast i2vpp tracks, which part of the network takes how long, and how that compares with the floor.

    python tools/benchmark.py --config i2vpp-infer,i2vpp-512 --objects 1,5 --json outputs/benchmark.json
    python tools/benchmark.py --config i2vpp-256 --video-length 250,1000,5000

The floor is the time of the network's operations at the rate of a large matrix product. Every combination of the
options runs in a process of its own, so that each has its own peak of memory. The weights are random: the time of a
frame depends on sizes only. docs/benchmark.md explains what is measured and how to read the tables.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the i2vpp of this clone, whatever is installed

from i2vpp.build_i2vpp import best_device, choose_device, choose_dtype
from i2vpp.config import load_config
from i2vpp.errors import I2VPPError
from i2vpp.utils.parser import Parser, comma_list, integer, key_value
from tools.benchmarking.measure import Case, measure_frames, measure_stream
from tools.benchmarking.report import (
    about,
    format_objects,
    format_parts,
    format_streams,
    format_summary,
    in_own_process,
    write_report,
)

EXIT_FAILED, EXIT_USAGE = 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0 done, 1 a combination failed, 2 wrong usage."""
    arguments = build_parser().parse_args(argv)
    try:
        cases = choose_cases(arguments)
    except I2VPPError as error:
        print(f"benchmark.py: error: {error}", file=sys.stderr)
        return EXIT_USAGE
    report = about([Path(__file__).name, *(sys.argv[1:] if argv is None else argv)])
    print(f"{report['cpu']}, {report['cpu_count']} cores; torch {report['torch']}; random weights\n", flush=True)
    streams = bool(arguments.video_length)
    results: list[dict[str, Any]] = []
    report["streams" if streams else "cases"] = results
    for number, case in enumerate(cases, start=1):
        print(f"[{number}/{len(cases)}] {case}", file=sys.stderr, flush=True)
        result = in_own_process(measure_stream if streams else measure_frames, case)
        results.append(result)
        if "failed" not in result and not streams:
            print(f"{case}\n\n{format_parts(result)}\n", flush=True)
        try:
            if arguments.json is not None:  # after each combination: an interrupted run keeps what was measured
                write_report(arguments.json, report)
        except OSError as error:
            print(f"benchmark.py: error: {error}", file=sys.stderr)
            return EXIT_FAILED
    tables = [format_streams(results)] if streams else [format_summary(results), format_objects(results)]
    print("\n\n".join(filter(None, tables)))
    return EXIT_FAILED if any("failed" in result for result in results) else 0


def choose_cases(arguments: argparse.Namespace) -> list[Case]:
    """Return all combinations of the options.

    Raises:
        ConfigError: a config, override, image size, device or data type is wrong.
    """
    shared = {
        "overrides": tuple(arguments.override),
        "width": arguments.video[0],
        "height": arguments.video[1],
        "compiled": arguments.compile,
        "video_lengths": tuple(sorted(set(arguments.video_length or ()))),
        **{name: getattr(arguments, name) for name in ("warmup", "frames", "threads")},
    }
    cases = []
    for device, config, size, dtype, objects in itertools.product(
        arguments.device or [str(best_device())],
        arguments.config or ["i2vpp-infer"],
        arguments.image_size or [None],
        arguments.dtype or [None],
        arguments.objects or [1],
    ):
        choose_dtype(dtype, choose_device(device))
        case = Case(config=config, image_size=size, device=device, dtype=dtype, objects=objects, **shared)
        load_config(case.config, case.all_overrides)
        cases.append(case)
    return cases


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(prog="benchmark.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_argument_group("combinations (values with commas between them; may be repeated)")
    default = Case()
    for name, kind, text in (
        ("config", str, "names or paths of model configs (i2vpp-infer)"),
        ("image-size", integer(1), "sides of the network's input in pixels (that of the config)"),
        ("dtype", str, "float32, bfloat16, float16 (the choice of the predictor)"),
        ("device", str, "cpu, cuda, cuda:1, mps (the best there is)"),
        ("objects", integer(1), "numbers of objects (1)"),
    ):
        which.add_argument(f"--{name}", type=comma_list(kind), action="extend", help=text)
    add = parser.add_argument
    add("--override", metavar="KEY=VALUE", type=key_value, action="append", default=[],
        help="change a value of the config, such as model.selection.mode=top; may be repeated")  # fmt: skip
    add("--frames", metavar="N", type=integer(1), default=default.frames, help="frames to measure (%(default)s)")
    add("--warmup", metavar="N", type=integer(1), default=default.warmup,
        help="frames to track before; %(default)s (the default) give full memory")  # fmt: skip
    add("--video", metavar="WxH", type=frame_size, default=(default.width, default.height),
        help=f"size of the synthetic video ({default.width}x{default.height})")  # fmt: skip
    add("--video-length", metavar="N", type=comma_list(integer(3)), action="extend",
        help="measure a live session instead, after so many frames (values with commas between them)")  # fmt: skip
    add("--compile", action="store_true", help="build the predictor with vos_optimized=True")
    add("--threads", metavar="N", type=integer(1), help="PyTorch's threads on the CPU (its choice)")
    add("--json", metavar="FILE", type=Path, help="write all results to FILE")
    return parser


def frame_size(text: str) -> tuple[int, int]:
    """Parse `WxH` into width and height in pixels, even numbers of at least 16."""
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal()) or any(int(s) < 16 or int(s) % 2 for s in (width, height)):
        raise argparse.ArgumentTypeError(f"must be WxH, even numbers of at least 16; got {text!r}")
    return int(width), int(height)


if __name__ == "__main__":
    sys.exit(main())
