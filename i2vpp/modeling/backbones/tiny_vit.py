"""TinyViT-5M, the image trunk: convolutions at 1/4, windowed attention from 1/8 on (Wu et al., ECCV 2022; TinySAM).

Maps are kept in channels_last memory, so that a map [B, C, H, W] and its tokens [B, H, W, C] are views of each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from i2vpp.modeling.inference import FoldedNorm, FromWeights, attend_windows, fewer_kernels
from i2vpp.modeling.layers import GELU2d, LayerNorm2d, gelu

EXPANSION = 4
"""Hidden width over width, in MBConv blocks and MLPs alike."""


class ConvNorm(nn.Module):
    """Convolution without bias, "same" padding for odd kernels, then batch normalisation."""

    def __init__(self, c_in: int, c_out: int, kernel: int, *, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.c = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(c_out)
        self._folded = FoldedNorm()

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, c_in, H, W] to [B, c_out, H / stride, W / stride]."""
        if FoldedNorm.pays(x, self.bn):
            return self._folded(x, self.c, self.bn)
        return self.bn(self.c(x))


class PatchEmbed(nn.Module):
    """Two stride-2 convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.seq = nn.Sequential(
            ConvNorm(3, width // 2, 3, stride=2),
            GELU2d(),
            ConvNorm(width // 2, width, 3, stride=2),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Map an image [B, 3, H, W] to [B, C, H / 4, W / 4]."""
        return self.seq(image)


class InvertedBottleneck(nn.Module):
    """Expand, depthwise 3x3, project back; residual (MBConv)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = EXPANSION * width
        self.conv1 = ConvNorm(width, hidden, 1)
        self.conv2 = ConvNorm(hidden, hidden, 3, groups=hidden)
        self.conv3 = ConvNorm(hidden, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to the same shape."""
        hidden = gelu(self.conv2(gelu(self.conv1(x))))
        return gelu(x + self.conv3(hidden))


class Downsample(nn.Module):
    """Change the width, and the resolution by `stride`, with 1x1, depthwise 3x3 and 1x1 convolutions."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(c_in, c_out, 1)
        self.conv2 = ConvNorm(c_out, c_out, 3, stride=stride, groups=c_out)
        self.conv3 = ConvNorm(c_out, c_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, c_in, H, W] to [B, c_out, H / stride, W / stride]."""
        return self.conv3(gelu(self.conv2(gelu(self.conv1(x)))))


@lru_cache(maxsize=16)
def offset_ids(window: int, device: torch.device) -> Tensor:
    """Number the distances (|dy|, |dx|) between the cells of a window.

    In row-major order over pairs, the first cell (0, 0) has every distance once, in row-major order; so the published
    numbering by first appearance is |dy| * window + |dx|.

    Args:
        window: side of the window in cells.
        device: device of the numbers.

    Returns:
        Numbers [window², window²].
    """
    with torch.inference_mode(False):
        cell = torch.arange(window * window, device=device)
        y, x = cell // window, cell % window
        return (y[:, None] - y).abs() * window + (x[:, None] - x).abs()


