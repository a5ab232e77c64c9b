"""What happens at frames that cannot be decoded: raise, repeat, skip."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from i2vpp import cli
from i2vpp.checkpoint import save_checkpoint
from i2vpp.commands import track_options
from i2vpp.errors import FrameDecodeError, I2VPPError, PromptError, VideoError
from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
from i2vpp.session.bad_frames import ON_BAD_FRAME, tolerate
from i2vpp.session.video import open_source
from media import moving_disc, number_of, numbered
from models import SIDE, make_predictor, make_shallow

FRAMES, _ = moving_disc(10)
CLICK = {"points": [[12, 24]], "labels": [1]}


@pytest.fixture(scope="module")
def predictor() -> I2VPPVideoPredictor:
    return make_shallow(make_predictor(dtype="float32"))


def folder(tmp_path: Path, *bad: int, frames: list[np.ndarray] = FRAMES) -> Path:
    """Write frames as images, some of which are cut off."""
    for i, frame in enumerate(frames):
        path = tmp_path / f"{i:02d}.png"
        Image.fromarray(frame).save(path)
        if i in bad:
            path.write_bytes(path.read_bytes()[:60])
    return tmp_path


@pytest.mark.parametrize("bad", [(4,), (4, 5, 6), (0,), (0, 1), (9,), (0, 9)])
def test_the_frame_before_is_shown_in_place_of_a_bad_one(tmp_path, bad):
    source = tolerate(open_source(folder(tmp_path, *bad, frames=numbered(10))), "repeat")
    first_good = min(set(range(10)) - set(bad))
    for order in (range(10), range(9, -1, -1), [5, 2, 9, 0, 4]):
        for i in order:
            before = [j for j in range(i + 1) if j not in bad]
            assert number_of(source[i]) == (before[-1] if before else first_good)
            assert source.is_bad(i) == (i in bad)
    assert source.bad_frames == list(bad)
    assert (len(source), source.height, source.width) == (10, 32, 64)
    with pytest.raises(IndexError):
        source[10]


def test_no_good_frame_at_all(tmp_path):
    source = tolerate(open_source(folder(tmp_path, *range(10))), "repeat")
    with pytest.raises(VideoError, match="holds no frame that can be decoded"):
        source[3]


def test_the_choice_is_checked(predictor, tmp_path):
    with pytest.raises(I2VPPError, match="on_bad_frame='ignore' is unknown; allowed: raise, repeat, skip"):
        predictor.init_state(FRAMES, on_bad_frame="ignore")
    assert track_options.ON_BAD_FRAME == ON_BAD_FRAME


def run(predictor: I2VPPVideoPredictor, video: Any, choice: str, **span: Any) -> tuple[dict[int, Any], list[int]]:
    with predictor.init_state(video, on_bad_frame=choice) as state:
        predictor.add_new_points_or_box(state, 2, 1, **CLICK)
        results = {r.frame_idx: r for r in predictor.propagate_in_video(state, progress=False, **span)}
        return results, state.bad_frames


@pytest.mark.parametrize("span", [{}, {"both": True}, {"reverse": True, "start_frame_idx": 8}])
def test_repeat_and_skip(predictor, tmp_path, span):
    video = folder(tmp_path, 4, 5)
    frames = list(range(9)) if span.get("reverse") else list(range(0 if span else 2, 10))
    repeated, bad = run(predictor, video, "repeat", **span)
    assert sorted(repeated) == frames
    assert [f for f in sorted(repeated) if repeated[f].bad_frame] == bad == [4, 5]
    skipped, bad = run(predictor, video, "skip", **span)
    assert sorted(skipped) == [f for f in frames if f not in (4, 5)]
    assert not any(result.bad_frame for result in skipped.values())
    assert bad == [4, 5]


def test_raise_is_the_default(predictor, tmp_path):
    with predictor.init_state(folder(tmp_path, 4)) as state:
        predictor.add_new_points_or_box(state, 2, 1, **CLICK)
        seen = []
        with pytest.raises(FrameDecodeError, match="frame 4 of"):
            for result in predictor.propagate_in_video(state, progress=False):
                seen.append(result.frame_idx)
        assert seen == [2, 3]
        assert state.bad_frames == []


def test_whole_videos_are_tracked_the_same_whatever_was_chosen(predictor):
    whole = {choice: run(predictor, FRAMES, choice)[0] for choice in ON_BAD_FRAME}
    for choice in ("repeat", "skip"):
        assert whole[choice].keys() == whole["raise"].keys()
        for frame, result in whole["raise"].items():
            assert (whole[choice][frame].masks == result.masks).all()


def test_a_repeated_frame_is_tracked_as_if_the_video_stood_still(predictor, tmp_path):
    repeated, _ = run(predictor, folder(tmp_path, 5), "repeat")
    still, _ = run(predictor, [*FRAMES[:5], FRAMES[4], *FRAMES[6:]], "raise")
    for frame, result in still.items():
        assert (repeated[frame].masks == result.masks).all()


def test_prompts_on_bad_frames(predictor, tmp_path):
    video = folder(tmp_path, 4)
    with predictor.init_state(video, on_bad_frame="repeat") as state:
        assert predictor.add_new_points_or_box(state, 4, 1, **CLICK).bad_frame
    with predictor.init_state(video, on_bad_frame="skip") as state:
        with pytest.raises(PromptError, match="frame_idx=4 cannot be decoded and is skipped: prompt another frame"):
            predictor.add_new_points_or_box(state, 4, 1, **CLICK)
        with pytest.raises(PromptError, match="frame_idx=4 cannot be decoded"):
            predictor.add_new_mask(state, 4, 1, np.ones((48, 64), bool))
        assert not state.obj_ids
        predictor.add_new_points_or_box(state, 3, 1, **CLICK)
        results = predictor.propagate_in_video(state, 4, progress=False)
        assert [result.frame_idx for result in results] == [5, 6, 7, 8, 9]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "made_up.pt"
    save_checkpoint(make_predictor().model, path, image_size=SIDE)
    return path


@pytest.mark.parametrize(
    ("choice", "status", "said", "masks"),
    [
        ("raise", 1, "--on-bad-frame repeat or skip goes on in spite of frames that cannot be decoded", 4),
        ("repeat", 0, "2 frames could not be decoded (4-5): the frame before was tracked instead", 10),
        ("skip", 0, "2 frames could not be decoded (4-5): no results there", 8),
    ],
)
def test_command(tmp_path, checkpoint, capsys, choice, status, said, masks):
    video = folder(tmp_path / "v" if (tmp_path / "v").mkdir() is None else tmp_path, 4, 5)
    out = tmp_path / "out"
    model = ["--checkpoint", str(checkpoint), "--override", f"model.image_size={SIDE}", "--device", "cpu", "--quiet"]
    arguments = ["track", str(video), "-o", str(out), "--point", "12,24", "--on-bad-frame", choice, "--no-overlay"]
    assert cli.main([*arguments, *model]) == status
    shown = capsys.readouterr()
    assert said in shown.out + shown.err
    assert len(list((out / "masks").glob("*.png"))) == masks


# ---- animated images


def animation(kind: str, **options: Any) -> bytes:
    images = [Image.fromarray(frame) for frame in numbered(8)]
    file = io.BytesIO()
    durations = [40 * (i + 1) for i in range(8)]
    images[0].save(file, kind, save_all=True, append_images=images[1:], duration=durations, loop=0, **options)
    return file.getvalue()


@pytest.mark.parametrize(("kind", "suffix"), [("WEBP", "webp"), ("GIF", "gif"), ("PNG", "png")])
def test_animated_images(tmp_path, kind, suffix):
    data = animation(kind, **({"lossless": True} if kind == "WEBP" else {}))
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(data)
    for video in (path, data, io.BytesIO(data)):
        source = open_source(video)
        assert len(source) == 8
        assert [number_of(source[i]) for i in (0, 7, 3, 4, 1)] == [0, 7, 3, 4, 1]
        assert (source.height, source.width) == (32, 64)
        if kind == "WEBP":
            assert source.fps == 25
            assert [source.time(i) for i in (0, 1, 7)] == pytest.approx([0, 0.04, 1.12])
        with pytest.raises(IndexError):
            source[8]
        source.close()


def test_a_damaged_animation(tmp_path):
    data = animation("WEBP", lossless=True)
    with pytest.raises(VideoError, match="the video in memory"):
        np.stack([open_source(data[: len(data) * 2 // 3])[i] for i in range(8)])
    with pytest.raises(VideoError, match="cannot be read as an animated image"):
        open_source(data[:40])
