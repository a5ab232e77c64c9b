from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pycocotools.mask as coco
import pytest
from PIL import Image

from i2vpp.errors import DataError, NoDataError
from media import number_of, numbered, write_video
from training.config import ClipConfig
from training.dataset.sampling import draw_clip
from training.dataset.sav import SavVideo, SavVideos, read_masklets

HEIGHT, WIDTH, NUM_FRAMES = 32, 64, 10
ANNOTATED = (0, 4, 8)


def rle(mask: np.ndarray) -> dict[str, object]:
    return {"size": list(mask.shape), "counts": coco.encode(np.asfortranarray(mask, np.uint8))["counts"].decode()}


def masklets(num_objects: int = 2) -> np.ndarray:
    """Draw masks [annotated frame, object, H, W]: a bar per object, which shrinks; object 1 is absent on frame 1."""
    masks = np.zeros((len(ANNOTATED), num_objects, HEIGHT, WIDTH), bool)
    for t, k in np.ndindex(masks.shape[:2]):
        if (t, k) != (1, 1):
            masks[t, k, 5 * k : 5 * k + 4, : 40 - 10 * t] = True
    return masks


def content(masks: np.ndarray, **changes: object) -> dict[str, object]:
    """Make the content of an annotation file; SA-V writes whole numbers as floats."""
    keys = {
        "video_frame_count": float(NUM_FRAMES),
        "video_height": float(HEIGHT),
        "video_width": float(WIDTH),
        "masklet": [[rle(mask) for mask in frame] for frame in masks],
    }
    return {**keys, **changes}


def write_json(path: Path, masks: np.ndarray | None = None, **changes: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content(masklets() if masks is None else masks, **changes)))
    return path


def write_frames(folder: Path, indices: range) -> Path:
    folder.mkdir(parents=True)
    frames = numbered(max(indices) + 1, HEIGHT, WIDTH)
    for i in indices:
        Image.fromarray(frames[i]).save(folder / f"{i:05d}.jpg")
    return folder


def source(images: Path, annotations: Path | None = None, **names: frozenset[str]) -> SavVideos:
    include, exclude = names.get("include"), names.get("exclude", frozenset())
    return SavVideos(images, annotations, include=include, exclude=exclude, name="sav")


@pytest.fixture(scope="module")
def mp4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("mp4") / "sav_000007.mp4", numbered(NUM_FRAMES, HEIGHT, WIDTH))


# ---- one video


@pytest.mark.parametrize("kind", ["mp4", "all frames", "every 4th frame"])
def test_frames_and_masks(tmp_path, mp4, kind):
    if kind == "mp4":
        frames = mp4
    else:
        frames = write_frames(tmp_path / "sav_000007", range(0, NUM_FRAMES, 1 if kind == "all frames" else 4))
    video = SavVideo("sav_000007", frames, [write_json(tmp_path / "sav_000007_manual.json")])
    assert (video.name, len(video), video.obj_ids) == ("sav_000007", 3, [1, 2])
    assert [number_of(video.image(t)) for t in (2, 0, 1)] == [8, 0, 4]
    assert video.image(0).shape == (HEIGHT, WIDTH, 3)
    expected = masklets()
    for t, present in enumerate([{1, 2}, {1}, {1, 2}]):
        masks = video.masks(t)
        assert set(masks) == present
        for obj_id, mask in masks.items():
            assert mask.dtype == np.bool_
            assert np.array_equal(mask, expected[t, obj_id - 1])
    for read in (video.image, video.masks):
        for t in (3, -1):
            with pytest.raises(IndexError, match=f"sav_000007 has 3 annotated frames, not a frame {t}"):
                read(t)


