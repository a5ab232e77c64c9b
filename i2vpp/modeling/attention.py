"""Attention over tokens: projected multi-head attention with optional rotary positions, and criss-cross attention."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from i2vpp.modeling.inference import FromWeights, attend_by_object, attend_in_parts, fewer_kernels, tiles_pay
from i2vpp.modeling.position_encoding import rotate


class Attention(nn.Module):
    """Multi-head attention with separate query, key, value and output projections.

    Args:
        width: of queries and output.
        heads: number of heads.
        inner_width: width of the projected queries and keys, all heads together; default `width`.
        kv_width: width of keys and values; default `width`.
        dropout: of attention weights, in training.
    """

    in_parts = False
    """Whether layers with one head use `attend_in_parts`. Exports to ONNX set it, whose runtimes have no fused
    attention."""

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
        self._stacked = FromWeights()

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
        if q is k and k_unturned == 0 and fewer_kernels(q):
            return self._self_attend(q, v, bias, q_rotary, k_rotary)
        q = self._queries(q, q_rotary).expand(k.shape[0], -1, -1, -1)

        def keys(k: Tensor) -> Tensor:
            k = self._split_heads(self.k_proj(k))
            return k if k_rotary is None else _rotate_groups(k, k_rotary, k_unturned)

        def project(means: Tensor) -> Tensor:
            return self.out_proj(self.v_proj(means))

        if self.heads == 1 and self.in_parts:
            return project(attend_in_parts(q, keys(k), v[:, None], bias)[:, 0])
        if self.heads == 1 and tiles_pay(q, bias):
            return attend_by_object(q, k, v, bias, keys=keys, project=project, fused=self._attend)
        return self._attend(q, keys(k), v, bias)

    def attend_projected(
        self, q: Tensor, k: Tensor, v: Tensor, *, bias: Tensor | None = None, q_rotary: Tensor | None = None
    ) -> Tensor:
        """Attend to keys and values that are projected and turned already; see `project_together`.

        Args:
            q: queries [B or 1, L, C].
            k: projected keys [B, heads, N, c].
            v: projected values [B, heads, N, c].
            bias: see `forward`.
            q_rotary: see `forward`.

        Returns:
            [B, L, C].
        """
        return self._fused(self._queries(q, q_rotary).expand(k.shape[0], -1, -1, -1), k, v, bias)

    def _queries(self, q: Tensor, rotary: Tensor | None) -> Tensor:
        q = self._split_heads(self.q_proj(q))
        return q if rotary is None else rotate(q, rotary)

    def _self_attend(
        self, x: Tensor, v: Tensor, bias: Tensor | None, q_rotary: Tensor | None, k_rotary: Tensor | None
    ) -> Tensor:
        """Attend from x to x, projected by one product; see `forward`."""
        layers = [self.q_proj, self.k_proj, *([self.v_proj] if v is x else [])]
        weights = tuple(layer.weight for layer in layers), tuple(layer.bias for layer in layers)
        flat = (*weights[0], *weights[1])
        weight, shift = self._stacked(lambda: (torch.cat(weights[0]), torch.cat(weights[1])), *flat)
        projected = F.linear(x, weight, shift).chunk(len(layers), dim=-1)
        q, k, *values = (self._split_heads(part) for part in projected)
        q, k = (part if table is None else rotate(part, table) for part, table in ((q, q_rotary), (k, k_rotary)))
        return self._fused(q, k, values[0] if values else self._split_heads(self.v_proj(v)), bias)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        return self._fused(q, k, self._split_heads(self.v_proj(v)), bias)

    def _fused(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        if bias is not None and bias.dtype != torch.bool:
            bias = bias.to(q.dtype)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)
        return self.out_proj(out.transpose(1, 2).flatten(2))

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B, heads, L, C / heads]


def _rotate_groups(k: Tensor, table: Tensor, unturned: int) -> Tensor:
    """Turn every group of len(table) keys of k [B, heads, N, C] by the same table, but for the last `unturned`."""
    turned = k.shape[-2] - unturned
    groups = rotate(k[..., :turned, :].unflatten(-2, (-1, len(table))), table).flatten(-3, -2)
    return torch.cat([groups, k[..., turned:, :]], dim=-2)


def project_together(
    layers: Sequence[Attention], keys: Tensor, values: Tensor, table: Tensor, unturned: int, kept: FromWeights
) -> list[tuple[Tensor, Tensor]]:
    """Project the keys and values of several layers with one head that read the same memory, by one product each.

    Args:
        layers: the layers, of equal widths.
        keys: inputs of the keys [B, N, Ckv].
        values: inputs of the values [B, N, Ckv].
        table: rotary table [S, C / 2, 2], repeated for every S keys.
        unturned: how many of the last keys have no place in the grid and are not turned.
        kept: keeps the stacked weights.

    Returns:
        Projected keys and values [B, 1, N, C] of each layer.
    """
    projections = [layer.k_proj for layer in layers], [layer.v_proj for layer in layers]
    weights = [parameter for group in projections for layer in group for parameter in (layer.weight, layer.bias)]

    def stack() -> tuple[Tensor, ...]:
        return tuple(
            torch.cat([getattr(layer, name) for layer in group]) for group in projections for name in ("weight", "bias")
        )

    k_weight, k_bias, v_weight, v_bias = kept(stack, *weights)
    k = F.linear(keys, k_weight, k_bias).unflatten(-1, (len(layers), -1))  # [B, N, layers, C]
    v = F.linear(values, v_weight, v_bias).unflatten(-1, (len(layers), -1))
    turned = k[:, : k.shape[1] - unturned].unflatten(1, (-1, len(table)))
    turned.copy_(rotate(turned.float(), table[:, None]))
    return [(one[:, None], other[:, None]) for one, other in zip(k.unbind(2), v.unbind(2), strict=True)]


@lru_cache(maxsize=16)
def _all_but_itself(length: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return a bias [length, length]: -inf on the diagonal, else 0."""
    with torch.inference_mode(False):
        return torch.zeros(length, length, dtype=dtype, device=device).fill_diagonal_(-torch.inf)


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
        self._stacked = FromWeights()

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, h, w] to the same shape."""
        if fewer_kernels(x):
            return self._joined(x)
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

    def _joined(self, x: Tensor) -> Tensor:
        """Compute `forward` in fewer operations: values are scaled by gamma, and products add what came before."""
        convs = (self.query_conv, self.key_conv, self.value_conv)
        weights = tuple(conv.weight for conv in convs), tuple(cast("Tensor", conv.bias) for conv in convs)

        def stack() -> tuple[Tensor, ...]:
            return tuple(torch.cat([query, key, self.gamma * value]) for query, key, value in weights)

        weight, bias = self._stacked(stack, *weights[0], *weights[1], self.gamma)
        projected = F.conv2d(x, weight, bias).permute(0, 2, 3, 1)  # [B, h, w, .]
        parts = projected.split([conv.out_channels for conv in convs], dim=-1)
        batch, _, height, width = x.shape
        q, k, v = (part.reshape(batch * height, width, -1) for part in parts)
        cells = x.permute(0, 2, 3, 1).to(v.dtype)  # [B, h, w, C]
        by_column = (part.transpose(1, 2).reshape(batch * width, height, -1) for part in (*parts, cells))
        column_q, column_k, column_v, column_x = by_column
        others = _all_but_itself(height, x.device, q.dtype)
        logits = _criss_cross_logits((column_q, column_k), (q, k), others, (batch, height, width))
        shares = logits.softmax(dim=-1).to(v.dtype)  # [B, h, w, h + w]
        column_shares = shares[..., :height].transpose(1, 2).reshape(batch * width, height, height)
        from_column = torch.baddbmm(column_x, column_shares, column_v).unflatten(0, (batch, width)).transpose(1, 2)
        row_shares = shares[..., height:].reshape(batch * height, width, width)
        out = torch.baddbmm(from_column.reshape(batch * height, width, -1), row_shares, v)
        return out.unflatten(0, (batch, height)).permute(0, 3, 1, 2)


def _criss_cross_logits(
    column: tuple[Tensor, Tensor], row: tuple[Tensor, Tensor], others: Tensor, size: tuple[int, int, int]
) -> Tensor:
    """Compute the logits of each cell to its column, then to its row.

    Args:
        column: queries and keys by column [B * w, h, C].
        row: queries and keys by row [B * h, w, C].
        others: added to the logits of columns [h, h].
        size: (B, h, w).

    Returns:
        [B, h, w, h + w].
    """
    batch, height, width = size
    (column_q, column_k), (q, k) = column, row
    if batch == 1:  # both products write to their places; those of columns of several objects are not evenly spaced
        logits = q.new_empty(height, width, height + width)
        torch.baddbmm(others, column_q, column_k.transpose(1, 2), out=logits[..., :height].transpose(0, 1))
        torch.bmm(q, k.transpose(1, 2), out=logits[..., height:])
        return logits[None]
    by_column = torch.baddbmm(others, column_q, column_k.transpose(1, 2)).unflatten(0, (batch, width))
    return torch.cat([by_column.transpose(1, 2), (q @ k.transpose(1, 2)).unflatten(0, (batch, height))], dim=-1)
