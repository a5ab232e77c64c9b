"""From packets to frames with their indices; frames that are damaged are left out, and the timeline records them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from typing import Any

import av

from i2vpp.session.video_file.packets import Packet
from i2vpp.session.video_file.places import Places, is_before
from i2vpp.session.video_file.timeline import Timeline, Trust

KEYS_TO_TRY = 4
"""Keyframes that are decoded to find out whether a whole stream is not quite standard, or is damaged in places."""

DECODE_ERRORS = (av.error.FFmpegError, ValueError, MemoryError)
"""What PyAV raises for data that it cannot decode; UnicodeError is a ValueError."""


def open_decoder(stream: Any, *, is_strict: bool) -> Any:
    """Return a decoder for the packets of a stream.

    Args:
        stream: a video stream.
        is_strict: have the decoder report errors that it would otherwise cover up with what looks like a picture.
    """
    context = stream.codec_context
    if context.name == "h264":
        context.thread_count = 1  # with threads for slices, FFmpeg does not report pictures that are incomplete
    if is_strict and context.name == "vp9" and context.pix_fmt == "yuv420p":
        try:  # FFmpeg's own decoder of VP9 reports no damage, libvpx does
            decoder = av.CodecContext.create("libvpx-vp9", "r")
        except (*DECODE_ERRORS, LookupError):
            return context
        decoder.extradata = context.extradata
        return decoder
    if is_strict:
        context.options = {"err_detect": "explode+crccheck"}
    return context


class _Sender:
    """Sends packets to a decoder as long as its frames can be those that were written.

    From a damaged packet on, nothing is sent up to the next keyframe, and the decoder hands out what it holds back: no
    frame is lost to an error that comes after it, and what follows is decoded as after a jump to that keyframe. Where
    frames have to be counted as they come, all is sent but what has holes.

    Args:
        decoder: decoder of the stream, see `open_decoder`.
        trust: judges the packets.
        timeline: theirs.
        since: time of the keyframe that was jumped to; earlier frames lack what they refer to, and their errors do not
            count. None for the start of the file.
    """

    def __init__(self, decoder: Any, trust: Trust, timeline: Timeline, since: int | None) -> None:
        self._decoder = decoder
        self._trust = trust
        self._since = since
        self._timeline = timeline
        self._holds_frames = False
        self._has_decoded = False

    @property
    def is_drained(self) -> bool:
        """Whether the decoder holds no frames back."""
        return not self._holds_frames

    def send(self, packet: Packet, number: int) -> tuple[list[Any], str | None]:
        """Return the frames that a packet brings, and why its own frame is not what was written, if that is known.

        Each frame has the number of its packet as `pts`: the real times may be missing, or double.
        """
        if packet.raw is None:
            return self._drain(), None
        is_hole = packet.is_damaged and packet.time is None  # in a raw stream; the frames before it are handed out
        sends_all = not self._timeline.timed and not is_hole  # the first packet tells whether a stream has times
        packet.raw.pts = number
        was_broken = self._trust.is_broken
        problem = self._trust.judge(packet)
        if problem is None or sends_all:
            if packet.is_key and packet.time is None and was_broken and not self._has_decoded:
                self._decoder.flush_buffers()  # the beginning of a raw stream is damaged; it begins here
            self._holds_frames = True
            try:
                frames = self._decoder.decode(packet.raw)
                self._has_decoded = self._has_decoded or bool(frames)
                return frames, problem
            except DECODE_ERRORS:
                if is_before(packet.time, self._since):
                    return [], None
                problem = "its data are damaged"
                self._trust.fail(packet)
                if self._trust.is_final and packet.position is not None:
                    self._timeline.undecodable.add(packet.position)
        if self._trust.is_broken and self._holds_frames and not sends_all:
            frames = self._drain()
            self._decoder.flush_buffers()
            return frames, problem
        return [], problem

    def _drain(self) -> list[Any]:
        self._holds_frames = False
        try:
            frames: list[Any] = self._decoder.decode(None)
        except (*DECODE_ERRORS, EOFError):
            return []
        return frames


# Functions rather than methods: a generator that refers to its source would keep the source and all its frames in
# memory until the next garbage collection.


def decode(
    packets: Iterable[Packet], decoder: Any, timeline: Timeline, since: int | None = None
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Yield decoded frames with their indices, but those that are not what was written.

    Ends early, without having completed the timeline, where frames may be missing: then all packets have to be listed.

    Args:
        packets: packets from the start of the file, or from a keyframe on.
        decoder: decoder of the stream, see `open_decoder`.
        timeline: is filled by reading on from the start of the file, if it is not complete. Its `bad` records why
            frames are left out, as far as that does not come from having begun at `since`.
        since: time of that keyframe; None for the start of the file.
    """
    learns = since is None and not timeline.complete
    trust = Trust(timeline, since)
    sender, places = _Sender(decoder, trust, timeline, since), Places(timeline, trust, since)
    number = -1
    for number, packet in enumerate(packets):
        if learns:
            timeline.add(packet)
            if timeline.suspects_loss:
                return
        frames, problem = sender.send(packet, number)
        if packet.raw is not None:
            places.sent(number, packet, problem)
        places.came(frames, is_drained=sender.is_drained)
        yield from places.known(packet)
    if learns:
        if not timeline.timed:
            places.settle(number + 1)
        timeline.counted = places.count
        timeline.complete = True


def until_it_breaks(packets: Iterable[Packet], timeline: Timeline) -> Iterator[Packet]:
    """Yield packets; where the file breaks off, the timeline records that, and the end of the stream follows.

    Args:
        packets: packets of the stream; reading them may raise an error of FFmpeg.
        timeline: its `broken_by` is set.
    """
    try:
        yield from packets
    except (*DECODE_ERRORS, OSError) as error:
        if not timeline.complete:
            timeline.broken_by = f"the file breaks off here ({getattr(error, 'strerror', None) or error})"
        yield Packet()


def do_all_keys_fail(packets: Iterable[Packet], decoder: Any) -> bool:
    """Tell whether none of the first keyframes can be decoded.

    Args:
        packets: packets from the start of the file.
        decoder: decoder of the stream, see `open_decoder`.
    """
    failures = []
    for packet in islice((packet for packet in packets if packet.is_key), KEYS_TO_TRY):
        failures.append(True)
        with suppress(*DECODE_ERRORS):
            decoder.decode(packet.raw)
            failures[-1] = False
        decoder.flush_buffers()
    return len(failures) > 1 and all(failures)
