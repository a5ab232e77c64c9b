"""Layers that several parts of the network share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from i2vpp.modeling.inference import FromWeights

# PyTorch may give a batch of 1 a stride by which its convolutions do not recognise channels-last memory. They then copy
# the map twice and take twice as long. They recognise maps that are made as `to_map` makes them.


def to_map(tokens: Tensor, grid: Sequence[int]) -> Tensor:
    """View tokens as a map in channels-last memory.

    Args:
        tokens: [B, h * w, C].
        grid: (h, w).

    Returns:
        [B, C, h, w].
    """
    return tokens.unflatten(1, tuple(grid)).permute(0, 3, 1, 2)


def to_tokens(x: Tensor) -> Tensor:
    """View a map [B, C, h, w] as tokens [B, h * w, C]."""
    return x.flatten(2).transpose(1, 2)


def take_entry(x: Tensor, index: Tensor) -> Tensor:
    """Take entry `index` [B], integers, of each row of x [B, K, ...]: [B, 1, ...]."""
    return x.gather(1, index.view(-1, *(1,) * (x.dim() - 1)).expand_as(x[:, :1]))


def gelu(x: Tensor) -> Tensor:
    """Compute GELU of a map [B, C, ...], as fast in channels-last memory as in any other.

    PyTorch's fast CPU kernel takes contiguous tensors only; such a map is contiguous with its channels last.
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


def apply_together(mlps: Sequence[MLP], x: Tensor, kept: FromWeights) -> Tensor:
    """Apply K perceptrons, without a sigmoid, each to its own input, layer by layer as one product.

    Args:
        mlps: the perceptrons, of equal input and hidden widths; 0 is added to the outputs of the narrower ones.
        x: [K, B, C].
        kept: keeps the stacked weights.

    Returns:
        [K, B, C'].
    """
    stages = [cast("list[nn.Linear]", list(stage)) for stage in zip(*(mlp.layers for mlp in mlps), strict=True)]

    def stack() -> tuple[Tensor, ...]:
        def padded(of_layer: Callable[[nn.Linear], Tensor]) -> list[Tensor]:  # [K, ., widest output] of each stage
            widest = (max(layer.out_features for layer in stage) for stage in stages)
            return [
                torch.stack([F.pad(of_layer(layer), (0, width - layer.out_features)) for layer in stage])
                for stage, width in zip(stages, widest, strict=True)
            ]

        return (*padded(lambda layer: layer.weight.T), *padded(lambda layer: layer.bias[None]))

    parameters = [parameter for mlp in mlps for parameter in mlp.parameters()]
    stacked = kept(stack, *parameters)
    for number, (weight, bias) in enumerate(zip(stacked[: len(stages)], stacked[len(stages) :], strict=True)):
        x = torch.baddbmm(bias, x if number == 0 else F.relu(x), weight)
    return x
