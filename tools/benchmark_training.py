#!/usr/bin/env python3
"""Measure how fast i2vpp trains: frames per second, the share of time spent waiting for data, and peak memory.

    python tools/benchmark_training.py --image-size 256 512 --json outputs/benchmark_training.json
    python tools/benchmark_training.py -c i2vpp-demo --image-size 256 512 --override data.workers=8

Every combination of image size and activation checkpointing is a short run of `training.trainer.Trainer` in a process
of its own, on one device, from untrained weights, and is read off the run's `metrics.jsonl`. Without -c clips are made
up and everything else is as in the published recipe; with -c the recipe's data are read.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # `training` is no installed package

from benchmarking.report import WEIGHTS, about, write_report
from benchmarking.tables import format_table

from i2vpp.build_i2vpp import best_device
from i2vpp.errors import I2VPPError
from i2vpp.utils.distributed import Ranks
from i2vpp.utils.machine import device_name, peak_memory
from i2vpp.utils.parser import Parser
from training.config import TrainConfig
from training.launch import check_launch, plan_launch
from training.recipes import load_recipe
from training.trainer import Trainer, pick_device
from training.utils.records import METRICS

EXIT_FAILED, EXIT_USAGE = 1, 2

BASE = "i2vpp-train"  # where no recipe is given
MANY = 100_000  # made-up clips: more than a measurement takes, so that no epoch ends in it
CHECKPOINTING = {"both": (False, True), "off": (False,), "on": (True,)}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What all combinations share.

    Args:
        recipe: name or path.
        overrides: of the recipe, the user's last.
        device: `cpu`, `cuda` or `mps`.
        warmup: first steps, which are thrown away; the first one starts the loader and allocates memory.
        steps: measured optimiser steps.
        threads: of PyTorch on the CPU; None: its choice.
    """

    recipe: str
    overrides: tuple[str, ...]
    device: str
    warmup: int = 3
    steps: int = 10
    threads: int | None = None


@dataclass(frozen=True, kw_only=True)
class Case:
    """One combination.

    Args:
        image_size: side of the network's input.
        checkpoint_activations: as in a recipe.
    """

    image_size: int
    checkpoint_activations: bool


def compose(case: Case, settings: Settings, folder: Path) -> TrainConfig:
    """Return the config of a run that measures one combination and keeps nothing but its metrics.

    Raises:
        ConfigError: of the recipe, an override or the combination.
    """
    steps = settings.warmup + settings.steps
    return load_recipe(
        settings.recipe,
        [
            *settings.overrides,
            f"model.image_size={case.image_size}",
            f"run.checkpoint_activations={str(case.checkpoint_activations).lower()}",
            f"run.folder='{folder}'",
            f"run.device={settings.device}",
            *(f"run.{length}={steps}" for length in ("max_steps", "epochs")),  # an epoch has a step at least
            *("run.max_minutes=0", "run.save_minutes=1e6", "run.picture_every=0"),
            *(f"start.{origin}=null" for origin in ("image_model", "checkpoint", "heads")),
            *("validation.images=null", "validation.annotations=null", "cluster.num_nodes=1", "cluster.num_gpus=1"),
        ],
    )


def measure(case: Case, settings: Settings, folder: Path) -> dict[str, Any]:
    """Measure one combination; call it in a fresh process for a meaningful peak of memory.

    Args:
        case: the combination.
        settings: of the benchmark.
        folder: new, for the run; it needs 250 MB.

    Returns:
        What a member of `cases` in the JSON file holds; docs/benchmark.md lists it.
    """
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    baseline = peak_memory(torch.device("cpu"))
    config = compose(case, settings, folder)
    device = pick_device(config.run.device, Ranks())
    Trainer(config, Ranks(), device).fit()
    lines = (folder / METRICS).read_text(encoding="utf-8").splitlines()
    steps = [json.loads(line) for line in lines][settings.warmup :]
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
        "peak_memory_of": "tensors on the device" if device.type == "cuda" else "process, without loader processes",
        "process_bytes_at_start": baseline,
    }


# ---- all combinations


def run_cases(cases: Sequence[Case], settings: Settings) -> Iterator[dict[str, Any]]:
    """Measure each combination in a process of its own; where one ends badly, only `case` and `failed` are known."""
    for number, case in enumerate(cases, start=1):
        how = "with" if case.checkpoint_activations else "without"
        print(f"[{number}/{len(cases)}] {case.image_size} px, {how} activation checkpointing", file=sys.stderr)
        with tempfile.TemporaryDirectory(prefix="i2vpp-benchmark-") as folder:
            request, reply = Path(folder) / "request.json", Path(folder) / "reply.json"
            request.write_text(json.dumps({"case": asdict(case), "settings": asdict(settings)}), encoding="utf-8")
            command = [sys.executable, str(Path(__file__).resolve()), "--worker", str(request), str(reply)]
            status = subprocess.run(command, check=False).returncode
            if status or not reply.exists():
                yield {**asdict(case), "failed": f"the process ended with status {status}"}
            else:
                yield json.loads(reply.read_text(encoding="utf-8"))


def run_worker(request: Path, reply: Path) -> int:
    """Measure what the file `request` asks for and write the result to the file `reply`."""
    asked = json.loads(request.read_text(encoding="utf-8"))
    try:
        result = measure(Case(**asked["case"]), Settings(**asked["settings"]), request.parent / "run")
    except I2VPPError as error:
        print(f"benchmark_training.py: error: {error}", file=sys.stderr)
        return EXIT_FAILED
    reply.write_text(json.dumps(result), encoding="utf-8")
    return 0


