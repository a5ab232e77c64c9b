"""One video being annotated: what the network is told, what is stored, and that the two never drift apart."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from annotator import HEIGHT, PATIENCE, WIDTH, Gate, Opened, opened, timeline, until, write_frames
from i2vpp.annotate.errors import StaleRevisionError
from i2vpp.annotate.frames import FrameReader, JpegCache
from i2vpp.annotate.jobs import EXPORT, PROPAGATE, Job
from i2vpp.annotate.problems import BusyError, NotFoundError
from i2vpp.annotate.session import VideoSession
from i2vpp.annotate.storage.masks import Stroke, paint
from i2vpp.annotate.storage.values import Prompts, StoredMask
from i2vpp.annotate.tracking.model import ModelError
from i2vpp.errors import CheckpointError, PromptError, VideoError
from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
from models import encode_once, make_predictor

FRAMES = 6
CLICK = Prompts(points=((20.0, 24.0, 1),))
MORE = Prompts(points=((20.0, 24.0, 1), (50.0, 10.0, 0)))
BOX = Prompts(box=(5.0, 10.0, 30.0, 40.0))
DAB = Stroke(points=((40.0, 30.0),), radius=6.0)
RUBBER = Stroke(points=((0.0, 5.0), (60.0, 5.0)), radius=4.0, erase=True)


@pytest.fixture(scope="module")
def predictor() -> I2VPPVideoPredictor:
    return encode_once(make_predictor())


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_frames(tmp_path / "disc", FRAMES)


@pytest.fixture
def session(video: Path, tmp_path: Path, predictor: I2VPPVideoPredictor) -> Iterator[VideoSession]:
    with opened(video, tmp_path / "out", lambda: predictor) as session:
        session.add_object(0, None, None)
        yield session


@pytest.fixture
def direct(video: Path, predictor: I2VPPVideoPredictor) -> Iterator[Any]:
    """The predictor's own session over the same video, to compare with."""
    with predictor.init_state(str(video)) as state:
        yield state


def no_model() -> Any:
    raise CheckpointError("there is no checkpoint 'x'")


def prompt(session: VideoSession, prompts: Prompts, frame: int = 0, obj_id: int = 1) -> np.ndarray:
    session.model_worker.submit(session.set_prompts, obj_id, frame, session.store.revision, prompts).result(PATIENCE)
    return mask(session, frame, obj_id)


def mask(session: VideoSession, frame: int = 0, obj_id: int = 1) -> np.ndarray:
    stored = session.store.mask(obj_id, frame)
    assert stored is not None, f"no mask on frame {frame}"
    return stored.decode(HEIGHT, WIDTH)


def propagate(session: VideoSession, start: int = 0, direction: str = "forward", **choice: Any) -> dict[str, Any]:
    begin(session, start, direction, **choice)
    return ended(session)


def begin(session: VideoSession, start: int = 0, direction: str = "forward", **choice: Any) -> None:
    options = {"stop": None, "obj_ids": None, **choice}
    session.start_propagation(session.store.revision, start=start, direction=direction, **options)


def ended(session: VideoSession) -> dict[str, Any]:
    until(lambda: not session.jobs.busy)
    job = session.jobs.to_json()
    assert job is not None
    return job


def undo(session: VideoSession) -> None:
    session.model_worker.submit(session.travel, "undo", session.store.revision).result(PATIENCE)


def drawn(result: Any, obj_id: int = 1) -> np.ndarray:
    found: np.ndarray = (result.masks[result.obj_ids.index(obj_id), 0] > 0).numpy()
    return found


def click(predictor: I2VPPVideoPredictor, state: Any, prompts: Prompts, frame: int = 0) -> np.ndarray:
    points, labels = [p[:2] for p in prompts.points] or None, [p[2] for p in prompts.points] or None
    return drawn(predictor.add_new_points_or_box(state, frame, 1, points=points, labels=labels, box=prompts.box))


# ---- prompts


@pytest.mark.parametrize("prompts", [CLICK, BOX, replace(BOX, points=MORE.points)], ids=["click", "box", "both"])
def test_a_prompt_is_answered_as_the_predictor_does(session, predictor, direct, prompts):
    assert (prompt(session, prompts) == click(predictor, direct, prompts)).all()
    assert session.store.prompts() == {1: {0: prompts}}
    stored = session.store.mask(1, 0)
    result = predictor.track_frame(direct, 0)
    assert stored.score == pytest.approx(float(result.object_scores[0]))
    assert stored.iou == pytest.approx(float(result.predicted_ious[0]))


