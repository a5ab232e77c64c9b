"""What launched processes call in place of the trainer; named as "launch_targets:function"."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import torch

from i2vpp.errors import NoDataError
from i2vpp.utils.distributed import (
    Ranks,
    all_agree,
    any_rank,
    broadcast_object,
    gather_objects,
    process_group,
    sum_over_ranks,
)
from training.config import TrainConfig

CPU = torch.device("cpu")


def note(config: TrainConfig, ranks: Ranks) -> None:
    """Write down that the process was here."""
    folder = Path(config.run.folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"rank{ranks.rank}.json").write_text(json.dumps([ranks.rank, ranks.local_rank, ranks.world_size]))


def talk(config: TrainConfig, ranks: Ranks) -> None:
    """Use all ways to tell each other something, then wait for SIGTERM as the trainer does, and write it all down."""
    stopped = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopped.append(number))
    mine = torch.tensor([1.0, ranks.rank])
    with process_group(ranks, CPU):
        heard = {
            "all_agree": [all_agree(True, CPU), all_agree(ranks.is_main, CPU), all_agree(False, CPU)],
            "any_rank": [any_rank(True, CPU), any_rank(ranks.is_main, CPU), any_rank(False, CPU)],
            "sum": sum_over_ranks(mine).tolist(),
            "mine": mine.tolist(),
            "broadcast": broadcast_object({"from": ranks.rank}),
            "gathered": gather_objects(f"rank {ranks.rank}"),
        }
    (Path(config.run.folder) / f"ready{ranks.rank}").touch()
    limit = time.monotonic() + 300
    while not stopped and time.monotonic() < limit:
        time.sleep(0.02)
    (Path(config.run.folder) / f"rank{ranks.rank}.json").write_text(json.dumps({**heard, "stopped": stopped}))


def find_nothing(config: TrainConfig, ranks: Ranks) -> None:
    raise NoDataError(f"nothing in {config.run.folder}")


def stop_once(config: TrainConfig, ranks: Ranks) -> None:
    """Wait for SIGTERM, save and return, as the trainer does; started again, finish."""
    saved = Path(config.run.folder) / "saved"
    if saved.exists():
        saved.with_name("resumed").touch()
        return
    stopped = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopped.append(number))
    saved.with_name("pid").write_text(str(os.getpid()))
    while not stopped:
        time.sleep(0.02)
    saved.touch()
