"""What the commands of evaluation runs have in common: options, the network, and how a run is started and concluded."""

from __future__ import annotations

import argparse
import os
import pkgutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from i2vpp.build_i2vpp import best_device, build_i2vpp, choose_device, choose_dtype
from i2vpp.errors import I2VPPError, RunError, shorten_words
from i2vpp.evaluation.protocol import PromptProtocol
from i2vpp.model_choice import ModelChoice, chosen_model
from i2vpp.runs.runner import SetUp, run_jobs
from i2vpp.runs.settings import RUN_FOLDER
from i2vpp.runs.store import Job, RunStore
from i2vpp.utils.cluster import CLUSTERS, Cluster, Requeued, submit
from i2vpp.utils.files import file_sha256
from i2vpp.utils.notices import plain_warnings
from i2vpp.utils.parser import Parser, integer
from i2vpp.utils.signals import Terminated, exit_status
from i2vpp.weights.files import find_checkpoint

EXIT_ERROR = 1


@dataclass(frozen=True, kw_only=True)
class Run:
    """The jobs of a command, and what `i2vpp.runs.runner.run_jobs` needs to make them."""

    jobs: Sequence[Job]
    set_up: SetUp
    settings: Mapping[str, object]


def add_run_options(parser: Parser) -> None:
    """Add the options that say where masks go and how they are made; called after `add_model_options`."""
    run = parser.add_argument_group("run")
    run.add_argument("-o", "--output", type=Path, required=True, metavar="OUT",
                     help="folder of the masks; where it holds a part of them, the run goes on")  # fmt: skip
    run.add_argument("--overwrite", action=argparse.BooleanOptionalAction, default=False,
                     help="delete what an earlier run has made in OUT")  # fmt: skip
    run.add_argument(
        "--processes", type=integer(1), metavar="N", help="on this machine (one per GPU, or one on the CPU)"
    )
    run.add_argument("--threads", type=integer(1), default=1, metavar="N",
                     help="of PyTorch in each process; masks made on a CPU may depend on it (%(default)s)")  # fmt: skip
    jobs = parser.add_argument_group("SLURM, through submitit")
    jobs.add_argument("--use-cluster", type=int, choices=(0, 1), default=0, help="1: submit an array of jobs")
    jobs.add_argument(
        "--num-jobs", type=integer(1), default=1, metavar="N", help="of the array, which share the work (%(default)s)"
    )
    jobs.add_argument("--num-cpus", type=integer(1), default=4, metavar="N",
                      help="of each job, beside one GPU, or none with --device cpu (%(default)s)")  # fmt: skip
    jobs.add_argument("--hours", type=integer(1), default=12, metavar="N",
                      help="time limit of a job, which is then requeued and goes on (%(default)s)")  # fmt: skip
    jobs.add_argument("--partition", help="of SLURM")
    jobs.add_argument("--account", help="of SLURM")
    jobs.add_argument("--qos", help="of SLURM")
    jobs.add_argument("--cluster", choices=CLUSTERS, default="slurm", help="`local`, `debug`: try it without SLURM")
    parser.add_aliases({"--set": "--override", "--num_processes": "--processes"})


def model_choice(arguments: argparse.Namespace) -> ModelChoice:
    """Return the chosen network, with its file, device and dtype found out.

    Raises:
        CheckpointError: there is no such checkpoint.
    """
    device = arguments.device or best_device().type
    dtype = str(choose_dtype(arguments.dtype, choose_device(device))).removeprefix("torch.")
    model = chosen_model(arguments)
    assert model.checkpoint is not None
    return replace(model, checkpoint=find_checkpoint(model.checkpoint), device=device, dtype=dtype)


def model_settings(model: ModelChoice) -> dict[str, object]:
    """Return what the masks depend on; the network is built once to see that config and checkpoint fit.

    Raises:
        I2VPPError: they do not.
    """
    assert model.checkpoint is not None
    network = build_i2vpp(model.config, model.checkpoint, "cpu", hydra_overrides_extra=model.overrides)
    return {
        "checkpoint": model.checkpoint.name,
        "checkpoint_sha256": file_sha256(model.checkpoint),
        "model": asdict(network.config),
        "device": (model.device or "cpu").partition(":")[0],
        "dtype": model.dtype,
        "compiled": model.compile,
    }


