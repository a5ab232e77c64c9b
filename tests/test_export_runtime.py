"""The tracker of one file that an export holds: its parts, and its masks, with graphs run by PyTorch."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import ExifTags, Image

from exported import (
    CLIP,
    SIDE,
    Step,
    assert_equal_masks,
    clip_frames,
    demo_predictor,
    session,
    torch_tracker,
    write_manifest,
)
from i2vpp.export import i2vpp_onnx
from i2vpp.export.i2vpp_onnx import I2VPPOnnx, I2VPPOnnxError, Memory, Track
from i2vpp.memory.selection import FrameTime, build_selector
from i2vpp.session.video import open_source
from i2vpp.utils.masks import raise_small_parts
from media import turned, write_video

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


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ({}, "nothing to prompt with"),
        ({"points": [[1, 1]], "labels": [2]}, "have a label each, 1 .* or 0 .*; got points"),
        ({"points": [[1, 1]]}, "have a label each"),
        ({"points": [[1, 2, 3], [4, 5, 6]], "labels": [1, 1, 1]}, "points must be pairs x, y"),
        ({"points": [1, 2], "labels": [1]}, "points must be pairs x, y"),
        ({"points": [[1, 2], [3]], "labels": [1, 1]}, "must be numbers of these shapes"),
        ({"points": [["a", "b"]], "labels": [1]}, "must be numbers of these shapes; got points .*a"),
        (
            {"points": [[-9, 1]], "labels": [1]},
            "points and box must lie in the frame, 380 wide and 320 high; got points",
        ),
        ({"points": [[float("nan"), 1]], "labels": [1]}, "must lie in the frame.*nan"),
        (
            {"points": np.full((2, 2), -9), "labels": [1, 1]},
            r"must lie in the frame.*got points array\(\[\[-9, -9\], \[-9, -9",
        ),
        ({"box": [5, 5, 5, 9]}, "x0 < x1"),
        ({"box": [380, 5, 382, 9]}, "x0 < x1 and y0 < y1 in the frame"),
        ({"box": [1, 2, 3]}, "box .4. must be numbers of these shapes"),
    ],
)
def test_prompts_that_make_no_sense_are_refused(prompt: dict[str, Any], message: str, tmp_path: Path) -> None:
    tracker, (frame,) = torch_tracker(tmp_path, demo_predictor()), clip_frames(1)
    tracker.step(frame[:320, :380])
    with pytest.raises(I2VPPOnnxError, match=message) as refused:
        tracker.add_points_or_box(1, **prompt)
    assert "\n" not in str(refused.value)
    assert tracker.step(frame[:320, :380]).obj_ids == []


def test_mistakes(tmp_path: Path) -> None:
    tracker, (frame,) = torch_tracker(tmp_path, demo_predictor()), clip_frames(1)
    with pytest.raises(I2VPPOnnxError, match="no frame to prompt yet: push one with step"):
        tracker.add_points_or_box(1, box=RABBIT)
    for wrong in (frame[..., 0], frame[:0], frame / 255):
        with pytest.raises(I2VPPOnnxError, match="must be uint8 RGB"):
            tracker.step(wrong)
    tracker.step(frame)
    with pytest.raises(I2VPPOnnxError, match="all frames must be of one size"):
        tracker.step(frame[:-1])
    shape = frame.shape[:2]
    for mask in (np.zeros((3, 3), bool), np.full(shape, "1"), np.full(shape, None), np.full(shape, np.nan)):
        with pytest.raises(I2VPPOnnxError, match="a mask must be finite numbers of the video's size"):
            tracker.add_mask(1, mask)
    wrong_ids: list[Any] = ["cat", 1.5, None, True, [1], np.array([1])]
    for obj_id in wrong_ids:
        for method, prompt in ((tracker.add_points_or_box, {"box": RABBIT}), (tracker.remove_object, {})):
            with pytest.raises(I2VPPOnnxError, match="obj_id must be an integer; got"):
                method(obj_id, **prompt)
    with pytest.raises(I2VPPOnnxError, match=r"no object 1; known objects: \[\]"):
        tracker.remove_object(1)
    assert tracker.step(frame).obj_ids == []


def test_a_step_that_fails_can_be_repeated(tmp_path: Path) -> None:
    """Whatever graph fails, in the first batch of objects or in a later one."""
    frames, predictor = clip_frames(4), demo_predictor()
    expected, tracker = (torch_tracker(tmp_path, predictor) for _ in range(2))
    for each in (expected, tracker):
        each.step(frames[0])
        for obj_id, box in enumerate((RABBIT, BOULDER), start=1):
            each.add_points_or_box(obj_id, box=box)
    for frame in frames[1:]:
        for graph, calls in (("encoder", 0), ("track", 0), ("track", 1)):
            before = tracker._result()
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(i2vpp_onnx, "BATCH_CELLS", 1)  # an object at a time
                patch.setitem(tracker.sessions, graph, FailingSession(tracker.sessions[graph], calls))
                with pytest.raises(MemoryError):
                    tracker.step(frame)
            after = tracker._result()
            assert before.frame_idx == after.frame_idx == tracker.frame_idx
            assert np.array_equal(before.masks, after.masks)
        before = tracker._result()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(i2vpp_onnx, "resize_linear", fail)
            with pytest.raises(MemoryError):
                tracker.step(frame)
        assert np.array_equal(before.masks, tracker._result().masks), "also where the masks cannot be enlarged"
        wanted, found = expected.step(frame), tracker.step(frame)
        assert wanted.frame_idx == found.frame_idx
        assert np.array_equal(wanted.masks, found.masks)


def fail(*_: Any) -> None:
    raise MemoryError


class FailingSession:
    """A session that has no memory left after some calls."""

    def __init__(self, session: Any, calls: int) -> None:
        self.session, self.calls = session, calls

    def run(self, names: None, feeds: dict[str, Any]) -> list[Any]:
        if self.calls == 0:
            raise MemoryError
        self.calls -= 1
        return list(self.session.run(names, feeds))


def test_keys_are_forgotten_though_nothing_is_tracked(tmp_path: Path) -> None:
    tracker, (frame,) = torch_tracker(tmp_path, demo_predictor(*SHORT)), clip_frames(1)
    for _ in range(14):
        tracker.step(frame)
        tracker.add_points_or_box(1, box=RABBIT)
        tracker.remove_object(1)
    assert len(tracker._keys) <= tracker.manifest["selection"]["window"] + 1


@pytest.mark.parametrize("mode", ["sample", "top"])
@pytest.mark.parametrize("seed", [0, 7])
def test_memories_are_those_that_the_predictor_selects(mode: str, seed: int, tmp_path: Path) -> None:
    """On frames before, within and beyond the windows; similarities are made up, and computed once for all objects."""
    predictor = demo_predictor(f"model.selection.mode={mode}", f"model.selection.seed={seed}")
    tracker, generator, compared = torch_tracker(tmp_path, predictor), np.random.default_rng(seed), []
    selector = build_selector(predictor.model.config.selection)

    class Key(np.ndarray[Any, Any]):
        def __matmul__(self, other: Any) -> Any:
            compared.append(1)
            return np.asarray(self) @ np.asarray(other)

    for t in (1, 2, 6, 9, 40, 230, 1000):
        first = max(0, t - selector.window)
        keys = {f: generator.normal(size=16).astype(np.float32) for f in (0, 7, *range(first, t + 1))}
        tracker.frame_idx, tracker._keys = t, {f: key.view(Key) for f, key in keys.items()}
        compared.clear()
        for prompted in ((0,), (0, 7)):
            known = {f: Memory(0, 0, 0) for f in range(first, t)}
            others = {f: memory for f, memory in known.items() if f not in prompted}
            track = Track({f: Memory(0, 0, 0) for f in prompted if f < t}, others)
            similarity = partial(_look_up, {f: float(keys[f] @ keys[t] / np.float32(16)) for f in keys})
            chosen = selector.select(FrameTime(frame_idx=t), list(track.prompted), others, similarity)
            picks = tracker._select(track)
            pairs = zip(chosen.spatial, chosen.pointers, strict=True)
            assert picks == [(a.frame_idx, a.slot, b.offset, a.weight) for a, b in pairs]
            assert [pick[0] for pick in picks] == [pointer.frame_idx for pointer in chosen.pointers]
            assert [pick[3] for pick in picks] == [pointer.weight for pointer in chosen.pointers]
        assert len(compared) <= t - first


def _look_up(known: dict[int, float], frames: Sequence[int]) -> Any:
    return np.array([known[f] for f in frames])


def test_a_folder_that_is_no_export_is_named(tmp_path: Path) -> None:
    with pytest.raises(I2VPPOnnxError, match=r"is no export: it holds no i2vpp\.json"):
        I2VPPOnnx(tmp_path)
    write_manifest(tmp_path, demo_predictor())
    described = json.loads((tmp_path / "i2vpp.json").read_text())
    again = "export the checkpoint again"
    for content, message in (
        ("{", f"does not describe an export: {again}"),
        ("[]", f"does not describe an export: {again}"),
        ("{}", f"does not describe an export: {again}"),
        (json.dumps({"format": 99}), f"is of version 99, not 1: use its i2vpp_onnx.py, or {again}"),
        (json.dumps({"format": 1}), f"does not describe an export: {again}"),
        (json.dumps({**described, "graphs": None}), f"does not describe an export: {again}"),
        (json.dumps({**described, "graphs": []}), f"does not describe an export: {again}"),
        (json.dumps({**described, "graphs": {}}), f"does not describe an export: {again}"),
        (
            json.dumps({**described, "graphs": {name: {} for name in i2vpp_onnx.GRAPHS}}),
            f"does not describe an export: {again}",
        ),
        (
            json.dumps({key: described[key] for key in ("format", "graphs", "mean")}),
            f"lacks file_format, image_size, std, selection, constants: {again}",
        ),
        (json.dumps({**described, "file_format": "torch-export"}), f"holds torch-export, not ONNX: {again}"),
    ):
        (tmp_path / "i2vpp.json").write_text(content)
        with pytest.raises(I2VPPOnnxError, match=message):
            I2VPPOnnx(tmp_path)
    (tmp_path / "i2vpp.json").write_text(json.dumps(described))
    (tmp_path / "track.onnx").unlink()
    with pytest.raises(I2VPPOnnxError, match=rf"lacks track\.onnx: {again}"):
        I2VPPOnnx(tmp_path)


def test_a_graph_that_cannot_be_loaded_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_manifest(tmp_path, demo_predictor())
    tracker, (frame,) = I2VPPOnnx(tmp_path), clip_frames(1)
    tracker.step(frame)  # there is nothing to compute yet
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(
        I2VPPOnnxError, match=r"encoder\.onnx cannot be loaded: .*onnxruntime.*: pip install onnxruntime$"
    ):
        tracker.add_points_or_box(1, box=RABBIT)
    monkeypatch.undo()
    pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")
    with pytest.raises(
        I2VPPOnnxError, match=r"(?s)encoder\.onnx cannot be loaded: .*: pip install onnxruntime --upgrade, or export"
    ):
        tracker.add_points_or_box(1, box=RABBIT)


def test_the_runtime_is_one_file_that_needs_numpy_and_onnxruntime_only() -> None:
    """PyTorch and i2vpp are hidden; no other package is imported before it is needed."""
    code = (
        "import sys; sys.modules.update(torch=None, i2vpp=None, PIL=None, av=None, onnxruntime=None); "
        f"sys.path.insert(0, {str(RUNTIME.parent)!r}); import i2vpp_onnx; print(i2vpp_onnx.FORMAT)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.strip() == str(i2vpp_onnx.FORMAT), done.stderr
    assert len(RUNTIME.read_text().splitlines()) < 500


def test_images_of_a_folder_are_read_in_natural_order_and_upright(tmp_path: Path) -> None:
    for name, level in (("10.png", 10), ("2.png", 2), ("1.JPG", 1), ("02.png", 4), ("._1.png", 9), ("notes.txt", 0)):
        Image.new("RGB", (4, 6), (20 * level, 20 * level, 20 * level)).save(
            tmp_path / name, "JPEG" if name == "1.JPG" else "PNG", quality=95
        )
    turned_by_tag = Image.Exif()
    turned_by_tag[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (6, 4), (60, 60, 60)).save(tmp_path / "3.png", exif=turned_by_tag)
    frames = list(i2vpp_onnx.read_video(tmp_path))
    assert [frame.shape for frame in frames] == [(6, 4, 3)] * 5
    assert [round(frame.mean() / 20) for frame in frames] == [1, 4, 2, 3, 10]


@pytest.mark.parametrize(
    "matrix",
    [m for m in product((-1, 0, 1), repeat=4) if abs(m[0] * m[3] - m[1] * m[2]) == 1 and sum(map(abs, m)) == 2],
)
def test_videos_are_turned_as_in_the_predictor(matrix: tuple[int, int, int, int], tmp_path: Path) -> None:
    """By right angles, mirrored or not: all eight ways."""
    path = tmp_path / "a.mp4"
    write_video(path, [frame[100:140, 100:160] for frame in clip_frames(3)])
    path.write_bytes(turned(path.read_bytes(), matrix))
    with closing(open_source(path)) as source:
        for i, frame in enumerate(i2vpp_onnx.read_video(path)):
            assert np.array_equal(frame, source[i])
        assert i == 2


def test_the_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    for options, message in (
        ([], "give --box or --point, once for each of 1 to 255 objects; got 0"),
        (["--point", "1,1"] * 256, "once for each of 1 to 255 objects; got 256"),
        (["--point", "1,1", "--max-frames", "-1"], "--max-frames must be at least 1; got -1"),
    ):
        with pytest.raises(SystemExit):
            i2vpp_onnx.main([str(tmp_path), *options])
        assert message in capsys.readouterr().err
    assert i2vpp_onnx.main([str(tmp_path), "--point", "1,1"]) == 1  # no manifest lies beside the module
    assert "is no export" in capsys.readouterr().err

    write_manifest(tmp_path, demo_predictor())
    monkeypatch.setattr(i2vpp_onnx, "__file__", str(tmp_path / "i2vpp_onnx.py"))
    (tmp_path / "frames").mkdir()
    (tmp_path / "text.mp4").write_text("no video")
    for video, options, message in (
        ("nothing.mp4", ["--point", "1,1"], "No such file"),
        ("text.mp4", ["--point", "1,1"], "text.mp4 cannot be read as a video"),
        ("frames", ["--point", "1,1"], "frames holds no frames"),
        (
            str(CLIP),
            ["--point", "5"],
            "points must be pairs x, y, and have a label each, 1 (positive) or 0 (negative); got",
        ),
        (str(CLIP), ["--point", "5,5,5"], "got points [['5', '5', '5']], labels [1], box None"),
        (str(CLIP), ["--box", "a,b"], "must be numbers of these shapes; got points None, labels None, box ['a', 'b']"),
    ):
        assert i2vpp_onnx.main([str(tmp_path / video), *options, "-o", str(tmp_path / "out")]) == 1
        said = capsys.readouterr().err
        assert message in said
        assert said.count("\n") == 1
    monkeypatch.setitem(sys.modules, "av", None)
    assert i2vpp_onnx.main([str(CLIP), "--point", "1,1"]) == 1
    assert "pip install pillow av" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
