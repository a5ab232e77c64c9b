"""Jobs on a SLURM cluster, which submitit submits: one submission serves training and evaluation."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from i2vpp.errors import RunError

CLUSTERS = ("slurm", "local", "debug")
"""submitit's executors; `local` and `debug` run jobs on this machine, to try a command without SLURM."""

MAX_TIMEOUTS = 1000  # a job that reaches its time limit is requeued this often


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Where cluster jobs run, and what each of them gets.

    Args:
        kind: one of `CLUSTERS`.
        name: of the jobs in SLURM's queue.
        gpus: number of GPUs on each machine of a job.
        cpus: number of CPU cores of each process.
        hours: time limit, at which a job is requeued and goes on.
        partition: of SLURM; None for the cluster's default.
        account: of SLURM; None for the user's default.
        qos: quality of service of SLURM; None for the default.
        more: further parameters of submitit's `update_parameters`.
    """

    kind: str
    name: str
    gpus: int
    cpus: int
    hours: int
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    more: Mapping[str, object] = field(default_factory=dict)


class Requeued:
    """Base of the callables that submitit pickles and calls: an interrupted job is followed by the same one."""

    def checkpoint(self, *arguments: object) -> Any:
        """Return the job that takes this one's place after a timeout or a preemption: the same call."""
        from submitit.helpers import DelayedSubmission  # noqa: PLC0415 - only cluster jobs need submitit

        return DelayedSubmission(self, *arguments)  # type: ignore[arg-type]  # subclasses can be called


def submit(job: Callable[..., None], cluster: Cluster, folder: Path, *, array: int | None = None) -> int:
    """Submit a job, or an array of jobs, and return; `local` and `debug` jobs are waited for.

    Args:
        job: called in every process of a job, in an array with the index of the job; can be pickled.
        cluster: where the jobs run.
        folder: of submitit's files and logs, which go to a subfolder for each job.
        array: number of jobs of an array; None for a single job.

    Returns:
        0, the exit status.

    Raises:
        RunError: submitit is not installed, the submission is refused, or a job that was waited for failed.
    """
    try:
        from submitit import AutoExecutor  # noqa: PLC0415 - only cluster jobs need submitit
        from submitit.core.utils import UncompletedJobError  # noqa: PLC0415
    except ImportError as error:
        raise RunError("jobs are submitted by submitit, which is not installed: pip install submitit") from error
    slurm = {"account": cluster.account, "partition": cluster.partition, "qos": cluster.qos}
    try:
        executor = AutoExecutor(folder.resolve() / "%j", cluster=cluster.kind, slurm_max_num_timeout=MAX_TIMEOUTS)
        executor.update_parameters(
            name=cluster.name,
            gpus_per_node=cluster.gpus,
            cpus_per_task=cluster.cpus,
            timeout_min=60 * cluster.hours,
            **{f"slurm_{key}": value for key, value in slurm.items() if value is not None},
            **cluster.more,
        )
        submitted = [executor.submit(job)] if array is None else executor.map_array(job, range(array))
        for one in submitted:
            log = "log of rank 0" if array is None else "log"
            sys.stdout.write(f"job {one.job_id} submitted; {log}: {one.paths.stdout}\n")
        if cluster.kind != "slurm":
            for one in submitted:
                one.results()
    except RuntimeError as error:  # SLURM is not installed, a submission is refused, or a job failed
        one_job, all_jobs = ("the job", "the job") if array is None else ("a job", "the jobs")
        failed = isinstance(error, UncompletedJobError)
        what = f"{one_job} failed" if failed else f"{all_jobs} could not be submitted"
        raise RunError(f"{what}: {' '.join(str(error).split())}") from error
    return 0
