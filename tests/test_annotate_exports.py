"""Annotations written as SA-V, DAVIS, COCO and overlay files, and masks read into an annotation."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image, ImageFilter

from annotator import timeline
from i2vpp.annotate.errors import CancelledError, DiskFullError, MaskFolderError, StaleRevisionError
from i2vpp.annotate.exchange.exports import KINDS, export
from i2vpp.annotate.exchange.formats.base import Footage
from i2vpp.annotate.exchange.imports import import_masks
from i2vpp.annotate.storage.store import Annotation
from i2vpp.annotate.storage.values import Prompts, StoredMask
from i2vpp.errors import FrameDecodeError, PromptError
from i2vpp.utils.visualize import davis_palette
from media import number_of, numbered_frame
from sav_dataset.png_video import PngVideo

HEIGHT, WIDTH, FRAMES = 64, 128, 7
FOOTAGE = Footage(frames=FRAMES, read_frame=lambda t: numbered_frame(t, HEIGHT, WIDTH), fps=10.0)
RED, BLUE = "#e01020", "#2030e0"


def rectangle(top: int, left: int, height: int = 24, width: int = 32) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top : top + height, left : left + width] = True
    return mask


def large(t: int) -> np.ndarray:
    return rectangle(4, 8 + t, 48, 80)


def small(t: int) -> np.ndarray:
    return rectangle(8, 20 + t) if t != 5 else np.zeros((HEIGHT, WIDTH), bool)


def make(tmp_path: Path, name: str = "clip") -> Annotation:
    return Annotation(tmp_path / f"{name}.db", height=HEIGHT, width=WIDTH, frames=FRAMES, video="clip.mp4")


@pytest.fixture
def annotation(tmp_path: Path) -> Iterator[Annotation]:
    """Object 1 on frames 0 to 5; object 3, smaller and over it, on 2 to 5, on 5 known to be absent; frame 6 is bare."""
    with make(tmp_path) as opened:
        with opened.edit("Objects") as edit:
            edit.add_object("café <b>", RED)
            edit.add_object("gone")
            edit.add_object("ball", BLUE)
            edit.delete_object(2)
            for t in range(6):
                edit.set_mask(1, t, StoredMask.of(large(t), score=3.0, iou=0.9))
            for t in range(2, 6):
                edit.set_mask(3, t, StoredMask.of(small(t)))
        yield opened


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


# Exports


def test_sav_masks_are_read_back(annotation: Annotation, tmp_path: Path) -> None:
    folder = export(annotation, tmp_path / "out" / "sav", "sav", footage=FOOTAGE)
    assert folder == tmp_path / "out" / "sav"
    expected = [*(f"001/{t:05d}.png" for t in range(6)), *(f"003/{t:05d}.png" for t in range(2, 6)), "objects.json"]
    assert files(folder) == expected
    for t in range(6):
        assert np.array_equal(read(folder / f"001/{t:05d}.png"), large(t))
    frames = tmp_path / "frames"
    frames.mkdir()
    for t in range(FRAMES):
        Image.fromarray(FOOTAGE.read_frame(t)).save(frames / f"{t:05d}.jpg")
    video = PngVideo("clip", frames, folder)
    assert (len(video), video.obj_ids) == (6, [1, 3])
    assert np.array_equal(video.masks(3)[3], small(3))
    assert list(video.masks(5)) == [1]


def test_davis_masks_have_the_smaller_object_on_top(annotation: Annotation, tmp_path: Path) -> None:
    folder = export(annotation, tmp_path / "davis", "davis", footage=FOOTAGE)
    assert files(folder) == [*(f"{t:05d}.png" for t in range(6)), "objects.json"]
    for t in range(6):
        index = large(t) * np.uint8(1)
        if t >= 2:
            index[small(t)] = 3
        assert np.array_equal(read(folder / f"{t:05d}.png"), index)
    with Image.open(folder / "00003.png") as image:
        assert image.mode == "P"
        assert bytes(image.getpalette() or [])[:12] == davis_palette()[:12]


def test_of_equally_large_objects_the_higher_id_lies_on_top(tmp_path: Path) -> None:
    with make(tmp_path) as annotation:
        with annotation.edit("x") as edit:
            for left in (0, 16, 32):
                edit.set_mask(edit.add_object().id, 0, StoredMask.of(rectangle(0, left)))
        folder = export(annotation, tmp_path / "davis", "davis", footage=FOOTAGE)
    assert read(folder / "00000.png")[0, :65:16].tolist() == [1, 2, 3, 3, 0]


def test_run_lengths_decode_to_the_masks(annotation: Annotation, tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.mask")
    folder = export(annotation, tmp_path / "rle", "rle", footage=FOOTAGE)
    assert files(folder) == ["masks.json", "objects.json"]
    content = json.loads((folder / "masks.json").read_text())
    assert content["video"] == {"height": HEIGHT, "width": WIDTH, "fps": 10.0, "num_frames": FRAMES}
    assert [list(content["objects"]), list(content["objects"]["1"])] == [["1", "3"], list("012345")]
    for t in range(6):
        assert np.array_equal(coco.decode(content["objects"]["1"][str(t)]), large(t))
    assert np.array_equal(coco.decode(content["objects"]["3"]["4"]), small(4))


def decode(path: Path) -> tuple[list[np.ndarray], float]:
    with av.open(str(path)) as container:
        rate = float(container.streams.video[0].average_rate or 0)
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)], rate


def test_an_overlay_shows_objects_in_their_colours(annotation: Annotation, tmp_path: Path) -> None:
    folder = export(annotation, tmp_path / "overlay", "overlay", footage=FOOTAGE)
    frames, rate = decode(folder / "overlay.mp4")
    assert (len(frames), rate) == (FRAMES, 10.0)
    assert number_of(frames[6]) == 6
    red, blue = frames[3][44:50, 20:80].mean((0, 1)), frames[3][29:31, 26:50].mean((0, 1))
    assert red[0] > red[2] + 60
    assert blue[2] > blue[0] + 60
    with annotation.edit("Hide") as edit:
        edit.change_object(3, hidden=True)
    frames, _ = decode(export(annotation, tmp_path / "overlay", "overlay", footage=FOOTAGE) / "overlay.mp4")
    under = frames[3][29:31, 26:50].mean((0, 1))
    assert under[0] > under[2] + 60


@pytest.mark.parametrize("kind", KINDS)
def test_every_third_frame(annotation: Annotation, tmp_path: Path, kind: Any) -> None:
    told: list[tuple[int, int]] = []
    folder = export(
        annotation, tmp_path / "out", kind, footage=FOOTAGE, every=3, progress=lambda *done: told.append(done)
    )
    assert told == [(1, 3), (2, 3), (3, 3)]
    if kind == "sav":
        assert files(folder) == ["001/00000.png", "001/00003.png", "003/00003.png", "objects.json"]
    if kind == "davis":
        assert files(folder) == ["00000.png", "00003.png", "objects.json"]
    if kind == "rle":
        assert list(json.loads((folder / "masks.json").read_text())["objects"]["1"]) == ["0", "3"]
    if kind == "overlay":
        frames, rate = decode(folder / "overlay.mp4")
        assert [number_of(frames[0]), len(frames)] == [0, 3]
        assert rate == pytest.approx(10 / 3, rel=1e-3)
    content = json.loads((folder / "objects.json").read_text(encoding="utf-8"))
    assert content["objects"] == {"1": {"name": "café <b>", "color": RED}, "3": {"name": "ball", "color": BLUE}}
    assert (content["kind"], content["every"], content["video"]["name"]) == (kind, 3, "clip.mp4")


def test_masks_are_named_like_the_frames(annotation: Annotation, tmp_path: Path) -> None:
    names = [f"img_{2 * t}" for t in range(FRAMES)]
    footage = Footage(frames=FRAMES, read_frame=FOOTAGE.read_frame, frame_names=names)
    assert files(export(annotation, tmp_path / "davis", "davis", footage=footage))[:3] == [
        "img_0.png",
        "img_10.png",
        "img_2.png",
    ]
    folder = export(annotation, tmp_path / "sav", "sav", footage=footage)
    assert (folder / "003" / "img_4.png").exists()
    with make(tmp_path, "other") as other:
        import_masks(other, folder, frame_names=names)
        assert timeline(other).keys() == {1, 3}
        assert list(timeline(other)[3]) == [2, 3, 4, 5]
    with pytest.raises(MaskFolderError, match="two frames are called 'a'"):
        Footage(frames=2, read_frame=FOOTAGE.read_frame, frame_names=["a", "a"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_cancelled_export_leaves_nothing_and_the_earlier_one(
    annotation: Annotation, tmp_path: Path, kind: Any
) -> None:
    out = tmp_path / "out"
    asked = iter([False, False, True])
    with pytest.raises(CancelledError, match="cancelled; nothing of it is left"):
        export(annotation, out / "x", kind, footage=FOOTAGE, cancelled=lambda: next(asked))
    assert list(out.iterdir()) == []
    export(annotation, out / "x", kind, footage=FOOTAGE)
    before = {name: (out / "x" / name).read_bytes() for name in files(out / "x")}
    with pytest.raises(CancelledError):
        export(annotation, out / "x", kind, footage=FOOTAGE, cancelled=lambda: True)
    assert {name: (out / "x" / name).read_bytes() for name in files(out / "x")} == before
    assert [path.name for path in out.iterdir()] == ["x"]


def test_an_export_replaces_its_predecessor_as_a_whole(annotation: Annotation, tmp_path: Path) -> None:
    folder = export(annotation, tmp_path / "out" / "sav", "sav", footage=FOOTAGE)
    for word in ("partial", "old"):  # left by a process that was killed
        (tmp_path / "out" / f".sav.{word}" / "junk").mkdir(parents=True)
    with annotation.edit("Delete") as edit:
        edit.delete_object(1)
    export(annotation, folder, "sav", footage=FOOTAGE)
    assert files(folder) == [*(f"003/{t:05d}.png" for t in range(2, 6)), "objects.json"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["sav"]


def test_other_folders_and_files_are_not_overwritten(annotation: Annotation, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    export(annotation, mine, "davis", footage=FOOTAGE)  # an empty folder is no loss
    photos = tmp_path / "photos"
    photos.mkdir()
    file = tmp_path / "file"
    file.write_text("mine")
    for content in ("[" * 100_000, '{"made_by": "me"}'):
        (photos / "objects.json").write_text(content)
        for other in (photos, file):
            with pytest.raises(MaskFolderError, match="is no earlier export and is not overwritten"):
                export(annotation, other, "davis", footage=FOOTAGE)
    assert (files(photos), file.read_text()) == (["objects.json"], "mine")
    with pytest.raises(MaskFolderError, match="cannot write"):
        export(annotation, file / "below", "davis", footage=FOOTAGE)


def test_there_must_be_something_to_export(annotation: Annotation, tmp_path: Path) -> None:
    with make(tmp_path, "bare") as bare, pytest.raises(MaskFolderError, match="no mask to export yet"):
        export(bare, tmp_path / "x", "sav", footage=FOOTAGE)
    for kind, every in (("gif", 1), ("sav", 0)):
        with pytest.raises(MaskFolderError, match="allowed: sav, davis, coco, youtube_vis"):
            export(annotation, tmp_path / "x", kind, footage=FOOTAGE, every=every)
    assert not (tmp_path / "x").exists()


def test_a_frame_that_cannot_be_read_ends_an_overlay(annotation: Annotation, tmp_path: Path) -> None:
    def broken(t: int) -> np.ndarray:
        if t == 4:
            raise FrameDecodeError("frame 4 is broken")
        return FOOTAGE.read_frame(t)

    with pytest.raises(FrameDecodeError, match="frame 4 is broken"):
        export(annotation, tmp_path / "out" / "x", "overlay", footage=Footage(frames=FRAMES, read_frame=broken))
    assert list((tmp_path / "out").iterdir()) == []


def test_a_full_disk_ends_an_export_in_words(
    annotation: Annotation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = Path.replace

    def full_at_once(path: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    def full(path: Path, target: Path) -> Path:
        if "00004" in target.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", full)
    monkeypatch.setattr(Path, "write_bytes", full_at_once)
    with pytest.raises(DiskFullError, match=r"no space is left on the disk of .*; nothing of the export is left"):
        export(annotation, tmp_path / "out" / "x", "sav", footage=FOOTAGE)
    assert list((tmp_path / "out").iterdir()) == []


# Imports


def content(annotation: Annotation) -> dict[int, dict[int, bytes]]:
    return {t: {obj_id: mask.runs for obj_id, mask in annotation.masks(t).items()} for t in range(FRAMES)}


def test_an_exported_sav_folder_comes_back(annotation: Annotation, tmp_path: Path) -> None:
    folder = export(annotation, tmp_path / "sav", "sav", footage=FOOTAGE)
    told: list[tuple[int, int]] = []
    with make(tmp_path, "other") as other:
        imported = import_masks(other, folder, progress=lambda *done: told.append(done))
        assert content(other) == content(annotation)
        assert other.objects() == annotation.objects() == list(imported.objects)
        assert imported.masks == 10
        assert told == [(n, 10) for n in range(1, 11)]
        first = Prompts(imported=True)
        assert other.prompts() == {1: {0: first}, 3: {2: first}}
        assert other.undo_label == "Import masks"
        other.undo()
        assert (other.objects(), other.prompts(), other.summary().annotated) == ([], {}, 0)
        other.redo()
        assert content(other) == content(annotation)


def test_an_exported_davis_folder_comes_back_without_overlaps(annotation: Annotation, tmp_path: Path) -> None:
    folder = export(annotation, tmp_path / "davis", "davis", footage=FOOTAGE)
    with make(tmp_path, "other") as other:
        import_masks(other, folder, prompts="all")
        for t in range(6):
            masks = other.masks(t)
            assert np.array_equal(masks[1].decode(HEIGHT, WIDTH), large(t) & ~(small(t) & (t >= 2)))
            assert masks[3].area == (small(t).sum() if t >= 2 else 0)  # missing ids are empty masks
        assert other.masks(6) == {}
        assert {obj_id: list(frames) for obj_id, frames in other.prompts().items()} == {1: [*range(6)], 3: [2, 3, 4]}


def write(path: Path, values: np.ndarray, mode: str = "P") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values.astype(np.uint8))
    if mode == "P":
        image.putpalette(davis_palette())
    elif mode != "L":
        image = image.convert(mode)
    image.save(path)
    return path


def test_chosen_frames_become_prompts(annotation: Annotation, tmp_path: Path) -> None:
    for t in (0, 2, 4):
        write(tmp_path / "masks" / f"{t}.png", large(t) * (t != 2))
    imported = import_masks(annotation, tmp_path / "masks", prompts=[2, 4, 6])
    assert [(info.id, info.name) for info in imported.objects] == [(4, "Object 1")]  # 1 is in use, 2 was
    assert annotation.prompts() == {4: {4: Prompts(imported=True)}}
    assert [mask[0] > 0 for mask in timeline(annotation)[4].values()] == [True, False, True]


@pytest.mark.parametrize("mode", ["L", "1", "P"])
def test_binary_pngs_are_one_object(tmp_path: Path, mode: str) -> None:
    for t in (0, 1):
        write(tmp_path / "davis" / f"{t:05d}.png", small(t) * 255, mode)
        write(tmp_path / "sav" / "000" / f"{t:05d}.png", small(t) * 255, mode)
    for layout in ("davis", "sav"):
        with make(tmp_path, layout) as annotation:
            (info,) = import_masks(annotation, tmp_path / layout).objects
            assert info.id == 1
            assert np.array_equal(annotation.masks(1)[1].decode(HEIGHT, WIDTH), small(1))


def test_colours_are_objects_over_all_masks(tmp_path: Path) -> None:
    colours = np.array([(0, 0, 0), (9, 200, 9), (200, 9, 9)], np.uint8)
    for t, values in enumerate((small(0) * 2, large(1) * 1)):
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(colours[values]).save(tmp_path / "masks" / f"{t:05d}.png")
    with make(tmp_path) as annotation:
        import_masks(annotation, tmp_path / "masks")
        assert {t: {i: m.area > 0 for i, m in annotation.masks(t).items()} for t in (0, 1)} == {
            0: {1: False, 2: True}, 1: {1: True, 2: False},
        }  # fmt: skip


@pytest.mark.parametrize("named", [True, False])
def test_255_beside_others_is_an_object_if_it_has_a_name(tmp_path: Path, named: bool) -> None:
    write(tmp_path / "masks" / "00000.png", np.where(small(0), 255, large(0) * 2))
    if named:
        looks = {"objects": {"255": {"name": "sky", "color": "#00ffff"}}}
        (tmp_path / "masks" / "objects.json").write_text(json.dumps(looks))
    with make(tmp_path) as annotation:
        found = {info.id: info.name for info in import_masks(annotation, tmp_path / "masks").objects}
        assert found == ({2: "Object 2", 255: "sky"} if named else {2: "Object 2"})


def test_masks_with_soft_edges_are_cut_where_they_are_of_one_object(tmp_path: Path) -> None:
    soft = Image.fromarray(small(0).astype(np.uint8) * 255).filter(ImageFilter.GaussianBlur(1))
    for folder in ("davis", "sav/001"):
        (tmp_path / folder).mkdir(parents=True)
        soft.save(tmp_path / folder / "00000.png")
    with make(tmp_path) as annotation:
        with pytest.raises(MaskFolderError, match=r"davis/00000\.png has soft edges"):
            import_masks(annotation, tmp_path / "davis")
        import_masks(annotation, tmp_path / "sav")
        mask = annotation.masks(0)[1].decode(HEIGHT, WIDTH)
        assert np.mean(mask != small(0)) < 0.005


def test_object_0_of_sav_takes_an_id_that_is_left(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / "sav" / f"{number:03d}" / "00000.png", rectangle(0, 16 * number))
    with make(tmp_path) as annotation:
        found = import_masks(annotation, tmp_path / "sav").objects
        assert [(info.id, info.name) for info in found] == [(1, "Object 1"), (2, "Object 2"), (3, "Object 0")]
        assert annotation.masks(0)[3].runs == StoredMask.of(rectangle(0, 0)).runs


def test_hidden_and_other_files_do_not_matter(tmp_path: Path) -> None:
    write(tmp_path / "masks" / "00001.png", small(1))
    for name in (".DS_Store", "._00001.png", "readme.txt"):
        (tmp_path / "masks" / name).write_text("x")
    with make(tmp_path) as annotation:
        assert import_masks(annotation, tmp_path / "masks").masks == 1


def broken_png(folder: Path) -> None:
    data = write(folder / "00001.png", np.random.default_rng(0).random((HEIGHT, WIDTH)) < 0.5).read_bytes()
    (folder / "00001.png").write_bytes(data[:-60])


def two_names(folder: Path) -> None:
    for name in ("1.png", "00001.png"):
        write(folder / name, small(1))


def mixed(folder: Path) -> None:
    write(folder / "00001.png", small(1))
    write(folder / "001" / "00001.png", small(1))


def two_objects(folder: Path) -> None:
    for name in ("1", "001"):
        write(folder / name / "00001.png", small(1))


def bad_names(folder: Path) -> None:
    write(folder / "00001.png", small(1))
    (folder / "objects.json").write_text('{"objects": ["dog"]}')


BAD_FOLDERS = [
    (lambda folder: None, "cannot read the folder of masks .*/masks: No such file"),
    (lambda folder: folder.mkdir(), "masks holds no masks; masks must lie in it as <frame>.png"),
    (mixed, "masks holds both PNGs and folders"),
    (two_objects, "masks/001 and 1 are of the same object"),
    (two_names, "masks/00001.png and 1.png are of the same frame"),
    (broken_png, "cannot read the mask .*masks/00001.png"),
    (bad_names, "masks/objects.json does not name objects"),
    (lambda folder: write(folder / "dog" / "00001.png", small(1)), "masks/dog is not named by an object id"),
    (lambda folder: write(folder / "a.png", small(1)), r"masks/a.png is not named by a frame's index, 0 to 6;"),
    (lambda folder: write(folder / "00007.png", small(1)), "masks/00007.png is not named by a frame's index, 0 to 6"),
    (lambda folder: write(folder / "00001.png", small(1).T), "00001.png is 64 x 128 pixels, but the video is 128 x 64"),
    (lambda folder: write(folder / "00001.jpg", small(1), "L"), "00001.jpg is no PNG; masks must be PNGs"),
    (lambda folder: write(folder / "00001.png", 0 * small(1)), "all masks in .*masks are empty"),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "message"), BAD_FOLDERS)
def test_masks_that_do_not_fit_are_named(annotation: Annotation, tmp_path: Path, spoil: Any, message: str) -> None:
    spoil(tmp_path / "masks")
    before = content(annotation), annotation.revision
    with pytest.raises(MaskFolderError, match=message):
        import_masks(annotation, tmp_path / "masks")
    assert (content(annotation), annotation.revision) == before


def test_masks_must_be_named_like_frames_that_have_names(annotation: Annotation, tmp_path: Path) -> None:
    write(tmp_path / "masks" / "00001.png", small(1))
    with pytest.raises(MaskFolderError, match=r"00001\.png is not named by one of the video's frames"):
        import_masks(annotation, tmp_path / "masks", frame_names=["a", "b"])


def test_an_import_can_be_cancelled_stale_or_too_large(annotation: Annotation, tmp_path: Path) -> None:
    write(tmp_path / "masks" / "00001.png", small(1))
    with pytest.raises(CancelledError, match="nothing was changed"):
        import_masks(annotation, tmp_path / "masks", cancelled=lambda: True)
    with pytest.raises(StaleRevisionError):
        import_masks(annotation, tmp_path / "masks", expected=0)
    with annotation.edit("fill") as edit:
        for _ in range(252):
            edit.add_object()
    with pytest.raises(PromptError, match="all 255 object ids of this video were used"):
        import_masks(annotation, tmp_path / "masks")
    assert annotation.undo_label == "fill"
