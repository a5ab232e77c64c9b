"""Layers that several parts of the network share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Where a batch is 1, any stride of it would do, and PyTorch may give one by which its convolutions do not recognise
# channels-last memory: they then copy the map twice and take twice as long. Maps made as `to_map` makes them are
# recognised.


def to_map(tokens: Tensor, grid: Sequence[int]) -> Tensor:
    """View tokens [B, h * w, C] as a map [B, C, h, w], in channels-last memory."""
    return tokens.unflatten(1, tuple(grid)).permute(0, 3, 1, 2)


def to_tokens(x: Tensor) -> Tensor:
    """View a map [B, C, h, w] as tokens [B, h * w, C]."""
    return x.flatten(2).transpose(1, 2)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Made:
    """What was made from weights.

    Args:
        version: of the weights, and the dtype that the results were rounded to.
        weights: as they were, in their storage. It stays as long as this does: other weights cannot come to lie where
            these lay and be taken for them.
        results: the tensors.
    """

    version: tuple[torch.dtype | None, list[tuple[int, int]]]
    weights: tuple[Tensor, ...]
    results: tuple[Tensor, ...]


class FromWeights:
    """Tensors computed from weights alone, computed again only when one of the weights has changed.

    Where they cannot be kept they are computed anew every time. Threads may use it at the same time.
    """

    def __init__(self) -> None:
        self._made: _Made | None = None

    def __reduce__(self) -> tuple[type[FromWeights], tuple[()]]:
        return FromWeights, ()  # copies and pickles have other weights, in other places

    def __call__(self, compute: Callable[[], tuple[Tensor, ...]], *weights: Tensor) -> tuple[Tensor, ...]:
        """Return what `compute` makes of the weights, and rounds as autocast would where that is on."""
        if not self.can_be_kept() or any(w.is_inference() for w in weights):  # such weights count no changes
            return compute()
        device = weights[0].device.type
        rounds = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
        autocast = torch.get_autocast_dtype(device) if rounds else None
        version = (autocast, [(w.data_ptr(), w._version) for w in weights])
        made = self._made  # read once: another thread may put its own there, of another dtype, at any moment
        if made is None or made.version != version:
            with torch.inference_mode(False), torch.no_grad():  # of use in any mode
                results = tuple(x if autocast is None else x.to(autocast) for x in compute())
                made = _Made(version=version, weights=tuple(w.detach() for w in weights), results=results)
            self._made = made
        return made.results

    @staticmethod
    def can_be_kept() -> bool:
        """Whether nobody asks for gradients, and nothing is being compiled."""
        return not torch.is_grad_enabled() and not torch.compiler.is_compiling()


def gelu(x: Tensor) -> Tensor:
    """GELU of a map [B, C, ...], in channels-last memory as quick as in any other.

    PyTorch's quick kernel for CPUs takes contiguous tensors only; that is what such a map is with its channels last.
    """
    return F.gelu(x) if x.is_contiguous() else F.gelu(x.movedim(1, -1)).movedim(-1, 1)


class GELU2d(nn.Module):
    """GELU of a map."""

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, ...] to the same shape."""
        return gelu(x)


class LayerNorm2d(nn.Module):
    """Layer normalisation over the channels (axis 1) of a map [B, C, ...]; eps 1e-6."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise [B, C, ...]."""
        return F.layer_norm(x.movedim(1, -1), self.weight.shape, self.weight, self.bias, eps=1e-6).movedim(-1, 1)


class MLP(nn.Module):
    """Linear layers of the given widths with ReLU between them.

    Args:
        widths: input, hidden ... and output width.
        sigmoid_output: end in a sigmoid.
    """

    def __init__(self, widths: Sequence[int], *, sigmoid_output: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.sigmoid_output = sigmoid_output

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., widths[0]] to [..., widths[-1]]."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        x = self.layers[-1](x)
        return x.sigmoid() if self.sigmoid_output else x