def format_results(results: Sequence[dict[str, Any]]) -> str:
    """Return the table of all combinations."""
    numbers = {
        "frames/step": lambda r: f"{r['frames_per_step']:g}",
        "s/step": lambda r: f"{r['seconds_per_step']:.3f}",
        "frames/s": lambda r: f"{r['frames_per_second']:.2f}",
        "waits for data": lambda r: f"{r['data_share']:.1%}",
        "peak MiB": lambda r: "" if r["peak_memory_bytes"] is None else f"{r['peak_memory_bytes'] / 2**20:.0f}",
    }
    rows = [
        ["on" if r["checkpoint_activations"] else "off", r.get("precision", ""), str(r["image_size"])]
        + ["failed" if "failed" in r else text(r) for text in numbers.values()]
        for r in results
    ]
    return format_table(["checkpointing", "precision", "image size", *numbers], rows, texts=2)


# ---- the command


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0 done, 1 a combination failed, 2 wrong usage."""
    argv = sys.argv[1:] if argv is None else argv
    arguments = build_parser().parse_args(argv)
    if arguments.worker:
        return run_worker(*arguments.worker)
    cases = [
        Case(image_size=size, checkpoint_activations=checkpointing)
        for size in arguments.image_size
        for checkpointing in CHECKPOINTING[arguments.checkpoint_activations]
    ]
    try:
        settings = _settings(arguments)
        for case in cases:
            config = compose(case, settings, Path("run"))
            check_launch(config, plan_launch(config))
    except (I2VPPError, ValueError) as error:
        print(f"benchmark_training.py: error: {error}", file=sys.stderr)
        return EXIT_USAGE
    report = about([Path(__file__).name, *argv], settings)
    results: list[dict[str, Any]] = []
    try:
        for result in run_cases(cases, settings):
            results.append(result)
            if arguments.json is not None:  # after each combination: a long run that is broken off keeps what is done
                write_report(arguments.json, {**report, "cases": results})
    except OSError as error:
        print(f"benchmark_training.py: error: {error}", file=sys.stderr)
        return EXIT_FAILED
    done = [result for result in results if "failed" not in result]
    where = done[0]["device_name"] if done else settings.device
    print(f"{where}, {report['cpu_count']} cores; torch {report['torch']}; weights: {WEIGHTS}\n")
    print(format_results(results))
    return EXIT_FAILED if len(done) < len(results) else 0


def build_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", "--config", metavar="RECIPE",
                        help=f"recipe with its data, by path or name (made-up clips, all else as {BASE})")  # fmt: skip
    parser.add_argument("--override", metavar="KEY=VALUE", action="append", default=[],
                        help="change a value of the recipe, such as user.corrections=2; may be repeated")  # fmt: skip
    parser.add_argument("--image-size", metavar="N", type=int, nargs="+", default=[256, 512],
                        help="sides of the network's input (256 512)")  # fmt: skip
    parser.add_argument("--checkpoint-activations", choices=sorted(CHECKPOINTING), default="both",
                        help="with, without or both (%(default)s)")  # fmt: skip
    made_up = parser.add_argument_group("made-up clips (without -c)")
    made_up.add_argument("--frames", metavar="N", type=int, help="of a clip (8)")
    made_up.add_argument("--clips", metavar="N", type=int, help="of a batch (1)")
    made_up.add_argument("--objects", metavar="N", type=int, help="of a clip, at most; up to 4 are there (1)")
    parser.add_argument("--device", default=str(best_device()), help="cpu, cuda or mps (%(default)s)")
    default = Settings(recipe=BASE, overrides=(), device="cpu")
    parser.add_argument("--steps", metavar="N", type=int, default=default.steps, help="measured (%(default)s)")
    parser.add_argument("--warmup", metavar="N", type=int, default=default.warmup, help="not measured (%(default)s)")
    parser.add_argument("--threads", metavar="N", type=int, help="of PyTorch on the CPU (its choice)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all results to FILE")
    parser.add_argument("--worker", nargs=2, type=Path, help=argparse.SUPPRESS)
    return parser


def _settings(arguments: argparse.Namespace) -> Settings:
    for name, allowed in {"steps": 1, "warmup": 0, "threads": 1, "frames": 1, "clips": 1, "objects": 1}.items():
        value = getattr(arguments, name)
        if value is not None and value < allowed:
            raise ValueError(f"--{name} must be at least {allowed}; got {value}")
    made_up = {name: getattr(arguments, name) for name in ("frames", "clips", "objects")}
    if arguments.config and (given := [f"--{name}" for name, value in made_up.items() if value is not None]):
        raise ValueError(f"{', '.join(given)}: a recipe (-c) has its own clips; change them by --override")
    data = [] if arguments.config else _made_up(**made_up)
    return Settings(
        recipe=arguments.config or BASE,
        overrides=(*data, *arguments.override),
        device=arguments.device,
        warmup=arguments.warmup,
        steps=arguments.steps,
        threads=arguments.threads,
    )


def _made_up(*, frames: int | None, clips: int | None, objects: int | None) -> list[str]:
    """Overrides that put made-up clips in the place of the recipe's data."""
    made_up = {
        "kind": "procedural",
        "batch_size": clips or 1,
        "length": MANY,
        "clip.num_frames": frames or 8,
        "clip.max_objects": objects or 1,
    }
    removed = [f"~data.sources.{name}" for name in load_recipe(BASE).data.sources]
    return [*removed, *(f"+data.sources.made_up.{key}={value}" for key, value in made_up.items())]


if __name__ == "__main__":
    sys.exit(main())
