#!/usr/bin/env python3
"""Turn the PNG masks of SA-V's val or test set into one file per object (`mask_info`), which is faster to read.

    python tools/save_gt_mask.py --data data/sav_test --processes 16
    python tools/save_gt_mask.py --annotations my/Annotations_6fps --output my/mask_info

Reads `<annotations>/<video>/<object>/<frame>.png` and writes `<output>/<video>/<object>.npy`, a file of
`test_pvs.mask_info`: frame index to {0: bool mask [H, W]}, for every frame on which any object of the video has a mask.
On a frame that does not show the object its mask is zero everywhere. Frames must be named by their index.

A file appears when it is whole, and objects whose file is there are passed over: start it again after an interruption.
Objects that cannot be read are listed at the end, the others are done, and the exit status is 1.
Evaluation works without these files, straight from the PNGs.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # `test_pvs` is no installed package

from i2vpp.data.files import image_size, list_files, list_folders, require_folder
from i2vpp.data.masks import FrameSize, read_object
from i2vpp.errors import DataError, I2VPPError, NoDataError
from i2vpp.utils.arrays import Mask
from i2vpp.utils.files import remove_leftovers
from i2vpp.utils.parser import Parser, integer
from sav_dataset.layouts import ANNOTATIONS
from sav_dataset.parallel import convert_all
from test_pvs.mask_info import SUFFIX, write_mask_info

EXIT_FAILED, EXIT_INTERRUPTED = 1, 130
NAMED = 10  # objects that cannot be read, in the summary


@dataclass(frozen=True, kw_only=True)
class Job:
    """One object to convert.

    Args:
        masks: folder of the video's object folders.
        name: of the object's folder.
        target: file to write.
    """

    masks: Path
    name: str
    target: Path


def find_jobs(annotations: Path, output: Path) -> list[Job]:
    """List the objects of all videos, in order.

    Args:
        annotations: folder of the videos' folders of object folders.
        output: folder of the files to write.

    Returns:
        A job for each object, also for those whose file is there.

    Raises:
        I2VPPError: a folder is missing, or there is no object.
    """
    require_folder(annotations, "annotations")
    jobs = [
        Job(masks=annotations / video, name=name, target=output / video / f"{name}{SUFFIX}")
        for video in list_folders(annotations)
        for name in list_folders(annotations / video)
    ]
    if not jobs:
        raise NoDataError(f"{annotations} holds no object; expected <video>/<object>/00000.png")
    return jobs


def convert(job: Job) -> str | None:
    """Write the file of an object; return what is wrong with it, or None.

    Raises:
        OSError: the file cannot be written.
    """
    try:
        masks = read_masks(job.masks, job.name)
    except DataError as error:
        return str(error)
    remove_leftovers(job.target)
    write_mask_info(job.target, masks)
    return None


def read_masks(folder: Path, name: str) -> dict[int, Mask]:
    """Read the masks [H, W] of one object of a video; frames that do not show it share one empty mask.

    Args:
        folder: of the video's object folders.
        name: of the object's folder.

    Returns:
        The masks by frame index, for every frame on which any object of the video has a mask.

    Raises:
        DataError: there is no mask, a file is not named by a number, a PNG is broken or differs in size.
    """
    own = list_files(folder / name, (".png",))
    frames = {stem for other in list_folders(folder) for stem in list_files(folder / other, (".png",))}
    if wrong := sorted(stem for stem in frames if not stem.isdecimal()):
        raise DataError(f"masks in {folder} must be named by the frame's index, such as 00004.png; got {wrong[0]}.png")
    if not own:
        raise DataError(f"the folder {folder / name} holds no mask (*.png)")
    first = next(iter(own.values()))
    height, width = image_size(first)
    size = FrameSize(height=height, width=width, of=f"its image {first}")
    absent = np.zeros((height, width), np.bool_)
    masks = dict.fromkeys(map(int, frames), absent)
    for stem, path in own.items():
        mask = read_object(path, size)
        masks[int(stem)] = mask if mask.any() else absent
    return masks


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    arguments = _parser().parse_args(argv)
    annotations: Path = arguments.annotations or arguments.data / ANNOTATIONS
    output: Path = arguments.output or annotations.parent / "mask_info"
    try:
        jobs = find_jobs(annotations, output)
        todo = [job for job in jobs if not job.target.exists()]
        problems = convert_all(convert, todo, processes=arguments.processes, unit="object")
    except (I2VPPError, OSError) as error:
        print(f"error: {error}; start again when that is solved, finished objects are kept", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print("interrupted; start again to go on, finished objects are kept", file=sys.stderr)
        return EXIT_INTERRUPTED
    print(f"{output}: {len(todo) - len(problems)} objects written, {len(jobs) - len(todo)} were there already")
    if problems:
        more = f"\n  and {len(problems) - NAMED} more" if len(problems) > NAMED else ""
        listed = "".join(f"\n  {problem}" for problem in problems[:NAMED])
        print(f"error: not written: {len(problems)} objects{listed}{more}", file=sys.stderr)
    return EXIT_FAILED if problems else 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="save_gt_mask", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--data", type=Path, metavar="DIR", help=f"SA-V val or test set; it holds {ANNOTATIONS}")
    where.add_argument("--annotations", type=Path, metavar="DIR", help="folder of <video>/<object>/<frame>.png")
    parser.add_argument("-o", "--output", type=Path, metavar="DIR",
                        help="default: mask_info, beside the folder of annotations")  # fmt: skip
    parser.add_argument("--processes", type=integer(1), default=os.cpu_count() or 1, metavar="N",
                        help="default: one per core, %(default)s")  # fmt: skip
    parser.add_aliases({"--num_processes": "--processes", "--num-processes": "--processes"})
    return parser


if __name__ == "__main__":
    sys.exit(main())
