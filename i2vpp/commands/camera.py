"""`i2vpp track --camera`: the frames of a webcam are tracked as they come, in constant memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from i2vpp.commands.everything import Everything
from i2vpp.commands.prompts import fit_masks
from i2vpp.commands.track import Summary, add_prompts, check_outputs, write_results
from i2vpp.prompts.checks import ObjectPrompt
from i2vpp.session.camera import Camera
from i2vpp.structures import FrameResult
from i2vpp.utils.result_files import VideoInfo
from i2vpp.utils.writers import FrameAccess, OutputChoice, ResultWriter, remove_results


def track_camera(
    predictor: Any,
    camera: Camera,
    prompts: Sequence[ObjectPrompt],
    folder: Path,
    *,
    choice: OutputChoice,
    max_frames: int | None = None,
    quiet: bool = False,
    everything: Everything | None = None,
) -> Summary:
    """Track the frames of a camera until it ends, or Ctrl-C; earlier results in the folder are deleted.

    Args:
        predictor: the predictor.
        camera: gives the frames.
        prompts: what to track, on frames counted from the first one that the camera gives.
        folder: folder of the results.
        choice: choice of the files that are written.
        max_frames: most frames beyond the first one; None for no limit.
        quiet: whether to show no progress bar.
        everything: how objects are found without prompts; None where there are prompts.

    Returns:
        What was written, and why it ended early where it did.

    Raises:
        I2VPPError: the prompts are not right; nothing is deleted or written then.
    """
    prompts = fit_masks(prompts, camera.height, camera.width, resize=False)
    check_outputs(choice, prompts)
    discovery = None if everything is None else everything.discovery(predictor)
    with predictor.init_stream() as stream:
        bar = partial(tqdm, desc="camera", unit="frame", disable=quiet)
        frames = bar(range(max_frames + 1)) if max_frames is not None else bar(itertools.count())
        results = _live_results(predictor, stream, zip(frames, camera, strict=False), prompts, discovery)
        remove_results(folder)
        video = VideoInfo(height=camera.height, width=camera.width, fps=camera.fps)
        access = FrameAccess(read=stream.state.frame, time=lambda frame_idx: camera.time)
        writer = ResultWriter(folder, choice, video, access)
        return write_results(results, writer, {prompt.obj_id for prompt in prompts}, quiet=quiet)


def _live_results(
    predictor: Any, stream: Any, frames: Iterable[tuple[int, Any]], prompts: Sequence[ObjectPrompt], discovery: Any
) -> Iterator[FrameResult]:
    """Track frames one after the other, adding the prompts of each."""
    update: Callable[[Any, FrameResult], FrameResult] | None = None if discovery is None else discovery.update
    for _, frame in frames:
        result = stream.step(frame)
        given = [prompt for prompt in prompts if prompt.frame_idx == stream.frame_idx]
        if given:
            add_prompts(predictor, stream.state, given)
            result = predictor.track_frame(stream.state, stream.frame_idx)
        yield result if update is None else update(stream.state, result)
