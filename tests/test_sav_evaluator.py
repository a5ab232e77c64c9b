from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_files import HEIGHT, SQUARE, WIDTH, write_json, write_mask
from i2vpp.errors import DataError
from i2vpp.evaluation.metrics import score_object
from sav_dataset.sav_evaluator import evaluate, main

EMPTY = np.zeros_like(SQUARE)
MOVED = np.roll(SQUARE, 1, axis=1)  # 6 of 9 pixels shared: J 50
FRAMES = 5


def write_sav(root: Path, objects: dict[str, list[np.ndarray]], *, value: int = 255) -> Path:
    """Write masks, by "video/object", as SA-V's: every fourth frame."""
    for name, masks in objects.items():
        for t, mask in enumerate(masks):
            write_mask(root / name / f"{4 * t:05d}.png", mask * value, mode="L")
    return root


def write_davis(root: Path, videos: dict[str, list[np.ndarray]]) -> Path:
    """Write index masks, by video."""
    for name, masks in videos.items():
        for t, values in enumerate(masks):
            write_mask(root / name / f"{t:05d}.png", values)
    return root


@pytest.fixture
def sav(tmp_path: Path) -> tuple[Path, Path]:
    """Three objects of two videos; the second one is followed with an offset."""
    truth = {name: [SQUARE] * FRAMES for name in ("a/000", "a/001", "b/000")}
    return write_sav(tmp_path / "gt", truth), write_sav(tmp_path / "pred", {**truth, "a/001": [MOVED] * FRAMES})


# ---- the numbers


@pytest.mark.parametrize("skip", [True, False], ids=["skip_ends", "all_frames"])
@pytest.mark.parametrize("layout", ["sav", "davis"])
def test_equals_the_published_evaluator(shared_data, layout, skip):
    folder = shared_data / "parity" / "jf"
    expected = json.loads((folder / "official.json").read_text())[f"{layout}.{'skip_ends' if skip else 'all_frames'}"]
    found = evaluate(folder / layout / "gt", folder / layout / "pred", skip_first_and_last_frame=skip, num_processes=1)
    assert found.settings["layout"] == layout
    assert {"J&F": found.jf, "J": found.j, "F": found.f} == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("skip", [True, False], ids=["skip_ends", "all_frames"])
@pytest.mark.parametrize("layout", ["sav", "davis"])
def test_equals_the_published_evaluator_where_objects_come_late_or_leave(shared_data, layout, skip):
    folder = shared_data / "parity" / "jf_late"
    expected = json.loads((folder / "official.json").read_text())[f"{layout}.{'skip_ends' if skip else 'all_frames'}"]
    (by_video,) = expected.pop("objects")
    found = evaluate(folder / layout / "gt", folder / layout / "pred", skip_first_and_last_frame=skip, num_processes=1)
    assert {"J&F": found.jf, "J": found.j, "F": found.f} == pytest.approx(expected, abs=1e-6)
    for measure, score in enumerate(("j", "f")):
        published = {f"{video}/{obj}": x for video, both in by_video.items() for obj, x in both[measure].items()}
        assert {result.name: getattr(result, score) for result in found.objects} == pytest.approx(published, abs=1e-6)


def test_means_over_frames_and_then_over_objects(sav):
    found = evaluate(*sav)
    shifted = score_object([MOVED] * FRAMES, [SQUARE] * FRAMES)
    assert [(result.name, result.frames) for result in found.objects] == [
        (name, ("00004", "00008", "00012")) for name in ("a/000", "a/001", "b/000")
    ]
    assert [result.j for result in found.objects] == [100, 50, 100]
    assert found.objects[1].frame_f == pytest.approx([100 * f for f in shifted.frame_f])
    assert found.j == pytest.approx(250 / 3)
    assert found.f == pytest.approx((200 + 100 * shifted.f) / 3)
    assert found.jf == pytest.approx((found.j + found.f) / 2)
    assert not found.missing
    assert found.run is None
    everything = evaluate(*sav, skip_first_and_last_frame=False)
    assert everything.objects[0].frames == ("00000", "00004", "00008", "00012", "00016")


def test_the_result_does_not_depend_on_the_number_of_processes(sav):
    assert evaluate(*sav, num_processes=2) == evaluate(*sav, num_processes=1)


def test_objects_overlap_in_sav(tmp_path):
    both = {"v/000": [SQUARE] * 3, "v/001": [MOVED] * 3}
    assert evaluate(write_sav(tmp_path / "gt", both), write_sav(tmp_path / "pred", both)).jf == 100


