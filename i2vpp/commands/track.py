"""`i2vpp track`: track prompted objects through a video and write the chosen files."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from i2vpp.commands.everything import Everything
from i2vpp.errors import I2VPPError
from i2vpp.prompts.checks import ObjectPrompt
from i2vpp.utils.background import BackgroundWriter
from i2vpp.utils.brief import counted
from i2vpp.utils.result_files import VideoInfo, check_object_ids, index_name, require_coco
from i2vpp.utils.signals import Terminated
from i2vpp.utils.writers import FrameAccess, OutputChoice, ResultWriter, remove_results

TERMINATED_SECONDS = 4.0
"""Time for an overlay that is made after SIGTERM: docker kills the process ten seconds after it, SLURM after 30."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """Which frames are tracked: see `propagate_in_video`."""

    start_frame: int | None = None
    max_frames: int | None = None
    reverse: bool = False
    both: bool = False


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a run has written.

    Args:
        frames: the frames, in the order of the video.
        obj_ids: the objects.
        seconds: duration of tracking and writing.
        paths: files and folders.
        stopped: what ended the run early, if anything did.
        problems: what is wrong with files that do not hold all these frames, one sentence each.
    """

    frames: list[int]
    obj_ids: list[int]
    seconds: float
    paths: list[Path]
    stopped: BaseException | None = None
    problems: tuple[str, ...] = ()


def check_folder(folder: Path, *, overwrite: bool) -> None:
    """Check that results in a folder will not mix with other files.

    Args:
        folder: folder of the results, which may be missing.
        overwrite: files in it are allowed.

    Raises:
        I2VPPError: it is a file, or files are in it.
    """
    if folder.exists() and not folder.is_dir():
        raise I2VPPError(f"{folder} is a file, not a folder")
    if not overwrite and folder.exists() and any(folder.iterdir()):
        raise I2VPPError(f"{folder} is not empty; choose another folder or pass --overwrite")


def check_outputs(choice: OutputChoice, prompts: Sequence[ObjectPrompt]) -> None:
    """Check, before anything slow begins, that the chosen outputs can be written.

    Args:
        choice: the outputs.
        prompts: their object ids must fit into the outputs.

    Raises:
        I2VPPError: a package is missing, or an id is too large for a PNG.
    """
    if choice.rle:
        require_coco()
    if choice.masks or choice.overlay:
        check_object_ids([prompt.obj_id for prompt in prompts])


def add_prompts(predictor: Any, state: Any, prompts: Sequence[ObjectPrompt]) -> None:
    """Add all prompts to a session.

    Args:
        predictor: predictor that the session belongs to.
        state: the session.
        prompts: what to add.

    Raises:
        PromptError: a prompt does not fit the video.
    """
    for prompt in prompts:
        where = {"frame_idx": prompt.frame_idx, "obj_id": prompt.obj_id}
        if prompt.mask is not None:
            predictor.add_new_mask(state, **where, mask=prompt.mask)
        else:
            points = [list(point) for point in prompt.points] or None
            labels = list(prompt.labels) or None
            box = None if prompt.box is None else list(prompt.box)
            predictor.add_new_points_or_box(state, **where, points=points, labels=labels, box=box)


