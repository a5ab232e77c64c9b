"""Distil a teacher's embeddings into the image encoder (TinyViT and the temporal feature integrator).

    python -m training.distillation.student --embeddings embeddings --heads heads.pt --image-size 256 \
        --data data -o outputs/encoder/checkpoint.pt

The encoder ends in a sum of two GELUs, which hardly reaches below zero, while the teacher's channels do. So it learns
the embedding raised by a constant per channel, and `no_mem_embed`, which is added before the decoder, takes that away
again. With the teacher's own heads (`--heads`: prompt encoder and mask decoder) it is a promptable image model at once.
With `--mask-loss` the masks that its decoder answers prompts with learn from the teacher's, too.

With `--data` the moving average of the weights is scored on held-out photos (`training.image_validation`) every few
hundred steps; the curve is written beside the checkpoint, `<out>.jsonl`. At the end of a run from a new network the
memory parts are given a start that matches what looks alike (`training.model.matching`). The result is an inference
checkpoint of the averaged weights, to be named as `start.checkpoint` of a recipe. An interrupted run goes on, also with
more embeddings.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from i2vpp.build_i2vpp import best_device, choose_dtype
from i2vpp.checkpoint import load_checkpoint, read_checkpoint, save_checkpoint
from i2vpp.config import ModelConfig
from i2vpp.errors import ConfigError, I2VPPError
from i2vpp.modeling.i2vpp import I2VPP
from i2vpp.utils.parser import Parser
from training.config import OptimizerConfig, StartConfig
from training.dataset.clips import AnnotatedVideo
from training.dataset.plan import derive_seed
from training.distillation.crops import Channels, Crops, as_clips
from training.distillation.prompted_masks import Heads, mask_distance, teacher_masks
from training.ema import EMA
from training.image_validation import held_out_photos, score_photos
from training.model.initialise import start
from training.model.matching import begin_as_matching
from training.optimizer import build_optimizer, clip_gradients, freeze, set_rates, train_mode, trainable
from training.signals import SaveClock, outlive_signals, stop_requests

MATCHED = 32  # crops that the memory parts are fitted to, at least
FROZEN = ("memory_attention", "memory_encoder", "memory_prompt_generator", "sam_prompt_encoder", "sam_mask_decoder")


@dataclass(kw_only=True)
class DistillationConfig:
    """One run.

    Args:
        embeddings: folders of the teacher's embeddings.
        out: checkpoint to write, or to go on from.
        heads: the teacher's prompt encoder and mask decoder, under our names. A new network gets them; one that starts
            from a checkpoint keeps its own.
        start: checkpoint that the network starts from; its `no_mem_embed` then says how channels are raised.
        mask_loss: weight of the loss through the decoder beside that of the embeddings; above 0, `heads` answer for the
            teacher.
        image_size: side of the student's input.
        steps: batches in all, over which the rate falls.
        batch_size: crops a batch.
        minutes: stop after this long, to be resumed; 0: no limit.
        learning_rate: learning rate after the warm-up, where it is highest.
        workers: loader processes.
        data: folder of the held-out photos; None: they are not scored.
        score_every: steps between scores.
        ema: decay of the moving average of the weights.
        dtype: data type of the encoder, `float32` or `bfloat16`; None: bfloat16 on CUDA devices that compute in it.
    """

    embeddings: list[Path]
    out: Path
    heads: str | None = None
    start: str | None = None
    image_size: int = 256
    steps: int = 2000
    batch_size: int = 8
    minutes: float = 0.0
    learning_rate: float = 1e-3
    workers: int = 1
    data: Path | None = None
    score_every: int = 500
    ema: float = 0.998
    mask_loss: float = 0.0
    dtype: str | None = None


class Distillation:
    """The state of a run: network, averaged weights, optimiser, steps and seconds."""

    def __init__(self, config: DistillationConfig) -> None:
        self.config = config
        self.device = best_device()
        self.model = I2VPP(ModelConfig(image_size=config.image_size))
        start(
            self.model,
            StartConfig(checkpoint=config.start, heads=None if config.start else config.heads),
            seed=0,
        )
        self.teacher = None
        if config.mask_loss:
            if config.heads is None:
                raise ConfigError("--mask-loss compares masks with those of the teacher: give its --heads")
            self.teacher = Heads.load(config.heads, self.device)
        self.dtype = choose_dtype(config.dtype, self.device)
        if self.dtype == torch.float16:  # its gradients would have to be scaled
            self.dtype = torch.float32
        self.data = Crops(
            config.embeddings,
            image_size=config.image_size,
            batch_size=config.batch_size,
            seed=0,
            steps=config.steps,
        )
        self.channels = self.data.channels()
        if config.start is None:
            with torch.no_grad():
                self.model.no_mem_embed.copy_(-self.channels.offset.flatten())
        self.optimizer_config = OptimizerConfig(
            learning_rate=config.learning_rate, trunk_learning_rate=config.learning_rate, trunk_layer_decay=1.0,
            weight_decay=0.05, batch_norm="train", clip_norm=1.0, warmup_steps=50,
        )  # fmt: skip
        freeze(self.model, [*FROZEN, "no_mem_embed"])
        self.model.to(self.device)
        self.optimizer = build_optimizer(self.model, self.optimizer_config)
        self.step, self.seconds = 0, 0.0
        weights = None
        if config.out.exists():
            progress = read_checkpoint(config.out)["distillation"]
            load_checkpoint(self.model, config.out)
            self.optimizer.load_state_dict(progress["optimizer"])
            self.step, self.seconds, weights = progress["step"], progress["seconds"], progress["weights"]
        offset = -self.model.no_mem_embed.detach().cpu().reshape(-1, 1, 1)
        self.channels = Channels(offset=offset, scale=self.channels.scale)
        self.ema = EMA(self.model, config.ema)
        if weights is not None:
            self.ema.updates = self.step
            self.model.load_state_dict(weights, strict=False)

    def save(self) -> None:
        """Write the averaged weights as a checkpoint, with all that is needed to go on."""
        learnt = {name for name, value in self.model.named_parameters() if value.requires_grad}
        learnt |= {name for name, _ in self.model.named_buffers()}
        weights = {name: value.clone() for name, value in self.model.state_dict().items() if name in learnt}
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "weights": weights,
            "optimizer": self.optimizer.state_dict(),
        }
        with self.ema.applied(self.model):
            save_checkpoint(
                self.model, self.config.out, image_size=self.config.image_size, extra={"distillation": state}
            )

    def train_step(self, frames: Tensor, target: Tensor) -> float:
        """Learn from a batch of crops; return the loss.

        Args:
            frames: normalised pictures [B, 3, S, S].
            target: the teacher's embeddings [B, D, S / 16, S / 16].
        """
        set_rates(self.optimizer, self.step, self.config.steps, self.optimizer_config)
        train_mode(self.model, self.optimizer_config)
        on_gpu = self.device.type == "cuda"
        target = target.to(self.device, non_blocking=on_gpu)
        clips = as_clips(frames.to(self.device, non_blocking=on_gpu), np.random.default_rng(derive_seed(0, self.step)))
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32):
            features = self.model.encode(clips)
        loss = distance(features.embedding.float(), target, self.channels)
        if self.teacher is not None:
            seeds = [derive_seed(0, self.step, k) for k in range(len(clips))]
            masks = teacher_masks(self.teacher, target, seeds)
            loss = loss + self.config.mask_loss * mask_distance(self.model, features, masks)
        loss.backward()
        clip_gradients(trainable(self.model), self.optimizer_config.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.update(self.model)
        self.step += 1
        return loss.item()

    def score(self, loss: float, photos: Sequence[AnnotatedVideo]) -> None:
        """Score the averaged weights on photos, and append a line to the curve.

        Args:
            loss: mean loss of the latest steps, for the curve.
            photos: photos with masks that nothing is trained on.
        """
        with self.ema.applied(self.model):
            scores = score_photos(self.model, photos, dtype=self.dtype)
        line = {"step": self.step, "hours": self.seconds / 3600, "loss": loss, **asdict(scores)}
        curve = self.config.out.with_name(self.config.out.name + ".jsonl")
        with curve.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        tqdm.write(json.dumps(line))


def distil(config: DistillationConfig) -> None:
    """Train the encoder for `steps` batches, or as many as `minutes` allow, and write a checkpoint."""
    config.out.parent.mkdir(parents=True, exist_ok=True)
    run = Distillation(config)
    photos = [] if config.data is None else held_out_photos(config.data)
    loader = DataLoader(
        run.data,
        batch_size=None,  # each item is a batch
        sampler=range(run.step, config.steps),
        num_workers=config.workers,
        worker_init_fn=outlive_signals,
    )
    begun, clock, mean = time.monotonic(), SaveClock(5), 1.0
    with stop_requests() as stop, tqdm(total=config.steps, initial=run.step, unit="step", desc="distilling") as bar:
        last = time.monotonic()
        for frames, target in loader:
            mean += 0.02 * (run.train_step(frames, target) - mean)
            bar.update()
            bar.set_postfix_str(f"loss {mean:.4f}", refresh=False)
            run.seconds += time.monotonic() - last
            if photos and (run.step % config.score_every == 0 or run.step == config.steps):
                run.score(mean, photos)
            last = time.monotonic()
            if stop.requested or (config.minutes and time.monotonic() - begun > 60 * config.minutes):
                break
            if clock.due():
                run.save()
                clock.reset()
    if run.step == config.steps and config.start is None:
        with torch.no_grad(), run.ema.applied(run.model):
            batches = math.ceil(MATCHED / config.batch_size)
            frames = torch.cat([run.data[k][0] for k in range(batches)]).to(run.device)
            clips = as_clips(frames, np.random.default_rng(0))
            begin_as_matching(run.model, run.model.eval().encode(clips).embedding)
            run.ema.shadow.update({name: value.clone() for name, value in run.model.state_dict().items()})
    run.save()


def distance(embedding: Tensor, target: Tensor, channels: Channels) -> Tensor:
    """Mean squared error [scalar] in units of each channel's spread; 1 is what the mean of each channel would give.

    Args:
        embedding: the student's embeddings [B, D, h, w].
        target: the teacher's embeddings [B, D, h, w].
        channels: offset and scale of each channel.
    """
    offset, scale = channels.offset.to(embedding.device), channels.scale.to(embedding.device)
    return ((embedding - target - offset) / scale).square().mean()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = Parser(prog="python -m training.distillation.student", description=__doc__,
                    argument_default=argparse.SUPPRESS,  # `DistillationConfig` has the defaults
                    formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    add = parser.add_argument
    add("--embeddings", type=Path, nargs="+", required=True, help="folders that the teacher wrote")
    add("--heads", help="the teacher's prompt encoder and mask decoder, under our names: the start of those of a new "
                        "network, and what --mask-loss asks for masks")  # fmt: skip
    add("--mask-loss", type=float, help="weight of the loss through the decoder (default 0: embeddings alone)")
    add("--checkpoint", "--start", dest="start", help="to start from (default: a new network)")
    add("-o", "--output", "--out", dest="out", type=Path, required=True, help="checkpoint to write, or to go on from")
    add("--image-size", type=int, help="side of the student's input (default 256)")
    add("--steps", type=int, help="batches, over which the rate falls (default 2000)")
    add("--batch-size", type=int, help="crops a batch (default 8)")
    add("--minutes", type=float, help="stop after this long, to be resumed (default: no limit)")
    add("--learning-rate", type=float, help="at its highest (default 0.001)")
    add("--workers", type=int, help="loader processes (default 1)")
    add("--data", type=Path, help="folder of the held-out photos, to score them (default: they are not scored)")
    add("--score-every", type=int, help="steps between scores (default 500)")
    add("--ema", type=float, help="decay of the averaged weights (default 0.998)")
    add("--dtype", choices=["float32", "bfloat16"],
        help="of the encoder (default: bfloat16 on GPUs that have it, else float32; few CPUs have it)")  # fmt: skip
    options = parser.parse_args(arguments)
    try:
        distil(DistillationConfig(**vars(options)))
    except I2VPPError as error:
        parser.exit(1, f"error: {error}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
