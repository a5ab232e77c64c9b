#!/usr/bin/env python3
"""Measure how fast i2vpp trains: frames per second, the share of time spent waiting for data, and peak memory.

    python tools/benchmark_training.py --image-size 256,512 --json outputs/benchmark_training.json
    python tools/benchmark_training.py -c i2vpp-demo --image-size 256,512 --override data.workers=8

Every combination of image size and activation checkpointing is a short run of `training.trainer.Trainer` with random
weights on one device, in a process of its own; the numbers come from the run's `metrics.jsonl`. Without -c the clips
are synthetic and all else is as in the published recipe; with -c the data of the recipe are read. docs/benchmark.md
explains the table.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # `training` and `tools` are no installed packages

from i2vpp.build_i2vpp import best_device
from i2vpp.errors import ConfigError, I2VPPError
from i2vpp.utils.distributed import Ranks
from i2vpp.utils.machine import device_name, peak_memory
from i2vpp.utils.parser import Parser, comma_list, integer
from tools.benchmarking.report import about, format_table, in_own_process, mebibytes, write_report
from training.config import TrainConfig
from training.launch import check_launch, plan_launch
from training.recipes import load_recipe
from training.trainer import Trainer, pick_device
from training.utils.records import METRICS

EXIT_FAILED, EXIT_USAGE = 1, 2

BASE = "i2vpp-train"  # the recipe that is used without -c
MANY = 100_000  # synthetic clips: more than a measurement takes, so that no epoch ends in it
CHECKPOINTING = {"both": (False, True), "off": (False,), "on": (True,)}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One combination that is measured, in a process of its own.

    Args:
        image_size: side of the network's input in pixels.
        checkpoint_activations: as in a recipe.
        recipe: name or path.
        overrides: changes of the recipe, those of the user last.
        device: `cpu`, `cuda` or `mps`.
        warmup: number of first steps that are not measured; the first one starts the loader and allocates memory.
        steps: number of measured optimiser steps.
        threads: number of PyTorch's CPU threads; None for its choice.
    """

    image_size: int
    checkpoint_activations: bool
    recipe: str = BASE
    overrides: tuple[str, ...] = ()
    device: str
    warmup: int = 3
    steps: int = 10
    threads: int | None = None

    def __str__(self) -> str:
        return f"{self.image_size} px, {'with' if self.checkpoint_activations else 'without'} activation checkpointing"


def compose(case: Case, folder: Path) -> TrainConfig:
    """Return the config of a run that measures one combination and keeps nothing but its metrics.

    Args:
        case: the combination.
        folder: of the run.

    Raises:
        ConfigError: the recipe, an override or the combination is wrong.
    """
    steps = case.warmup + case.steps
    return load_recipe(
        case.recipe,
        [
            *case.overrides,
            f"model.image_size={case.image_size}",
            f"run.recompute={'always' if case.checkpoint_activations else 'never'}",
            f"run.folder='{folder}'",
            f"run.device={case.device}",
            *(f"run.{length}={steps}" for length in ("max_steps", "epochs")),  # an epoch has at least one step
            *("run.max_minutes=0", "run.save_minutes=1e6", "run.picture_every=0"),
            *(f"start.{origin}=null" for origin in ("image_model", "checkpoint", "heads")),
            *("validation.images=null", "validation.annotations=null", "cluster.num_nodes=1", "cluster.num_gpus=1"),
        ],
    )


def measure(case: Case) -> dict[str, Any]:
    """Run and measure one combination, in a temporary folder that needs 250 MB.

    Args:
        case: the combination; call this in a new process for a meaningful peak of memory.

    Returns:
        A member of `cases` of the JSON file; docs/benchmark.md explains its keys.

    Raises:
        I2VPPError: the run cannot start, or ends early.
    """
    if case.threads is not None:
        torch.set_num_threads(case.threads)
    at_start = peak_memory(torch.device("cpu"))
    with tempfile.TemporaryDirectory(prefix="i2vpp-benchmark-") as temporary:
        folder = Path(temporary) / "run"
        config = compose(case, folder)
        device = pick_device(config.run.device, Ranks())
        Trainer(config, Ranks(), device).fit()
        lines = (folder / METRICS).read_text(encoding="utf-8").splitlines()
    steps = [json.loads(line) for line in lines][case.warmup :]
    frames, seconds, waited = (sum(step[key] for step in steps) for key in ("frames", "seconds/all", "seconds/data"))
    return {
        **asdict(case),
        "device": str(device),
        "device_name": device_name(device),
        "precision": config.run.precision,
        "threads": torch.get_num_threads(),
        "workers": config.data.workers,
        "sources": {name: asdict(source) for name, source in config.data.sources.items()},
        "frames_per_step": frames / len(steps),
        "frames_per_second": frames / seconds,
        "seconds_per_step": seconds / len(steps),
        "step_seconds": [step["seconds/all"] for step in steps],
        "data_seconds": [step["seconds/data"] for step in steps],
        "data_share": waited / seconds,
        "skipped_steps": int(steps[-1].get("skipped/steps", 0)),
        "peak_memory_bytes": peak_memory(device),
        "process_bytes_at_start": at_start,
    }


