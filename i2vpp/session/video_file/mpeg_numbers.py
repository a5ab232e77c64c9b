"""The numbers (temporal references) that MPEG-1 and MPEG-2 encoders give to their pictures."""

from __future__ import annotations

from contextlib import suppress

from i2vpp.session.video_file.bits import Bits, units
from i2vpp.session.video_file.picture_order import PictureNumber

PICTURE, SEQUENCE, EXTENSION, GROUP = 0x00, 0xB3, 0xB5, 0xB8  # kinds of units
OF_SEQUENCE = 1  # kind of extension
REFERENCES = (1, 2)  # kinds of pictures that others are predicted from
INTRA = 1
PERIOD = 1024  # of temporal references
LONGEST_LOSS = 512
"""If a time code is ahead of the pictures by more, they were recorded at different times."""

RATES = (0, 24, 24, 25, 30, 30, 50, 60, 60)  # pictures in a second of a time code, by their code
UNBOUNDED = 1 << 62


class MpegNumbers:
    """Reads the numbers of an MPEG-1 or MPEG-2 stream, and counts on from group to group.

    They begin at 0 in each group of pictures. The header of the group has a time code, in which many encoders count all
    pictures: where it has done so, and is ahead of those that came, the group before lacks its end.

    Args:
        extradata: parameters of the stream from the container; empty if they are in the packets.
    """

    def __init__(self, extradata: bytes) -> None:
        self._rate = 0
        self._reorder = 1
        self._code = 0  # time code of the group, in pictures
        self._counts = False  # whether the last time codes count the pictures
        self._start = 0  # number of the picture of the group that is shown first
        self._next = 0  # the highest number so far, plus one
        self._references = (-1, -1)  # the numbers of the last two pictures that others are predicted from
        with suppress(LookupError):
            self.read(extradata)

    def read(self, data: bytes) -> PictureNumber | None:
        """Return the number of the picture in a packet; see `NumberReader`."""
        for start, end in units(data, 0, _is_picture):
            bits = Bits(data[start + 1 : min(end, start + 16)], is_escaped=False)
            if data[start] == SEQUENCE:
                bits.take(28)
                code = bits.take(4)
                self._rate = RATES[code] if code < len(RATES) else 0
            elif data[start] == EXTENSION and bits.take(4) == OF_SEQUENCE:
                bits.take(38)
                self._reorder = 1 - bits.take(1)
            elif data[start] == GROUP:
                self._begin_group(bits)
            elif data[start] == PICTURE:
                return self._number(bits.take(10), bits.take(3))
        return None

    def _begin_group(self, bits: Bits) -> None:
        is_drop, hours, minutes = bits.take(1), bits.take(5), bits.take(6)
        bits.take(1)
        minutes += 60 * hours
        code = (60 * minutes + bits.take(6)) * self._rate + bits.take(6)
        if is_drop:  # each minute, but each tenth, leaves out two codes
            code -= 2 * (minutes - minutes // 10)
        ahead = self._start + code - self._code - self._next
        is_loss = self._counts and 0 < ahead <= LONGEST_LOSS
        self._code, self._counts = code, ahead == 0 or is_loss
        self._begin(self._next + ahead * is_loss)

    def _begin(self, number: int) -> None:
        self._start = number
        self._references = (number - 1, number - 1)

    def _number(self, written: int, kind: int) -> PictureNumber:
        last = self._references[1]
        number = self._complete(written)
        is_reference = kind in REFERENCES
        # References are numbered upwards, and others lie after the last but one; else the header of a group is lost.
        if number < (last if is_reference else self._references[0]):
            self._begin(self._next)
            number = self._complete(written)
        follows_loss = not is_reference and number > self._references[1]  # the one after it should have come before
        if is_reference and number > self._references[1]:  # not the second field of a picture
            self._references = (self._references[1], number)
        self._next = max(self._next, number + 1)
        return PictureNumber(
            written=number,
            period=UNBOUNDED,
            reorder=self._reorder,
            restarts=False,
            is_key=kind == INTRA,
            is_base=is_reference,
            follows_loss=follows_loss,
        )

    def _complete(self, written: int) -> int:
        last, half = self._references[1], PERIOD // 2
        return last + (self._start + written - last + half) % PERIOD - half


def _is_picture(kind: int) -> bool:
    return kind == PICTURE
