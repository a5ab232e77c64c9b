"""The `i2vpp` command."""

from __future__ import annotations

import argparse
import json
import os
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from i2vpp import __version__
from i2vpp.checkpoint_files import DEMO, DOWNLOADABLE, demo_checkpoint
from i2vpp.commands import annotate as annotate_command
from i2vpp.commands import prompts as prompt_args
from i2vpp.commands import segment as segment_command
from i2vpp.errors import CheckpointError, FrameDecodeError, I2VPPError
from i2vpp.model_choice import ModelChoice, add_model_options, build_predictor, chosen_model
from i2vpp.utils.brief import counted
from i2vpp.utils.notices import plain_warnings
from i2vpp.utils.parser import Parser, integer
from i2vpp.utils.signals import Terminated, exit_status, sigterm_raises
from i2vpp.utils.suggest import how_to_install

if TYPE_CHECKING:
    from i2vpp.commands.track import Summary

EXIT_ERROR, EXIT_USAGE, EXIT_BROKEN_PIPE = 1, 2, 141

DEMO_FOLDER = Path("outputs/demo")
TEXT_WIDTH = 80
ON_BAD_FRAME = ("raise", "repeat", "skip")  # as in i2vpp.session.bad_frames, which takes seconds to import
DOWNLOADS = f"{', '.join(DOWNLOADABLE)}, or all"
UNTRAINED = "untrained weights, as --untrained asks for: the masks mean nothing"

TRACK_TEXT = """\
Track objects through a video. Say what to track with clicks, boxes or masks, in pixels of the video; frames count
from 0, objects from 1, and both may be left out: frame 0, object 1. Clicks and boxes may be repeated; those of one
object on one frame belong together.
"""

TRACK_EXAMPLES = """\
examples:
  i2vpp track dog.mp4 -o outputs/dog --point 420,310 --checkpoint sam-i2vpp_32gpu
  i2vpp track dog.mp4 -o outputs/two --box 90,40,400,360 --point 600,200,0,2 --negative 640,90,0,2
  i2vpp track frames/ -o outputs/vos --mask first_frame.png --json --no-overlay

A prompts file is a JSON list. "frame" is 0 and "object" is 1 where they are left out, "labels" are 1 (positive) or
0 (negative), and a mask file lies beside the JSON file and goes without points and box:
  [{"frame": 0, "object": 1, "points": [[420, 310], [90, 80]], "labels": [1, 0], "box": [90, 40, 400, 360]},
   {"frame": 8, "object": 2, "mask": "cat.png"}]

written to the output folder, frame by frame, so that Ctrl-C keeps what is finished:
  masks/00000.png ...   pixel value = object id, with the palette of DAVIS; the stronger object wins an overlap;
                        called like the frames where VIDEO is a folder, else by the frame's index
  overlay.mp4           the tracked frames with tinted objects, in the order and with the timing of the video
  scores.csv            frame, time in seconds, object, object_score, predicted_iou, area, bad_frame
  masks.json            with --json: {"video": {...}, "objects": {"1": {"0": {"size": [H, W], "counts": "..."}}}}

exit status: 0 done, 1 error, 2 wrong usage, 130 interrupted by Ctrl-C, 143 by SIGTERM.
"""

