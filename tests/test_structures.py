"""Values refuse tensors that do not fit together, and say what they got."""

import pytest
import torch

from i2vpp.structures import FrameFeatures, FrameResult, Prompt


def test_shapes_are_checked() -> None:
    with pytest.raises(
        ValueError, match=r"FrameFeatures: .* embedding \[B, D, h, w\] = \(1, 2, 3, 4\), position .* 5\)"
    ):
        FrameFeatures(embedding=torch.zeros(1, 2, 3, 4), position=torch.zeros(1, 2, 3, 5))
    with pytest.raises(ValueError, match=r"coords \[B, P, 2\] = \(1, 4, 3\)"):
        Prompt(coords=torch.zeros(1, 4, 3), labels=torch.zeros(1, 4))
    with pytest.raises(ValueError, match="coords and labels go together"):
        Prompt(coords=torch.zeros(1, 4, 2))


def test_a_result_unpacks_like_sam2s_tuple() -> None:
    result = FrameResult(3, [1, 2], torch.zeros(2, 1, 4, 4), torch.zeros(2), torch.zeros(2))
    frame_idx, obj_ids, masks = result
    assert (frame_idx, obj_ids) == (3, [1, 2]) == result[:2]
    assert masks is result.masks
