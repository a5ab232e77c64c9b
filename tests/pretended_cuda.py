"""A CUDA device that is not there: tensors that say `cuda:0` and compute on the CPU.

Within `pretended_cuda()` code that asks for CUDA gets tensors of a subclass. What PyTorch decides by device (autocast,
the random state, errors where devices are mixed) is as on CUDA, and what runs is counted. Copies to the CPU that do not
block hold garbage until an event after them is asked; a source of a copy to the device must stay as it is until the
host has waited. CUDA graphs are recorded as lists of operations and run again on the same memory.

Not pretended: other kernels than the CPU's, speed, memory limits, the choice of an attention kernel, Triton, and work
of several streams in another order than Python's. Backward passes need `null_guard.cpp` loaded before torch.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from operation_counts import Counts, map_tensors, tensors_in
from pretended_streams import CaptureError, Event, Graph, Recording, Stream, record
from tools.benchmarking.shapes import forget_tables

aten = torch.ops.aten
CPU = torch.device("cpu")
HARNESS = tuple(str(Path(__file__).with_name(f"{x}.py")) for x in ("pretended_cuda", "pretended_streams"))
OTHERS = (str(Path(torch.__file__).parent), contextlib.__file__, *HARNESS)
# The size of the result, or what Python does next, depends on values: the host has to see them.
WAITING = {
    "_local_scalar_dense", "equal", "allclose", "nonzero", "masked_select", "bincount", "unique_dim", "_unique",
    "_unique2", "unique_consecutive", "repeat_interleave",
}  # fmt: skip
READING = {"index", "_unsafe_index"}
INDEXING = {*READING, "index_put", "index_put_", "_index_put_impl_"}
RANDOM = {
    "native_dropout", "bernoulli", "bernoulli_", "rand", "randn", "rand_like", "randn_like", "uniform_", "normal_",
    "randint", "randperm",
}  # fmt: skip
# These take no CPU scalars of zero dimensions where other operators do.
STRICT = {"cat", "stack", "mm", "bmm", "addmm", "convolution", "embedding", "gather", "scatter_add", "scatter_add_"}
FROM_PYTHON = {torch.tensor, torch.as_tensor}

Arrival = Literal["at once", "late", "sometimes"]


class MixedDevicesError(RuntimeError):
    """One operation has got tensors of several devices."""


class RaceError(RuntimeError):
    """The source of a copy that did not block was changed before the host waited."""


class PretendedTensor(Tensor):
    """A tensor that says it is on a CUDA device; `values` holds its numbers on the CPU, or is a meta tensor."""

    values: Tensor  # type: ignore[assignment]
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, values: Tensor, device: torch.device) -> PretendedTensor:
        tensor = torch.Tensor._make_wrapper_subclass(
            cls, values.size(), strides=values.stride(), storage_offset=values.storage_offset(),
            dtype=values.dtype, layout=values.layout, device=device,
        )  # fmt: skip
        tensor.values = values
        return tensor

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func.decompose(*args, **(kwargs or {}))
        return ACTIVE[-1].run(func, args, kwargs or {}) if out is NotImplemented else out

    def __repr__(self, **_: Any) -> str:
        return f"PretendedTensor({tuple(self.shape)}, {self.dtype}, {self.device})"

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if self.dim() == 0 else repr(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        return self.clone()

    def data_ptr(self) -> int:
        return self.values.data_ptr()

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.values.untyped_storage()

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError(f"can't convert {self.device} device type tensor to numpy: copy it to the CPU first")

    __array__ = numpy


@dataclass(eq=False)
class _Flight:
    """A copy to the CPU that has not arrived."""

    target: Tensor
    values: Tensor


@dataclass(eq=False)
class _Sent:
    """A copy to the device that may still read its source, and what the source held."""

    source: Tensor
    values: Tensor
    place: str


@dataclass(eq=False)
class PretendedCuda:
    """The devices, and what is known of the work on them.

    Args:
        arrival: when copies that do not block have arrived: at once as soon as their event is asked, late only when
            the host waits, or sometimes (at every third question).
        shapes_only: tensors have shapes and no numbers, which makes large images cheap. Numbers that are read are 0
            or 1, so code whose shapes depend on values cannot run.
        devices: how many there are.
        capability: of each.
    """

    arrival: Arrival = "at once"
    shapes_only: bool = False
    devices: int = 2
    capability: tuple[int, int] = (9, 0)
    counts: Counts = field(default_factory=Counts)
    waits: list[str] = field(default_factory=list)
    to_device: list[int] = field(default_factory=list)  # bytes of each copy
    to_host: list[int] = field(default_factory=list)
    replays: int = 0

    def __post_init__(self) -> None:
        self.random_state = torch.Generator().manual_seed(0).get_state()
        self.in_flight: list[_Flight] = []
        self.sent: list[_Sent] = []
        self.recording: Recording | None = None
        self.capture_stream: Stream | None = None
        self.default_streams = [Stream(self, torch.device("cuda", i)) for i in range(self.devices)]
        self.local = threading.local()  # of each thread: its current device, and the streams other than the default
        self.questions = 0

    def reset(self) -> None:
        """Forget what was counted."""
        self.counts, self.waits, self.to_device, self.to_host, self.replays = Counts(), [], [], [], 0

    @contextmanager
    def in_this_thread(self) -> Iterator[None]:
        """See what this thread does; a thread that is started has to ask for it."""
        with _Operations(self), _Functions(self):
            yield

    # ---- devices and streams

    def current_device(self) -> int:
        """Return the index of the thread's current device."""
        return getattr(self.local, "device", 0)

    def indexed(self, device: Any) -> Any:
        """Return a device with its index (without one it is the current one), and anything else as it is."""
        if isinstance(device, str | torch.device) and torch.device(device) == torch.device("cuda"):
            return torch.device("cuda", self.current_device())
        return torch.device(device) if isinstance(device, str) and device.startswith("cuda:") else device

    def current_stream(self, device: Any = None) -> Stream:
        """Return the thread's current stream of a device."""
        index = self.current_device() if device is None else self.indexed(device).index
        return getattr(self.local, "streams", {}).get(index, self.default_streams[index])

    @contextmanager
    def on_device(self, device: Any) -> Iterator[None]:
        """Stand for `torch.cuda.device`."""
        before = self.current_device()
        self.local.device = device if isinstance(device, int) else self.indexed(device).index
        try:
            yield
        finally:
            self.local.device = before

    @contextmanager
    def on_stream(self, stream: Stream) -> Iterator[None]:
        """Stand for `torch.cuda.stream`."""
        before = getattr(self.local, "streams", {})
        self.local.streams = {**before, stream.device.index: stream}
        try:
            with self.on_device(stream.device):
                yield
        finally:
            self.local.streams = before

    # ---- waiting

    def wait(self, what: str) -> None:
        """Note that the host waits for all work, and from where; everything then has arrived.

        Raises:
            CaptureError: a graph is being recorded.
            RaceError: the source of a copy has changed.
        """
        self.check_not_recording(what)
        self.waits.append(f"{what} at {place()}")
        sent, self.sent = self.sent, []
        self.arrive(self.in_flight)
        with _disable_current_modes(), torch.inference_mode():
            for one in sent:
                if not torch.equal(one.source, one.values):
                    raise RaceError(f"the source of a copy changed before the host waited for the copy, at {one.place}")

    def check_not_recording(self, what: str) -> None:
        """Refuse what a graph cannot hold."""
        if self.recording is not None and self.recording.concerns_this_thread():
            raise CaptureError(f"{what} is not allowed while a graph is recorded, at {place()}")

    def has_arrived(self, flights: list[_Flight]) -> bool:
        """Whether copies to the CPU have arrived, as the policy has it."""
        self.questions += 1
        if self.arrival == "at once" or (self.arrival == "sometimes" and self.questions % 3 == 0):
            self.arrive(flights)
        return not any(flight in self.in_flight for flight in flights)

    def arrive(self, flights: list[_Flight]) -> None:
        """Put the numbers of copies to the CPU into place."""
        arriving = [flight for flight in self.in_flight if flight in flights]
        self.in_flight = [flight for flight in self.in_flight if flight not in arriving]
        with _disable_current_modes(), torch.inference_mode():
            for flight in arriving:
                flight.target.copy_(flight.values)

    # ---- operations

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run an operation that has a tensor on a device, or makes one there."""
        name = func.overloadpacket.__name__
        given = tensors_in(args, kwargs)
        ours = [x for x in given if isinstance(x, PretendedTensor)]
        device = torch.device(self.indexed(kwargs["device"])) if kwargs.get("device") is not None else ours[0].device
        if name == "_to_copy":
            return self.copied(func, args, kwargs, device)
        if name == "copy_" and args[0].device.type != args[1].device.type:
            return self.copied_into(args[0], args[1], kwargs.get("non_blocking", args[2] if len(args) > 2 else False))
        if ours and name != "copy_":
            check_devices(name, given)
            self.look(name, args, kwargs)
        if self.shapes_only and name == "_local_scalar_dense":
            return 1
        if device.type != "cuda":
            return func(*args, **kwargs)
        out = self.computed(func, args, kwargs, device)
        self.counts.note(func, given, tensors_in(out))
        wrappers = {id(x.values): x for x in ours}  # an operation in place returns what it was given
        return map_tensors(lambda x: _wrapped(x, device, wrappers), out)

    def computed(self, func: Any, args: Any, kwargs: dict[str, Any], device: torch.device) -> Any:
        """Return the results of an operation as tensors on the CPU, or meta tensors."""
        name = func.overloadpacket.__name__
        where = torch.device("meta") if self.shapes_only else CPU
        kwargs = {key: where if key == "device" else value for key, value in kwargs.items() if key != "pin_memory"}
        args, kwargs = map_tensors(_values, (args, kwargs))
        if self.shapes_only:
            args, kwargs = map_tensors(lambda x: x.to("meta"), (args, kwargs))
        function = REPLACED.get(name, func)
        with self.own_random_state() if name in RANDOM and not self.shapes_only else nullcontext():
            out = function(*args, **kwargs)
        recording = self.recording
        if recording is not None and device.type == "cuda" and self.current_stream(device) is recording.stream:
            recording.note(partial(function, *args, **kwargs), args, out)
        return out

    @contextmanager
    def own_random_state(self) -> Iterator[None]:
        """Let the CPU's generator stand in for the device's."""
        outer = torch.get_rng_state()
        torch.set_rng_state(self.random_state)
        try:
            yield
        finally:
            self.random_state = torch.get_rng_state()
            torch.set_rng_state(outer)

    def look(self, name: str, args: Any, kwargs: dict[str, Any]) -> None:
        """Note whether the host waits for an operation."""
        if name in WAITING and kwargs.get("output_size") is None:
            self.wait(name)
        if name in INDEXING:
            value = None if name in READING else args[2]
            filled = value is not None and value.numel() == 1 and value.device.type == "cpu"
            for index in tensors_in(args[1]):
                if index.device.type == "cpu" and index.numel():
                    self.wait(f"{name} with an index from the host")
                elif index.dtype == torch.bool and not filled:
                    self.wait(f"{name} with a bool index")

    # ---- copies

    def copied(self, func: Any, args: Any, kwargs: dict[str, Any], device: torch.device) -> Tensor:
        """Copy a tensor to another device or data type."""
        source, blocking = args[0], not kwargs.get("non_blocking", False)
        kept = {key: value for key, value in kwargs.items() if key not in ("device", "non_blocking", "pin_memory")}
        if device.type == "cpu" and self.shapes_only:
            out = torch.zeros(source.shape, dtype=kwargs.get("dtype") or source.dtype)
        else:
            out = self.computed(func, args, {**kept, "device": device}, device)
        if source.device.type == device.type:
            out = _wrapped(out, device, {})
            self.counts.note(func, [source], [out])
        elif device.type == "cuda":
            self.send(source, blocking=blocking)
            out = _wrapped(out, device, {})
        else:
            self.fetch(source, out, blocking=blocking)
        return out

    def copied_into(self, target: Tensor, source: Tensor, non_blocking: bool) -> Tensor:
        """Copy between the host and a device into a tensor that is there."""
        if not self.shapes_only:
            _values(target).copy_(_values(source))
        if target.device.type == "cuda":
            self.send(source, blocking=not non_blocking)
        else:
            self.fetch(source, target, blocking=not non_blocking)
        return target

    def send(self, source: Tensor, *, blocking: bool) -> None:
        """Note a copy to the device."""
        self.check_not_recording("a copy from the host")
        self.to_device.append(source.numel() * source.element_size())
        if blocking and source.numel():
            self.wait("copy to the device")
        elif source.numel() and not self.shapes_only:
            self.sent.append(_Sent(source, source.clone(), place()))

    def fetch(self, source: Tensor, target: Tensor, *, blocking: bool) -> None:
        """Note a copy to the host; until it has arrived, its target holds garbage."""
        self.check_not_recording("a copy to the host")
        self.to_host.append(source.numel() * source.element_size())
        if blocking:
            self.wait("copy to the host")
        elif not self.shapes_only:
            self.in_flight.append(_Flight(target, target.clone()))
            target.fill_(torch.nan if target.is_floating_point() else True if target.dtype == torch.bool else 77)


def _values(x: Tensor) -> Tensor:
    return x.values if isinstance(x, PretendedTensor) else x


def _wrapped(x: Tensor, device: torch.device, wrappers: dict[int, PretendedTensor]) -> PretendedTensor:
    known = wrappers.get(id(x))
    return PretendedTensor(x, device) if known is None else known


def check_devices(name: str, given: list[Tensor]) -> None:
    """Refuse what CUDA refuses: tensors of several devices, but for numbers and indices from the host.

    Raises:
        MixedDevicesError: the devices cannot be mixed.
    """
    others = [x for x in given if x.device != given[0].device]
    if name in INDEXING and given[0].device.type == "cuda":
        others = [x for x in others if x.device.type == "cuda"]  # indices and single numbers may be the host's
    elif name not in STRICT and name not in INDEXING:
        others = [x for x in given if x.dim() or x.device.type == "cuda"]
        others = [x for x in others if x.device != others[0].device]
    if others:
        shapes = [(str(x.device), tuple(x.shape)) for x in given]
        raise MixedDevicesError(f"{name}: expected all tensors to be on the same device, got {shapes} at {place()}")


def place() -> str:
    """Return the line of the innermost code that is neither PyTorch's nor of this harness."""
    frame = sys._getframe(1)
    while frame.f_code.co_filename.startswith(OTHERS) and frame.f_back is not None:
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _softmax(x: Tensor, dim: int, half_to_float: bool) -> Tensor:
    return aten._softmax(x.float() if half_to_float else x, dim, False)


