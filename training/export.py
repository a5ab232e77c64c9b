"""Write a small checkpoint for inference from a checkpoint of a run, or from any other of SAM-I2V++.

python -m training.export outputs/run/best.pt checkpoints/mine.pt --dtype bf16 --card licence="..." data="..."
python -m training.export checkpoints/mine.pt mine/model.safetensors    # as the Hugging Face Hub has it

A checkpoint's card is kept; --card adds to it. A name that ends in .safetensors chooses that form, any other .pt.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from i2vpp.checkpoint import inspect_checkpoint
from i2vpp.errors import I2VPPError
from i2vpp.utils.parser import Parser
from training.checkpoint import DTYPES, export_weights


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = Parser(prog="python -m training.export", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("checkpoint", type=Path, help="a file, a folder with model.safetensors, or a name")
    parser.add_argument("out", type=Path, help="the file to write: .pt or .safetensors")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16", help="of matrices and kernels (default: bf16)")
    parser.add_argument("--card", nargs="*", type=_note, default=[], metavar="KEY=TEXT",
                        help="notes that `i2vpp info` shows")  # fmt: skip
    options = parser.parse_args(arguments)
    try:
        card = {**inspect_checkpoint(options.checkpoint, expected={}).card, **dict(options.card)}
        info = export_weights(options.checkpoint, options.out, dtype=options.dtype, card=card)
    except (I2VPPError, OSError) as error:
        parser.exit(1, f"error: {error}\n")
    print(f"{info.path}: {info.size / 1e6:.1f} MB, {info.num_parameters / 1e6:.2f} M parameters")
    return 0


def _note(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"expected KEY=TEXT, got {text!r}")
    return key, value


if __name__ == "__main__":
    sys.exit(main())
