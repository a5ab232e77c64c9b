"""Where the files of the VOS benchmarks lie, which objects they give on which frame, and which frames they want."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import REPO
from data_files import HEIGHT, SQUARE, WIDTH, write_image, write_json, write_mask
from i2vpp.errors import DataError, NoDataError
from test_pvs.benchmarks import BENCHMARKS, VosVideos, open_benchmark, open_folder

OTHER = np.zeros_like(SQUARE)
OTHER[4:, 5:] = True


def write_video(folder: Path, images: str, masks: str, *, stems: tuple[str, ...], given: dict[str, np.ndarray]) -> None:
    for stem in stems:
        write_image(folder / images / f"{stem}.jpg")
    for stem, values in given.items():
        write_mask(folder / masks / f"{stem}.png", values)


def five(*given: np.ndarray) -> dict[str, object]:
    """Five frames, the first of which have masks."""
    stems = tuple(f"{i:05d}" for i in range(5))
    return {"stems": stems, "given": dict(zip(stems, given, strict=False))}


def named(root: Path, name: str, split: str | None = None) -> VosVideos:
    return open_benchmark(BENCHMARKS[name], root, split)


def write_list(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("lists", ["ImageSets/2016/val.txt", "ImageSets/val.txt"])
@pytest.mark.parametrize("values", [255, 1, None], ids=["DAVIS 2016", "index", "DAVIS 2017"])
def test_davis_2016_takes_all_objects_for_one(tmp_path, lists, values):
    both = (SQUARE | OTHER) * values if values else SQUARE * 1 + OTHER * 2
    masks = five(np.zeros_like(SQUARE), both, SQUARE)
    for video in ("dog", "cat 10", "cat 9", "unlisted"):
        write_video(tmp_path, f"JPEGImages/480p/{video}", f"Annotations/480p/{video}", **masks)
    write_list(tmp_path / lists, "dog", "cat 10", "cat 9")
    videos = named(tmp_path, "davis2016")
    assert list(videos.folders) == ["cat 9", "cat 10", "dog"]
    dog = videos.open("dog")
    assert (dog.length, list(dog.written.values())) == (5, [f"{i:05d}" for i in range(5)])
    (given,) = dog.objects()
    assert (given.obj_id, given.frame_idx) == (1, 1)
    np.testing.assert_array_equal(given.mask, SQUARE | OTHER)


def test_masks_of_another_size_are_resized_on_demand(tmp_path):
    write_video(tmp_path, "images/v", "masks/v", **five((SQUARE * 3).repeat(2, 0).repeat(2, 1)))
    videos = open_folder(tmp_path / "images", tmp_path / "masks")
    with pytest.raises(DataError, match=r"mask .*\.png is 16 x 12 pixels, but its image .* is 8 x 6"):
        videos.open("v").objects()
    (given,) = replace(videos, resize_masks=True).open("v").objects()
    assert given.obj_id == 3
    np.testing.assert_array_equal(given.mask, SQUARE)


def test_soft_edges_are_refused_and_255_alone_is_an_object(tmp_path):
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    soft = (255 - 36 * np.hypot(y - 3, x - 4)).clip(0, 255).astype(np.uint8)
    write_video(tmp_path, "images/v", "masks/v", **five(SQUARE * 255))
    (given,) = open_folder(tmp_path / "images", tmp_path / "masks").open("v").objects()
    assert given.obj_id == 1
    np.testing.assert_array_equal(given.mask, SQUARE)
    Image.fromarray(soft).save(next((tmp_path / "masks" / "v").glob("*.png")))
    with pytest.raises(DataError, match=r"mask .*\.png has soft edges"):
        open_folder(tmp_path / "images", tmp_path / "masks").open("v").objects()


def test_the_lists_of_the_first_davis(tmp_path):
    write_video(tmp_path, "JPEGImages/480p/dog", "Annotations/480p/dog", **five(SQUARE))
    lines = [f"/JPEGImages/480p/dog/0000{i}.jpg /Annotations/480p/dog/0000{i}.png" for i in range(5)]
    write_list(tmp_path / "ImageSets/480p/val.txt", *lines)
    assert list(named(tmp_path, "davis2016").folders) == ["dog"]


@pytest.mark.parametrize("split", [None, "test-dev"])
def test_davis_2017_gives_each_object_once_where_it_first_appears(tmp_path, split):
    """Later masks are true, too, and must not be used; 255 is no object."""
    first = SQUARE * 3
    later = np.where(OTHER, 2, 0) + SQUARE[::-1] * 3
    write_video(tmp_path, "JPEGImages/480p/a", "Annotations/480p/a", **five(first, later, OTHER * 255))
    write_list(tmp_path / f"ImageSets/2017/{split or 'val'}.txt", "a  # one", "")
    three, two = named(tmp_path, "davis2017", split).open("a").objects()
    assert [(given.obj_id, given.frame_idx) for given in (three, two)] == [(3, 0), (2, 1)]
    np.testing.assert_array_equal(three.mask, SQUARE)
    np.testing.assert_array_equal(two.mask, later == 2)


@pytest.mark.parametrize(("name", "folder"), [("mose", "valid"), ("lvos", "valid"), ("lvos", "val"), ("lvos", "test")])
def test_folders_of_splits(tmp_path, name, folder):
    write_video(tmp_path / folder, "JPEGImages/a", "Annotations/a", **five(SQUARE, OTHER * 7))
    videos = named(tmp_path, name, "test" if folder == "test" else None)
    assert list(videos.folders) == ["a"]
    assert [(given.obj_id, given.frame_idx) for given in videos.open("a").objects()] == [(1, 0), (7, 1)]
    assert len(videos.open("a").written) == 5


@pytest.mark.parametrize(("split", "step"), [("valid", 5), ("valid_all_frames", 1)])
def test_youtube_vos_wants_the_frames_of_its_meta_file(tmp_path, split, step):
    for part, by in (("valid", 5), ("valid_all_frames", 1)):
        for i in range(0, 31, by):
            write_image(tmp_path / part / "JPEGImages" / "v" / f"{i:05d}.jpg")
    write_mask(tmp_path / "valid/Annotations/v/00000.png", SQUARE)
    write_mask(tmp_path / "valid/Annotations/v/00010.png", OTHER * 2)
    objects = {
        "1": {"category": "dog", "frames": ["00000", "00005"]},
        "2": {"category": "cat", "frames": ["00010", "00020"]},
    }
    write_json(tmp_path / "valid/meta.json", {"videos": {"v": {"objects": objects}}})
    video = named(tmp_path, "ytvos2019", split).open("v")
    assert len(video.frames) == 30 // step + 1
    assert video.written == {0: "00000", 5 // step: "00005", 10 // step: "00010", 20 // step: "00020"}
    assert video.length == 20 // step + 1, "frames after the last wanted one need not be tracked"
    assert [(given.obj_id, given.frame_idx) for given in video.objects()] == [(1, 0), (2, 10 // step)]


def test_an_own_folder_of_one_video(tmp_path):
    write_video(tmp_path, "clip", "masks", stems=("b2", "b10", "b1"), given={"b2": SQUARE * 4})
    videos = open_folder(tmp_path / "clip", tmp_path / "masks")
    assert list(videos.folders) == ["clip"]
    video = videos.open("clip")
    assert list(video.frames) == ["b1", "b2", "b10"]
    assert [(given.obj_id, given.frame_idx) for given in video.objects()] == [(4, 1)]


def test_an_own_folder_of_videos(tmp_path):
    for name in ("a", "b", "c"):
        write_video(tmp_path, f"images/{name}", f"masks/{name}", **five(SQUARE))
    write_image(tmp_path / "images/without masks/0.jpg")
    assert list(open_folder(tmp_path / "images", tmp_path / "masks").folders) == ["a", "b", "c"]
    write_list(tmp_path / "names.txt", "c", "b")
    videos = open_folder(tmp_path / "images", tmp_path / "masks", tmp_path / "names.txt")
    assert list(videos.folders) == ["b", "c"]


# ---- what may be wrong


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(NoDataError, match=r"DAVIS 2017 has no split 'valid'; allowed: val, train, test-dev, test-chal"):
        named(tmp_path, "davis2017", "valid")
    with pytest.raises(NoDataError, match=r"the folder of MOSE, .*/none, does not exist"):
        named(tmp_path / "none", "mose")
    with pytest.raises(NoDataError, match=r"lacks valid/JPEGImages and val/JPEGImages"):
        named(tmp_path, "lvos")
    (tmp_path / "valid/JPEGImages/v").mkdir(parents=True)
    (tmp_path / "valid/Annotations").mkdir()
    with pytest.raises(NoDataError, match=r"valid/Annotations holds no video of MOSE; expected <video>/00000\.png"):
        named(tmp_path, "mose")
    (tmp_path / "valid/Annotations/v").mkdir()
    with pytest.raises(NoDataError, match=r"YouTube-VOS 2018 or not complete: it lacks valid/meta\.json"):
        named(tmp_path, "ytvos2018")
    write_json(tmp_path / "valid/meta.json", {"videos": ["v"]})
    with pytest.raises(DataError, match=r"valid/meta\.json is no meta\.json of YouTube-VOS, which holds"):
        named(tmp_path, "ytvos2018")


def test_own_folders_without_a_video(tmp_path):
    (tmp_path / "images").mkdir()
    with pytest.raises(NoDataError, match=r"the folder of masks, .*/masks, does not exist"):
        open_folder(tmp_path / "images", tmp_path / "masks")
    (tmp_path / "masks").mkdir()
    with pytest.raises(NoDataError, match=r"no video in .*/images has masks in .*/masks; expected <frames>/\*\.jpg"):
        open_folder(tmp_path / "images", tmp_path / "masks")
    write_image(tmp_path / "images" / "0.jpg")
    with pytest.raises(NoDataError, match=r"images holds the frames of one video; a list of videos \(a\.txt\)"):
        open_folder(tmp_path / "images", tmp_path / "masks", Path("a.txt"))


@pytest.mark.parametrize(
    ("stems", "given", "message"),
    [
        ((), {"0": SQUARE}, r"cannot list the folder .*/images/v"),
        (("0", "1"), {}, r"cannot list the folder .*/masks/v"),
        (
            ("0", "1"),
            {"1": SQUARE, "2": SQUARE},
            r"no frame in .*/images/v for 1 masks in .*/masks/v, the first is 2\.p",
        ),
        (("0", "1"), {"0": SQUARE * 0, "1": SQUARE * 0}, r"video v: no object in its masks, such as .*0\.png"),
        (("0", "1"), {"0": np.ones((HEIGHT, WIDTH + 1))}, r"mask .*0\.png is 9 x 6 pixels, but its image .* is 8 x 6"),
    ],
)
def test_a_broken_video_does_not_hinder_the_others(tmp_path, stems, given, message):
    write_video(tmp_path, "images/good", "masks/good", **five(SQUARE))
    write_video(tmp_path, "images/v", "masks/v", stems=stems, given=given)
    write_list(tmp_path / "names.txt", "good", "v")
    videos = open_folder(tmp_path / "images", tmp_path / "masks", tmp_path / "names.txt")
    assert len(videos.open("good").objects()) == 1
    with pytest.raises(DataError, match=message):
        videos.open("v").objects()


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (["00000", "00007", "00009"], r"lacks 2 frames that the benchmark's meta\.json requires, the first is 00007"),
        ([], r"meta\.json requires no frame of the video v"),
    ],
)
def test_required_frames_that_are_not_there(tmp_path, frames, message):
    write_video(tmp_path / "valid", "JPEGImages/v", "Annotations/v", **five(SQUARE))
    write_json(tmp_path / "valid/meta.json", {"videos": {"v": {"objects": {"1": {"frames": frames}}}}})
    with pytest.raises(DataError, match=message):
        named(tmp_path, "ytvos2018").open("v")


def test_the_guide_names_all_datasets_and_splits():
    guide = (REPO / "docs" / "evaluation.md").read_text(encoding="utf-8")
    rows = [line for line in guide.splitlines() if line.startswith("| `")]
    for name, benchmark in BENCHMARKS.items():
        (row,) = (row for row in rows if f"`{name}`" in row.split("|")[1])
        for split in benchmark.splits:
            assert f"`{split}`" in row, f"{name} has a split {split}"
