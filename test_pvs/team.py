"""What one process of a run does: take units until none is left open."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch

from i2vpp.errors import I2VPPError, RunError
from test_pvs.record import Failure, Ledger, Unit, Work

MakeWork: TypeAlias = Callable[[int], Work]
"""Takes the index of a process on this machine, which is also that of its GPU; builds what works there."""

FAILURES = (I2VPPError, OSError, RuntimeError, ValueError, LookupError, MemoryError, EOFError, SyntaxError)
"""What may be wrong with one unit (a broken file, too little memory) while the others can be made."""

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
POLL = 0.5  # seconds between two looks at what others do


@dataclass(frozen=True, kw_only=True)
class Team:
    """What every process of a run knows.

    Args:
        units: the longest first, so that the last ones to finish are short.
        ledger: of the run.
        make_work: see `run_units`.
        threads: of PyTorch in each process.
        earlier: failures of earlier starts, which are tried again.
    """

    units: tuple[Unit, ...]
    ledger: Ledger
    make_work: MakeWork
    threads: int
    earlier: Mapping[str, Failure]

    def is_settled(self, unit: Unit) -> bool:
        """Whether the unit is done, or has failed since this start."""
        state = self.ledger.look(unit)
        return state is not None and state != self.earlier.get(unit.name)

    def work(self, index: int, show: Callable[[int], None]) -> None:
        """Make units until all are settled; `show` is told how many frames of the present one are tracked."""
        work: Work | None = None
        left = self.units
        while left:
            busy = []
            for unit in left:
                if self.is_settled(unit):
                    continue
                with self.ledger.claim(unit.name) as mine:
                    if not mine:
                        busy.append(unit)
                    elif not self.is_settled(unit):  # it may have become so since
                        work = work or self._set_up(index)
                        self._attempt(unit, work, show)
            left = tuple(busy)
            if left:
                show(0)
                time.sleep(POLL)

    def _set_up(self, index: int) -> Work:
        try:
            return self.make_work(index)
        except I2VPPError:
            raise
        except RuntimeError as error:  # of PyTorch, such as a GPU without memory
            raise RunError(f"the network cannot be set up: {error}") from error

    def _attempt(self, unit: Unit, work: Work, show: Callable[[int], None]) -> None:
        frames = 0

        def on_frame() -> None:
            nonlocal frames
            frames += 1
            show(frames)

        try:
            self.ledger.make(unit, work, on_frame)
        except FAILURES as error:
            if isinstance(error, OSError) and error.errno in DISK_FULL:
                raise RunError(
                    f"{self.ledger.out} is full ({error}); make room, and the same command goes on"
                ) from error
            self.ledger.fail(unit, error)
            _check_gpu()
        show(0)


def _check_gpu() -> None:
    """Stop a process whose GPU answers no more, before it fails on all units that are left."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        try:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
        except RuntimeError as error:
            raise RunError(f"the GPU does not work any more ({error}); the same command goes on") from error
