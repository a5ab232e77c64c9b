"""The number of steps of a run, and the values of a recipe that are reduced in a short run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from training.config import TrainConfig

WARMUP_PART = 10
"""A warm-up is at most the tenth part of a run: otherwise a short run would end before it reaches its learning rate."""

LEAST_INTERVALS = 2
"""Least number of validations and of pictures in a run that has as many steps, so that not all come at its end."""


@dataclass(frozen=True, kw_only=True)
class RunLength:
    """A recipe on the data that are there.

    Args:
        batches: batches of an epoch.
        accumulate: batches of a step: `optimizer.accumulate`, at most an epoch.
        steps_per_epoch: steps of an epoch; batches that do not make up a whole step are left out.
        total_steps: steps of the run.
        warmup_steps: `optimizer.warmup_steps`, at most a tenth of the run.
        validate_every: steps from one validation to the next: `validation.every`, at most half the run.
        picture_every: steps from one picture to the next: `run.picture_every`, at most half the run; 0: none.
    """

    batches: int
    accumulate: int
    steps_per_epoch: int
    total_steps: int
    warmup_steps: int
    validate_every: int
    picture_every: int

    def steps_after(self, batch: int) -> int:
        """Count the whole steps of an epoch after its first `batch` batches."""
        return max(0, self.batches - batch) // self.accumulate


def run_length(config: TrainConfig, batches: int) -> RunLength:
    """Compute how long a run is.

    Args:
        config: the recipe.
        batches: global batches of an epoch, at least 1.
    """
    accumulate = min(config.optimizer.accumulate, batches)
    steps_per_epoch = batches // accumulate
    total = config.run.epochs * steps_per_epoch
    if config.run.max_steps:
        total = min(total, config.run.max_steps)
    longest = max(1, total // LEAST_INTERVALS)
    return RunLength(
        batches=batches,
        accumulate=accumulate,
        steps_per_epoch=steps_per_epoch,
        total_steps=total,
        warmup_steps=min(config.optimizer.warmup_steps, total // WARMUP_PART),
        validate_every=min(config.validation.every, longest),
        picture_every=min(config.run.picture_every, longest),
    )


def shortened(config: TrainConfig, length: RunLength) -> Iterator[str]:
    """Say which values of a recipe were cut to the length of the run, one sentence for each.

    Args:
        config: the recipe.
        length: length of the run, from `run_length`.
    """
    pairs = (
        ("optimizer.accumulate", config.optimizer.accumulate, length.accumulate, "the batches of an epoch"),
        ("optimizer.warmup_steps", config.optimizer.warmup_steps, length.warmup_steps, "a tenth of the run"),
        ("validation.every", config.validation.every, length.validate_every, "half of the run"),
        ("run.picture_every", config.run.picture_every, length.picture_every, "half of the run"),
    )
    for key, asked, used, limit in pairs:
        validates = config.validation.images is not None
        if asked != used and (validates or key != "validation.every"):
            yield f"{key} = {asked} is cut to {used}, {limit}"
