"""Track the objects of SA-V's validation or test set, each alone, from a prompt on the first frame that shows it.

    python -m test_pvs.infer --data data/sav_test --prompt 3c --checkpoint sam-i2vpp_32gpu -o outputs/sav_test_3c

writes `OUT/<video>/<object>/<frame>.png`, binary masks of all frames; those before the prompt are empty.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from i2vpp.data.files import check_size
from i2vpp.data.masks import Mask
from i2vpp.errors import I2VPPError, NoDataError
from i2vpp.evaluation.protocol import GivenObject, PromptProtocol
from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
from i2vpp.model_choice import ModelChoice, add_model_options, build_for_process
from i2vpp.runs.runner import Meter
from i2vpp.runs.store import DoJob, Job, JobRecord
from i2vpp.utils.parser import Parser, integer
from sav_dataset.layouts import ANNOTATIONS
from test_pvs.options import (
    Run,
    add_run_options,
    model_choice,
    model_settings,
    protocol_name,
    run_command,
)
from test_pvs.sav import IMAGES, SavObject, find_objects

EXAMPLES = """\
examples:
  python -m test_pvs.infer --data data/sav_test -o outputs/gm                  from the mask, with the demo weights
  python -m test_pvs.infer --data data/sav_val --prompt bb --checkpoint sam-i2vpp_32gpu -o outputs/bb
  python -m test_pvs.infer --data data/sav_val --clicks 5 --videos sav_017599 -o outputs/try
  torchrun --nproc-per-node 8 -m test_pvs.infer --data data/sav_test -o outputs/gm
  python -m test_pvs.infer --data data/sav_test -o outputs/gm --use-cluster 1 --partition gpu --num-jobs 16