def test_manual_and_automatic_masklets_have_different_ids(tmp_path, mp4):
    manual, auto = masklets(2), masklets(3)[..., ::-1]
    files = [write_json(tmp_path / "v_manual.json", manual), write_json(tmp_path / "v_auto.json", auto)]
    video = SavVideo("v", mp4, files)
    assert video.obj_ids == [1, 2, 10_001, 10_002, 10_003]
    masks = video.masks(0)
    assert np.array_equal(masks[2], manual[0, 1])
    assert np.array_equal(masks[10_003], auto[0, 2])
    assert SavVideo("v", mp4, files[1:]).obj_ids == [10_001, 10_002, 10_003]


def test_a_video_without_objects(tmp_path, mp4):
    video = SavVideo("v", mp4, [write_json(tmp_path / "v_auto.json", masklets(0))])
    assert (len(video), video.obj_ids, dict(video.masks(2))) == (3, [], {})


# ---- a folder of videos


def test_videos_are_found_at_any_depth_without_being_opened(tmp_path):
    for name in ("sav_000/sav_000010.mp4", "sav_000/sav_000002.mp4", "sav_050/deep/sav_050001.mp4", "readme.json"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"not a video")
    (tmp_path / "sheet.png").touch()  # is no frame: frames are named by a number
    (tmp_path / ".trash").mkdir()
    (tmp_path / ".trash" / "gone.mp4").touch()
    write_frames(tmp_path / "sav_001" / "sav_001000", range(1))
    found = source(tmp_path)
    assert found.names == ["sav_000002", "sav_000010", "sav_001000", "sav_050001"]
    assert len(found) == 4
    assert source(tmp_path, exclude=frozenset({"sav_000010", "else"})).names == [
        "sav_000002",
        "sav_001000",
        "sav_050001",
    ]
    assert source(tmp_path, include=frozenset({"sav_000010"})).names == ["sav_000010"]


@pytest.mark.parametrize("beside", [True, False])
def test_annotations_beside_the_videos_or_elsewhere(tmp_path, mp4, beside):
    videos = tmp_path / "videos"
    annotations = videos if beside else tmp_path / "annotations"
    write_json((annotations / "sav_000") / "sav_000007_auto.json")
    (videos / "sav_000").mkdir(parents=True, exist_ok=True)
    shutil.copy(mp4, videos / "sav_000")
    video = source(videos, None if beside else annotations)[0]
    assert (video.name, video.obj_ids) == ("sav_000007", [10_001, 10_002])
    assert number_of(video.image(1)) == 4


def test_extracted_frames_are_preferred_to_the_mp4(tmp_path):
    write_json(tmp_path / "v_manual.json")
    (tmp_path / "v.mp4").write_bytes(b"not a video")
    write_frames(tmp_path / "frames" / "v", range(0, 9, 4))
    found = source(tmp_path)
    assert found.names == ["v"]
    assert number_of(found[0].image(2)) == 8


# ---- real annotations


def test_the_published_example(tmp_path, shared_data):
    example = shared_data / "data" / "sav_example"
    colours = np.linspace(0, 255, 483).astype(np.uint8)
    frames = [np.full((848, 480, 3), colour, np.uint8) for colour in colours]
    write_video(tmp_path / "sav_000001.mp4", frames, options={"preset": "ultrafast"})
    found = source(tmp_path, example)
    video = found[0]
    assert (found.names, len(video)) == (["sav_000001"], 121)
    assert video.obj_ids == [*range(1, 6), *range(10_001, 10_010)]
    for t in (0, 60, 120):
        assert abs(int(video.image(t)[400, 200, 0]) - int(colours[4 * t])) < 4
    for kind, first_id in (("manual", 1), ("auto", 10_001)):
        truth = json.loads((example / f"sav_000001_{kind}.json").read_text())
        for t in (0, 77, 120):
            masks = video.masks(t)
            for k, encoded in enumerate(truth["masklet"][t]):
                expected = coco.decode(encoded).astype(bool)
                assert (first_id + k in masks) == expected.any()
                assert first_id + k not in masks or np.array_equal(masks[first_id + k], expected)