def track(
    predictor: Any,
    state: Any,
    prompts: Sequence[ObjectPrompt],
    folder: Path,
    *,
    choice: OutputChoice,
    span: Span,
    quiet: bool = False,
    everything: Everything | None = None,
    on_frame: Callable[[], None] | None = None,
) -> Summary:
    """Track the prompted objects and write results as they come; earlier results in the folder are deleted.

    Masks are called like the frames' files where the video is a folder. Ctrl-C, SIGTERM (as `Terminated`) and errors
    on the way end the run early: the finished frames stay, and the summary says why it stopped.

    Args:
        predictor: predictor that the session belongs to.
        state: the session, without prompts.
        prompts: what to track.
        folder: folder of the results.
        choice: choice of the files that are written.
        span: frames that are tracked.
        quiet: whether to show no progress bar.
        everything: how objects are found without prompts; None where there are prompts.
        on_frame: called after each frame.

    Returns:
        What was written, and why it ended early where it did.

    Raises:
        I2VPPError: the prompts are not right; nothing is deleted or written then.
    """
    check_outputs(choice, prompts)
    add_prompts(predictor, state, prompts)
    num_frames = state.num_frames if state.source.countable else None
    video = VideoInfo(height=state.video_height, width=state.video_width, fps=state.fps, num_frames=num_frames)
    limits: dict[str, Any] = {"max_frame_num_to_track": span.max_frames, "progress": not quiet}
    results: Any
    if everything is not None:
        results = everything.discovery(predictor).track(state, start_frame_idx=span.start_frame or 0, **limits)
    else:
        results = predictor.propagate_in_video(
            state, start_frame_idx=span.start_frame, reverse=span.reverse, both=span.both, **limits
        )
    remove_results(folder)
    in_order = not (span.reverse or span.both)
    names = state.source.names
    name = index_name if names is None else names.__getitem__
    frames = FrameAccess(read=state.frame, name=name, time=state.source.time)
    writer = ResultWriter(folder, choice, video, frames, in_order=in_order)
    return write_results(results, writer, {prompt.obj_id for prompt in prompts}, quiet=quiet, on_frame=on_frame)


def write_results(
    results: Any,
    writer: ResultWriter,
    obj_ids: set[int],
    *,
    quiet: bool,
    on_frame: Callable[[], None] | None = None,
) -> Summary:
    """Write results as they come; Ctrl-C, SIGTERM and errors on the way end the run early.

    Args:
        results: generator of them, which is closed in the end.
        writer: writes them, and is closed in the end.
        obj_ids: ids of the objects that were prompted.
        quiet: whether to show no progress bar.
        on_frame: called after each frame.

    Returns:
        What was written, and why it ended early where it did.
    """
    background = BackgroundWriter(writer)
    begin = time.perf_counter()
    stopped: BaseException | None = None
    found = set(obj_ids)
    try:
        with closing(results):
            for result in results:
                background.add(result)
                found.update(result.obj_ids)
                if on_frame is not None:
                    on_frame()
    except (KeyboardInterrupt, I2VPPError, OSError) as error:
        stopped = error
    finally:
        try:
            seconds = TERMINATED_SECONDS if isinstance(stopped, Terminated) else None
            background.close(partial(_for_overlay, quiet=quiet, seconds=seconds))
        except (KeyboardInterrupt, I2VPPError, OSError) as error:
            stopped = stopped or error
    return Summary(
        frames=writer.frames,
        obj_ids=sorted(found),
        seconds=time.perf_counter() - begin,
        paths=writer.paths(),
        stopped=stopped,
        problems=tuple(writer.problems),
    )


def _for_overlay(frames: list[int], *, quiet: bool, seconds: float | None) -> Iterator[int]:
    """Yield frames with a progress bar, for so many seconds at most."""
    end = None if seconds is None else time.monotonic() + seconds
    shown: Iterable[int] = tqdm(frames, desc="overlay", unit="frame", disable=quiet)
    for frame_idx in shown:
        if end is not None and time.monotonic() > end:
            return
        yield frame_idx


def describe_bad_frames(frames: Sequence[int], on_bad_frame: str) -> str:
    """Say in a line which frames could not be decoded, and what became of them.

    Args:
        frames: indices of the frames, in order.
        on_bad_frame: choice of the user, see `init_state`.
    """
    runs: list[list[int]] = []
    for frame in frames:
        if runs and frame == runs[-1][1] + 1:
            runs[-1][1] = frame
        else:
            runs.append([frame, frame])
    which = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
    outcome = "the frame before was tracked instead" if on_bad_frame == "repeat" else "no results there"
    return f"{counted(len(frames), 'frame')} could not be decoded ({which}): {outcome}"
