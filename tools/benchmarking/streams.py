"""What a live session costs as it grows longer: seconds per frame and memory at chosen lengths."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import torch

from benchmarking.cases import Case, Settings
from benchmarking.predictors import build, describe
from benchmarking.rates import clock, resident_memory
from benchmarking.results import percentiles
from benchmarking.videos import disc_masks, make_frames
from i2vpp.utils.machine import peak_memory

DISTINCT = 8
"""Frames that are shown again and again, so that the video itself takes no memory."""

WINDOW = 50
"""Latest frames whose seconds stand for a length."""


def measure_stream(case: Case, settings: Settings, step: Callable[[], object] = lambda: None) -> dict[str, Any]:
    """Run one live session (`init_stream`) over as many frames as the largest of `settings.video_lengths`.

    Args:
        case: the combination.
        settings: of the benchmark.
        step: called after each frame.

    Returns:
        What a member of `streams` in the JSON file holds; docs/benchmark.md lists it.

    Raises:
        I2VPPError: of the library, or what is asked for cannot be measured.
    """
    baseline = resident_memory()
    predictor = build(case, settings)
    now = clock(predictor.device)
    frames = list(make_frames(settings, case.objects, DISTINCT))
    latest: deque[float] = deque(maxlen=WINDOW)
    checkpoints = []
    with predictor.init_stream() as stream:
        for number in range(1, settings.video_lengths[-1] + 1):
            start = now()
            stream.step(frames[(number - 1) % DISTINCT])
            if number == 1:
                for obj_id, mask in enumerate(disc_masks(settings, case.objects), start=1):
                    stream.add_new_mask(obj_id, mask)
            else:
                latest.append(now() - start)
            step()
            if number in settings.video_lengths:
                checkpoints.append({"frames": number, **percentiles(latest), **_memory(predictor.device)})
    return {
        **describe(predictor, case, settings),
        "process_bytes_at_start": baseline,
        "peak_memory_bytes": peak_memory(predictor.device),
        "checkpoints": checkpoints,
    }


def _memory(device: torch.device) -> dict[str, int | None]:
    """Bytes that the process and PyTorch's tensors on the device take now."""
    on_gpu = device.type == "cuda"
    return {
        "resident_bytes": resident_memory(),
        "device_bytes": torch.cuda.memory_allocated(device) if on_gpu else None,
    }
