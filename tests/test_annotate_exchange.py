"""Files in and out of the page: formats, downloads as zip, uploads, what can be imported, prompts as JSON."""

from __future__ import annotations

import io
import json
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from annotator import HEIGHT, JSON, WIDTH, make_workspace, until, write_frames
from i2vpp.annotate.exchange.formats.registry import FORMATS
from i2vpp.annotate.exchange.zip_stream import zip_pieces
from i2vpp.annotate.web.app import make_app
from i2vpp.annotate.web.security import Gate, Guard
from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
from i2vpp.prompts.files import read_prompts_file
from media import moving_disc, write_video
from models import encode_once, make_predictor

BINARY = {"content-type": "application/octet-stream"}


@pytest.fixture(scope="module")
def predictor() -> I2VPPVideoPredictor:
    return encode_once(make_predictor())


class Page:
    """The requests of a page with the video "disc" open."""

    def __init__(self, client: TestClient) -> None:
        self.client = client
        self.url = "/api/videos/" + self.videos()["disc"]

    def videos(self) -> dict[str, str]:
        return {entry["name"]: entry["id"] for entry in self.client.get("/api/library").json()["videos"]}

    def send(self, method: str, what: str, **body: Any) -> Any:
        body = {"revision": self.client.get(self.url).json()["revision"], **body}
        return self.client.request(method, f"{self.url}/{what}", content=json.dumps(body), headers=JSON)

    def ok(self, method: str, what: str, **body: Any) -> dict[str, Any]:
        answer = self.send(method, what, **body)
        assert answer.status_code == 200, answer.text
        content: dict[str, Any] = answer.json()
        return content

    def job(self, what: str, **body: Any) -> dict[str, Any]:
        """Start a job and return how it ended."""
        self.ok("POST", what, **body)

        def ended() -> Any:
            job = self.client.get(self.url).json()["job"]
            return None if job["state"] == "running" else job

        job: dict[str, Any] = until(ended)
        return job

    def upload(self, name: str, content: bytes, **headers: str) -> Any:
        return self.client.put(f"/api/uploads/{name}", content=content, headers={**BINARY, **headers})


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def page(tmp_path: Path, output: Path, predictor: I2VPPVideoPredictor) -> Iterator[Page]:
    write_frames(tmp_path / "videos" / "disc", 6)
    workspace = make_workspace(tmp_path / "videos", output, lambda: predictor)
    with TestClient(make_app(workspace, Guard(names=frozenset({"testserver"})))) as client:
        yield Page(client)


def annotate(page: Page) -> None:
    """Object 1, a cup, is clicked and boxed on frame 0; object 2 is painted on frame 3."""
    page.ok("POST", "objects", name="Disc")
    page.ok("POST", "labels", name="cup", object=1)
    page.ok("PUT", "objects/1/prompts/0", points=[[20, 24, 1], [50, 10, 0]], box=[5, 10, 40, 40])
    page.ok("POST", "objects")
    dab = {"points": [[30, 20]], "radius": 6, "erase": False}
    page.ok("PUT", "objects/2/prompts/3", strokes=[dab])


def zipped(**files: bytes) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return content.getvalue()


def png(value: int = 255) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.full((HEIGHT, WIDTH), value, np.uint8)).save(content, "PNG")
    return content.getvalue()


# Labels


def test_a_class_is_given_by_request_and_undone(page: Page) -> None:
    annotate(page)
    state = page.client.get(page.url).json()
    assert [(label["number"], label["name"]) for label in state["labels"]] == [(1, "cup")]
    assert [one["label"] for one in state["objects"]] == [1, None]
    assert page.ok("PUT", "objects/2/label", label=1)["objects"][1]["label"] == 1
    assert page.ok("PATCH", "labels/1", name="mug", color="#102030")["labels"][0]["name"] == "mug"
    assert page.ok("DELETE", "labels/1")["labels"] == []
    state = page.ok("POST", "undo")
    assert (state["labels"][0]["name"], [one["label"] for one in state["objects"]]) == ("mug", [1, 1])
    assert page.ok("PUT", "objects/2/label", label=0)["objects"][1]["label"] is None
    assert page.send("POST", "labels", name="mug").json()["error"].startswith("there is a label 'mug' already")
    assert page.send("PUT", "objects/1/label", label=7).status_code == 400


# Downloads


