"""Prompts in files: the JSON lists that `i2vpp track --prompts` reads, and mask images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from i2vpp.errors import DataError, PromptError
from i2vpp.utils.json_files import read_json
from i2vpp.utils.json_values import json_integer, json_list, json_numbers, json_object, shown_json

if TYPE_CHECKING:
    from i2vpp.prompts.checks import ObjectPrompt

JSON_KEYS = ("frame", "object", "points", "labels", "box", "mask")
MASK_FORM = "FILE[,frame[,object]]"


@dataclass(frozen=True, kw_only=True)
class MaskFile:
    """A mask image named by the user; without `obj_id`, its values or colours are objects."""

    path: Path
    frame_idx: int = 0
    obj_id: int | None = None


def read_prompts_file(path: Path) -> list[ObjectPrompt]:
    """Read a JSON list of prompts; `i2vpp track --help` shows the format.

    Raises:
        PromptError: the file is unreadable, or an entry is not right; the message names file, entry and key.
    """
    try:
        entries = read_json(path)
    except OSError as error:
        raise PromptError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise PromptError(f"{path} is not JSON: {error}") from error
    if not isinstance(entries, list):
        raise PromptError(f"{path} must hold a list of prompts, got {type(entries).__name__}")
    prompts: list[ObjectPrompt] = []
    for position, entry in enumerate(entries):
        try:
            prompts += _json_prompt(entry, path.parent)
        except PromptError as error:
            raise PromptError(f"{path}, entry {position}: {error}") from error
    return prompts


def _json_prompt(entry: Any, folder: Path) -> list[ObjectPrompt]:
    from i2vpp.prompts.checks import PADDING, ObjectPrompt  # noqa: PLC0415 - NumPy, which `i2vpp --help` does not wait for

    json_object("the prompt", entry, JSON_KEYS)
    listed = json_list("points", entry.get("points", []))
    points = [json_numbers(f"points[{i}]", point, "x, y") for i, point in enumerate(listed)]
    labels = json_list("labels", entry.get("labels", [1] * len(points)))
    corners = json_numbers("box", entry["box"], "x0, y0, x1, y1") if "box" in entry else None
    prompt = ObjectPrompt(
        frame_idx=entry.get("frame", 0),
        obj_id=entry.get("object", 1),
        points=tuple((x, y) for x, y in points),
        labels=tuple(json_integer(f"labels[{i}]", label, least=PADDING) for i, label in enumerate(labels)),
        box=None if corners is None else (corners[0], corners[1], corners[2], corners[3]),
    )
    if "mask" not in entry:
        if not points and corners is None:
            raise PromptError("there must be points, a box or a mask")
        return [prompt]
    if points or corners is not None:
        raise PromptError("a mask cannot be combined with points or a box")
    if not isinstance(entry["mask"], str):
        raise PromptError(f"mask must be the name of an image file, got {shown_json(entry['mask'])}")
    obj_id = prompt.obj_id if "object" in entry else None
    return read_mask(MaskFile(path=folder / entry["mask"], frame_idx=prompt.frame_idx, obj_id=obj_id))


def read_mask(file: MaskFile) -> list[ObjectPrompt]:
    """Read a mask image by the rule of `i2vpp.data.masks`.

    Raises:
        PromptError: unreadable, empty, or an image whose objects cannot be told.
    """
    from i2vpp.data.masks import SoftEdgesError, read_objects  # noqa: PLC0415 - keeps `i2vpp --help` instant

    try:
        objects = read_objects(file.path, file.obj_id)
    except SoftEdgesError as error:
        raise PromptError(
            f'{error}. Or say which object it shows, by {MASK_FORM} or "object" in a prompts file: '
            "then it is cut at half its maximum"
        ) from error
    except DataError as error:
        raise PromptError(str(error)) from error
    from i2vpp.prompts.checks import ObjectPrompt  # noqa: PLC0415

    return [
        ObjectPrompt(frame_idx=file.frame_idx, obj_id=obj_id, mask=mask, file=file.path)
        for obj_id, mask in objects.items()
    ]
