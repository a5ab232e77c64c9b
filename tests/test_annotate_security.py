"""Attacks on the annotator: other sites, other names, other users, other files, and too much of everything."""

from __future__ import annotations

import http.client
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from annotator import HEIGHT, JSON, PATIENCE, WIDTH, make_workspace, serving, until, write_frames
from i2vpp.annotate.library import open_library
from i2vpp.annotate.problems import Problems
from i2vpp.annotate.web.app import make_app
from i2vpp.annotate.web.security import MAX_BODY, Guard, bad_token, guard_for
from i2vpp.annotate.workspace import Workspace
from i2vpp.errors import CheckpointError, VideoError

TOKEN = "correct-horse-battery"
HOST = "127.0.0.1:5000"
SECRET = "for nobody's eyes"


def no_model() -> Any:
    raise CheckpointError("there is no checkpoint")


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    write_frames(folder / "disc", 3)
    outside = tmp_path / "outside"
    write_frames(outside / "private", 3)
    (outside / "secret.txt").write_text(SECRET)
    return folder


@pytest.fixture
def workspace(videos: Path, tmp_path: Path) -> Workspace:
    return make_workspace(videos, tmp_path / "out", no_model)


@pytest.fixture
def client(workspace: Workspace) -> Iterator[TestClient]:
    with talking(workspace) as client:
        yield client


def talking(workspace: Workspace, guard: Guard | None = None, host: str = HOST) -> TestClient:
    return TestClient(make_app(workspace, guard or Guard()), base_url=f"http://{host}", raise_server_exceptions=False)


def url_of(client: Any, name: str = "disc") -> str:
    entries = client.get("/api/library").json()["videos"]
    return "/api/videos/" + next(entry["id"] for entry in entries if entry["name"] == name)


# ---- names of this server (DNS rebinding)


@pytest.mark.parametrize(
    "host", ["127.0.0.1:5000", "localhost", "LOCALHOST:8080", "[::1]:5000", "127.0.0.7", "localhost."]
)
def test_loopback_names_are_known_at_any_port(host):
    assert Guard().knows_host(host)


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:5000", "127.0.0.1.evil.example", "localhost.evil.example", "192.168.1.7", "0.0.0.0",
     "", "[::", "127.0.0.1@evil.example", "evil.example#127.0.0.1", "evil.example/127.0.0.1", "[::ffff:8.8.8.8]"],
)  # fmt: skip
def test_a_request_under_another_name_is_refused(client, host):
    answer = client.get("/api/library", headers={"host": host})
    assert answer.status_code == 421
    assert answer.json()["error"].startswith("this server does not go by that name")


def test_beyond_this_machine_only_addresses_and_own_names_are_known(monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "Lab7")
    monkeypatch.setattr(socket, "getfqdn", lambda: "lab7.example.org")
    guard = guard_for("0.0.0.0", None)
    assert all(
        map(guard.knows_host, ["192.168.1.7:5000", "lab7", "LAB7.example.org:5000", "localhost", "[fe80::1]:5000"])
    )
    assert not any(map(guard.knows_host, ["evil.example", "example.org", "xlab7", "1.2.3.4.example"]))
    assert guard_for("gpu.example.org", None).knows_host("gpu.example.org:5000")


# ---- other sites


def state_changing(url: str) -> list[tuple[str, str]]:
    return [
        ("POST", f"{url}/objects"), ("PATCH", f"{url}/objects/1"), ("DELETE", f"{url}/objects/1?revision=0"),
        ("PUT", f"{url}/objects/1/prompts/0"), ("POST", f"{url}/undo"), ("POST", f"{url}/redo"),
        ("POST", f"{url}/propagate"), ("POST", f"{url}/cancel"), ("POST", f"{url}/export"), ("POST", f"{url}/import"),
        ("POST", f"{url}/open"), ("POST", f"{url}/close"), ("POST", f"{url}/go-on"), ("PUT", f"{url}/objects/1/label"),
        ("POST", f"{url}/labels"), ("PATCH", f"{url}/labels/1"), ("DELETE", f"{url}/labels/1"),
        ("PUT", "/api/uploads/a.json"), ("POST", f"{url}/objects/1/copy/0"), ("PUT", f"{url}/review"),
        ("POST", f"{url}/propagate-missing"), ("POST", f"{url}/ranges/clear"), ("POST", f"{url}/ranges/absent"),
        ("POST", f"{url}/objects/1/merge"), ("POST", f"{url}/objects/1/cut"), ("POST", f"{url}/objects/1/swap"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "http://127.0.0.1:9999"},
        {"origin": "http://localhost:5000"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:5000.evil.example"},
        {"origin": "http://[::"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "cross-site", "origin": f"http://{HOST}"},
    ],
    ids=str,
)
def test_pages_of_other_sites_change_nothing(client, headers):
    url = url_of(client)
    before = client.get(url).json()
    for method, path in state_changing(url):
        answer = client.request(method, path, content='{"revision": 0}', headers={**JSON, **headers})
        assert (answer.status_code, answer.json()["error"]) == (403, "requests from pages of other sites are refused")
    assert client.get(url).json() == before


