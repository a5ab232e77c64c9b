"""What the annotator tells of its jobs: every state has a revision, and states are told in the order of revisions."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from annotator import PATIENCE, opened, until, write_frames
from i2vpp.annotate.jobs import EXPORT, Job, JobRunner
from i2vpp.annotate.problems import BusyError, Problems
from i2vpp.annotate.tracking.model import Model
from i2vpp.annotate.workers import Workers
from i2vpp.errors import CheckpointError, I2VPPError
from models import encode_once, make_predictor


@pytest.fixture
def workers() -> Iterator[Workers]:
    workers = Workers("test", 2)
    yield workers
    workers.close()
    workers.join()


class Told(list[dict[str, Any]]):
    """What a runner tells, with the runner."""

    def __init__(self, tmp_path: Path) -> None:
        super().__init__()
        self.on_end: Callable[[], None] = lambda: None
        self.runner = JobRunner(self.append, self._ended, Problems(tmp_path, []))

    def _ended(self) -> None:
        self.on_end()

    def finish(self) -> dict[str, Any]:
        until(lambda: not self.runner.busy)
        shown = self.runner.to_json()
        assert shown is not None
        return shown


@pytest.fixture
def told(tmp_path: Path) -> Told:
    return Told(tmp_path)


def steps(told: Told, count: int) -> Any:
    def task(job: Job) -> dict[str, Any]:
        for done in range(count):
            told.runner.step(job, done + 1, count)
        return {"folder": "x"}

    return task


def test_every_state_of_a_job_has_a_larger_revision(told: Told, workers: Workers) -> None:
    assert told.runner.to_json() is None
    for count in (3, 1):
        told.runner.start(Job(EXPORT, "Export"), workers, steps(told, count))
        last = told.finish()
        assert (last["state"], last["done"], last["result"]) == ("done", count, {"folder": "x"})
        assert told[-1] == last
    revisions = [state["revision"] for state in told]
    assert revisions == sorted(set(revisions))
    assert [state["state"] for state in told] == ["running"] * 4 + ["done"] + ["running"] * 2 + ["done"]
    assert [state["number"] == told[0]["number"] for state in told] == [True] * 5 + [False] * 3
    assert all(0 < revision < 2**53 for revision in revisions), "a number that JavaScript can hold"


@pytest.mark.parametrize(("error", "state", "words"), [
    (I2VPPError("the disk is full"), "failed", "the disk is full"),
    (ZeroDivisionError(), "failed", "an error in the program; the server's log tells more"),
    (None, "cancelled", None),
])  # fmt: skip
def test_however_a_job_ends_its_end_comes_last(
    told: Told, workers: Workers, error: BaseException | None, state: str, words: str | None
) -> None:
    def task(job: Job) -> dict[str, Any]:
        told.runner.step(job, 1, 2)
        told.runner.stop()
        if error is not None:
            job._stop.clear()
            raise error
        return {}

    told.runner.start(Job(EXPORT, "Export"), workers, task)
    last = told.finish()
    assert (last["state"], last["error"], last["stopping"]) == (state, words, False)
    assert told[-1] == last
    assert max(state["revision"] for state in told) == last["revision"]
    told.runner.stop()  # nothing runs: nothing is told
    assert told[-1] is last


def test_the_next_job_begins_when_the_end_of_the_last_one_has_been_told(told: Told, workers: Workers) -> None:
    """While a job is ending another one is refused, so that no end is told of the one after it."""
    refused: list[BusyError] = []
    first = True

    def ended() -> None:
        nonlocal first
        if first:
            first = False
            try:
                told.runner.start(Job(EXPORT, "Second"), workers, steps(told, 1))
            except BusyError as error:
                refused.append(error)

    told.on_end = ended
    told.runner.start(Job(EXPORT, "First"), workers, steps(told, 1))
    told.finish()
    assert [str(error) for error in refused] == ["First is running; cancel it, or wait for its end"]
    told.runner.start(Job(EXPORT, "Second"), workers, steps(told, 1))
    told.finish()
    assert [(state["label"], state["state"]) for state in told[-3:]] == [
        ("Second", "running"), ("Second", "running"), ("Second", "done")
    ]  # fmt: skip


def test_a_job_ends_though_telling_the_video_fails(told: Told, workers: Workers) -> None:
    def ended() -> None:
        raise OSError("no store")

    told.on_end = ended
    told.runner.start(Job(EXPORT, "Export"), workers, steps(told, 1))
    assert told.finish()["state"] == "done"


def test_states_that_threads_ask_for_are_whole(told: Told, workers: Workers) -> None:
    """Of two states with one revision every number is the same; a later one never has a smaller revision."""
    seen: dict[int, str] = {}
    wrong: list[Any] = []
    stop = threading.Event()

    def look() -> None:
        latest = 0
        while not stop.is_set():
            state = told.runner.to_json()
            if state is None:
                continue
            text = json.dumps(state)
            if state["revision"] < latest or seen.setdefault(state["revision"], text) != text:
                wrong.append(state)
            latest = state["revision"]

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        told.runner.start(Job(EXPORT, "Export"), workers, steps(told, 20))
        told.finish()
    stop.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert not wrong
    assert len(told) == 20 * 22


def test_revisions_go_on_when_a_video_is_opened_again(tmp_path: Path) -> None:
    """A page that stays open knows the job of before."""
    predictor = encode_once(make_predictor())
    video, output = write_frames(tmp_path / "clip", 2), tmp_path / "out"
    revisions = []
    for _ in range(2):
        with opened(video, output, lambda: predictor) as session:
            assert session.state()["job"] is None
            session.jobs.start(Job(EXPORT, "Export"), session.files_worker, lambda job: {})
            until(lambda session=session: not session.jobs.busy)
            job = session.state()["job"]
            revisions += [job["number"], job["revision"]]
    assert revisions[2] > revisions[0]
    assert revisions[3] > revisions[1]


def test_a_model_that_is_there_is_newer_than_one_that_is_loading() -> None:
    go = threading.Event()

    def build() -> Any:
        go.wait(PATIENCE)
        raise CheckpointError("there is none")

    model = Model(build, checkpoint="x")
    model.start()
    before = model.describe()
    go.set()
    after = until(lambda: "error" in (about := model.describe()) and about)
    assert before == {"revision": 0, "loading": True}
    assert after == {"revision": 1, "error": "there is no network: there is none"}
