"""Runs jobs over processes and machines: each is made once, whole, and by one process; any run can go on.

    outcome = run_jobs(jobs, set_up, out, settings, processes=4)

Every process that is started on the same output folder takes part: the processes of this call, the ranks of torchrun,
processes of other machines on a shared disk, and a later start of a run that was ended. Each takes the longest job that
is neither done nor locked by another process, and stays until no job is open, so that it also makes the jobs of
processes that end early.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch.multiprocessing import get_context
from tqdm import tqdm

from i2vpp.errors import I2VPPError, RunError
from i2vpp.runs.store import DoJob, Failure, Job, JobRecord, RunStore
from i2vpp.utils.distributed import Ranks, broadcast_object, process_group
from i2vpp.utils.machine import device_name, peak_memory
from i2vpp.utils.signals import handled, sigterm_raises

SetUp: TypeAlias = Callable[[int], DoJob]
"""Builds what does the jobs of a process, from the index of the process on this machine, which is also its GPU's."""

FAILURES = (I2VPPError, OSError, RuntimeError, ValueError, LookupError, MemoryError, EOFError, SyntaxError)
"""What may be wrong with one job (a broken file, too little memory) while the others can be made."""

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
POLL = 0.5  # seconds between two looks at the jobs of other processes
PATIENCE = 60.0  # seconds in which a process that is asked to stop finishes its frame


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended.

    Args:
        done: records of the finished jobs, by name.
        failed: errors of the failed jobs, by name.
        lost: reasons why processes ended early; other processes have made their jobs.
        is_main: whether this process reports for the run: true except for the ranks of torchrun other than rank 0.
    """

    done: Mapping[str, JobRecord]
    failed: Mapping[str, str]
    lost: Sequence[str] = ()
    is_main: bool = True

    @property
    def exit_status(self) -> int:
        """1 if a job failed, else 0. Only rank 0 returns 1, because torchrun ends all ranks when one does."""
        return int(bool(self.failed) and self.is_main)

    def report(self) -> str:
        """Return some lines that say what was made, at what speed, and what was not."""
        made = [record for record in self.done.values() if record.frames]
        frames, seconds = sum(record.frames for record in made), sum(record.seconds for record in made)
        lines = [f"{len(made)} of {len(self.done) + len(self.failed)} jobs made: {frames} frames"]
        if seconds:
            peak = max(record.peak_memory for record in made) / 2**20
            lines[0] += f", {frames / seconds:.1f} frames/s per process, peak memory {peak:.0f} MiB"
        lines += [f"note: {name}: {record.note}" for name, record in self.done.items() if record.note]
        lines += [f"warning: {text}; the other processes did its work" for text in self.lost]
        if self.failed:
            lines.append(f"{len(self.failed)} failed; the same command tries them again:")
            lines += [f"  {name}: {error}" for name, error in self.failed.items()]
        return "\n".join(lines)


def run_jobs(
    jobs: Sequence[Job],
    set_up: SetUp,
    out: Path,
    settings: Mapping[str, object],
    *,
    processes: int = 1,
    threads: int = 1,
    overwrite: bool = False,
    quiet: bool = False,
) -> Outcome:
    """Make all jobs that are still open, together with all other processes on `out`, and wait until none is open.

    Under torchrun (RANK, LOCAL_RANK and WORLD_SIZE in the environment) this process is one of the ranks.

    Args:
        jobs: all jobs, also those that are done.
        set_up: called once in each process, and only when there is a job for it; can be pickled.
        out: output folder; `i2vpp.runs.store` describes its content.
        settings: what the masks depend on, as plain data: a run goes on with the same settings only.
        processes: number of processes on this machine; with 1 the jobs are made in this process.
        threads: PyTorch's threads in each process. Sums on a CPU depend on it, so it is one of the settings.
        overwrite: delete what earlier runs have made in `out`, and begin anew.
        quiet: show no progress bar.

    Returns:
        Records and errors of all jobs, whichever process has made them.

    Raises:
        RunError: the run cannot start, or no process is left that can work.
        I2VPPError: what `set_up` raises, where it is called in this process.
        KeyboardInterrupt: on Ctrl-C, and as `Terminated` on SIGTERM; the same call goes on later.
    """
    store = RunStore(out)
    ranks = Ranks.from_environment() if "RANK" in os.environ else None
    if processes < 1 or (ranks is not None and processes > 1):
        raise RunError(f"processes must be 1 or more, and 1 under torchrun, which starts them itself; got {processes}")
    worker = Worker(
        jobs=tuple(sorted(jobs, key=lambda job: -job.frames)),
        store=store,
        set_up=set_up,
        threads=threads,
        earlier=_open(store, {**settings, "threads": threads}, jobs, ranks, overwrite=overwrite),
    )
    lost: list[str] = []
    with Bar(worker, hidden=quiet or (ranks is not None and ranks.local_rank > 0)) as bar, sigterm_raises():
        if processes == 1:
            with _torch_threads(threads):
                worker.run(ranks.local_rank if ranks else 0, bar.show)
        else:
            lost = _spawn(worker, processes, bar)
        bar.show(0, look=True)
    states = {job.name: store.look(job) for job in jobs}
    left = [name for name, state in states.items() if state is None]
    if left:
        raise RunError(
            f"no process is left to make {len(left)} of {len(jobs)} jobs, such as {left[0]}: {'; '.join(lost)}. "
            "When that is mended, the same command goes on"
        )
    return Outcome(
        done={name: state for name, state in states.items() if isinstance(state, JobRecord)},
        failed={name: state.error for name, state in states.items() if isinstance(state, Failure)},
        lost=lost,
        is_main=ranks is None or ranks.is_main,
    )


def _open(
    store: RunStore, settings: Mapping[str, object], jobs: Sequence[Job], ranks: Ranks | None, *, overwrite: bool
) -> dict[str, Failure]:
    """Open the store: under torchrun in rank 0 only, while the other ranks wait for the answer."""
    if ranks is None:
        return store.open(settings, jobs, overwrite=overwrite)
    answer: dict[str, Failure] | I2VPPError | OSError | None = None
    with process_group(ranks, torch.device("cpu")):
        if ranks.is_main:
            try:
                answer = store.open(settings, jobs, overwrite=overwrite)
            except (I2VPPError, OSError) as error:
                answer = error
        answer = broadcast_object(answer)
    if isinstance(answer, Exception):
        if ranks.is_main:
            raise answer
        raise SystemExit(1)  # rank 0 prints the error
    assert answer is not None
    return answer


@contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    """Let PyTorch use `count` threads in the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# ---- one process


