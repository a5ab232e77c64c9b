"""Exact random access to the frames of an encoded video, with PyAV."""

from __future__ import annotations

import struct
import threading
from bisect import bisect_left, bisect_right, insort
from collections import OrderedDict
from collections.abc import Iterator
from fractions import Fraction
from itertools import chain
from typing import Any, BinaryIO

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from i2vpp.errors import FrameDecodeError, VideoError
from i2vpp.session.sources import FrameSource

CACHE_BYTES = 256 * 2**20
"""Decoded frames kept after a jump: tracking backwards then decodes each group of pictures once, not once per frame."""

RECENT_FRAMES = 8
"""Decoded frames kept while reading forward."""

PATIENCE = 64
"""A jump of at most so many frames ahead decodes on rather than list all packets of the file."""

STREAMING = ("rtsp", "rtsps", "rtmp", "rtmps", "rtp", "srt", "udp", "tcp", "mms", "mmsh")


class _Timeline:
    """When the frames of a stream are shown, as its packets tell: frame i is the one with the i-th smallest time.

    Args:
        origin: time of frame 0; packets before it belong to pictures that no decoder can show.
    """

    def __init__(self, origin: int | None = None) -> None:
        self.origin = origin
        self.times: list[int] = []
        self.key_times: list[int] = []
        self.key_dts: dict[int, int] = {}
        self.timed = True  # False: times are missing or not to be trusted, frames are counted as they are decoded
        self.counted = 0  # of untimed streams
        self.complete = False
        self.broken_by: str | None = None  # what ended reading before the end of the file
        self._last_dts: int | None = None
        self._empty = True

    def __len__(self) -> int:
        """Return the number of frames; a place where the file breaks off counts as a frame, an unreadable one."""
        return (len(self.times) if self.timed else self.counted) + (self.broken_by is not None)

    def add(self, packet: Any) -> None:
        """Take note of the next packet in file order."""
        if packet is None or not packet.size:  # ends the stream
            return
        time, dts = packet.pts, packet.dts
        if time is None:
            self.timed = False
            return
        if self._empty and packet.is_keyframe and self.origin is None:
            self.origin = time
        self._empty = False
        if packet.is_keyframe:
            insort(self.key_times, time)
            self.key_dts[time] = time if dts is None else dts
        if packet.is_discard or (self.origin is not None and time < self.origin):
            return
        jumps_back = dts is not None and self._last_dts is not None and dts < self._last_dts
        if jumps_back or (time in self.times[-PATIENCE:]):  # joined recordings
            self.timed = False
        self._last_dts = dts
        insort(self.times, time)

    def start_at(self, time: int) -> None:
        """Drop what comes before the first frame that could be decoded."""
        self.origin = time
        del self.times[: bisect_left(self.times, time)]

    def index(self, time: int) -> int | None:
        """Return which frame is shown at `time`, or None if it is one that is not shown."""
        i = bisect_left(self.times, time)
        return i if i < len(self.times) and self.times[i] == time else None

    def keys_before(self, i: int) -> list[int]:
        """Return the times of the two keyframes at or before frame i, the nearer one first."""
        end = bisect_right(self.key_times, self.times[i])
        return self.key_times[max(end - 2, 0) : end][::-1]

    def key_between(self, start: int, i: int) -> bool:
        """Tell whether decoding frame i may begin after frame `start`."""
        return bisect_right(self.key_times, self.times[i]) > bisect_right(self.key_times, self.times[start])


