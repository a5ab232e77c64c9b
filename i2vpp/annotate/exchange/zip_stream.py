"""A folder as a zip, made while it is sent: nothing is kept but the piece on its way, and no file is written."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

PIECE = 1 << 16  # bytes read at a time
PACKED_SUFFIXES = (".png", ".mp4", ".jpg")  # of files that would not get smaller


class _Pieces(io.RawIOBase):
    """What `zipfile` writes to: keeps what was written until it is taken; it cannot seek."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self._parts.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        """Return what was written since the last call."""
        taken = b"".join(self._parts)
        self._parts.clear()
        return taken


def zip_pieces(folder: Path, top: str) -> Iterator[bytes]:
    """Yield the bytes of a zip of the files below a folder, in the order of their names.

    Args:
        folder: the folder; links are left out.
        top: folder that the files lie in inside the zip.

    Raises:
        OSError: a file cannot be read.
    """
    pieces = _Pieces()
    with zipfile.ZipFile(pieces, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_symlink() or not path.is_file():
                continue
            entry = zipfile.ZipInfo.from_file(path, f"{top}/{path.relative_to(folder).as_posix()}")
            stored = path.suffix in PACKED_SUFFIXES
            entry.compress_type = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
            with path.open("rb") as source, archive.open(entry, "w") as target:
                while piece := source.read(PIECE):
                    target.write(piece)
                    if ready := pieces.take():
                        yield ready
    yield pieces.take()
