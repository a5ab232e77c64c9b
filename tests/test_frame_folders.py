"""Which files of a folder are frames: one rule for the library, the annotator, training and evaluation."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from i2vpp.annotate.library import open_library
from i2vpp.data.files import list_images
from i2vpp.data.frame_folders import list_frames
from i2vpp.errors import I2VPPError, VideoError
from i2vpp.session.video import open_source
from test_pvs.benchmarks import open_folder
from test_pvs.sav import SavObject

SIZE = 12, 16
MODES = {"colour": "RGB", "grey": "L", "index": "P", "binary": "1"}


def write(folder: Path, files: Mapping[str, str]) -> Path:
    """Make image files of the looks in MODES, by name; anything else becomes the bytes of a file."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for name, look in files.items():
        if look not in MODES:
            (folder / name).write_text(look)
        elif look in ("colour", "grey"):
            pixels = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
            Image.fromarray(pixels).convert(MODES[look]).save(folder / name)
        else:
            mask = Image.fromarray(rng.integers(0, 2, SIZE, dtype=np.uint8))
            if look == "index":
                mask.putpalette([0, 0, 0, 128, 0, 0])
            (mask if look == "index" else mask.point(lambda value: 255 * value).convert("1")).save(folder / name)
    return folder


def library(folder: Path) -> list[str]:
    return list(open_source(folder).names or ())


def annotator(folder: Path) -> list[str]:
    opened = open_library(folder)
    assert [video.path for video in opened.videos] == [folder.resolve()]
    return list(opened.frame_names(opened.videos[0]) or ())


def training(folder: Path) -> list[str]:
    return list(list_images(folder))


def evaluation(folder: Path) -> list[str]:
    return list(SavObject(video="a", name="0", frames=folder, masks=folder).images())


READERS = [library, annotator, training, evaluation]
FRAMES = {f"{i:05d}.jpg": "colour" for i in range(3)}
NAMES = ["00000", "00001", "00002"]

