"""The tools that prepare training data: lists of items, and packing into a small palette-video folder."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import REPO
from i2vpp.data.files import read_items
from i2vpp.errors import FrameDecodeError
from tools import make_file_lists, pack_dataset
from training.config import SourceConfig
from training.dataset.build import build_source
from training.dataset.clips import AnnotatedVideo


def write_videos(folder: Path, count: int = 12, frames: int = 2, size: tuple[int, int] = (60, 100)) -> Path:
    """Write palette videos named video1 and on; object 9 moves over the larger object 4. Return the frames' folder."""
    for video in range(1, count + 1):
        for t in range(frames):
            index = np.zeros(size, np.uint8)
            index[10:50, 10:70] = 4
            index[20:40, 30 + 2 * t : 50 + 2 * t] = 9
            image = np.stack([index * 25, index, np.full(size, video, np.uint8)], axis=2)
            for kind, array, suffix in (("JPEGImages", image, "jpg"), ("Annotations", index, "png")):
                path = folder / kind / f"video{video}" / f"{t:05d}.{suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(path)
    return folder / "JPEGImages"


def rle(mask: np.ndarray) -> dict[str, object]:
    """Encode a mask as uncompressed COCO RLE."""
    flat = mask.T.reshape(-1)
    changes = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *changes, flat.size]).tolist()
    return {"size": list(mask.shape), "counts": ([0] if flat[0] else []) + counts}


def write_sa1b(folder: Path) -> Path:
    """Write one image with three nested objects in the layout of SA-1B, and one without a readable image."""
    (folder / "part").mkdir(parents=True)
    Image.fromarray(np.full((80, 80, 3), 90, np.uint8)).save(folder / "part" / "sa_1.jpg")
    annotations = []
    for obj_id, side in ((30, 20), (10, 70), (20, 40)):  # not in the order of their sizes
        mask = np.zeros((80, 80), np.bool_)
        mask[:side, :side] = True
        annotations.append({"id": obj_id, "segmentation": rle(mask)})
    content = {"image": {"height": 80, "width": 80, "file_name": "sa_1.jpg"}, "annotations": annotations}
    for name in ("sa_1", "sa_2"):
        (folder / "part" / f"{name}.json").write_text(json.dumps(content))
    (folder / "part" / "sa_2.jpg").write_text("no image")
    return folder


# ---- lists


def list_items(images: Path, output: Path, *options: str, kind: str = "palette") -> list[str]:
    assert make_file_lists.main([kind, "--images", str(images), "-o", str(output), *options]) == 0
    return [line for line in output.read_text().splitlines() if not line.startswith("#")]


def test_a_list_names_all_items_in_order_and_how_it_was_made(tmp_path: Path) -> None:
    images, output = write_videos(tmp_path), tmp_path / "new" / "list.txt"
    assert list_items(images, output) == [f"video{i}" for i in range(1, 13)]
    comments = output.read_text().splitlines()[:2]
    assert comments[0] == "# 12 of 12 items of kind palette"
    assert comments[1].startswith(f"# python tools/make_file_lists.py palette --images {images}")
    assert list_items(images, output, "--limit", "3") == ["video1", "video2", "video3"]
    assert [path.name for path in output.parent.iterdir()] == ["list.txt"]


def test_random_lists_depend_on_the_seed_alone_and_the_rest_can_be_listed(tmp_path: Path) -> None:
    images, drawn, rest = write_videos(tmp_path), tmp_path / "drawn.txt", tmp_path / "rest.txt"
    first = list_items(images, drawn, "--random", "5", "--seed", "1")
    assert len(set(first)) == 5
    assert first == sorted(first, key=lambda name: int(name[5:]))
    assert list_items(images, drawn, "--random", "5", "--seed", "2") != first
    assert list_items(images, drawn, "--random", "5", "--seed", "1") == first
    assert drawn.read_text().startswith("# 5 of 12 items of kind palette, drawn with seed 1\n")
    others = list_items(images, rest, "--exclude", str(drawn))
    assert sorted([*first, *others]) == sorted(f"video{i}" for i in range(1, 13))


