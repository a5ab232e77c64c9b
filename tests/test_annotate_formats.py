"""COCO, YouTube-VIS, YOLO, CVAT and Label Studio files: read by their own libraries, and by the import again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from PIL import Image, ImageDraw

from annotator import timeline
from i2vpp.annotate.errors import MaskFolderError
from i2vpp.annotate.exchange.exports import export
from i2vpp.annotate.exchange.formats.base import Footage
from i2vpp.annotate.exchange.formats.label_studio import pack, unpack
from i2vpp.annotate.exchange.formats.outlines import joined, outlines
from i2vpp.annotate.exchange.formats.registry import FORMATS
from i2vpp.annotate.exchange.imports import import_masks
from i2vpp.annotate.storage.store import Annotation
from i2vpp.annotate.storage.values import StoredMask

HEIGHT, WIDTH, FRAMES = 60, 90, 6
RED = "#e01020"
READ = [name for name, one in FORMATS.items() if one.reader is not None]
FOOTAGE = Footage(frames=FRAMES, read_frame=lambda t: np.zeros((HEIGHT, WIDTH, 3), np.uint8), fps=10.0)


def disc(x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return np.hypot(columns + 0.5 - x, rows + 0.5 - y) < radius


def cup(t: int) -> np.ndarray:
    """A ring and a part beside it, at the edge of the frame."""
    return disc(28 + t, 30, 20) & ~disc(28 + t, 30, 8) | disc(86, 10, 9)


def ball(t: int) -> np.ndarray:
    return disc(60 - t, 40, 11) if t != 3 else np.zeros((HEIGHT, WIDTH), bool)


def make(path: Path) -> Annotation:
    return Annotation(path, height=HEIGHT, width=WIDTH, frames=FRAMES, video="clip.mp4")


@pytest.fixture
def annotation(tmp_path: Path) -> Iterator[Annotation]:
    """The cup is on frames 0 to 4, the ball on 1 to 4, on 3 known to be absent; frame 5 is bare; "dog" is not used."""
    with make(tmp_path / "a") as opened:
        with opened.edit("x") as edit:
            for name in ("dog", "cup & <saucer>"):
                edit.add_label(name, RED)
            edit.set_label(edit.add_object("Mine", RED).id, 2)
            edit.delete_object(edit.add_object("gone").id)
            edit.add_object("Ball")
            for t in range(5):
                edit.set_mask(1, t, StoredMask.of(cup(t), score=3.0, iou=0.9))
                if t:
                    edit.set_mask(3, t, StoredMask.of(ball(t)))
        yield opened


def write(annotation: Annotation, tmp_path: Path, kind: str, **options: Any) -> Path:
    return export(annotation, tmp_path / "out" / kind, kind, footage=FOOTAGE, **options)


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


def filled(mask: np.ndarray) -> np.ndarray:
    """The mask without its holes, as YOLO has it."""
    image = Image.fromarray(np.pad(mask, 1).astype(np.uint8)).copy()
    ImageDraw.floodfill(image, (0, 0), 2)
    return np.asarray(image)[1:-1, 1:-1] != 2


# Read by their own libraries, or by what their documentation says


def test_coco_is_read_by_its_own_library(annotation: Annotation, tmp_path: Path) -> None:
    coco_api = pytest.importorskip("pycocotools.coco")
    folder = write(annotation, tmp_path, "coco")
    coco = coco_api.COCO(str(folder / "annotations.json"))
    assert [one["name"] for one in coco.loadCats(coco.getCatIds())] == ["dog", "cup & <saucer>", "object"]
    assert [one["file_name"] for one in coco.loadImgs(coco.getImgIds())] == [f"{t:05d}.jpg" for t in range(5)]
    assert [one["frame_id"] for one in coco.dataset["images"]] == [*range(5)]
    for t in range(5):
        found = {one["track_id"]: one for one in coco.loadAnns(coco.getAnnIds(imgIds=t + 1, iscrowd=False))}
        assert found.keys() == ({1, 3} if t not in (0, 3) else {1})
        assert np.array_equal(coco.annToMask(found[1]), cup(t))
        rows, columns = np.flatnonzero(cup(t).any(1)), np.flatnonzero(cup(t).any(0))
        box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
        assert (found[1]["bbox"], found[1]["area"]) == (box, cup(t).sum())
        assert (found[1]["category_id"], found[1]["name"], found[1]["score"]) == (2, "Mine", 0.9)
        if 3 in found:
            assert (found[3]["category_id"], found[3].get("score")) == (3, None)


def test_youtube_vis_has_an_entry_per_object(annotation: Annotation, tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.mask")
    folder = write(annotation, tmp_path, "youtube_vis", every=2)
    content = json.loads((folder / "instances.json").read_text(encoding="utf-8"))
    (video,) = content["videos"]
    assert (video["length"], video["file_names"]) == (3, ["00000.jpg", "00002.jpg", "00004.jpg"])
    mine, other = content["annotations"]
    assert (mine["track_id"], mine["category_id"], other["category_id"]) == (1, 2, 3)
    assert other["segmentations"][0] is other["areas"][0] is other["bboxes"][0] is None
    for place, t in enumerate((0, 2, 4)):
        assert np.array_equal(coco.decode(mine["segmentations"][place]), cup(t))
        assert mine["areas"][place] == cup(t).sum()


def test_yolo_polygons_give_the_masks_back_but_for_holes(annotation: Annotation, tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.mask")
    folder = write(annotation, tmp_path, "yolo")
    data = yaml.safe_load((folder / "data.yaml").read_text(encoding="utf-8"))
    assert data["names"] == {0: "dog", 1: "cup & <saucer>", 2: "object"}
    assert (data["train"], data["path"]) == ("images/train", ".")
    texts = sorted((folder / "labels" / "train").iterdir())
    assert [path.name for path in texts] == [f"{t:05d}.txt" for t in range(5)]
    for t, path in enumerate(texts):
        rows = [line.split() for line in path.read_text().splitlines()]
        assert [row[0] for row in rows] == (["1", "2"] if t not in (0, 3) else ["1"])
        for row, wanted in zip(rows, (filled(cup(t)), ball(t)), strict=False):
            shares = np.array(row[1:], float).reshape(-1, 2)
            assert (shares >= 0).all()
            assert (shares <= 1).all()
            corners = shares * (WIDTH, HEIGHT)
            drawn = coco.decode(coco.frPyObjects([corners.ravel().tolist()], HEIGHT, WIDTH))[..., 0] > 0
            assert iou(drawn, wanted) >= 0.98


@pytest.mark.parametrize("seed", range(4))
def test_outlines_give_any_mask_without_holes_back(seed: int) -> None:
    coco = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(seed)
    mask = np.zeros((200, 300), bool)
    for _ in range(6):
        x, y, radius = rng.uniform(0, 300), rng.uniform(0, 200), rng.uniform(8, 40)
        rows, columns = np.mgrid[:200, :300]
        mask |= np.hypot(columns - x, rows - y) < radius
    mask[:4, :50] = True
    mask = filled(mask)
    (polygon,) = [joined(outlines(mask))]
    drawn = coco.decode(coco.frPyObjects([polygon.ravel().tolist()], 200, 300))[..., 0] > 0
    assert iou(drawn, mask) >= 0.98
    assert len(polygon) < mask.sum() / 4, "corners on straight lines are left out"


def test_cvat_has_a_group_per_object_and_masks_in_their_boxes(annotation: Annotation, tmp_path: Path) -> None:
    root = ElementTree.parse(write(annotation, tmp_path, "cvat") / "annotations.xml").getroot()
    assert (root.tag, root.findtext("version")) == ("annotations", "1.1")
    assert [label.findtext("name") for label in root.iter("label")] == ["dog", "cup & <saucer>", "object"]
    assert [root.findtext(f"meta/task/{tag}") for tag in ("size", "mode", "stop_frame")] == ["6", "interpolation", "5"]
    assert [root.findtext(f"meta/task/original_size/{tag}") for tag in ("width", "height")] == ["90", "60"]
    found = {}
    for track in root.iter("track"):
        shown, hidden = track.findall("mask")
        assert (shown.get("outside"), hidden.get("outside")) == ("0", "1")
        frame = int(shown.get("frame", ""))
        assert int(hidden.get("frame", "")) == frame + 1
        left, top, width, height = (int(shown.get(key, "")) for key in ("left", "top", "width", "height"))
        runs = [int(run) for run in shown.get("rle", "").split(",")]
        assert sum(runs) == width * height
        mask = np.zeros((HEIGHT, WIDTH), bool)
        cut = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
        mask[top : top + height, left : left + width] = cut
        found[int(track.get("group_id", "")), frame] = (track.get("label"), mask)
    assert found.keys() == {*((1, t) for t in range(5)), (3, 1), (3, 2), (3, 4)}
    for (obj_id, t), (label, mask) in found.items():
        assert label == ("cup & <saucer>" if obj_id == 1 else "object")
        assert np.array_equal(mask, cup(t) if obj_id == 1 else ball(t))


def test_label_studio_reads_the_regions(annotation: Annotation, tmp_path: Path) -> None:
    folder = write(annotation, tmp_path, "label_studio")
    tasks = json.loads((folder / "tasks.json").read_text(encoding="utf-8"))
    assert [task["data"]["image"] for task in tasks] == [f"{t:05d}.jpg" for t in range(5)]
    config = ElementTree.parse(folder / "labeling_config.xml").getroot()
    assert [label.get("value") for label in config.iter("Label")] == ["dog", "cup & <saucer>", "object"]
    (result, _) = tasks[2]["annotations"][0]["result"]
    assert (result["value"]["brushlabels"], result["meta"]["text"]) == (["cup & <saucer>"], ["Mine"])
    assert [config.find(f".//*[@name='{result[key]}']") is not None for key in ("from_name", "to_name")] == [True, True]
    values = unpack(bytes(result["value"]["rle"])).reshape(HEIGHT, WIDTH, 4)
    assert np.array_equal(values, np.repeat(cup(2)[..., None] * np.uint8(255), 4, axis=2))


def test_label_studios_own_library_unpacks_what_is_packed() -> None:
    brush = pytest.importorskip("label_studio_sdk.converter.brush", reason="needs label-studio-sdk")
    mask = np.zeros((300, 400), bool)
    mask[100:290, 3:390] = True  # longer than what one run can say
    packed = pack(StoredMask.of(mask).runs)
    assert np.array_equal(brush.decode_rle(list(packed)).reshape(300, 400, 4)[:, :, 3] > 0, mask)
    assert np.array_equal(
        unpack(bytes(brush.encode_rle(np.repeat(mask.ravel() * 255, 4)))).reshape(-1, 4)[:, 3] > 0, mask.ravel()
    )


# Read by the import


@pytest.mark.parametrize("kind", READ)
def test_an_export_comes_back(annotation: Annotation, tmp_path: Path, kind: str) -> None:
    folder = write(annotation, tmp_path, kind)
    with make(tmp_path / "b") as other:
        imported = import_masks(other, folder)
        assert len(imported.objects) == len(other.objects())
        names = {label.number: label.name for label in other.labels()}
        back = {names.get(info.label or 0): info for info in other.objects()}
        mine, balls = back["cup & <saucer>"], [info for info in other.objects() if info.label is None]
        if kind != "yolo":  # which knows neither objects nor holes
            assert [(info.id, info.name) for info in other.objects()] == [(1, "Mine"), (3, "Ball")]
            assert mine.color == RED
        assert other.undo_label == "Import masks"
        for t in range(5):
            masks = other.masks(t)
            assert iou(masks[mine.id].decode(HEIGHT, WIDTH), filled(cup(t)) if kind == "yolo" else cup(t)) >= 0.98
            areas = [masks[info.id].area for info in balls if info.id in masks]
            assert sum(areas) == pytest.approx(ball(t).sum() if t else 0, rel=0.02)
            if kind in ("coco", "yolo", "label_studio"):
                assert t in (0, 3) or len(areas) == len(balls), "absent where annotated"
        assert other.masks(5) == {}
        other.undo()
        assert (other.objects(), other.labels()) == ([], [])


def test_objects_without_an_id_are_followed_by_their_overlap(annotation: Annotation, tmp_path: Path) -> None:
    folder = write(annotation, tmp_path, "coco")
    content = json.loads((folder / "annotations.json").read_text(encoding="utf-8"))
    for entry in content["annotations"]:
        del entry["track_id"], entry["name"]
    (tmp_path / "plain.json").write_text(json.dumps(content), encoding="utf-8")
    with make(tmp_path / "b") as other:
        import_masks(other, tmp_path / "plain.json", prompts="all")
        visible = {
            obj_id: [t for t, (area, *_) in frames.items() if area] for obj_id, frames in timeline(other).items()
        }
        assert sorted(visible.values()) == [[0, 1, 2, 3, 4], [1, 2], [4]]  # the ball is new where it comes back


def change_coco(change: Callable[[Any], object]) -> Callable[[Path], None]:
    def write_changed(path: Path) -> None:
        runs = {"size": [HEIGHT, WIDTH], "counts": [0, HEIGHT * WIDTH]}
        content: dict[str, Any] = {
            "images": [{"id": 7, "file_name": "a/frame_000002.png", "height": HEIGHT, "width": WIDTH}],
            "categories": [{"id": 4, "name": "cup"}],
            "annotations": [{"image_id": 7, "category_id": 4, "segmentation": runs}],
        }
        change(content)
        path.write_text(json.dumps(content))

    return write_changed


BROKEN = [
    ("a.json", change_coco(lambda c: c["images"][0].update(height=5)), "image 0: it was made for 90 x 5 pixels"),
    ("a.json", change_coco(lambda c: c["images"][0].update(file_name="000009.png")), "'000009.png' is no frame"),
    ("a.json", change_coco(lambda c: c["images"][0].update(file_name=3)), "image 0 has no usable 'file_name'"),
    ("a.json", change_coco(lambda c: c["annotations"][0].update(image_id=1)), "no image has the id 1"),
    ("a.json", change_coco(lambda c: c["annotations"][0].update(segmentation=[])), "must be polygons or"),
    ("a.json", change_coco(lambda c: c.update(annotations=[])), "holds no masks of COCO"),
    ("a.json", change_coco(lambda c: c.update(annotations=3)), "has no usable 'annotations'"),
    ("a.json", lambda path: path.write_text("{"), "is not JSON"),
    ("a.json", lambda path: path.write_text("[1]"), "is of no format that is read: COCO, YouTube-VIS, YOLO"),
    ("a.json", lambda path: path.write_text('{"video": {}, "objects": {"1": {"9": {}}}}'), "'9' is no frame"),
    ("a.json", lambda path: path.write_text('{"video": {}, "objects": {"x": {}}}'), "object x: it must be a number"),
    ("a.xml", lambda path: path.write_text("<html></html>"), "is no file of CVAT: it begins with <html>"),
    ("a.xml", lambda path: path.write_text("<annotations><track>"), "is no XML"),
    (
        "a.xml",
        lambda path: path.write_text(
            '<annotations><track id="4" label="x"><mask frame="1" rle="1, 2" left="0" top="0" width="5" height="5"/>'
            "</track></annotations>"
        ),
        "track 4: the run lengths do not fill the box",
    ),
    ("data.yaml", lambda path: path.write_text("names: 3"), "has no list `names`"),
    ("data.yaml", lambda path: path.write_text("names: [a]"), "there is no labels"),
]


@pytest.mark.parametrize(("name", "make_file", "message"), BROKEN, ids=[message for *_, message in BROKEN])
def test_a_file_that_does_not_fit_changes_nothing(
    tmp_path: Path, name: str, make_file: Callable[[Path], object], message: str
) -> None:
    make_file(tmp_path / name)
    with make(tmp_path / "a") as annotation:
        with pytest.raises(MaskFolderError, match=message):
            import_masks(annotation, tmp_path / name)
        assert (annotation.objects(), annotation.revision) == ([], 0)


def test_polygons_of_cvat_and_label_studio_are_drawn(tmp_path: Path) -> None:
    points = "10.0,10.0;40.0,10.0;40.0,30.0;10.0,30.0"
    (tmp_path / "a.xml").write_text(
        f'<annotations><track id="0" label="cup"><polygon frame="2" outside="0" points="{points}"/>'
        f'<polygon frame="3" outside="1" points="{points}"/></track>'
        f'<image id="1" name="000004.png"><polygon label="cup" points="{points}"/></image></annotations>'
    )
    square = [[100 * 10 / WIDTH, 100 * 10 / HEIGHT], [100 * 40 / WIDTH, 100 * 10 / HEIGHT], [100 * 40 / WIDTH, 50.0]]
    region = {
        "type": "polygonlabels",
        "original_width": WIDTH,
        "original_height": HEIGHT,
        "value": {"points": [*square, [100 * 10 / WIDTH, 50.0]], "polygonlabels": ["cup"]},
    }
    task = {"data": {"image": "/data/upload/1/ab12-00002.png"}, "annotations": [{"result": [region]}]}
    (tmp_path / "b.json").write_text(json.dumps([task]))
    wanted = np.zeros((HEIGHT, WIDTH), bool)
    wanted[10:30, 10:40] = True
    for name, frames in (("a.xml", [2, 4]), ("b.json", [2])):
        with make(tmp_path / f"{name}.store") as annotation:
            import_masks(annotation, tmp_path / name)
            visible = {f: m for found in timeline(annotation).values() for f, m in found.items()}
            assert sorted(visible) == frames
            (mask,) = annotation.masks(2).values()
            assert iou(mask.decode(HEIGHT, WIDTH), wanted) >= 0.98
            assert [label.name for label in annotation.labels()] == ["cup"]
