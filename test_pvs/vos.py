"""Tracks all objects of a video together, for benchmarks with one index mask per frame."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from i2vpp.evaluation.protocol import PromptProtocol
from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
from i2vpp.model_choice import ModelChoice, build_for_process
from i2vpp.runs.runner import Meter
from i2vpp.runs.store import DoJob, Job, JobRecord
from i2vpp.utils.result_files import MaskWriter, check_object_ids, index_map
from test_pvs.benchmarks import VosVideo, VosVideos


@dataclass(frozen=True, kw_only=True)
class VosTracking:
    """Tracks videos, each of which is a job; calling it sets up a process (`i2vpp.runs.runner.SetUp`).

    Args:
        model: the network.
        videos: to be tracked; a job has the name of its video.
        prompt: name of the protocol by which objects are prompted.
    """

    model: ModelChoice
    videos: VosVideos
    prompt: str

    def __call__(self, index: int) -> DoJob:
        """Build the predictor of process `index` of this machine, and return what tracks videos with it."""
        return partial(self.track, build_for_process(self.model, index))

    def track(self, predictor: I2VPPVideoPredictor, job: Job, folder: Path, on_frame: Callable[[], None]) -> JobRecord:
        """Track a video and write index PNGs with DAVIS's palette, which have the names of the frames.

        A pixel belongs to the object with the highest logit, if that is positive. Frames before the first object are
        empty.

        Args:
            predictor: tracks.
            job: has the name of the video.
            folder: of the PNGs.
            on_frame: called after each frame.

        Returns:
            Frames, time and memory of the tracking.

        Raises:
            I2VPPError: files of the video are missing, damaged, or do not fit each other.
        """
        video = self.videos.open(job.name)
        given = [one for one in video.objects() if one.frame_idx < video.length]
        check_object_ids([one.obj_id for one in given])
        masks, meter = _NamedMasks(folder, video), Meter(predictor.device, on_frame)
        start = min((one.frame_idx for one in given), default=video.length)
        with predictor.init_state(list(video.frames.values())[: video.length]) as state:
            empty = np.zeros((state.video_height, state.video_width), np.uint8)
            for frame_idx in range(start):
                masks.add(frame_idx, empty)
                on_frame()
            for result in PromptProtocol(self.prompt).track(predictor, state, given):
                masks.add(result.frame_idx, index_map(result))
                meter.frame()
        return meter.record()


class _NamedMasks(MaskWriter):
    """Writes index masks that have the names of the frames; frames that the benchmark does not require are left out."""

    def __init__(self, folder: Path, video: VosVideo) -> None:
        super().__init__(folder, video.written.__getitem__)
        self._written = video.written

    def add(self, frame_idx: int, index: NDArray[np.uint8]) -> None:
        if frame_idx in self._written:
            super().add(frame_idx, index)
