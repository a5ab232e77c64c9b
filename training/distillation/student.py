"""Distil a teacher's embeddings into the image encoder (TinyViT and the temporal feature integrator).

    python -m training.distillation.student --embeddings embeddings --heads heads.pt --image-size 256 \
        --data data -o outputs/encoder/checkpoint.pt

The encoder ends in a sum of two GELUs, which hardly reaches below zero, while the teacher's channels do. So it learns
the embedding raised by a constant per channel, and `no_mem_embed`, which is added before the decoder, takes that away
again. With the teacher's own heads (`--heads`: prompt encoder and mask decoder) it is a promptable image model at once.

With `--data` the moving average of the weights is scored on held-out photos (`training.image_validation`) every few
hundred steps; the curve is written beside the checkpoint, `<out>.jsonl`. At the end of a run from a new network the
memory parts are given a start that matches what looks alike (`training.model.matching`). The result is an inference
checkpoint of the averaged weights, to be named as `start.checkpoint` of a recipe. An interrupted run goes on, also with
more embeddings.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2
from tqdm import tqdm

from i2vpp.build_i2vpp import best_device
from i2vpp.checkpoint import load_checkpoint, read_checkpoint, save_checkpoint
from i2vpp.config import ModelConfig
from i2vpp.data.files import read_image
from i2vpp.errors import I2VPPError
from i2vpp.modeling.i2vpp import I2VPP
from i2vpp.session.frames import MEAN, STD
from i2vpp.utils.parser import Parser
from training.config import OptimizerConfig, StartConfig
from training.dataset.clips import AnnotatedVideo
from training.dataset.plan import derive_seed
from training.distillation.embeddings import GRID, EmbeddingReader
from training.ema import EMA
from training.image_validation import held_out_photos, score_photos
from training.model.initialise import start
from training.model.matching import begin_as_matching
from training.optimizer import build_optimizer, clip_gradients, freeze, set_rates, train_mode, trainable
from training.signals import SaveClock, outlive_signals, stop_requests

GRID_CROPS = (24, 64)
"""Side of a crop in cells of the teacher's grid, least and most. A crop of 32 cells at 256 px shows objects at the size
that they have on a whole photo at 512 px."""
STRIDE = 16  # pixels of the student's input per cell of its embedding
STATISTICS = 200  # embeddings that the statistics of the channels are taken from
MATCHED = 32  # images that the memory parts are fitted to
FLOOR = -0.2  # value to which the lowest percent of a channel is raised
FROZEN = ("memory_attention", "memory_encoder", "memory_prompt_generator", "sam_prompt_encoder", "sam_mask_decoder")


@dataclass(frozen=True, kw_only=True, eq=False)
class Channels:
    """What the student learns of each channel [D, 1, 1]: (embedding + offset) at this scale."""

    offset: Tensor
    scale: Tensor


class Embeddings(Dataset[tuple[Tensor, Tensor]]):
    """Augmented pairs of a clip and the teacher's embedding of its last frame.

    Args:
        folders: written by `training.distillation.teacher`.
        image_size: side S of the student's input.
        seed: seed of the augmentation; item k is always the same for the same folders.
        length: items in all.
    """

    def __init__(self, folders: Sequence[Path], *, image_size: int, seed: int, length: int) -> None:
        self._readers = [EmbeddingReader(folder) for folder in folders]
        self.rows = [(reader, row) for reader in self._readers for row in range(len(reader))]
        self._image_size = image_size
        self._seed = seed
        self._length = length
        self._colours = v2.Compose([v2.ColorJitter(0.3, 0.3, 0.3, 0.03), v2.RandomGrayscale(0.05)])

    def __len__(self) -> int:
        return self._length

    def channels(self) -> Channels:
        """Measure the channels on some embeddings."""
        chosen = self.rows[:: max(1, len(self.rows) // STATISTICS)]
        part = slice(None, None, 4)
        values = torch.stack([reader.read(row, part, part) for reader, row in chosen], dim=1).flatten(1)  # [D, n]
        lowest = values.quantile(0.01, dim=1)
        return Channels(
            offset=(FLOOR - lowest).clamp(min=0)[:, None, None], scale=values.std(dim=1).clamp(min=0.05)[:, None, None]
        )

    def __getitem__(self, k: int) -> tuple[Tensor, Tensor]:
        """Return frames [3, 3 (time), S, S], normalised, and an embedding [D, S / 16, S / 16]."""
        rng = np.random.default_rng(derive_seed(self._seed, k))
        reader, row = self.rows[int(rng.integers(len(self.rows)))]
        image = torch.from_numpy(read_image(reader.images[row])).permute(2, 0, 1)
        rows, columns = rng.integers(*GRID_CROPS, size=2, endpoint=True).tolist()
        top, left = int(rng.integers(GRID - rows, endpoint=True)), int(rng.integers(GRID - columns, endpoint=True))
        height, width = image.shape[1:]
        image = image[
            :,
            top * height // GRID : (top + rows) * height // GRID,
            left * width // GRID : (left + columns) * width // GRID,
        ]
        embedding = reader.read(row, slice(top, top + rows), slice(left, left + columns))
        side = self._image_size
        image = F.interpolate(image[None].float(), (side, side), mode="bilinear", antialias=True)[0]
        embedding = F.adaptive_avg_pool2d(embedding, (side // STRIDE, side // STRIDE))
        if rng.random() < 0.5:
            image, embedding = image.flip(2), embedding.flip(2)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self._seed, k, 1))
            image = self._colours(image / 255)
        image = (image - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
        # Earlier frames: the same picture shifted by a few pixels.
        earlier = [
            torch.roll(image, rng.integers(-6, 6, size=2, endpoint=True).tolist(), dims=(1, 2)) for _ in range(2)
        ]
        return torch.stack([*earlier, image], dim=1), embedding


@dataclass(kw_only=True)
class DistillationConfig:
    """One run.

    Args:
        embeddings: folders of the teacher's embeddings.
        out: checkpoint to write, or to go on from.
        heads: the teacher's prompt encoder and mask decoder, under our names.
        start: checkpoint that the network starts from; its `no_mem_embed` then says how channels are raised.
        image_size: side of the student's input.
        steps: batches in all, over which the rate falls.
        batch_size: crops a batch.
        minutes: stop after this long, to be resumed; 0: no limit.
        learning_rate: learning rate after the warm-up, where it is highest.
        workers: loader processes.
        data: folder of the held-out photos; None: they are not scored.
        score_every: steps between scores.
        ema: decay of the moving average of the weights.
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


