"""Answers that are overtaken by events, and the other way round: the page shows what is newest, whatever came last."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from annotate_page import PATIENCE_MS, Annotator, annotator, chromium, expect
from annotator import PATIENCE, make_workspace, serving, until, write_frames
from i2vpp.annotate.exchange import transfers
from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
from models import encode_once, make_predictor

FRAMES = 4
BARS = "async () => JSON.stringify((await import('/static/state.js')).app.timeline['1'])"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def predictor() -> I2VPPVideoPredictor:
    return encode_once(make_predictor())


@pytest.fixture
def url(tmp_path: Path, predictor: I2VPPVideoPredictor) -> Iterator[str]:
    clip = write_frames(tmp_path / "clip", FRAMES)
    with serving(make_workspace(clip, tmp_path / "out", lambda: predictor, masks=tmp_path)) as server:
        yield server.url


@pytest.fixture
def page(browser: Any, url: str) -> Iterator[Annotator]:
    with annotator(browser, url) as opened:
        yield opened.open().frame(0).settled()


@contextmanager
def held_back(page: Annotator, pattern: str, meanwhile: Callable[[], None], *, after: int = 0) -> Iterator[None]:
    """Give the next answer to such a request, or one after it, to the page only when `meanwhile` has come to its end.

    The block ends when the page has the answer.
    """
    answers, given = 0, False

    def handle(route: Any) -> None:
        nonlocal answers, given
        answers += 1
        answer = route.fetch()
        if answers > after:
            meanwhile()
        route.fulfill(response=answer)
        given = answers > after

    page.page.route(pattern, handle, times=after + 1)
    yield
    end = time.monotonic() + PATIENCE
    while not given:
        assert time.monotonic() < end, "waited in vain"
        page.page.wait_for_timeout(20)
    page.page.wait_for_timeout(200)  # it has looked at it


def hears(page: Annotator, condition: str) -> None:
    """Wait until the page's own state meets a condition, in JavaScript, of `app`."""
    page.page.wait_for_function(
        f"async () => {{ const {{ app }} = await import('/static/state.js'); return {condition}; }}"
    )


def state_of(page: Annotator, video: str) -> dict[str, Any]:
    state: dict[str, Any] = httpx.get(f"{page.url}api/videos/{video}").json()
    return state


