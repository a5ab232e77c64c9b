"""Ctrl-C and SIGTERM: delayed while a file is written, and turned into exceptions that end a command in order."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

EXIT_INTERRUPTED, EXIT_TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM


class Terminated(KeyboardInterrupt):
    """SIGTERM has arrived, as SLURM, docker and systemd send it some seconds before they kill a process."""


def exit_status(stop: KeyboardInterrupt) -> int:
    """Return the exit status of a command that was stopped: 143 by SIGTERM, 130 by Ctrl-C."""
    return EXIT_TERMINATED if isinstance(stop, Terminated) else EXIT_INTERRUPTED


@contextmanager
def handled(handler: Callable[[int, FrameType | None], object], *numbers: int) -> Iterator[None]:
    """Let a function handle signals in the block, and put the earlier handlers back on leaving it.

    Outside of the main thread, where Python forbids it, nothing changes.

    Args:
        handler: function that is called with the number of the signal and the interrupted frame.
        numbers: the signals, such as `signal.SIGTERM`.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous: dict[int, Any] = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in previous.items():
            signal.signal(number, signal.SIG_DFL if earlier is None else earlier)  # None: not set by Python


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """Let SIGTERM raise `Terminated` in the block, so that it ends a command as Ctrl-C does.

    Where another handler of SIGTERM is installed, such as that of submitit or of a server, and outside of the main
    thread, where Python forbids it, nothing changes.
    """

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise Terminated

    with handled(stop, *([signal.SIGTERM] if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL else [])):
        yield


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Delay Ctrl-C and SIGTERM until the block is done, so that no file is left half written."""
    held: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        held.append(number)

    with handled(note, signal.SIGINT, signal.SIGTERM):
        yield
    for pressed in dict.fromkeys(held):
        signal.raise_signal(pressed)