def test_all_routes_that_change_something_are_among_those_that_are_attacked(workspace):
    app = make_app(workspace, Guard())
    routes = {(m, r.path) for r in app._app.routes for m in r.methods - {"GET", "HEAD"}}
    attacked = {(m, re.sub(r"objects/1", "objects/{obj:int}", p.partition("?")[0])) for m, p in state_changing("X")}
    attacked = {(m, p.replace("X", "/api/videos/{id}").replace("/0", "/{t:int}")) for m, p in attacked}
    attacked = {(m, p.replace("labels/1", "labels/{label:int}").replace("a.json", "{name}")) for m, p in attacked}
    assert routes == attacked


@pytest.mark.parametrize("headers", [{"origin": f"http://{HOST}", "sec-fetch-site": "same-origin"}, {}], ids=str)
def test_the_own_page_and_programs_are_let_in(client, headers):
    answer = client.post(f"{url_of(client)}/objects", content='{"revision": 0}', headers={**JSON, **headers})
    assert answer.status_code == 200


@pytest.mark.parametrize("path", ["/api/library", "/api/events", "/static/main.js"])
def test_other_sites_cannot_even_read(client, path):
    assert client.get(path, headers={"sec-fetch-site": "cross-site"}).status_code == 403


def test_a_link_from_elsewhere_opens_the_page(client):
    assert client.get("/", headers={"sec-fetch-site": "cross-site"}).status_code == 200


@pytest.mark.parametrize(
    "kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/jsonp"]
)
def test_what_a_form_can_send_is_refused(client, kind):
    url = url_of(client)
    for method, path in state_changing(url):
        if method != "DELETE":
            answer = client.request(
                method, path, content=b'{"revision": 0}', headers={"content-type": kind} if kind else {}
            )
            assert answer.status_code == 415
    assert client.get(url).json()["objects"] == []


@pytest.mark.parametrize("method", ["OPTIONS", "TRACE", "CONNECT", "PROPFIND", "GETX"])
def test_other_methods_are_refused_and_no_site_is_invited(client, method):
    answer = client.request(method, "/api/library", headers={"origin": "https://evil.example"})
    assert answer.status_code == 405
    assert not [name for name in answer.headers if name.startswith("access-control")]


# ---- token


def test_the_token_becomes_a_cookie_that_scripts_and_other_sites_cannot_use(workspace):
    with talking(workspace, Guard(token=TOKEN)) as client:
        for path in ("/", "/api/library", "/api/events", "/static/main.js", "/api/library?token=" + TOKEN):
            assert client.get(path).status_code == 401
        assert client.post("/api/videos/x/open", headers=JSON).status_code == 401
        assert "set-cookie" not in client.get("/?token=wrong").headers
        answer = client.get(f"/?token={TOKEN}")
        assert answer.status_code == 200
        cookie = answer.headers["set-cookie"]
        assert all(word in cookie for word in (TOKEN, "HttpOnly", "SameSite=Strict", "Path=/"))
        assert client.get("/api/library").status_code == 200
        assert "set-cookie" not in client.get("/").headers


@pytest.mark.parametrize(
    "cookie",
    ["i2vpp-token-80=wrong", "i2vpp-token-80=", "i2vpp-token-80", "other=" + TOKEN, "i2vpp-token-80=" + TOKEN[:-1],
     "i2vpp-token-80=" + TOKEN + "x", 'a="; i2vpp-token-80=x', "i2vpp-token-80=caf\u00e9", ";;;=;"],
)  # fmt: skip
def test_a_cookie_must_carry_the_token(workspace, cookie):
    with talking(workspace, Guard(token=TOKEN), host="127.0.0.1") as client:
        assert client.get("/api/library", headers={"cookie": cookie.encode("latin-1")}).status_code == 401
        assert client.get("/api/library", headers={"cookie": f"a=b; i2vpp-token-80={TOKEN}"}).status_code == 200


