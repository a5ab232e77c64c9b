"""The annotation file: masks as runs, strokes, edits, undo, and what a killed process or a full disk leaves behind."""

from __future__ import annotations

import json
import math
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from annotator import timeline
from i2vpp.annotate.errors import AnnotationError, DiskFullError, StaleRevisionError
from i2vpp.annotate.storage import files, history
from i2vpp.annotate.storage.doubt import REACH, next_doubtful
from i2vpp.annotate.storage.edit import Edit
from i2vpp.annotate.storage.masks import THINNEST, Stroke, covered, decode_runs, encode_runs, paint, runs_area
from i2vpp.annotate.storage.store import Annotation, summarize
from i2vpp.annotate.storage.values import ObjectInfo, Prompts, StoredMask
from i2vpp.errors import I2VPPError, PromptError

HEIGHT, WIDTH, FRAMES = 24, 32, 40
CLICK = Prompts(points=((3.0, 4.0, 1),))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "made" / "clip.annotation"


@pytest.fixture
def annotation(path: Path) -> Any:
    """Checks in the end that every run of the file belongs to one mask, of now or of the history."""
    with reopen(path) as opened:
        yield opened
        sql = opened._connection.execute
        owned = sql("SELECT runs FROM masks UNION ALL SELECT runs FROM past_masks WHERE present ORDER BY 1").fetchall()
        assert owned == sql("SELECT id FROM runs ORDER BY id").fetchall()
        kept = sql("SELECT step, sum(bytes) FROM past_masks WHERE present GROUP BY step ORDER BY step").fetchall()
        assert kept == sql("SELECT number, bytes FROM steps WHERE bytes > 0 ORDER BY number").fetchall()


def reopen(path: Path) -> Annotation:
    return Annotation(path, height=HEIGHT, width=WIDTH, frames=FRAMES, video="clip.mp4")


def square(side: int, score: float = math.nan, iou: float = math.nan) -> StoredMask:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[:side, :side] = True
    return StoredMask.of(mask, score=score, iou=iou)


def content(annotation: Annotation) -> dict[str, Any]:
    return {
        "objects": annotation.objects(),
        "prompts": annotation.prompts(),
        "masks": {f: {o: m.runs for o, m in annotation.masks(f).items()} for f in range(FRAMES)},
    }


# Runs and strokes


def naive_runs(mask: np.ndarray) -> list[int]:
    runs, value = [0], False
    for pixel in mask.ravel().tolist():
        if pixel != value:
            runs.append(0)
            value = pixel
        runs[-1] += 1
    return runs


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 1), (13, 17)])
def test_runs_are_those_of_a_loop_and_come_back(share: float, size: tuple[int, int]) -> None:
    mask = np.random.default_rng(3).random(size) < share
    runs = encode_runs(mask)
    assert np.frombuffer(runs, "<u4").tolist() == naive_runs(mask)
    assert np.array_equal(decode_runs(runs, size), mask)
    assert runs_area(runs) == mask.sum()
    assert covered(runs) == mask.size


def test_runs_of_a_view_are_row_major() -> None:
    mask = np.random.default_rng(3).random((6, 5)) < 0.5
    assert encode_runs(mask.T) == encode_runs(np.ascontiguousarray(mask.T))


@pytest.mark.parametrize(
    "runs", [b"", b"\1\0\0", np.array([5], "<u4").tobytes(), np.array([2**32 - 1] * 3, "<u4").tobytes()]
)
def test_runs_that_are_no_mask_are_refused(runs: bytes) -> None:
    with pytest.raises(ValueError, match="runs"):
        decode_runs(runs, (2, 3))


@pytest.mark.parametrize("mask", [np.zeros((2, 3), np.uint8), np.zeros((1, 2, 3), bool), np.zeros((0, 3), bool)])
def test_what_is_no_mask_is_refused(mask: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"bool \[H, W\]"):
        encode_runs(mask)


def naive_stroke(points: list[tuple[float, float]], radius: float) -> np.ndarray:
    """Every pixel's distance to every segment."""
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    hit = np.zeros((HEIGHT, WIDTH), bool)
    for start, end in zip(points, points[1:] or points, strict=False):
        a, b = np.array(start), np.array(end)
        length = float(((b - a) ** 2).sum())
        t = np.clip(((x - a[0]) * (b - a)[0] + (y - a[1]) * (b - a)[1]) / length, 0, 1) if length else 0 * x
        hit |= np.hypot(x - a[0] - t * (b - a)[0], y - a[1] - t * (b - a)[1]) <= radius
    return hit


