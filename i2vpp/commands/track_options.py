"""The options of `i2vpp track`; `i2vpp.cli` runs what they choose."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from i2vpp.commands import everything
from i2vpp.commands import prompts as prompt_args
from i2vpp.model_choice import add_model_options
from i2vpp.prompts import files as prompt_files
from i2vpp.utils.parser import integer
from i2vpp.utils.suggest import how_to_install

ON_BAD_FRAME = ("raise", "repeat", "skip")  # as in i2vpp.session.bad_frames, which takes seconds to import
ALPHA_FORMATS = ("png", "webm", "mov")  # as in i2vpp.utils.cutouts, for the same reason

TEXT = """\
Track objects through a video. Say what to track with clicks, boxes or masks, in pixels of the video; frames count
from 0, objects from 1, and both may be left out: frame 0, object 1. Clicks and boxes may be repeated; those of one
object on one frame belong together.
"""

EXAMPLES = """\
examples:
  i2vpp track dog.mp4 -o outputs/dog --point 420,310 --checkpoint sam-i2vpp_32gpu
  i2vpp track dog.mp4 -o outputs/two --box 90,40,400,360 --point 600,200,0,2 --negative 640,90,0,2
  i2vpp track frames/ -o outputs/vos --mask first_frame.png --json --no-overlay
  i2vpp track --camera 0 -o outputs/camera --box 200,100,400,380 --max-frames 300
  i2vpp track dog.mp4 -o outputs/all --everything --discover 25 --max-objects 20

A prompts file is a JSON list. "frame" is 0 and "object" is 1 where they are left out, "labels" are 1 (positive) or
0 (negative), and a mask file lies beside the JSON file and goes without points and box:
  [{"frame": 0, "object": 1, "points": [[420, 310], [90, 80]], "labels": [1, 0], "box": [90, 40, 400, 360]},
   {"frame": 8, "object": 2, "mask": "cat.png"}]

