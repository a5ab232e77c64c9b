"""The checkpoint that comes with the repository: it loads by name, follows the demo's objects, in either precision."""

from __future__ import annotations

from functools import cache
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from i2vpp.build_i2vpp import build_i2vpp_video_predictor
from i2vpp.checkpoint import inspect_checkpoint
from i2vpp.commands.demo import CLIP, PROMPTS
from i2vpp.evaluation.metrics import jaccard
from i2vpp.utils.machine import cpu_computes_bfloat16
from training.config import ValidationConfig
from training.validation import open_validation, read_sequence, track_sequence

DEMO = "i2vpp-demo"
FRAMES = 40
# the first object on the last of these frames, drawn by hand; it has grown to 2.6 times its area on frame 0
OUTLINE = [
    (250, 31), (264, 80), (314, 62), (280, 90), (287, 111), (330, 111), (348, 148), (342, 161),
    (311, 148), (287, 154), (280, 216), (274, 272), (256, 303), (213, 290), (163, 259), (138, 204),
    (151, 154), (126, 148), (95, 167), (83, 142), (101, 124), (169, 99), (231, 99), (240, 86),
]  # fmt: skip


@cache
def track(dtype: str) -> dict[int, list[np.ndarray]]:
    """Masks of the demo's objects on the first frames of its clip."""
    predictor = build_i2vpp_video_predictor(ckpt_path=DEMO, device="cpu", dtype=dtype)
    with as_file(files("i2vpp") / "assets" / CLIP) as clip, predictor.init_state(str(clip)) as state:
        for prompt in PROMPTS:
            predictor.add_new_points_or_box(
                state, prompt.frame_idx, prompt.obj_id, points=prompt.points or None, labels=prompt.labels or None,
                box=prompt.box,
            )  # fmt: skip
        found: dict[int, list[np.ndarray]] = {prompt.obj_id: [] for prompt in PROMPTS}
        for _, ids, logits in predictor.propagate_in_video(state, max_frame_num_to_track=FRAMES - 1, progress=False):
            for obj_id, mask in zip(ids, (logits[:, 0] > 0).numpy(), strict=True):
                found[obj_id].append(mask)
    return found


def test_the_file_says_what_it_is() -> None:
    info = inspect_checkpoint(DEMO)
    assert info.fits
    assert info.size <= 40e6
    assert info.image_size == 512
    assert "not commercial" in info.card["licence"]
    assert info.card["model_card"] == "checkpoints/i2vpp-demo.md"


@pytest.mark.slow
def test_the_first_object_is_followed() -> None:
    masks = track("float32")[PROMPTS[0].obj_id]
    box = PROMPTS[0].box
    assert box is not None
    x0, y0, x1, y1 = map(int, box)
    inside = masks[0][y0:y1, x0:x1].sum()
    assert inside > 0.9 * masks[0].sum(), "the mask of the first frame lies in the box it was asked for"
    assert min(mask.sum() for mask in masks) > 0.3 * masks[0].sum()
    outlined = Image.new("1", masks[-1].shape[::-1])
    ImageDraw.Draw(outlined).polygon(OUTLINE, fill=1)
    assert jaccard(masks[-1], np.asarray(outlined)) > 0.7


needs_bfloat16 = pytest.mark.skipif(not cpu_computes_bfloat16(), reason="this CPU emulates bfloat16")


@pytest.mark.slow
@needs_bfloat16
@pytest.mark.timeout(900)
def test_bfloat16_gives_nearly_the_same_masks() -> None:
    exact, rough = track("float32"), track("bfloat16")
    for obj_id, masks in exact.items():
        assert np.mean([jaccard(a, b) for a, b in zip(masks, rough[obj_id], strict=True)]) > 0.98


@pytest.mark.slow
@needs_bfloat16
@pytest.mark.timeout(1800)
def test_bfloat16_gives_nearly_the_same_masks_of_the_validation_sequences(shared_data: Path) -> None:
    davis = shared_data / "data" / "davis16"
    sequences = open_validation(
        ValidationConfig(
            images=str(davis / "JPEGImages/480p"),
            annotations=str(davis / "Annotations/480p"),
            include=str(davis / "ImageSets/val.txt"),
        )
    )
    assert sequences is not None
    exact, rough = (build_i2vpp_video_predictor(ckpt_path=DEMO, device="cpu", dtype=d) for d in ("float32", "bfloat16"))
    ious = []
    for index in range(len(sequences)):
        video = read_sequence(sequences[index], max_frames=8)
        a, b = (track_sequence(p, video, prompt="gm").found for p in (exact, rough))
        ious += [jaccard(a[obj][t], b[obj][t]) for obj in a for t in range(1, 8)]
    assert np.mean(ious) >= 0.99
