"""How long a job takes and how much memory."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from i2vpp.utils.machine import device_name, peak_memory
from test_pvs.run_store import JobRecord


class Meter:
    """Measures one job; made just before its first frame is read.

    Args:
        device: where the network runs.
        on_frame: is called on each frame; see `test_pvs.run_store.DoJob`.
    """

    def __init__(self, device: torch.device, on_frame: Callable[[], None]) -> None:
        self._device, self._on_frame = device, on_frame
        self._frames = 0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self._begin = time.perf_counter()

    def frame(self) -> None:
        """Count a frame that was tracked."""
        self._frames += 1
        self._on_frame()

    def record(self, note: str = "") -> JobRecord:
        """Return what was measured up to now."""
        return JobRecord(
            frames=self._frames,
            seconds=time.perf_counter() - self._begin,
            peak_memory=peak_memory(self._device) or 0,
            device=device_name(self._device),
            note=note,
        )