class Gate:
    """Makes exports wait."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._open = threading.Event()
        export = transfers.export

        def wait(*args: Any, **kwargs: Any) -> Any:
            assert self._open.wait(PATIENCE)
            return export(*args, **kwargs)

        monkeypatch.setattr(transfers, "export", wait)

    def open(self) -> None:
        """Let them go on."""
        self._open.set()


def export(page: Annotator) -> None:
    page.page.get_by_role("button", name="Export").click()
    page.page.locator("#export-form").get_by_role("button", name="Export").click()


def test_the_answer_that_starts_a_job_comes_after_its_end(page: Annotator, monkeypatch: pytest.MonkeyPatch) -> None:
    page.paint((16, 24), (40, 24))
    gate, said = Gate(monkeypatch), page.page.locator(".notice", has_text="Exported to")

    def end() -> None:
        gate.open()
        said.wait_for()  # the event of its end is here

    with held_back(page, "**/export", end):
        export(page)
    page.settled()
    assert page.state()["job"]["state"] == "done"
    expect(page.page.locator("#job")).to_be_hidden()
    expect(page.page.locator("#run")).to_be_visible()
    expect(said).to_have_count(1)
    page.notice("Exported to “exports/")
    export(page)  # another one of the kind is told of again
    page.notice("Exported to “exports/")


def test_the_answer_that_starts_a_job_tells_of_its_end(browser: Any, url: str) -> None:
    """A job that was over before its answer was written, and no event to say so."""
    with annotator(browser, url) as page:
        page.page.route("**/api/events", lambda route: route.abort())
        page.open().frame(0).press("b").drag((16, 24), (40, 24))
        hears(page, "app.busy === 0 && app.video.revision === 2")

        def after_the_end(route: Any) -> None:
            assert route.fetch().ok
            video = page.page.url.partition("video=")[2].partition("&")[0]
            job_ended = lambda: (state := state_of(page, video))["job"]["state"] == "done" and state  # noqa: E731
            route.fulfill(json=until(job_ended))

        page.page.route("**/export", after_the_end)
        export(page)
        page.notice("Exported to “exports/")
        expect(page.page.locator("#job")).to_be_hidden()
        page.forgive(lambda trouble: "ERR_FAILED" in trouble)


def test_an_edit_elsewhere_overtakes_the_answer_to_ones_own(page: Annotator) -> None:
    """The answer to an edit is older than what an event told: the page fetches the rest."""
    video = page.state()["id"]

    def edit() -> None:
        revision = state_of(page, video)["revision"]
        httpx.post(f"{page.url}api/videos/{video}/objects", json={"revision": revision}).raise_for_status()

    with held_back(page, "**/objects", edit):
        page.press("n")
    expect(page.page.locator("#objects li")).to_have_count(2)
    hears(page, "app.busy === 0 && app.video.revision === 2")


def test_a_video_changes_while_it_is_being_opened(page: Annotator) -> None:
    """Its events come before the answer that shows it: an object is added, and an export begins and ends."""
    page.paint((16, 24), (40, 24))
    video = page.state()["id"]
    path = f"{page.url}api/videos/{video}"

    def change() -> None:
        httpx.post(f"{path}/objects", json={"revision": state_of(page, video)["revision"]}).raise_for_status()
        httpx.post(f"{path}/export", json={"kind": "sav"}).raise_for_status()
        until(lambda: state_of(page, video)["job"]["state"] == "done")

    with held_back(page, "**/open", change):
        page.page.reload()
    page.frame(0).settled()
    expect(page.page.locator("#objects li")).to_have_count(2)
    expect(page.page.locator("#job")).to_be_hidden()
    assert page.page.locator(".notice").count() == 0, "what ended before the page was there is no news"


@pytest.mark.parametrize("way", ["event after answer", "answer after event"])
def test_a_running_job_is_met_while_its_video_is_being_opened(
    page: Annotator, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    page.paint((16, 24), (40, 24))
    video = page.state()["id"]
    gate = Gate(monkeypatch)
    httpx.post(f"{page.url}api/videos/{video}/export", json={"kind": "sav"}).raise_for_status()

    def end() -> None:
        gate.open()
        until(lambda: state_of(page, video)["job"]["state"] == "done")

    if way == "answer after event":
        with held_back(page, "**/open", end):
            page.page.reload()
    else:
        page.page.reload()
        expect(page.page.locator("#job")).to_be_visible()
        end()
        page.notice("Exported to")
    page.frame(0).settled()
    expect(page.page.locator("#job")).to_be_hidden()
    hears(page, "app.video.job.state === 'done'")


def test_masks_that_came_meanwhile_stay_in_the_timeline(page: Annotator) -> None:
    """An answer is as old as its question; events have told of more."""
    page.paint((16, 24), (40, 24))
    assert page.page.evaluate(BARS) == "[[0,0,1]]"

    def track() -> None:
        video = page.state()["id"]
        until(lambda: state_of(page, video)["job"]["state"] == "done")
        body = {"revision": page.state()["revision"], "start": 0}
        httpx.post(f"{page.url}api/videos/{video}/propagate", json=body).raise_for_status()
        until(lambda: (job := state_of(page, video)["job"])["kind"] == "propagate" and job["state"] == "done")
        hears(page, f"app.timeline['1'].at(-1)[1] === {FRAMES - 1}")

    with held_back(page, "**/export", track):
        export(page)
    bars = json.loads(page.page.evaluate(BARS))
    assert (bars[0][0], bars[-1][1]) == (0, FRAMES - 1)
    hears(page, "app.video.job.kind === 'propagate' && app.video.job.state === 'done'")
    page.settled()


def test_the_model_is_there_before_the_list_says_that_it_is_loading(
    browser: Any, tmp_path: Path, predictor: I2VPPVideoPredictor
) -> None:
    go = threading.Event()

    def build() -> I2VPPVideoPredictor:
        assert go.wait(PATIENCE)
        return predictor

    for name in ("one", "other"):  # none is opened by itself, which would ask for the list again
        write_frames(tmp_path / "clips" / name, FRAMES)
    with (
        serving(make_workspace(tmp_path / "clips", tmp_path / "out", build)) as server,
        annotator(browser, server.url) as page,
    ):

        def load() -> None:
            page.page.wait_for_timeout(500)  # the page listens by now
            go.set()
            until(lambda: "loading" not in httpx.get(f"{page.url}api/library").json()["model"])
            page.page.wait_for_timeout(300)

        with held_back(page, "**/api/library", load, after=1):  # the list is asked for again when it is shown
            page.page.goto(page.url)
        expect(page.page.locator("#videos li")).to_have_count(2)
        expect(page.page.locator("#model")).to_contain_text("64 px", timeout=PATIENCE_MS)
