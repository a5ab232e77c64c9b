"""Masks from files: a folder of PNGs, or a file of another format, becomes objects, in one step to undo.

davis: `<frame>.png`, PNGs of object ids. An object whose id is missing on a frame is absent there
sav:   `<object>/<frame>.png`, PNGs of one object each

Other formats are those of `formats/registry.py` that have a reader. What the values and colours of PNGs mean is said in
docs/masks.md; 255 is an object here if `objects.json` names it. `<frame>` is the name of the frame's
file, or its index. `objects.json`, as exports write it, gives names, colours and classes.

Every object is added as a new one, with the id that it has in the files if that is free. All masks are stored; on
which frames they are prompts, too, is chosen.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from i2vpp.annotate.errors import CancelledError, MaskFolderError
from i2vpp.annotate.exchange.exports import OBJECTS_FILE
from i2vpp.annotate.exchange.formats.label_studio import CONFIG_FILE
from i2vpp.annotate.exchange.formats.reading import Found, TargetVideo, assemble
from i2vpp.annotate.exchange.formats.registry import FORMATS
from i2vpp.annotate.exchange.formats.yolo import DATA_FILES
from i2vpp.annotate.storage.store import Annotation
from i2vpp.annotate.storage.values import ObjectInfo, Prompts, StoredMask
from i2vpp.data.frame_folders import IMAGE_SUFFIXES
from i2vpp.data.masks import IGNORED, FrameSize, Mask, VideoMasks, read_object
from i2vpp.errors import DataError
from i2vpp.utils.json_files import read_json

LOOKED_AT = 64  # files of a folder that may hold masks

_Masks: TypeAlias = "dict[int, dict[int, StoredMask]]"  # by the object ids of the files, and by frame
PromptFrames: TypeAlias = "Literal['first', 'all'] | Collection[int]"


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What an import has added.

    Args:
        objects: the new objects in the order of their ids.
        masks: how many, empty ones included.
    """

    objects: tuple[ObjectInfo, ...]
    masks: int


@dataclass(frozen=True, kw_only=True)
class _MaskFile:
    path: Path
    frame: int
    obj_id: int | None  # None: the values are the ids


