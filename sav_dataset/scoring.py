"""How the objects of a video are scored: J and F in percent, on the frames that the ground truth has masks of.

A prediction that is missing there is an empty mask.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from i2vpp.evaluation.metrics import ObjectScore, boundary_f, jaccard
from training.dataset.errors import DataError
from training.dataset.files import Mask, read_index_mask
from training.dataset.palette import BACKGROUND, IGNORED

Values: TypeAlias = "NDArray[np.integer[Any]]"

NAMED = 5  # values in a message


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
        never_seen: names of objects whose true mask is empty on all scored frames.
        strange: values of the predictions that are no object of the ground truth.
    """

    objects: tuple[ObjectResult, ...] = ()
    unscored: tuple[str, ...] = ()
    never_seen: tuple[str, ...] = ()
    strange: tuple[int, ...] = ()


class Item(Protocol):
    """What is scored in one go: an object of SA-V, or a video of index masks."""

    @property
    def video(self) -> str:
        """Name the video."""

    @property
    def name(self) -> str:
        """Name the item: `<video>`, or `<video>/<object>`."""

    @property
    def scored_frames(self) -> Sequence[str]:
        """Name the frames on which any object may be scored."""

    @property
    def truths(self) -> Mapping[str, Path]:
        """Return the true PNGs by frame, in order."""

    @property
    def predictions(self) -> Mapping[str, Path]:
        """Return the predicted PNGs by frame."""

    def score(self) -> Scored:
        """Score all objects; DataError names files that do not fit."""

    def masks(self, obj: str, frame: str) -> tuple[Mask, Mask]:
        """Return the predicted and the true mask [H, W] of an object on a scored frame."""


def score_or_problem(item: Item) -> Scored | str:
    """Score an item, or return what is wrong with it, so that others can still be looked at."""
    try:
        return item.score()
    except DataError as error:
        return str(error)


@dataclass(kw_only=True)
class _Track:
    """Scores of an object as frames come."""

    frames: list[str] = field(default_factory=list)
    j: list[float] = field(default_factory=list)
    f: list[float] = field(default_factory=list)
    seen: bool = False

    def add(self, frame: str, pred: Mask, truth: Mask) -> None:
        self.frames.append(frame)
        self.j.append(100 * jaccard(pred, truth))
        self.f.append(100 * boundary_f(pred, truth))
        self.seen = self.seen or bool(truth.any())

    def result(self, video: str, name: str) -> ObjectResult:
        return ObjectResult(
            video=video, object=name, frames=tuple(self.frames), frame_j=tuple(self.j), frame_f=tuple(self.f)
        )


def _collect(video: str, tracks: Mapping[str, _Track], strange: Collection[int] = ()) -> Scored:
    return Scored(
        objects=tuple(track.result(video, name) for name, track in tracks.items() if track.frames),
        unscored=tuple(f"{video}/{name}" for name, track in tracks.items() if not track.frames),
        never_seen=tuple(f"{video}/{name}" for name, track in tracks.items() if track.frames and not track.seen),
        strange=tuple(sorted(strange)),
    )


@dataclass(frozen=True, kw_only=True)
class SavObject:
    """An object of SA-V: scored on the frames that its own folder has PNGs of.

    Args:
        video: its name.
        object: name of its folder.
        truths: true PNGs by frame, in order.
        predictions: predicted PNGs by frame.
        skip_ends: leave out the first and the last annotated frame.
    """

    video: str
    object: str
    truths: Mapping[str, Path]
    predictions: Mapping[str, Path]
    skip_ends: bool

    @property
    def name(self) -> str:
        """Video and object."""
        return f"{self.video}/{self.object}"

    @property
    def scored_frames(self) -> Sequence[str]:
        """Name the scored frames."""
        return _inner(self.truths, self.skip_ends)

    def score(self) -> Scored:
        """Score the object."""
        track = _Track()
        for frame in self.scored_frames:
            track.add(frame, *self.masks(self.object, frame))
        return _collect(self.video, {self.object: track})

    def masks(self, obj: str, frame: str) -> tuple[Mask, Mask]:
        """Return the predicted and the true mask [H, W]."""
        truth = _read_binary(self.truths[frame])
        if (path := self.predictions.get(frame)) is None:
            return np.zeros_like(truth), truth
        return _same_size(_read_binary(path), path, truth, self.truths[frame]), truth


