"""Turns a frame's embedding and an object's mask into the memory features of that object (SAM 2's memory encoder)."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from i2vpp.modeling.inference import fewer_kernels
from i2vpp.modeling.layers import GELU2d, LayerNorm2d


class MaskDownsampler(nn.Module):
    """Four stride-2 convolutions, each with four times the channels, then a 1x1 convolution to `width`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = [4**step for step in range(5)]  # 1 to 256
        for c_in, c_out in pairwise(channels):
            layers += [nn.Conv2d(c_in, c_out, 3, stride=2, padding=1), LayerNorm2d(c_out), GELU2d()]
        self.encoder = nn.Sequential(*layers, nn.Conv2d(channels[-1], width, 1))

    def forward(self, mask: Tensor) -> Tensor:
        """Map a mask [B, 1, 16h, 16w] to [B, D, h, w]."""
        return self.encoder(mask)


class FuserBlock(nn.Module):
    """ConvNeXt block: depthwise 9x9 convolution, norm, pointwise MLP, layer scale; residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, 9, padding=4, groups=width)
        self.norm = LayerNorm2d(width)
        self.pwconv1 = nn.Linear(width, 4 * width)
        self.pwconv2 = nn.Linear(4 * width, width)
        self.gamma = nn.Parameter(torch.full((width,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, D, h, w] to the same shape."""
        tokens = self.norm(self.dwconv(x)).permute(0, 2, 3, 1)  # [B, h, w, D]
        tokens = self.pwconv2(F.gelu(self.pwconv1(tokens)))
        if fewer_kernels(x):
            return torch.addcmul(x, tokens.permute(0, 3, 1, 2), self.gamma[:, None, None])
        return x + (self.gamma * tokens).permute(0, 3, 1, 2)


class Fuser(nn.Module):
    """ConvNeXt blocks in a row."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(FuserBlock(width) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, D, h, w] to the same shape."""
        return self.layers(x)


class MemoryEncoder(nn.Module):
    """Fuses embedding and mask into memory features.

    Args:
        width: channels of the embedding (D).
        memory_width: channels of the memory features (M).
        depth: ConvNeXt blocks of the fuser.
    """

    def __init__(self, *, width: int = 256, memory_width: int = 64, depth: int = 2) -> None:
        super().__init__()
        self.mask_downsampler = MaskDownsampler(width)
        self.pix_feat_proj = nn.Conv2d(width, width, 1)
        self.fuser = Fuser(width, depth)
        self.out_proj = nn.Conv2d(width, memory_width, 1)

    def forward(self, embedding: Tensor, mask: Tensor) -> Tensor:
        """Fuse embedding and mask.

        Args:
            embedding: the image encoder's output [B, D, h, w], or [1, D, h, w] for B objects of one frame.
            mask: scaled probabilities 20p - 10 [B, 1, 16h, 16w].

        Returns:
            Memory features [B, M, h, w]; their position map is `sine_map(M, h, w, device)`.
        """
        fused = self.fuser(self.pix_feat_proj(embedding) + self.mask_downsampler(mask))
        return self.out_proj(fused)
