"""Gives decoded frames their indices, and leaves out those that are damaged or build on damaged ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

import av

from i2vpp.session.video_file.packets import Packet
from i2vpp.session.video_file.timeline import BUILDS_ON_DAMAGE, Timeline, Trust

MOST_WAITING = 512
"""Most packets that wait for their frames. Of interlaced video, the second field of each frame never brings one."""

MOST_HELD = 32
"""Most frames that are held. No codec shows a frame so many frames later than it is decoded."""


@dataclass(kw_only=True)
class _Sent:
    """A packet that was sent to the decoder, and its frame once that has come.

    Args:
        number: how many packets came before it.
        time: time at which the frame is shown.
        is_key: whether it is a keyframe.
        problem: why the frame is not what was written, or None.
        group: number, in the order of decoding, of the last keyframe up to it.
        builds_on: number of the first keyframe that the frame may build on.
        is_between: the frame is shown before that of an earlier packet, so it comes at once if at all.
        frame: the decoded frame.
        is_early: the frame was drained from the decoder: frames that are shown before it may lie in later packets.
    """

    number: int
    time: int | None
    is_key: bool
    problem: str | None
    group: int
    builds_on: int
    is_between: bool
    frame: av.VideoFrame | None = None
    is_early: bool = False


class Places:
    """Gives decoded frames their indices, and leaves out those that are not what was written.

    The decoder reports a frame as corrupt when it hands it out. Frames that build on it, but are shown before it, come
    earlier. In a stream with times, each frame is therefore held until those that were decoded before it have come.

    In a stream without usable times, frames are counted in the order in which the decoder hands them out. Those that
    are lost are counted at the next keyframe, which is shown after everything that was sent before it. After a hole in
    a raw stream, their number is unknown, so the index of every later frame is uncertain. If its first packet has a
    hole, frames are counted from the next keyframe on.

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
        self._due: dict[int, _Sent] = {}  # those of them whose frames can still come
        self._held: list[_Sent] = []  # packets whose frames have come, and have not been handed on
        self._lost = 0
        self._sends_fields = False  # whether two packets make a frame
        self._saw_problem = False  # whether frames since the last keyframe may be lost; which ones is not known
        self._first_problem: int | None = None  # number of the first packet with a problem since that keyframe
        self._begins_damaged = False
        self._is_count_uncertain = False  # a hole in a raw stream may hide the beginnings of packets

    def sent(self, number: int, packet: Packet, problem: str | None) -> None:
        """Record a packet that was sent to the decoder, or left out.

        Args:
            number: how many packets came before it.
            packet: the packet.
            problem: why its frame is not what was written, or None.
        """
        trust = self._trust
        sent = self._waiting[number] = _Sent(
            number=number,
            time=packet.time,
            is_key=packet.is_key,
            problem=problem,
            group=trust.num_keys,
            builds_on=trust.num_keys - trust.is_leading(packet),
            is_between=packet.is_between,
        )
        self._lost += packet.lost
        if problem:
            self._saw_problem_at(number)
        elif packet.time is not None:
            self._due[number] = sent
        if (packet.is_damaged or packet.numbers.skips) and packet.time is None:
            if number == 0:
                self._begins_damaged = True
            else:
                self._is_count_uncertain = True
        if problem and trust.is_final and self._timeline.timed and packet.time is not None:
            self._timeline.bad.setdefault(packet.time, problem)
        while len(self._waiting) > MOST_WAITING:
            oldest = next(iter(self._waiting))
            del self._waiting[oldest]
            self._due.pop(oldest, None)

    def _saw_problem_at(self, number: int) -> None:
        self._saw_problem = True
        if self._first_problem is None or number < self._first_problem:
            self._first_problem = number

    def came(self, frames: Iterable[av.VideoFrame], *, is_drained: bool) -> None:
        """Take frames from the decoder.

        Args:
            frames: decoded frames; the `pts` of each is the number of its packet.
            is_drained: the decoder holds no more frames back.
        """
        for frame in frames:
            number = frame.pts if frame.pts is not None else next(iter(self._waiting), None)
            if number not in self._waiting:
                continue  # FFmpeg hands out a frame twice that has nothing to build on
            sent = self._waiting.pop(number)
            self._due.pop(number, None)
            if sent.time is not None:
                if self._timeline.origin is None:
                    self._timeline.start_at(sent.time)
                for other in list(self._due.values()):
                    if other.time is not None and other.time <= sent.time:  # frames come in the order of their times
                        del self._due[other.number]
            sent.frame, sent.is_early = frame, is_drained
            self._held.append(sent)
            if frame.is_corrupt and not is_before(sent.time, self._since):
                self._spoil(sent)
        if is_drained:
            self._due.clear()

    def _spoil(self, corrupt: _Sent) -> None:
        """Record that FFmpeg reports a frame as corrupt, and that others build on it."""
        corrupt.problem = corrupt.problem or "FFmpeg reports it as corrupt"
        for sent in chain(self._waiting.values(), self._held):
            if sent.number > corrupt.number and sent.builds_on <= corrupt.builds_on:
                sent.problem = sent.problem or BUILDS_ON_DAMAGE
        self._trust.fail_group(corrupt.builds_on)
        self._saw_problem_at(corrupt.number)

    def known(self, packet: Packet) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yield frames that are now known to be what was written, with their indices.

        Args:
            packet: the last packet that was read.
        """
        while self._held and (len(self._held) > MOST_HELD or self._is_known(self._held[0], packet)):
            sent = self._held.pop(0)
            index = self._index(sent)
            if index is not None and sent.frame is not None:
                yield index, sent.frame

    def _is_known(self, sent: _Sent, last: Packet) -> bool:
        """Tell whether no packet that can still come changes whether a frame is good, or its index.

        Args:
            sent: packet of the frame.
            last: the last packet that was read.
        """
        if sent.time is None or not self._timeline.timed or last.raw is None:
            return True
        if any(number < sent.number and other.builds_on >= sent.builds_on for number, other in self._due.items()):
            return False
        if not sent.is_early or self._timeline.complete:
            return True
        # Frames that are shown before it are decoded before it is shown, and belong to its group or earlier ones.
        return (last.dts is not None and last.dts >= sent.time) or self._trust.num_keys > sent.group

    def _index(self, sent: _Sent) -> int | None:
        """Return the index of a frame, or None if it is not to be shown."""
        timeline, number = self._timeline, sent.number
        problem = sent.problem
        if timeline.timed and sent.time is not None:
            index = timeline.index(sent.time)
            self.count = self.count if index is None else index + 1
        elif self._begins_damaged and not sent.is_key:
            return None
        else:
            index = self._counted(sent)
            is_sure = sent.is_key and index == number  # as many frames have come before it as packets
            if not (is_sure and self._first_problem is not None and number < self._first_problem):
                problem = problem or (BUILDS_ON_DAMAGE if self._saw_problem else None)
                if self._is_count_uncertain:
                    problem = problem or "it is not known how many frames before it are lost"
        if index is None or is_before(sent.time, self._since):
            return None
        if problem and self._trust.is_final:
            timeline.bad.setdefault(timeline.key(index), problem)
        return None if problem else index

    def _counted(self, sent: _Sent) -> int:
        if sent.is_key:
            self.settle(sent.number)
        self.count += 1
        return self.count - 1

    def settle(self, before: int) -> None:
        """Count the frames of packets before a number that will not come any more."""
        leftover = [number for number, sent in self._waiting.items() if number < before or sent.is_between]
        for number in leftover:
            del self._waiting[number]
        if self._begins_damaged:
            self._begins_damaged, self._timeline.lacks_start = False, True
            leftover.clear()
        if not self._saw_problem:
            self._sends_fields = self._sends_fields or bool(leftover)
            return
        for _ in range(self._lost + (0 if self._sends_fields else len(leftover))):
            self._timeline.bad[self.count] = "it is damaged or missing"
            self.count += 1
        self._lost = 0
        if self._first_problem is None or self._first_problem < before:
            self._saw_problem, self._first_problem = False, None


def is_before(time: int | None, since: int | None) -> bool:
    """Whether a frame is shown before the keyframe that was jumped to, so that it lacks what it builds on.

    Args:
        time: time of the frame.
        since: time of the keyframe; None for the start of the file.
    """
    return since is not None and time is not None and time < since
