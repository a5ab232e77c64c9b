"""What an annotation consists of: objects, prompts and masks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from i2vpp.annotate.storage.masks import Stroke, covered, decode_runs, encode_runs, runs_area
from i2vpp.errors import PromptError
from i2vpp.prompts.checks import Box, check_box, clip_box_to_frame, clip_to_frame
from i2vpp.utils.arrays import Mask
from i2vpp.utils.json_values import json_flag, json_list, json_numbers, json_object
from i2vpp.utils.values import Array, shown

NAN = float("nan")
MAX_NAME = 100
POLYGON_CORNERS = 3
_COLOR = re.compile(r"#[0-9a-f]{6}")


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """All prompts of one object on one frame, in pixels of the video; false if there are none.

    Args:
        points: x, y, label (1 belongs to the object, 0 does not).
        box: x0, y0, x1, y1.
        strokes: painted in their order onto the mask that the rest gives.
        imported: the mask comes from a file and is a prompt as it is.
    """

    points: tuple[tuple[float, float, int], ...] = ()
    box: Box | None = None
    strokes: tuple[Stroke, ...] = ()
    imported: bool = False

    def __bool__(self) -> bool:
        return bool(self.points or self.box or self.strokes or self.imported)

    def to_json(self) -> dict[str, Any]:
        """Return lists, numbers and booleans for JSON."""
        strokes = [{"points": [list(p) for p in s.points], "radius": s.radius, "erase": s.erase} for s in self.strokes]
        return {
            "points": [list(point) for point in self.points],
            "box": None if self.box is None else list(self.box),
            "strokes": strokes,
            "imported": self.imported,
        }

    @classmethod
    def from_json(cls, value: Any) -> Prompts:
        """Read what `to_json` returned; keys may be missing.

        Raises:
            PromptError: anything else; the message says what and where.
        """
        fields = json_object("prompts", value, {"points", "box", "strokes", "imported"})
        box = fields.get("box")
        points = json_list("points", fields.get("points", []))
        strokes = json_list("strokes", fields.get("strokes", []))
        return cls(
            points=tuple(_point(f"points[{i}]", point) for i, point in enumerate(points)),
            box=None if box is None else _corners(check_box(json_numbers("box", box, "x0, y0, x1, y1"))),
            strokes=tuple(_stroke(f"strokes[{i}]", stroke) for i, stroke in enumerate(strokes)),
            imported=json_flag("imported", fields.get("imported", False)),
        )

    def inside(self, height: int, width: int) -> Prompts:
        """Return the prompts with points and box inside the frame.

        Those that leave the frame by up to `OVERSHOOT` pixels are moved to its edge.

        Args:
            height: video height in pixels.
            width: video width in pixels.

        Raises:
            PromptError: something is further out.
        """
        places = np.array([point[:2] for point in self.points]).reshape(-1, 2)
        kept = clip_to_frame("points", places, width=width, height=height).tolist()
        points = tuple((x, y, label) for (x, y), (_, _, label) in zip(kept, self.points, strict=True))
        box = None if self.box is None else _corners(clip_box_to_frame(self.box, width=width, height=height))
        return replace(self, points=points, box=box)


@dataclass(frozen=True, kw_only=True)
class ObjectInfo:
    """An object of the video.

    Args:
        id: 1 to 255, as in the mask files.
        name: name for people.
        color: `#rrggbb`.
        hidden: not drawn.
        locked: its prompts and masks are not to be changed; the store only keeps this flag.
        label: number of the label that says what kind of thing it is; None: it has none.
    """

    id: int
    name: str
    color: str
    hidden: bool = False
    locked: bool = False
    label: int | None = None


@dataclass(frozen=True, kw_only=True)
class StoredMask:
    """The mask of one object on one frame.

    Args:
        runs: run lengths, see `encode_runs`.
        area: pixels set.
        score: object score, a logit (positive = visible); NaN if unknown.
        iou: predicted IoU, 0 to 1; NaN if unknown.
    """

    runs: bytes
    area: int
    score: float = NAN
    iou: float = NAN

    @classmethod
    def of(cls, mask: Mask, *, score: float = NAN, iou: float = NAN) -> StoredMask:
        """Encode a mask.

        Args:
            mask: bool [H, W].
            score: object score, a logit; NaN if unknown.
            iou: predicted IoU; NaN if unknown.
        """
        runs = encode_runs(mask)
        return cls(runs=runs, area=runs_area(runs), score=score, iou=iou)

    def decode(self, height: int, width: int) -> Mask:
        """Return the bool mask [H, W].

        Args:
            height: height in pixels.
            width: width in pixels.
        """
        return decode_runs(self.runs, (height, width))

    def check_size(self, height: int, width: int) -> None:
        """Check that the run lengths are those of a mask of the given size and of `area` pixels.

        Args:
            height: height in pixels.
            width: width in pixels.

        Raises:
            ValueError: they are not.
        """
        if covered(self.runs) != height * width or runs_area(self.runs) != self.area:
            raise ValueError(f"the runs are no mask of {width} x {height} pixels with an area of {self.area}")


@dataclass(frozen=True, kw_only=True)
class Touched:
    """What was changed.

    Args:
        objects: ids that were added, deleted or changed.
        prompts: (object, frame) whose prompts changed.
        masks: (object, frame) whose mask changed.
        labels: numbers of labels that changed, and of objects whose label did.
        marks: (object, frame) where it changed what is accepted, stale, or known of tracking.
    """

    objects: frozenset[int] = frozenset()
    prompts: frozenset[tuple[int, int]] = frozenset()
    masks: frozenset[tuple[int, int]] = frozenset()
    labels: frozenset[int] = frozenset()
    marks: frozenset[tuple[int, int]] = frozenset()

    @classmethod
    def of(cls, keys: Mapping[str, Iterable[tuple[int, int]]]) -> Touched:
        """Return what rows belong to, by the names of their tables."""
        return cls(
            objects=frozenset(obj_id for obj_id, _ in keys["objects"]),
            prompts=frozenset(keys["prompts"]),
            masks=frozenset(keys["masks"]),
            labels=frozenset(number for table in ("labels", "classes") for number, _ in keys[table]),
            marks=frozenset(key for table in ("tracking", "reviewed") for key in keys[table]),
        )

    def __len__(self) -> int:
        alone = self.marks - self.masks - self.prompts
        begins = sum((obj_id, frame - 1) not in alone for obj_id, frame in alone)  # told as runs of frames
        return len(self.objects) + len(self.prompts) + len(self.masks) + len(self.labels) + begins

    def __or__(self, other: Touched) -> Touched:
        return Touched(
            objects=self.objects | other.objects,
            prompts=self.prompts | other.prompts,
            masks=self.masks | other.masks,
            labels=self.labels | other.labels,
            marks=self.marks | other.marks,
        )


@dataclass(frozen=True, kw_only=True)
class Change(Touched):
    """What undo or redo has changed.

    Args:
        label: label of the step.
    """

    label: str


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What the list of videos shows of an annotation.

    Args:
        objects: how many.
        annotated: frames with at least one mask.
        frames: frames of the video; None where that is not known.
        width: width of the video in pixels.
        height: height of the video in pixels.
        state: how far the work is, one of `cells.VIDEO_STATES`.
    """

    objects: int
    annotated: int
    frames: int | None
    width: int
    height: int
    state: str


