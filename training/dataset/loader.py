"""Batches from sources: the items of a plan, read, augmented and collated by loader processes.

Neither the number of loader processes nor the split over ranks changes a value: all that is random comes from the seeds
of the plan. An item that cannot be read, whatever its reading raises, is replaced by another one of its source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from i2vpp.errors import DataError, I2VPPError, NoDataError
from training.config import DataConfig
from training.dataset.build import build_source
from training.dataset.clips import Clip, ClipBatch, Source
from training.dataset.errors import item_errors
from training.dataset.file_source import name_of
from training.dataset.plan import Draw, EpochPlan, derive_seed
from training.dataset.sampling import draw_clip
from training.dataset.transforms import transform_clip
from training.synthetic.moving_stills import MovingStills

PREFETCH = 2
"""Batches that each loader process prepares ahead."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LoadedBatch:
    """What the loader yields for a step.

    Args:
        batch: this rank's clips.
        failures: one message for each item that was replaced because it cannot be read.
        problems: one message for each broken annotation that was left out of an item that is used.
    """

    batch: ClipBatch
    failures: tuple[str, ...]
    problems: tuple[str, ...] = ()

    def pin_memory(self) -> LoadedBatch:
        """Return the same with page-locked tensors; called by PyTorch's loader."""
        return replace(self, batch=self.batch.map_tensors(Tensor.pin_memory))


def open_sources(config: DataConfig, seed: int) -> dict[str, Source]:
    """Open all sources of a mix, by name.

    Args:
        config: the mix.
        seed: seed of videos made of stills (`moving_stills`); another one in each epoch gives other videos.

    Raises:
        ConfigError: a source is not described fully.
        NoDataError: a source is missing or empty.
    """
    sources = {name: build_source(name, source) for name, source in config.sources.items()}
    for name, source in config.sources.items():
        if source.clip.moving_stills:
            sources[name] = MovingStills(sources[name], num_frames=source.clip.num_frames, seed=seed, name=name)
    return sources


def read_first_batch(name: str, source: Source, config: DataConfig, *, image_size: int) -> LoadedBatch:
    """Read and augment a batch of one source, as a run would, to see whether that works.

    Args:
        name: name of the source.
        source: the opened source.
        config: the mix that it is part of.
        image_size: side S of the frames.

    Raises:
        NoDataError: the source is empty, or `config.max_failures` of its items in a row cannot be used.
    """
    plan = EpochPlan({name: len(source)}, config.sources, seed=0, epoch=0, world_size=1)
    batch = ClipDataset({name: source}, config, plan, rank=0, image_size=image_size)[0]
    if isinstance(batch, NoDataError):
        raise batch
    return batch


class ClipDataset(Dataset["LoadedBatch | NoDataError"]):
    """One rank's batches by step: item k is its share of step k of the plan.

    Args:
        sources: sources by name.
        config: the mix.
        plan: plan of the epoch.
        rank: rank whose share is read.
        image_size: side S of the frames.
    """

    def __init__(
        self, sources: Mapping[str, Source], config: DataConfig, plan: EpochPlan, *, rank: int, image_size: int
    ) -> None:
        self._sources = sources
        self._config = config
        self._plan = plan
        self._rank = rank
        self._image_size = image_size

    def __len__(self) -> int:
        return len(self._plan)

    def __getitem__(self, step: int) -> LoadedBatch | NoDataError:
        """Return the batch; a NoDataError is returned, so that it reaches the user without a worker's traceback."""
        step_plan = self._plan.rank_share(self._plan[step], self._rank)
        failures: list[str] = []
        try:
            with _one_thread():
                clips = [self._load(step_plan.source, draw, failures) for draw in step_plan.draws]
        except NoDataError as error:
            return error
        problems = tuple(f"{step_plan.source}: {problem}" for clip in clips for problem in clip.problems)
        return LoadedBatch(batch=collate(clips, step_plan.step_seed), failures=tuple(failures), problems=problems)

    def _load(self, name: str, draw: Draw, failures: list[str]) -> Clip:
        """Return the network's input for a draw, or for the first of its substitutes that can be read."""
        source = self._sources[name]
        limit = max(self._config.max_failures, 1)
        for attempt in range(limit):
            if attempt:
                index = derive_seed(draw.seed, attempt, 0) % len(source)
                draw = Draw(index=index, seed=derive_seed(draw.seed, attempt, 1))
            try:
                with item_errors(name_of(source, draw.index)):
                    return self._read(name, draw)
            except I2VPPError as error:
                failures.append(f"{name}: {error}")
        raise NoDataError(
            f"data.sources.{name}: {limit} items in a row cannot be used (data.max_failures = "
            f"{self._config.max_failures}); the last one: {failures[-1]}"
        )

    def _read(self, name: str, draw: Draw) -> Clip:
        """Return a clip with frames [T, 3, S, S] and the objects that show on the first of them."""
        clip = draw_clip(self._sources[name][draw.index], self._config.sources[name].clip, draw.seed)
        clip = transform_clip(clip, self._config.augment, self._image_size)
        visible = clip.masks[:, 0].flatten(1).any(1)
        if not visible.any():
            raise DataError(f"{clip.name}: the drawn objects are too small to show at {self._image_size} pixels")
        return replace(clip, masks=clip.masks[visible])


