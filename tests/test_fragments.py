"""Fragmented MP4 files that have lost fragments: the numbers of the others keep frames in their places."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from i2vpp.session.video import open_source
from i2vpp.session.video_file.fragments import Fragments, read_fragments
from i2vpp.utils.notices import I2VPPWarning
from test_damaged_video import GOP, LENGTH, VPX, check, encoded

LOST = range(12, 24)  # frames of the fragment in the middle
CODECS = {name: options for name, options in (("libx264", GOP), ("libvpx-vp9", VPX)) if name in av.codecs_available}
Whole = tuple[bytes, list[np.ndarray]]


@pytest.fixture(scope="module", params=CODECS)
def whole(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Whole:
    """A file of three fragments of twelve frames, and what it shows."""
    return fragmented(tmp_path_factory.mktemp("whole"), request.param, "frag_keyframe+empty_moov+default_base_moof")


def fragmented(folder: Path, codec: str, flags: str) -> Whole:
    return encoded(folder / "a.mp4", codec, CODECS[codec], movflags=flags)


def boxes(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield start, end and kind of each box."""
    at = 0
    while at < len(data):
        end = at + int.from_bytes(data[at : at + 4], "big")
        yield at, end, data[at + 4 : at + 8]
        at = end


def fragments(data: bytes) -> list[tuple[int, int]]:
    return [(start, end) for start, end, kind in boxes(data) if kind == b"moof"]


def renumbered(data: bytes, numbers: list[int]) -> bytes:
    for (start, _), number in zip(fragments(data), numbers, strict=True):
        data = data[: start + 20] + number.to_bytes(4, "big") + data[start + 24 :]
    return data


def test_whole_files_are_whole(whole):
    data, shown = whole
    assert len(fragments(data)) == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(open_source(data)) == LENGTH
    assert all(frame is not None for frame in check(data, shown).values())


def test_a_fragment_that_is_cut_out_shifts_no_frame(whole):
    data, shown = whole
    _, (start, _), (end, _) = fragments(data)
    found = check(data[:start] + data[end:], shown)
    assert [i for i, frame in found.items() if frame is None] == list(LOST)
    assert len(found) == LENGTH


@pytest.mark.parametrize("flags", ["frag_keyframe+empty_moov+default_base_moof", "frag_keyframe"])
@pytest.mark.parametrize("codec", CODECS)
def test_a_fragment_whose_header_is_damaged_shifts_no_frame(tmp_path, codec, flags):
    data, shown = fragmented(tmp_path, codec, flags)
    start, end = fragments(data)[-2]  # the first frames may be told by the header of the file
    found = check(data[: start + 8] + bytes(end - start - 8) + data[end:], shown)
    assert [i for i, frame in found.items() if frame is None] == list(LOST)
    assert len(found) == LENGTH


def test_what_cannot_be_read_any_more_is_said(whole):
    data, shown = whole
    start, _ = fragments(data)[1]
    damaged = data[:start] + bytes(8) + data[start + 8 :]
    with pytest.warns(I2VPPWarning, match="is cut off: it ends after 12 frames"):
        assert len(open_source(damaged)) == 12
    assert all(frame is not None for frame in check(damaged, shown).values())
    with pytest.warns(I2VPPWarning, match="is cut off"):
        len(open_source(data[:-100]))


@pytest.mark.parametrize("numbers", [[7, 8, 9], [0, 0, 0], [5, 1, 2], [1, 3, 5]])
def test_other_ways_to_number_tell_of_no_loss(whole, numbers):
    """A recording joined late, a writer that does not count, two recordings in one file, numbers shared with sound."""
    data, shown = whole
    assert all(frame is not None for frame in check(renumbered(data, numbers), shown).values())


@pytest.mark.parametrize(("numbers", "resumed"), [([1, 2, 3], []), ([1, 3, 4], [1]), ([1, 2, 4], [2]), ([1, 3, 5], [])])
def test_which_numbers_tell_of_a_loss(whole, numbers, resumed):
    data, _ = whole
    places = [start for start, _ in fragments(data)]
    found = read_fragments(io.BytesIO(renumbered(data, numbers)), follow_packets=False)
    assert found == Fragments(resumed=tuple(places[i] for i in resumed))


def test_a_pause_between_fragments_is_no_loss(tmp_path):
    """The numbers are complete, so that a gap of the times is one of the recording."""
    codec = next(iter(CODECS))
    data, _ = fragmented(tmp_path, codec, "frag_keyframe+empty_moov+default_base_moof")
    _, (start, _), (end, _) = fragments(data)
    copy = data[:start] + data[end:]
    assert len(open_source(renumbered(copy, [1, 2]))) == LENGTH - len(LOST)


def test_what_is_no_file_of_fragments_tells_nothing():
    for data in (b"", b"\0" * 40, b"\0\0\0\x08free", b"\0\0\0\x08free\0\0\0\0mdatabc"):
        for follow in (False, True):
            assert read_fragments(io.BytesIO(data), follow_packets=follow) == Fragments()
