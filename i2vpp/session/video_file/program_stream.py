"""The packets of an MPEG program stream, at its end."""

from __future__ import annotations

TAIL_BYTES = 2**18
"""Bytes at the end of a file that are looked at; a packet has at most 2**16."""

PACK, LAST = 0xBA, 0xB9
PACK_START = b"\0\0\1\xba"
PREFIX = PACK_START[:3]


def ends_within_packet(tail: bytes) -> bool:
    """Whether a file ends before its last packet does.

    Args:
        tail: the last bytes of the file.
    """
    at = tail.find(PACK_START)
    while 0 <= at < len(tail):
        if tail[at : at + 3] != PREFIX[: len(tail) - at]:
            at = tail.find(PACK_START, at)  # padding, or damage
            continue
        length = _length(tail[at : at + 14])
        if length is None or at + length > len(tail):
            return True
        at += length
    return False


def _length(head: bytes) -> int | None:
    """Return the number of bytes of a packet, by its first ones; None if these are not all there."""
    if len(head) > 3 and head[3] == LAST:
        return 4
    if len(head) > 4 and head[3] == PACK:
        if head[4] >> 6 != 1:
            return 12  # MPEG-1
        return 14 + head[13] % 8 if len(head) == 14 else None
    return 6 + int.from_bytes(head[4:6], "big") if len(head) >= 6 else None
