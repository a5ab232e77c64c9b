"""Which network a command runs, and how: the options, what they choose, and the predictor that is built of it.

Nothing here imports PyTorch before a predictor is built, so that a command can parse its options without waiting.
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from i2vpp.errors import UntrainedWarning
from i2vpp.utils.parser import integer, key_value
from i2vpp.weights.files import DEMO, demo_checkpoint

if TYPE_CHECKING:
    from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor

DTYPES = ("auto", "float32", "bfloat16", "float16")
UNTRAINED_SEED = 0


@dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """Which network runs, and how.

    Args:
        config: name or path of a model config; None for the one that fits the checkpoint.
        checkpoint: path or name; None for untrained weights, which are the same in every run.
        device: None for the best there is.
        dtype: `auto`, `float32`, `bfloat16`, `float16`, or None for the predictor's own choice.
        overrides: `key=value` on top of the config.
        compile: whether to compile it, see `vos_optimized` of `build_i2vpp_video_predictor`.
    """

    config: str | None = None
    checkpoint: Path | None = None
    device: str | None = None
    dtype: str | None = None
    overrides: tuple[str, ...] = ()
    compile: bool = False


def add_model_options(parser: argparse.ArgumentParser, *, untrained: bool = True) -> None:
    """Add the options that `chosen_model` reads to a parser.

    Args:
        parser: parser of the command.
        untrained: whether the command can run without weights. If it cannot, `--checkpoint` has a default.
    """
    model = parser.add_argument_group("model")
    weights = model.add_mutually_exclusive_group()
    weights.add_argument("--checkpoint", metavar="FILE", type=Path,
                         help="weights: a file, or a name in checkpoints/; `i2vpp download` fetches them "
                              f"({DEMO} if it is there)")  # fmt: skip
    if untrained:
        weights.add_argument("--untrained", action="store_true", help="run without weights; the masks mean nothing")
    else:
        parser.set_defaults(untrained=False, checkpoint=Path(DEMO))
    model.add_argument("--config", help="name or path of a model config (the one that fits the checkpoint)")
    model.add_argument("--device", help="cpu, cuda, cuda:1, ... (the best there is)")
    model.add_argument(
        "--dtype", choices=DTYPES, help="precision of the network; auto: bfloat16 also on CPUs that compute in it"
    )
    model.add_argument("--compile", action="store_true",
                       help="compile the network first, which takes a minute or two; faster from then on")  # fmt: skip
    model.add_argument("--override", metavar="KEY=VALUE", type=key_value, action="append", default=[],
                       help="change a config value, such as model.selection.mode=top; may be repeated")  # fmt: skip
    model.add_argument("--seed", metavar="N", type=integer(0), help="of the memory selection: model.selection.seed=N")


def chosen_model(arguments: argparse.Namespace) -> ModelChoice:
    """Return the network that the options of `add_model_options` choose; without `--checkpoint` the demonstration's.

    Raises:
        CheckpointError: no weights are named, and the demonstration's are not here.
    """
    checkpoint = arguments.checkpoint
    if checkpoint is None and not arguments.untrained:
        checkpoint = demo_checkpoint()
    seed = () if arguments.seed is None else (f"model.selection.seed={arguments.seed}",)
    return ModelChoice(
        config=arguments.config,
        checkpoint=checkpoint,
        device=arguments.device,
        dtype=arguments.dtype,
        overrides=(*seed, *arguments.override),
        compile=arguments.compile,
    )


def build_predictor(model: ModelChoice) -> I2VPPVideoPredictor:
    """Build the predictor; without a checkpoint its weights are drawn from a fixed seed."""
    import torch  # noqa: PLC0415 - takes seconds to import

    from i2vpp.build_i2vpp import (  # noqa: PLC0415 - imports PyTorch
        build_i2vpp_video_predictor,
        choose_device,
        tune_allocator,
    )

    choose_device(model.device)
    if model.compile:
        _show_compilation()
    with torch.random.fork_rng(devices=[]), ExitStack() as stack:
        torch.manual_seed(UNTRAINED_SEED)
        if model.checkpoint is None:  # the user has asked for untrained weights, so the warning says nothing new
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore", UntrainedWarning)
        predictor = build_i2vpp_video_predictor(
            config_file=model.config,
            ckpt_path=None if model.checkpoint is None else str(model.checkpoint),
            device=model.device,
            hydra_overrides_extra=model.overrides,
            vos_optimized=model.compile,
            dtype=model.dtype,
        )
    tune_allocator(predictor)
    return predictor


def build_for_process(model: ModelChoice, index: int) -> I2VPPVideoPredictor:
    """Build the predictor of one of several processes, on a GPU of its own where there are enough.

    Args:
        model: the network; device `cuda`, or None where there are GPUs, stands for one of this machine's GPUs.
        index: of the process on this machine.

    Returns:
        The predictor.
    """
    import torch  # noqa: PLC0415 - see `build_predictor`

    device, gpus = model.device, torch.cuda.device_count()
    if device in (None, "cuda") and gpus:
        device = f"cuda:{index % gpus}"
    return build_predictor(replace(model, device=device))


class _Notices(logging.Handler):
    """Shows log records on stderr, above a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm  # noqa: PLC0415 - only for compiled networks

        tqdm.write(f"i2vpp: {record.getMessage()}", file=sys.stderr)


def _show_compilation() -> None:
    """Say what is being compiled: nothing else moves meanwhile."""
    log = logging.getLogger("i2vpp.execution.compilation")
    log.setLevel(logging.INFO)
    if not any(isinstance(handler, _Notices) for handler in log.handlers):
        log.addHandler(_Notices())
