"""Which fragments of a fragmented MP4 file are missing, by the numbers that its writer gave to them."""

from __future__ import annotations

import os
from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise
from typing import BinaryIO

HEADER_BYTES = 16  # of a box whose size takes 64 bits
FRAGMENT_BYTES = 24  # from the start of a fragment to the end of its number
LARGE = 1  # in place of a size: it follows in 64 bits
MOST_SKIPS = 0.5
"""Largest share of fragments before which numbers are left out. If there are more, and more than one, several files
share the numbers, as those of video and sound in a broadcast."""


@dataclass(frozen=True, kw_only=True)
class Fragments:
    """What the fragments of a file tell.

    Args:
        resumed: positions of those right before which others are missing, in order.
        is_ragged: what follows the last one is no whole fragment, so the rest of the file cannot be read.
    """

    resumed: tuple[int, ...] = ()
    is_ragged: bool = False

    def miss_between(self, before: int | None, position: int | None) -> bool:
        """Tell whether fragments are missing between two packets, by their positions in the file; False for None."""
        if before is None or position is None:
            return False
        return bisect_right(self.resumed, before) < bisect_right(self.resumed, position)


def read_fragments(file: BinaryIO, *, follow_packets: bool) -> Fragments:
    """Follow the boxes of an MP4 file; of one without fragments nothing is told.

    Args:
        file: the open file; its position is changed.
        follow_packets: the header tells of packets itself, and the first fragment, number 0 or 1, follows these. If
            not, the file may be a later part of a broadcast.
    """
    length, at = file.seek(0, os.SEEK_END), 0
    numbers = [(0, 0)] if follow_packets else []  # position and number of each fragment
    while at < length:
        file.seek(at)
        head = file.read(FRAGMENT_BYTES)
        size = int.from_bytes(head[:4], "big")
        if size == LARGE:
            size = int.from_bytes(head[8:HEADER_BYTES], "big")
        if head[4:8] == b"moof" and head[12:16] == b"mfhd":
            numbers.append((at, int.from_bytes(head[20:], "big")))
        if size == 0 and head[4:8] == b"mdat":
            size = length - at  # the last box may leave its size open
        if size < 8:
            break
        at += size
    resumed = tuple(place for (_, before), (place, number) in pairwise(numbers) if number > before + 1)
    if len(resumed) > max(1, MOST_SKIPS * (len(numbers) - 1)):
        resumed = ()
    return Fragments(resumed=resumed, is_ragged=len(numbers) > follow_packets and at != length)
