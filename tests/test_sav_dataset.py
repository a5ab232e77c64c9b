from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pycocotools.mask as coco
import pytest
from PIL import Image

from i2vpp.errors import DataError
from i2vpp.session.video_file.decoder import VideoFile
from media import moving_disc, number_of, numbered, write_video
from sav_dataset import extract_frames, visualize
from sav_dataset.png_video import PngVideo

HEIGHT, WIDTH, NUM_FRAMES = 48, 64, 10


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Make a folder of two videos, one level apart."""
    folder = tmp_path / "train"
    (folder / "sav_000").mkdir(parents=True)
    write_video(folder / "sav_000" / "sav_000001.mp4", numbered(NUM_FRAMES))
    write_video(folder / "sav_2.mp4", numbered(5))
    return folder


def extracted(folder: Path) -> dict[str, list[str]]:
    return {path.name: sorted(file.name for file in path.iterdir()) for path in sorted(folder.iterdir())}


# ---- extraction of frames


@pytest.mark.parametrize("workers", [1, 2])
def test_every_fourth_frame(videos, tmp_path, capsys, workers):
    out = tmp_path / "out" / "frames"
    assert extract_frames.main([str(videos), str(out), "--every", "4", "--processes", str(workers)]) == 0
    assert extracted(out) == {
        "sav_000001": ["00000.jpg", "00004.jpg", "00008.jpg"],
        "sav_2": ["00000.jpg", "00004.jpg"],
    }
    with Image.open(out / "sav_000001" / "00008.jpg") as image:
        assert (image.format, image.size, number_of(np.array(image))) == ("JPEG", (64, 32), 8)
    assert f"2 videos extracted to {out}, 0 were there already" in capsys.readouterr().out


def test_all_frames_of_one_file(videos, tmp_path):
    out = tmp_path / "out"
    assert extract_frames.main([str(videos / "sav_2.mp4"), str(out), "--processes", "1"]) == 0
    assert extracted(out) == {"sav_2": [f"{i:05d}.jpg" for i in range(5)]}
    for i in range(5):
        with Image.open(out / "sav_2" / f"{i:05d}.jpg") as image:
            assert number_of(np.array(image)) == i


def test_quality(tmp_path):
    frames, _ = moving_disc(2)
    video = write_video(tmp_path / "v.mp4", frames)
    sizes = []
    for quality in (30, 95):
        assert (
            extract_frames.main([str(video), str(tmp_path / str(quality)), f"--quality={quality}", "--workers=1"]) == 0
        )
        sizes.append((tmp_path / str(quality) / "v" / "00001.jpg").stat().st_size)
    assert sizes[0] < sizes[1] / 2


def test_a_second_run_goes_on_where_the_first_stopped(videos, tmp_path, capsys):
    out = tmp_path / "out"
    (out / "sav_000001").mkdir(parents=True)  # finished
    (out / "sav_000001" / "00000.jpg").write_text("kept")
    (out / ".partial-sav_2").mkdir()  # interrupted
    (out / ".partial-sav_2" / "00000.jpg").touch()
    (out / ".partial-sav_2" / "00009.jpg").touch()
    assert extract_frames.main([str(videos), str(out), "--processes", "1"]) == 0
    assert extracted(out) == {"sav_000001": ["00000.jpg"], "sav_2": [f"{i:05d}.jpg" for i in range(5)]}
    assert (out / "sav_000001" / "00000.jpg").read_text() == "kept"
    assert "1 videos extracted" in capsys.readouterr().out


def test_broken_videos_are_listed_and_leave_nothing_behind(videos, tmp_path, capsys):
    (videos / "broken.mp4").write_bytes(b"not a video")
    whole = (videos / "sav_000" / "sav_000001.mp4").read_bytes()
    (videos / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    out = tmp_path / "out"
    assert extract_frames.main([str(videos), str(out), "--processes", "1"]) == 1
    assert set(extracted(out)) == {"sav_000001", "sav_2"}
    said = capsys.readouterr()
    assert "2 videos extracted" in said.out
    for name in ("broken", "cut"):
        assert f"not extracted: {videos / name}.mp4 cannot be opened as a video" in said.err


def test_a_folder_that_cannot_be_written_stops_the_run(videos, tmp_path, capsys):
    (tmp_path / "out").write_text("a file")
    assert extract_frames.main([str(videos), str(tmp_path / "out"), "--processes", "1"]) == 1
    assert "stopped: " in (said := capsys.readouterr().err)
    assert str(tmp_path / "out") in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--every", "0"], "argument --every: must be an integer of 1 or more; got '0'"),
        (["--quality", "101"], "argument --quality: must be an integer, 1 to 100; got '101'"),
    ],
)
def test_senseless_options(videos, tmp_path, capsys, options, message):
    with pytest.raises(SystemExit, match="2"):
        extract_frames.main([str(videos), str(tmp_path / "out"), *options])
    assert message in capsys.readouterr().err


def test_nothing_to_extract_and_two_videos_of_one_name(videos, tmp_path, capsys):
    for folder in (tmp_path / "nowhere", tmp_path):
        if folder == tmp_path:
            (videos / "sav_000001.mp4").touch()
        with pytest.raises(SystemExit, match="2"):
            extract_frames.main([str(folder), str(tmp_path / "out")])
    said = capsys.readouterr().err
    assert f"no mp4 file in {tmp_path / 'nowhere'}" in said
    assert "sav_000001.mp4 would share one folder" in said
    assert not (tmp_path / "out").exists()


# ---- pictures of annotations


@pytest.fixture
def disc(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """Make a video of a disc, with the disc as manual object 1 and its right neighbourhood as automatic 10001."""
    frames, masks = moving_disc(NUM_FRAMES, HEIGHT, WIDTH)
    video = write_video(tmp_path / "v.mp4", frames)
    truth = np.stack(masks[::4])
    for kind, shown in (("manual", truth), ("auto", np.roll(truth, 12, axis=2))):
        rles = [coco.encode(np.asfortranarray(mask, np.uint8)) for mask in shown]
        content = {
            "video_frame_count": NUM_FRAMES,
            "video_height": HEIGHT,
            "video_width": WIDTH,
            "masklet": [[{"size": [HEIGHT, WIDTH], "counts": rle["counts"].decode()}] for rle in rles],
        }
        (tmp_path / f"v_{kind}.json").write_text(json.dumps(content))
    return video, truth


def changed(picture: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """Return where a picture differs from the frame that it was drawn on [H, W]."""
    return np.abs(picture.astype(int) - frame).max(axis=2) > 0


@pytest.mark.parametrize(
    ("options", "ids"),
    [([], "2 objects"), (["--manual"], "1 objects"), (["--auto"], "1 objects"), (["--objects", "10001"], "1 objects")],
)
def test_overlay_and_sheet(disc, tmp_path, capsys, options, ids):
    out = tmp_path / "out"
    assert visualize.main([str(disc[0]), *options, "--pictures", "2", "-o", str(out)]) == 0
    assert f"3 annotated frames, {ids}: {out / 'overlay.mp4'}, {out / 'sheet.png'}" in capsys.readouterr().out
    shown = VideoFile(str(out / "overlay.mp4"), "overlay")
    assert (len(shown), shown.fps, shown.height, shown.width) == (3, 6, HEIGHT, WIDTH)
    with Image.open(out / "sheet.png") as sheet:
        assert sheet.width > 2 * sheet.height  # two pictures side by side


@pytest.mark.parametrize("kind", ["manual", "auto"])
def test_the_chosen_masks_are_drawn_on_their_frames(disc, kind):
    path, truth = disc
    video = visualize.open_video(path, None, [kind])
    (obj_id,) = visualize.choose_objects(video, None)
    for t, mask in enumerate(truth if kind == "manual" else np.roll(truth, 12, axis=2)):
        drawn = changed(visualize.draw(video, t, [obj_id]), video.image(t))
        rows, columns = np.nonzero(mask)
        assert drawn[mask].all()
        outside = np.ones_like(drawn)  # contour and label may reach a little beyond
        outside[max(rows.min() - 9, 0) : rows.max() + 9, max(columns.min() - 30, 0) : columns.max() + 30] = False
        assert not drawn[outside].any()
        assert not changed(visualize.draw(video, t, []), video.image(t)).any()


def test_a_small_object_is_drawn_over_a_large_one(tmp_path):
    video = png_video(tmp_path, {"000": (slice(10, 20), slice(10, 20)), "001": (slice(0, 40), slice(0, 60))})
    both, alone = (visualize.draw(video, 0, ids)[11, 11].astype(int) for ids in ([0, 1], [1]))
    assert np.abs(both - alone).max() > 20


def test_annotations_elsewhere(disc, tmp_path):
    path, _ = disc
    moved = tmp_path / "annotations"
    moved.mkdir()
    for kind in ("manual", "auto"):
        (tmp_path / f"v_{kind}.json").rename(moved / f"v_{kind}.json")
    for given, ids in ((moved, [1, 10_001]), (moved / "v_auto.json", [10_001])):
        assert visualize.open_video(path, given, ["manual", "auto"]).obj_ids == ids
    with pytest.raises(
        DataError, match=r"neither v_manual\.json nor <object>.*name their file or folder with --annotations"
    ):
        visualize.open_video(path, None, ["manual"])


# ---- PNG masks, as in SA-V's validation and test sets


def png_video(root: Path, boxes: dict[str, tuple[slice, slice]]) -> PngVideo:
    """Write 6 frames, masks on 0 and 4, and return the video that `visualize` finds there; objects are absent on 4."""
    frames = root / "JPEGImages_24fps" / "sav_1"
    frames.mkdir(parents=True)
    for i, frame in enumerate(numbered(6, HEIGHT, WIDTH)):
        Image.fromarray(frame).save(frames / f"{i:05d}.jpg")
    for folder, box in boxes.items():
        masks = root / "Annotations_6fps" / "sav_1" / folder
        masks.mkdir(parents=True)
        mask = np.zeros((HEIGHT, WIDTH), bool)
        Image.fromarray(mask).save(masks / "00004.png")
        mask[box] = True
        Image.fromarray(mask).save(masks / "00000.png")
    video = visualize.open_video(frames, None, ["manual", "auto"])
    assert isinstance(video, PngVideo)
    return video


def test_png_masks_may_overlap(tmp_path, capsys):
    boxes = {"000": (slice(5, 15), slice(5, 25)), "003": (slice(10, 20), slice(10, 30))}
    video = png_video(tmp_path, boxes)
    assert (len(video), video.obj_ids, [video.frame_name(t) for t in (0, 1)]) == (2, [0, 3], ["00000", "00004"])
    assert [number_of(video.image(t)) for t in (0, 1)] == [0, 4]
    masks = video.masks(0)
    assert set(masks) == {0, 3}
    for obj_id, box in ((0, boxes["000"]), (3, boxes["003"])):
        assert masks[obj_id].dtype == np.bool_
        assert masks[obj_id][box].all()
        assert masks[obj_id].sum() == 200
    assert video.masks(1) == {}
    frames = tmp_path / "JPEGImages_24fps" / "sav_1"
    assert visualize.main([str(frames), "-o", str(tmp_path / "out")]) == 0
    assert "2 annotated frames, 2 objects" in capsys.readouterr().out


def test_an_object_without_a_mask_on_some_frame(tmp_path):
    video = png_video(tmp_path, {"000": (slice(5), slice(5)), "001": (slice(5), slice(5))})
    (tmp_path / "Annotations_6fps" / "sav_1" / "001" / "00000.png").unlink()
    video = PngVideo("sav_1", tmp_path / "JPEGImages_24fps" / "sav_1", tmp_path / "Annotations_6fps" / "sav_1")
    assert set(video.masks(0)) == {0}


def test_png_masks_that_do_not_fit(tmp_path):
    frames, masks = tmp_path / "JPEGImages_24fps" / "sav_1", tmp_path / "Annotations_6fps" / "sav_1"
    video = png_video(tmp_path, {"000": (slice(5), slice(5))})
    Image.new("1", (WIDTH, HEIGHT - 1)).save(masks / "000" / "00000.png")
    with pytest.raises(DataError, match=r"mask .*00000\.png is 64 x 47 pixels, but its image .* is 64 x 48"):
        video.masks(0)
    Image.new("1", (WIDTH, HEIGHT)).save(masks / "000" / "00008.png")
    with pytest.raises(DataError, match="lacks 1 frames that have masks, the first is 00008"):
        PngVideo("sav_1", frames, masks)
    (masks / "cat").mkdir()
    with pytest.raises(DataError, match="must be named by object ids such as 000, got cat"):
        PngVideo("sav_1", frames, masks)
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="holds no masks"):
        PngVideo("sav_1", frames, tmp_path / "none")


# ---- bad input of the command


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--objects", "1", "7"], "error: v has no object 7; it has 1, 10001"),
        (["--annotations", "nowhere"], "error: no annotations of .*v.mp4: neither v_manual.json, v_auto.json nor"),
    ],
)
def test_what_is_not_there(disc, tmp_path, capsys, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    assert visualize.main([str(disc[0]), *options]) == 1
    said = capsys.readouterr().err
    assert message.replace(".*", f"{disc[0].parent}/") in said
    assert not (tmp_path / "outputs").exists()


def test_a_video_that_is_not_there(tmp_path, capsys):
    assert visualize.main([str(tmp_path / "v.mp4")]) == 1
    assert (
        f"error: {tmp_path / 'v.mp4'} does not exist; give an mp4 file or a folder of frames" in capsys.readouterr().err
    )
    with pytest.raises(SystemExit, match="2"):
        visualize.main([str(tmp_path), "--pictures", "0"])
    assert "argument --pictures: must be an integer of 1 or more; got '0'" in capsys.readouterr().err
