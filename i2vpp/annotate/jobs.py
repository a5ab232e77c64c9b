"""Long pieces of work: one at a time for each video, told to all pages, and stopped on request."""

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
"""Steps before a speed is told: the first ones may cost nothing, or much."""

log = logging.getLogger(__name__)


class Job:
    """A long piece of work that a page shows a bar for. One thread works, others read and may ask it to stop.

    Args:
        kind: PROPAGATE, EXPORT or IMPORT.
        label: in words.
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
        self._begun: float | None = None
        self._latest = 0.0

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self.state == "running"

    @property
    def stopping(self) -> bool:
        """Whether somebody asked it to stop."""
        return self._stop.is_set()

    def begin(self) -> None:
        """Start the clock."""
        self._begun = self._latest = time.monotonic()

    def step(self, done: int, total: int | None = None) -> None:
        """Take note of progress."""
        self.done = done
        self.total = self.total if total is None else total
        self._latest = time.monotonic()

    def stop(self) -> None:
        """Ask it to stop after the present step."""
        self._stop.set()

    def end(self, state: str, *, error: str | None = None, result: dict[str, Any] | None = None) -> None:
        """Say how it ended: `done`, `cancelled` or `failed`."""
        self.error, self.result = error, result
        self.state = state

    def to_json(self) -> dict[str, Any]:
        """Return what a page shows."""
        seconds = 0.0 if self._begun is None else self._latest - self._begun
        fps = self.done / seconds if self.done >= MIN_STEPS and seconds else None
        left = None if fps is None or self.total is None else (self.total - self.done) / fps
        return {
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

    Args:
        tell: is given the job whenever it changes.
        ended: called when one has ended.
        problems: words for errors.
    """

    def __init__(self, tell: Callable[[dict[str, Any]], None], ended: Callable[[], None], problems: Problems) -> None:
        self._tell = tell
        self._ended = ended
        self._problems = problems
        self._job: Job | None = None
        self._lock = threading.Lock()

    @property
    def busy(self) -> bool:
        """Whether a job is running, or waiting for its worker."""
        return self._job is not None and self._job.running

    def to_json(self) -> dict[str, Any] | None:
        """Return the latest job, ended or not; None before the first."""
        return None if self._job is None else self._job.to_json()

    def start(self, job: Job, workers: Workers, task: Callable[[Job], dict[str, Any]]) -> None:
        """Run a task that returns the job's result.

        Raises:
            BusyError: another job is running.
        """
        with self._lock:
            if self._job is not None and self._job.running:
                raise BusyError(f"{self._job.label} is running; cancel it, or wait for its end")
            self._job = job
        self._tell(job.to_json())
        workers.submit(self._run, job, task)

    def step(self, job: Job, done: int, total: int | None = None) -> None:
        """Take note of progress, and tell it."""
        job.step(done, total)
        self._tell(job.to_json())

    def stop(self, *kinds: str) -> None:
        """Ask the running job to end after its present step; only if it is of one of the kinds, if any are given."""
        job = self._job
        if job is not None and job.running and (not kinds or job.kind in kinds):
            job.stop()
            self._tell(job.to_json())

    def _run(self, job: Job, task: Callable[[Job], dict[str, Any]]) -> None:
        job.begin()
        try:
            result = None if job.stopping else task(job)
            job.end("cancelled" if job.stopping else "done", result=result)
        except EXPECTED as error:
            if job.stopping:
                job.end("cancelled")
            else:
                log.warning("%s failed: %s", job.label, error)
                job.end("failed", error=self._problems.words(error))
        except BaseException:
            log.exception("%s failed", job.label)
            job.end("failed", error="an error in the program; the server's log tells more")
            raise
        finally:
            self._ended()
            self._tell(job.to_json())
