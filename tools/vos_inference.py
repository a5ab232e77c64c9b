#!/usr/bin/env python3
"""Track the objects of a benchmark of video object segmentation, or of own videos, from one prompt each.

    python tools/vos_inference.py --dataset davis2017 --data data/DAVIS --checkpoint sam-i2vpp_32gpu -o davis2017
    python tools/vos_inference.py --dataset folder --images my/frames --annotations my/masks -o my --prompt 3c

Each object is prompted on the first annotated frame that shows it, and tracked to the end of its video together with
the others. Writes the benchmark's submission layout: OUT/<video>/<frame>.png, index PNGs with DAVIS's palette; for SA-V
OUT/<video>/<object>/<frame>.png, binary PNGs of objects that are tracked one by one, as `test_pvs/infer.py` does.

The same command goes on where an interrupted one stopped, and any number of runners may share an output folder. Videos
that fail are listed at the end, and the exit status is 1. docs/evaluation.md has the layouts of all datasets.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # `test_pvs` is no installed package

from i2vpp.errors import DataError, NoDataError
from i2vpp.model_choice import add_model_options
from i2vpp.runs.store import Job
from i2vpp.utils.parser import Parser
from sav_dataset.names import some
from test_pvs import infer
from test_pvs.benchmarks import BENCHMARKS, VosVideos, open_benchmark, open_folder
from test_pvs.options import (
    Run,
    add_run_options,
    model_choice,
    model_settings,
    protocol_name,
    run_command,
)
from test_pvs.vos import VosTracking

FOLDER, SAV = "folder", "sav"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run_command(argv, _parser(), prepare, "tools.vos_inference:main")


def prepare(arguments: argparse.Namespace) -> Run:
    """Find out what is to be made.

    Raises:
        I2VPPError: options or files are not right.
    """
    _check_options(arguments)
    if arguments.dataset == SAV:
        return infer.prepare(arguments)
    if arguments.dataset == FOLDER:
        videos = open_folder(arguments.images, arguments.annotations, arguments.list)
        where = {"images": arguments.images, "annotations": arguments.annotations}
        split = None
    else:
        benchmark = BENCHMARKS[arguments.dataset]
        split = arguments.split or benchmark.default_split
        videos = open_benchmark(benchmark, arguments.data, split)
        where = {"data": arguments.data}
    videos = replace(videos, resize_masks=arguments.resize_masks)
    names = _chosen(videos, arguments.videos)
    model = model_choice(arguments)
    return Run(
        jobs=[Job(name=name, frames=_length(videos, name)) for name in names],
        set_up=VosTracking(model=model, videos=videos, prompt=arguments.prompt),
        settings={
            "protocol": "semi-supervised, objects of a video together, each prompted on the first annotated frame that "
            "shows it",
            "dataset": arguments.dataset,
            "split": split,
            "prompt": arguments.prompt,
            **{name: str(path.resolve()) for name, path in where.items()},
            **({"resize_masks": True} if arguments.resize_masks else {}),
            **model_settings(model),
        },
    )


def _check_options(arguments: argparse.Namespace) -> None:
    """Raise NoDataError unless the options for the data go with the dataset."""
    dataset, own = arguments.dataset, (arguments.images, arguments.annotations, arguments.list)
    if dataset == FOLDER:
        if arguments.data or arguments.split or not (arguments.images and arguments.annotations):
            raise NoDataError("--dataset folder needs --images and --annotations, and no --data or --split")
    elif not arguments.data or any(own):
        raise NoDataError(
            f"--dataset {dataset} needs --data, and no --images, --annotations or --list: these are for own folders"
        )
    elif dataset == SAV and arguments.split:
        raise NoDataError("--dataset sav has no --split: --data names the folder of one, such as data/sav_test")
    elif dataset == SAV and arguments.resize_masks:
        raise NoDataError("--dataset sav has no --resize-masks: its masks have the size of their frames")


def _chosen(videos: VosVideos, wanted: Sequence[str]) -> list[str]:
    """Return the names of the videos to track; all if none is named."""
    there = list(videos.folders)
    if unknown := [name for name in wanted if name not in videos.folders]:
        raise NoDataError(f"--videos {unknown[0]}: there is no such video; there are {some(there)}")
    return [name for name in there if name in wanted] if wanted else there


def _length(videos: VosVideos, name: str) -> int:
    """Count the frames of a video; 0 if it is broken, which is reported when its turn has come."""
    try:
        return videos.open(name).length
    except DataError:
        return 0


def _parser() -> Parser:
    parser = Parser(prog="vos_inference", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = parser.add_argument_group("data")
    data.add_argument("--dataset", required=True, choices=[*BENCHMARKS, SAV, FOLDER], help="which benchmark")
    data.add_argument("--data", type=Path, metavar="DIR", help="where the benchmark is unpacked; for SA-V: sav_test")
    data.add_argument("--split", metavar="NAME", help="part of the benchmark (val or valid)")
    data.add_argument("--images", type=Path, metavar="DIR", help="folder: frames of a video, or folders of frames")
    data.add_argument("--annotations", type=Path, metavar="DIR", help="folder: masks in the same way (docs/masks.md)")
    data.add_argument("--list", type=Path, metavar="FILE", help="folder: names of the videos, one a line (all)")
    data.add_argument("--videos", nargs="+", default=[], metavar="NAME", help="only these")
    data.add_argument("--resize-masks", action="store_true", help="resize masks whose size is not that of their frames")
    data.add_argument("--prompt", type=protocol_name, default="gm", metavar="KIND",
                      help="gm: mask, bb: box, 3c: three clicks, 1c, ... (%(default)s)")  # fmt: skip
    add_model_options(parser, untrained=False)
    add_run_options(parser)
    parser.set_defaults(clicks=None, mask_info=None, annotated_only=False)  # what only `infer` lets one choose
    return parser


if __name__ == "__main__":
    sys.exit(main())
