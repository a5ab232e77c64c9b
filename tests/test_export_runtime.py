"""The tracker of one file that an export holds: its parts, and its masks, with graphs run by PyTorch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from exported import SIDE, Step, assert_equal_masks, clip_frames, demo_predictor, session, torch_tracker
from i2vpp.export import i2vpp_onnx
from i2vpp.export.i2vpp_onnx import I2VPPOnnx, I2VPPOnnxError
from i2vpp.utils.masks import raise_small_parts

RUNTIME = Path(i2vpp_onnx.__file__)
RABBIT, BOULDER = (118, 127, 262, 280), (30, 186, 121, 268)
SHORT = ("model.selection.global_window=5", "model.selection.local_window=3", "model.selection.num_global=2")


def drawn_mask(shape: tuple[int, int], *, dot: bool = False) -> Any:
    mask = np.zeros(shape, bool)
    mask[(slice(100, 104), slice(60, 63)) if dot else (slice(186, 268), slice(30, 121))] = True
    return mask


@pytest.mark.parametrize("overrides", [(), SHORT], ids=["published-windows", "short-windows"])
def test_masks_equal_those_of_a_live_session(overrides: tuple[str, ...], tmp_path: Path) -> None:
    """Points, box, mask, several objects, one added late, a correction, a removal, masks too small for the grid."""
    predictor, frames = demo_predictor(*overrides), clip_frames(14)
    shape = frames[0].shape[:2]
    add, mask = "add_new_points_or_box", "add_new_mask"
    steps: list[Step] = [
        (0, add, (1,), {"box": RABBIT, "points": [[240, 165]], "labels": [0]}),
        (0, add, (1,), {"points": [[200, 200]], "labels": [1], "clear_old_points": False}),
        (0, mask, (2, drawn_mask(shape)), {}),
        (0, mask, (4, drawn_mask(shape, dot=True)), {}),
        (3, add, (3,), {"points": [[72, 228]], "labels": [1]}),
        (5, add, (1,), {"points": [[190, 210]], "labels": [1]}),
        (6, mask, (3, np.zeros(shape, bool)), {}),
        (8, "remove_object", (2,), {}),
        (9, add, (3,), {"box": BOULDER}),
    ]
    with predictor.init_stream() as stream:
        compared = 0
        for what, (live, exported) in session(frames, [stream, torch_tracker(tmp_path, predictor)], steps):
            assert_equal_masks(what, live, exported)
            compared += len(exported.obj_ids)
    assert compared > 40


def test_memory_stays_constant(tmp_path: Path) -> None:
    tracker, frames = torch_tracker(tmp_path, demo_predictor(*SHORT)), clip_frames(3)
    for i in range(14):
        tracker.step(frames[i % 3])
        if i == 0:
            tracker.add_points_or_box(1, box=RABBIT)
    (track,) = tracker._tracks.values()
    window = tracker.manifest["selection"]["window"]
    assert window == 8
    assert len(track.tracked) <= window + 1
    assert len(tracker._keys) <= window + 1
    assert len(tracker._frames) == 3
    assert list(track.prompted) == [0]


def test_frames_are_resized_as_pillow_does_with_and_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    for shape in ((137, 211, 3), (40, 300, 3), (64, 64, 3)):
        frame = generator.integers(0, 256, shape, np.uint8)
        expected = np.asarray(Image.fromarray(frame).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        assert np.array_equal(i2vpp_onnx.resize_frame(frame, SIDE), expected)
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "PIL", None)
            assert np.array_equal(i2vpp_onnx.resize_frame(frame, SIDE), expected)


def test_masks_are_resized_as_pytorch_does() -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(SIDE, SIDE)).astype(np.float32)
    for size in ((137, 211), (30, 40)):
        expected = F.interpolate(torch.from_numpy(logits)[None, None], size, mode="bilinear")[0, 0].numpy()
        np.testing.assert_allclose(i2vpp_onnx.resize_linear(logits, size), expected, atol=1e-5)
        drawn = generator.random(size) > 0.9
        mask = torch.from_numpy(drawn.astype(np.float32))[None, None]
        smaller = F.interpolate(mask, (SIDE, SIDE), mode="bilinear", align_corners=False, antialias=True)
        kept = (raise_small_parts(smaller) >= 0.5)[0, 0].numpy()
        assert np.array_equal(i2vpp_onnx.fit_mask(drawn, SIDE) > 0, kept)


def test_numbers_are_rounded_to_bfloat16_as_pytorch_does() -> None:
    values = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    values[:3] = 0, 1 + 2**-8, 1 + 3 * 2**-8  # the last two are halfway between neighbours
    expected = torch.from_numpy(values).bfloat16().float().numpy()
    assert np.array_equal(i2vpp_onnx.from_bfloat16(i2vpp_onnx.to_bfloat16(values)), expected)


def test_mistakes(tmp_path: Path) -> None:
    tracker, (frame,) = torch_tracker(tmp_path, demo_predictor()), clip_frames(1)
    with pytest.raises(I2VPPOnnxError, match="no frame to prompt yet: push one with step"):
        tracker.add_points_or_box(1, box=RABBIT)
    with pytest.raises(I2VPPOnnxError, match="must be uint8 RGB"):
        tracker.step(frame[..., 0])
    tracker.step(frame)
    with pytest.raises(I2VPPOnnxError, match="all frames must be of one size"):
        tracker.step(frame[:-1])
    with pytest.raises(I2VPPOnnxError, match="nothing to prompt with"):
        tracker.add_points_or_box(1)
    with pytest.raises(I2VPPOnnxError, match="one per point"):
        tracker.add_points_or_box(1, points=[[1, 1]], labels=[2])
    with pytest.raises(I2VPPOnnxError, match="must lie in the frame"):
        tracker.add_points_or_box(1, points=[[-9, 1]], labels=[1])
    with pytest.raises(I2VPPOnnxError, match="x0 < x1"):
        tracker.add_points_or_box(1, box=[5, 5, 5, 9])
    with pytest.raises(I2VPPOnnxError, match="mask must be of the video's size"):
        tracker.add_mask(1, np.zeros((3, 3), bool))
    with pytest.raises(I2VPPOnnxError, match="no object 1"):
        tracker.remove_object(1)
    assert tracker.step(frame).obj_ids == []


def test_a_folder_that_is_no_export_is_named(tmp_path: Path) -> None:
    with pytest.raises(I2VPPOnnxError, match=r"is no export: it holds no i2vpp\.json"):
        I2VPPOnnx(tmp_path)
    (tmp_path / "i2vpp.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(I2VPPOnnxError, match=r"an export of version 99, and this i2vpp_onnx\.py reads 1: use the"):
        I2VPPOnnx(tmp_path)


def test_the_runtime_is_one_file_that_needs_numpy_and_onnxruntime_only() -> None:
    """PyTorch and i2vpp are hidden; Pillow and PyAV are not imported before they are needed."""
    code = (
        "import sys; sys.modules.update(torch=None, i2vpp=None, PIL=None, av=None); "
        f"sys.path.insert(0, {str(RUNTIME.parent)!r}); import i2vpp_onnx; print(i2vpp_onnx.FORMAT)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.strip() == str(i2vpp_onnx.FORMAT), done.stderr
    assert len(RUNTIME.read_text().splitlines()) < 500


def test_the_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        i2vpp_onnx.main([str(tmp_path)])
    assert "nothing to track: give --box or --point" in capsys.readouterr().err
    assert i2vpp_onnx.main([str(tmp_path), "--point", "1,1"]) == 1  # no manifest lies beside the module
    assert "is no export" in capsys.readouterr().err
