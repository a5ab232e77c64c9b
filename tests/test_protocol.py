"""What an evaluation prompts: names of protocols, boxes, and which of several clicks are kept."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

from i2vpp.errors import PromptError
from i2vpp.evaluation.protocol import PromptProtocol, bounding_box

SIZE = (12, 16)
TRUTH = np.zeros(SIZE, np.bool_)
TRUTH[2:8, 3:13] = True  # 60 pixels


class Scripted:
    """A predictor that answers clicks with masks of which a given share of the truth is set."""

    def __init__(self, *shares: float) -> None:
        self._shares = shares
        self.clicks: list[tuple[int, int, int]] = []  # that the object has
        self.most = 0

    def add_new_points_or_box(
        self, state: Any, frame_idx: int, obj_id: int, *, points: Any, labels: Any, clear_old_points: bool
    ) -> tuple[int, list[int], torch.Tensor]:
        assert (frame_idx, obj_id, clear_old_points, len(points)) == (4, 7, False, 1)
        self.clicks.append((*points[0], labels[0]))
        self.most = max(self.most, len(self.clicks))
        mask = np.zeros(SIZE, np.bool_)
        mask[2:8, 3 : 3 + round(10 * self._shares[len(self.clicks) - 1])] = True
        return frame_idx, [obj_id], torch.from_numpy(np.where(mask, 1.0, -1.0))[None, None]

    def remove_object(self, state: Any, obj_id: int, *, need_output: bool) -> None:
        assert (obj_id, need_output) == (7, False)
        self.clicks.clear()


@pytest.mark.parametrize(
    ("shares", "kept"),
    [((0.5, 0.9, 0.7), 2), ((0.9, 0.5, 0.7), 1), ((0.5, 0.7, 0.9), 3), ((0.8, 0.8, 0.8), 1), ((0.0, 0.0, 0.1), 3)],
)
def test_clicks_up_to_the_best_mask_are_kept(shares: tuple[float, ...], kept: int) -> None:
    predictor = Scripted(*shares)
    PromptProtocol("3c").prompt(predictor, None, 4, 7, TRUTH)  # type: ignore[arg-type]
    assert predictor.most == 3
    assert len(predictor.clicks) == kept
    assert predictor.clicks[0] == (7, 4, 1), "the first click is the pixel nearest to the centroid"
    for (x, y, label), share in zip(predictor.clicks[1:], shares, strict=False):
        assert label == 1
        assert x >= 3 + round(10 * share), "the next one lies on a false negative"
        assert TRUTH[y, x]


def test_a_box_reaches_to_the_far_edge_of_the_last_pixel() -> None:
    assert bounding_box(TRUTH) == (3, 2, 13, 8)


@pytest.mark.parametrize("name", ["mask", "0c", "c", "-1c", "3", "GM", ""])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"allowed: gm \(true mask\), bb \(bounding box\), <n>c"):
        PromptProtocol(name)


@pytest.mark.parametrize(("name", "hint"), [
    ("mask", "; did you mean 'gm'? allowed: gm"), ("Box", "; did you mean 'bb'?"), (3, "; did you mean '3c'?"),
    ("zz", "; allowed: gm"), (None, "; allowed: gm"),
])  # fmt: skip
def test_unknown_protocols(name: Any, hint: str) -> None:
    with pytest.raises(PromptError, match=f"^unknown prompt protocol {name!r}{re.escape(hint)}"):
        PromptProtocol(name)


@pytest.mark.parametrize("name", ["gm", "bb", "1c"])
def test_an_object_that_does_not_show_cannot_be_prompted(name: str) -> None:
    with pytest.raises(ValueError, match="object 7 has no pixel on frame 4; prompt it where it exists"):
        PromptProtocol(name).prompt(Scripted(), None, 4, 7, np.zeros(SIZE, np.bool_))  # type: ignore[arg-type]
