"""The validator of datasets: counts, every broken item, exit status."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from data_files import HEIGHT, SQUARE, WIDTH, build, rle, write_image, write_json, write_mask
from training.dataset import validate
from training.dataset.build import build_source
from training.dataset.file_source import FileVideo
from training.dataset.palette import PaletteVideos
from training.dataset.validate import Problem, Report, main, validate_source


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Three whole palette videos of two frames and two objects; the folder of frames."""
    images = tmp_path / "JPEGImages"
    for video in ("a", "b", "c"):
        for t in range(2):
            write_image(images / video / f"{t}.jpg")
            write_mask(tmp_path / "Annotations" / video / f"{t}.png", np.where(SQUARE, 1 + t, 0))
    return images


def break_all(videos: Path) -> list[tuple[str, str]]:
    """Break the videos and add more broken ones; return their names and what must be said about them, in order."""
    annotations = videos.parent / "Annotations"
    (videos / "a" / "0.jpg").write_bytes(b"no image")
    write_mask(annotations / "a" / "1.png", np.ones((HEIGHT, WIDTH + 1)))
    (annotations / "b" / "0.png").write_bytes(b"")
    write_image(videos / "c" / "1.jpg", 12, 16)
    write_mask(annotations / "c" / "1.png", np.ones((12, 16)))
    write_image(videos / "d" / "0.jpg")
    (annotations / "d").mkdir()
    for t in range(2):
        write_image(videos / "e" / f"{t}.jpg")
        write_mask(annotations / "e" / f"{t}.png", np.zeros((HEIGHT, WIDTH)))
    return [
        ("a", "cannot read the image"),
        ("a", "1.png is 9 x 6 pixels, but its image"),
        ("b", "0.png: cannot identify"),
        ("c", "the annotated frames have different sizes: 8 x 6 from 0 on, 16 x 12 from 1 on"),
        ("d", "holds no annotation"),
        ("e", "no object on any frame (0 is background; in palette masks 255 means `ignore`)"),
    ]


def test_a_whole_dataset(videos: Path) -> None:
    report = validate_source(build("palette", videos))
    assert report == Report(source="mine", items=3, frames=6, objects=6)
    assert report.broken == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_every_broken_item_is_reported(videos: Path, workers: int) -> None:
    expected = break_all(videos)
    report = validate_source(build("palette", videos), workers=workers)
    assert [problem.item for problem in report.problems] == [item for item, _ in expected]
    for problem, (_, words) in zip(report.problems, expected, strict=True):
        assert words in problem.problem
    assert (report.items, report.frames, report.objects, report.broken) == (5, 5, 2, 5)


def test_soft_edges_are_a_mistake_and_no_objects(videos: Path) -> None:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    values = 255 - 36 * np.hypot(y - 3, x - 4)
    write_mask(videos.parent / "Annotations" / "b" / "1.png", values.clip(0, 255), "L")
    report = validate_source(build("palette", videos))
    assert (report.items, report.objects, report.broken) == (3, 5, 1)
    (problem,) = report.problems
    assert problem.item == "b"
    assert re.search(r"mask .*b/1\.png has soft edges, .* grey values, which are no objects", problem.problem)


def test_objects_that_never_appear(tmp_path: Path) -> None:
    for name in ("good", "half", "none"):
        write_image(tmp_path / f"{name}.jpg")
    empty = {"id": 8, "segmentation": rle(SQUARE & False)}
    there = {"id": 9, "segmentation": rle(SQUARE)}
    for name, objects in (("good", [there]), ("half", [empty, there]), ("none", [empty])):
        write_json(tmp_path / f"{name}.json", {"annotations": objects})
    report = validate_source(build("sa1b", tmp_path))
    assert report.problems == (
        Problem(item="half", problem="annotated objects that never appear: 8"),
        Problem(item="none", problem=f"no object in the annotation of {tmp_path / 'none.jpg'}"),
    )
    assert (report.items, report.frames, report.objects) == (3, 2, 2)