@pytest.mark.parametrize("kind", ["0/255", "0/1", "palette", "black and white", "rgb"])
def test_ways_to_write_a_mask_of_one_object(tmp_path, sav, kind):
    for path in sav[1].glob("*/*/*.png"):
        mask = np.array(Image.open(path)) > 0
        if kind == "rgb":
            Image.fromarray(np.repeat(255 * mask[..., None], 3, 2).astype(np.uint8)).save(path)
        elif kind == "black and white":
            Image.fromarray(mask).save(path)
            assert Image.open(path).mode == "1"
        else:
            write_mask(path, mask * {"0/255": 255, "0/1": 1, "palette": 3}[kind], "P" if kind == "palette" else "L")
    assert evaluate(*sav).j == pytest.approx(250 / 3)


def test_index_masks_hold_several_objects(tmp_path):
    truth = SQUARE + 2 * np.roll(SQUARE, 3, axis=1)
    gt = write_davis(tmp_path / "gt", {"v": [truth] * 4})
    pred = write_davis(tmp_path / "pred", {"v": [SQUARE + 0] * 4})
    found = evaluate(gt, pred)
    assert {result.object: result.j for result in found.objects} == {"1": 100, "2": 0}
    assert found.settings["layout"] == "davis"


def test_index_masks_in_colours(tmp_path):
    truth = SQUARE + 2 * np.roll(SQUARE, 3, axis=1)
    colours = np.array([(0, 0, 0), (9, 9, 200), (200, 9, 9)], np.uint8)
    for root, values in (("gt", truth), ("pred", SQUARE * 2)):  # object 1 comes late: its colour is known all the same
        for t, of_frame in enumerate((values, values, truth)):
            (tmp_path / root / "v").mkdir(parents=True, exist_ok=True)
            Image.fromarray(colours[of_frame]).save(tmp_path / root / "v" / f"{t:05d}.png")
    assert {result.object: result.j for result in evaluate(tmp_path / "gt", tmp_path / "gt").objects} == {
        "1": 100, "2": 100,
    }  # fmt: skip
    pred = write_davis(tmp_path / "indices", {"v": [truth] * 3})
    assert evaluate(tmp_path / "gt", pred).j == 100
    found = {result.object: result.j for result in evaluate(tmp_path / "gt", tmp_path / "pred").objects}
    assert found["1"] == 0
    assert found["2"] < 100


@pytest.mark.parametrize("layout", ["davis", "sav"])
@pytest.mark.parametrize("which", ["gt", "pred"])
def test_soft_edges_are_no_objects(tmp_path, layout, which):
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    write, name, frame = (write_davis, "v", "00001") if layout == "davis" else (write_sav, "v/000", "00004")
    gt, pred = (write(tmp_path / root, {name: [SQUARE * 1] * 3}) for root in ("gt", "pred"))
    path = write_mask(tmp_path / which / name / f"{frame}.png", (255 - 36 * np.hypot(y - 3, x - 4)).clip(0, 255), "L")
    with pytest.raises(DataError, match=rf"mask {path} has soft edges, .* grey values, which are no objects"):
        evaluate(gt, pred)


def test_255_is_no_object(tmp_path):
    truth = SQUARE + 255 * np.roll(SQUARE, 3, axis=1)
    gt = write_davis(tmp_path / "gt", {"v": [truth] * 3})
    found = evaluate(gt, write_davis(tmp_path / "pred", {"v": [SQUARE + 0] * 3}))
    assert [(result.object, result.j) for result in found.objects] == [("1", 100)]


def test_an_object_counts_from_its_first_appearance_on(tmp_path):
    late = [SQUARE, SQUARE, SQUARE + 2 * np.roll(SQUARE, 3, axis=1)]
    gt = write_davis(tmp_path / "gt", {"v": [*late, late[2], late[2], late[2]]})
    # object 2 is found too early and, on frame 3, not at all
    pred = write_davis(tmp_path / "pred", {"v": [late[2], late[2], late[2], SQUARE, late[2], late[2]]})
    found = {result.object: result for result in evaluate(gt, pred, rule="first-appearance").objects}
    assert found["1"].frames == ("00001", "00002", "00003", "00004")
    assert found["2"].frames == ("00003", "00004")
    assert found["2"].frame_j == (0, 100)
    everything = evaluate(gt, pred, skip_first_and_last_frame=False, rule="first-appearance")
    whole = {result.object: result for result in everything.objects}
    assert whole["2"].frames == ("00002", "00003", "00004", "00005")


