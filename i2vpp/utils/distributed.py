"""The processes of a run: their ranks, and collective operations, which do nothing in a run of one process."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from i2vpp.errors import RunError

T = TypeVar("T")

_PATIENCE = timedelta(hours=1)  # the other ranks wait in a collective while rank 0 validates or saves


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """Place of this process in the run.

    Args:
        rank: rank over all machines, 0 to `world_size` - 1.
        local_rank: rank among the processes of this machine; also the index of its GPU.
        world_size: number of processes of the run.
    """

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and speaks for the run."""
        return self.rank == 0

    @classmethod
    def from_environment(cls) -> Ranks:
        """Read RANK, LOCAL_RANK and WORLD_SIZE as torchrun sets them; without all of them: a run of one process.

        Raises:
            RunError: only some of them are set, or they make no sense together.
        """
        names = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
        said = {name: os.environ[name] for name in names if name in os.environ}
        if not said:
            return cls()
        try:
            rank, local_rank, world_size = (int(said[name]) for name in names)
            sensible = 0 <= local_rank <= rank < world_size
        except (KeyError, ValueError):
            sensible = False
        if not sensible:
            raise RunError(
                f"RANK, LOCAL_RANK and WORLD_SIZE must all be set as torchrun sets them, or none; got {said}"
            )
        return cls(rank=rank, local_rank=local_rank, world_size=world_size)


@contextmanager
def process_group(ranks: Ranks, device: torch.device) -> Iterator[None]:
    """Connect the processes of a run: NCCL between CUDA devices, gloo otherwise. One process needs no group.

    MASTER_ADDR and MASTER_PORT must be set, as launchers do. On CUDA `device` becomes the current one.

    Args:
        ranks: place of this process in the run.
        device: device of this process.

    Raises:
        RunError: the port is in use, or not all processes answered.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if ranks.world_size == 1:
        yield
        return
    address, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT")
    if not address or not port:
        raise RunError("MASTER_ADDR and MASTER_PORT must be set for a run of several processes; use torchrun")
    backend = "nccl" if device.type == "cuda" else "gloo"
    try:
        dist.init_process_group(
            backend,
            rank=ranks.rank,
            world_size=ranks.world_size,
            timeout=_PATIENCE,
            device_id=device if device.type == "cuda" else None,
        )
    except dist.DistError as error:
        reason = str(error).splitlines()[0]
        raise RunError(
            f"rank {ranks.rank} of {ranks.world_size} found no connection at {address}:{port} ({reason}); choose "
            "another MASTER_PORT if it is in use, and check that all processes started"
        ) from error
    try:
        yield
    finally:
        dist.destroy_process_group()


def _alone() -> bool:
    return not (dist.is_available() and dist.is_initialized())


def _reduced(flag: bool, device: torch.device, operation: dist.ReduceOp.RedOpType) -> bool:
    if _alone():
        return flag
    votes = torch.tensor(int(flag), dtype=torch.int32, device=device)
    dist.all_reduce(votes, operation)
    return bool(votes.item())


def all_agree(flag: bool, device: torch.device) -> bool:
    """Whether the flag is set on all ranks; every rank gets the same answer.

    Args:
        flag: the flag of this rank.
        device: device of this rank.
    """
    return _reduced(flag, device, dist.ReduceOp.MIN)


def any_rank(flag: bool, device: torch.device) -> bool:
    """Whether the flag is set on at least one rank; every rank gets the same answer.

    Args:
        flag: the flag of this rank.
        device: device of this rank.
    """
    return _reduced(flag, device, dist.ReduceOp.MAX)


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """Sum a tensor of equal shape over all ranks; every rank gets the sum, the input is left as it is."""
    if _alone():
        return tensor
    total = tensor.detach().clone()
    dist.all_reduce(total)
    return total


def broadcast_object(value: T) -> T:
    """Give rank 0's value (anything that can be pickled) to all ranks."""
    if _alone():
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def gather_objects(value: T) -> list[T]:
    """Collect a value (anything that can be pickled) from all ranks, by rank; every rank gets the list."""
    if _alone():
        return [value]
    values: list[T] = [value] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def find_free_port() -> int:
    """Find a TCP port that nobody listens on, on this machine and at this moment."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def check_port_free(port: int) -> None:
    """Check that processes of this machine can meet at a TCP port.

    Raises:
        RunError: it is in use or not allowed.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a run that ended a moment ago is no obstacle
        try:
            probe.bind(("", port))
        except (OSError, OverflowError) as error:
            raise RunError(
                f"port {port} cannot be used ({error}): choose another one by --port or MASTER_PORT, or leave it out"
            ) from error
