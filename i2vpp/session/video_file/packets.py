"""The packets of a video stream, and how damaged and missing ones are recognised."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from i2vpp.session.video_file import jpeg
from i2vpp.session.video_file.av1_numbers import Av1Numbers
from i2vpp.session.video_file.frame_numbers import FrameNumbers
from i2vpp.session.video_file.hevc_numbers import HevcNumbers
from i2vpp.session.video_file.layout import START_FINDERS, Layout
from i2vpp.session.video_file.mpeg_numbers import MpegNumbers
from i2vpp.session.video_file.picture_order import NO_EVIDENCE, Evidence, PictureOrder

OVERHEAD = 64
"""Bytes that a container may put between two packets. A larger gap means that packets are lost there."""

ACCOUNTED = tuple(START_FINDERS)
"""Formats without gaps between packets, so that bytes which belong to no packet mean that packets are lost."""

NEVER_ZERO = frozenset({"h264", "hevc", "mpeg1video", "mpeg2video", "mpeg4", "vp8", "vp9"})
ZERO_RUN = re.compile(rb"\0{16}\0*[^\0\x01]")
ZERO_END = bytes(16)
"""Runs of zeros that no encoder of `NEVER_ZERO` writes, except as padding before a start code or at the end. They come
from a lost sector of a disk, or from a download with holes."""

ZERO_PADDING = bytes(256)
"""More zeros than encoders of H.264 and HEVC write between two units, to align them or to reach a constant rate."""


@dataclass(frozen=True, kw_only=True)
class Packet:
    """One packet of the video stream.

    Args:
        raw: PyAV's packet; None at the end of the stream, where the decoder hands out the frames it holds back.
        time: time at which its frame is shown, in the stream's time base; None if the file does not say.
        dts: time at which it is decoded; None if the file does not say.
        duration: how long its frame is shown; 0 if the file does not say.
        is_key: decoding may begin here.
        is_shown: False for a frame that an edit list cuts off.
        is_damaged: its data are known not to be those that were written.
        position: place in the file, in bytes; None if that is unknown.
        lost_bytes: bytes before it that belong to no packet, where they tell of lost packets; else 0.
        lost: number of packets right before it that are known to be lost.
        is_resumed: fragments of the file right before it are missing.
        numbers: what its number, and those before, show.
        is_between: its frame is shown before that of an earlier packet, as far as FFmpeg can tell; of AVI files only.
    """

    raw: Any = None
    time: int | None = None
    dts: int | None = None
    duration: int = 0
    is_key: bool = False
    is_shown: bool = True
    is_damaged: bool = False
    position: int | None = None
    lost_bytes: int = 0
    lost: int = 0
    is_resumed: bool = False
    numbers: Evidence = NO_EVIDENCE
    is_between: bool = False


class PacketReader:
    """Reads the packets of one stream from the current position of its container.

    An AVI file numbers its frames by counting chunks: where chunks are lost, all later frames would move up. The index
    at the end of the file, or else `lost`, keeps them in their places.

    Args:
        container: the opened file.
        stream: its video stream.
        layout: where the packets of the file are.
        lost: how many packets are missing before the one at a position in the file, where that is known.
        from_start: the container is at its start, so that bytes before the first packet tell of lost ones.
        checks_numbers: whether frame numbers show losses; False for encoders that number wrongly.
    """

    def __init__(
        self,
        container: Any,
        stream: Any,
        layout: Layout,
        lost: Mapping[int, int],
        *,
        from_start: bool,
        checks_numbers: bool = True,
    ) -> None:
        self._container = container
        self._stream = stream
        self._lost = lost
        self._data_start = layout.data_start if from_start else None
        self._fragments = layout.fragments
        formats = container.format.name.split(",")
        self._is_avi = "avi" in formats
        self._is_accounted = any(name in ACCOUNTED for name in formats)
        self._reorders = stream.codec_context.has_b_frames
        self._codec: str = stream.codec_context.name
        extradata = bytes(stream.codec_context.extradata or b"")
        self._has_lengths = extradata[:1] == b"\1"  # instead of start codes
        self._follower = number_follower(self._codec, extradata) if checks_numbers else None
        self._numbers = layout.index.numbers
        self._sizes = layout.index.sizes
        self._sorted_numbers = sorted(self._numbers.values())

    def __iter__(self) -> Iterator[Packet]:
        """Yield the packets up to the end of the stream, and last one without data, which ends it.

        Raises:
            av.error.FFmpegError: the file breaks off.
        """
        end = self._data_start  # where the packet before ends in the file
        lost_bytes = 0
        before: int | None = None  # position of the video packet before
        for raw in self._container.demux(*(() if self._is_accounted else (self._stream,))):
            position = raw.pos if raw.size else None
            if self._is_accounted and position is not None:
                if end is not None and position - end > OVERHEAD:
                    lost_bytes += position - end
                end = max(end or 0, position + raw.size)
            if raw.stream_index != self._stream.index:
                continue
            if not raw.size:
                break
            number = self._number(raw) if self._is_avi else None
            data = bytes(raw)
            time = raw.pts if number is None else number
            shown = None if self._is_avi and self._reorders else time  # AVI does not store when a frame is shown
            yield Packet(
                raw=raw,
                time=time,
                dts=raw.dts if number is None else number,
                duration=raw.duration or 0,
                is_key=raw.is_keyframe,
                is_shown=not raw.is_discard,
                is_damaged=raw.is_corrupt or self._is_damaged(raw, data),
                position=position,
                lost_bytes=lost_bytes,
                lost=self._lost_between(before, position) if before is not None or lost_bytes else 0,
                is_resumed=self._fragments.miss_between(before, position),
                numbers=self._follower.follow(data, shown) if self._follower else NO_EVIDENCE,
                is_between=self._is_avi and self._reorders and raw.pts is not None and raw.pts == raw.dts,
            )
            lost_bytes, before = 0, position
        yield Packet()

    def _is_damaged(self, raw: Any, data: bytes) -> bool:
        """Whether a packet has a hole, or is not what the index of an AVI file says."""
        is_misread = bool(self._sizes) and self._sizes.get(raw.pos) != raw.size
        return is_misread or self._has_hole(data) or self._has_raw_hole(raw, data)

    def _has_hole(self, data: bytes) -> bool:
        """Whether a packet holds a run of zeros that no encoder writes."""
        if self._codec == "mjpeg" and jpeg.has_zeros(data):
            return True
        if data.endswith(ZERO_END):
            if self._codec == "mjpeg":
                return not data.rstrip(b"\0").endswith(b"\xff\xd9")  # padding comes after the end of the picture
            if self._codec in ("vp8", "vp9") or (self._codec in ("h264", "hevc") and self._has_lengths):
                return True
        return self._codec in NEVER_ZERO and ZERO_RUN.search(data) is not None

    def _has_raw_hole(self, raw: Any, data: bytes) -> bool:
        """Whether zeros between two units of a raw stream are too many for padding."""
        if raw.pts is not None or self._codec not in ("h264", "hevc"):
            return False
        return ZERO_PADDING in data or (not raw.pos and data.startswith(ZERO_END))

    def _number(self, raw: Any) -> int | None:
        """Return which frame of an AVI file a packet holds; its `pts` is a guess."""
        if raw.dts is None or raw.pos is None:
            return None
        if raw.pos in self._numbers:
            return self._numbers[raw.pos]
        return int(raw.dts) + sum(count for position, count in self._lost.items() if position <= raw.pos)

    def _lost_between(self, before: int | None, position: int | None) -> int:
        """Return how many packets are known to be lost between two positions in the file.

        Args:
            before: position of the packet before; None for the start of the file.
            position: position of a packet.
        """
        if position is None:
            return 0
        if position in self._numbers and (before is None or before in self._numbers):
            first = -1 if before is None else self._rank(before)
            return max(self._rank(position) - first - 1, 0)
        return self._lost.get(position, 0)

    def _rank(self, position: int) -> int:
        """Return how many packets come before the one at a position, by the index of an AVI file."""
        return bisect_left(self._sorted_numbers, self._numbers[position])


def number_follower(codec: str, extradata: bytes) -> FrameNumbers | PictureOrder | None:
    """Return what follows the numbers that encoders of a codec write into the packets; None if they write none.

    Args:
        codec: FFmpeg's name of the decoder.
        extradata: parameters of the stream from the container; empty if they are in the packets.
    """
    if codec == "h264":
        return FrameNumbers(extradata)
    if codec == "hevc":
        return PictureOrder(HevcNumbers(extradata), orders_output=True)
    if codec in ("mpeg1video", "mpeg2video"):
        return PictureOrder(MpegNumbers(extradata), orders_output=False)
    if "av1" in codec or codec == "libdav1d":
        return PictureOrder(Av1Numbers(extradata), orders_output=False)
    return None


def count_lost(gaps: Mapping[int, int], missing: int) -> dict[int, int]:
    """Return how many packets of an AVI file without index are lost before each of its gaps, by position in the file.

    Args:
        gaps: number of bytes that belong to no packet, by the position of the packet that follows.
        missing: how many packets are lost in all, as the header says.
    """
    if not gaps or missing <= 0:
        return {}
    share, lost, taken = sum(gaps.values()) / missing, {}, 0
    for position, num_bytes in gaps.items():
        lost[position] = round((taken + num_bytes) / share) - round(taken / share)
        taken += num_bytes
    return lost
