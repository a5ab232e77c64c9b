"""The plan of an epoch: the items of each step, and all seeds.

A plan depends on the run's seed, the epoch, the sources and the global batch size alone: not on ranks, loader processes
or the step at which a run is resumed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from i2vpp.errors import NoDataError
from training.config import SourceConfig

_ORDER, _MIX, _STEP, _DRAW = range(4)  # what a seed is for: first key of `derive_seed`


def derive_seed(seed: int, *keys: int) -> int:
    """Return a seed below 2**63 that is as good as independent of those of other keys (integers, 0 or more)."""
    state = np.random.SeedSequence(seed, spawn_key=keys).generate_state(1, np.uint64)
    return int(state[0]) >> 1


@dataclass(frozen=True, kw_only=True)
class Draw:
    """One clip of a batch: the item of the source, and the seed of everything drawn for the clip."""

    index: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class StepPlan:
    """One step: a batch of one source.

    Args:
        source: its name, the same on all ranks.
        step_seed: seed of what is drawn once for the whole step, the same on all ranks.
        draws: the clips of the global batch, or one rank's share of them.
    """

    source: str
    step_seed: int
    draws: tuple[Draw, ...]


class EpochPlan:
    """The steps of one epoch, in order: `len(plan)` and `plan[step]`.

    Each source's items are shuffled; `repeat` 2.5 takes all of them twice and half of them once more. A last batch that
    is not full is filled with the first items. The batches of all sources are shuffled among each other.

    Args:
        sizes: number of videos by name of the source.
        configs: repeat factor and batch size by name of the source.
        seed: seed of the run.
        epoch: counted from 0.
        world_size: ranks that share a global batch of `batch_size` * `world_size` clips.

    Raises:
        NoDataError: no source has anything to draw.
    """

    def __init__(
        self, sizes: Mapping[str, int], configs: Mapping[str, SourceConfig], *, seed: int, epoch: int, world_size: int
    ) -> None:
        self.world_size = world_size
        self._seed = seed
        self._epoch = epoch
        self._names = sorted(sizes)
        self._batches = [self._draw_batches(name, sizes[name], configs[name]) for name in self._names]
        counts = [len(batches) for batches in self._batches]
        if not sum(counts):
            held = ", ".join(f"{name}: {sizes[name]} items" for name in self._names) or "no source"
            raise NoDataError(
                f"data.sources: nothing to draw ({held}); check the folders, `include`, `exclude` and `repeat`"
            )
        self._source_of_step = np.repeat(np.arange(len(counts)), counts)
        np.random.default_rng(derive_seed(seed, _MIX, epoch)).shuffle(self._source_of_step)
        self._batch_of_step = np.empty_like(self._source_of_step)
        for source, count in enumerate(counts):
            self._batch_of_step[self._source_of_step == source] = np.arange(count)

    def _draw_batches(self, name: str, size: int, config: SourceConfig) -> NDArray[np.int64]:
        """Return the items of all global batches of a source [batches, global batch size]."""
        batch = config.batch_size * self.world_size
        total = max(round(config.repeat * size), 1) if config.repeat and size else 0
        # The seed depends on the name, so that another source in the mix does not change the order of this one.
        key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
        rng = np.random.default_rng(derive_seed(self._seed, _ORDER, self._epoch, key))
        passes = [rng.permutation(size) for _ in range(-(-total // size) if size else 0)]
        items = np.concatenate([*passes, np.empty(0, np.int64)])[:total]
        return np.resize(items, (-(-total // batch), batch))

    def __len__(self) -> int:
        return len(self._source_of_step)

    def __getitem__(self, step: int) -> StepPlan:
        """Return the global batch of a step, 0 to `len(plan)` - 1."""
        if not 0 <= step < len(self):
            raise IndexError(f"step {step} of an epoch of {len(self)} steps")
        source = int(self._source_of_step[step])
        items = self._batches[source][self._batch_of_step[step]].tolist()
        draws = (
            Draw(index=index, seed=derive_seed(self._seed, _DRAW, self._epoch, step, position))
            for position, index in enumerate(items)
        )
        return StepPlan(
            source=self._names[source],
            step_seed=derive_seed(self._seed, _STEP, self._epoch, step),
            draws=tuple(draws),
        )

    def rank_share(self, step_plan: StepPlan, rank: int) -> StepPlan:
        """Return the same step with the draws of one rank only: equal, contiguous shares.

        Args:
            step_plan: a step of this plan.
            rank: 0 to `world_size` - 1.

        Raises:
            ValueError: there is no such rank.
        """
        if not 0 <= rank < self.world_size:
            raise ValueError(f"rank {rank} of {self.world_size}; allowed: 0 to {self.world_size - 1}")
        share = len(step_plan.draws) // self.world_size
        return replace(step_plan, draws=step_plan.draws[rank * share : (rank + 1) * share])