def import_masks(
    annotation: Annotation,
    folder: Path,
    *,
    frame_names: Sequence[str] | None = None,
    prompts: PromptFrames = "first",
    expected: int | None = None,
    progress: Callable[[int, int], object] = lambda done, total: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Imported:
    """Add the objects of a folder of masks, or of a file. Everything is read before anything is changed.

    Args:
        annotation: gets the objects.
        folder: folder in one of the layouts above, a file of another format, or a folder that holds one.
        frame_names: names of the video's frames without suffix; None: PNGs are named by index.
        prompts: on which frames a mask also becomes a prompt, which propagation starts from: the first one of each
            object where it is visible, all, or those frames of the given ones where it is visible.
        expected: revision, see `Annotation.edit`.
        progress: function that is given the number of files read, and of all.
        cancelled: function that says, before each file, whether to stop.

    Returns:
        The new objects and the number of their masks.

    Raises:
        MaskFolderError: there are no masks, or one does not fit; the message names the file. Nothing is changed.
        CancelledError: `cancelled` said so; nothing is changed.
        PromptError: there are not enough ids left.
        StaleRevisionError: see `Annotation.edit`.
        DiskFullError: no space is left.
    """
    target = TargetVideo(
        height=annotation.height, width=annotation.width, frames=annotation.frames, frame_names=frame_names
    )
    if (source := find_file(folder)) is not None:
        progress(0, 1)
        objects = read_file(source, target)
        if cancelled():
            raise CancelledError("the import was cancelled; nothing was changed")
        return _add(annotation, objects, read_looks(source.parent / OBJECTS_FILE), prompts, expected)
    files = list(_find(folder, annotation.frames, frame_names))
    looks = read_looks(folder / OBJECTS_FILE)
    size = FrameSize(height=annotation.height, width=annotation.width)
    maps = VideoMasks([file.path for file in files if file.obj_id is None], lone_255=IGNORED not in looks)
    read: _Masks = {}
    for done, file in enumerate(files, 1):
        if cancelled():
            raise CancelledError("the import was cancelled; nothing was changed")
        for obj_id, found in _read(file, maps, size).items():
            if file.obj_id is not None or obj_id != IGNORED or IGNORED in looks:
                read.setdefault(obj_id, {})[file.frame] = StoredMask.of(found)
        progress(done, len(files))
    if not read:
        raise MaskFolderError(f"all masks in {folder} are empty; there is no object in them")
    if files[0].obj_id is None:
        _complete(read, [file.frame for file in files], annotation)
    # Object 0 of a file cannot keep its id, so it comes last and takes one that is left.
    order = sorted(read, key=lambda obj_id: (obj_id == 0, obj_id))
    objects = [Found(obj_id=number, name=f"Object {number}", masks=read[number]) for number in order]
    return _add(annotation, objects, looks, prompts, expected)


def _add(
    annotation: Annotation,
    objects: Sequence[Found],
    looks: Mapping[int, Look],
    prompts: PromptFrames,
    expected: int | None,
) -> Imported:
    """Add objects with their masks and labels, in one step; those that `looks` names by their ids look as it says."""
    added = []
    with annotation.edit("Import masks", expected=expected) as edit:
        labels = {label.name: label.number for label in annotation.labels()}
        for one in objects:
            look = looks.get(one.obj_id or 0, Look())
            info = edit.add_object(look.name or one.name, look.color, obj_id=one.obj_id)
            added.append(info)
            if (label := look.label or one.label) is not None:
                if label not in labels:
                    labels[label] = edit.add_label(label).number
                edit.set_label(info.id, labels[label])
            for frame, mask in one.masks.items():
                edit.set_mask(info.id, frame, mask)
            for frame in _prompted(one.masks, prompts):
                edit.set_prompts(info.id, frame, Prompts(imported=True))
    count = sum(len(one.masks) for one in objects)
    ids = {info.id for info in added}
    return Imported(objects=tuple(info for info in annotation.objects() if info.id in ids), masks=count)


def find_file(path: Path) -> Path | None:
    """Return the file of annotations that a path is, or the only one of its kind in a folder; None: there is none."""
    if path.is_file():
        return path
    inside = [entry for entry in _entries(path) if is_annotations(entry)]
    for suffixes in ((".json",), (".yaml", ".yml"), (".xml",)):
        of_kind = [entry for entry in inside if entry.suffix.lower() in suffixes]
        if len(of_kind) == 1:
            return of_kind[0]
    return None


def is_annotations(path: Path) -> bool:
    """Whether a file may be one of a format that is read, going by its name."""
    wanted = path.suffix.lower() in (".json", ".xml") or path.name in DATA_FILES
    return wanted and path.name not in (OBJECTS_FILE, CONFIG_FILE)


def read_file(path: Path, target: TargetVideo) -> list[Found]:
    """Read the objects of a file.

    Args:
        path: the file.
        target: the video.

    Raises:
        MaskFolderError: it is of no format that is read, it holds nothing, or something does not fit.
    """
    readable = [one for one in FORMATS.values() if one.reader is not None]
    names = ", ".join(one.title for one in readable)
    try:
        content = read_json(path) if path.suffix.lower() == ".json" else None
    except OSError as error:
        raise MaskFolderError(f"cannot read {path.name}: {error.strerror}") from error
    except ValueError as error:
        raise MaskFolderError(f"{path.name} is not JSON: {error}") from error
    for one in readable:
        assert one.reader is not None
        reading = one.reader(path, content, target)
        if reading is not None:
            found = list(assemble(reading, (target.height, target.width)).values())
            if not any(mask.area for entry in found for mask in entry.masks.values()):
                raise MaskFolderError(f"{path.name} holds no masks of {one.title}; there is no object in it")
            return found
    raise MaskFolderError(f"{path.name} is of no format that is read: {names}, or folders of PNGs")


def may_hold_masks(folder: Path) -> bool:
    """Whether a folder has the layout of masks, by names alone: PNGs and no other images, or folders named by numbers.

    A folder of JPEG frames has not. Only the first files of a long folder are looked at.
    """
    try:
        with os.scandir(folder) as entries:
            first = [Path(entry.path) for entry in islice(entries, LOOKED_AT) if not entry.name.startswith(".")]
    except OSError:
        return False
    images = [path for path in first if path.suffix.lower() in IMAGE_SUFFIXES]
    if images:
        return all(path.suffix.lower() == ".png" for path in images)
    return any(path.name.isascii() and path.name.isdecimal() and path.is_dir() for path in first)


def _read(file: _MaskFile, maps: VideoMasks, size: FrameSize) -> dict[int, Mask]:
    """Read the masks [H, W] in a file by object id."""
    try:
        if file.obj_id is not None:
            return {file.obj_id: read_object(file.path, size)}
        ids = maps.ids(file.path, size)
    except DataError as error:
        raise MaskFolderError(str(error)) from error
    return {obj_id: ids == obj_id for obj_id in np.unique(ids).tolist() if obj_id}


def _prompted(masks: Mapping[int, StoredMask], prompts: PromptFrames) -> list[int]:
    visible = sorted(frame for frame, mask in masks.items() if mask.area)
    if prompts == "first":
        return visible[:1]
    return visible if prompts == "all" else [frame for frame in visible if frame in prompts]


def _complete(masks: _Masks, frames: Sequence[int], annotation: Annotation) -> None:
    """Add the empty masks of index PNGs in which an object is missing."""
    empty = StoredMask.of(np.zeros((annotation.height, annotation.width), bool))
    for found in masks.values():
        found.update({frame: empty for frame in frames if frame not in found})


def _find(folder: Path, frames: int | None, frame_names: Sequence[str] | None) -> Iterator[_MaskFile]:
    """List all masks, by object and frame."""
    entries = _entries(folder)
    folders = [entry for entry in entries if entry.is_dir()]
    pngs = [entry for entry in entries if _is_mask(entry)]
    if bool(folders) == bool(pngs):
        what = "both PNGs and folders" if pngs else "no masks"
        raise MaskFolderError(
            f"{folder} holds {what}; masks must lie in it as <frame>.png (DAVIS) or <object>/<frame>.png (SA-V)"
        )
    if pngs:
        yield from _of_frames(pngs, None, frames, frame_names)
        return
    seen: dict[int, Path] = {}
    for one in folders:
        if not (one.name.isascii() and one.name.isdecimal()):
            raise MaskFolderError(f"{one} is not named by an object id, such as 001")
        other = seen.setdefault(int(one.name), one)
        if other != one:
            raise MaskFolderError(f"{other} and {one.name} are of the same object; keep one of them")
        yield from _of_frames([e for e in _entries(one) if _is_mask(e)], int(one.name), frames, frame_names)


def _of_frames(
    paths: Sequence[Path], obj_id: int | None, frames: int | None, frame_names: Sequence[str] | None
) -> Iterator[_MaskFile]:
    indices = None if frame_names is None else {name: frame for frame, name in enumerate(frame_names)}
    seen: dict[int, Path] = {}
    for path in paths:
        stem = path.stem
        frame = indices.get(stem) if indices is not None else int(stem) if stem.isascii() and stem.isdecimal() else None
        if frame is None or (frames is not None and frame >= frames):
            there = "a frame's index" if frames is None else f"a frame's index, 0 to {frames - 1}"
            wanted = there if indices is None else "one of the video's frames"
            raise MaskFolderError(f"{path} is not named by {wanted}; remove it, or open the video that it belongs to")
        other = seen.setdefault(frame, path)
        if other != path:
            raise MaskFolderError(f"{other} and {path.name} are of the same frame; keep one of them")
        yield _MaskFile(path=path, frame=frame, obj_id=obj_id)


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise MaskFolderError(f"cannot read the folder of masks {folder}: {error.strerror}") from error


def _is_mask(path: Path) -> bool:
    """Whether a file is a PNG. Other images raise MaskFolderError, and files that are no images are ignored."""
    suffix = path.suffix.lower()
    if path.is_dir() or suffix not in IMAGE_SUFFIXES:
        return False
    if suffix != ".png":
        raise MaskFolderError(f"{path} is no PNG; masks must be PNGs, as other formats change their values")
    return True


@dataclass(frozen=True, kw_only=True)
class Look:
    """What `objects.json` says of an object."""

    name: str | None = None
    color: str | None = None
    label: str | None = None


def read_looks(path: Path) -> dict[int, Look]:
    """Read names, colours and classes by id, if there is a file of them."""
    if not path.exists():
        return {}
    try:
        objects: dict[str, Any] = read_json(path)["objects"]
        return {
            int(obj_id): Look(name=entry["name"], color=entry.get("color"), label=entry.get("label"))
            for obj_id, entry in objects.items()
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise MaskFolderError(
            f"{path} does not name objects as {{'objects': {{'1': {{'name': ..., 'color': '#rrggbb'}}}}}}; "
            "correct or remove it"
        ) from error
