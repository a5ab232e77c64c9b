"""The clicks of the evaluation protocols."""

from __future__ import annotations

import numpy as np
import pytest

from i2vpp.evaluation.clicks import Click, central_click, correcting_click


def box(top: int, left: int, bottom: int, right: int) -> np.ndarray:
    mask = np.zeros((20, 30), np.bool_)
    mask[top:bottom, left:right] = True
    return mask


def test_the_first_click_is_the_pixel_of_the_mask_nearest_to_its_centroid() -> None:
    assert central_click(box(4, 10, 9, 17)) == Click(x=13, y=6, positive=True)
    ring = box(0, 0, 11, 11) & ~box(2, 2, 9, 9)  # its centroid (5, 5) is not part of it
    click = central_click(ring)
    assert ring[click.y, click.x]
    assert abs(click.x - 5) + abs(click.y - 5) == 4
    with pytest.raises(ValueError, match="nothing to click on"):
        central_click(box(0, 0, 0, 0))


def test_a_correction_goes_to_the_deepest_pixel_of_the_deeper_mistake() -> None:
    truth = box(5, 5, 12, 12)
    false_negative = correcting_click(truth, box(5, 5, 6, 12))  # 6 rows of 7: depth 3, the first such pixel
    assert false_negative == Click(x=7, y=8, positive=True)
    false_positive = correcting_click(truth, truth | box(5, 14, 16, 25))
    assert false_positive == Click(x=19, y=10, positive=False)
    both = correcting_click(truth, box(5, 8, 12, 12) | box(13, 14, 20, 25))  # 3 columns too few, 7 rows too many
    assert not both.positive


def test_of_equally_deep_mistakes_the_false_one_is_clicked_and_of_equally_deep_pixels_the_first() -> None:
    truth, found = box(3, 3, 8, 8), box(3, 15, 8, 20)
    assert correcting_click(truth, found) == Click(x=17, y=5, positive=False)
    even = box(3, 3, 7, 7)  # four pixels are equally deep
    assert correcting_click(even, box(0, 0, 0, 0)) == Click(x=4, y=4, positive=True)
    pair = np.zeros((4, 6), np.bool_)
    pair[1, 2:4] = True  # the centroid lies between its two pixels
    assert central_click(pair) == Click(x=2, y=1, positive=True)


def test_of_several_components_the_deepest_is_clicked_not_the_largest() -> None:
    truth = box(1, 1, 3, 28) | box(8, 5, 13, 10)  # 2 x 27 pixels, and 5 x 5
    assert correcting_click(truth, box(0, 0, 0, 0)) == Click(x=7, y=10, positive=True)
    first = central_click(box(1, 1, 4, 4) | box(1, 21, 4, 24))  # the centroid lies between two equal components
    assert first == Click(x=3, y=2, positive=True)


def test_the_frames_border_counts_as_the_end_of_a_region() -> None:
    click = correcting_click(box(0, 0, 9, 9), box(0, 0, 0, 0))
    assert (click.x, click.y) == (4, 4)


def test_a_faultless_mask_is_clicked_in_its_middle() -> None:
    assert correcting_click(box(2, 2, 7, 7), box(2, 2, 7, 7)) == Click(x=4, y=4, positive=True)


def test_masks_that_cannot_be_corrected() -> None:
    with pytest.raises(ValueError, match="both masks are empty"):
        correcting_click(box(0, 0, 0, 0), box(0, 0, 0, 0))
    with pytest.raises(ValueError, match=r"sizes \(20, 30\) and \(2, 2\)"):
        correcting_click(box(1, 1, 2, 2), np.ones((2, 2), np.bool_))