def test_the_command_on_a_whole_dataset(videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--kind", "palette", "--images", str(videos), "--processes", "0"]) == 0
    assert capsys.readouterr().out == "palette: 3 items, 6 frames, 6 objects; nothing broken\n"


def test_the_command_on_a_broken_dataset(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = break_all(videos)
    file = tmp_path / "reports" / "report.json"
    assert main(["--kind", "palette", "--images", str(videos), "--workers", "0", "--json", str(file)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "palette: 5 items, 5 frames, 2 objects; 5 broken"
    assert len(lines) == len(expected) + 1
    assert lines[0].startswith("BROKEN a: cannot read the image")
    (report,) = json.loads(file.read_text())["sources"]
    assert {key: report[key] for key in ("source", "items", "frames", "objects")} == {
        "source": "palette", "items": 5, "frames": 5, "objects": 2,
    }  # fmt: skip
    assert [problem["item"] for problem in report["problems"]] == [item for item, _ in expected]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("where", ["_open", "image", "masks", "build"])
def test_whatever_is_raised_is_a_problem_of_that_item(
    videos: Path, where: str, workers: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OverflowError("int too large")

    if where == "build":
        monkeypatch.setattr(validate, "build_source", fail)
    else:
        monkeypatch.setattr(PaletteVideos if where == "_open" else FileVideo, where, fail)
    assert main(["--kind", "palette", "--images", str(videos), "--workers", str(workers)]) == 1
    said = capsys.readouterr()
    broken = {"build": 1, "_open": 3, "image": 6, "masks": 6}[where]
    assert said.out.count("OverflowError: int too large") == broken
    assert "Traceback" not in said.err
    monkeypatch.setattr(PaletteVideos, "_open", lambda *_: (_ for _ in ()).throw(MemoryError("no memory")))
    monkeypatch.setattr(validate, "build_source", build_source)
    with pytest.raises(MemoryError, match="no memory"):
        validate_source(build("palette", videos))


def test_a_folder_that_is_missing_is_broken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--kind", "image_mask", "--images", str(tmp_path / "gone"), "--workers", "0"]) == 1
    assert "gone, does not exist\nimage_mask: 0 items" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "one of the arguments --kind -c/--config is required"),
        (["--kind", "davis"], "invalid choice: 'davis'"),
        (["--kind", "palette"], "error: --kind palette needs --images"),
        (["--kind", "palette", "--images", "x", "--workers", "-1"], "error: --processes must not be negative; got -1"),
        (["--kind", "palette", "--images", "x", "run.seed=1"], "'run.seed=1': only recipes (-c) can be changed"),
        (["-c", "x", "--images", "y"], "error: --images: a recipe (-c) names its own files"),
        (["-c", "no-such-recipe"], "no-such-recipe"),
    ],
)
def test_wrong_usage(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_all_datasets_of_a_recipe(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        "defaults: [train_schema, i2vpp-256, _self_]\n"
        "data:\n"
        "  sources:\n"
        f"    lost: {{kind: sa1b, images: {tmp_path / 'gone'}}}\n"
        f"    mine: {{kind: palette, images: {videos}}}\n"
        "    toys: {kind: procedural}\n"
        f"validation: {{images: {videos}, annotations: {videos.parent / 'Annotations'}}}\n"
    )
    assert main(["-c", str(recipe), "--workers", "0"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"BROKEN lost: the folder of images, {tmp_path / 'gone'}, does not exist",
        "lost: 0 items, 0 frames, 0 objects; 1 broken",
        "mine: 3 items, 6 frames, 6 objects; nothing broken",
        "(validation): 3 items, 6 frames, 6 objects; nothing broken",
    ]
    assert main(["-c", str(recipe), "--workers", "0", f"data.sources.lost={{kind: palette, images: {videos}}}"]) == 0
    override = f"data.sources.lost={{kind: palette, images: {videos}}}"
    assert main(["-c", str(recipe), "--processes", "0", "--override", override]) == 0


def test_a_recipe_without_files(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-c", "i2vpp-smoke"]) == 0
    assert capsys.readouterr().out == "the recipe i2vpp-smoke reads no files\n"
