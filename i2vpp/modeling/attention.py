"""Attention over tokens: projected multi-head attention with optional rotary positions, and criss-cross attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from i2vpp.modeling.inference import attend_by_object, tiles_pay
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

        def keys(k: Tensor) -> Tensor:
            k = self._split_heads(self.k_proj(k))
            return k if k_rotary is None else _rotate_groups(k, k_rotary, k_unturned)

        if self.heads == 1 and tiles_pay(q, bias):
            return attend_by_object(
                q, k, v, bias, keys=keys, project=lambda x: self.out_proj(self.v_proj(x)), fused=self._attend
            )
        return self._attend(q, keys(k), v, bias)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        v = self._split_heads(self.v_proj(v))
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