@dataclass(frozen=True, kw_only=True)
class Worker:
    """Makes jobs in one process until none is open; every process of a run has an equal one.

    Args:
        jobs: all jobs, the longest first, so that the last ones to finish are short.
        store: of the run.
        set_up: see `run_jobs`.
        threads: PyTorch's threads in each process.
        earlier: failures of earlier starts, by name; these jobs are tried again.
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
        """Make jobs until all are settled.

        Args:
            index: of this process on this machine.
            show: called with the number of tracked frames of the present job, 0 when none is being made.

        Raises:
            RunError: this process cannot go on: the set-up failed, the disk is full, or its GPU has failed.
        """
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
                    elif not self.is_settled(job):  # another process may have made it before the lock was taken
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
    """Raise RunError if the GPU has failed: all further jobs of this process would fail, too."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        try:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
        except RuntimeError as error:
            raise RunError(f"the GPU does not work any more ({error}); the same command goes on") from error


# ---- several processes of this machine


def _spawn(worker: Worker, processes: int, bar: Bar) -> list[str]:
    """Run the worker in processes of their own, and return the reasons why some of them ended early."""
    context = get_context("spawn")
    counts = context.RawArray("q", processes)  # tracked frames of the present job of each process
    messages = context.SimpleQueue()
    children = [
        context.Process(target=_child, args=(index, worker, counts, messages), daemon=True)
        for index in range(processes)
    ]
    ignore: Any = signal.SIG_IGN  # inherited by the children: on Ctrl-C only this process acts, and stops them
    try:
        with handled(ignore, signal.SIGINT):
            for child in children:
                child.start()
        while alive := [child for child in children if child.is_alive()]:
            wait([child.sentinel for child in alive], timeout=POLL)
            bar.show(sum(counts))
    finally:
        _stop(children)
    said: dict[int, str] = {}
    while not messages.empty():
        index, text = messages.get()
        said[index] = text
    for index, child in enumerate(children):
        status = child.exitcode or 0
        if status < 0:
            said[index] = f"a process was ended by {signal.Signals(-status).name}; was there too little memory?"
        elif status:
            said.setdefault(index, f"a process ended with status {status}")
    return list(dict.fromkeys(said.values()))