def test_another_click_goes_on_from_the_present_mask(session, predictor, direct):
    prompt(session, CLICK)
    click(predictor, direct, CLICK)
    refined = click(predictor, direct, MORE)
    assert (prompt(session, MORE) == refined).all()
    with predictor.init_state(direct.source) as fresh:
        assert (click(predictor, fresh, MORE) != refined).any(), "the earlier mask must make a difference"


def test_a_click_that_is_moved_or_deleted_leaves_no_trace(session, predictor, direct):
    expected = click(predictor, direct, CLICK)
    prompt(session, MORE)
    assert (prompt(session, CLICK) == expected).all()
    prompt(session, Prompts(points=((30.0, 20.0, 1),)))
    assert (prompt(session, CLICK) == expected).all()


def test_a_correction_of_a_tracked_frame_reads_memory_as_the_predictor_does(session, predictor, direct):
    prompt(session, CLICK)
    propagate(session)
    click(predictor, direct, CLICK)
    list(predictor.propagate_in_video(direct, 0, progress=False))
    correction = Prompts(points=((45.0, 20.0, 0),))
    assert (prompt(session, correction, frame=3) == click(predictor, direct, correction, frame=3)).all()
    predictor.clear_all_prompts_in_frame(direct, 3, 1)
    predictor.track_frame(direct, 3)
    moved = Prompts(points=((10.0, 20.0, 0),))
    assert (prompt(session, moved, frame=3) == click(predictor, direct, moved, frame=3)).all()


def test_no_prompts_take_the_mask_back(session):
    prompt(session, CLICK)
    session.model_worker.submit(session.set_prompts, 1, 0, session.store.revision, Prompts()).result(PATIENCE)
    assert session.store.prompts() == {}
    assert session.store.mask(1, 0) is None
    with pytest.raises(PromptError, match="nothing to propagate"):
        begin(session)


@pytest.mark.parametrize(
    ("obj_id", "frame", "prompts", "error", "message"),
    [
        (7, 0, CLICK, NotFoundError, "there is no object 7"),
        (1, 6, CLICK, NotFoundError, "there is no frame 6; the video has frames 0 to 5"),
        (1, -1, CLICK, NotFoundError, "there is no frame -1"),
        (1, 0, Prompts(points=((70.0, 1.0, 1),)), PromptError, r"points: \(70, 1\) lies outside the frame"),
        (1, 0, Prompts(box=(1.0, 1.0, 9.0, 51.0)), PromptError, "box"),
    ],
)
def test_a_prompt_that_makes_no_sense_changes_nothing(session, obj_id, frame, prompts, error, message):
    before = session.state()
    with pytest.raises(error, match=message):
        session.set_prompts(obj_id, frame, session.store.revision, prompts)
    assert session.state() == before


def test_stale_prompts_do_not_run_the_network(video, tmp_path):
    with opened(video, tmp_path / "out", no_model) as session:
        session.add_object(0, None, None)
        with pytest.raises(StaleRevisionError, match="changed meanwhile"):
            session.set_prompts(1, 0, 0, CLICK)


def test_locked_objects_are_neither_prompted_nor_propagated(session):
    prompt(session, CLICK)
    session.change_object(1, session.store.revision, {"locked": True})
    with pytest.raises(PromptError, match="Object 1 is locked"):
        session.set_prompts(1, 0, session.store.revision, MORE)
    with pytest.raises(PromptError, match="nothing to propagate"):
        begin(session)


# ---- strokes


def test_strokes_are_painted_in_order_onto_what_clicks_give(session, predictor, direct):
    base = click(predictor, direct, CLICK)
    prompts = replace(CLICK, strokes=(DAB, RUBBER))
    assert (prompt(session, prompts) == paint(base, [DAB, RUBBER])).all()


def test_strokes_are_removed_one_by_one(session):
    base = prompt(session, CLICK)
    prompt(session, replace(CLICK, strokes=(DAB,)))
    prompt(session, replace(CLICK, strokes=(DAB, RUBBER)))
    assert (prompt(session, replace(CLICK, strokes=(RUBBER,))) == paint(base, [RUBBER])).all()
    assert (prompt(session, CLICK) == base).all()


