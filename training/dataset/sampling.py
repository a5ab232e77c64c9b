"""Drawing a clip from a video: which frames, in which direction of time, and which objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from i2vpp.errors import DataError
from training.config import ClipConfig
from training.dataset.clips import AnnotatedVideo, Clip, ignored_pixels, problems_of

MAX_LOOKS = 128
"""Frames of a video on which an object to begin with is looked for, at most (SA-V annotates up to 100 of a video)."""


def draw_clip(video: AnnotatedVideo, config: ClipConfig, seed: int) -> Clip:
    """Draw `config.num_frames` frames and up to `config.max_objects` objects that all show on the first of them.

    The stride is made smaller where the video is too short for it; where it has fewer frames than the clip, time turns
    back at its ends. Only the images of drawn frames are read. Of an object that is absent from a frame, the mask is
    empty.

    Args:
        video: video of any length.
        config: how clips are drawn.
        seed: seed of all draws, and of the returned clip.

    Raises:
        DataError: no frame shows an object, frames and masks differ in size, or the video cannot be read.
    """
    rng = np.random.default_rng(seed)
    if not len(video):
        raise DataError(f"{video.name}: no annotated frame")
    stride = int(rng.choice(config.strides))
    backwards = rng.random() < config.reverse

    def frame_at(step: int) -> int:
        t = bounce(step, len(video))
        return len(video) - 1 - t if backwards else t

    stride = fitting_stride(stride, config.num_frames, len(video))
    starts = _starts(rng, len(video), reach=stride * (config.num_frames - 1))
    start, ids = _first_with_object(video, starts, frame_at)
    objects = [ids[i] for i in rng.permutation(len(ids))[: config.max_objects]]
    order = [frame_at(start + i * stride) for i in range(config.num_frames)]
    return _read_clip(video, order, objects, seed)


def bounce(step: int, length: int) -> int:
    """Return the frame, 0 to `length` - 1, that is reached after `step` >= 0 steps which turn back at both ends.

    Args:
        step: number of steps from frame 0 on, at least 0.
        length: frames of the video, at least 1.
    """
    if length == 1:
        return 0
    step %= 2 * (length - 1)
    return min(step, 2 * (length - 1) - step)


def fitting_stride(stride: int, num_frames: int, length: int) -> int:
    """Return the stride, at most `stride` and at least 1, at which a clip fits into a video, if it can at all.

    Args:
        stride: wanted steps between the frames of a clip.
        num_frames: frames of the clip.
        length: frames of the video.
    """
    if num_frames == 1:
        return stride
    return max(1, min(stride, (length - 1) // (num_frames - 1)))


def _starts(rng: np.random.Generator, length: int, reach: int) -> list[int]:
    """Return all starts in the order in which they are tried: those from which the clip fits go first."""
    fitting = max(length - reach, 0)
    return [*rng.permutation(fitting).tolist(), *(fitting + rng.permutation(length - fitting)).tolist()]


def _first_with_object(
    video: AnnotatedVideo, starts: list[int], frame_at: Callable[[int], int]
) -> tuple[int, list[int]]:
    """Return the first of `starts` that shows an object, and the ids of the objects that it shows."""
    for start in starts[:MAX_LOOKS]:
        ids = sorted(video.masks(frame_at(start)))  # only ids are read; no mask is decoded
        if ids:
            return start, ids
    looked = min(len(starts), MAX_LOOKS)
    where = f"any of its {looked} frames" if looked == len(starts) else f"{looked} of its {len(starts)} frames"
    raise DataError(f"{video.name}: no object shows on {where}")


def _read_clip(video: AnnotatedVideo, order: list[int], objects: list[int], seed: int) -> Clip:
    """Read the frames of `order`, each of them once, and the masks of `objects` on them."""
    images: dict[int, NDArray[np.uint8]] = {}
    masks: dict[int, NDArray[np.bool_]] = {}
    ignored: dict[int, NDArray[np.bool_]] = {}
    for t in sorted(set(order)):  # in ascending order, since decoding a video backwards is slow
        images[t] = video.image(t)
        found = video.masks(t)
        masks[t] = _stack(video, t, found, objects, images[t].shape[:2])
        if (open_pixels := ignored_pixels(found)) is not None:
            ignored[t] = open_pixels
    sizes = {image.shape[:2] for image in images.values()}
    if len(sizes) > 1:
        listed = " and ".join(f"{width}x{height}" for height, width in sorted(sizes))
        raise DataError(f"{video.name}: its frames differ in size: {listed}")
    frames = np.stack([images[t].transpose(2, 0, 1) for t in order])
    labelled = np.zeros(sizes.pop(), np.bool_)
    left_open = np.stack([ignored.get(t, labelled) for t in order]) if ignored else None
    return Clip(
        name=video.name,
        frames=torch.from_numpy(frames),
        masks=torch.from_numpy(np.stack([masks[t] for t in order], axis=1)),
        seed=seed,
        ignored=None if left_open is None else torch.from_numpy(left_open),
        problems=problems_of(video),
    )


def _stack(
    video: AnnotatedVideo, t: int, found: Mapping[int, NDArray[np.bool_]], objects: list[int], size: tuple[int, ...]
) -> NDArray[np.bool_]:
    """Return the masks [B, H, W] of those that were found on a frame, empty ones for objects that are absent."""
    stacked = np.zeros((len(objects), *size), np.bool_)
    for position, obj_id in enumerate(objects):
        mask = found.get(obj_id)
        if mask is None:
            continue
        if mask.shape != size:
            raise DataError(
                f"{video.name}: the mask of object {obj_id} on annotated frame {t} is {mask.shape[1]}x{mask.shape[0]}, "
                f"but the frame {size[1]}x{size[0]}"
            )
        stacked[position] = mask
    return stacked