class WindowAttention(nn.Module):
    """Pre-norm multi-head self-attention inside square windows, with a learned bias per head and distance."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.window = window
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.attention_biases = nn.Parameter(torch.zeros(heads, window * window))
        self._by_pair = FromWeights()

    def forward(self, x: Tensor) -> Tensor:
        """Attend within the windows of a map [B, H, W, C]; same shape."""
        height, width = x.shape[1:3]
        size = self.window
        # Zeros below and to the right are normalised and attended like any token: the published network does so.
        x = F.pad(x, (0, 0, 0, -width % size, 0, -height % size))
        rows, columns = x.shape[1] // size, x.shape[2] // size
        windows = x.unflatten(2, (columns, size)).unflatten(1, (rows, size)).transpose(2, 3)
        attended = self._attend(windows.reshape(-1, size * size, x.shape[3]))  # [B * rows * columns, size², C]
        merged = attended.reshape(windows.shape).transpose(2, 3).flatten(3, 4).flatten(1, 2)
        return merged[:, :height, :width]

    def _attend(self, tokens: Tensor) -> Tensor:  # [n, size², C]
        qkv = self.qkv(self.norm(tokens)).unflatten(-1, (self.heads, 3, -1))  # [n, size², heads, 3, C / heads]
        query, key, value = qkv.transpose(1, 2).unbind(3)
        ids = offset_ids(self.window, tokens.device)
        biases = self.attention_biases
        # Fused attention on a GPU copies a bias whose rows do not begin at multiples of 8 elements.
        padding = -len(ids) % 8 if fewer_kernels(tokens) else 0

        def by_pair() -> tuple[Tensor, ...]:
            return (F.pad(biases.index_select(1, ids.flatten()).unflatten(1, ids.shape), (0, padding)),)

        (bias,) = self._by_pair(by_pair, biases, key=padding)
        bias = bias[..., : len(ids)].to(query.dtype)
        attended = attend_windows(query, key, value, bias)
        return self.proj(attended.transpose(1, 2).flatten(2))  # from [n, heads, size², C / heads]


class TokenMLP(nn.Module):
    """Pre-norm two-layer perceptron with GELU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, EXPANSION * width)
        self.fc2 = nn.Linear(EXPANSION * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens [..., C] to the same shape."""
        return self.fc2(F.gelu(self.fc1(self.norm(x))))


class AttentionBlock(nn.Module):
    """Window attention (residual), depthwise 3x3 convolution (no residual), MLP (residual)."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.attn = WindowAttention(width, heads, window)
        self.local_conv = ConvNorm(width, width, 3, groups=width)
        self.mlp = TokenMLP(width)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to the same shape."""
        tokens = x.permute(0, 2, 3, 1)
        tokens = tokens + self.attn(tokens)
        tokens = self.local_conv(tokens.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return (tokens + self.mlp(tokens)).permute(0, 3, 1, 2)


class Stage(nn.Module):
    """Blocks of one width, then the step to the next width (none after the last stage)."""

    def __init__(self, blocks: Sequence[nn.Module], downsample: Downsample | None) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to [B, C', H', W'], the next stage's width and grid."""
        x = self.blocks(x)
        return x if self.downsample is None else self.downsample(x)


class TinyViT(nn.Module):
    """Image trunk with maps at strides 4, 8, 16, 16, 16.

    Args:
        widths: channels of the four stages.
        depths: blocks of the four stages; the first stage is convolutional.
        heads: attention heads of the last three stages.
        windows: window sides of the last three stages.
        out_channels: channels of the neck.
        num_classes: outputs of the classifier that checkpoints carry.
    """

    def __init__(
        self,
        *,
        widths: Sequence[int] = (64, 128, 160, 320),
        depths: Sequence[int] = (2, 2, 6, 2),
        heads: Sequence[int] = (4, 5, 10),
        windows: Sequence[int] = (7, 14, 7),
        out_channels: int = 256,
        num_classes: int = 1000,
    ) -> None:
        super().__init__()
        blocks: list[list[nn.Module]] = [[InvertedBottleneck(widths[0]) for _ in range(depths[0])]]
        for width, depth, count, window in zip(widths[1:], depths[1:], heads, windows, strict=True):
            blocks.append([AttentionBlock(width, count, window) for _ in range(depth)])
        strides = (2, 2, 1)  # the last two stages share stride 16
        steps = [Downsample(a, b, stride) for (a, b), stride in zip(pairwise(widths), strides, strict=True)]
        self.patch_embed = PatchEmbed(widths[0])
        self.layers = nn.ModuleList(Stage(group, step) for group, step in zip(blocks, [*steps, None], strict=True))
        self.neck = nn.Sequential(
            nn.Conv2d(widths[-1], out_channels, 1, bias=False),
            LayerNorm2d(out_channels),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            LayerNorm2d(out_channels),
        )
        # The ImageNet classifier: in every checkpoint, never read.
        self.norm_head = nn.LayerNorm(widths[-1])
        self.head = nn.Linear(widths[-1], num_classes)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return the maps of an image [B, 3, H, W] whose sides are multiples of 16.

        With the published widths: [B, 64, H/4, W/4], [B, 128, H/8, W/8], and three at [H/16, W/16] with 160, 320 and
        256 channels.
        """
        fine = self.patch_embed(image.contiguous(memory_format=torch.channels_last))
        middle = self.layers[0](fine)
        coarse = self.layers[1](middle)
        wide = self.layers[2](coarse)
        return fine, middle, coarse, wide, self.neck(self.layers[3](wide))
