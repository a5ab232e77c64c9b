"""Write a small checkpoint for inference from a checkpoint of a run, or from any other of SAM-I2V++.

python -m training.export outputs/run/best.pt checkpoints/mine.pt --dtype bfloat16 --card licence="..." data="..."
python -m training.export checkpoints/mine.pt mine/model.safetensors    # as the Hugging Face Hub has it
python -m training.export outputs/tuned/best.pt mine.pt --average checkpoints/before.pt=0.3    # 0.7 of the first

A checkpoint's card is kept; --card adds to it. A name that ends in .safetensors chooses that form, any other .pt.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from i2vpp.build_i2vpp import DTYPES
from i2vpp.checkpoint import CheckpointInfo, inspect_checkpoint, load_checkpoint, save_checkpoint
from i2vpp.config import ModelConfig
from i2vpp.errors import CheckpointError, I2VPPError
from i2vpp.modeling.i2vpp import I2VPP
from i2vpp.utils.parser import Parser
from training.utils.disk import writing

SHORT = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
"""Names of data types that are accepted beside PyTorch's."""


def export_weights(
    checkpoint: Path,
    out: Path,
    *,
    dtype: str = "bfloat16",
    card: Mapping[str, str] | None = None,
    average: tuple[Path, float] | None = None,
) -> CheckpointInfo:
    """Write an inference checkpoint with small weights from a checkpoint of a run, or from any other of SAM-I2V++.

    Matrices and kernels are cast; vectors, position matrices and running statistics, little of the size and sensitive,
    stay float32. Loading casts everything back to the model's dtype.

    Args:
        checkpoint: the file to read.
        out: the file to write.
        dtype: `bfloat16`, `float16` or `float32`, also as `bf16`, `fp16`, `fp32`.
        card: notes for whoever opens the file (licence, data, recipe), kept under `card`.
        average: another checkpoint and its share in [0, 1]; each value becomes the weighted mean of both. Between a
            checkpoint and the one that its training began with, the mean often does better than either.

    Returns:
        What was written.

    Raises:
        CheckpointError: a file does not fit, an unknown dtype, a share outside [0, 1], or weights that are not finite
            in the dtype.
        RunError: the file could not be written, for example because the disk is full.
    """
    dtype = SHORT.get(dtype, dtype)
    if dtype not in DTYPES:
        raise CheckpointError(f"dtype must be one of {', '.join(DTYPES)}; got {dtype!r}")
    size = inspect_checkpoint(checkpoint).image_size
    model = I2VPP() if size is None else I2VPP(ModelConfig(image_size=size))
    load_checkpoint(model, checkpoint)
    if average is not None:
        _mix(model, *average)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            parameter.data = parameter.data.to(DTYPES[dtype])
        if not parameter.isfinite().all():
            raise CheckpointError(f"{checkpoint}: {name} is not finite in {dtype}; nothing was written")
    extra = {"card": {str(key): str(value) for key, value in card.items()}} if card else None
    with writing(out, "Make room, or write to another disk"):
        save_checkpoint(model, out, image_size=model.image_size, extra=extra)
    return inspect_checkpoint(out)


@torch.no_grad()
def _mix(model: I2VPP, checkpoint: Path, share: float) -> None:
    """Replace a model's weights and running statistics by their weighted mean with those of a checkpoint."""
    if not 0 <= share <= 1:
        raise CheckpointError(f"the share of {checkpoint} in the average must lie in [0, 1]; got {share}")
    other = I2VPP(model.config)
    load_checkpoint(other, checkpoint)
    values = other.state_dict()
    for name, value in model.state_dict().items():  # these tensors share storage with the model: written in place
        if value.is_floating_point():
            value.lerp_(values[name], share)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = Parser(prog="python -m training.export", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("checkpoint", type=Path, help="a file, a folder with model.safetensors, or a name")
    parser.add_argument("out", type=Path, help="the file to write: .pt or .safetensors")
    parser.add_argument("--dtype", choices=[*DTYPES, *SHORT], default="bfloat16", metavar="DTYPE",
                        help=f"of matrices and kernels: {', '.join(DTYPES)} (default: bfloat16)")  # fmt: skip
    parser.add_argument("--card", nargs="*", type=_note, default=[], metavar="KEY=TEXT",
                        help="notes that `i2vpp info` shows")  # fmt: skip
    parser.add_argument("--average", type=_share, metavar="FILE=SHARE",
                        help="another checkpoint and its share in the mean that is written, before.pt=0.3")  # fmt: skip
    options = parser.parse_args(arguments)
    try:
        card = {**inspect_checkpoint(options.checkpoint, expected={}).card, **dict(options.card)}
        info = export_weights(options.checkpoint, options.out, dtype=options.dtype, card=card, average=options.average)
    except (I2VPPError, OSError) as error:
        parser.exit(1, f"error: {error}\n")
    print(f"{info.path}: {info.size / 1e6:.1f} MB, {info.num_parameters / 1e6:.2f} M parameters")
    return 0


def _note(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"expected KEY=TEXT, got {text!r}")
    return key, value


def _share(text: str) -> tuple[Path, float]:
    path, _, share = text.rpartition("=")
    try:
        return Path(path), float(share)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected FILE=SHARE such as before.pt=0.3, got {text!r}") from None


if __name__ == "__main__":
    sys.exit(main())
