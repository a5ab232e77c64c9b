"""Annotators over little videos, for tests: a session alone, its HTTP interface, or a whole server in a thread."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from i2vpp.annotate.frames import JpegCache
from i2vpp.annotate.library import open_library
from i2vpp.annotate.problems import Problems
from i2vpp.annotate.session import ServerContext, VideoSession
from i2vpp.annotate.storage.store import Annotation
from i2vpp.annotate.tracking.model import Model
from i2vpp.annotate.web.server import Address, Server
from i2vpp.annotate.workspace import Workspace
from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
from media import moving_disc

HEIGHT, WIDTH = 48, 64
JSON = {"content-type": "application/json"}
PATIENCE = 60.0


def timeline(store: Annotation) -> dict[int, dict[int, tuple[int, float, float]]]:
    """Area, score and predicted IoU of all masks, by object and frame."""
    found: dict[int, dict[int, tuple[int, float, float]]] = {}
    for cell in store.cells():
        if cell.area is not None:
            found.setdefault(cell.obj_id, {})[cell.frame] = (cell.area, cell.score, cell.iou)
    return found


def write_frames(folder: Path, num_frames: int = 6) -> Path:
    """A folder of PNGs of a moving disc, as small as the network's input in tests."""
    folder.mkdir(parents=True)
    for i, frame in enumerate(moving_disc(num_frames, HEIGHT, WIDTH)[0]):
        Image.fromarray(frame).save(folder / f"{i:05d}.png")
    return folder


def as_version(path: Path, version: int) -> None:
    """Take from a file of annotations what a version did not have; before version 3 ids are beside the history."""
    with sqlite3.connect(path) as connection:
        if version < 3:
            connection.execute("CREATE TABLE used_ids (id INTEGER PRIMARY KEY)")
            connection.execute("INSERT INTO used_ids SELECT object FROM ids UNION SELECT object FROM past_ids")
            connection.execute("DROP TABLE propagation")
        brought = {2: ("labels", "classes"), 3: ("ids", "tracked"), 4: ("tracking", "reviewed")}
        for table in (table for later, tables in brought.items() if later > version for table in tables):
            connection.execute(f"DROP TABLE {table}")
            connection.execute(f"DROP TABLE past_{table}")
        connection.execute(f"PRAGMA user_version = {version}")
    connection.close()


class Gate:
    """Stands before a predictor's steps: lets a number of frames be tracked, and makes the next one wait."""

    def __init__(self, predictor: I2VPPVideoPredictor, free: int = 0) -> None:
        self._tickets = threading.Semaphore(free)
        self._waiting = threading.Event()
        self._track = predictor.track_frame
        predictor.track_frame = self._track_frame  # type: ignore[method-assign]
        self._predictor = predictor

    def _track_frame(self, *args: Any, **kwargs: Any) -> Any:
        if not self._tickets.acquire(blocking=False):
            self._waiting.set()
            assert self._tickets.acquire(timeout=PATIENCE), "the gate was not opened"
        return self._track(*args, **kwargs)

    def wait(self) -> None:
        """Wait until a step stands before the gate."""
        assert self._waiting.wait(PATIENCE), "no step came"
        self._waiting.clear()

    def open(self) -> None:
        """Let everything pass from now on."""
        del self._predictor.track_frame
        self._tickets.release(1000)


class Opened:
    """A session of the only video of a folder, with what it tells."""

    def __init__(self, video: Path, output: Path, build: Callable[[], Any]) -> None:
        self.told: list[dict[str, Any]] = []
        library = open_library(video)
        self.context = ServerContext(
            library=library,
            output=output,
            masks=None,
            model=Model(build, checkpoint="tiny"),
            cache=JpegCache(),
            problems=Problems(library.root, [output]),
            send=lambda **message: self.told.append(message),
        )
        self.session = VideoSession(library.videos[0], self.context)

    def close(self) -> None:
        """Close the session, as an eviction does."""
        self.session.close().result(PATIENCE)


@contextmanager
def opened(video: Path, output: Path, build: Callable[[], Any]) -> Iterator[VideoSession]:
    """A session that is closed in the end."""
    annotator = Opened(video, output, build)
    try:
        yield annotator.session
    finally:
        annotator.close()


def until(condition: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """Wait until a condition holds, and return what it returned."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
    return value


def make_workspace(videos: Path, output: Path, build: Callable[[], Any], **options: Any) -> Workspace:
    """A workspace over a folder; `build` makes the predictor."""
    return Workspace(open_library(videos), output, Model(build, checkpoint="tiny.pt"), **options)


@contextmanager
def serving(workspace: Workspace, **address: Any) -> Iterator[Server]:
    """A real server in a thread."""
    server = Server(workspace, Address(port=0, **address))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until(lambda: server.started)
    try:
        yield server
    finally:
        server.stop()
        thread.join(PATIENCE)


def decode_masks(body: bytes, height: int = HEIGHT, width: int = WIDTH) -> dict[int, np.ndarray]:
    """Read the masks of a frame as the page does."""
    words = np.frombuffer(body, "<u4")
    masks, at = {}, 0
    while at < len(words):
        obj_id, count = int(words[at]), int(words[at + 1])
        runs = words[at + 2 : at + 2 + count]
        values = np.arange(count) % 2 == 1
        masks[obj_id] = np.repeat(values, runs).reshape(height, width)
        at += 2 + count
    return masks
