"""What pages are told of changes; what is kept beside masks: ids, the masks below prompts, a propagation's place."""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from annotator import JSON, Gate, Opened, as_version, make_workspace, opened, timeline, until, write_frames
from i2vpp.annotate import workspace as workspace_module
from i2vpp.annotate.exchange.exports import export
from i2vpp.annotate.exchange.formats.base import Footage
from i2vpp.annotate.exchange.formats.sav import one_bit_png
from i2vpp.annotate.exchange.imports import may_hold_masks
from i2vpp.annotate.library import open_library, shown_name
from i2vpp.annotate.session import VideoSession
from i2vpp.annotate.storage.changes import MAX_KEYS, ChangeLog
from i2vpp.annotate.storage.files import VERSION
from i2vpp.annotate.storage.masks import Stroke
from i2vpp.annotate.storage.store import Annotation, summarize
from i2vpp.annotate.storage.values import Prompts, StoredMask, Touched
from i2vpp.annotate.views import PRESENT, runs
from i2vpp.annotate.web.app import make_app
from i2vpp.annotate.web.security import Guard, bad_token
from i2vpp.commands import annotate as command
from i2vpp.data.masks import read_object
from i2vpp.errors import I2VPPError
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
    with opened(video, tmp_path / "out", lambda: predictor) as session:
        session.add_object(0, None, None)
        yield session


def square(side: int) -> StoredMask:
    mask = np.zeros((8, 12), bool)
    mask[:side, :side] = True
    return StoredMask.of(mask)


def reopen(path: Path) -> Annotation:
    return Annotation(path, height=8, width=12, frames=4, video="clip.mp4")


# ---- changes since a revision


def test_a_log_tells_what_changed_since_a_revision_that_it_knows() -> None:
    log = ChangeLog()
    for revision in (5, 6, 7):
        log.note(revision, Touched(masks=frozenset({(1, revision)})))
    assert log.since(7, 7) == Touched()
    assert log.since(5, 7) == Touched(masks=frozenset({(1, 6), (1, 7)}))
    assert log.since(3, 7) is None, "revision 4 is not known"
    assert log.since(6, 8) is None, "revision 8 is not noted yet"
    log.note(8, Touched(masks=frozenset((1, frame) for frame in range(MAX_KEYS + 1))))
    assert log.since(7, 8) is None, "too much to list"


def apply(state: dict[str, Any], message: dict[str, Any]) -> dict[str, Any]:
    """Take a message over as the page does."""
    if message["since"] is None:
        return message
    if not message["since"] <= state["revision"] < message["revision"]:
        return state
    new = {**state, **{k: v for k, v in message.items() if k not in ("since", "masks", "timeline", "prompts", "type")}}
    new["prompts"], new["timeline"] = dict(state["prompts"]), dict(state["timeline"])
    for obj_id, frames in message.get("prompts", {}).items():
        merged = {**new["prompts"].get(obj_id, {}), **frames}
        new["prompts"][obj_id] = {frame: value for frame, value in merged.items() if value is not None}
    for obj_id, changed in message["timeline"].items():
        kinds = {f: kind for a, b, kind in new["timeline"].get(obj_id, []) for f in range(a, b + 1)}
        kinds |= {f: kind for a, b, kind in changed for f in range(a, b + 1)}
        new["timeline"][obj_id] = runs((f, kinds[f]) for f in sorted(kinds) if kinds[f] is not None)
    return new


def comparable(state: dict[str, Any]) -> dict[str, Any]:
    """A state without what says how it came, and without empty entries."""
    left = {key: value for key, value in state.items() if key not in ("since", "job", "tracked")}
    for key in ("prompts", "timeline", "imported"):
        left[key] = {obj_id: value for obj_id, value in left[key].items() if value}
    return left


