"""`python -m training.train -c RECIPE`: train on this machine, under torchrun, or on a SLURM cluster."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from i2vpp.errors import I2VPPError, shorten_words
from i2vpp.utils.cluster import CLUSTERS
from i2vpp.utils.notices import plain_warnings
from i2vpp.utils.parser import Parser
from training.config import TrainConfig
from training.launch import TRAINER, Plan, check_launch, describe, launch, launch_checks, plan_launch
from training.recipes import load_recipe

EXIT_ERROR, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130

EXAMPLES = """\
examples:
  python -m training.train -c i2vpp-smoke                                  a CPU, no data, two minutes
  python -m training.train -c configs/i2vpp-train.yaml --num-gpus 8        8 GPUs of this machine
  python -m training.train -c i2vpp-train --use-cluster 1 --num-nodes 4 --num-gpus 8 --partition gpu
  torchrun --nproc-per-node 8 -m training.train -c i2vpp-train             processes started by torchrun
  python -m training.train -c i2vpp-train run.epochs=3 'data.sources.sav.images="/data/my videos"'

Overrides follow Hydra's grammar. A run folder that holds a run is resumed. Ctrl-C, SIGTERM, SIGUSR1 save and stop it.
exit status: 0 done, 1 the run failed, 2 wrong usage, config or machine, 130 interrupted.
"""


@plain_warnings()
def main(argv: Sequence[str] | None = None, *, target: str = TRAINER) -> int:
    """Run the command and return its exit status; `target` is the function that every process calls.

    Args:
        argv: arguments of the command; None: those of this process.
        target: the function that every process calls, as "module:name".
    """
    try:
        arguments = build_parser().parse_intermixed_args(argv)
    except SystemExit as end:  # argparse has printed the help or an error
        return int(end.code or 0)
    try:
        config = load_recipe(arguments.config, [*arguments.overrides, *arguments.override, *_as_overrides(arguments)])
        plan = plan_launch(config, port=arguments.port, cluster=arguments.cluster)
        if arguments.dry_run:
            return _dry_run(config, plan)
        check_launch(config, plan)
    except I2VPPError as error:
        return _complain(error, EXIT_USAGE)
    try:
        return launch(config, plan, target=target)
    except I2VPPError as error:
        return _complain(error, EXIT_ERROR)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _dry_run(config: TrainConfig, plan: Plan) -> int:
    """Print what would run, and everything that would stop it; return the exit status."""
    from training.preview import preview  # noqa: PLC0415 - the network is needed for nothing else in this process

    found = preview(config, plan.ranks.world_size if plan.ranks is not None else plan.nodes * plan.processes)
    for check in launch_checks(config, plan):
        with found.problem():
            check()
    sys.stdout.write(describe(config, plan, found.lines))
    for problem in found.problems:
        _complain(problem, EXIT_USAGE)
    return EXIT_USAGE if found.problems else 0


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command; options win over the recipe's `cluster` section."""
    parser = Parser(
        prog="python -m training.train",
        usage="%(prog)s -c RECIPE [options] [key=value ...]",
        description="Train SAM-I2V++ by a recipe.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("overrides", nargs="*", metavar="key=value", help="values that win over the recipe's")
    add("-c", "--config", required=True, metavar="RECIPE", help="path, or name of one in configs/")
    add("--override", action="append", default=[], metavar="KEY=VALUE", help="the same as key=value; may be repeated")
    add("--device", help="run.device of the recipe: auto, cuda, cpu or mps")
    add("--dtype", help="run.precision of the recipe: float32 or bfloat16")
    add("--num-gpus", "--processes", type=int, metavar="N", help="processes per machine; 0: as many as it has GPUs")
    add("--num-nodes", type=int, metavar="N", help="machines (SLURM)")
    add("--use-cluster", type=int, choices=(0, 1), help="1: submit to SLURM, 0: run here")
    add("--partition", help="of SLURM")
    add("--account", help="of SLURM")
    add("--qos", help="of SLURM")
    add("--cluster", choices=CLUSTERS, default="slurm", help="`local`, `debug`: try it without SLURM")
    add("--port", type=int, help="at which processes meet; default: MASTER_PORT, else a free one")
    add("--dry-run", action="store_true", help="print what would run, and what would stop it")
    return parser


def _as_overrides(arguments: argparse.Namespace) -> list[str]:
    """The options that are keys of the recipe too, as overrides."""
    keys = {"device": "run.device", "dtype": "run.precision", "use_cluster": "cluster.use_cluster"}
    keys |= {name: f"cluster.{name}" for name in ("num_gpus", "num_nodes", "partition", "account", "qos")}
    options = {key: getattr(arguments, name) for name, key in keys.items()}
    return [f"{key}={_quoted(value)}" for key, value in options.items() if value is not None]


def _quoted(value: object) -> str:
    return '"' + value.replace('"', '\\"') + '"' if isinstance(value, str) else str(value)


def _complain(error: I2VPPError | str, status: int) -> int:
    """Print the error; of processes that torchrun started, one per machine speaks before the start, all afterwards."""
    rank, local_rank = os.environ.get("RANK", "0"), os.environ.get("LOCAL_RANK", "0")
    if status != EXIT_USAGE or local_rank == "0":
        said = shorten_words(str(error))
        sys.stderr.write(f"error: {said}\n" if rank == "0" else f"error on rank {rank}: {said}\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
