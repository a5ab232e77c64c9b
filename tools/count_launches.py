#!/usr/bin/env python3
"""Count what a tracked frame asks of a CUDA device; no GPU is needed, as only shapes are computed.

    python tools/count_launches.py --objects 1,5
    python tools/count_launches.py --config i2vpp-512 --dtype float32 --lines 20

The columns are kernels that are launched, those of them that cast to another data type, operations that only make a
view, moments at which the CPU waits for the device, and kilobytes copied to it. Compiled code is not counted.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the i2vpp of this clone, whatever is installed

import numpy as np
import torch

from i2vpp.build_i2vpp import build_i2vpp_video_predictor
from i2vpp.errors import I2VPPError, UntrainedWarning
from i2vpp.execution.part_times import PARTS, measure_parts
from i2vpp.utils.parser import Parser, comma_list, integer
from i2vpp.utils.result_files import index_map
from tools.benchmarking.shapes import Counts, shapes_only_gpu

EXIT_FAILED = 1
WARMUP = 7
"""Number of frames that are tracked first. The memory is full then, and there is one more frame than is read."""

SHORT_WINDOW = "model.selection.local_window=2"
"""Override of the config with which memory is full after so few frames; it changes no operation of the frame after."""

HEIGHT, WIDTH = 720, 1280


@dataclass(frozen=True, kw_only=True)
class FrameCount:
    """What one tracked frame with full memory asks of the device.

    Args:
        objects: number of objects.
        launches: kernels.
        casts: those that copy to another data type.
        views: operations without a kernel.
        waits: lines at which the CPU waits for the device until the masks are returned.
        waits_for_map: lines at which it waits while the masks become an index map on the CPU.
        bytes_up: bytes copied to the device.
        parts: kernels by part of the work, see `i2vpp.execution.part_times`.
        lines: kernels by line of code, the most frequent first.
    """

    objects: int
    launches: int
    casts: int
    views: int
    waits: tuple[str, ...]
    waits_for_map: tuple[str, ...]
    bytes_up: int
    parts: dict[str, int]
    lines: dict[str, int]


def count_frame(
    config: str, *, objects: int = 1, dtype: str = "bfloat16", overrides: tuple[str, ...] = ()
) -> FrameCount:
    """Track a video of empty frames on a device that computes shapes only, and count its last frame.

    Args:
        config: name or path of a model config.
        objects: number of objects.
        dtype: name of a data type.
        overrides: `key=value` changes of the config.

    Returns:
        The counts.

    Raises:
        I2VPPError: the library refuses config or data type.
    """
    with warnings.catch_warnings(), shapes_only_gpu() as counts:
        warnings.simplefilter("ignore", UntrainedWarning)
        predictor = build_i2vpp_video_predictor(
            config, device="cuda", dtype=dtype, hydra_overrides_extra=(*overrides, SHORT_WINDOW)
        )
        frames = [np.zeros((HEIGHT, WIDTH, 3), np.uint8)] * (WARMUP + 2)
        with predictor.init_state(frames) as state:
            for obj_id in range(1, objects + 1):
                predictor.add_new_points_or_box(state, 0, obj_id, points=[[640, 360]], labels=[1])
            for t in range(1, WARMUP + 1):
                predictor.track_frame(state, t)
            counts.reset()
            with measure_parts(predictor, state, lambda: float(counts.launches)) as parts:
                result = predictor.track_frame(state, WARMUP + 1)
            return _frame_count(counts, objects, parts, result)


def _frame_count(counts: Counts, objects: int, parts: dict[str, float], result: Any) -> FrameCount:
    launches, casts, views = counts.launches, counts.casts, counts.views
    waits, bytes_up, lines = tuple(counts.waits), counts.bytes_up, dict(counts.lines.most_common())
    index_map(result)
    return FrameCount(
        objects=objects,
        launches=launches,
        casts=casts,
        views=views,
        waits=waits,
        waits_for_map=tuple(counts.waits[len(waits) :]),
        bytes_up=bytes_up,
        parts={part: int(parts[part]) for part in PARTS},
        lines=lines,
    )


def table(counted: list[FrameCount], *, lines: int = 0) -> str:
    """Return Markdown tables of frames.

    Args:
        counted: frames of different numbers of objects.
        lines: number of lines of code to list for each frame.
    """
    rows = ["| objects | launches | casts | views | waits | waits for the index map | kB up |", "| ---: " * 7 + "|"]
    rows += [
        f"| {c.objects} | {c.launches} | {c.casts} | {c.views} | {len(c.waits)} | {len(c.waits_for_map)} "
        f"| {c.bytes_up / 1e3:.0f} |"
        for c in counted
    ]
    rows += ["", "| launches of |" + "".join(f" {c.objects} |" for c in counted), "| --- |" + " ---: |" * len(counted)]
    rows += [f"| {part} |" + "".join(f" {c.parts[part]} |" for c in counted) for part in PARTS]
    for c in counted:
        rows += ["", *(f"{count:5d} {line}" for line, count in list(c.lines.items())[:lines])] if lines else []
    return "\n".join(rows)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(prog="count_launches.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--config", default="i2vpp-infer", help="name or path of a model config (%(default)s)")
    add("--objects", type=comma_list(integer(1)), default=[1], help="numbers of objects (1)")
    add("--dtype", default="bfloat16", help="float32, bfloat16, float16 (%(default)s)")
    add("--lines", metavar="N", type=integer(0), default=0, help="list the N lines of code with most launches")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    arguments = build_parser().parse_args(argv)
    torch.set_num_threads(1)
    try:
        counted = [count_frame(arguments.config, objects=n, dtype=arguments.dtype) for n in arguments.objects]
    except I2VPPError as error:
        print(f"count_launches.py: error: {error}", file=sys.stderr)
        return EXIT_FAILED
    print(table(counted, lines=arguments.lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
