"""How a run is stopped by a signal, and when it saves."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from i2vpp.utils.signals import handled

STOP_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGINT") if hasattr(signal, name))
LINGER = 60  # seconds that a loader process outlives a signal


@dataclass
class StopRequest:
    """Whether a signal has asked the run to stop."""

    requested: bool = False


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Let SIGTERM, SIGUSR1 and Ctrl-C only set `requested` in the block: the loop finishes its step, saves and ends.

    A second Ctrl-C ends the program at once. Handlers can be set in the main thread only; elsewhere nothing happens.
    On leaving the block, the earlier ones are put back.
    """
    stop = StopRequest()

    def note(number: int, frame: FrameType | None) -> None:
        if stop.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.requested = True

    with handled(note, *STOP_SIGNALS):
        yield stop


def outlive_signals(worker: int = 0) -> None:
    """Let a loader process outlive the signals for a minute (its `worker_init_fn`).

    Schedulers signal the whole group of processes, but the last step still needs its data. For a minute only: at the
    end of a failed program, the same signal is how Python gets rid of the process.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, lambda *_: signal.alarm(LINGER))


class SaveClock:
    """Says when the next checkpoint is due.

    Args:
        minutes: minutes between checkpoints.
        now: seconds of a clock that never goes back.
    """

    def __init__(self, minutes: float, *, now: Callable[[], float] = time.monotonic) -> None:
        self._seconds = 60 * minutes
        self._now = now
        self._last = now()

    def due(self) -> bool:
        """Whether the last checkpoint is old enough."""
        return self._now() - self._last >= self._seconds

    def reset(self) -> None:
        """Note that a checkpoint was written."""
        self._last = self._now()
