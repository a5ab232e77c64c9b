"""Predictions that have other names than the true masks: matched by number, or refused; never scored as missing."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import REPO
from data_files import SQUARE, write_json, write_mask
from i2vpp.errors import DataError
from sav_dataset.names import match_names
from sav_dataset.results import read_evaluation
from sav_dataset.sav_evaluator import evaluate, main

BOTH = SQUARE + 2 * np.roll(SQUARE, 3, axis=1)
DENSE = tuple(f"{t:05d}" for t in range(6))
SPARSE = tuple(f"{t:05d}" for t in range(0, 24, 4))
WHERE = Path("preds/v")


def matched(truths: Sequence[str], preds: Sequence[str]) -> dict[str, str]:
    return match_names(truths, preds, what="frames", where=WHERE).found


# ---- names alone


@pytest.mark.parametrize(
    ("truths", "preds"),
    [
        (DENSE, [f"{t:04d}" for t in range(6)]),
        (DENSE, [f"{t:08d}" for t in range(6)]),
        (DENSE, [str(t) for t in range(6)]),
        (DENSE, ["00000", "1", "02", "00003", "4", "000005"]),
        (DENSE, [f"frame_{t}" for t in range(6)]),
        (DENSE, [f"{t:05d}_mask" for t in range(6)]),
        (DENSE, [f"v2_{t:03d}" for t in range(6)]),
        ([f"frame_{t:03d}" for t in range(6)], [f"frame_{t}" for t in range(6)]),
        ([f"frame_{t:03d}" for t in range(6)], [str(t) for t in range(6)]),
        (SPARSE, [str(t) for t in range(0, 24, 4)]),
        (SPARSE, [str(t) for t in range(24)]),  # every frame is predicted, every fourth annotated
        (["1", "2", "3"], ["001", "002", "003"]),
        (["Frame_1", "Frame_2"], ["frame_01", "FRAME_02"]),
    ],
)
def test_names_are_matched_by_their_number(truths, preds):
    number = {name: int("".join(filter(str.isdigit, name.removeprefix("v2_")))) for name in (*truths, *preds)}
    found = matched(truths, preds)
    assert list(found) == list(truths)
    assert all(number[truth] == number[pred] for truth, pred in found.items())


@pytest.mark.parametrize(
    ("truths", "preds", "expected"),
    [
        (DENSE, DENSE[1:5], DENSE[1:5]),  # the first and the last are not scored, and may be left out
        (DENSE, DENSE[:2], DENSE[:2]),  # an interrupted run
        (DENSE, [*DENSE, "00006", "notes"], DENSE),
        (DENSE, [DENSE[0], *DENSE[2:]], [DENSE[0], *DENSE[2:]]),
        (["first", "second", "third"], ["first", "third", "other"], ["first", "third"]),
        (DENSE, [], []),
    ],
)
def test_other_names_are_extra_or_missing(truths, preds, expected):
    assert matched(truths, preds) == {name: name for name in expected}


@pytest.mark.parametrize(
    ("truths", "preds", "message"),
    [
        (DENSE, [f"{t:05d}" for t in range(1, 7)], r"the numbers begin 1 later; 00000 is missing"),
        (DENSE, [str(t) for t in range(1, 7)], r"the numbers begin 1 later"),
        (DENSE, [f"frame_{t}" for t in range(1, 7)], r"the numbers begin 1 later"),
        (DENSE, [str(t) for t in range(1, 10)], r"the numbers begin 1 later"),
        ([str(t) for t in range(1, 7)], DENSE, r"the numbers begin 1 earlier; 6 is missing"),
        (
            SPARSE,
            [f"{t:05d}" for t in range(6)],
            r"they are 00000, 00001, .*; 00008 is missing",
        ),  # the annotated frames, counted
        (SPARSE, [f"{t + 4:05d}" for t in range(0, 24, 4)], r"the numbers begin 4 later"),
        (SPARSE, [f"{t + 1:05d}" for t in range(0, 24, 4)], r"they are 00001, 00005, 00009, .*; none fits"),
        (DENSE, ["a", "b", "c"], r"they are a, b, c; none fits"),
        (DENSE, [*DENSE[:3], "copy_00003", "copy_00004", "copy_00005"], r"what is that of 00003\?"),
        (DENSE, [*DENSE[:5], "copy_00005", "old_5"], r"what is that of 00005\?"),
        (DENSE, [*DENSE, "1"], r"00001, 1 in preds/v all stand for 00001; keep one of them"),
        (DENSE, ["1", "01", "2"], r"01, 1 in preds/v all stand for 00001"),
        (DENSE, ["00000_v2", "00001_v2"], r"none fits"),
    ],
)
def test_names_that_do_not_say_which_is_which_are_refused(truths, preds, message):
    with pytest.raises(DataError, match=message):
        matched(truths, preds)


def test_true_names_with_equal_numbers_are_taken_as_they_are():
    assert matched(["1", "01", "2"], ["1", "01", "02"]) == {"1": "1", "01": "01", "2": "02"}


# ---- files


def write_davis(root: Path, names: Sequence[str], values: np.ndarray = SQUARE, *, video: str = "v") -> Path:
    for name in names:
        write_mask(root / video / f"{name}.png", values)
    return root


def write_sav(root: Path, objects: Sequence[str], names: Sequence[str] = SPARSE, *, video: str = "v") -> Path:
    for obj in objects:
        for name in names:
            write_mask(root / video / obj / f"{name}.png", 255 * SQUARE, "L")
    return root


def test_frames_of_another_width_are_scored_and_noted(tmp_path):
    found = evaluate(
        write_davis(tmp_path / "gt", DENSE), write_davis(tmp_path / "pred", [str(t) for t in range(6)]), strict=True
    )
    assert found.jf == 100
    (remark,) = found.remarks
    assert remark.startswith("6 predictions have other names and were matched: v/0 for 00000, v/1 for 00001")
    assert [result.frames for result in found.objects] == [DENSE[1:-1]]


@pytest.mark.parametrize(("truths", "preds"), [(["000", "001"], ["0", "1"]), (["0", "10"], ["000", "010"])])
def test_objects_of_another_width(tmp_path, truths, preds):
    found = evaluate(write_sav(tmp_path / "gt", truths), write_sav(tmp_path / "pred", preds, range(24)), strict=True)
    assert [(result.object, result.jf) for result in found.objects] == [(name, 100) for name in truths]


def test_videos_of_another_width(tmp_path):
    gt = write_davis(tmp_path / "gt", DENSE, video="00012")
    found = evaluate(gt, write_davis(tmp_path / "pred", DENSE, video="12"))
    assert (found.jf, found.missing.videos) == (100, ())
    assert found.remarks == ("1 predictions have other names and were matched: 12 for 00012",)
    write_davis(tmp_path / "pred", DENSE, video="012")
    with pytest.raises(DataError, match=r"012, 12 in .*pred all stand for 00012"):
        evaluate(gt, tmp_path / "pred")


def test_videos_in_upper_case(tmp_path):
    gt = write_davis(tmp_path / "gt", DENSE, video="bear")
    write_davis(gt, DENSE, video="dog")
    pred = write_davis(write_davis(tmp_path / "pred", DENSE, video="bear"), DENSE, video="Dog")
    assert evaluate(gt, pred, strict=True).remarks == ("1 predictions have other names and were matched: Dog for dog",)


def test_videos_that_are_numbered_from_1(tmp_path):
    for video in range(3):
        gt = write_davis(tmp_path / "gt", DENSE, video=f"{video:03d}")
        pred = write_davis(tmp_path / "pred", DENSE, video=f"{video + 1}")
    with pytest.raises(
        DataError, match=r"the videos in .*pred have other names .* the numbers begin 1 later; 000 is m"
    ):
        evaluate(gt, pred)


@pytest.mark.parametrize(
    ("preds", "message"),
    [
        (["1", "2"], r"they are 1, 2, and the numbers begin 1 later; 000 is missing"),
        (["000", "0", "001"], r"0, 000 in .*v all stand for 000"),
        (["a", "b"], r"the objects in .*v have other names than the true masks \(000, 001\): they are a, b; none fits"),
    ],
)
def test_objects_that_do_not_fit(tmp_path, preds, message):
    with pytest.raises(DataError, match=message):
        evaluate(write_sav(tmp_path / "gt", ["000", "001"]), write_sav(tmp_path / "pred", preds))


def test_predictions_that_may_be_numbered_from_1_are_noted(tmp_path):
    gt = write_sav(tmp_path / "gt", ["000"])
    found = evaluate(gt, write_sav(tmp_path / "pred", ["000"], [f"{t:05d}" for t in range(1, 22)]))
    (remark,) = found.remarks
    assert "v/000 (00000); should they be numbered from 1, number them like the true masks" in remark


@pytest.mark.parametrize("suffix", [".jpg", ".JPG", ".jpeg", ".webp", ".bmp", ".tif"])
@pytest.mark.parametrize("names", [DENSE, [str(t) for t in range(6)]], ids=["equal", "narrow"])
def test_predictions_that_are_no_png_are_refused(tmp_path, suffix, names):
    gt = write_davis(tmp_path / "gt", DENSE)
    for name in names:
        (tmp_path / "pred" / "v").mkdir(parents=True, exist_ok=True)
        Image.fromarray(255 * SQUARE.astype(np.uint8)).save(tmp_path / "pred" / "v" / f"{name}{suffix}")
    message = rf"pred/v lacks the masks of 6 frames, but holds files that are no PNGs, such as {names[0]}{suffix};"
    with pytest.raises(DataError, match=message):
        evaluate(gt, tmp_path / "pred")


def test_some_predictions_that_are_no_png_are_refused(tmp_path):
    gt, pred = write_davis(tmp_path / "gt", DENSE), write_davis(tmp_path / "pred", DENSE[:3])
    for name in DENSE[3:]:
        Image.fromarray(255 * SQUARE.astype(np.uint8)).save(pred / "v" / f"{name}.jpg")
    with pytest.raises(DataError, match=r"lacks the masks of 3 frames, but holds files that are no PNGs"):
        evaluate(gt, pred)


def test_pictures_beside_predictions_are_no_predictions(tmp_path):
    gt, pred = write_davis(tmp_path / "gt", DENSE), write_davis(tmp_path / "pred", DENSE[:4])
    for name in DENSE:
        Image.fromarray(255 * SQUARE.astype(np.uint8)).save(pred / "v" / f"{name}.jpg")
    found = evaluate(gt, pred)
    assert found.missing.frames == {"v": ("00004",)}


def test_upper_case_suffixes_are_those_of_png(tmp_path):
    gt, pred = write_davis(tmp_path / "gt", DENSE), write_davis(tmp_path / "pred", DENSE)
    for path in list((pred / "v").iterdir()):
        path.rename(path.with_suffix(".PNG"))
    assert evaluate(gt, pred, strict=True).jf == 100


@pytest.mark.parametrize("layout", ["sav", "davis"])
def test_predictions_without_any_scored_frame_are_an_error(tmp_path, layout):
    write = {"sav": lambda root, names: write_sav(root, ["000"], names), "davis": write_davis}[layout]
    gt, pred = write(tmp_path / "gt", SPARSE), write(tmp_path / "pred", SPARSE[:1])
    with pytest.raises(DataError, match=r"pred has no prediction of any of the 4 scored frames"):
        evaluate(gt, pred)
    shutil.rmtree(pred / "v")
    (pred / "v").mkdir()
    with pytest.raises(DataError, match=r"pred has no prediction of any of the 4 scored frames"):
        evaluate(gt, pred)


# ---- objects that are one


@pytest.mark.parametrize("value", [1, 255])
def test_a_warning_where_predictions_merge_objects_and_the_truth_does_not(tmp_path, value):
    gt = write_davis(tmp_path / "gt", DENSE, BOTH)
    pred = write_davis(tmp_path / "pred", DENSE, value * (BOTH > 0))
    (remark,) = evaluate(gt, pred).remarks
    assert f"no value but 0 and {value}" in remark
    assert "score them with --merge-objects" in remark
    assert evaluate(gt, pred, merge_objects=True).remarks == ()
    assert evaluate(gt, pred, merge_objects=True).jf == 100


def test_a_warning_where_predictions_were_made_for_davis_2016(tmp_path, capsys):
    gt, pred = write_davis(tmp_path / "gt", DENSE, BOTH), write_davis(tmp_path / "pred", DENSE, 3 * SQUARE)
    write_json(pred / ".run" / "run.json", {"settings": {"dataset": "davis2016"}})
    out = tmp_path / "scores.json"
    assert main(["--gt_root", str(gt), "--pred_root", str(pred), "--json", str(out)]) == 0
    note = "note: the predictions seem to have one object per video (they were made for DAVIS 2016)"
    assert note in capsys.readouterr().err
    assert len(read_evaluation(out).remarks) == 1


def test_no_warning_where_nothing_differs(tmp_path):
    gt = write_davis(tmp_path / "gt", DENSE)
    assert evaluate(gt, write_davis(tmp_path / "pred", DENSE)).remarks == ()
    both = write_davis(tmp_path / "both", DENSE, BOTH)
    assert evaluate(both, both).remarks == ()


# ---- folders


@pytest.mark.parametrize("lost", ["gt", "pred"])
def test_a_folder_that_does_not_exist_is_named_and_not_made(tmp_path, lost, capsys):
    for name in {"gt", "pred"} - {lost}:
        write_davis(tmp_path / name, DENSE)
    scores = tmp_path / "pred" / "scores.json"
    status = main(["--gt_root", str(tmp_path / "gt"), "--pred_root", str(tmp_path / "pred"), "--json", str(scores)])
    assert status == 1
    what = {"gt": "true masks", "pred": "predictions"}[lost]
    assert f"error: the folder of {what}, {tmp_path / lost}, does not exist\n" in capsys.readouterr().err
    assert not (tmp_path / lost).exists()
    assert not scores.exists()


def test_the_script_names_what_it_wrote_and_what_is_missing(tmp_path):
    import subprocess
    import sys

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = ["sh", str(REPO / "test_pvs" / "semi_eval.sh"), f"PYTHON={sys.executable}", f"DATA={data}", *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    data = tmp_path / "sav_test"
    write_sav(data / "Annotations_6fps", ["000"])
    out = write_sav(tmp_path / "out", ["0"])
    done = run("OUT=out", "--rule", "davis")
    assert done.returncode == 0, done.stderr
    assert "Rule: davis" in done.stdout
    assert "wrote out/scores.json\nwrote out/scores.csv\n" in done.stderr
    assert read_evaluation(out / "scores.json").settings["rule"] == "davis"
    done = run("OUT=nothing")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: the folder of predictions, nothing, does not exist\n"
    assert not (tmp_path / "nothing").exists()
