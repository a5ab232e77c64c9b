"""Initial weights of the memory parts that already track objects roughly, by matching similar and nearby cells.

A network whose image encoder and decoder work but whose memory parts are new has to find out, from mask losses alone,
that the present frame should be compared with remembered ones, and that what is found there should become the mask.
Here it begins with that knowledge, written into weights that exist anyway:

- the memory encoder keeps a projection of the embedding, and the mask as one number in a direction that the embedding
  hardly uses;
- every cross-attention compares that projection with the same one of the query, in rotary pairs that hardly turn over
  the grid, and prefers nearby cells by constants in pairs that do turn; it fetches the mask's number;
- what it fetched is written in the direction in which the decoder's own mask prompt moves the embedding;
- the last normalisation brings features back to the scale and offset that the decoder knows, and the memory prompts
  begin as its padding points.

Training goes on from there; nothing is fixed.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from i2vpp.modeling.attention import Attention
from i2vpp.modeling.i2vpp import I2VPP, MEMORY_MASK_BIAS, MEMORY_MASK_SCALE
from i2vpp.modeling.layers import LayerNorm2d
from i2vpp.modeling.memory_attention import MemoryAttentionLayer

CONTENT = 48  # channels of the memory's 64 that hold content; the next one holds the mask
CONTENT_GAIN = 4.0  # factor of the content over the position code that is added to the keys
MASK_GAIN = 3.0
SELF_LOGIT = 12.0  # attention logit of a cell with its own memory, at the same place
LOCAL_LOGIT = 8.0  # part of the logit that only depends on place
LOCAL_PAIRS = 10  # rotary pairs of each axis that carry it
BRANCH = 0.1  # factor of the random weights that are kept


@torch.no_grad()
def begin_as_matching(model: I2VPP, embedding: Tensor) -> None:
    """Write a matching start into memory encoder, memory attention and memory prompts.

    Args:
        model: network whose image encoder and mask decoder are trained.
        embedding: embeddings [N, D, h, w] of some images, as `encode` gives them.
    """
    tokens = embedding.float().movedim(1, -1).flatten(0, -2)  # [n, D]
    mean, spread = tokens.mean(), tokens.std(dim=1).mean()
    normal = F.layer_norm(tokens, tokens.shape[1:])
    center = normal.mean(dim=0)
    covariance = (normal - center).T.cov().cpu()  # where every version of PyTorch has eigenvectors, unlike on MPS
    variances, directions = (x.to(model.device) for x in torch.linalg.eigh(covariance))  # ascending
    content = (directions[:, -CONTENT:] / variances[-CONTENT:].clamp(min=1e-6).pow(0.25)).T  # [48, D]
    energy = variances[-CONTENT:].clamp(min=1e-6).sqrt().sum()  # mean product of a projected cell with itself
    quiet = directions[:, 0] * (1 if directions[:, 0].sum() >= 0 else -1)  # the sign of an eigenvector is arbitrary
    _write_memory_encoder(model, content, center, mean=mean, spread=spread, quiet=quiet)
    move, rest = _mask_prompt(model)
    layers = model.memory_attention.layers
    for layer in layers:
        assert isinstance(layer, MemoryAttentionLayer)
        norm = layer.bottleneck[1]
        assert isinstance(norm, LayerNorm2d)
        norm.weight.fill_(BRANCH)
        _write_attention(layer.cross_attn_image, content, center, energy, move / spread / len(layers))
    last = model.memory_attention.norm
    last.weight.fill_(float(spread))
    last.bias.copy_(mean + model.no_mem_embed.flatten() + rest)
    _write_prompts(model)


def _write_memory_encoder(
    model: I2VPP, content: Tensor, center: Tensor, *, mean: Tensor, spread: Tensor, quiet: Tensor
) -> None:
    encoder = model.memory_encoder
    width = content.shape[1]
    encoder.pix_feat_proj.weight.copy_(torch.eye(width)[:, :, None, None])
    _bias(encoder.pix_feat_proj).zero_()
    encoder.out_proj.weight[:CONTENT, :, 0, 0] = CONTENT_GAIN * content / spread
    _bias(encoder.out_proj)[:CONTENT] = -CONTENT_GAIN * (content @ (mean / spread + center))
    encoder.out_proj.weight[CONTENT, :, 0, 0] = quiet
    _bias(encoder.out_proj)[CONTENT] = -(quiet @ (mean + spread * center))
    # Read the mask off the last hidden layer of its downsampler, where full and empty masks differ.
    layers = encoder.mask_downsampler.encoder
    hidden, last = layers[:-1], layers[-1]
    assert isinstance(hidden, nn.Sequential)
    assert isinstance(last, nn.Conv2d)
    side = model.image_size
    levels = torch.tensor([MEMORY_MASK_BIAS, MEMORY_MASK_BIAS + MEMORY_MASK_SCALE], device=model.device)
    empty, full = hidden(levels.view(2, 1, 1, 1).expand(-1, -1, side, side))[:, :, side // 32, side // 32]
    read = 2 * MASK_GAIN * (full - empty) / (full - empty).square().sum()
    last.weight.copy_(torch.outer(quiet, read)[:, :, None, None])
    _bias(last).copy_(-quiet * (read @ (full + empty)) / 2)


def _write_attention(attention: Attention, content: Tensor, center: Tensor, energy: Tensor, move: Tensor) -> None:
    inner = attention.q_proj.out_features
    root = inner**0.25  # each of query and key takes its part of the 1 / sqrt(width) of attention
    turning, still = _rotary_rows(inner)
    gain = ((SELF_LOGIT - LOCAL_LOGIT) / energy).sqrt() * root
    rows = still[:CONTENT]
    for layer in (attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj):
        layer.weight.mul_(BRANCH)
        layer.bias.zero_()
    attention.q_proj.weight[rows] = gain * content
    attention.q_proj.bias[rows] = -gain * (content @ center)
    attention.k_proj.weight[rows] = 0.0
    attention.k_proj.weight[rows, torch.arange(CONTENT)] = gain / CONTENT_GAIN
    for layer in (attention.q_proj, attention.k_proj):
        layer.bias[turning] = (LOCAL_LOGIT / len(turning)) ** 0.5 * root
    attention.v_proj.weight[0] = 0.0
    attention.v_proj.weight[0, CONTENT] = 1 / MASK_GAIN
    attention.out_proj.weight[:, 0] = move


def _rotary_rows(inner: int) -> tuple[Tensor, Tensor]:
    """Rows of queries and keys: first parts of the pairs that turn most, and all of those that hardly turn."""
    half, quarter = inner // 2, inner // 4
    turning = torch.cat([torch.arange(0, 2 * LOCAL_PAIRS, 2), half + torch.arange(0, 2 * LOCAL_PAIRS, 2)])
    still = torch.cat([torch.arange(quarter, half), torch.arange(half + quarter, inner)])
    return turning, still


def _mask_prompt(model: I2VPP) -> tuple[Tensor, Tensor]:
    """Return by how much a mask prompt changes the decoder's input [D]: half of full minus empty, and their mean."""
    side = 16  # cells; large enough that the middle does not see the border
    levels = torch.tensor([MEMORY_MASK_BIAS, -MEMORY_MASK_BIAS], device=model.device)
    prompts = model.sam_prompt_encoder.mask_downscaling(levels.view(2, 1, 1, 1).expand(-1, -1, 4 * side, 4 * side))
    empty, full = prompts[:, :, side // 2, side // 2]
    return (full - empty) / 2, (full + empty) / 2 - model.sam_prompt_encoder.no_mask_embed.weight[0]


def _write_prompts(model: I2VPP) -> None:
    generator = model.memory_prompt_generator
    padding = model.sam_prompt_encoder.not_a_point_embed.weight
    generator.no_memory_prompt_embeddings_fg.weight.copy_(padding)
    generator.query_embedding_fg.weight.copy_(padding + 0.02 * torch.randn_like(generator.query_embedding_fg.weight))
    for attention in (generator.cross_attn, generator.self_attn):
        attention.out_proj.weight.mul_(BRANCH)


def _bias(layer: nn.Conv2d) -> Tensor:
    assert layer.bias is not None
    return layer.bias
