"""The sources of images and palette videos: what they read, what they leave unread, and what they say is wrong."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_files import HEIGHT, SQUARE, WIDTH, build, rle, write_image, write_json, write_mask
from i2vpp.data.files import list_files, read_image, read_items
from i2vpp.data.rle import LazyMasks
from i2vpp.errors import ConfigError, DataError, NoDataError
from training.config import ClipConfig, SourceConfig
from training.dataset.build import KINDS, build_source
from training.dataset.clips import Source, problems_of
from training.dataset.sampling import draw_clip
from training.dataset.validate import validate_source


def items(source: Source) -> list[str]:
    return [source[i].name for i in range(len(source))]


@pytest.fixture
def davis(tmp_path: Path) -> Path:
    """Two videos with annotations on frames 2 and 10 of three; the folder of frames."""
    images = tmp_path / "JPEGImages" / "480p"
    for video in ("bear", "cow"):
        for t, frame in enumerate(("2", "7", "10")):
            write_image(images / video / f"{frame}.jpg", value=50 * t)
        values = SQUARE * 3
        values[0, 0] = 255
        write_mask(tmp_path / "Annotations" / "480p" / video / "2.png", values)
        write_mask(tmp_path / "Annotations" / "480p" / video / "10.png", np.where(SQUARE, 4, 0))
    return images


# ---- palette videos


def test_palette_videos_are_their_annotated_frames_in_natural_order(davis: Path) -> None:
    source = build("palette", davis)
    assert (source.name, items(source)) == ("mine", ["bear", "cow"])
    video = source[0]
    assert len(video) == 2
    assert [round(float(video.image(t).mean())) for t in range(2)] == [0, 100]
    assert video.image(0).shape == (HEIGHT, WIDTH, 3)
    first, second = video.masks(0), video.masks(1)
    assert list(first) == [3], "255 is no object"
    assert list(second) == [4]
    np.testing.assert_array_equal(first[3], SQUARE)
    assert first[3].dtype == bool


def test_lists_choose_the_videos(davis: Path, tmp_path: Path) -> None:
    chosen = tmp_path / "chosen.txt"
    chosen.write_text("# the ones with fur\n\n cow  # the second\nbear\n")
    left_out = tmp_path / "left_out.txt"
    left_out.write_text("bear\nnot-here\n")
    assert read_items(chosen) == {"bear", "cow"}
    left_out.write_bytes(b"\xef\xbb\xbfbear\r\nnot-here\r\n")  # as Windows' editor writes it
    assert items(build("palette", davis, include=chosen)) == ["bear", "cow"]
    assert items(build("palette", davis, include=chosen, exclude=left_out)) == ["cow"]


def test_a_hash_inside_a_name_is_no_comment(tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    file.write_text("take#2\n#comment\n  # another\nb#1 # the first\nc\t#tab\nd##\n")
    assert read_items(file) == {"take#2", "b#1", "c", "d##"}
    file.write_bytes(b"\xef\xbb\xbf# comment\ntake#2")
    assert read_items(file) == {"take#2"}


def test_nothing_is_opened_before_it_is_asked_for(davis: Path) -> None:
    for file in davis.rglob("*.jpg"):
        file.write_bytes(b"no image")
    source = build("palette", davis)
    assert len(source[0]) == 2
    with pytest.raises(DataError, match=r"cannot read the image .*bear.2\.jpg: cannot identify"):
        source[0].image(0)
    with pytest.raises(DataError, match=r"cannot read the image .*bear.2\.jpg"):
        source[0].masks(0)


def test_a_mask_of_another_size_is_named_with_both_sizes(davis: Path) -> None:
    write_image(davis / "bear" / "2.jpg", height=12, width=16)
    message = r"mask .*Annotations.*2\.png is 8 x 6 pixels, but its image .*JPEGImages.*2\.jpg is 16 x 12"
    with pytest.raises(DataError, match=message):
        build("palette", davis)[0].masks(0)


def test_annotations_without_a_frame(davis: Path) -> None:
    (davis / "bear" / "2.jpg").unlink()
    source = build("palette", davis)
    with pytest.raises(DataError, match=r"no frame in .*bear for 1 annotations, the first of which is 2\.png"):
        source[0]
    assert len(source[1]) == 2


def test_videos_without_annotations(davis: Path, tmp_path: Path) -> None:
    write_image(davis / "dog" / "0.jpg")
    write_image(davis / "elk" / "0.jpg")
    (tmp_path / "Annotations" / "480p" / "elk").mkdir()
    source = build("palette", davis)
    with pytest.raises(DataError, match=r"cannot list the folder .*Annotations.480p.dog"):
        source[2]
    with pytest.raises(DataError, match=r"Annotations.480p.elk holds no annotation"):
        source[3]


def test_annotations_that_lie_elsewhere_must_be_named(davis: Path, tmp_path: Path) -> None:
    davis.parent.rename(tmp_path / "frames")
    images = tmp_path / "frames" / "480p"
    with pytest.raises(NoDataError, match=r"no part of the path is `JPEGImages`; name their folder"):
        build("palette", images)
    source = build("palette", images, annotations=tmp_path / "Annotations" / "480p")
    assert list(source[1].masks(1)) == [4]


# ---- files


def test_palette_videos_are_read_by_the_rule_of_masks(davis: Path) -> None:
    folder = davis.parent.parent / "Annotations" / "480p" / "bear"
    for name, colour in (("2", (200, 9, 9)), ("10", (9, 200, 9))):
        Image.fromarray((SQUARE[..., None] * np.array(colour)).astype(np.uint8)).save(folder / f"{name}.png")
    video = build("palette", davis)[0]
    assert [list(video.masks(t)) for t in range(2)] == [[2], [1]]
    for path in folder.glob("*.png"):
        write_mask(path, SQUARE * 255)
    masks = build("palette", davis)[0].masks(1)
    assert list(masks) == [1], "255 is the object where there is no other"
    np.testing.assert_array_equal(masks[1], SQUARE)


def test_the_orientation_of_a_camera_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(path, exif=exif)
    assert read_image(path).shape == (HEIGHT, WIDTH, 3)


def test_two_files_for_one_item_are_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg")
    write_image(tmp_path / "._b.jpg")
    assert list(list_files(tmp_path, (".jpg", ".png"))) == ["a"]
    write_image(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.(jpg|png) and a\.(jpg|png) stand for the same item"):
        list_files(tmp_path, (".jpg", ".png"))


# ---- image and mask


@pytest.mark.parametrize(("value", "mode"), [(1, "P"), (255, "L"), (128, "L")])
def test_image_mask_pairs(tmp_path: Path, value: int, mode: str) -> None:
    write_image(tmp_path / "images" / "0001.jpg")
    write_mask(tmp_path / "masks" / "0001.png", np.where(SQUARE, value, 0), mode)
    source = build("image_mask", tmp_path / "images")
    assert items(source) == ["0001"]
    assert len(source[0]) == 1
    masks = source[0].masks(0)
    assert list(masks) == [1]
    np.testing.assert_array_equal(masks[1], SQUARE)


def test_palette_images_have_an_object_for_each_value(tmp_path: Path) -> None:
    write_image(tmp_path / "images" / "a.jpg")
    values = SQUARE * 3
    values[0, :2] = 7, 255
    write_mask(tmp_path / "masks" / "a.png", values)
    (photo,) = (build("palette_image", tmp_path / "images")[i] for i in range(1))
    masks = photo.masks(0)
    assert sorted(masks) == [3, 7], "255 is no object"
    np.testing.assert_array_equal(masks[3], SQUARE & (values == 3))
    assert masks[7].sum() == 1


def test_image_mask_pairs_that_do_not_pair(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write_image(tmp_path / "images" / f"{name}.jpg")
    write_mask(tmp_path / "ground_truth_mask" / "a.png", np.zeros((HEIGHT, WIDTH)), "L")
    write_mask(tmp_path / "ground_truth_mask" / "b.png", np.ones((3, 4)), "L")
    source = build("image_mask", tmp_path / "images")
    with pytest.raises(DataError, match=r"no object in the annotation of .*a\.jpg"):
        source[0].masks(0)
    with pytest.raises(DataError, match=r"mask .*b\.png is 4 x 3 pixels, but its image .*b\.jpg is 8 x 6"):
        source[1].masks(0)
    with pytest.raises(DataError, match=r"no mask c\.png in .*ground_truth_mask for the image .*c\.jpg"):
        source[2]
    with pytest.raises(NoDataError, match="no folder masks or ground_truth_mask beside"):
        build("image_mask", tmp_path / "ground_truth_mask" / "..")


# ---- COCO and SA-1B


def coco_file(*annotations: dict[str, Any], **image: Any) -> dict[str, Any]:
    return {
        "images": [
            {"id": 9, "file_name": "a.jpg", "height": HEIGHT, "width": WIDTH, **image},
            {"id": 10, "file_name": "empty.jpg", "height": HEIGHT, "width": WIDTH},
        ],
        "annotations": [{"image_id": 9, "iscrowd": 0, "id": 1, **annotation} for annotation in annotations],
    }


def test_coco_images(tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.mask")
    compressed = coco.encode(np.asfortranarray(SQUARE.astype(np.uint8)))
    compressed["counts"] = compressed["counts"].decode()
    write_image(tmp_path / "coco" / "images" / "a.jpg")
    content = coco_file(
        {"id": 11, "segmentation": [[2, 1, 5, 1, 5, 4, 2, 4], [6, 4, 8, 4, 8, 6, 6, 6]]},
        {"id": 12, "segmentation": rle(~SQUARE)},
        {"id": 13, "segmentation": compressed},
        {"id": 14, "segmentation": rle(SQUARE), "iscrowd": 1},
        {"id": 15, "segmentation": rle(np.zeros_like(SQUARE))},
    )
    write_json(tmp_path / "coco" / "instances_x.json", content)
    for images in (tmp_path / "coco", tmp_path / "coco" / "images"):
        source = build("coco", images)
        assert items(source) == ["a"], "an image without an instance is no item"
        masks = source[0].masks(0)
        assert list(masks) == [11, 12, 13]
        assert isinstance(masks, LazyMasks)
        assert masks.empty == {15}
        drawn = SQUARE.copy()
        drawn[4:, 6:] = True
        np.testing.assert_array_equal(masks[11], drawn)
        np.testing.assert_array_equal(masks[12], ~SQUARE)
        np.testing.assert_array_equal(masks[13], SQUARE)


def test_coco_finds_its_file_as_published(tmp_path: Path) -> None:
    write_image(tmp_path / "train2017" / "a.jpg")
    for name in ("train2017", "val2017"):
        content = coco_file({"segmentation": rle(SQUARE)}, file_name="a.jpg" if name == "train2017" else "no.jpg")
        write_json(tmp_path / "annotations" / f"instances_{name}.json", content)
    assert items(build("coco", tmp_path / "train2017")) == ["a"]
    assert items(build("coco", tmp_path / "train2017", annotations=tmp_path / "annotations")) == ["a"]
    (tmp_path / "train2017").rename(tmp_path / "photos")
    with pytest.raises(NoDataError, match=r"several annotations, instances_train2017\.json, instances_val2017\.json"):
        build("coco", tmp_path / "photos")
    (tmp_path / "none").mkdir()
    with pytest.raises(NoDataError, match=r"no instances_\*\.json for the images .*photos; looked in .*none"):
        build("coco", tmp_path / "photos", annotations=tmp_path / "none")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "is no instances file of COCO"),
        ({"images": []}, "'annotations' is missing"),
        ({"images": [], "annotations": {}}, "'annotations' must be a list"),
        ({"images": None, "annotations": []}, "'images' must be a list"),
    ],
)
def test_a_broken_file_of_coco(tmp_path: Path, content: Any, message: str) -> None:
    file = write_json(tmp_path / "instances.json", content)
    with pytest.raises(DataError, match=rf"instances\.json.* {message}"):
        build("coco", tmp_path, annotations=file)


POLYGON = [2, 1, 5, 1, 5, 4, 2, 4]
BROKEN_OBJECTS = [
    [],  # a box only
    None,
    [[1, 1, 5, 5]],
    [[3, 3]],
    [[]],
    [[1, 1, 5, 5, 3]],
    [[1, 1, 5, 5, None, 3]],
    [[1, 1, 5, 5, 10**400, 3]],
    [POLYGON, "no polygon"],
    {"size": [HEIGHT, WIDTH], "counts": [2**63, 5]},
    {"size": [HEIGHT, WIDTH], "counts": [50, -2]},
    {"size": [WIDTH, HEIGHT], "counts": [48]},
    "rle",
]


@pytest.mark.parametrize("broken", BROKEN_OBJECTS, ids=lambda value: str(value)[:30])
@pytest.mark.parametrize("first", [True, False], ids=["first", "last"])
def test_a_broken_annotation_costs_an_image_only_that_object(tmp_path: Path, broken: Any, first: bool) -> None:
    write_image(tmp_path / "a.jpg")
    objects = [{"id": 2, "segmentation": broken}, {"id": 1, "segmentation": [POLYGON]}]
    file = write_json(tmp_path / "instances.json", coco_file(*(objects if first else objects[::-1])))
    video = build("coco", tmp_path, annotations=file)[0]
    for _ in range(2):
        masks = video.masks(0)
        assert list(masks) == [1]
        np.testing.assert_array_equal(masks[1], SQUARE)
    (problem,) = problems_of(video)
    assert "object 2 in " in problem and len(problem) < 200 + len(str(file))
    report = validate_source(build("coco", tmp_path, annotations=file))
    assert (report.objects, report.broken, [told.problem for told in report.problems]) == (1, 1, [problem])
    assert draw_clip(video, ClipConfig(num_frames=1), 0).problems == (problem,)


@pytest.mark.parametrize("sliver", [[1, 1, 5, 5], [3, 3], []])
def test_polygons_without_an_area_are_left_out_of_their_object(tmp_path: Path, sliver: list[int]) -> None:
    write_image(tmp_path / "a.jpg")
    file = write_json(tmp_path / "instances.json", coco_file({"id": 3, "segmentation": [sliver, POLYGON]}))
    video = build("coco", tmp_path, annotations=file)[0]
    np.testing.assert_array_equal(video.masks(0)[3], SQUARE)
    (problem,) = problems_of(video)
    assert "object 3 in " in problem and "1 of its 2 polygons have fewer than three corners" in problem


def test_an_image_of_which_all_annotations_are_broken_cannot_be_used(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg")
    objects = [{"id": number, "segmentation": []} for number in (1, 2, 3)]
    file = write_json(tmp_path / "instances.json", coco_file(*objects))
    with pytest.raises(DataError, match=r"object 1 in .* must be polygons or .*; 2 more annotations of the image"):
        build("coco", tmp_path, annotations=file)[0].masks(0)


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (["1", "2"], [1, 2]),
        ([1.0, 2], [1, 2]),
        (["cat", "dog"], [1, 2]),
        (["cat", 1, "2", "dog"], [3, 1, 2, 4]),
        (["007", 7], [1, 7]),
        ([None, "x"], [1]),
        ([True, 4], [4]),
        ([10**400, 5], [10**400, 5]),
    ],
)
def test_ids_may_be_text(tmp_path: Path, ids: list[Any], expected: list[int]) -> None:
    write_image(tmp_path / "a.jpg")
    objects = [{"id": number, "segmentation": [POLYGON], "image_id": "9"} for number in ids]
    file = write_json(tmp_path / "instances.json", coco_file(*objects))
    assert list(build("coco", tmp_path, annotations=file)[0].masks(0)) == expected


@pytest.mark.parametrize("image_id", ["a-12", "9", 9.0])
def test_ids_of_images_may_be_text(tmp_path: Path, image_id: Any) -> None:
    write_image(tmp_path / "a.jpg")
    content = coco_file({"image_id": image_id, "segmentation": [POLYGON], "iscrowd": "0"}, id=image_id)
    content["annotations"].append({"image_id": image_id, "segmentation": rle(SQUARE), "iscrowd": "1", "id": 2})
    source = build("coco", tmp_path, annotations=write_json(tmp_path / "instances.json", content))
    assert list(source[0].masks(0)) == [1]


@pytest.mark.parametrize(
    ("file_name", "item"),
    [
        ("sub\\a.jpg", "sub/a"),
        ("D:\\photos\\a.jpg", "D:/photos/a"),
        ("elsewhere/a.jpg", "elsewhere/a"),
        ("http://example.org/a.jpg", "http:/example.org/a"),
    ],
)
def test_images_are_found_by_windows_paths_and_by_their_name(tmp_path: Path, file_name: str, item: str) -> None:
    image = write_image(tmp_path / "images" / "sub" / "a.jpg")
    content = coco_file({"segmentation": [POLYGON]}, file_name=file_name)
    source = build("coco", tmp_path / "images", annotations=write_json(tmp_path / "x.json", content))
    assert items(source) == [item]
    assert list(source[0].masks(0)) == [1]
    chosen = tmp_path / "list.txt"
    chosen.write_text(item.replace("/", "\\"))
    assert items(build("coco", tmp_path / "images", annotations=tmp_path / "x.json", include=chosen)) == [item]
    if not file_name.startswith("sub"):
        write_image(image.parent.parent / "other" / "a.jpg")
        with pytest.raises(DataError, match=r"a\.jpg and .*a\.jpg could both be the image"):
            build("coco", tmp_path / "images", annotations=tmp_path / "x.json")[0]


@pytest.mark.parametrize("size", [{}, {"height": None, "width": None}, {"height": 0, "width": 0}, {"height": "6"}])
def test_images_without_a_size_are_asked_for_it(tmp_path: Path, size: dict[str, Any]) -> None:
    write_image(tmp_path / "a.jpg")
    content = coco_file({"segmentation": [POLYGON]})
    for key in ("height", "width"):
        content["images"][0].pop(key)
    content["images"][0].update(size)
    file = write_json(tmp_path / "instances.json", content)
    np.testing.assert_array_equal(build("coco", tmp_path, annotations=file)[0].masks(0)[1], SQUARE)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ({"file_name": ""}, r"file_name = .* of the image 9 in .*instances\.json is not the name of a file"),
        ({"file_name": None}, "file_name = None of the image 9"),
        ({"file_name": 7}, "file_name = 7 of the image 9"),
        ({"height": "tall"}, r"height = 'tall' of the image 'a\.jpg' in .* is not a number of pixels"),
        ({"height": -6}, "height = -6 of the image"),
        ({"width": 10**400}, r"width = an integer of 1329 bits of the image 'a\.jpg'"),
        ({"width": 1e400}, r"width = inf of the image"),
    ],
)
def test_a_broken_entry_costs_only_its_image(tmp_path: Path, image: dict[str, Any], message: str) -> None:
    content = coco_file({"segmentation": [POLYGON]}, **image)
    content["annotations"].append({"image_id": 10, "id": 2, "segmentation": [POLYGON]})
    file = write_json(tmp_path / "instances.json", content)
    for name in ("a.jpg", "empty.jpg"):
        write_image(tmp_path / name)
    source = build("coco", tmp_path, annotations=file)
    assert len(source) == 2
    assert list(source[1].masks(0)) == [2]
    with pytest.raises(DataError, match=message):
        source[0].masks(0)


def test_entries_that_belong_to_no_image_are_told(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg")
    content = coco_file({"segmentation": [POLYGON]})
    content["annotations"] += [{"segmentation": [POLYGON]}, None, {"image_id": 404}]
    content["images"] += ["a.jpg", {"file_name": "b.jpg"}]
    file = write_json(tmp_path / "instances.json", content)
    with pytest.warns(UserWarning, match=r"source 'mine': 4 broken entries of .*instances\.json are left out: an anno"):
        source = build("coco", tmp_path, annotations=file)
    assert items(source) == ["a"]
    assert validate_source(source).problems[0].problem == "an annotation without `image_id`"


def test_images_that_differ_in_their_suffix_are_two_items(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png"):
        write_image(tmp_path / name)
    content = coco_file({"segmentation": [POLYGON]})
    content["images"][1]["file_name"] = "a.png"
    content["annotations"].append({"image_id": 10, "id": 2, "segmentation": [POLYGON]})
    source = build("coco", tmp_path, annotations=write_json(tmp_path / "instances.json", content))
    assert [list(source[i].masks(0)) for i in range(len(source))] == [[1], [2]]


def test_coco_images_that_are_missing_or_of_another_size(tmp_path: Path) -> None:
    file = write_json(tmp_path / "instances.json", coco_file({"segmentation": rle(SQUARE)}))
    source = build("coco", tmp_path, annotations=file)
    with pytest.raises(DataError, match=r"no image a\.jpg in .*, which .*instances\.json annotates"):
        source[0]
    write_image(tmp_path / "a.jpg", height=3, width=4)
    with pytest.raises(DataError, match=r"a\.jpg in .*instances\.json is 8 x 6 pixels, but its image .* is 4 x 3"):
        source[0].masks(0)


def test_sa1b_images(tmp_path: Path) -> None:
    for number in (2, 10):
        write_image(tmp_path / f"sa_{number}.jpg")
        objects = [{"id": 500 + number, "segmentation": rle(SQUARE)}, {"id": 7, "segmentation": rle(SQUARE & False)}]
        write_json(tmp_path / f"sa_{number}.json", {"image": {}, "annotations": objects})
    write_image(tmp_path / "sa_11.jpg")
    source = build("sa1b", tmp_path)
    assert items(source) == ["sa_2", "sa_10"]
    masks = source[1].masks(0)
    assert list(masks) == [510]
    np.testing.assert_array_equal(masks[510], SQUARE)
    assert items(pickle.loads(pickle.dumps(source))) == items(source)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"cannot read the JSON file .*a\.json"),
        ([], r"a\.json does not hold a mapping with a list `annotations`"),
        ({"annotations": []}, r"no object in the annotation of .*a\.jpg"),
        ({"annotations": [{"segmentation": rle(SQUARE)}]}, "not a mapping with a whole number or text as `id`"),
        ({"annotations": [{"id": 3, "segmentation": rle(SQUARE)}] * 2}, r"object 3 in .*a\.json is there twice"),
        ({"annotations": [{"id": 3}]}, r"object 3 in .*a\.json: the segmentation must be polygons or"),
        (
            {"annotations": [{"id": 3, "segmentation": rle(SQUARE.T)}]},
            r"object 3 in .*a\.json is 6 x 8 pixels, but its image .*a\.jpg is 8 x 6",
        ),
    ],
)
def test_broken_annotations_of_sa1b(tmp_path: Path, content: Any, message: str) -> None:
    write_image(tmp_path / "images" / "a.jpg")
    file = write_json(tmp_path / "json" / "a.json", content)
    if isinstance(content, str):
        file.write_text(content)
    source = build("sa1b", tmp_path / "images", annotations=tmp_path / "json")
    with pytest.raises(DataError, match=message):
        source[0].masks(0)


def test_sa1b_annotations_without_an_image(tmp_path: Path) -> None:
    write_json(tmp_path / "part" / "a.json", {"annotations": []})
    source = build("sa1b", tmp_path)
    with pytest.raises(DataError, match=r"no image part/a\.jpg in .* for .*a\.json"):
        source[0]


# ---- from the config


def test_procedural_videos_need_no_files() -> None:
    source = build_source("toys", SourceConfig(kind="procedural", length=3))
    assert (source.name, len(source), len(source[0])) == ("toys", 3, 8)
    with pytest.raises(ConfigError, match=r"data\.sources\.toys\.length must be at least 1; got 0"):
        build_source("toys", SourceConfig(kind="procedural", length=0))


def test_configs_that_make_no_source(davis: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"data\.sources\.x\.kind must be one of {', '.join(KINDS)}; got 'davis'"):
        build_source("x", SourceConfig(kind="davis"))
    with pytest.raises(ConfigError, match=r"data\.sources\.x\.images is not set; sources of kind sav need a folder"):
        build_source("x", SourceConfig())
    with pytest.raises(NoDataError, match=r"the folder of frame folders, .*nowhere, does not exist"):
        build("palette", tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"cannot read the list .*list\.txt: No such file"):
        build("palette", davis, include=tmp_path / "list.txt")


def test_lists_that_leave_nothing(davis: Path, tmp_path: Path) -> None:
    wanted = tmp_path / "list.txt"
    wanted.write_text("\n".join(["bear", *(f"gnu{i}" for i in range(12))]))
    message = r"12 of 13 items to include are not in .*480p and are left out: gnu0, .*; it holds bear, cow$"
    with pytest.warns(UserWarning, match=message):
        assert build("palette", davis, include=wanted).names == ["bear"]
    wanted.write_text("# nothing\n")
    with pytest.raises(NoDataError, match=r"source 'mine' of kind palette has no item: images .*include .*list\.txt"):
        build("palette", davis, include=wanted)
    wanted.write_text("bear\ncow\n")
    with pytest.raises(NoDataError, match="has no item"):
        build("palette", davis, exclude=wanted)


# ---- real data


@pytest.mark.parametrize(
    ("kind", "images", "keys", "count"),
    [
        ("palette", "davis16/JPEGImages/480p", {"include": "davis16/ImageSets/train.txt"}, 30),
        ("image_mask", "ecssd/images", {}, 1000),
        ("coco", "coco128", {}, 126),
        ("sa1b", "ecssd/images", {"annotations": "sa1b_like/ecssd"}, 761),
        ("sa1b", "coco128/images", {"annotations": "sa1b_like/coco128"}, 128),
    ],
)
def test_real_data(shared_data: Path, kind: str, images: str, keys: dict[str, str], count: int) -> None:
    data = shared_data / "data"
    source = build(kind, data / images, **{key: str(data / value) for key, value in keys.items()})
    assert len(source) == count
    for index in (0, count // 2, count - 1):
        video = source[index]
        t = len(video) // 2
        image, masks = video.image(t), video.masks(t)
        assert image.dtype == np.uint8
        assert masks, video.name
        assert all(mask.shape == image.shape[:2] and mask.any() for mask in masks.values())


def test_real_instances_are_drawn_as_coco_draws_them(shared_data: Path) -> None:
    api = pytest.importorskip("pycocotools.coco").COCO(shared_data / "data" / "coco128" / "instances_train2017.json")
    source = build("coco", shared_data / "data" / "coco128")
    for index in range(0, len(source), 25):
        for number, mask in source[index].masks(0).items():
            np.testing.assert_array_equal(mask, api.annToMask(api.anns[number]))