Run = Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0 done, 1 error, 2 wrong usage, 130 interrupted, 143 terminated."""
    try:
        arguments = build_parser().parse_args(argv)
        run: Run = arguments.run
        with plain_warnings("i2vpp: "), sigterm_raises():
            status = run(arguments)
        sys.stdout.flush()
        return status
    except SystemExit as end:  # argparse has printed help, or what is wrong
        return int(end.code or 0)
    except BrokenPipeError:  # as in `i2vpp info | head`: nobody reads on, and Python would complain again at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except (I2VPPError, OSError) as error:
        _complain(f"error: {error}")
        return EXIT_ERROR
    except KeyboardInterrupt as stop:
        _complain(_stopped_by(stop))
        return exit_status(stop)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all subcommands; the one chosen is in `run`."""
    parser = Parser(
        prog="i2vpp",
        description="Promptable video segmentation with SAM-I2V++: click, box or mask an object, find it everywhere.",
        epilog="example:\n  i2vpp track dog.mp4 -o outputs/dog --point 420,310\n\n`i2vpp COMMAND --help` says more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"i2vpp {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_track(commands)
    _add_segment(commands)
    _add_demo(commands)
    _add_annotate(commands)
    _add_info(commands)
    _add_download(commands)
    return parser


def _add_command(
    commands: Any, name: str, run: Run, *, usage: str, brief: str, text: str, examples: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        usage=f"i2vpp {name} {usage}",  # argparse cannot wrap a usage with brackets in its metavars
        help=brief,
        description=text,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run, usage_error=parser.error)
    return parser


def _add_track(commands: Any) -> None:
    parser = _add_command(
        commands,
        "track",
        run_track,
        usage="VIDEO -o OUT (--point ... | --box ... | --mask ... | --prompts FILE.json) [options]",
        brief="track objects through a video",
        text=TRACK_TEXT,
        examples=TRACK_EXAMPLES,
    )
    parser.add_argument("video", metavar="VIDEO", help="video file, URL or folder of images")
    parser.add_argument("-o", "--output", metavar="OUT", type=Path, required=True, help="folder for the results")
    parser.add_argument("--overwrite", action="store_true", help="replace the results of an earlier run in OUT")

    what = parser.add_argument_group("what to track")
    _repeatable(what, "--point", prompt_args.positive_point, prompt_args.POINT_FORM, "a click on the object")
    _repeatable(what, "--negative", prompt_args.negative_point, prompt_args.POINT_FORM, "a click beside the object")
    _repeatable(what, "--box", prompt_args.box, prompt_args.BOX_FORM, "a box around the object")
    _repeatable(what, "--mask", prompt_args.mask_file, prompt_args.MASK_FORM,
                "a mask image: with an object, all that it shows; else one object per value or colour")  # fmt: skip
    what.add_argument("--resize-masks", action="store_true", help="resize masks whose size is not that of the video")
    what.add_argument("--prompts", metavar="FILE.json", type=Path, help="a file of prompts, described below")

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
    parser.add_argument("--quiet", action="store_true", help="no progress bar")

    outputs = parser.add_argument_group("what to write")
    switch = argparse.BooleanOptionalAction
    outputs.add_argument("--masks", action=switch, default=True, help="indexed PNGs (on)")
    outputs.add_argument("--overlay", action=switch, default=True, help="a video of tinted objects (on)")
    outputs.add_argument("--scores", action=switch, default=True, help="a CSV table of scores (on)")
    outputs.add_argument("--json", action="store_true", help=f"COCO RLE; needs {how_to_install('coco')}")


def _repeatable(group: Any, option: str, parse: Callable[[str], Any], form: str, text: str) -> None:
    group.add_argument(option, metavar=form, type=parse, action="append", default=[], help=text)


def _add_segment(commands: Any) -> None:
    parser = _add_command(
        commands,
        "segment",
        run_segment,
        usage="IMAGE... -o OUT (--point ... | --box ... | --prompts FILE.json | --everything) [options]",
        brief="segment objects in still images",
        text=segment_command.TEXT,
        examples=segment_command.EXAMPLES,
    )
    segment_command.add_options(parser)
    add_model_options(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def _add_demo(commands: Any) -> None:
    parser = _add_command(
        commands,
        "demo",
        run_demo,
        usage="[-o OUT] [options]",
        brief="track two objects through the bundled clip",
        text="Track two objects through the bundled clip and write masks, overlay.mp4, scores.csv and overlay.png. "
        "On a CPU this runs at 384 pixels, so that it does not take long; --config or --override choose another size.",
        examples="example:\n  i2vpp demo -o outputs/demo",
    )
    parser.add_argument("-o", "--output", metavar="OUT", type=Path, default=DEMO_FOLDER,
                        help="folder for the results (%(default)s, which is always replaced)")  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace the results of an earlier run in OUT")
    parser.add_argument("--frames", metavar="N", type=integer(1), help="only the first N frames")
    add_model_options(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def _add_annotate(commands: Any) -> None:
    parser = _add_command(
        commands,
        "annotate",
        run_annotate,
        usage="[VIDEO] [-o OUT] [options]",
        brief="segment objects in a browser",
        text=annotate_command.TEXT,
        examples=annotate_command.EXAMPLES,
    )
    annotate_command.add_options(parser)
    add_model_options(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def _add_info(commands: Any) -> None:
    parser = _add_command(
        commands,
        "info",
        run_info,
        usage="CHECKPOINT [--json]",
        brief="say what a checkpoint holds",
        text="Say what a checkpoint holds and whether it fits the network, without loading it into a model.",
        examples=f"examples:\n  i2vpp info checkpoints/sam-i2vpp_32gpu.pt\n  i2vpp info {DEMO}",
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=Path,
                        help="file of weights, or its name in checkpoints/")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_download(commands: Any) -> None:
    parser = _add_command(
        commands,
        "download",
        run_download,
        usage="NAME [-o OUT]",
        brief="fetch the published checkpoints",
        text=f"Fetch a published checkpoint and check it. NAME is {DOWNLOADS}.",
        examples="example:\n  i2vpp download sam-i2vpp_32gpu",
    )
    parser.add_argument("name", metavar="NAME", help=DOWNLOADS)
    parser.add_argument("-o", "--output", metavar="OUT", type=Path, default=Path("checkpoints"),
                        help="folder for the checkpoints (%(default)s)")  # fmt: skip
    # The option was called --folder when the command was published.
    parser.add_argument("--folder", dest="output", type=Path, default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def run_track(arguments: argparse.Namespace) -> int:
    """Run `i2vpp track`."""
    clicks = [*arguments.point, *arguments.negative, *arguments.box]
    if not (clicks or arguments.mask or arguments.prompts):
        arguments.usage_error("nothing to track: give --point, --box, --mask or --prompts")
    if not (arguments.masks or arguments.overlay or arguments.scores or arguments.json):
        arguments.usage_error("nothing to write: all of --masks, --overlay, --scores and --json are off")
    given = [*clicks, *(prompt for file in arguments.mask for prompt in prompt_args.read_mask(file))]
    if arguments.prompts is not None:
        given += prompt_args.read_prompts_file(arguments.prompts)
    prompts = prompt_args.merge(given)

    from i2vpp.commands import track  # noqa: PLC0415 - PyTorch takes seconds to import
    from i2vpp.utils.writers import OutputChoice  # noqa: PLC0415

    choice = OutputChoice(masks=arguments.masks, overlay=arguments.overlay, rle=arguments.json, scores=arguments.scores)
    span = track.Span(
        start_frame=arguments.start_frame,
        max_frames=arguments.max_frames,
        reverse=arguments.reverse,
        both=arguments.both,
    )
    track.check_folder(arguments.output, overwrite=arguments.overwrite)
    track.check_outputs(choice, prompts)
    predictor = build_predictor(_model(arguments))
    with predictor.init_state(arguments.video, on_bad_frame=arguments.on_bad_frame) as state:
        prompts = prompt_args.fit_masks(prompts, state.video_height, state.video_width, resize=arguments.resize_masks)
        summary = track.track(
            predictor, state, prompts, arguments.output, choice=choice, span=span, quiet=arguments.quiet
        )
        bad_frames = state.bad_frames
    if bad_frames:
        print(track.describe_bad_frames(bad_frames, arguments.on_bad_frame))
    if isinstance(summary.stopped, FrameDecodeError):
        _complain("--on-bad-frame repeat or skip goes on in spite of frames that cannot be decoded")
    return _report(summary, arguments.output)


def run_segment(arguments: argparse.Namespace) -> int:
    """Run `i2vpp segment`."""
    prompts = segment_command.read_prompts(arguments)

    from i2vpp.commands import track  # noqa: PLC0415 - PyTorch takes seconds to import

    track.check_folder(arguments.output, overwrite=arguments.overwrite)
    return segment_command.run(arguments, _model(arguments), prompts)


def run_demo(arguments: argparse.Namespace) -> int:
    """Run `i2vpp demo`."""
    from i2vpp.commands import demo, track  # noqa: PLC0415 - PyTorch takes seconds to import

    track.check_folder(arguments.output, overwrite=arguments.overwrite or arguments.output == DEMO_FOLDER)
    model = _model(arguments)
    summary = demo.run_demo(model, arguments.output, num_frames=arguments.frames, quiet=arguments.quiet)
    return _report(summary, arguments.output)


def run_annotate(arguments: argparse.Namespace) -> int:
    """Run `i2vpp annotate`."""
    if arguments.checkpoint is None and not arguments.untrained:
        arguments.checkpoint = Path(DEMO)  # the page, too, says so if it is not there
        try:
            demo_checkpoint()
        except CheckpointError as error:
            _complain(f"objects can be painted, not tracked: {error}")
    return annotate_command.run(arguments, _model(arguments))


def _model(arguments: argparse.Namespace) -> ModelChoice:
    """Return the chosen model, and say on stderr which weights it runs with unless the user named them."""
    model = chosen_model(arguments)
    if arguments.untrained:
        _complain(UNTRAINED)
    elif arguments.checkpoint is None:
        _complain(f"weights: {model.checkpoint}")
    return model


def _report(summary: Summary, folder: Path) -> int:
    """Print what was written and return the exit status."""
    count = len(summary.frames)
    frames = counted(count, "frame")
    if summary.stopped is None:
        rate = count / summary.seconds if summary.seconds else 0.0
        print(
            f"wrote {frames} of {counted(len(summary.obj_ids), 'object')} in {summary.seconds:.1f} s "
            f"({rate:.1f} frames/s)"
        )
        for path in summary.paths:
            print(f"  {path}")
        return 0
    left = f"{frames} written to {folder}"
    if summary.problems:
        others = [path for path in summary.paths if not any(text.startswith(path.name) for text in summary.problems)]
        rest = f"; {', '.join(path.name for path in others)}: {frames}" if others else ""
        left = f"in {folder}: {'; '.join(summary.problems)}{rest}"
    _complain(f"{_stopped_by(summary.stopped)}; {left}")
    return exit_status(summary.stopped) if isinstance(summary.stopped, KeyboardInterrupt) else EXIT_ERROR


def _stopped_by(stop: BaseException) -> str:
    if isinstance(stop, KeyboardInterrupt):
        return "terminated" if isinstance(stop, Terminated) else "interrupted"
    return f"error: {stop}"


def run_info(arguments: argparse.Namespace) -> int:
    """Run `i2vpp info`."""
    from i2vpp.checkpoint import inspect_checkpoint  # noqa: PLC0415 - PyTorch takes seconds to import

    fields = asdict(inspect_checkpoint(arguments.checkpoint))
    if arguments.json:
        print(json.dumps(fields, indent=2, default=str))
    else:
        width = max(map(len, fields)) + 2
        for name, value in fields.items():
            label = name.replace("_", " ")
            for line in _lines(value):
                print(f"{label:<{width}}{line}")
                label = ""
    return 0


def _lines(value: Any) -> list[str]:
    """Spell a value of the table out, in one or more lines."""
    if isinstance(value, Mapping):
        width = max((len(str(key)) for key in value), default=0)
        rows = []
        for key, entry in value.items():
            label = str(key)
            for line in _lines(entry):
                rows.append(f"{label:<{width}}  {line:>14}" if isinstance(entry, int) else f"{label:<{width}}  {line}")
                label = ""
        return rows or ["none"]
    if isinstance(value, tuple | list):
        shown = [str(entry) for entry in value[:8]]
        more = [f"... and {len(value) - 8} more"] if len(value) > 8 else []
        return shown + more or ["none"]
    if isinstance(value, str):
        return [line for text in value.splitlines() for line in textwrap.wrap(text, TEXT_WIDTH)] or [""]
    return [f"{value:,}" if isinstance(value, int) else "not known" if value is None else str(value)]


def run_download(arguments: argparse.Namespace) -> int:
    """Run `i2vpp download`."""
    from i2vpp.download import SOURCES, describe_check, download, download_all  # noqa: PLC0415 - imports PyTorch

    if arguments.name == "all":
        names, paths = list(SOURCES), download_all(arguments.output)
    else:
        names, paths = [arguments.name], [download(arguments.name, arguments.output)]
    for path in paths:
        print(path)
    for name in names:
        _complain(describe_check(name))
    return 0


def _complain(text: str) -> None:
    print(f"i2vpp: {text}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