def test_beyond_this_machine_there_is_always_a_token(workspace):
    assert guard_for("127.0.0.1", None).token is None
    assert guard_for("localhost", None).token is None
    tokens = {guard_for(host, None).token for host in ("0.0.0.0", "::", "192.168.1.7", "lab7")}
    assert len(tokens) == 4
    assert all(token is not None and len(token) >= 32 and bad_token(token) is None for token in tokens)
    assert guard_for("0.0.0.0", TOKEN).token == TOKEN


def test_the_start_line_has_the_token_and_it_opens_the_server(workspace):
    with serving(workspace, host="0.0.0.0") as server:
        assert re.fullmatch(rf"http://{re.escape(socket.gethostname())}:\d+/\?token=[\w-]{{32,}}", server.url)
        local = f"http://127.0.0.1:{server.port}"
        with httpx.Client(base_url=local, timeout=PATIENCE) as client:
            assert client.get("/api/library").status_code == 401
            assert client.get("/" + server.url.partition("/?")[2].join(["?", ""])).status_code == 200
            assert client.get("/api/library").status_code == 200
            assert client.get("/api/library", headers={"host": "evil.example"}).status_code == 421


# ---- files


@pytest.mark.parametrize(
    "path",
    ["../app.py", "..%2Fapp.py", "%2e%2e/app.py", "%2e%2e%2fapp.py", "..%252fapp.py", "..\\app.py", "..%5Capp.py",
     "/etc/passwd", "%2Fetc%2Fpasswd", "./index.html", "index.html/", "INDEX.HTML", "index.html%00.js", "", ".",
     "....//app.py", "../static/index.html", "app.py", "__init__.py"],
)  # fmt: skip
def test_only_the_pages_own_files_are_served(workspace, path):
    with serving(workspace) as server:  # over a socket: clients tidy paths up before they send them
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
        connection.request("GET", f"/static/{path}")
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
    assert answer.status == 404
    assert body in (b'{"error":"there is no such file"}', b'{"error":"Not Found"}')


@pytest.mark.parametrize(
    "name", ["..", "../outside/private", "disc", quote("../outside/private", safe=""), "%2e%2e", "x" * 5000, "%00", "*"]
)
def test_videos_are_known_by_id_only(client, name):
    for what in ("", "/thumbnail", "/frames/0", "/masks/0"):
        answer = client.get(f"/api/videos/{name}{what}")
        assert answer.status_code in (400, 404)
        assert set(answer.json()) == {"error"}


def test_links_that_lead_out_of_the_folder_are_not_opened(videos, tmp_path):
    (videos / "linked").symlink_to(tmp_path / "outside" / "private")
    (videos / "linked.mp4").symlink_to(tmp_path / "outside" / "secret.txt")
    (videos / "loop").symlink_to(videos / "loop")
    (videos / "inside").symlink_to(videos / "disc")
    library = open_library(videos)
    assert [video.name for video in library.videos] == ["disc", "inside"]
    assert {"linked", "linked.mp4"} <= set(library.left_out)


def test_a_video_that_becomes_a_link_is_not_followed(videos, tmp_path):
    library = open_library(videos)
    (videos / "disc").rename(tmp_path / "moved")
    (videos / "disc").symlink_to(tmp_path / "outside" / "private")
    with pytest.raises(VideoError, match=r"^disc leads out of the opened folder$"):
        library.open(library.videos[0])


def test_a_frame_that_is_a_link_out_of_the_folder_is_not_read(client, videos, tmp_path):
    (videos / "disc" / "00001.png").unlink()
    (videos / "disc" / "00001.png").symlink_to(tmp_path / "outside" / "private" / "00001.png")
    answer = client.get(url_of(client))
    assert (answer.status_code, answer.json()["error"]) == (422, "00001.png leads out of the opened folder")


@pytest.mark.parametrize(
    "folder",
    ["..", "../outside/private", "/etc", "disc/../../outside/private", "linked", "masks/linked", "\x00", "a\x00b", "~",
     "file:///etc", "..\\outside", "{outside}", "x" * 5000, "disc/" * 2000],
)  # fmt: skip
def test_masks_are_imported_from_inside_only(client, videos, tmp_path, folder):
    (videos / "linked").symlink_to(tmp_path / "outside")
    (videos / "masks").mkdir()
    (videos / "masks" / "linked").symlink_to(tmp_path / "outside" / "private")
    folder = folder.format(outside=tmp_path / "outside")
    url = url_of(client)
    answer = client.post(f"{url}/import", content=json.dumps({"folder": folder}), headers=JSON)
    assert answer.status_code in (400, 404), answer.text
    assert client.get(url).json()["job"] is None
    assert str(tmp_path) not in answer.text.replace(folder, "")