def format_results(results: Sequence[dict[str, Any]]) -> str:
    """Return the table of all combinations."""
    numbers = {
        "frames/step": lambda r: f"{r['frames_per_step']:g}",
        "s/step": lambda r: f"{r['seconds_per_step']:.3f}",
        "frames/s": lambda r: f"{r['frames_per_second']:.2f}",
        "waits for data": lambda r: f"{r['data_share']:.1%}",
        "peak MiB": lambda r: mebibytes(r["peak_memory_bytes"]),
    }
    rows = [
        ["on" if r["checkpoint_activations"] else "off", r.get("precision", ""), str(r["image_size"])]
        + ["failed" if "failed" in r else text(r) for text in numbers.values()]
        for r in results
    ]
    return format_table(["checkpointing", "precision", "image size", *numbers], rows, texts=2)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0 done, 1 a combination failed, 2 wrong usage."""
    argv = sys.argv[1:] if argv is None else argv
    arguments = build_parser().parse_args(argv)
    try:
        cases = choose_cases(arguments)
    except I2VPPError as error:
        print(f"benchmark_training.py: error: {error}", file=sys.stderr)
        return EXIT_USAGE
    results: list[dict[str, Any]] = []
    report = {**about([Path(__file__).name, *argv]), "cases": results}
    for number, case in enumerate(cases, start=1):
        print(f"[{number}/{len(cases)}] {case}", file=sys.stderr, flush=True)
        results.append(in_own_process(measure, case))
        try:
            if arguments.json is not None:  # after each combination: an interrupted run keeps what was measured
                write_report(arguments.json, report)
        except OSError as error:
            print(f"benchmark_training.py: error: {error}", file=sys.stderr)
            return EXIT_FAILED
    devices = {result["device_name"]: None for result in results if "failed" not in result} or {arguments.device: None}
    print(f"{', '.join(devices)}, {report['cpu_count']} cores; torch {report['torch']}; random weights\n")
    print(format_results(results))
    return EXIT_FAILED if any("failed" in result for result in results) else 0


def choose_cases(arguments: argparse.Namespace) -> list[Case]:
    """Return all combinations of the options.

    Raises:
        I2VPPError: the options, the recipe or an override are wrong, or this machine lacks the device.
    """
    clips = {f"--{name}": getattr(arguments, name) for name in ("frames", "clips", "objects")}
    if arguments.config and (given := [option for option, value in clips.items() if value is not None]):
        raise ConfigError(f"{', '.join(given)}: a recipe (-c) has its own clips; change them by --override")
    data = [] if arguments.config else _synthetic_clips(*clips.values())
    precision = [f"run.precision={arguments.dtype}"] if arguments.dtype else []
    cases = [
        Case(
            image_size=size,
            checkpoint_activations=checkpointing,
            recipe=arguments.config or BASE,
            overrides=(*data, *precision, *arguments.override),
            **{name: getattr(arguments, name) for name in ("device", "warmup", "steps", "threads")},
        )
        for sizes in arguments.image_size
        for size in sizes
        for checkpointing in CHECKPOINTING[arguments.checkpoint_activations]
    ]
    for case in cases:
        config = compose(case, Path("run"))
        check_launch(config, plan_launch(config))
    return cases


def _synthetic_clips(frames: int | None, clips: int | None, objects: int | None) -> list[str]:
    """Return the overrides that put synthetic clips in the place of the recipe's data."""
    source = {
        "kind": "procedural",
        "batch_size": clips or 1,
        "length": MANY,
        "clip.num_frames": frames or 8,
        "clip.max_objects": objects or 1,
    }
    removed = [f"~data.sources.{name}" for name in load_recipe(BASE).data.sources]
    return [*removed, *(f"+data.sources.made_up.{key}={value}" for key, value in source.items())]


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(
        prog="benchmark_training.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("-c", "--config", metavar="RECIPE",
        help=f"recipe, by path or name, and its data (without: synthetic clips, all else as {BASE})")  # fmt: skip
    add("--override", metavar="KEY=VALUE", action="append", default=[],
        help="change a value of the recipe, such as user.corrections=2; may be repeated")  # fmt: skip
    add("--image-size", metavar="N", type=comma_list(integer(1)), nargs="+", default=[[256, 512]],
        help="sides of the network's input in pixels (256,512)")  # fmt: skip
    add("--checkpoint-activations", choices=sorted(CHECKPOINTING), default="both",
        help="with, without or both (%(default)s)")  # fmt: skip
    clips = parser.add_argument_group("synthetic clips (without -c)")
    clips.add_argument("--frames", metavar="N", type=integer(1), help="frames of a clip (8)")
    clips.add_argument("--clips", metavar="N", type=integer(1), help="clips of a batch (1)")
    clips.add_argument("--objects", metavar="N", type=integer(1), help="objects of a clip, at most; 4 exist (1)")
    add("--device", default=str(best_device()), help="cpu, cuda or mps (%(default)s)")
    add("--dtype", help="run.precision of the recipe: float32 or bfloat16")
    add("--steps", metavar="N", type=integer(1), default=Case.steps, help="steps to measure (%(default)s)")
    add("--warmup", metavar="N", type=integer(0), default=Case.warmup, help="steps before them (%(default)s)")
    add("--threads", metavar="N", type=integer(1), help="PyTorch's threads on the CPU (its choice)")
    add("--json", metavar="FILE", type=Path, help="write all results to FILE")
    return parser


if __name__ == "__main__":
    sys.exit(main())