Several videos are tracked by one process on each GPU, or --processes N, to OUT/<video name>/. Options that say what to
track apply to every video; --prompts PROMPTS/ has a file PROMPTS/<video name>.json for each. A video that fails is
named, and the others are finished; the same command goes on where it was ended, and --overwrite begins anew:
  i2vpp track videos/*.mp4 -o outputs/many --prompts prompts/

written to the output folder, frame by frame, so that Ctrl-C keeps what is finished:
  masks/00000.png ...   pixel value = object id, with the palette of DAVIS; the stronger object wins an overlap;
                        called like the frames where VIDEO is a folder, else by the frame's index
  overlay.mp4           the tracked frames with tinted objects, in the order and with the timing of the video
  scores.csv            frame, time in seconds, object, object_score, predicted_iou, area, bad_frame
  cutouts/00000.png ... with --alpha: the objects alone, transparent around them; or cutouts.webm, cutouts.mov
  masks.json            with --json: {"video": {...}, "objects": {"1": {"0": {"size": [H, W], "counts": "..."}}}}

exit status: 0 done, 1 error, 2 wrong usage, 130 interrupted by Ctrl-C, 143 by SIGTERM.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add all options of the command."""
    parser.add_argument("video", metavar="VIDEO", nargs="*", help="video file, URL or folder of images; or several")
    parser.add_argument("--camera", metavar="DEVICE", help="track a webcam, by its number (0) or name, until Ctrl-C")
    parser.add_argument("-o", "--output", metavar="OUT", type=Path, required=True, help="folder for the results")
    parser.add_argument("--overwrite", action="store_true", help="replace the results of an earlier run in OUT")

    what = parser.add_argument_group("what to track")
    _repeatable(what, "--point", prompt_args.positive_point, prompt_args.POINT_FORM, "a click on the object")
    _repeatable(what, "--negative", prompt_args.negative_point, prompt_args.POINT_FORM, "a click beside the object")
    _repeatable(what, "--box", prompt_args.box, prompt_args.BOX_FORM, "a box around the object")
    _repeatable(what, "--mask", prompt_args.mask_file, prompt_files.MASK_FORM,
                "a mask image: with an object, all that it shows; else one object per value or colour")  # fmt: skip
    what.add_argument("--resize-masks", action="store_true", help="resize masks whose size is not that of the video")
    what.add_argument("--prompts", metavar="FILE.json", type=Path,
                      help="a file of prompts, see below; or a folder with one for each of several videos")  # fmt: skip
    what.add_argument("--everything", action="store_true", help="find objects without prompts")
    everything.add_track_options(parser)

    where = parser.add_argument_group("which frames")
    direction = where.add_mutually_exclusive_group()
    direction.add_argument("--reverse", action="store_true", help="track towards the beginning")
    direction.add_argument("--both", action="store_true", help="track towards the end, then towards the beginning")
    where.add_argument("--start-frame", metavar="N", type=integer(0), help="start here, not at the first prompt")
    where.add_argument("--max-frames", metavar="N", type=integer(0),
                       help="track at most N frames beyond the first one, in each direction")  # fmt: skip

    where.add_argument("--on-bad-frame", choices=ON_BAD_FRAME, default=ON_BAD_FRAME[0],
                       help="at a frame that cannot be decoded: stop with an error (raise), track the frame before "
                            "in its place (repeat), or give it no result (skip); default: %(default)s")  # fmt: skip

    add_model_options(parser)
    parser.add_argument("--processes", metavar="N", type=integer(1),
                        help="of several videos, track N at a time (one on each GPU, or one on the CPU)")  # fmt: skip
    parser.add_argument("--quiet", action="store_true", help="no progress bar")

    outputs = parser.add_argument_group("what to write")
    switch = argparse.BooleanOptionalAction
    outputs.add_argument("--masks", action=switch, default=True, help="indexed PNGs (on)")
    outputs.add_argument("--overlay", action=switch, default=True, help="a video of tinted objects (on)")
    outputs.add_argument("--scores", action=switch, default=True, help="a CSV table of scores (on)")
    outputs.add_argument("--alpha", nargs="?", const="png", choices=ALPHA_FORMATS,
                         help="cut-outs, transparent around the objects: PNGs (png, the default), or a video of VP9 "
                              "(webm) or ProRes 4444 (mov)")  # fmt: skip
    outputs.add_argument("--json", action="store_true", help=f"COCO RLE; needs {how_to_install('coco')}")


def _repeatable(group: Any, option: str, parse: Callable[[str], Any], form: str, text: str) -> None:
    group.add_argument(option, metavar=form, type=parse, action="append", default=[], help=text)


def check_usage(arguments: argparse.Namespace) -> None:
    """End the command with its usage where options contradict each other."""
    wrong = _contradiction(arguments)
    if wrong is not None:
        arguments.usage_error(wrong)


def _contradiction(arguments: argparse.Namespace) -> str | None:
    """Return what is wrong with the options, or None."""
    prompted = bool(
        arguments.point or arguments.negative or arguments.box or arguments.mask or arguments.prompts is not None
    )
    backwards = arguments.reverse or arguments.both
    outputs = (arguments.masks, arguments.overlay, arguments.scores, arguments.json, arguments.alpha)
    camera = arguments.camera is not None
    checks = (
        (not arguments.video and not camera, "nothing to track: give a VIDEO or --camera"),
        (bool(arguments.video) and camera, "give a VIDEO or --camera, not both"),
        (camera and (backwards or arguments.start_frame is not None),
         "a camera is tracked from its first frame on: without --reverse, --both and --start-frame"),
        (arguments.everything and prompted,
         "--everything goes without --point, --negative, --box, --mask and --prompts"),
        (not arguments.everything and not prompted,
         "nothing to track: give --point, --box, --mask, --prompts or --everything"),
        (arguments.everything and backwards, "--everything tracks towards the end: without --reverse and --both"),
        (not any(outputs), "nothing to write: all of --masks, --overlay, --scores, --json and --alpha are off"),
        (arguments.alpha in ("webm", "mov") and backwards,
         f"--alpha {arguments.alpha} is written forwards: with --reverse and --both, --alpha png"),
        (arguments.processes is not None and len(arguments.video) < 2, "--processes is for several videos"),
    )  # fmt: skip
    return next((text for is_wrong, text in checks if is_wrong), None) or everything.without_effect(arguments)