def test_a_mask_that_is_a_link_out_of_the_folder_is_not_read(client, videos, tmp_path):
    mask = np.ones((HEIGHT, WIDTH), np.uint8)
    Image.fromarray(mask).save(tmp_path / "outside" / "mask.png")
    (videos / "masks" / "001").mkdir(parents=True)
    (videos / "masks" / "001" / "00000.png").symlink_to(tmp_path / "outside" / "mask.png")
    answer = client.post(f"{url_of(client)}/import", content='{"folder": "masks"}', headers=JSON)
    assert answer.status_code == 400
    assert "holds a link that leads out of the opened folder" in answer.json()["error"]


def test_the_folder_of_masks_is_open_too_but_not_what_is_beside_it(videos, tmp_path):
    allowed = tmp_path / "allowed"
    (allowed / "good").mkdir(parents=True)
    Image.fromarray(np.ones((HEIGHT, WIDTH), np.uint8)).save(allowed / "good" / "00000.png")
    with talking(make_workspace(videos, tmp_path / "out", no_model, masks=allowed)) as client:
        url = url_of(client)
        assert client.post(f"{url}/import", content='{"folder": "good"}', headers=JSON).status_code == 200
        until(lambda: client.get(url).json()["job"]["state"] == "done")
        answer = client.post(f"{url}/import", content='{"folder": "../outside"}', headers=JSON)
        assert answer.status_code == 400


# ---- too much


def test_a_body_that_is_too_large_is_refused_unread(client):
    answer = client.post(f"{url_of(client)}/objects", content=b" " * (MAX_BODY + 1), headers=JSON)
    assert answer.status_code == 413
    assert answer.json()["error"] == f"the request is too large: at most {MAX_BODY} bytes are allowed"


@pytest.mark.parametrize("length", ["-1", "1e9", "99999999999999999999", "4194305", "0x10", "\u0661"])
def test_a_length_that_lies_is_refused(workspace, length):
    with serving(workspace) as server, socket.create_connection(("127.0.0.1", server.port), PATIENCE) as connection:
        lines = ["POST /api/videos/x/open HTTP/1.1", f"Host: 127.0.0.1:{server.port}", "Content-Type: application/json"]
        connection.sendall("\r\n".join([*lines, f"Content-Length: {length}", "", ""]).encode())
        assert re.match(rb"HTTP/1.1 4(00|13) ", connection.recv(1000))


