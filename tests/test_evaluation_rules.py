"""Which frames count for an object that is not always there, computed by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from data_files import SQUARE, write_mask
from i2vpp.errors import DataError
from sav_dataset.rules import RULES
from sav_dataset.sav_evaluator import evaluate, main

EMPTY = np.zeros_like(SQUARE)
MOVED = np.roll(SQUARE, 1, axis=1)
"""6 of 9 pixels are those of SQUARE: J 50, and all of its boundary is within the tolerance: F 100."""
FULL = np.ones_like(SQUARE)
MASKS = {"-": EMPTY, "o": SQUARE, "m": MOVED, "#": FULL}

SKIP, ALL = True, False


def write(root: Path, layout: str, tracks: dict[str, str]) -> Path:
    """Write tracks, by "video/object": one letter of MASKS per frame."""
    for name, track in tracks.items():
        video, obj = name.split("/")
        for t, letter in enumerate(track):
            if layout == "sav":
                write_mask(root / video / f"{int(obj):03d}" / f"{4 * t:05d}.png", 255 * MASKS[letter], "L")
            else:
                write_mask(root / video / f"{t:05d}.png", int(obj) * MASKS[letter])
    return root


def scores(tmp_path: Path, layout: str, truth: str, pred: str, *, rule: str, skip: bool) -> tuple | None:
    """Return J and F of the frames that count for one object, beside one that is always there; None: it is left out."""
    gt, found = (
        write(tmp_path / name, layout, {"v/2": track, "w/1": "o" * len(track)})
        for name, track in (("gt", truth), ("pred", pred))
    )
    evaluation = evaluate(gt, found, rule=rule, skip_first_and_last_frame=skip)
    assert evaluation.settings["rule"] == rule
    by_video = {result.video: result for result in evaluation.objects}
    assert by_video["w"].jf == 100
    return (list(by_video["v"].frame_j), list(by_video["v"].frame_f)) if "v" in by_video else None


# truth ---oo--, predicted one frame too soon and one too long; each with and without the first and the last frame
LATE = [
    ("published", SKIP, [0, 100, 50, 0]),  # from frame 2 on, the first that the prediction shows it on, to frame 5
    ("published", ALL, [0, 100, 50, 0, 100]),
    ("first-appearance", SKIP, [50, 0]),  # given on frame 3
    ("first-appearance", ALL, [100, 50, 0, 100]),
    ("davis", SKIP, [100, 0, 100, 50, 0]),
    ("davis", ALL, [100, 100, 0, 100, 50, 0, 100]),
]


@pytest.mark.parametrize("layout", ["sav", "davis"])
@pytest.mark.parametrize(("rule", "skip", "j"), LATE)
def test_an_object_that_comes_late_leaves_early_and_is_predicted_too_soon(tmp_path, layout, rule, skip, j):
    f = [100 if value == 50 else value for value in j]
    assert scores(tmp_path, layout, "---oo--", "--oomo-", rule=rule, skip=skip) == (j, f)


@pytest.mark.parametrize("layout", ["sav", "davis"])
@pytest.mark.parametrize(
    ("rule", "skip", "truth", "pred", "j"),
    [
        # seen on a frame that is not scored: the published rule does not look at it
        ("published", SKIP, "o--o-", "o----", [0]),
        ("published", ALL, "o--o-", "o----", [100, 100, 100, 0, 100]),
        ("published", SKIP, "---o-", "o--o-", [100]),
        ("published", ALL, "---o-", "o--o-", [0, 100, 100, 100, 100]),
        # never predicted: counts from its true appearance on
        ("published", SKIP, "--oo--", "------", [0, 0, 100]),
        # an absence between two appearances counts, well or badly found
        ("published", SKIP, "oo--oo", "oo-ooo", [100, 100, 0, 100]),
        ("first-appearance", SKIP, "oo--oo", "oo-ooo", [100, 100, 0, 100]),
        ("davis", SKIP, "oo--oo", "oo-ooo", [100, 100, 0, 100]),
        # true on unscored frames alone: not reported, or scored as absent, or without a frame
        ("published", SKIP, "o---o", "o-o-o", None),
        ("published", ALL, "o---o", "o-o-o", [100, 100, 0, 100, 100]),
        ("first-appearance", SKIP, "o---o", "o-o-o", [100, 0, 100]),
        ("first-appearance", SKIP, "----o", "----o", None),
        ("first-appearance", ALL, "----o", "--o-o", [100]),
        ("davis", SKIP, "----o", "--o-o", [100, 0, 100]),
        # given on the last scored frame: nothing is left
        ("first-appearance", SKIP, "---o-", "---o-", None),
    ],
)
def test_frames_that_count(tmp_path, layout, rule, skip, truth, pred, j):
    assert scores(tmp_path, layout, truth, pred, rule=rule, skip=skip) == (None if j is None else (j, j))


def test_a_prediction_of_the_whole_frame_has_no_boundary(tmp_path):
    # so that it meets the boundary of an empty mask, which has none either
    assert scores(tmp_path, "sav", "--oo-", "-#oo-", rule="published", skip=SKIP) == ([0, 100, 100], [100, 100, 100])


@pytest.mark.parametrize("rule", RULES)
def test_an_id_that_no_true_mask_shows_is_not_reported(tmp_path, rule):
    gt = write(tmp_path / "gt", "davis", {"v/1": "ooooo"})
    pred = write(tmp_path / "pred", "davis", {"v/1": "ooooo"})
    write_mask(pred / "v" / "00002.png", SQUARE + 7 * np.roll(SQUARE, 3, axis=1))
    found = evaluate(gt, pred, rule=rule)
    assert [(result.name, result.jf) for result in found.objects] == [("v/1", 100)]
    assert found.strange == {"v": (7,)}


@pytest.mark.parametrize("rule", RULES)
def test_rules_agree_on_objects_that_are_always_there(tmp_path, rule):
    gt = write(tmp_path / "gt", "davis", {"v/3": "oooooo"})
    pred = write(tmp_path / "pred", "davis", {"v/3": "om-mo-"})
    assert evaluate(gt, pred, rule=rule).objects[0].frame_j == (50, 0, 50, 100)


def test_merged_objects_follow_the_rule(tmp_path):
    gt = write(tmp_path / "gt", "davis", {"v/2": "--oo-"})
    pred = write(tmp_path / "pred", "davis", {"v/9": "-ooo-"})
    assert evaluate(gt, pred, merge_objects=True).objects[0].frame_j == (0, 100, 100)
    assert evaluate(gt, pred, merge_objects=True, rule="first-appearance").objects[0].frame_j == (100,)


def test_missing_predictions_are_empty_masks_before_the_object_too(tmp_path):
    gt = write(tmp_path / "gt", "davis", {"v/1": "--oo-"})
    pred = write(tmp_path / "pred", "davis", {"v/1": "--oo-"})
    (pred / "v" / "00001.png").unlink()
    assert evaluate(gt, pred).objects[0].frame_j == (100, 100)
    assert evaluate(gt, pred, rule="davis").objects[0].frame_j == (100, 100, 100)


def test_the_command_takes_a_rule_and_says_which_it_was(tmp_path, capsys):
    gt = write(tmp_path / "gt", "sav", {"v/0": "---oo--"})
    pred = write(tmp_path / "pred", "sav", {"v/0": "--oomo-"})
    command = ["--gt_root", str(gt), "--pred_root", str(pred), "--json", str(tmp_path / "scores.json")]
    for options, rule, j in (([], "published", 37.5), (["--rule", "davis"], "davis", 50)):
        assert main([*command, *options]) == 0
        content = json.loads((tmp_path / "scores.json").read_text())
        assert (content["settings"]["rule"], content["J"]) == (rule, j)
        assert f"Rule: {rule}\n" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([*command, "--rule", "mine"])
    with pytest.raises(DataError, match=r"rule = 'publish'; did you mean 'published'\?"):
        evaluate(gt, pred, rule="publish")
