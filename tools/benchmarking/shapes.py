"""A CUDA device that computes shapes only, to count on any machine what the work on a frame asks of a GPU.

Tensors on it say `cuda:0` and hold no values. What needs a value of theirs on the CPU gets zeros, or 1 for a number.
Every operation is counted as PyTorch would launch it in eager mode: a kernel, or no kernel where it only makes a view.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

GPU, CPU, META = torch.device("cuda", 0), torch.device("cpu"), torch.device("meta")
CAST = "_to_copy"
NO_KERNEL = frozenset(
    "alias as_strided detach diagonal empty empty_like empty_strided expand lift_fresh new_empty new_empty_strided "
    "permute real select slice split split_with_sizes squeeze t transpose unbind unfold unsqueeze view view_as_complex "
    "view_as_real _reshape_alias _unsafe_view".split()
)
WAITING = frozenset("_local_scalar_dense nonzero masked_select equal bincount _unique2 unique_dim".split())
"""Operations whose result the CPU reads, or whose shape depends on values."""

ALIGNMENT = 8
"""PyTorch copies the bias of fused attention first, if the distance of its rows is no multiple of so many elements."""


class Counts:
    """What was asked of the device since the last `reset`.

    Attributes:
        operations: number of kernels by operation.
        lines: number of kernels by line of this repository.
        views: number of operations without a kernel.
        waits: lines at which the CPU waited for the device.
        bytes_up: bytes copied to the device.
        bytes_down: bytes copied from the device.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin to count anew."""
        self.operations: Counter[str] = Counter()
        self.lines: Counter[str] = Counter()
        self.views = 0
        self.waits: list[str] = []
        self.bytes_up = 0
        self.bytes_down = 0

    @property
    def launches(self) -> int:
        """Number of kernels."""
        return self.operations.total()

    @property
    def casts(self) -> int:
        """Number of kernels that copy a tensor to another data type."""
        return self.operations[CAST]

    def operation(self, name: str) -> None:
        """Count an operation on the device."""
        if name in NO_KERNEL:
            self.views += 1
        else:
            self.operations[name] += 1
            self.lines[_line()] += 1

    def copy(self, source: Tensor, *, up: bool, waits: bool) -> None:
        """Count a copy between CPU and device.

        Args:
            source: what is copied.
            up: to the device.
            waits: the CPU waits until it is done.
        """
        if up:
            self.bytes_up += source.nbytes
        else:
            self.bytes_down += source.nbytes
        if waits and source.numel():
            self.waits.append(_line())


class _OnGpu(Tensor):
    """A tensor that says `cuda:0` and has the shape, strides and data type of a meta tensor."""

    shapes: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, shapes: Tensor) -> _OnGpu:
        return Tensor._make_wrapper_subclass(
            cls,
            shapes.size(),
            strides=shapes.stride(),
            storage_offset=shapes.storage_offset(),
            dtype=shapes.dtype,
            device=GPU,
        )

    def __init__(self, shapes: Tensor) -> None:
        self.shapes = shapes

    def data_ptr(self) -> int:
        return id(self)

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("a tensor on a GPU has to be copied to the CPU first")

    def tolist(self) -> Any:
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        raise AssertionError("no tensor of this device outlives `shapes_only_gpu`")


class _Dispatch(TorchDispatchMode):
    """Runs operations on tensors of the device with meta tensors."""

    def __init__(self, counts: Counts) -> None:
        super().__init__()
        self._counts = counts

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        inputs = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        named = kwargs.get("device")
        device = None if named is None else torch.device(named)
        if not any(isinstance(x, _OnGpu) for x in inputs) and (device is None or device.type != "cuda"):
            return func(*args, **kwargs)
        if func._can_decompose():  # into other operations, which are counted
            with self:
                return func.decompose(*args, **kwargs)
        name = func.overloadpacket.__name__
        if name == CAST and self._crosses(args[0], device):
            return self._copied(args[0], device or GPU, kwargs)
        if name == "copy_" and isinstance(args[0], _OnGpu) != isinstance(args[1], _OnGpu):
            waits = not (args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
            self._counts.copy(args[1], up=isinstance(args[0], _OnGpu), waits=waits)
            return args[0]
        on_cpu = [x for x in inputs if not isinstance(x, _OnGpu) and x.dim()]
        if on_cpu and device is None:
            raise RuntimeError(f"{name}: tensors on cuda:0 and on the CPU, at {_line()}")
        if name in WAITING:
            self._counts.waits.append(_line())
            self._counts.bytes_down += sum(x.nbytes for x in inputs)
        if name == "_local_scalar_dense":
            return 1
        return self._run(func, name, args, kwargs)

    @staticmethod
    def _crosses(source: Tensor, device: torch.device | None) -> bool:
        return isinstance(source, _OnGpu) != (device.type == "cuda" if device else isinstance(source, _OnGpu))

    def _copied(self, source: Tensor, device: torch.device, kwargs: dict[str, Any]) -> Tensor:
        dtype = kwargs.get("dtype") or source.dtype
        up = device.type == "cuda"
        self._counts.copy(source, up=up, waits=not kwargs.get("non_blocking", False))
        if up:
            return _OnGpu(torch.empty_strided(source.size(), source.stride(), dtype=dtype, device=META))
        return torch.zeros(source.shape, dtype=dtype)

    def _run(self, func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        if kwargs.get("device") is not None:
            kwargs["device"] = META
        kwargs.pop("pin_memory", None)
        wrappers: dict[int, _OnGpu] = {}

        def unwrap(x: Any) -> Any:
            if isinstance(x, _OnGpu):
                wrappers[id(x.shapes)] = x
                return x.shapes
            return x.to(META) if isinstance(x, Tensor) else x

        def wrap(x: Any) -> Any:  # an operation in place returns its own tensor
            if not isinstance(x, Tensor):
                return x
            return wrappers[id(x)] if id(x) in wrappers else _OnGpu(x)

        arguments = tree_map(unwrap, args), tree_map(unwrap, kwargs)
        out = func(*arguments[0], **arguments[1])
        self._counts.operation(name)
        return tree_map(wrap, out)


class _Functions(TorchFunctionMode):
    """Counts fused attention as one kernel, and copies what is made of numbers up to the device."""

    def __init__(self, counts: Counts) -> None:
        super().__init__()
        self._counts = counts

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("pin_memory"):
            kwargs["pin_memory"] = False
        if func is Tensor.pin_memory:
            return args[0].clone()
        if func in (torch.tensor, torch.as_tensor) and torch.device(kwargs.get("device") or CPU).type == "cuda":
            return func(*args, **{**kwargs, "device": CPU}).to(GPU)
        if func is torch.nn.functional.scaled_dot_product_attention and isinstance(args[0], _OnGpu):
            return self._attention(*args, **kwargs)
        return func(*args, **kwargs)

    def _attention(self, q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, **options: Any) -> Tensor:
        dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else q.dtype
        q, k, v = (x.to(dtype) for x in (q, k, v))
        if attn_mask is not None:
            if attn_mask.dtype != torch.bool:
                attn_mask = attn_mask.to(dtype)
            if any(stride % ALIGNMENT for stride in attn_mask.stride()[:-1]):
                self._counts.operation("pad")
        self._counts.operation("scaled_dot_product_attention")
        # [B, heads, L, C] with the memory layout of [B, L, heads, C], as flash attention returns it.
        batch, heads, length = torch.broadcast_shapes(q.shape[:2], k.shape[:2]) + q.shape[2:3]
        return _OnGpu(torch.empty(batch, length, heads, v.shape[-1], dtype=dtype, device=META).transpose(1, 2))


class _Event:
    """An event whose copy has never arrived when it is asked, so that waiting is counted."""

    counts: Counts

    def record(self, stream: object = None) -> None:
        """Mark a moment in the work of the device."""

    def query(self) -> bool:
        """Return whether the device is past the moment."""
        return False

    def synchronize(self) -> None:
        """Wait for the moment."""
        self.counts.waits.append(_line())


class _Stream:
    def wait_stream(self, stream: object) -> None:
        """Let later work wait for another stream."""

    def wait_event(self, event: object) -> None:
        """Let later work wait for a moment."""


def _line() -> str:
    """Return the innermost line that is neither PyTorch's nor this file's."""
    frame = sys._getframe(1)
    while frame.f_back is not None and (frame.f_code.co_filename == __file__ or "/torch/" in frame.f_code.co_filename):
        frame = frame.f_back
    path = Path(frame.f_code.co_filename)
    return f"{'/'.join(path.parts[-2:])}:{frame.f_lineno}"


def forget_tables() -> None:
    """Empty the caches of tables that depend on sizes and device alone: their tensors are of a device that ends."""
    modules = [module for name, module in sys.modules.items() if name.startswith("i2vpp.")]
    for value in [value for module in modules for value in vars(module).values()]:
        if hasattr(value, "cache_clear"):
            value.cache_clear()


@contextmanager
def shapes_only_gpu() -> Iterator[Counts]:
    """Let PyTorch have a CUDA device, `cuda:0`, that computes shapes only.

    Yields:
        What is asked of it.
    """
    counts = Counts()
    torch._C._ensureCUDADeviceGuardSet()
    event = type("Event", (_Event,), {"counts": counts})
    answers: dict[str, Callable[..., Any] | bool | type] = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "is_bf16_supported": lambda *args, **kwargs: True,
        "get_device_capability": lambda *args: (9, 0),
        "synchronize": lambda *args: None,
        "is_initialized": lambda: True,
        "_lazy_init": lambda: None,
        "current_stream": lambda *args: _Stream(),
        "Stream": _Stream,
        "Event": event,
    }
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with ExitStack() as stack:
            stack.callback(forget_tables)
            for name, answer in answers.items():
                stack.enter_context(patch.object(torch.cuda, name, answer))
            stack.enter_context(patch("torch.cuda.amp.common.amp_definitely_not_available", lambda: False))
            stack.enter_context(_Dispatch(counts))
            stack.enter_context(_Functions(counts))
            yield counts
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)
