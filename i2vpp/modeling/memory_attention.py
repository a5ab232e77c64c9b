"""Memory attention: a frame's features attend to the memory of an object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from i2vpp.modeling.attention import Attention, CrissCrossAttention, project_together
from i2vpp.modeling.inference import FromWeights, fewer_kernels
from i2vpp.modeling.layers import GELU2d, LayerNorm2d, gelu, to_map, to_tokens
from i2vpp.modeling.position_encoding import rotary_table
from i2vpp.structures import FrameFeatures, MemoryTokens

DROPOUT = 0.1
POSITION_WEIGHT = 0.1
STRIDE = 16


def pool_tokens(memory: MemoryTokens, grid: torch.Size, side: int) -> MemoryTokens:
    """Replace every `side` x `side` spatial tokens by their mean, whose weight is the sum of theirs; pointers stay.

    Source: Xiong et al., Efficient Track Anything, 2024 (pooled keys and values of memory attention).

    Args:
        memory: spatial tokens on `grid`.
        grid: (h, w), multiples of `side`.
        side: side of the squares in tokens; 1 changes nothing.

    Returns:
        The pooled tokens.
    """
    if side == 1:
        return memory
    batch, tokens, _ = memory.values.shape
    spatial = tokens - memory.num_pointer_tokens

    def pooled(x: Tensor) -> Tensor:  # [B, N, .]
        squares = x[:, :spatial].unflatten(1, (-1, grid[0] // side, side, grid[1] // side, side))
        return torch.cat([squares.mean((3, 5)).flatten(1, 3), x[:, spatial:]], dim=1)

    weights = memory.values.new_ones(batch, tokens) if memory.log_weights is None else memory.log_weights.exp()
    weights = pooled(weights[..., None])[..., 0]
    weights[:, : spatial // side**2] *= side**2
    return MemoryTokens(
        values=pooled(memory.values),
        position=pooled(memory.position),
        foreground=pooled(memory.foreground[..., None].float())[..., 0] >= 0.5,
        num_pointer_tokens=memory.num_pointer_tokens,
        log_weights=weights.log(),
    )


class ScaleAdapter(nn.Module):
    """Residual mix of four depthwise convolutions of growing size (3, 5, 7, 9), one per quarter of the channels."""

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        quarter = width // 4
        self.norm = nn.LayerNorm(width)
        self.gamma = nn.Parameter(torch.full((width,), 1e-6))
        self.gammax = nn.Parameter(torch.ones(width))

        def depthwise(size: int) -> nn.Conv2d:
            return nn.Conv2d(quarter, quarter, size, padding=size // 2, groups=quarter, bias=False)

        self.local_conv_1, self.local_conv_2 = depthwise(3), depthwise(5)
        self.local_conv_3, self.local_conv_4 = depthwise(7), depthwise(9)
        self.proj0 = nn.Conv2d(width, 2 * width, 1, groups=quarter, bias=False)
        self.ln0 = LayerNorm2d(2 * width)
        self.proj1 = nn.Conv2d(2 * width, width, 1)
        self._scaled = FromWeights(rounds=False)  # gamma may be too small for float16
        self._joined = FromWeights()

    def forward(self, x: Tensor, grid: torch.Size) -> Tensor:
        """Mix the neighbourhood of every token at four scales.

        Args:
            x: tokens [B, h * w, C].
            grid: (h, w).

        Returns:
            [B, h * w, C].
        """
        norm, gamma = self.norm, self.gamma

        def scale() -> tuple[Tensor, ...]:  # norm(x) * gamma in one pass
            return norm.weight * gamma, norm.bias * gamma

        weight, bias = self._scaled(scale, norm.weight, norm.bias, gamma)
        normed = F.layer_norm(x, norm.normalized_shape, weight, bias, norm.eps)
        y = to_map(torch.addcmul(normed, x, self.gammax), grid)
        mixed = self._mix_joined(y) if fewer_kernels(x) else self._mix(y)
        return x + to_tokens(self.proj1(gelu(self.ln0(mixed))))

    def _mix(self, y: Tensor) -> Tensor:
        """Apply the four depthwise convolutions and `proj0`, which mixes the four results of a channel."""
        convs = (self.local_conv_1, self.local_conv_2, self.local_conv_3, self.local_conv_4)
        local = [conv(part) for conv, part in zip(convs, y.chunk(4, dim=1), strict=True)]
        # Channel = 4 * c + conv. Channels-last memory: the norm below and the tokens need no copy then.
        mixed = torch.stack([part.permute(0, 2, 3, 1) for part in local], dim=4).flatten(3).permute(0, 3, 1, 2)
        return self.proj0(mixed)

    def _mix_joined(self, y: Tensor) -> Tensor:
        """Compute `_mix` with one depthwise convolution of 9 x 9 cells, 0 where a kernel is smaller, and one product.

        Both do more arithmetic than the four convolutions, in fewer kernels. The product's weights take the channels
        in their order.
        """
        convs = (self.local_conv_1, self.local_conv_2, self.local_conv_3, self.local_conv_4)
        size = self.local_conv_4.kernel_size[0]

        def join() -> tuple[Tensor, ...]:
            margins = [(size - conv.kernel_size[0]) // 2 for conv in convs]
            kernel = torch.cat([F.pad(conv.weight, (m,) * 4) for conv, m in zip(convs, margins, strict=True)])
            groups = self.proj0.groups
            grouped = self.proj0.weight.unflatten(0, (groups, -1))[..., 0, 0]  # [groups, outputs, 4]
            every = torch.diag_embed(grouped.permute(1, 2, 0))  # [outputs, 4, groups, groups], of input, of output
            dense = every.permute(3, 0, 1, 2).flatten(2).flatten(0, 1)
            return kernel, dense[..., None, None]

        kernel, dense = self._joined(join, *(conv.weight for conv in convs), self.proj0.weight)
        return F.conv2d(F.conv2d(y, kernel, padding=size // 2, groups=y.shape[1]), dense)


class MemoryAttentionLayer(nn.Module):
    """Criss-cross self-attention, cross-attention to memory and an MLP, each after a scale adapter."""

    def __init__(self, width: int = 256, *, memory_width: int = 64, inner_width: int = 128) -> None:
        super().__init__()
        narrow = width // 4
        self.cross_attn_image = Attention(
            width, heads=1, inner_width=inner_width, kv_width=memory_width, dropout=DROPOUT
        )
        self.linear1 = nn.Linear(width, width)
        self.linear2 = nn.Linear(width, width)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.dropout = nn.Dropout(DROPOUT)

        def block(c_in: int, c_out: int, size: int) -> nn.Sequential:
            conv = nn.Conv2d(c_in, c_out, size, padding=size // 2, bias=False)
            return nn.Sequential(conv, LayerNorm2d(c_out), GELU2d())

        self.conva = block(width, narrow, 3)
        self.cca = CrissCrossAttention(narrow, narrow // 4)
        self.convb = block(narrow, narrow, 3)
        self.bottleneck = block(width + narrow, width, 1)
        self.scaleadapter_sa, self.scaleadapter_ca, self.scaleadapter_mlp = (ScaleAdapter(width) for _ in range(3))
        self.mask_conv = nn.Conv2d(width, 1, 5, padding=2)

    def forward(
        self,
        x: Tensor,
        grid: torch.Size,
        memory: MemoryTokens,
        keys: Tensor,
        pooling: int = 1,
        projected: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Attend to the frame itself, then to memory; steps that do not depend on memory keep a batch of 1.

        Args:
            x: tokens [B or 1, h * w, C].
            grid: (h, w).
            memory: of B objects; its spatial tokens are those of squares of `pooling` x `pooling` cells.
            keys: values of `memory` plus their positions [B, N, M].
            pooling: side of the squares in cells.
            projected: keys and values of the cross-attention, see `project_together`; None to project them here.

        Returns:
            [B, h * w, C].
        """
        x = self._self_attention(self.scaleadapter_sa(x, grid), grid)
        x = self.scaleadapter_ca(x, grid)
        if projected is None:
            x = x + self.dropout(self._cross_attention(self.norm2(x), grid, memory, keys, pooling))
        else:
            attention, (k, v) = self.cross_attn_image, projected
            table = rotary_table(attention.q_proj.out_features, grid[0], grid[1], x.device)
            x = x + attention.attend_projected(self.norm2(x), k, v, bias=_bias(memory), q_rotary=table)
        x = self.scaleadapter_mlp(x, grid)
        return x + self.dropout(self.linear2(self.dropout(F.relu(self.linear1(self.norm3(x))))))

    def _self_attention(self, x: Tensor, grid: torch.Size) -> Tensor:
        x = self.norm1(x)
        z = to_map(x, grid)
        narrow = self.convb(self.cca(self.cca(self.conva(z))))
        return x + to_tokens(self.bottleneck(torch.cat([z, narrow], dim=1)))

    def _cross_attention(self, x: Tensor, grid: torch.Size, memory: MemoryTokens, keys: Tensor, pooling: int) -> Tensor:
        width = self.cross_attn_image.q_proj.out_features
        return self.cross_attn_image(
            x,
            keys,
            memory.values,
            bias=_bias(memory),
            q_rotary=rotary_table(width, grid[0], grid[1], x.device),
            k_rotary=rotary_table(width, grid[0] // pooling, grid[1] // pooling, x.device, pooling),
            k_unturned=memory.num_pointer_tokens,
        )

    def auxiliary_mask(self, x: Tensor, grid: torch.Size) -> Tensor:
        """Predict the deep-supervision mask of the layer's output.

        Args:
            x: output tokens [B, h * w, C].
            grid: (h, w).

        Returns:
            Mask logits [B, 1, 16h, 16w].
        """
        mask = self.mask_conv(to_map(x, grid)).float()
        return F.interpolate(mask, scale_factor=STRIDE, mode="bilinear", align_corners=False)


def _bias(memory: MemoryTokens) -> Tensor | None:
    """Return what is added to the logits of attention to memory [B, 1, 1, N]."""
    return None if memory.log_weights is None else memory.log_weights[:, None, None, :]


class MemoryAttention(nn.Module):
    """A stack of memory-attention layers and a last normalisation.

    Args:
        width: width of the features (D).
        num_layers: number of layers.
        pooling: side of the squares of memory tokens that are read as one.
    """

    def __init__(self, width: int = 256, *, num_layers: int = 4, pooling: int = 1) -> None:
        super().__init__()
        self.pooling = pooling
        self.layers = nn.ModuleList(MemoryAttentionLayer(width) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width)
        self._stacked = FromWeights()

    def forward(
        self, features: FrameFeatures, memory: MemoryTokens, *, auxiliary: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Read memory into a frame's features.

        Args:
            features: of the frame; a batch of 1 serves all B objects of `memory`.
            memory: of B objects.
            auxiliary: also compute the deep-supervision masks.

        Returns:
            Embedding [B, D, h, w], and mask logits [B, layers, 16h, 16w] or None.
        """
        grid = features.embedding.shape[-2:]
        memory = pool_tokens(memory, grid, self.pooling)
        dtype = self.norm.weight.dtype
        keys = (memory.values + memory.position).to(dtype)
        x = to_tokens(torch.add(features.embedding, features.position, alpha=POSITION_WEIGHT).to(dtype))
        masks = []
        layers = cast("list[MemoryAttentionLayer]", list(self.layers))
        projected = self._project(layers, grid, memory, keys) if fewer_kernels(x) else [None] * len(layers)
        for layer, own in zip(layers, projected, strict=True):
            x = layer(x, grid, memory, keys, self.pooling, own)
            if auxiliary:
                masks.append(layer.auxiliary_mask(x, grid))
        return to_map(self.norm(x), grid), torch.cat(masks, dim=1) if auxiliary else None

    def _project(
        self, layers: Sequence[MemoryAttentionLayer], grid: torch.Size, memory: MemoryTokens, keys: Tensor
    ) -> Sequence[tuple[Tensor, Tensor]]:
        """Project the memory for all layers; see `project_together`."""
        attentions = [layer.cross_attn_image for layer in layers]
        rows, columns = (side // self.pooling for side in grid)
        table = rotary_table(attentions[0].k_proj.out_features, rows, columns, keys.device, self.pooling)
        return project_together(attentions, keys, memory.values, table, memory.num_pointer_tokens, self._stacked)