def _stop(children: Sequence[Any]) -> None:
    """Ask processes to stop, and kill those that have not stopped after `PATIENCE` seconds."""
    started = [child for child in children if child.pid is not None]
    for child in started:
        child.terminate()
    limit = time.monotonic() + PATIENCE
    for child in started:
        child.join(max(0.0, limit - time.monotonic()))
        child.kill()
        child.join()


def _child(index: int, worker: Worker, counts: Any, messages: Any) -> None:  # pragma: no cover - in another process
    parent = os.getppid()

    def show(frames: int) -> None:
        counts[index] = frames
        if os.getppid() != parent:  # the parent was killed, so that nothing else would stop this process
            raise KeyboardInterrupt

    try:
        with sigterm_raises():
            torch.set_num_threads(worker.threads)
            worker.run(index, show)
    except KeyboardInterrupt:
        sys.exit(1)
    except (I2VPPError, OSError, RuntimeError) as error:
        messages.put((index, str(error)))
        sys.exit(1)


# ---- progress and measurements


class Bar:
    """The progress bar over the frames of all jobs, including those that other processes make.

    Args:
        worker: of the run.
        hidden: show nothing, because another process of this machine shows the bar.
    """

    def __init__(self, worker: Worker, *, hidden: bool) -> None:
        self._worker = worker
        self._open = list(worker.jobs)
        self._settled = 0  # frames of settled jobs
        self._under_way = 0
        self._next = 0.0  # time of the next look at the store
        self._look()
        self._bar = tqdm(
            total=sum(job.frames for job in worker.jobs),
            initial=self._settled,
            unit="frame",
            smoothing=0.05,  # the frames of other processes' jobs are counted when a whole job is done
            mininterval=0.5 if sys.stderr.isatty() else 15,  # few lines in a log file
            disable=hidden,
        )

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def show(self, under_way: int, *, look: bool = False) -> None:
        """Bring the bar up to date.

        Args:
            under_way: frames of unfinished jobs that processes of this machine have tracked.
            look: look at the store now, which otherwise happens every few seconds.
        """
        if self._bar.disable:
            return
        if look or under_way < self._under_way or time.monotonic() > self._next:
            self._look()
        self._under_way = under_way
        settled, total = len(self._worker.jobs) - len(self._open), len(self._worker.jobs)
        self._bar.set_postfix_str(f"{settled}/{total} jobs", refresh=False)
        self._bar.update(min(self._settled + under_way, self._bar.total) - self._bar.n)

    def _look(self) -> None:
        begin = time.monotonic()
        settled = {job for job in self._open if self._worker.is_settled(job)}
        self._settled += sum(job.frames for job in settled)
        self._open = [job for job in self._open if job not in settled]
        now = time.monotonic()
        self._next = now + max(2.0, 20 * (now - begin))  # at most a twentieth of the time, also on a slow disk


class Meter:
    """Measures the time and memory of one job; made just before its first frame is read.

    Args:
        device: where the network runs.
        on_frame: called on each frame; see `i2vpp.runs.store.DoJob`.
    """

    def __init__(self, device: torch.device, on_frame: Callable[[], None]) -> None:
        self._device, self._on_frame = device, on_frame
        self._frames = 0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self._begin = time.perf_counter()

    def frame(self) -> None:
        """Count a frame that was tracked."""
        self._frames += 1
        self._on_frame()

    def record(self) -> JobRecord:
        """Return what was measured until now."""
        return JobRecord(
            frames=self._frames,
            seconds=time.perf_counter() - self._begin,
            peak_memory=peak_memory(self._device) or 0,
            device=device_name(self._device),
        )
