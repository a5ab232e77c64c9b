"""Write a small checkpoint for inference from a checkpoint of a run, or from any other of SAM-I2V++.

python -m training.export outputs/run/best.pt checkpoints/mine.pt --dtype bf16 --card licence="..." data="..."
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from i2vpp.errors import I2VPPError
from training.checkpoint import DTYPES, export_weights


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m training.export", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--dtype", choices=DTYPES, default="bf16", help="of matrices and kernels (default: bf16)")
    parser.add_argument("--card", nargs="*", default=[], metavar="KEY=TEXT", help="notes that `i2vpp info` shows")
    options = parser.parse_args(arguments)
    card = dict(entry.partition("=")[::2] for entry in options.card)
    try:
        info = export_weights(options.checkpoint, options.out, dtype=options.dtype, card=card)
    except I2VPPError as error:
        parser.exit(1, f"error: {error}\n")
    print(f"{info.path}: {info.size / 1e6:.1f} MB, {info.num_parameters / 1e6:.2f} M parameters")
    return 0


if __name__ == "__main__":
    sys.exit(main())
