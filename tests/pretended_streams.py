"""Streams, events and CUDA graphs of the device of `pretended_cuda`; all streams run in the order of Python's calls."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from operation_counts import tensors_in

if TYPE_CHECKING:
    from pretended_cuda import PretendedCuda


class CaptureError(RuntimeError):
    """Something that CUDA does not allow while a graph is recorded, or a graph that records nothing."""


class Stream:
    """Stands for `torch.cuda.Stream`: work on it counts as done when the host waits for anything."""

    def __init__(self, pretended: PretendedCuda, device: Any = None, **_: Any) -> None:
        self.device = pretended.indexed(torch.device("cuda") if device is None else device)
        self._pretended = pretended

    def wait_stream(self, stream: Stream) -> None:
        pass

    def wait_event(self, event: Event) -> None:
        pass

    def synchronize(self) -> None:
        self._pretended.wait("Stream.synchronize")


class Event:
    """Stands for `torch.cuda.Event`: covers the copies that are under way when it is recorded."""

    def __init__(self, pretended: PretendedCuda, *_: Any, **__: Any) -> None:
        self._pretended = pretended
        self._covers: list[Any] = []

    def record(self, stream: Stream | None = None) -> None:
        self._covers = list(self._pretended.in_flight)

    def query(self) -> bool:
        return self._pretended.has_arrived(self._covers)

    def synchronize(self) -> None:
        self._pretended.wait("Event.synchronize")

    def wait(self, stream: Stream | None = None) -> None:
        pass


@dataclass(eq=False)
class _Step:
    """A recorded operation; an output is None where it lies in the memory of an input."""

    run: Callable[[], Any]
    outputs: list[Tensor | None]


@dataclass(eq=False)
class Graph:
    """Stands for `torch.cuda.CUDAGraph`: operations that run again on the memory of their first run."""

    pretended: PretendedCuda
    steps: list[_Step] = field(default_factory=list)

    def pool(self) -> object:
        return self

    def replay(self) -> None:
        with _disable_current_modes(), torch.no_grad():
            for step in self.steps:
                for output, again in zip(step.outputs, tensors_in(step.run()), strict=True):
                    if output is not None:
                        output.copy_(again)
        self.pretended.replays += 1


@dataclass(eq=False)
class Recording:
    """A graph that is being recorded by a thread on a stream."""

    graph: Graph
    stream: Stream
    thread: int

    def note(self, run: Callable[[], Any], inputs: Any, outputs: Any) -> None:
        """Add an operation that has run."""
        memory = {x.untyped_storage().data_ptr() for x in tensors_in(inputs)}
        kept = [None if x.untyped_storage().data_ptr() in memory else x for x in tensors_in(outputs)]
        self.graph.steps.append(_Step(run, kept))

    def concerns_this_thread(self) -> bool:
        """Whether the thread that asks is the one that records."""
        return self.thread == threading.get_ident()


@contextmanager
def record(
    pretended: PretendedCuda, graph: Graph, pool: object = None, stream: Stream | None = None, **_: Any
) -> Iterator[None]:
    """Stand for `torch.cuda.graph`: like it, without a stream take one that was made on the first device that asked.

    Raises:
        CaptureError: a graph is being recorded in this process already, or this one has recorded nothing.
    """
    pretended.wait("torch.cuda.graph")
    if pretended.recording is not None:
        raise CaptureError("only one graph may be recorded in a process at a time")
    if stream is None:
        pretended.capture_stream = stream = pretended.capture_stream or Stream(pretended)
    pretended.recording = Recording(graph, stream, threading.get_ident())
    try:
        with pretended.on_stream(stream):
            yield
    finally:
        pretended.recording = None
    if not graph.steps:
        raise CaptureError(f"nothing was recorded: no work was on the stream of {stream.device}")