class Distillation:
    """The state of a run: network, averaged weights, optimiser, steps and seconds."""

    def __init__(self, config: DistillationConfig) -> None:
        self.config = config
        self.device = best_device()
        self.model = I2VPP(ModelConfig(image_size=config.image_size))
        start(self.model, StartConfig(checkpoint=config.start, heads=config.heads), seed=0)
        self.data = Embeddings(
            config.embeddings, image_size=config.image_size, seed=0, length=config.steps * config.batch_size
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

    def train_step(self, clips: Tensor, target: Tensor) -> float:
        """Learn from clips [B, 3, 3, S, S] and embeddings [B, D, S / 16, S / 16]; return the loss.

        Args:
            clips: normalised frames [B, 3, 3 (time), S, S].
            target: the teacher's embeddings [B, D, S / 16, S / 16].
        """
        set_rates(self.optimizer, self.step, self.config.steps, self.optimizer_config)
        train_mode(self.model, self.optimizer_config)
        on_gpu = self.device.type == "cuda"
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            embedding = self.model.encode(clips.to(self.device, non_blocking=on_gpu)).embedding
        loss = distance(embedding.float(), target.to(self.device, non_blocking=on_gpu), self.channels)
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
            scores = score_photos(self.model, photos)
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
        batch_size=config.batch_size,
        sampler=range(run.step * config.batch_size, config.steps * config.batch_size),
        num_workers=config.workers,
        worker_init_fn=outlive_signals,
    )
    begun, clock, mean = time.monotonic(), SaveClock(5), 1.0
    with stop_requests() as stop, tqdm(total=config.steps, initial=run.step, unit="step", desc="distilling") as bar:
        last = time.monotonic()
        for clips, target in loader:
            mean += 0.02 * (run.train_step(clips, target) - mean)
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
            clips = torch.stack([run.data[k][0] for k in range(MATCHED)]).to(run.device)
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
    add("--heads", help="the teacher's prompt encoder and mask decoder, under our names")
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
    options = parser.parse_args(arguments)
    try:
        distil(DistillationConfig(**vars(options)))
    except I2VPPError as error:
        parser.exit(1, f"error: {error}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
