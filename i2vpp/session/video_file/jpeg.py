"""Zeros within JPEG pictures that no encoder writes."""

from __future__ import annotations

from collections.abc import Iterator

ZEROS = bytes(96)
START, HUFFMAN, SCAN, END = b"\xff\xd8", 0xC4, 0xDA, b"\xff\xd9"
WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xDA)})
IS_AC = 1
STANDARD_FIRST = 0x01
"""The symbol whose code is all zeros in the standard table for luma, which is used where a file leaves tables out."""


def has_zeros(data: bytes) -> bool:
    """Whether a packet of motion JPEG holds zeros that no encoder writes.

    A run of zero bits repeats the symbol whose code is all zeros. If that stands for a coefficient, so many zeros make
    a block whose 63 coefficients are all equal, and no picture has one. If it stands for the end of a block, as it may
    where tables are made for the picture, zeros are an even area, and cannot be told from a hole.
    """
    if ZEROS not in data:
        return False
    return any(ZEROS in scan and any(symbol & 15 for symbol in first) for first, scan in _scans(data))


def _scans(data: bytes) -> Iterator[tuple[list[int], bytes]]:
    """Yield, for each scan, the AC symbols whose codes are all zeros, and its data."""
    tables: dict[int, int] = {}
    at = 0
    while at + 4 <= len(data):
        if data[at] != START[0]:
            at = data.find(START[:1], at)
            if at < 0:
                return
            continue
        marker = data[at + 1]
        if marker in WITHOUT_LENGTH or marker == START[0]:
            at += 1 if marker == START[0] else 2
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        segment = data[at + 4 : end]
        if marker == HUFFMAN:
            tables.update(_first_symbols(segment))
        at = end
        if marker == SCAN and segment:
            used = [segment[2 + 2 * i] & 15 for i in range(segment[0]) if 2 + 2 * i < len(segment)]
            stop = data.find(END, at)
            at = stop if stop >= 0 else len(data)
            yield [tables.get(table, STANDARD_FIRST) for table in used], data[end:at]


def _first_symbols(segment: bytes) -> dict[int, int]:
    """Return the first symbols of the AC tables in a segment, by their numbers."""
    found, at = {}, 0
    while at + 17 < len(segment):
        length = sum(segment[at + 1 : at + 17])
        if segment[at] >> 4 == IS_AC and length:
            found[segment[at] & 15] = segment[at + 17]
        at += 17 + length
    return found
