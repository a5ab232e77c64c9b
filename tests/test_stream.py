"""Live sessions: the same masks as offline, in constant memory."""

import gc
from collections.abc import Iterator
from itertools import count

import numpy as np
import psutil
import pytest
import torch

from i2vpp.errors import PromptError, SessionError, VideoError
from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
from media import moving_disc
from models import make_predictor, make_shallow

FRAMES, MASKS = moving_disc(24, seed=5)
SHORT = ("model.selection.global_window=6", "model.selection.local_window=3")


@pytest.fixture(scope="module", params=[(), SHORT], ids=["published-windows", "short-windows"])
def predictor(request: pytest.FixtureRequest, device: torch.device) -> I2VPPVideoPredictor:
    return make_predictor(*request.param, device=device, dtype="float32")


def test_gives_exactly_the_masks_of_the_offline_pass(predictor: I2VPPVideoPredictor) -> None:
    """Prompts, a second object and a correction on the way."""
    with predictor.init_state(FRAMES) as state:
        predictor.add_new_points_or_box(state, 0, 1, points=[[12, 24]], labels=[1])
        offline = []
        for result in predictor.propagate_in_video(state, progress=False):
            offline.append(result.masks)
            if result.frame_idx == 5:
                predictor.add_new_mask(state, 5, 2, MASKS[5])
            if result.frame_idx == 9:
                predictor.add_new_points_or_box(state, 9, 1, points=[[40, 40]], labels=[0])
    with predictor.init_stream() as stream:
        live = []
        for frame in FRAMES:
            result = stream.step(frame)
            if stream.frame_idx == 0:
                assert result.obj_ids == []
                result = stream.add_new_points_or_box(1, points=[[12, 24]], labels=[1])
            live.append(result.masks)
            if stream.frame_idx == 5:
                stream.add_new_mask(2, MASKS[5])
            if stream.frame_idx == 9:
                stream.add_new_points_or_box(1, points=[[40, 40]], labels=[0])
    assert len(live) == len(offline)
    assert all(torch.equal(a, b) for a, b in zip(live, offline, strict=True))


def test_nothing_grows() -> None:
    predictor = make_predictor(*SHORT)
    with predictor.init_stream() as stream:
        for i in range(40):
            stream.step(FRAMES[i % len(FRAMES)])
            if i == 0:
                stream.add_new_mask(1, MASKS[0])
        state = stream.state
        track = state.tracks[1]
        window = predictor.selector.window
        assert len(track.bank) <= 1 + window + 1
        assert len(track.records) <= 1 + window + 1
        assert len(track.visited) <= 1 + window + 1
        assert len(state.similarity._known) <= window + 1
        assert not track.bank._evicted


def test_mistakes(predictor: I2VPPVideoPredictor) -> None:
    with predictor.init_stream() as stream:
        with pytest.raises(PromptError, match=r"no frame to prompt yet: push one with step"):
            stream.add_new_points_or_box(1, points=[[1, 1]], labels=[1])
        for frame in FRAMES[:8]:
            stream.step(frame)
        with pytest.raises(VideoError, match=r"frame 1 has left the live stream: it holds frames 5 to 7"):
            predictor.add_new_points_or_box(stream.state, 1, 1, points=[[1, 1]], labels=[1])
        with pytest.raises(VideoError, match="pixels"):
            stream.step(np.zeros((10, 10, 3), np.uint8))
        with pytest.raises(PromptError, match="no object 5"):
            stream.remove_object(5)
        assert stream.step(FRAMES[8]).frame_idx == 8
    with pytest.raises(SessionError, match="closed"):
        stream.step(FRAMES[9])


@pytest.mark.slow
def test_a_long_stream_grows_by_less_than_a_frame_per_frame() -> None:
    """From frame 50 on, when all windows are full: 250 kept frames would be 14 MB, their masks 19 MB.

    What the session itself keeps is counted exactly, with the published windows, in `test_efficiency.py`.
    """
    windows = ("model.selection.global_window=30", "model.selection.local_window=5")
    predictor = make_shallow(make_predictor(*windows))
    process = psutil.Process()

    def camera() -> Iterator[np.ndarray]:
        base, _ = moving_disc(1, 120, 160)
        for i in count():
            yield np.roll(base[0], i % 160, axis=1)

    with predictor.init_stream() as stream:
        for i, frame in zip(range(300), camera(), strict=False):
            stream.step(frame)
            if i == 0:
                stream.add_new_points_or_box(1, points=[[27, 60]], labels=[1])
            if i == 50:
                gc.collect()
                before = process.memory_info().rss
        grown = process.memory_info().rss - before
    assert grown < 12e6, f"grew by {grown / 1e6:.0f} MB"
