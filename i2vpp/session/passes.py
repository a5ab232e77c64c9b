"""One pass over a video in one direction: which frames, how many, and what may be decoded ahead."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass

from i2vpp.session.sources import FrameSource


@dataclass(frozen=True, kw_only=True)
class Pass:
    """Frames to visit in order.

    Args:
        order: the frames; those past the end of a source of unknown length are left out.
        ending: the source whose end is not known yet, or None if all frames of `order` exist.
        reverse: tracking runs towards frame 0.
    """

    order: range
    ending: FrameSource | None = None
    reverse: bool = False

    @classmethod
    def forward(cls, source: FrameSource, first: int, limit: int | None) -> Pass:
        """Visit `first` and at most `limit` frames after it; None for as many as there are."""
        stop = sys.maxsize if limit is None else first + limit + 1
        length = len(source) if source.countable else source.known_length
        if length is None:
            return cls(order=range(first, stop), ending=source)
        return cls(order=range(first, min(stop, length)))

    @classmethod
    def backward(cls, first: int, limit: int | None) -> Pass:
        """Visit `first` and at most `limit` frames before it; None for all down to frame 0."""
        last = 0 if limit is None else max(0, first - limit)
        return cls(order=range(first, last - 1, -1), reverse=True)

    @property
    def length(self) -> int | None:
        """How many frames, if that is known."""
        return len(self.order) if self.ending is None else None

    def announced(self, frame_idx: int) -> range:
        """Frames from `frame_idx` on that may be decoded ahead: none from a source of unknown length."""
        return self.order[self.order.index(frame_idx) :] if self.ending is None else range(0)

    def frames(self) -> Iterator[int]:
        """Iterate over the frames that exist."""
        for frame_idx in self.order:
            if self.ending is not None:
                try:
                    self.ending.check(frame_idx)
                except IndexError:
                    return
            yield frame_idx
