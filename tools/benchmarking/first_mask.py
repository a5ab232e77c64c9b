"""How long a user waits for the first mask of a video."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarking.cases import Settings
from benchmarking.rates import clock
from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor

PROMPTS = (("mask", "first"), ("click", "first"), ("click", "middle"))
"""What is prompted, and on which frame."""


def num_first_masks(settings: Settings) -> int:
    """Return how often `first_masks` calls `step`: each kind of prompt is given once more than it is measured."""
    return len(PROMPTS) * (settings.first_masks + 1) if settings.first_masks else 0


def first_masks(
    predictor: I2VPPVideoPredictor, settings: Settings, video: Any, step: Callable[[], object] = lambda: None
) -> list[dict[str, Any]]:
    """Prompt one object in a new session, again and again; return medians, one entry for each of the PROMPTS.

    Args:
        predictor: as built; the first attempt of each kind is thrown away.
        settings: `first_masks` attempts are measured.
        video: what `init_state` takes; used where the settings name no file.
        step: called after each attempt.
    """
    if not settings.first_masks:
        return []
    path = settings.first_mask_video
    opened = Path(path) if path is not None else video
    found = []
    for prompt, where in PROMPTS:
        with predictor.init_state(opened) as state:
            frame_idx = 0 if where == "first" else state.num_frames // 2
        attempts = []
        for _ in range(settings.first_masks + 1):
            attempts.append(_attempt(predictor, opened, prompt, frame_idx))
            step()
        middle = {name: median(attempt[name] for attempt in attempts[1:]) for name in attempts[0]}
        found.append({"prompt": prompt, "frame_idx": frame_idx, **middle})
    return found


def _attempt(predictor: I2VPPVideoPredictor, video: Any, prompt: str, frame_idx: int) -> dict[str, float]:
    """Seconds of opening the video, of decoding the frame in a session of its own, and from opening to the mask."""
    now = clock(predictor.device)
    with predictor.init_state(video) as state:
        start = now()
        height, width = state.frame(frame_idx).shape[:2]
        decode_seconds = now() - start
    square = _square(height, width)
    start = now()
    with predictor.init_state(video) as state:
        open_seconds = now() - start
        if prompt == "mask":
            predictor.add_new_mask(state, frame_idx, 1, square)
        else:
            predictor.add_new_points_or_box(state, frame_idx, 1, points=[[width / 2, height / 2]], labels=[1])
        seconds = now() - start
    return {"seconds": seconds, "open_seconds": open_seconds, "decode_seconds": decode_seconds}


def _square(height: int, width: int) -> np.ndarray:
    mask = np.zeros((height, width), dtype=bool)
    mask[height // 3 : 2 * height // 3, width // 3 : 2 * width // 3] = True
    return mask
