"""Reading the units that H.264, HEVC and MPEG streams consist of, and numbers from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

START_CODE = b"\0\0\1"
ESCAPE = b"\0\0\3"  # the encoder puts the 3 there, so that no start code appears within data
ESCAPED = b"\0\0"


class Bits:
    """Reads bits from the front of a unit; raises IndexError at its end.

    Args:
        data: the unit.
        is_escaped: the encoder has put bytes into it, so that it holds no start code.
    """

    def __init__(self, data: bytes, *, is_escaped: bool = True) -> None:
        if is_escaped:
            data = data.replace(ESCAPE, ESCAPED)
        self._value = int.from_bytes(data, "big")
        self._left = 8 * len(data)

    def take(self, count: int) -> int:
        """Return an unsigned number of so many bits."""
        self._left -= count
        if self._left < 0:
            raise IndexError
        return self._value >> self._left & (1 << count) - 1

    def golomb(self) -> int:
        """Return an unsigned number in Exp-Golomb code: as many zeros as bits follow the first one."""
        rest = self._value & (1 << self._left) - 1
        zeros = self._left - rest.bit_length()
        self.take(zeros)
        return self.take(zeros + 1) - 1

    def signed_golomb(self) -> int:
        """Return a signed number in Exp-Golomb code."""
        code = self.golomb()
        return (code + 1) // 2 if code % 2 else -(code // 2)


def units(data: bytes, length_size: int, is_slice: Callable[[int], bool]) -> Iterator[tuple[int, int]]:
    """Yield where the units of a packet start and end.

    Args:
        data: the packet.
        length_size: bytes that tell the length of a unit; 0 if start codes separate units.
        is_slice: says by the first byte of a unit whether it is a slice. Such units are not searched for the next start
            code, because they are long, and nothing is read of what follows the first one.
    """
    if length_size:
        at = 0
        while at + length_size < len(data):
            start = at + length_size
            at = start + int.from_bytes(data[at:start], "big")
            if at > start:
                yield start, at
        return
    start = data.find(START_CODE) + len(START_CODE)
    while len(START_CODE) <= start < len(data):
        following = -1 if is_slice(data[start]) else data.find(START_CODE, start)
        yield start, following if following >= 0 else len(data)
        start = following + len(START_CODE)