def test_strokes_on_a_tracked_frame_start_from_its_mask(session):
    prompt(session, CLICK)
    propagate(session)
    tracked = mask(session, 2)
    assert (prompt(session, Prompts(strokes=(RUBBER,)), frame=2) == paint(tracked, [RUBBER])).all()
    both = Prompts(strokes=(RUBBER, DAB))
    assert (prompt(session, both, frame=2) == paint(tracked, [RUBBER, DAB])).all()
    assert (prompt(session, Prompts(strokes=(DAB,)), frame=2) == paint(tracked, [DAB])).all()


def test_painting_needs_no_network_but_clicks_do(video, tmp_path):
    with opened(video, tmp_path / "out", no_model) as session:
        session.add_object(0, None, None)
        painted = prompt(session, Prompts(strokes=(DAB,)))
        assert (painted == paint(np.zeros((HEIGHT, WIDTH), bool), [DAB])).all()
        with pytest.raises(ModelError, match="there is no network: there is no checkpoint 'x'"):
            session.set_prompts(1, 1, session.store.revision, CLICK)
        begin(session)
        job = ended(session)
        assert (job["state"], job["error"]) == ("failed", "there is no network: there is no checkpoint 'x'")
        assert (mask(session) == painted).all()


def test_painted_masks_are_what_propagation_starts_from(session, predictor, direct):
    painted = prompt(session, Prompts(strokes=(DAB,)))
    predictor.add_new_mask(direct, 0, 1, painted)
    expected = [drawn(result) for result in predictor.propagate_in_video(direct, 0, progress=False)]
    propagate(session)
    assert (mask(session, 0) == painted).all()
    assert all((mask(session, t) == expected[t]).all() for t in range(1, FRAMES))


def test_an_imported_mask_stays_below_strokes(session):
    imported = np.zeros((HEIGHT, WIDTH), bool)
    imported[10:30, 10:30] = True
    with session.store.edit("import") as edit:
        edit.set_prompts(1, 0, Prompts(imported=True))
        edit.set_mask(1, 0, StoredMask.of(imported))
    on_import = Prompts(strokes=(RUBBER,), imported=True)
    assert (prompt(session, on_import) == paint(imported, [RUBBER])).all()
    assert session.store.prompts()[1][0] == on_import
    assert (prompt(session, replace(on_import, imported=False)) == np.zeros((HEIGHT, WIDTH))).all()
    undo(session)
    assert (prompt(session, Prompts(imported=True)) == imported).all()
    prompt(session, replace(CLICK, imported=True))
    assert session.store.prompts()[1][0] == CLICK, "what clicks have changed is not the imported mask"


def test_nobody_but_an_import_makes_a_mask_imported(session):
    prompt(session, Prompts(strokes=(DAB,), imported=True))
    assert session.store.prompts()[1][0] == Prompts(strokes=(DAB,))


def test_a_stroke_on_an_imported_mask_of_an_earlier_session_cannot_be_taken_out(video, tmp_path, predictor):
    with opened(video, tmp_path / "out", lambda: predictor) as session:
        session.add_object(0, None, None)
        with session.store.edit("import") as edit:
            edit.set_prompts(1, 0, Prompts(imported=True))
            edit.set_mask(1, 0, StoredMask.of(np.ones((HEIGHT, WIDTH), bool)))
        prompt(session, Prompts(strokes=(RUBBER, DAB), imported=True))
    with opened(video, tmp_path / "out", lambda: predictor) as session:
        before = mask(session)
        with pytest.raises(PromptError, match="undo, or paint over them"):
            session.set_prompts(1, 0, session.store.revision, Prompts(strokes=(DAB,), imported=True))
        assert (mask(session) == before).all()


# ---- propagation


