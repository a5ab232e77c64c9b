"""Distil a teacher's embeddings into the image encoder (TinyViT and the temporal feature integrator).

    python -m training.distillation.student --embeddings embeddings --heads heads.pt --image-size 256 \
        --minutes 40 --out outputs/encoder/checkpoint.pt

The encoder ends in a sum of two GELUs, which hardly reaches below zero, while the teacher's channels do. So it learns
the embedding raised by a constant per channel, and `no_mem_embed`, which is added before the decoder, takes that away
again: with the teacher's own heads (`--heads`: prompt encoder and mask decoder) it is a promptable image model at once.

At the end the memory parts are given a start that matches what looks alike (`training.model.matching`). The result is
an inference checkpoint, to be named as `start.checkpoint` of a recipe. An interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
from i2vpp.errors import I2VPPError
from i2vpp.modeling.i2vpp import I2VPP
from i2vpp.session.frames import MEAN, STD
from training.checkpoint import Interrupts, SaveClock
from training.config import OptimizerConfig, StartConfig
from training.dataset.errors import NoDataError
from training.dataset.files import read_image
from training.dataset.plan import derive_seed
from training.distillation.teacher import INDEX
from training.model.matching import begin_as_matching
from training.model.start import start
from training.optimizer import build_optimizer, clip_gradients, freeze, set_rates, train_mode, trainable

GRID = 64  # of the teacher
STRIDE = 16  # of the student
SMALLEST_CROP = 32  # cells of the teacher's grid
STATISTICS = 200  # embeddings that the statistics of the channels are taken from
MATCHED = 32  # images that the memory parts are fitted to
FLOOR = -0.2  # where the lowest percent of a channel comes to lie
FROZEN = ("memory_attention", "memory_encoder", "memory_prompt_generator", "sam_prompt_encoder", "sam_mask_decoder")


@dataclass(frozen=True, kw_only=True, eq=False)
class Channels:
    """What the student learns of each channel [D, 1, 1]: (embedding + offset) at this scale."""

    offset: Tensor
    scale: Tensor


class Embeddings(Dataset[tuple[Tensor, Tensor]]):
    """Augmented pairs of a clip and the teacher's embedding of its last frame.

    Args:
        folder: written by `training.distillation.teacher`.
        image_size: side S of the student's input.
        seed: of the augmentation; item k is always the same.
        length: items in all.
    """

    def __init__(self, folder: Path, *, image_size: int, seed: int, length: int) -> None:
        if not (folder / INDEX).is_file():
            raise NoDataError(
                f"{folder} holds no {INDEX}: run `python -m training.distillation.teacher --out {folder}`"
            )
        index: dict[str, str] = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        self.pairs = [(folder / name, Path(image)) for name, image in sorted(index.items())]
        self._image_size = image_size
        self._seed = seed
        self._length = length
        self._colours = v2.Compose([v2.ColorJitter(0.3, 0.3, 0.3, 0.03), v2.RandomGrayscale(0.05)])

    def __len__(self) -> int:
        return self._length

    def channels(self) -> Channels:
        """Measure the channels on some embeddings."""
        chosen = self.pairs[:: max(1, len(self.pairs) // STATISTICS)]
        values = torch.stack([_read(path)[:, ::4, ::4] for path, _ in chosen], dim=1).flatten(1)  # [D, n]
        lowest = values.quantile(0.01, dim=1)
        return Channels(
            offset=(FLOOR - lowest).clamp(min=0)[:, None, None], scale=values.std(dim=1).clamp(min=0.05)[:, None, None]
        )

    def __getitem__(self, k: int) -> tuple[Tensor, Tensor]:
        """Return frames [3, 3 (time), S, S], normalised, and an embedding [D, S / 16, S / 16]."""
        rng = np.random.default_rng(derive_seed(self._seed, k))
        embedding_file, image_file = self.pairs[int(rng.integers(len(self.pairs)))]
        image = torch.from_numpy(read_image(image_file)).permute(2, 0, 1)
        embedding = _read(embedding_file)
        rows, columns = rng.integers(SMALLEST_CROP, GRID, size=2, endpoint=True).tolist()
        top, left = int(rng.integers(GRID - rows, endpoint=True)), int(rng.integers(GRID - columns, endpoint=True))
        height, width = image.shape[1:]
        image = image[
            :,
            top * height // GRID : (top + rows) * height // GRID,
            left * width // GRID : (left + columns) * width // GRID,
        ]
        embedding = embedding[:, top : top + rows, left : left + columns]
        side = self._image_size
        image = F.interpolate(image[None].float(), (side, side), mode="bilinear", antialias=True)[0]
        embedding = F.adaptive_avg_pool2d(embedding, (side // STRIDE, side // STRIDE))
        if rng.random() < 0.5:
            image, embedding = image.flip(2), embedding.flip(2)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self._seed, k, 1))
            image = self._colours(image / 255)
        image = (image - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
        # The frames before: the same picture, a little to the side, as in a video.
        earlier = [
            torch.roll(image, rng.integers(-6, 6, size=2, endpoint=True).tolist(), dims=(1, 2)) for _ in range(2)
        ]
        return torch.stack([*earlier, image], dim=1), embedding


def _read(path: Path) -> Tensor:
    return torch.from_numpy(np.load(path)).float()


def distil(
    folder: Path,
    out: Path,
    *,
    heads: Path | None,
    image_size: int,
    steps: int,
    batch_size: int = 16,
    minutes: float = 0.0,
    learning_rate: float = 1e-3,
    workers: int = 1,
) -> None:
    """Train the encoder for `steps` batches, or as many as `minutes` allow, and write a checkpoint."""
    device = best_device()
    model = I2VPP(ModelConfig(image_size=image_size))
    start(model, StartConfig(heads=None if heads is None else str(heads)), seed=0)
    data = Embeddings(folder, image_size=image_size, seed=0, length=steps * batch_size)
    channels = data.channels()
    with torch.no_grad():
        model.no_mem_embed.copy_(-channels.offset.flatten())
    config = OptimizerConfig(
        learning_rate=learning_rate, trunk_learning_rate=learning_rate, trunk_layer_decay=1.0, weight_decay=0.05,
        batch_norm="train", clip_norm=1.0, warmup_steps=50,
    )  # fmt: skip
    freeze(model, FROZEN)
    model.to(device)
    optimizer = build_optimizer(model, config)
    done = 0
    if out.exists():
        progress = read_checkpoint(out)["distillation"]
        load_checkpoint(model, out)
        optimizer.load_state_dict(progress["optimizer"])
        done = int(progress["step"])
    loader = DataLoader(
        data,
        batch_size=batch_size,
        sampler=range(done * batch_size, steps * batch_size),
        num_workers=workers,
        worker_init_fn=Interrupts.outlive,
    )

    def save(step: int) -> None:
        state = {"step": step, "optimizer": optimizer.state_dict()}
        save_checkpoint(model, out, image_size=image_size, extra={"distillation": state})

    begun, clock = time.monotonic(), SaveClock(5)
    with Interrupts() as interrupts, tqdm(total=steps, initial=done, unit="step", desc="distilling") as bar:
        for clips, target in _moved(loader, device):
            set_rates(optimizer, done, steps, config)
            train_mode(model, config)
            with torch.autocast(device.type, dtype=torch.bfloat16):
                embedding = model.encode(clips).embedding
            loss = distance(embedding.float(), target, channels)
            loss.backward()
            norm = clip_gradients(trainable(model), config.clip_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            done += 1
            bar.update()
            bar.set_postfix_str(f"loss {loss.item():.4f}, norm {norm.item():.2f}", refresh=False)
            if interrupts.requested or (minutes and time.monotonic() - begun > 60 * minutes):
                break
            if clock.due():
                save(done)
                clock.reset()
        if done == steps:
            with torch.no_grad():
                clips = torch.stack([data[k][0] for k in range(MATCHED)]).to(device)
                begin_as_matching(model, model.eval().encode(clips).embedding)
    save(done)


def distance(embedding: Tensor, target: Tensor, channels: Channels) -> Tensor:
    """Mean squared error [scalar] in units of each channel's spread; 1 is what the mean of each channel would give."""
    offset, scale = channels.offset.to(embedding.device), channels.scale.to(embedding.device)
    return ((embedding - target - offset) / scale).square().mean()


def _moved(loader: DataLoader[tuple[Tensor, Tensor]], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    for clips, target in loader:
        yield clips.to(device, non_blocking=True), target.to(device, non_blocking=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m training.distillation.student", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--embeddings", type=Path, required=True, help="folder that the teacher wrote")
    parser.add_argument("--heads", type=Path, help="the teacher's prompt encoder and mask decoder, under our names")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint to write, or to go on from")
    parser.add_argument("--image-size", type=int, default=256, help="side of the student's input (default 256)")
    parser.add_argument("--steps", type=int, default=2000, help="batches, over which the rate falls (default 2000)")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument(
        "--minutes", type=float, default=0.0, help="stop after this long, to be resumed (default: no limit)"
    )
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--workers", type=int, default=1, help="loader processes (default 1)")
    options = parser.parse_args(arguments)
    try:
        distil(
            options.embeddings,
            options.out,
            heads=options.heads,
            image_size=options.image_size,
            steps=options.steps,
            batch_size=options.batch_size,
            minutes=options.minutes,
            learning_rate=options.learning_rate,
            workers=options.workers,
        )
    except I2VPPError as error:
        parser.exit(1, f"error: {error}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
