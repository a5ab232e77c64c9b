"""The annotator's HTTP interface, as its page uses it; and the server as a whole."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from annotator import HEIGHT, JSON, PATIENCE, WIDTH, Gate, decode_masks, make_workspace, serving, until, write_frames
from i2vpp import cli
from i2vpp.annotate import library as library_module
from i2vpp.annotate.events import Events
from i2vpp.annotate.frames import JpegCache
from i2vpp.annotate.library import open_library
from i2vpp.annotate.views import PRESENT
from i2vpp.annotate.web.app import make_app
from i2vpp.annotate.web.security import Guard
from i2vpp.annotate.workspace import Workspace
from i2vpp.errors import CheckpointError, VideoError
from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
from media import moving_disc, write_video
from models import encode_once, make_predictor

FRAMES = 6
CLICK = {"points": [[20, 24, 1]], "box": None, "strokes": []}
DAB = {"points": [], "box": None, "strokes": [{"points": [[30, 20]], "radius": 6, "erase": False}]}


@pytest.fixture(scope="module")
def predictor() -> I2VPPVideoPredictor:
    return encode_once(make_predictor())


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """A folder with a frame folder, a video file, and things that are neither."""
    folder = tmp_path / "videos"
    write_frames(folder / "disc", FRAMES)
    write_video(folder / "clip.mp4", moving_disc(8, 96, 128)[0], fps=12)
    (folder / "notes.txt").write_text("hello")
    (folder / "empty").mkdir()
    (folder / ".hidden").mkdir()
    return folder


def no_model() -> Any:
    raise CheckpointError("there is no checkpoint")


class Page:
    """What the page does, over the test client or a real connection."""

    def __init__(self, client: Any, name: str = "disc") -> None:
        self.client = client
        entries = self.get("/api/library").json()["videos"]
        self.url = "/api/videos/" + next(entry["id"] for entry in entries if entry["name"] == name)

    def get(self, path: str, **options: Any) -> Any:
        return self.client.get(path, **options)

    def look(self, what: str, **options: Any) -> Any:
        return self.get(f"{self.url}/{what}", **options)

    def state(self) -> dict[str, Any]:
        return self.ok(self.get(self.url))

    def send(self, what: str, method: str = "POST", **body: Any) -> Any:
        return self.client.request(method, f"{self.url}/{what}", content=json.dumps(body), headers=JSON)

    def ok(self, answer: Any) -> dict[str, Any]:
        assert answer.status_code == 200, answer.text
        content: dict[str, Any] = answer.json()
        return content

    def change(self, what: str, method: str = "POST", **body: Any) -> dict[str, Any]:
        """Change something; return the whole state after it, with what only the answer has."""
        answer = self.ok(self.send(what, method, revision=self.state()["revision"], **body))
        return {**self.state(), **{key: answer[key] for key in ("job", "created") if key in answer}}

    def frames_of(self, obj_id: int) -> list[int]:
        """The frames on which an object has a mask, by the timeline."""
        runs = self.state()["timeline"].get(str(obj_id), [])
        return [frame for first, last, _ in runs for frame in range(first, last + 1)]

    def prompt(self, prompts: dict[str, Any], frame: int = 0, obj_id: int = 1) -> dict[str, Any]:
        return self.change(f"objects/{obj_id}/prompts/{frame}", "PUT", **prompts)

    def mask(self, frame: int = 0, obj_id: int = 1) -> np.ndarray:
        state = self.state()
        return decode_masks(self.look(f"masks/{frame}").content, state["height"], state["width"])[obj_id]

    def finish(self) -> dict[str, Any]:
        job: dict[str, Any] = until(lambda: (job := self.state()["job"]) and job["state"] != "running" and job)
        return job


@pytest.fixture
def workspace(videos: Path, tmp_path: Path, predictor: I2VPPVideoPredictor) -> Workspace:
    return make_workspace(videos, tmp_path / "out", lambda: predictor)


@pytest.fixture
def client(workspace: Workspace) -> Iterator[TestClient]:
    with talking(workspace) as client:
        yield client


def talking(workspace: Workspace) -> TestClient:
    return TestClient(make_app(workspace, Guard()), base_url="http://127.0.0.1:5000")


@pytest.fixture
def page(client: TestClient) -> Page:
    page = Page(client)
    page.change("objects")
    return page


# ---- the list


def test_the_list_tells_of_videos_without_decoding_them(client, monkeypatch):
    def refuse(path: Any) -> Any:
        raise AssertionError(f"{path} was opened")

    monkeypatch.setattr(library_module, "open_source", refuse)
    answer = client.get("/api/library").json()
    assert [entry["name"] for entry in answer["videos"]] == ["clip.mp4", "disc"]
    assert answer["videos"][0] == {
        "id": answer["videos"][0]["id"], "name": "clip.mp4", "opened": False, "frames": None, "width": None,
        "height": None, "fps": None, "objects": 0, "annotated": 0, "state": "untouched", "error": None,
    }  # fmt: skip


def test_the_list_tells_of_progress_in_open_and_closed_videos(page, client):
    page.prompt(DAB)
    page.prompt(DAB, frame=3)
    entry = client.get("/api/library").json()["videos"][1]
    assert (entry["opened"], entry["frames"], entry["width"], entry["height"]) == (True, FRAMES, WIDTH, HEIGHT)
    assert (entry["objects"], entry["annotated"]) == (1, 2)
    page.ok(page.send("close"))
    entry = client.get("/api/library").json()["videos"][1]
    assert (entry["opened"], entry["objects"], entry["annotated"]) == (False, 1, 2)


def test_the_list_tells_what_network_there_is(client, predictor):
    model = until(lambda: "loading" not in (model := client.get("/api/library").json()["model"]) and model)
    assert model == {"revision": 1, "checkpoint": "tiny.pt", "device": "cpu", "dtype": "float32", "image_size": 64}


def test_a_thumbnail_is_small_and_opens_nothing(page, client):
    url = Page(client, "clip.mp4").url
    answer = client.get(f"{url}/thumbnail")
    assert answer.headers["content-type"] == "image/jpeg"
    assert Image.open(BytesIO(answer.content)).size == (128, 96), "never enlarged"
    assert not client.get("/api/library").json()["videos"][0]["opened"]


def test_one_video_or_one_folder_of_frames_can_be_opened_too(videos):
    assert [(v.name, v.path) for v in open_library(videos / "clip.mp4").videos] == [("clip.mp4", videos / "clip.mp4")]
    assert [(v.name, v.path) for v in open_library(videos / "disc").videos] == [("disc", videos / "disc")]


def test_ids_and_file_names_are_stable_and_distinct(tmp_path):
    for name in ("a.mp4", "a.mov", "b" * 190 + "1.mp4", "b" * 190 + "2.mp4", "ü ö.mp4"):
        (tmp_path / name).touch()
    videos = open_library(tmp_path).videos
    assert len({v.id for v in videos}) == len({v.file_name for v in videos}) == 5
    assert all(len(v.file_name.encode()) <= 180 for v in videos)
    assert [v.id for v in open_library(tmp_path).videos] == [v.id for v in videos]


def test_a_changed_video_has_another_id_as_browsers_keep_frames(tmp_path):
    for folder in ("a", "b"):
        write_video((tmp_path / folder).mkdir() or tmp_path / folder / "clip.mp4", moving_disc(2)[0])
    ids = [open_library(tmp_path / folder / "clip.mp4").videos[0].id for folder in ("a", "b")]
    write_video(tmp_path / "a" / "clip.mp4", moving_disc(3)[0])
    assert len({*ids, open_library(tmp_path / "a" / "clip.mp4").videos[0].id}) == 3


def test_nothing_to_annotate_is_said(tmp_path):
    with pytest.raises(VideoError, match="does not exist; give a video file, a folder of frames"):
        open_library(tmp_path / "nothing")
    (tmp_path / "text.txt").touch()
    with pytest.raises(VideoError, match=r"there is no video in .*looked for files with suffix \.mp4"):
        open_library(tmp_path)


# ---- frames and masks


@pytest.mark.parametrize(("asked", "width", "height"), [("40", 40, 30), ("64", 64, 48), ("1000", 64, 48)])
def test_frames_come_in_the_width_asked_for(page, asked, width, height):
    answer = page.look(f"frames/2?width={asked}")
    image = Image.open(BytesIO(answer.content))
    assert (image.format, image.size) == ("JPEG", (width, height))
    assert "max-age" in answer.headers["cache-control"]
    frames = [Image.fromarray(frame).resize((width, height)) for frame in moving_disc(FRAMES, HEIGHT, WIDTH)[0]]
    far = [np.abs(np.asarray(image, float) - np.asarray(frame, float)).mean() for frame in frames]
    assert np.argmin(far) == 2


def test_the_strip_gets_the_same_frames(page):
    assert page.look("frames/2?width=32&strip=1").content == page.look("frames/2?width=32").content


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("frames/6", 404, "there is no frame 6; the video has frames 0 to 5"),
        ("frames/-1", 404, "Not Found"),
        ("frames/2?width=15", 400, "width must be an integer from 16 to 8192; got '15'"),
        ("frames/2?width=1e3", 400, "width must be"),
        ("frames/2?width=99999", 400, "width must be"),
        ("masks/6", 404, "there is no frame 6"),
        ("doubtful?after=x", 400, "after must be an integer"),
    ],
)
def test_what_there_is_not_is_said(page, path, status, words):
    answer = page.look(path)
    assert answer.status_code == status
    assert answer.json()["error"].startswith(words)


def test_masks_come_as_run_lengths_and_are_not_sent_twice(page):
    assert page.look("masks/0").content == b""
    page.prompt(DAB)
    answer = page.look("masks/0")
    found = decode_masks(answer.content)[1]
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    assert (found == ((x - 30) ** 2 + (y - 20) ** 2 <= 36)).all()
    again = page.look("masks/0", headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    page.change("objects")
    assert page.look("masks/0", headers={"if-none-match": answer.headers["etag"]}).status_code == 304
    page.prompt(DAB, obj_id=2)
    changed = page.look("masks/0", headers={"if-none-match": answer.headers["etag"]})
    assert changed.status_code == 200
    assert (decode_masks(changed.content)[2] == found).all()


def test_jpegs_are_cached_up_to_a_bound():
    cache = JpegCache(capacity=100)
    for t in range(5):
        cache.put(("v", t, 10), bytes(30))
        cache.get(("v", 0, 10))
    assert cache.num_bytes == 90
    assert cache.get(("v", 0, 10)) is not None, "used all the time"
    assert cache.get(("v", 2, 10)) is None
    cache.put(("v", 0, 10), bytes(40))
    assert cache.num_bytes == 100


# ---- changes


def test_objects_are_added_changed_and_deleted(page):
    state = page.change("objects", name="  fox ", color="#ABCDEF")
    assert state["created"] == 2
    assert state["objects"][1] == {
        "id": 2,
        "name": "fox",
        "color": "#abcdef",
        "hidden": False,
        "locked": False,
        "label": None,
    }
    state = page.change("objects/2", "PATCH", name="<b>vixen</b>", hidden=True, locked=True)
    assert state["objects"][1] == {
        "id": 2, "name": "<b>vixen</b>", "color": "#abcdef", "hidden": True, "locked": True, "label": None
    }  # fmt: skip
    answer = page.client.delete(f"{page.url}/objects/2?revision={state['revision']}")
    assert [info["id"] for info in page.ok(answer)["objects"]] == [1]
    assert page.change("undo")["objects"][1]["name"] == "<b>vixen</b>"
    assert page.state()["redo"] == "Delete <b>vixen</b>"


def test_a_prompt_is_stored_and_answered_with_the_state(page):
    state = page.prompt(CLICK)
    assert state["prompts"] == {
        "1": {"0": {"points": [[20.0, 24.0, 1]], "box": None, "strokes": [], "imported": False}}
    }  # fmt: skip
    assert state["undo"] == "Points: Object 1, frame 0"
    assert page.mask().any()
    assert state["timeline"] == {"1": [[0, 0, PRESENT]]}, "nobody doubts what was prompted"


def test_a_stale_request_is_told_the_present_state(page):
    old = page.state()["revision"]
    page.prompt(DAB)
    for answer in (
        page.send("objects/1/prompts/0", "PUT", revision=old, **CLICK),
        page.send("objects/1", "PATCH", revision=old, name="x"),
        page.send("undo", revision=old),
        page.send("propagate", revision=old, start=0),
        page.client.delete(f"{page.url}/objects/1?revision={old}"),
    ):
        assert answer.status_code == 409
        assert "changed meanwhile" in answer.json()["error"]
        assert answer.json()["state"] == page.state()


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "words"),
    [
        ("PUT", "objects/1/prompts/0", {"points": [[1, 2]]}, 400, "points[0] must be 3 finite numbers"),
        ("PUT", "objects/1/prompts/0", {"points": [[1, 200, 1]]}, 400, "points: (1, 200) lies outside the frame"),
        ("PUT", "objects/1/prompts/0", {"points": [[66.5, 1, 1]]}, 400, "points: (66.5, 1) lies outside the frame"),
        (
            "PUT",
            "objects/1/prompts/0",
            {"box": [1, 1, 1.5, 1]},
            400,
            "box must have x0 < x1 and y0 < y1; got 1, 1, 1.5, 1",
        ),
        ("PUT", "objects/1/prompts/0", {"points": [[1, 1, True]]}, 400, "points[0] must be 3 finite numbers"),
        ("PUT", "objects/1/prompts/99999999999999999999", CLICK, 404, "there is no frame 99999999999999999999"),
        ("PUT", "objects/99999999999999999999/prompts/0", CLICK, 404, "there is no object 99999999999999999999"),
        ("POST", "propagate", {"start": True}, 400, "start must be an integer of 0 or more; got true"),
        ("PUT", "objects/1/prompts/0", {"mask": "x"}, 400, "unknown key 'mask'"),
        ("PUT", "objects/1/prompts/9", CLICK, 404, "there is no frame 9"),
        ("PUT", "objects/8/prompts/0", CLICK, 404, "there is no object 8"),
        ("PATCH", "objects/1", {"hidden": "yes"}, 400, "hidden must be true or false"),
        ("PATCH", "objects/1", {"color": "red; x"}, 400, "color must be #rrggbb"),
        ("POST", "objects", {"name": 3}, 400, "name must be 1 to 100 printable characters"),
        ("POST", "propagate", {"start": 0, "objects": ["1"]}, 400, "objects must be a list of ids"),
        ("POST", "propagate", {"start": 0}, 400, "nothing to propagate"),
        ("POST", "propagate", {}, 400, "start must be an integer of 0 or more; got null"),
        ("POST", "export", {"kind": "zip"}, 400, "kind must be one of sav, davis, coco, youtube_vis, yolo"),
        ("POST", "export", {"kind": "sav", "every": 0}, 400, "every must be 1 or more"),
        ("POST", "import", {"folder": 3}, 400, "folder must be the name of a folder or file"),
        ("POST", "import", {"folder": "nothing"}, 404, "there is no folder or file 'nothing'"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_in_words(page, method, path, body, status, words):
    before = page.state()
    answer = page.send(path, method, revision=before["revision"], **body)
    assert answer.status_code == status
    assert answer.json()["error"].startswith(words)
    assert page.state() == before


@pytest.mark.parametrize("revision", [None, -1, 1.5, "1", True, 10**30])
def test_a_revision_is_a_number(page, revision):
    answer = page.send("undo", revision=revision)
    assert answer.status_code == 400
    assert "revision must be an integer" in answer.json()["error"]


def test_propagate_cancel_undo_and_redo(page, predictor):
    page.prompt(CLICK)
    gate = Gate(predictor, free=2)
    try:
        job = page.change("propagate", start=0, direction="forward", stop=None, objects=None)["job"]
        assert (job["kind"], job["state"], job["total"]) == ("propagate", "running", FRAMES)
        gate.wait()
        assert page.ok(page.send("cancel"))["job"]["stopping"]
    finally:
        gate.open()
    assert page.finish()["state"] == "cancelled"
    assert page.frames_of(1) == [0, 1, 2]
    page.change("propagate", start=2, direction="forward")
    assert page.finish()["state"] == "done"
    assert page.frames_of(1) == list(range(FRAMES))
    kept = page.mask(4)
    state = page.change("undo")
    assert state["redo"] == "Propagate Object 1"
    assert page.frames_of(1) == [0, 1, 2]
    page.change("redo")
    assert (page.mask(4) == kept).all()
    assert page.look("doubtful?after=0").json()["frame"] in range(FRAMES)


def test_an_edit_stops_a_propagation_but_a_name_does_not(page, predictor):
    page.prompt(CLICK)
    gate = Gate(predictor, free=1)
    try:
        revision = page.change("propagate", start=0)["revision"]
        gate.wait()
        state = page.ok(page.send("objects/1", "PATCH", revision=revision, name="fox"))
        assert not state["job"]["stopping"]
        answer = threading.Thread(
            target=page.send, args=("objects/1/prompts/3", "PUT"), kwargs={"revision": state["revision"], **DAB}
        )
        answer.start()
        until(lambda: page.state()["job"]["stopping"])
    finally:
        gate.open()
    answer.join(PATIENCE)
    state = page.state()
    assert state["job"]["state"] == "cancelled"
    assert state["prompts"]["1"].keys() == {"0", "3"}
    assert page.frames_of(1) == [0, 1, 3]


# ---- several videos


def test_a_slow_propagation_blocks_neither_frames_nor_clicks_elsewhere(page, client, predictor):
    page.prompt(CLICK)
    gate = Gate(predictor)
    try:
        page.change("propagate", start=0)
        gate.wait()
        assert page.look("frames/5?width=30").status_code == 200
        assert page.look("masks/0").status_code == 200
        other = Page(client, "clip.mp4")
        other.change("objects")
        other.prompt({"points": [[40, 40, 1]]})
        assert other.mask().any()
        assert page.state()["job"]["state"] == "running"
    finally:
        gate.open()
    assert page.finish()["state"] == "done"


def test_few_videos_are_open_at_once_and_come_back_by_themselves(videos, tmp_path, predictor):
    write_frames(videos / "third", 3)
    workspace = make_workspace(videos, tmp_path / "out", lambda: predictor, max_open=2)
    with talking(workspace) as client:
        pages = [Page(client, name) for name in ("disc", "clip.mp4", "third")]
        for page in pages:
            page.change("objects")
            page.prompt(DAB)
            assert sum(e["opened"] for e in client.get("/api/library").json()["videos"]) <= 2
        opened = {e["name"] for e in client.get("/api/library").json()["videos"] if e["opened"]}
        assert opened == {"clip.mp4", "third"}
        assert pages[0].mask().any()
        assert pages[0].prompt({**DAB, "points": CLICK["points"]})["undo"].startswith("Points")


def test_a_busy_video_is_not_closed_for_another(videos, tmp_path, predictor):
    workspace = make_workspace(videos, tmp_path / "out", lambda: predictor, max_open=1)
    with talking(workspace) as client:
        page, other = Page(client), Page(client, "clip.mp4")
        page.change("objects")
        page.prompt(CLICK)
        gate = Gate(predictor)
        try:
            page.change("propagate", start=0)
            gate.wait()
            answer = client.get(other.url)
            assert answer.status_code == 409
            assert answer.json()["error"] == "1 videos are open and busy; close one, or wait"
        finally:
            gate.open()
        page.finish()
        assert other.state()["frames"] == 8


def test_a_video_that_is_being_closed_opens_again_when_its_store_is_free(page, predictor):
    page.prompt(CLICK)
    gate = Gate(predictor, free=1)
    answers: dict[str, Any] = {}
    asks = [
        threading.Thread(target=lambda: answers.update(closed=page.send("close"))),
        threading.Thread(target=lambda: answers.update(state=page.get(page.url))),
    ]
    try:
        page.change("propagate", start=0)
        gate.wait()
        for ask in asks:
            ask.start()
            time.sleep(0.2)
        assert not answers, "the network is still in its step"
    finally:
        gate.open()
    for ask in asks:
        ask.join(PATIENCE)
    assert (answers["closed"].status_code, answers["state"].status_code) == (200, 200)
    assert answers["state"].json()["job"] is None
    assert page.frames_of(1) == [0, 1]


def test_a_restart_restores_everything(videos, tmp_path, predictor):
    with talking(make_workspace(videos, tmp_path / "out", lambda: predictor)) as client:
        page = Page(client)
        page.change("objects", name="fox")
        page.prompt(CLICK)
        page.change("propagate", start=0)
        page.finish()
        before, masks = page.state(), [page.mask(t) for t in range(FRAMES)]
    with talking(make_workspace(videos, tmp_path / "out", lambda: predictor)) as client:
        page = Page(client)
        assert page.state() == {**before, "job": None}
        assert all((page.mask(t) == masks[t]).all() for t in range(FRAMES))
        page.change("undo")
        assert page.frames_of(1) == [0]


# ---- errors


def test_a_missing_checkpoint_is_told_in_words_and_painting_goes_on(videos, tmp_path):
    def build() -> Any:
        raise CheckpointError(f"checkpoint {tmp_path}/nets/x.pt does not exist (looked from {tmp_path})")

    with talking(make_workspace(videos, tmp_path / "out", build)) as client:
        model = until(lambda: "loading" not in (model := client.get("/api/library").json()["model"]) and model)
        assert model["error"].startswith("there is no network: checkpoint x.pt does not exist")
        assert str(tmp_path) not in model["error"]
        page = Page(client)
        page.change("objects")
        page.prompt(DAB)
        answer = page.send("objects/1/prompts/1", "PUT", revision=page.state()["revision"], **CLICK)
        assert (answer.status_code, answer.json()["error"]) == (503, model["error"])
        assert page.mask().any()


def test_a_video_that_cannot_be_read_leaves_the_others_alone(videos, tmp_path, predictor):
    (videos / "broken.mp4").write_bytes(b"nothing of a video")
    with talking(make_workspace(videos, tmp_path / "out", lambda: predictor)) as client:
        broken = Page(client, "broken.mp4")
        answer = client.get(broken.url)
        assert answer.status_code == 422
        assert answer.json()["error"].startswith("broken.mp4 cannot be opened as a video")
        entry = client.get("/api/library").json()["videos"][0]
        assert entry["error"] == answer.json()["error"]
        assert Page(client).state()["frames"] == FRAMES


def test_a_frame_that_cannot_be_read_is_told_in_words(page, videos):
    (videos / "disc" / "00003.png").write_bytes(b"no picture")
    answer = page.look("frames/3?width=40")
    assert answer.status_code == 422
    assert answer.json()["error"].startswith("frame 3 of folder disc")
    assert page.look("frames/4?width=40").status_code == 200


def test_a_damaged_annotation_is_told_and_left_alone(videos, tmp_path, predictor):
    store = tmp_path / "out" / "disc.sqlite"
    store.parent.mkdir()
    store.write_bytes(b"something else")
    with talking(make_workspace(videos, tmp_path / "out", lambda: predictor)) as client:
        entry = client.get("/api/library").json()["videos"][1]
        assert "disc.sqlite is no annotation file" in entry["error"]
        answer = client.get(Page(client).url)
        assert answer.status_code == 500
        assert "disc.sqlite is no annotation file" in answer.json()["error"]
        assert str(tmp_path) not in answer.text
    assert store.read_bytes() == b"something else"


# ---- files


@pytest.mark.parametrize("kind", ["sav", "davis", "coco", "overlay"])
def test_exports_land_in_the_output_folder(page, tmp_path, kind):
    page.prompt(DAB)
    page.ok(page.send("export", kind=kind, every=2))
    job = page.finish()
    assert (job["state"], job["error"]) == ("done", None)
    folder = tmp_path / "out" / job["result"]["folder"]
    assert job["result"]["folder"] == f"exports/disc/{kind}"
    written = sorted(path.name for path in folder.rglob("*") if path.is_file())
    assert len(written) == job["result"]["files"]
    first = {"sav": "00000.png", "davis": "00000.png", "coco": "annotations.json", "overlay": "overlay.mp4"}
    assert first[kind] in written


def test_masks_are_imported_and_can_be_corrected(page, videos):
    page.prompt(DAB)
    page.ok(page.send("export", kind="davis"))
    page.finish()
    masks = videos / "masks of disc"
    masks.mkdir()
    image = Image.fromarray(np.pad(np.full((8, 8), 3, np.uint8), ((4, HEIGHT - 12), (4, WIDTH - 12))))
    image.putpalette([0, 0, 0, *range(30)])
    image.save(masks / "00002.png")
    page.ok(page.send("import", folder="masks of disc"))
    job = page.finish()
    assert (job["state"], job["error"], job["result"]) == ("done", None, {"objects": [3], "masks": 1})
    assert page.mask(2, 3).sum() == 64
    assert page.state()["imported"] == {"1": [], "3": [[2, 2]]}
    page.prompt({"strokes": DAB["strokes"]}, frame=2, obj_id=3)
    assert page.mask(2, 3).sum() > 64
    page.prompt({"imported": True}, frame=2, obj_id=3)
    assert page.mask(2, 3).sum() == 64
    page.change("propagate", start=2, objects=[3])
    assert page.finish()["state"] == "done"


def test_an_import_that_does_not_fit_changes_nothing(page, videos):
    before = page.state()
    masks = videos / "wrong"
    masks.mkdir()
    Image.new("L", (5, 5), 1).save(masks / "00000.png")
    page.ok(page.send("import", folder="wrong"))
    job = page.finish()
    assert job["state"] == "failed"
    assert "5 x 5 pixels, but the video is 64 x 48" in job["error"]
    assert str(videos.parent) not in job["error"]
    assert {**page.state(), "job": None} == before


# ---- a real server


def read_events(url: str, found: list[dict[str, Any]], ready: threading.Event) -> None:
    with httpx.stream("GET", f"{url}api/events", timeout=PATIENCE) as answer:
        for line in answer.iter_lines():
            ready.set()
            if line.startswith("data: "):
                found.append(json.loads(line.removeprefix("data: ")))


def listen(url: str) -> tuple[list[dict[str, Any]], threading.Thread]:
    found: list[dict[str, Any]] = []
    ready = threading.Event()
    thread = threading.Thread(target=read_events, args=(url, found, ready), daemon=True)
    thread.start()
    assert ready.wait(PATIENCE)
    return found, thread


def test_all_pages_hear_of_changes(workspace):
    with serving(workspace) as server, httpx.Client(base_url=server.url, timeout=PATIENCE) as client:
        (one, _), (other, _) = listen(server.url), listen(server.url)
        page = Page(client)
        page.change("objects")
        page.prompt(CLICK)
        page.change("propagate", start=0)
        page.finish()
        for heard in (one, other):
            until(lambda heard=heard: heard and heard[-1].get("job", {}).get("state") == "done")
            kinds = [message["type"] for message in heard]
            assert {"video", "job"} <= set(kinds)
            assert [message["tracked"] for message in heard if "tracked" in message] == list(range(1, FRAMES))
            assert all(page.url.endswith(message["id"]) for message in heard if "id" in message)


def test_a_server_ends_at_once_though_pages_listen_and_the_network_runs(workspace, predictor, videos, tmp_path):
    gate = Gate(predictor, free=2)
    try:
        with serving(workspace) as server, httpx.Client(base_url=server.url, timeout=PATIENCE) as client:
            heard, thread = listen(server.url)
            page = Page(client)
            page.change("objects")
            page.prompt(CLICK)
            page.change("propagate", start=0)
            gate.wait()
            begin = time.monotonic()
        assert time.monotonic() - begin < 2
        assert not workspace.stopped, "the network is still in its step"
        thread.join(PATIENCE)
        assert heard[-1] == {"type": "bye"}
    finally:
        gate.open()
    until(lambda: workspace.stopped)
    with talking(make_workspace(videos, tmp_path / "out", lambda: predictor)) as client:
        assert Page(client).frames_of(1) == [0, 1, 2]


def test_two_annotators_do_not_share_a_folder(workspace, videos, tmp_path, predictor):
    with talking(workspace) as client:
        page = Page(client)
        page.change("objects")
        with talking(make_workspace(videos, tmp_path / "out", lambda: predictor)) as second:
            answer = second.get(page.url)
            assert answer.status_code == 500
            assert "is in use, probably by another annotator" in answer.json()["error"]
        assert len(page.state()["objects"]) == 1


def test_frames_that_nobody_waits_for_any_more_are_not_decoded(workspace, monkeypatch):
    """Scrubbing asks for many frames and drops most of the requests before they are answered."""
    with serving(workspace) as server, httpx.Client(base_url=server.url, timeout=PATIENCE) as client:
        page = Page(client)
        page.state()
        session = next(iter(workspace._open.values()))
        first, go, decoded = threading.Event(), threading.Event(), []
        jpeg = session.frame_reader.jpeg

        def slow(t: int, width: int) -> bytes:
            decoded.append(t)
            first.set()
            assert go.wait(PATIENCE)
            return jpeg(t, width)

        monkeypatch.setattr(session.frame_reader, "jpeg", slow)
        waiting = threading.Thread(target=page.look, args=("frames/0?width=30",))
        waiting.start()
        assert first.wait(PATIENCE)
        with pytest.raises(httpx.TimeoutException):
            httpx.get(f"{server.url.rstrip('/')}{page.url}/frames/1?width=30", timeout=0.2)
        time.sleep(0.5)
        go.set()
        waiting.join(PATIENCE)
        assert page.look("frames/2?width=30").status_code == 200
        assert decoded == [0, 2]


def test_a_page_that_lags_behind_is_cut_off():
    events = Events()

    async def main() -> list[str]:
        events.start()
        stream = events.listen()
        got = [await anext(stream)]
        for i in range(1100):
            events.send(type="video", id=i)
        await asyncio.sleep(0.01)
        got += [message async for message in stream]
        return got

    got = asyncio.run(main())
    assert len(got) == 1001
    assert "999" in got[-1]


def test_the_end_is_told_to_pages_that_lag_behind_and_nobody_listens_after_it():
    events = Events()

    async def main() -> tuple[list[str], list[str]]:
        events.start()
        stream = events.listen()
        got = [await anext(stream)]
        events.send(type="video", id=1)
        await asyncio.sleep(0.01)
        events.close()
        got += [message async for message in stream]
        return got, [message async for message in events.listen()]

    got, late = asyncio.run(main())
    assert got[1:] == ['data: {"type": "video", "id": 1}\n\n', 'data: {"type": "bye"}\n\n']
    assert late == []


# ---- the command


def run_cli(*arguments: Any) -> int:
    return cli.main(["annotate", *map(str, arguments), "--no-browser"])


def test_a_port_in_use_is_said_before_anything_starts(videos, tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert run_cli(videos, "-o", tmp_path / "out", "--port", port) == 1
    assert f"port {port} of 127.0.0.1 is in use" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{videos}", "-o", "{videos}/notes.txt"], "annotations cannot be written to"),
        (["{videos}", "-o", "{videos}/notes.txt/deeper"], "annotations cannot be written to"),
        (["{videos}/empty", "-o", "{tmp}/out"], "there is no video in"),
        (["{videos}/gone.mp4", "-o", "{tmp}/out"], "does not exist; give a video file"),
        (["{videos}", "-o", "{tmp}/out", "--masks", "{videos}/gone"], "is not a folder"),
        (["{videos}", "-o", "{tmp}/out", "--token", "short"], "a token needs at least 12 characters"),
        (["{videos}", "-o", "{tmp}/out", "--token", "with spaces in it"], "a token consists of letters"),
        (["{videos}", "-o", "{tmp}/out", "--host", "no.such.host.invalid"], "cannot listen on no.such.host.invalid"),
        (["{videos}", "-o", "{tmp}/out", "--host", "192.0.2.1"], "cannot listen on 192.0.2.1"),
    ],
)
def test_what_cannot_work_is_said_before_the_server_starts(videos, tmp_path, capsys, arguments, words):
    filled = [argument.format(videos=videos, tmp=tmp_path) for argument in arguments]
    assert run_cli(*filled, *([] if "--port" in filled else ["--port", "0"])) == 1
    assert words in capsys.readouterr().err


def test_missing_packages_are_named(videos, tmp_path, capsys, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("i2vpp.annotate")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert run_cli(videos, "-o", tmp_path / "out") == 1
    assert 'i2vpp annotate needs the package uvicorn: pip install ".[web]" in a clone' in capsys.readouterr().err


def test_the_command_line_works_without_web_packages():
    code = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(('starlette', 'uvicorn')))\n"
        "from i2vpp.cli import build_parser\n"
        "import i2vpp.commands.track\n"
        "print(build_parser().parse_args(['annotate']).port)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "5000"), done.stderr


@pytest.mark.parametrize("port", ["-1", "x", "65536"])
def test_a_port_is_a_port(port, capsys):
    assert cli.main(["annotate", f"--port={port}"]) == 2
    assert "must be an integer, 0 to 65535" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_the_tool_is_the_command_and_ctrl_c_ends_it(videos, tmp_path, number, status):
    tool = Path(cli.__file__).parent.parent / "tools" / "web_annotation_tool.py"
    command = [sys.executable, str(tool), str(videos), "--output", str(tmp_path / "out"), "--port", "0"]
    command += ["--no-browser", "--checkpoint", str(tmp_path / "no.pt")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            lines = [process.stdout.readline(), process.stdout.readline()]
            assert lines[0] == f"2 videos in {videos}; annotations are kept in {tmp_path / 'out'}\n"
            url = lines[1].split()[1]
            assert url.startswith("http://127.0.0.1:")
            with httpx.Client(base_url=url, timeout=PATIENCE) as client:
                until(lambda: answers(client))
                heard, thread = listen(url)
                page = Page(client)
                page.change("objects")
                page.prompt(DAB)
                begin = time.monotonic()
                process.send_signal(number)
                assert process.stdout.readline() == "\n"
                assert process.stdout.readline() == f"stopped; annotations are in {tmp_path / 'out'}\n"
                assert time.monotonic() - begin < 2
                _, errors = process.communicate(timeout=PATIENCE)
            assert process.returncode == status
            assert "no.pt does not exist" in errors
            thread.join(PATIENCE)
            assert heard[-1] == {"type": "bye"}
        finally:
            process.kill()
    with talking(make_workspace(videos, tmp_path / "out", no_model)) as client:
        assert Page(client).mask().any()


def answers(client: httpx.Client) -> bool:
    try:
        return client.get("/api/library").status_code == 200
    except httpx.TransportError:
        return False