def test_events_and_answers_lead_to_the_state_whatever_overtakes_what(
    video: Path, tmp_path: Path, predictor: I2VPPVideoPredictor
) -> None:
    annotator = Opened(video, tmp_path / "out", lambda: predictor)
    session = annotator.session
    first = session.state()
    session.add_object(0, "Disc", None)
    session.set_prompts(1, 0, session.store.revision, DAB)
    middle = session.store.revision
    session.start_propagation(middle, start=0, direction="forward", stop=None, obj_ids=None)
    until(lambda: not session.jobs.busy)
    session.change_object(1, session.store.revision, {"name": "Plate"})
    session.set_prompts(1, 3, session.store.revision, DAB)
    session.travel("undo", session.store.revision)
    last = session.state()
    events = [event for event in annotator.told if event["type"] == "video" and "timeline" in event]
    answers = [session.state(since=revision) for revision in (first["revision"], middle, last["revision"])]
    annotator.close()
    for messages in (events, answers, [answers[1], *events], [answers[0], *reversed(events)], [*events, *answers]):
        state = first
        for message in [*messages, *messages]:
            state = apply(state, message)
        state = apply(state, answers[0])
        assert comparable(state) == comparable(last)
    assert answers[2]["masks"] == []
    assert "objects" not in answers[2]


def test_many_changes_are_not_listed_but_asked_for(tmp_path: Path) -> None:
    with reopen(tmp_path / "a") as annotation:
        with annotation.edit("many") as edit:
            for _ in range(200):
                info = edit.add_object()
                for frame in range(3):
                    edit.set_mask(info.id, frame, square(3))
        assert annotation.changes(0) is None
        assert annotation.changes(1) == Touched()
    with reopen(tmp_path / "a") as annotation:
        assert annotation.changes(0) is None, "another run does not know"


def test_runs_of_frames() -> None:
    assert runs([(0, 1), (1, 1), (2, 0), (4, 0), (5, 0)]) == [(0, 1, 1), (2, 2, 0), (4, 5, 0)]


def test_imported_masks_take_little_room_in_a_state(session: VideoSession) -> None:
    with session.store.edit("Import masks") as edit:
        for frame in range(FRAMES):
            edit.set_mask(1, frame, StoredMask.of(np.ones((48, 64), bool)))
            edit.set_prompts(1, frame, Prompts(imported=True))
    state = session.state()
    assert state["imported"] == {"1": [(0, FRAMES - 1)]}
    assert state["prompts"] == {"1": {}}
    assert state["timeline"] == {"1": [(0, FRAMES - 1, PRESENT)]}


# ---- ids


def test_undo_gives_ids_back_and_deleting_does_not(tmp_path: Path) -> None:
    with reopen(tmp_path / "a") as annotation:
        for _ in range(300):
            with annotation.edit("Add object") as edit:
                assert edit.add_object().id == 1
            annotation.undo()
        annotation.redo()
        with annotation.edit("Delete") as edit:
            edit.delete_object(1)
        with annotation.edit("Add object") as edit:
            assert edit.add_object().id == 2, "a deleted object can come back with its id"
        annotation.undo()
        annotation.undo()
        with annotation.edit("Add object") as edit:
            assert edit.add_object().id == 2
        assert [info.id for info in annotation.objects()] == [1, 2]


@pytest.mark.parametrize("version", [1, 2, 3])
def test_stores_of_earlier_versions_open_with_their_undo(tmp_path: Path, version: int) -> None:
    path = tmp_path / "a"
    with reopen(path) as annotation:
        with annotation.edit("One") as edit:
            edit.set_mask(edit.add_object("one").id, 0, square(3))
        with annotation.edit("Two") as edit:
            edit.add_object("two")
        with annotation.edit("Delete") as edit:
            edit.delete_object(2)
        with annotation.edit("Three") as edit:
            edit.set_mask(edit.add_object("three").id, 1, square(2))
        annotation.undo()
    as_version(path, version)
    with reopen(path) as annotation:
        assert annotation.mask(1, 0) == square(3)
        annotation.redo()
        assert annotation.mask(3, 1) == square(2)
        for _ in range(4):
            annotation.undo()
        assert (annotation.objects(), annotation.undo_label) == ([], None)
        for _ in range(3):
            annotation.redo()
        with annotation.edit("Add") as edit:
            assert edit.add_object().id == 3, "undone, 3 is free; 2 was deleted and is not"
        assert [info.id for info in annotation.objects()] == [1, 3]
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (VERSION,)
    connection.close()


# ---- masks below prompts


