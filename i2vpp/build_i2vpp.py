"""Build a model or a predictor from a config and a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from os import PathLike

import torch

from i2vpp.checkpoint import Checkpoint, load_checkpoint, open_checkpoint
from i2vpp.config import Config, ModelConfig, load_config, shipped_configs
from i2vpp.errors import ConfigError, UntrainedWarning
from i2vpp.execution.compilation import CompiledRunner
from i2vpp.execution.runner import Runner
from i2vpp.i2vpp_image_predictor import I2VPPImagePredictor
from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
from i2vpp.memory.selection import MemorySelector
from i2vpp.modeling.i2vpp import I2VPP
from i2vpp.modeling.inference import convert_weights, round_weights
from i2vpp.utils.brief import brief
from i2vpp.utils.machine import cpu_computes_bfloat16, keep_freed_memory, parse_device
from i2vpp.utils.notices import warn_user
from i2vpp.utils.suggest import did_you_mean
from i2vpp.weights.files import where_weights_are

MODES = ("eval", "train")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
AUTO = "auto"
MPS_TORCH = (2, 7)
"""Version of PyTorch from which on antialiased resizing, which masks of users go through, works on MPS."""
LARGE_IMAGE = 512  # pixels of a side


def build_i2vpp(
    config_file: str | PathLike[str] | None = None,
    ckpt_path: str | PathLike[str] | None = None,
    device: str | torch.device | None = None,
    mode: str = "eval",
    hydra_overrides_extra: Sequence[str] | None = (),
    apply_postprocessing: bool = True,
) -> I2VPP:
    """Build the network.

    Args:
        config_file: see `build_i2vpp_video_predictor`, as for all arguments.
        ckpt_path: checkpoint, or None for untrained weights.
        device: device, or None for the best one.
        mode: `eval` or `train`.
        hydra_overrides_extra: overrides of the config.
        apply_postprocessing: fill holes, replace unstable masks, encode prompted masks in memory as 0/1.

    Returns:
        The network on its device, with float32 weights.

    Raises:
        ConfigError: unknown config, key, device or mode.
        CheckpointError: the checkpoint is missing, unreadable or does not fit.
    """
    if mode not in MODES:
        raise ConfigError(f"unknown mode {mode!r}; {did_you_mean(mode, MODES)}")
    overrides = () if hydra_overrides_extra is None else hydra_overrides_extra
    where = choose_device(device)  # first: a checkpoint takes long to read
    checkpoint = None if ckpt_path is None else open_checkpoint(ckpt_path)
    if config_file is None:
        config = _fitting_config(checkpoint, overrides).model
    else:
        config = load_config(config_file, overrides).model
    if not apply_postprocessing:
        config = _without_postprocessing(config)
    model = I2VPP(config)
    if checkpoint is not None:
        load_checkpoint(model, checkpoint, image_size=config.image_size)
    return model.to(where).train(mode == "train")


def build_i2vpp_video_predictor(
    config_file: str | PathLike[str] | None = None,
    ckpt_path: str | PathLike[str] | None = None,
    device: str | torch.device | None = None,
    mode: str = "eval",
    hydra_overrides_extra: Sequence[str] | None = (),
    apply_postprocessing: bool = True,
    vos_optimized: bool = False,
    *,
    dtype: torch.dtype | str | None = None,
    selector: MemorySelector | None = None,
) -> I2VPPVideoPredictor:
    """Build a video predictor, with weights in the dtype that they are used in.

    A program that runs it on a CPU may call `tune_allocator` with the predictor, as the commands do: frames are faster.

    Args:
        config_file: name of a shipped config (`i2vpp-infer`, `i2vpp-512`, `i2vpp-256`) or a path; see `load_config`.
            None for the image size that the checkpoint was trained at: the shipped config of that size, or
            `i2vpp-infer` with that size. The published checkpoints do not record their size: it is that of
            `i2vpp-infer`.
        ckpt_path: path of a checkpoint, or its name, such as `i2vpp-demo`; see `find_checkpoint`. None for untrained
            weights, which segment nothing; the first time in a process, an UntrainedWarning is given.
        device: `cpu`, `cuda`, `cuda:1`, `mps` or a torch device; None for the best: CUDA, then MPS, then the CPU.
        mode: `eval`, or `train` to leave the network in training mode.
        hydra_overrides_extra: overrides of the config, such as `model.selection.mode=top`.
        apply_postprocessing: fill holes, replace unstable masks, encode prompted masks in memory as 0/1.
        vos_optimized: compile the image encoder and the step of tracked frames when they are first used; see
            `CompiledRunner`. That takes a minute or two (`warm_up` does it beforehand) and makes all later frames
            faster.
        dtype: data type of encoder, memory attention and memory encoder (float32, bfloat16, float16), as a torch dtype
            or its name; None for the fastest one that the device computes in itself, "auto" also on CPUs: see
            `choose_dtype`.
        selector: selector of the memories that are read; None for the one of the config.

    Returns:
        The predictor.

    Raises:
        ConfigError: unknown config, key, device, dtype or mode; the message names the nearest valid one.
        CheckpointError: the checkpoint is missing, unreadable or does not fit.
        CompilationError: with `vos_optimized`: something that compilation needs is missing here.
    """
    if selector is not None and not hasattr(selector, "select"):
        raise ConfigError(
            f"selector must be an object with a method `select`; got {brief(selector)}: a mode is named by "
            "hydra_overrides_extra=['model.selection.mode=...']"
        )
    where = choose_device(device)
    dtype = choose_dtype(dtype, where)
    if ckpt_path is None:
        _warn_untrained()
    model = build_i2vpp(config_file, ckpt_path, where, mode, hydra_overrides_extra, apply_postprocessing)
    if mode == "eval":
        in_float32 = (model.sam_prompt_encoder, model.sam_mask_decoder, model.obj_ptr_proj)
        if where.type == "cuda" and dtype == torch.bfloat16:  # float16 has too small a range to do without autocast
            convert_weights(model, dtype, in_float32=(*in_float32, model.memory_prompt_generator))
        else:
            round_weights(model, dtype, in_float32=in_float32)
    runner = CompiledRunner if vos_optimized else Runner
    return I2VPPVideoPredictor(model, dtype=dtype, selector=selector, runner=runner)


def tune_allocator(predictor: I2VPPVideoPredictor) -> bool:
    """Have the process keep the memory that it frees, where that makes tracking faster; see `keep_freed_memory`.

    That is so on a CPU from 512 pixels on; with smaller images, tensors are too small to matter. It changes the whole
    process, so that the library leaves the decision to the program.

    Args:
        predictor: the predictor that the process will run.

    Returns:
        Whether memory is kept from now on.
    """
    return predictor.device.type == "cpu" and predictor.image_size >= LARGE_IMAGE and keep_freed_memory()


def build_i2vpp_image_predictor(
    config_file: str | PathLike[str] | None = None,
    ckpt_path: str | PathLike[str] | None = None,
    device: str | torch.device | None = None,
    mode: str = "eval",
    hydra_overrides_extra: Sequence[str] | None = (),
    apply_postprocessing: bool = True,
    vos_optimized: bool = False,
    *,
    dtype: torch.dtype | str | None = None,
) -> I2VPPImagePredictor:
    """Build an image predictor; a still image needs no memory, so there is no selector.

    Args:
        config_file: see `build_i2vpp_video_predictor`, also for the following arguments.
        ckpt_path: path or name of a checkpoint; None for untrained weights.
        device: None for the best there is.
        mode: `eval` or `train`.
        hydra_overrides_extra: overrides of the config.
        apply_postprocessing: replace unstable masks.
        vos_optimized: compile the image encoder when it is first used.
        dtype: data type of the image encoder's arithmetic.

    Returns:
        The predictor.

    Raises:
        I2VPPError: as of `build_i2vpp_video_predictor`.
    """
    built = build_i2vpp_video_predictor(
        config_file, ckpt_path, device, mode, hydra_overrides_extra, apply_postprocessing, dtype=dtype
    )
    runner = CompiledRunner if vos_optimized else Runner
    return I2VPPImagePredictor(built, runner=runner)


def best_device() -> torch.device:
    """Return the fastest kind of device of this machine."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available() and _torch_version() >= MPS_TORCH:
        return torch.device("mps")
    return torch.device("cpu")