def test_a_list_is_what_a_source_includes(tmp_path: Path) -> None:
    images, output = write_sa1b(tmp_path / "images"), tmp_path / "list.txt"
    assert list_items(images, output, "--random", "1", kind="sa1b")[0] in {"part/sa_1", "part/sa_2"}
    source = build_source("photos", SourceConfig(kind="sa1b", images=str(images), include=str(output)))
    assert [source[i].name for i in range(len(source))] == list(read_items(output))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--random", "13"], "--random 13: there are only 12 items"),
        (["--images", "{}/none"], "none, does not exist"),
        (["--images", "{}/empty"], "source 'palette' of kind palette has no item"),
        (["--exclude", "{}/none.txt"], "cannot read the list"),
    ],
)
def test_what_cannot_be_listed_is_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    images, output = write_videos(tmp_path, frames=1), tmp_path / "list.txt"
    (tmp_path / "empty").mkdir()
    options = [option.format(tmp_path) for option in options]
    annotations = ["--annotations", str(tmp_path / "Annotations")]
    arguments = ["palette", "--images", str(images), "-o", str(output), *annotations, *options]
    assert make_file_lists.main(arguments) == make_file_lists.EXIT_FAILED
    error = capsys.readouterr().err
    assert error.startswith("make_file_lists: error: ")
    assert error.count("\n") == 1
    assert message in error
    assert not output.exists()


def test_a_command_runs_from_any_folder(tmp_path: Path) -> None:
    command = [sys.executable, str(REPO / "tools" / "pack_dataset.py"), "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "Where objects overlap (SA-1B), the smaller one is painted over the" in done.stdout


# ---- packing


def pack(output: Path, *options: str | Path) -> int:
    return pack_dataset.main(["-o", str(output), *map(str, options)])


def test_packed_videos_are_read_as_palette_videos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, output = write_videos(tmp_path / "in", count=2), tmp_path / "packed"
    assert pack(output, "--kind", "palette", "--images", images, "--short-side", "30", "--quality", "95") == 0
    source = build_source("packed", SourceConfig(kind="palette", images=str(output / "JPEGImages")))
    assert [(source[i].name, len(source[i])) for i in range(len(source))] == [("video1", 2), ("video2", 2)]
    for t in range(2):
        image, masks = source[1].image(t), source[1].masks(t)
        assert image.shape == (30, 50, 3)
        assert sorted(masks) == [1, 2]  # the larger object comes first
        assert masks[2].nonzero()[1].min() == 15 + t
        assert (masks[1] | masks[2]).sum() == 20 * 30
        assert masks[2].sum() == 10 * 10
        assert image[12:18, 19:23].mean((0, 1)) == pytest.approx([225, 9, 2], abs=8)
    size = sum(path.stat().st_size for path in output.rglob("*.*"))
    assert capsys.readouterr().out == f"{output}: 2 videos, 4 frames, {size / 1024:.1f} KiB\n"


def test_overlapping_objects_are_painted_small_over_large_and_the_largest_are_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = write_sa1b(tmp_path / "in")
    assert pack(tmp_path / "all", "--kind", "sa1b", "--images", images) == 0
    index = np.asarray(Image.open(tmp_path / "all" / "Annotations" / "part_sa_1" / "00000.png"))
    assert [int((index == value).sum()) for value in range(4)] == [80**2 - 70**2, 70**2 - 40**2, 40**2 - 20**2, 20**2]
    errors = capsys.readouterr().err
    assert f"left out: 1 videos\n  cannot read the image {images}/part/sa_2.jpg" in errors
    assert pack(tmp_path / "two", "--kind", "sa1b", "--images", images, "--max-objects", "2") == 0
    index = np.asarray(Image.open(tmp_path / "two" / "Annotations" / "part_sa_1" / "00000.png"))
    assert [int((index == value).sum()) for value in range(4)] == [80**2 - 70**2, 70**2 - 40**2, 40**2, 0]


def test_frames_can_be_left_out(tmp_path: Path) -> None:
    images, output = write_videos(tmp_path / "in", count=1, frames=6), tmp_path / "packed"
    assert pack(output, "--kind", "palette", "--images", images, "--every", "3") == 0
    assert sorted(path.name for path in output.rglob("*.png")) == ["00000.png", "00003.png"]
    packed = build_source("packed", SourceConfig(kind="palette", images=str(output / "JPEGImages")))[0]
    assert packed.masks(1)[2].nonzero()[1].min() == 30 + 2 * 3


def test_frames_can_be_webp_which_is_smaller(tmp_path: Path) -> None:
    images = write_videos(tmp_path / "in", count=1)
    sizes = {}
    for kind, suffix in pack_dataset.FORMATS.items():
        output = tmp_path / kind
        assert pack(output, "--kind", "palette", "--images", images, "--format", kind) == 0
        frames = sorted((output / "JPEGImages" / "video1").iterdir())
        assert [path.name for path in frames] == [f"00000{suffix}", f"00001{suffix}"]
        sizes[kind] = sum(path.stat().st_size for path in frames)
        with Image.open(frames[0]) as image:
            assert image.format == kind.upper()
        video = build_source("packed", SourceConfig(kind="palette", images=str(output / "JPEGImages")))[0]
        assert video.image(1)[25:35, 38:46].mean((0, 1)) == pytest.approx([225, 9, 2], abs=25)
    assert sizes["webp"] < sizes["jpeg"]


def test_a_zip_file_holds_the_same_and_is_the_same_each_time(tmp_path: Path) -> None:
    images = write_videos(tmp_path / "in", count=2)
    outputs = [tmp_path / "one.zip", tmp_path / "two.zip", tmp_path / "folder"]
    for output in outputs:
        assert pack(output, "--kind", "palette", "--images", images) == 0
    assert outputs[0].read_bytes() == outputs[1].read_bytes()
    with zipfile.ZipFile(outputs[0]) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    folder = outputs[2]
    there = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.*")}
    assert files == there
    assert len(files) == 8


def test_a_recipe_packs_each_of_its_sources_into_a_folder(tmp_path: Path) -> None:
    videos, photos = write_videos(tmp_path / "videos", count=1), write_sa1b(tmp_path / "photos")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "defaults: [train_schema, i2vpp-256, _self_]\ndata:\n  sources:\n"
        f"    videos: {{kind: palette, images: {videos}}}\n    photos: {{kind: sa1b, images: {photos}}}\n"
    )
    assert pack(tmp_path / "packed", "-c", recipe) == 0
    found = {path.relative_to(tmp_path / "packed").as_posix() for path in (tmp_path / "packed").rglob("*.jpg")}
    assert found == {
        "videos/JPEGImages/video1/00000.jpg",
        "videos/JPEGImages/video1/00001.jpg",
        "photos/JPEGImages/part_sa_1/00000.jpg",
    }