@pytest.mark.parametrize("seed", range(12))
def test_a_stroke_is_what_a_disc_sweeps(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = [(float(x), float(y)) for x, y in rng.uniform(-15, 45, (rng.integers(1, 6), 2))]
    radius = float(rng.uniform(1, 9))
    painted = paint(np.zeros((HEIGHT, WIDTH), bool), [Stroke(points=tuple(points), radius=radius)])
    assert np.array_equal(painted, naive_stroke(points, radius))


@pytest.mark.parametrize("points", [((2, 10), (30, 10)), ((10, 2), (10, 20)), ((5.5, 5.5),), ((4, 4), (4, 4))])
def test_straight_strokes_and_dabs(points: Any) -> None:
    painted = paint(np.zeros((HEIGHT, WIDTH), bool), [Stroke(points=points, radius=2.5)])
    assert painted.any()
    assert np.array_equal(painted, naive_stroke(list(points), 2.5))


def test_strokes_follow_one_another_and_leave_the_mask_alone() -> None:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    strokes = [
        Stroke(points=((5, 5), (25, 5)), radius=4),
        Stroke(points=((15, 5),), radius=3, erase=True),
        Stroke(points=((15.5, 5.5),), radius=0.1),
    ]
    painted = paint(mask, strokes)
    assert not mask.any()
    assert painted[5, 15]
    assert not painted[5, 13]
    assert painted[5, 8]


def test_the_thinnest_brush_paints_a_pixel_and_far_strokes_nothing() -> None:
    empty = np.zeros((HEIGHT, WIDTH), bool)
    for x, y in np.random.default_rng(0).uniform(0, 20, (50, 2)).tolist():
        painted = paint(empty, [Stroke(points=((x, y),), radius=0.01)])
        assert painted[int(y), int(x)]
        assert painted.sum() <= 4
    far = Stroke(points=((-1e6, -1e6), (-50.0, -50.0)), radius=5)
    assert not paint(empty, [far, Stroke(points=((5.0, 1e6),), radius=9)]).any()
    across = paint(empty, [Stroke(points=((-1e6, 12.0), (1e6, 12.0)), radius=THINNEST)])
    assert across.any(1).sum() == 2
    assert across[11:13].all()


@pytest.mark.timeout(60)
def test_large_masks_and_long_strokes_take_no_time() -> None:
    y, x = np.mgrid[:1080, :1920]
    mask = (x - 900) ** 2 + (y - 500) ** 2 < 400**2
    begin = time.perf_counter()
    for _ in range(10):
        decode_runs(encode_runs(mask), mask.shape)
    assert time.perf_counter() - begin < 2  # some 50 ms
    line = [(float(a), float(b)) for a, b in np.random.default_rng(0).uniform(0, 1000, (1000, 2))]
    begin = time.perf_counter()
    paint(mask, [Stroke(points=tuple(line), radius=60)])
    assert time.perf_counter() - begin < 5  # some 0.2 s


# Prompts


def test_prompts_go_through_json() -> None:
    stroke = Stroke(points=((1.5, -2.0), (3.0, 4.0)), radius=2.0, erase=True)
    prompts = Prompts(points=((1.0, 2.0, 1), (3.0, 4.5, 0)), box=(0.0, 1.0, 5.0, 6.0), strokes=(stroke,), imported=True)
    assert Prompts.from_json(json.loads(json.dumps(prompts.to_json()))) == prompts
    assert Prompts.from_json({}) == Prompts()
    assert not Prompts()
    assert all([Prompts(imported=True), CLICK, Prompts(strokes=(stroke,)), Prompts(box=(0, 0, 1, 1))])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "prompts must be an object"),
        ({"point": []}, "unknown key 'point' in prompts; did you mean 'points'"),
        ({"points": {}}, "points must be a list"),
        ({"points": [[1, 2]]}, r"points\[0\] must be 3 finite numbers \(x, y, label\)"),
        ({"points": [[1, 2, 1], [1, math.nan, 1]]}, r"points\[1\] must be 3 finite"),
        ({"points": [[1, math.inf, 1]]}, "finite"),
        ({"points": [[1, 10**400, 1]]}, "finite"),
        ({"points": [[True, 2, 1]]}, "finite"),
        ({"points": [[1, 2, 3]]}, r"label of points\[0\] must be 1 \(add\) or 0"),
        ({"box": [1, 2, 3]}, "box must be 4 finite numbers"),
        ({"box": [5, 2, 3, 4]}, "box must have x0 < x1"),
        ({"strokes": [{"points": [], "radius": 1, "erase": False}]}, r"strokes\[0\].points must hold 1 or more; got 0"),
        ({"strokes": [{"points": [[1, 2]], "radius": 0, "erase": False}]}, r"strokes\[0\].radius must be positive"),
        ({"strokes": [{"points": [[1, 2]], "radius": "1", "erase": False}]}, "radius must be a finite number"),
        ({"strokes": [{"points": [[1, "2"]], "radius": 1, "erase": False}]}, r"strokes\[0\].points\[0\] must be 2"),
        ({"strokes": [{"points": [[1, 2]], "radius": 1}]}, r"strokes\[0\].erase must be true or false"),
        ({"strokes": [7]}, r"strokes\[0\] must be an object"),
        ({"imported": 1}, "imported must be true or false"),
    ],
)
def test_malformed_prompts_are_named(value: Any, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        Prompts.from_json(value)


# Edits


def test_values_come_back_also_from_the_disk(path: Path) -> None:
    with reopen(path) as annotation:
        with annotation.edit("Add") as edit:
            assert edit.add_object() == ObjectInfo(id=1, name="Object 1", color=annotation.objects()[0].color)
            edit.add_object(" dog ", "#A0b0C0")
            edit.change_object(1, hidden=True, locked=True)
            edit.set_prompts(1, 3, CLICK)
            edit.set_mask(2, 3, square(5, score=-1.5, iou=0.25))
            edit.set_mask(1, 3, square(4))
        before = content(annotation)
    with reopen(path) as annotation:
        assert content(annotation) == before
        first, second = annotation.objects()
        assert (first.hidden, first.locked) == (True, True)
        assert second == ObjectInfo(id=2, name="dog", color="#a0b0c0")
        assert annotation.prompts() == {1: {3: CLICK}}
        assert annotation.mask(2, 3) == square(5, score=-1.5, iou=0.25)
        assert annotation.mask(2, 4) is None
        unknown = annotation.masks(3)[1]
        assert math.isnan(unknown.score)
        assert math.isnan(unknown.iou)
        assert unknown.decode(HEIGHT, WIDTH).sum() == 16
        area, score, iou = timeline(annotation)[2][3]
        assert (area, score, iou) == (25, -1.5, 0.25)
        assert (annotation.revision, annotation.undo_label, annotation.redo_label) == (1, "Add", None)
        assert (annotation.summary().objects, annotation.summary().annotated) == (2, 1)
    assert summarize(path).objects == 2


def test_one_step_is_undone_and_done_again(annotation: Annotation) -> None:
    states = [content(annotation)]
    for number, change in enumerate(
        [
            lambda edit: edit.add_object("a"),
            lambda edit: (edit.set_prompts(1, 0, CLICK), edit.set_mask(1, 0, square(3))),
            lambda edit: (edit.set_mask(1, 0, square(4)), edit.set_mask(1, 0, square(5)), edit.set_mask(1, 1, None)),
            lambda edit: (edit.set_mask(1, 1, square(4)), edit.set_mask(1, 1, None), edit.set_mask(1, 0, square(2))),
            lambda edit: edit.change_object(1, name="b"),
            lambda edit: edit.delete_object(1),
        ]
    ):
        with annotation.edit(f"step {number}") as edit:
            change(edit)
        states.append(content(annotation))
    assert states[-1] == states[0]
    for _ in range(2):
        for number in reversed(range(6)):
            assert annotation.undo_label == f"step {number}"
            undone = annotation.undo()
            assert undone is not None
            assert undone.label == f"step {number}"
            assert content(annotation) == states[number]
        assert annotation.undo() is None
        for number in range(6):
            assert annotation.redo_label == f"step {number}"
            annotation.redo()
            assert content(annotation) == states[number + 1]
        assert annotation.redo() is None
    assert annotation.revision == 6 + 4 * 6


def test_a_change_says_what_it_touched(annotation: Annotation) -> None:
    with annotation.edit("all") as edit:
        edit.add_object()
        edit.add_object()
        edit.set_prompts(1, 5, CLICK)
        edit.set_mask(1, 5, square(3))
        edit.set_mask(2, 6, square(3))
    for change in (annotation.undo(), annotation.redo()):
        assert change is not None
        assert change.objects == {1, 2}
        assert change.prompts == {(1, 5)}
        assert change.masks == {(1, 5), (2, 6)}


def test_a_new_edit_drops_what_was_undone(annotation: Annotation) -> None:
    for name in "abc":
        with annotation.edit(f"add {name}") as edit:
            edit.add_object(name)
    annotation.undo()
    annotation.undo()
    with annotation.edit("add d") as edit:
        assert edit.add_object("d").id == 2  # undone, ids are free again
    assert annotation.redo_label is None
    assert annotation.redo() is None
    annotation.undo()
    assert [info.name for info in annotation.objects()] == ["a"]
    annotation.redo()
    assert [info.name for info in annotation.objects()] == ["a", "d"]


def test_undo_survives_closing(path: Path) -> None:
    with reopen(path) as annotation:
        with annotation.edit("Add") as edit:
            edit.add_object()
        with annotation.edit("Mask") as edit:
            edit.set_mask(1, 0, square(3))
        annotation.undo()
    with reopen(path) as annotation:
        assert (annotation.undo_label, annotation.redo_label) == ("Add", "Mask")
        annotation.redo()
        assert annotation.mask(1, 0) is not None


def test_nothing_changed_is_no_step(annotation: Annotation) -> None:
    with annotation.edit("Add") as edit:
        edit.add_object("a")
        edit.set_prompts(1, 0, CLICK)
    annotation.undo()
    with annotation.edit("nothing") as edit:
        pass
    annotation.redo()
    with annotation.edit("nothing") as edit:
        edit.change_object(1, name="a")
        edit.set_prompts(1, 0, CLICK)
        edit.set_prompts(1, 1, Prompts())
        edit.set_mask(1, 2, None)
        assert not edit.changed
    assert (annotation.undo_label, annotation.revision) == ("Add", 3)


def test_an_error_takes_the_whole_edit_back(annotation: Annotation) -> None:
    with annotation.edit("Add") as edit:
        edit.add_object()
    annotation.undo()
    before = content(annotation), annotation.revision
    with pytest.raises(ZeroDivisionError), annotation.edit("bad") as edit:
        edit.add_object()
        edit.set_mask(1, 0, square(3))
        _ = 1 / 0
    assert (content(annotation), annotation.revision) == before
    assert annotation.redo_label == "Add"
    with pytest.raises(OSError, match="mine"), annotation.edit("bad") as edit:
        raise OSError("mine")
    with annotation.edit("Add") as edit:
        assert edit.add_object().id == 1  # the failed edit used no id


def test_a_stale_revision_is_refused(annotation: Annotation) -> None:
    seen = annotation.revision
    with annotation.edit("Add", expected=seen) as edit:
        edit.add_object()
    with pytest.raises(StaleRevisionError, match=r"changed meanwhile \(revision 1, expected 0\)"):
        with annotation.edit("Add", expected=seen) as edit:
            edit.add_object()
    for move in (annotation.undo, annotation.redo):
        with pytest.raises(StaleRevisionError):
            move(expected=seen)
        with pytest.raises(StaleRevisionError):
            move(expected=annotation.revision + 1)
    assert len(annotation.objects()) == 1
    annotation.undo(expected=1)
    assert annotation.objects() == []


def propagate(annotation: Annotation, frames: range, joint: str) -> None:
    for frame in frames:
        with annotation.edit("Propagate", joint=joint) as edit:
            edit.set_mask(1, frame, square(2 + frame % 5))


def test_a_propagation_is_one_step_and_makes_no_revision_stale(annotation: Annotation) -> None:
    with annotation.edit("Add") as edit:
        edit.add_object()
        edit.set_mask(1, 0, square(9))
    seen = annotation.revision
    before = content(annotation)
    propagate(annotation, range(5), "job 1")
    assert annotation.revision == seen + 5
    propagate(annotation, range(3, 8), "job 2")
    with annotation.edit("Rename", expected=seen) as edit:
        edit.change_object(1, name="b")
    propagate(annotation, range(8, 10), "job 2")  # goes on in a step of its own
    with pytest.raises(StaleRevisionError):
        annotation.undo(expected=seen)
    labels = []
    while (change := annotation.undo()) and change.label != "Add":
        labels.append((change.label, len(change.masks)))
        if len(labels) == 4:
            assert content(annotation) == before
    assert labels == [("Propagate", 2), ("Rename", 0), ("Propagate", 5), ("Propagate", 5)]


def test_deleting_takes_everything_and_ids_do_not_come_back(annotation: Annotation) -> None:
    with annotation.edit("Add") as edit:
        edit.add_object()
        edit.add_object()
        edit.set_prompts(1, 2, CLICK)
        edit.set_mask(1, 2, square(3))
        edit.set_mask(2, 2, square(4))
    with annotation.edit("Delete") as edit:
        edit.delete_object(1)
    assert [info.id for info in annotation.objects()] == [2]
    assert annotation.prompts() == {}
    assert list(annotation.masks(2)) == [2]
    with annotation.edit("Add") as edit:
        assert edit.add_object(obj_id=1).id == 3
        assert edit.add_object(obj_id=200).id == 200
        assert edit.add_object(obj_id=1000).id == 4
        for _ in range(249):
            edit.add_object()
        assert edit.add_object().id == 255
        with pytest.raises(PromptError, match="all 255 object ids"):
            edit.add_object()


BAD_EDITS = [
    (lambda edit: edit.add_object(""), "name must be 1 to 100 printable"),
    (lambda edit: edit.add_object("a\nb"), "name must be"),
    (lambda edit: edit.add_object("x" * 101), "name must be"),
    (lambda edit: edit.change_object(1, name=7), "name must be"),
    (lambda edit: edit.change_object(1, color="red"), "color must be #rrggbb, such as #1f77b4; got 'red'"),
    (lambda edit: edit.change_object(2, color="#000000"), "there is no object 2"),
    (lambda edit: edit.delete_object(2), "there is no object 2"),
    (lambda edit: edit.set_prompts(2, 0, CLICK), "there is no object 2"),
    (lambda edit: edit.set_mask(1, FRAMES, square(2)), "no frame 40; frames are 0 to 39"),
    (lambda edit: edit.set_prompts(1, -1, CLICK), "no frame -1"),
    (lambda edit: edit.set_prompts(1, 0, Prompts(points=((34.5, 1.0, 1),))), r"points: \(34.5, 1\) lies outside"),
    (lambda edit: edit.set_prompts(1, 0, Prompts(box=(0, 0, 5, 27))), r"box: \(5, 27\) lies outside"),
]  # fmt: skip


def test_prompts_just_outside_of_the_frame_are_moved_to_its_edge(annotation: Annotation) -> None:
    with annotation.edit("Add") as edit:
        edit.add_object()
    outside = Prompts(points=((34.0, -0.5, 1), (3.0, 4.0, 0)), box=(-2.0, 0.0, 5.0, 25.5))
    with annotation.edit("Prompt") as edit:
        edit.set_prompts(1, 0, outside)
    inside = Prompts(points=((32.0, 0.0, 1), (3.0, 4.0, 0)), box=(0.0, 0.0, 5.0, 24.0))
    assert annotation.prompts() == {1: {0: inside}}


@pytest.mark.parametrize(("bad", "message"), BAD_EDITS)
def test_bad_edits_are_named(annotation: Annotation, bad: Any, message: str) -> None:
    with annotation.edit("Add") as edit:
        edit.add_object()
    with pytest.raises(PromptError, match=message), annotation.edit("bad") as edit:
        bad(edit)
    assert annotation.undo_label == "Add"


def test_masks_of_another_size_are_refused(annotation: Annotation) -> None:
    with annotation.edit("Add") as edit:
        edit.add_object()
        with pytest.raises(ValueError, match="no mask of 32 x 24"):
            edit.set_mask(1, 0, StoredMask.of(np.zeros((HEIGHT, WIDTH + 1), bool)))
        with pytest.raises(ValueError, match="area of 7"):
            edit.set_mask(1, 0, StoredMask(runs=square(2).runs, area=7))


def test_history_is_bounded_by_steps(annotation: Annotation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MAX_STEPS", 3)
    with annotation.edit("Add") as edit:
        edit.add_object()
    for frame in range(5):
        with annotation.edit(f"mask {frame}") as edit:
            edit.set_mask(1, frame, square(3))
    labels = []
    while change := annotation.undo():
        labels.append(change.label)
    assert labels == ["mask 4", "mask 3", "mask 2"]
    assert list(timeline(annotation)[1]) == [0, 1]


def test_history_is_bounded_by_what_it_keeps(annotation: Annotation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MAX_BYTES", 1000)
    noise = [StoredMask.of(np.random.default_rng(seed).random((HEIGHT, WIDTH)) < 0.5) for seed in range(5)]
    with annotation.edit("Add") as edit:
        edit.add_object()
    for number, mask in enumerate(noise):  # some 400 bytes each
        with annotation.edit(f"mask {number}") as edit:
            edit.set_mask(1, 0, mask)
    labels = []
    while change := annotation.undo():
        labels.append(change.label)
    assert 1 <= len(labels) < 4
    assert labels[0] == "mask 4"


def test_threads_share_a_file(annotation: Annotation) -> None:
    with annotation.edit("Add") as edit:
        for _ in range(4):
            edit.add_object()
    failures: list[BaseException] = []

    def work(obj_id: int) -> None:
        try:
            for frame in range(20):
                with annotation.edit("Mask") as edit:
                    edit.set_mask(obj_id, frame, square(obj_id + 1))
                assert annotation.masks(frame)[obj_id].area == (obj_id + 1) ** 2
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=work, args=(obj_id,)) for obj_id in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert annotation.revision == 81
    assert {obj_id: len(frames) for obj_id, frames in timeline(annotation).items()} == dict.fromkeys(range(1, 5), 20)


def test_edits_do_not_nest(annotation: Annotation) -> None:
    with annotation.edit("outer") as outer:
        outer.add_object()
        assert len(annotation.objects()) == 1  # reading is allowed
        with pytest.raises(RuntimeError, match="do not nest"), annotation.edit("inner"):
            pass
    assert len(annotation.objects()) == 1


# Files


WRITER = """
import sys
import numpy as np
from pathlib import Path
from i2vpp.annotate.storage.store import Annotation
from i2vpp.annotate.storage.values import StoredMask

annotation = Annotation(Path(sys.argv[1]), height=24, width=32, frames=1000000, video="clip.mp4")
with annotation.edit("Add") as edit:
    edit.add_object()
    edit.add_object()
frame = 0
while True:
    with annotation.edit("Propagate", joint="job") as edit:
        for obj_id in (1, 2):
            mask = np.zeros((24, 32), bool)
            mask.flat[: 1 + frame % 700] = True
            edit.set_mask(obj_id, frame, StoredMask.of(mask))
    print(frame, flush=True)
    frame += 1
"""


def test_a_killed_process_loses_nothing_that_was_committed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LOCK_SECONDS", 0.1)
    child = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    told = [int(child.stdout.readline()) for _ in range(50)]
    with pytest.raises(AnnotationError, match="in use, probably by another annotator"):
        reopen(path)
    child.kill()
    told += [int(line) for line in child.stdout.read().splitlines()]
    child.wait()
    with Annotation(path, height=HEIGHT, width=WIDTH, video="clip.mp4") as annotation:
        known = timeline(annotation)
        assert set(known) == {1, 2}
        assert known[1].keys() == known[2].keys()  # a frame is there as a whole or not at all
        assert set(range(told[-1] + 1)) <= set(known[1]) <= set(range(told[-1] + 2))
        assert all(annotation.mask(1, f).area == 1 + f % 700 for f in known[1])  # type: ignore[union-attr]
        change = annotation.undo()
        assert change is not None
        assert change.masks == {(obj_id, f) for obj_id in (1, 2) for f in known[1]}
        assert annotation.undo_label == "Add"


def test_a_file_is_open_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LOCK_SECONDS", 0.1)
    command = (
        f"from i2vpp.annotate.storage.store import summarize; from pathlib import Path; summarize(Path({str(path)!r}))"
    )
    with reopen(path):
        for attempt in (reopen, summarize):
            with pytest.raises(AnnotationError, match="in use"):
                attempt(path)
        # POSIX forgets a process's locks on a file as soon as it closes any handle of it: the attempts must not.
        child = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=False)
        assert "is in use, probably by another annotator" in child.stderr
    reopen(path).close()


def test_a_closed_annotation_says_so(path: Path) -> None:
    annotation = reopen(path)
    annotation.close()
    annotation.close()
    with pytest.raises(AnnotationError, match="was closed"):
        annotation.objects()
    with pytest.raises(AnnotationError, match="was closed"), annotation.edit("x"):
        pass


def fill(path: Path, frames: int = FRAMES) -> None:
    with reopen(path) as annotation, annotation.edit("Add") as edit:
        edit.add_object()
        for frame in range(frames):
            edit.set_mask(1, frame, StoredMask.of(np.random.default_rng(frame).random((HEIGHT, WIDTH)) < 0.5))


def foreign(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE mine (a)")
    connection.close()


def newer(path: Path) -> None:
    fill(path)
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {files.VERSION + 1}")
    connection.close()


def overwritten(path: Path) -> None:
    fill(path)
    data = bytearray(path.read_bytes())
    data[4096:8192] = b"\xa5" * 4096
    path.write_bytes(data)


def truncated(path: Path) -> None:
    fill(path)
    path.write_bytes(path.read_bytes()[:9000])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_text("hello, this is my shopping list\n" * 9), "is no annotation file"),
        (lambda path: path.write_bytes(b"SQLite format 3\0"), "is no annotation file, or it is damaged"),
        (foreign, "SQLite file of another program"),
        (newer, r"version \d; this i2vpp reads versions up to \d: update it"),
        (overwritten, "is damaged"),
        (truncated, "is damaged"),
    ],
)
def test_damaged_and_foreign_files_are_left_as_they_are(tmp_path: Path, make: Any, message: str) -> None:
    path = tmp_path / "file"
    make(path)
    before = path.read_bytes()
    for _ in range(2):
        with pytest.raises(AnnotationError, match=message) as caught:
            reopen(path)
        assert str(path) in str(caught.value)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_an_empty_file_is_begun_anew(path: Path) -> None:
    path.parent.mkdir()
    path.touch()
    fill(path, 1)
    assert summarize(path).annotated == 1


