"""Ranges of frames and whole tracks: clear, absent, merge, cut and swap, each one step; and their HTTP interface."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from annotator import HEIGHT, JSON, WIDTH, Gate, make_workspace, opened, timeline, until, write_frames
from i2vpp.annotate.errors import StaleRevisionError
from i2vpp.annotate.problems import BusyError, NotFoundError
from i2vpp.annotate.ranges import Span, accept, clear, cut, declare_absent, merge, swap
from i2vpp.annotate.session import VideoSession
from i2vpp.annotate.storage.masks import Stroke
from i2vpp.annotate.storage.store import Annotation
from i2vpp.annotate.storage.values import Prompts, StoredMask
from i2vpp.annotate.web.app import make_app
from i2vpp.annotate.web.security import Guard
from i2vpp.errors import CheckpointError, PromptError
from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
from models import encode_once, make_predictor

FRAMES = 6
CLICK = Prompts(points=((20.0, 24.0, 1),))
DAB = Prompts(strokes=(Stroke(points=((40.0, 30.0),), radius=6.0),))
GIVEN = Prompts(imported=True)


@pytest.fixture(scope="module")
def predictor() -> I2VPPVideoPredictor:
    return encode_once(make_predictor())


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_frames(tmp_path / "disc", FRAMES)


def no_model() -> Any:
    raise CheckpointError("there is no checkpoint")


@pytest.fixture
def session(video: Path, tmp_path: Path) -> Iterator[VideoSession]:
    """Two objects without network, on all frames; each painted on frame 0; in the end every run belongs to one mask."""
    with opened(video, tmp_path / "out", no_model) as session:
        with session.store.edit("Add") as edit:
            label = edit.add_label("disc")
            for obj_id, name in ((1, "A"), (2, "B")):
                edit.add_object(name)
                edit.set_prompts(obj_id, 0, DAB)
                edit.set_mask(obj_id, 0, block(obj_id, 0))
                for frame in range(1, FRAMES):
                    edit.track(obj_id, frame, block(obj_id, frame), reverse=False)
            edit.set_label(1, label.number)
        yield session
        check_runs(session.store)


def block(obj_id: int, frame: int) -> StoredMask:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[10 * obj_id : 10 * obj_id + 5, frame : frame + 8] = True
    return StoredMask.of(mask)


NOTHING = StoredMask.of(np.zeros((HEIGHT, WIDTH), bool))


def check_runs(store: Annotation) -> None:
    """Every run of the file belongs to one mask, of now or of the history."""
    sql = store._connection.execute
    tables = ("masks", "tracked")
    owned = " UNION ALL ".join(
        f"SELECT runs FROM {table} UNION ALL SELECT runs FROM past_{table} WHERE present" for table in tables
    )
    assert sql(f"{owned} ORDER BY 1").fetchall() == sql("SELECT id FROM runs ORDER BY id").fetchall()


def content(session: VideoSession) -> dict[str, Any]:
    store = session.store
    return {
        "objects": store.objects(),
        "prompts": {obj_id: frames for obj_id, frames in store.prompts().items() if frames},
        "cells": store.cells(),
        "masks": [store.masks(frame) for frame in range(FRAMES)],
        "tracked": [store.tracked(obj_id, f) for obj_id in (1, 2, 3) for f in range(FRAMES)],
    }


def change(session: VideoSession, what: Callable[..., Any], *args: Any) -> Any:
    """Do something as the routes do; check that it is one step, which undo and redo change back and forth."""
    before, undo = content(session), session.store.undo_label
    result = session.model_worker.submit(what, session, session.store.revision, *args).result(60)
    after = content(session)
    assert before != after
    session.travel("undo", session.store.revision)
    assert (content(session), session.store.undo_label) == (before, undo)
    session.travel("redo", session.store.revision)
    assert content(session) == after
    check_runs(session.store)
    return result


def shown(session: VideoSession, obj_id: int) -> list[int]:
    """The frames on which an object is seen."""
    return [cell.frame for cell in session.store.cells(obj_id) if cell.area]


def stale(session: VideoSession, obj_id: int) -> list[int]:
    return [cell.frame for cell in session.store.cells(obj_id) if cell.stale]


def span(first: int, last: int) -> Span:
    return Span(first=first, last=last)


# ---- clear, absent


def test_a_range_of_the_chosen_object_is_cleared(session: VideoSession) -> None:
    change(session, clear, span(2, 3), [1])
    assert (shown(session, 1), shown(session, 2)) == ([0, 1, 4, 5], list(range(FRAMES)))
    assert session.store.mask(1, 2) is None
    assert session.store.undo_label == "Clear A, frames 2 to 3"
    assert stale(session, 1) == []
    change(session, clear, span(0, 0), None)
    assert session.store.prompts() == {}
    assert (stale(session, 1), stale(session, 2)) == ([1, 4, 5], [1, 2, 3, 4, 5]), (
        "the prompts that they follow are gone"
    )
    with pytest.raises(PromptError, match="nothing to clear: there are no masks of A on frames 2 to 3"):
        clear(session, session.store.revision, span(2, 3), [1])


def test_absent_objects_have_empty_masks_that_are_accepted(session: VideoSession) -> None:
    session.set_prompts(1, 3, session.store.revision, DAB)
    change(session, declare_absent, span(2, 3), [1])
    assert session.store.mask(1, 2) == session.store.mask(1, 3) == NOTHING
    assert (session.store.accepted(), list(session.store.prompts()[1])) == ({1: {2, 3}}, [0])
    assert session.store.tracked(1, 3) is None
    assert stale(session, 1) == [4, 5]
    revision = session.store.revision
    declare_absent(session, revision, span(2, 3), [1])
    assert session.store.mask(1, 2) == NOTHING
    accept(session, session.store.revision, span(2, 3), [1], accepted=False)
    assert stale(session, 1) == [4, 5], "to do again, they are as they were declared"


def test_locked_objects_are_left_out_or_refused(session: VideoSession) -> None:
    session.change_object(1, session.store.revision, {"locked": True})
    change(session, clear, span(1, 5), None)
    assert (len(shown(session, 1)), shown(session, 2)) == (FRAMES, [0])
    before = content(session)
    revision = session.store.revision
    for what, args in ((clear, (span(0, 1), [1])), (declare_absent, (span(0, 1), [1])), (cut, (1, 3)),
                       (swap, (1, 2, 3)), (swap, (2, 1, 3)), (merge, (1, 2)), (merge, (2, 1))):  # fmt: skip
        with pytest.raises(PromptError, match="A is locked; unlock it first"):
            what(session, revision, *args)
    session.change_object(2, session.store.revision, {"locked": True})
    with pytest.raises(PromptError, match="all objects are locked"):
        clear(session, session.store.revision, span(0, 1), None)
    assert content(session)["cells"] == before["cells"]


# ---- merge, cut, swap


def test_two_tracks_are_merged(session: VideoSession) -> None:
    change(session, clear, span(4, 5), [1])
    change(session, declare_absent, span(3, 3), [1])
    change(session, clear, span(0, 2), [2])
    session.set_prompts(2, 4, session.store.revision, DAB)
    edited = session.store.mask(2, 4)
    change(session, merge, 1, 2)
    assert [info.name for info in session.store.objects()] == ["A"]
    assert session.store.undo_label == "Merge B into A"
    found = [session.store.mask(1, frame) for frame in range(FRAMES)]
    assert found == [block(1, 0), block(1, 1), block(1, 2), block(2, 3), edited, block(2, 5)]
    assert session.store.prompts() == {1: {0: DAB, 4: DAB}}
    assert session.store.tracked(1, 4) == block(2, 4), "what lies below the strokes came along"
    assert session.store.accepted() == {}, "what is taken over is as it was with the other object"


def test_tracks_that_are_both_visible_are_not_merged(session: VideoSession) -> None:
    before = content(session)
    with pytest.raises(PromptError, match="A and B both have masks on 6 frames, within frames 0 to 5; clear one"):
        merge(session, session.store.revision, 1, 2)
    assert content(session) == before


def test_a_track_is_cut_and_both_parts_can_be_propagated(session: VideoSession) -> None:
    accept(session, session.store.revision, span(2, 4), [1], accepted=True)
    assert change(session, cut, 1, 3) == 3
    first, _, second = session.store.objects()
    assert (second.name, second.label, second.color != first.color) == ("A (2)", first.label, True)
    assert (shown(session, 1), shown(session, 3)) == ([0, 1, 2], [3, 4, 5])
    assert [session.store.mask(3, frame) for frame in (3, 4, 5)] == [block(1, frame) for frame in (3, 4, 5)]
    assert session.store.accepted() == {1: {2}, 3: {3, 4}}
    assert {obj_id: session.store.prompts()[obj_id] for obj_id in (1, 3)} == {1: {0: DAB}, 3: {3: GIVEN}}
    assert change(session, cut, 1, 1) == 4
    assert session.store.objects()[-1].name == "A (3)"


def test_a_part_before_a_cut_that_has_no_prompt_gets_one(session: VideoSession) -> None:
    session.set_prompts(1, 4, session.store.revision, DAB)
    change(session, clear, span(0, 0), [1])
    change(session, cut, 1, 4)
    prompts = session.store.prompts()
    assert (prompts[1], prompts[3]) == ({3: GIVEN}, {4: DAB})
    session.set_prompts(1, 3, session.store.revision, Prompts())
    assert session.store.mask(1, 3) == block(1, 3), "it is what lies below, too"


def test_two_tracks_are_swapped_from_a_frame_on(session: VideoSession) -> None:
    session.set_prompts(2, 4, session.store.revision, DAB)
    edited = session.store.mask(2, 4)
    accept(session, session.store.revision, span(5, 5), [2], accepted=True)
    change(session, clear, span(4, 4), [1])
    change(session, swap, 1, 2, 3)
    assert [session.store.mask(1, f) for f in (2, 3, 4, 5)] == [block(1, 2), block(2, 3), edited, block(2, 5)]
    assert [session.store.mask(2, f) for f in (2, 3, 4, 5)] == [block(2, 2), block(1, 3), None, block(1, 5)]
    assert session.store.prompts() == {1: {0: DAB, 3: GIVEN, 4: DAB}, 2: {0: DAB, 3: GIVEN}}
    assert session.store.accepted() == {1: {5}}


@pytest.mark.parametrize(
    ("what", "args", "error", "message"),
    [
        (clear, (span(3, 2), None), PromptError, "frame 3 lies after frame 2; begin with the earlier one"),
        (clear, (span(0, 6), None), NotFoundError, "there is no frame 6; the video has frames 0 to 5"),
        (declare_absent, (span(0, 1), [9]), NotFoundError, "there is no object 9"),
        (cut, (1, 0), PromptError, "A cannot be cut at frame 0: there is nothing of it before it"),
        (cut, (9, 2), NotFoundError, "there is no object 9"),
        (cut, (1, 7), NotFoundError, "there is no frame 7"),
        (merge, (1, 1), PromptError, "choose two different objects"),
        (merge, (1, 9), NotFoundError, "there is no object 9"),
        (swap, (1, 1, 2), PromptError, "choose two different objects"),
        (swap, (1, 2, 7), NotFoundError, "there is no frame 7"),
    ],
)
def test_what_makes_no_sense_is_refused_and_changes_nothing(
    session: VideoSession, what: Any, args: Any, error: type[Exception], message: str
) -> None:
    before, revision = content(session), session.store.revision
    with pytest.raises(error, match=message):
        what(session, revision, *args)
    with pytest.raises((StaleRevisionError, error)):
        what(session, revision - 1, *args)
    assert (content(session), session.store.revision) == (before, revision)


def test_nothing_is_cut_or_swapped_where_there_is_nothing(session: VideoSession) -> None:
    change(session, clear, span(3, 5), None)
    with pytest.raises(PromptError, match="there is nothing of it on it or after it"):
        cut(session, session.store.revision, 1, 3)
    with pytest.raises(PromptError, match="nothing to swap: neither object has anything on frame 3 or after it"):
        swap(session, session.store.revision, 1, 2, 3)


def test_everything_is_there_after_a_restart_with_its_undo(session: VideoSession) -> None:
    path, size = session.store.path, (session.height, session.width)
    before = content(session)
    change(session, swap, 1, 2, 2)
    change(session, cut, 2, 4)
    session.store.close()
    with Annotation(path, height=size[0], width=size[1], frames=FRAMES) as store:
        assert store.mask(3, 4) == block(1, 4)
        store.undo()
        store.undo()
        assert [store.masks(frame) for frame in range(FRAMES)] == before["masks"]
    session.store = Annotation(path, height=size[0], width=size[1], frames=FRAMES)


# ---- with the network


def test_the_network_goes_on_from_what_a_change_has_left(
    video: Path, tmp_path: Path, predictor: I2VPPVideoPredictor
) -> None:
    def track(session: VideoSession) -> None:
        session.start_missing(session.store.revision, None)
        until(lambda: not session.jobs.busy)
        assert session.jobs.to_json()["state"] == "done"  # type: ignore[index]

    def work(output: Path, restart: bool) -> list[Any]:
        with opened(video, output, lambda: predictor) as session:
            for obj_id, prompts in ((1, CLICK), (2, DAB)):
                session.add_object(session.store.revision, None, None)
                session.set_prompts(obj_id, 0, session.store.revision, prompts)
            track(session)
            swap(session, session.store.revision, 1, 2, 3)
            clear(session, session.store.revision, span(4, 5), None)
            if not restart:
                track(session)
                return [session.store.masks(frame) for frame in range(FRAMES)]
        with opened(video, output, lambda: predictor) as session:
            track(session)
            return [session.store.masks(frame) for frame in range(FRAMES)]

    assert work(tmp_path / "a", restart=False) == work(tmp_path / "b", restart=True)


def test_propagation_passes_over_where_an_object_is_declared_absent(
    video: Path, tmp_path: Path, predictor: I2VPPVideoPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(video, tmp_path / "out", lambda: predictor) as session:
        session.add_object(0, None, None)
        session.set_prompts(1, 0, session.store.revision, CLICK)
        declare_absent(session, session.store.revision, span(2, 3), [1])
        session.start_propagation(session.store.revision, start=0, direction="forward", stop=None, obj_ids=None)
        until(lambda: not session.jobs.busy)
        assert session.jobs.to_json()["done"] == 4  # type: ignore[index]
        assert sorted(timeline(session.store)[1]) == list(range(FRAMES))
        assert session.store.mask(1, 2) == session.store.mask(1, 3) == NOTHING
        with session.store.edit("See it") as edit:
            edit.track(1, 1, block(1, 1), reverse=False)
        clear(session, session.store.revision, span(4, 5), None)  # the network forgets what it has tracked
        seen: list[int] = []
        add = predictor.add_tracked_mask

        def watch(state: Any, frame: int, *args: Any, **options: Any) -> None:
            seen.append(frame)
            add(state, frame, *args, **options)

        monkeypatch.setattr(predictor, "add_tracked_mask", watch)
        session.start_missing(session.store.revision, None)
        until(lambda: not session.jobs.busy)
        assert (seen, session.jobs.to_json()["done"]) == ([1], 2), "from the latest visible mask"  # type: ignore[index]


def test_nothing_is_changed_while_a_job_runs(video: Path, tmp_path: Path, predictor: I2VPPVideoPredictor) -> None:
    with opened(video, tmp_path / "out", lambda: predictor) as session:
        for _ in range(2):
            session.add_object(session.store.revision, None, None)
        session.set_prompts(1, 0, session.store.revision, CLICK)
        gate = Gate(predictor, free=1)
        session.start_missing(session.store.revision, None)
        gate.wait()
        revision = session.store.revision
        for what, args in ((clear, (span(0, 1), None)), (declare_absent, (span(0, 1), None)), (cut, (1, 1)),
                           (merge, (1, 2)), (swap, (1, 2, 1))):  # fmt: skip
            with pytest.raises(BusyError, match="is running; cancel it, or wait for its end"):
                what(session, revision, *args)
        assert session.store.revision == revision
        gate.open()
        until(lambda: not session.jobs.busy)


# ---- over HTTP


def test_requests(tmp_path: Path, predictor: Any) -> None:
    folder = tmp_path / "videos"
    write_frames(folder / "disc", FRAMES)
    app = make_app(make_workspace(folder, tmp_path / "out", lambda: predictor), Guard())
    with TestClient(app, base_url="http://127.0.0.1:5000") as client:
        entry = client.get("/api/library").json()["videos"][0]
        assert entry["state"] == "untouched"
        url = f"/api/videos/{entry['id']}"

        def state() -> dict[str, Any]:
            return client.get(url).json()  # type: ignore[no-any-return]

        def send(what: str, method: str = "POST", **body: Any) -> Any:
            body = {"revision": state()["revision"], **body}
            return client.request(method, f"{url}/{what}", content=json.dumps(body), headers=JSON)

        def ok(what: str, method: str = "POST", **body: Any) -> dict[str, Any]:
            answer = send(what, method, **body)
            assert answer.status_code == 200, answer.text
            return state()

        for obj_id, x in ((1, 20), (2, 50)):
            send("objects")
            stroke = {"points": [[x, 24]], "radius": 5, "erase": False}
            assert send(f"objects/{obj_id}/prompts/0", "PUT", strokes=[stroke]).status_code == 200
        assert ok("ranges/absent", first=1, last=2, objects=[2])["timeline"]["2"] == [[0, 0, 1], [1, 2, 8]]
        assert ok("review", "PUT", first=0, last=5, objects=None, accepted=True)["timeline"]["1"] == [
            [0, 0, 9], [1, 5, 11]
        ]  # fmt: skip
        assert client.get("/api/library").json()["videos"][0]["state"] == "accepted"
        assert ok("review", "PUT", first=1, last=5, objects=[1], accepted=False)["timeline"]["1"] == [[0, 0, 9]]
        assert ok("ranges/clear", first=1, last=5, objects=[2])["timeline"]["2"] == [[0, 0, 9]]
        assert ok("objects/1/swap", other=2, frame=0)["timeline"]["1"] == [[0, 0, 9]]
        send("propagate-missing", objects=[1])
        until(lambda: state()["job"]["state"] == "done")
        assert state()["job"]["done"] == 5
        answer = send("objects/1/cut", frame=3)
        assert (answer.status_code, answer.json()["created"]) == (200, 3)
        assert len(ok("objects/1/merge", other=3)["objects"]) == 2
        for what, body, status, words in (
            ("ranges/clear", {"first": 2, "last": 1}, 400, "frame 2 lies after frame 1"),
            ("ranges/clear", {"first": 0, "last": 9}, 404, "there is no frame 9"),
            ("ranges/clear", {"first": 0}, 400, "last must be an integer"),
            ("ranges/absent", {"first": 0, "last": 1, "objects": "all"}, 400, "objects must be a list of ids"),
            ("objects/1/merge", {"other": 1}, 400, "choose two different objects"),
            ("objects/1/cut", {"frame": 0}, 400, "cannot be cut at frame 0"),
            ("propagate-missing", {"objects": [7]}, 404, "there is no object 7"),
        ):
            answer = send(what, **body)
            assert (answer.status_code, words in answer.json()["error"]) == (status, True), answer.text
        assert send("review", "PUT", first=0, last=0, accepted="yes").status_code == 400
        gate = Gate(predictor, free=1)
        ok("review", "PUT", first=0, last=5, objects=None, accepted=False)
        assert send("propagate", start=0).status_code == 200
        gate.wait()
        answer = send("ranges/clear", first=0, last=1)
        assert (answer.status_code, "Propagate 2 objects is running" in answer.json()["error"]) == (409, True)
        gate.open()
        until(lambda: state()["job"]["state"] != "running")
