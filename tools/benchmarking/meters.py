"""What is counted while a frame is tracked, and to which part of the work it is charged."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any, TypeVar
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from i2vpp import runner as running
from i2vpp import tracking
from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
from i2vpp.modeling.i2vpp import I2VPP
from i2vpp.session.frames import FrameStore
from i2vpp.session.state import InferenceState

PARTS = (
    "frames",
    "image trunk",
    "temporal integrator",
    "select",
    "read memory",
    "memory attention",
    "memory prompts",
    "decode",
    "fill holes",
    "memorise",
    "resize",
    "other",
)
"""In the order of a tracked frame; docs/benchmark.md says what each of them is."""

COMPILED_AS = {
    **dict.fromkeys(("image trunk", "temporal integrator"), "encode"),
    **dict.fromkeys(
        ("read memory", "memory attention", "memory prompts", "decode", "fill holes", "memorise"), "find objects"
    ),
}
"""Parts that compilation melts together, no clock can stand between them."""

Number = TypeVar("Number", int, float)

Places = Mapping[tuple[Any, str], str]
"""Part by owner (a module, class or instance) and name of a function."""


def model_places(model: I2VPP) -> dict[tuple[Any, str], str]:
    """Where the parts of the network's work are done."""
    return {
        (model.image_encoder.trunk_image, "forward"): "image trunk",
        (model.image_encoder.trunk_video, "forward"): "temporal integrator",
        (I2VPP, "memory_tokens"): "read memory",
        (model.memory_attention, "forward"): "memory attention",
        (model.memory_prompt_generator, "forward"): "memory prompts",
        (I2VPP, "decode"): "decode",
        (I2VPP, "encode_memory"): "memorise",
    }


def tracking_places(predictor: I2VPPVideoPredictor, state: InferenceState, *, compiled: bool = False) -> Places:
    """Where all parts of a tracked frame's work are done; `compiled`: by a predictor that is compiled."""
    found: dict[tuple[Any, str], str] = {
        (FrameStore, "clip"): "frames",
        (type(state.similarity), "add"): "select",
        (type(state.selector), "select"): "select",
        (tracking.Tracker, "result"): "resize",
    }
    if compiled:  # nothing inside of what is compiled is touched: it would be compiled anew
        runner: Any = type(predictor._tracker.runner)
        return {**found, (runner, "encode"): "encode", (runner, "track_step"): "find objects"}
    return {**found, **model_places(predictor.model), (running, "fill_holes"): "fill holes"}


def by_part(shares: Mapping[str, Number], *, compiled: bool = False) -> dict[str, Number]:
    """Put shares in the order of the PARTS, 0 where nothing was counted; `compiled`: melt some together."""
    found: dict[str, Number] = {}
    for part in PARTS:
        name = COMPILED_AS.get(part, part) if compiled else part
        found[name] = found.get(name, 0) + shares.get(part, 0)
    for name in shares.keys() & set(COMPILED_AS.values()):
        found[name] += shares[name]
    return found


@contextmanager
def split_by_part(places: Places, meter: Callable[[], float]) -> Iterator[dict[str, float]]:
    """Share out among the parts what a meter (a clock, a counter) counts in the `with` block; the rest is "other".

    While parts are nested, the innermost counts: the shares add up to the whole. The library is not changed for it:
    what stands at the places is wrapped for the time of the block.
    """
    shares = dict.fromkeys([*places.values(), "other"], 0.0)
    running: list[str] = []
    last = 0.0

    def switch(part: str | None) -> None:
        """Charge the running part; then go on with `part`, or end the running one."""
        nonlocal last
        now = meter()
        if running:
            shares[running[-1]] += now - last
        last = now
        if part is None:
            running.pop()
        else:
            running.append(part)

    def wrapped(function: Callable[..., Any], part: str) -> Callable[..., Any]:
        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            switch(part)
            try:
                return function(*args, **kwargs)
            finally:
                switch(None)

        return call

    with ExitStack() as stack:
        for (owner, name), part in places.items():
            stack.enter_context(patch.object(owner, name, wrapped(getattr(owner, name), part)))
        switch("other")
        try:
            yield shares
        finally:
            switch(None)


def flop_counter() -> FlopCounterMode:
    """Return PyTorch's counter (2 per multiply-add; matrix products, convolutions, attention), attention on a CPU too.

    Without the entry, PyTorch versions that do not know the CPU's fused attention would count it as nothing.
    """

    def attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return sdpa_flop_count(query, key, value)

    on_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return FlopCounterMode(display=False, custom_mapping={on_cpu: attention})


@contextmanager
def uncompiled(predictor: I2VPPVideoPredictor) -> Iterator[None]:
    """Let a compiled predictor run operation by operation in the `with` block: counters see nothing else."""
    with patch.object(predictor._tracker, "runner", running.Runner(predictor.model)):
        yield


# ---- bytes

_aten = torch.ops.aten
NO_TRAFFIC = {
    _aten.empty, _aten.empty_like, _aten.empty_strided, _aten.new_empty, _aten.new_empty_strided,
    _aten._unsafe_view, _aten.resize_, _aten.set_, _aten.is_pinned, _aten.is_same_size, _aten.record_stream,
}  # fmt: skip
"""Operators without annotation as views that touch no element."""
OVERWRITING = {_aten.copy_, _aten.fill_, _aten.zero_}
"""In-place operators that do not read what they write."""
GATHERING = {_aten.index, _aten.index_select, _aten.gather, _aten.embedding}
"""Operators that read no more of their first tensor than they write."""


class TrafficCounter(TorchDispatchMode):
    """Sums up in `total` the bytes that PyTorch's operators read and write, as if no cache held anything between them.

    Of each operator, inputs and outputs are counted; views and what only looks at shapes are not, an element that is
    repeated by a stride of 0 is counted once, and what an operator moves about inside itself is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.namespace != "prim":
            with self:
                parts = func.decompose(*args, **kwargs)  # of operators that are made of others, those are counted
            if parts is not NotImplemented:
                return parts
        result = func(*args, **kwargs)
        self.total += _traffic(func, args, kwargs, result)
        return result


def _traffic(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> int:
    """Bytes that one operator reads and writes."""
    kind = func.overloadpacket
    if func.namespace == "prim" or func.is_view or torch.Tag.inplace_view in func.tags or kind in NO_TRAFFIC:
        return 0
    written = sum(map(_size, tree_leaves(result)))
    inputs = {name: value for name, value in kwargs.items() if name != "out"}
    read = sum(map(_size, tree_leaves((args, inputs))))
    if kind in OVERWRITING:
        read -= _size(args[0])
    elif kind in GATHERING:
        read += min(0, written - _size(args[0]))
    return read + written


def _size(value: Any) -> int:
    """Bytes of a tensor's elements; 0 for anything else."""
    if not isinstance(value, torch.Tensor):
        return 0
    if value.layout != torch.strided:
        return value.numel() * value.element_size()
    distinct = (length for length, stride in zip(value.shape, value.stride(), strict=True) if stride)
    return math.prod(distinct) * value.element_size() if value.numel() else 0
