"""The weights that a run begins with: from files, and initialised on purpose where no file fills them.

The initialisation gives first gradients of order one. What the constructors already do on purpose stays: truncated
normals in the temporal feature integrator and in learned embeddings, layer scales of 1e-6 in the fuser and the scale
adapters, a zero gain in criss-cross attention.
"""

from __future__ import annotations

import torch
from torch import nn

from i2vpp.checkpoint import import_image_model, load_checkpoint, load_parts
from i2vpp.modeling.attention import Attention
from i2vpp.modeling.backbones.tiny_vit import InvertedBottleneck, TinyViT
from i2vpp.modeling.i2vpp import I2VPP
from i2vpp.modeling.memory_attention import MemoryAttentionLayer, ScaleAdapter
from i2vpp.modeling.memory_prompt_generator import MemoryPromptGenerator
from i2vpp.utils.notices import warn_user
from training.config import StartConfig

LINEAR_STD = 0.02
BRANCH_STD = 0.002
"""Of the last layer of a residual branch: the branch begins close to the identity, and still passes a gradient."""
VISIBLE_BIAS = 2.0
"""Object score at the start: an object counts as visible until the network has learnt when it is not."""


def start(model: I2VPP, config: StartConfig, *, seed: int) -> None:
    """Initialise the network, and load over that what the config names.

    Args:
        model: a new network.
        config: files that weights are read from.
        seed: seed of the initialisation.

    Raises:
        CheckpointError: a file is missing, unreadable or of another architecture.
    """
    initialise(model, seed=seed)
    if config.image_model is not None:
        import_image_model(model, config.image_model)
    if config.checkpoint is not None:
        trained_at = load_checkpoint(model, config.checkpoint).image_size
        if trained_at not in (None, model.image_size):
            sizes = f"image_size {trained_at}, and this run trains it at {model.image_size}"
            warn_user(f"{config.checkpoint} was trained at {sizes}")
    if config.heads is not None:
        load_parts(model, config.heads)


@torch.no_grad()
def initialise(model: I2VPP, *, seed: int = 0) -> None:
    """Set all weights that the constructors leave to PyTorch's defaults and that matter for the first steps.

    Run it before a checkpoint is loaded over it. Draws from its own seed; the global random state is as before.

    Args:
        model: a new network.
        seed: seed of all draws.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _initialise_trunk(model.image_encoder.trunk_image)
        for module in model.memory_attention.modules():
            if isinstance(module, ScaleAdapter):
                _small(module.proj1)
            elif isinstance(module, MemoryAttentionLayer):
                _small(module.linear2)
                _small(module.mask_conv)
            elif isinstance(module, Attention):
                _xavier(module)
        _initialise_prompts(model.memory_prompt_generator)
        last = model.sam_mask_decoder.pred_obj_score_head.layers[-1]
        assert isinstance(last, nn.Linear)
        nn.init.trunc_normal_(last.weight, std=LINEAR_STD)
        nn.init.constant_(last.bias, VISIBLE_BIAS)


def _initialise_trunk(trunk: TinyViT) -> None:
    """TinyViT's own start: narrow linear layers, convolutions after He, bottlenecks that begin as the identity."""
    for module in trunk.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=LINEAR_STD)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, InvertedBottleneck):
            nn.init.zeros_(module.conv3.bn.weight)


def _initialise_prompts(generator: MemoryPromptGenerator) -> None:
    for module in (generator.self_attn, generator.cross_attn):
        _xavier(module)
    _small(generator.linear2)
    nn.init.trunc_normal_(generator.query_embedding_fg.weight, std=LINEAR_STD)
    nn.init.trunc_normal_(generator.no_memory_prompt_embeddings_fg.weight, std=LINEAR_STD)


def _xavier(attention: Attention) -> None:
    for layer in (attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj):
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)


def _small(layer: nn.Linear | nn.Conv2d) -> None:
    nn.init.trunc_normal_(layer.weight, std=BRANCH_STD)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
