from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from i2vpp.errors import DataError
from sav_dataset.compare import changed_settings, compare, main
from sav_dataset.results import Evaluation, ObjectResult, write_json

SETTINGS = {"layout": "sav", "merge_objects": False, "skip_first_and_last_frame": True, "boundary_tolerance": 0.008}


def evaluation(scores: dict[str, float], **settings: object) -> Evaluation:
    objects = tuple(
        ObjectResult(video=name[0], object=name[2:], frames=("00004",), frame_j=(j,), frame_f=(j / 2,))
        for name, j in scores.items()
    )
    return Evaluation(objects=objects, settings={**SETTINGS, **settings})


A = evaluation({"a/0": 50, "a/1": 60, "b/0": 70, "c/0": 80, "d/0": 1})
B = evaluation({"a/0": 60, "a/1": 70, "b/0": 66, "c/0": 80, "e/0": 1})


def test_paired_differences():
    comparison = compare(A, B)
    assert [change.difference("J") for change in comparison.changes] == [10, 10, -4, 0]
    assert [change.difference("J&F") for change in comparison.changes] == [7.5, 7.5, -3, 0]
    assert (comparison.only_a, comparison.only_b) == (("d/0",), ("e/0",))
    found = comparison.difference("J")
    assert (found.a, found.b, found.mean) == (65, 69, 4)


def test_the_interval_is_a_bootstrap_over_videos():
    found = compare(A, B).difference("J", samples=4000, seed=1)
    assert found == compare(A, B).difference("J", samples=4000, seed=1)
    assert len({compare(A, B).difference("J", samples=9, seed=seed).high for seed in range(9)}) > 1
    # all 27 samples of three videos: sums 20, -4, 0 over 2, 1, 1 objects
    sums, counts = np.array([20, -4, 0]), np.array([2, 1, 1])
    draws = np.array(np.meshgrid(*[range(3)] * 3)).reshape(3, -1)
    means = sums[draws].sum(0) / counts[draws].sum(0)
    assert (found.low, found.high) == pytest.approx((means.min(), means.max()))  # each is drawn in 1 of 27 cases: 3.7 %


def test_equal_results_differ_by_nothing():
    found = compare(A, A).difference("J&F")
    assert (found.mean, found.low, found.high) == (0, 0, 0)


def test_results_that_cannot_be_compared():
    with pytest.raises(DataError, match="scored in different ways: skip_first_and_last_frame is True and False"):
        compare(A, evaluation({"a/0": 1}, skip_first_and_last_frame=False))
    with pytest.raises(DataError, match="share no object: A scored a/0, a/1, b/0, c/0, d/0, B z/0"):
        compare(A, evaluation({"z/0": 1}))
    other = replace(A, objects=tuple(replace(result, frames=("00008",)) for result in A.objects))
    with pytest.raises(DataError, match="a/0 was scored on 1 frames in A and on other 1 in B"):
        compare(A, other)


def test_results_by_different_rules_cannot_be_compared(tmp_path, capsys):
    by_rule = {rule: evaluation({"a/0": 1}, rule=rule) for rule in ("published", "davis")}
    with pytest.raises(DataError, match="scored in different ways: rule is published and davis; score one of them ag"):
        compare(by_rule["published"], by_rule["davis"])
    assert len(compare(by_rule["davis"], by_rule["davis"]).changes) == 1
    # results of before there were rules
    write_json(tmp_path / "old.json", A)
    write_json(tmp_path / "new.json", by_rule["published"])
    assert main([str(tmp_path / "old.json"), str(tmp_path / "new.json")]) == 1
    assert "error: A and B were scored in different ways: rule is not recorded and published" in capsys.readouterr().err


def test_settings_of_the_runs_that_differ():
    a = {"settings": {"prompt": "3c", "model": {"image_size": 512}}, "FPS": 3}
    b = {"settings": {"prompt": "3c", "model": {"image_size": 256}, "seed": 1}, "FPS": 4}
    assert changed_settings(a, b) == ["model.image_size: 512 -> 256", "seed: None -> 1"]
    assert changed_settings(a, None) == []


def test_the_command(tmp_path, capsys):
    write_json(tmp_path / "a.json", replace(A, run={"settings": {"seed": 1}}))
    write_json(tmp_path / "b.json", replace(B, run={"settings": {"seed": 2}}))
    assert main([str(tmp_path / "a.json"), str(tmp_path / "b.json"), "--top", "1", "--measure", "J"]) == 0
    captured = capsys.readouterr()
    assert "   seed: 1 -> 2\n" in captured.out
    assert re.search(r"\| J +\| 65.00 \| 69.00 \| \+4.00 \|", captured.out)
    assert "J: 2 objects gained, 1 lost, 1 did not change." in captured.out
    assert re.search(r"gained most .*\n.*\n\| a/\d .*\+10.0 \|\n\n", captured.out)
    assert re.search(r"lost most .*\n.*\n\| b/0 .* -4.0 \|\n", captured.out)
    assert "note: 1 objects are in A only and do not count: d/0" in captured.err
    assert "note: 1 objects are in B only and do not count: e/0" in captured.err


def test_errors_of_the_command(tmp_path, capsys):
    assert main([str(tmp_path / "a.json"), str(tmp_path / "b.json")]) == 1
    assert f"error: cannot read the JSON file {tmp_path / 'a.json'}" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["a.json", "b.json", "--samples", "0"])
    assert "argument --samples: must be an integer of 1 or more; got '0'" in capsys.readouterr().err
