"""What masks can be imported from: folders of PNGs and files of annotations, in folders that are open to imports."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path

from i2vpp.annotate.exchange.imports import find_file, is_annotations, may_hold_masks
from i2vpp.annotate.exchange.uploads import UPLOAD_FOLDER
from i2vpp.annotate.library import is_below
from i2vpp.annotate.problems import NotFoundError, RequestError
from i2vpp.annotate.session import ServerContext, VideoSession

EXPORT_FOLDER = "exports"
MOST = 200  # sources in the list
MOST_SEEN = 5000  # entries that are looked at for it below each folder
DEPTH = 4


def roots(context: ServerContext) -> list[tuple[str, Path]]:
    """Return the folders that masks may be imported from, each with what its names begin with."""
    own = [(f"{name}/", context.output.resolve() / name) for name in (UPLOAD_FOLDER, EXPORT_FOLDER)]
    return [*(("", root) for root in context.mask_roots), *own]


def find_source(context: ServerContext, name: str) -> Path:
    """Return the folder or file of that name; nothing of it may lie outside the folders that masks may come from.

    Args:
        context: what all videos share.
        name: its name, as `offered` lists it.

    Raises:
        NotFoundError: there is none, or a folder in which no masks can be.
        RequestError: it lies elsewhere, or holds a link that leads elsewhere.
    """
    others = False
    for begin, root in roots(context):
        if not name.startswith(begin):
            continue
        path = root / name.removeprefix(begin)
        if not is_below(root, path):
            raise RequestError(f"{name!r:.200} lies outside the folders that masks may be imported from")
        if not _exists(path):
            continue
        if path.is_dir() and not may_hold_masks(path) and find_file(path) is None:
            others = True
            continue
        if path.is_dir() and any(inside.is_symlink() and not is_below(root, inside) for inside in path.rglob("*")):
            raise RequestError(f"{name!r:.200} holds a link that leads out of the opened folder")
        return path
    if others:
        raise NotFoundError(
            f"the folder {name!r:.200} holds no masks: they are PNGs, folders of PNGs named by numbers, or a file of "
            "annotations"
        )
    raise NotFoundError(
        f"there is no folder or file {name!r:.200} of masks: neither in the opened folder, nor in that of --masks, "
        "nor among uploads and exports"
    )


def _exists(path: Path) -> bool:
    try:
        return path.is_dir() or (path.is_file() and is_annotations(path))
    except (OSError, ValueError):  # a name that no file can have
        return False


def offered(session: VideoSession) -> list[str]:
    """Return the names of what can be imported; uploads come first, then what is named like the video.

    Args:
        session: the video.
    """
    context = session.context
    names: dict[str, None] = {}
    for begin, root in reversed(roots(context)):
        for path in _sources(root, DEPTH, count()):
            if len(names) >= MOST:
                break
            name = f"{begin}{path.relative_to(root).as_posix()}"
            if path != session.video.path and is_below(root, path) and name.isprintable():
                names[name] = None
    stem = session.video.path.stem
    return sorted(names, key=lambda name: (not name.startswith(f"{UPLOAD_FOLDER}/"), stem not in name, name))


def _sources(folder: Path, depth: int, seen: Iterator[int]) -> Iterator[Path]:
    """Yield files of annotations and folders of masks below a folder; `seen` counts the entries looked at."""
    try:
        with os.scandir(folder) as found:
            entries = sorted(islice(found, MOST_SEEN), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        path = Path(entry.path)
        if entry.name.startswith("."):
            continue
        if next(seen) >= MOST_SEEN:
            return
        if entry.is_dir(follow_symlinks=False):
            if may_hold_masks(path):
                yield path
            elif depth > 1:
                yield from _sources(path, depth - 1, seen)
        elif is_annotations(path) and entry.is_file():
            yield path
