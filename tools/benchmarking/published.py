"""What a frame of the published network costs in FLOPs, whatever shortcuts are taken where it runs."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import fields, replace
from unittest.mock import patch

import torch

from benchmarking.meters import by_part, flop_counter, model_places, split_by_part
from i2vpp.config import ModelConfig
from i2vpp.modeling.i2vpp import I2VPP, MEMORY_WIDTH, WIDTH
from i2vpp.modeling.memory_prompt_generator import MemoryPromptGenerator
from i2vpp.structures import FrameMemory, MemoryFrame, MemoryPointer, MemoryTokens, Prompt, SelectedMemory

STRIDE = 16  # image pixels per cell
META = torch.device("meta")


def published_flop(config: ModelConfig, *, objects: int, groups: int, pointers: int) -> dict[str, int]:
    """Count the FLOPs of tracking one frame by part, on PyTorch's `meta` device: shapes without any arithmetic.

    No shortcut that the library takes is taken there, and memory is not pooled.

    Args:
        config: of the network; only its size and selection matter.
        objects: tracked on the frame.
        groups: frames whose memory features are read.
        pointers: object pointers that are read.
    """
    if "memory_pooling" in {field.name for field in fields(config)}:  # an older checkout (`--against`) has no such key
        config = replace(config, memory_pooling=1)
    with META:
        model = I2VPP(config)
    model.eval().requires_grad_(False)  # the counter's module hooks stumble over views of parameters
    side = config.image_size
    memory = FrameMemory(
        values=torch.empty(objects, MEMORY_WIDTH, side // STRIDE, side // STRIDE, dtype=torch.bfloat16, device=META),
        foreground=torch.empty(objects, side // STRIDE, side // STRIDE, dtype=torch.bool, device=META),
        pointer=torch.empty(objects, WIDTH, device=META),
    )
    selected = SelectedMemory(
        spatial=tuple(MemoryFrame(memory=memory, slot=0) for _ in range(groups)),
        pointers=tuple(MemoryPointer(pointer=memory.pointer, offset=0.0) for _ in range(pointers)),
    )
    prompts = model.memory_prompt_generator
    plainly = patch.object(prompts, "forward", lambda memory, grid: plain_prompts(prompts, memory))
    # PyTorch knows no autocast for `meta`, and FLOPs do not depend on it.
    without_autocast = patch.object(torch, "autocast", lambda *_, **__: nullcontext())
    with torch.no_grad(), without_autocast, plainly, flop_counter() as counter:
        with split_by_part(model_places(model), counter.get_total_flops) as shares:
            features = model.encode(torch.empty(1, 3, 3, side, side, device=META))
            conditioned = model.condition_on_memory(features, model.memory_tokens([selected]))
            prediction = model.decode(conditioned, Prompt())
            model.encode_memory(features, prediction, prediction.logits, conditioning=False)
    return {part: int(count) for part, count in by_part(shares).items()}


def plain_prompts(prompts: MemoryPromptGenerator, memory: MemoryTokens) -> torch.Tensor:
    """Make memory prompts [B, Q, D] with keys and values projected for every token, as published: for counting only.

    The library brings the few queries to the tokens instead, on all devices. Masks, norms and angles take no FLOPs.
    """
    x = prompts.query_embedding_fg.weight.expand(memory.values.shape[0], -1, -1)
    x = x + prompts.cross_attn(x, memory.values, memory.values)
    x = x + prompts.self_attn(x, x, x)
    return x + prompts.linear2(prompts.linear1(x))
