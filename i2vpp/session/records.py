"""The mask and scores of an object on a frame: complete while the frame is recent, compact and on the CPU later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from i2vpp.memory.cpu_copy import CpuCopy
from i2vpp.structures import MaskPrediction

RECORDS_PER_COPY = 64
COPIES_UNDER_WAY = 8
DRAWN_LOGIT = 10.0
"""Mask logit of pixels that the user drew; all other pixels have its negative."""


@dataclass(frozen=True, kw_only=True)
class DrawnMask:
    """The bounding box of a user's mask at the video's size, with its pixels.

    Args:
        top: first row.
        left: first column.
        mask: bool [h, w].
    """

    top: int
    left: int
    mask: Tensor

    @classmethod
    def of(cls, mask: Tensor) -> DrawnMask:
        """Cut a mask [H, W] with at least one pixel to its bounding box."""
        rows, columns = mask.any(dim=1).nonzero(), mask.any(dim=0).nonzero()
        top, left = int(rows[0]), int(columns[0])
        return cls(top=top, left=left, mask=mask[top : int(rows[-1]) + 1, left : int(columns[-1]) + 1].clone())

    def show(self, logits: Tensor) -> None:
        """Overwrite logits [H, W] with those of this mask."""
        height, width = self.mask.shape
        part = logits.fill_(-DRAWN_LOGIT)[self.top : self.top + height, self.left : self.left + width]
        part.masked_fill_(self.mask.to(logits.device), DRAWN_LOGIT)


@dataclass(frozen=True, kw_only=True)
class FrameRecord:
    """Mask and scores of one object on one frame.

    Args:
        decoded: mask logits [1, 1, 4h, 4w] as decoded, in float16. A compact record keeps these alone; mask and memory
            can be computed from them.
        logits: mask logits as they are returned, holes filled, float32; None for a compact record.
        object_score: [1] logits.
        iou: predicted IoU [1].
        pointer: object pointer [1, D].
        reverse: the frame was tracked towards frame 0.
        drawn: the mask that the frame was prompted with, where it is too small or thin for the logits.
    """

    decoded: Tensor
    logits: Tensor | None
    object_score: Tensor
    iou: Tensor
    pointer: Tensor
    reverse: bool = False
    drawn: DrawnMask | None = None

    def prediction(self, device: torch.device) -> MaskPrediction:
        """Return the record as a prediction on a device."""
        logits, iou = self.decoded.to(device, torch.float32), self.iou.to(device)
        return MaskPrediction(
            logits=logits,
            iou=iou,
            object_score=self.object_score.to(device),
            pointer=self.pointer.to(device),
            candidates=logits,
            candidate_ious=iou[:, None],
        )

    def tensors(self) -> list[Tensor]:
        """Return all tensors of the record."""
        logits = [] if self.logits is None else [self.logits]
        drawn = [] if self.drawn is None else [self.drawn.mask]
        return [self.decoded, *logits, *drawn, self.object_score, self.iou, self.pointer]


@dataclass(frozen=True, kw_only=True)
class _Leaving:
    """Compact records that are being copied to the CPU.

    Args:
        places: where the records are stored until then: the records of an object, and the frame.
        records: the records themselves.
        masks: copy of their `decoded`, concatenated along the batch.
        numbers: copy of their pointers, IoUs and object scores, concatenated along the last axis [n, D + 2].
    """

    places: Sequence[tuple[dict[int, FrameRecord], int]]
    records: Sequence[FrameRecord]
    masks: CpuCopy
    numbers: CpuCopy


class RecordArchive:
    """Makes old records compact, all objects in one step and without waiting for the device.

    A record loses its returned mask at once. The rest stays on the device until its copy on the CPU has arrived.
    """

    def __init__(self) -> None:
        self._leaving: list[_Leaving] = []

    def add(self, places: Sequence[tuple[dict[int, FrameRecord], int]]) -> None:
        """Make records compact; each is given by the records of its object and its frame."""
        places = [(records, f) for records, f in places if records[f].logits is not None]
        for start in range(0, len(places), RECORDS_PER_COPY):
            self._leaving.append(_shrink(places[start : start + RECORDS_PER_COPY]))
            self._settle()
        self._settle()

    def _settle(self) -> None:
        """Replace records by their copies that have arrived; wait only if very many copies are under way."""
        while self._leaving:
            masks, numbers = self._leaving[0].masks.arrived(), self._leaving[0].numbers.arrived()
            if masks is None or numbers is None:
                if len(self._leaving) <= COPIES_UNDER_WAY:
                    return
                masks, numbers = self._leaving[0].masks.wait(), self._leaving[0].numbers.wait()
            leaving = self._leaving.pop(0)
            # Cloned: the page-locked memory is used for the next copies, and a removed object then frees its memory.
            arrived = _compact(
                leaving.records, [x.clone() for x in masks.split(1)], [x.clone() for x in numbers.split(1)]
            )
            for (records, f), old, new in zip(leaving.places, leaving.records, arrived, strict=True):
                if records.get(f) is old:
                    records[f] = new


def _shrink(places: Sequence[tuple[dict[int, FrameRecord], int]]) -> _Leaving:
    """Replace complete records by compact ones, still on their device, and start their copies to the CPU."""
    whole = [records[f] for records, f in places]
    masks = torch.cat([record.decoded for record in whole])
    columns = [
        torch.cat([record.pointer for record in whole]),
        torch.cat([record.iou for record in whole])[:, None],
        torch.cat([record.object_score for record in whole])[:, None],
    ]
    numbers = torch.cat(columns, dim=1)
    small = _compact(whole, masks.split(1), numbers.split(1))
    for (records, f), record in zip(places, small, strict=True):
        records[f] = record
    return _Leaving(places=places, records=small, masks=CpuCopy(masks), numbers=CpuCopy(numbers))


def _compact(of: Sequence[FrameRecord], masks: Sequence[Tensor], numbers: Sequence[Tensor]) -> list[FrameRecord]:
    """Return compact records of masks [1, 1, 4h, 4w] and rows [1, D + 2] of pointer, IoU and object score."""
    return [
        FrameRecord(
            decoded=mask,
            logits=None,
            pointer=row[:, :-2],
            iou=row[:, -2],
            object_score=row[:, -1],
            reverse=record.reverse,
        )
        for record, mask, row in zip(of, masks, numbers, strict=True)
    ]
