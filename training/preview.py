"""The dry run: number of videos and steps, time, and every error that would stop the run.

The same objects are made as in the run itself, in this process and on the CPU, so that they find the same faults.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from i2vpp.errors import DataError, I2VPPError, NoDataError
from i2vpp.utils.distributed import Ranks
from training.config import TrainConfig, ValidationConfig
from training.dataset.clips import Source
from training.dataset.errors import item_errors
from training.dataset.loader import open_sources, read_first_batch
from training.length import shortened
from training.trainer import Trainer
from training.utils.records import METRICS
from training.validation import open_validation, read_sequence

FEW_STEPS = 100
_TIMED = 100  # latest steps from whose mean time the remaining time is estimated
_STATES = 4  # copies of the weights in a checkpoint: the model, two moments of AdamW, a moving average
_FILES = 3  # checkpoints on the disk while one is written: the latest, the best, and the new one


@dataclass(frozen=True, kw_only=True, eq=False)
class Preview:
    """What was found out about a run.

    Args:
        lines: heading and text of each line of the plan.
        problems: messages of what would stop the run; empty if nothing would.
    """

    lines: list[tuple[str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @contextmanager
    def problem(self, where: str = "") -> Iterator[None]:
        """Note an error of ours that is raised in the block, and go on behind it.

        Args:
            where: begins the message, unless that names it already.
        """
        try:
            yield
        except I2VPPError as error:
            text = str(error) if where in str(error) else f"{where}: {error}"
            if text not in self.problems:
                self.problems.append(text)


def preview(config: TrainConfig, world_size: int) -> Preview:
    """Find out what a run would be.

    Args:
        config: its recipe.
        world_size: number of its processes.
    """
    found = Preview()
    sources = _sources(config, found)
    with found.problem("validation"):
        _validation(config.validation, found)
    with found.problem():
        _folder(Path(config.run.folder).expanduser())
    if len(sources) < len(config.data.sources):
        return found
    with found.problem():
        # Batch normalisation over several GPUs cannot be set up on a CPU.
        optimizer = replace(config.optimizer, batch_norm="frozen")
        here = replace(config, optimizer=optimizer, run=replace(config.run, compile=False))
        trainer = Trainer(here, Ranks(world_size=world_size), torch.device("cpu"))
        found.lines.extend(_length(config, trainer))
        _room(trainer)
    return found


def _sources(config: TrainConfig, found: Preview) -> Mapping[str, Source]:
    """Open every source by itself, so that each that is missing is told, and read a batch of it."""
    opened: dict[str, Source] = {}
    for name, source_config in config.data.sources.items():
        with found.problem(f"data.sources.{name}"):
            alone = replace(config.data, sources={name: source_config})
            opened |= open_sources(alone, config.run.seed)
            batch = read_first_batch(name, opened[name], alone, image_size=config.model.image_size)
            unit = "video" if source_config.kind in ("sav", "palette", "procedural") else "image"
            failures = batch.failures
            broken = f"; of those tried, {len(failures)} cannot be used: {failures[0]}" if failures else ""
            found.lines.append((f"data {name}", f"{_count(len(opened[name]), unit)}{broken}"))
    return opened


def _validation(config: ValidationConfig, found: Preview) -> None:
    sequences = open_validation(config)
    if sequences is None:
        return
    problem = ""
    for index in range(len(sequences)):
        try:
            with item_errors(f"sequence {index}"):
                read_sequence(sequences[index], max_frames=config.max_frames)
                break
        except I2VPPError as error:
            problem = problem or str(error)
    else:
        raise NoDataError(f"none of the {len(sequences)} sequences of `validation` can be scored; the first: {problem}")
    found.lines.append(("scored on", _count(len(sequences), "sequence")))


def _folder(folder: Path) -> None:
    """Check that the run may write into its folder."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise DataError(f"run.folder={folder}: {there} is no folder that this user may write into")


def _room(trainer: Trainer) -> None:
    folder = next(path for path in (trainer.folder, *trainer.folder.absolute().parents) if path.exists())
    weights = sum(parameter.numel() * parameter.element_size() for parameter in trainer.model.parameters())
    needed, free = _FILES * _STATES * weights, shutil.disk_usage(folder).free
    if free < needed:
        raise DataError(
            f"run.folder={trainer.folder}: {free / 2**20:,.0f} MB are free there, and checkpoints may take "
            f"{needed / 2**20:,.0f} MB; make room, or name a folder on another disk"
        )


def _length(config: TrainConfig, trainer: Trainer) -> Iterator[tuple[str, str]]:
    length, done = trainer.length, trainer.state.step
    left = max(0, length.total_steps - done)
    size = f"{_count(length.steps_per_epoch, 'step')} of {_count(length.accumulate, 'batch')}"
    yield "steps", f"{length.total_steps:,}; an epoch of {_count(length.batches, 'batch')} is {size}"
    if done:
        yield "resumed", f"after step {done}; {left} are left"
    yield "warm-up", _count(length.warmup_steps, "step")
    if trainer.sequences is not None:
        yield "validation", f"every {length.validate_every} steps and at the end"
    for change in shortened(config, length):
        yield "cut short", change
    if length.total_steps < FEW_STEPS:
        yield "few steps", "raise `repeat` of a source, such as data.sources.NAME.repeat=10, or run.epochs"
    seconds = _seconds_per_step(trainer.folder / METRICS)
    if seconds is None:
        yield "time", "not known before the first steps; the line of progress then shows what is left"
    else:
        yield (
            "time",
            f"{seconds * left / 3600:.1f} hours, if the steps left take {seconds:.3g} s each as the latest did",
        )
    if config.run.max_minutes:
        yield "stops", f"after {config.run.max_minutes:g} minutes, saved; the same command then resumes it"


def _count(number: int, what: str) -> str:
    plural = {"batch": "batches"}.get(what, f"{what}s")
    return f"{number:,} {what if number == 1 else plural}"


def _seconds_per_step(metrics: Path) -> float | None:
    """Return the mean time of the latest steps of the run that is resumed; None where there are none."""
    if not metrics.is_file():
        return None
    seconds: deque[float] = deque(maxlen=_TIMED)
    for line in metrics.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            seconds.append(float(json.loads(line)["seconds/all"]))
        except (ValueError, TypeError, KeyError):  # a line that was cut off, or one of a validation
            continue
    return sum(seconds) / len(seconds) if seconds else None
