"""From packets to frames with their indices; frames that are not what was written are left out and remembered."""

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
"""Packets whose frames have not come; of interlaced video, the second field of each frame brings none."""


def open_decoder(stream: Any, *, is_strict: bool) -> Any:
    """Return a decoder for the packets of a stream.

    Args:
        stream: a video stream.
        is_strict: have the decoder report errors that it would otherwise cover up with what looks like a picture.
    """
    context = stream.codec_context
    if is_strict and context.name == "vp9" and context.pix_fmt == "yuv420p":
        try:  # FFmpeg's own decoder of VP9 notices no damage
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
        time: when the frame is shown.
        is_key: it is a keyframe.
        problem: why the frame is not what was written, or None.
    """

    time: int | None
    is_key: bool
    problem: str | None


class _Counter:
    """Counts the frames of a stream without usable times, in the order in which the decoder hands them out.

    Frames that are lost are counted at the next keyframe, which is shown after everything that was sent before it.

    Args:
        timeline: takes down which frames are bad.
    """

    def __init__(self, timeline: Timeline) -> None:
        self.count = 0
        self._timeline = timeline
        self._lost = 0
        self._sends_fields = False  # two packets make a frame
        self.saw_problem = False  # since the last keyframe: which frames are lost is not known

    def sent(self, packet: Packet, problem: str | None) -> None:
        """Take note of a packet."""
        self._lost += packet.lost
        self.saw_problem = self.saw_problem or problem is not None

    def index(self, number: int, sent: _Sent, waiting: dict[int, _Sent]) -> int:
        """Return the index of the frame of packet `number`, which the decoder has handed out."""
        if sent.is_key:
            self.settle([n for n in waiting if n < number], waiting)
        self.count += 1
        return self.count - 1

    def settle(self, numbers: list[int], waiting: dict[int, _Sent]) -> None:
        """Count what will not come any more."""
        leftover = len(numbers)
        for number in numbers:
            del waiting[number]
        if not self.saw_problem:
            self._sends_fields = self._sends_fields or leftover > 0
            return
        for _ in range(self._lost + (0 if self._sends_fields else leftover)):
            self._timeline.bad[self.count] = "it is damaged or missing"
            self.count += 1
        self._lost, self.saw_problem = 0, False


class _Sender:
    """Sends packets to a decoder as long as its frames can be those that were written.

    From a damaged packet on, nothing is sent up to the next keyframe, and the decoder hands out what it holds back: no
    frame is lost to an error that comes after it, and what follows is decoded as after a jump to that keyframe. Where
    frames have to be counted as they come, all is sent.

    Args:
        decoder: see `open_decoder`.
        trust: judges the packets.
        timeline: theirs.
        since: time of the keyframe that was jumped to; earlier frames lack what they refer to, and their errors do not
            count. None for the start of the file.
    """

    def __init__(self, decoder: Any, trust: Trust, timeline: Timeline, since: int | None) -> None:
        self._decoder = decoder
        self._trust = trust
        self._since = since
        self._sends_all = not timeline.timed
        self._number = -1

    def send(self, packet: Packet) -> tuple[list[Any], str | None]:
        """Return the frames that a packet brings, and why its own frame is not what was written, if that is known.

        Each frame has the number of its packet as time: the real times may be missing, or double.
        """
        self._number += 1
        if packet.raw is None:
            return self._drain(), None
        packet.raw.pts = self._number
        was_broken = self._trust.is_broken
        problem = self._trust.judge(packet)
        if problem is None or self._sends_all:
            try:
                return self._decoder.decode(packet.raw), problem
            except DECODE_ERRORS:
                if self._is_led(packet):
                    return [], None
                problem = "its data are damaged"
                self._trust.fail(packet)
        if self._trust.is_broken and not (was_broken or self._sends_all):
            frames = self._drain()
            self._decoder.flush_buffers()
            return frames, problem
        return [], problem

    def _is_led(self, packet: Packet) -> bool:
        return self._since is not None and packet.time is not None and packet.time < self._since

    def _drain(self) -> list[Any]:
        try:
            frames: list[Any] = self._decoder.decode(None)
        except (*DECODE_ERRORS, EOFError):
            return []
        return frames


# A function rather than a method: a generator that refers to its source would keep it, and all its frames, until the
# garbage collector comes by.


def decode(
    packets: Iterable[Packet], decoder: Any, timeline: Timeline, since: int | None = None
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Yield decoded frames with their indices, but those that are not what was written.

    Ends early, without having completed the timeline, where frames may be missing: then all packets have to be listed.

    Args:
        packets: from the start of the file, or from a keyframe on.
        decoder: see `open_decoder`.
        timeline: is filled by reading on from the start of the file, if it is not complete. Its `bad` takes down why
            frames are left out, as far as that does not come from having begun at `since`.
        since: time of that keyframe; None for the start of the file.
    """
    learns = since is None and not timeline.complete
    trust, counter = Trust(timeline), _Counter(timeline)
    sender = _Sender(decoder, trust, timeline, since)
    waiting: dict[int, _Sent] = {}
    for number, packet in enumerate(packets):
        if learns:
            timeline.add(packet)
            if timeline.suspects_loss:
                return
        frames, problem = sender.send(packet)
        is_final = since is None or trust.keys_passed > 1 or since == timeline.key_times[0]
        if packet.raw is not None:
            waiting[number] = _Sent(time=packet.time, is_key=packet.is_key, problem=problem)
            counter.sent(packet, problem)
            if problem and is_final and timeline.timed and packet.time is not None:
                timeline.bad.setdefault(packet.time, problem)
        for frame in frames:
            sent_as = frame.pts if frame.pts in waiting else next(iter(waiting), None)
            if sent_as is None:
                continue
            sent = waiting[sent_as]
            index = _index(sent_as, waiting, timeline, counter)
            if frame.is_corrupt:
                sent.problem = sent.problem or "FFmpeg reports it as corrupt"
            if index is None or (since is not None and sent.time is not None and sent.time < since):
                continue
            if sent.problem is None:
                yield index, frame
            elif is_final:
                timeline.bad.setdefault(timeline.key(index), sent.problem)
        while len(waiting) > MOST_WAITING:
            del waiting[next(iter(waiting))]
    if learns:
        if not timeline.timed:
            counter.settle(list(waiting), waiting)
        timeline.counted = counter.count
        timeline.complete = True


def _index(number: int, waiting: dict[int, _Sent], timeline: Timeline, counter: _Counter) -> int | None:
    """Return the index of the frame of packet `number`, which waits no longer; None for one that is not shown."""
    sent = waiting.pop(number)
    if timeline.origin is None and sent.time is not None:
        timeline.start_at(sent.time)
    if timeline.timed and sent.time is not None:
        index = timeline.index(sent.time)
        counter.count = counter.count if index is None else index + 1
        return index
    index = counter.index(number, sent, waiting)
    sent.problem = sent.problem or ("frames before it are damaged" if counter.saw_problem else None)
    return index