def test_the_tracked_mask_comes_back_when_the_only_correction_is_deleted(
    video: Path, tmp_path: Path, predictor: I2VPPVideoPredictor
) -> None:
    with opened(video, tmp_path / "out", lambda: predictor) as session:
        store = session.store
        session.add_object(0, None, None)
        session.set_prompts(1, 0, store.revision, CLICK)
        session.start_propagation(store.revision, start=0, direction="forward", stop=None, obj_ids=None)
        until(lambda: not session.jobs.busy)
        tracked = store.mask(1, 3)
        assert tracked is not None
        session.set_prompts(1, 3, store.revision, CLICK)
        session.set_prompts(1, 3, store.revision, DAB)
        corrected = store.mask(1, 3)
        assert corrected is not None
        assert corrected.area >= tracked.area, "painted over the tracked mask"
        assert corrected != tracked
    with opened(video, tmp_path / "out", lambda: predictor) as session:  # another run knows it, too
        store = session.store
        session.set_prompts(1, 3, store.revision, Prompts())
        assert store.mask(1, 3) == tracked
        session.travel("undo", store.revision)
        assert store.mask(1, 3) == corrected
        session.travel("redo", store.revision)
        assert store.mask(1, 3) == tracked
        session.set_prompts(1, 0, store.revision, Prompts())
        assert store.mask(1, 0) is None, "it was never tracked there"


# ---- a propagation that broke off


@pytest.mark.parametrize("direction", ["forward", "both"])
def test_a_propagation_that_broke_off_is_told_and_gone_on_with(
    video: Path, tmp_path: Path, predictor: I2VPPVideoPredictor, direction: str
) -> None:
    session = Opened(video, tmp_path / "out", lambda: predictor).session
    session.add_object(0, None, None)
    session.set_prompts(1, 2, session.store.revision, CLICK)
    gate = Gate(predictor, free=1)
    session.start_propagation(session.store.revision, start=2, direction=direction, stop=None, obj_ids=None)
    gate.wait()
    assert session.state()["broken"] is None, "it runs"
    ended = session.close()
    gate.open()
    ended.result(60)
    with opened(video, tmp_path / "out", lambda: predictor) as session:
        broken = session.state()["broken"]
        assert (broken["label"], broken["frame"] > 2) == ("Propagate Object 1", True)
        done = len(timeline(session.store)[1])
        assert broken["left"] == (4 if direction == "forward" else FRAMES) - done
        session.go_on(session.store.revision)
        until(lambda: not session.jobs.busy)
        assert session.jobs.to_json()["state"] == "done"  # type: ignore[index]
        assert sorted(timeline(session.store)[1]) == list(range(2 if direction == "forward" else 0, FRAMES))
        assert session.state()["broken"] is None


def test_a_propagation_that_was_cancelled_did_not_break_off(session: VideoSession, predictor: Any) -> None:
    session.set_prompts(1, 0, session.store.revision, CLICK)
    gate = Gate(predictor, free=1)
    session.start_propagation(session.store.revision, start=0, direction="forward", stop=None, obj_ids=None)
    gate.wait()
    session.jobs.stop()
    gate.open()
    until(lambda: not session.jobs.busy)
    assert session.state()["broken"] is None


# ---- the list of videos, names, folders of masks


def test_the_store_knows_the_length_of_its_video(tmp_path: Path) -> None:
    reopen(tmp_path / "a").close()
    found = summarize(tmp_path / "a")
    assert (found.frames, found.width, found.height) == (4, 12, 8)


