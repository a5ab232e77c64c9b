"""Runs jobs over processes and machines: each is made once, whole, and by one process; any run can go on.

    outcome = run_jobs(jobs, set_up, out, settings, processes=4)

Whoever is started on the same output folder takes part: the processes of this call, the ranks of torchrun, other
machines on a shared disk, and a later start of a run that was ended. Each process takes the longest job that is
neither done nor worked on, and stays until no job is left open, so that it makes up for processes that die.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
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
from i2vpp.utils.distributed import Ranks, broadcast_object, process_group
from i2vpp.utils.machine import device_name, peak_memory
from i2vpp.utils.signals import sigterm_raises
from test_pvs.run_store import DoJob, Failure, Job, JobRecord, RunStore

SetUp: TypeAlias = Callable[[int], DoJob]
"""Takes the index of a process on this machine, which is also that of its GPU; builds what works there."""

FAILURES = (I2VPPError, OSError, RuntimeError, ValueError, LookupError, MemoryError, EOFError, SyntaxError)
"""What may be wrong with one job (a broken file, too little memory) while the others can be made."""

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
POLL = 0.5  # seconds between two looks at what others do
PATIENCE = 60.0  # seconds in which a process that is asked to stop finishes its frame


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended.

    Args:
        done: records of the jobs that are there, by name.
        failed: by name, why jobs are not there.
        lost: what became of processes that ended early; others have done their work.
        is_main: whether this process speaks for the run, as all but the ranks of torchrun do that are not rank 0.
    """

    done: Mapping[str, JobRecord]
    failed: Mapping[str, str]
    lost: Sequence[str] = ()
    is_main: bool = True

    @property
    def exit_status(self) -> int:
        """1 if a job failed, else 0; torchrun ends all ranks when one has 1, so only rank 0 has it."""
        return int(bool(self.failed) and self.is_main)

    def report(self) -> str:
        """Say in a few lines what was made, at what speed, and what was not."""
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
) -> Outcome:
    """Make all jobs that are not there yet, with whoever else works on them, and wait until none is open.

    Under torchrun (RANK, LOCAL_RANK and WORLD_SIZE in the environment) this process is one of the ranks.

    Args:
        jobs: all of them, also those that are done.
        set_up: called once in each process, not before there is something to do; can be pickled.
        out: output folder; see `test_pvs.run_store` for what is in it.
        settings: what the masks depend on, as plain data: a run goes on with the same ones only.
        processes: on this machine; 1 works in this one.
        threads: of PyTorch in each process. Sums on a CPU depend on it, so it is one of the settings.
        overwrite: delete what earlier runs have made in `out`, and begin anew.

    Raises:
        RunError: the run cannot start, or no process is left that can work.
        I2VPPError: what `set_up` raises, where it is called in this process.
        KeyboardInterrupt: on Ctrl-C, as `Terminated` on SIGTERM; the same call goes on later.
    """
    store = RunStore(out)
    ranks = Ranks.from_environment() if "RANK" in os.environ else None
    if processes < 1 or (ranks is not None and processes > 1):
        raise RunError(f"processes must be 1 or more, and 1 under torchrun, which starts them itself; got {processes}")
    settings = {**settings, "threads": threads}
    worker = Worker(
        jobs=tuple(sorted(jobs, key=lambda job: -job.frames)),
        store=store,
        set_up=set_up,
        threads=threads,
        earlier=_open(store, settings, jobs, ranks, overwrite=overwrite),
    )
    lost: list[str] = []
    with Bar(worker, hidden=ranks is not None and ranks.local_rank > 0) as bar, sigterm_raises():
        if processes == 1:
            with torch_threads(threads):
                worker.run(ranks.local_rank if ranks else 0, bar.show)
        else:
            lost = spawn(worker, processes, bar)
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
    """Open the store: in one rank, for all of them, so that none works before it is ready."""
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
        raise SystemExit(1)  # rank 0 says why
    assert answer is not None
    return answer


# ---- one process


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


# ---- the processes of a run on this machine


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let PyTorch use so many threads in the body."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _handling(number: signal.Signals, handler: Any) -> Iterator[None]:
    """Handle a signal in the body; outside the main thread, where Python forbids it, leave it as it is."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


def spawn(worker: Worker, processes: int, bar: Bar) -> list[str]:
    """Run the worker in processes of their own, and return what became of those that ended early."""
    context = get_context("spawn")
    counts = context.RawArray("q", processes)
    messages = context.SimpleQueue()
    children = [
        context.Process(target=_child, args=(index, worker, counts, messages), daemon=True)
        for index in range(processes)
    ]
    try:
        with _handling(signal.SIGINT, signal.SIG_IGN):  # children inherit it: this process alone stops them
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
    """Ask processes to stop, and end those that do not in time."""
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
        if os.getppid() != parent:  # it was killed: nobody would stop this process any more
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


# ---- how far a run is, and what a job takes


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


class Meter:
    """Measures one job; made just before its first frame is read.

    Args:
        device: where the network runs.
        on_frame: is called on each frame; see `test_pvs.run_store.DoJob`.
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

    def record(self, note: str = "") -> JobRecord:
        """Return what was measured up to now."""
        return JobRecord(
            frames=self._frames,
            seconds=time.perf_counter() - self._begin,
            peak_memory=peak_memory(self._device) or 0,
            device=device_name(self._device),
            note=note,
        )
