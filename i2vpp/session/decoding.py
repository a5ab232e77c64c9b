"""From packets to frames with their indices; frames that are damaged are left out, and the timeline records them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import av

from i2vpp.session.packets import Packet
from i2vpp.session.timeline import Timeline, Trust

DECODE_ERRORS = (av.error.FFmpegError, ValueError, MemoryError)
"""What PyAV raises for data that it cannot decode; UnicodeError is a ValueError."""

MOST_WAITING = 512
"""Most packets that wait for their frames. Of interlaced video, the second field of each frame never brings one."""


def open_decoder(stream: Any, *, is_strict: bool) -> Any:
    """Return a decoder for the packets of a stream.

    Args:
        stream: a video stream.
        is_strict: have the decoder report errors that it would otherwise cover up with what looks like a picture.
    """
    context = stream.codec_context
    if is_strict and context.name == "vp9" and context.pix_fmt == "yuv420p":
        try:  # FFmpeg's own decoder of VP9 reports no damage, libvpx does
            decoder = av.CodecContext.create("libvpx-vp9", "r")
        except (*DECODE_ERRORS, LookupError):
            return context
        decoder.extradata = context.extradata
        return decoder
    if is_strict:
        context.options = {"err_detect": "explode"}
    return context


@dataclass(kw_only=True)
class _Sent:
    """A packet that was sent to the decoder and whose frame has not come yet.

    Args:
        time: time at which the frame is shown.
        is_key: whether it is a keyframe.
        problem: why the frame is not what was written, or None.
    """

    time: int | None
    is_key: bool
    problem: str | None


class _Places:
    """Gives decoded frames their indices, and leaves out those that are not what was written.

    In a stream without usable times, frames are counted in the order in which the decoder hands them out. Those that
    are lost are counted at the next keyframe, which is shown after everything that was sent before it. After a hole in
    a raw stream, their number is unknown, so the index of every later frame is uncertain.

    Args:
        timeline: timeline of the stream; its `bad` records what is left out.
        trust: judges the packets.
        since: time of the keyframe that was jumped to; None for the start of the file.
    """

    def __init__(self, timeline: Timeline, trust: Trust, since: int | None) -> None:
        self.count = 0
        self._timeline = timeline
        self._trust = trust
        self._since = since
        self._waiting: dict[int, _Sent] = {}  # packets whose frames have not come, by their numbers
        self._lost = 0
        self._sends_fields = False  # whether two packets make a frame
        self._saw_problem = False  # whether frames since the last keyframe may be lost; which ones is not known
        self._first_problem: int | None = None  # number of the first packet with a problem since that keyframe
        self._saw_key = False
        self._is_count_uncertain = False  # a hole in a raw stream may hide the beginnings of packets

    def sent(self, number: int, packet: Packet, problem: str | None) -> None:
        """Record a packet that was sent, and why its frame is not what was written, if that is known."""
        self._waiting[number] = _Sent(time=packet.time, is_key=packet.is_key, problem=problem)
        self._lost += packet.lost
        self._saw_problem = self._saw_problem or problem is not None
        if problem and self._first_problem is None:
            self._first_problem = number
        if packet.is_damaged and packet.time is None and self._saw_key:
            self._is_count_uncertain = True
        self._saw_key = self._saw_key or packet.is_key
        if problem and self._trust.is_final and self._timeline.timed and packet.time is not None:
            self._timeline.bad.setdefault(packet.time, problem)
        while len(self._waiting) > MOST_WAITING:
            del self._waiting[next(iter(self._waiting))]

    def index(self, frame: av.VideoFrame) -> int | None:
        """Return the index of a frame, or None if it is not to be shown; its `pts` is the number of its packet."""
        waiting, timeline = self._waiting, self._timeline
        number = frame.pts if frame.pts in waiting else next(iter(waiting), None)
        if number is None:
            return None
        sent = waiting.pop(number)
        if timeline.origin is None and sent.time is not None:
            timeline.start_at(sent.time)
        problem = sent.problem or ("FFmpeg reports it as corrupt" if frame.is_corrupt else None)
        if timeline.timed and sent.time is not None:
            index = timeline.index(sent.time)
            self.count = self.count if index is None else index + 1
        else:
            index = self._counted(number, sent)
            is_sure = sent.is_key and index == number  # as many frames have come before it as packets
            if not (is_sure and self._first_problem is not None and number < self._first_problem):
                problem = problem or ("frames before it are damaged" if self._saw_problem else None)
                if self._is_count_uncertain:
                    problem = problem or "it is not known how many frames before it are lost"
        if index is None or _is_before(sent.time, self._since):
            return None
        if problem and self._trust.is_final:
            timeline.bad.setdefault(timeline.key(index), problem)
        return None if problem else index

    def _counted(self, number: int, sent: _Sent) -> int:
        if sent.is_key:
            self.settle(number)
        self.count += 1
        return self.count - 1

    def settle(self, before: int) -> None:
        """Count the frames of packets before a number that will not come any more."""
        leftover = [number for number in self._waiting if number < before]
        for number in leftover:
            del self._waiting[number]
        if not self._saw_problem:
            self._sends_fields = self._sends_fields or bool(leftover)
            return
        for _ in range(self._lost + (0 if self._sends_fields else len(leftover))):
            self._timeline.bad[self.count] = "it is damaged or missing"
            self.count += 1
        self._lost = 0
        if self._first_problem is None or self._first_problem < before:
            self._saw_problem, self._first_problem = False, None


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

    def send(self, packet: Packet, number: int) -> tuple[list[Any], str | None]:
        """Return the frames that a packet brings, and why its own frame is not what was written, if that is known.

        Each frame has the number of its packet as `pts`: the real times may be missing, or double.
        """
        if packet.raw is None:
            return self._drain(), None
        is_hole = packet.is_damaged and packet.time is None  # in a raw stream; the frames before it are handed out
        sends_all = not self._timeline.timed and not is_hole  # the first packet tells whether a stream has times
        packet.raw.pts = number
        has_failed, was_broken = False, self._trust.is_broken
        problem = self._trust.judge(packet)
        if problem is None or sends_all:
            try:
                return self._decoder.decode(packet.raw), problem
            except DECODE_ERRORS:
                if _is_before(packet.time, self._since):
                    return [], None
                has_failed, problem = True, "its data are damaged"
                self._trust.fail(packet)
                if self._trust.is_final and packet.position is not None:
                    self._timeline.undecodable.add(packet.position)
        if self._trust.is_broken and (has_failed or not was_broken) and not sends_all:
            frames = self._drain()
            self._decoder.flush_buffers()
            return frames, problem
        return [], problem

    def _drain(self) -> list[Any]:
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
    sender, places = _Sender(decoder, trust, timeline, since), _Places(timeline, trust, since)
    number = -1
    for number, packet in enumerate(packets):
        if learns:
            timeline.add(packet)
            if timeline.suspects_loss:
                return
        frames, problem = sender.send(packet, number)
        if packet.raw is not None:
            places.sent(number, packet, problem)
        for frame in frames:
            index = places.index(frame)
            if index is not None:
                yield index, frame
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


def _is_before(time: int | None, since: int | None) -> bool:
    return since is not None and time is not None and time < since
