"""Freezing, parameter groups, AdamW and its schedule, modes of layers, clipping of gradients, skipped steps.

A layer of the image trunk is its patch embedding, one of its blocks (with the step to the next width, where one follows
the block), or its neck: 14 layers for TinyViT-5M.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from i2vpp.errors import ConfigError, RunError
from i2vpp.modeling.attention import Attention
from i2vpp.modeling.backbones.tiny_vit import Stage, TinyViT
from i2vpp.modeling.i2vpp import I2VPP
from training.config import OptimizerConfig

BATCH_NORM_MODES = ("frozen", "train", "sync")
_WITH_KERNEL = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d)


def check(config: OptimizerConfig) -> None:
    """Refuse values that make no sense.

    Raises:
        ConfigError: naming the key, its value and what is allowed.
    """

    def require(key: str, allowed: str, fits: bool) -> None:
        if not fits:
            raise ConfigError(f"optimizer.{key} must be {allowed}; got {getattr(config, key)!r}")

    for key in ("learning_rate", "trunk_learning_rate"):
        require(key, "a positive number", 0 < getattr(config, key) < math.inf)
    for key in ("weight_decay", "clip_norm"):
        require(key, "a number and not negative", 0 <= getattr(config, key) < math.inf)
    for key in ("trunk_layer_decay", "final_ratio"):
        require(key, "above 0 and at most 1", 0 < getattr(config, key) <= 1)
    for key in ("accumulate", "max_skipped"):
        require(key, "at least 1", getattr(config, key) >= 1)
    require("warmup_steps", "an integer and not negative", config.warmup_steps >= 0)
    require("betas", "two numbers from 0 to below 1", len(config.betas) == 2 and all(0 <= b < 1 for b in config.betas))
    require("ema", "0 (off) or a decay below 1, such as 0.999", 0 <= config.ema < 1)
    require("batch_norm", f"one of {', '.join(BATCH_NORM_MODES)}", config.batch_norm in BATCH_NORM_MODES)


def unused_parameters(model: I2VPP) -> list[nn.Parameter]:
    """List the parameters that every checkpoint holds and no forward pass reads."""
    trunk = model.image_encoder.trunk_image
    parts = [trunk.norm_head, trunk.head, model.image_encoder.trunk_video.integration2temporal_nets[-1]]
    return [*(parameter for part in parts for parameter in part.parameters()), model.no_mem_pos_enc]


def freeze(model: I2VPP, names: Sequence[str]) -> None:
    """Freeze the named modules and all parameters that the loss does not reach; DDP would wait for their gradients.

    Args:
        model: the network, unwrapped.
        names: names of modules or parameters, such as `image_encoder.trunk_image` or `no_obj_ptr`.

    Raises:
        ConfigError: the network has no part of such a name.
    """
    modules = dict(model.named_modules())
    parameters = dict(model.named_parameters())
    for parameter in unused_parameters(model):
        parameter.requires_grad_(False)
    for name in names:
        if name in parameters:
            parameters[name].requires_grad_(False)
        elif name and name in modules:
            modules[name].requires_grad_(False)
        else:
            near = get_close_matches(name, [*modules, *parameters], n=3)
            hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "its parts are "
            parts = "" if near else ", ".join(part for part, _ in model.named_children())
            raise ConfigError(f"optimizer.freeze: the network has no part {name!r}; {hint}{parts}")


def trunk_layers(trunk: TinyViT) -> list[list[nn.Module]]:
    """List the modules of each layer of the image trunk, from the image on."""
    layers: list[list[nn.Module]] = [[trunk.patch_embed]]
    for stage in trunk.layers:
        assert isinstance(stage, Stage)
        layers += [[block] for block in stage.blocks]
        if stage.downsample is not None:
            layers[-1].append(stage.downsample)
    return [*layers, [trunk.neck]]


def parameter_groups(model: I2VPP, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Sort the trainable parameters into groups; each is in exactly one.

    Only the kernels of linear and convolutional layers decay: no biases, normalisations, embeddings or learned vectors.

    Args:
        model: the network, unwrapped.
        config: learning rates and weight decay.

    Returns:
        Groups as `torch.optim` takes them, with the further entries `name` (`trunk.3.decay`, `rest.no_decay`, ...),
        `peak` (the learning rate that the schedule scales) and `parameters` (their names in the network).
    """
    trunk = model.image_encoder.trunk_image
    layers = trunk_layers(trunk)
    last = len(layers) - 1
    # Parameters of the trunk that are in none of its layers belong to the last one.
    depth_of = {id(parameter): last for parameter in trunk.parameters()}
    depth_of.update({id(p): depth for depth, parts in enumerate(layers) for part in parts for p in part.parameters()})
    kernels = {id(module.weight) for module in model.modules() if isinstance(module, _WITH_KERNEL)}

    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        depth = depth_of.get(id(parameter))
        decays = id(parameter) in kernels
        key = f"{'rest' if depth is None else f'trunk.{depth}'}.{'decay' if decays else 'no_decay'}"
        if key not in groups:
            rate = config.learning_rate
            if depth is not None:
                rate = config.trunk_learning_rate * config.trunk_layer_decay ** (last - depth)
            weight_decay = config.weight_decay if decays else 0.0
            groups[key] = {"params": [], "name": key, "parameters": [], "lr": rate, "peak": rate}
            groups[key]["weight_decay"] = weight_decay
        groups[key]["params"].append(parameter)
        groups[key]["parameters"].append(name)
    return list(groups.values())


