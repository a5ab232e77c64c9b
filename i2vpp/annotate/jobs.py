"""Long tasks: one at a time for each video, shown on all pages, and stopped on request."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from i2vpp.annotate.problems import EXPECTED, BusyError, Problems
from i2vpp.annotate.workers import Workers

PROPAGATE, EXPORT, IMPORT = "propagate", "export", "import"
MIN_STEPS = 3
"""Steps before a speed is shown: the first steps may be far faster or slower than the others."""

log = logging.getLogger(__name__)


class Job:
    """A long task with a progress bar on the page. One thread works on it; others read it and may ask it to stop.

    Args:
        kind: PROPAGATE, EXPORT or IMPORT.
        label: what pages call it.
        total: steps, if known.
    """

    def __init__(self, kind: str, label: str, total: int | None = None) -> None:
        self.kind = kind
        self.label = label
        self.total = total
        self.done = 0
        self.state = "running"
        self.error: str | None = None
        self.result: dict[str, Any] | None = None
        self._stop = threading.Event()
        self._number = time.time_ns() // 1000
        self._begun: float | None = None
        self._latest = 0.0

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self.state == "running"

    @property
    def stopping(self) -> bool:
        """Whether the job was asked to stop."""
        return self._stop.is_set()

    def begin(self) -> None:
        """Start the clock."""
        self._begun = self._latest = time.monotonic()

    def step(self, done: int, total: int | None = None) -> None:
        """Set the progress.

        Args:
            done: steps done.
            total: steps in all; None leaves the number as it is.
        """
        self.done = done
        self.total = self.total if total is None else total
        self._latest = time.monotonic()

    def stop(self) -> None:
        """Ask it to stop after the present step."""
        self._stop.set()

    def end(self, state: str, *, error: str | None = None, result: dict[str, Any] | None = None) -> None:
        """Set how the job ended.

        Args:
            state: `done`, `cancelled` or `failed`.
            error: message for pages, of a failed job.
            result: result of a job that is done.
        """
        self.error, self.result = error, result
        self.state = state

    def to_json(self) -> dict[str, Any]:
        """Return what a page shows."""
        seconds = 0.0 if self._begun is None else self._latest - self._begun
        fps = self.done / seconds if self.done >= MIN_STEPS and seconds else None
        left = None if fps is None or self.total is None else (self.total - self.done) / fps
        return {
            "number": self._number,
            "kind": self.kind,
            "label": self.label,
            "done": self.done,
            "total": self.total,
            "fps": fps,
            "seconds_left": left if self.running else None,
            "state": self.state,
            "stopping": self.running and self.stopping,
            "error": self.error,
            "result": self.result,
        }


class JobRunner:
    """Runs the jobs of one video, one at a time.

    Every state of a job that is shown has a revision. A page gets states in answers and in events, which may overtake
    each other, and ignores those with an older revision. Revisions only grow, also when the video is opened again.

    Args:
        tell: function that is called with the job's state whenever it changes.
        ended: function that is called when a job has ended.
        problems: finds the messages for errors.
    """

    def __init__(self, tell: Callable[[dict[str, Any]], None], ended: Callable[[], None], problems: Problems) -> None:
        self._tell = tell
        self._ended = ended
        self._problems = problems
        self._job: Job | None = None
        self._shown: dict[str, Any] | None = None  # never written to: another thread may be sending it
        self._revision = time.time_ns() // 1000  # the clock makes it larger than all of an earlier session of the video
        self._lock = threading.RLock()

    @property
    def busy(self) -> bool:
        """Whether a job is running, or waiting for its worker."""
        return self._shown is not None and self._shown["state"] == "running"

    def to_json(self) -> dict[str, Any] | None:
        """Return the latest job, ended or not, with its revision; None before the first."""
        return self._shown

    def start(self, job: Job, workers: Workers, task: Callable[[Job], dict[str, Any]]) -> None:
        """Run a task as the video's only job.

        Args:
            job: what pages are shown.
            workers: the thread that the task runs in.
            task: function that is given the job, and returns its result.

        Raises:
            BusyError: another job is running.
        """
        with self._lock:
            self.check_idle()
            self._job = job
            self._show(job)
        workers.submit(self._run, job, task)

    def check_idle(self) -> None:
        """Raise BusyError if a job is running."""
        with self._lock:
            if self._job is not None and self._job.running:
                raise BusyError(f"{self._job.label} is running; cancel it, or wait for its end")

    def step(self, job: Job, done: int, total: int | None = None) -> None:
        """Set a job's progress and tell all pages.

        Args:
            job: the running job.
            done: steps done.
            total: steps in all; None leaves the number as it is.
        """
        with self._lock:
            job.step(done, total)
            self._show(job)

    def stop(self, *kinds: str) -> None:
        """Ask the running job to end after its present step; only if it is of one of the kinds, if any are given."""
        with self._lock:
            job = self._job
            if job is not None and job.running and (not kinds or job.kind in kinds):
                job.stop()
                self._show(job)

    def _show(self, job: Job) -> None:
        """Tell a job's present state. The lock must be held, so that states are told in order of their revisions."""
        self._revision += 1
        self._shown = {**job.to_json(), "revision": self._revision}
        self._tell(self._shown)

    def _run(self, job: Job, task: Callable[[Job], dict[str, Any]]) -> None:
        job.begin()
        state, result = "failed", None
        error: str | None = "an error in the program; the server's log tells more"
        try:
            result = None if job.stopping else task(job)
            state, error = "cancelled" if job.stopping else "done", None
        except EXPECTED as problem:
            state, error = "cancelled", None
            if not job.stopping:
                log.warning("%s failed: %s", job.label, problem)
                state, error = "failed", self._problems.words(problem)
        except BaseException:
            log.exception("%s failed", job.label)
            raise
        finally:
            try:
                self._ended()
            finally:
                with self._lock:  # under one lock: the next job begins only after the end of this one was told
                    job.end(state, error=error, result=result)
                    self._show(job)
