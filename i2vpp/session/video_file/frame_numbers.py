"""The numbers that an H.264 encoder gives to its frames, which show that frames are missing."""

from __future__ import annotations

from dataclasses import dataclass

from i2vpp.session.video_file.bits import Bits, units
from i2vpp.session.video_file.picture_order import Evidence

HEADER_BYTES = 32  # of a slice; longer than what is read of it
SLICE, IDR_SLICE, SEQUENCE, PICTURE = 1, 5, 7, 8  # kinds of units
HAS_CHROMA = frozenset({44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 144, 244})
"""Profiles whose sequence parameters tell the chroma format and scaling lists."""

CHROMA_444 = 3
RESTARTED = 1
"""A rare operation, far back in the header of a slice and not read here, restarts the numbers: the next is 0 or 1."""


@dataclass(frozen=True)
class _Sequence:
    """What the sequence parameters say of frame numbers.

    Args:
        bits: bits of a number; numbers begin at 0 again after the largest.
        may_skip: the encoder may leave numbers out.
        has_planes: each slice tells which colour plane it is of.
    """

    bits: int
    may_skip: bool
    has_planes: bool


class FrameNumbers:
    """Follows the frame numbers of an H.264 stream in the order of decoding.

    The number grows by one after each frame that others are predicted from. If it grows by more, and the stream does
    not allow that, such a frame is missing, or the number is damaged.

    Args:
        extradata: parameters of the stream from the container; empty if they are in the packets.
    """

    def __init__(self, extradata: bytes) -> None:
        self._sequences: dict[int, _Sequence] = {}
        self._pictures: dict[int, int] = {}  # sequence parameters that picture parameters belong to, by their numbers
        self._last: int | None = None  # number of the last frame that others are predicted from
        self._length_size = 0  # bytes that tell the length of a unit; 0 if start codes separate units
        if extradata[:1] == b"\1" and len(extradata) > 6:
            self._length_size = extradata[4] % 4 + 1
            self._read_configuration(extradata)
        else:
            self._read(extradata, is_configuration=True)

    def follow(self, data: bytes, time: int | None) -> Evidence:
        """Return whether frames are missing between the packet before and the next one.

        Unknown if that, or else a restart of the numbers, explains its number: the times have to decide.

        Args:
            data: the next packet.
            time: time at which its frame is shown; not looked at, because frames are numbered as they are decoded.
        """
        return Evidence(skips=self._read(data, is_configuration=False))

    def _read_configuration(self, extradata: bytes) -> None:
        """Read the parameters in an `avcC` box: two lists of units, each with its length."""
        at, count = 6, extradata[5] % 32
        for _ in range(2):
            for _ in range(count):
                end = at + 2 + int.from_bytes(extradata[at : at + 2], "big")
                self._read_parameters(extradata[at + 2 : end])
                at = end
            count, at = (extradata[at] if at < len(extradata) else 0), at + 1

    def _read(self, data: bytes, *, is_configuration: bool) -> bool | None:
        for start, end in units(data, self._length_size, is_slice):
            kind = data[start] % 32
            if kind in (SEQUENCE, PICTURE):
                self._read_parameters(data[start:end])
            elif kind in (SLICE, IDR_SLICE) and not is_configuration:
                return self._follow(data[start : min(end, start + HEADER_BYTES)])
        return False

    def _read_parameters(self, unit: bytes) -> None:
        try:
            bits = Bits(unit[1:])
            if unit[0] % 32 == PICTURE:
                number = bits.golomb()
                self._pictures[number] = bits.golomb()
            else:
                number, sequence = _sequence(bits)
                self._sequences[number] = sequence
        except IndexError:
            return  # damaged, or of a kind that this module does not know

    def _follow(self, unit: bytes) -> bool | None:
        is_reference, is_first = bool(unit[0] >> 5 & 3), unit[0] % 32 == IDR_SLICE
        bits = Bits(unit[1:])
        try:
            bits.golomb()  # position in the picture
            bits.golomb()  # kind of slice
            sequence = self._sequences[self._pictures[bits.golomb()]]
            if sequence.has_planes:
                bits.take(2)
            number = bits.take(sequence.bits)
        except LookupError:
            self._last = None
            return False
        step = 0 if is_first or self._last is None else (number - self._last) % (1 << sequence.bits)
        if is_reference or step > 1:
            self._last = number if is_reference else number - 1
        if step <= 1 or sequence.may_skip:
            return False
        return True if number > RESTARTED else None


def is_slice(first_byte: int) -> bool:
    """Whether a unit that begins with a byte holds a slice."""
    return first_byte % 32 in (SLICE, IDR_SLICE)


def _sequence(bits: Bits) -> tuple[int, _Sequence]:
    """Read sequence parameters; return their number and what they say."""
    profile = bits.take(8)
    bits.take(16)
    number, has_planes = bits.golomb(), False
    if profile in HAS_CHROMA:
        chroma = bits.golomb()
        has_planes = chroma == CHROMA_444 and bool(bits.take(1))
        bits.golomb()
        bits.golomb()
        bits.take(1)
        if bits.take(1):
            for i in range(12 if chroma == CHROMA_444 else 8):
                if bits.take(1):
                    _skip_scaling_list(bits, 16 if i < 6 else 64)
    size = bits.golomb() + 4
    order = bits.golomb()
    if order == 0:
        bits.golomb()
    elif order == 1:
        bits.take(1)
        bits.golomb()
        bits.golomb()
        for _ in range(bits.golomb()):
            bits.golomb()
    bits.golomb()
    return number, _Sequence(bits=size, may_skip=bool(bits.take(1)), has_planes=has_planes)


def _skip_scaling_list(bits: Bits, length: int) -> None:
    last = following = 8
    for _ in range(length):
        if following:
            following = (last + bits.signed_golomb()) % 256
        last = following or last
