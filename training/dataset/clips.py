"""The values that flow from files to the training loop.

Legend, used in every file of `training`: C clips, T frames of a clip, B objects (of all clips of a batch),
H, W size of a frame, S side of the network's square input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class AnnotatedVideo(Protocol):
    """A video, or a still image as a video of one frame, of which some frames are annotated; read frame by frame.

    Frames are counted over the *annotated* ones: 0 to `len(video) - 1`.
    """

    @property
    def name(self) -> str:
        """Name of the video, for messages."""

    def __len__(self) -> int:
        """Count the annotated frames."""

    def image(self, t: int) -> NDArray[np.uint8]:
        """Read a frame as RGB [H, W, 3]."""

    def masks(self, t: int) -> Mapping[int, NDArray[np.bool_]]:
        """Read the masks [H, W] of the objects that are present on a frame, by object id."""


@runtime_checkable
class Incomplete(Protocol):
    """Masks or a video that can be used although some of its annotations are broken and were left out."""

    @property
    def problems(self) -> Sequence[str]:
        """What is wrong with each annotation that was left out of what has been read so far; names the file."""


def problems_of(what: object) -> tuple[str, ...]:
    """Describe the annotations that were left out of masks or of a video; none where nothing can be left out."""
    return tuple(what.problems) if isinstance(what, Incomplete) else ()


class PartialMasks(dict[int, NDArray[np.bool_]]):
    """The masks [H, W] on a frame of which some pixels are not labelled.

    Args:
        masks: masks [H, W] by object id.
        ignored: bool [H, W], the pixels without a label (255 in the mask file); None: there are none.
    """

    def __init__(self, masks: Mapping[int, NDArray[np.bool_]], ignored: NDArray[np.bool_] | None) -> None:
        super().__init__(masks)
        self.ignored = ignored


def ignored_pixels(masks: object) -> NDArray[np.bool_] | None:
    """Return the pixels [H, W] that masks of a frame leave open; None where all are labelled."""
    return masks.ignored if isinstance(masks, PartialMasks) else None


class Source(Protocol):
    """A dataset on disk: its videos are listed without being opened.

    Reading raises `i2vpp.errors.DataError` for whatever is wrong with one item: such an item is skipped and
    counted in a run, and listed by the validator.
    """

    @property
    def name(self) -> str:
        """Name of the dataset, for messages."""

    def __len__(self) -> int:
        """Count the videos."""

    def __getitem__(self, index: int) -> AnnotatedVideo:
        """Open a video."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Clip:
    """Frames drawn from one video, before batching.

    Args:
        name: name of the video, for messages and pictures.
        frames: uint8 [T, 3, H, W] RGB.
        masks: bool [B, T, H, W] of the drawn objects.
        ignored: bool [T, H, W], pixels that are not labelled; None: all are.
        seed: seed of everything that is still to be drawn for this clip (augmentation, simulated user).
        problems: broken annotations that were left out, see `problems_of`.
    """

    name: str
    frames: Tensor
    masks: Tensor
    seed: int
    ignored: Tensor | None = None
    problems: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.frames.ndim != 4 or self.masks.ndim != 4 or self.frames.shape[2:] != self.masks.shape[2:]:
            raise ValueError(f"Clip: frames {tuple(self.frames.shape)} and masks {tuple(self.masks.shape)} do not fit")
        if self.frames.shape[0] != self.masks.shape[1]:
            raise ValueError(f"Clip: {self.frames.shape[0]} frames, but masks of {self.masks.shape[1]}")


@dataclass(frozen=True, kw_only=True, eq=False)
class ClipBatch:
    """Clips of equal length, as the rollout plays them.

    Args:
        names: names of the C videos.
        frames: uint8 [C, T, 3, S, S] RGB; they are normalised on the device, see `ClipRollout.encode`.
        masks: bool [B, T, S, S] of the objects of all clips, clip by clip.
        clip_of_object: index of each object's clip [B], int64, on the CPU or with the frames.
        seeds: seed for each object of the points that the simulated user draws; independent of how clips are batched.
        step_seed: seed of what is drawn once for the whole step, equal on all ranks.
        ignored: bool [B, T, S, S], pixels that are not labelled in the object's clip, and so are left out of the loss
            and never clicked on; None: there are none.
    """

    names: tuple[str, ...]
    frames: Tensor
    masks: Tensor
    clip_of_object: Tensor
    seeds: tuple[int, ...]
    step_seed: int
    ignored: Tensor | None = None

    @property
    def num_frames(self) -> int:
        """T."""
        return self.frames.shape[1]

    @property
    def num_objects(self) -> int:
        """B."""
        return self.masks.shape[0]

    def to(self, device: torch.device, *, non_blocking: bool = False) -> ClipBatch:
        """Return the same batch with its tensors on `device`.

        Args:
            device: where the tensors go.
            non_blocking: do not wait for the copies of page-locked tensors.
        """
        return self.map_tensors(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def map_tensors(self, function: Callable[[Tensor], Tensor]) -> ClipBatch:
        """Return the same batch with the function's result in the place of each of its tensors."""
        return replace(
            self,
            frames=function(self.frames),
            masks=function(self.masks),
            clip_of_object=function(self.clip_of_object),
            ignored=None if self.ignored is None else function(self.ignored),
        )
