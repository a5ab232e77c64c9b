#!/usr/bin/env python3
"""Measure how fast i2vpp tracks, where the time goes, and how far that is from what the machine could do.

    python tools/benchmark.py --config i2vpp-infer,i2vpp-512 --objects 1,5 --json outputs/benchmark.json
    python tools/benchmark.py --config i2vpp-256 --video-length 250,1000,5000
    python tools/benchmark.py --against ../i2vpp-before --config i2vpp-512

Every combination runs in a process of its own, so that peaks of memory do not mix. The weights are untrained: cost
depends on sizes only, not on what the network sees: an object judged absent goes the same way through decoder, hole
filling and memory encoder. docs/benchmark.md says how to read the tables.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # this clone's i2vpp, whatever is installed

from benchmarking.cases import Case, Settings
from benchmarking.comparison import format_comparison
from benchmarking.report import WEIGHTS, about, commit, write_report
from benchmarking.results import object_costs
from benchmarking.runs import check_checkout, run_cases, run_pairs
from benchmarking.tables import (
    format_first_masks,
    format_object_costs,
    format_parts,
    format_streams,
    format_summary,
    name_case,
)

from i2vpp.build_i2vpp import best_device, choose_device
from i2vpp.cli import DTYPES
from i2vpp.config import load_config
from i2vpp.errors import I2VPPError
from i2vpp.utils.parser import Parser
from i2vpp.utils.suggest import did_you_mean

EXIT_FAILED, EXIT_USAGE = 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0 done, 1 a combination failed, 2 wrong usage."""
    arguments = build_parser().parse_args(argv)
    try:
        settings = _settings(arguments)
        cases = _cases(arguments, settings)
        other = None if arguments.against is None else check_checkout(arguments.against)
    except (I2VPPError, ValueError) as error:
        print(f"benchmark.py: error: {error}", file=sys.stderr)
        return EXIT_USAGE
    report = about([Path(__file__).name, *(sys.argv[1:] if argv is None else argv)], settings)
    print(f"{report['cpu']}, {report['cpu_count']} cores; torch {report['torch']}; weights: {WEIGHTS}\n")

    def save() -> None:  # after each combination: a long run that is broken off keeps what is done
        if arguments.json is not None:
            write_report(arguments.json, report)

    try:
        if other is not None:
            return compare_checkouts(report, save, cases, settings, other, rounds=arguments.rounds)
        if settings.video_lengths:
            return measure_streams(report, save, cases, settings)
        return measure_frames(report, save, cases, settings)
    except OSError as error:
        print(f"benchmark.py: error: {error}", file=sys.stderr)
        return EXIT_FAILED


def measure_frames(report: dict[str, Any], save: Callable[[], None], cases: Sequence[Case], settings: Settings) -> int:
    """Measure tracked frames of all combinations, print their tables, and put all into the report."""
    results: list[dict[str, Any]] = []
    report.update(cases=results, object_costs=[])
    for result in run_cases(cases, settings):
        results.append(result)
        report["object_costs"] = object_costs(results)
        save()
        if "failed" not in result:
            print(f"{name_case(result)}, {result['memory_groups']} memory frames, {result['device_name']}\n")
            tables = filter(None, [format_parts(result), format_first_masks(result)])
            print("\n\n".join(tables), end="\n\n", flush=True)
    print(format_summary(results))
    if report["object_costs"]:
        print(f"\n{format_object_costs(report['object_costs'])}")
    return _status(results)


def measure_streams(report: dict[str, Any], save: Callable[[], None], cases: Sequence[Case], settings: Settings) -> int:
    """Measure live sessions of all combinations, print their table, and put all into the report."""
    results: list[dict[str, Any]] = []
    report.update(cases=[], streams=results)
    for result in run_cases(cases, settings):
        results.append(result)
        save()
    print(format_streams(results))
    return _status(results)


def compare_checkouts(
    report: dict[str, Any],
    save: Callable[[], None],
    cases: Sequence[Case],
    settings: Settings,
    other: Path,
    *,
    rounds: int,
) -> int:
    """Measure all combinations in turns with another checkout, print both, and put all into the report."""
    theirs: list[dict[str, Any]] = []
    ours: list[dict[str, Any]] = []
    report.update(cases=ours, against={"checkout": str(other), "commit": commit(other), "cases": theirs})
    for mine, its in run_pairs(cases, settings, other, rounds=rounds):
        ours.append(mine)
        theirs.append(its)
        save()
    pairs = [(before, after) for before, after in zip(theirs, ours, strict=True) if not _status([before, after])]
    print(f"before: {other}, commit {report['against']['commit']}; after: this checkout, commit {report['commit']}\n")
    if pairs:
        print(format_comparison(pairs))
    for name, results in (("before", theirs), ("after", ours)):
        print(f"\n{name}\n\n{format_summary(results)}")
    return _status([*theirs, *ours])


def _status(results: Sequence[dict[str, Any]]) -> int:
    return EXIT_FAILED if any("failed" in result for result in results) else 0


