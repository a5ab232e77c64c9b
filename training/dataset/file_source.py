"""Bases of the sources that read files: a video of annotated images, a source of named items."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from i2vpp.data.files import read_image
from i2vpp.data.frame_folders import natural_key
from i2vpp.data.masks import Mask
from i2vpp.errors import DataError
from i2vpp.session.deep_images import DeepScale
from i2vpp.session.sources import DEEP_SAMPLES
from i2vpp.utils.notices import warn_user
from training.dataset.clips import AnnotatedVideo, Source, problems_of

A = TypeVar("A")
NAMED_IN_ERRORS = 5


@dataclass(kw_only=True, eq=False)
class FileVideo(Generic[A]):
    """An `AnnotatedVideo` of image files with an annotation each; a still image is one of one frame.

    Args:
        name: name of the video, for messages.
        images: the annotated frames.
        annotations: annotation of each frame: a file, or whatever else `read` needs.
        read: takes an annotation and the image that it belongs to; returns the masks [H, W] that are not empty.
        problems: messages about broken annotations that were left out so far, see `problems_of`.
    """

    name: str
    images: tuple[Path, ...]
    annotations: tuple[A, ...]
    read: Callable[[A, Path], Mapping[int, Mask]]
    problems: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        """Count the annotated frames."""
        return len(self.images)

    def image(self, t: int) -> NDArray[np.uint8]:
        """Read a frame as RGB [H, W, 3]."""
        return read_image(self.images[t], self._scale)

    @cached_property
    def _scale(self) -> DeepScale:
        return DeepScale(self.name, lambda: self.images[:: max(1, len(self.images) // DEEP_SAMPLES)])

    def masks(self, t: int) -> Mapping[int, Mask]:
        """Read the masks [H, W] of the objects on a frame, by object id; a still image must have one."""
        masks = self.read(self.annotations[t], self.images[t])
        self.problems += [problem for problem in problems_of(masks) if problem not in self.problems]
        if not masks and len(self) == 1:
            raise DataError(f"no object in the annotation of {self.images[t]}")
        return masks


class FileSource(abc.ABC):
    """A `Source` of named items; a subclass lists the names and says how an item is opened.

    Args:
        images: folder of images, of frame folders or of videos.
        annotations: folder or file of annotations; None: where the dataset has them as it is published.
        include: the only items used; None: all. `part\\photo7` stands for `part/photo7`, unless it is a name itself.
        exclude: items that are not used, written in the same way.
        name: name of the source.

    Attributes:
        names: names of the items that are used, in order.
        missing: names in `include` that are not there; a warning says so.
        problems: entries of the annotations that belong to no item and were left out; a warning says so.
    """

    def __init__(
        self,
        images: Path,
        annotations: Path | None = None,
        *,
        include: frozenset[str] | None = None,
        exclude: frozenset[str] = frozenset(),
        name: str,
    ) -> None:
        self.name = name
        self.problems: list[str] = []
        names, where = self._list(images, annotations)
        there = list(names)
        include, exclude = _with_slashes(include, there), _with_slashes(exclude, there) or frozenset()
        self.names = [item for item in there if (include is None or item in include) and item not in exclude]
        self.missing = sorted((include or frozenset()).difference(there), key=natural_key)
        if self.missing:
            warn_user(
                f"source {name!r}: {len(self.missing)} of {len(include or ())} items to include are not in {where} and "
                f"are left out: {_some(self.missing)}; it holds {_some(there) or 'nothing'}"
            )
        if self.problems:
            warn_user(
                f"source {name!r}: {len(self.problems)} broken entries of {where} are left out: {_some(self.problems)}"
            )

    def __len__(self) -> int:
        """Count the items."""
        return len(self.names)

    def __getitem__(self, index: int) -> AnnotatedVideo:
        """Open an item."""
        return self._open(self.names[index])

    @abc.abstractmethod
    def _list(self, images: Path, annotations: Path | None) -> tuple[Iterable[str], Path]:
        """Find the names of all items, and say what holds them, for messages."""

    @abc.abstractmethod
    def _open(self, item: str) -> AnnotatedVideo: ...


def name_of(source: Source, index: int) -> str:
    """Return the name of an item without opening it, for messages.

    Args:
        source: any source.
        index: index of the item.
    """
    return source.names[index] if isinstance(source, FileSource) else f"item {index}"


def _with_slashes(names: frozenset[str] | None, there: list[str]) -> frozenset[str] | None:
    """Return the names of a list, with slashes for the backslashes of Windows in those that are not there."""
    known = frozenset(there)
    return names and frozenset(name if name in known else name.replace("\\", "/") for name in names)


def _some(names: list[str]) -> str:
    return ", ".join(names[:NAMED_IN_ERRORS]) + (", ..." if len(names) > NAMED_IN_ERRORS else "")