def choose_device(device: str | int | torch.device | None) -> torch.device:
    """Return the named device, or the best one of this machine for None.

    Raises:
        ConfigError: it is no device, this machine has none of the kind, or PyTorch is too old for it.
    """
    if device is None:
        return best_device()
    found = parse_device(device)
    if found.type == "cuda":
        missing = (found.index or 0) >= torch.cuda.device_count()
    elif found.type == "mps":
        missing = not torch.backends.mps.is_available()
        if not missing and _torch_version() < MPS_TORCH:
            raise ConfigError(
                f"device 'mps' needs PyTorch 2.7 or newer, which can resize masks there; this is {torch.__version__}: "
                "update PyTorch, or choose device 'cpu'"
            )
    else:
        missing = found.type != "cpu" and not _can_allocate(found)
    if missing:
        raise ConfigError(f"this machine has no device {str(found)!r} that PyTorch can use")
    return found


def _torch_version() -> tuple[int, ...]:
    """Return the first two numbers of PyTorch's version."""
    return tuple(int(number) for number in torch.__version__.split(".")[:2])


def _can_allocate(device: torch.device) -> bool:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ImportError):  # PyTorch was built without that kind
        return False
    return True


def _fitting_config(checkpoint: Checkpoint | None, overrides: Sequence[str]) -> Config:
    """Load the config for the size that the checkpoint was trained at, where it says so."""
    size = None if checkpoint is None else checkpoint.image_size
    if size is None:
        return load_config(overrides=overrides)
    for name in shipped_configs():
        if load_config(name).model.image_size == size:
            return load_config(name, overrides)
    return load_config(overrides=[f"model.image_size={size}", *overrides])


