#!/usr/bin/env python3
"""Measure how fast i2vpp tracks, where the time goes, and how far that is from what the machine could do.

    python tools/benchmark.py --config i2vpp-infer,i2vpp-512 --objects 1,5 --json outputs/benchmark.json

Every combination runs in a process of its own, so that peaks of memory do not mix. The weights are untrained: cost
depends on sizes only, not on what the network sees: an object judged absent goes the same way through decoder, hole
filling and memory encoder. docs/benchmark.md says how to read the tables.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from frame_cost import Case, Settings, measure, num_steps
from tqdm import tqdm

from i2vpp.build_i2vpp import best_device
from i2vpp.cli import DTYPES
from i2vpp.config import load_config
from i2vpp.errors import I2VPPError
from i2vpp.utils.machine import cpu_name

EXIT_FAILED, EXIT_USAGE = 1, 2

WEIGHTS = "untrained; cost depends on sizes only"


def run_worker(request: Path, reply: Path) -> int:
    """Measure what the file `request` asks for and write the result to the file `reply`."""
    asked = json.loads(request.read_text(encoding="utf-8"))
    case, settings = Case(**asked["case"]), Settings(**asked["settings"])
    with tqdm(total=num_steps(settings), desc=asked["label"], unit="step", leave=False) as bar:
        result = measure(case, settings, bar.update)
    reply.write_text(json.dumps(result), encoding="utf-8")
    return 0


# ---- all combinations


def run_cases(cases: Sequence[Case], settings: Settings) -> Iterator[dict[str, Any]]:
    """Measure each combination in a process of its own; where one ends badly, only `case` and `failed` are known."""
    with tempfile.TemporaryDirectory() as folder:
        request, reply = Path(folder) / "request.json", Path(folder) / "reply.json"
        for number, case in enumerate(cases, start=1):
            label = f"[{number}/{len(cases)}] {case.config} {case.dtype or ''} {case.device} {case.objects} obj"
            asked = {"case": asdict(case), "settings": asdict(settings), "label": label}
            request.write_text(json.dumps(asked), encoding="utf-8")
            reply.unlink(missing_ok=True)
            command = [sys.executable, str(Path(__file__).resolve()), "--worker", str(request), str(reply)]
            status = subprocess.run(command, check=False).returncode
            if status or not reply.exists():
                yield {**asdict(case), "failed": f"the process ended with status {status}"}
            else:
                yield json.loads(reply.read_text(encoding="utf-8"))


def about(command: Sequence[str], settings: Settings) -> dict[str, Any]:
    """Return what a reader of the numbers has to know."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(command),
        "i2vpp": version("i2vpp"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cpu_count": os.cpu_count(),
        "weights": WEIGHTS,
        "settings": asdict(settings),
    }


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, texts: int) -> str:
    """Return an aligned Markdown table; the first `texts` columns are text, the others are numbers."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(f"{cells[i]:{'<' if i < texts else '>'}{w}}" for i, w in enumerate(widths)) + " |"

    rule = ["-" * w if i < texts else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return "\n".join([line(header), line(rule), *map(line, rows)])


def format_parts(result: dict[str, Any]) -> str:
    """Return the table of parts of one combination; the last row is the whole frame."""
    whole, rate = result["parts_seconds_per_frame"], result["matmul_flop_per_second"]
    seconds = {**result["parts"], "whole frame": whole}
    flop = {**result["parts_flop"], "whole frame": result["flop_per_frame"]}
    rows = []
    for part, time in seconds.items():
        speed = [""] * 3
        if flop[part]:
            speed = [f"{flop[part] / 1e9:.2f}", f"{flop[part] / time / 1e9:.1f}", f"{flop[part] / rate / time:.0%}"]
        rows.append([part, f"{1000 * time:.2f}", f"{time / whole:.1%}", *speed])
    return format_table(["part", "ms", "share", "GFLOP", "GFLOP/s", "floor / time"], rows, texts=1)


def format_summary(results: Sequence[dict[str, Any]]) -> str:
    """Return the table of all combinations."""
    texts = ["config", "device", "dtype"]
    numbers = {
        "s/frame": lambda r: f"{r['seconds_per_frame']:.4f}",
        "FPS": lambda r: f"{r['fps']:.2f}",
        "peak MiB": lambda r: "" if r["peak_memory_bytes"] is None else f"{r['peak_memory_bytes'] / 2**20:.0f}",
        "GFLOP": lambda r: f"{r['flop_per_frame'] / 1e9:.1f}",
        "matmul GFLOP/s": lambda r: f"{r['matmul_flop_per_second'] / 1e9:.0f}",
        "floor s": lambda r: f"{r['floor_seconds']:.4f}",
        "floor / time": lambda r: f"{r['share_of_floor']:.0%}",
    }
    rows = [
        [*(r[name] or "" for name in texts), str(r["objects"])]
        + ["failed" if "failed" in r else text(r) for text in numbers.values()]
        for r in results
    ]
    return format_table([*texts, "objects", *numbers], rows, texts=len(texts))


# ---- the command


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0 done, 1 a combination failed, 2 wrong usage."""
    arguments = build_parser().parse_args(argv)
    if arguments.worker:
        return run_worker(*arguments.worker)
    try:
        settings = _settings(arguments)
        cases = _cases(arguments)
    except (I2VPPError, ValueError) as error:
        print(f"benchmark.py: error: {error}", file=sys.stderr)
        return EXIT_USAGE
    report = about([Path(sys.argv[0]).name, *(sys.argv[1:] if argv is None else argv)], settings)
    print(f"{report['cpu']}, {report['cpu_count']} cores; torch {report['torch']}; weights: {WEIGHTS}\n")
    results: list[dict[str, Any]] = []
    for result in run_cases(cases, settings):
        results.append(result)
        if "failed" not in result:
            title = f"{result['config']}, {result['device_name']}, {result['dtype']}, {result['objects']} object(s)"
            print(f"{title}, {result['memory_groups']} memory frames\n\n{format_parts(result)}\n", flush=True)
        if arguments.json is not None:  # after each combination: a long run that is broken off keeps what is done
            arguments.json.parent.mkdir(parents=True, exist_ok=True)
            arguments.json.write_text(json.dumps({**report, "cases": results}, indent=2) + "\n", encoding="utf-8")
    print(format_summary(results))
    return EXIT_FAILED if any("failed" in result for result in results) else 0


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; options with several values take comma lists and may be repeated."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_argument_group("combinations (comma lists, repeatable)")
    which.add_argument("--config", action="append", help="names or paths of model configs (i2vpp-infer)")
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
    parser.add_argument("--threads", metavar="N", type=int, help="of PyTorch on the CPU (its choice)")
    parser.add_argument("--override", metavar="KEY=VALUE", action="append", default=[],
                        help="change a config value, such as model.selection.mode=top; may be repeated")  # fmt: skip
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all results to FILE")
    parser.add_argument("--worker", nargs=2, type=Path, help=argparse.SUPPRESS)
    return parser


