"""The temporal feature integrator (TFI): merges motion from a short clip into the image trunk's maps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from i2vpp.modeling.inference import FromWeights, fewer_kernels
from i2vpp.modeling.layers import GELU2d, LayerNorm2d

QUICK = 1.702


def quick_gelu(x: Tensor) -> Tensor:
    """Return x * sigmoid(1.702 x), the cheap approximation of GELU."""
    return x * torch.sigmoid(QUICK * x)


# The two convolutions below are Conv3d layers with a kernel side of 1. They run as 2-D convolutions, several times as
# fast; in channels_last_3d memory every reshape is a view.


def _convolve_slices(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve x [B, C, T, h, w] with a kernel [C', C, 1, k, k], k odd."""
    slices = x.movedim(1, -1).flatten(0, 1).permute(0, 3, 1, 2)  # [B * T, C, h, w]
    out = F.conv2d(slices, weight.squeeze(2), bias, padding="same")
    return out.permute(0, 2, 3, 1).unflatten(0, (-1, x.shape[2])).movedim(-1, 1)


def _convolve_time(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve x [B, C, T, h, w] with a kernel [C', C, k, 1, 1], k odd."""
    rows = x.movedim(1, -1).flatten(2, 3).permute(0, 3, 1, 2)  # [B, C, T, h * w]
    out = F.conv2d(rows, weight.squeeze(-1), bias, padding="same")
    return out.permute(0, 2, 3, 1).unflatten(2, x.shape[3:]).movedim(-1, 1)


class TemporalNet(nn.Module):
    """Residual steps of a spatial 3x3 and a temporal convolution of 3 slices."""

    def __init__(self, width: int, *, steps: int = 3) -> None:
        super().__init__()
        self.lns = nn.ModuleList(nn.LayerNorm(width) for _ in range(steps))
        self.temporal_net = nn.ModuleList(
            nn.ModuleDict(
                {
                    f"c_fc1_{step}": nn.Conv3d(width, width, (1, 3, 3), padding=(0, 1, 1)),
                    f"c_fc2_{step}": nn.Conv3d(width, width, (3, 1, 1), padding=(1, 0, 0)),
                }
            )
            for step in range(steps)
        )
        self._scaled = [FromWeights() for _ in range(steps)]

    def forward(self, x: Tensor, *, last_only: bool = False) -> Tensor:
        """Apply the steps to a clip.

        Args:
            x: [B, C, T, h, w].
            last_only: compute only what the last slice depends on. The result then holds the last slices [B, C, *, h,
            w], of
                which only the very last one is valid.

        Returns:
            [B, C, T, h, w], or the last slices.
        """
        if fewer_kernels(x):
            return self._joined(x, last_only=last_only)
        steps = len(self.lns)
        for step, (norm, layers) in enumerate(zip(self.lns, self.temporal_net, strict=True)):
            if last_only:
                # Each step needs one earlier slice; the first slice is invalid and dropped by the next step.
                x = x[:, :, -(steps - step + 1) :]
            spatial, temporal = cast("Iterator[nn.Conv3d]", layers.children())
            hidden = norm(x.movedim(1, -1)).movedim(-1, 1)
            hidden = quick_gelu(_convolve_slices(hidden, spatial.weight, spatial.bias))
            x = quick_gelu(x + _convolve_time(hidden, temporal.weight, temporal.bias))
        return x

    def _joined(self, x: Tensor, *, last_only: bool) -> Tensor:
        """Compute `forward` in half as many operations.

        quick_gelu(x) = silu(s x) / s with s = QUICK. The state between the steps is kept s times as large, which a
        normalisation takes away again; its epsilon grows alike.
        """
        steps, scale = len(self.lns), 1.0
        for step, (norm, layers) in enumerate(zip(self.lns, self.temporal_net, strict=True)):
            if last_only:
                x = x[:, :, -(steps - step + 1) :]
            assert isinstance(norm, nn.LayerNorm)
            spatial, temporal = cast("Iterator[nn.Conv3d]", layers.children())
            hidden = F.layer_norm(
                x.movedim(1, -1), norm.normalized_shape, norm.weight, norm.bias, norm.eps * scale**2
            ).movedim(-1, 1)
            moved = _scaled_step(hidden, spatial, temporal, self._scaled[step])
            x = F.silu(torch.add(moved, x, alpha=QUICK / scale))
            scale = QUICK
        return x * (1 / QUICK)


def _scaled_step(hidden: Tensor, spatial: nn.Conv3d, temporal: nn.Conv3d, kept: FromWeights) -> Tensor:
    """Compute both convolutions of a step of `TemporalNet` and the activation between them; the result is s times it.

    The spatial convolution is scaled by s = QUICK. Its activation is s times as large then, and so is what the temporal
    convolution makes of it, with its bias scaled by s.

    Args:
        hidden: the normalised input of the step [B, C, T, h, w].
        spatial: the spatial convolution.
        temporal: the temporal convolution.
        kept: the scaled weights.

    Returns:
        [B, C, T, h, w].
    """
    assert spatial.bias is not None and temporal.bias is not None
    biases = spatial.bias, temporal.bias
    weight, bias, bias_after = kept(
        lambda: (QUICK * spatial.weight, QUICK * biases[0], QUICK * biases[1]),
        spatial.weight,
        *biases,
        dtype=hidden.dtype,
    )
    return _convolve_time(F.silu(_convolve_slices(hidden, weight, bias)), temporal.weight, bias_after)


class Fuse(nn.Module):
    """GELU(LN(1x1 convolution))."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.fuse = nn.Sequential(nn.Conv2d(c_in, c_out, 1), LayerNorm2d(c_out), GELU2d())

    def forward(self, x: Tensor) -> Tensor:
        """Map two maps that are stacked along the channels [B, c_in, h, w] to one [B, c_out, h, w]."""
        return self.fuse(x)


class Integrate(nn.Module):
    """GELU(LN(3x3 convolution))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), LayerNorm2d(width), GELU2d())

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, h, w] to the same shape."""
        return self.layer(x)


class TemporalFeatureIntegrator(nn.Module):
    """Three levels, one for each map of the image trunk, from shallow to deep.

    Args:
        in_channels: channels of the maps.
        width: channels of the result.
        temporal_width: channels of the clip's features.
        patch: side of the image patch behind one cell of the result.
    """

    def __init__(
        self,
        *,
        in_channels: Sequence[int] = (160, 320, 256),
        width: int = 256,
        temporal_width: int = 64,
        patch: int = 16,
    ) -> None:
        super().__init__()
        levels, both = range(len(in_channels)), width + temporal_width
        self.temporal_stem = nn.Conv3d(3, temporal_width, (3, patch, patch), (1, patch, patch), (1, 0, 0))
        self.input_linears = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in in_channels)
        # The last one is in every checkpoint and never read: no level follows that would use its result.
        self.integration2temporal_nets = nn.ModuleList(Fuse(both, temporal_width) for _ in levels)
        self.temporal2integration_nets = nn.ModuleList(Fuse(both, width) for _ in levels)
        self.temporal_nets = nn.ModuleList(TemporalNet(temporal_width) for _ in levels)
        self.integration_nets = nn.ModuleList(Integrate(width) for _ in levels)
        self.apply(_initialise)

    def forward(self, maps: Sequence[Tensor], clip: Tensor) -> Tensor:
        """Merge the motion of a clip into the maps of its last frame.

        Args:
            maps: the trunk's maps [B, in_channels[k], h, w].
            clip: frames in video order, the current one last [B, 3, T, patch * h, patch * w].

        Returns:
            [B, width, h, w].
        """
        motion = self.temporal_stem(clip).contiguous(memory_format=torch.channels_last_3d)  # [B, C, T, h, w]
        residual: Tensor | None = None
        for level, features in enumerate(maps):
            last = level == len(maps) - 1
            motion = self.temporal_nets[level](motion, last_only=last)
            now = motion[:, :, -1]
            mid = self.input_linears[level](features)
            if residual is not None:
                mid = mid + residual
            both = torch.cat([mid, now], dim=1)
            merged = self.temporal2integration_nets[level](both)
            residual = self.integration_nets[level](merged)
            if not last:
                updated = self.integration2temporal_nets[level](both)
                motion = torch.cat([motion[:, :, :-1], updated[:, :, None]], dim=2)
        return merged + residual


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Conv3d):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