# ---- the command line


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; options with several values take comma lists and may be repeated."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_argument_group("combinations (comma lists, repeatable)")
    which.add_argument("--config", action="append", help="names or paths of model configs (i2vpp-infer)")
    which.add_argument("--image-size", action="append", help="sides of the network's input (the config's)")
    which.add_argument("--dtype", action="append", help=f"{', '.join(DTYPES)} (the predictor's choice)")
    which.add_argument("--device", action="append", help="cpu, cuda, cuda:1, mps (the best there is)")
    which.add_argument("--objects", action="append", help="numbers of objects (1)")
    default = Settings()
    parser.add_argument("--frames", metavar="N", type=int, default=default.frames, help="measured (%(default)s)")
    parser.add_argument("--warmup", metavar="N", type=int, default=default.warmup, help="not measured (%(default)s)")
    parser.add_argument("--history", metavar="N", type=int, default=default.history,
                        help="tracked frames in memory from the start, filled in cheaply; 14 (the default) give full "
                        "memory, 210 also all that is compared in long videos")  # fmt: skip
    parser.add_argument("--video", metavar="WxH", default=f"{default.width}x{default.height}",
                        help="size of the synthetic video (%(default)s)")  # fmt: skip
    parser.add_argument("--decoded", action="store_true", help="track decoded frames of that size, not a video file")
    parser.add_argument("--video-length", metavar="N", action="append",
                        help="measure live sessions instead, looked at after so many frames (comma list)")  # fmt: skip
    parser.add_argument("--first-masks", metavar="N", type=int, default=default.first_masks,
                        help="measure the time to the first mask so often; 0 for never (%(default)s)")  # fmt: skip
    parser.add_argument("--first-mask-video", metavar="FILE", help="a video for that (the synthetic one)")
    parser.add_argument("--compile", action="store_true", help="build the predictor with vos_optimized=True")
    parser.add_argument("--threads", metavar="N", type=int, help="of PyTorch on the CPU (its choice)")
    parser.add_argument("--override", metavar="KEY=VALUE", action="append", default=[],
                        help="change a config value, such as model.selection.mode=top; may be repeated")  # fmt: skip
    parser.add_argument("--against", metavar="CHECKOUT", type=Path,
                        help="measure in turns with the i2vpp of another clone, and compare")  # fmt: skip
    parser.add_argument("--rounds", metavar="N", type=int, default=2, help="turns of --against (%(default)s)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all results to FILE")
    return parser


def _settings(arguments: argparse.Namespace) -> Settings:
    least = {"frames": 1, "warmup": 0, "history": 0, "first_masks": 0, "rounds": 1, "threads": 1}
    for name, allowed in least.items():
        value = getattr(arguments, name)
        if value is not None and value < allowed:
            raise ValueError(f"--{name.replace('_', '-')} must be at least {allowed}; got {value}")
    width, _, height = arguments.video.partition("x")
    if not (width.isdecimal() and height.isdecimal()) or any(int(s) < 16 or int(s) % 2 for s in (width, height)):
        raise ValueError(f"--video must be WxH, even numbers of at least 16; got {arguments.video!r}")
    if arguments.first_mask_video is not None and not Path(arguments.first_mask_video).is_file():
        raise ValueError(f"--first-mask-video: there is no file {arguments.first_mask_video!r}")
    lengths = _numbers("--video-length", arguments.video_length, least=2)
    if lengths and arguments.against is not None:
        raise ValueError("--video-length and --against do not go together: run the command once for each checkout")
    shared = ("frames", "warmup", "history", "first_masks", "first_mask_video", "threads", "decoded")
    return Settings(
        overrides=tuple(arguments.override),
        width=int(width),
        height=int(height),
        compiled=arguments.compile,
        video_lengths=tuple(sorted(set(lengths))),
        **{name: getattr(arguments, name) for name in shared},
    )


def _cases(arguments: argparse.Namespace, settings: Settings) -> list[Case]:
    configs = _split(arguments.config) or ["i2vpp-infer"]
    sizes: list[Any] = _numbers("--image-size", arguments.image_size, least=1) or [None]
    dtypes: list[Any] = _split(arguments.dtype) or [None]
    devices = _split(arguments.device) or [str(best_device())]
    objects = _numbers("--objects", arguments.objects, least=1) or [1]
    for dtype in dtypes:
        if dtype is not None and dtype not in DTYPES:
            raise ValueError(f"--dtype: unknown dtype {dtype!r}; {did_you_mean(dtype, DTYPES)}")
    for device in devices:
        choose_device(device)
    cases = [
        Case(config=config, device=device, dtype=dtype, objects=count, image_size=size)
        for device, config, size, dtype, count in itertools.product(devices, configs, sizes, dtypes, objects)
    ]
    for case in cases:
        load_config(case.config, case.overrides(settings))
    return cases


def _split(lists: list[str] | None) -> list[str]:
    return [entry.strip() for text in lists or [] for entry in text.split(",") if entry.strip()]


def _numbers(option: str, lists: list[str] | None, *, least: int) -> list[int]:
    for text in _split(lists):
        if not text.isdecimal() or int(text) < least:
            raise ValueError(f"{option} must be integers of {least} or more; got {text!r}")
    return [int(text) for text in _split(lists)]


if __name__ == "__main__":
    sys.exit(main())
