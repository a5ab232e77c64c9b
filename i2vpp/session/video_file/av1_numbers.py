"""The numbers (order hints) that an AV1 encoder gives to its frames."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from i2vpp.session.video_file.bits import Bits
from i2vpp.session.video_file.picture_order import PictureNumber

SEQUENCE_HEADER, FRAME_HEADER, FRAME = 1, 3, 6  # kinds of units
HEADER_BYTES = 128  # of a frame; longer than what is read of it
CONFIGURATION_BYTES = 4  # before the units in an `av1C` box
CONFIGURATION = 0x81
KEY, INTRA_ONLY, SWITCH = 0, 2, 3  # kinds of frames
SLOTS = 8  # frames that a decoder keeps, for others to be predicted from and to be shown later
ALL_SLOTS = (1 << SLOTS) - 1
CHOSEN_BY_FRAME = 2  # value of a tool that each frame switches on or off
FIRST_LAYERS = 1 << 8 | 1  # spatial and temporal layer 0, as bits
HIGH_LEVEL = 7  # from the next one on, a sequence also tells its tier


@dataclass(frozen=True)
class _Sequence:
    """What a sequence header says.

    Args:
        hint_bits: bits of an order hint; 0 if frames have none.
        id_bits: bits of the numbers by which frames are told apart; 0 if frames have none.
        time_bits: bits of the time that a frame tells; 0 if it tells none.
        screen_tools: whether tools for screen contents are used, or frames choose that.
        whole_motion: whether motion is rounded to pixels, or frames choose that.
        removal_bits: bits of the time at which a frame leaves the decoder's buffer, one entry for each layering that
            the decoder may choose, with its layers; None if frames do not tell that.
    """

    hint_bits: int
    id_bits: int
    time_bits: int
    screen_tools: int
    whole_motion: int
    removal_bits: tuple[tuple[int, int], ...] | None


@dataclass(frozen=True)
class _Frame:
    """A frame, by its header.

    Args:
        kind: `KEY`, `INTRA_ONLY`, ...
        hint: its order hint; None if it should have been kept, but has not come.
        is_shown: it is shown at once.
    """

    kind: int
    hint: int | None
    is_shown: bool


class Av1Numbers:
    """Reads the order hints of the frames that an AV1 stream shows.

    A packet holds the one frame that is shown, and before it those that are only predicted from. It may also only tell
    to show one of these that came earlier.

    Args:
        extradata: parameters of the stream from the container; empty if they are in the packets.
    """

    def __init__(self, extradata: bytes) -> None:
        self._sequence: _Sequence | None = None
        self._slots: list[_Frame | None] = [None] * SLOTS
        self._last: int | None = None  # order hint of the last frame that was shown
        if extradata[:1] == bytes([CONFIGURATION]):
            extradata = extradata[CONFIGURATION_BYTES:]
        try:
            self.read(extradata)
        except LookupError:
            self._sequence = None

    def read(self, data: bytes) -> PictureNumber | None:
        """Return the order hint of the frame that a packet shows; see `NumberReader`."""
        shown: _Frame | None = None
        for kind, layers, unit in _units(data):
            if kind == SEQUENCE_HEADER:
                self._sequence = _read_sequence(Bits(unit, is_escaped=False))
            elif kind in (FRAME_HEADER, FRAME):
                if self._sequence is None:
                    raise LookupError
                if not self._sequence.hint_bits:
                    return None
                frame = self._read_frame(Bits(unit[:HEADER_BYTES], is_escaped=False), self._sequence, layers)
                shown = shown or (frame if frame.is_shown else None)
        if shown is None or self._sequence is None:
            return None
        self._last = self._last if shown.hint is None else shown.hint
        return PictureNumber(
            written=shown.hint,
            period=1 << self._sequence.hint_bits,
            reorder=0,  # packets lie in the order in which their frames are shown
            restarts=shown.kind == KEY and shown.hint == 0,
            is_key=shown.kind == KEY,
            is_base=True,
            follows_loss=shown.hint is None,
        )

    def _show(self, kept: _Frame | None, hint_bits: int) -> _Frame:
        """Return a frame that was kept to be shown now.

        If it was shown before, or was not to be, the one that should have been kept has not come.
        """
        if kept is None or kept.hint is None:
            return _Frame(INTRA_ONLY, None, is_shown=True)
        if kept.kind == KEY and not kept.is_shown:
            self._slots = [kept] * SLOTS
        elif self._last is not None and not 0 < (kept.hint - self._last) % (1 << hint_bits) < 1 << hint_bits - 1:
            return _Frame(kept.kind, None, is_shown=True)
        return _Frame(kept.kind, kept.hint, is_shown=True)

    def _read_frame(self, bits: Bits, sequence: _Sequence, layers: int) -> _Frame:
        """Read the header of a frame, and keep the frame where the header says so."""
        if bits.take(1):
            return self._show(self._slots[bits.take(3)], sequence.hint_bits)
        kind, is_shown = bits.take(2), bool(bits.take(1))
        if is_shown:
            bits.take(sequence.time_bits)
        else:
            bits.take(1)  # whether it may be shown later
        starts_anew = kind == SWITCH or (kind == KEY and is_shown)
        is_resilient = starts_anew or bool(bits.take(1))
        bits.take(1)
        screen_tools = bits.take(1) if sequence.screen_tools == CHOSEN_BY_FRAME else sequence.screen_tools
        if screen_tools and sequence.whole_motion == CHOSEN_BY_FRAME:
            bits.take(1)
        bits.take(sequence.id_bits)
        if kind != SWITCH:
            bits.take(1)  # whether its size differs
        frame = _Frame(kind, bits.take(sequence.hint_bits), is_shown)
        if kind not in (KEY, INTRA_ONLY) and not is_resilient:
            bits.take(3)
        if sequence.removal_bits is not None and bits.take(1):
            for size, of_layers in sequence.removal_bits:
                if not of_layers or of_layers & layers == layers:
                    bits.take(size)
        kept_in = ALL_SLOTS if starts_anew else bits.take(SLOTS)
        self._slots = [frame if kept_in >> i & 1 else old for i, old in enumerate(self._slots)]
        return frame


def _units(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield the kinds of the units in a packet, the layers they belong to (as bits), and their data."""
    at = 0
    while at < len(data):
        head = data[at]
        at, layers = at + 1, FIRST_LAYERS
        if head & 4:
            if at == len(data):
                raise LookupError
            layers = 1 << (data[at] >> 5) | 1 << 8 + (data[at] >> 3 & 3)
            at += 1
        size = len(data) - at
        if head & 2:
            size, shift = 0, 0
            while True:  # seven bits in each byte, the lowest first
                if at == len(data):
                    raise LookupError
                size, shift, at = size | (data[at] & 127) << shift, shift + 7, at + 1
                if data[at - 1] < 128:
                    break
        yield head >> 3 & 15, layers, data[at : at + size]
        at += size