def test_frames_before_any_object_need_no_prediction(tmp_path):
    gt = write_davis(tmp_path / "gt", {"v": [EMPTY, EMPTY, SQUARE, SQUARE, SQUARE]})
    pred = write_davis(tmp_path / "pred", {"v": [EMPTY, EMPTY, SQUARE, SQUARE, SQUARE]})
    assert evaluate(gt, pred).objects[0].frames == ("00002", "00003")
    assert evaluate(gt, pred, rule="first-appearance").objects[0].frames == ("00003",)


def test_merged_objects(tmp_path):
    truth = SQUARE + 2 * np.roll(SQUARE, 3, axis=1)
    gt = write_davis(tmp_path / "gt", {"v": [truth] * 3})
    pred = write_davis(tmp_path / "pred", {"v": [255 * (truth > 0)] * 3})
    found = evaluate(gt, pred, merge_objects=True)
    assert [(result.object, result.jf) for result in found.objects] == [("1", 100)]


def test_davis_2016_marks_its_object_with_255(tmp_path):
    root = write_davis(tmp_path / "gt", {"v": [255 * SQUARE] * 3})
    with pytest.raises(DataError, match=r"true masks of v show no object, only 0 and 255.*--merge-objects"):
        evaluate(root, root)
    assert evaluate(root, root, merge_objects=True).jf == 100


def test_listed_videos_only(sav):
    assert {result.video for result in evaluate(*sav, videos=["b"]).objects} == {"b"}
    with pytest.raises(DataError, match="lacks 1 of 2 listed videos: c"):
        evaluate(*sav, videos=["b", "c"])


# ---- what is missing


def test_missing_videos_are_left_out_and_other_gaps_are_empty(sav, tmp_path):
    gt, pred = sav
    write_sav(gt, {"c/000": [SQUARE] * 3, "c/001": [SQUARE] * 3, "d/000": [SQUARE] * 3})
    write_sav(pred, {"c/000": [SQUARE] * 3})
    (pred / "b" / "000" / "00004.png").unlink()
    (pred / "b" / "000" / "00000.png").unlink()  # is not scored
    found = evaluate(gt, pred)
    assert found.missing.videos == ("d",)
    assert found.missing.objects == ("c/001",)
    assert found.missing.frames == {"b/000": ("00004",)}
    scores = {result.name: result.frame_j for result in found.objects}
    assert scores["c/001"] == (0,)
    assert scores["b/000"] == (0, 100, 100)
    assert "d/000" not in scores
    with pytest.raises(
        DataError,
        match=r"1 videos without predictions: d; 1 objects without predictions: c/001; 1 frames without predictions: "
        r"b/000 \(1, the first is 00004\); without --strict missing videos are left out",
    ):
        evaluate(gt, pred, strict=True)


def test_missing_index_masks(tmp_path):
    gt = write_davis(tmp_path / "gt", {"v": [SQUARE] * 4})
    pred = write_davis(tmp_path / "pred", {"v": [SQUARE] * 2})
    found = evaluate(gt, pred)
    assert found.missing.frames == {"v": ("00002",)}
    assert found.objects[0].frame_j == (100, 0)


def test_objects_that_are_in_no_scored_frame(tmp_path):
    gt = write_sav(tmp_path / "gt", {"v/000": [SQUARE] * 4, "v/001": [SQUARE, EMPTY, EMPTY, EMPTY]})
    pred = write_sav(tmp_path / "pred", {"v/000": [SQUARE] * 4, "v/001": [SQUARE, EMPTY, SQUARE, EMPTY]})
    for rule in ("first-appearance", "davis"):
        found = evaluate(gt, pred, rule=rule)
        assert found.never_seen == ("v/001",)
        assert found.objects[1].frame_j == (100, 0)
        with pytest.raises(DataError, match=r"1 objects are in no scored frame of the ground truth: v/001; frames sco"):
            evaluate(gt, pred, rule=rule, strict=True)
    found = evaluate(gt, pred)
    assert (found.never_seen, found.jf) == (("v/001",), 100)
    assert [result.name for result in found.objects] == ["v/000"]
    with pytest.raises(DataError, match=r"1 objects are in no scored frame .*: v/001; they do not count by the pub"):
        evaluate(gt, pred, strict=True)


def test_objects_with_too_few_frames(tmp_path):
    root = write_sav(tmp_path, {"v/000": [SQUARE] * 3, "v/001": [SQUARE] * 2})
    found = evaluate(root, root)
    assert found.unscored == ("v/001",)
    assert [result.object for result in found.objects] == ["000"]
    with pytest.raises(DataError, match="1 objects do not count, as they are annotated on too few frames: v/001"):
        evaluate(root, root, strict=True)
    short = write_sav(tmp_path / "short", {"v/000": [SQUARE]})
    with pytest.raises(DataError, match=r"no frame is left to score in .*short: 1 objects do not count"):
        evaluate(short, short)