def test_a_body_in_pieces_is_cut_off_at_the_limit(workspace):
    def pieces() -> Iterator[bytes]:
        for _ in range(MAX_BODY // 65536 + 2):
            yield b" " * 65536

    with serving(workspace) as server, httpx.Client(base_url=server.url, timeout=PATIENCE) as client:
        answer = client.post(f"{url_of(client)}/objects", content=pieces(), headers=JSON)
        assert answer.status_code == 413


@pytest.mark.parametrize(
    "body",
    ["", "nothing", "[]", "null", '{"revision": 0', '{"revision": NaN}', '{"revision": 1e999}', "[" * 100_000,
     '{"a":' * 100_000, '{"revision": ' + "9" * 10_000 + "}", b"\xed\xa0\x80", b"\xff\xfe\x00"],
    ids=range(12),
)  # fmt: skip
def test_what_is_no_json_is_refused_in_words(client, body):
    url = url_of(client)
    for method, path in (("POST", f"{url}/objects"), ("PUT", f"{url}/objects/1/prompts/0")):
        answer = client.request(method, path, content=body, headers=JSON)
        assert answer.status_code == 400
        assert set(answer.json()) == {"error"}
        assert len(answer.text) < 500


@pytest.mark.parametrize(
    "prompts",
    [
        {"points": [[1, 1, 1]] * 3 + [[1, 1, 2]]},
        {"points": [["1", 1, 1]]},
        {"points": [[1e308, 1, 1]]},
        {"box": [0, 0, 1e999, 1]},
        {"strokes": [{"points": [[0, 0]], "radius": 1e300, "erase": False}]},
        {"strokes": [{"points": [[0, 0]], "radius": -1, "erase": False}]},
        {"strokes": [{"points": [[True, 0]], "radius": 1, "erase": False}]},
        {"strokes": {"points": 1}},
        {"points": "x" * 10_000},
    ],
    ids=range(9),
)
def test_prompts_that_are_none_are_refused(client, prompts):
    url = url_of(client)
    revision = client.post(f"{url}/objects", content='{"revision": 0}', headers=JSON).json()["revision"]
    body = json.dumps({"revision": revision, **prompts}).replace("Infinity", "1e999")
    answer = client.put(f"{url}/objects/1/prompts/0", content=body, headers=JSON)
    assert answer.status_code == 400
    assert len(answer.text) < 500
    assert client.get(url).json()["prompts"] == {}


@pytest.mark.parametrize(
    "path", ["objects/99999999999999999999", "objects/1/prompts/99999999999999999999", "objects/0"]
)
def test_numbers_beyond_all_bounds_are_unknown(client, path):
    method = "PUT" if "prompts" in path else "PATCH"
    answer = client.request(method, f"{url_of(client)}/{path}", content='{"revision": 0}', headers=JSON)
    assert answer.status_code == 404


def test_too_many_listeners_are_refused(client, workspace, monkeypatch):
    monkeypatch.setattr(type(workspace.events), "full", True)
    answer = client.get("/api/events")
    assert (answer.status_code, answer.json()["error"]) == (503, "too many pages are open")


# ---- answers


@pytest.mark.parametrize("path", ["/", "/api/library", "/static/nothing", "/nothing", "/api/videos/x"])
def test_all_answers_carry_the_headers_that_protect_the_page(client, path):
    headers = client.get(path).headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == "same-origin"


def test_refusals_and_failures_carry_them_too(client, workspace, monkeypatch):
    assert "content-security-policy" in client.get("/", headers={"host": "evil.example"}).headers

    async def fail() -> Any:
        raise ZeroDivisionError(SECRET)

    monkeypatch.setattr(workspace, "describe", fail)
    answer = client.get("/api/library")
    assert answer.status_code == 500
    assert answer.json() == {"error": "an error in the program; the server's log tells more"}
    assert "content-security-policy" in answer.headers


@pytest.mark.parametrize("name", ["host", "origin", "content-type", "content-length"])
def test_headers_that_come_twice_are_refused(workspace, name):
    with serving(workspace) as server, socket.create_connection(("127.0.0.1", server.port), PATIENCE) as connection:
        own = f"127.0.0.1:{server.port}"
        headers = {"host": own, "origin": f"http://{own}", "content-type": "application/json", "content-length": "0"}
        lines = [f"{key}: {value}" for key, value in headers.items()]
        lines.append(f"{name}: {'5' if name == 'content-length' else 'evil.example'}")
        connection.sendall("\r\n".join(["POST /api/videos/x/open HTTP/1.1", *lines, "", ""]).encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 400 ")


def test_names_are_data(client, videos, tmp_path):
    name = "<img src=x onerror=alert(1)>"
    url = url_of(client)
    answer = client.post(f"{url}/objects", content=json.dumps({"revision": 0, "name": name}), headers=JSON)
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["objects"][0]["name"] == name


def test_web_sockets_are_closed(client):
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/api/events"):
        pass


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/data/videos/a/00001.png is damaged", "a/00001.png is damaged"),
        ("folder /data/videos holds no image", "folder videos holds no image"),
        ("/home/me/out/a.sqlite is in use", "a.sqlite is in use"),
        ("looked from /srv/nets and '/opt/x y/z.pt'", "looked from nets and 'x y/z.pt'"),
        ("C:\\Users\\me\\net.pt is missing", "net.pt is missing"),
        ("12 frames/s and/or 3/4", "12 frames/s and/or 3/4"),
        ("see https://example.org/a/b", "see https://example.org/a/b"),
    ],
)
def test_paths_beyond_the_opened_folder_are_cut(text, shown):
    problems = Problems(Path("/data/videos"), [Path("/home/me/out")])
    assert problems.words(CheckpointError(text)) == shown


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (
            OSError(28, "No space left on device", "/home/me/x"),
            507,
            "no space is left on the disk; nothing was changed",
        ),
        (PermissionError(13, "Permission denied", "/home/me/x"), 500, "the file system says: Permission denied (x)"),
        (
            RuntimeError("cuDNN error in /opt/lib/x.so"),
            500,
            "the network failed: cuDNN error in x.so; annotations are kept",
        ),
        (MemoryError(), 500, "no memory is left: MemoryError"),
    ],
)
def test_failures_are_told_in_words(error, status, words):
    problems = Problems(Path("/data/videos"))
    assert problems.status(error) == status
    assert problems.words(error).startswith(words)