@pytest.mark.parametrize(
    ("start", "direction", "stop", "frames"),
    [
        (2, "forward", None, [2, 3, 4, 5]),
        (2, "forward", 3, [2, 3]),
        (2, "backward", None, [2, 1, 0]),
        (2, "backward", 1, [2, 1]),
        (2, "both", None, [2, 3, 4, 5, 1, 0]),
        (2, "both", 4, [2, 3, 4]),
        (2, "both", 0, [2, 1, 0]),
        (0, "both", None, [0, 1, 2, 3, 4, 5]),
        (2, "forward", 2, [2]),
    ],
)
def test_propagation_is_the_predictors_own(session, predictor, direct, start, direction, stop, frames):
    prompt(session, CLICK, frame=2)
    click(predictor, direct, CLICK, frame=2)
    expected = {2: mask(session, 2)}
    for t in frames:
        if t != 2:
            expected[t] = drawn(predictor.track_frame(direct, t, reverse=t < start))
    job = propagate(session, start, direction, stop=stop)
    assert (job["state"], job["done"], job["total"], job["result"]) == (
        "done", len(frames), len(frames), {"frames": len(frames)}
    )  # fmt: skip
    assert sorted(timeline(session.store)[1]) == sorted({2, *frames})
    assert all((mask(session, t) == expected[t]).all() for t in frames)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"direction": "sideways"}, "direction must be one of forward, backward, both; got 'sideways'"),
        ({"direction": "forward", "start": 3, "stop": 1}, "frame 1 does not lie forward of frame 3"),
        ({"direction": "backward", "start": 3, "stop": 4}, "frame 4 does not lie backward of frame 3"),
        ({"start": 6}, "there is no frame 6"),
        ({"stop": 6}, "there is no frame 6"),
        ({"obj_ids": [9]}, "there is no object 9"),
        ({"obj_ids": []}, "nothing to propagate"),
    ],
)
def test_a_propagation_that_makes_no_sense_is_refused(session, choice, message):
    prompt(session, CLICK)
    with pytest.raises((PromptError, NotFoundError), match=message):
        begin(session, **choice)
    assert session.jobs.to_json() is None


def test_only_the_chosen_objects_are_propagated(session, predictor, direct):
    session.add_object(session.store.revision, "second", None)
    prompt(session, CLICK, obj_id=1)
    prompt(session, BOX, obj_id=2)
    propagate(session, obj_ids=[2])
    assert sorted(timeline(session.store)[1]) == [0]
    assert sorted(timeline(session.store)[2]) == list(range(FRAMES))
    second = [mask(session, t, 2) for t in range(FRAMES)]
    propagate(session, obj_ids=[1])
    click(predictor, direct, CLICK)
    expected = [drawn(result) for result in predictor.propagate_in_video(direct, 0, progress=False)]
    assert all((mask(session, t, 1) == expected[t]).all() for t in range(FRAMES))
    assert all((mask(session, t, 2) == second[t]).all() for t in range(FRAMES))


def test_a_cancelled_propagation_keeps_what_is_done_and_is_one_step(session, predictor):
    prompt(session, CLICK)
    gate = Gate(predictor, free=3)
    try:
        begin(session)
        gate.wait()
        session.jobs.stop()
        assert session.jobs.to_json()["stopping"]
    finally:
        gate.open()
    job = ended(session)
    assert (job["state"], job["done"], job["error"]) == ("cancelled", 4, None)
    assert sorted(timeline(session.store)[1]) == [0, 1, 2, 3]
    assert session.store.undo_label == "Propagate Object 1"
    undo(session)
    assert sorted(timeline(session.store)[1]) == [0]


def test_a_prompt_stops_a_propagation_and_comes_after_it(session, predictor):
    prompt(session, CLICK)
    seen = session.store.revision
    gate = Gate(predictor, free=2)
    try:
        begin(session)
        gate.wait()
        session.jobs.stop(PROPAGATE)
        answer = session.model_worker.submit(
            session.set_prompts, 1, 0, seen, MORE
        )  # frames that came since are no conflict
    finally:
        gate.open()
    answer.result(PATIENCE)
    assert session.jobs.to_json()["state"] == "cancelled"
    assert sorted(timeline(session.store)[1]) == [0, 1, 2]
    assert session.store.prompts()[1][0] == MORE


def test_one_job_at_a_time(session, predictor):
    prompt(session, CLICK)
    gate = Gate(predictor)
    try:
        begin(session)
        gate.wait()
        with pytest.raises(BusyError, match="Propagate Object 1 is running; cancel it, or wait"):
            begin(session)
        with pytest.raises(BusyError, match="Propagate Object 1 is running"):
            session.jobs.start(Job(EXPORT, "Export"), session.files_worker, lambda job: {})
    finally:
        gate.open()
    assert ended(session)["state"] == "done"