# ---- bad input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"video_height": "tall"}, "video_height = 'tall'; it must be a whole number"),
        ({"video_width": 0}, "video_width = 0; it must be a whole number"),
        ({"video_frame_count": float("nan")}, "video_frame_count = nan; it must be"),
        ({"video_frame_count": 10.5}, "video_frame_count = 10.5; it must be"),
        ({"video_frame_count": 8}, "3 annotated frames, one in 4, do not fit into a video of 8 frames"),
        ({"masklet": []}, "masklet must be a list over annotated frames"),
        ({"masklet": {"0": []}}, "masklet must be a list over annotated frames"),
        ({"masklet": [{}]}, "masklet must be a list over annotated frames"),
        ({"masklet": [[{}], [{}, {}]]}, "annotated frames list 1 to 2 masks; all must list all objects"),
    ],
)
def test_numbers_that_do_not_fit(tmp_path, changes, message):
    path = write_json(tmp_path / "v_manual.json", **changes)
    with pytest.raises(DataError, match=message) as caught:
        read_masklets(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot read the JSON file .*v_manual.json"),
        ('{"masklet": [', "cannot read the JSON file"),
        ("[]", "v_manual.json lacks video_frame_count, video_height, video_width, masklet; is it an annotation file"),
        ('{"video_height": 3, "masklet": []}', "v_manual.json lacks video_frame_count, video_width; is it"),
    ],
)
def test_files_that_are_no_annotations(tmp_path, text, message):
    path = tmp_path / "v_manual.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_masklets(path)
    with pytest.raises(DataError, match=r"cannot read the JSON file .*gone\.json"):
        read_masklets(tmp_path / "gone.json")


@pytest.mark.parametrize(
    ("damaged", "message"),
    [
        ({"size": [HEIGHT, WIDTH], "counts": "d1"}, "cover 52 pixels, but it has 64 x 32"),
        ({"size": [HEIGHT, WIDTH]}, "must be polygons or"),
        ({"size": [HEIGHT, WIDTH], "counts": [2**63, 5]}, "longer than any image"),
        ({"size": [HEIGHT, WIDTH], "counts": [2048, -5, 5]}, "cover 2048 pixels"),
        (False, "must be polygons or"),
        (rle(np.ones((WIDTH, HEIGHT), bool)), "the mask is 32 x 64 pixels, but the video 64 x 32"),
    ],
)
def test_a_damaged_mask_leaves_other_frames_readable(tmp_path, mp4, damaged, message):
    annotation = content(masklets())
    annotation["masklet"][1][1] = damaged  # type: ignore[index]
    path = tmp_path / "v_manual.json"
    path.write_text(json.dumps(annotation))
    video = SavVideo("v", mp4, [path])
    assert set(video.masks(0)) == {1, 2}
    with pytest.raises(DataError, match=rf"v_manual\.json: object 1 on annotated frame 1.*{message}"):
        video.masks(1)


@pytest.mark.parametrize("absent", ["object", "frame", "all"])
def test_absent_objects_may_be_null(tmp_path, mp4, absent):
    annotation = content(masklets())
    frames = annotation["masklet"]
    assert isinstance(frames, list)
    if absent == "object":
        frames[1][1] = None
    elif absent == "frame":
        frames[0] = None
    else:
        annotation["masklet"] = [None] * 3
    path = tmp_path / "v_manual.json"
    path.write_text(json.dumps(annotation))
    video = SavVideo("v", mp4, [path])
    expected = {"object": [{1, 2}, {1}, {1, 2}], "frame": [set(), {1}, {1, 2}], "all": [set()] * 3}[absent]
    assert [set(video.masks(t)) for t in range(3)] == expected
    assert video.obj_ids == ([] if absent == "all" else [1, 2])
    assert len(draw_clip(video, ClipConfig(num_frames=2), 0).masks) == 1 if absent != "all" else True


