"""The processes of a run on this machine: how they start, stop, and say what went wrong."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import Any

import torch
from torch.multiprocessing import get_context

from i2vpp.errors import I2VPPError
from i2vpp.utils.signals import sigterm_raises
from test_pvs.progress import Bar
from test_pvs.worker import POLL, Worker

PATIENCE = 60.0  # seconds in which a process that is asked to stop finishes its frame


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let PyTorch use so many threads in the body."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _handling(number: signal.Signals, handler: Any) -> Iterator[None]:
    """Handle a signal in the body; outside the main thread, where Python forbids it, leave it as it is."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


def spawn(worker: Worker, processes: int, bar: Bar) -> list[str]:
    """Run the worker in processes of their own, and return what became of those that ended early."""
    context = get_context("spawn")
    counts = context.RawArray("q", processes)
    messages = context.SimpleQueue()
    children = [
        context.Process(target=_child, args=(index, worker, counts, messages), daemon=True)
        for index in range(processes)
    ]
    try:
        with _handling(signal.SIGINT, signal.SIG_IGN):  # children inherit it: this process alone stops them
            for child in children:
                child.start()
        while alive := [child for child in children if child.is_alive()]:
            wait([child.sentinel for child in alive], timeout=POLL)
            bar.show(sum(counts))
    finally:
        _stop(children)
    said: dict[int, str] = {}
    while not messages.empty():
        index, text = messages.get()
        said[index] = text
    for index, child in enumerate(children):
        status = child.exitcode or 0
        if status < 0:
            said[index] = f"a process was ended by {signal.Signals(-status).name}; was there too little memory?"
        elif status:
            said.setdefault(index, f"a process ended with status {status}")
    return list(dict.fromkeys(said.values()))


def _stop(children: Sequence[Any]) -> None:
    """Ask processes to stop, and end those that do not in time."""
    started = [child for child in children if child.pid is not None]
    for child in started:
        child.terminate()
    limit = time.monotonic() + PATIENCE
    for child in started:
        child.join(max(0.0, limit - time.monotonic()))
        child.kill()
        child.join()


def _child(index: int, worker: Worker, counts: Any, messages: Any) -> None:  # pragma: no cover - in another process
    parent = os.getppid()

    def show(frames: int) -> None:
        counts[index] = frames
        if os.getppid() != parent:  # it was killed: nobody would stop this process any more
            raise KeyboardInterrupt

    try:
        with sigterm_raises():
            torch.set_num_threads(worker.threads)
            worker.run(index, show)
    except KeyboardInterrupt:
        sys.exit(1)
    except (I2VPPError, OSError, RuntimeError) as error:
        messages.put((index, str(error)))
        sys.exit(1)
