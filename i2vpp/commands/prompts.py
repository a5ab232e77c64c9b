"""Prompts of the command line: options, mask images and JSON files become one list of `ObjectPrompt`."""

from __future__ import annotations

import argparse
import difflib
import json
import math
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from i2vpp.errors import DataError, PromptError
from i2vpp.utils.brief import brief
from i2vpp.utils.json_files import read_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_MOST_SHOWN = 100  # characters of a value in a message
LABELS = (-1, 0, 1, 2, 3)
MOST_NUMBER = 2**31 - 1  # of a frame or an object
JSON_KEYS = ("frame", "object", "points", "labels", "box", "mask")

POINT_FORM = "x,y[,frame[,object]]"
BOX_FORM = "x0,y0,x1,y1[,frame[,object]]"
MASK_FORM = "FILE[,frame[,object]]"

Box = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True, eq=False)
class ObjectPrompt:
    """What the user says about one object on one frame: clicks and a box, or a mask.

    Args:
        frame_idx: index of the frame.
        obj_id: 1 or more; 0 is the background.
        points: (x, y) in pixels.
        labels: of the points, 1 positive, 0 negative.
        box: x0, y0, x1, y1 in pixels.
        mask: [H, W] bool.
        file: that the mask was read from.
    """

    frame_idx: int = 0
    obj_id: int = 1
    points: tuple[tuple[float, float], ...] = ()
    labels: tuple[int, ...] = ()
    box: Box | None = None
    mask: NDArray[np.bool_] | None = None
    file: Path | None = None


@dataclass(frozen=True, kw_only=True)
class MaskFile:
    """A mask image named by the user; without `obj_id`, its values or colours are objects."""

    path: Path
    frame_idx: int = 0
    obj_id: int | None = None


def positive_point(text: str) -> ObjectPrompt:
    """Parse `--point x,y[,frame[,object]]`."""
    return _parse_point(text, 1)


def negative_point(text: str) -> ObjectPrompt:
    """Parse `--negative x,y[,frame[,object]]`."""
    return _parse_point(text, 0)


def _parse_point(text: str, label: int) -> ObjectPrompt:
    (x, y), frame_idx, obj_id = _numbers(text, 2, POINT_FORM)
    return ObjectPrompt(frame_idx=frame_idx, obj_id=obj_id, points=((x, y),), labels=(label,))


def box(text: str) -> ObjectPrompt:
    """Parse `--box x0,y0,x1,y1[,frame[,object]]`."""
    (x0, y0, x1, y1), frame_idx, obj_id = _numbers(text, 4, BOX_FORM)
    if not (x0 < x1 and y0 < y1):
        raise argparse.ArgumentTypeError(f"expected {BOX_FORM} with x0 < x1 and y0 < y1, got {text!r}")
    return ObjectPrompt(frame_idx=frame_idx, obj_id=obj_id, box=(x0, y0, x1, y1))


def mask_file(text: str) -> MaskFile:
    """Parse `--mask FILE[,frame[,object]]`."""
    match = re.fullmatch(r"(.+?)(?:,(\d+)(?:,(\d+))?)?", text)
    if match is None or match[3] == "0":
        raise argparse.ArgumentTypeError(f"expected {MASK_FORM} with an object id of 1 or more, got {text!r}")
    obj_id = int(match[3]) if match[3] else None
    return MaskFile(path=Path(match[1]), frame_idx=int(match[2] or 0), obj_id=obj_id)


