"""The numbers in the order of display that encoders give to their pictures, which show that some are missing."""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from math import gcd, inf
from typing import NamedTuple, Protocol

MOST_UNSURE = 8
"""Distances that are looked at before it is known whether an encoder counts in steps of more than one."""

MOST_DECODED = 64
"""Pictures that are remembered in the order of decoding."""


class Gap(NamedTuple):
    """Pictures that are missing between two others.

    Args:
        start: time at which the picture before them is shown.
        end: time at which the picture after them is shown.
        missing: how many are missing, by their numbers.
        takes_time: there is time for them.
        around: times of the last picture before them that others are predicted from, and of those after it, in the
            order of decoding: they may be predicted from the missing ones, without the decoder noticing it. Empty if
            the decoder notices.
    """

    start: int
    end: int
    missing: int
    takes_time: bool = True
    around: tuple[int, ...] = ()

    @property
    def is_in_order(self) -> bool:
        """Whether the first picture of `around` is shown before the others, as their numbers say."""
        return all(time > self.around[0] for time in self.around[1:])


class Evidence(NamedTuple):
    """What the number in a packet tells, together with those before.

    Args:
        skips: frames before it are lost; None if the times have to confirm that.
        gaps: where numbers leave out frames; the times have to confirm that.
        suspects_loss: numbers of packets to come may leave out frames before this one.
        contradicts_times: the numbers show that the times are wrong.
    """

    skips: bool | None = False
    gaps: Sequence[Gap] = ()
    suspects_loss: bool = False
    contradicts_times: bool = False


NO_EVIDENCE = Evidence()


class PictureNumber(NamedTuple):
    """What a packet says of the place of its picture in the order of display.

    Args:
        written: the number, as far as it is written.
        period: numbers that are written begin at 0 again after so many.
        reorder: at most so many pictures are decoded before this one and shown after it.
        restarts: the number does not continue those before.
        is_key: the pictures after it are not shown among those before it.
        is_base: others are predicted from it, and their numbers completed from its own.
        follows_loss: something that it needs is missing. If nothing else is known of it, `written` is None.
    """

    written: int | None
    period: int
    reorder: int
    restarts: bool
    is_key: bool
    is_base: bool
    follows_loss: bool = False


class NumberReader(Protocol):
    """Reads the numbers of the pictures of one codec."""

    def read(self, data: bytes) -> PictureNumber | None:
        """Return the number of the picture in a packet; None if it holds none.

        Args:
            data: the next packet, in the order of decoding.

        Raises:
            LookupError: the packet is damaged, or its parameters are unknown.
        """


class PictureOrder:
    """Follows the numbers of a stream.

    Encoders may leave numbers out, so that a gap proves a loss only where the times leave out as many.

    Args:
        reader: reads the numbers.
        orders_output: the decoder shows the pictures in the order of their numbers, and notices where one is missing
            that others are predicted from. Numbers that the decoder does not use cannot prove that the times are wrong.
    """

    def __init__(self, reader: NumberReader, *, orders_output: bool) -> None:
        self._reader = reader
        self._orders_output = orders_output
        self._shown: list[tuple[int, int]] = []  # numbers and times of the last pictures
        self._decoded: list[tuple[float, int, bool]] = []  # numbers, times and `is_base`, in the order of decoding
        self._base: int | None = None  # number that the written bits of the next one are completed from
        self._step = 0  # greatest common divisor of all distances of numbers; 0 before there is one
        self._shortest = inf  # shortest time between two pictures
        self._unsure: list[tuple[int, Gap]] = []  # distances of the numbers of the first pictures
        self._is_sure = False  # whether `_step` is known

    def follow(self, data: bytes, time: int | None) -> Evidence:
        """Return what the next packet shows.

        Args:
            data: the packet.
            time: time at which its picture is shown.
        """
        try:
            picture = self._reader.read(data)
        except LookupError:
            self._shown, self._decoded, self._base = [], [], None
            return NO_EVIDENCE
        if picture is None:
            return NO_EVIDENCE
        if picture.written is None:
            if time is not None:
                self._decoded.append((inf, time, False))
            return Evidence(suspects_loss=True)
        # What comes after a keyframe is not shown among the pictures before it.
        found = self._settle(keep=1) if picture.is_key else []
        if time is not None:
            found = [gap._replace(around=(*gap.around, time)) if gap.around else gap for gap in found]
        number = picture.written
        if picture.restarts or self._base is None:
            self._shown, self._decoded = [], []
        else:
            half = picture.period // 2
            number = self._base + (number - self._base + half) % picture.period - half
            if self._has_restarted(number, time):
                found += self._settle(keep=1)
                before, number = self._shown[-1][1], picture.written
                self._shown, self._decoded, self._base = [(-self._step, before)], [(-self._step, before, True)], None
        if picture.is_base or self._base is None:
            self._base = number
        contradicts = False
        if time is not None:
            insort(self._shown, (number, time))
            self._decoded = [*self._decoded[1 - MOST_DECODED :], (number, time, picture.is_base)]
            times = [shown for _, shown in self._shown]
            contradicts = self._orders_output and times != sorted(times)
        found += self._settle(keep=picture.reorder + 1)
        return Evidence(gaps=found, suspects_loss=picture.follows_loss, contradicts_times=contradicts)

    def _has_restarted(self, number: int, time: int | None) -> bool:
        """Whether the keyframe is lost at which the numbers began anew: a picture is shown last, but numbered lower."""
        if time is None or not self._shown or not self._step:
            return False
        return time > max(shown for _, shown in self._shown) and number < self._shown[0][0]

    def _settle(self, *, keep: int) -> list[Gap]:
        """Return the gaps between the first pictures up to the last few, before which others may still come."""
        while len(self._shown) > keep:
            (number, start), (following, end) = self._shown[:2]
            del self._shown[0]
            distance = following - number
            self._step = gcd(self._step, distance)
            if end > start:
                self._shortest = min(self._shortest, end - start)
            if not self._is_sure or distance > self._step:
                self._unsure.append((distance, Gap(start, end, 0, around=self._around(number))))
            self._is_sure = self._is_sure or self._step == 1 or len(self._unsure) >= MOST_UNSURE
        if not self._is_sure:
            return []
        step, unsure = self._step, self._unsure
        self._unsure = []
        return [
            gap._replace(missing=distance // step - 1, takes_time=2 * (gap.end - gap.start) >= 3 * self._shortest)
            for distance, gap in unsure
            if distance > step
        ]

    def _around(self, before: int) -> tuple[int, ...]:
        """Return `Gap.around` of pictures that are missing after a number."""
        if self._orders_output:
            return ()
        base, first = before, 0
        for i, (number, _, is_base) in enumerate(self._decoded):
            if is_base and number <= before:
                base, first = int(number), i
        return tuple(time for number, time, _ in self._decoded[first:] if number >= base)
