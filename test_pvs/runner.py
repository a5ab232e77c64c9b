"""Runs jobs over processes and machines: each is made once, whole, and by one process; any run can go on.

    outcome = run_jobs(jobs, set_up, out, settings, processes=4)

Whoever is started on the same output folder takes part: the processes of this call, the ranks of torchrun, other
machines on a shared disk, and a later start of a run that was ended. Each process takes the longest job that is
neither done nor worked on, and stays until no job is left open, so that it makes up for processes that die.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from i2vpp.errors import I2VPPError, RunError
from i2vpp.utils.distributed import Ranks, broadcast_object, process_group
from i2vpp.utils.signals import sigterm_raises
from test_pvs.processes import spawn, torch_threads
from test_pvs.progress import Bar
from test_pvs.run_store import DoJob, Failure, Job, JobRecord, RunStore
from test_pvs.worker import SetUp, Worker

__all__ = ["DoJob", "Job", "JobRecord", "Outcome", "RunError", "SetUp", "run_jobs"]


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
