"""Downloads from a server on this machine, whose files are made on the spot; nothing is fetched from outside."""

import dataclasses
import hashlib
import http.server
import inspect
import json
import re
import socket
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from i2vpp import checkpoint
from i2vpp.checkpoint import inspect_checkpoint
from i2vpp.weights import download as download_module
from i2vpp.weights.download import SOURCES, DownloadError, describe_check, download, download_all

SHAPES = json.loads((Path(__file__).parent / "parity" / "state_dict_shapes.json").read_text())


class Server(http.server.ThreadingHTTPServer):
    """Serves `content`, and notes the `Range` of every request.

    Args:
        ranges: whether requests for a part of the file are understood.
        breaks_after: bytes after which the connection is cut, once.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = b""
        self.ranges = True
        self.breaks_after: int | None = None
        self.requested: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/tinysam.pth"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.requested.append(asked)
        content, start = self.server.content, 0
        if asked and self.server.ranges:
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])  # type: ignore[index]
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end, self.server.breaks_after = self.server.breaks_after, None
        self.wfile.write(content[start:end])

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    """The server that `tinysam` is fetched from."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setitem(SOURCES, "tinysam", dataclasses.replace(SOURCES["tinysam"], url=server.url, sha256=None))
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def tinysam(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("made") / "tinysam.pth"
    names = ["image_encoder.patch_embed.seq.0.c.weight", "mask_decoder.iou_token.weight"]
    torch.save({name: torch.rand(20_000) for name in names}, path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """A small file with all entries of the published checkpoints; each repeats one stored value."""
    path = tmp_path_factory.mktemp("made") / "sam-i2vpp.pt"
    torch.save({"model": {name: torch.ones(()).expand(shape) for name, shape in SHAPES.items()}}, path)
    return path


def fails(name: str, folder: Path, message: str) -> str:
    """Check that the download fails, with advice, and that no file has the final name; return the message."""
    with pytest.raises(DownloadError, match=message) as caught:
        download(name, folder)
    source = SOURCES[name]
    assert all(place in str(caught.value) for place in source.places)
    assert f"save it as {folder / source.file}" in str(caught.value)
    assert not (folder / source.file).exists()
    return str(caught.value)


# ---- over HTTP


def test_fresh_download_and_no_second_one(server, tinysam, tmp_path) -> None:
    server.content = tinysam
    path = download("tinysam", tmp_path / "new" / "checkpoints")
    assert path == tmp_path / "new" / "checkpoints" / "tinysam.pth"
    assert path.read_bytes() == tinysam
    assert list(path.parent.iterdir()) == [path]
    assert inspect_checkpoint(path, expected={}).kind == "tinysam/mobilesam"
    assert download("tinysam.pth", path.parent) == path
    assert server.requested == [None]


def test_download_goes_on_where_it_broke_off(server, tinysam, tmp_path) -> None:
    server.content, server.breaks_after = tinysam, 1000
    message = fails("tinysam", tmp_path, rf"broke off after 1,000 of {len(tinysam):,} bytes")
    assert "tinysam.pth.part is kept: the next try goes on from there" in message
    assert download("tinysam", tmp_path).read_bytes() == tinysam
    assert server.requested == [None, "bytes=1000-"]
    assert [path.name for path in tmp_path.iterdir()] == ["tinysam.pth"]


def test_server_that_knows_no_ranges(server, tinysam, tmp_path) -> None:
    server.content, server.ranges = tinysam, False
    (tmp_path / "tinysam.pth.part").write_bytes(tinysam[:1000])
    assert download("tinysam", tmp_path).read_bytes() == tinysam
    assert server.requested == ["bytes=1000-"]


@pytest.mark.parametrize(("surplus", "requests"), [(0, 1), (10, 2)], ids=["complete", "too long"])
def test_part_file_that_leaves_nothing_to_fetch(surplus, requests, server, tinysam, tmp_path) -> None:
    server.content = tinysam
    (tmp_path / "tinysam.pth.part").write_bytes(tinysam + bytes(surplus))
    assert download("tinysam", tmp_path).read_bytes() == tinysam
    assert len(server.requested) == requests


def test_content_that_is_no_checkpoint(server, tmp_path) -> None:
    server.content = b"<!DOCTYPE html><html>Too many users have viewed or downloaded this file recently"
    fails("tinysam", tmp_path, "what was sent is not that file: .* is not a PyTorch checkpoint")
    assert not list(tmp_path.iterdir())


def test_another_checkpoint(server, published, tmp_path) -> None:
    server.content = published.read_bytes()
    fails("tinysam", tmp_path, "its kind is i2vpp, not tinysam/mobilesam")


def test_damaged_content(server, tinysam, tmp_path) -> None:
    """The rest of another version is appended to a part file: the records say so."""
    server.content = tinysam
    (tmp_path / "tinysam.pth.part").write_bytes(tinysam[:50_000][:-20_000] + bytes(20_000))
    fails(
        "tinysam",
        tmp_path,
        "what was sent is not that file: .* is damaged: entry image_encoder.*data/0.* does not match",
    )
    assert download("tinysam", tmp_path).read_bytes() == tinysam


def test_a_known_hash_is_compared(server, tinysam, monkeypatch, tmp_path) -> None:
    server.content = tinysam
    right = hashlib.sha256(tinysam).hexdigest()
    monkeypatch.setitem(SOURCES, "tinysam", dataclasses.replace(SOURCES["tinysam"], sha256="0" * 64))
    fails("tinysam", tmp_path, f"what was sent is not that file: its SHA-256 is {right}, not 0{{64}}")
    assert not list(tmp_path.iterdir())
    monkeypatch.setitem(SOURCES, "tinysam", dataclasses.replace(SOURCES["tinysam"], sha256=right))
    assert download("tinysam", tmp_path).read_bytes() == tinysam
    assert describe_check("tinysam.pth") == f"tinysam.pth: its SHA-256 is the known one, {right}"
    (tmp_path / "tinysam.pth").write_bytes(tinysam[:-1] + b"x")
    with pytest.raises(DownloadError, match="exists but is not that file, move it away first"):
        download("tinysam", tmp_path)


def test_without_a_known_hash_that_is_said() -> None:
    assert {len(source.sha256) for source in SOURCES.values() if source.sha256} <= {64}
    assert describe_check("sam-i2vpp_32gpu") == (
        "sam-i2vpp_32gpu.pt: no SHA-256 is known to compare it with; its checksums, entries and values are right"
    )


def test_existing_file_of_another_kind_is_left_alone(server, tinysam, tmp_path) -> None:
    server.content = tinysam
    path = tmp_path / "tinysam.pth"
    torch.save({"model": {"mine": torch.zeros(3)}}, path)
    before = path.read_bytes()
    with pytest.raises(DownloadError, match=r"exists but is not that file, move it away first: its kind is unknown"):
        download("tinysam", tmp_path)
    assert path.read_bytes() == before
    assert server.requested == []


def test_file_is_not_there(server, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(Handler, "do_GET", lambda self: self.send_error(404))
    fails("tinysam", tmp_path, "HTTP Error 404")


def test_network_cannot_be_reached(monkeypatch, tmp_path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/tinysam.pth"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setitem(SOURCES, "tinysam", dataclasses.replace(SOURCES["tinysam"], url=url))
    fails("tinysam", tmp_path, "cannot fetch tinysam.pth: .*refused")


def test_unknown_name(tmp_path) -> None:
    with pytest.raises(DownloadError, match="unknown checkpoint 'sam2'; there are sam-i2vpp_8gpu, "):
        download("sam2", tmp_path)


def test_folder_that_cannot_be_made(tmp_path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DownloadError, match=r"cannot fetch tinysam.pth: .*file"):
        download("tinysam", tmp_path / "file")


# ---- from Google Drive


class Drive(types.ModuleType):
    """Stands in for the module `gdown`, with its signatures."""

    def __init__(self, content: bytes, files: tuple[str, ...] = ("sam-i2vpp_8gpu.pt", "sam-i2vpp_32gpu.pt")) -> None:
        super().__init__("gdown")
        self.content = content
        self.files = files
        self.fetched: list[str] = []
        self.error: Exception | None = None
        self.exceptions = types.SimpleNamespace(DownloadError=type("DownloadError", (Exception,), {}))

    def download_folder(self, url=None, *, skip_download=False, quiet=False, use_cookies=True) -> list:
        assert skip_download and url == SOURCES["sam-i2vpp_8gpu"].places[0]
        return [types.SimpleNamespace(id=f"id of {name}", path=f"weights/{name}") for name in self.files]

    def download(self, *, id, output, resume=False, use_cookies=True) -> str:
        assert resume
        if self.error:
            raise self.error
        self.fetched.append(id)
        Path(output).write_bytes(self.content)
        return output


@pytest.fixture
def drive(published, monkeypatch) -> Drive:
    drive = Drive(published.read_bytes())
    monkeypatch.setitem(sys.modules, "gdown", drive)
    entries = {name: tuple(shape) for name, shape in SHAPES.items()}
    monkeypatch.setattr(checkpoint, "published_entries", lambda: entries)  # the network is not built anew each time
    return drive


def test_only_the_wanted_file_is_fetched_from_the_drive(drive, published, tmp_path) -> None:
    path = download("sam-i2vpp_32gpu", tmp_path)
    assert path.read_bytes() == published.read_bytes()
    assert download("sam-i2vpp_32gpu", tmp_path) == path
    assert drive.fetched == ["id of sam-i2vpp_32gpu.pt"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["sam-i2vpp_32gpu.pt"]


def test_drive_failures(drive, tmp_path) -> None:
    drive.error = drive.exceptions.DownloadError("too many accesses")
    fails("sam-i2vpp_8gpu", tmp_path, "Google Drive: too many accesses")
    drive.error = ConnectionError("Name or service not known")
    fails("sam-i2vpp_8gpu", tmp_path, "Name or service not known")
    drive.error, drive.content = None, b"<html>"
    fails("sam-i2vpp_8gpu", tmp_path, "what was sent is not that file")
    drive.files = ("readme.txt",)
    fails("sam-i2vpp_8gpu", tmp_path, "the Google Drive folder holds readme.txt")
    assert not list(tmp_path.iterdir())


def test_incomplete_network_is_refused(drive, published, tmp_path) -> None:
    content = torch.load(published)
    del content["model"]["no_obj_ptr"]
    torch.save(content, tmp_path / "short.pt")
    drive.content = (tmp_path / "short.pt").read_bytes()
    fails("sam-i2vpp_8gpu", tmp_path, "of its entries 1 are missing, 0 unexpected and 0 of another shape")


def test_gdown_is_missing(monkeypatch, tmp_path) -> None:
    monkeypatch.setitem(sys.modules, "gdown", None)
    fails("sam-i2vpp_8gpu", tmp_path, r'files on Google Drive need gdown: pip install "\.\[download\]" in a clone')


def test_gdown_has_what_we_call() -> None:
    gdown = pytest.importorskip("gdown")
    listing, fetching = (inspect.signature(call).parameters for call in (gdown.download_folder, gdown.download))
    assert {"url", "skip_download", "quiet", "use_cookies"} <= listing.keys()
    assert {"id", "output", "resume", "use_cookies"} <= fetching.keys()
    assert issubclass(gdown.exceptions.DownloadError, Exception)


# ---- all of them


def test_download_all(drive, server, tinysam, tmp_path) -> None:
    server.content = tinysam
    assert [path.name for path in download_all(tmp_path)] == [source.file for source in SOURCES.values()]


def test_download_all_fetches_what_it_can(drive, server, tmp_path) -> None:
    server.content = b"nothing"
    with pytest.raises(DownloadError, match=r"^cannot fetch tinysam.pth"):
        download_all(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sam-i2vpp_32gpu.pt", "sam-i2vpp_8gpu.pt"]


def test_script_calls_the_command() -> None:
    script = Path(download_module.__file__).parents[2] / "checkpoints" / "download_ckpts.sh"
    assert "i2vpp download all" in script.read_text()
