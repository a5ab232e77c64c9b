"""Jobs that convert files, in this process or in several."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TypeVar

from tqdm import tqdm

Job = TypeVar("Job")


def run_jobs(do: Callable[[Job], str | None], jobs: Sequence[Job], *, processes: int, unit: str) -> list[str]:
    """Do all jobs with a progress bar.

    Args:
        do: does one and returns what is wrong with it, or None; a function of a module, if `processes` is above 1.
        jobs: to be done; can be pickled.
        processes: at most.
        unit: what a job is called.

    Returns:
        What is wrong with some of them, in order.
    """
    problems = []
    with tqdm(total=len(jobs), unit=unit) as bar:
        for problem in _results(do, jobs, min(processes, len(jobs))):
            bar.update()
            if problem is not None:
                problems.append(problem)
    return sorted(problems)


def _results(do: Callable[[Job], str | None], jobs: Sequence[Job], processes: int) -> Iterator[str | None]:
    if processes <= 1:
        yield from map(do, jobs)
        return
    context = multiprocessing.get_context("spawn")  # a forked process would inherit the threads of torch half dead
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        futures = [pool.submit(do, job) for job in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)
