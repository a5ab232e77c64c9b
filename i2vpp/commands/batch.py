"""`i2vpp track` for several videos: each is a job of a run, shared by processes and GPUs; see `i2vpp.runs.runner`."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch

from i2vpp.commands import prompts as prompt_args
from i2vpp.commands.everything import Everything
from i2vpp.commands.track import Span, track
from i2vpp.errors import I2VPPError, PromptError
from i2vpp.model_choice import ModelChoice, build_for_process
from i2vpp.prompts import files as prompt_files
from i2vpp.prompts.checks import ObjectPrompt
from i2vpp.runs.runner import Meter, run_jobs
from i2vpp.runs.store import DoJob, Job, JobRecord
from i2vpp.session.video import open_source
from i2vpp.utils.files import file_sha256
from i2vpp.utils.result_files import require_coco
from i2vpp.utils.writers import OutputChoice
from i2vpp.weights.files import find_checkpoint


@dataclass(frozen=True, kw_only=True)
class BatchOptions:
    """How all videos are tracked.

    Args:
        choice: choice of the files that are written.
        span: frames that are tracked.
        on_bad_frame: see `init_state`.
        resize_masks: resize masks of another size than the video's.
        everything: how objects are found without prompts; None where there are prompts.
    """

    choice: OutputChoice
    span: Span
    on_bad_frame: str
    resize_masks: bool
    everything: Everything | None


@dataclass(frozen=True, kw_only=True)
class VideoTracking:
    """Tracks videos, each of which is a job; calling it sets up a process (`i2vpp.runs.runner.SetUp`).

    Args:
        model: the network.
        videos: the videos by the name of their job.
        prompts: what is tracked in each video.
        options: how.
    """

    model: ModelChoice
    videos: Mapping[str, str]
    prompts: Mapping[str, Sequence[ObjectPrompt]]
    options: BatchOptions

    def __call__(self, index: int) -> DoJob:
        """Build the predictor of process `index` of this machine, and return what tracks videos with it."""
        return partial(self.track, build_for_process(self.model, index))

    def track(self, predictor: Any, job: Job, folder: Path, on_frame: Callable[[], None]) -> JobRecord:
        """Track a video and write its files.

        Args:
            predictor: tracks.
            job: has the name of the video.
            folder: of the files.
            on_frame: called after each frame.

        Returns:
            Frames, time and memory of the tracking.

        Raises:
            I2VPPError: the video cannot be read, or the prompts do not fit it.
        """
        options, meter = self.options, Meter(predictor.device, on_frame)
        with predictor.init_state(self.videos[job.name], on_bad_frame=options.on_bad_frame) as state:
            prompts = prompt_args.fit_masks(
                self.prompts[job.name], state.video_height, state.video_width, resize=options.resize_masks
            )
            summary = track(
                predictor,
                state,
                prompts,
                folder,
                choice=options.choice,
                span=options.span,
                quiet=True,
                everything=options.everything,
                on_frame=meter.frame,
            )
        if summary.stopped is not None:
            raise summary.stopped
        return meter.record()


def video_names(videos: Sequence[str]) -> dict[str, str]:
    """Return videos by the names of their folders of results: the name of a file without suffix, or of a folder.

    Raises:
        I2VPPError: two videos have one name, or one has none.
    """
    found: dict[str, str] = {}
    for video in videos:
        path = Path(urlsplit(video).path if "://" in video else video)
        name = path.name if path.is_dir() else path.stem
        if not name or name.startswith("."):
            raise I2VPPError(f"{video} has no name that its folder of results can have")
        if found.setdefault(name, video) != video:
            raise I2VPPError(f"{found[name]} and {video} have one name, so their results would be one folder")
    return found


def prompts_of(
    videos: Mapping[str, str], common: Sequence[ObjectPrompt], file: Path | None
) -> dict[str, list[ObjectPrompt]]:
    """Return the prompts of each video.

    Args:
        videos: the videos by name.
        common: prompts of all videos.
        file: a file of prompts for all videos, or a folder with a file `<name>.json` for each; None for neither.

    Returns:
        The prompts by the name of the video.

    Raises:
        PromptError: a file is missing or wrong; the message names it.
    """
    if file is None or not file.is_dir():
        given = [*common, *([] if file is None else prompt_files.read_prompts_file(file))]
        return {name: prompt_args.merge(given) for name in videos}
    found = {}
    for name, video in videos.items():
        path = file / f"{name}.json"
        if not path.is_file() and not common:
            raise PromptError(f"there are no prompts for {video}: {path} does not exist")
        found[name] = prompt_args.merge([*common, *(prompt_files.read_prompts_file(path) if path.is_file() else [])])
    return found


def run(
    arguments: argparse.Namespace,
    model: ModelChoice,
    prompts: Mapping[str, Sequence[ObjectPrompt]],
    options: BatchOptions,
) -> int:
    """Track the videos and return the exit status: 1 if one could not be tracked; the others are finished.

    Args:
        arguments: the options of `i2vpp track`.
        model: the network.
        prompts: of each video, by its name.
        options: how.

    Raises:
        I2VPPError: the run cannot start.
    """
    if options.choice.rle:
        require_coco()
    videos = video_names(arguments.video)
    processes = arguments.processes or max(1, min(_gpus(model), len(videos)))
    outcome = run_jobs(
        [Job(name=name, frames=_length(video, options.span.max_frames)) for name, video in videos.items()],
        VideoTracking(model=model, videos=videos, prompts=prompts, options=options),
        arguments.output,
        _settings(model, videos, prompts, options),
        processes=processes,
        threads=max(1, torch.get_num_threads() // processes),
        overwrite=arguments.overwrite,
        quiet=arguments.quiet,
    )
    print(outcome.report())
    return outcome.exit_status


def _gpus(model: ModelChoice) -> int:
    return torch.cuda.device_count() if model.device in (None, "cuda") else 0


def _length(video: str, most: int | None) -> int:
    """Count the frames of a video for the progress bar; its errors are reported when its job is made."""
    try:
        source = open_source(video)
    except I2VPPError:
        return 1
    try:
        length = len(source) if source.countable else 1
    except I2VPPError:
        return 1
    finally:
        source.close()
    return length if most is None else min(length, most + 1)


def _settings(
    model: ModelChoice, videos: Mapping[str, str], prompts: Mapping[str, Sequence[ObjectPrompt]], options: BatchOptions
) -> dict[str, Any]:
    """Return what the results depend on: a run goes on with the same only."""
    checkpoint = None if model.checkpoint is None else find_checkpoint(model.checkpoint)
    return {
        "videos": {
            name: {"path": video if "://" in video else str(Path(video).resolve()), "prompts": digest(prompts[name])}
            for name, video in videos.items()
        },
        "model": {
            **asdict(model),
            "checkpoint": None if checkpoint is None else checkpoint.name,
            "checkpoint_sha256": None if checkpoint is None else file_sha256(checkpoint),
        },
        **{name: value for name, value in asdict(options).items() if name != "everything"},
        "everything": None if options.everything is None else asdict(options.everything),
    }


def digest(prompts: Sequence[ObjectPrompt]) -> str:
    """Return a text that differs between different prompts."""
    total = hashlib.sha256()
    for prompt in prompts:
        numbers = (prompt.frame_idx, prompt.obj_id, prompt.points, prompt.labels, prompt.box)
        total.update(repr(numbers).encode())
        if prompt.mask is not None:
            total.update(repr(prompt.mask.shape).encode() + prompt.mask.tobytes())
    return total.hexdigest()[:16]
