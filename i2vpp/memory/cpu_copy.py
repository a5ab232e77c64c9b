"""Copies from the device to the CPU that nobody waits for until they are needed."""

from __future__ import annotations

import torch
from torch import Tensor


class CpuCopy:
    """A tensor's copy on the CPU, on its way: a CUDA device goes on meanwhile, from others it is there at once.

    Args:
        tensor: its storage may be written to as soon as this returns.
    """

    def __init__(self, tensor: Tensor) -> None:
        kind = tensor.device.type
        self._copy = tensor.to("cpu", copy=True, non_blocking=kind in ("cpu", "cuda"))  # page-locked if from CUDA
        self._event: torch.cuda.Event | None = None
        if kind == "cuda":
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(tensor.device))

    def arrived(self) -> Tensor | None:
        """Return the copy if it is there; never waits."""
        return self._copy if self._event is None or self._event.query() else None

    def wait(self) -> Tensor:
        """Return the copy; on CUDA the one place that waits for the device."""
        if self._event is not None:
            self._event.synchronize()
        return self._copy
