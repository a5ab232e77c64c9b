"""Inference over a set of SA-V's layout: what is prompted, what is written, errors, and the shell scripts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from i2vpp.checkpoint import save_checkpoint
from i2vpp.errors import RunError
from media import moving_disc
from models import SIDE, make_predictor
from test_pvs.infer import main
from test_pvs.mask_info import write_mask_info
from test_pvs.options import ArrayTask, task_arguments

REPO = Path(__file__).resolve().parent.parent
LENGTHS = {"disc": 6, "ring": 5}
FRAMES = {video: [f"{t:05d}" for t in range(length)] for video, length in LENGTHS.items()}
OBJECTS = [("disc", "000"), ("disc", "001"), ("disc", "002"), ("ring", "000")]
HEIGHT, WIDTH = 48, 64


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    save_checkpoint(make_predictor().model, path, image_size=SIDE)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two videos, annotated on every other frame; of `disc`, object 001 appears late and 002 vanishes."""
    root = tmp_path / "sav"
    for video, length in LENGTHS.items():
        images, masks = moving_disc(length, HEIGHT, WIDTH, seed=length)
        objects = (
            {"000": range(length), "001": range(3, length), "002": range(3)}
            if video == "disc"
            else {"000": range(length)}
        )
        for t, (image, mask) in enumerate(zip(images, masks, strict=True)):
            write(root / "JPEGImages_24fps" / video / f"{t:05d}.jpg", image)
            for name, there in objects.items():
                if t % 2 == 0:
                    write(annotation(root, video, name, t), mask & (t in there))
    return root


def annotation(root: Path, video: str, name: str, t: int) -> Path:
    return root / "Annotations_6fps" / video / name / f"{t:05d}.png"


def write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == "1"
        return np.array(image)


@pytest.fixture
def infer(data: Path, checkpoint: Path, tmp_path: Path) -> Callable[..., int]:
    def call(*options: object, out: str = "out") -> int:
        words = ["--data", data, "--checkpoint", checkpoint, "--device", "cpu", "-o", tmp_path / out, *options]
        return main([str(word) for word in words])

    return call


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.glob("*/*/*.png"))}


def expected(tmp_path: Path, data: Path, kind: str = "gm") -> dict[str, np.ndarray]:
    """Masks as a reader of the protocol would make them, one object at a time."""
    found = {}
    predictor = make_predictor()
    starts = {"disc/000": 0, "disc/001": 4, "disc/002": 0, "ring/000": 0}
    for name, start in starts.items():
        video, obj = name.split("/")
        truth = read(annotation(data, video, obj, start))
        with predictor.init_state(str(data / "JPEGImages_24fps" / video)) as state:
            if kind == "gm":
                predictor.add_new_mask(state, start, 1, truth)
            else:
                ys, xs = np.nonzero(truth)
                box = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
                predictor.add_new_points_or_box(state, start, 1, box=box)
            for frame in FRAMES[video][:start]:
                found[f"{name}/{frame}.png"] = np.zeros((HEIGHT, WIDTH), bool)
            for result in predictor.propagate_in_video(state, progress=False):
                found[f"{name}/{result.frame_idx:05d}.png"] = (result.masks[0, 0] > 0).numpy()
    return found


@pytest.mark.parametrize("kind", ["gm", "bb"])
def test_each_object_is_tracked_alone_from_the_first_frame_that_shows_it(infer, data, tmp_path, capfd, kind) -> None:
    assert infer("--prompt", kind) == 0
    wanted = expected(tmp_path, data, kind)
    assert set(files(tmp_path / "out")) == set(wanted)
    for name, mask in wanted.items():
        np.testing.assert_array_equal(read(tmp_path / "out" / name), mask, err_msg=name)
    assert any(mask.any() for mask in wanted.values())
    out, err = capfd.readouterr()
    assert "4 of 4 jobs made: 19 frames" in out
    assert "4/4 jobs" in err
    record = json.loads((tmp_path / "out/.run/units/disc/001.json").read_text())
    assert record["frames"] == 2 and record["seconds"] > 0 and record["peak_memory"] > 2**20
    settings = json.loads((tmp_path / "out/.run/run.json").read_text())["settings"]
    assert settings["prompt"] == kind and len(settings["checkpoint_sha256"]) == 64
    assert settings["device"] == "cpu" and settings["dtype"] == "float32" and settings["threads"] == 1
    assert settings["model"]["image_size"] == SIDE and settings["model"]["selection"]["seed"] == 0


def test_two_runs_give_identical_files(infer, tmp_path) -> None:
    assert infer("--prompt", "3c", "--seed", 3) == 0
    assert infer("--clicks", 3, "--seed", 3, out="again") == 0
    first = files(tmp_path / "out")
    assert len(first) == 3 * LENGTHS["disc"] + LENGTHS["ring"] and first == files(tmp_path / "again")


def test_three_processes_and_a_restart_give_the_same_files(infer, tmp_path) -> None:
    assert infer("--processes", 3, out="three") == 0
    assert infer("--videos", "ring", out="part") == 0
    assert {name.split("/")[0] for name in files(tmp_path / "part")} == {"ring"}
    assert infer(out="part") == 0
    assert files(tmp_path / "three") == files(tmp_path / "part")


