"""Inference for VOS benchmarks: which objects are prompted where, which frames are written, and how."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data_files import write_image, write_json, write_mask
from i2vpp.checkpoint import save_checkpoint
from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
from i2vpp.model_choice import ModelChoice
from i2vpp.runs.store import Job, JobRecord
from i2vpp.utils.visualize import davis_palette
from media import moving_disc
from models import make_predictor
from test_pvs.benchmarks import BENCHMARKS, VosVideos, open_benchmark, open_folder
from test_pvs.vos import VosTracking
from tools import vos_inference

HEIGHT, WIDTH, LENGTH = 48, 64, 6
FIRST = np.zeros((HEIGHT, WIDTH), bool)
FIRST[10:30, 5:25] = True
LATE = np.zeros((HEIGHT, WIDTH), bool)
LATE[20:45, 30:60] = True


@pytest.fixture(scope="module")
def predictor() -> I2VPPVideoPredictor:
    return make_predictor()


def write_frames(folder: Path, length: int = LENGTH, *, seed: int = 0, start: int = 0) -> None:
    folder.mkdir(parents=True)
    for i, frame in enumerate(moving_disc(length, HEIGHT, WIDTH, seed=seed)[0]):
        Image.fromarray(frame).save(folder / f"{start + i:05d}.png")


def write_own(folder: Path) -> VosVideos:
    """Make a video: object 3 from frame 1 on, object 2 from frame 3 on; true masks of all frames."""
    write_frames(folder / "images" / "v")
    for i in range(LENGTH):
        values = np.where(LATE, 2 * (i >= 3), 0) + FIRST * 3 * (i >= 1)
        write_mask(folder / "masks" / "v" / f"{i:05d}.png", values)
    return open_folder(folder / "images", folder / "masks")


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> VosVideos:
    return write_own(tmp_path_factory.mktemp("own"))


@pytest.fixture(scope="module")
def tracked(
    predictor: I2VPPVideoPredictor, own: VosVideos, tmp_path_factory: pytest.TempPathFactory
) -> tuple[JobRecord, dict[str, np.ndarray]]:
    return track(predictor, own, tmp_path_factory.mktemp("tracked") / "v")


def track(
    predictor: I2VPPVideoPredictor, videos: VosVideos, folder: Path, name: str = "v", prompt: str = "gm"
) -> tuple[JobRecord, dict[str, np.ndarray]]:
    folder.mkdir()
    tracking = VosTracking(model=ModelChoice(), videos=videos, prompt=prompt)
    ticks = []
    record = tracking.track(predictor, Job(name=name, frames=videos.open(name).length), folder, lambda: ticks.append(1))
    assert len(ticks) == videos.open(name).length
    return record, read(folder)


def read(folder: Path) -> dict[str, np.ndarray]:
    """Read the index masks of a folder, which holds nothing else."""
    masks = {}
    for path in sorted(folder.iterdir()):
        with Image.open(path) as image:
            assert image.mode == "P"
            assert bytes(image.getpalette() or ()) == davis_palette()[: len(image.getpalette() or ())]
            masks[path.name] = np.array(image)
    return masks


def alone(predictor: I2VPPVideoPredictor, videos: VosVideos, obj_id: int) -> torch.Tensor:
    """Logits [T, H, W] of an object that is tracked alone, from its first frame; absent before."""
    (given,) = (one for one in videos.open("v").objects() if one.obj_id == obj_id)
    logits = torch.full((LENGTH, HEIGHT, WIDTH), -torch.inf)
    with predictor.init_state(list(videos.open("v").frames.values())) as state:
        predictor.add_new_mask(state, given.frame_idx, obj_id, given.mask)
        for frame_idx, _, masks in predictor.propagate_in_video(state, progress=False):
            logits[frame_idx] = masks[0, 0]
    return logits


def test_objects_join_on_their_first_frame_and_the_highest_logit_wins(predictor, own, tracked):
    record, masks = tracked
    assert list(masks) == [f"{i:05d}.png" for i in range(LENGTH)]
    three, two = alone(predictor, own, 3), alone(predictor, own, 2)
    background = torch.zeros_like(three)
    expected = torch.stack([background, three, two]).argmax(0).numpy()
    found = np.stack(list(masks.values()))
    np.testing.assert_array_equal(found[0], 0)
    assert set(np.unique(found[1:3])) == {0, 3}
    assert set(np.unique(found[3:])) == {0, 2, 3}
    assert (found != np.array([0, 3, 2])[expected]).mean() < 1e-3, "objects together are not what they are alone"
    assert record.frames == LENGTH - 1, "nothing is tracked before the first object"
    assert record.seconds > 0
    assert record.peak_memory > 0


def test_later_true_masks_are_not_used(predictor, tracked, tmp_path):
    own = write_own(tmp_path)
    write_mask(tmp_path / "masks" / "v" / "00002.png", ~FIRST * 3)
    for name in ("00004", "00005"):
        write_mask(tmp_path / "masks" / "v" / f"{name}.png", np.where(FIRST, 2, 3))
    _, after = track(predictor, own, tmp_path / "after")
    for name, mask in tracked[1].items():
        np.testing.assert_array_equal(after[name], mask)


@pytest.mark.parametrize("prompt", ["bb", "1c"])
def test_other_prompts(predictor, own, tracked, tmp_path, prompt):
    _, prompted = track(predictor, own, tmp_path / "prompted", prompt=prompt)
    assert any((prompted[name] != mask).any() for name, mask in tracked[1].items())
    assert not prompted["00000.png"].any()


def test_davis_2016_has_one_object(predictor, tmp_path):
    write_frames(tmp_path / "JPEGImages/480p/v", 3)
    write_mask(tmp_path / "Annotations/480p/v/00000.png", FIRST * 255, "L")
    (tmp_path / "ImageSets/2016").mkdir(parents=True)
    (tmp_path / "ImageSets/2016/val.txt").write_text("v\n")
    _, masks = track(predictor, open_benchmark(BENCHMARKS["davis2016"], tmp_path), tmp_path / "out")
    assert len(masks) == 3
    assert all(set(np.unique(mask)) == {0, 1} for mask in masks.values())


def write_youtube_vos(root: Path) -> None:
    """Make a video of eight frames: two objects join late, and frames 1 and 6 on are not wanted."""
    for i, frame in enumerate(moving_disc(8, HEIGHT, WIDTH)[0]):
        path = write_image(root / "valid/JPEGImages/v" / f"{5 * i:05d}.jpg", HEIGHT, WIDTH)
        Image.fromarray(frame).save(path)
    write_mask(root / "valid/Annotations/v/00010.png", FIRST * 1)
    write_mask(root / "valid/Annotations/v/00020.png", LATE * 2)
    objects = {"1": {"frames": ["00010", "00015", "00025"]}, "2": {"frames": ["00000", "00020", "00025"]}}
    write_json(root / "valid/meta.json", {"videos": {"v": {"objects": objects}}})


def test_youtube_vos_writes_the_required_frames(predictor, tmp_path):
    write_youtube_vos(tmp_path)
    record, masks = track(predictor, open_benchmark(BENCHMARKS["ytvos2019"], tmp_path), tmp_path / "out")
    assert list(masks) == ["00000.png", "00010.png", "00015.png", "00020.png", "00025.png"]
    assert {name: set(np.unique(mask)) - {0} for name, mask in masks.items()} == {
        "00000.png": set(),
        "00010.png": {1},
        "00015.png": {1},
        "00020.png": {1, 2},
        "00025.png": {1, 2},
    }
    assert record.frames == 4, "frames 2 to 5"


# ---- the command


@pytest.fixture(scope="module")
def checkpoint(predictor: I2VPPVideoPredictor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    save_checkpoint(predictor.model, path, image_size=predictor.image_size)
    return path


def run(checkpoint: Path, output: Path, *options: object) -> int:
    return vos_inference.main(
        [*map(str, options), "--checkpoint", str(checkpoint), "--device", "cpu", "--output", str(output)]
    )


def test_a_broken_video_is_reported_and_tried_again(checkpoint, tracked, tmp_path, capsys):
    write_own(tmp_path)
    (tmp_path / "images" / "w").mkdir()
    write_frames(tmp_path / "images" / "a", 3, seed=1)
    for name in "aw":
        write_mask(tmp_path / "masks" / name / "00000.png", FIRST * 5)
    out = tmp_path / "out"
    options = ("--dataset", "folder", "--images", tmp_path / "images", "--annotations", tmp_path / "masks")
    assert run(checkpoint, out, *options) == 1
    said = capsys.readouterr().out
    assert f"w: DataError: {tmp_path}/images/w holds no frame" in said
    assert sorted(path.name for path in out.iterdir() if not path.name.startswith(".")) == ["a", "v"]
    for name, mask in read(out / "v").items():
        np.testing.assert_array_equal(mask, tracked[1][name])
    settings = json.loads((out / ".run" / "run.json").read_text())["settings"]
    assert (settings["dataset"], settings["prompt"], settings["checkpoint"]) == ("folder", "gm", "tiny.pt")

    before = {path: path.stat().st_mtime_ns for path in out.glob("[av]/*")}
    write_image(tmp_path / "images" / "w" / "00000.jpg", HEIGHT, WIDTH)
    assert run(checkpoint, out, *options) == 0
    assert {path: path.stat().st_mtime_ns for path in out.glob("[av]/*")} == before
    assert [set(np.unique(mask)) for mask in read(out / "w").values()] == [{0, 5}]

    assert run(checkpoint, out, *options, "--prompt", "bb") == 1
    assert 'prompt was "gm" and is now "bb"' in capsys.readouterr().err


@pytest.mark.slow
def test_two_runs_give_identical_files_whatever_the_processes(checkpoint, tmp_path):
    write_youtube_vos(tmp_path)
    (tmp_path / "valid/JPEGImages/w").symlink_to(tmp_path / "valid/JPEGImages/v")
    (tmp_path / "valid/Annotations/w").symlink_to(tmp_path / "valid/Annotations/v")
    meta = json.loads((tmp_path / "valid/meta.json").read_text())
    meta["videos"]["w"] = meta["videos"]["v"]
    write_json(tmp_path / "valid/meta.json", meta)
    for processes in (1, 2):
        out = tmp_path / f"{processes} processes"
        options = ("--dataset", "ytvos2018", "--data", tmp_path, "--prompt", "1c", "--processes", processes)
        assert run(checkpoint, out, *options) == 0
    files = [
        {path.relative_to(tmp_path / f"{n} processes"): path.read_bytes() for path in tmp_path.glob(f"{n} */*/*.png")}
        for n in (1, 2)
    ]
    assert len(files[0]) == 2 * 5
    assert files[0] == files[1]


def test_sav_is_tracked_object_by_object(checkpoint, tmp_path):
    write_frames(tmp_path / "JPEGImages_24fps" / "sav_1", 2)
    for name, mask in (("000", FIRST), ("001", LATE)):
        write_mask(tmp_path / "Annotations_6fps" / "sav_1" / name / "00000.png", mask * 255, "L")
    assert run(checkpoint, tmp_path / "out", "--dataset", "sav", "--data", tmp_path, "--videos", "sav_1") == 0
    found = sorted(path.relative_to(tmp_path / "out").as_posix() for path in tmp_path.glob("out/*/*/*.png"))
    assert found == [f"sav_1/{name}/0000{i}.png" for name in ("000", "001") for i in (0, 1)]
    with Image.open(tmp_path / "out/sav_1/001/00001.png") as image:
        assert image.mode == "1"


def test_chosen_videos_of_a_list(checkpoint, tmp_path):
    for name in "abc":
        write_frames(tmp_path / "images" / name, 1)
        write_mask(tmp_path / "masks" / name / "00000.png", FIRST)
    (tmp_path / "list.txt").write_text("b\nc\n")
    options = ("--dataset", "folder", "--images", tmp_path / "images", "--annotations", tmp_path / "masks")
    assert run(checkpoint, tmp_path / "out", *options, "--list", tmp_path / "list.txt", "--videos", "c") == 0
    assert [path.name for path in (tmp_path / "out").iterdir() if path.name != ".run"] == ["c"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dataset", "davis2018"], "argument --dataset: invalid choice: 'davis2018'; did you mean 'davis2017'?"),
        (["--dataset", "mose"], "--dataset mose needs --data, and no --images, --annotations or --list"),
        (["--dataset", "mose", "--data", "{}", "--list", "x"], "--dataset mose needs --data, and no --images"),
        (["--dataset", "mose", "--data", "{}/none"], "the folder of MOSE, {}/none, does not exist"),
        (["--dataset", "mose", "--data", "{}", "--split", "val"], "MOSE has no split 'val'; allowed: valid, train"),
        (["--dataset", "sav", "--data", "{}", "--split", "val"], "--dataset sav has no --split: --data names"),
        (["--dataset", "folder", "--images", "{}"], "folder needs --images and --annotations, and no --data"),
        (["--dataset", "folder", "--images", "{}/i", "--annotations", "{}/m", "--videos", "x"],
         "--videos x: there is no such video; there are v"),
        (["--dataset", "folder", "--images", "{}/i", "--annotations", "{}/m", "--prompt", "2b"],
         "argument --prompt: unknown prompt protocol '2b'; allowed: gm"),
        (["--dataset", "folder", "--images", "{}/i", "--annotations", "{}/m", "--checkpoint", "{}/none.pt"],
         "{}/none.pt"),
    ],
)  # fmt: skip
def test_bad_input_is_named(options, message, tmp_path, capsys):
    write_image(tmp_path / "i/v/0.jpg")
    write_mask(tmp_path / "m/v/0.png", np.ones((6, 8)))
    options = [option.replace("{}", str(tmp_path)) for option in options]
    assert vos_inference.main([*options, "--output", str(tmp_path / "out")]) in (1, 2)
    said = capsys.readouterr().err
    assert "error: " in said
    assert message.replace("{}", str(tmp_path)) in said
    assert not (tmp_path / "out").exists()