def joint_name(infos: Sequence[ObjectInfo]) -> str:
    """Return what some objects are called in labels of steps and jobs: the name of the only one, or their number."""
    return infos[0].name if len(infos) == 1 else f"{len(infos)} objects"


def check_name(name: Any) -> str:
    """Return an object's name without outer spaces; raise PromptError if it is none."""
    text = name.strip() if isinstance(name, str) else ""
    if not 1 <= len(text) <= MAX_NAME or not text.isprintable():
        raise PromptError(f"name must be 1 to {MAX_NAME} printable characters; got {name!r:.120}")
    return text


def check_color(color: Any) -> str:
    """Return a colour in lower case; raise PromptError if it is not `#rrggbb`."""
    text = color.lower() if isinstance(color, str) else ""
    if not _COLOR.fullmatch(text):
        raise PromptError(f"color must be #rrggbb, such as #1f77b4; got {color!r:.40}")
    return text


def _point(name: str, value: Any) -> tuple[float, float, int]:
    x, y, label = json_numbers(name, value, "x, y, label")
    if label not in (0, 1):
        raise PromptError(f"the label of {name} must be 1 (add) or 0 (remove); got {shown(label)}")
    return x, y, int(label)


def _corners(box: Array) -> Box:
    x0, y0, x1, y1 = box.flatten().tolist()
    return x0, y0, x1, y1


def _stroke(name: str, value: Any) -> Stroke:
    fields = json_object(name, value, {"points", "radius", "erase"})
    points = json_list(f"{name}.points", fields.get("points"))
    radius = _radius(f"{name}.radius", fields.get("radius", 0))
    least = POLYGON_CORNERS if radius is None else 1
    if len(points) < least:
        raise PromptError(f"{name}.points must hold {least} or more; got {len(points)}")
    line = [json_numbers(f"{name}.points[{i}]", point, "x, y") for i, point in enumerate(points)]
    erase = json_flag(f"{name}.erase", fields.get("erase"))
    return Stroke(points=tuple((x, y) for x, y in line), radius=radius, erase=erase)


def _radius(name: str, value: Any) -> float | None:
    """Return the radius of a brush, or None for a polygon."""
    if value is None:
        return None
    (radius,) = json_numbers(name, value, "radius")
    if radius <= 0:
        raise PromptError(f"{name} must be positive, or null for a polygon; got {shown(radius)}")
    return radius