def test_values_of_predictions_that_are_no_object(tmp_path):
    gt = write_davis(tmp_path / "gt", {"v": [SQUARE] * 3, "w": [SQUARE] * 3})
    pred = write_davis(tmp_path / "pred", {"v": [255 * SQUARE] * 3, "w": [SQUARE] * 3})
    found = evaluate(gt, pred)
    assert found.strange == {"v": (255,)}
    assert [result.j for result in found.objects] == [0, 100]


# ---- what does not fit


def test_all_broken_files_are_named_in_one_message(sav):
    gt, pred = sav
    small, several, torn = (pred / name for name in ("a/000/00004.png", "a/001/00008.png", "b/000/00004.png"))
    write_mask(small, SQUARE[:, :-1], "L")
    write_mask(several, SQUARE + 2 * np.roll(SQUARE, 3, axis=1), "L")
    torn.write_bytes(torn.read_bytes()[:40])
    with pytest.raises(DataError) as caught:
        evaluate(gt, pred)
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert lines[0].startswith(
        f"the prediction {small} is {WIDTH - 1} x {HEIGHT} pixels, but the true mask {gt / 'a/000/00004.png'} is "
        f"{WIDTH} x {HEIGHT}"
    )
    assert lines[1].startswith(f"mask {several} has the values 1, 2")
    assert lines[2].startswith(f"cannot read the mask {torn}")


def test_layouts_that_differ(sav, tmp_path):
    index = write_davis(tmp_path / "index", {"a": [SQUARE] * 3, "b": [SQUARE] * 3})
    with pytest.raises(
        DataError, match=r"the predictions .*a hold PNGs, but in .*a each object has a folder, as in SA"
    ):
        evaluate(sav[0], index)
    with pytest.raises(DataError, match=r"the predictions .*a hold a folder per object, but .*a holds PNGs, as in DAV"):
        evaluate(index, sav[1])


def test_mixed_layouts(sav, tmp_path):
    gt, pred = sav
    write_davis(gt, {"c": [SQUARE] * 3})
    write_davis(pred, {"c": [SQUARE] * 3})
    with pytest.raises(DataError, match=r"mixes two layouts: c holds PNGs, a a folder per object.*--layout"):
        evaluate(gt, pred)
    with pytest.raises(DataError, match=r"gt/c holds no masks <object>/<frame>.png"):
        evaluate(gt, pred, layout="sav")
    assert evaluate(gt, pred, layout="davis", videos=["c"]).jf == 100


def test_folders_that_are_not_what_they_should_be(sav, tmp_path):
    gt, pred = sav
    with pytest.raises(DataError, match=r"has none of the 2 videos of .*gt \(a, b\); it holds 000, 001"):
        evaluate(gt, pred / "a")
    with pytest.raises(DataError, match=r"gt holds no PNGs <video>/<frame>.png \(DAVIS\) or <video>/<object>"):
        (tmp_path / "nothing" / "gt" / "v").mkdir(parents=True)
        evaluate(tmp_path / "nothing" / "gt", pred)
    with pytest.raises(DataError, match="merged only in the layout of DAVIS"):
        evaluate(gt, pred, merge_objects=True)
    # DAVIS has its videos one level deeper, which looks like SA-V
    write_davis(tmp_path / "DAVIS" / "480p", {"bear": [SQUARE] * 3})
    with pytest.raises(
        DataError, match=r"480p must be named by object ids such as 000, got bear; is .*DAVIS the folder"
    ):
        evaluate(tmp_path / "DAVIS", tmp_path / "DAVIS")


# ---- the command


