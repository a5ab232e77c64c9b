"""Give a trained network another image trunk, and keep what its other parts have learnt.

    python -m training.replace_trunk i2vpp-demo --trunk outputs/photos/checkpoint.pt --images data/ecssd/images \
        --videos data/davis16/JPEGImages/480p --include training/txt/train.txt -o outputs/replaced.pt

Memory, decoder and prompt encoder know the features that the network's own encoder gives. After the exchange, the
temporal feature integrator is fitted to give these features from the new trunk's maps: first its three linear inputs,
by least squares, then all of it, by gradient descent on clips of which nothing but the frames is needed. As errors of
the old trunk that no map of the new one explains are left out, the result can be better than what it was fitted to.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from i2vpp.build_i2vpp import DTYPES
from i2vpp.checkpoint import inspect_checkpoint, load_checkpoint, save_checkpoint
from i2vpp.config import ModelConfig
from i2vpp.data.files import list_folders, list_images, read_items, require_folder
from i2vpp.errors import I2VPPError, NoDataError
from i2vpp.modeling.backbones.temporal_feature_integrator import TemporalFeatureIntegrator
from i2vpp.modeling.i2vpp import I2VPP
from i2vpp.session.frames import normalise
from i2vpp.utils.parser import Parser, integer
from training.utils.disk import writing
from training.utils.network_input import read_frame

EVERY = 9  # frames from the end of one clip of a video to that of the next
MOST_CLIPS = 8  # of a video
RIDGE = 1e-4  # share of each input's energy that is added in the least squares
LEAST_CLIPS = 4
BATCH = 4
WARM_UP = 20  # steps
FINAL_RATIO = 0.01  # learning rate at the end over that at the start


@dataclass(frozen=True, kw_only=True)
class Example:
    """What the integrator gets on a clip, and what it should give.

    Args:
        clip: frames, the current one last [3, 3 (time), H, W], uint8.
        maps: the new trunk's maps of the current frame [C, h, w] for each level, bfloat16.
        target: the features that the other parts know [D, h, w], bfloat16.
    """

    clip: Tensor
    maps: list[Tensor]
    target: Tensor


def find_clips(images: Sequence[Path], videos: Sequence[Path], *, names: frozenset[str] | None = None,
               exclude: frozenset[str] = frozenset()) -> list[list[Path]]:  # fmt: skip
    """List clips of three frames each: photos that stand still, and pieces of videos.

    Args:
        images: folders of photos.
        videos: folders that hold a folder of frames for each video.
        names: of the videos that are used; none: all.
        exclude: names of photos, without suffix, and of videos that are left out.

    Raises:
        NoDataError: these are too few to fit anything.
        DataError: a folder is missing or cannot be read.
    """
    clips = [[path] * 3 for folder in images for name, path in list_images(folder).items() if name not in exclude]
    for folder in videos:
        for name in list_folders(require_folder(folder, "videos")):
            if name in exclude or (names is not None and name not in names):
                continue
            frames = list(list_images(folder / name).values())
            clips += [frames[i - 2 : i + 1] for i in range(2, len(frames), EVERY)][:MOST_CLIPS]
    if len(clips) < LEAST_CLIPS:
        raise NoDataError(
            f"{len(clips)} clips: --images and --videos must name {LEAST_CLIPS} photos or pieces of videos"
        )
    return clips


def replace_trunk(
    model: I2VPP, trunk: nn.Module, clips: Sequence[Sequence[Path]], *, steps: int, learning_rate: float = 8e-4,
    dtype: torch.dtype = torch.float32, seed: int = 0,
) -> float:  # fmt: skip
    """Put an image trunk into a network, and fit the integrator to the features that the network gave before.

    Args:
        model: the network, in evaluation mode, on the CPU; changed in place.
        trunk: the new image trunk, likewise.
        clips: files of three frames each, the current one last. At 512 x 512 pixels, 4 MB of memory are taken for each.
        steps: steps of gradient descent on `BATCH` clips, after the least squares.
        learning_rate: at its highest; it falls along a cosine.
        dtype: of the network's computation.
        seed: of the order of the clips.

    Returns:
        What remains of the variance of the features at the end, on clips that were not fitted to: 0 to 1.

    Raises:
        DataError: a frame cannot be read.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(clips), generator=generator).tolist()
    integrator = model.image_encoder.trunk_video
    moments = [_Moments(linear.in_channels, linear.out_channels) for linear in _linears(integrator)]
    held_out = max(1, len(clips) // 16)
    examples: list[Example] = []
    with torch.inference_mode(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        for k in tqdm(order, desc="features", unit="clip"):
            clip = torch.stack([read_frame(path, model.image_size) for path in clips[k]], dim=1)
            inputs = normalise(clip.float().movedim(1, 0)).movedim(0, 1)[None]
            old = model.image_encoder.trunk_image(inputs[:, :, -1])[-len(moments) :]
            new = trunk(inputs[:, :, -1])[-len(moments) :]
            target = integrator(old, inputs)[0]
            if len(examples) >= held_out:
                for moment, linear, before, after in zip(moments, _linears(integrator), old, new, strict=True):
                    moment.add(after[0].float(), linear(before)[0].float())
            examples.append(Example(clip=clip, maps=[x[0].bfloat16() for x in new], target=target.bfloat16()))
    model.image_encoder.trunk_image.load_state_dict(trunk.state_dict())
    for moment, linear in zip(moments, _linears(integrator), strict=True):
        moment.write(linear)
    spread = _spread([x.target for x in examples])
    _descend(integrator, examples[held_out:], spread, steps, learning_rate, dtype, generator)
    with torch.no_grad():
        return sum(float(_error(integrator, [x], spread, dtype)) for x in examples[:held_out]) / held_out


def _spread(features: Sequence[Tensor]) -> Tensor:
    """Standard deviation of each channel [D, 1, 1] over all cells of features [D, h, w]."""
    means = torch.stack([x.float().mean(dim=(1, 2)) for x in features])
    squares = torch.stack([x.float().square().mean(dim=(1, 2)) for x in features])
    variance = squares.mean(dim=0) - means.mean(dim=0).square()
    return variance.clamp(min=1e-6).sqrt()[:, None, None]


class _Moments:
    """Sums over cells from which a linear layer's weights follow by least squares."""

    def __init__(self, c_in: int, c_out: int) -> None:
        self.inputs = torch.zeros(c_in + 1, c_in + 1, dtype=torch.float64)
        self.products = torch.zeros(c_in + 1, c_out, dtype=torch.float64)

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add maps x [c_in, h, w] and y [c_out, h, w]."""
        rows = F.pad(x.flatten(1).T, (0, 1), value=1.0)
        self.inputs += (rows.T @ rows).double()
        self.products += (rows.T @ y.flatten(1).T).double()

    @torch.no_grad()
    def write(self, linear: nn.Conv2d) -> None:
        """Set the weights and the bias of a 1x1 convolution."""
        weights = torch.linalg.solve(self.inputs + RIDGE * self.inputs.diagonal().diag(), self.products)
        linear.weight.copy_(weights[:-1].T[:, :, None, None])
        assert linear.bias is not None
        linear.bias.copy_(weights[-1])


def _linears(integrator: TemporalFeatureIntegrator) -> list[nn.Conv2d]:
    linears = list(integrator.input_linears)
    assert all(isinstance(linear, nn.Conv2d) for linear in linears)
    return linears  # type: ignore[return-value]


def _descend(
    integrator: TemporalFeatureIntegrator, examples: Sequence[Example], spread: Tensor, steps: int,
    learning_rate: float, dtype: torch.dtype, generator: torch.Generator,
) -> None:  # fmt: skip
    optimizer = torch.optim.AdamW(integrator.parameters(), lr=learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    with torch.enable_grad(), tqdm(range(steps), desc="fitting", unit="step") as bar:
        for _ in bar:
            drawn = torch.randint(len(examples), (BATCH,), generator=generator).tolist()
            error = _error(integrator, [examples[k] for k in drawn], spread, dtype)
            optimizer.zero_grad()
            error.backward()
            nn.utils.clip_grad_norm_(integrator.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            bar.set_postfix_str(f"unexplained {error.item():.3f}", refresh=False)


def _rate(step: int, steps: int) -> float:
    """Share of the highest learning rate at a step: a short rise, then a cosine."""
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))
    return min(1.0, (step + 1) / WARM_UP) * (FINAL_RATIO + (1 - FINAL_RATIO) * cosine)


def _error(
    integrator: TemporalFeatureIntegrator, examples: Sequence[Example], spread: Tensor, dtype: torch.dtype
) -> Tensor:
    """Mean squared error of the features [scalar], in units of the variance of each channel."""
    maps = [torch.stack(level).float() for level in zip(*(x.maps for x in examples), strict=True)]
    clips = torch.stack([x.clip for x in examples]).float().movedim(2, 1)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        features = integrator(maps, normalise(clips).movedim(1, 2))
    target = torch.stack([x.target for x in examples]).float()
    error: Tensor = ((features.float() - target) / spread).square().mean()
    return error


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = Parser(prog="python -m training.replace_trunk", description=__doc__,
                    formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    add = parser.add_argument
    add("checkpoint", help="the network whose other parts stay: path or name")
    add("--trunk", required=True, help="a checkpoint with the new image trunk: path or name")
    add("--images", type=Path, nargs="*", default=[], help="folders of photos")
    add("--videos", type=Path, nargs="*", default=[], help="folders with a folder of frames for each video")
    add("--include", type=Path, help="list of the videos that are used, one name a line (default: all)")
    add("--exclude", type=Path, nargs="*", default=[], help="lists of photos and videos that are left out")
    add("--steps", type=integer(1), default=500, help="steps of gradient descent on 4 clips each (default 500)")
    add("--dtype", choices=["float32", "bfloat16"], default="float32", help="of the computation (default float32)")
    add("-o", "--output", "--out", dest="out", type=Path, required=True, help="checkpoint to write")
    options = parser.parse_args(arguments)
    try:
        size = inspect_checkpoint(options.checkpoint).image_size or ModelConfig().image_size
        model, source = (I2VPP(ModelConfig(image_size=size)).eval() for _ in range(2))
        load_checkpoint(model, options.checkpoint)
        load_checkpoint(source, options.trunk)
        clips = find_clips(
            options.images, options.videos,
            names=None if options.include is None else read_items(options.include),
            exclude=frozenset().union(*map(read_items, options.exclude)),
        )  # fmt: skip
        trunk = source.image_encoder.trunk_image
        left = replace_trunk(model, trunk, clips, steps=options.steps, dtype=DTYPES[options.dtype])
        tqdm.write(f"of the features' variance {100 * left:.1f} % is not explained, on clips that were not fitted to")
        with writing(options.out, "Make room, or write to another disk"):
            save_checkpoint(model, options.out, image_size=size)
    except I2VPPError as error:
        parser.exit(1, f"error: {error}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
