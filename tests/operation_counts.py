"""Counts what code would cost on a GPU: kernel launches, casts among them, and views, which launch nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

WITHOUT_KERNEL = {
    "_unsafe_view", "lift_fresh", "resize_", "set_", "is_same_size", "empty", "empty_like", "empty_strided",
    "new_empty", "new_empty_strided", "record_stream",
}  # fmt: skip
"""Names of operators that launch no kernel although their schema does not say that they return a view."""


def tensors_in(*trees: Any) -> list[Tensor]:
    """Return the tensors in the arguments or results of operators; PyTorch's own `tree_leaves` takes much longer."""
    found: list[Tensor] = []
    for tree in trees:
        if isinstance(tree, Tensor):
            found.append(tree)
        elif isinstance(tree, tuple | list):
            found += tensors_in(*tree)
        elif isinstance(tree, dict):
            found += tensors_in(*tree.values())
    return found


def map_tensors(function: Callable[[Tensor], Any], tree: Any) -> Any:
    """Replace the tensors in the arguments or results of operators by what a function returns for them."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, tuple | list):
        return type(tree)([map_tensors(function, x) for x in tree])
    return {key: map_tensors(function, x) for key, x in tree.items()} if isinstance(tree, dict) else tree


@dataclass
class Counts:
    """What operations would cost on a GPU.

    Args:
        kernels: operators that launch kernels, by name; fused attention counts as one launch.
        casts: launches that only change the data type.
        views: operators that launch nothing.
        bytes_moved: bytes of the inputs and outputs of all launches.
    """

    kernels: Counter[str] = field(default_factory=Counter)
    casts: int = 0
    views: int = 0
    bytes_moved: int = 0

    @property
    def launches(self) -> int:
        """Number of operators that launch a kernel, casts included."""
        return self.kernels.total()

    def note(self, func: Any, inputs: list[Tensor], outputs: list[Tensor]) -> None:
        """Count one operation.

        Args:
            func: the operator's overload, such as `torch.ops.aten.add.Tensor`.
            inputs: its tensors.
            outputs: the tensors of its result.
        """
        name = func.overloadpacket.__name__
        if func.is_view or name in WITHOUT_KERNEL:
            self.views += 1
            return
        self.kernels[name] += 1
        self.casts += name == "_to_copy" and inputs[0].dtype != outputs[0].dtype
        self.bytes_moved += sum(x.numel() * x.element_size() for x in (*inputs, *outputs))


class CountOperations(TorchDispatchMode):
    """Counts in its `with` block what runs in this thread, on whatever device; also on a CPU or with meta tensors.

    On a CPU some operations are others than on a GPU: casts of CPU autocast, and tiles of attention.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts = Counts()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        with self:  # in inference mode, operators that consist of others arrive whole
            out = func.decompose(*args, **kwargs)
        if out is not NotImplemented:
            return out
        out = func(*args, **kwargs)
        self.counts.note(func, tensors_in(args, kwargs), tensors_in(out))
        return out


def count_operations(run: Callable[[], object]) -> Counts:
    """Run something once and return what it would cost.

    Args:
        run: function without arguments.

    Returns:
        The counts.
    """
    with torch.no_grad(), CountOperations() as counter:
        run()
    return counter.counts
