"""Prompts of the command line: options, mask images and JSON files become one list of `ObjectPrompt`."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from i2vpp.errors import DataError, PromptError
from i2vpp.prompts.files import MASK_FORM, MaskFile

if TYPE_CHECKING:
    from i2vpp.prompts.checks import ObjectPrompt

POINT_FORM = "x,y[,frame[,object]]"
BOX_FORM = "x0,y0,x1,y1[,frame[,object]]"


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
    from i2vpp.prompts.checks import ObjectPrompt  # noqa: PLC0415 - NumPy, which `i2vpp --help` does not wait for

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
    from i2vpp.data.masks import FrameSize  # noqa: PLC0415 - keeps `i2vpp --help` instant

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