def test_only_annotated_frames_straight_or_from_mask_info(infer, data, tmp_path) -> None:
    assert infer("--annotated-only") == 0
    names = [f"{video}/{obj}/{frame}.png" for video, obj in OBJECTS for frame in FRAMES[video][::2]]
    assert list(files(tmp_path / "out")) == names

    for video, obj in OBJECTS:
        masks = {int(path.stem): read(path) for path in (data / "Annotations_6fps" / video / obj).iterdir()}
        (tmp_path / "info" / video).mkdir(parents=True, exist_ok=True)
        write_mask_info(tmp_path / "info" / video / f"{obj}.npy", masks)
    assert infer("--annotated-only", "--mask-info", tmp_path / "info", out="info_out") == 0
    assert files(tmp_path / "info_out") == files(tmp_path / "out")


def test_an_object_that_never_appears_is_reported_and_leaves_nothing(infer, data, tmp_path, capfd) -> None:
    for path in (data / "Annotations_6fps/disc/001").iterdir():
        write(path, np.zeros((HEIGHT, WIDTH), bool))
    assert infer() == 0
    assert "note: disc/001: not tracked: no mask in" in capfd.readouterr().out
    assert not (tmp_path / "out/disc/001").exists() and (tmp_path / "out/disc/002").is_dir()


def test_what_is_wrong_with_one_object_is_reported_and_the_rest_is_done(infer, data, tmp_path, capfd) -> None:
    masks = data / "Annotations_6fps"
    two = read(annotation(data, "disc", "000", 0)).astype(np.uint8)
    two[0, 0] = 2
    write(annotation(data, "disc", "000", 0), two)
    annotation(data, "disc", "001", 4).write_bytes(b"no PNG")
    write(annotation(data, "disc", "002", 0), np.ones((HEIGHT, 2 * WIDTH), bool))
    write(masks / "ring/001/00000.png", np.ones((HEIGHT, WIDTH), bool))
    write(masks / "ring/001/00009.png", np.ones((HEIGHT, WIDTH), bool))
    (masks / "ring/002").mkdir()
    write(masks / "lost/000/00000.png", np.ones((HEIGHT, WIDTH), bool))
    assert infer() == 1
    said = capfd.readouterr().out
    assert "1 of 7 jobs made" in said and "6 failed; the same command tries them again:" in said
    for line in (
        f"disc/000: DataError: mask {annotation(data, 'disc', '000', 0)} holds the values 1, 2 beside 0",
        f"disc/001: DataError: cannot read the mask {annotation(data, 'disc', '001', 4)}",
        "disc/002: DataError: the mask in",
        "is 128 x 48 pixels, but its image",
        "ring/001: DataError:",
        "has masks of frames that",
        "lacks: 00009;",
        "ring/002: DataError:",
        "holds no mask 00000.png",
        "lost/000: DataError: cannot list the folder",
    ):
        assert line in said
    assert {name[:8] for name in files(tmp_path / "out")} == {"ring/000"}


def test_a_broken_frame_leaves_nothing_and_is_tried_again(infer, data, tmp_path, capfd) -> None:
    frame = data / "JPEGImages_24fps/disc/00003.jpg"
    whole = frame.read_bytes()
    frame.write_bytes(whole[:100])
    assert infer() == 1
    assert "disc/000: FrameDecodeError: frame 3 of" in capfd.readouterr().out
    assert {name.split("/")[0] for name in files(tmp_path / "out")} == {"ring"}
    frame.write_bytes(whole)
    assert infer() == 0
    assert len(files(tmp_path / "out")) == 3 * LENGTHS["disc"] + LENGTHS["ring"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "nowhere"], "the folder of frames, nowhere/JPEGImages_24fps, does not exist"),
        (["--annotations", "nowhere"], "the folder of annotations, nowhere, does not exist"),
        (["--videos", "ring", "square"], "1 of 2 videos of --videos have no folder in"),
        (["--videos", "square"], ": square; it holds disc, ring"),
        (["--list", "nowhere.txt"], "cannot read the list nowhere.txt"),
        (["--checkpoint", "nowhere"], "there is no checkpoint 'nowhere'"),
        (["--set", "model.selection.mod=top"], "model.selection.mode"),
        (["--config", "i2vpp-1"], "i2vpp-1"),
        (["--device", "cuda:99"], "this machine has no device 'cuda:99'"),
        (["--device", "gpu"], "unknown device 'gpu'"),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_named(infer, capfd, options, message) -> None:
    assert infer(*options) == 1
    error = capfd.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and message in error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prompt", "0c"], "unknown prompt protocol '0c'; allowed: gm (true mask), bb (bounding box), <n>c"),
        (["--clicks", "0"], "argument --clicks: must be an integer of 1 or more; got '0'"),
        (["--processes", "none"], "argument --processes: must be an integer of 1 or more; got 'none'"),
        (["--override", "a"], "argument --override: expected KEY=VALUE, got 'a'"),
        (["--overide", "a=1"], "did you mean '--override'?"),
        (["--prompt", "gm", "--clicks", "3"], "not allowed with argument"),
    ],
)
def test_wrong_usage(infer, capfd, options, message) -> None:
    assert infer(*options) == 2
    assert message in capfd.readouterr().err