def test_the_command_writes_its_files(sav, tmp_path, capsys):
    gt, pred = sav
    write_sav(gt, {"c/000": [SQUARE] * 3})
    out = tmp_path / "out"
    files = {name: out / name for name in ("scores.json", "scores.csv", "frames.csv", "scores.md")}
    options = [f"--{name}" for name in ("json", "csv", "frames_csv", "markdown")]
    written = [str(part) for pair in zip(options, files.values(), strict=True) for part in pair]
    assert main(["--annotations", str(gt), "--predictions", str(pred), "--worst", "1", *written]) == 0
    captured = capsys.readouterr()
    j_f = evaluate(gt, pred).jf
    assert re.search(rf"all objects \(1 videos missing\) \| +2 \| +3 \| {j_f:.1f} \| 83.3 \|", captured.out)
    assert re.search(r"worst 1 of 3 .*\n.*\n\| a/001 ", captured.out)
    assert "note: 1 videos without predictions: c; missing videos are left out" in captured.err
    assert captured.out.strip() in files["scores.md"].read_text()
    assert "| b/000 " in files["scores.md"].read_text()
    assert files["scores.csv"].read_text().splitlines()[:2] == [
        "video,object,frames,J&F,J,F",
        "a,000,3,100.0,100.0,100.0",
    ]
    assert files["frames.csv"].read_text().splitlines()[1] == "a,000,00004,100.0,100.0,100.0"
    content = json.loads(files["scores.json"].read_text())
    assert content["J&F"] == j_f
    assert content["missing"]["videos"] == ["c"]


def test_the_command_reports_speed_and_failures_of_the_run(sav, capsys):
    gt, pred = sav
    write_json(pred / ".run" / "run.json", {"settings": {"prompt": "3c"}})
    for name, seconds in (("a/000", 2), ("a/001", 3)):
        record = {"frames": 10, "seconds": seconds, "peak_memory": seconds * 2**30, "device": "H100", "note": ""}
        write_json(pred / ".run" / "units" / f"{name}.json", record)
    write_json(pred / ".run" / "units" / "b" / "000.json", {"error": "RuntimeError: out of memory", "attempt": "1"})
    assert main(["--annotations", str(gt), "--predictions", str(pred)]) == 0
    captured = capsys.readouterr()
    assert "Predictions: 4.0 frames/s, peak memory 3.00 GiB (H100)" in captured.out
    assert "note: 1 jobs of the run failed: b/000" in captured.err
    run = evaluate(gt, pred).run
    assert run is not None
    assert run["settings"] == {"prompt": "3c"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--num_processes", "0"], "argument --processes: must be an integer of 1 or more; got '0'"),
        (["--worst", "-1"], "argument --worst: must be an integer of 0 or more; got '-1'"),
        (["--procesess", "2"], "unrecognized arguments: --procesess 2; did you mean '--processes'?"),
        (["--data", "sav_test"], "argument --data: not allowed with argument --annotations"),
        (["--seen", "meta.json"], "--seen needs --meta"),
        (["--images", "frames"], "--images and --plot-videos belong to --plots"),
    ],
)
def test_wrong_usage(options, message, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--gt_root", "gt", "--pred_root", "pred", *options])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_an_error_of_the_command(tmp_path, capsys):
    assert main(["--gt_root", str(tmp_path / "gt"), "--pred_root", str(tmp_path)]) == 1
    assert f"error: the folder of true masks, {tmp_path / 'gt'}, does not exist" in capsys.readouterr().err


def test_scores_are_written_where_a_table_cannot_be_made(sav, tmp_path, capsys):
    attributes = write_json(tmp_path / "attributes.json", {"z": ["fast"]})
    scores = tmp_path / "scores.json"
    roots = ["--gt_root", str(sav[0]), "--pred_root", str(sav[1])]
    assert main([*roots, "--attributes", str(attributes), "--json", str(scores)]) == 1
    assert "error: the file of attributes has none for the 2 scored videos, such as a" in capsys.readouterr().err
    assert json.loads(scores.read_text())["J"] == pytest.approx(250 / 3)


def test_the_split_of_youtube_vos(tmp_path, capsys):
    truth = SQUARE + 2 * np.roll(SQUARE, 3, axis=1)
    gt = write_davis(tmp_path / "valid" / "Annotations", {"v": [truth] * 3})
    pred = write_davis(tmp_path / "pred", {"v": [SQUARE + 0] * 3})
    objects = {obj: {"category": name, "frames": ["00000"]} for obj, name in (("1", "cat"), ("2", "yak"))}
    meta = write_json(tmp_path / "valid" / "meta.json", {"videos": {"v": {"objects": objects}}})
    arguments = ["--annotations", str(gt), "--predictions", str(pred), "--meta", str(meta)]
    assert main(arguments) == 1
    train = tmp_path / "train" / "meta.json"
    assert f"which categories has the training set? {train} is not there" in capsys.readouterr().err
    write_json(train, {"videos": {"x": {"objects": {"1": {"category": "cat"}}}}})
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert re.search(r"\| seen +\| +1 \| +1 \| 100.0 \|", out)
    assert re.search(r"\| unseen +\| +1 \| +1 \| +0.0 \|", out)
    assert re.search(r"\| mean of both +\| +1 \| +2 \| +50.0 \|", out)