FOLDERS: dict[str, tuple[dict[str, str], list[str]]] = {
    "frames alone": (FRAMES, NAMES),
    "index masks": (FRAMES | {f"{name}.png": "index" for name in NAMES}, NAMES),
    "binary masks": (FRAMES | {f"{name}.png": "binary" for name in NAMES}, NAMES),
    "grey masks": (FRAMES | {f"{name}.png": "grey" for name in NAMES}, NAMES),
    "masks in colour": (FRAMES | {f"{name}.png": "colour" for name in NAMES}, NAMES),
    "one mask": (FRAMES | {"00000.png": "index"}, NAMES),
    "masks in capitals": ({"Shot1.JPG": "colour", "shot1.PNG": "index", "Shot2.JPG": "colour"}, ["Shot1", "Shot2"]),
    "png frames, jpg masks": ({"1.png": "colour", "1.jpg": "grey", "2.png": "colour", "2.jpg": "grey"}, ["1", "2"]),
    "png frames, bmp masks": ({"1.png": "colour", "1.bmp": "binary", "2.png": "colour"}, ["1", "2"]),
    "grey frames, index masks": ({"1.png": "index", "1.tif": "grey", "2.png": "index", "2.tif": "grey"}, ["1", "2"]),
    "grey frames, grey masks": ({"1.png": "grey", "1.jpg": "grey", "2.png": "grey", "2.jpg": "grey"}, ["1", "2"]),
    "a stray preview": ({"1.png": "colour", "2.png": "colour", "3.png": "colour", "2.jpg": "colour"}, ["1", "2", "3"]),
    "two formats": ({"a1.jpg": "colour", "a2.png": "colour", "a10.webp": "colour"}, ["a1", "a2", "a10"]),
    "two grey formats": ({"a1.jpg": "grey", "a2.png": "grey"}, ["a1", "a2"]),
    "palette frames": ({"a1.png": "index", "a2.png": "index"}, ["a1", "a2"]),
    "tiff": ({"1.tif": "grey", "2.tiff": "grey"}, ["1", "2"]),
    "hidden and foreign files": (
        FRAMES | {"._00000.jpg": "AppleDouble", ".00003.jpg": "colour", "Thumbs.db": "x", "notes.txt": "x"},
        NAMES,
    ),
    "natural order": ({"f_10.jpg": "colour", "f_9.jpg": "colour", "F_11.jpg": "colour"}, ["f_9", "f_10", "F_11"]),
    "gaps": ({"00010.jpg": "colour", "00005.jpg": "colour"}, ["00005", "00010"]),
    "spaces and dots": (
        {"my shot.v1.2.jpg": "colour", "my shot.v1.10.jpg": "colour", "my shot.v1.2.png": "index"},
        ["my shot.v1.2", "my shot.v1.10"],
    ),
    "two cases, one format": ({"a.jpg": "colour", "A.jpg": "colour"}, ["A", "a"]),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("case", FOLDERS)
def test_all_take_the_same_files_for_frames(tmp_path: Path, case: str, reader: Callable[[Path], list[str]]) -> None:
    files, expected = FOLDERS[case]
    folder = write(tmp_path / "frames", files)
    (folder / "5.jpg").mkdir()  # a folder is no image, whatever it is called
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert reader(folder) == expected


ORPHANS = {
    "palette images": FRAMES | {"mask_0.png": "index", "mask_1.png": "index"},
    "grey images": FRAMES | {"matte.png": "grey"},
    "a mask too many": {f"{i:05d}.jpg": "grey" for i in range(3)} | {"00000.png": "grey", "mask_1.png": "grey"},
}


@pytest.mark.parametrize("case", ORPHANS)
def test_masks_without_a_frame_are_left_out_and_named(tmp_path: Path, case: str) -> None:
    folder = write(tmp_path / "frames", ORPHANS[case])
    with pytest.warns(UserWarning, match=r"frames: \d images are taken for masks, .* \((mask_\d|matte)\.png") as said:
        assert list(list_frames(folder)) == NAMES
    assert [warning.filename for warning in said] == [__file__]


@pytest.mark.parametrize("reader", READERS)
def test_two_files_of_one_name_and_format_are_refused(tmp_path: Path, reader: Callable[[Path], list[str]]) -> None:
    folder = write(tmp_path / "frames", {"a.jpg": "colour", "a.jpeg": "colour"})
    with pytest.raises(I2VPPError, match=r"a\.jpe?g and a\.jpe?g stand for the same item; keep one of them"):
        reader(folder)


def test_a_folder_of_folders_says_which_of_them_to_give(tmp_path: Path) -> None:
    write(tmp_path / "clip/frames", FRAMES)
    write(tmp_path / "clip/masks", {"00000.png": "index"})
    with pytest.raises(VideoError, match=r"holds no image; .*; its folders frames, masks hold images: give one of"):
        open_source(tmp_path / "clip")


def test_subfolders_keep_masks_apart_each_for_itself(tmp_path: Path) -> None:
    write(tmp_path / "a/one", FRAMES | {"00000.png": "index"})
    write(tmp_path / "a/two", {"x.png": "index"})
    write(tmp_path / "a/.hidden", {"x.png": "index"})
    assert list(list_frames(tmp_path / "a", recursive=True)) == [*(f"one/{name}" for name in NAMES), "two/x"]
    assert list(list_frames(tmp_path / "a")) == []


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"cannot list the folder .*nothing: No such file"):
        list_frames(tmp_path / "nothing")


def test_evaluation_finds_frames_and_masks_in_one_folder(tmp_path: Path) -> None:
    folder = write(tmp_path / "clip", FRAMES | {"00000.png": "index"})
    video = open_folder(folder, folder).open("clip")
    assert list(video.frames) == NAMES
    assert all(path.suffix == ".jpg" for path in video.frames.values())
    assert [path.name for path in video.annotations.values()] == ["00000.png"]