def test_what_is_told_while_frames_come(video, tmp_path, predictor):
    annotator = Opened(video, tmp_path / "out", lambda: predictor)
    session = annotator.session
    session.add_object(0, None, None)
    prompt(session, CLICK)
    annotator.told.clear()
    propagate(session)
    annotator.close()
    masks = [message for message in annotator.told if "tracked" in message]
    assert [message["tracked"] for message in masks] == list(range(1, FRAMES)), "a prompted frame is not tracked"
    assert [message["masks"] for message in masks] == [[t] for t in range(1, FRAMES)]
    assert [message["since"] + 1 for message in masks] == [message["revision"] for message in masks]
    with opened(video, tmp_path / "out", lambda: predictor) as again:
        kinds = {f: kind for first, last, kind in again.state()["timeline"]["1"] for f in range(first, last + 1)}
    assert {f: kind for message in masks for f, _, kind in message["timeline"]["1"]} == {
        f: kind for f, kind in kinds.items() if f
    }
    jobs = [message["job"] for message in annotator.told if message["type"] == "job"]
    assert [job["done"] for job in jobs[1:]] == [1, 2, 3, 4, 5, 6, 6]
    assert jobs[4]["fps"] > 0
    assert jobs[4]["seconds_left"] > 0
    assert (jobs[-1]["state"], jobs[-1]["seconds_left"]) == ("done", None)


def test_a_frame_that_cannot_be_read_ends_a_propagation_in_words(session, video):
    prompt(session, CLICK)
    (video / "00004.png").write_bytes(b"no picture")
    job = propagate(session)
    assert job["state"] == "failed"
    assert "frame 4" in job["error"]
    assert "00004.png" in job["error"]
    assert str(video.parent) not in job["error"]
    assert sorted(timeline(session.store)[1]) == [0, 1, 2, 3]


def test_after_a_failure_of_the_network_one_can_go_on(session, predictor, direct, monkeypatch):
    prompt(session, CLICK)
    track = predictor.track_frame

    def fail_at_3(state: Any, frame: int, **kwargs: Any) -> Any:
        if frame == 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore")
        return track(state, frame, **kwargs)

    monkeypatch.setattr(predictor, "track_frame", fail_at_3)
    job = propagate(session)
    assert job["state"] == "failed"
    assert job["error"].startswith("no memory is left: CUDA out of memory. Tried to allocate 2 GiB")
    assert not session.has_tracks, "the memory must be free"
    monkeypatch.undo()
    predictor.add_new_mask(direct, 0, 1, mask(session))
    expected = [drawn(result) for result in predictor.propagate_in_video(direct, 0, progress=False)]
    assert propagate(session)["state"] == "done"
    assert all((mask(session, t) == expected[t]).all() for t in range(1, FRAMES))


# ---- the store is the truth


def test_undo_and_redo_bring_masks_back_and_the_network_follows(session, predictor, direct):
    first = prompt(session, CLICK)
    second = prompt(session, MORE)
    assert (first != second).any()
    undo(session)
    assert session.store.prompts() == {1: {0: CLICK}}
    assert (mask(session) == first).all()
    predictor.add_new_mask(direct, 0, 1, first)
    expected = [drawn(result) for result in predictor.propagate_in_video(direct, 0, progress=False)]
    propagate(session)
    assert all((mask(session, t) == expected[t]).all() for t in range(1, FRAMES))
    undo(session)
    undo(session)
    assert session.store.prompts() == {}
    assert timeline(session.store) == {}
    session.model_worker.submit(session.travel, "redo", session.store.revision).result(PATIENCE)
    assert (mask(session) == first).all()


def test_an_undone_propagation_is_forgotten_by_the_network(session, predictor, direct):
    first = prompt(session, CLICK)
    propagate(session)
    undo(session)
    predictor.add_new_mask(direct, 0, 1, first)
    expected = drawn(predictor.track_frame(direct, 5))
    propagate(session, start=5)
    assert (mask(session, 5) == expected).all()