@dataclass(frozen=True, kw_only=True)
class PaletteVideo:
    """A video of index masks: each object is scored from the first true mask that shows it.

    What a prediction says of an object before that is not looked at, as benchmarks give the object only there. With
    `skip_ends` that frame itself and the last annotated one are left out.

    Args:
        video: its name.
        truths: true PNGs by frame, in order.
        predictions: predicted PNGs by frame.
        skip_ends: leave out the frame on which an object is given, and the last annotated one.
        merge: all values but 0 are one object.
    """

    video: str
    truths: Mapping[str, Path]
    predictions: Mapping[str, Path]
    skip_ends: bool
    merge: bool = False

    @property
    def name(self) -> str:
        """The video."""
        return self.video

    @property
    def scored_frames(self) -> Sequence[str]:
        """Name the frames on which an object may be scored, if it appeared by then."""
        return _inner(self.truths, self.skip_ends)

    def score(self) -> Scored:
        """Score all objects of the video."""
        tracks: dict[int, _Track] = {}
        strange: set[int] = set()
        scored = set(self.scored_frames)
        for frame in self.truths:
            truth = self._truth(frame)
            before = list(tracks)
            for obj_id in object_ids(truth):
                tracks.setdefault(obj_id, _Track())
            given = before if self.skip_ends else list(tracks)
            if frame not in scored or not given:
                continue
            pred = self._prediction(frame, truth)
            for obj_id in given:
                tracks[obj_id].add(frame, pred == obj_id, truth == obj_id)
            strange.update(np.flatnonzero(np.bincount(pred.ravel())).tolist())
        if not tracks:
            raise DataError(
                f"the true masks of {self.video} show no object, only {BACKGROUND} and {IGNORED} (ignored), such as "
                f"{next(iter(self.truths.values()))}; where {IGNORED} is the one object, as in DAVIS 2016, merge the "
                "objects (--merge_objects)"
            )
        named = {str(obj_id): tracks[obj_id] for obj_id in sorted(tracks)}
        return _collect(self.video, named, strange - {BACKGROUND, *tracks})

    def masks(self, obj: str, frame: str) -> tuple[Mask, Mask]:
        """Return the predicted and the true mask [H, W] of an object."""
        truth = self._truth(frame)
        return self._prediction(frame, truth) == int(obj), truth == int(obj)

    def _truth(self, frame: str) -> Values:
        return self._merged(read_index_mask(self.truths[frame]))

    def _prediction(self, frame: str, truth: Values) -> Values:
        if (path := self.predictions.get(frame)) is None:
            return np.zeros_like(truth)
        return self._merged(_same_size(read_index_mask(path), path, truth, self.truths[frame]))

    def _merged(self, values: Values) -> Values:
        return (values != BACKGROUND).astype(np.uint8) if self.merge else values


def object_ids(values: Values) -> list[int]:
    """Return the object ids in an index mask, in order: all values but 0 and 255."""
    return [int(value) for value in np.flatnonzero(np.bincount(values.ravel())) if value not in (BACKGROUND, IGNORED)]


def _inner(frames: Collection[str], skip_ends: bool) -> Sequence[str]:
    names = list(frames)
    return names[1:-1] if skip_ends else names


def _read_binary(path: Path) -> Mask:
    values = read_index_mask(path)
    mask = values != BACKGROUND
    if (values[mask] != values.max()).any():
        ids = ", ".join(map(str, np.unique(values[mask])[:NAMED]))
        raise DataError(
            f"mask {path} has the values {ids} beside 0; in the layout of SA-V a PNG shows one object, as 0 and one "
            "other value; PNGs that hold several objects are scored with --layout davis, the ground truth likewise"
        )
    return mask


def _same_size(pred: NDArray[Any], path: Path, truth: NDArray[Any], truth_path: Path) -> NDArray[Any]:
    if pred.shape != truth.shape:
        raise DataError(
            f"the prediction {path} is {pred.shape[1]} x {pred.shape[0]} pixels, but the true mask {truth_path} is "
            f"{truth.shape[1]} x {truth.shape[0]}; write masks at the size of the video"
        )
    return pred
