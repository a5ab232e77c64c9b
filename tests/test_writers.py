"""The files of a tracking run, read back."""

from __future__ import annotations

import csv
import json
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

from i2vpp.errors import I2VPPError
from i2vpp.structures import FrameResult
from i2vpp.utils.overlay_video import OverlayWriter
from i2vpp.utils.result_files import MaskWriter, RleWriter, ScoreWriter, VideoInfo, check_object_ids, index_map
from i2vpp.utils.signals import uninterrupted
from i2vpp.utils.visualize import davis_palette
from i2vpp.utils.writers import FrameAccess, OutputChoice, ResultWriter, remove_results
from media import number_of, numbered_frame

HEIGHT, WIDTH = 32, 64
VIDEO = VideoInfo(height=HEIGHT, width=WIDTH, fps=25.0, num_frames=8)


def result(frame_idx: int, *logits: np.ndarray, ids: list[int] | None = None, score: float = 2.0) -> FrameResult:
    masks = torch.tensor(np.stack(logits), dtype=torch.float32)[:, None]
    known = torch.full((len(logits),), score)
    ids = ids or list(range(1, len(logits) + 1))
    return FrameResult(frame_idx, ids, masks, known, torch.sigmoid(known))


def patch(row: int, column: int, value: float = 4.0) -> np.ndarray:
    logits = np.full((HEIGHT, WIDTH), -3.0, np.float32)
    logits[row : row + 4, column : column + 4] = value
    return logits