@pytest.mark.parametrize("number", ["1e400", "9" * 400, "-1", "null", "[]"])
def test_absurd_numbers_are_refused_in_one_short_line(tmp_path, number):
    path = write_json(tmp_path / "v_manual.json", video_height="NUMBER")
    path.write_text(path.read_text().replace('"NUMBER"', number))
    with pytest.raises(DataError, match=r"video_height = .*; it must be a whole number from 1 on") as caught:
        read_masklets(path)
    assert len(str(caught.value)) < 250 + len(str(path))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"masklet": ' * 100_000, "9" * 5000, b"\xff\xfe[]"])
def test_files_that_no_parser_can_read(tmp_path, text):
    path = tmp_path / "v_manual.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=r"^cannot read the JSON file .*v_manual\.json"):
        read_masklets(path)


def test_a_byte_order_mark_is_no_part_of_a_json_file(tmp_path):
    path = write_json(tmp_path / "v_manual.json")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(read_masklets(path).rles) == 3


def test_a_video_without_annotations(tmp_path):
    (tmp_path / "v.mp4").touch()
    write_json(tmp_path / "w_manual.json")
    with pytest.raises(DataError, match=r"holds no annotation of v: neither v_manual\.json nor v_auto\.json"):
        source(tmp_path)[0]


def test_annotations_of_different_videos(tmp_path, mp4):
    files = [write_json(tmp_path / "v_manual.json"), write_json(tmp_path / "v_auto.json", masklets()[:2])]
    with pytest.raises(DataError, match=r"are of different videos: 3 and 2 annotated frames, 64 x 32 and 64 x 32"):
        SavVideo("v", mp4, files)


def test_a_video_of_another_size_than_its_masks(tmp_path, mp4):
    masks = np.zeros((3, 1, HEIGHT, WIDTH + 2), bool)
    annotation = write_json(tmp_path / "v_manual.json", masks, video_width=WIDTH + 2)
    for frames in (mp4, write_frames(tmp_path / "v", range(NUM_FRAMES))):
        with pytest.raises(DataError, match=r"frame 4 of .* is 64 x 32 pixels, but its masks in .*json are 66 x 32"):
            SavVideo("v", frames, [annotation]).image(1)


def test_videos_that_are_missing_broken_or_too_short(tmp_path, mp4):
    annotation = write_json(tmp_path / "v_manual.json", video_frame_count=13, masklet=[[]] * 4)
    broken = tmp_path / "v.mp4"
    broken.write_bytes(b"not a video")
    for path in (broken, tmp_path / "gone.mp4"):
        with pytest.raises(DataError, match=rf"{path.name} cannot be opened as a video"):
            SavVideo("v", path, [annotation]).image(0)
    short = SavVideo("v", mp4, [annotation])
    assert number_of(short.image(2)) == 8
    with pytest.raises(DataError, match=r"cannot read frame 12 of .*sav_000007\.mp4: .* has 10 frames"):
        short.image(3)
    # frames at 6 per second that were numbered 0, 1, 2, ... would pass for others
    folder = write_frames(tmp_path / "v", range(5))
    with pytest.raises(DataError, match=r"lacks 2 of 4 annotated frames, the first is 00008; .* are 0, 4, 8, \.\.\."):
        SavVideo("v", folder, [annotation]).image(0)
    (folder / "00008.jpg").write_bytes(b"no image")
    (folder / "00012.jpg").touch()
    with pytest.raises(DataError, match=r"cannot read the image .*00008\.jpg"):
        SavVideo("v", folder, [annotation]).image(2)


def test_folders_that_are_missing(tmp_path):
    with pytest.raises(NoDataError, match=r"the folder of videos, .*nowhere, does not exist"):
        source(tmp_path / "nowhere", tmp_path)
    with pytest.raises(NoDataError, match=r"the folder of masklets, .*nowhere, does not exist"):
        source(tmp_path, tmp_path / "nowhere")
    (tmp_path / "v.mp4").touch()
    with pytest.warns(UserWarning, match=r"1 of 1 items to include are not in .*: w"):
        assert not len(source(tmp_path, include=frozenset({"w"})))
