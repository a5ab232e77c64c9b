"""The state of a run on disk: inference checkpoints from which the run also resumes bit-identically.

`<run>/checkpoint.pt` is what `i2vpp.checkpoint.save_checkpoint` writes, plus `training`: optimiser, place in the data,
random states and config, all of it plain data. With a moving average, `model` holds the average, which is the better
model, and `training` the weights that learn. Only rank 0 writes; all ranks read.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import nn

from i2vpp.checkpoint import load_checkpoint, read_checkpoint, save_checkpoint
from i2vpp.errors import CheckpointError
from i2vpp.utils.files import atomic_write
from i2vpp.utils.notices import warn_user
from training.ema import EMA
from training.recipes import leaves
from training.utils.disk import writing

FILE = "checkpoint.pt"
BEST = "best.pt"

_CHUNK = 2**22  # bytes copied at a time
_VERSION = 1  # format of the `training` entry
# Keys of a recipe whose change on resuming is not warned about; a dot at the end stands for a section.
_FREE_KEYS = (
    "run.folder", "run.max_minutes", "run.save_minutes", "run.picture_every", "run.recompute", "cluster.",
    "run.checkpoint_activations",  # what `run.recompute` was once
)  # fmt: skip
# Keys of parameter groups that come from the present recipe.
_PRESENT = ("lr", "peak", "weight_decay", "betas", "fused")


@dataclass(frozen=True, kw_only=True)
class RunState:
    """How far a run is.

    Args:
        step: optimiser steps made, skipped ones included.
        epoch: the present pass over the data, from 0.
        batch: batches of this epoch that were used, on each rank.
        best: best validation score so far.
        best_step: the step after which it was reached; None before the first validation.
        minutes: time trained so far, in all pieces of the run.
        skipped: steps skipped so far.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    best: float | None = None
    best_step: int | None = None
    minutes: float = 0.0
    skipped: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Learner:
    """The objects whose state a checkpoint holds; the model is unwrapped, with the published names."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    ema: EMA | None = None

    def averaged(self) -> AbstractContextManager[None]:
        """Put the moving average, where there is one, into the model while the context is entered."""
        return nullcontext() if self.ema is None else self.ema.applied(self.model)


@dataclass(frozen=True, kw_only=True, eq=False)
class SavedRun:
    """A checkpoint of a run, read but not yet taken over; the tensors are mapped from the file.

    Args:
        path: the checkpoint file.
        state: progress of the run.
        model: state dict of the inference model.
        training: the rest: `config` (the recipe as YAML), `random_states` (one per rank, see `random_state`),
            `optimizer`, and with a moving average `weights` and `ema_updates`.
    """

    path: Path
    state: RunState
    model: Mapping[str, torch.Tensor]
    training: Mapping[str, Any]


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """Return the states of torch's global generators on the CPU and on `device`: one rank's part of a checkpoint.

    Args:
        device: device of this process; a CUDA device must be the current one.
    """
    states = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        states[device.type] = torch.get_device_module(device).get_rng_state()
    return states


def _set_random_state(states: Mapping[str, torch.Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"].clone())
    if device.type != "cpu" and device.type in states:
        torch.get_device_module(device).set_rng_state(states[device.type].clone())


def save(
    path: Path,
    learner: Learner,
    state: RunState,
    *,
    random_states: Sequence[Mapping[str, torch.Tensor]],
    config: str,
    image_size: int,
) -> None:
    """Write a checkpoint; it replaces the previous one only when it is complete.

    Args:
        path: the checkpoint file.
        learner: model, optimiser and what else has a state.
        state: progress of the run.
        random_states: random states of all ranks, in order of the ranks.
        config: the recipe as YAML.
        image_size: side of the network's input in pixels.

    Raises:
        RunError: the file could not be written, for example because the disk is full; the previous one is whole.
    """
    training: dict[str, Any] = {
        "version": _VERSION,
        "state": asdict(state),
        "config": config,
        "random_states": [dict(states) for states in random_states],
        "optimizer": learner.optimizer.state_dict(),
    }
    if learner.ema is not None:
        training["ema_updates"] = learner.ema.updates
        training["weights"] = {name: value.clone() for name, value in learner.model.state_dict().items()}
    with writing(path), learner.averaged():
        save_checkpoint(learner.model, path, image_size=image_size, extra={"training": training})


def keep_best(path: Path) -> Path:
    """Copy a checkpoint to `best.pt` beside it, as atomically as it was written, and return the copy.

    Raises:
        RunError: the copy could not be written; the previous one is whole.
    """
    best = path.with_name(BEST)
    with writing(best), path.open("rb") as source, atomic_write(best) as target:
        shutil.copyfileobj(source, target, _CHUNK)
    return best


def complete_best(path: Path, state: RunState) -> None:
    """Make `best.pt` where a run was killed after it had saved its best score and before the copy was there.

    The checkpoint is the one commit of both: no later one is written before the copy is whole, so a checkpoint that
    holds the step of the best score is what `best.pt` has to be.

    Args:
        path: the checkpoint that a run is resumed from.
        state: the state in that checkpoint.

    Raises:
        RunError: the copy could not be written.
    """
    if state.best_step is None or state.best_step != state.step:
        return
    best = path.with_name(BEST)
    try:
        whole = best.exists() and load(best).state == state
    except CheckpointError:
        whole = False
    if not whole:
        keep_best(path)


def load(path: Path) -> SavedRun:
    """Read the checkpoint of a run, to be taken over by `restore`.

    Raises:
        CheckpointError: missing, unreadable, or without the state of a run.
    """
    content = read_checkpoint(path)
    training = content.get("training")
    if not isinstance(training, Mapping):
        raise CheckpointError(
            f"{path} holds weights only, not the state of a run, so it cannot be resumed; to start a new run from it "
            f"set start.checkpoint={path} and another run.folder"
        )
    if training.get("version") != _VERSION:
        raise CheckpointError(
            f"{path}: its training state has version {training.get('version')!r}, this code reads {_VERSION}; "
            f"start a new run from its weights: start.checkpoint={path} and another run.folder"
        )
    return SavedRun(
        path=path,
        state=RunState(**training["state"]),
        model=content["model"],
        training=training,
    )


def restore(saved: SavedRun, learner: Learner, *, config: str, rank: int = 0, world_size: int = 1) -> RunState:
    """Take over the state of a run: the last thing before its next step, since it sets the random generators.

    Learning rates, weight decay and betas are those of the present config. Rank 0 warns where the config changed, or
    the number of processes, with which resuming is not bit-identical.

    Args:
        saved: the run that `load` returned.
        learner: freshly built; its model and optimiser must fit.
        config: the present recipe as YAML.
        rank: rank of this process.
        world_size: number of processes.

    Raises:
        CheckpointError: the checkpoint has another architecture, or other parameters are trained.
    """
    load_checkpoint(learner.model, saved.path)
    _check_groups(saved, learner.optimizer)
    if learner.ema is not None:
        learner.ema.load(saved.model, saved.training.get("ema_updates", 0))
    if "weights" in saved.training:
        learner.model.load_state_dict(saved.training["weights"])

    # A copy: the optimiser would keep tensors that are mapped from the file.
    optimizer = copy.deepcopy(saved.training["optimizer"])
    for group, fresh in zip(optimizer["param_groups"], learner.optimizer.param_groups, strict=True):
        group.update({key: fresh[key] for key in _PRESENT if key in fresh})
    learner.optimizer.load_state_dict(optimizer)

    changed = changed_keys(saved.training["config"], config)
    if changed and rank == 0:
        warn_user(f"{saved.path} is resumed with another config: {'; '.join(changed)}")
    states = saved.training["random_states"]
    if len(states) == world_size:
        _set_random_state(states[rank], next(learner.model.parameters()).device)
    elif rank == 0:
        warn_user(
            f"{saved.path} was written by {len(states)} processes and is resumed by {world_size}: the run "
            "goes on, but not bit-identically, and its place in the epoch is approximate"
        )
    return saved.state


def _check_groups(saved: SavedRun, optimizer: torch.optim.Optimizer) -> None:
    def trained(groups: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
        return [(str(group.get("name")), list(group.get("parameters", ()))) for group in groups]

    before, now = trained(saved.training["optimizer"]["param_groups"]), trained(optimizer.param_groups)
    if before == now:
        return
    names = {name for _, group in before for name in group} ^ {name for _, group in now for name in group}
    shown = ", ".join(sorted(names)[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    raise CheckpointError(
        f"{saved.path} cannot be resumed: other parameters are trained now ({shown or 'in other groups'}). Set "
        f"optimizer.freeze as it was, or start a new run from its weights: start.checkpoint={saved.path} and another "
        "run.folder"
    )


def changed_keys(before: str, now: str) -> list[str]:
    """List what differs between two recipes (YAML) and matters to a run, as `key: old -> new`.

    Args:
        before: the earlier recipe as YAML.
        now: the present recipe as YAML.
    """
    old, new = (dict(leaves(OmegaConf.to_container(OmegaConf.create(text)))) for text in (before, now))
    return [
        f"{key}: {old.get(key, 'unset')} -> {new.get(key, 'unset')}"
        for key in dict.fromkeys([*old, *new])
        if old.get(key, "unset") != new.get(key, "unset")
        and not any(key.startswith(free) if free.endswith(".") else key == free for free in _FREE_KEYS)
    ]