def test_a_failure_leaves_nothing_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, output = write_videos(tmp_path / "in", count=1), tmp_path / "out" / "packed.zip"
    for frame in images.rglob("*.jpg"):
        frame.write_text("no image")
    assert pack(output, "--kind", "palette", "--images", images) == pack_dataset.EXIT_FAILED
    assert "nothing could be packed; the first of 1 failures: cannot read the image" in capsys.readouterr().err
    assert list(output.parent.iterdir()) == []
    output.write_text("mine")
    assert pack(output, "--kind", "palette", "--images", images) == pack_dataset.EXIT_FAILED
    assert f"{output} exists already" in capsys.readouterr().err
    assert output.read_text() == "mine"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (FrameDecodeError("clip.mp4: frame 3 cannot be decoded"), "clip.mp4: frame 3 cannot be decoded"),
        (ZeroDivisionError("division by zero"), "video2 cannot be read (ZeroDivisionError: division by zero)"),
        (MemoryError(), "video2 cannot be read: there is not enough memory"),
    ],
)
def test_any_error_of_one_item_leaves_out_that_item_alone(
    error: BaseException,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    images, output = write_videos(tmp_path / "in", count=3), tmp_path / "packed"
    whole = pack_dataset.pack_video

    def pack_video(video: AnnotatedVideo, packing: pack_dataset.Packing) -> dict[str, bytes]:
        if video.name == "video2":
            raise error
        return whole(video, packing)

    monkeypatch.setattr(pack_dataset, "pack_video", pack_video)
    assert pack(output, "--kind", "palette", "--images", images) == 0
    assert sorted(path.name for path in (output / "JPEGImages").iterdir()) == ["video1", "video3"]
    assert f"left out: 1 videos\n  {message}\n" in capsys.readouterr().err


def test_values_of_a_recipe_can_be_changed(tmp_path: Path) -> None:
    images, recipe = write_videos(tmp_path / "in", count=1), tmp_path / "recipe.yaml"
    recipe.write_text(
        "defaults: [train_schema, i2vpp-256, _self_]\ndata:\n  sources:\n    own: {kind: palette, images: elsewhere}\n"
    )
    assert pack(tmp_path / "packed", "-c", recipe, "--override", f"data.sources.own.images={images}") == 0
    assert (tmp_path / "packed" / "own" / "JPEGImages" / "video1").is_dir()
