"""Counts, on a CPU, how often code would make the host wait for a GPU."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any
from unittest.mock import patch
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from i2vpp.memory.cpu_copy import CpuCopy

aten = torch.ops.aten
# The size of the result, or what Python does next, depends on values: the host has to see them.
WAITING = {
    aten._local_scalar_dense, aten.equal, aten.allclose, aten.nonzero, aten.masked_select, aten.bincount,
    aten.unique_dim, aten._unique, aten._unique2, aten.unique_consecutive, aten.repeat_interleave,
}  # fmt: skip
INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index}
FACTORIES = {
    torch.tensor, torch.as_tensor, torch.empty, torch.zeros, torch.ones, torch.full, torch.arange, torch.linspace,
    torch.eye, torch.rand, torch.randn, torch.randint, torch.empty_strided,
}  # fmt: skip
FROM_PYTHON = {torch.tensor, torch.as_tensor}
HOST = "_on_the_host"
TORCH = str(Path(torch.__file__).parent)


class SyncCounter:
    """Counts in its `with` block what would make the host wait, while all runs on the CPU.

    Tensors count as the GPU's, but for those made without `device=`, from NumPy, or copied by `.cpu()` or `.to("cpu")`
    (the string: a torch.device is taken for the GPU), and what is computed from such tensors alone. A wait is a value
    that is read, a shape that depends on values, or a copy between the two that is not `non_blocking`. A `CpuCopy`
    arrives with the next wait after it was begun.
    """

    def __init__(self) -> None:
        self.places: list[str] = []

    @property
    def count(self) -> int:
        """How many waits there were."""
        return len(self.places)

    def wait(self, what: object) -> None:
        """Note a wait and the line that it comes from."""
        ours = [f for f in traceback.extract_stack() if not f.filename.startswith((__file__, TORCH))]
        self.places.append(f"{what} at {ours[-1].filename}:{ours[-1].lineno}")

    def __enter__(self) -> SyncCounter:
        start, wait, arrived = CpuCopy.__init__, CpuCopy.wait, CpuCopy.arrived
        begun: WeakKeyDictionary[CpuCopy, int] = WeakKeyDictionary()

        def started(copy: CpuCopy, tensor: Tensor) -> None:
            start(copy, tensor)
            begun[copy] = self.count

        def is_there(copy: CpuCopy) -> bool:  # whoever waits, waits for all that was begun before
            return begun.get(copy, -1) < self.count

        def waited(copy: CpuCopy) -> Tensor:
            if not is_there(copy):
                self.wait("CpuCopy.wait")
            return wait(copy)

        self._stack = ExitStack()
        self._stack.enter_context(patch.object(CpuCopy, "__init__", started))
        self._stack.enter_context(patch.object(CpuCopy, "wait", waited))
        self._stack.enter_context(patch.object(CpuCopy, "arrived", lambda x: arrived(x) if is_there(x) else None))
        for name in ("from_numpy", "frombuffer"):  # which the modes do not see
            self._stack.enter_context(patch.object(torch, name, _from_host(getattr(torch, name))))
        self._stack.enter_context(_Operations(self))
        self._stack.enter_context(_Functions(self))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stack.close()


def _from_host(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *args, **kwargs: _mark(function(*args, **kwargs), host=True)


def _mark(tensor: Tensor, *, host: bool) -> Tensor:
    setattr(tensor, HOST, host)
    return tensor


def on_host(tensor: Tensor) -> bool:
    """Whether a tensor would lie on the host."""
    return getattr(tensor, HOST, False)


def _tensors(*trees: Any) -> list[Tensor]:
    return [x for x in tree_leaves(trees) if isinstance(x, Tensor)]


class _Functions(TorchFunctionMode):
    """Sees what is written in Python: where tensors are made and moved, and values that Python reads."""

    def __init__(self, counter: SyncCounter) -> None:
        super().__init__()
        self.counter = counter

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in (Tensor.to, Tensor.cpu):
            return self._move(func, args, kwargs)
        if func in FACTORIES:
            host = kwargs.get("device") is None
            if func in FROM_PYTHON and not host:
                self.counter.wait(resolve_name(func))
            return _mark(func(*args, **kwargs), host=host)
        if func in (Tensor.__getitem__, Tensor.__setitem__) and not on_host(args[0]):
            parts = args[1] if isinstance(args[1], tuple) else (args[1],)
            if any(isinstance(part, list | range | np.ndarray) for part in parts):
                self.counter.wait("index from Python")
        if func in (Tensor.numpy, Tensor.__array__, Tensor.tolist) and not on_host(args[0]):
            if func is not Tensor.tolist:
                raise TypeError("a GPU's tensor cannot be converted to NumPy: copy it to the CPU first")
            self.counter.wait("tolist")
        return func(*args, **kwargs)

    def _move(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        tensor, *rest = args
        wanted = [x for x in (*rest, *kwargs.values()) if isinstance(x, str | torch.device | Tensor)]
        was = now = on_host(tensor)
        if func is Tensor.cpu or (wanted and wanted[0] == "cpu" and isinstance(wanted[0], str)):
            now = True
        elif wanted:
            now = isinstance(wanted[0], Tensor) and on_host(wanted[0])
        if was != now and not kwargs.get("non_blocking"):
            self.counter.wait("copy to the host" if now else "copy to the GPU")
        moved = func(*args, **kwargs)
        if was != now and moved is tensor:
            moved = tensor.view(tensor.shape)  # what lies elsewhere is another tensor
        return _mark(moved, host=now)


class _Operations(TorchDispatchMode):
    """Sees every operation, also inside PyTorch's own functions."""

    def __init__(self, counter: SyncCounter) -> None:
        super().__init__()
        self.counter = counter

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        with self:
            out = func.decompose(*args, **kwargs)  # where autograd, which would do it, is left out: inference mode
        if out is not NotImplemented:
            return out
        packet, inputs = func.overloadpacket, _tensors(args, kwargs)
        host = bool(inputs) and all(on_host(x) for x in inputs)
        if not host:
            self._look(packet, args, kwargs)
        out = func(*args, **kwargs)
        for x in _tensors(out):
            if host and all(x is not y for y in inputs):
                _mark(x, host=True)
        return out

    def _look(self, packet: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if packet in WAITING and kwargs.get("output_size") is None:
            self.counter.wait(packet)
        elif packet in INDEXING and not on_host(args[0]):
            indices = _tensors(args[1])
            filled = packet not in (aten.index, aten._unsafe_index) and args[2].numel() == 1 and len(indices) == 1
            for index in indices:
                if on_host(index) or (index.dtype == torch.bool and not filled):
                    self.counter.wait(f"{packet} with {'host' if on_host(index) else 'bool'} index")
        elif packet is aten.copy_ and on_host(args[0]) != on_host(args[1]) and args[1].ndim:
            if not (kwargs.get("non_blocking") or (len(args) > 2 and args[2])):
                self.counter.wait("copy_ between host and GPU")


def waits(run: Callable[[], object]) -> list[str]:
    """Run something once and return what it would wait for."""
    with SyncCounter() as counter:
        run()
    return counter.places