def decode(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def read_frame(frame_idx: int) -> np.ndarray:
    return numbered_frame(frame_idx, HEIGHT, WIDTH)


FRAMES = FrameAccess(read=read_frame)


def test_the_strongest_object_wins_and_nothing_positive_is_background() -> None:
    index = index_map(result(0, patch(0, 0, 2.0), patch(2, 2, 5.0), patch(20, 20, 0.0), ids=[9, 4, 7]))
    assert index.dtype == np.uint8
    assert (index[:2, :4] == 9).all()
    assert (index[2:6, 2:6] == 4).all()
    assert set(np.unique(index)) == {0, 4, 9}
    assert index_map(FrameResult(0, [], torch.zeros(0, 1, 4, 6), torch.zeros(0), torch.zeros(0))).shape == (4, 6)


def test_masks_are_indexed_pngs_with_the_palette_of_davis(tmp_path: Path) -> None:
    writer = MaskWriter(tmp_path / "masks")
    index = np.zeros((HEIGHT, WIDTH), np.uint8)
    index[3, 4], index[5, 6] = 1, 255
    writer.add(12, index)
    assert [path.name for path in (tmp_path / "masks").iterdir()] == ["00012.png"]
    with Image.open(tmp_path / "masks" / "00012.png") as image:
        assert image.mode == "P"
        assert bytes(image.getpalette() or []) == davis_palette()
        assert (np.array(image) == index).all()
    assert (writer.read(12) == index).all()


@pytest.mark.parametrize("ids", [[256], [1, 300, 1000], [0], [-2]])
def test_ids_that_a_png_cannot_hold_are_named(ids: list[int]) -> None:
    outside = ", ".join(str(i) for i in sorted(ids) if not 1 <= i <= 255)
    with pytest.raises(I2VPPError, match=f"1 to 255 .* got {outside};"):
        check_object_ids(ids)
    check_object_ids([1, 255])


@pytest.mark.parametrize(("height", "width"), [(32, 64), (33, 64), (32, 65), (33, 65)])
def test_overlay_video_keeps_all_frames_and_pads_odd_sizes(tmp_path: Path, height: int, width: int) -> None:
    writer = OverlayWriter(tmp_path / "o.mp4", 25.0)
    for i in range(7):
        writer.add(numbered_frame(i, height, width))
    writer.close()
    writer.close()
    frames = decode(tmp_path / "o.mp4")
    assert [number_of(frame[:height, :width]) for frame in frames] == list(range(7))
    assert frames[0].shape == (height + height % 2, width + width % 2, 3)


@pytest.mark.parametrize(
    ("fps", "rate"), [(25.0, 25), (30000 / 1001, Fraction(30000, 1001)), (None, 24), (float("nan"), 24), (0.0, 24)]
)
def test_overlay_video_has_the_rate_of_the_source(tmp_path: Path, fps: float | None, rate: Fraction) -> None:
    writer = OverlayWriter(tmp_path / "o.mp4", fps)
    for i in range(5):
        writer.add(read_frame(i))
    writer.close()
    with av.open(str(tmp_path / "o.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert stream.average_rate == rate


def test_no_frames_no_video(tmp_path: Path) -> None:
    OverlayWriter(tmp_path / "o.mp4", 25.0).close()
    assert not any(tmp_path.iterdir())


def test_rle_is_coco_and_sorted_by_object_and_frame(tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.mask")
    writer = RleWriter(tmp_path / "masks.json", VIDEO)
    logits = {frame: (patch(frame, 8), patch(frame, 20)) for frame in (2, 1, 0)}
    for frame, both in logits.items():
        writer.add(result(frame, *both, ids=[10, 2]))
    assert len((tmp_path / "masks.json.partial").read_text().splitlines()) == 6  # what a crash leaves
    writer.close()
    writer.close()
    content = json.loads((tmp_path / "masks.json").read_text())
    assert [path.name for path in tmp_path.iterdir()] == ["masks.json"]
    assert content["video"] == {"height": HEIGHT, "width": WIDTH, "fps": 25.0, "num_frames": 8}
    assert list(content["objects"]) == ["2", "10"]
    assert list(content["objects"]["10"]) == ["0", "1", "2"]
    for frame, (ten, two) in logits.items():
        for obj_id, expected in (("10", ten), ("2", two)):
            record = content["objects"][obj_id][str(frame)]
            assert record["size"] == [HEIGHT, WIDTH]
            assert (coco.decode(record).astype(bool) == (expected > 0)).all()


def test_rle_leaves_out_what_is_not_known_yet_but_keeps_absence(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools.mask")
    nothing = np.full((HEIGHT, WIDTH), -3.0)
    writer = RleWriter(tmp_path / "masks.json", VIDEO)
    writer.add(result(0, nothing, score=float("nan")))
    writer.add(result(1, nothing, score=-4.0))
    writer.close()
    assert list(json.loads((tmp_path / "masks.json").read_text())["objects"]["1"]) == ["1"]


def test_rle_without_pycocotools_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools.mask", None)
    with pytest.raises(I2VPPError, match=r'pip install "\.\[coco\]" in a clone'):
        RleWriter(tmp_path / "masks.json", VIDEO)


def test_scores_are_a_table_that_is_complete_after_every_frame(tmp_path: Path) -> None:
    writer = ScoreWriter(tmp_path / "scores.csv")
    writer.add(result(5, patch(0, 0), patch(1, 1, -1.0)))
    rows = list(csv.DictReader((tmp_path / "scores.csv").open()))
    known = {"object_score": "2", "predicted_iou": "0.880797", "area": "16", "bad_frame": "0"}
    assert rows[0] == {"frame": "5", "time": "", "object": "1", **known}
    assert rows[1]["area"] == "0"
    writer.add(replace(result(6, patch(0, 0), score=float("nan")), bad_frame=True))
    writer.close()
    last = list(csv.DictReader((tmp_path / "scores.csv").open()))[-1]
    assert (last["object_score"], last["predicted_iou"], last["area"]) == ("", "", "16")
    assert last["bad_frame"] == "1"


ORDERS = {"forward": [2, 3, 4], "reverse": [4, 3, 2], "both": [3, 4, 3, 2]}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("masks", [True, False])
def test_overlays_are_in_the_order_of_the_video(tmp_path: Path, order: str, masks: bool) -> None:
    choice = OutputChoice(masks=masks, scores=False)
    writer = ResultWriter(tmp_path, choice, VIDEO, FRAMES, in_order=order == "forward")
    seen: list[int] = []

    def progress(frames: list[int]) -> Iterator[int]:
        seen.extend(frames)
        return iter(frames)

    for frame_idx in ORDERS[order]:
        writer.add(result(frame_idx, patch(0, 0)))
    writer.close(progress)
    assert writer.frames == [2, 3, 4]
    assert [number_of(frame) for frame in decode(tmp_path / "overlay.mp4")] == [2, 3, 4]
    assert seen == ([] if order == "forward" else [2, 3, 4])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["masks", "overlay.mp4"][not masks :]
    assert writer.paths() == [tmp_path / name for name in ["masks", "overlay.mp4"][not masks :]]


def test_forward_and_reverse_give_the_same_overlay(tmp_path: Path) -> None:
    for name, order in (("forward", [0, 1, 2]), ("reverse", [2, 1, 0])):
        choice = OutputChoice(masks=False, scores=False)
        writer = ResultWriter(tmp_path / name, choice, VIDEO, FRAMES, in_order=name == "forward")
        for frame_idx in order:
            writer.add(result(frame_idx, patch(4 * frame_idx, 8), patch(20, 40)))
        writer.close()
    first, second = (decode(tmp_path / name / "overlay.mp4") for name in ("forward", "reverse"))
    assert all((a == b).all() for a, b in zip(first, second, strict=True))


def test_a_frame_that_cannot_be_read_leaves_the_earlier_ones_finished(tmp_path: Path) -> None:
    def broken(frame_idx: int) -> np.ndarray:
        if frame_idx == 2:
            raise I2VPPError("frame 2 is broken")
        return read_frame(frame_idx)

    writer = ResultWriter(tmp_path, OutputChoice(), VIDEO, FrameAccess(read=broken), in_order=False)
    for frame_idx in range(4):
        writer.add(result(frame_idx, patch(0, 0)))
    with pytest.raises(I2VPPError, match="frame 2"):
        writer.close()
    assert len(decode(tmp_path / "overlay.mp4")) == 2
    assert len(list((tmp_path / "masks").iterdir())) == 4


def test_ctrl_c_waits_until_the_frame_is_written(tmp_path: Path) -> None:
    def interrupted(frame_idx: int) -> np.ndarray:
        if frame_idx == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return read_frame(frame_idx)

    writer = ResultWriter(tmp_path, OutputChoice(), VIDEO, FrameAccess(read=interrupted))
    writer.add(result(0, patch(0, 0)))
    with pytest.raises(KeyboardInterrupt):
        writer.add(result(1, patch(0, 0)))
    writer.close()
    assert writer.frames == [0, 1]
    assert len(decode(tmp_path / "overlay.mp4")) == 2


def test_the_interrupt_handler_is_put_back() -> None:
    before: Any = signal.getsignal(signal.SIGINT)
    with pytest.raises(ValueError, match="inside"), uninterrupted():
        raise ValueError("inside")
    assert signal.getsignal(signal.SIGINT) is before


def test_only_results_are_removed(tmp_path: Path) -> None:
    for name in ("masks/00000.png", "masks/note.png", "overlay.mp4", "scores.csv", "masks.json", ".masks-x/00000.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("old")
    (tmp_path / "mine.txt").write_text("keep")
    remove_results(tmp_path)
    left = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*"))
    assert left == ["masks", "masks/note.png", "mine.txt"]
    remove_results(tmp_path / "not there")