def collate(clips: list[Clip], step_seed: int) -> ClipBatch:
    """Join clips of equal length; each object gets a seed from that of its clip and its place in it.

    Args:
        clips: clips with the network's input, at least one.
        step_seed: see `ClipBatch`.
    """
    counts = torch.tensor([len(clip.masks) for clip in clips])
    ignored = None
    if any(clip.ignored is not None for clip in clips):
        parts = [torch.zeros_like(clip.masks[0]) if clip.ignored is None else clip.ignored for clip in clips]
        ignored = torch.stack(parts).repeat_interleave(counts, dim=0)
    return ClipBatch(
        names=tuple(clip.name for clip in clips),
        frames=torch.stack([clip.frames for clip in clips]),
        masks=torch.cat([clip.masks for clip in clips]),
        clip_of_object=torch.arange(len(clips)).repeat_interleave(counts),
        seeds=tuple(derive_seed(clip.seed, k) for clip in clips for k in range(len(clip.masks))),
        step_seed=step_seed,
        ignored=ignored,
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute with one thread, as loader processes do anyway: with more, sums differ in their last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class ClipLoader(DataLoader["LoadedBatch | NoDataError"]):
    """PyTorch's loader, which raises the NoDataError that a loader process returned."""

    def __iter__(self) -> Iterator[LoadedBatch]:  # type: ignore[override]
        """Yield the batches in the order of the plan."""
        for item in super().__iter__():
            if isinstance(item, NoDataError):
                raise item
            yield item


def build_loader(
    sources: Mapping[str, Source],
    config: DataConfig,
    plan: EpochPlan,
    *,
    rank: int,
    image_size: int,
    start_step: int = 0,
    pin_memory: bool = False,
    worker_init: Callable[[int], None] | None = None,
) -> ClipLoader:
    """Return the loader of one rank over the steps of an epoch, in order.

    Args:
        sources: sources by name, as `open_sources` returns them.
        config: the mix.
        plan: plan of the epoch.
        rank: rank of this process.
        image_size: side S of the frames.
        start_step: step at which a resumed run goes on.
        pin_memory: page-lock the tensors, for copies to CUDA.
        worker_init: called with its number in each loader process.

    Raises (while it is iterated):
        NoDataError: `config.max_failures` items in a row cannot be used, for whatever reason.
    """
    dataset = ClipDataset(sources, config, plan, rank=rank, image_size=image_size)
    return ClipLoader(
        dataset,
        batch_size=None,  # an item is a batch already
        sampler=range(start_step, len(plan)),
        num_workers=config.workers,
        prefetch_factor=PREFETCH if config.workers else None,
        pin_memory=pin_memory,
        worker_init_fn=worker_init,
        generator=torch.Generator(),  # PyTorch draws seeds of the workers; not from the global generator
    )