The same command goes on where a run was ended, and may be started on several machines with one OUT.
exit status: 0 done, 1 an error, or objects that could not be tracked, 2 wrong usage, 130 interrupted, 143 terminated.
"""

COMMAND = "test_pvs.infer:main"
TRACKED_ID = 1


@dataclass(frozen=True, kw_only=True)
class SavTracking:
    """Tracks objects of SA-V, each of which is a job; calling it sets up a process (`i2vpp.runs.runner.SetUp`).

    Args:
        model: the network.
        objects: to be tracked, by the name of their job.
        protocol: how they are prompted.
        annotated_only: write masks of annotated frames only.
    """

    model: ModelChoice
    objects: Mapping[str, SavObject]
    protocol: PromptProtocol
    annotated_only: bool = False

    def __call__(self, index: int) -> DoJob:
        """Build the predictor of process `index` of this machine, and return what tracks objects with it."""
        return partial(self.track, build_for_process(self.model, index))

    def track(self, predictor: I2VPPVideoPredictor, job: Job, folder: Path, on_frame: Callable[[], None]) -> JobRecord:
        """Track an object and write its masks as black-and-white PNGs; those before the prompt are empty.

        Args:
            predictor: tracks.
            job: has the name of the object.
            folder: of the PNGs.
            on_frame: called after each tracked frame.

        Returns:
            Frames, time and memory of the tracking; a note and no frame where no mask shows the object.

        Raises:
            I2VPPError: frames or masks are missing, damaged, or do not fit each other.
        """
        one = self.objects[job.name]
        images = one.images()
        frames = list(images)
        first = one.first_mask(frames)
        if first is None:
            return JobRecord(
                frames=0, seconds=0.0, peak_memory=0, note=f"not tracked: no mask in {one.masks} shows the object"
            )
        written = one.annotated(frames) if self.annotated_only else set(frames)
        start = frames.index(first.frame)
        empty = np.zeros_like(first.mask)
        for frame in written.intersection(frames[:start]):
            _write_mask(folder / f"{frame}.png", empty)
        meter = Meter(predictor.device, on_frame)
        with predictor.init_state([str(path) for path in images.values()]) as state:
            check_size(
                (first.mask.shape[0], first.mask.shape[1]),
                of=f"the mask in {first.path}",
                image=images[first.frame],
                image_size=(state.video_height, state.video_width),
            )
            given = GivenObject(obj_id=TRACKED_ID, frame_idx=start, mask=first.mask)
            for result in self.protocol.track(predictor, state, [given]):
                mask: Mask = (result.masks[0, 0] > 0).cpu().numpy()  # of every frame: waits for the GPU, which is timed
                if frames[result.frame_idx] in written:
                    _write_mask(folder / f"{frames[result.frame_idx]}.png", mask)
                meter.frame()
        return meter.record()


def _write_mask(path: Path, mask: Mask) -> None:
    Image.fromarray(mask).save(path)


def prepare(arguments: argparse.Namespace) -> Run:
    """Find out what is to be tracked, and with which network.

    Raises:
        I2VPPError: something is missing or does not fit.
    """
    data = arguments.data
    images = arguments.images or (data and data / IMAGES)
    annotations = arguments.mask_info or arguments.annotations or (data and data / ANNOTATIONS)
    if images is None or annotations is None:
        raise NoDataError(
            f"where is the set? --data names a folder with {IMAGES} and {ANNOTATIONS}; or name its parts by --images "
            "and --annotations"
        )
    objects = find_objects(images, annotations, names=arguments.list, videos=arguments.videos)
    model = model_choice(arguments)
    protocol = PromptProtocol(f"{arguments.clicks}c" if arguments.clicks else arguments.prompt or "gm")
    by_name = {f"{one.video}/{one.name}": one for one in objects}
    lengths = {one.frames: _length(one) for one in objects}
    return Run(
        jobs=[Job(name=name, frames=lengths[one.frames]) for name, one in by_name.items()],
        set_up=SavTracking(model=model, objects=by_name, protocol=protocol, annotated_only=arguments.annotated_only),
        settings={
            "protocol": "semi-supervised, one object at a time, prompted on the first annotated frame that shows it",
            "prompt": protocol.name,
            "images": str(images.resolve()),
            "annotations": str(annotations.resolve()),
            "frames": "annotated" if arguments.annotated_only else "all",
            **model_settings(model),
        },
    )


def _length(one: SavObject) -> int:
    """Count the frames of a video for the progress bar; its errors are reported when its job is made."""
    try:
        return len(one.images())
    except I2VPPError:
        return 1


def build_parser() -> Parser:
    """Return the parser of the command."""
    parser = Parser(
        prog="python -m test_pvs.infer",
        usage="%(prog)s --data DIR -o OUT [options]",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    data = parser.add_argument_group("what to track")
    data.add_argument("--data", type=Path, metavar="DIR", help=f"folder of the set, with {IMAGES} and {ANNOTATIONS}")
    data.add_argument("--images", type=Path, metavar="DIR", help="folder of frame folders, where it is elsewhere")
    data.add_argument("--annotations", type=Path, metavar="DIR", help="folder of masks, where it is elsewhere")
    data.add_argument("--mask-info", type=Path, metavar="DIR",
                      help="masks made by tools/save_gt_mask.py, in place of the PNGs")  # fmt: skip
    data.add_argument("--list", type=Path, metavar="FILE", help="names of the videos, one a line (all annotated ones)")
    data.add_argument("--videos", nargs="+", default=[], metavar="VIDEO", help="only these")
    how = parser.add_argument_group("how")
    prompt = how.add_mutually_exclusive_group()
    prompt.add_argument("--prompt", type=protocol_name, metavar="KIND",
                        help="gm: mask, bb: box, 1c, 3c, <n>c: clicks (gm)")  # fmt: skip
    prompt.add_argument("--clicks", type=integer(1), metavar="N", help="the same as --prompt <N>c")
    how.add_argument("--annotated-only", action="store_true", help="write masks of annotated frames only")
    add_model_options(parser, untrained=False)
    add_run_options(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run_command(argv, build_parser(), prepare, COMMAND)


if __name__ == "__main__":
    sys.exit(main())
