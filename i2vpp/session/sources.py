"""The interface of all videos, `len` and `[i]`, and the sources whose frames are images in memory or in files."""

from __future__ import annotations

import abc
import contextlib
import os
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image

from i2vpp.errors import FrameDecodeError, VideoError
from i2vpp.session.deep_images import DeepScale, deep_values
from i2vpp.utils.values import shown, to_array, whole_number

FrameLike: TypeAlias = "str | os.PathLike[str] | Image.Image | np.ndarray | torch.Tensor"
"""Types of one frame: an image file or an image; see `to_rgb`."""

FRAME_TYPES = (
    "an image path, a PIL image, or an array or tensor [H, W, 3], [3, H, W] or grey [H, W], uint8 or float in [0, 1]"
)

DEEP_SAMPLES = 8
"""Frames, beside the first one, that decide how frames of more than 8 bits are scaled."""


class FrameSource(abc.ABC):
    """A video: `source[i]` is frame i as uint8 RGB [H, W, 3], and IndexError past the end. Nothing is decoded early.

    Reading 0, 1, 2, ... is cheap and needs no length; `len` may have to read through the source once. All sources may
    be read by several threads. Returned frames belong to the source: copy before writing into them.

    Args:
        name: what error messages call the source.
    """

    fps: float | None = None
    """Mean frames per second, where the source says so."""

    seekable = True
    """False if old frames are gone for good."""

    countable = True
    """False if `len` has to fetch the frames themselves, or read a network to the end."""

    names: Sequence[str] | None = None
    """Names of the frames' files without suffix, in a folder of images; their masks are called the same."""

    skips = False
    """Whether frames that cannot be decoded are to have no results."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._size: tuple[int, int] | None = None

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def __getitem__(self, i: int) -> np.ndarray: ...

    def check(self, i: int) -> None:
        """Raise IndexError if there is no frame i; sources that can tell without decoding it override this."""
        self[i]

    def time(self, index: int) -> float | None:
        """Return when a frame is shown, in seconds from frame 0, or None where the source has no clock.

        Args:
            index: a frame of the source.

        Raises:
            IndexError: the source has timestamps and no frame of that index.
        """
        return None

    def is_bad(self, i: int) -> bool:
        """Whether another frame is shown in place of frame i, which cannot be decoded; may decode it to find out."""
        return False

    @property
    def bad_frames(self) -> list[int]:
        """The frames in whose place others have been shown so far, in order."""
        return []

    @property
    def known_length(self) -> int | None:
        """The number of frames, or None as long as `len` would have to read ahead to find it."""
        return len(self)

    @property
    def height(self) -> int:
        """Display height in pixels; the first use may decode frame 0."""
        return self._first_size()[0]

    @property
    def width(self) -> int:
        """Display width in pixels; the first use may decode frame 0."""
        return self._first_size()[1]

    @abc.abstractmethod
    def close(self) -> None:
        """Close files and release frames; the source cannot be read afterwards."""

    def _first_size(self) -> tuple[int, int]:
        if self._size is None:
            try:
                self._size = self._read_size()
            except IndexError as error:
                raise VideoError(f"{self.name} holds no frame") from error
        return self._size

    def _read_size(self) -> tuple[int, int]:
        """Return height and width of frame 0."""
        height, width, _ = self[0].shape
        return height, width

    def _try_first_size(self) -> None:
        """Learn the size before a later frame is read; if frame 0 is damaged, the first one that is read has it."""
        with contextlib.suppress(FrameDecodeError):
            self._first_size()

    def _fit(self, frame: np.ndarray, name: str) -> np.ndarray:
        """Return `frame` if it has the size of the first one."""
        size = (frame.shape[0], frame.shape[1])
        self._size = self._size or size
        if size != self._size:
            raise VideoError(
                f"{name} is {size[1]} x {size[0]} pixels, but the first frame is {self._size[1]} x {self._size[0]}; "
                "all frames of a video must have one size"
            )
        return frame


def to_rgb(frame: FrameLike, name: str, scale: DeepScale | None = None) -> np.ndarray:
    """Convert one frame to uint8 RGB [H, W, 3].

    Grey, 16-bit, palette and RGBA images are converted (alpha is dropped). EXIF orientation is ignored, as in SAM 2 and
    as the masks of the datasets assume.

    Args:
        frame: one frame, see `FrameLike`.
        name: what error messages call the frame.
        scale: how images of more than 8 bits are scaled; None: each by its own range.

    Returns:
        A contiguous array.

    Raises:
        VideoError: it has another type, dtype or shape.
        FrameDecodeError: its image file cannot be read.
    """
    if isinstance(frame, (str, os.PathLike)):
        return _read_image(Path(frame), name, scale)
    if isinstance(frame, Image.Image):
        return _image_to_rgb(frame, scale or DeepScale(name))
    if isinstance(frame, torch.Tensor):
        return _array_to_rgb(_tensor_to_array(frame, name), name)
    if isinstance(frame, np.ndarray):
        return _array_to_rgb(frame, name)
    raise VideoError(f"{name} is of type {type(frame).__name__}; allowed: {FRAME_TYPES}")


def _read_image(path: Path, name: str, scale: DeepScale | None) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return _image_to_rgb(image, scale or DeepScale(str(path)))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise FrameDecodeError(f"{name} cannot be read from {path}: {error}") from error


def _image_to_rgb(image: Image.Image, scale: DeepScale) -> np.ndarray:
    values = deep_values(image)
    if values is not None:
        image = Image.fromarray(scale.to_uint8(values))
    return np.array(image.convert("RGB"))


def _tensor_to_array(tensor: torch.Tensor, name: str) -> np.ndarray:
    try:
        array: np.ndarray = to_array(tensor)
    except (TypeError, RuntimeError) as error:  # a sparse one, for example
        raise VideoError(f"{name} cannot be read from a tensor ({error}); allowed: {FRAME_TYPES}") from None
    return array


def _array_to_rgb(array: np.ndarray, name: str) -> np.ndarray:
    if array.ndim == 2:
        array = np.stack([array] * 3, axis=-1)
    elif array.ndim == 3 and array.shape[-1] != 3 and array.shape[0] == 3:
        array = array.transpose(1, 2, 0)
    if array.ndim != 3 or array.shape[-1] != 3 or 0 in array.shape:
        raise VideoError(f"{name} has shape {list(array.shape)}; allowed: {FRAME_TYPES}")
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if not np.issubdtype(array.dtype, np.floating):
        raise VideoError(f"{name} has dtype {array.dtype}; allowed: {FRAME_TYPES}")
    low, high = array.min(), array.max()
    if not (low >= 0 and high <= 1):  # also catches NaN
        raise VideoError(f"{name} holds floats from {shown(low)} to {shown(high)}; allowed: {FRAME_TYPES}")
    return np.ascontiguousarray((array * 255).round().astype(np.uint8))


class FrameList(FrameSource):
    """Frames that are at hand: a list of frames of any kind, an array [T, H, W, 3] or a tensor [T, 3, H, W].

    Args:
        frames: the frames, see `FrameLike`; image files are read when their frame is asked for.
        name: what error messages call the source.
        names: names of the frames, see `FrameSource.names`.
    """

    def __init__(
        self,
        frames: Sequence[FrameLike] | np.ndarray | torch.Tensor,
        name: str,
        *,
        names: Sequence[str] | None = None,
    ) -> None:
        super().__init__(name)
        self._frames: Any = frames
        self._scale = DeepScale(name, self._spread)
        self.names = names

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, i: int) -> np.ndarray:
        self.check(i)
        if i > 0:
            self._try_first_size()
        item, name = self._frames[i], f"frame {i} of {self.name}"
        if isinstance(item, (str, os.PathLike)):
            name += f" ({Path(item).name})"
        return self._fit(to_rgb(item, name, self._scale), name)

    def _spread(self) -> list[FrameLike]:
        """Return a few frames from all over the video."""
        last = len(self._frames) - 1
        return [self._frames[last * k // DEEP_SAMPLES] for k in range(DEEP_SAMPLES + 1)]

    def check(self, i: int) -> None:
        """Raise IndexError if there is no frame i."""
        if not 0 <= i < len(self._frames):
            raise IndexError(f"{self.name} has {len(self._frames)} frames, not a frame {i}")

    def close(self) -> None:
        """Release the frames."""
        self._frames = ()
        self._scale = DeepScale(self.name)  # the old one refers to this source and would keep it in memory


class FrameIterator(FrameSource):
    """Frames that a generator or another iterator makes, fetched only as far as they are asked for.

    All fetched frames are kept, so that tracking can go back: use `LiveSource` for streams without end.

    Args:
        frames: yields frames, see `FrameLike`.
        name: what error messages call the source.
    """

    countable = False

    def __init__(self, frames: Iterator[FrameLike], name: str) -> None:
        super().__init__(name)
        self._iterator: Iterator[FrameLike] | None = frames
        self._fetched: list[FrameLike] = []
        self._scale = DeepScale(name, lambda: self._fetched[:1])
        self._failure: BaseException | None = None
        self._lock = threading.RLock()

    def __len__(self) -> int:
        with self._lock:
            while self._fetch():
                pass
            return len(self._fetched)

    @property
    def known_length(self) -> int | None:
        """The number of frames once the iterator has ended."""
        return None if self._iterator is not None or self._failure is not None else len(self._fetched)

    def __getitem__(self, i: int) -> np.ndarray:
        with self._lock:
            self.check(i)
            if i > 0:
                self._try_first_size()
            name = f"frame {i} of {self.name}"
            return self._fit(to_rgb(self._fetched[i], name, self._scale), name)

    def check(self, i: int) -> None:
        """Raise IndexError if there is no frame i, which is fetched if there is."""
        if i < 0:
            raise IndexError(f"frame {i} of {self.name}: indices start at 0")
        with self._lock:
            while i >= len(self._fetched):
                if not self._fetch():
                    raise IndexError(f"{self.name} has {len(self._fetched)} frames, not a frame {i}")

    def close(self) -> None:
        """Release the iterator and all frames."""
        with self._lock:
            self._iterator = None
            self._fetched.clear()
            self._scale = DeepScale(self.name)  # see `FrameList.close`

    def _fetch(self) -> bool:
        """Fetch one more frame; False at the end. A failure of the iterator is final: it is raised on each attempt."""
        if self._failure is not None:
            raise self._failure
        if self._iterator is None:
            return False
        try:
            frame = next(self._iterator)
        except StopIteration:
            self._iterator = None
            return False
        except BaseException as error:
            self._failure = error
            raise
        if not isinstance(frame, (str, os.PathLike)):
            # A copy, because the iterator may write its next frame into the same array.
            frame = to_rgb(frame, f"frame {len(self._fetched)} of {self.name}", self._scale).copy()
        self._fetched.append(frame)
        return True


class LiveSource(FrameSource):
    """A stream without known end: `append` each frame as it arrives; only the newest ones are kept.

    Args:
        keep: how many frames are kept; the network looks at three.
        name: what error messages call the source.
    """

    seekable = False

    def __init__(self, *, keep: int = 3, name: str = "the live stream") -> None:
        super().__init__(name)
        keep = whole_number("keep", keep, least=1, error=VideoError)
        self._newest: deque[np.ndarray] = deque(maxlen=keep)
        self._scale = DeepScale(name)
        self._count = 0
        self._lock = threading.Lock()

    def append(self, frame: FrameLike) -> int:
        """Add the next frame (see `FrameLike`) and return its index."""
        with self._lock:
            name = f"frame {self._count} of {self.name}"
            self._newest.append(self._fit(to_rgb(frame, name, self._scale).copy(), name))
            self._count += 1
            return self._count - 1

    def __len__(self) -> int:
        """Return how many frames have arrived so far."""
        return self._count

    def __getitem__(self, i: int) -> np.ndarray:
        with self._lock:
            oldest = self._count - len(self._newest)
            if not 0 <= i < self._count:
                raise IndexError(f"{self.name} has {self._count} frames so far, not a frame {i}")
            if i < oldest:
                raise VideoError(
                    f"frame {i} has left {self.name}: it holds frames {oldest} to {self._count - 1}; "
                    "raise LiveSource(keep=...) to look further back"
                )
            return self._newest[i - oldest]

    def close(self) -> None:
        """Release the kept frames."""
        with self._lock:
            self._newest.clear()

    def _first_size(self) -> tuple[int, int]:
        if self._size is None:
            raise VideoError(f"{self.name} holds no frame yet: append one first")
        return self._size