def test_a_mask_that_cannot_be_unpacked_is_named(path: Path) -> None:
    with reopen(path) as annotation:
        with annotation.edit("Add") as edit:
            edit.add_object()
            edit.set_mask(1, 0, square(3))
        annotation._connection.execute("UPDATE runs SET data = x'00ff'")
        with pytest.raises(AnnotationError, match="damaged: a mask cannot be unpacked"):
            annotation.masks(0)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"height": 25}, r"holds annotations of 'clip.mp4' of 32 x 24 .* but this is 'clip.mp4' of 32 x 25"),
        ({"video": "other.mp4"}, "'clip.mp4' .* but this is 'other.mp4'"),
        ({"frames": 41}, "40 frames, but this is .* 41 frames; choose another output folder"),
    ],
)
def test_another_video_is_refused(path: Path, other: dict[str, Any], message: str) -> None:
    fill(path)
    arguments = {"height": HEIGHT, "width": WIDTH, "frames": FRAMES, "video": "clip.mp4"}
    with pytest.raises(AnnotationError, match=message):
        Annotation(path, **(arguments | other))
    reopen(path).close()


def test_what_is_unknown_of_the_video_is_learnt(path: Path) -> None:
    Annotation(path, height=HEIGHT, width=WIDTH).close()
    reopen(path).close()
    with Annotation(path, height=HEIGHT, width=WIDTH) as annotation:
        assert annotation.frames == FRAMES
    with pytest.raises(AnnotationError, match=r"other\.mp4"):
        Annotation(path, height=HEIGHT, width=WIDTH, video="other.mp4")