def test_an_export_of_each_format_is_downloaded_as_a_zip(page: Page, output: Path) -> None:
    annotate(page)
    listed = page.client.get("/api/formats").json()["formats"]
    assert [one["name"] for one in listed] == list(FORMATS)
    assert page.client.get(f"{page.url}/exports/coco.zip").status_code == 404
    for kind in FORMATS:
        assert page.job("export", kind=kind)["state"] == "done"
        before = sorted(output.rglob("*"))
        answer = page.client.get(f"{page.url}/exports/{kind}.zip")
        assert answer.headers["content-disposition"].endswith(f"disc-{kind}.zip")
        with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
            assert archive.testzip() is None
            folder = next(output.glob("exports/*")) / kind
            wanted = {f"disc-{kind}/{path.relative_to(folder).as_posix()}": path for path in folder.rglob("*")}
            found = {name: archive.read(name) for name in archive.namelist()}
        assert found == {name: path.read_bytes() for name, path in wanted.items() if path.is_file()}
        assert json.loads(found[f"disc-{kind}/objects.json"])["objects"]["1"]["label"] == "cup"
        assert sorted(output.rglob("*")) == before, "no temporary file is left"
    for name in ("nothing.zip", "..%2F..zip", "sav%2F..%2Fcoco.zip"):
        assert page.client.get(f"{page.url}/exports/{name}").status_code == 404


def test_a_zip_needs_little_memory(tmp_path: Path) -> None:
    size = 24 * 2**20
    (tmp_path / "large.mp4").write_bytes(bytes(size))
    (tmp_path / "link").symlink_to("/etc/hostname")
    tracemalloc.start()
    try:
        total = sum(len(piece) for piece in zip_pieces(tmp_path, "top"))
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size < total < size + 1000
    assert most < 2**20


# Uploads


def test_masks_are_uploaded_listed_and_imported(page: Page, output: Path) -> None:
    content = zipped(**{"top/001/00002.png": png(), "top/001/00003.png": png(), "top/photo.jpg": b"x"})
    assert page.upload("mine.zip", content).json() == {"masks": "uploads/mine"}
    assert sorted(path.name for path in (output / "uploads" / "mine" / "001").iterdir()) == ["00002.png", "00003.png"]
    assert [path.name for path in (output / "uploads").iterdir()] == ["mine"], "neither the zip nor a part is left"
    assert page.client.get(f"{page.url}/importable").json()["sources"] == ["uploads/mine"]
    job = page.job("import", folder="uploads/mine")
    assert (job["state"], job["result"]) == ("done", {"objects": [1], "masks": 2})

    assert page.job("export", kind="coco")["state"] == "done"
    exported = next(output.glob("exports/*/coco/annotations.json"))
    assert page.upload("again.json", exported.read_bytes()).json() == {"masks": "uploads/again.json"}
    sources = page.client.get(f"{page.url}/importable").json()["sources"]
    assert sources == ["uploads/again.json", "uploads/mine", "exports/disc/coco/annotations.json"]
    for name in sources:
        assert page.job("import", folder=name)["state"] == "done"
    assert len(page.client.get(page.url).json()["objects"]) == 4


def test_a_zip_of_numbered_folders_keeps_them(page: Page, output: Path) -> None:
    assert page.upload("one.zip", zipped(**{"001/00000.png": png()})).status_code == 200
    assert (output / "uploads" / "one" / "001" / "00000.png").is_file()


def test_a_video_is_uploaded_into_the_opened_folder(page: Page, tmp_path: Path) -> None:
    write_video(tmp_path / "new.mp4", moving_disc(4, 96, 128)[0], fps=12)
    content = (tmp_path / "new.mp4").read_bytes()
    answer = page.upload("new.mp4", content)
    assert answer.json() == {"video": page.videos()["new.mp4"]}
    opened = page.client.post(f"/api/videos/{answer.json()['video']}/open", headers=JSON)
    assert opened.json()["frames"] == 4
    again = page.upload("new.mp4", content)
    assert (again.status_code, again.json()["error"]) == (409, "there is a video 'new.mp4' already; rename the file")
    broken = page.upload("broken.mp4", b"no video")
    assert broken.status_code == 422
    assert broken.json()["error"].startswith("'broken.mp4' was not kept: ")
    assert sorted(path.name for path in (tmp_path / "videos").iterdir()) == ["disc", "new.mp4"]


def test_a_video_needs_a_folder_of_videos(tmp_path: Path, predictor: I2VPPVideoPredictor) -> None:
    workspace = make_workspace(write_frames(tmp_path / "disc", 2), tmp_path / "out", lambda: predictor)
    with TestClient(make_app(workspace, Guard(names=frozenset({"testserver"})))) as client:
        answer = client.put("/api/uploads/a.mp4", content=b"x", headers=BINARY)
        assert "started with a folder of videos" in answer.json()["error"]


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        ("notes.txt", 415, "is neither masks nor a video"),
        (".hidden.json", 400, "cannot be the name of an upload"),
        ("a%00.json", 400, "cannot be the name of an upload"),
        ("a%5Cb.json", 400, "cannot be the name of an upload"),
        ("x" * 200 + ".json", 400, "cannot be the name of an upload"),
        ("a%0A.json", 400, "cannot be the name of an upload"),
        ("..%2Fa.json", 404, ""),
        ("a.zip", 400, "this is no zip that can be read"),
    ],
)
def test_names_and_contents_of_uploads_are_checked(
    page: Page, output: Path, name: str, status: int, words: str
) -> None:
    answer = page.upload(name, b"[]")
    assert answer.status_code == status
    assert words in answer.json()["error"]
    assert list((output / "uploads").glob("*")) == []


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"../evil.png": b"x"}, "'..' cannot be the name"),
        ({"/etc/evil.png": b"x"}, "'' cannot be the name"),
        ({"a\\b.png": b"x"}, "cannot be the name"),
        ({"notes.md": b"x"}, "the zip holds 0 files of masks"),
    ],
)
def test_a_zip_writes_nowhere_else(page: Page, output: Path, tmp_path: Path, files: Any, words: str) -> None:
    answer = page.upload("bad.zip", zipped(**files))
    assert answer.status_code == 400
    assert words in answer.json()["error"]
    assert list((output / "uploads").glob("*")) == []
    assert not list(tmp_path.rglob("evil.png"))


