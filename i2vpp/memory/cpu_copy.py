"""Copies from the device to the CPU that are waited for only when they are needed."""

from __future__ import annotations

import torch
from torch import Tensor


class CpuCopy:
    """A copy of a tensor on the CPU; copying from a CUDA device does not block, copies from others are ready at once.

    Args:
        tensor: tensor to copy; its storage may be written to as soon as this returns.
    """

    def __init__(self, tensor: Tensor) -> None:
        kind = tensor.device.type
        self._copy = tensor.to("cpu", copy=True, non_blocking=kind in ("cpu", "cuda"))  # page-locked if from CUDA
        self._event: torch.cuda.Event | None = None
        if kind == "cuda":
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(tensor.device))

    def arrived(self) -> Tensor | None:
        """Return the copy if it has arrived, else None; never waits."""
        return self._copy if self._event is None or self._event.query() else None

    def wait(self) -> Tensor:
        """Return the copy; on CUDA the only call that waits for the device."""
        if self._event is not None:
            self._event.synchronize()
        return self._copy