class VideoFile(FrameSource):
    """An encoded video: a file, a URL or an open binary file, in any format that FFmpeg reads.

    Frame i is the one with the i-th presentation time, whatever the header says about their number. Frames are turned
    as the file's display matrix asks; pixels count as square. Reading forward decodes each frame once and needs nothing
    else of the file; the first jump lists the packets of the whole file, without decoding them, and all jumps decode
    from the keyframe before. A frame that cannot be decoded raises FrameDecodeError, and leaves all others readable.

    Args:
        video: path, URL or binary file object (which must support `seek`, and is not closed).
        name: what error messages call the source.
    """

    def __init__(self, video: str | BinaryIO, name: str) -> None:
        super().__init__(name)
        self._video = video
        scheme = video.partition("://")[0].lower() if isinstance(video, str) and "://" in video else ""
        self.seekable = scheme not in STREAMING
        self.countable = not scheme
        self._lock = threading.RLock()
        self._reformatter = VideoReformatter()
        self._decoded: OrderedDict[int, av.VideoFrame] = OrderedDict()
        self._decoded_bytes = 0
        self._timeline = _Timeline()
        self._reader: Iterator[tuple[int, av.VideoFrame]] = iter(())
        self._next = 0  # no frame to come has a smaller index
        self._matrix: tuple[int, ...] | None = None
        self._container: Any = None
        self._stream: Any = None
        self._open()

    def __len__(self) -> int:
        with self._lock:
            self._check_open()
            self._complete_timeline()
            return len(self._timeline)

    @property
    def known_length(self) -> int | None:
        """The number of frames once the file has been read through."""
        return len(self._timeline) if self._timeline.complete else None

    def __getitem__(self, i: int) -> np.ndarray:
        if i < 0:
            raise IndexError(f"frame {i} of {self.name}: indices start at 0")
        with self._lock:
            if i > 0:
                self._try_first_size()
            frame = self._find(i)
            try:
                rgb = self._upright(self._reformatter.reformat(frame, format="rgb24").to_ndarray())
            except av.error.FFmpegError as error:
                raise FrameDecodeError(f"frame {i} of {self.name} cannot be converted to RGB: {error}") from error
            return self._fit(rgb, f"frame {i} of {self.name}")

    def check(self, i: int) -> None:
        """Raise IndexError if there is no frame i; decodes on to a near one, and of others lists the packets only."""
        if i < 0:
            raise IndexError(f"frame {i} of {self.name}: indices start at 0")
        with self._lock:
            self._check_open()
            if i > 0:
                self._try_first_size()
            if i < self._next:
                return
            if not self._timeline.complete and self._is_near(i):
                self._find(i)
            elif i >= len(self):
                raise IndexError(f"{self.name} has {len(self)} frames, not a frame {i}")

    def time(self, index: int) -> float | None:
        """Return when a frame is shown, in seconds from frame 0: by its timestamp; by the rate if there are none."""
        with self._lock:
            if index >= self._next or index < 0:  # of frames that have been read, the times are known
                self._check_open()
                self._complete_timeline()
                if not 0 <= index < len(self):
                    raise IndexError(f"{self.name} has {len(self)} frames, not a frame {index}")
            timeline = self._timeline
            if timeline.timed and index < len(timeline.times):
                return float((timeline.times[index] - timeline.times[0]) * self._time_base)
            return index / self.fps if self.fps else None

    def close(self) -> None:
        """Close the file and let go of all frames."""
        with self._lock:
            self._decoded.clear()
            self._reader = iter(())
            if self._container is not None:
                self._container.close()
            self._container = self._stream = None  # the stream's decoder owns the memory of the frames

    def __del__(self) -> None:
        self.close()  # PyAV's containers and streams refer to each other: they would stay until a garbage collection

    def _check_open(self) -> None:
        if self._container is None:
            raise VideoError(f"{self.name} is closed")

    def _read_size(self) -> tuple[int, int]:
        with self._lock:
            frame = self._find(0)
            return (frame.width, frame.height) if self._is_turned() else (frame.height, frame.width)

    # ---- finding a frame

    def _find(self, i: int) -> av.VideoFrame:
        self._check_open()
        if i in self._decoded:
            self._decoded.move_to_end(i)
            return self._decoded[i]
        frame = self._read_on_to(i) or self._jump_to(i)
        if frame is None and i >= len(self._timeline):
            raise IndexError(f"{self.name} has {len(self._timeline)} frames, not a frame {i}")
        if frame is None:
            reason = self._timeline.broken_by if i == len(self._timeline) - 1 else None
            raise FrameDecodeError(f"frame {i} of {self.name} cannot be decoded: {reason or 'its data are damaged'}")
        return frame

    def _read_on_to(self, i: int) -> av.VideoFrame | None:
        """Decode on up to frame i if that is the short way."""
        if i < self._next or not self._is_near(i):
            return None
        is_step = i < self._next + RECENT_FRAMES
        frame = self._read_to(i)
        while is_step and len(self._decoded) > RECENT_FRAMES:
            self._forget_oldest()
        return frame

    def _is_near(self, i: int) -> bool:
        timeline = self._timeline
        if not timeline.complete:
            return i < self._next + PATIENCE
        if timeline.timed:
            return i < len(timeline.times) and not timeline.key_between(self._next, i)
        return True

    def _jump_to(self, i: int) -> av.VideoFrame | None:
        """Decode from a keyframe before frame i up to it; from the start of the file if it cannot be sought."""
        self._complete_timeline()
        if i >= len(self._timeline):
            return None
        landed = False
        if self._timeline.timed and i < len(self._timeline.times):
            for key in self._timeline.keys_before(i):
                if self._seek(key):
                    landed = True
                    if frame := self._read_to(i):
                        return frame
        if landed:
            return None
        self._open()
        return self._read_to(i)

    def _read_to(self, i: int) -> av.VideoFrame | None:
        """Decode on up to frame i; None if it does not come."""
        for index, frame in self._reader:
            self._next = index + 1
            if self._size is None:  # once only: PyAV's side data and their frame keep each other alive
                self._matrix = _display_matrix(frame)
            if index not in self._decoded:
                self._decoded[index] = frame
                self._decoded_bytes += _num_bytes(frame)
            while self._decoded_bytes > CACHE_BYTES and len(self._decoded) > RECENT_FRAMES:
                self._forget_oldest()
            if index >= i:
                break
        return self._decoded.get(i)

    def _upright(self, rgb: np.ndarray) -> np.ndarray:
        """Turn and mirror a decoded picture [H, W, 3] as the display matrix asks, in steps of 90 degrees."""
        if self._matrix is None:
            return rgb
        to_x_from_x, to_y_from_x, _, to_x_from_y, to_y_from_y, *_ = self._matrix
        if self._is_turned():
            rgb = rgb.transpose(1, 0, 2)
            to_x_from_x, to_y_from_y = to_x_from_y, to_y_from_x
        return np.ascontiguousarray(rgb[:: -1 if to_y_from_y < 0 else 1, :: -1 if to_x_from_x < 0 else 1])

    def _is_turned(self) -> bool:
        """Whether height and width change places in the display matrix."""
        return self._matrix is not None and abs(self._matrix[1]) > abs(self._matrix[0])

    def _forget_oldest(self) -> None:
        _, frame = self._decoded.popitem(last=False)
        self._decoded_bytes -= _num_bytes(frame)

    # ---- reading the file

    def _open(self) -> None:
        """Stand at the start of the file, with a decoder that has seen nothing."""
        if self._container is not None:
            if not self.seekable:
                raise VideoError(f"{self.name} is a live stream: frames that have passed cannot be read again")
            self._container.close()
        try:
            if not isinstance(self._video, str):
                self._video.seek(0)
            self._container = av.open(self._video)
        except (av.error.FFmpegError, OSError) as error:
            raise VideoError(
                f"{self.name} cannot be opened as a video: {error.strerror or error}; "
                "check that it is one, and complete (not cut off while it was copied or recorded)"
            ) from error
        self._stream = self._container.streams.best("video")
        if self._stream is None or self._container.format.name == "tty":  # FFmpeg draws text files
            self._container.close()
            raise VideoError(f"{self.name} holds no video stream (format: {self._container.format.long_name})")
        if self._container.format.name == "avi" and self._stream.codec_context.has_b_frames:
            self._timeline.timed = False  # AVI does not store when a frame is shown
        rate = self._stream.average_rate or self._stream.guessed_rate
        self.fps = float(rate) if rate else None
        self._time_base = self._stream.time_base or Fraction(1)
        self._next = 0
        self._reader = _decode(_packets(self._container, self._stream, self._timeline), self._stream, self._timeline)

    def _seek(self, key: int) -> bool:
        """Stand at the keyframe that is shown at time `key`; False if the format does not get there."""
        for target in dict.fromkeys((key, self._timeline.key_dts[key])):  # formats differ in which of them they look up
            try:
                self._container.seek(target, stream=self._stream)
            except av.error.FFmpegError:
                continue
            packets = _packets(self._container, self._stream, self._timeline)
            for packet in packets:
                if packet is None or (packet.dts is not None and packet.dts > key):
                    break
                if packet.is_keyframe and packet.pts == key:
                    self._next = bisect_left(self._timeline.times, key)
                    self._reader = _decode(chain([packet], packets), self._stream, self._timeline, key)
                    return True
        return False

    def _complete_timeline(self) -> None:
        """List all packets of the file, unless that has been done."""
        if self._timeline.complete:
            return
        self._try_first_size()
        timeline = self._timeline = _Timeline(self._timeline.origin)
        self._open()
        for packet in _packets(self._container, self._stream, self._timeline) if timeline.timed else ():
            timeline.add(packet)
        if timeline.timed:
            timeline.complete = True
        else:
            self._open()
            for index, _ in self._reader:
                self._next = index + 1
        self._open()