def test_names_that_are_not_utf8_are_shown_escaped(tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    write_frames(folder / "good", 1)
    try:
        write_frames(folder / "bad", 1).rename(folder / os.fsdecode(b"caf\xe9"))
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    names = [video.shown_name for video in open_library(folder).videos]
    assert sorted(names) == ["caf\\xe9", "good"]
    assert shown_name("café") == "café"


def test_folders_of_frames_are_no_folders_of_masks(tmp_path: Path) -> None:
    for name in ("davis/00000.png", "davis/info.txt", "sav/001/00000.png", "jpegs/00000.jpg", "mixed/1.jpg",
                 "mixed/1.png", "texts/a.txt"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = {path.name for path in tmp_path.iterdir() if may_hold_masks(path)}
    assert found == {"davis", "sav"}
    assert not may_hold_masks(tmp_path / "gone")


def test_a_list_with_such_a_name_is_answered_and_the_video_opens(tmp_path: Path, predictor: Any) -> None:
    folder = tmp_path / "videos"
    write_frames(folder / "good", 1)
    try:
        write_frames(folder / "bad", 1).rename(folder / os.fsdecode(b"caf\xe9"))
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    app = make_app(make_workspace(folder, tmp_path / "out", lambda: predictor), Guard())
    with TestClient(app, base_url="http://127.0.0.1:5000") as client:
        listed = {entry["name"]: entry["id"] for entry in client.get("/api/library").json()["videos"]}
        assert listed.keys() == {"good", "caf\\xe9"}
        path = f"/api/videos/{listed['caf' + chr(92) + 'xe9']}"
        state = client.post(f"{path}/open", headers=JSON).json()
        assert state["name"] == "caf\\xe9"
        body = {"revision": 0, "name": "\ud800"}  # no text at all: refused in words, which cannot be written as UTF-8
        answer = client.post(f"{path}/objects", content=json.dumps(body), headers=JSON)
        assert (answer.status_code, "name must be" in answer.json()["error"]) == (400, True)


def test_the_list_follows_the_folder_and_errors_expire(
    tmp_path: Path, predictor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workspace_module, "LIST_SECONDS", 0)
    folder = tmp_path / "videos"
    write_frames(folder / "first", 2)
    app = make_app(make_workspace(folder, tmp_path / "out", lambda: predictor), Guard())
    with TestClient(app, base_url="http://127.0.0.1:5000") as client:

        def listed() -> dict[str, dict[str, Any]]:
            return {entry["name"]: entry for entry in client.get("/api/library").json()["videos"]}

        first = listed()["first"]["id"]
        assert client.post(f"/api/videos/{first}/open", headers=JSON).status_code == 200
        write_frames(folder / "x", 1)
        (folder / "x").rename(folder / "late")
        (folder / "broken.mp4").write_bytes(b"not yet a video")
        assert set(listed()) == {"first", "late", "broken.mp4"}
        broken = listed()["broken.mp4"]["id"]
        assert client.post(f"/api/videos/{broken}/open", headers=JSON).status_code == 422
        assert listed()["broken.mp4"]["error"]
        monkeypatch.setattr(workspace_module, "ERROR_SECONDS", 0)
        assert listed()["broken.mp4"]["error"] is None
        (folder / "broken.mp4").write_bytes(b"another one")
        assert listed()["broken.mp4"]["id"] != broken
        gone = client.get(f"/api/videos/{broken}")
        assert (gone.status_code, "choose it in the list again" in gone.json()["error"]) == (404, True)
        write_frames(folder / "first" / "more", 1)  # changes the folder of a video that is open
        assert listed()["first"]["id"] == first


def test_answers_are_compressed_where_that_is_taken(tmp_path: Path, predictor: Any) -> None:
    app = make_app(make_workspace(write_frames(tmp_path / "disc", 1), tmp_path / "out", lambda: predictor), Guard())
    with TestClient(app, base_url="http://127.0.0.1:5000") as client:
        bare = client.get("/static/actions.js", headers={"accept-encoding": "identity"})
        small = client.get("/static/actions.js", headers={"accept-encoding": "gzip"})
        assert "content-encoding" not in bare.headers
        assert small.headers["content-encoding"] == "gzip"
        assert int(small.headers["content-length"]) < int(bare.headers["content-length"]) / 2
        assert small.content == bare.content


# ---- the command


def choose(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_options(parser)
    return parser.parse_args(arguments)


def test_where_the_token_comes_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("I2VPP_TOKEN", raising=False)
    assert command._token(choose()) is None
    made, other = (command._token(choose("--new-token")) for _ in range(2))
    assert made is not None
    assert bad_token(made) is None
    assert made != other
    file = tmp_path / "token"
    token = command._token(choose("--token-file", str(file)))
    assert file.read_text().strip() == token
    assert command._token(choose("--token-file", str(file))) == token
    monkeypatch.setenv("I2VPP_TOKEN", "from-the-environment")
    assert command._token(choose()) == "from-the-environment"
    assert capsys.readouterr().err == ""
    assert command._token(choose("--token", "in-the-open-for-all")) == "in-the-open-for-all"
    assert "can read it in the process list" in capsys.readouterr().err
    with pytest.raises(I2VPPError, match="--token-file: cannot read"):
        command._token(choose("--token-file", str(tmp_path)))


def test_threads_are_chosen_by_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    for load, free in ((0.2, 8), (5.4, 3), (30.0, 1)):
        monkeypatch.setattr(os, "getloadavg", lambda load=load: (load, 0, 0), raising=False)
        assert command.free_cores() == free


@pytest.mark.skipif(os.name != "posix", reason="needs permissions")
def test_new_files_are_the_owners_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any) -> Any:
        reopen(tmp_path / "new" / "a").close()
        (tmp_path / "there" / "inner").mkdir()
        raise I2VPPError("enough")

    before = os.umask(0o022)
    try:
        (tmp_path / "there").mkdir(mode=0o755)
        monkeypatch.setattr(command, "_server", stop)
        with pytest.raises(I2VPPError, match="enough"):
            command.run(choose(str(tmp_path)), None)  # type: ignore[arg-type]
    finally:
        os.umask(before)
    modes = {name: (tmp_path / name).stat().st_mode & 0o777 for name in ("new", "new/a", "there", "there/inner")}
    assert modes == {"new": 0o700, "new/a": 0o600, "there": 0o755, "there/inner": 0o700}


# ---- exports


def test_many_sav_masks_take_no_longer_than_in_davis_layout(tmp_path: Path) -> None:
    """20 objects on 6 frames of 1080p: CPU seconds, in turns; 1.5 times is allowed."""
    rows, columns = np.mgrid[:1080, :1920]
    masks = [(rows - 540) ** 2 + (columns - 90 * i) ** 2 < 150**2 for i in range(1, 21)]
    with Annotation(tmp_path / "a", height=1080, width=1920, frames=6) as annotation:
        with annotation.edit("many") as edit:
            for mask in masks:
                obj_id = edit.add_object().id
                for frame in range(6):
                    edit.set_mask(obj_id, frame, StoredMask.of(mask))
        footage = Footage(frames=6, read_frame=lambda t: np.zeros((1080, 1920, 3), np.uint8))
        seconds: dict[str, list[float]] = {"sav": [], "davis": []}
        for _ in range(3):
            for kind, found in seconds.items():
                begin = time.process_time()
                export(annotation, tmp_path / kind, kind, footage=footage)  # type: ignore[arg-type]
                found.append(time.process_time() - begin)
        assert np.array_equal(np.asarray(Image.open(tmp_path / "sav/007/00003.png")), masks[6])
    assert min(seconds["sav"]) <= 1.5 * min(seconds["davis"]), seconds


@pytest.mark.parametrize("size", [(1, 1), (3, 9), (5, 16), (7, 8)])
def test_pngs_of_one_bit_are_read_back(tmp_path: Path, size: tuple[int, int]) -> None:
    mask = np.random.default_rng(0).random(size) > 0.5
    (tmp_path / "x.png").write_bytes(one_bit_png(mask))
    with Image.open(tmp_path / "x.png") as image:
        image.load()
        assert (image.mode, np.array_equal(np.asarray(image), mask)) == ("1", True)
    assert np.array_equal(read_object(tmp_path / "x.png"), mask)


def test_run_lengths_are_exported_with_names_and_scores(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools.mask")
    mask = StoredMask.of(np.eye(8, 12, dtype=bool), score=2.5, iou=0.75)
    with reopen(tmp_path / "a") as annotation:
        with annotation.edit("x") as edit:
            edit.set_mask(edit.add_object("café").id, 0, mask)
            edit.set_mask(1, 1, square(3))
        footage = Footage(frames=4, read_frame=lambda t: np.zeros((8, 12, 3), np.uint8))
        content = json.loads((export(annotation, tmp_path / "c", "rle", footage=footage) / "masks.json").read_text())
    assert content["names"] == {"1": "café"}
    first, second = (content["objects"]["1"][frame] for frame in "01")
    assert (first["object_score"], first["predicted_iou"]) == (2.5, 0.75)
    assert (second["object_score"], second["predicted_iou"]) == (None, None)
