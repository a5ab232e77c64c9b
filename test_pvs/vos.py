"""Tracks all objects of a video together, for benchmarks with one index mask per frame."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from i2vpp.commands.track import ModelChoice
from i2vpp.evaluation.protocol import PromptProtocol
from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
from i2vpp.utils.writers import MaskWriter, check_object_ids, index_map
from test_pvs.benchmarks import VosVideo, VosVideos
from test_pvs.options import build
from test_pvs.run_store import Job, JobRecord
from test_pvs.runner import Meter


@dataclass(frozen=True, kw_only=True, eq=False)
class VosWork:
    """Makes jobs that are videos: index PNGs with DAVIS's palette, named like the frames.

    A pixel belongs to the object with the highest logit, if that is positive. Frames before the first object are empty.

    Args:
        predictor: tracks.
        videos: to find them by the names of the jobs.
        protocol: what is told of an object.
    """

    predictor: I2VPPVideoPredictor
    videos: VosVideos
    protocol: PromptProtocol

    def __call__(self, job: Job, folder: Path, on_frame: Callable[[], None]) -> JobRecord:
        """Track a video; see `test_pvs.run_store.DoJob`.

        Raises:
            I2VPPError: its files are not right.
        """
        video = self.videos.open(job.name)
        given = [one for one in video.objects() if one.frame_idx < video.length]
        check_object_ids([one.obj_id for one in given])
        masks, meter = _NamedMasks(folder, video), Meter(self.predictor.device, on_frame)
        start = min((one.frame_idx for one in given), default=video.length)
        with self.predictor.init_state(list(video.frames.values())[: video.length]) as state:
            nothing = np.zeros((state.video_height, state.video_width), np.uint8)
            for frame_idx in range(start):
                masks.add(frame_idx, nothing)
                on_frame()
            for result in self.protocol.track(self.predictor, state, given):
                masks.add(result.frame_idx, index_map(result))
                meter.frame()
        return meter.record()


@dataclass(frozen=True, kw_only=True)
class MakeVosWork:
    """Builds `VosWork` in a process of a run.

    Args:
        model: the network.
        videos: to track.
        prompt: name of a protocol.
    """

    model: ModelChoice
    videos: VosVideos
    prompt: str

    def __call__(self, index: int) -> VosWork:
        """Build what works in process `index` of this machine."""
        return VosWork(predictor=build(self.model, index), videos=self.videos, protocol=PromptProtocol(self.prompt))


class _NamedMasks(MaskWriter):
    """Index masks named like the frames; frames that are not wanted are left out."""

    def __init__(self, folder: Path, video: VosVideo) -> None:
        super().__init__(folder, video.written.__getitem__)
        self._written = video.written

    def add(self, frame_idx: int, index: NDArray[np.uint8]) -> None:
        if frame_idx in self._written:
            super().add(frame_idx, index)