# Functions rather than methods: a generator that refers to its source would keep it, and all its frames, until the
# garbage collector comes by.


def _packets(container: Any, stream: Any, timeline: _Timeline) -> Iterator[Any]:
    """Yield the packets from where the container stands; the last one has the decoder hand out what it holds back."""
    try:
        yield from container.demux(stream)
    except av.error.FFmpegError as error:
        if not timeline.complete:
            timeline.broken_by = f"the file breaks off here ({error.strerror})"
        yield None


def _decode(
    packets: Iterator[Any], stream: Any, timeline: _Timeline, since: int | None = None
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Yield decoded frames with their indices.

    Args:
        packets: from the start of the file, or from a keyframe on.
        stream: theirs.
        timeline: is filled by reading on from the start of the file, if it is not complete.
        since: time of that keyframe; frames shown before it lack what they refer to. None for the start of the file.
    """
    learn = since is None and not timeline.complete
    count = 0
    for packet in packets:
        if learn:
            timeline.add(packet)
        try:
            frames = stream.decode(packet)
        except av.error.FFmpegError:  # the gap in the indices says which frame is missing
            count += 1
            continue
        for frame in frames:
            if timeline.origin is None and frame.pts is not None:
                timeline.start_at(frame.pts)
            index = timeline.index(frame.pts) if timeline.timed and frame.pts is not None else count
            if index is not None and (since is None or frame.pts >= since):
                yield index, frame
                count = index + 1
    if learn:
        timeline.counted = count
        timeline.complete = True


def _num_bytes(frame: av.VideoFrame) -> int:
    return sum(plane.buffer_size for plane in frame.planes)


def _display_matrix(frame: av.VideoFrame) -> tuple[int, ...] | None:
    """Return the 3 x 3 matrix (x, y, 1) -> (x, y, 1), row by row, that turns the decoded picture, or None."""
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    return None if matrix is None else struct.unpack("<9i", bytes(matrix))
