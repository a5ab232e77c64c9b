"""A session under torch.set_default_dtype(torch.float64) computes in float32, and the same numbers, as any other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
from i2vpp.modeling.inference import attend_in_tiles
from media import moving_disc
from models import default_dtype, make_predictor

FRAMES, MASKS = moving_disc(7)


class NoFloat64(TorchDispatchMode):
    """Fails on the first operation that makes a float64 tensor."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            assert not (isinstance(tensor, torch.Tensor) and tensor.dtype == torch.float64), f"{func} makes float64"
        return out


def clicks_and_both_directions(predictor: I2VPPVideoPredictor) -> list[torch.Tensor]:
    with predictor.init_state(FRAMES) as state:
        found = [predictor.add_new_points_or_box(state, 3, 1, points=[[20, 15]], labels=[1])]
        found += predictor.propagate_in_video(state, both=True, progress=False)
        found.append(predictor.add_new_points_or_box(state, 5, 2, box=[10, 10, 30, 40]))
        found.append(
            predictor.add_new_points_or_box(state, 5, 1, points=[[30, 15]], labels=[0], clear_old_points=False)
        )
        found += predictor.propagate_in_video(state, start_frame_idx=6, reverse=True, progress=False)
        found.append(predictor.track_frame(state, 0))
    return [x for result in found for x in (result.masks, result.object_scores, result.predicted_ious)]


def masks_and_absence(predictor: I2VPPVideoPredictor) -> list[torch.Tensor]:
    with predictor.init_state(FRAMES, offload_state_to_cpu=True) as state:
        found = [predictor.add_new_mask(state, 0, 1, MASKS[0])]
        found.append(predictor.add_new_mask(state, 0, 2, np.zeros_like(MASKS[0])))
        found += predictor.propagate_in_video(state, progress=False)
    return [x for result in found for x in (result.masks, result.object_scores)]


def stream(predictor: I2VPPVideoPredictor) -> list[torch.Tensor]:
    found = []
    with predictor.init_stream() as session:
        for frame in FRAMES:
            found.append(session.step(torch.from_numpy(frame)))
            if len(found) == 1:
                found.append(session.add_new_points_or_box(obj_id=1, points=[[16, 24]], labels=[1]))
    return [result.masks for result in found]


@pytest.mark.parametrize(("session", "overrides", "dtype"), [
    (clicks_and_both_directions, ["model.memory_pooling=2"], None),
    (masks_and_absence, [], None),
    (stream, [], "bfloat16"),
])  # fmt: skip
def test_sessions(
    session: Callable[[I2VPPVideoPredictor], list[torch.Tensor]], overrides: list[str], dtype: str | None
) -> None:
    def predictor() -> I2VPPVideoPredictor:
        return make_predictor(*overrides, dtype=dtype)

    expected = session(predictor())
    with default_dtype(torch.float64):
        built = predictor()
        with NoFloat64():
            found = session(built)
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == torch.float32
        assert torch.equal(a.nan_to_num(), b.nan_to_num())


def test_attention_in_tiles() -> None:
    q, k, v = (torch.rand(n, 8, dtype=torch.float32, generator=torch.Generator().manual_seed(n)) for n in (9, 5, 5))
    expected = attend_in_tiles(q, k, v)
    with default_dtype(torch.float64):
        found = attend_in_tiles(q, k, v)
    assert expected is not None
    assert found is not None
    assert torch.equal(found, expected)
