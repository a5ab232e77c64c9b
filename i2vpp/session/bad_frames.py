"""Videos with frames that cannot be decoded: raising an error, repeating the frame before, or skipping them."""

from __future__ import annotations

from itertools import chain, count
from typing import Literal, TypeAlias, get_args

import numpy as np

from i2vpp.errors import FrameDecodeError, I2VPPError, VideoError
from i2vpp.session.sources import FrameSource
from i2vpp.utils.brief import brief
from i2vpp.utils.suggest import did_you_mean

OnBadFrame: TypeAlias = Literal["raise", "repeat", "skip"]
"""What happens at a frame that cannot be decoded: FrameDecodeError is raised, the frame before is shown instead, or
the frame has no result. All frames keep their indices in any case."""

ON_BAD_FRAME: tuple[str, ...] = get_args(OnBadFrame)


def tolerate(source: FrameSource, on_bad_frame: str) -> FrameSource:
    """Return a source that treats frames which cannot be decoded as chosen.

    Args:
        source: the video.
        on_bad_frame: choice of the user, see `OnBadFrame`.

    Raises:
        I2VPPError: `on_bad_frame` is none of the choices.
    """
    if on_bad_frame not in ON_BAD_FRAME:
        raise I2VPPError(f"on_bad_frame={brief(on_bad_frame)} is unknown; {did_you_mean(on_bad_frame, ON_BAD_FRAME)}")
    return source if on_bad_frame == "raise" else TolerantSource(source, skips=on_bad_frame == "skip")


class TolerantSource(FrameSource):
    """A video that shows, in place of a frame that cannot be decoded, the nearest good frame before it.

    Before the first good frame, that one is shown. Which frames are bad is known once they have been read.

    Args:
        source: the video; closed with this one.
        skips: bad frames are to have no results.
    """

    def __init__(self, source: FrameSource, *, skips: bool) -> None:
        super().__init__(source.name)
        self.skips = skips
        self.fps = source.fps
        self.seekable = source.seekable
        self.countable = source.countable
        self.names = source.names
        self._source = source
        self._bad: set[int] = set()
        self._good: set[int] = set()
        self._last_good: tuple[int, np.ndarray] | None = None  # live streams cannot read a frame again

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, i: int) -> np.ndarray:
        for shown in chain(range(i, -1, -1), count(i + 1)):
            try:
                frame = self._read(shown)
            except IndexError:
                if shown == i:
                    raise
                break
            if frame is not None:
                return frame
        raise VideoError(f"{self.name} holds no frame that can be decoded")

    def _read(self, i: int) -> np.ndarray | None:
        """Return frame i, or None if it cannot be decoded."""
        if i in self._bad:
            return None
        last = self._last_good
        if last is not None and last[0] == i:
            return last[1]
        try:
            frame = self._source[i]
        except FrameDecodeError:
            self._bad.add(i)
            return None
        self._good.add(i)
        self._last_good = (i, frame)
        return frame

    def is_bad(self, i: int) -> bool:
        """Whether frame i cannot be decoded; decodes it unless that is known."""
        return i not in self._good and self._read(i) is None

    @property
    def bad_frames(self) -> list[int]:
        """The bad frames that have been met."""
        return sorted(self._bad)

    def check(self, i: int) -> None:
        """Raise IndexError if there is no frame i."""
        try:
            self._source.check(i)
        except FrameDecodeError:
            return

    def time(self, index: int) -> float | None:
        """Return when a frame is shown; see `FrameSource.time`."""
        return self._source.time(index)

    @property
    def known_length(self) -> int | None:
        """The number of frames, as far as it is known."""
        return self._source.known_length

    def _read_size(self) -> tuple[int, int]:
        return self._source.height, self._source.width

    def close(self) -> None:
        """Close the video."""
        self._last_good = None
        self._source.close()
