"""What the structure of a file tells of its packets: where they begin, and where some are missing."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

from i2vpp.session.video_file.data_start import CHUNK_HEADER, avi_start, first_matroska_time, is_chunk, matroska_start
from i2vpp.session.video_file.fragments import Fragments, read_fragments
from i2vpp.session.video_file.program_stream import TAIL_BYTES, ends_within_packet

START_FINDERS = {"matroska": matroska_start, "avi": avi_start}
TRANSPORT_PACKETS = (188, 192, 204)
"""Lengths of the packets of an MPEG transport stream, in bytes; a whole file holds whole packets."""


@dataclass(frozen=True, kw_only=True)
class Announced:
    """What the header of a file says of its video.

    Args:
        packets: how many there are; 0 if it does not say.
        end: end of the last frame, in the stream's time base; 0 if it does not say.
        slack: time by which the last frame may end earlier.
        is_ragged: the file is not made of whole blocks, or fragments, as its format demands.
    """

    packets: int = 0
    end: int = 0
    slack: int = 0
    is_ragged: bool = False


@dataclass(frozen=True, kw_only=True)
class AviIndex:
    """The video frames in the index of an AVI file, each by the position of its data in the file.

    Args:
        numbers: which frame it is.
        sizes: number of bytes; empty where FFmpeg reads the index rightly, and so finds the frames where they are.
    """

    numbers: Mapping[int, int] = field(default_factory=dict)
    sizes: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the packets of a file are.

    Args:
        data_start: where they begin in a file without gaps between them; None of other files, or if it is unknown.
        index: index of an AVI file.
        fragments: those of an MP4 file.
        announced: what the header says.
    """

    data_start: int | None = None
    index: AviIndex = field(default_factory=AviIndex)
    fragments: Fragments = field(default_factory=Fragments)
    announced: Announced = field(default_factory=Announced)


def read_layout(container: Any, stream: Any, video: str | BinaryIO) -> Layout:
    """Return the layout of a file.

    Args:
        container: the file, just opened: once packets have been read, FFmpeg lists them as if they were an index.
        stream: its video stream.
        video: its path, or the open file, whose position is kept.
    """
    start = _data_start(container, video)
    fragments = _fragments(container, stream, video)
    return Layout(
        data_start=start,
        index=_avi_index(container, stream, video, start),
        fragments=fragments,
        announced=_announced(container, stream, video, fragments),
    )


def _data_start(container: Any, video: str | BinaryIO) -> int | None:
    """Return where the packets begin in a file without gaps between them; None of other files, or if it is unknown.

    Args:
        container: the file.
        video: its path, or the open file; its position is kept.
    """
    find = next((find for name, find in START_FINDERS.items() if name in container.format.name.split(",")), None)
    if find is None or not _is_file(video):
        return None
    with _reading(video) as file:
        return find(file)


def _fragments(container: Any, stream: Any, video: str | BinaryIO) -> Fragments:
    if "mov" not in container.format.name.split(",") or not _is_file(video):
        return Fragments()
    with _reading(video) as file:
        return read_fragments(file, follow_packets=stream.frames > 0)


def _is_file(video: str | BinaryIO) -> bool:
    """Whether a video is no URL, pattern of names or other thing that only FFmpeg opens."""
    return not isinstance(video, str) or Path(video).is_file()


def _avi_index(container: Any, stream: Any, video: str | BinaryIO, data_start: int | None) -> AviIndex:
    """Return the index of an AVI file; an empty one of other files, or if there is none.

    FFmpeg finds out what the positions in the index count from by where it finds the first chunk. If that is damaged,
    all positions are wrong by the same number of bytes; those that are returned are right.

    Args:
        container: the file, just opened: once packets have been read, FFmpeg lists them as if they were an index.
        stream: its video stream.
        video: its path, or the open file.
        data_start: position of the first chunk; None if that is unknown.
    """
    if "avi" not in container.format.name.split(","):
        return AviIndex()
    entries = [entry for entry in getattr(stream, "index_entries", ()) if entry.size]
    if len(entries) < 2 or entries[-1].timestamp < stream.frames // 2:
        return AviIndex()  # what there is are the packets that FFmpeg has looked at to open the file
    first = min(entry.pos for other in container.streams for entry in getattr(other, "index_entries", ()))
    shift, last = first - data_start if data_start else 0, entries[-1]
    if shift:
        with _reading(video) as file:
            shift = shift if is_chunk(file, last.pos - shift, last.size) else 0
    places = [entry.pos - shift + CHUNK_HEADER for entry in entries]
    return AviIndex(
        numbers={place: entry.timestamp for place, entry in zip(places, entries, strict=True)},
        sizes={place: entry.size for place, entry in zip(places, entries, strict=True)} if shift else {},
    )


def _announced(container: Any, stream: Any, video: str | BinaryIO, fragments: Fragments) -> Announced:
    """Return what the header of a file says of its video.

    Args:
        container: the file.
        stream: its video stream.
        video: its path, or the open file; it is read near its end, and the position is kept.
        fragments: those of an MP4 file.
    """
    formats = container.format.name.split(",")
    if "mov" in formats:
        return Announced(packets=stream.frames, is_ragged=fragments.is_ragged)
    if "avi" in formats:
        return Announced(end=stream.frames, slack=2)
    if "mpegts" in formats:
        return Announced(is_ragged=container.size > 0 and all(container.size % size for size in TRANSPORT_PACKETS))
    if "mpeg" in formats:
        return Announced(is_ragged=container.size > 0 and ends_within_packet(_tail(video)))
    clock = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    if clock is None or not stream.average_rate:
        return Announced()
    hours, minutes, seconds = (Fraction(part) for part in clock.groups())
    second = 1 / (stream.time_base or Fraction(1))
    end = (3600 * hours + 60 * minutes + seconds) * second
    return Announced(end=round(end), slack=round(2 * second / stream.average_rate))


def first_time(container: Any, video: str | BinaryIO) -> int:
    """Return when frame 0 of a file is shown whose first packets are lost: 0, unless its index tells more.

    Args:
        container: the file.
        video: its path, or the open file; its position is kept.
    """
    if "matroska" not in container.format.name.split(","):
        return 0
    with _reading(video) as file:
        return first_matroska_time(file)


def _tail(video: str | BinaryIO) -> bytes:
    """Return the last bytes of a file."""
    with _reading(video) as file:
        file.seek(max(file.seek(0, os.SEEK_END) - TAIL_BYTES, 0))
        return file.read()


@contextmanager
def _reading(video: str | BinaryIO) -> Iterator[BinaryIO]:
    """Open a file, or keep the position of an open one.

    Args:
        video: its path, or the open file.
    """
    if isinstance(video, str):
        with Path(video).open("rb") as file:
            yield file
        return
    position = video.tell()
    try:
        yield video
    finally:
        video.seek(position)
