"""The numbers in the order of display that an HEVC encoder gives to its pictures, which show that some are missing."""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass
from math import gcd
from typing import NamedTuple

from i2vpp.session.bits import Bits, units

HEADER_BYTES = 32  # of a slice; longer than what is read of it
LEADING = range(6, 10)  # kinds of units: pictures that are shown before the keyframe that precedes them
LAST_SUBLAYER_KIND = 14  # up to it, pictures of even kinds are not predicted from
FIRST_KEY, LAST_KEY = 16, 23
RESTARTING = range(16, 21)  # keyframes whose number does not continue the ones before
IDR = (19, 20)  # keyframes without a number
LAST_SLICE = 31
SEQUENCE, PICTURE = 33, 34
CHROMA_444 = 3
NUM_ARRAYS_AT = 22  # in a configuration record
MOST_UNSURE = 8
"""Distances that are looked at before it is known whether an encoder counts in steps of more than one."""


class Gap(NamedTuple):
    """Pictures that are missing between two others.

    Args:
        start: time at which the picture before them is shown.
        end: time at which the picture after them is shown.
        missing: how many are missing, by their numbers.
    """

    start: int
    end: int
    missing: int


@dataclass(frozen=True)
class _Sequence:
    """What sequence parameters say.

    Args:
        bits: bits of a number that are written.
        has_planes: each slice tells which colour plane it is of.
        reorder: at most so many pictures are decoded before a picture and shown after it.
    """

    bits: int
    has_planes: bool
    reorder: int