def build_optimizer(model: I2VPP, config: OptimizerConfig) -> torch.optim.AdamW:
    """Make AdamW for what is trainable; fused where the model lies on a CUDA device.

    Args:
        model: the network on its device, unwrapped, with frozen parts.
        config: learning rates, weight decay and betas.

    Raises:
        ConfigError: a value of the config makes no sense, or everything is frozen.
    """
    check(config)
    groups = parameter_groups(model, config)
    if not groups:
        raise ConfigError(f"optimizer.freeze = {list(config.freeze)}: nothing is left to train; leave a part out")
    first, second = config.betas
    return torch.optim.AdamW(groups, betas=(first, second), fused=model.device.type == "cuda")


def schedule(step: int, total: int, config: OptimizerConfig) -> float:
    """Factor of all learning rates at a step: a linear rise over the warm-up, then a cosine from 1 to `final_ratio`.

    Args:
        step: steps made before this one, from 0.
        total: steps of the whole run; at `step = total` the factor is `final_ratio`.
        config: `warmup_steps` and `final_ratio`.
    """
    if step < config.warmup_steps:
        return (step + 1) / (config.warmup_steps + 1)  # not 0 in the first step, which would change nothing
    progress = min(1.0, (step - config.warmup_steps) / max(1, total - config.warmup_steps))
    return config.final_ratio + (1 - config.final_ratio) * 0.5 * (1 + math.cos(math.pi * progress))


def set_rates(optimizer: torch.optim.Optimizer, step: int, total: int, config: OptimizerConfig) -> float:
    """Set every group's learning rate for a step (see `schedule`) and return the rate of all parts but the trunk.

    Args:
        optimizer: made by `build_optimizer`.
        step: steps made before this one, from 0.
        total: steps of the whole run.
        config: learning rate and schedule.
    """
    factor = schedule(step, total, config)
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor
    return config.learning_rate * factor


def set_batch_norm(model: I2VPP, mode: str) -> I2VPP:
    """Prepare batch normalisation for a mode, before the model is wrapped; `train_mode` does the rest at each step.

    Args:
        model: already on its device.
        mode: `frozen`, `train` or `sync`.

    Returns:
        The same model; with `sync` its normalisations are replaced, under the same names and with the same parameters.

    Raises:
        ConfigError: an unknown mode, or `sync` without GPUs.
    """
    if mode not in BATCH_NORM_MODES:
        raise ConfigError(f"optimizer.batch_norm must be one of {', '.join(BATCH_NORM_MODES)}; got {mode!r}")
    if mode != "sync":
        return model
    if model.device.type != "cuda":
        raise ConfigError(
            f"optimizer.batch_norm = 'sync' needs CUDA devices, and the model is on {model.device.type!r}; "
            "choose 'frozen' or 'train'"
        )
    synced: I2VPP = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return synced


def train_mode(model: nn.Module, config: OptimizerConfig) -> None:
    """Put the model into training mode, but for frozen batch normalisations and, where it is off, dropout.

    A batch normalisation whose parameters are frozen keeps its statistics in every mode.

    Args:
        model: the network.
        config: `batch_norm` and `dropout`.
    """
    model.train()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            learns = module.weight is not None and module.weight.requires_grad
            module.train(learns and config.batch_norm != "frozen")
        elif isinstance(module, nn.Dropout | Attention):
            module.train(config.dropout)


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Scale the gradients down to `max_norm` (0: leave them) and return their norm before, which may be non-finite.

    Args:
        parameters: parameters with gradients.
        max_norm: largest norm of all gradients together; 0: any.
    """
    return nn.utils.clip_grad_norm_(list(parameters), max_norm or math.inf)


def trainable(model: nn.Module) -> Iterator[nn.Parameter]:
    """Iterate over the parameters that learn."""
    return (parameter for parameter in model.parameters() if parameter.requires_grad)


class SkipCounter:
    """Counts skipped steps, and ends the run when too many follow each other.

    Args:
        max_skipped: as many in a row end it.
        total: skipped before, in the run that is resumed.
    """

    def __init__(self, max_skipped: int, *, total: int = 0) -> None:
        self.max_skipped = max_skipped
        self.in_a_row = 0
        self.total = total

    def ok(self) -> None:
        """Note a step that was made."""
        self.in_a_row = 0

    def skip(self, reason: str) -> None:
        """Note a step that was skipped, for example because `loss is nan`.

        Raises:
            RunError: it is the `max_skipped`th in a row.
        """
        self.in_a_row += 1
        self.total += 1
        if self.in_a_row >= self.max_skipped:
            raise RunError(
                f"{self.in_a_row} steps in a row were skipped, the last one because {reason} (optimizer.max_skipped = "
                f"{self.max_skipped}); weights are as after the last good step. Lower optimizer.learning_rate, raise "
                "optimizer.warmup_steps, or use run.precision=bfloat16 or float32; then start again: the run resumes"
            )
