"""Prompts of the command line: options, mask images and JSON files become one list of `ObjectPrompt`."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from i2vpp.errors import DataError, PromptError
from i2vpp.utils.json_files import read_json
from i2vpp.utils.json_values import json_integer, json_list, json_numbers, json_object, shown_json

if TYPE_CHECKING:
    from i2vpp.prompts import ObjectPrompt

JSON_KEYS = ("frame", "object", "points", "labels", "box", "mask")

POINT_FORM = "x,y[,frame[,object]]"
BOX_FORM = "x0,y0,x1,y1[,frame[,object]]"
MASK_FORM = "FILE[,frame[,object]]"


@dataclass(frozen=True, kw_only=True)
class MaskFile:
    """A mask image named by the user; without `obj_id`, its values or colours are objects."""

    path: Path
    frame_idx: int = 0
    obj_id: int | None = None


def positive_point(text: str) -> ObjectPrompt:
    """Parse `--point x,y[,frame[,object]]`."""
    (x, y), where = _split(text, 2, POINT_FORM)
    return _checked(text, POINT_FORM, points=((x, y),), labels=(1,), **where)


def negative_point(text: str) -> ObjectPrompt:
    """Parse `--negative x,y[,frame[,object]]`."""
    (x, y), where = _split(text, 2, POINT_FORM)
    return _checked(text, POINT_FORM, points=((x, y),), labels=(0,), **where)


def box(text: str) -> ObjectPrompt:
    """Parse `--box x0,y0,x1,y1[,frame[,object]]`."""
    corners, where = _split(text, 4, BOX_FORM)
    return _checked(text, BOX_FORM, box=tuple(corners), **where)


def _split(text: str, count: int, form: str) -> tuple[list[float], dict[str, int]]:
    """Split the text of an option into `count` coordinates, and frame and object as far as they are given."""
    fields = text.split(",")
    if not count <= len(fields) <= count + 2:
        raise argparse.ArgumentTypeError(f"expected {form}, got {text!r}")
    try:
        numbers = [float(field) for field in fields[:count]]
        return numbers, dict(zip(("frame_idx", "obj_id"), map(int, fields[count:]), strict=False))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected {form} in numbers, got {text!r}") from None


def _checked(text: str, form: str, **fields: Any) -> ObjectPrompt:
    from i2vpp.prompts import ObjectPrompt  # noqa: PLC0415 - NumPy, which `i2vpp --help` does not wait for

    try:
        return ObjectPrompt(**fields)
    except PromptError as error:
        raise argparse.ArgumentTypeError(f"expected {form}, got {text!r}: {error}") from error


def mask_file(text: str) -> MaskFile:
    """Parse `--mask FILE[,frame[,object]]`."""
    match = re.fullmatch(r"(.+?)(?:,(\d+)(?:,(\d+))?)?", text)
    if match is None or match[3] == "0":
        raise argparse.ArgumentTypeError(f"expected {MASK_FORM} with an object id of 1 or more, got {text!r}")
    obj_id = int(match[3]) if match[3] else None
    return MaskFile(path=Path(match[1]), frame_idx=int(match[2] or 0), obj_id=obj_id)


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
    from i2vpp.prompts import PADDING, ObjectPrompt  # noqa: PLC0415 - see `_checked`

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
    from i2vpp.prompts import ObjectPrompt  # noqa: PLC0415

    return [
        ObjectPrompt(frame_idx=file.frame_idx, obj_id=obj_id, mask=mask, file=file.path)
        for obj_id, mask in objects.items()
    ]


def fit_masks(prompts: Iterable[ObjectPrompt], height: int, width: int, *, resize: bool) -> list[ObjectPrompt]:
    """Return prompts whose masks have the size of the video.

    Args:
        prompts: masks may have any size.
        height: video height in pixels.
        width: video width in pixels.
        resize: masks of another size, but of the same aspect ratio, are resized; otherwise they are refused.

    Raises:
        PromptError: a mask does not fit; the message names its file.
    """
    from i2vpp.data.masks import FrameSize  # noqa: PLC0415 - see read_mask

    size = FrameSize(height=height, width=width, resize=resize)

    def fit(prompt: ObjectPrompt) -> ObjectPrompt:
        if prompt.mask is None or prompt.mask.shape == (height, width):
            return prompt
        try:
            size.check(f"mask {prompt.file}", *prompt.mask.shape)
        except DataError as error:
            raise PromptError(str(error) if resize else f"{error}; --resize-masks resizes it") from error
        return replace(prompt, mask=size.fit(prompt.mask.astype("uint8")) > 0)

    return [fit(prompt) for prompt in prompts]


def merge(prompts: Iterable[ObjectPrompt]) -> list[ObjectPrompt]:
    """Join what is said about one object on one frame, sorted by object and frame.

    Raises:
        PromptError: two boxes or two masks for one object and frame, or a mask together with clicks or a box.
    """
    groups: dict[tuple[int, int], list[ObjectPrompt]] = {}
    for prompt in prompts:
        groups.setdefault((prompt.obj_id, prompt.frame_idx), []).append(prompt)
    return [_join(groups[key]) for key in sorted(groups)]


def _join(group: Sequence[ObjectPrompt]) -> ObjectPrompt:
    boxes = [prompt.box for prompt in group if prompt.box is not None]
    masks = [prompt.mask for prompt in group if prompt.mask is not None]
    points = tuple(point for prompt in group for point in prompt.points)
    where = f"object {group[0].obj_id} on frame {group[0].frame_idx}"
    if len(boxes) > 1 or len(masks) > 1:
        raise PromptError(
            f"{where} has {max(len(boxes), len(masks))} {'boxes' if len(boxes) > 1 else 'masks'}; give one"
        )
    if masks and (points or boxes):
        raise PromptError(f"{where} has a mask and also clicks or a box; give one or the other")
    labels = tuple(label for prompt in group for label in prompt.labels)
    return replace(group[0], points=points, labels=labels, box=boxes[0] if boxes else None)
