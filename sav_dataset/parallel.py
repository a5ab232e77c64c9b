"""Calls of a function for many jobs, in this process or in several."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from tqdm import tqdm

from i2vpp.errors import I2VPPError

Job = TypeVar("Job")
Result = TypeVar("Result")


def map_jobs(do: Callable[[Job], Result], jobs: Sequence[Job], processes: int) -> Iterator[Result]:
    """Call a function for each job, and yield the results in the order of the jobs.

    Args:
        do: takes a job; a function of a module, if there are several processes.
        jobs: its arguments, which can be pickled.
        processes: number of processes at most; with 1, the function is called in this one.

    Returns:
        The results, each as soon as it and all before it are there.

    Raises:
        I2VPPError: a process was ended.
    """
    processes = min(processes, len(jobs))
    if processes <= 1:
        yield from map(do, jobs)
        return
    context = multiprocessing.get_context("spawn")  # a forked process may wait for locks of torch's threads forever
    ignore = (signal.SIGINT, signal.SIG_IGN)  # on Ctrl-C only this process acts, and ends the others
    with ProcessPoolExecutor(processes, mp_context=context, initializer=signal.signal, initargs=ignore) as pool:
        try:
            yield from pool.map(do, jobs)
        except BrokenProcessPool as error:
            raise I2VPPError(
                f"one of {processes} processes was ended, perhaps for lack of memory; use fewer (--processes)"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def convert_all(do: Callable[[Job], str | None], jobs: Sequence[Job], *, processes: int, unit: str) -> list[str]:
    """Convert files with a progress bar.

    Args:
        do: does a job and returns what is wrong with it, or None; see `map_jobs`.
        jobs: to be done.
        processes: number of processes at most.
        unit: what a job is called in the progress bar.

    Returns:
        What is wrong with some of them, sorted.

    Raises:
        I2VPPError: a process was ended.
    """
    return sorted(problem for problem in tqdm(map_jobs(do, jobs, processes), total=len(jobs), unit=unit) if problem)
