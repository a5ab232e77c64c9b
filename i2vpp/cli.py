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
from i2vpp.commands import annotate as annotate_command
from i2vpp.commands import everything as everything_command
from i2vpp.commands import export as export_command
from i2vpp.commands import prompts as prompt_args
from i2vpp.commands import segment as segment_command
from i2vpp.commands import track_options
from i2vpp.errors import CheckpointError, FrameDecodeError, I2VPPError, shorten_words
from i2vpp.model_choice import ModelChoice, add_model_options, build_predictor, chosen_model
from i2vpp.prompts import files as prompt_files
from i2vpp.utils.brief import counted
from i2vpp.utils.notices import plain_warnings
from i2vpp.utils.parser import Parser, integer
from i2vpp.utils.signals import Terminated, exit_status, sigterm_raises
from i2vpp.weights.files import DEMO, DOWNLOADABLE, demo_checkpoint

if TYPE_CHECKING:
    from i2vpp.commands.track import Summary
    from i2vpp.prompts.checks import ObjectPrompt

EXIT_ERROR, EXIT_USAGE, EXIT_BROKEN_PIPE = 1, 2, 141

DEMO_FOLDER = Path("outputs/demo")
TEXT_WIDTH = 80
DOWNLOADS = f"{', '.join(DOWNLOADABLE)}, or all"
UNTRAINED = "untrained weights, as --untrained asks for: the masks mean nothing"

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
    _add_export(commands)
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
        usage="VIDEO... -o OUT (--point ... | --box ... | --mask ... | --prompts FILE.json | --everything) [options]",
        brief="track objects through a video",
        text=track_options.TEXT,
        examples=track_options.EXAMPLES,
    )
    track_options.add_options(parser)


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


def _add_export(commands: Any) -> None:
    parser = _add_command(
        commands,
        "export",
        export_command.run,
        usage="CHECKPOINT -o DIR [options]",
        brief="write a checkpoint as ONNX, with a tracker that needs no PyTorch",
        text=export_command.TEXT,
        examples=export_command.EXAMPLES,
    )
    export_command.add_options(parser)


def run_track(arguments: argparse.Namespace) -> int:
    """Run `i2vpp track`."""
    track_options.check_usage(arguments)
    given = [*arguments.point, *arguments.negative, *arguments.box]
    given += [prompt for file in arguments.mask for prompt in prompt_files.read_mask(file)]
    several = len(arguments.video) > 1
    if arguments.prompts is not None and not several:
        given += prompt_files.read_prompts_file(arguments.prompts)
    prompts = prompt_args.merge(given)

    from i2vpp.commands import track  # noqa: PLC0415 - PyTorch takes seconds to import
    from i2vpp.utils.result_files import MAX_OBJECT_ID  # noqa: PLC0415
    from i2vpp.utils.writers import OutputChoice  # noqa: PLC0415

    choice = OutputChoice(
        masks=arguments.masks,
        overlay=arguments.overlay,
        rle=arguments.json,
        scores=arguments.scores,
        alpha=arguments.alpha,
    )
    span = track.Span(
        start_frame=arguments.start_frame,
        max_frames=arguments.max_frames,
        reverse=arguments.reverse,
        both=arguments.both,
    )
    most = MAX_OBJECT_ID if arguments.masks or arguments.overlay else None
    everything = everything_command.chosen(arguments, highest_id=most)
    if several:
        return _track_several(arguments, given, choice=choice, span=span, everything=everything)
    track.check_folder(arguments.output, overwrite=arguments.overwrite)
    track.check_outputs(choice, prompts)
    options: dict[str, Any] = {"choice": choice, "quiet": arguments.quiet, "everything": everything}
    if arguments.camera is not None:
        return _track_camera(arguments, prompts, options)
    predictor = build_predictor(_model(arguments))
    with predictor.init_state(arguments.video[0], on_bad_frame=arguments.on_bad_frame) as state:
        prompts = prompt_args.fit_masks(prompts, state.video_height, state.video_width, resize=arguments.resize_masks)
        summary = track.track(predictor, state, prompts, arguments.output, span=span, **options)
        bad_frames = state.bad_frames
    if bad_frames:
        print(track.describe_bad_frames(bad_frames, arguments.on_bad_frame))
    if isinstance(summary.stopped, FrameDecodeError):
        _complain("--on-bad-frame repeat or skip goes on in spite of frames that cannot be decoded")
    return _report(summary, arguments.output)


def _track_several(arguments: argparse.Namespace, common: list[ObjectPrompt], **options: Any) -> int:
    """Track several videos as the jobs of a run."""
    from i2vpp.commands import batch  # noqa: PLC0415 - PyTorch takes seconds to import

    videos = batch.video_names(arguments.video)
    prompts = batch.prompts_of(videos, common, arguments.prompts)
    how = batch.BatchOptions(on_bad_frame=arguments.on_bad_frame, resize_masks=arguments.resize_masks, **options)
    return batch.run(arguments, _model(arguments), prompts, how)


def _track_camera(arguments: argparse.Namespace, prompts: list[ObjectPrompt], options: dict[str, Any]) -> int:
    """Track the frames of a webcam."""
    from i2vpp.commands.camera import track_camera  # noqa: PLC0415 - PyTorch takes seconds to import
    from i2vpp.session.camera import Camera  # noqa: PLC0415

    with Camera(arguments.camera) as camera:
        predictor = build_predictor(_model(arguments))
        summary = track_camera(predictor, camera, prompts, arguments.output, max_frames=arguments.max_frames, **options)
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
    from i2vpp.weights.download import SOURCES, describe_check, download, download_all  # noqa: PLC0415 - imports PyTorch

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
    print(f"i2vpp: {shorten_words(text)}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
