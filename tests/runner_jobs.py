"""Jobs for tests of the runner: makes little files in place of masks, and does what it is told by files in a folder.

    python runner_jobs.py OUT ORDERS PROCESSES

makes all `JOBS`. ORDERS may hold `broken/<job>` (the job raises DataError in its second frame), `deadly/<job>` (the
process kills itself, once) and `slow` (each frame takes a tenth of a second). `log` there tells who began what.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from i2vpp.errors import DataError, I2VPPError
from i2vpp.runs.runner import run_jobs
from i2vpp.runs.store import DoJob, Job, JobRecord
from i2vpp.utils.signals import exit_status

JOBS = [Job(name=f"{video}/{obj:03d}", frames=3 + obj) for video in ("bear", "cat", "dog") for obj in range(3)]
SETTINGS = {"prompt": "gm", "model": {"seed": 0}}


@dataclass(frozen=True)
class Drawing:
    """Makes jobs; see the top of the file."""

    orders: Path

    def __call__(self, index: int) -> DoJob:
        self.orders.mkdir(parents=True, exist_ok=True)
        self._log(f"set-up {index}")
        return partial(self._make, index)

    def _make(self, index: int, job: Job, folder: Path, on_frame: Callable[[], None]) -> JobRecord:
        assert folder.is_dir() and not any(folder.iterdir())
        self._log(f"begin {job.name}")
        deadly = self.orders / "deadly" / job.name
        if deadly.exists():
            if deadly.read_text() != "always":
                deadly.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        for frame in range(job.frames):
            if (self.orders / "broken" / job.name).exists() and frame == 1:
                raise DataError(f"frame {frame} of {job.name}", "is broken")
            time.sleep(0.1 if (self.orders / "slow").exists() else 0)
            (folder / f"{frame:05d}.png").write_text(f"{job.name} {frame}")
            on_frame()
        return JobRecord(frames=job.frames, seconds=0.5, peak_memory=2**20)

    def _log(self, text: str) -> None:
        with (self.orders / "log").open("a") as file:
            file.write(f"{text} {os.getpid()}\n")


def main(out: str, orders: str, processes: str) -> int:
    """Make all jobs, as a command does."""
    try:
        outcome = run_jobs(JOBS, Drawing(Path(orders)), Path(out), SETTINGS, processes=int(processes))
    except I2VPPError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt as stop:
        return exit_status(stop)
    sys.stdout.write(f"{outcome.report()}\n" if outcome.is_main else "")
    return outcome.exit_status


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
