"""How the objects of a video are scored: J and F in percent, on those annotated frames that count (`Scoring`).

A prediction that is missing there is an empty mask.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from i2vpp.data.masks import BACKGROUND, IGNORED, Mask, Values, VideoMasks
from i2vpp.errors import DataError
from i2vpp.evaluation.metrics import ObjectScore, boundary_f, jaccard
from sav_dataset.rules import Scoring

NAMED = 5  # values in a message
BOTH_EMPTY = 100.0, 100.0
"""J and F of a frame on which neither mask shows the object."""


@dataclass(frozen=True, kw_only=True)
class ObjectResult(ObjectScore):
    """How well one object was followed, in percent.

    Args:
        video: its name.
        object: name of the object's folder (SA-V, such as `000`), or its id.
        frames: names of the scored frames.
        frame_j: J of each of them.
        frame_f: F of each of them.
    """

    video: str
    object: str
    frames: tuple[str, ...]

    @property
    def name(self) -> str:
        """Video and object."""
        return f"{self.video}/{self.object}"


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What was found out about an item.

    Args:
        objects: those with a frame to score.
        unscored: names of objects without one, because they are annotated on too few frames.
        never_seen: names of objects whose true mask is empty on all scored frames; the rule says if they count.
        values: of predicted index masks on the scored frames, but 0.
        strange: those of `values` that are no object of the ground truth.
    """

    objects: tuple[ObjectResult, ...] = ()
    unscored: tuple[str, ...] = ()
    never_seen: tuple[str, ...] = ()
    values: tuple[int, ...] = ()
    strange: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Item(ABC):
    """What is scored in one go: an object of SA-V, or a video of index masks.

    Args:
        video: name of the video.
        truths: true PNGs by frame, in order.
        predictions: predicted PNGs by the names of the true ones.
        scoring: which frames count, and whether all objects of a video are one.
    """

    video: str
    truths: Mapping[str, Path]
    predictions: Mapping[str, Path]
    scoring: Scoring

    @property
    def name(self) -> str:
        """Name of the item: `<video>`, or `<video>/<object>`."""
        return self.video

    @property
    def scored_frames(self) -> Sequence[str]:
        """Names of the frames on which any object may be scored."""
        return self.scoring.scored_frames(self.truths)

    @abstractmethod
    def score(self) -> Scored:
        """Score all objects.

        Raises:
            DataError: files are damaged or do not fit; the message names them.
        """

    @abstractmethod
    def masks(self, obj: str, frame: str) -> tuple[Mask, Mask]:
        """Read the predicted and the true mask [H, W] of an object.

        Args:
            obj: name of the object.
            frame: name of a scored frame.

        Returns:
            The predicted and the true mask, of the same size.

        Raises:
            DataError: a file is damaged, or their sizes differ.
        """

    @abstractmethod
    def _read(self, path: Path, *, truth: bool) -> NDArray[Any]:
        """Read the values [H, W] of a PNG; `truth` says whether it is a true one."""

    def _truth(self, frame: str) -> NDArray[Any]:
        return self._read(self.truths[frame], truth=True)

    def _prediction(self, frame: str, truth: NDArray[Any]) -> NDArray[Any]:
        """Read the predicted values of a frame, of the size of the true ones; a missing prediction is empty."""
        if (path := self.predictions.get(frame)) is None:
            return np.zeros_like(truth)
        pred = self._read(path, truth=False)
        if pred.shape != truth.shape:
            raise DataError(
                f"the prediction {path} is {pred.shape[1]} x {pred.shape[0]} pixels, but the true mask "
                f"{self.truths[frame]} is {truth.shape[1]} x {truth.shape[0]}; write masks at the size of the video"
            )
        return pred


def score_or_problem(item: Item) -> Scored | str:
    """Score an item, or return what is wrong with it, so that the others are still looked at."""
    try:
        return item.score()
    except DataError as error:
        return str(error)


@dataclass(kw_only=True)
class _Sightings:
    """The frames that show one object of a video, and its scores on them."""

    shown: set[str] = field(default_factory=set)
    """Annotated frames on which the true mask shows it."""
    scores: dict[str, tuple[float, float]] = field(default_factory=dict)
    """J and F of the scored frames on which the true or the predicted mask shows it."""

    def add(self, frame: str, truth: Mask, pred: Mask | None) -> None:
        """Add an annotated frame; `pred` is None where the frame is not scored."""
        if truth.any():
            self.shown.add(frame)
        if pred is not None and (frame in self.shown or pred.any()):
            self.scores[frame] = 100 * jaccard(pred, truth), 100 * boundary_f(pred, truth)

    def result(self, video: str, name: str, frames: Sequence[str]) -> ObjectResult:
        """Score the object on the frames that count for it."""
        scores = [self.scores.get(frame, BOTH_EMPTY) for frame in frames]
        return ObjectResult(
            video=video,
            object=name,
            frames=tuple(frames),
            frame_j=tuple(j for j, _ in scores),
            frame_f=tuple(f for _, f in scores),
        )