def run_command(
    argv: Sequence[str] | None, parser: argparse.ArgumentParser, prepare: Callable[[argparse.Namespace], Run], name: str
) -> int:
    """Parse the arguments, make the run here or submit it, say how it ended, and return the exit status.

    Args:
        argv: arguments of the command; None for those of this process.
        parser: with the options of `add_run_options`.
        prepare: finds out what is to be made; raises I2VPPError where it cannot.
        name: of the function that calls this one, as "module:name", for the jobs of a cluster.

    Returns:
        The exit status: 0 done, 1 an error or failed jobs, 2 wrong usage, 130 and 143 ended by a signal.
    """
    argv = sys.argv[1:] if argv is None else argv
    try:
        arguments = parser.parse_args(argv)
    except SystemExit as end:  # argparse has printed help, or what is wrong
        return int(end.code or 0)
    try:
        with plain_warnings():
            run = prepare(arguments)
            if arguments.use_cluster:
                return _submit(arguments, ArrayTask(command=name, arguments=task_arguments(argv)))
            return _execute(run, arguments)
    except (I2VPPError, OSError) as error:
        sys.stderr.write(f"error: {shorten_words(str(error))}\n")
        return EXIT_ERROR
    except KeyboardInterrupt as stop:
        what = "terminated" if isinstance(stop, Terminated) else "interrupted"
        sys.stderr.write(f"{what}; finished jobs are kept, and the same command goes on\n")
        return exit_status(stop)


def _execute(run: Run, arguments: argparse.Namespace) -> int:
    processes = arguments.processes
    if processes is None:
        gpus = torch.cuda.device_count() if arguments.device in (None, "cuda") and "RANK" not in os.environ else 0
        processes = max(1, min(gpus, len(run.jobs)))
    outcome = run_jobs(
        run.jobs,
        run.set_up,
        arguments.output,
        run.settings,
        processes=processes,
        threads=arguments.threads,
        overwrite=arguments.overwrite,
    )
    if outcome.is_main:
        sys.stdout.write(f"{outcome.report()}\nmasks: {arguments.output}\n")
    return outcome.exit_status


@dataclass(frozen=True, kw_only=True)
class ArrayTask(Requeued):
    """What submitit pickles and calls in each job of an array: a command, which goes on after an interruption.

    Args:
        command: function that takes arguments and returns an exit status, as "module:name".
        arguments: of the command.
    """

    command: str
    arguments: tuple[str, ...]

    def __call__(self, index: int) -> None:
        """Run the command in cluster job `index` of the array.

        Raises:
            RunError: it ended with another status than 0.
        """
        if status := pkgutil.resolve_name(self.command)(list(self.arguments)):
            raise RunError(f"job {index} ended with status {status}; its log says why")


def task_arguments(argv: Sequence[str]) -> tuple[str, ...]:
    """Return the arguments of an `ArrayTask`: as given, but the command runs in one process and overwrites nothing."""
    return (*argv, "--use-cluster", "0", "--processes", "1", "--no-overwrite")


def _submit(arguments: argparse.Namespace, task: ArrayTask) -> int:
    RunStore(arguments.output).prepare(overwrite=arguments.overwrite)
    # The jobs inherit the environment, and find the folders beside the library wherever they are started.
    paths = [str(Path(__file__).resolve().parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    cluster = Cluster(
        kind=arguments.cluster,
        name="i2vpp-eval",
        gpus=0 if arguments.device == "cpu" else 1,
        cpus=max(arguments.num_cpus, arguments.threads),
        hours=arguments.hours,
        partition=arguments.partition,
        account=arguments.account,
        qos=arguments.qos,
        more={"slurm_array_parallelism": arguments.num_jobs},
    )
    return submit(task, cluster, arguments.output / RUN_FOLDER / "jobs", array=arguments.num_jobs)


def protocol_name(text: str) -> str:
    """Return the name of a prompt protocol; raise `argparse.ArgumentTypeError` if there is none of this name."""
    try:
        return PromptProtocol(text).name
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
