"""The numbers (picture order counts) that an HEVC encoder gives to its pictures."""

from __future__ import annotations

from dataclasses import dataclass

from i2vpp.session.video_file.bits import Bits, units
from i2vpp.session.video_file.picture_order import PictureNumber

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


class HevcNumbers:
    """Reads the numbers of an HEVC stream, from the header of the first slice of each picture.

    Args:
        extradata: parameters of the stream from the container; empty if they are in the packets.
    """

    def __init__(self, extradata: bytes) -> None:
        self._sequences: dict[int, _Sequence] = {}
        self._pictures: dict[int, tuple[int, bool, int]] = {}  # sequence, whether slices tell of output, reserved bits
        self._length_size = 0  # bytes that tell the length of a unit; 0 if start codes separate units
        if extradata[:1] == b"\1" and len(extradata) > NUM_ARRAYS_AT:
            self._length_size = extradata[NUM_ARRAYS_AT - 1] % 4 + 1
            self._read_configuration(extradata)
        else:
            for start, end in units(extradata, 0, _is_slice):
                self._read_parameters(extradata[start:end])

    def read(self, data: bytes) -> PictureNumber | None:
        """Return the number of the picture in a packet; see `NumberReader`."""
        for start, end in units(data, self._length_size, _is_slice):
            if _is_slice(data[start]):
                return self._read_number(data[start : min(end, start + HEADER_BYTES)])
            self._read_parameters(data[start:end])
        return None

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

    def _read_number(self, unit: bytes) -> PictureNumber:
        """Return the number of the picture that a slice begins.

        Raises:
            LookupError: the unit is damaged, its parameters are unknown, or it does not begin a picture.
        """
        kind, bits = _kind(unit[0]), Bits(unit[2:])
        if not bits.take(1):
            raise LookupError
        if FIRST_KEY <= kind <= LAST_KEY:
            bits.take(1)
        number, tells_output, reserved = self._pictures[bits.golomb()]
        sequence = self._sequences[number]
        written = 0
        if kind not in IDR:
            bits.take(reserved)
            bits.golomb()  # kind of slice
            bits.take(tells_output + 2 * sequence.has_planes)
            written = bits.take(sequence.bits)
        return PictureNumber(
            written=written,
            period=1 << sequence.bits,
            reorder=sequence.reorder,
            restarts=kind in RESTARTING,
            is_key=FIRST_KEY <= kind <= LAST_KEY,
            is_base=unit[1] % 8 == 1 and kind not in LEADING and (kind > LAST_SUBLAYER_KIND or kind % 2 == 1),
        )


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
