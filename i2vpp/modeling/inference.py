"""Ways to run the network faster in inference; the files beside this one hold the network.

They are attention over many queries in tiles, and in parts for exports, attention in small windows, batch
normalisation folded into the convolution before it, weights that are rounded once, tensors that are computed from
weights once, and, on a GPU, fewer and larger operations (`fewer_kernels`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MANY_QUERIES = {torch.float32: 1024, torch.bfloat16: 256}
"""Number of queries from which `attend_in_tiles` is faster than PyTorch's fused attention on a CPU. float16 is
missing: powers of logits exceed its range, which ends at 2^16."""

TILE_QUERIES = 2048
TILE_BYTES = 2**22
"""Number of queries of a tile in `attend_in_tiles`, and bytes of a tile's logits, which should fit into the
processor's cache."""

PART_QUERIES = 1024
"""Number of queries of a part in `attend_in_parts`."""

FEWER_KERNELS_ON = frozenset({"cuda"})
"""Kinds of devices on which `fewer_kernels` holds."""

MAX_LOGIT = 100.0
"""2^MAX_LOGIT times the number of keys, and 2^-MAX_LOGIT, are within the range of float32 and bfloat16."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Made:
    """Tensors with the weights that they were computed from.

    Args:
        version: data type that the results were rounded to, what else they depend on, and address and version counter
            of each weight.
        weights: the weights. Holding their storage keeps other weights from being placed at the same addresses.
        results: the tensors.
    """

    version: tuple[torch.dtype | None, Hashable, list[tuple[int, int]]]
    weights: tuple[Tensor, ...]
    results: tuple[Tensor, ...]


class FromWeights:
    """Tensors computed from weights alone, computed again only when one of the weights has changed.

    Where they cannot be kept they are computed every time. Several threads may use it at the same time.

    Args:
        rounds: round the results as autocast would round them where that is on.
    """

    def __init__(self, *, rounds: bool = True) -> None:
        self._rounds = rounds
        self._made: _Made | None = None

    def __reduce__(self) -> tuple[Callable[[bool], FromWeights], tuple[bool]]:
        return _from_weights, (self._rounds,)  # copies and pickles have other weights, at other addresses

    def __call__(
        self,
        compute: Callable[[], tuple[Tensor, ...]],
        *weights: Tensor,
        dtype: torch.dtype | None = None,
        key: Hashable = None,
    ) -> tuple[Tensor, ...]:
        """Return the result of `compute`.

        Args:
            compute: computes the result.
            weights: all weights that it reads.
            dtype: data type that the result is rounded to where autocast is off; None leaves it as it is.
            key: what else the result depends on; the result for one key is kept, the latest.

        Returns:
            The result.
        """
        device = weights[0].device.type
        rounds = self._rounds and torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
        if not self.can_be_kept() or any(w.is_inference() for w in weights):  # those have no version counter
            return tuple(x if rounds or dtype is None else x.to(dtype) for x in compute())
        rounded = torch.get_autocast_dtype(device) if rounds else dtype
        version = (rounded, key, [(w.data_ptr(), w._version) for w in weights])
        made = self._made  # read once: another thread may replace it at any time
        if made is None or made.version != version:
            with torch.inference_mode(False), torch.no_grad():  # so that the results can be used in any mode
                results = tuple(x if rounded is None else x.to(rounded) for x in compute())
                made = _Made(version=version, weights=tuple(w.detach() for w in weights), results=results)
            self._made = made
        return made.results

    @staticmethod
    def can_be_kept() -> bool:
        """Return whether no gradients are computed and nothing is being compiled."""
        return not torch.is_grad_enabled() and not torch.compiler.is_compiling()


def _from_weights(rounds: bool) -> FromWeights:
    return FromWeights(rounds=rounds)


def fewer_kernels(x: Tensor) -> bool:
    """Return whether to run fewer and larger operations, some of which do more arithmetic than is needed.

    Starting a kernel on a GPU takes longer than the arithmetic of most operations here. A CPU starts them at once, and
    compiled code joins them by itself.

    Args:
        x: an input of the operations.
    """
    return x.device.type in FEWER_KERNELS_ON and FromWeights.can_be_kept()


class FoldedNorm:
    """A convolution and the batch normalisation after it as one convolution, in evaluation."""

    def __init__(self) -> None:
        self._weights = FromWeights()

    @staticmethod
    def pays(x: Tensor, norm: nn.BatchNorm2d) -> bool:
        """Return whether the one convolution can be used and is faster.

        On a CPU one more pass over the map takes longer than scaling the kernel, even if the result is not kept.

        Args:
            x: the map [B, C, H, W].
            norm: the batch normalisation.
        """
        return not norm.training and (x.device.type == "cpu" or FromWeights.can_be_kept())

    def __call__(self, x: Tensor, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> Tensor:
        """Return `norm(conv(x))`, up to rounding."""
        mean, variance = norm.running_mean, norm.running_var
        assert mean is not None and variance is not None

        def fold() -> tuple[Tensor, Tensor]:
            scale = norm.weight * torch.rsqrt(variance + norm.eps)
            return conv.weight * scale[:, None, None, None], norm.bias - mean * scale

        weights = (conv.weight, norm.weight, norm.bias, mean, variance)
        kernel, shift = self._weights(fold, *weights, dtype=x.dtype)
        return F.conv2d(x, kernel, shift, conv.stride, conv.padding, groups=conv.groups)


def round_weights(model: nn.Module, dtype: torch.dtype, *, in_float32: Collection[nn.Module]) -> None:
    """Round the weights of linear layers and convolutions once, as autocast would round them on every frame.

    Args:
        model: the network; changed in place.
        dtype: data type of encoder, memory attention and memory encoder.
        in_float32: parts that run in float32; their weights stay as they are.
    """
    kept = {layer for part in in_float32 for layer in part.modules()}
    # A convolution `c` before a batch normalisation `bn` is scaled first, by `FoldedNorm`, and rounded then.
    kept |= {layer.get_submodule("c") for layer in model.modules() if "bn" in dict(layer.named_children())}
    for layer in model.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d)) and layer not in kept:
            layer.to(dtype)


def convert_weights(model: nn.Module, dtype: torch.dtype, *, in_float32: Collection[nn.Module]) -> None:
    """Convert all weights to the data type of the arithmetic, so that the network runs without autocast.

    Autocast casts the input and output of every normalisation and every operand that is not in the data type: a fifth
    of all kernels of a frame. Kernels of convolutions get the memory layout of the maps, channels last; cuDNN would
    copy those of 3 x 3 cells into it on every frame.

    Args:
        model: the network; changed in place.
        dtype: data type of encoder, memory attention and memory encoder.
        in_float32: parts that run in float32; their weights stay as they are.
    """
    kept = {layer for part in in_float32 for layer in part.modules()}
    # `FoldedNorm` scales these convolutions in float32 and rounds the result.
    folded = [layer for layer in model.modules() if "bn" in dict(layer.named_children())]
    kept |= {layer.get_submodule(name) for layer in folded for name in ("c", "bn")}
    layouts = {4: torch.channels_last, 5: torch.channels_last_3d}
    for layer in model.modules():
        if layer not in kept:
            layer._apply(lambda weight: weight.to(dtype), recurse=False)
        if isinstance(layer, (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d)):
            layer.to(memory_format=layouts[layer.weight.dim()])


def precision(device: torch.device, dtype: torch.dtype, weights: Tensor) -> torch.autocast:
    """Return the autocast context in which the network computes in a data type.

    Autocast is off for float32, and where all weights are of the data type already; see `convert_weights`.

    Args:
        device: device of the network.
        dtype: data type of encoder, memory attention and memory encoder.
        weights: a weight that only `convert_weights` rounds.
    """
    if dtype in (torch.float32, weights.dtype):
        return torch.autocast(device.type, enabled=False)
    return torch.autocast(device.type, dtype=dtype)


def attend_windows(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    """Attend within many small windows.

    Args:
        query: [n, heads, L, C].
        key: [n, heads, L, C].
        value: [n, heads, L, C].
        bias: added to the logits [heads, L, L].

    Returns:
        [n, heads, L, C].
    """
    if query.device.type == "cpu" and query.dtype == torch.bfloat16 and not torch.compiler.is_compiling():
        # PyTorch's fused attention takes twice as long for many small windows in bfloat16 on a CPU.
        logits = (query * query.shape[-1] ** -0.5) @ key.transpose(2, 3) + bias
        return logits.softmax(-1).to(value.dtype) @ value
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias[None])


def tiles_pay(q: Tensor, bias: Tensor | None) -> bool:
    """Return whether `attend_in_tiles` can be used and is faster than fused attention.

    Args:
        q: queries [B, heads, L, C].
        bias: added to the logits, or None.
    """
    bias_fits = bias is None or (bias.dtype != torch.bool and bias.shape[1:3] == (1, 1))
    here = q.device.type == "cpu" and not torch.is_grad_enabled() and not torch.compiler.is_compiling()
    return here and bias_fits and q.shape[2] >= MANY_QUERIES.get(q.dtype, math.inf)


def attend_in_parts(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """Compute softmax(q k' / sqrt(C) + bias) v in plain operations, one part of the queries after the other.

    Where there is no fused attention, logits of all queries at once would take half a gigabyte for one object at 1024
    pixels. The caller projects the result, which has the width of unprojected values: with values of half the width of
    the keys, a quarter of the arithmetic less.

    Args:
        q: projected queries [B, 1, L, C].
        k: projected keys [B, 1, N, C].
        v: values, which need not be projected [B, 1, N, M].
        bias: added to the logits, [B or 1, 1, 1, N], or None.

    Returns:
        [B, 1, L, M].
    """
    keys = k.transpose(2, 3) * q.shape[-1] ** -0.5
    parts = []
    for start in range(0, q.shape[2], PART_QUERIES):
        logits = q[:, :, start : start + PART_QUERIES] @ keys
        parts.append((logits if bias is None else logits + bias).softmax(dim=-1) @ v)
    return torch.cat(parts, dim=2)


def attend_by_object(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    *,
    keys: Callable[[Tensor], Tensor],
    project: Callable[[Tensor], Tensor],
    fused: Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor],
) -> Tensor:
    """Attend with one head, one object after the other, whose tensors then fit into the processor's cache.

    Args:
        q: projected queries [B, 1, L, C].
        k: inputs of the keys [B, N, Ck].
        v: inputs of the values [B, N, M].
        bias: added to the logits, [B or 1, 1, 1, N].
        keys: projects inputs of keys to [1, 1, N, C].
        project: projects averaged values to outputs. A query's weights add up to 1, so values may be averaged first.
        fused: attends with PyTorch's fused attention, for an object whose logits may be too large for tiles.

    Returns:
        [B, L, D].
    """
    outputs = []
    for i in range(len(k)):
        row = slice(i, i + 1)
        bias_row = None if bias is None else bias[row if len(bias) > 1 else slice(1)]
        q_row, k_row = q[row], keys(k[row])
        means = attend_in_tiles(q_row[0, 0], k_row[0, 0], v[i], None if bias_row is None else bias_row[0, 0, 0])
        outputs.append(fused(q_row, k_row, v[row], bias_row) if means is None else project(means)[None])
    return torch.cat(outputs)


def attend_in_tiles(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor | None:
    """Compute softmax(q k' / sqrt(C) + bias) v with plain matrix products over tiles of the logits.

    On a CPU, PyTorch's fused attention gains nothing from bfloat16 and needs values as wide as keys; matrix products of
    one tile after the other, into memory that is used again, run at the processor's full rate. Nothing is subtracted
    from the logits before the exponential: they are known to be small, from the norms of queries and keys.

    Args:
        q: [L, C].
        k: [N, C].
        v: [N, M].
        bias: [N], -inf for keys to be left out.

    Returns:
        [L, M], or None where the logits may be too large; that depends on the values.
    """
    # Powers of 2: PyTorch's exp takes nearly three times as long in float32 on a CPU that is not Intel's.
    q = q * (math.log2(math.e) * q.shape[-1] ** -0.5)
    # Centred keys shift all logits of a query alike, which changes no weight and leaves less to be rounded.
    k = k - k.new_full((1, len(k)), 1 / len(k)) @ k  # takes a tenth of the time of `mean` over rows
    if _largest_norm(q) * _largest_norm(k) > MAX_LOGIT:
        return None
    v, bias = v.to(q.dtype), None if bias is None else (bias * math.log2(math.e)).to(q.dtype)
    rows = min(len(q), TILE_QUERIES)
    columns = min(len(k), max(1, TILE_BYTES // (rows * q.itemsize)))
    logits = q.new_empty(rows * columns)
    part = q.new_empty(rows, v.shape[1])
    out = q.new_empty(len(q), v.shape[1])
    with torch.autocast(q.device.type, enabled=False):
        for queries, means in zip(q.split(rows), out.split(rows), strict=True):
            sums = torch.zeros(len(queries), v.shape[1], dtype=torch.float32)
            weights = torch.zeros(len(queries), 1, dtype=torch.float32)
            for start in range(0, len(k), columns):
                some = slice(start, start + columns)
                tile = logits[: len(queries) * len(k[some])].view(len(queries), -1)
                torch.mm(queries, k[some].T, out=tile)
                if bias is not None:
                    tile += bias[some]
                weights += tile.exp2_().sum(-1, keepdim=True)
                sums += torch.mm(tile, v[some], out=part[: len(queries)])
            torch.div(sums, weights, out=means)
    return out


def _largest_norm(x: Tensor) -> float:
    return float(x.norm(dim=-1).amax())
