"""Turn a drawn clip into what the network is trained on: augmentation and resizing to a square.

The masks are further channels of the frames, so that one draw moves both alike. They are interpolated like the frames
and thresholded at one half in the end, as the predictor does it with mask prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from i2vpp.session.frames import MEAN
from training.config import AugmentConfig
from training.dataset.clips import Clip

MIN_PIXELS = 10
"""An object with fewer pixels on the first frame counts as not visible."""

TRIES = 4
"""Rotations, shears and zooms that are drawn for a clip until its objects stay in the picture."""

_MAY_LEAVE = 4  # one of so many objects may leave the picture; of dozens (SA-1B), some always do

_LOOK_SIZE = 128  # short side in pixels of the masks on which a draw is tried

_AffineDraw: TypeAlias = tuple[float, Sequence[float], float, Sequence[float]]  # angle, translation, zoom, shear


def transform_clip(clip: Clip, augment: AugmentConfig, image_size: int) -> Clip:
    """Return a clip with frames uint8 [T, 3, S, S], masks [B, T, S, S] and ignored pixels [T, S, S].

    Colours are changed in float32 and rounded once, at the end; frames whose colours are not changed stay as they are.
    Frames are resized bilinearly with antialias. The predictor's filter is Pillow's bicubic one: bilinear is faster and
    closer to what clips look like after augmentation. All draws depend on `clip.seed` alone. Some objects may be left
    with no pixel on the first frame: those too small for S, and up to a quarter of them where the affine map moved them
    out of the picture; it moves none out of clips of fewer than four.

    Args:
        clip: clip of any size.
        augment: the random changes.
        image_size: S.
    """
    generator = torch.default_generator  # torchvision draws from it; `torch.manual_seed` would seed CUDA as well
    with torch.random.fork_rng(devices=[]):
        generator.manual_seed(clip.seed)
        channels = clip.masks if clip.ignored is None else torch.cat([clip.masks, clip.ignored[None]])
        stacked = torch.cat([clip.frames, channels.transpose(0, 1).to(torch.uint8) * 255], dim=1)  # [T, 3 + N, H, W]
        stacked = _move(stacked, augment, image_size, num_objects=len(clip.masks))
        stacked = F.resize(stacked, [image_size, image_size], antialias=True)
        frames = (255 * _recolour(stacked[:, :3].float() / 255, augment)).round().to(torch.uint8)
    masks = stacked[:, 3:].transpose(0, 1) >= 128
    ignored = None
    if clip.ignored is not None:
        masks, ignored = masks[:-1], masks[-1] & ~masks[:-1].any(0)
    return replace(clip, frames=frames, masks=masks, ignored=ignored)


def _move(stacked: Tensor, augment: AugmentConfig, image_size: int, *, num_objects: int) -> Tensor:
    """Return frames, masks of the objects and what else there is [T, N, h, w], flipped and moved by one affine map.

    The map acts before the aspect ratio is lost, so that a rotation is one, but after the short side was reduced to S,
    which makes it several times cheaper for large videos and lets the antialiased resize do the reduction.
    """
    stacked = v2.RandomHorizontalFlip(augment.flip)(stacked)
    if not (augment.degrees or augment.shear or list(augment.scale) != [1.0, 1.0]):
        return stacked
    if min(stacked.shape[-2:]) > image_size:
        stacked = F.resize(stacked, [image_size], antialias=True)
    height, width = stacked.shape[-2:]
    ranges = ([-augment.degrees, augment.degrees], None, list(augment.scale), [-augment.shear, augment.shear])
    for _ in range(TRIES):
        draw: _AffineDraw = v2.RandomAffine.get_params(*ranges, [width, height])
        if _keeps_objects(stacked[0, 3 : 3 + num_objects], draw):
            fill = [255 * mean for mean in MEAN] + [0.0] * (stacked.shape[1] - 3)
            return _affine(stacked, draw, fill)
    return stacked


def _affine(stacked: Tensor, draw: _AffineDraw, fill: list[float]) -> Tensor:
    angle, translation, zoom, shear = draw
    bilinear = v2.InterpolationMode.BILINEAR
    moved: Tensor = F.affine(stacked, angle, list(translation), zoom, list(shear), interpolation=bilinear, fill=fill)
    return moved


def _keeps_objects(masks: Tensor, draw: _AffineDraw) -> bool:
    """Whether the objects of a first frame, uint8 [B, h, w], stay in the picture, but for a few of many."""
    area = masks.shape[-2] * masks.shape[-1]
    if min(masks.shape[-2:]) > _LOOK_SIZE:  # much cheaper with dozens of objects; antialiasing keeps areas
        masks = F.resize(masks, [_LOOK_SIZE], antialias=True)
    moved = _affine(masks, draw, [0.0] * len(masks))
    scale = area / (255 * masks.shape[-2] * masks.shape[-1])
    before, after = (scale * coverage.sum((1, 2), dtype=torch.float64) for coverage in (masks, moved))
    lost = (before >= MIN_PIXELS) & (after < MIN_PIXELS)
    return int(lost.sum()) <= len(masks) // _MAY_LEAVE


def _recolour(frames: Tensor, augment: AugmentConfig) -> Tensor:
    """Return frames in [0, 1], [T, 3, S, S], changed all alike and then each for itself."""
    frames = v2.Compose([v2.ColorJitter(*augment.color), v2.RandomGrayscale(augment.gray)])(frames)
    jitter = v2.ColorJitter(*augment.frame_color)
    return torch.stack([jitter(frame) for frame in frames])
