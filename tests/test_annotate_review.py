"""What is accepted and what is stale: rules, store, doubt, plans of propagation, the list of videos."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from annotator import HEIGHT, WIDTH, Gate, Opened, as_version, opened, timeline, until, write_frames
from i2vpp.annotate.problems import BusyError, NotFoundError
from i2vpp.annotate.ranges import Span, accept
from i2vpp.annotate.session import VideoSession
from i2vpp.annotate.storage.cells import ACCEPTED as DONE
from i2vpp.annotate.storage.cells import DOUBTFUL as LEFT
from i2vpp.annotate.storage.cells import IN_WORK, UNTOUCHED, Cell
from i2vpp.annotate.storage.masks import Stroke
from i2vpp.annotate.storage.staleness import dependent_frames
from i2vpp.annotate.storage.store import Annotation, summarize
from i2vpp.annotate.storage.values import NAN, Prompts, StoredMask, Touched
from i2vpp.annotate.tracking.plans import Leg, Plan, legs_of_missing, make_legs
from i2vpp.annotate.views import ABSENT, ACCEPTED, DOUBTFUL, NO_MASK, PRESENT, STALE, kind_of, news
from i2vpp.errors import PromptError
from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
from models import encode_once, make_predictor

FRAMES = 6
CLICK = Prompts(points=((20.0, 24.0, 1),))
DAB = Prompts(strokes=(Stroke(points=((40.0, 30.0),), radius=6.0),))


@pytest.fixture(scope="module")
def predictor() -> I2VPPVideoPredictor:
    return encode_once(make_predictor())


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_frames(tmp_path / "disc", FRAMES)


@pytest.fixture
def session(video: Path, tmp_path: Path, predictor: I2VPPVideoPredictor) -> Iterator[VideoSession]:
    """A session with one object that was clicked on frame 2 and tracked both ways."""
    with opened(video, tmp_path / "out", lambda: predictor) as session:
        session.add_object(0, None, None)
        session.set_prompts(1, 2, session.store.revision, CLICK)
        propagate(session, start=2, direction="both")
        yield session


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Annotation]:
    with reopen(tmp_path / "a") as annotation:
        with annotation.edit("Add") as edit:
            edit.add_object()
        yield annotation


def reopen(path: Path, frames: int = 40) -> Annotation:
    return Annotation(path, height=8, width=12, frames=frames, video="clip.mp4")


def square(side: int, score: float = NAN) -> StoredMask:
    mask = np.zeros((8, 12), bool)
    mask[:side, :side] = True
    return StoredMask.of(mask, score=score)


def propagate(session: VideoSession, *, start: int, direction: str = "forward") -> dict[str, Any]:
    session.start_propagation(session.store.revision, start=start, direction=direction, stop=None, obj_ids=None)
    return ended(session)


def ended(session: VideoSession) -> dict[str, Any]:
    until(lambda: not session.jobs.busy)
    job = session.jobs.to_json()
    assert job is not None
    return job


def stale(session: VideoSession) -> list[int]:
    return [cell.frame for cell in session.store.cells() if cell.stale]


def cell(frame: int, **fields: Any) -> Cell:
    known = {"area": 9, "score": NAN, "iou": NAN, "prompted": False, "accepted": False, "reverse": None, "stale": False}
    return Cell(1, frame, **{**known, **fields})


# ---- which masks a correction makes stale


@pytest.mark.parametrize(
    ("corrected", "ways", "prompted", "expected"),
    [
        (3, {4: False, 5: False, 9: False}, {0, 3}, {4: False, 5: False, 9: False}),  # to the end, over a gap
        (3, {4: False, 5: False, 6: False, 7: False}, {3, 6}, {4: False, 5: False, 6: False}),  # to the next prompts
        (3, {1: False, 2: False, 4: False}, {0, 3}, {4: False}),  # what was tracked towards it stays
        (3, {0: True, 1: True, 2: True, 4: True}, {3, 5}, {0: True, 1: True, 2: True}),  # backward
        (3, {0: True, 1: True, 2: False}, {1, 3}, {1: True}),
        (3, {2: None, 4: None}, {3}, {4: False}),  # of an older store, after the only prompt of all
        (3, {2: None, 4: None}, {3, 9}, {2: True}),  # of an older store: 9 was the only one that could be tracked from
        (3, {4: False}, set(), {4: False}),  # the last prompts were deleted
        (3, {}, {3}, {}),
    ],
)
def test_masks_tracked_away_from_a_correction_are_stale(
    corrected: int, ways: dict[int, bool | None], prompted: set[int], expected: dict[int, bool]
) -> None:
    assert dependent_frames(corrected, ways, prompted) == expected


def test_a_correction_makes_masks_stale_until_they_are_propagated(session: VideoSession) -> None:
    store = session.store
    assert stale(session) == []
    session.set_prompts(1, 4, store.revision, DAB)
    assert stale(session) == [5]
    assert session.state()["timeline"]["1"][-1][:2] == (5, 5)
    assert session.state()["timeline"]["1"][-1][2] & STALE
    session.travel("undo", store.revision)
    assert stale(session) == []
    session.travel("redo", store.revision)
    session.set_prompts(1, 1, store.revision, DAB)
    assert stale(session) == [0, 5], "backward from frame 1"
    session.set_prompts(1, 2, store.revision, DAB)
    assert stale(session) == [0, 3, 5], "up to the next prompts, both ways"
    before = {frame: store.mask(1, frame) for frame in range(FRAMES)}
    session.start_missing(store.revision, None)
    job = ended(session)
    assert (job["done"], job["state"], job["label"]) == (3, "done", "Propagate what is missing of Object 1")
    assert stale(session) == []
    changed = {frame for frame in range(FRAMES) if store.mask(1, frame) != before[frame]}
    assert changed <= {0, 3, 5}
    with pytest.raises(PromptError, match="no mask of these objects is missing or stale"):
        session.start_missing(store.revision, None)


def test_a_correction_that_changes_nothing_makes_nothing_stale(session: VideoSession) -> None:
    far = Prompts(strokes=(Stroke(points=((-50.0, -50.0),), radius=1.0),))
    session.set_prompts(1, 3, session.store.revision, far)
    assert stale(session) == []


def test_deleting_a_correction_makes_what_followed_it_stale(session: VideoSession) -> None:
    store = session.store
    tracked = store.mask(1, 3)
    session.set_prompts(1, 3, store.revision, DAB)
    propagate(session, start=3)
    assert stale(session) == []
    session.set_prompts(1, 3, store.revision, Prompts())
    assert (store.mask(1, 3), stale(session)) == (tracked, [4, 5])


def test_what_is_stale_survives_a_restart_and_is_propagated_as_ever(
    video: Path, tmp_path: Path, predictor: I2VPPVideoPredictor
) -> None:
    def work(output: Path, restart: bool) -> list[StoredMask | None]:
        with opened(video, output, lambda: predictor) as session:
            session.add_object(0, None, None)
            session.set_prompts(1, 0, session.store.revision, CLICK)
            propagate(session, start=0)
            session.set_prompts(1, 2, session.store.revision, DAB)
            if not restart:
                propagate(session, start=2)
                return [session.store.mask(1, frame) for frame in range(FRAMES)]
        with opened(video, output, lambda: predictor) as session:
            assert stale(session) == [3, 4, 5]
            session.start_missing(session.store.revision, [1])
            assert ended(session)["done"] == 3
            return [session.store.mask(1, frame) for frame in range(FRAMES)]

    expected, found = (work(tmp_path / str(restart), restart) for restart in (False, True))
    assert found[:3] == expected[:3]
    same = [np.mean(a.decode(HEIGHT, WIDTH) == b.decode(HEIGHT, WIDTH)) for a, b in zip(found, expected, strict=True)]  # type: ignore[union-attr]
    assert min(same) > 0.9, "only the memory of frames before the correction may make a difference"


# ---- plans


def test_legs_are_runs_of_frames_with_the_same_objects() -> None:
    found = make_legs(range(5, -1, -1), {5: [2, 1], 4: [1, 2], 3: [1], 2: [], 0: [1]})
    assert [(list(leg.frames), leg.obj_ids) for leg in found] == [([5, 4], (1, 2)), ([3], (1,)), ([0], (1,))]
    plan = Plan(label="x", legs=(Leg(frames=range(2, 5), obj_ids=(1, 2)), Leg(frames=range(1, -1, -1), obj_ids=(1,))))
    assert (len(plan), plan.obj_ids, Plan.from_json(plan.to_json())) == (5, [1, 2], plan)
    assert [list(leg.frames) for leg in plan.after(1).legs] == [[3, 4], [1, 0]]
    assert [list(leg.frames) for leg in plan.after(4).legs] == [[0]]
    assert not plan.after(5)
    assert plan.only([1, 2], {}) == plan
    left = plan.only([1], {1: {3}})
    assert [(list(leg.frames), leg.obj_ids) for leg in left.legs] == [([2], (1,)), ([4], (1,)), ([1, 0], (1,))]


def test_the_plan_of_a_propagation_that_an_older_version_began_is_read() -> None:
    text = json.dumps({"label": "Propagate Disc", "objects": [1, 3], "ways": [[2, 4, 1], [1, -1, -1]]})
    expected = (Leg(frames=range(2, 4), obj_ids=(1, 3)), Leg(frames=range(1, -1, -1), obj_ids=(1, 3)))
    assert Plan.from_json(text) == Plan(label="Propagate Disc", legs=expected)


@pytest.mark.parametrize(
    ("cells", "prompted", "expected"),
    [
        ([cell(2, prompted=True)], {2}, [[3, 4, 5], [1, 0]]),  # missing all around
        ([cell(f) for f in range(FRAMES)], {0}, []),
        ([cell(f, stale=f > 3, reverse=False) for f in range(FRAMES)], {0}, [[4, 5]]),
        ([cell(f, stale=f in (1, 2), reverse=True) for f in range(FRAMES)], {0, 3}, [[2, 1]]),  # as it was tracked
        ([cell(f, stale=f in (1, 2)) for f in range(FRAMES)], {3}, [[2, 1]]),
        ([cell(0, prompted=True), *(cell(f, area=None, accepted=True) for f in (1, 2, 3))], {0}, [[4, 5]]),
        ([cell(0, prompted=True), cell(1, area=0)], {0}, [[2, 3, 4, 5]]),  # an empty mask is not missing
    ],
)
def test_what_is_missing_or_stale_and_nothing_else_is_planned(
    cells: list[Cell], prompted: set[int], expected: list[list[int]]
) -> None:
    assert [list(leg.frames) for leg in legs_of_missing(cells, {1: prompted}, FRAMES)] == expected


# ---- accepted


def test_accepted_frames_are_kept_with_undo(tmp_path: Path) -> None:
    with reopen(tmp_path / "a") as annotation:
        with annotation.edit("Add") as edit:
            edit.set_mask(edit.add_object().id, 3, square(3))
        with annotation.edit("Accept") as edit:
            for frame in (2, 3):
                edit.accept(1, frame, True)
        assert annotation.accepted() == {1: {2, 3}}
        annotation.undo()
        assert annotation.accepted() == {}
        annotation.redo()
    with reopen(tmp_path / "a") as annotation:
        assert annotation.accepted() == {1: {2, 3}}
        revision = annotation.revision
        with annotation.edit("Accept") as edit:
            edit.accept(1, 2, True)
        assert annotation.revision == revision, "nothing changed"
        with annotation.edit("Delete") as edit:
            edit.delete_object(1)
        assert annotation.accepted() == {}
        annotation.undo()
        assert annotation.accepted() == {1: {2, 3}}
        with pytest.raises(PromptError, match="there is no frame 40"), annotation.edit("x") as edit:
            edit.accept(1, 40, True)


def test_another_mask_is_to_do_again_and_tracking_leaves_what_is_accepted(store: Annotation) -> None:
    with store.edit("x") as edit:
        for frame in range(3):
            edit.set_mask(1, frame, square(3))
            edit.accept(1, frame, True)
    with store.edit("y") as edit:
        edit.set_mask(1, 0, square(3, score=2.0))
        edit.set_mask(1, 1, square(4))
        edit.track(1, 2, square(5), reverse=False)
        edit.track(1, 3, square(5), reverse=True)
    assert store.accepted() == {1: {0, 2}}
    assert (store.mask(1, 2), store.mask(1, 3)) == (square(3), square(5))
    store.undo()
    assert (store.accepted(), store.mask(1, 1)) == ({1: {0, 1, 2}}, square(3))


def test_next_doubtful_skips_what_is_accepted(store: Annotation) -> None:
    with store.edit("x") as edit:
        for frame in range(40):
            edit.set_mask(1, frame, square(5, score=0.1 if frame in (10, 30) else 9.0))
    assert [store.doubtful(after) for after in (-1, 10, 30)] == [10, 30, 10]
    with store.edit("y") as edit:
        edit.accept(1, 10, True)
    assert [store.doubtful(after) for after in (-1, 10, 30)] == [30, 30, 30]
    kinds = {one.frame: kind_of(one) for one in store.cells()}
    assert (kinds[9], kinds[10], kinds[30]) == (PRESENT, PRESENT + ACCEPTED, DOUBTFUL)


def test_values_of_timelines() -> None:
    assert kind_of(cell(0)) == PRESENT
    assert kind_of(cell(0, area=0, accepted=True)) == ABSENT + ACCEPTED
    assert kind_of(cell(0, area=None, accepted=True)) == NO_MASK + ACCEPTED
    assert kind_of(cell(0, iou=0.1, stale=True)) == DOUBTFUL + STALE
    assert kind_of(cell(0, iou=0.1, prompted=True)) == PRESENT


def test_how_far_the_work_on_a_video_is(tmp_path: Path) -> None:
    path = tmp_path / "a"
    states = []
    with reopen(path) as annotation:
        states.append(annotation.summary().state)
        with annotation.edit("Add") as edit:
            edit.set_mask(edit.add_object().id, 0, square(3))
        states.append(annotation.summary().state)
        with annotation.edit("Track") as edit:
            edit.set_mask(1, 1, square(3, score=0.1))
        states.append(annotation.summary().state)
        with annotation.edit("Lock") as edit:
            edit.change_object(1, locked=True)
        states.append(annotation.summary().state)
        with annotation.edit("Accept") as edit:
            for frame in range(40):
                edit.accept(1, frame, True)
        states.append(annotation.summary().state)
        with annotation.edit("To do") as edit:
            edit.accept(1, 39, False)
        states.append(annotation.summary().state)
        annotation.undo()
    assert states == [UNTOUCHED, IN_WORK, LEFT, IN_WORK, DONE, IN_WORK]
    assert summarize(path).state == DONE


def test_a_store_from_before_review_opens_and_guesses_directions(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with reopen(path) as annotation:
        with annotation.edit("Add") as edit:
            edit.add_object()
            for frame in range(5):
                edit.set_mask(1, frame, square(3))
            edit.set_prompts(1, 2, CLICK_SMALL)
    as_version(path, 3)
    with reopen(path) as annotation:
        assert (annotation.accepted(), [one.reverse for one in annotation.cells()]) == ({}, [None] * 5)
        with annotation.edit("Correct") as edit:
            edit.set_prompts(1, 1, CLICK_SMALL)
            edit.mark_stale(1, 1)
        assert [one.frame for one in annotation.cells() if one.stale] == [0]
        annotation.undo()
        assert [one.frame for one in annotation.cells() if one.stale] == []


CLICK_SMALL = Prompts(points=((2.0, 2.0, 1),))


# ---- sessions


def test_a_range_is_accepted_in_one_step(session: VideoSession) -> None:
    store = session.store
    session.add_object(store.revision, "second", None)
    accept(session, store.revision, Span(first=1, last=3), [1], accepted=True)
    assert (store.accepted(), store.undo_label) == ({1: {1, 2, 3}}, "Accept Object 1, frames 1 to 3")
    accept(session, store.revision, Span(first=2, last=2), None, accepted=False)
    assert (store.accepted(), store.undo_label) == ({1: {1, 3}}, "To do: 2 objects, frame 2")
    session.travel("undo", store.revision)
    session.travel("undo", store.revision)
    assert store.accepted() == {}


@pytest.mark.parametrize(
    ("first", "last", "obj_ids", "error", "message"),
    [
        (3, 1, None, PromptError, "frame 3 lies after frame 1; begin with the earlier one"),
        (0, FRAMES, None, NotFoundError, "there is no frame 6; the video has frames 0 to 5"),
        (0, 1, [7], NotFoundError, "there is no object 7"),
        (0, 1, [], PromptError, "there is no object to change"),
    ],
)
def test_a_range_that_makes_no_sense_is_refused(
    session: VideoSession, first: int, last: int, obj_ids: Any, error: type[Exception], message: str
) -> None:
    before = session.state()
    with pytest.raises(error, match=message):
        accept(session, session.store.revision, Span(first=first, last=last), obj_ids, accepted=True)
    assert session.state() == before


def tracked_frames(session: VideoSession, predictor: Any, start: Callable[[], Any]) -> list[int]:
    """The frames that the network is asked to track."""
    seen: list[int] = []
    track = predictor.track_frame

    def watch(state: Any, frame: int, **options: Any) -> Any:
        seen.append(frame)
        return track(state, frame, **options)

    predictor.track_frame = watch
    try:
        start()
        ended(session)
    finally:
        del predictor.track_frame
    return seen


def test_propagation_leaves_accepted_masks_and_does_not_visit_them(session: VideoSession, predictor: Any) -> None:
    store = session.store
    accept(session, store.revision, Span(first=3, last=4), None, accepted=True)
    session.set_prompts(1, 2, store.revision, DAB)
    kept = [store.mask(1, frame) for frame in (3, 4)]
    assert stale(session) == [0, 1, 5], "accepted masks are not stale"
    seen = tracked_frames(
        session,
        predictor,
        lambda: session.start_propagation(store.revision, start=2, direction="forward", stop=None, obj_ids=None),
    )
    assert seen == [2, 5]
    assert [store.mask(1, frame) for frame in (3, 4)] == kept
    assert store.accepted() == {1: {3, 4}}
    assert stale(session) == [0, 1]
    assert tracked_frames(session, predictor, lambda: session.start_missing(store.revision, None)) == [1, 0]
    accept(session, store.revision, Span(first=0, last=FRAMES - 1), None, accepted=True)
    with pytest.raises(PromptError, match="all of these frames are accepted"):
        session.start_propagation(store.revision, start=0, direction="forward", stop=None, obj_ids=None)
    accept(session, store.revision, Span(first=3, last=4), None, accepted=False)
    assert stale(session) == [3, 4], "to do again, they are what the correction has left"


def test_what_is_accepted_while_a_propagation_runs_stays(session: VideoSession, predictor: Any) -> None:
    store = session.store
    session.set_prompts(1, 2, store.revision, DAB)
    kept = store.mask(1, 5)
    gate = Gate(predictor, free=1)
    session.start_missing(store.revision, None)
    gate.wait()
    accept(session, store.revision, Span(first=5, last=5), None, accepted=True)
    with pytest.raises(BusyError, match="Propagate what is missing of Object 1 is running"):
        session.start_missing(store.revision, None)
    gate.open()
    assert ended(session)["state"] == "done"
    assert (store.mask(1, 5), store.accepted()) == (kept, {1: {5}})


def test_a_propagation_of_what_is_missing_is_gone_on_with(
    video: Path, tmp_path: Path, predictor: I2VPPVideoPredictor
) -> None:
    session = Opened(video, tmp_path / "out", lambda: predictor).session
    session.add_object(0, None, None)
    session.set_prompts(1, 2, session.store.revision, CLICK)
    gate = Gate(predictor, free=1)
    session.start_missing(session.store.revision, None)
    gate.wait()
    closing = session.close()
    gate.open()
    closing.result(60)
    with opened(video, tmp_path / "out", lambda: predictor) as session:
        broken = session.state()["broken"]
        assert broken["label"] == "Propagate what is missing of Object 1"
        assert broken["left"] == FRAMES - len(timeline(session.store)[1])
        session.go_on(session.store.revision)
        assert ended(session)["state"] == "done"
        assert sorted(timeline(session.store)[1]) == list(range(FRAMES))


def test_marks_over_many_frames_are_told_in_few_runs(tmp_path: Path) -> None:
    class Shown:
        pass

    shown: Any = Shown()
    with reopen(tmp_path / "a", frames=2000) as annotation:
        with annotation.edit("Add") as edit:
            edit.add_object()
            edit.set_prompts(1, 0, CLICK_SMALL)
            for frame in range(2000):
                edit.track(1, frame, square(3), reverse=False)
        before = annotation.revision
        with annotation.edit("Correct") as edit:
            edit.set_prompts(1, 500, CLICK_SMALL)
            edit.mark_stale(1, 500)
        touched = annotation.changes(before)
        assert touched is not None
        assert (len(touched.marks), len(touched)) == (1499, 2)
        assert len(touched | Touched(marks=frozenset({(1, 3)}))) == 3
        shown.store, shown.video, shown.jobs = annotation, Shown(), Shown()
        shown.video.id, shown.jobs.to_json = "x", lambda: None
        assert news(shown, before)["timeline"] == {"1": [(500, 500, PRESENT), (501, 1999, PRESENT + STALE)]}
