"""How much memory a step's activations take on a GPU, and whether to recompute them in the backward pass instead."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from i2vpp.modeling.i2vpp import I2VPP
from training.config import SourceConfig, TrainConfig, UserConfig

MIB = 2**20
GIB = 2**30

SPARE_SHARE, SPARE_BYTES = 0.1, GIB
"""What must be free beside the activations: a share of them for what the backward pass makes and frees and for gaps
between tensors, and bytes for gradients, the optimiser's moments and buffers."""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Memory in MiB that the backward pass needs of what the forward pass computes, at 1024 x 1024 pixels.

    `tests/test_activations.py` counts them again, with a decoder in float32: for `run.decoder_precision=same` the
    estimate is too high. Attention counts as fused: it keeps its inputs and its result.

    Args:
        encode: for encoding one frame of a clip.
        read: for the memory attention of one object on one frame.
        auxiliary: for the losses of the auxiliary masks of one object on one frame.
        decode: for one decoding step of one object.
        loss: for the losses of one decoding step.
        memory: for encoding the memory of one object on one frame.
    """

    encode: float
    read: float
    auxiliary: float
    decode: float
    loss: float
    memory: float


KEPT = {
    "bfloat16": Kept(encode=1313, read=693, auxiliary=24, decode=85, loss=44, memory=104),
    "float32": Kept(encode=2380, read=866, auxiliary=24, decode=85, loss=44, memory=159),
}
"""By `run.precision`; the decoder computes in float32, and so do the losses, at the size of the input."""


def kept_bytes(config: TrainConfig, *, encoder_learns: bool = True) -> int:
    """Estimate what the activations of a batch take if none is recomputed: of the largest batch of any source.

    Args:
        config: the recipe.
        encoder_learns: the image encoder has parameters that learn; otherwise none of its activations is kept.

    Returns:
        The estimate in bytes.
    """
    kept, pixels = KEPT[config.run.precision], config.loss.scale**2
    kept = replace(kept, loss=pixels * kept.loss, auxiliary=pixels * kept.auxiliary)
    sources = config.data.sources.values()
    largest = max((_of_source(source, config.user, kept, encoder_learns) for source in sources), default=0.0)
    return int(MIB * largest * (config.model.image_size / 1024) ** 2)


def _of_source(source: SourceConfig, user: UserConfig, kept: Kept, encoder_learns: bool) -> float:
    """MiB at 1024 pixels of a source's batch, with as many objects and corrections as there may be."""
    frames = source.clip.num_frames
    objects = source.batch_size * source.clip.max_objects
    steps = frames + user.corrections * min(frames, user.max_corrected)
    of_object = (frames - 1) * (kept.read + kept.auxiliary) + steps * (kept.decode + kept.loss) + frames * kept.memory
    return source.batch_size * frames * kept.encode * encoder_learns + objects * of_object


@dataclass(frozen=True, kw_only=True)
class RecomputeChoice:
    """Whether activations are recomputed, and why.

    Args:
        recompute: True if activations are recomputed in the backward pass.
        reason: numbers that the choice rests on; empty where the recipe says it.
    """

    recompute: bool
    reason: str = ""


def choose_recompute(config: TrainConfig, model: I2VPP, device: torch.device) -> RecomputeChoice:
    """Follow `run.recompute`; for `auto`, compare the estimate with the free memory of a CUDA device.

    Other devices do not say how much memory is free: there, `auto` recomputes.

    Args:
        config: the recipe.
        model: the network on its device, frozen parts marked.
        device: device of the process.

    Returns:
        The choice; its `reason` is set only where `auto` has compared the two numbers.
    """
    if config.run.recompute != "auto" or device.type != "cuda":
        return RecomputeChoice(recompute=config.run.recompute != "never")
    learns = any(parameter.requires_grad for parameter in model.image_encoder.parameters())
    estimate = kept_bytes(config, encoder_learns=learns)
    needed = int(estimate * (1 + SPARE_SHARE)) + SPARE_BYTES
    free, _ = torch.cuda.mem_get_info(device)
    reason = f"{estimate / GIB:.1f} GiB, with what else is needed {needed / GIB:.1f}; {free / GIB:.1f} GiB are free"
    return RecomputeChoice(recompute=needed > free, reason=reason)
