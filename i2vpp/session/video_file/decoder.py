"""Exact random access to the frames of an encoded video, with PyAV."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterator
from fractions import Fraction
from itertools import chain, count
from typing import Any, BinaryIO

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from PIL import Image

from i2vpp.errors import FrameDecodeError, VideoError
from i2vpp.session.sources import FrameSource
from i2vpp.session.video_file.decoding import DECODE_ERRORS, do_all_keys_fail, open_decoder, until_it_breaks
from i2vpp.session.video_file.decoding import decode as _decode
from i2vpp.session.video_file.layout import Layout, first_time, read_layout
from i2vpp.session.video_file.orientation import display_matrix, is_turned, upright
from i2vpp.session.video_file.packets import Packet, PacketReader, count_lost
from i2vpp.session.video_file.timeline import PATIENCE, Timeline
from i2vpp.utils.notices import warn_user

FASTEST = 1000  # frames per second; headers that claim more, such as the 60000 of a DV file, are wrong
CACHE_BYTES = 256 * 2**20
"""Decoded frames kept after a jump: tracking backwards then decodes each group of pictures once, not once per frame."""

RECENT_FRAMES = 8
"""Decoded frames kept while reading forward."""

FROM_THE_START = ("mov", "matroska", "avi")
"""Formats of files that begin with a keyframe; a broadcast may be recorded from between two keyframes on."""

WITH_DURATIONS = ("mpegts", "mpeg")
"""Formats of broadcasts, whose packets tell when to decode their frames, and how long to show them whatever follows."""

STREAMING = ("rtsp", "rtsps", "rtmp", "rtmps", "rtp", "srt", "udp", "tcp", "mms", "mmsh")


class VideoFile(FrameSource):
    """An encoded video: a file, a URL or an open binary file, in any format that FFmpeg reads.

    Frame i is the one with the i-th presentation time, whatever the header says about their number. Frames are turned
    as the file's display matrix asks; pixels count as square; a size that changes midway is scaled to the first one.
    Reading forward decodes each frame once and needs nothing else of the file; the first jump lists the packets of the
    whole file, without decoding them, and all jumps decode from the keyframe before.

    A damaged frame raises FrameDecodeError and leaves all others readable. Damaged is what FFmpeg cannot decode or
    reports as corrupt, what is missing by the times and places of the packets, and what builds on such a frame, up to
    the next keyframe. Damaged and missing frames keep their indices. A file that is cut off warns.

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
        self._is_strict = True  # the decoder reports each error; False for streams whose keyframes all have some
        self._knows_strictness = False
        self._checks_numbers = True  # frame numbers show losses; False for encoders that number wrongly
        self._open_options: dict[str, str] = {}  # of FFmpeg's demuxer
        self._warned = False
        self._warned_of_start = False
        self._lost: dict[int, int] = {}  # packets of an AVI file without index, by the position of the next one
        self._next = 0  # smallest index that the next decoded frame can have
        self._layout = Layout()
        self._matrix: tuple[int, ...] | None = None
        self._container: Any = None
        self._stream: Any = None
        self._decoder: Any = None
        self._open()
        if self.countable:
            self._layout = read_layout(self._container, self._stream, self._video)
        self._timeline = self._new_timeline()
        self._reader = self._frames()

    def __len__(self) -> int:
        with self._lock:
            self._check_open()
            self._complete_timeline()
            timeline = self._timeline
            if not timeline.timed and timeline.bad and self._is_strictness_to_blame():  # else all frames are counted
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
                self._first_size()
            frame = self._find(i)
            try:
                rgb = upright(self._reformatter.reformat(frame, format="rgb24").to_ndarray(), self._matrix)
            except DECODE_ERRORS as error:
                raise FrameDecodeError(f"frame {i} of {self.name} cannot be converted to RGB: {error}") from error
            height, width = self._size = self._size or (rgb.shape[0], rgb.shape[1])
            if rgb.shape[:2] != (height, width):
                rgb = np.asarray(Image.fromarray(rgb).resize((width, height), Image.Resampling.BICUBIC))
            return rgb

    def check(self, i: int) -> None:
        """Raise IndexError if there is no frame i; decodes on to a near one, and of others lists the packets only."""
        if i < 0:
            raise IndexError(f"frame {i} of {self.name}: indices start at 0")
        with self._lock:
            self._check_open()
            if i > 0:
                self._first_size()
            if i < self._next:
                return
            if not self._timeline.complete and self._is_near(i):
                self._find(i)
            elif i >= len(self):
                raise IndexError(f"{self.name} has {len(self)} frames, not a frame {i}")

    def time(self, index: int) -> float | None:
        """Return when a frame is shown, in seconds from frame 0: by its timestamp; by the rate if there are none."""
        with self._lock:
            if index >= self._next or index < 0:  # the times of frames that were decoded before are known
                self._check_open()
                self._complete_timeline()
                if not 0 <= index < len(self):
                    raise IndexError(f"{self.name} has {len(self)} frames, not a frame {index}")
            timeline = self._timeline
            if timeline.timed and index < len(timeline.times):
                return float((timeline.times[index] - timeline.times[0]) * self._time_base)
            return index / self.fps if self.fps else None

    def close(self) -> None:
        """Close the file and release all frames."""
        with self._lock:
            self._decoded.clear()
            self._reader = iter(())
            if self._container is not None:
                self._container.close()
            self._container = self._stream = self._decoder = None  # the stream's decoder owns the memory of the frames

    def __del__(self) -> None:
        self.close()  # PyAV's containers and streams refer to each other, so only garbage collection would free them

    def _check_open(self) -> None:
        if self._container is None:
            raise VideoError(f"{self.name} is closed")

    def _read_size(self) -> tuple[int, int]:
        """Return height and width of the first frame that can be decoded."""
        with self._lock:
            for i in count():
                try:
                    frame = self._find(i)
                except FrameDecodeError:
                    continue
                except IndexError:
                    break
                return (frame.width, frame.height) if is_turned(self._matrix) else (frame.height, frame.width)
        raise VideoError(f"no frame of {self.name} can be decoded: they are damaged, or FFmpeg cannot read their kind")

    # ---- finding a frame

    def _find(self, i: int) -> av.VideoFrame:
        self._check_open()
        if i in self._decoded:
            self._decoded.move_to_end(i)
            return self._decoded[i]
        frame = self._read_on_to(i)
        problem = self._timeline.problem(i) if frame is None and i < self._next else None
        if frame is None and problem is None:
            frame = self._jump_to(i)
            if frame is None and i >= len(self._timeline):
                raise IndexError(f"{self.name} has {len(self._timeline)} frames, not a frame {i}")
        if frame is None and self._is_strictness_to_blame():
            return self._find(i)
        if frame is None:
            timeline = self._timeline
            problem = timeline.bad.setdefault(timeline.key(i), problem or timeline.problem(i) or "its data are damaged")
            raise FrameDecodeError(f"frame {i} of {self.name} cannot be decoded: {problem}")
        return frame

    def _read_on_to(self, i: int) -> av.VideoFrame | None:
        """Decode on up to frame i, if it is near enough; see `_is_near`."""
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
            return i < len(timeline.times) and not timeline.key_between(min(self._next, i), i)
        return True

    def _jump_to(self, i: int) -> av.VideoFrame | None:
        """Decode from a keyframe before frame i up to it.

        What does not come that way is read from the start of the file, as reading forward does.
        """
        self._complete_timeline()
        timeline = self._timeline
        if i >= len(timeline) or timeline.problem(i):
            return None
        if timeline.timed and i < len(timeline.times):
            for key in timeline.keys_before(i):
                if self._seek(key) and (frame := self._read_to(i)):
                    return frame
                if timeline.problem(i):
                    return None
        self._rewind()
        return self._read_to(i)

    def _read_to(self, i: int) -> av.VideoFrame | None:
        """Decode on up to frame i; None if it does not come."""
        for index, frame in self._reader:
            self._next = index + 1
            if self._size is None:  # only once, because PyAV's side data and their frame refer to each other
                self._matrix = display_matrix(frame)
            if index not in self._decoded:
                self._decoded[index] = frame
                self._decoded_bytes += _num_bytes(frame)
            while self._decoded_bytes > CACHE_BYTES and len(self._decoded) > RECENT_FRAMES:
                self._forget_oldest()
            if index >= i:
                break
        self._warn_if_cut()
        return self._decoded.get(i)

    def _forget_oldest(self) -> None:
        _, frame = self._decoded.popitem(last=False)
        self._decoded_bytes -= _num_bytes(frame)

    def _forget_all(self) -> None:
        self._decoded.clear()
        self._decoded_bytes = 0

    # ---- reading the file

    def _open(self) -> None:
        """Open the file at its start, with a new decoder."""
        if self._container is not None:
            if not self.seekable:
                raise VideoError(f"{self.name} is a live stream: frames that have passed cannot be read again")
            self._container.close()
        try:
            if not isinstance(self._video, str):
                self._video.seek(0)
            # Titles may be in any encoding.
            self._container = av.open(self._video, metadata_errors="replace", options=self._open_options)
            self._stream = self._container.streams.best("video")
        except (*DECODE_ERRORS, OSError) as error:
            raise VideoError(
                f"{self.name} cannot be opened as a video: {getattr(error, 'strerror', None) or error}; "
                "check that it is one, and complete (not cut off while it was copied or recorded)"
            ) from error
        stream, kind = self._stream, self._container.format
        problem = None
        if stream is None or kind.name == "tty":  # FFmpeg renders text files as video
            problem = f"holds no video stream (format: {kind.long_name})"
        elif stream.codec_context is None:
            problem = "holds video of a codec that FFmpeg does not know; convert it to another one"
        if problem:
            self._container.close()
            raise VideoError(f"{self.name} {problem}")
        rates = (stream.average_rate, stream.guessed_rate)
        self.fps = next((float(rate) for rate in rates if rate and rate <= FASTEST), None)
        self._time_base = stream.time_base or Fraction(1)
        self._decoder = open_decoder(stream, is_strict=self._is_strict)
        self._next = 0

    def _rewind(self) -> None:
        """Open the file anew, to read its frames from the start."""
        self._open()
        self._reader = self._frames()

    def _frames(self) -> Iterator[tuple[int, av.VideoFrame]]:
        return _decode(self._packets(from_start=True), self._decoder, self._timeline)

    def _new_timeline(self, *, is_timed: bool = True) -> Timeline:
        """Return an empty timeline of the opened file; of one without times, all frames have to be decoded."""
        formats = set(self._container.format.name.split(","))
        timeline = Timeline(
            may_start_late=formats.isdisjoint(FROM_THE_START),
            has_durations=not formats.isdisjoint(WITH_DURATIONS),
            guesses_times="mpeg" in formats,
            is_listable=self.countable and is_timed,
            announced=self._layout.announced,
        )
        # AVI does not store when a frame is shown
        timeline.timed = is_timed and not ("avi" in formats and self._stream.codec_context.has_b_frames)
        return timeline

    def _packets(self, *, from_start: bool = False) -> Iterator[Packet]:
        reader = PacketReader(
            self._container,
            self._stream,
            self._layout,
            self._lost,
            from_start=from_start,
            checks_numbers=self._checks_numbers,
        )
        return until_it_breaks(reader, self._timeline)

    def _seek(self, key: int) -> bool:
        """Seek to the keyframe that is shown at time `key`; False if the format cannot find it."""
        # Some formats seek by presentation time, others by decoding time.
        for target in dict.fromkeys((key, self._timeline.key_dts[key])):
            try:
                self._container.seek(target, stream=self._stream)
            except av.error.FFmpegError:
                continue
            self._decoder.flush_buffers()
            packets = self._packets()
            for packet in packets:
                if packet.raw is None or (packet.dts is not None and packet.dts > key):
                    break
                if packet.is_key and packet.time == key:
                    self._next = bisect_left(self._timeline.times, key)
                    self._reader = _decode(chain([packet], packets), self._decoder, self._timeline, key)
                    return True
        return False

    def _complete_timeline(self) -> None:
        """List all packets of the file, unless that has been done."""
        if self._timeline.complete:
            return
        known = self._timeline
        gaps = self._list_packets()
        if self._timeline.numbers_wrongly:
            self._checks_numbers = False
            gaps = self._list_packets()
        if gaps and "avi" in self._container.format.name and not self._layout.index.numbers:
            self._lost = count_lost(gaps, self._stream.frames - self._timeline.num_packets)
            self._list_packets()
        timeline = self._timeline
        timeline.undecodable = known.undecodable
        if timeline.timed:
            timeline.bad.update(known.bad if known.timed else {})
            timeline.complete = True
            if timeline.origin is None:
                self._rewind()
                next(self._reader, None)
            lacks_first = timeline.may_lack_first
            timeline.fill(first_time(self._container, self._video) if lacks_first else None)
        else:
            if timeline.contradicted and "mov" in self._container.format.name:
                self._open_options = {"ignore_editlist": "1"}  # it cuts off frames by their times, which are wrong
            self._timeline = self._new_timeline(is_timed=False)
            self._timeline.undecodable = known.undecodable
            self._forget_all()  # their indices come from the times
            self._rewind()
            for _ in self._reader:
                pass
        self._rewind()
        self._warn_if_cut()

    def _list_packets(self) -> dict[int, int]:
        """Fill a new timeline from all packets; return where bytes of the file belong to none, and how many."""
        self._timeline = self._new_timeline()
        self._open()
        gaps = {}
        for packet in self._packets(from_start=True):
            self._timeline.add(packet)
            if packet.lost_bytes and packet.position is not None:
                gaps[packet.position] = packet.lost_bytes
        return gaps

    def _warn_if_cut(self) -> None:
        """Warn, once each, if the file ends before what its header announces, and if its first frames are lost."""
        timeline = self._timeline
        if timeline.lacks_start and not self._warned_of_start:
            self._warned_of_start = True
            warn_user(
                f"the beginning of {self.name} is damaged: its frame 0 is the first one that can be decoded, and it is "
                "not known how many frames before it are lost"
            )
        if self._warned or not timeline.complete:
            return
        self._warned = True
        if timeline.is_cut:
            warn_user(
                f"{self.name} is cut off: it ends after {len(timeline)} frames, before what its header announces; "
                "copy or record it again if you need the rest"
            )

    def _is_strictness_to_blame(self) -> bool:
        """Tell whether frames are lacking only because the decoder is strict with a stream that is not quite standard.

        Some cameras write small errors into each keyframe, and a recording that begins between two keyframes refers to
        what is not there. If that is so, all is read anew, without being strict.
        """
        if not self._is_strict or self._knows_strictness or not self.seekable:
            return False
        checks_numbers = self._checks_numbers
        self._complete_timeline()
        if checks_numbers and not self._checks_numbers:
            return True
        self._knows_strictness = True
        if not (self._timeline.starts_late or self._do_keys_fail()):
            self._rewind()
            return False
        self._is_strict = False
        if self._do_keys_fail():
            self._is_strict = True
        else:
            self._forget_all()
            self._timeline = self._new_timeline()
        self._rewind()
        return not self._is_strict

    def _do_keys_fail(self) -> bool:
        self._open()
        return do_all_keys_fail(self._packets(), self._decoder)


def _num_bytes(frame: av.VideoFrame) -> int:
    return sum(plane.buffer_size for plane in frame.planes)