def test_a_restart_goes_on_from_the_stored_masks(video, tmp_path, predictor, direct):
    with opened(video, tmp_path / "out", lambda: predictor) as session:
        session.add_object(0, "dog", "#102030")
        prompt(session, CLICK, frame=1)
        prompt(session, BOX, frame=4)
        propagate(session, 1)
        before, masks = session.state(), [mask(session, t) for t in range(1, FRAMES)]
    with opened(video, tmp_path / "out", lambda: predictor) as session:
        assert session.state() == {**before, "job": None}
        assert all((mask(session, t) == kept).all() for t, kept in enumerate(masks, start=1))
        for t in (1, 4):
            predictor.add_new_mask(direct, t, 1, masks[t - 1])
        expected = drawn(predictor.track_frame(direct, 2))
        propagate(session, 2, stop=2)
        assert (mask(session, 2) == expected).all()


def test_after_a_restart_a_click_corrects_the_mask_that_is_seen(video, tmp_path, predictor, direct):
    with opened(video, tmp_path / "out", lambda: predictor) as session:
        session.add_object(0, None, None)
        first = prompt(session, CLICK)
        propagate(session)
        tracked = mask(session, 3)
    with opened(video, tmp_path / "out", lambda: predictor) as session:
        correction = Prompts(points=((45.0, 20.0, 0),))
        corrected = prompt(session, correction, frame=3)
        predictor.add_new_mask(direct, 3, 1, tracked)  # it is this mask that the click corrects,
        track = direct.tracks[1]
        track.bank.drop(3)  # but it is not read as a memory of frame 3:
        predictor.add_new_mask(direct, 0, 1, first)  # this one is
        track.visited.add(3)
        assert (corrected == click(predictor, direct, correction, frame=3)).all()


def test_deleted_objects_are_gone_and_others_stay(session, predictor):
    session.add_object(session.store.revision, None, None)
    prompt(session, CLICK, obj_id=1)
    prompt(session, BOX, obj_id=2)
    propagate(session)
    kept = [mask(session, t, 2) for t in range(FRAMES)]
    session.model_worker.submit(session.delete_object, 1, session.store.revision).result(PATIENCE)
    assert list(timeline(session.store)) == [2]
    assert all((mask(session, t, 2) == kept[t]).all() for t in range(FRAMES))
    assert propagate(session)["state"] == "done"


def test_a_closed_session_holds_no_memory(video, tmp_path, predictor):
    annotator = Opened(video, tmp_path / "out", lambda: predictor)
    annotator.session.add_object(0, None, None)
    prompt(annotator.session, CLICK)
    state = annotator.session._tracks._state
    memory = weakref.ref(next(iter(state.tracks[1].bank.conditioning.values())).values)
    source = weakref.ref(state.source)
    del state
    annotator.close()
    assert memory() is None
    assert source() is None


def test_closing_stops_a_propagation_and_keeps_its_frames(video, tmp_path, predictor):
    annotator = Opened(video, tmp_path / "out", lambda: predictor)
    annotator.session.add_object(0, None, None)
    prompt(annotator.session, CLICK)
    gate = Gate(predictor, free=2)
    try:
        begin(annotator.session)
        gate.wait()
        closed = annotator.session.close()
        assert not closed.done(), "closing does not wait"
    finally:
        gate.open()
    closed.result(PATIENCE)
    with opened(video, tmp_path / "out", no_model) as session:
        assert sorted(timeline(session.store)[1]) == [0, 1, 2]


def test_frames_that_cannot_be_decoded_leave_the_others(
    video: Path, tmp_path: Path, predictor: I2VPPVideoPredictor
) -> None:
    """The page shows why where one looks at such a frame; all others are shown, and prompted where the network sees."""
    damaged = sorted(video.iterdir())[2]
    damaged.write_bytes(damaged.read_bytes()[:60])
    with opened(video, tmp_path / "out", lambda: predictor) as session:
        session.add_object(0, None, None)
        prompt(session, BOX, frame=1)
        prompt(session, BOX, frame=5)
        with pytest.raises(VideoError, match="frame 2 of"):
            prompt(session, BOX, frame=2)
        reader = FrameReader("v", session.open_frames, JpegCache())
        with pytest.raises(VideoError, match="frame 2 of"):
            reader.jpeg(2, 64)
        assert reader.jpeg(1, 64)
        assert reader.jpeg(3, 64)
