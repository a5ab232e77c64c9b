"""The steps of a propagation: which frames in which direction, and what may be decoded ahead."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from i2vpp.session.sources import FrameSource


class Step(NamedTuple):
    """One frame of a propagation.

    Args:
        frame_idx: the frame.
        reverse: tracking runs towards frame 0.
        ahead: frames from this one on that may be decoded ahead.
    """

    frame_idx: int
    reverse: bool
    ahead: range


@dataclass(frozen=True, kw_only=True)
class Pass:
    """Frames to visit in one direction.

    Args:
        order: the frames; those past the end of a source of unknown length are left out.
        ending: the source whose end is not known yet, or None if all frames of `order` exist.
    """

    order: range
    ending: FrameSource | None = None

    @classmethod
    def forward(cls, source: FrameSource, first: int, limit: int | None) -> Pass:
        """Visit frames up to the end of the video.

        Args:
            source: the video.
            first: the first frame.
            limit: largest number of frames after the first; None for all.

        Returns:
            The pass.
        """
        stop = sys.maxsize if limit is None else first + limit + 1
        length = len(source) if source.countable else source.known_length
        if length is None:
            return cls(order=range(first, stop), ending=source)
        return cls(order=range(first, min(stop, length)))

    @classmethod
    def backward(cls, first: int, limit: int | None) -> Pass:
        """Visit frames towards frame 0.

        Args:
            first: the first frame.
            limit: largest number of frames after the first; None for all.

        Returns:
            The pass.
        """
        last = 0 if limit is None else max(0, first - limit)
        return cls(order=range(first, last - 1, -1))

    @property
    def length(self) -> int | None:
        """Number of frames, if it is known."""
        return len(self.order) if self.ending is None else None

    def steps(self) -> Iterator[Step]:
        """Iterate over the frames that exist; nothing of a source of unknown length may be decoded ahead."""
        for i, frame_idx in enumerate(self.order):
            if self.ending is not None:
                try:
                    self.ending.check(frame_idx)
                except IndexError:
                    return
            ahead = self.order[i:] if self.ending is None else range(0)
            yield Step(frame_idx, self.order.step < 0, ahead)


def follow(passes: Sequence[Pass], bar: Callable[..., Iterable[int]] | None) -> Iterator[Step]:
    """Iterate over the steps of all passes.

    Args:
        passes: one after the other.
        bar: function such as tqdm, called with an iterator of frame indices, `total` and `desc`; None for no bar.
            A step is taken whenever what it returns is advanced.

    Yields:
        The steps.
    """
    steps = (step for one in passes for step in one.steps())
    if bar is None:
        yield from steps
        return
    lengths = [one.length for one in passes if one.length is not None]
    total = sum(lengths) if len(lengths) == len(passes) else None
    begun: deque[Step] = deque()

    def indices() -> Iterator[int]:
        for step in steps:
            begun.append(step)
            yield step.frame_idx

    for _ in bar(indices(), total=total, desc="propagate in video"):
        yield begun.popleft()