class PictureOrder:
    """Follows the numbers (picture order counts) of an HEVC stream.

    The standard lets an encoder leave numbers out, so that a gap proves a loss only where the times leave out as many.

    Args:
        extradata: parameters of the stream from the container; empty if they are in the packets.

    Attributes:
        contradicts_times: sorted by picture order count, the last pictures are not in the order of their presentation
            times, so the times are wrong.
    """

    def __init__(self, extradata: bytes) -> None:
        self._sequences: dict[int, _Sequence] = {}
        self._pictures: dict[int, tuple[int, bool, int]] = {}  # sequence, whether slices tell of output, reserved bits
        self._shown: list[tuple[int, int]] = []  # numbers and times of the last pictures
        self._base: int | None = None  # number that the written bits of the next one are completed from
        self._step = 0  # greatest common divisor of all distances of numbers; 0 before there is one
        self._unsure: list[tuple[int, int, int]] = []  # times of the first pictures, and distances of their numbers
        self._is_sure = False  # whether `_step` is known
        self.contradicts_times = False
        self._length_size = 0  # bytes that tell the length of a unit; 0 if start codes separate units
        if extradata[:1] == b"\1" and len(extradata) > NUM_ARRAYS_AT:
            self._length_size = extradata[NUM_ARRAYS_AT - 1] % 4 + 1
            self._read_configuration(extradata)
        else:
            for start, end in units(extradata, 0, _is_slice):
                self._read_parameters(extradata[start:end])

    def gaps(self, data: bytes, time: int | None) -> list[Gap]:
        """Return where pictures are missing, as far as the next packet shows that.

        Args:
            data: the packet.
            time: time at which its picture is shown.
        """
        for start, end in units(data, self._length_size, _is_slice):
            if _is_slice(data[start]):
                return self._follow(data[start : min(end, start + HEADER_BYTES)], time)
            self._read_parameters(data[start:end])
        return []

    def _read_configuration(self, extradata: bytes) -> None:
        """Read the parameters in an `hvcC` box: lists of units, each unit with its length."""
        at = NUM_ARRAYS_AT + 1
        for _ in range(extradata[NUM_ARRAYS_AT]):
            count, at = int.from_bytes(extradata[at + 1 : at + 3], "big"), at + 3
            for _ in range(count):
                end = at + 2 + int.from_bytes(extradata[at : at + 2], "big")
                self._read_parameters(extradata[at + 2 : end])
                at = end

    def _read_parameters(self, unit: bytes) -> None:
        kind = _kind(unit[0]) if unit else 0
        bits = Bits(unit[2:])
        try:
            if kind == SEQUENCE:
                number, sequence = _sequence(bits)
                self._sequences[number] = sequence
            elif kind == PICTURE:
                number, of = bits.golomb(), bits.golomb()
                bits.take(1)
                tells_output = bool(bits.take(1))
                self._pictures[number] = of, tells_output, bits.take(3)
        except IndexError:
            return  # damaged, or of a kind that this module does not know

    def _follow(self, unit: bytes, time: int | None) -> list[Gap]:
        kind = _kind(unit[0])
        self.contradicts_times = False
        try:
            sequence, written = self._read_number(unit, kind)
        except LookupError:
            self._shown, self._base = [], None
            return []
        # What comes after a keyframe is not shown among the pictures before it.
        found = self._settle(keep=1) if FIRST_KEY <= kind <= LAST_KEY else []
        if kind in RESTARTING or self._base is None:
            self._shown, number = [], written
        else:
            half = 1 << sequence.bits - 1
            number = self._base + (written - self._base + half) % (2 * half) - half
            if self._has_restarted(number, time):
                found += self._settle(keep=1)
                self._shown, self._base, number = [(-self._step, self._shown[-1][1])], None, written
        is_base = unit[1] % 8 == 1 and kind not in LEADING and (kind > LAST_SUBLAYER_KIND or kind % 2 == 1)
        if is_base or self._base is None:
            self._base = number
        if time is not None:
            insort(self._shown, (number, time))
            times = [shown for _, shown in self._shown]
            self.contradicts_times = times != sorted(times)
        return found + self._settle(keep=sequence.reorder + 1)

    def _has_restarted(self, number: int, time: int | None) -> bool:
        """Whether the keyframe is lost at which the numbers began anew: a picture is shown last, but numbered lower."""
        if time is None or not self._shown or not self._step:
            return False
        return time > max(shown for _, shown in self._shown) and number < self._shown[0][0]

    def _read_number(self, unit: bytes, kind: int) -> tuple[_Sequence, int]:
        """Return the parameters of a picture, and the bits of its number that are written.

        Raises:
            LookupError: the unit is damaged, its parameters are unknown, or it does not begin a picture.
        """
        bits = Bits(unit[2:])
        if not bits.take(1):
            raise LookupError
        if FIRST_KEY <= kind <= LAST_KEY:
            bits.take(1)
        number, tells_output, reserved = self._pictures[bits.golomb()]
        sequence = self._sequences[number]
        if kind in IDR:
            return sequence, 0
        bits.take(reserved)
        bits.golomb()  # kind of slice
        bits.take(tells_output + 2 * sequence.has_planes)
        return sequence, bits.take(sequence.bits)

    def _settle(self, *, keep: int) -> list[Gap]:
        """Return the gaps between the first pictures up to the last few, before which others may still come."""
        found: list[Gap] = []
        while len(self._shown) > keep:
            (number, start), (following, end) = self._shown[:2]
            del self._shown[0]
            self._step = gcd(self._step, following - number)
            self._unsure.append((start, end, following - number))
            self._is_sure = self._is_sure or self._step == 1 or len(self._unsure) >= MOST_UNSURE
            if self._is_sure:
                step = self._step
                found += [Gap(a, b, distance // step - 1) for a, b, distance in self._unsure if distance > step]
                self._unsure.clear()
        return found


def _kind(first_byte: int) -> int:
    return first_byte >> 1 & 63


def _is_slice(first_byte: int) -> bool:
    return _kind(first_byte) <= LAST_SLICE


def _sequence(bits: Bits) -> tuple[int, _Sequence]:
    """Read sequence parameters; return their number and what they say."""
    bits.take(4)
    sublayers = bits.take(3)
    bits.take(1 + 88 + 8)
    present = [(bits.take(1), bits.take(1)) for _ in range(sublayers)]
    if sublayers:
        bits.take(2 * (8 - sublayers))
    for has_profile, has_level in present:
        bits.take(88 * has_profile + 8 * has_level)
    number = bits.golomb()
    has_planes = bits.golomb() == CHROMA_444 and bool(bits.take(1))
    bits.golomb()
    bits.golomb()
    if bits.take(1):
        for _ in range(4):
            bits.golomb()
    bits.golomb()
    bits.golomb()
    size = bits.golomb() + 4
    reorder = 0
    for _ in range(sublayers + 1 if bits.take(1) else 1):
        bits.golomb()
        reorder = bits.golomb()
        bits.golomb()
    return number, _Sequence(bits=size, has_planes=has_planes, reorder=reorder)
