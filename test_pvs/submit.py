"""SLURM job arrays: a command is started in several cluster jobs, which share its jobs as any processes do."""

from __future__ import annotations

import os
import pkgutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from i2vpp.errors import RunError
from training.launch import CLUSTERS

__all__ = ["CLUSTERS", "ArrayJob", "Cluster", "command_line", "submit"]

MAX_TIMEOUTS = 1000  # a job that reaches its time limit is requeued this often


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Where jobs run.

    Args:
        kind: submitit's executor: `slurm`, or `local` and `debug` to try it without SLURM.
        jobs: of the array.
        gpus: of each job, 1 or 0.
        cpus: of each job.
        hours: time limit of a job, which is then requeued and goes on.
        partition: of SLURM.
        account: of SLURM.
        qos: of SLURM.
    """

    kind: str
    jobs: int
    gpus: int
    cpus: int
    hours: int
    partition: str | None = None
    account: str | None = None
    qos: str | None = None


@dataclass(frozen=True, kw_only=True)
class ArrayJob:
    """What submitit pickles and calls in each job; called again after an interruption, it goes on.

    Args:
        command: function that takes arguments and returns an exit status, as "module:name".
        arguments: for it.
    """

    command: str
    arguments: tuple[str, ...]

    def __call__(self, index: int) -> None:
        """Run the command in job `index` of the array."""
        if status := pkgutil.resolve_name(self.command)(list(self.arguments)):
            raise RunError(f"job {index} ended with status {status}; its log says why")

    def checkpoint(self, index: int) -> Any:
        """Return the job that takes this one's place after a timeout or preemption: the same."""
        from submitit.helpers import DelayedSubmission  # noqa: PLC0415 - only cluster jobs need submitit

        return DelayedSubmission(self, index)


def submit(job: ArrayJob, cluster: Cluster, folder: Path) -> int:
    """Submit an array of jobs and return; `local` and `debug` jobs are waited for.

    Args:
        job: is called in each of them.
        cluster: where.
        folder: of submitit's files and logs.

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
            name="i2vpp-eval",
            gpus_per_node=cluster.gpus,
            cpus_per_task=cluster.cpus,
            timeout_min=60 * cluster.hours,
            slurm_array_parallelism=cluster.jobs,
            **{f"slurm_{key}": value for key, value in slurm.items() if value is not None},
        )
        _let_jobs_import()
        submitted = executor.map_array(job, range(cluster.jobs))
        for one in submitted:
            sys.stdout.write(f"job {one.job_id} submitted; log: {one.paths.stdout}\n")
        if cluster.kind != "slurm":
            for one in submitted:
                one.result()
    except RuntimeError as error:  # no SLURM here, a refused submission, or a failed job
        what = "a job failed" if isinstance(error, UncompletedJobError) else "the jobs could not be submitted"
        raise RunError(f"{what}: {' '.join(str(error).split())}") from error
    return 0


def _let_jobs_import() -> None:
    """Let jobs find the folders beside the library, wherever they are started; they inherit the environment."""
    paths = [str(Path(__file__).resolve().parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)


def command_line(argv: Sequence[str]) -> tuple[str, ...]:
    """Return the arguments of a job: as they were given, but run there, in one process, and overwrite nothing."""
    return (*argv, "--use-cluster", "0", "--processes", "1", "--no-overwrite")