def test_a_set_of_another_layout(infer, data, tmp_path, capfd) -> None:
    for path in sorted((data / "Annotations_6fps").glob("*/000/*.png")):
        path.rename(path.parent.parent / path.name)
    for folder in filter(Path.is_dir, (data / "Annotations_6fps").glob("*/*")):
        for path in folder.glob("*.png"):
            path.unlink()
        folder.rmdir()
    assert infer() == 1
    assert "not a folder for each object as SA-V has it; tools/vos_inference.py" in capfd.readouterr().err
    assert main(["-o", str(tmp_path / "out")]) == 1
    assert "where is the set? --data names a folder with JPEGImages_24fps" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_array_of_jobs(infer, tmp_path, capfd) -> None:
    pytest.importorskip("submitit")
    assert infer("--use-cluster", 1, "--cluster", "debug", "--num-jobs", 2) == 0
    said = capfd.readouterr().out
    assert said.count("submitted; log: ") == 2
    assert len(files(tmp_path / "out")) == 3 * LENGTHS["disc"] + LENGTHS["ring"]


def test_an_interrupted_job_is_followed_by_the_same_one() -> None:
    pytest.importorskip("submitit")
    job = ArrayTask(command="test_pvs.infer:main", arguments=task_arguments(["--data", "x", "--overwrite"]))
    assert job.arguments[-5:] == ("--use-cluster", "0", "--processes", "1", "--no-overwrite")
    with pytest.raises(RunError, match="job 3 ended with status 2; its log says why"):
        job(3)
    following = job.checkpoint(3)
    assert following.function == job and following.args == (3,)


# the shell scripts


def script(name: str, *words: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    keep = {key: value for key, value in os.environ.items() if key not in SETTINGS}
    return subprocess.run(
        ["sh", str(REPO / "test_pvs" / name), *map(str, words)],
        cwd=cwd,
        env={**keep, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


SETTINGS = ("DATA", "PROMPT", "CHECKPOINT", "OUT", "GT", "PROCESSES", "PYTHON", "PYTHONPATH")


def test_the_scripts_take_settings_as_arguments_and_from_the_environment(tmp_path) -> None:
    words = ("--dry-run", "PROMPT=3c", "DATA=my sets/sav_val", "--override", "model.selection.seed=1")
    done = script("semi_infer.sh", *words, cwd=tmp_path, PYTHON="python3", PROCESSES="2", PROMPT="bb")
    assert done.stdout.split("\n")[0].strip() == (
        "python3 -m test_pvs.infer --data 'my sets/sav_val' --prompt 3c --checkpoint i2vpp-demo "
        f"--output {REPO}/outputs/sav_val_3c --processes 2 --override model.selection.seed=1"
    )
    out = REPO / "outputs" / "sav_test_gm"
    done = script("semi_eval.sh", "--dry-run", "--strict", cwd=tmp_path, PYTHON="python3", DATA="x/sav_test")
    assert done.stdout.split("\n")[0].strip() == (
        f"python3 -m sav_dataset.sav_evaluator --annotations x/sav_test/Annotations_6fps --predictions {out} "
        f"--json {out}/scores.json --csv {out}/scores.csv --strict"
    )
    for name in ("semi_infer.sh", "semi_eval.sh"):
        assert script(name, "--help", cwd=tmp_path).stdout.startswith(f"usage: sh {name}")
        done = script(name, "GPU=3", cwd=tmp_path)
        assert done.returncode == 2 and f"{name}: unknown setting GPU" in done.stderr


def test_from_masks_to_scores(data, checkpoint, tmp_path) -> None:
    """What the README says, on a set with an object that appears late and one that vanishes."""
    made = subprocess.run(
        [sys.executable, str(REPO / "tools/save_gt_mask.py"), "--data", str(data), "--num_processes", "1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    where = {"DATA": str(data), "PROMPT": "3c", "CHECKPOINT": str(checkpoint), "OUT": "masks"}
    done = script("semi_infer.sh", "--mask-info", data / "mask_info", "--device", "cpu", cwd=tmp_path, **where)
    assert done.returncode == 0, done.stderr
    assert len(files(tmp_path / "masks")) == 3 * LENGTHS["disc"] + LENGTHS["ring"]
    done = script("semi_eval.sh", "--do_not_skip_first_and_last_frame", "PROCESSES=1", cwd=tmp_path, **where)
    assert done.returncode == 0, done.stderr
    scores = json.loads((tmp_path / "masks/scores.json").read_text())
    assert {(one["video"], one["object"]) for one in scores["objects"]} == set(OBJECTS)
    assert 0 <= scores["J&F"] <= 100 and scores["run"]["settings"]["prompt"] == "3c"
    assert scores["run"]["FPS"] > 0