def _collect(item: Item, sightings: Mapping[str, _Sightings], scoring: Scoring, values: Collection[int] = ()) -> Scored:
    """Score the objects of an item, which are given by name, on the frames that count."""
    frames = {
        name: scoring.counted_frames(item.truths, seen.shown, seen.scores.keys()) for name, seen in sightings.items()
    }
    scored = item.scored_frames
    never_seen = [name for name, seen in sightings.items() if scored and seen.shown.isdisjoint(scored)]
    return Scored(
        objects=tuple(sightings[name].result(item.video, name, counted) for name, counted in frames.items() if counted),
        unscored=tuple(
            f"{item.video}/{name}" for name, counted in frames.items() if not counted and name not in never_seen
        ),
        never_seen=tuple(f"{item.video}/{name}" for name in never_seen),
        values=tuple(sorted(values)),
        strange=tuple(value for value in sorted(values) if str(value) not in sightings),
    )


@dataclass(frozen=True, kw_only=True)
class SavItem(Item):
    """An object of SA-V: scored on the frames that its own folder has PNGs of.

    Args:
        object: name of its folder.
    """

    object: str

    @property
    def name(self) -> str:
        """Video and object."""
        return f"{self.video}/{self.object}"

    def score(self) -> Scored:
        """Score the object."""
        seen, scored = _Sightings(), set(self.scored_frames)
        for frame in self.truths:
            truth = self._truth(frame)
            seen.add(frame, truth, self._prediction(frame, truth) if frame in scored else None)
        return _collect(self, {self.object: seen}, self.scoring)

    def masks(self, obj: str, frame: str) -> tuple[Mask, Mask]:
        """Read the predicted and the true mask [H, W]; see `Item.masks`."""
        truth = self._truth(frame)
        return self._prediction(frame, truth), truth

    def _read(self, path: Path, *, truth: bool) -> NDArray[Any]:
        return _read_binary(path)


@dataclass(frozen=True, kw_only=True)
class PaletteItem(Item):
    """A video of index masks, whose objects are the values of its true masks."""

    def score(self) -> Scored:
        """Score all objects of the video.

        Raises:
            DataError: files are damaged or do not fit, or no true mask shows an object.
        """
        sightings: dict[int, _Sightings] = defaultdict(_Sightings)
        values: set[int] = set()
        scored = set(self.scored_frames)
        for frame in self.truths:
            truth = self._truth(frame)
            pred = self._prediction(frame, truth) if frame in scored else None
            found = [] if pred is None else object_ids(pred)
            for obj_id in {*object_ids(truth), *found}:
                sightings[obj_id].add(frame, truth == obj_id, None if pred is None else pred == obj_id)
            if pred is not None:
                values.update(np.flatnonzero(np.bincount(pred.ravel())).tolist())
        objects = {str(obj_id): sightings[obj_id] for obj_id in sorted(sightings) if sightings[obj_id].shown}
        if not objects:
            raise DataError(
                f"the true masks of {self.video} show no object, only {BACKGROUND} and {IGNORED} (ignored), such as "
                f"{next(iter(self.truths.values()))}; where {IGNORED} is the one object, as in DAVIS 2016, merge the "
                "objects (--merge-objects)"
            )
        return _collect(self, objects, self.scoring, values - {BACKGROUND})

    def masks(self, obj: str, frame: str) -> tuple[Mask, Mask]:
        """Read the predicted and the true mask [H, W] of an object; see `Item.masks`."""
        truth = self._truth(frame)
        return self._prediction(frame, truth) == int(obj), truth == int(obj)

    def _read(self, path: Path, *, truth: bool) -> NDArray[Any]:
        values = (self._true_masks if truth else self._predicted_masks).ids(path)
        return (values != BACKGROUND).astype(np.uint8) if self.scoring.merge else values

    @cached_property
    def _true_masks(self) -> VideoMasks:
        return VideoMasks(self.truths.values(), lone_255=False)

    @cached_property
    def _predicted_masks(self) -> VideoMasks:
        return VideoMasks(self.predictions.values(), lone_255=False, like=self._true_masks)


def object_ids(values: Values) -> list[int]:
    """Return the object ids in an index mask, in order: all values but 0 and 255."""
    return [int(value) for value in np.flatnonzero(np.bincount(values.ravel())) if value not in (BACKGROUND, IGNORED)]


def _read_binary(path: Path) -> Mask:
    values = VideoMasks([path]).ids(path)
    mask = values != BACKGROUND
    if (values[mask] != values.max()).any():
        ids = ", ".join(map(str, np.unique(values[mask])[:NAMED]))
        raise DataError(
            f"mask {path} has the values {ids} beside 0; in the layout of SA-V a PNG shows one object, as 0 and one "
            "other value; PNGs that hold several objects are scored with --layout davis, the ground truth likewise"
        )
    return mask