def _settings(arguments: argparse.Namespace) -> Settings:
    least = {"frames": 1, "warmup": 0, "history": 0, "threads": 1}
    for name, allowed in least.items():
        value = getattr(arguments, name)
        if value is not None and value < allowed:
            raise ValueError(f"--{name} must be at least {allowed}; got {value}")
    width, _, height = arguments.video.partition("x")
    if not (width.isdecimal() and height.isdecimal()) or any(int(s) < 16 or int(s) % 2 for s in (width, height)):
        raise ValueError(f"--video must be WxH, even numbers of at least 16; got {arguments.video!r}")
    numbers = {name: getattr(arguments, name) for name in least}
    return Settings(overrides=tuple(arguments.override), width=int(width), height=int(height), **numbers)


def _cases(arguments: argparse.Namespace) -> list[Case]:
    configs = _split(arguments.config) or ["i2vpp-infer"]
    dtypes: list[Any] = _split(arguments.dtype) or [None]
    devices = _split(arguments.device) or [str(best_device())]
    objects = _split(arguments.objects) or ["1"]
    for config in configs:
        load_config(config, arguments.override)
    for dtype in dtypes:
        if dtype is not None and dtype not in DTYPES:
            raise ValueError(f"--dtype must be one of {', '.join(DTYPES)}; got {dtype!r}")
    for count in objects:
        if not count.isdecimal() or int(count) < 1:
            raise ValueError(f"--objects must be integers of 1 or more; got {count!r}")
    for device in devices:
        _check_device(device)
    return [
        Case(config=config, device=device, dtype=dtype, objects=int(count))
        for device, config, dtype, count in itertools.product(devices, configs, dtypes, objects)
    ]


def _split(lists: list[str] | None) -> list[str]:
    return [entry.strip() for text in lists or [] for entry in text.split(",") if entry.strip()]


def _check_device(name: str) -> None:
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"--device must be cpu, cuda, cuda:N or mps; got {name!r}") from None
    counts = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (device.index or 0) >= counts.get(device.type, 0):
        there = [f"{kind} ({count})" for kind, count in counts.items() if count]
        raise ValueError(f"--device: there is no {name!r} here; there are {', '.join(there)}")


if __name__ == "__main__":
    sys.exit(main())
