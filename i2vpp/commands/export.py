"""`i2vpp export`: a checkpoint as graphs for runtimes other than PyTorch."""

from __future__ import annotations

import argparse
from pathlib import Path

from i2vpp.export.choices import FORMATS, OPSETS, PRECISIONS
from i2vpp.utils.parser import integer

TEXT = """\
Write a checkpoint as four graphs, a description of them (i2vpp.json) and a tracker of one file (i2vpp_onnx.py) that
needs NumPy and onnxruntime, not PyTorch. The image size is fixed; numbers of objects, memories and clicks are not.
"""

EXAMPLES = """\
examples:
  i2vpp export i2vpp-demo -o outputs/onnx --image-size 256
  python outputs/onnx/i2vpp_onnx.py dog.mp4 --box 90,40,400,360 -o outputs/dog
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command to a parser."""
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=Path,
                        help="file of weights, or its name in checkpoints/")  # fmt: skip
    parser.add_argument("-o", "--output", metavar="DIR", type=Path, required=True, help="folder for the export")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export in DIR")
    parser.add_argument("--image-size", metavar="N", type=integer(1),
                        help="side of the network's input in pixels (that of the training)")  # fmt: skip
    parser.add_argument("--precision", choices=PRECISIONS, default=PRECISIONS[0],
                        help="of the weights in the files; int8 also computes with 8 bits (%(default)s)")  # fmt: skip
    parser.add_argument("--opset", metavar="N", type=integer(1), default=OPSETS[0],
                        help=f"version of ONNX's operators, {OPSETS[0]} to {OPSETS[-1]} (%(default)s)")  # fmt: skip
    parser.add_argument("--format", choices=FORMATS, default=FORMATS[0],
                        help="torch-export: programs for AOTInductor and ExecuTorch (%(default)s)")  # fmt: skip
    parser.add_argument("--calibration", metavar="VIDEO", type=Path,
                        help="frames that the ranges of int8 are taken from (the bundled clip)")  # fmt: skip
    parser.add_argument("--licence", metavar="TEXT", help="licence of the weights, where the checkpoint has no card")


def run(arguments: argparse.Namespace) -> int:
    """Run `i2vpp export`."""
    from i2vpp.export import folder, manifest  # noqa: PLC0415 - PyTorch takes seconds to import

    choice = folder.ExportChoice(
        file_format=arguments.format,
        precision=arguments.precision,
        opset=arguments.opset,
        calibration=arguments.calibration,
    )
    folder.check_folder(arguments.output, overwrite=arguments.overwrite)
    model, info = folder.load(arguments.checkpoint, image_size=arguments.image_size)
    described = manifest.describe_checkpoint(info, folder.licence_of(info, arguments.licence))
    for path in folder.export(model, arguments.output, choice, checkpoint=described, progress=True):
        print(f"{path}  {path.stat().st_size / 2**20:.1f} MiB")
    return 0
