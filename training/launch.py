"""Start the processes of a run: in this process, under torchrun, spawned on this machine, or through SLURM.

Every process calls `training.trainer.run(config, ranks)`. On SIGTERM that function saves and returns.
"""

from __future__ import annotations

import os
import pkgutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.synchronize import Semaphore
from pathlib import Path
from types import FrameType

import torch
from torch.multiprocessing import get_context
from torch.multiprocessing.spawn import ProcessExitedException, spawn

from i2vpp.checkpoint import inspect_checkpoint, read_checkpoint
from i2vpp.errors import ConfigError, I2VPPError, RunError
from i2vpp.utils.cluster import Cluster, Requeued, submit
from i2vpp.utils.distributed import Ranks, check_port_free, find_free_port
from i2vpp.utils.signals import handled
from training.config import TrainConfig

TRAINER = "training.trainer:run"

_SIGNAL_DELAY = 300  # seconds before the limit at which SLURM warns: enough for one step and a checkpoint
_GRACE = 10.0  # seconds in which the other processes may end by themselves after one has failed


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a run is started.

    Args:
        mode: `single` (this process), `spawn` (processes of this machine), `torchrun` (this process is one of them) or
            `cluster` (submitit).
        nodes: machines.
        processes: per machine.
        port: TCP port at which the processes of mode `spawn` meet; None: a free one is looked for.
        ranks: place of this process in the run, in the modes `single` and `torchrun`.
        cluster: submitit's executor: `slurm`, or `local` and `debug` to try it without SLURM.
    """

    mode: str
    nodes: int = 1
    processes: int = 1
    port: int | None = None
    ranks: Ranks | None = None
    cluster: str = "slurm"


def plan_launch(config: TrainConfig, *, port: int | None = None, cluster: str = "slurm") -> Plan:
    """Decide how to start a run; MASTER_PORT of the environment is the default of `port`.

    Args:
        config: the run's recipe.
        port: TCP port at which processes of this machine meet; None: MASTER_PORT or a free one.
        cluster: submitit's executor, one of `CLUSTERS`.

    Raises:
        ConfigError: options and recipe do not fit together.
        RunError: the environment of torchrun is incomplete.
    """
    asked, device = config.cluster, config.run.device
    if "RANK" in os.environ or "LOCAL_RANK" in os.environ:
        ranks = Ranks.from_environment()
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", ranks.world_size))
        return Plan(mode="torchrun", nodes=max(1, ranks.world_size // processes), processes=processes, ranks=ranks)
    if asked.use_cluster:
        if asked.num_gpus == 0 and device != "cpu":
            raise ConfigError("a cluster job must say how many GPUs a machine has: --num-gpus N (cluster.num_gpus)")
        if cluster != "slurm" and asked.num_nodes > 1:
            raise ConfigError(f"--cluster {cluster} has one machine; got --num-nodes {asked.num_nodes}")
        return Plan(mode="cluster", nodes=asked.num_nodes, processes=max(1, asked.num_gpus), cluster=cluster)
    if asked.num_nodes > 1:
        raise ConfigError(
            f"{asked.num_nodes} machines need a launcher: --use-cluster 1 (SLURM), or multi_node_train_4_nodes.sh on "
            "each of them"
        )
    available = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    processes = asked.num_gpus or max(1, available)
    if processes == 1:
        return Plan(mode="single", ranks=Ranks())
    if port is None and "MASTER_PORT" in os.environ:
        port = _port(os.environ["MASTER_PORT"])
    return Plan(mode="spawn", processes=processes, port=port)


def check_launch(config: TrainConfig, plan: Plan) -> None:
    """Look for what would stop the run before its first step.

    Args:
        config: the run's recipe.
        plan: made by `plan_launch`.

    Raises:
        I2VPPError: fewer GPUs than processes, a port in use, weights to start from that are missing or broken.
    """
    for check in launch_checks(config, plan):
        check()


def launch_checks(config: TrainConfig, plan: Plan) -> list[Callable[[], object]]:
    """List what `check_launch` looks for; each raises an error of its own.

    Args:
        config: the run's recipe.
        plan: made by `plan_launch`.
    """
    start = config.start
    checks: list[Callable[[], object]] = []
    if plan.mode != "cluster":
        checks.append(partial(_check_devices, config, plan))
    if plan.port is not None:
        checks.append(partial(check_port_free, plan.port))
    checks += [partial(inspect_checkpoint, path) for path in (start.image_model, start.checkpoint) if path is not None]
    if start.heads is not None:
        checks.append(partial(read_checkpoint, start.heads))
    return checks


def launch(config: TrainConfig, plan: Plan, *, target: str = TRAINER) -> int:
    """Start the run, wait for it (SLURM jobs are left to themselves) and return its exit status.

    Args:
        config: the run's recipe.
        plan: made by `plan_launch`.
        target: the function that every process calls with (config, ranks), as "module:name".

    Raises:
        I2VPPError: the run failed in this process.
    """
    if plan.ranks is not None:
        pkgutil.resolve_name(target)(config, plan.ranks)
        return 0
    if plan.mode == "spawn":
        return _spawn(config, plan, target)
    return _submit(config, plan, target)


def describe(config: TrainConfig, plan: Plan, more: Sequence[tuple[str, str]] = ()) -> str:
    """Say in a few lines what would run.

    Args:
        config: the run's recipe.
        plan: made by `plan_launch`.
        more: heading and text of further lines.
    """
    ways = {
        "single": "one process, this one",
        "spawn": f"{plan.processes} processes on this machine, port {plan.port or 'chosen when they start'}",
        "cluster": f"submitit ({plan.cluster}): {plan.nodes} x {plan.processes} processes, "
        f"{config.cluster.hours} h, then requeued and resumed",
    }
    if plan.ranks is not None and plan.mode == "torchrun":
        ways["torchrun"] = f"torchrun: rank {plan.ranks.rank} of {plan.ranks.world_size}"
    start, run = config.start, config.run
    origins = [f"{what} {path}" for what, path in vars(start).items() if path is not None]
    steps = f", at most {run.max_steps} steps" if run.max_steps else ""
    lines = [
        ("run", ways[plan.mode]),
        ("model", f"{config.model.image_size} px, start from {' and '.join(origins) or 'scratch'}"),
        *(
            (
                f"source {name}",
                f"{source.kind}, {source.images or f'{source.length} made up'}, x {source.repeat:g}, batch "
                f"{source.batch_size} x {source.clip.num_frames} frames",
            )
            for name, source in config.data.sources.items()
        ),
        ("length", f"{run.epochs} epochs{steps}"),
        ("precision", f"{run.precision} on {run.device}"),
        ("folder", f"{Path(run.folder).expanduser().resolve()}"),
        *more,
    ]
    width = max(len(name) for name, _ in lines)
    return "".join(f"{name:<{width}}  {text}\n" for name, text in lines)


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise ConfigError(f"MASTER_PORT must be a port from 1 to 65535; got {text!r}")
    return int(text)


def _check_devices(config: TrainConfig, plan: Plan) -> None:
    device = config.run.device
    wanted = 0 if plan.mode == "single" and config.cluster.num_gpus == 0 else plan.processes
    if device == "mps" and plan.processes > 1:
        raise ConfigError(f"run.device=mps is one device; got {plan.processes} processes: use --num-gpus 1")
    if device in ("auto", "cuda") and wanted > (available := torch.cuda.device_count()):
        raise ConfigError(
            f"{wanted} GPUs are asked for, but PyTorch sees {available} on this machine: ask for fewer by --num-gpus "
            "(0: as many as there are), or train on the CPU by run.device=cpu"
        )


def _spawn(config: TrainConfig, plan: Plan, target: str) -> int:
    """Run the processes of this machine; SIGTERM and SIGUSR1 are passed on to them."""
    port = plan.port or find_free_port()
    first_error = get_context("spawn").Semaphore(1)
    arguments = (config, plan.processes, port, target, first_error)
    context = spawn(_process, args=arguments, nprocs=plan.processes, join=False)

    def pass_on(number: int, frame: FrameType | None = None) -> None:
        for process in context.processes:
            if process.is_alive():
                os.kill(process.pid, number)

    with handled(pass_on, signal.SIGTERM, signal.SIGUSR1):
        try:
            while not context.join(grace_period=_GRACE):
                pass
        except KeyboardInterrupt:
            pass_on(signal.SIGTERM)  # Ctrl-C in a terminal reaches the processes too, `kill -INT` does not
            raise
        except ProcessExitedException as error:
            if error.exit_code > 0:
                return error.exit_code  # the process has printed the reason
            hint = "; was there too little memory?" if error.signal_name == "SIGKILL" else ""
            raise RunError(f"process {error.error_index} was ended by {error.signal_name}{hint}") from None
    return 0


def _process(
    index: int, config: TrainConfig, processes: int, port: int, target: str, first_error: Semaphore
) -> None:  # pragma: no cover - runs in processes of its own
    ranks = Ranks(rank=index, local_rank=index, world_size=processes)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(max(1, torch.get_num_threads() // processes))
    _call(target, config, ranks, first_error)


def _call(target: str, config: TrainConfig, ranks: Ranks, first_error: Semaphore | None = None) -> None:
    """Run the target and exit with status 1 on an error of ours; of several processes, the first one prints it."""
    try:
        pkgutil.resolve_name(target)(config, ranks)
    except I2VPPError as error:
        if first_error is None or first_error.acquire(block=False):
            sys.stderr.write(f"error: {error}\n")
        sys.exit(1)


@dataclass(frozen=True, kw_only=True)
class ClusterJob(Requeued):
    """What submitit pickles and calls in every process of a job; an interrupted job saves, is requeued and resumes.

    Args:
        config: the run's recipe.
        target: see `launch`.
    """

    config: TrainConfig
    target: str = TRAINER

    def __call__(self) -> None:
        """Run one task; after a preemption or timeout, hand over to submitit, which requeues the job."""
        from submitit.helpers import TorchDistributedEnvironment  # noqa: PLC0415 - only cluster jobs need submitit

        task = TorchDistributedEnvironment()
        ranks = Ranks(rank=task.rank, local_rank=task.local_rank, world_size=task.world_size)
        if ranks.world_size > 1:
            task.export(set_cuda_visible_devices=False, overwrite=True)
        with _save_before_requeue():
            _call(self.target, self.config, ranks)


@contextmanager
def _save_before_requeue() -> Iterator[None]:
    """On submitit's signal, raise SIGTERM, on which the trainer saves and returns, and requeue the job after that.

    submitit's own handler would requeue at once, in the middle of a step. It is still called as long as SIGTERM has the
    handler that it had before the block: then there is no trainer yet that could save.
    """
    from submitit import JobEnvironment  # noqa: PLC0415

    number = JobEnvironment._usr_sig()
    requeue, without_trainer = signal.getsignal(number), signal.getsignal(signal.SIGTERM)
    interrupted = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        if signal.getsignal(signal.SIGTERM) == without_trainer and callable(requeue):
            requeue(number, frame)
        else:
            interrupted = True
            signal.raise_signal(signal.SIGTERM)

    with handled(stop, number):
        yield
    if interrupted and callable(requeue):
        requeue(number, None)


def _submit(config: TrainConfig, plan: Plan, target: str) -> int:
    asked = config.cluster
    cluster = Cluster(
        kind=plan.cluster,
        name="i2vpp-train",
        gpus=0 if config.run.device == "cpu" else plan.processes,
        cpus=asked.cpus_per_task,
        hours=asked.hours,
        partition=asked.partition,
        account=asked.account,
        qos=asked.qos,
        more={
            "nodes": plan.nodes,
            "tasks_per_node": plan.processes,
            "slurm_signal_delay_s": _SIGNAL_DELAY,
            "slurm_srun_args": ["--kill-on-bad-exit=1"],  # otherwise the other ranks would wait for a lost one
        },
    )
    return submit(ClusterJob(config=config, target=target), cluster, Path(config.run.folder).expanduser() / "jobs")
