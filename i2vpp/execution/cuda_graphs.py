"""Functions of tensors, recorded as CUDA graphs and replayed."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

WARM_UP_CALLS = 3  # before a recording, as PyTorch's documentation asks for
CAPACITY = 32
_RECORDING = threading.Lock()
"""PyTorch allows one recording at a time in a process, on whatever device."""

Function: TypeAlias = Callable[..., tuple[Tensor, ...]]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Recording:
    """A graph with the tensors that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]


class CudaGraphs:
    """Run a function from CUDA graphs, one for every combination of input shapes; the 32 latest are kept.

    A replay starts hundreds of kernels at once without any Python code between them. The outputs belong to the
    caller. Calls may come from any thread and stream, while `mode="reduce-overhead"` of `torch.compile` works in one
    thread only.

    Args:
        function: function of tensors on one CUDA device, without side effects or decisions that depend on their values.
            Other tensors that it reads, such as weights, have to stay at their addresses.
    """

    def __init__(self, function: Function) -> None:
        self._function = function
        self._recordings: OrderedDict[tuple[torch.Size, ...], _Recording] = OrderedDict()
        self._lock = threading.Lock()
        self._done = torch.cuda.Event()

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs of the function for these inputs."""
        shapes = tuple(x.shape for x in inputs)
        with self._lock, torch.cuda.device(inputs[0].device):
            stream = torch.cuda.current_stream()
            stream.wait_event(self._done)  # all recordings share memory, and the last call may be on another stream
            recording = self._recordings.get(shapes)
            if recording is None:
                with _RECORDING:
                    recording = self._record(inputs)
            self._recordings[shapes] = recording
            self._recordings.move_to_end(shapes)
            for static, given in zip(recording.inputs, inputs, strict=True):
                static.copy_(given)
            recording.graph.replay()
            outputs = tuple(x.clone() for x in recording.outputs)
            self._done.record(stream)
            return outputs

    def _record(self, inputs: Sequence[Tensor]) -> _Recording:
        if len(self._recordings) >= CAPACITY:
            torch.cuda.synchronize()
            self._recordings.popitem(last=False)
        earlier = next(iter(self._recordings.values()), None)
        pool = None if earlier is None else earlier.graph.pool()
        with torch.inference_mode(False), torch.no_grad():
            static = [x.clone() for x in inputs]
            side = torch.cuda.Stream(inputs[0].device)
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(WARM_UP_CALLS):
                    self._function(*static)
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            # The stream is named because PyTorch's own for recordings belongs to the device of the process's first
            # recording. thread_local: GPU work of other threads is neither recorded nor an error.
            with torch.cuda.graph(graph, pool=pool, stream=side, capture_error_mode="thread_local"):
                outputs = self._function(*static)
        return _Recording(graph=graph, inputs=static, outputs=outputs)