def _numbers(text: str, count: int, form: str) -> tuple[list[float], int, int]:
    """Split `count` coordinates, a frame and an object id."""
    fields = text.split(",")
    if not count <= len(fields) <= count + 2:
        raise argparse.ArgumentTypeError(f"expected {form}, got {text!r}")
    try:
        coordinates = [float(field) for field in fields[:count]]
        rest = [int(field) for field in fields[count:]]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected {form} in numbers, got {text!r}") from None
    frame_idx = rest[0] if rest else 0
    obj_id = rest[1] if len(rest) > 1 else 1
    if not all(map(math.isfinite, coordinates)) or frame_idx < 0 or obj_id < 1:
        raise argparse.ArgumentTypeError(
            f"expected {form} with finite coordinates, a frame of 0 or more and an object id of 1 or more, got {text!r}"
        )
    return coordinates, frame_idx, obj_id


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
    if not isinstance(entry, dict):
        raise PromptError(f"expected an object with the keys {', '.join(JSON_KEYS)}, got {_shown(entry)}")
    for key in entry:
        if key not in JSON_KEYS:
            near = difflib.get_close_matches(key, JSON_KEYS, 1, 0.4)
            hint = f"did you mean {near[0]!r}?" if near else f"the keys are {', '.join(JSON_KEYS)}"
            raise PromptError(f"unknown key {brief(key)}; {hint}")
    frame_idx = _json_integer(entry, "frame", default=0, least=0)
    obj_id = _json_integer(entry, "object", default=1, least=1)
    points = tuple((x, y) for x, y in (_json_floats(point, "points", 2) for point in _json_list(entry, "points")))
    labels = tuple(_json_list(entry, "labels")) if "labels" in entry else (1,) * len(points)
    if len(labels) != len(points) or any(type(label) is not int or label not in LABELS for label in labels):
        raise PromptError(
            f"labels must hold 1 (positive) or 0 (negative) for each of {len(points)} points, 2 and 3 for the corners "
            f"of a box, or -1 for padding; got {_shown(list(labels))}"
        )
    corners = _json_box(entry["box"]) if "box" in entry else None
    if "mask" not in entry:
        if not points and corners is None:
            raise PromptError("there must be points, a box or a mask")
        return [ObjectPrompt(frame_idx=frame_idx, obj_id=obj_id, points=points, labels=labels, box=corners)]
    if points or corners is not None:
        raise PromptError("a mask cannot be combined with points or a box")
    if not isinstance(entry["mask"], str):
        raise PromptError(f"mask must be the name of an image file, got {_shown(entry['mask'])}")
    given = obj_id if "object" in entry else None
    return read_mask(MaskFile(path=folder / entry["mask"], frame_idx=frame_idx, obj_id=given))


def _shown(value: Any) -> str:
    """Return the beginning of a value's spelling in JSON."""
    try:
        text = json.dumps(value)
    except RecursionError:
        return "lists and objects that are nested too deeply"
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


def _json_integer(entry: dict[str, Any], key: str, *, default: int, least: int) -> int:
    value = entry.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise PromptError(f"{key} must be an integer of {least} or more, got {_shown(value)}")
    if value > MOST_NUMBER:
        raise PromptError(f"{key} must be at most {MOST_NUMBER}, got {_shown(value)}")
    return value


def _json_list(entry: dict[str, Any], key: str) -> list[Any]:
    value = entry.get(key, [])
    if not isinstance(value, list):
        raise PromptError(f"{key} must be a list, got {_shown(value)}")
    return value


def _json_floats(value: Any, key: str, count: int) -> list[float]:
    form = "[x, y]" if count == 2 else "[x0, y0, x1, y1]"
    if not isinstance(value, list) or len(value) != count:
        raise PromptError(f"{key}: expected {form}, got {_shown(value)}")
    if not all(type(number) in (int, float) and abs(number) <= sys.float_info.max for number in value):
        raise PromptError(f"{key}: expected {form} in numbers, got {_shown(value)}")
    return [float(number) for number in value]


def _json_box(value: Any) -> Box:
    x0, y0, x1, y1 = _json_floats(value, "box", 4)
    if not (x0 < x1 and y0 < y1):
        raise PromptError(f"box: expected [x0, y0, x1, y1] with x0 < x1 and y0 < y1, got {_shown(value)}")
    return x0, y0, x1, y1


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
    return [
        ObjectPrompt(frame_idx=file.frame_idx, obj_id=obj_id, mask=mask, file=file.path)
        for obj_id, mask in objects.items()
    ]


def fit_masks(prompts: Iterable[ObjectPrompt], height: int, width: int, *, resize: bool) -> list[ObjectPrompt]:
    """Return prompts whose masks have the size of the video.

    Args:
        prompts: masks may have any size.
        height: of the video in pixels.
        width: of the video in pixels.
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
    return ObjectPrompt(
        frame_idx=group[0].frame_idx,
        obj_id=group[0].obj_id,
        points=points,
        labels=tuple(label for prompt in group for label in prompt.labels),
        box=boxes[0] if boxes else None,
        mask=masks[0] if masks else None,
        file=group[0].file,
    )
