"""The store of one object's memories; a selector decides which of them are read."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from i2vpp.memory.selection import Selection
from i2vpp.structures import FrameMemory, MemoryFrame, MemoryPointer, SelectedMemory


class MemoryBank:
    """Memories of one object by frame: conditioning frames stay, non-conditioning frames may be evicted.

    An evicted frame can still be selected; its memory is then rebuilt by a function that the caller passes. A memory
    shares storage with the output that it was made from, such as the pointer of a record; so its tensors are
    never written to.

    Args:
        device: device on which memories are kept; default: the device on which they are made.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device
        self.conditioning: dict[int, FrameMemory] = {}
        self._non_conditioning: dict[int, FrameMemory] = {}
        self._evicted: set[int] = set()

    def __contains__(self, frame_idx: object) -> bool:
        """Whether it is a non-conditioning frame with a memory, held or evicted."""
        return frame_idx in self._non_conditioning or frame_idx in self._evicted

    def __len__(self) -> int:
        return len(self.conditioning) + len(self._non_conditioning)

    def put(self, frame_idx: int, memory: FrameMemory, *, conditioning: bool) -> None:
        """Keep a memory; it replaces the earlier memory of the frame.

        Args:
            frame_idx: the frame.
            memory: its memory, B = 1.
            conditioning: it is a conditioning frame.
        """
        self.drop(frame_idx)
        store = self.conditioning if conditioning else self._non_conditioning
        store[frame_idx] = memory if self.device is None else memory.to(self.device)

    def tensors(self) -> list[Tensor]:
        """Return all tensors that are held."""
        memories = [*self.conditioning.values(), *self._non_conditioning.values()]
        return [x for memory in memories for x in (memory.values, memory.foreground, memory.pointer)]

    def drop(self, frame_idx: int) -> None:
        """Remove the memory of a frame."""
        self.conditioning.pop(frame_idx, None)
        self._non_conditioning.pop(frame_idx, None)
        self._evicted.discard(frame_idx)

    def evict(self, frame_idx: int, window: int) -> list[int]:
        """Drop the non-conditioning memories that are far from a frame.

        Args:
            frame_idx: the frame.
            window: distance in frames up to which memories stay.

        Returns:
            The frames whose memories were dropped.
        """
        far = [f for f in self._non_conditioning if abs(f - frame_idx) > window]
        for f in far:
            del self._non_conditioning[f]
        self._evicted.update(far)
        return far

    def fetch(self, selection: Selection, rebuild: Callable[[int], FrameMemory]) -> SelectedMemory:
        """Fetch the selected memories.

        Args:
            selection: conditioning and non-conditioning frames of the bank.
            rebuild: called with the index of an evicted frame; returns its memory.

        Returns:
            The memories with their slots, offsets and weights.
        """

        def memory_of(frame_idx: int) -> FrameMemory:
            memory = self.conditioning.get(frame_idx) or self._non_conditioning.get(frame_idx)
            if memory is None:
                memory = rebuild(frame_idx)
                self.put(frame_idx, memory, conditioning=False)
            return memory

        return SelectedMemory(
            spatial=tuple(
                MemoryFrame(memory=memory_of(p.frame_idx), slot=p.slot, weight=p.weight) for p in selection.spatial
            ),
            pointers=tuple(
                MemoryPointer(pointer=memory_of(p.frame_idx).pointer, offset=p.offset, weight=p.weight)
                for p in selection.pointers
            ),
        )