def _read_sequence(bits: Bits) -> _Sequence:
    bits.take(4)
    if bits.take(1):  # a still picture
        return _Sequence(0, 0, 0, 0, 0, None)
    time_bits, removal_bits = _read_timing(bits)
    width, height = bits.take(4) + 1, bits.take(4) + 1
    bits.take(width + height)
    id_bits = bits.take(4) + bits.take(3) + 3 if bits.take(1) else 0
    bits.take(7)
    has_hints = bits.take(1)
    bits.take(2 * has_hints)
    screen_tools = CHOSEN_BY_FRAME if bits.take(1) else bits.take(1)
    whole_motion = CHOSEN_BY_FRAME
    if screen_tools and not bits.take(1):
        whole_motion = bits.take(1)
    hint_bits = bits.take(3) + 1 if has_hints else 0
    return _Sequence(hint_bits, id_bits, time_bits, screen_tools, whole_motion, removal_bits)


def _read_timing(bits: Bits) -> tuple[int, tuple[tuple[int, int], ...] | None]:
    """Return `time_bits` and `removal_bits` of `_Sequence`."""
    delay_size = removal_size = time_size = 0
    is_even = has_model = False
    if bits.take(1):
        bits.take(64)
        is_even = bool(bits.take(1))
        if is_even:
            bits.golomb()
        has_model = bool(bits.take(1))
        if has_model:
            delay_size = bits.take(5) + 1
            bits.take(32)
            removal_size, time_size = bits.take(5) + 1, bits.take(5) + 1
    has_delay = bits.take(1)
    removal_bits = []
    for _ in range(bits.take(5) + 1):
        layers = bits.take(12)
        if bits.take(5) > HIGH_LEVEL:
            bits.take(1)
        if has_model and bits.take(1):
            bits.take(2 * delay_size + 1)
            removal_bits.append((removal_size, layers))
        if has_delay and bits.take(1):
            bits.take(4)
    return 0 if is_even else time_size, tuple(removal_bits) if has_model else None
