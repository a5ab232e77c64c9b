"""Initial weights of the temporal feature integrator that pass the image trunk's features through.

A network that begins with a trained image model (TinySAM, MobileSAM) has a new temporal feature integrator between that
model's encoder and decoder, so its first masks are noise. Here the integrator begins as the identity on the last map of
the trunk:

- the trunk ends in a normalisation over channels, whose scale and shift are taken back, so that the same normalisation
  in the integrator's last level changes nothing, and are applied there;
- a shift of √2 in front of the last GELU lets it act where it is straightest: the features have a spread of 0.1;
- the other terms of the sum begin as zero, by a zero scale of their normalisations, which learns from the first step;
- the constant that this adds is taken away by `no_mem_embed`, which the decoder's input gets on frames without memory.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from i2vpp.modeling.backbones.temporal_feature_integrator import Fuse, Integrate
from i2vpp.modeling.i2vpp import I2VPP
from i2vpp.modeling.layers import LayerNorm2d

SHIFT = math.sqrt(2)  # where the second derivative of GELU is zero


@torch.no_grad()
def begin_as_image_model(model: I2VPP) -> None:
    """Write the identity into the temporal feature integrator.

    Args:
        model: network whose image trunk, prompt encoder and mask decoder are trained.
    """
    integrator = model.image_encoder.trunk_video
    trunk_norm = _norm(model.image_encoder.trunk_image.neck[-1])
    fusion, last = integrator.temporal2integration_nets[-1], integrator.input_linears[-1]
    assert isinstance(fusion, Fuse) and isinstance(last, nn.Conv2d)
    for net in integrator.integration_nets:
        assert isinstance(net, Integrate)
        norm = _norm(net.layer[1])
        norm.weight.zero_()
        norm.bias.zero_()
    last.weight.copy_(torch.diag(1 / trunk_norm.weight)[:, :, None, None])
    _bias(last).copy_(-trunk_norm.bias / trunk_norm.weight)
    join, norm = fusion.fuse[0], _norm(fusion.fuse[1])
    assert isinstance(join, nn.Conv2d)
    join.weight.zero_()
    join.weight[:, : last.out_channels, 0, 0].fill_diagonal_(1.0)
    _bias(join).zero_()
    slope, value = _gelu_at_shift()
    norm.weight.copy_(trunk_norm.weight / slope)
    norm.bias.copy_(trunk_norm.bias / slope + SHIFT)
    model.no_mem_embed.fill_(-value)


def _gelu_at_shift() -> tuple[float, float]:
    """Slope and value of GELU at SHIFT."""
    below = 0.5 * (1 + math.erf(SHIFT / math.sqrt(2)))
    return below + SHIFT * math.exp(-(SHIFT**2) / 2) / math.sqrt(2 * math.pi), SHIFT * below


def _norm(layer: nn.Module) -> LayerNorm2d:
    assert isinstance(layer, LayerNorm2d)
    return layer


def _bias(layer: nn.Conv2d) -> Tensor:
    assert layer.bias is not None
    return layer.bias
