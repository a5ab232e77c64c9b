"""Where the packets begin in a file that stores them without gaps, by the structure of what precedes them."""

from __future__ import annotations

from typing import BinaryIO

EBML, SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
PRECEDING = frozenset(
    bytes.fromhex(code)
    for code in ("114d9b74", "1549a966", "1654ae6b", "1c53bb6b", "1043a770", "1254c367", "1941a469", "ec", "bf")
)
"""Elements of a Matroska segment that may precede its clusters: lists, information, tracks, chapters, padding."""

LONGEST_HEADER = 12  # of an element, or of a list of an AVI file
CHUNK_HEADER = 8
MOST_ELEMENTS = 1000


def matroska_start(file: BinaryIO) -> int | None:
    """Return the position of the first cluster of a Matroska file; of what stands in its place if that is damaged.

    None if the file does not begin as the format demands.
    """
    at, is_within = 0, False
    for _ in range(MOST_ELEMENTS):
        head = _read(file, at)
        code = head[: _length(head)]
        size_at = len(code)
        size_length = _length(head[size_at:])
        size = int.from_bytes(head[size_at : size_at + size_length], "big") & (1 << 7 * size_length) - 1
        body = at + size_at + size_length
        if code == SEGMENT:
            at, is_within = body, True
        elif code in PRECEDING if is_within else code == EBML:
            at = body + size
        else:
            break
    return at if is_within else None


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
