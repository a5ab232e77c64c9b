"""The training loop of one process.

All ranks have to take the same branches, or they would wait for each other forever. So ranks agree first on whether a
step is skipped, a checkpoint is saved or the run stops.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from i2vpp.build_i2vpp import best_device
from i2vpp.errors import ConfigError, RunError
from i2vpp.modeling.i2vpp import I2VPP
from i2vpp.utils.distributed import Ranks, all_agree, any_rank, gather_objects, process_group, sum_over_ranks
from i2vpp.utils.files import atomic_write
from i2vpp.utils.machine import parse_device
from i2vpp.utils.notices import plain_warnings
from training.checkpoint import (
    FILE,
    Learner,
    RunState,
    complete_best,
    keep_best,
    load,
    random_state,
    restore,
    save,
)
from training.config import TrainConfig
from training.dataset.clips import ClipBatch
from training.dataset.loader import LoadedBatch, build_loader, open_sources
from training.dataset.plan import EpochPlan, derive_seed
from training.ema import EMA
from training.length import run_length, shortened
from training.loss_fns import TERMS, LossTerms, normalised
from training.model.activations import choose_recompute
from training.model.initialise import start
from training.model.objective import Objective
from training.model.rollout import ClipRollout
from training.optimizer import (
    SkipCounter,
    build_optimizer,
    clip_gradients,
    freeze,
    set_batch_norm,
    set_rates,
    train_mode,
    trainable,
)
from training.recipes import to_yaml
from training.signals import SaveClock, outlive_signals, stop_requests
from training.utils.disk import writing
from training.utils.pictures import DrawnPrompt, rollout_picture
from training.utils.records import Records
from training.validation import SequenceFailure, SequenceScore, open_validation, validate

RECIPE = "config.yaml"


def run(config: TrainConfig, ranks: Ranks) -> None:
    """Train as one of `ranks.world_size` processes, until the recipe is done, its time is up or a signal comes.

    Args:
        config: the recipe.
        ranks: place of this process in the run.

    Raises:
        I2VPPError: recipe, data or initial weights cannot be used; the subclass says which.
    """
    device = pick_device(config.run.device, ranks)
    with plain_warnings(silent=not ranks.is_main), process_group(ranks, device):
        Trainer(config, ranks, device).fit()


def pick_device(name: str, ranks: Ranks) -> torch.device:
    """Return the device of this process; a GPU of its own on CUDA.

    Args:
        name: `auto`, `cuda`, `cpu` or `mps`.
        ranks: place of this process in the run.

    Raises:
        ConfigError: there is no such device.
    """
    device = best_device() if name == "auto" else parse_device(name)
    if device.type == "cuda":
        if ranks.local_rank >= torch.cuda.device_count():
            raise ConfigError(
                f"process {ranks.local_rank} of this machine needs a GPU of its own; {torch.cuda.device_count()} found"
            )
        device = torch.device("cuda", ranks.local_rank)
        torch.cuda.set_device(device)
    return device


class Trainer:
    """One process of a run.

    Args:
        config: the recipe.
        ranks: place of this process in the run.
        device: device of this process.
    """

    def __init__(self, config: TrainConfig, ranks: Ranks, device: torch.device) -> None:
        self.config = config
        self.ranks = ranks
        self.device = device
        self.folder = Path(config.run.folder).expanduser()
        self.dtype = getattr(torch, config.run.precision)
        torch.manual_seed(config.run.seed + ranks.rank)  # only dropout draws from the global generator
        self.sizes = {name: len(source) for name, source in open_sources(config.data, config.run.seed).items()}
        self.sequences = open_validation(config.validation)
        self.model = self._build_model()
        optimizer = build_optimizer(self.model, config.optimizer)
        ema = EMA(self.model, config.optimizer.ema) if config.optimizer.ema else None
        self.learner = Learner(model=self.model, optimizer=optimizer, ema=ema)
        self.recompute = choose_recompute(config, self.model, device)
        # All ranks do the same, so that none waits for another one.
        rollout = ClipRollout(self.model, config.user, recompute=any_rank(self.recompute.recompute, device))
        self.objective = Objective(rollout, loss_scale=config.loss.scale)
        self.length = run_length(config, len(self._plan(0)))
        self.schedule = replace(config.optimizer, warmup_steps=self.length.warmup_steps)
        self.state = self._resume()
        self.skips = SkipCounter(config.optimizer.max_skipped, total=self.state.skipped)

    def fit(self) -> None:
        """Train to the end, or until a signal or the time limit stops the run; the last step is saved in both cases."""
        config, optimizer = self.config, self.learner.optimizer
        begun, earlier = time.monotonic(), self.state.minutes
        clock = SaveClock(config.run.save_minutes)
        if self.ranks.is_main:
            with writing(self.folder / RECIPE), atomic_write(self.folder / RECIPE, "w") as file:
                file.write(to_yaml(config))
            complete_best(self.folder / FILE, self.state)
        total = self.length.total_steps
        records = Records(self.folder, total_steps=total, main=self.ranks.is_main, start=self.state.step)
        for change in shortened(config, self.length):
            records.message(change)
        if self.recompute.reason:
            kept = "recomputed" if self.objective.rollout.recompute else "kept"
            records.message(f"activations are {kept}: they take an estimated {self.recompute.reason}")
        with records, stop_requests() as stop_request:
            for batches in self._batches(records):
                rate = set_rates(optimizer, self.state.step, total, self.schedule)
                with records.stopwatch.measure("step"):
                    train_mode(self.model, config.optimizer)
                    sums = torch.stack([self._backward(batch, last=batch is batches[-1]) for batch in batches]).sum(0)
                    norm = clip_gradients(trainable(self.model), config.optimizer.clip_norm)
                    if all_agree(bool(norm.isfinite()), self.device):
                        optimizer.step()
                        self._after_update()
                    else:
                        self._skip(norm, records)
                    optimizer.zero_grad(set_to_none=True)
                self._advance(len(batches), minutes=earlier + (time.monotonic() - begun) / 60)
                self._record(records, sums, norm, rate, batches)
                stop = any_rank(stop_request.requested or self._out_of_time(begun), self.device)
                last = self.state.step == total
                if self._validation_due(last=last):
                    self._validate(records)
                if stop or last or any_rank(clock.due(), self.device):
                    self._save()
                    clock.reset()
                if stop and not last:
                    records.message(
                        f"stopped after step {self.state.step} of {total}; the same command resumes the run"
                    )
                    break

    # The parts of a step

    def _backward(self, batch: ClipBatch, *, last: bool) -> Tensor:
        """Add a batch's gradient; return the sums over its objects: the loss terms, objects, steps, total."""
        config = self.config
        count = sum_over_ranks(torch.tensor(float(batch.num_objects), device=self.device))
        synchronised = (
            nullcontext() if last or not isinstance(self.wrapped, DistributedDataParallel) else self.wrapped.no_sync()
        )
        with synchronised:
            with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32):
                terms: LossTerms = self.wrapped(batch)
            # DDP takes the mean of the ranks' gradients; the loss is the mean over the objects of all ranks.
            mean = normalised(terms, float(count) / self.ranks.world_size).total(config.loss)
            (mean / self.length.accumulate).backward()
        values = [*(getattr(terms, name).detach() for name in TERMS), terms.total(config.loss).detach()]
        counts = torch.tensor([float(terms.steps), float(batch.num_objects)], device=self.device)
        return torch.cat([torch.stack(values).float(), counts])

    def _after_update(self) -> None:
        self.skips.ok()
        if self.learner.ema is not None:
            self.learner.ema.update(self.model)

    def _skip(self, norm: Tensor, records: Records) -> None:
        reason = f"the gradient's norm is {float(norm)} on rank {self.ranks.rank}"
        records.skip("steps", f"step {self.state.step + 1}: {reason}")
        try:
            self.skips.skip(reason)
        except RunError:
            self._save()
            raise

    def _advance(self, num_batches: int, *, minutes: float) -> None:
        state = self.state
        epoch, batch = state.epoch, state.batch + num_batches
        if not self.length.steps_after(batch):
            epoch, batch = epoch + 1, 0
        self.state = replace(
            state, step=state.step + 1, epoch=epoch, batch=batch, minutes=minutes, skipped=self.skips.total
        )

    def _out_of_time(self, begun: float) -> bool:
        limit = self.config.run.max_minutes
        return bool(limit) and time.monotonic() - begun > 60 * limit

    def _record(self, records: Records, sums: Tensor, norm: Tensor, rate: float, batches: list[ClipBatch]) -> None:
        """Write down the step; the losses are means over decoded masks, `loss` is the mean over objects."""
        *terms, total, steps, objects = sum_over_ranks(sums).tolist()
        scalars = {f"loss/{name}": value / steps for name, value in zip(TERMS, terms, strict=True)}
        scalars |= {"loss": total / objects, "lr": rate, "gradient_norm": float(norm), "epoch": self.state.epoch}
        frames = sum(batch.num_frames * batch.frames.shape[0] for batch in batches) * self.ranks.world_size
        records.step(self.state.step, scalars, frames=frames)
        every = self.length.picture_every
        if every and (self.state.step % every == 0 or self.state.step == 1):
            records.picture(self.state.step, "training", self._picture(batches[-1]))

    def _picture(self, batch: ClipBatch) -> NDArray[np.uint8]:
        """Draw what happened to the first object of the latest batch."""
        played = self.objective.played
        return rollout_picture(
            batch.frames[batch.clip_of_object[0]],
            batch.masks[0],
            torch.stack([frame.logits[0, 0] for frame in played]),
            [DrawnPrompt.of(frame.prompts, 0) for frame in played],
        )

    # Data

    def _plan(self, epoch: int) -> EpochPlan:
        return EpochPlan(
            self.sizes,
            self.config.data.sources,
            seed=self.config.run.seed,
            epoch=epoch,
            world_size=self.ranks.world_size,
        )

    def _batches(self, records: Records) -> Iterator[list[ClipBatch]]:
        """Yield the batches of each remaining optimiser step."""
        while self.state.step < self.length.total_steps:
            loader = iter(self._loader())
            for _ in range(self.length.steps_after(self.state.batch)):
                with records.stopwatch.measure("data"):
                    loaded = [next(loader) for _ in range(self.length.accumulate)]
                yield [self._take(item, records) for item in loaded]
                if self.state.step >= self.length.total_steps:
                    return

    def _loader(self) -> Iterator[LoadedBatch]:
        """Load what is left of the present epoch; sources that make videos of stills make others in each epoch."""
        seed = derive_seed(self.config.run.seed, self.state.epoch)
        return iter(
            build_loader(
                open_sources(self.config.data, seed),
                self.config.data,
                self._plan(self.state.epoch),
                rank=self.ranks.rank,
                image_size=self.model.image_size,
                start_step=self.state.batch,
                pin_memory=self.device.type == "cuda",
                worker_init=outlive_signals,
            )
        )

    def _take(self, loaded: LoadedBatch, records: Records) -> ClipBatch:
        for failure in loaded.failures:
            records.skip("items", failure)
        for problem in loaded.problems:
            records.skip("annotations", problem)
        return loaded.batch.to(self.device, non_blocking=self.device.type == "cuda")

    # The network

    def _build_model(self) -> I2VPP:
        config = self.config
        model = I2VPP(config.model)
        model.decodes_in_float32 = config.run.decoder_precision == "float32"
        start(model, config.start, seed=config.run.seed)
        freeze(model, config.optimizer.freeze)
        model = set_batch_norm(model.to(self.device), config.optimizer.batch_norm)
        if config.run.compile:
            model.image_encoder.compile()
            model.memory_attention.compile()
        return model

    @cached_property
    def wrapped(self) -> torch.nn.Module:
        """The objective; of several processes, the one that averages their gradients, which must be connected."""
        if self.ranks.world_size == 1:
            return self.objective
        # Gradients of 1x1 kernels differ from the kernels in the strides of axes of length 1, which does not matter.
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        # Which parameters a batch uses depends on how its clips are prompted.
        gpus = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(self.objective, device_ids=gpus, find_unused_parameters=True)

    # Validation and checkpoints

    def _validation_due(self, *, last: bool) -> bool:
        return self.sequences is not None and (last or self.state.step % self.length.validate_every == 0)

    def _validate(self, records: Records) -> None:
        """Score the held-out sequences, each rank its share; keep the best checkpoint."""
        assert self.sequences is not None
        shares = range(self.ranks.rank, len(self.sequences), self.ranks.world_size)
        with self.learner.averaged(), records.stopwatch.measure("validation"):
            own = list(validate(self.model, self.sequences, shares, self.config.validation, dtype=self.dtype))
        everything = [outcome for part in gather_objects(own) for outcome in part]
        scores = [outcome for outcome in everything if isinstance(outcome, SequenceScore)]
        for outcome in everything:
            if isinstance(outcome, SequenceFailure):
                records.skip("sequences", f"validation: {outcome.problem}")
        if not scores:
            records.message(f"step {self.state.step}: no sequence could be scored")
            return
        mean = {name: float(np.mean([getattr(score, name) for score in scores])) for name in ("j", "f", "jf")}
        records.scalars(self.state.step, {f"validation/{name}": value for name, value in mean.items()})
        records.message(f"step {self.state.step}: validation J&F {100 * mean['jf']:.1f} ({len(scores)} sequences)")
        if self.state.best is None or mean["jf"] > self.state.best:
            self.state = replace(self.state, best=mean["jf"], best_step=self.state.step)
            self._save()
            if self.ranks.is_main:
                keep_best(self.folder / FILE)

    def _save(self) -> None:
        states = gather_objects(random_state(self.device))
        if self.ranks.is_main:
            save(
                self.folder / FILE,
                self.learner,
                self.state,
                random_states=states,
                config=to_yaml(self.config),
                image_size=self.model.image_size,
            )

    def _resume(self) -> RunState:
        path = self.folder / FILE
        if not path.exists():
            return RunState()
        restored = partial(restore, load(path), self.learner, config=to_yaml(self.config))
        state = restored(rank=self.ranks.rank, world_size=self.ranks.world_size)
        # With fewer data than before, the batch may lie behind the last whole step of the epoch.
        return state if self.length.steps_after(state.batch) else replace(state, epoch=state.epoch + 1, batch=0)
