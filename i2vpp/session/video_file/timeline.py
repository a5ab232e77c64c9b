"""The presentation times of a video's frames, as its packets tell them, and which frames are lost."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from itertools import pairwise
from math import inf
from statistics import median
from typing import NamedTuple

from i2vpp.session.video_file.layout import Announced
from i2vpp.session.video_file.packets import Packet
from i2vpp.session.video_file.picture_order import NO_EVIDENCE, Gap

PATIENCE = 64
"""A jump ahead by at most this many frames decodes on, instead of listing all packets of the file."""

STEADY = 0.9
"""Smallest share of equal distances between frames in a video of constant frame rate."""

REORDERED = 16
"""A frame is decoded at most this many frames before it is shown."""

LONGEST_HOLE = 12
"""A longer stretch without frames at a constant rate is a pause, unless the file shows that data are missing there."""

MOST_SKIPS = 8
"""Losses that frame numbers may show in a short file before they are taken for wrong numbers."""

SHORTEST_PACKET = 8
"""Bytes that a frame and its header in the file take at least."""

BUILDS_ON_DAMAGE = "frames before it are damaged"


class _Window(NamedTuple):
    """An interval in which frames may be missing.

    Args:
        start: decoding time of the packet before it, or a bound below that.
        end: decoding time of the packet after it, or a bound above that.
        resumed: decoding time of the packet after it; None if there is none, or that is unknown.
        is_certain: frames are missing, or damaged, or their numbers are.
        position: position of the packet after it in the file; None if there is none, or that is unknown.
    """

    start: float
    end: int
    resumed: int | None
    is_certain: bool
    position: int | None


class Timeline:
    """The times of a video's frames: frame i is the one with the i-th smallest time.

    Where bytes of the file belong to no packet, where FFmpeg reports packets as corrupt, or where a packet's duration
    ends long before the next one begins, frames may be missing. Frames that are missing keep their places: `fill` adds
    their times, for which it has to know all packets.

    Args:
        may_start_late: the format is one of broadcasts, which may be recorded from between two keyframes on. What comes
            before the first frame that can be decoded then belongs to no frame.
        has_durations: packets say how long their frames are shown, whatever comes next.
        guesses_times: packets may lack times, which FFmpeg guesses from those around.
        is_listable: all packets of the file can be listed.
        announced: what the header says.
    """

    def __init__(
        self,
        *,
        may_start_late: bool,
        has_durations: bool,
        guesses_times: bool,
        is_listable: bool,
        announced: Announced | None = None,
    ) -> None:
        self.may_start_late = may_start_late
        self.origin: int | None = None  # time of frame 0; earlier packets belong to pictures that no decoder can show
        self.times: list[int] = []
        self.key_times: list[int] = []
        self.key_dts: dict[int, int] = {}
        self.lost: list[int] = []
        self.resumed: list[int] = []  # decoding times of the packets that follow a loss
        self.resumed_times: set[int] = set()  # times of others of which their numbers tell that
        self.uncertain_times: set[int] = set()  # times that FFmpeg guesses, beside lost packets
        self.resumed_at: set[int | None] = set()  # their positions; FFmpeg guesses decoding times after a jump
        self.bad: dict[int, str] = {}  # why frames are not what was written, by `key`
        self.starts_late = False  # the recording begins between two keyframes
        self.lacks_start = False  # the first keyframe of an untimed stream is damaged; it begins with the next one
        self.undecodable: set[int] = set()  # positions in the file of packets that the decoder has refused
        self.timed = True  # False: times are missing or wrong, and frames are counted as they are decoded
        self.counted = 0  # number of frames of an untimed stream
        self.complete = False
        self.suspects_loss = False
        self.lost_before = 0  # bytes before the first packet that belong to no packet
        self.begins_within = False  # the first packet is no keyframe, in a format of files that begin with one
        self.contradicted = False  # numbers of pictures show that the times are wrong
        self.broken_by: str | None = None  # what ended reading before the end of the file
        self.end = 0  # when the last frame ends
        self.num_packets = 0
        self.num_skips = 0  # packets whose frame numbers show that frames before them are lost
        self._has_durations = has_durations
        self._guesses_times = guesses_times
        self._is_listable = is_listable
        self._announced = announced or Announced()
        self._windows: list[_Window] = []
        self._has_numbers = True  # all packets have told their numbers
        self._gaps: list[Gap] = []  # where numbers leave out frames
        self._delay = 0  # longest time from decoding a frame to showing it
        self._last: Packet | None = None

    def __len__(self) -> int:
        """Return the number of frames; a place where the file breaks off counts as a frame, an unreadable one."""
        return (len(self.times) if self.timed else self.counted) + (self.broken_by is not None)

    def add(self, packet: Packet) -> None:
        """Add the next packet, in the order of the file."""
        if packet.raw is None:
            if self.is_cut and self._is_listable and self._last is not None and self._last.dts is not None:
                self._windows.append(_Window(self._last.dts, self._last.dts + 1, None, is_certain=True, position=None))
                self.suspects_loss = True
            return
        time, dts, last = packet.time, packet.dts, self._last
        self.num_packets += 1
        gaps = [gap for gap in packet.numbers.gaps if gap.takes_time]
        self.num_skips += bool(packet.numbers.skips) + len(gaps)
        self._has_numbers = self._has_numbers and packet.numbers is not NO_EVIDENCE
        if time is None:
            self.timed = False
            return
        if last is None and self.origin is None:
            self.may_start_late = self.may_start_late and not packet.is_key
            self.origin = time if packet.is_key else None
        if packet.is_damaged and not self.key_times:
            self.may_start_late = False  # it does not start late: its first keyframe is damaged
        if packet.is_key:
            insort(self.key_times, time)
            self.key_dts[time] = time if dts is None else dts
        self._look_for_loss(packet)
        self._gaps += packet.numbers.gaps
        # Times that are guessed may leave no time for what is missing.
        has_gap = bool(packet.numbers.gaps if self._guesses_times else gaps)
        if (has_gap or packet.numbers.suspects_loss) and self._is_listable:
            self.suspects_loss = True
        self._last = packet
        if not packet.is_shown or (self.origin is not None and time < self.origin):
            return
        jumps_back = dts is not None and last is not None and last.dts is not None and dts < last.dts
        # After damage, FFmpeg guesses decoding times wrongly, while frames are still shown in order.
        recent = self.times[-REORDERED:]
        is_late = len(recent) < REORDERED or packet.is_key  # it has to be shown after all others
        is_guessed = bool(recent) and time > recent[-1 if is_late else 0]
        is_joined = (jumps_back and not is_guessed and bool(self.key_times)) or time in self.times[-PATIENCE:]
        if is_joined or packet.numbers.contradicts_times:
            self.timed = False
        if packet.numbers.contradicts_times and self._is_listable:
            self.contradicted = self.suspects_loss = True  # all is read anew, without what the times cut off
        self.end = max(self.end, time + packet.duration)
        insort(self.times, time)
        for lost in range(time - packet.lost, time):
            insort(self.times, lost)
            insort(self.lost, lost)

    def _look_for_loss(self, packet: Packet) -> None:
        """Remember where frames may be missing before a packet."""
        last, time, dts = self._last, packet.time, packet.dts
        if time is None:
            return
        if dts is not None:
            self._delay = max(self._delay, time - dts)
        is_certain = (
            packet.lost_bytes > 0 or packet.numbers.skips is not False or packet.is_damaged or packet.is_resumed
        )
        is_hole = False
        if last is None or last.time is None:
            self.lost_before = packet.lost_bytes
            # If it is decoded at 0, nothing is missing: an encoder may refresh pictures bit by bit, without keyframes.
            self.begins_within = not (packet.is_key or self.may_start_late or (dts is not None and dts <= 0))
            is_certain, start = self.may_lack_first, -inf
        else:
            start = last.time - self._delay if last.dts is None else last.dts
            is_certain = is_certain or last.is_damaged
            if self._has_durations and dts is not None and last.dts is not None:
                is_hole = 0 < 3 * packet.duration <= 2 * (dts - last.dts)
        if (is_certain or is_hole) and self._is_listable:
            # A frame is not shown before it is decoded.
            end = time if dts is None else dts
            self._windows.append(_Window(start, end, dts, is_certain=is_certain, position=packet.position))
            self.suspects_loss = True

    @property
    def may_lack_first(self) -> bool:
        """Whether frames may be missing before the first packet."""
        return self.lost_before > 0 or self.begins_within

    @property
    def is_cut(self) -> bool:
        """Whether the file ends before what its header announces; valid once all packets are known."""
        header = self._announced
        is_short = self.num_packets < header.packets or self.end + header.slack < header.end
        return is_short or header.is_ragged or self.broken_by is not None

    @property
    def numbers_wrongly(self) -> bool:
        """Whether so many frame numbers are left out that the encoder does not keep to the standard."""
        return self.num_skips > max(MOST_SKIPS, self.num_packets // 8)

    def fill(self, first_time: int | None = None) -> None:
        """Give the frames that are missing their places; to be called once all packets are known.

        Args:
            first_time: time of frame 0 where packets before the first one may be lost; None if there are none.
        """
        self.suspects_loss = False
        if not (self._windows or self._gaps) or len(self.times) < 3:
            return
        steps = [after - before for before, after in pairwise(self.times)]
        step = max(round(median(steps)), 1)
        slack = max(1, step // 8)
        is_steady = sum(abs(s - step) <= slack for s in steps) >= STEADY * len(steps)
        known = list(self.times)
        # A time between two others is one that damage has changed, of a frame that is not missing.
        is_even = all(s >= step - slack for s in steps[:LONGEST_HOLE])
        most = self.lost_before // SHORTEST_PACKET or (LONGEST_HOLE if is_even else 0)
        if first_time is not None:
            start = first_time if first_time <= known[0] else 0  # the index may begin after it
            if known[0] - start <= (most + 0.5) * step:
                known.insert(0, start - step)
        for before, after in pairwise(known):
            count = round((after - before) / step) - 1
            if count < 1:
                continue
            windows = [w for w in self._windows if after > w.start and before < w.end + self._delay]
            certain = [w for w in windows if w.is_certain]
            fits = is_steady and abs(after - before - (count + 1) * step) <= slack
            near = [gap for gap in self._gaps if gap.start <= after + self._delay and before - self._delay <= gap.end]
            is_hole = bool(windows) and fits and count <= LONGEST_HOLE
            if self._guesses_times and self._has_numbers:
                is_hole = is_hole and bool(near)  # else a guess was wrong
            numbered = [
                gap
                for gap in self._gaps
                if fits
                and gap.start <= before
                and after <= gap.end
                # Between them may lie pictures whose own numbers are not known.
                and round((gap.end - gap.start) / step) - 1 == gap.missing
            ]
            self.resumed_times.update(gap.around[1] for gap in numbered if len(gap.around) > 1)
            if is_hole and self._guesses_times:
                for gap in near:
                    is_first_right = gap.is_in_order and gap.around[:1] != (after,)
                    self.uncertain_times.update(gap.around[is_first_right:])
            if certain or is_hole or numbered:
                self.lost += [before + (after - before) * k // (count + 1) for k in range(1, count + 1)]
            if certain or is_hole:
                self.resumed += [w.resumed for w in certain or windows if w.resumed is not None]
                self.resumed_at.update(w.position for w in certain or windows)
        self.times = sorted({*self.times, *self.lost})
        self.lost.sort()
        self.resumed.sort()
        self.resumed_at.discard(None)

    def start_at(self, time: int) -> None:
        """Drop what comes before the first frame that could be decoded, if the recording starts between keyframes."""
        self.starts_late = self.may_start_late
        self.origin = time if self.starts_late else min(self.times, default=time)
        del self.times[: bisect_left(self.times, self.origin)]

    def index(self, time: int) -> int | None:
        """Return which frame is shown at `time`, or None if it is one that is not shown."""
        i = bisect_left(self.times, time)
        return i if i < len(self.times) and self.times[i] == time else None

    def key(self, i: int) -> int:
        """Return by what frame i is known in `bad`: its time, or its index in an untimed stream."""
        return self.times[i] if self.timed and i < len(self.times) else i

    def problem(self, i: int) -> str | None:
        """Return why frame i is not what was written, as far as that is known."""
        if self.timed and i < len(self.times) and _any_between(self.lost, self.times[i], self.times[i]):
            return "it is missing"
        if self.broken_by is not None and self.complete and i == len(self) - 1:
            return self.broken_by
        return self.bad.get(self.key(i))

    def keys_before(self, i: int) -> list[int]:
        """Return the times of the two keyframes at or before frame i, the nearer one first."""
        end = bisect_right(self.key_times, self.times[i])
        return self.key_times[max(end - 2, 0) : end][::-1]

    def key_between(self, start: int, i: int) -> bool:
        """Tell whether there is a keyframe between two frames, so that decoding may begin after the first one.

        Args:
            start: index of the first frame.
            i: index of the later frame, which may itself be the keyframe.
        """
        return bisect_right(self.key_times, self.times[i]) > bisect_right(self.key_times, self.times[start])


def _any_between(values: list[int], first: int, last: int) -> bool:
    """Whether one of the sorted values lies from `first` to `last`."""
    return bisect_left(values, first) < bisect_right(values, last)


class Trust:
    """Judges packets in the order of decoding: from a damaged or lost one on, none is good up to the next keyframe.

    Args:
        timeline: timeline of the packets.
        since: time of the keyframe that was jumped to; None for the start of the file.
    """

    def __init__(self, timeline: Timeline, since: int | None) -> None:
        self._timeline = timeline
        self._since = since
        self.num_keys = 0  # keyframes so far, in the order of decoding
        self._reason: str | None = None
        self._reason_before_key: str | None = None  # pictures shown before a keyframe may need those before it as well
        self._key: Packet | None = None
        self._last_dts: int | None = None

    @property
    def is_final(self) -> bool:
        """Whether a problem of a packet lies in the file, and does not come from having begun at `since`."""
        return self._since is None or self.num_keys > 1 or self._since == self._timeline.key_times[0]

    @property
    def is_broken(self) -> bool:
        """Whether a packet since the last keyframe is damaged or lost."""
        return self._reason is not None

    def judge(self, packet: Packet) -> str | None:
        """Return why the frame of the next packet is not what was written, or None if nothing is known against it."""
        dts, last_dts = packet.dts, self._last_dts
        self._last_dts = dts
        timeline = self._timeline
        is_next = dts is not None and last_dts is not None and _any_between(timeline.resumed, last_dts + 1, dts)
        if is_next or self._is_marked(packet) or packet.lost or packet.numbers.skips:
            self._reason = "frames before it are lost"
        if packet.is_key:
            self._reason_before_key, self._reason, self._key = self._reason, None, packet
            self.num_keys += 1
        if packet.time in timeline.uncertain_times:
            self.fail(packet)
            return "frames near it are lost, and its time is not known"
        if packet.is_damaged or packet.position in timeline.undecodable:
            self.fail(packet)
            return "its data are damaged"
        return self._reason or (self._reason_before_key if self.is_leading(packet) else None)

    def _is_marked(self, packet: Packet) -> bool:
        """Whether a packet is known to follow a loss."""
        return packet.position in self._timeline.resumed_at or packet.time in self._timeline.resumed_times

    def fail(self, packet: Packet) -> None:
        """Record that a packet cannot be decoded."""
        self.fail_group(self.num_keys - self.is_leading(packet))

    def fail_group(self, group: int) -> None:
        """Record that a frame is damaged, on which the rest of a group of pictures builds.

        Args:
            group: number of keyframes up to the group's own, in the order of decoding.
        """
        if group == self.num_keys:
            self._reason = BUILDS_ON_DAMAGE
        elif group == self.num_keys - 1:
            self._reason_before_key = BUILDS_ON_DAMAGE

    def is_leading(self, packet: Packet) -> bool:
        """Whether a packet's frame is shown before the keyframe that precedes it in the file."""
        key_time = None if self._key is None else self._key.time
        return packet.time is not None and key_time is not None and packet.time < key_time