@cache
def _warn_untrained() -> None:
    """Warn once in a process: masks of a network without a checkpoint look like bad ones, not like an error."""
    warn_user(
        "build_i2vpp_video_predictor was called without a checkpoint: the weights are untrained and the masks mean "
        f"nothing. Pass ckpt_path; {where_weights_are()}",
        UntrainedWarning,
    )


def _without_postprocessing(config: ModelConfig) -> ModelConfig:
    return replace(
        config, fill_hole_area=0, dynamic_multimask_via_stability=False, binarize_mask_from_pts_for_mem_enc=False
    )


def choose_dtype(dtype: torch.dtype | str | None, device: torch.device) -> torch.dtype:
    """Choose the data type of encoder, memory attention and memory encoder.

    Args:
        dtype: a torch dtype or its name; None for the fastest one that the device computes in itself: on CUDA bfloat16
            (capability 8.0 and newer) or float16 (from 7.0 on: V100, T4, RTX 20), else float32. "auto" is the same,
            and bfloat16 on CPUs that have instructions for it.
        device: device that the network will run on.

    Returns:
        The torch dtype.

    Raises:
        ConfigError: it is none of float32, bfloat16, float16, auto.
    """
    if dtype == AUTO and device.type == "cpu" and cpu_computes_bfloat16():
        return torch.bfloat16
    if dtype is None or dtype == AUTO:
        return _fastest_dtype(device)
    found = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or found not in DTYPES.values():
        name = str(getattr(dtype, "__name__", dtype)).removeprefix("torch.")  # NumPy's are classes
        raise ConfigError(f"unknown dtype {brief(dtype)}; {did_you_mean(name, (*DTYPES, AUTO))}")
    return found


def _fastest_dtype(device: torch.device) -> torch.dtype:
    if device.type != "cuda":
        return torch.float32
    with torch.cuda.device(device):
        if torch.cuda.is_bf16_supported(including_emulation=False):  # older GPUs emulate it, which is slow
            return torch.bfloat16
    return torch.float16 if torch.cuda.get_device_capability(device) >= (7, 0) else torch.float32
