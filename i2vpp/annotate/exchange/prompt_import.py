"""Prompts from a file, as exports and people write them for `i2vpp track --prompts`, answered in an open video."""

from __future__ import annotations

import re
import uuid
from pathlib import Path
from typing import Any

from i2vpp.annotate.errors import MaskFolderError
from i2vpp.annotate.exchange.exports import OBJECTS_FILE
from i2vpp.annotate.exchange.formats.prompts import PROMPTS_FILE
from i2vpp.annotate.exchange.imports import Look, read_looks
from i2vpp.annotate.jobs import Job
from i2vpp.annotate.session import VideoSession
from i2vpp.annotate.storage.values import Prompts, StoredMask
from i2vpp.data.masks import FrameSize
from i2vpp.errors import DataError, PromptError
from i2vpp.prompts.checks import ObjectPrompt
from i2vpp.prompts.files import read_prompts_file

LABEL = "Import prompts"
_HEAD = 2000  # characters
_LIST = re.compile(r"\s*\[\s*(\{|\])")


def prompts_file(path: Path) -> Path | None:
    """Return the file of prompts that a path is, or that lies in a folder; None if it is something else."""
    file = path / PROMPTS_FILE if path.is_dir() else path
    if file.suffix.lower() != ".json" or not file.is_file():
        return None
    try:
        with file.open(encoding="utf-8-sig") as opened:
            head = opened.read(_HEAD)
    except (OSError, UnicodeDecodeError):
        return None
    return file if _LIST.match(head) and any(f'"{key}"' in head for key in ("points", "box", "mask")) else None


def import_prompts(session: VideoSession, path: Path, job: Job) -> dict[str, Any]:
    """Add the objects of a file of prompts and have the network answer each prompt, in one step to undo.

    What was done stays where a prompt cannot be answered. To be called in the session's `model_worker`.

    Args:
        session: the video.
        path: the file.
        job: is told of the progress, and may ask to stop.

    Returns:
        `objects`, the ids of the new objects, and `masks`, how many there are.

    Raises:
        MaskFolderError: the file holds no prompts, or a mask or frame does not fit; nothing was changed.
        PromptError: the file is not right, or a prompt cannot be answered.
    """
    given = read_prompts_file(path)
    if not given:
        raise MaskFolderError(f"{path.name} holds no prompts")
    store, size = session.store, FrameSize(height=session.height, width=session.width)
    values: dict[tuple[int, int], tuple[Prompts, StoredMask | None]] = {}
    for prompt in given:
        where = f"{path.name}, object {prompt.obj_id} on frame {prompt.frame_idx}"
        if prompt.frame_idx >= session.frames:
            raise MaskFolderError(f"{where}: the video has frames 0 to {session.frames - 1}")
        if (prompt.obj_id, prompt.frame_idx) in values:
            raise MaskFolderError(f"{where} is there twice; join its points and its box in one entry")
        values[prompt.obj_id, prompt.frame_idx] = _value(prompt, size, where)
    looks = read_looks(path.parent / OBJECTS_FILE)
    step = uuid.uuid4().hex
    with store.edit(LABEL, joint=step) as edit:
        numbers = sorted({obj_id for obj_id, _ in values})
        added = {}
        for number in numbers:
            look = looks.get(number, Look())
            added[number] = edit.add_object(look.name, look.color, obj_id=number).id
    for done, ((obj_id, frame), (prompts, mask)) in enumerate(sorted(values.items(), key=lambda item: item[0]), 1):
        if job.stopping:
            break
        if mask is None:
            session.set_prompts(added[obj_id], frame, store.revision, prompts, joint=step)
        else:
            with store.edit(LABEL, joint=step) as edit:
                edit.set_prompts(added[obj_id], frame, prompts)
                edit.set_mask(added[obj_id], frame, mask)
            session.tell()
        session.jobs.step(job, done, len(values))
    return {"objects": list(added.values()), "masks": len(values)}


def _value(prompt: ObjectPrompt, size: FrameSize, where: str) -> tuple[Prompts, StoredMask | None]:
    """Return the prompts that the store has, and of a mask the mask."""
    if prompt.mask is not None:
        try:
            size.check(where, *prompt.mask.shape)
        except DataError as error:
            raise MaskFolderError(str(error)) from error
        return Prompts(imported=True), StoredMask.of(prompt.mask.astype(bool))
    if not set(prompt.labels) <= {0, 1}:
        raise PromptError(f"{where}: labels must be 1 (add) or 0 (remove)")
    points = tuple((x, y, label) for (x, y), label in zip(prompt.points, prompt.labels, strict=True))
    return Prompts(points=points, box=prompt.box).inside(size.height, size.width), None
