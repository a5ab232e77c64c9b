"""`i2vpp track` for several videos: a folder each, prompts for each, failures that are named, runs that go on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from i2vpp import cli
from i2vpp.commands.batch import digest, prompts_of, video_names
from i2vpp.errors import I2VPPError, PromptError
from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
from i2vpp.prompts.checks import ObjectPrompt
from media import moving_disc
from models import make_predictor

FRAMES = moving_disc(3)[0]


@pytest.fixture(scope="module")
def predictor() -> I2VPPVideoPredictor:
    return make_predictor(dtype="float32")


@pytest.fixture
def videos(tmp_path: Path, predictor: I2VPPVideoPredictor, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three folders of frames, of which `b` holds no picture, and prompts for `a` and `b`."""
    for module in ("i2vpp.commands.batch.build_for_process", "i2vpp.cli.build_predictor"):
        monkeypatch.setattr(module, lambda *_: predictor)
    for name in ("a", "b", "c.d"):
        folder = tmp_path / "videos" / name
        folder.mkdir(parents=True)
        for i, frame in enumerate(FRAMES):
            if name == "b":
                (folder / f"{i}.png").write_bytes(b"no picture")
            else:
                Image.fromarray(frame).save(folder / f"{i}.png")
    (tmp_path / "prompts").mkdir()
    for name, x in (("a", 10), ("b", 20)):
        (tmp_path / "prompts" / f"{name}.json").write_text(json.dumps([{"points": [[x, 24]]}]))
    return tmp_path / "videos"


def track(videos: Path, out: Path, names: str, *more: object) -> int:
    paths = [str(videos / name) for name in names.split()]
    arguments = [*paths, "-o", str(out), "--untrained", "--quiet", "--no-overlay", *map(str, more)]
    return cli.main(["track", *arguments])


def masks(folder: Path) -> list[np.ndarray]:
    return [np.array(Image.open(path)) for path in sorted((folder / "masks").iterdir())]


def test_a_video_that_fails_is_named_and_the_others_are_finished(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    both = ("--point", "40,10,0,2", "--prompts", tmp_path / "prompts")
    assert track(videos, out, "a b c.d", *both) == 1
    printed = capsys.readouterr().out
    assert "2 of 3 jobs made: 6 frames" in printed and "1 failed" in printed
    assert "  b: FrameDecodeError: " in printed
    assert sorted(path.name for path in out.iterdir()) == [".run", "a", "c.d"]
    for name, prompts in (("a", ["--point", "10,24", "--point", "40,10,0,2"]), ("c.d", ["--point", "40,10,0,2"])):
        alone = tmp_path / f"alone {name}"
        assert track(videos, alone, name, *prompts) == 0
        assert all(np.array_equal(x, y) for x, y in zip(masks(out / name), masks(alone), strict=True))
        assert (out / name / "scores.csv").read_text() == (alone / "scores.csv").read_text()


def test_the_same_command_goes_on_and_other_wishes_are_refused(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert track(videos, out, "a b", "--point", "10,24") == 1
    made = (out / "a" / "scores.csv").stat().st_mtime_ns
    for i, frame in enumerate(FRAMES):
        Image.fromarray(frame).save(videos / "b" / f"{i}.png")
    assert track(videos, out, "a b", "--point", "10,24") == 0
    assert (out / "a" / "scores.csv").stat().st_mtime_ns == made, "a was finished"
    assert len(masks(out / "b")) == 3
    capsys.readouterr()
    assert track(videos, out, "a b", "--point", "11,24") == 1
    assert "holds masks that were made otherwise: videos.a.prompts was" in capsys.readouterr().err
    assert track(videos, out, "a b", "--point", "11,24", "--overwrite") == 0
    assert (out / "a" / "scores.csv").stat().st_mtime_ns != made


def test_names(videos: Path) -> None:
    given = [str(videos / "a"), "films/dog.cat.mp4", "https://host/x/bird.webm?key=1", str(videos / "c.d")]
    assert video_names(given) == dict(zip(("a", "dog.cat", "bird", "c.d"), given, strict=True))
    with pytest.raises(I2VPPError, match=r"x/a.mp4 and y/a.avi have one name"):
        video_names(["x/a.mp4", "y/a.avi"])
    with pytest.raises(I2VPPError, match=r"x/\.mp4 has no name"):
        video_names(["x/.mp4"])


def test_prompts_of_each_video(videos: Path, tmp_path: Path) -> None:
    names = {name: str(videos / name) for name in ("a", "c.d")}
    common = [ObjectPrompt(obj_id=3, box=(1, 1, 9, 9))]
    found = prompts_of(names, common, tmp_path / "prompts")
    assert [[prompt.obj_id for prompt in prompts] for prompts in found.values()] == [[1, 3], [3]]
    assert [[prompt.box for prompt in prompts] for prompts in prompts_of(names, common, None).values()] == [
        [(1, 1, 9, 9)]
    ] * 2
    file = tmp_path / "prompts" / "a.json"
    assert [prompt.points for prompt in prompts_of(names, [], file)["c.d"]] == [((10, 24),)]
    with pytest.raises(PromptError, match=r"there are no prompts for .*c\.d: .*c\.d\.json does not exist"):
        prompts_of(names, [], tmp_path / "prompts")


def test_different_prompts_have_different_digests() -> None:
    mask = np.zeros((4, 4), bool)
    prompts = [
        ObjectPrompt(box=(1, 1, 9, 9)), ObjectPrompt(box=(1, 1, 9, 8)), ObjectPrompt(points=((1, 1),), labels=(1,)),
        ObjectPrompt(points=((1, 1),), labels=(0,)), ObjectPrompt(mask=mask), ObjectPrompt(mask=~mask),
    ]  # fmt: skip
    assert len({digest([prompt]) for prompt in prompts} | {digest([]), digest(prompts)}) == 8


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_share_the_videos(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        for i, frame in enumerate(FRAMES):
            Image.fromarray(frame).save(tmp_path / name / f"{i}.png")
    small = ("--point", "10,24", "--override", "model.image_size=64")
    assert track(tmp_path, tmp_path / "out", "a b c", *small, "--processes", 2) == 0
    assert all(len(masks(tmp_path / "out" / name)) == 3 for name in ("a", "b", "c"))
