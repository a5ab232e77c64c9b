"""Files that a person drops on the page: videos go to the opened folder, masks to `uploads` of the output folder."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import IO

from starlette.concurrency import run_in_threadpool

from i2vpp.annotate.library import VIDEO_SUFFIXES, Library
from i2vpp.annotate.problems import RequestError
from i2vpp.errors import VideoError
from i2vpp.session.video import open_source

UPLOAD_FOLDER = "uploads"
MASK_SUFFIXES = (".zip", ".json", ".xml")
INSIDE_SUFFIXES = (".png", ".json", ".xml", ".txt", ".yaml", ".yml")
"""Of files that are taken out of a zip; others, such as images, are left in it."""

MAX_FILES = 200_000
MAX_UNPACKED = 16 * 2**30  # bytes
MAX_NAME = 180  # bytes
PIECE = 1 << 20


def check_part(name: str) -> str:
    """Return the name of a file or folder; raise RequestError unless it is safe to use on any disk."""
    strange = not name.isprintable() or any(sign in name for sign in '/\\:*?"<>|')
    if not name or strange or name.startswith(".") or name.endswith((" ", ".")) or len(name.encode()) > MAX_NAME:
        raise RequestError(f"{name!r:.120} cannot be the name of an upload; rename the file")
    return name


def target_of(name: str, library: Library, output: Path) -> Path:
    """Return where an upload goes, by its suffix.

    Args:
        name: name of the file.
        library: the videos.
        output: folder of annotations and exports.

    Raises:
        RequestError: the name is not allowed, or a video cannot be added or is there already.
    """
    check_part(name)
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in MASK_SUFFIXES:
        return output / UPLOAD_FOLDER / name
    if suffix not in VIDEO_SUFFIXES:
        allowed = ", ".join((*MASK_SUFFIXES, *VIDEO_SUFFIXES))
        raise RequestError(f"{name!r:.120} is neither masks nor a video: uploads end with {allowed}; zip PNGs", 415)
    if not library.takes_videos:
        raise RequestError("videos can be added only where the server was started with a folder of videos")
    if (library.root / name).exists():
        raise RequestError(f"there is a video {name!r:.120} already; rename the file", 409)
    return library.root / name


async def receive(pieces: AsyncIterator[bytes], target: Path) -> str:
    """Write an upload, which appears only when it is whole and usable; a zip is unpacked.

    Args:
        pieces: its content.
        target: see `target_of`.

    Returns:
        The name of the file or folder.

    Raises:
        RequestError: it is no video or zip, or holds too much.
        OSError: it cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial{target.suffix}")
    try:
        with partial.open("wb") as file:
            async for piece in pieces:
                await run_in_threadpool(file.write, piece)
        return await run_in_threadpool(_accept, partial, target)
    finally:
        with suppress(OSError):
            partial.unlink()


def _accept(partial: Path, target: Path) -> str:
    suffix = target.suffix.lower()
    if suffix == ".zip":
        folder = target.with_suffix("")
        unpack(partial, folder)
        return folder.name
    if suffix in VIDEO_SUFFIXES:
        try:
            open_source(partial).close()
        except VideoError as error:
            message = str(error).replace(str(partial), target.name).replace(partial.name, target.name)
            raise RequestError(f"{target.name!r:.120} was not kept: {message}", 422) from error
    partial.replace(target)
    return target.name


def unpack(archive: Path, folder: Path) -> None:
    """Take the masks out of a zip into a folder, in place of an earlier one; a folder around all of them is left out.

    Args:
        archive: the zip.
        folder: where they go.

    Raises:
        RequestError: it is no zip, a name in it is not allowed, or it holds too much or no masks.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as opened:
            entries = [entry for entry in opened.infolist() if _is_mask(entry)]
            total = sum(entry.file_size for entry in entries)
            if not 1 <= len(entries) <= MAX_FILES or total > MAX_UNPACKED:
                raise RequestError(
                    f"the zip holds {len(entries)} files of masks of {total} bytes; allowed are 1 to {MAX_FILES} of "
                    f"{MAX_UNPACKED} bytes in all ({', '.join(INSIDE_SUFFIXES)})"
                )
            paths = {entry.filename: [check_part(part) for part in entry.filename.split("/")] for entry in entries}
            tops = {parts[0] if len(parts) > 1 else "" for parts in paths.values()}
            around = len(tops) == 1 and not (tops & {""} or tops.pop().isdecimal())  # numbers are SA-V's objects
            for entry in entries:
                path = partial.joinpath(*paths[entry.filename][int(around) :])
                path.parent.mkdir(parents=True, exist_ok=True)
                with opened.open(entry) as source, path.open("wb") as target:
                    _copy(source, target, entry.file_size)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise RequestError(f"this is no zip that can be read ({error}); make another one") from error
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def _copy(source: IO[bytes], target: IO[bytes], size: int) -> None:
    """Copy a file of a zip, no further than what it says to be its size."""
    left = size
    while left > 0 and (piece := source.read(min(PIECE, left))):
        target.write(piece)
        left -= len(piece)


def _is_mask(entry: zipfile.ZipInfo) -> bool:
    parts = entry.filename.split("/")
    hidden = any(part.startswith((".", "__MACOSX")) for part in parts if part not in ("", ".."))
    return not entry.is_dir() and not hidden and entry.filename.lower().endswith(INSIDE_SUFFIXES)
