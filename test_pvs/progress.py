"""The progress bar of a run."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

from test_pvs.worker import Worker


class Bar:
    """The progress bar over the frames of all jobs, whoever tracks them.

    Args:
        worker: of the run.
        hidden: where another process of the machine shows it.
    """

    def __init__(self, worker: Worker, *, hidden: bool) -> None:
        self._worker = worker
        self._open = list(worker.jobs)
        self._settled = 0  # frames of settled jobs
        self._under_way = 0
        self._next = 0.0  # when to look what others have done
        self._look()
        self._bar = tqdm(
            total=sum(job.frames for job in worker.jobs),
            initial=self._settled,
            unit="frame",
            smoothing=0.05,  # jobs of others come all at once
            mininterval=0.5 if sys.stderr.isatty() else 15,  # a log is not flooded
            disable=hidden,
        )

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def show(self, under_way: int, *, look: bool = False) -> None:
        """Bring the bar up to date.

        Args:
            under_way: frames of jobs that are not finished.
            look: see what others have done, which is otherwise seen every few seconds.
        """
        if self._bar.disable:
            return
        if look or under_way < self._under_way or time.monotonic() > self._next:
            self._look()
        self._under_way = under_way
        there, total = len(self._worker.jobs) - len(self._open), len(self._worker.jobs)
        self._bar.set_postfix_str(f"{there}/{total} jobs", refresh=False)
        self._bar.update(min(self._settled + under_way, self._bar.total) - self._bar.n)

    def _look(self) -> None:
        begin = time.monotonic()
        settled = {job for job in self._open if self._worker.is_settled(job)}
        self._settled += sum(job.frames for job in settled)
        self._open = [job for job in self._open if job not in settled]
        now = time.monotonic()
        self._next = now + max(2.0, 20 * (now - begin))  # a slow disk is not asked all the time
