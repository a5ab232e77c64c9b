"""What one process of a run does: take jobs until none is left open."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch

from i2vpp.errors import I2VPPError, RunError
from test_pvs.run_store import DoJob, Failure, Job, RunStore

SetUp: TypeAlias = Callable[[int], DoJob]
"""Takes the index of a process on this machine, which is also that of its GPU; builds what works there."""

FAILURES = (I2VPPError, OSError, RuntimeError, ValueError, LookupError, MemoryError, EOFError, SyntaxError)
"""What may be wrong with one job (a broken file, too little memory) while the others can be made."""

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
POLL = 0.5  # seconds between two looks at what others do


@dataclass(frozen=True, kw_only=True)
class Worker:
    """What every process of a run knows.

    Args:
        jobs: the longest first, so that the last ones to finish are short.
        store: of the run.
        set_up: see `run_jobs`.
        threads: of PyTorch in each process.
        earlier: failures of earlier starts, which are tried again.
    """

    jobs: tuple[Job, ...]
    store: RunStore
    set_up: SetUp
    threads: int
    earlier: Mapping[str, Failure]

    def is_settled(self, job: Job) -> bool:
        """Whether the job is done, or has failed since this start."""
        state = self.store.look(job)
        return state is not None and state != self.earlier.get(job.name)

    def run(self, index: int, show: Callable[[int], None]) -> None:
        """Make jobs until all are settled; `show` is told how many frames of the present one are tracked."""
        do_job: DoJob | None = None
        left = self.jobs
        while left:
            busy = []
            for job in left:
                if self.is_settled(job):
                    continue
                with self.store.claim(job.name) as mine:
                    if not mine:
                        busy.append(job)
                    elif not self.is_settled(job):  # it may have become so since
                        do_job = do_job or self._set_up(index)
                        self._attempt(job, do_job, show)
            left = tuple(busy)
            if left:
                show(0)
                time.sleep(POLL)

    def _set_up(self, index: int) -> DoJob:
        try:
            return self.set_up(index)
        except I2VPPError:
            raise
        except RuntimeError as error:  # of PyTorch, such as a GPU without memory
            raise RunError(f"the network cannot be set up: {error}") from error

    def _attempt(self, job: Job, do_job: DoJob, show: Callable[[int], None]) -> None:
        frames = 0

        def on_frame() -> None:
            nonlocal frames
            frames += 1
            show(frames)

        try:
            self.store.make(job, do_job, on_frame)
        except FAILURES as error:
            if isinstance(error, OSError) and error.errno in DISK_FULL:
                raise RunError(
                    f"{self.store.out} is full ({error}); make room, and the same command goes on"
                ) from error
            self.store.fail(job, error)
            _check_gpu()
        show(0)


def _check_gpu() -> None:
    """Stop a process whose GPU answers no more, before it fails on all jobs that are left."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        try:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
        except RuntimeError as error:
            raise RunError(f"the GPU does not work any more ({error}); the same command goes on") from error
