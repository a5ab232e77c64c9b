from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from data_files import write_json
from i2vpp.errors import DataError
from sav_dataset.groups import attribute_table, read_attributes, read_categories, read_seen, seen_table
from sav_dataset.layouts import Missing
from sav_dataset.report import markdown, notes
from sav_dataset.results import Evaluation, Mean, ObjectResult, read_evaluation, read_run
from sav_dataset.results import write_json as write_results


def result(video: str, obj: str, j: float, f: float = 0.0) -> ObjectResult:
    return ObjectResult(video=video, object=obj, frames=("00001", "00002"), frame_j=(j, j), frame_f=(f, f))


EVALUATION = Evaluation(
    objects=(result("a", "1", 90, 80), result("a", "2", 60, 50), result("b", "1", 30, 1 / 3)),
    missing=Missing(videos=("c",), objects=("a/3",), frames={"b": ("00002",)}),
    never_seen=("a/2",),
    unscored=("b/2",),
    strange={"a": (7, 255)},
    settings={"layout": "davis"},
    run={"FPS": 12.5, "peak_memory": 1, "failed": [], "devices": []},
)


def test_results_survive_their_file(tmp_path):
    write_results(tmp_path / "scores.json", EVALUATION)
    assert read_evaluation(tmp_path / "scores.json") == EVALUATION
    content = json.loads((tmp_path / "scores.json").read_text())
    assert (content["J"], content["num_objects"], content["num_videos"]) == (60, 3, 2)
    assert content["objects"][0] == {
        "video": "a", "object": "1", "J&F": 85, "J": 90, "F": 80,
        "frames": ["00001", "00002"], "frame_J": [90, 90], "frame_F": [80, 80],
    }  # fmt: skip


@pytest.mark.parametrize("content", [[], {}, {"objects": [{"video": "a"}]}, {"J": 4}])
def test_other_files_are_no_results(tmp_path, content):
    path = write_json(tmp_path / "x.json", content)
    with pytest.raises(DataError, match=r"x.json holds no results of an evaluation.*sav_evaluator.py --json"):
        read_evaluation(path)


def test_the_mean_of_nothing(tmp_path):
    assert math.isnan(Mean.over([]).jf)
    write_results(tmp_path / "x.json", Evaluation(objects=()))
    assert json.loads((tmp_path / "x.json").read_text())["J&F"] is None


def test_worst_objects():
    assert [found.name for found in EVALUATION.worst(2)] == ["b/1", "a/2"]


def test_damaged_records_of_a_run(tmp_path):
    write_json(tmp_path / ".run" / "run.json", {})
    assert read_run(tmp_path) == {
        "frames": 0, "seconds": 0, "FPS": None, "peak_memory": None, "devices": [], "failed": []
    }  # fmt: skip
    write_json(tmp_path / ".run" / "units" / "v.json", {"frames": 3})
    with pytest.raises(DataError, match=r"a record in .*units is damaged \(KeyError: 'seconds'\); delete it"):
        read_run(tmp_path)
    (tmp_path / ".run" / "units" / "v.json").unlink()
    (tmp_path / ".run" / "run.json").write_text("{")
    with pytest.raises(DataError, match=r"cannot read the JSON file .*run.json"):
        read_run(tmp_path)


def test_notes():
    assert [note.split(":")[0] for note in notes(EVALUATION)] == [
        "1 videos without predictions",
        "1 objects are in no scored frame of the ground truth",
        "1 objects do not count, as they are annotated on too few frames",
        "predictions hold values that are no object of the ground truth, ignored",
    ]
    assert notes(Evaluation(objects=EVALUATION.objects)) == []


def test_tables_are_aligned():
    assert markdown(("name", "J"), [("a", "100.0"), ("longer", "9.5")]).splitlines() == [
        "| name   |     J |",
        "| ------ | ----: |",
        "| a      | 100.0 |",
        "| longer |   9.5 |",
    ]


# ---- attributes

