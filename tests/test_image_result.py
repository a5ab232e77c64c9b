"""Results of the image predictor: SAM 2's tuple that draws and saves itself; automatic masks as a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from i2vpp.image_result import ImageResult
from i2vpp.utils.visualize import cut_out, object_color, plot_records

HEIGHT, WIDTH = 12, 20
PHOTO = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)


def one_object() -> ImageResult:
    masks = np.zeros((3, HEIGHT, WIDTH), np.float32)
    masks[0, :2], masks[1, :, :5], masks[2, 6:] = 1, 1, 1
    return ImageResult(masks, np.array([0.2, 0.9, 0.5], np.float32), np.zeros((3, 4, 4), np.float32))


def test_it_is_sam2s_tuple() -> None:
    result = one_object()
    masks, scores, low_res = result
    assert isinstance(result, tuple) and len(result) == 3
    assert masks is result.masks and scores is result.scores and low_res is result[2]
    assert np.array_equal(np.asarray(result), masks)
    assert repr(result) == "ImageResult(20 x 12, areas [40, 60, 120], scores [0.2, 0.9, 0.5])"


def test_the_best_mask_of_each_object_is_drawn(tmp_path: Path) -> None:
    result = one_object()
    assert np.array_equal(result.best, result.masks[1:2] > 0)
    picture = np.asarray(result.plot(PHOTO))
    assert (picture[:, 8:] == 90).all() and not (picture[:, :4] == 90).all(axis=2).any()
    result.save(tmp_path / "a.png", Image.fromarray(PHOTO))
    with Image.open(tmp_path / "a.png") as image:
        assert np.array_equal(np.array(image), picture)
    two = ImageResult(
        np.stack([result.masks, result.masks]) - 0.5, np.stack([result.scores, -result.scores]), result.low_res
    )
    assert np.array_equal(two.best, result.masks[[1, 0]] > 0), "logits are cut at 0"
    assert two.plot().size == (WIDTH, HEIGHT)
    nothing = ImageResult(np.zeros((0, 1, HEIGHT, WIDTH), np.float32), np.zeros((0, 1), np.float32), result.low_res)
    assert np.array_equal(np.asarray(nothing.plot(PHOTO)), PHOTO)
    with pytest.raises(ValueError, match="masks must be"):
        result.plot(PHOTO[:5])


def test_records_are_drawn_smallest_on_top() -> None:
    large, small = np.ones((HEIGHT, WIDTH), bool), np.zeros((HEIGHT, WIDTH), bool)
    small[3:9, 3:9] = True
    records = [{"segmentation": mask, "area": int(mask.sum())} for mask in (small, large)]
    picture = np.asarray(plot_records(records, PHOTO, alpha=1.0))
    assert tuple(picture[6, 6]) == object_color(2) and tuple(picture[11, 15]) != object_color(2)
    assert plot_records([], PHOTO).size == plot_records(records).size == (WIDTH, HEIGHT)
    with pytest.raises(ValueError, match="nothing to draw"):
        plot_records([])
    with pytest.raises(ValueError, match="output_mode='binary_mask'"):
        plot_records([{"segmentation": {"size": [1, 1], "counts": [1]}, "area": 0}], PHOTO)


def test_a_cut_out_is_transparent_around_its_object() -> None:
    mask = one_object().masks[1] > 0
    pixels = np.asarray(cut_out(Image.fromarray(PHOTO), mask))
    assert (pixels[mask] == (90, 90, 90, 255)).all() and (pixels[~mask] == 0).all()
    with pytest.raises(ValueError, match="mask must be"):
        cut_out(PHOTO, mask[:3])
