"""Overlays, prompt markers and contact sheets."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from i2vpp.structures import FrameResult
from i2vpp.utils.visualize import (
    NEGATIVE,
    POSITIVE,
    contact_sheet,
    davis_palette,
    draw_prompt,
    object_color,
    overlay,
)


def square(height: int = 60, width: int = 80) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    mask[20:40, 30:60] = True
    return mask


def grey(value: int, height: int = 60, width: int = 80) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def test_the_palette_is_that_of_davis_and_voc() -> None:
    palette = np.frombuffer(davis_palette(), np.uint8).reshape(256, 3)
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 3: (128, 128, 0), 8: (64, 0, 0), 15: (192, 128, 128)}
    for index, color in {**known, 20: (0, 64, 128), 255: (224, 224, 192)}.items():
        assert tuple(palette[index]) == color


def test_object_colors_are_bright_and_differ() -> None:
    colors = {obj_id: np.array(object_color(obj_id), float) for obj_id in range(1, 13)}
    assert all(color.max() > 120 for color in colors.values())
    for first, second in itertools.combinations(colors, 2):
        assert np.abs(colors[first] - colors[second]).sum() > 25, (first, second)
    assert object_color(3) == object_color(3)


@pytest.mark.parametrize("value", [0, 128, 255])
def test_overlay_tints_the_object_and_spares_the_rest(value: int) -> None:
    frame, mask = grey(value), square()
    image = overlay(frame, mask[None], [1])
    assert (frame == value).all()
    assert np.abs(image[30, 45].astype(float) - (value + np.array(object_color(1))) / 2).max() <= 1
    assert (image[:15] == value).all()
    assert (image[:, :25] == value).all()


@pytest.mark.parametrize("value", [0, 255])
def test_the_contour_shows_on_dark_and_bright_frames(value: int) -> None:
    frame, mask = grey(value), square()
    plain, outlined = overlay(frame, mask[None], [1], contour=False), overlay(frame, mask[None], [1])
    inside, outside = outlined[20, 45].astype(int), outlined[19, 45].astype(int)
    assert np.abs(inside - outside).sum() > 150
    assert np.abs(inside - plain[30, 45]).sum() > 60
    assert (plain[~mask] == value).all()


def test_an_index_map_gives_the_same_picture_as_masks() -> None:
    index = np.zeros((60, 80), np.uint8)
    index[5:20, 5:30], index[30:50, 40:80] = 7, 2
    masks = np.stack([index == 2, index == 7])
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)
    assert (overlay(frame, index, [2, 7]) == overlay(frame, masks, [2, 7])).all()
    assert (overlay(frame, index, [7])[30:50, 40:80] == frame[30:50, 40:80]).all()


def test_no_objects_and_empty_masks_leave_the_frame_as_it_is() -> None:
    frame = grey(90)
    assert (overlay(frame, np.zeros((0, 60, 80), bool), []) == frame).all()
    assert (overlay(frame, np.zeros((60, 80), np.uint8), [1, 2], labels=True) == frame).all()


def test_an_object_at_the_border_has_no_contour_along_it() -> None:
    mask = np.ones((60, 80), bool)
    assert (overlay(grey(90), mask[None], [1]) == overlay(grey(90), mask[None], [1], contour=False)).all()


def test_labels_are_written_into_the_object() -> None:
    frame, mask = grey(90, 120, 160), square(120, 160)
    changed = (overlay(frame, mask[None], [12], labels=True) != overlay(frame, mask[None], [12])).any(2)
    assert changed[20:40, 30:60].sum() > 50
    assert not changed[60:].any()


@pytest.mark.parametrize(
    ("frame", "masks", "ids", "message"),
    [
        (grey(0)[..., 0], square()[None], [1], r"image must be uint8 \[H, W, 3\]"),
        (grey(0).astype(float), square()[None], [1], "float64"),
        (grey(0), square(50)[None], [1], r"\(60, 80\), got \(1, 50, 80\)"),
        (grey(0), square()[None], [1, 2], "1 masks but 2 obj_ids"),
    ],
)
def test_overlay_names_what_does_not_fit(frame: np.ndarray, masks: np.ndarray, ids: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        overlay(frame, masks, ids)


def test_prompts_are_drawn_where_they_are() -> None:
    frame = grey(90, 600, 800)
    image = draw_prompt(frame, [[60, 50], [400.4, 320]], [1, 0], [20, 20, 780, 580], color=(255, 208, 48))
    assert (frame == 90).all()
    assert np.abs(image[50, 60].astype(int) - POSITIVE).max() < 10
    assert np.abs(image[325, 400].astype(int) - NEGATIVE).max() < 10
    assert tuple(image[20, 150]) == tuple(image[100, 780]) == (255, 208, 48)
    assert (image[150, 100] == 90).all()
    with pytest.raises(ValueError, match="1 points but 2 labels"):
        draw_prompt(frame, [[1, 1]], [1, 0])


def test_prompts_at_the_border_are_cut_off() -> None:
    assert draw_prompt(grey(90), [[0, 0], [79, 59]], [1, 0]).shape == (60, 80, 3)


def test_contact_sheet_lays_images_out_row_by_row() -> None:
    images = [grey(10 * i, 30, 40) for i in range(5)]
    sheet = contact_sheet([*images[:4], Image.fromarray(images[4])], 2, cell_width=40, gap=4)
    assert sheet.size == (2 * 44 + 4, 3 * 34 + 4)
    pixels = np.array(sheet)
    for i in range(5):
        row, column = divmod(i, 2)
        assert (pixels[4 + 34 * row + 15, 4 + 44 * column + 20] == 10 * i).all()


def test_contact_sheet_scales_and_captions() -> None:
    sheet = contact_sheet([grey(200), grey(200, 80, 60)], 5, captions=["a", "b"], cell_width=120)
    assert sheet.size == (2 * 130 + 10, 160 + 20)
    assert (np.array(sheet)[10:26] == 255).all(2).any()  # letters
    with pytest.raises(ValueError, match="needs images"):
        contact_sheet([], 3)
    with pytest.raises(ValueError, match="1 images but 2 captions"):
        contact_sheet([grey(0)], 1, captions=["a", "b"])


def test_a_result_is_plotted_on_its_frame() -> None:
    masks = torch.full((2, 1, 40, 60), -1.0)
    masks[0, :, 10:30, 10:25] = 1
    result = FrameResult(3, [1, 7], masks, torch.zeros(2), torch.zeros(2))
    frame = np.full((40, 60, 3), 90, np.uint8)
    picture = result.plot(frame, alpha=0.5, labels=False)
    assert isinstance(picture, Image.Image)
    assert np.array_equal(picture, overlay(frame, masks[:, 0].numpy() > 0, [1, 7]))
    assert (frame == 90).all(), "the frame is left as it is"
    assert np.array_equal(result.plot(Image.fromarray(frame[..., 0]), labels=False), picture), "grey pictures are taken"
    alone = np.asarray(result.plot())
    assert alone.shape == (40, 60, 3)
    assert alone[20, 17].max() > 80 > alone[0, 0].max()
    with pytest.raises(ValueError, match=r"masks must be \[O, H, W\] or \[H, W\] with H, W = \(20, 60\)"):
        result.plot(frame[:20])
