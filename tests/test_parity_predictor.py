"""Whole runs of the published predictor, at full resolution in float32, replayed."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
from i2vpp.session.state import InferenceState
from i2vpp.structures import FrameResult
from models import encode_once, make_predictor

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def predictor() -> I2VPPVideoPredictor:
    return encode_once(make_predictor("model.selection.mode=top", image_size=1024, dtype="float32"))


@pytest.fixture
def state(predictor: I2VPPVideoPredictor, parity: Path) -> Iterator[InferenceState]:
    with predictor.init_state(parity / "clip") as state:
        yield state


@pytest.fixture(scope="module")
def recorded(parity: Path) -> dict[str, np.ndarray]:
    with np.load(parity / "predictor.npz") as arrays:
        return dict(arrays)


def sample(result: FrameResult) -> torch.Tensor:
    return result.masks[:, 0, ::2, ::2]


def check(got: torch.Tensor, expected: np.ndarray, tolerance: float) -> None:
    """Float noise decides whether a hole is separate and gets filled: 0.1 % of the pixels may differ by more."""
    want = torch.from_numpy(expected)
    assert got.shape == want.shape
    assert float(((got - want).abs() <= tolerance).float().mean()) >= 0.999
    both, either = (got > 0) & (want > 0), (got > 0) | (want > 0)
    assert float(both.sum() / either.sum()) > 0.998


def run(
    predictor: I2VPPVideoPredictor,
    state: InferenceState,
    recorded: dict[str, np.ndarray],
    case: str,
    prompted: list[FrameResult],
    tolerances: tuple[float, ...],
) -> None:
    """Compare the prompts' results, then track and compare every object."""
    for k, result in enumerate(prompted):
        check(sample(result), recorded[f"{case}.prompt{k}"], min(tolerances))
    frames = recorded[f"{case}.frames"].tolist()
    results = list(predictor.propagate_in_video(state, max_frame_num_to_track=frames[-1], progress=False))
    assert [result.frame_idx for result in results] == frames
    assert results[-1].obj_ids == recorded[f"{case}.obj_ids"].tolist()
    logits = torch.stack([sample(result) for result in results])
    for index, tolerance in enumerate(tolerances):
        check(logits[:, index], recorded[f"{case}.logits"][:, index], tolerance)
    pointers = torch.cat([track.records[frames[-1]].pointer for track in state.tracks.values()])
    torch.testing.assert_close(pointers, torch.from_numpy(recorded[f"{case}.last_obj_ptr"]), rtol=0, atol=1e-3)
    best = torch.from_numpy(recorded[f"{case}.last_ious"]).amax(dim=1)
    torch.testing.assert_close(results[-1].predicted_ious, best, rtol=0, atol=1e-4)


def test_one_click(predictor: I2VPPVideoPredictor, state: InferenceState, recorded: dict[str, np.ndarray]) -> None:
    first = predictor.add_new_points_or_box(state, frame_idx=0, obj_id=1, points=[[78, 105]], labels=[1])
    run(predictor, state, recorded, "one_click", [first], (1e-3,))


def test_box_and_mask(
    predictor: I2VPPVideoPredictor, state: InferenceState, recorded: dict[str, np.ndarray], parity: Path
) -> None:
    with np.load(parity / "clip_masks_frame0.npz") as masks:
        square = masks["square"]
    results = [
        predictor.add_new_points_or_box(state, frame_idx=0, obj_id=1, box=[36, 58, 120, 142]),
        predictor.add_new_mask(state, frame_idx=0, obj_id=5, mask=square),
    ]
    run(predictor, state, recorded, "box_and_mask", results, (1e-3, 2e-4))


def test_corrected(predictor: I2VPPVideoPredictor, state: InferenceState, recorded: dict[str, np.ndarray]) -> None:
    def click(frame_idx: int, points: list[list[int]], labels: list[int]) -> FrameResult:
        return predictor.add_new_points_or_box(state, frame_idx, 3, points, labels, clear_old_points=False)

    results = [click(0, [[78, 105]], [1]), click(0, [[200, 40]], [0]), click(4, [[95, 118], [60, 90]], [1, 0])]
    run(predictor, state, recorded, "corrected", results, (2e-4,))
