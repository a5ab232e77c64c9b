"""Cut-outs: transparent PNGs and videos with alpha, as `i2vpp track --alpha` writes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

from i2vpp import cli
from i2vpp.commands import track_options
from i2vpp.structures import FrameResult
from i2vpp.utils.cutouts import ALPHA_FORMATS, CutoutVideo
from i2vpp.utils.result_files import VideoInfo
from i2vpp.utils.writers import FrameAccess, OutputChoice, ResultWriter, remove_results
from media import moving_disc

FRAMES, MASKS = moving_disc(6, 47, 63)
TIMES = [0.0, 0.1, 0.2, 0.5, 0.6, 0.7]


def write(folder: Path, kind: str) -> ResultWriter:
    choice = OutputChoice(masks=False, overlay=False, scores=False, alpha=kind)
    access = FrameAccess(read=FRAMES.__getitem__, time=TIMES.__getitem__)
    writer = ResultWriter(folder, choice, VideoInfo(height=47, width=63, fps=10.0), access)
    for i, mask in enumerate(MASKS):
        halves = [mask & (np.arange(63) < 30), mask & (np.arange(63) >= 30)]
        logits = torch.stack([torch.from_numpy(np.where(half, 4.0, -4.0)).float()[None] for half in halves])
        writer.add(FrameResult(i, [1, 2], logits, torch.zeros(2), torch.zeros(2)))
    writer.close()
    return writer


def decode(path: Path) -> tuple[list[float], list[np.ndarray]]:
    """Return times and RGBA frames; FFmpeg's own VP9 decoder passes over the alpha, that of libvpx does not."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        codec: Any = stream.codec_context
        if path.suffix == ".webm":
            codec = av.CodecContext.create("libvpx-vp9", "r")
        frames = [frame for packet in container.demux(stream) for frame in codec.decode(packet)]
        times = [float(frame.pts * stream.time_base) for frame in frames]
        return times, [frame.to_ndarray(format="rgba") for frame in frames]


def test_pngs_hold_the_objects_and_nothing_else(tmp_path: Path) -> None:
    writer = write(tmp_path, "png")
    assert writer.paths() == [tmp_path / "cutouts"]
    for i, (frame, mask) in enumerate(zip(FRAMES, MASKS, strict=True)):
        with Image.open(tmp_path / "cutouts" / f"{i:05d}.png") as image:
            pixels = np.array(image)
        assert np.array_equal(pixels[..., 3] == 255, mask)
        assert np.array_equal(pixels[..., :3], frame * mask[..., None])


@pytest.mark.parametrize("kind", ["webm", "mov"])
def test_videos_have_alpha_and_the_times_of_the_source(tmp_path: Path, kind: str) -> None:
    writer = write(tmp_path, kind)
    path = tmp_path / f"cutouts.{kind}"
    assert writer.paths() == [path] and writer.problems == []
    times, frames = decode(path)
    assert times == pytest.approx(TIMES, abs=1e-3)
    for pixels, mask in zip(frames, MASKS, strict=True):
        assert pixels.shape == (48, 64, 4), "odd sizes are padded"
        alpha = pixels[:47, :63, 3]
        assert ((alpha > 127) == mask).mean() > 0.99
        inner = mask & np.roll(mask, 2, 0) & np.roll(mask, -2, 0) & np.roll(mask, 2, 1) & np.roll(mask, -2, 1)
        assert np.abs(pixels[:47, :63, :3][inner].astype(int) - (250, 220, 60)).mean() < 12


def test_a_later_run_replaces_cut_outs_and_leaves_other_files(tmp_path: Path) -> None:
    for kind in ALPHA_FORMATS:
        write(tmp_path, kind)
    Image.fromarray(FRAMES[0]).save(tmp_path / "cutouts" / "mine.png")
    remove_results(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))] == [
        "cutouts", "cutouts/mine.png"
    ]  # fmt: skip


def test_an_unfinished_video_is_deleted_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video = CutoutVideo(tmp_path / "cutouts.mov", 10.0)
    video.add(0, FRAMES[0], MASKS[0])

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("i2vpp.utils.overlay_video.sync_file", full)
    with pytest.raises(OSError, match="No space left"):
        video.close()
    assert video.problem == "cutouts.mov could not be finished and is deleted"
    assert not (tmp_path / "cutouts.mov").exists()


def test_the_command_knows_the_formats(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert track_options.ALPHA_FORMATS == ALPHA_FORMATS
    parse: Callable[[list[str]], Any] = cli.build_parser().parse_args
    common = ["track", "v.mp4", "-o", str(tmp_path / "out"), "--point", "1,1"]
    assert [parse([*common, *more]).alpha for more in ([], ["--alpha"], ["--alpha", "mov"])] == [None, "png", "mov"]
    assert cli.main([*common, "--alpha", "gif"]) == cli.EXIT_USAGE
    assert cli.main([*common, "--alpha", "webm", "--both"]) == cli.EXIT_USAGE
    assert "--alpha webm is written forwards" in capsys.readouterr().err