def test_uploads_have_a_limit_and_a_kind_of_their_own(page: Page, output: Path) -> None:
    assert page.upload("a.json", b"[]", **{"content-type": "application/json"}).status_code == 415
    assert page.upload("a.json", b"[]", origin="http://evil.example").status_code == 403
    assert page.send("PUT", "objects/1/label", label=0).status_code == 400  # others keep theirs
    assert page.client.put(f"{page.url}/objects/1/label", content=b"{}", headers=BINARY).status_code == 415
    gate = page.client.app
    assert isinstance(gate, Gate)
    gate._max_upload = 5 * 2**20
    assert page.upload("a.json", bytes(4 * 2**20 + 1)).status_code == 200, "more than other bodies may have"

    def pieces() -> Iterator[bytes]:
        for _ in range(6):
            yield bytes(2**20)

    answer = page.client.put("/api/uploads/b.json", content=pieces(), headers=BINARY)
    assert (answer.status_code, answer.json()["error"][:24]) == (413, "the request is too large")
    assert [path.name for path in (output / "uploads").iterdir()] == ["a.json"]


# Prompts


def test_prompts_go_out_for_the_command_line_and_come_back(page: Page, output: Path) -> None:
    annotate(page)
    before = page.client.get(page.url).json()
    masks = [page.client.get(f"{page.url}/masks/{frame}").content for frame in (0, 3)]
    assert page.job("export", kind="prompts")["state"] == "done"
    folder = next(output.glob("exports/*/prompts"))
    clicked, painted = read_prompts_file(folder / "prompts.json")
    assert (clicked.obj_id, clicked.frame_idx, clicked.labels) == (1, 0, (1, 0))
    assert (clicked.points, clicked.box) == (((20, 24), (50, 10)), (5, 10, 40, 40))
    assert (painted.obj_id, painted.frame_idx, painted.points, painted.box) == (2, 3, (), None)
    assert painted.mask is not None
    assert painted.mask.sum() > 50

    for obj_id in (1, 2):
        page.client.delete(f"{page.url}/objects/{obj_id}?revision={page.client.get(page.url).json()['revision']}")
    job = page.job("import", folder="exports/disc/prompts")
    assert (job["state"], job["error"], job["result"]["masks"]) == ("done", None, 2)
    one, two = job["result"]["objects"]
    state = page.client.get(page.url).json()
    assert [info["name"] for info in state["objects"]] == ["Disc", "Object 2"]
    assert state["prompts"][str(one)]["0"] == before["prompts"]["1"]["0"]
    after = [page.client.get(f"{page.url}/masks/{frame}").content for frame in (0, 3)]
    assert [body[4:] for body in after] == [body[4:] for body in masks], "the same masks, of other objects"
    assert page.job("export", kind="prompts")["state"] == "done"
    again = read_prompts_file(folder / "prompts.json")
    assert [(p.obj_id, p.frame_idx, p.points, p.box) for p in again] == [
        (one, 0, clicked.points, clicked.box),
        (two, 3, (), None),
    ]
    assert np.array_equal(again[1].mask, painted.mask)
    assert page.ok("POST", "undo")["objects"] == [], "one step"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([{"frame": 9, "points": [[1, 1]]}], "the video has frames 0 to 5"),
        ([{"points": [[1, 1]]}, {"box": [1, 1, 9, 9]}], "is there twice"),
        ([{"points": [[1, 1]], "labels": [2]}], "labels must be 1 (add) or 0 (remove)"),
        ([{"points": [[900, 1]]}], "points"),
        ([{"mask": "gone.png"}], "gone.png"),
    ],
)
def test_prompts_that_do_not_fit_change_nothing(page: Page, content: Any, words: str) -> None:
    assert page.upload("mine.json", json.dumps(content).encode()).status_code == 200
    job = page.job("import", folder="uploads/mine.json")
    assert job["state"] == "failed"
    assert words in job["error"]
    assert page.client.get(page.url).json()["objects"] == []
