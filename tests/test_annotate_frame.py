"""What the server does for work on the frame: polygons, copies of masks, times of frames."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from starlette.testclient import TestClient

from annotator import HEIGHT, JSON, WIDTH, Gate, make_workspace, opened, until, write_frames
from i2vpp.annotate.errors import StaleRevisionError
from i2vpp.annotate.problems import NotFoundError
from i2vpp.annotate.ranges import copy_mask
from i2vpp.annotate.session import VideoSession
from i2vpp.annotate.storage.masks import Stroke, paint
from i2vpp.annotate.storage.values import Prompts
from i2vpp.annotate.times import frame_durations
from i2vpp.annotate.web.app import make_app
from i2vpp.annotate.web.security import Guard
from i2vpp.errors import PromptError
from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
from i2vpp.session.video import open_source
from models import encode_once, make_predictor

FRAMES = 4
EMPTY = np.zeros((HEIGHT, WIDTH), bool)
DAB = Stroke(points=((40.0, 30.0),), radius=6.0)
TRIANGLE = Stroke(points=((10.0, 5.0), (50.0, 10.0), (20.0, 40.0)), radius=None)


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


def polygon(*points: tuple[float, float], erase: bool = False) -> Stroke:
    return Stroke(points=points, radius=None, erase=erase)


def prompt(session: VideoSession, prompts: Prompts, frame: int = 0) -> np.ndarray:
    session.set_prompts(1, frame, session.store.revision, prompts)
    return mask(session, frame)


def copied(session: VideoSession, frame: int, source: int) -> np.ndarray:
    copy_mask(session, 1, frame, revision=session.store.revision, source=source)
    return mask(session, frame)


def mask(session: VideoSession, frame: int) -> np.ndarray:
    stored = session.store.mask(1, frame)
    assert stored is not None
    return stored.decode(HEIGHT, WIDTH)


# ---- polygons


def winding(corners: tuple[tuple[float, float], ...], x: float, y: float) -> int:
    """How often a polygon goes around a point, by the angles under which its sides are seen."""
    around = [np.arctan2(cy - y, cx - x) for cx, cy in corners]
    turns = [(b - a + np.pi) % (2 * np.pi) - np.pi for a, b in zip(around, [*around[1:], around[0]], strict=True)]
    return round(sum(turns) / (2 * np.pi))


@pytest.mark.parametrize("seed", range(6))
def test_a_polygon_takes_the_pixels_whose_centres_it_goes_around(seed: int) -> None:
    generator = np.random.default_rng(seed)
    corners = tuple((float(x), float(y)) for x, y in generator.uniform(-12, 76, (3 + seed * 2, 2)))
    taken = paint(EMPTY, [polygon(*corners)])
    expected = [[winding(corners, x + 0.5, y + 0.5) != 0 for x in range(WIDTH)] for y in range(HEIGHT)]
    assert np.array_equal(taken, expected)


def test_polygons_add_and_subtract_and_do_not_depend_on_their_direction() -> None:
    square = ((8.0, 8.0), (24.0, 8.0), (24.0, 24.0), (8.0, 24.0))
    filled = paint(EMPTY, [polygon(*square)])
    assert filled.sum() == 16 * 16
    assert filled[8:24, 8:24].all()
    assert np.array_equal(paint(EMPTY, [polygon(*square[::-1])]), filled)
    holed = paint(filled, [polygon((12.0, 12.0), (20.0, 12.0), (20.0, 20.0), (12.0, 20.0), erase=True)])
    assert holed.sum() == 16 * 16 - 8 * 8
    assert not paint(EMPTY, [polygon((1.0, 1.0), (1.2, 1.0), (1.2, 60.0))]).any(), "it reaches no centre"
    whole = paint(EMPTY, [polygon((-9.0, -9.0), (900.0, -9.0), (900.0, 900.0), (-9.0, 900.0))])
    assert whole.all()


@pytest.mark.parametrize(
    ("stroke", "message"),
    [
        ({"points": [[1, 2], [3, 4]], "radius": None, "erase": False}, r"\[0\].points must hold 3 or more; got 2"),
        ({"points": [[1, 2], [3, 4]], "radius": 0, "erase": False}, "must be positive, or null for a polygon; got 0"),
        ({"points": [], "radius": 2, "erase": False}, r"strokes\[0\].points must hold 1 or more; got 0"),
        ({"points": [[1, 2]], "erase": False}, "radius must be positive"),
    ],
)  # fmt: skip
def test_what_is_no_polygon_is_refused(stroke: dict[str, Any], message: str) -> None:
    with pytest.raises(PromptError, match=message):
        Prompts.from_json({"strokes": [stroke]})


def test_polygons_are_stored_like_strokes(session: VideoSession) -> None:
    prompts = Prompts(strokes=(DAB, TRIANGLE, polygon((0.0, 0.0), (63.0, 0.0), (0.0, 30.0), erase=True)))
    assert Prompts.from_json(prompts.to_json()) == prompts
    assert np.array_equal(prompt(session, prompts), paint(EMPTY, prompts.strokes))
    assert session.store.undo_label == "Brush: Object 1, frame 0"
    prompt(session, Prompts(strokes=(DAB, TRIANGLE)))
    assert session.store.undo_label == "Polygon: Object 1, frame 0"
    assert np.array_equal(mask(session, 0), paint(EMPTY, [DAB, TRIANGLE]))


# ---- copies


def test_a_mask_is_copied_and_taken_back(session: VideoSession) -> None:
    before = prompt(session, Prompts(strokes=(TRIANGLE,)))
    other = prompt(session, Prompts(strokes=(DAB,)), frame=1)
    assert np.array_equal(copied(session, 1, 0), before)
    assert session.store.prompts_on(1, 1) == Prompts(imported=True)
    assert session.store.undo_label == "Copy: Object 1, frame 0 to 1"
    session.travel("undo", session.store.revision)
    assert np.array_equal(mask(session, 1), other)
    assert session.store.prompts_on(1, 1) == Prompts(strokes=(DAB,))


def test_without_its_copy_a_frame_has_the_tracked_mask_again(session: VideoSession) -> None:
    prompt(session, Prompts(strokes=(DAB,)))
    session.start_propagation(session.store.revision, start=0, direction="forward", stop=None, obj_ids=None)
    until(lambda: not session.jobs.busy)
    tracked = mask(session, 2)
    prompt(session, Prompts(strokes=(TRIANGLE,)), frame=2)
    assert np.array_equal(copied(session, 2, 0), paint(EMPTY, [DAB]))
    session.set_prompts(1, 2, session.store.revision, Prompts())
    assert np.array_equal(mask(session, 2), tracked)


def test_strokes_on_copies_come_off_the_copy_that_they_were_painted_on(session: VideoSession) -> None:
    prompt(session, Prompts(strokes=(TRIANGLE,)))
    prompt(session, Prompts(strokes=(DAB,)), frame=1)
    first = copied(session, 2, 0)
    painted = Prompts(strokes=(DAB,), imported=True)
    prompt(session, painted, frame=2)
    copied(session, 2, 1)
    prompt(session, replace(painted, strokes=(TRIANGLE,)), frame=2)
    for _ in range(2):
        session.travel("undo", session.store.revision)
    assert session.store.prompts_on(1, 2) == painted
    with pytest.raises(PromptError, match="undo, or paint over them"):
        prompt(session, Prompts(imported=True), frame=2)
    session.travel("undo", session.store.revision)
    assert np.array_equal(mask(session, 2), first)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"obj_id": 7}, NotFoundError, "there is no object 7"),
        ({"frame": FRAMES}, NotFoundError, "there is no frame 4"),
        ({"source": 9}, NotFoundError, "there is no frame 9"),
        ({"source": 2}, NotFoundError, "Object 1 has no mask on frame 2 to copy"),
        ({"revision": 0}, StaleRevisionError, "changed meanwhile"),
    ],
)
def test_a_copy_that_makes_no_sense_changes_nothing(
    session: VideoSession, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    prompt(session, Prompts(strokes=(DAB,)))
    before = session.state()
    given = {"obj_id": 1, "frame": 1, "source": 0, "revision": session.store.revision, **arguments}
    with pytest.raises(error, match=message):
        copy_mask(session, **given)
    assert session.state() == before


def test_copies_by_request_stop_a_propagation(video: Path, tmp_path: Path, predictor: I2VPPVideoPredictor) -> None:
    app = make_app(make_workspace(video, tmp_path / "out", lambda: predictor), Guard())
    with TestClient(app, base_url="http://127.0.0.1:5000", headers=JSON) as client:
        base = f"/api/videos/{client.get('/api/library').json()['videos'][0]['id']}"
        state = client.post(f"{base}/open").json()
        assert state["durations"] is None
        state = client.post(f"{base}/objects", json={"revision": state["revision"]}).json()
        strokes = [{"points": TRIANGLE.points, "radius": None, "erase": False}]
        asked = {"revision": state["revision"], "strokes": strokes}
        state = client.put(f"{base}/objects/1/prompts/0", json=asked).json()
        gate = Gate(predictor)
        state = client.post(f"{base}/propagate", json={"revision": state["revision"], "start": 0}).json()
        gate.wait()
        gate.open()
        answer = client.post(f"{base}/objects/1/copy/3", json={"revision": state["revision"], "source": 0})
        assert answer.status_code == 200, answer.text
        assert answer.json()["prompts"]["1"]["3"]["imported"]
        assert client.get(f"{base}/masks/3").content == client.get(f"{base}/masks/0").content
        refused = client.post(f"{base}/objects/1/copy/3", json={"revision": answer.json()["revision"], "source": "x"})
        assert (refused.status_code, "source" in refused.json()["error"]) == (400, True)
        client.patch(f"{base}/objects/1", json={"revision": answer.json()["revision"], "locked": True})
        locked = client.post(f"{base}/objects/1/copy/2", json={"revision": answer.json()["revision"] + 1, "source": 0})
        assert "is locked" in locked.json()["error"]


# ---- times


def write_video(path: Path, times: list[int], rate: int) -> Path:
    """A video whose frames are shown at these milliseconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height = 64, 48
        stream.codec_context.time_base = Fraction(1, 1000)
        for i, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 40 * i, np.uint8))
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    ("steps", "rate", "found"),
    [([40] * 5, 25, None), ([33, 33, 34, 33, 33], 30, None), ([40, 40, 400, 40, 40], 25, [40, 40, 400, 40, 40])],
    ids=["constant", "rounded", "variable"],
)
def test_durations_are_told_where_the_rate_varies(
    tmp_path: Path, steps: list[int], rate: int, found: list[int] | None
) -> None:
    times = list(itertools.accumulate(steps, initial=0))
    with closing(open_source(str(write_video(tmp_path / "clip.mkv", times, rate)))) as source:
        assert frame_durations(source) == found


def test_images_have_no_times(video: Path) -> None:
    with closing(open_source(str(video))) as source:
        assert frame_durations(source) is None