DAVIS_INFO = """
attributes: {FM: fast motion, OCC: occlusion}
sequences:
  - {name: a, attributes: [FM, OCC], num_frames: 50, set: val}
  - {name: b, attributes: [OCC], num_frames: 40, set: val}
"""


@pytest.mark.parametrize("kind", ["davis", "yaml", "json"])
def test_attributes(tmp_path, kind):
    path = tmp_path / ("info.json" if kind == "json" else "info.yaml")
    path.write_text(
        {"davis": DAVIS_INFO, "yaml": "a: [FM, OCC]\nb: [OCC]", "json": '{"a": ["FM", "OCC"], "b": ["OCC"]}'}[kind]
    )
    attributes = read_attributes(path)
    assert attributes == {"a": {"FM", "OCC"}, "b": {"OCC"}}
    rows = attribute_table(EVALUATION, attributes).rows
    assert list(rows) == ["FM", "OCC"]
    assert (rows["FM"].videos, rows["FM"].objects, rows["FM"].j) == (1, 2, 75)
    assert (rows["OCC"].videos, rows["OCC"].objects, rows["OCC"].j) == (2, 3, 60)


@pytest.mark.parametrize("content", [[1], [{"name": "a"}], {"a": "FM"}, 3])
def test_files_without_attributes(tmp_path, content):
    path = write_json(tmp_path / "x.json", content)
    with pytest.raises(DataError, match=r"x.json holds no attributes of videos"):
        read_attributes(path)


def test_yaml_that_cannot_be_read(tmp_path):
    (tmp_path / "x.yaml").write_text("a: [")
    for name in ("x.yaml", "y.yaml"):
        with pytest.raises(DataError, match=f"cannot read the YAML file .*{name}"):
            read_attributes(tmp_path / name)


# ---- seen and unseen categories


def meta(path: Path, categories: dict[str, dict[str, str]]) -> Path:
    videos = {
        video: {"objects": {obj: {"category": name, "frames": ["00000"]} for obj, name in objects.items()}}
        for video, objects in categories.items()
    }
    return write_json(path, {"videos": videos})


@pytest.mark.parametrize("kind", ["meta", "list"])
def test_seen_and_unseen_categories(tmp_path, kind):
    categories = read_categories(meta(tmp_path / "valid.json", {"a": {"1": "cat", "2": "yak"}, "b": {"1": "dog"}}))
    if kind == "meta":
        seen = read_seen(meta(tmp_path / "train.json", {"x": {"1": "cat"}, "y": {"1": "dog"}}))
    else:
        (tmp_path / "seen.txt").write_text("cat\n# and\ndog\n")
        seen = read_seen(tmp_path / "seen.txt")
    rows = seen_table(EVALUATION, categories, seen).rows
    assert (rows["seen"].objects, rows["seen"].j) == (2, 60)
    assert (rows["unseen"].objects, rows["unseen"].j) == (1, 60)
    assert rows["mean of both"].f == pytest.approx(((80 + 1 / 3) / 2 + 50) / 2)
    assert rows["mean of both"].objects == 3


def test_categories_that_do_not_fit(tmp_path):
    path = meta(tmp_path / "valid.json", {"a": {"1": "cat", "2": "yak"}})
    with pytest.raises(DataError, match="the meta file lacks 1 of 3 scored objects, such as b/1"):
        seen_table(EVALUATION, read_categories(path), frozenset({"cat"}))
    everything = {("a", "1"): "cat", ("a", "2"): "cat", ("b", "1"): "dog"}
    with pytest.raises(DataError, match="one part, none is unseen; their categories: cat, dog"):
        seen_table(EVALUATION, everything, frozenset({"cat", "dog"}))
    bare = write_json(tmp_path / "x.json", {"videos": {"a": {"objects": {"1": {"frames": []}}}}})
    with pytest.raises(DataError, match=r"x.json does not name the categories of objects \(KeyError: 'category'\)"):
        read_categories(bare)
