"""The floor of a tracked frame: the time of the network's operations alone, at the best rate that the device reaches.

The operations are those of the published network: matrix products, convolutions and attention, a multiply-add as two.
They depend on nothing but the network and the amount of memory read, so that multiples of the floor can be compared
between machines, days and versions. The rate is that of a large matrix product in the same process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from statistics import median
from typing import TypeVar

import torch
from torch.utils.flop_counter import FlopCounterMode

from i2vpp.config import ModelConfig
from i2vpp.modeling.i2vpp import I2VPP, MEMORY_WIDTH, WIDTH
from i2vpp.structures import MemoryTokens

STRIDE = 16  # pixels of the input per cell of the features
TOKENS_PER_POINTER = WIDTH // MEMORY_WIDTH
PADDING_TOKENS = 2  # what the prompt encoder gives to the mask decoder for a frame without clicks

MATMUL_SIDES = (1024, 2048, 4096, 8192)
LEAST_GAIN = 1.02  # a larger product that is not faster by this factor ends the search
LONGEST = 60.0  # seconds that all products of one size may take, as far as those of the size before tell
REPEATS = 5

Result = TypeVar("Result")


def network_flop(config: ModelConfig, *, objects: int, memory_frames: int, memory_pointers: int) -> dict[str, int]:
    """Count the floating-point operations of one tracked frame without prompts, by part.

    They are counted on PyTorch's `meta` device, which knows shapes only. No shortcut that the library takes on a CPU is
    taken there, and memory is not pooled.

    Args:
        config: the network's; only its image size matters.
        objects: number of objects tracked on the frame (B).
        memory_frames: number of frames whose memory features are read.
        memory_pointers: number of object pointers that are read.

    Returns:
        Counts by part, named as by `i2vpp.execution.part_times`.
    """
    side, cells = config.image_size, config.image_size // STRIDE
    pointer_tokens = TOKENS_PER_POINTER * memory_pointers
    keys = memory_frames * cells**2 + pointer_tokens
    counts: dict[str, int] = {}
    with torch.no_grad(), torch.device("meta"), FlopCounterMode(display=False) as counter:
        model = I2VPP(replace(config, memory_pooling=1)).eval()
        model.requires_grad_(False)  # the counter follows modules, and does not work with views of trained parameters

        def count(part: str, work: Callable[[], Result]) -> Result:
            before = counter.get_total_flops()
            result = work()
            counts[part] = counter.get_total_flops() - before
            return result

        memory = MemoryTokens(
            values=torch.empty(objects, keys, MEMORY_WIDTH),
            position=torch.empty(objects, keys, MEMORY_WIDTH),
            foreground=torch.empty(objects, keys, dtype=torch.bool),
            num_pointer_tokens=pointer_tokens,
        )
        features = count("image encoder", lambda: model.encode(torch.empty(1, 3, 3, side, side)))
        embedding, _ = count("memory attention", lambda: model.memory_attention(features, memory))
        prompts = count("memory prompts", lambda: _memory_prompts(model, memory))
        tokens = torch.cat([torch.empty(objects, PADDING_TOKENS, WIDTH), prompts], dim=1)
        count("mask decoder", lambda: model.sam_mask_decoder(embedding, features.position, tokens, multimask=True))
        mask = torch.empty(objects, 1, side, side)
        count("memory encoder", lambda: model.memory_encoder(features.embedding, mask))
    return counts


def _memory_prompts(model: I2VPP, memory: MemoryTokens) -> torch.Tensor:
    """Make memory prompts [B, Q, D] as published, with a projected key and value for every token: for counting only.

    The library's own module takes fewer operations on all devices. Masks, norms and angles count as nothing.
    """
    prompts = model.memory_prompt_generator
    x = prompts.query_embedding_fg.weight.expand(len(memory.values), -1, -1)
    x = x + prompts.cross_attn(x, memory.values, memory.values)
    x = x + prompts.self_attn(x, x, x)
    return x + prompts.linear2(prompts.linear1(x))


def matmul_flop_per_second(
    device: torch.device, dtype: torch.dtype, sides: Iterable[int], now: Callable[[], float]
) -> float:
    """Measure the best rate of square matrix products, with all threads that PyTorch has at present.

    Args:
        device: where to multiply.
        dtype: data type of the factors.
        sides: of the products that are tried, ascending.
        now: clock that waits for the device.

    Returns:
        Floating-point operations per second, of the size that is multiplied fastest; the median of five products.
    """

    def seconds(side: int) -> float:
        a, b = (torch.rand(side, side, device=device).to(dtype) for _ in range(2))
        times = []
        for _ in range(1 + REPEATS):  # the first one is not counted: it may allocate and choose kernels
            start = now()
            a @ b
            times.append(now() - start)
        return median(times[1:])

    return best_rate(sides, seconds)


def best_rate(sides: Iterable[int], seconds: Callable[[int], float]) -> float:
    """Return the best rate of matrix products whose sizes grow until they gain nothing.

    Args:
        sides: of the products, ascending, each twice the one before.
        seconds: function that gives the time of one product of a side.

    Returns:
        Floating-point operations per second.
    """
    best = 0.0
    for side in sides:
        taken = seconds(side)
        rate, earlier = 2 * side**3 / taken, best
        best = max(best, rate)
        if rate < LEAST_GAIN * earlier or 8 * taken * (1 + REPEATS) > LONGEST:
            break
    return best