def _batch_norm(x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return (*torch.native_batch_norm(x, weight, bias, mean, var, *rest), x.new_empty(0, dtype=torch.uint8))


def _batch_norm_backward(x: Tensor, grad: Tensor, weight: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    mean, var, saved_mean, saved_std, eps, _ = rest
    training = saved_mean.numel() > 0
    return aten.native_batch_norm_backward(
        grad, x, weight, mean, var, saved_mean, saved_std, training, eps, [True] * 3
    )  # fmt: skip


REPLACED: dict[str, Callable[..., Any]] = {
    "_softmax": _softmax, "cudnn_batch_norm": _batch_norm, "cudnn_batch_norm_backward": _batch_norm_backward,
    "_conj": torch.conj_physical, "_neg_view": torch.neg,
}  # fmt: skip
"""What the CPU has no kernel for, by the operator's name, and marks of tensors that would be ignored on `values`."""


# ---- what sees the code's operations


class _Operations(TorchDispatchMode):
    """Hands what concerns the device to it."""

    def __init__(self, device: PretendedCuda) -> None:
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        made = any(isinstance(x, torch.device) and x.type == "cuda" for x in (kwargs.get("device"), *args))
        if not made and not any(isinstance(x, PretendedTensor) for x in tensors_in(args, kwargs)):
            return func(*args, **kwargs)
        with self:  # in inference mode, operators that consist of others arrive whole
            out = func.decompose(*args, **kwargs)
        return self.device.run(func, args, kwargs) if out is NotImplemented else out


class _Functions(TorchFunctionMode):
    """Mends what PyTorch does in C++ before an operation is dispatched."""

    def __init__(self, device: PretendedCuda) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.to:
            args = (args[0], *map(self.device.indexed, args[1:]))
        if kwargs.get("device") is not None:
            kwargs["device"] = torch.device(self.device.indexed(kwargs["device"]))
            if func in FROM_PYTHON and kwargs["device"].type == "cuda":
                self.device.wait(f"torch.{func.__name__} on the device")
                return func(*args, **{**kwargs, "device": CPU}).to(kwargs["device"], non_blocking=True)
        if func is Tensor.pin_memory:
            return args[0].clone()
        kwargs.pop("pin_memory", None)
        if func in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(args[0], PretendedTensor):
            parts = args[1] if isinstance(args[1], tuple) else (args[1],)
            index = tuple(torch.tensor(list(x)) if isinstance(x, list | range) else x for x in parts)
            args = (args[0], index, *args[2:])
        return func(*args, **kwargs)


def _attention(device: PretendedCuda) -> Callable[..., Tensor]:
    """Return what takes the place of `F.scaled_dot_product_attention`, whose own choice of a kernel asks the driver.

    It is one fused kernel, or plain operations where gradients are computed.
    """
    attend = torch.nn.functional.scaled_dot_product_attention

    def attend_on_device(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, **options: Any) -> Tensor:
        if not isinstance(q, PretendedTensor):
            return attend(q, k, v, attn_mask, **options)
        if torch.is_autocast_enabled("cuda"):
            dtype = torch.get_autocast_dtype("cuda")
            q, k, v = (x.to(dtype) for x in (q, k, v))
            attn_mask = attn_mask if attn_mask is None or attn_mask.dtype == torch.bool else attn_mask.to(dtype)
        if torch.is_grad_enabled():
            return aten._scaled_dot_product_attention_math(q, k, v, attn_mask, **options)[0]
        parts = [q, k, v, *([] if attn_mask is None else [attn_mask])]
        check_devices("scaled_dot_product_attention", parts)
        fused = aten.scaled_dot_product_attention.default
        out = _wrapped(device.computed(fused, (q, k, v, attn_mask), options, q.device), q.device, {})
        device.counts.note(fused, parts, [out])
        return out

    return attend_on_device


# ---- what code asks of `torch.cuda`

ACTIVE: list[PretendedCuda] = []


def _replacements(device: PretendedCuda) -> dict[str, Any]:
    major, minor = device.capability
    properties = SimpleNamespace(
        name="Pretended GPU", major=major, minor=minor, total_memory=24 * 2**30, multi_processor_count=100
    )
    return {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "_initialized": True,
        "_lazy_init": lambda: None,
        "is_bf16_supported": lambda including_emulation=True: including_emulation or major >= 8,
        "device_count": lambda: device.devices,
        "get_device_capability": lambda *_: device.capability,
        "get_device_properties": lambda *_: properties,
        "get_device_name": lambda *_: properties.name,
        "current_device": device.current_device,
        "set_device": lambda x: setattr(device.local, "device", x if isinstance(x, int) else device.indexed(x).index),
        "device": device.on_device,
        "current_stream": device.current_stream,
        "stream": device.on_stream,
        "Stream": partial(Stream, device),
        "Event": partial(Event, device),
        "CUDAGraph": partial(Graph, device),
        "graph": partial(record, device),
        "synchronize": lambda *_: device.wait("torch.cuda.synchronize"),
        "empty_cache": lambda: None,
        "memory_allocated": lambda *_: 0,
        "max_memory_allocated": lambda *_: 0,
        "reset_peak_memory_stats": lambda *_: None,
        "mem_get_info": lambda *_: (24 * 2**30, 24 * 2**30),
        "get_rng_state": lambda *_: device.random_state.clone(),
        "set_rng_state": lambda state, *_: setattr(device, "random_state", state.clone()),
    }


@contextmanager
def pretended_cuda(**options: Any) -> Iterator[PretendedCuda]:
    """Pretend CUDA devices in the `with` block.

    Args:
        options: arguments of `PretendedCuda`.

    Raises:
        RaceError: at the end, the source of a copy has changed that nobody has waited for.
    """
    torch._C._ensureCUDADeviceGuardSet()
    device, make = PretendedCuda(**options), torch.empty

    def empty(*args: Any, pin_memory: bool = False, **kwargs: Any) -> Tensor:
        return make(*args, **kwargs)  # there is no memory to lock

    with ExitStack() as stack:
        stack.callback(forget_tables)
        for name, value in _replacements(device).items():
            stack.enter_context(patch.object(torch.cuda, name, value))
        stack.enter_context(patch("torch.cuda.amp.common.amp_definitely_not_available", lambda: False))
        stack.enter_context(patch.object(torch.nn.functional, "scaled_dot_product_attention", _attention(device)))
        stack.enter_context(patch.object(torch, "empty", empty))  # also for threads that do not see the modes
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, False)
        torch.__future__.set_overwrite_module_params_on_conversion(True)  # a module's parameters change their class
        ACTIVE.append(device)
        stack.callback(ACTIVE.pop)
        stack.enter_context(device.in_this_thread())
        yield device
        device.wait("the end")
