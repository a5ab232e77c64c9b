"""What is measured: one combination, and what all combinations of a run have in common."""

from __future__ import annotations

from dataclasses import dataclass

from i2vpp.errors import I2VPPError

FULL_MEMORY = 14
"""With so many tracked frames behind it, a frame reads full memory: 1 prompted and 6 selected tracked frames."""

MATMUL_SIDES = (1024, 2048, 4096, 8192)


class BenchmarkError(I2VPPError, ValueError):
    """Something that was asked for cannot be measured, or a file of results does not fit."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One combination.

    Args:
        config: name or path of a model config.
        device: as PyTorch calls it.
        dtype: name of a dtype; None for the predictor's choice.
        objects: how many objects are tracked.
        image_size: side of the network's input; None for the config's.
    """

    config: str
    device: str
    dtype: str | None
    objects: int
    image_size: int | None = None

    def __str__(self) -> str:
        size = "" if self.image_size is None else f"{self.image_size} px"
        return " ".join(filter(None, [self.config, size, self.dtype, self.device, f"{self.objects} obj"]))

    def overrides(self, settings: Settings) -> list[str]:
        """Overrides of the config, the run's and the case's own."""
        size = [] if self.image_size is None else [f"model.image_size={self.image_size}"]
        return [*settings.overrides, *size]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What all combinations have in common.

    Args:
        overrides: of config values, `key=value` each.
        width: of the video in pixels.
        height: of the video in pixels.
        decoded: track decoded frames, not a file.
        history: tracked frames in memory before the first one that is run.
        warmup: frames that are tracked and not measured.
        frames: frames that are measured, once as a whole and once (other ones) part by part.
        first_masks: how often the time to the first mask is measured for each kind of prompt; 0 for never.
        first_mask_video: file on which that is measured; None for the synthetic video.
        threads: of PyTorch on the CPU; None for its choice.
        compiled: build the predictor with `vos_optimized`.
        video_lengths: frame counts at which a live session is looked at, in growing order; where there are any, live
            sessions are measured instead of tracked frames.
        matmul_sides: of the matrix products whose best rate is the machine's, in growing order.
    """

    overrides: tuple[str, ...] = ()
    width: int = 1280
    height: int = 720
    decoded: bool = False
    history: int = FULL_MEMORY
    warmup: int = 2
    frames: int = 5
    first_masks: int = 3
    first_mask_video: str | None = None
    threads: int | None = None
    compiled: bool = False
    video_lengths: tuple[int, ...] = ()
    matmul_sides: tuple[int, ...] = MATMUL_SIDES

    @property
    def first_tracked(self) -> int:
        """Index of the first frame that is run: frame 0 is prompted, `history` frames are filled in."""
        return self.history + 1

    @property
    def num_frames(self) -> int:
        """Length of the video; the last two frames are those whose FLOPs and bytes are counted."""
        return self.first_tracked + self.warmup + 2 * self.frames + 2
