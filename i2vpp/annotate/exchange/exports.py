"""Annotations as files, in any of the formats of `i2vpp.annotate.exchange.formats.registry`.

Beside the files of a format, `objects.json` tells names, colours and classes of the objects. Frames are named like
their files, or by index, such as 00012.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import av

from i2vpp.annotate.errors import CancelledError, DiskFullError, MaskFolderError, is_disk_full
from i2vpp.annotate.exchange.formats.base import Footage, Writer
from i2vpp.annotate.exchange.formats.registry import FORMATS
from i2vpp.annotate.storage.store import Annotation
from i2vpp.errors import I2VPPError
from i2vpp.utils.files import atomic_write, sync_files, sync_folder
from i2vpp.utils.json_files import read_json

KINDS = tuple(FORMATS)
OBJECTS_FILE = "objects.json"
MADE_BY = "i2vpp annotate"


def export(
    annotation: Annotation,
    folder: Path,
    kind: str,
    *,
    footage: Footage,
    every: int = 1,
    progress: Callable[[int, int], object] = lambda done, total: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Path:
    """Write an annotation into a folder, which appears only when it is whole and replaces an earlier export.

    Args:
        annotation: annotation that is written; it may change meanwhile, and each frame is written as it is then.
        folder: missing, empty, or an earlier export.
        kind: name of the format.
        footage: the video.
        every: only frames 0, n, 2n, ...; an overlay then runs at the n-th part of its rate.
        progress: function that is given the number of frames written, and of all.
        cancelled: function that says, before each frame, whether to stop.

    Returns:
        The folder.

    Raises:
        MaskFolderError: there is no mask to export, the folder holds something else, or files cannot be written.
        DiskFullError: no space is left.
        CancelledError: `cancelled` said so.
        I2VPPError: a frame cannot be read, or a package is missing.
    """
    if kind not in KINDS or every < 1:
        raise MaskFolderError(f"cannot export {kind!r} of every {every}. frame; allowed: {', '.join(KINDS)}, 1 or more")
    if not annotation.summary().annotated:
        raise MaskFolderError("there is no mask to export yet; prompt an object first")
    chosen = range(0, footage.frames, every)
    with _in_words(folder), _new_folder(folder) as partial:
        with _finished(FORMATS[kind].writer(partial, annotation, footage, every)) as writer:
            for done, frame in enumerate(chosen, 1):
                if cancelled():
                    raise CancelledError(f"the export to {folder} was cancelled; nothing of it is left")
                writer.add(frame, annotation.masks(frame))
                progress(done, len(chosen))
        _write_objects(partial / OBJECTS_FILE, annotation, footage, {"kind": kind, "every": every})
    return folder


@contextmanager
def _finished(writer: Writer) -> Iterator[Writer]:
    """Close a writer after the block. After an error its files get deleted, so that errors of `close` do not matter."""
    try:
        yield writer
    except BaseException:
        with suppress(OSError, I2VPPError):
            writer.close()
        raise
    writer.close()


def _write_objects(path: Path, annotation: Annotation, footage: Footage, choice: Mapping[str, Any]) -> None:
    video = {
        "name": annotation.video,
        "height": annotation.height,
        "width": annotation.width,
        "fps": footage.fps,
        "frames": footage.frames,
    }
    labels = {label.number: label for label in annotation.labels()}
    objects = {}
    for info in annotation.objects():
        label = {} if info.label is None else {"label": labels[info.label].name}
        objects[info.id] = {"name": info.name, "color": info.color, **label}
    classes = [{"name": label.name, "color": label.color} for label in labels.values()]
    content = {"made_by": MADE_BY, **choice, "video": video, "labels": classes, "objects": objects}
    with atomic_write(path, "w") as file:
        file.write(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """Yield a new folder that replaces `folder` if the block ends without an error, and is deleted otherwise."""
    if folder.exists() and not _replaceable(folder):
        raise MaskFolderError(f"{folder} is no earlier export and is not overwritten; choose another folder")
    partial, old = (folder.with_name(f".{folder.name}.{word}") for word in ("partial", "old"))
    for left in (partial, old):  # left over from a process that was killed
        if left.exists():
            shutil.rmtree(left)
    try:
        partial.mkdir(parents=True)
        yield partial
        sync_files(partial)
        if folder.exists():
            folder.rename(old)
        partial.rename(folder)
        sync_folder(folder.parent)
    finally:
        for left in (partial, old):
            shutil.rmtree(left, ignore_errors=True)


def _replaceable(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    try:
        content = read_json(folder / OBJECTS_FILE)
    except (OSError, ValueError):
        return not any(folder.iterdir())
    return isinstance(content, dict) and content.get("made_by") == MADE_BY


@contextmanager
def _in_words(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, av.FFmpegError) as error:
        if is_disk_full(error):
            raise DiskFullError(
                f"no space is left on the disk of {folder}; nothing of the export is left. Free some and try again"
            ) from error
        raise MaskFolderError(f"cannot write {folder}: {error}") from error