def test_names_of_files_need_not_be_text(path: Path) -> None:
    for _ in range(2):
        with Annotation(path, height=HEIGHT, width=WIDTH, video="caf\udce9.mp4") as annotation:
            assert annotation.video == "caf\ufffd.mp4"


def test_files_that_cannot_be_made_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(AnnotationError, match=r"cannot use .*file/clip"):
        reopen(tmp_path / "file" / "clip")
    with pytest.raises(AnnotationError, match="cannot use"):
        reopen(tmp_path)
    with pytest.raises(AnnotationError, match="does not exist"):
        summarize(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_full_disk_is_one_error_and_the_store_stays_usable(annotation: Annotation) -> None:
    with annotation.edit("Add") as edit:
        edit.add_object()
        edit.set_mask(1, 0, square(3))
    before = content(annotation), annotation.revision
    pages = annotation._connection.execute("PRAGMA page_count").fetchone()[0]
    annotation._connection.execute(f"PRAGMA max_page_count = {pages + 2}")  # SQLite then says the disk is full

    def much(edit: Edit) -> None:
        for frame in range(1, FRAMES):
            edit.set_mask(1, frame, StoredMask.of(np.random.default_rng(frame).random((HEIGHT, WIDTH)) < 0.5))

    with pytest.raises(DiskFullError, match=r"no space is left on the disk of .*; nothing was changed"):
        with annotation.edit("much") as edit:
            much(edit)
    assert (content(annotation), annotation.revision) == before
    annotation._connection.execute("PRAGMA max_page_count = 100000")
    with annotation.edit("much") as edit:
        much(edit)
    assert len(timeline(annotation)[1]) == FRAMES
    annotation.undo()
    assert content(annotation) == before[0]


def test_errors_are_i2vpp_errors() -> None:
    assert issubclass(StaleRevisionError, I2VPPError)
    assert issubclass(DiskFullError, I2VPPError)


# Doubtful frames


def rows(areas: list[int], scores: dict[int, float] | None = None, obj_id: int = 1, **ious: float) -> Any:
    scores = scores or {}
    return [(obj_id, t, area, scores.get(t, 8.0), ious.get(f"t{t}", 0.95)) for t, area in enumerate(areas)]


def doubtful(numbers: Any, prompted: set[tuple[int, int]] | None = None) -> list[int]:
    """Press the button until it comes round."""
    found: list[int] = []
    after = -1
    while (frame := next_doubtful(numbers, prompted or set(), after)) is not None and frame not in found:
        found.append(frame)
        after = frame
    return found


def test_good_tracking_has_no_doubtful_frame() -> None:
    assert doubtful(rows([1000 + 5 * t for t in range(30)])) == []
    assert doubtful([]) == []


def test_a_jump_of_the_area_a_low_score_and_a_low_iou_are_doubtful() -> None:
    assert doubtful(rows([1000] * 10 + [400] * 10)) == [10]
    assert doubtful(rows([1000] * 30, {20: 0.2})) == [20]
    assert doubtful(rows([1000] * 30, t7=0.5)) == [7]
    assert doubtful(rows([1000] * 10 + [0] * 10)) == [10]


def test_a_bad_stretch_is_visited_at_its_worst_frame() -> None:
    scores = {t: 0.1 + abs(t - 15) * 0.1 for t in range(10, 21)}
    assert doubtful(rows([1000] * 30, scores)) == [15]
    assert doubtful(rows([1000] * 30, dict.fromkeys(range(10, 21), 0.5))) == [10]


def test_peaks_apart_are_all_visited_and_the_search_begins_anew() -> None:
    scores = {4: 0.5, 4 + REACH: 0.3, 20: 0.1, 20 + REACH + 1: 0.1}
    numbers = rows([1000] * 30, scores)
    assert doubtful(numbers) == [9, 20, 26]
    assert next_doubtful(numbers, set(), 26) == 9
    assert next_doubtful(numbers, set(), 9) == 20
    assert next_doubtful(rows([1000] * 30, {20: 0.1}), set(), 20) == 20


def test_prompted_frames_unknown_numbers_noise_and_absence_are_not_doubtful() -> None:
    assert doubtful(rows([1000] * 30, {20: 0.1}), {(1, 20)}) == []
    assert doubtful(rows([1000] * 30, {20: 0.1}), {(2, 20)}) == [20]
    assert doubtful([(1, t, 1000, math.nan, math.nan) for t in range(9)]) == []
    assert doubtful(rows([4, 8] * 10)) == []
    assert doubtful([(1, t, 0, -900.0, 0.1) for t in range(9)]) == []


def test_objects_do_not_mix(annotation: Annotation) -> None:
    assert doubtful(rows([1000] * 20) + rows([100] * 20, {12: 0.0}, obj_id=2)) == [12]
    with annotation.edit("Add") as edit:
        for _ in range(2):
            edit.add_object()
        for frame in range(FRAMES):
            edit.set_mask(1, frame, square(20, score=0.1 if frame == 30 else 9.0))
            edit.set_mask(2, frame, square(20 if frame < 8 else 5))
    assert [annotation.doubtful(after) for after in (-1, 8, 29, 30)] == [8, 30, 30, 8]
    assert annotation.doubtful(-1, obj_ids=[1]) == 30
    assert annotation.doubtful(-1, obj_ids=[]) is None
    with annotation.edit("Prompt") as edit:
        edit.set_prompts(1, 30, CLICK)
    assert annotation.doubtful(8) == 8
