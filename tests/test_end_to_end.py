"""The command with the real network: from files to files."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from i2vpp.checkpoint import save_checkpoint
from i2vpp.cli import main
from i2vpp.session.video import open_source
from media import moving_disc, read_all, write_video
from models import SIDE, make_predictor

HEIGHT, WIDTH = 48, 64
FRAMES, MASKS = moving_disc(5, HEIGHT, WIDTH)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "made_up.pt"
    save_checkpoint(make_predictor().model, path, image_size=SIDE)
    return path


def track(video: Path, out: Path, checkpoint: Path, *options: str, image_size: int = SIDE) -> int:
    size = f"model.image_size={image_size}"
    fixed = ["--checkpoint", str(checkpoint), "--override", size, "--device", "cpu", "--quiet"]
    return main(["track", str(video), "-o", str(out), *fixed, *options])


def test_track_writes_what_the_predictor_finds(tmp_path: Path, checkpoint: Path) -> None:
    video = write_video(tmp_path / "disc.mp4", FRAMES)
    out = tmp_path / "out"
    assert track(video, out, checkpoint, "--box", "4,12,26,36", "--point", "40,20,0,2", "--json") == 0
    predictor = make_predictor(dtype="float32")
    with predictor.init_state(video) as state:
        predictor.add_new_points_or_box(state, 0, 1, box=[4, 12, 26, 36])
        predictor.add_new_points_or_box(state, 0, 2, points=[[40, 20]], labels=[1])
        for result in predictor.propagate_in_video(state, progress=False):
            best, index = result.masks[:, 0].max(dim=0)
            want = torch.where(best > 0, index + 1, 0).numpy()
            got = np.array(Image.open(out / "masks" / f"{result.frame_idx:05d}.png"))
            np.testing.assert_array_equal(got, want)
    assert len(read_all(open_source(out / "overlay.mp4"))) == len(FRAMES)
    assert len(list(csv.DictReader((out / "scores.csv").open()))) == 2 * len(FRAMES)
    assert (out / "masks.json").stat().st_size > 0


def test_a_wrong_size_warns(tmp_path: Path, checkpoint: Path) -> None:
    video = write_video(tmp_path / "disc.mp4", FRAMES[:2])
    with pytest.warns(UserWarning, match="trained at image_size 64, but the model runs at 80"):
        assert track(video, tmp_path / "out", checkpoint, "--point", "9,9", image_size=80) == 0


@pytest.mark.slow
@pytest.mark.parametrize("case", ["video", "folder"])
def test_real_videos(case: str, tmp_path: Path, checkpoint: Path, shared_data: Path) -> None:
    if case == "video":
        source, prompt = next((shared_data / "data" / "videos").glob("*coffee.mp4")), ("--point", "640,360")
    else:
        davis = shared_data / "data" / "davis16"
        name = (davis / "ImageSets" / "val.txt").read_text().split()[0].strip("/").split("/")[-1]
        source = next(path for path in (davis / "JPEGImages").rglob(name) if path.is_dir())
        prompt = ("--mask", str(next((davis / "Annotations").rglob(f"{name}/00000.png"))))
    out = tmp_path / "out"
    assert track(source, out, checkpoint, *prompt, "--max-frames", "5", image_size=256) == 0
    assert len(list((out / "masks").glob("*.png"))) == 6
    assert len(read_all(open_source(out / "overlay.mp4"))) == 6
