"""Configuration: dataclasses that are the schema and hold the published values; YAML and overrides say what differs."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class SelectionConfig:
    """Which tracked frames are read as memory (prompted frames always are).

    Args:
        mode: `sample` draws frames by similarity (published), `top` takes the most similar, `recent` the latest ones.
        num_global: frames from the global window.
        num_local: frames from the local window.
        global_window: length in frames of the window behind the local one.
        local_window: length in frames of the window behind the current frame.
        seed: of the draws in mode `sample`.
    """

    mode: str = "sample"
    num_global: int = 4
    num_local: int = 2
    global_window: int = 200
    local_window: int = 10
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network and how it is used.

    Args:
        image_size: side in pixels of the square network input, a multiple of 16.
        fill_hole_area: background holes of at most this many low-resolution pixels are filled; 0 switches it off.
        dynamic_multimask_via_stability: replace an unstable single mask by the best of three.
        binarize_mask_from_pts_for_mem_enc: remember masks of prompted frames as 0/1.
        selection: which frames are read as memory.
    """

    image_size: int = 1024
    fill_hole_area: int = 8
    dynamic_multimask_via_stability: bool = True
    binarize_mask_from_pts_for_mem_enc: bool = True
    selection: SelectionConfig = field(default_factory=SelectionConfig)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Root of a model config file."""

    model: ModelConfig = field(default_factory=ModelConfig)
