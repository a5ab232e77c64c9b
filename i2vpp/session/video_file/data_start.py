"""Where the packets begin in a file that stores them without gaps, by the structure of what precedes them."""

from __future__ import annotations

import re
from typing import BinaryIO

EBML, SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
PRECEDING = frozenset(
    bytes.fromhex(code)
    for code in ("114d9b74", "1549a966", "1654ae6b", "1c53bb6b", "1043a770", "1254c367", "1941a469", "ec", "bf")
)
"""Elements of a Matroska segment that may precede its clusters: lists, information, tracks, chapters, padding."""

INDEX = b"\x1c\x53\xbb\x6b"
INDEX_PLACE = re.compile(rb"\x53\xab\x84" + INDEX + rb"\x53\xac([\x81-\x88])", re.DOTALL)
"""The entry of a list of elements that tells where the index is, up to the length of its position."""

FIRST_TIME = re.compile(rb"\xbb[^\0]\xb3([\x81-\x88])", re.DOTALL)
"""The beginning of the first entry of an index, up to the length of its time."""

LONGEST_HEADER = 12  # of an element, or of a list of an AVI file
CHUNK_HEADER = 8
LONGEST_ENTRY = 64
MOST_ELEMENTS = 1000


def matroska_start(file: BinaryIO) -> int | None:
    """Return the position of the first cluster of a Matroska file; of what stands in its place if that is damaged.

    None if the file does not begin as the format demands.
    """
    segment, start = _matroska(file)
    return None if segment is None else start


def first_matroska_time(file: BinaryIO) -> int:
    """Return the time of the first keyframe in the index of a Matroska file; 0 if it has no index."""
    segment, start = _matroska(file)
    file.seek(0)
    place = INDEX_PLACE.search(head := file.read(start))
    if segment is None or place is None:
        return 0
    file.seek(segment + _number(head, place))
    index = file.read(LONGEST_ENTRY)
    entry = FIRST_TIME.search(index) if index.startswith(INDEX) else None
    return 0 if entry is None else _number(index, entry)


def _number(data: bytes, length: re.Match[bytes]) -> int:
    """Return the number that follows its length."""
    return int.from_bytes(data[length.end() : length.end() + length[1][0] % 16], "big")


def _matroska(file: BinaryIO) -> tuple[int | None, int]:
    """Return where the contents of a Matroska file begin, or None, and where the first cluster should."""
    at, segment = 0, None
    for _ in range(MOST_ELEMENTS):
        head = _read(file, at)
        code = head[: _length(head)]
        size_at = len(code)
        size_length = _length(head[size_at:])
        size = int.from_bytes(head[size_at : size_at + size_length], "big") & (1 << 7 * size_length) - 1
        body = at + size_at + size_length
        if code == SEGMENT:
            at = segment = body
        elif code == EBML if segment is None else code in PRECEDING:
            at = body + size
        else:
            break
    return segment, at


def avi_start(file: BinaryIO) -> int | None:
    """Return the position of the first chunk of data in an AVI file; None if the file does not begin as it should."""
    head = _read(file, 0)
    if head[:4] != b"RIFF" or head[8:] != b"AVI ":
        return None
    at, is_within = LONGEST_HEADER, False
    for _ in range(MOST_ELEMENTS):
        head = _read(file, at)
        code, size = head[:4], int.from_bytes(head[4:8], "little")
        if code == b"LIST" and head[8:] in (b"movi", b"rec "):
            at, is_within = at + LONGEST_HEADER, True
        elif (code == b"JUNK" or code[:2] == b"ix") if is_within else code.isalnum():
            at += CHUNK_HEADER + size + size % 2
        else:
            break
    return at if is_within else at + LONGEST_HEADER  # the header of the list of chunks is damaged


def is_chunk(file: BinaryIO, at: int, size: int) -> bool:
    """Whether a chunk of data of a size begins at a position of an AVI file."""
    head = _read(file, at) if at >= 0 else b""
    return head[:2].isdigit() and head[2:4].isalpha() and head[4:8] == size.to_bytes(4, "little")


def _read(file: BinaryIO, at: int) -> bytes:
    file.seek(at)
    return file.read(LONGEST_HEADER)


def _length(head: bytes) -> int:
    """Return the number of bytes of an EBML number, which its first byte tells; 0 if there is none."""
    return 9 - head[0].bit_length() if head and head[0] else 0
