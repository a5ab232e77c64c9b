"""An export at 256 pixels against the predictor, on 40 frames of the bundled clip and of two validation sequences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from exported import Step, assert_equal_masks, clip_frames, demo_predictor, export_demo, session
from i2vpp.export.i2vpp_onnx import I2VPPOnnx

pytest.importorskip("onnx", reason="the extra `export` is not installed")
pytest.importorskip("onnxscript", reason="the extra `export` is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

SIDE, FRAMES = 256, 40
SEQUENCES = ("blackswan", "dog")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export at 256 pixels."""
    return export_demo(tmp_path_factory, SIDE)


def compare(exported: Path, frames: list[Any], steps: list[Step]) -> None:
    with demo_predictor(side=SIDE).init_stream() as stream:
        for what, (live, found) in session(frames, [stream, I2VPPOnnx(exported, threads=1)], steps):
            assert_equal_masks(what, live, found)


def test_the_bundled_clip(exported: Path) -> None:
    frames = clip_frames(FRAMES)
    mask = np.zeros(frames[0].shape[:2], bool)
    mask[186:268, 30:121] = True
    steps: list[Step] = [
        (0, "add_new_points_or_box", (1,), {"box": (118, 127, 262, 280), "points": [[240, 165]], "labels": [0]}),
        (0, "add_new_mask", (2, mask), {}),
        (9, "add_new_points_or_box", (3,), {"points": [[72, 228]], "labels": [1]}),
        (15, "add_new_points_or_box", (1,), {"points": [[190, 210]], "labels": [1]}),
        (25, "remove_object", (2,), {}),
    ]
    compare(exported, frames, steps)


@pytest.mark.parametrize("name", SEQUENCES)
def test_a_validation_sequence(name: str, exported: Path, shared_data: Path) -> None:
    pictures = sorted((shared_data / "data" / "davis16" / "JPEGImages" / "480p" / name).glob("*.jpg"))[:FRAMES]
    frames = [np.asarray(Image.open(picture).convert("RGB")) for picture in pictures]
    assert len(frames) == FRAMES
    annotations = shared_data / "data" / "davis16" / "Annotations" / "480p" / name
    masks = [np.asarray(Image.open(annotations / f"{pictures[i].stem}.png").convert("L")) > 0 for i in (0, 10)]
    rows, columns = np.nonzero(masks[0])
    box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    inside = np.argwhere(masks[1])[len(np.argwhere(masks[1])) // 2][::-1]
    steps: list[Step] = [
        (0, "add_new_mask", (1, masks[0]), {}),
        (0, "add_new_points_or_box", (2,), {"box": [int(x) for x in box]}),
        (10, "add_new_points_or_box", (3,), {"points": [inside.tolist()], "labels": [1]}),
    ]
    compare(exported, frames, steps)
