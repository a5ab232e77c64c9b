"""Attention over tokens: projected multi-head attention with optional rotary positions, and criss-cross attention."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from i2vpp.modeling.position_encoding import rotate

MANY_QUERIES = {torch.float32: 1024, torch.bfloat16: 256}
"""From so many queries on, `attend_in_tiles` is faster than PyTorch's fused attention on a CPU. Not for float16: it
ends at 2^16, and the powers of logits do not."""

TILE_QUERIES = 2048
TILE_BYTES = 2**22
"""Queries at a time in `attend_in_tiles`, and size of their logits, which should stay in the processor's cache."""

MAX_LOGIT = 100.0
"""So large that 2^MAX_LOGIT, times the number of keys, is a float32 and a bfloat16 number, and 2^-MAX_LOGIT too."""


class Attention(nn.Module):
    """Multi-head attention with separate query, key, value and output projections.

    Args:
        width: of queries and output.
        heads: number of heads.
        inner_width: width of the projected queries and keys, all heads together; default `width`.
        kv_width: width of keys and values; default `width`.
        dropout: of attention weights, in training.
    """

    def __init__(
        self,
        width: int,
        *,
        heads: int,
        inner_width: int | None = None,
        kv_width: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        inner_width, kv_width = inner_width or width, kv_width or width
        self.heads = heads
        self.dropout = dropout
        self.q_proj = nn.Linear(width, inner_width)
        self.k_proj = nn.Linear(kv_width, inner_width)
        self.v_proj = nn.Linear(kv_width, inner_width)
        self.out_proj = nn.Linear(inner_width, width)

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        bias: Tensor | None = None,
        q_rotary: Tensor | None = None,
        k_rotary: Tensor | None = None,
        k_unturned: int = 0,
    ) -> Tensor:
        """Attend from q [B or 1, L, C] to k, v [B, N, Ckv].

        Args:
            q: queries; a batch of 1 serves all B.
            k: keys.
            v: values.
            bias: added to the logits, or bool with True = attend; broadcasts to [B, heads, L, N].
            q_rotary: table of `rotary_table` for the queries.
            k_rotary: table [S, ., 2] for the keys, repeated for every S of them.
            k_unturned: how many of the last keys have no place in the grid and are not turned.

        Returns:
            [B, L, C].
        """
        q = self._split_heads(self.q_proj(q))
        if q_rotary is not None:
            q = rotate(q, q_rotary)
        q = q.expand(k.shape[0], -1, -1, -1)
        if self.heads == 1 and tiles_pay(q, bias):
            rows = [slice(i, i + 1) for i in range(len(k))]  # one by one, they fit into the processor's cache
            biases = [None if bias is None else bias[i if len(bias) > 1 else slice(1)] for i in rows]
            return torch.cat([
                self._attend_in_tiles(q[i], self._keys(k[i], k_rotary, k_unturned), v[i], b)
                for i, b in zip(rows, biases, strict=True)
            ])  # fmt: skip
        return self._attend(q, self._keys(k, k_rotary, k_unturned), v, bias)

    def _keys(self, k: Tensor, rotary: Tensor | None, unturned: int) -> Tensor:
        k = self._split_heads(self.k_proj(k))
        return k if rotary is None else _rotate_groups(k, rotary, unturned)

    def _attend_in_tiles(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        means = attend_in_tiles(q[0, 0], k[0, 0], v[0], None if bias is None else bias[0, 0, 0])
        if means is None:
            return self._attend(q, k, v, bias)
        return self.out_proj(self.v_proj(means))[None]  # a query's weights add up to 1: values are projected averaged

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        v = self._split_heads(self.v_proj(v))
        dropout = self.dropout if self.training else 0.0
        if bias is not None and bias.dtype != torch.bool:
            bias = bias.to(q.dtype)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)
        return self.out_proj(out.transpose(1, 2).flatten(2))

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B, heads, L, C / heads]


def tiles_pay(q: Tensor, bias: Tensor | None) -> bool:
    """Whether `attend_in_tiles` can be used for queries [B, heads, L, C] and is faster than fused attention."""
    bias_fits = bias is None or (bias.dtype != torch.bool and bias.shape[1:3] == (1, 1))
    here = q.device.type == "cpu" and not torch.is_grad_enabled() and not torch.compiler.is_compiling()
    return here and bias_fits and q.shape[2] >= MANY_QUERIES.get(q.dtype, math.inf)


def attend_in_tiles(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor | None:
    """Compute softmax(q k' / sqrt(C) + bias) v with plain matrix products over tiles of the logits.

    On a CPU, PyTorch's fused attention gains nothing from bfloat16 and wants values as wide as keys; matrix products of
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
    k = k - k.new_full((1, len(k)), 1 / len(k)) @ k  # a tenth of the time of `mean`, which goes down columns slowly
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


def _rotate_groups(k: Tensor, table: Tensor, unturned: int) -> Tensor:
    """Turn every group of len(table) keys of k [B, heads, N, C] by the same table, but for the last `unturned`."""
    turned = k.shape[-2] - unturned
    groups = rotate(k[..., :turned, :].unflatten(-2, (-1, len(table))), table).flatten(-3, -2)
    return torch.cat([groups, k[..., turned:, :]], dim=-2)


class CrissCrossAttention(nn.Module):
    """Every position attends to its whole column and row, itself counted once; result times `gamma` plus input.

    Source: Huang et al., CCNet: Criss-Cross Attention for Semantic Segmentation, ICCV 2019.
    """

    def __init__(self, channels: int, key_channels: int) -> None:
        super().__init__()
        self.query_conv = nn.Conv2d(channels, key_channels, 1)
        self.key_conv = nn.Conv2d(channels, key_channels, 1)
        self.value_conv = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, h, w] to the same shape."""
        q, k, v = (conv(x).permute(0, 2, 3, 1) for conv in (self.query_conv, self.key_conv, self.value_conv))
        height = x.shape[2]
        column = (q.transpose(1, 2) @ k.permute(0, 2, 3, 1)).transpose(1, 2)  # [B, h, w, h]
        itself = torch.eye(height, dtype=torch.bool, device=x.device)[:, None]
        column = column.masked_fill(itself, float("-inf"))
        row = q @ k.transpose(2, 3)  # [B, h, w, w]
        weights = torch.cat([column, row], dim=-1).softmax(dim=-1).to(v.dtype)
        from_column = (weights[..., :height].transpose(1, 2) @ v.transpose(1, 2)).transpose(1, 2)
        from_row = weights[..., height:] @ v
        return self.gamma * (from_row + from_column).permute(0, 3, 1, 2) + x
