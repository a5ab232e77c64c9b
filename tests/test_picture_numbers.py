"""Frames that are lost at the start of a file, or left out of AV1 and MPEG-1/2: their places are kept."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from i2vpp.errors import VideoError
from i2vpp.session.video import open_source
from i2vpp.session.video_file.av1_numbers import Av1Numbers
from i2vpp.session.video_file.data_start import avi_start, matroska_start
from i2vpp.session.video_file.decoder import VideoFile
from i2vpp.session.video_file.mpeg_numbers import MpegNumbers
from i2vpp.session.video_file.packets import Packet, number_follower
from i2vpp.session.video_file.timeline import Timeline
from media import numbered, write_video
from test_damaged_video import GOP, LENGTH, VPX, check, encoded, read, video_packets
from test_lost_frames import without_packets

SVT = {"preset": "12", "g": "12"}
CODECS = {
    "mpeg2": ("mpeg2video", GOP),
    "mpeg2 forward": ("mpeg2video", {"g": "12", "bf": "0"}),
    "mpeg2 closed": ("mpeg2video", {**GOP, "flags": "+cgop", "sc_threshold": "1000000000"}),
    "mpeg1": ("mpeg1video", GOP),
    "av1": ("libsvtav1", SVT),
}
CODECS = {kind: encoder for kind, encoder in CODECS.items() if encoder[0] in av.codecs_available}
Whole = dict[str, tuple[bytes, list[np.ndarray]]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """An MP4 file of each codec, and what it shows."""
    folder = tmp_path_factory.mktemp("whole")
    return {kind: encoded(folder / f"{kind}.mp4", *encoder) for kind, encoder in CODECS.items()}


def packets(data: bytes) -> Iterator[tuple[bytes, int | None]]:
    with av.open(io.BytesIO(data)) as container:
        for packet in container.demux(video=0):
            if packet.size:
                yield bytes(packet), packet.pts


def shown_order(data: bytes) -> list[int]:
    """Return which frame each packet of a file holds."""
    times = [time for _, time in packets(data) if time is not None]
    return [sorted(times).index(time) for time in times]


def extradata(data: bytes) -> bytes:
    with av.open(io.BytesIO(data)) as container:
        return bytes(container.streams.video[0].codec_context.extradata or b"")


# ---- the start of a file


CLUSTER = b"\x1f\x43\xb6\x75"
needs_h264 = pytest.mark.skipif("libx264" not in av.codecs_available, reason="needs an encoder of H.264")


def clusters(
    folder: Path, codec: str, options: dict[str, str], milliseconds: int, start: int = 0
) -> tuple[bytes, list[np.ndarray]]:
    """Return a Matroska file with clusters of a length, and what it shows."""
    return encoded(folder / "a.mkv", codec, options, start=start, cluster_time_limit=str(milliseconds))


BEGINNINGS = {
    "h264 mkv": ("libx264", GOP, 5000),
    "h264 mkv, many clusters": ("libx264", GOP, 100),
    "h264 mkv, forward": ("libx264", {"g": "12", "bf": "0"}, 300),
    "vp9 mkv": ("libvpx-vp9", VPX, 400),
}


@pytest.mark.parametrize("kind", BEGINNINGS)
def test_a_damaged_first_cluster_shifts_no_frame(tmp_path, kind):
    codec, options, length = BEGINNINGS[kind]
    if codec not in av.codecs_available:
        pytest.skip(f"needs {codec}")
    data, shown = clusters(tmp_path, codec, options, length)
    assert all(frame is not None for frame in check(data, shown).values())
    places = [data.index(packet) for packet in video_packets(data)]
    first = data.index(CLUSTER)
    assert matroska_start(io.BytesIO(data)) == first
    for start, end in [(first, first + 4), (first, places[1] - 3), (first, places[8]), (first, places[12] + 20)]:
        found = check(data[:start] + bytes(end - start) + data[end:], shown)
        assert len(found) == LENGTH
        assert found[0] is None
        assert all(found[i] is not None for i in range(24, LENGTH))
    # the first block is there, and the headers of those after it are not
    start = places[0] + 1500
    found = check(data[:start] + b"\xff" * 1200 + data[start + 1200 :], shown)
    assert len(found) == LENGTH
    assert all(found[i] is not None for i in range(24, LENGTH))


@needs_h264
@pytest.mark.parametrize("keeps_index", [True, False])
def test_when_the_first_frame_is_shown(tmp_path, keeps_index):
    """A recording that begins at 2 s, as after a cut that keeps the times: its index tells that."""
    data, _ = clusters(tmp_path, "libx264", GOP, 100, start=50)
    first, index = data.index(CLUSTER), data.index(b"\x1c\x53\xbb\x6b", len(data) // 2)
    places = [data.index(packet) for packet in video_packets(data)]
    damaged = data[:first] + bytes(places[1] - first) + data[places[1] :]
    if not keeps_index:
        damaged = damaged[:index] + bytes(len(data) - index)
    found = read(open_source(damaged), range(1000))
    # without the index, so few bytes are lost that the frames cannot begin at 0
    assert len(found) == (LENGTH if keeps_index else LENGTH + 50)
    assert found[0] is None


AVI = {"mpeg4": ("mpeg4", {"g": "12"}), "mpeg4 b": ("mpeg4", {"g": "12", "bf": "2"}), "mjpeg": ("mjpeg", {})}


@pytest.mark.parametrize("has_index", [True, False])
@pytest.mark.parametrize("kind", AVI)
def test_damaged_first_chunks_of_an_avi_file_shift_no_frame(tmp_path, kind, has_index):
    data, shown = encoded(tmp_path / "a.avi", *AVI[kind])
    places = [data.index(packet) for packet in video_packets(data)]
    start = places[0] - 8
    assert avi_start(io.BytesIO(data)) == start
    if not has_index:
        index = data.index(b"idx1", places[-1])
        data = data[:index] + bytes(len(data) - index)
    for end in (places[0], places[1] - 8, places[3], places[13]):
        damaged = data[:start] + bytes(end - start) + data[end:]
        if kind == "mjpeg" and has_index and end < places[13]:
            continue  # FFmpeg reads by the index, and by wrong places: see below
        if kind == "mpeg4 b" and not has_index:
            continue  # nothing tells how many frames are lost
        found = check(damaged, shown)
        assert len(found) == LENGTH
        assert found[0] is None
        assert all(found[i] is not None for i in range(24, LENGTH))


def test_chunks_that_ffmpeg_looks_for_in_wrong_places_are_bad(tmp_path):
    data, _ = encoded(tmp_path / "a.avi", "mjpeg", {})
    start = data.index(next(video_packets(data))) - 8
    with pytest.raises(VideoError, match="no frame of the video in memory can be decoded"):
        _ = open_source(data[:start] + bytes(8) + data[start + 8 :])[5]


def test_what_is_no_file_has_no_start():
    for data in (b"", b"RIFF", b"\x1a\x45\xdf\xa3", bytes(100), b"RIFF\0\0\0\0AVI "):
        assert matroska_start(io.BytesIO(data)) is None
    for data in (b"", b"RIFF", bytes(100), b"\x1a\x45\xdf\xa3"):
        assert avi_start(io.BytesIO(data)) is None


# ---- left-out packets


LOSSES: list[set[int]] = [{0}, {12}, {13}, {14}, {15}, {16, 17}, {22, 23}, {33}]


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mpg"])
@pytest.mark.parametrize("kind", CODECS)
def test_numbers_show_that_packets_are_left_out(whole, tmp_path, kind, suffix):
    data, shown = whole[kind]
    if suffix == "mpg" and kind == "av1":
        pytest.skip("not in MPEG program streams")
    order = shown_order(data)
    for lost in LOSSES:
        if lost == {0} and (suffix == "mpg" or (suffix == "mp4" and kind != "av1")):
            continue  # a broadcast may begin within a group; MP4 may show a frame that is decoded at 0 later than at 0
        found = check(without_packets(tmp_path, data, {order.index(i) for i in lost}, suffix), shown)
        assert len(found) == LENGTH
        assert all(found[i] is None for i in lost)
        good = [i for i, frame in found.items() if frame is not None]
        assert len(good) >= (LENGTH // 3 if suffix == "mpg" else LENGTH - 15)
        if lost == {14}:
            assert set(good) >= {*range(10), *range(24, LENGTH)}


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "mpg", "avi"])
@pytest.mark.parametrize("rate", ["constant", "variable"])
@pytest.mark.parametrize("kind", CODECS)
def test_nothing_is_missing_from_whole_files(tmp_path, kind, rate, suffix):
    codec, options = CODECS[kind]
    if (kind == "av1" and suffix not in ("mp4", "mkv")) or (rate == "variable" and suffix == "avi"):
        pytest.skip("not in such files")
    pts = [i for i in range(60) if rate == "constant" or i % 7 not in (3, 4)]
    frames = numbered(len(pts), 64)
    source = open_source(write_video(tmp_path / f"a.{suffix}", frames, fps=25, codec=codec, options=options, pts=pts))
    assert isinstance(source, VideoFile)
    assert all(source[i] is not None for i in range(20))
    if rate == "constant" or suffix in ("mp4", "mkv"):
        assert source.known_length is None  # nothing made it list all packets
    assert all(frame is not None for frame in read(source, range(len(pts))).values())
    assert len(source) == len(pts)
    assert source._timeline.num_skips == 0
    assert source._timeline.lost == []


@pytest.mark.parametrize(
    ("first", "lacks"),
    [
        (Packet(raw=1, time=80, dts=0), False),  # an encoder refreshes pictures bit by bit, without keyframes
        (Packet(raw=1, time=80, dts=40), True),
        (Packet(raw=1, time=80), True),
        (Packet(raw=1, time=80, dts=40, is_key=True), False),
        (Packet(raw=1, time=80, dts=40, is_key=True, lost_bytes=100), True),
    ],
)
def test_when_the_start_is_missing(first, lacks):
    timeline = Timeline(may_start_late=False, has_durations=False, guesses_times=False, is_listable=True)
    timeline.add(first)
    for i in range(1, 20):
        timeline.add(Packet(raw=1, time=80 + 40 * i, dts=40 * i + (first.dts or 0), is_key=i == 9))
    assert timeline.may_lack_first == lacks
    timeline.fill(0 if timeline.may_lack_first else None)
    assert timeline.lost == ([0, 40] if lacks else [])


@pytest.mark.skipif("av1" not in CODECS, reason="needs an encoder of AV1")
def test_numbers_of_av1(whole):
    data, _ = whole["av1"]
    reader = Av1Numbers(extradata(data))
    numbers = [reader.read(packet) for packet, _ in packets(data)]
    assert [number and number.written for number in numbers] == list(range(LENGTH))
    assert min(len(packet) for packet, _ in packets(data)) < 6, "no packet just shows a frame that came before"
    assert [i for i, number in enumerate(numbers) if number and number.is_key] == [0, 12, 24]


@pytest.mark.parametrize("kind", [kind for kind in CODECS if "mpeg" in kind])
def test_numbers_of_mpeg(whole, kind):
    data, _ = whole[kind]
    reader = MpegNumbers(extradata(data))
    numbers = [reader.read(packet) for packet, _ in packets(data)]
    assert [number and number.written for number in numbers] == shown_order(data)
    assert not any(number and number.follows_loss for number in numbers)


@pytest.mark.parametrize("kind", CODECS)
def test_what_the_numbers_tell(whole, kind):
    data, _ = whole[kind]
    order, kept = shown_order(data), list(packets(data))
    times = sorted(time for _, time in kept if time is not None)
    codec = "libdav1d" if kind == "av1" else CODECS[kind][0]

    def told(kept):
        follower = number_follower(codec, extradata(data))
        return [gap for packet, time in kept for gap in follower.follow(packet, time).gaps]

    assert told(kept) == []
    for lost in range(13, 22):
        gaps = [
            gap for gap in told([packet for packet, i in zip(kept, order, strict=True) if i != lost]) if gap.takes_time
        ]
        assert gaps[0].start == times[lost - 1]
        assert gaps[0].end == times[lost + gaps[0].missing]
        # of AV1, packets after a loss may show frames that the lost one held; their numbers are not known
        assert kind == "av1" or (len(gaps) == 1 and gaps[0].missing == 1)
    # at other times, the same numbers are no sign of a loss
    squeezed = [(packet, order[k]) for k, (packet, _) in enumerate(kept) if order[k] != 14]
    squeezed = [(packet, i - (i > 14)) for packet, i in squeezed]
    assert not any(gap.takes_time for gap in told(squeezed))


@pytest.mark.parametrize("kind", CODECS)
def test_damaged_numbers_raise_nothing(whole, kind):
    data, _ = whole[kind]
    draw = random.Random(0)
    codec = "libdav1d" if kind == "av1" else CODECS[kind][0]
    for extra in (b"", b"\x81\0\0\0\x0a", b"\0\0\1\xb3", draw.randbytes(40), extradata(data)):
        follower = number_follower(codec, extra)
        assert follower is not None
        for packet, time in packets(data):
            at, size = draw.randrange(len(packet)), draw.randrange(1, 9)
            follower.follow(packet[:at] + draw.randbytes(size) + packet[at + size :], time)
            follower.follow(packet[:at], time)
            follower.follow(draw.randbytes(20), time)
