"""Writing files so that they are either complete or not there."""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any


def exists(path: str | os.PathLike[str]) -> bool:
    """Whether there is a file or folder; there is none of a name that is longer than the system allows."""
    try:
        return Path(path).exists()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False
        raise


@contextmanager
def atomic_write(path: str | os.PathLike[str], mode: str = "wb", **open_arguments: Any) -> Iterator[IO[Any]]:
    """Open a temporary file beside `path` for writing; when the block succeeds, it replaces `path` in one step.

    The bytes are flushed to the disk before the replacement (fsync), so that neither an error, a full disk, a killed
    process nor a power failure can leave a partial file under the final name. An earlier file stays until then.

    Args:
        path: final name; its folder is created if it is missing.
        mode: mode of `open`: "wb", or "w" for text, which is UTF-8.
        open_arguments: further arguments of `open`, for example `newline`.

    Yields:
        The open temporary file. Its name begins with a dot and ends in `.tmp`.

    Raises:
        OSError: the file could not be written; nothing remains but the earlier file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    if "b" not in mode:
        open_arguments.setdefault("encoding", "utf-8")
    try:
        with temporary.open(mode, **open_arguments) as file:
            yield file
        move_into_place(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(path: Path) -> None:
    """Delete the temporary files of killed writers of `path`; no other process may be writing it now."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*"):
        if leftover.suffix in (".tmp", ".partial") and leftover.is_file():
            leftover.unlink(missing_ok=True)


def move_into_place(finished: Path, path: Path) -> None:
    """Give a finished file its final name in one step, once its bytes are on the disk.

    Args:
        finished: closed file in the folder of `path`.
        path: final name; an earlier file is replaced.

    Raises:
        OSError: the bytes cannot be flushed to the disk, or the file cannot be renamed; an earlier file stays.
    """
    sync_file(finished)
    finished.replace(path)
    sync_folder(path.parent)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def sync_file(path: Path) -> None:
    """Flush a closed file to the disk; this is where some file systems first say that it is full."""
    _sync(path, os.O_RDWR)


def sync_files(folder: Path) -> None:
    """Flush all files below a folder to the disk; with thousands of files this is far faster than one after another."""
    if hasattr(os, "sync"):
        os.sync()
    else:  # Windows
        for path in folder.rglob("*"):
            if path.is_file():
                sync_file(path)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk, where the system can do that, so that a rename survives a power failure."""
    with suppress(OSError):  # Windows cannot open folders, some network file systems cannot sync them
        _sync(folder, os.O_RDONLY)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
