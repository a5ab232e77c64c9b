"""Values refuse tensors that do not fit together, and say what they got."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from i2vpp.errors import I2VPPError
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


def two_objects() -> FrameResult:
    masks = torch.full((2, 1, 6, 8), -1.0)
    masks[0, 0, :3], masks[1, 0, 2:4, :4] = 2.0, 5.0
    return FrameResult(7, [4, 9], masks, torch.tensor([1.25, float("nan")]), torch.tensor([0.5, 0.75]), bad_frame=True)


def test_a_result_is_short_in_print() -> None:
    expected = "FrameResult(frame 7, bad frame; 4: area 24, score 1.2, IoU 0.50; 9: area 8, score nan, IoU 0.75)"
    assert repr(two_objects()) == expected
    empty = torch.zeros(0)
    assert repr(FrameResult(3, [], torch.zeros(0, 1, 4, 4), empty, empty)) == "FrameResult(frame 3; no objects)"


def test_a_result_as_an_array_is_its_masks() -> None:
    masks = np.asarray(two_objects())
    assert masks.dtype == bool and masks.shape == (2, 6, 8)
    assert masks.sum((1, 2)).tolist() == [24, 8]
    assert np.asarray(two_objects(), np.uint8).dtype == np.uint8


def test_a_result_is_saved_as_index_mask_or_picture(tmp_path: Path) -> None:
    result = two_objects()
    result.save(tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as image:
        ids = np.array(image)
        assert image.mode == "P"
    assert (ids[:2] == 4).all() and (ids[2:4, :4] == 9).all() and (ids[4:] == 0).all(), "the stronger object wins"
    frame = np.full((6, 8, 3), 40, np.uint8)
    result.save(tmp_path / "picture.png", frame)
    with Image.open(tmp_path / "picture.png") as image:
        assert np.array_equal(np.array(image), np.array(result.plot(frame)))
    unsuited = FrameResult(0, [300], result.masks[:1], torch.zeros(1), torch.zeros(1))
    with pytest.raises(I2VPPError, match="object ids must be 1 to 255"):
        unsuited.save(tmp_path / "other.png")
    assert not (tmp_path / "other.png").exists()
    with pytest.raises(ValueError, match="an index mask is a PNG: name it \\.png, or pass a frame"):
        result.save(tmp_path / "mask.jpg")
    assert not (tmp_path / "mask.jpg").exists()
