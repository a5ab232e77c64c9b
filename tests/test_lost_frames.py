"""Frames that are lost or damaged without an error of the decoder: what the data themselves tell."""

from __future__ import annotations

import io
import random
import warnings
from contextlib import suppress
from pathlib import Path

import av
import numpy as np
import pytest

from i2vpp.errors import FrameDecodeError
from i2vpp.session.video import open_source
from i2vpp.session.video_file import jpeg
from i2vpp.session.video_file.decoder import VideoFile
from i2vpp.session.video_file.frame_numbers import FrameNumbers
from i2vpp.session.video_file.packets import number_follower
from i2vpp.session.video_file.picture_order import Gap
from i2vpp.session.video_file.program_stream import ends_within_packet
from media import numbered, write_video
from test_damaged_video import GOP, LENGTH, check, encoded, read, video_packets

needs_h264 = pytest.mark.skipif("libx264" not in av.codecs_available, reason="needs an encoder of H.264")


@pytest.fixture(scope="module")
def h264(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, list[np.ndarray]]:
    return encoded(tmp_path_factory.mktemp("whole") / "a.mp4", "libx264", GOP)


def without_packets(folder: Path, data: bytes, numbers: set[int], suffix: str) -> bytes:
    """Return the file copied into a format without some packets."""
    path = folder / f"copy.{suffix}"
    with av.open(io.BytesIO(data)) as source, av.open(str(path), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream, opaque="av1" in stream.codec.canonical_name)
        for number, packet in enumerate(p for p in source.demux(stream) if p.size):
            if number not in numbers:
                packet.stream = copy
                target.mux(packet)
    return path.read_bytes()


def reference_packets(data: bytes) -> list[int]:
    """Return the numbers of the packets of an MP4 file that others are predicted from, but keyframes."""
    kinds = [packet[4] if packet[4] & 31 != 6 else 0xFF for packet in video_packets(data)]
    return [n for n, kind in enumerate(kinds) if kind & 31 == 1 and kind >> 5 & 3]


# ---- frame numbers of H.264


@needs_h264
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "flv"])
def test_frame_numbers_show_that_packets_are_left_out(h264, tmp_path, suffix):
    data, shown = h264
    lost = next(n for n in reference_packets(data) if n > 14)
    found = check(without_packets(tmp_path, data, {lost}, suffix), shown)
    assert len(found) == LENGTH
    good = {i for i, frame in found.items() if frame is not None}
    assert set(range(12)) | set(range(24, LENGTH)) <= good
    assert len(good) < LENGTH


@needs_h264
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_keyframe_that_is_left_out(h264, tmp_path, suffix):
    data, shown = h264
    found = check(without_packets(tmp_path, data, {12}, suffix), shown)
    assert len(found) == LENGTH
    assert found[12] is None
    assert all(found[i] is not None for i in [*range(11), *range(24, LENGTH)])


@needs_h264
def test_no_number_is_left_out_at_a_variable_frame_rate(tmp_path):
    pts = [i for i in range(60) if i % 7 not in (3, 4)]
    path = write_video(tmp_path / "a.mp4", numbered(len(pts)), options=GOP, pts=pts)
    source = open_source(path)
    assert all(frame is not None for frame in read(source, range(len(pts))).values())
    assert len(source) == len(pts)


@needs_h264
def test_what_frame_numbers_tell(h264):
    data, _ = h264
    with av.open(io.BytesIO(data)) as container:
        extradata = bytes(container.streams.video[0].codec_context.extradata)
    packets = list(video_packets(data))
    lost = next(n for n in reference_packets(data) if n > 14)

    def said(kept):
        numbers = FrameNumbers(extradata)
        return [numbers.follow(packet, None).skips for packet in kept]

    assert said(packets) == [False] * LENGTH
    assert said(packets[:lost] + packets[lost + 1 :]).count(True) == 1
    assert said(packets[:lost] + [b"", b"\0" * 9, b"\0\0\0\5\x41"] + packets[lost + 1 :]).count(True) == 0
    assert None in said(packets[:12] + packets[13:])
    assert not any(FrameNumbers(b"\1damaged").follow(packet, None).skips for packet in packets)
    assert not any(FrameNumbers(b"").follow(packet, None).skips for packet in packets)


@needs_h264
def test_an_encoder_that_numbers_wrongly_is_read_as_before(tmp_path):
    data = write_video(tmp_path / "a.mp4", numbered(60), options={"g": "60", "bf": "0", "refs": "1"}).read_bytes()
    copy = without_packets(tmp_path, data, set(range(4, 60, 5)), "mp4")
    source = open_source(copy)
    assert len(source) == 60 - 12
    assert isinstance(source, VideoFile)
    for i in range(len(source)):
        with suppress(FrameDecodeError):
            source[i]
    assert not any(reason and "lost" in reason for reason in source._timeline.bad.values())


# ---- picture order counts of HEVC


needs_hevc = pytest.mark.skipif("libx265" not in av.codecs_available, reason="needs an encoder of HEVC")
HEVC = {"pyramid": "bframes=3", "forward": "bframes=0", "closed": "bframes=2:open-gop=0"}


@needs_hevc
@pytest.mark.parametrize("kind", HEVC)
def test_picture_orders_show_that_packets_are_left_out(tmp_path, kind):
    options = {"x265-params": f"keyint=12:log-level=none:pools=1:{HEVC[kind]}", "preset": "ultrafast"}
    data, shown = encoded(tmp_path / "a.mp4", "libx265", options)
    with av.open(io.BytesIO(data)) as container:
        times = [packet.pts for packet in container.demux(video=0) if packet.size]
    last = 22 if kind == "closed" else 23  # of a closed group, the loss of the last frame looks like a pause
    for lost in ({12}, {13}, {14}, {15}, {18, 19}, {last}):
        numbers = {times.index(sorted(times)[i]) for i in lost}
        found = check(without_packets(tmp_path, data, numbers, "mkv" if 13 in lost else "mp4"), shown)
        assert len(found) == LENGTH
        assert all(found[i] is None for i in lost)
        assert all(found[i] is not None for i in [*range(9), *range(33, LENGTH)])


@needs_hevc
def test_no_picture_order_is_left_out_at_a_variable_frame_rate(tmp_path):
    pts = [i for i in range(60) if i % 30 not in (3, 4)]
    options = {"x265-params": "keyint=12:bframes=2:log-level=none:pools=1", "preset": "ultrafast"}
    path = write_video(tmp_path / "a.mp4", numbered(len(pts), 64), codec="libx265", options=options, pts=pts)
    source = open_source(path)
    assert all(frame is not None for frame in read(source, range(len(pts))).values())
    assert len(source) == len(pts)
    assert isinstance(source, VideoFile)
    assert not source._timeline._gaps


@needs_hevc
@pytest.mark.parametrize("part", ["all", "the name", "the first entries"])
def test_picture_orders_show_that_times_are_wrong(tmp_path, part):
    """An MP4 file whose offsets from decoding to showing are lost; its frames are counted as they are decoded."""
    options = {"x265-params": "keyint=12:bframes=2:log-level=none:pools=1", "preset": "ultrafast"}
    data, shown = encoded(tmp_path / "a.mp4", "libx265", options)
    at = data.index(b"ctts")
    length = int.from_bytes(data[at - 4 : at], "big") - 16
    start, end = {
        "all": (at + 12, at + 12 + length),
        "the name": (at, at + 4),
        "the first entries": (at + 12, at + 28),
    }[part]
    found = check(data[:start] + bytes(end - start) + data[end:], shown)
    assert [i for i, frame in found.items() if frame is not None] == list(range(LENGTH))


@needs_hevc
def test_what_picture_orders_tell(tmp_path):
    options = {"x265-params": "keyint=12:bframes=2:log-level=none:pools=1", "preset": "ultrafast"}
    data, _ = encoded(tmp_path / "a.mp4", "libx265", options)
    with av.open(io.BytesIO(data)) as container:
        extradata = bytes(container.streams.video[0].codec_context.extradata)
        packets = [(bytes(packet), packet.pts) for packet in container.demux(video=0) if packet.size]
    step = sorted(time for _, time in packets)[1] - min(time for _, time in packets)

    def said(kept, extradata=extradata):
        follower = number_follower("hevc", extradata)
        return [gap for data, time in kept for gap in follower.follow(data, time).gaps]

    assert said(packets) == []
    for lost in range(1, 20):
        time = packets[lost][1]
        assert said(packets[:lost] + packets[lost + 1 :]) == [Gap(time - step, time + step, 1)]
        damaged = [(b"", 5), (b"\0" * 9, 6), (b"\0\0\0\5\2", 7), (b"\0\0\0\7\2\1\xff\xff\xff\xff\xff", 8)]
        said(packets[:lost] + damaged + packets[lost:])
    assert sum(gap.missing for gap in said(packets[:2] + packets[9:])) == 7
    assert said([(data, None) for data, _ in packets]) == []
    assert said(packets, b"") == said(packets, b"\1damaged") == said(packets, extradata[:40]) == []
    raw, _ = encoded(tmp_path / "a.hevc", "libx265", options)
    with av.open(io.BytesIO(raw), format="hevc") as container:
        raw_packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    numbered_packets = [(data, time) for data, (_, time) in zip(raw_packets, packets, strict=True)]
    assert said(numbered_packets, b"") == []
    assert len(said(numbered_packets[:8] + numbered_packets[9:], b"")) == 1


# ---- all ways of reading agree


def agree(data: bytes) -> dict[int, np.ndarray | None]:
    """Read a file forward and backward; the ways must agree."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        forward = read(open_source(data), range(1000))
        source = open_source(data)
        assert len(source) == len(forward)
        backward = read(source, range(len(source) - 1, -1, -1))
    for i, frame in forward.items():
        assert (frame is None) == (backward[i] is None), f"frame {i} is bad by one way of reading only"
        if frame is not None:
            np.testing.assert_array_equal(frame, backward[i], f"frame {i}")
    return forward


@needs_h264
@pytest.mark.parametrize("seed", range(6))
def test_changed_bytes_are_judged_alike_by_all_ways_of_reading(h264, seed):
    data, draw = bytearray(h264[0]), random.Random(seed)
    at = draw.randrange(len(data) // 10, len(data) * 9 // 10)
    data[at : at + 64] = draw.randbytes(64)
    agree(bytes(data))


def test_a_frame_that_comes_early_before_damage_keeps_its_place(tmp_path):
    """The decoder hands out the last P frame when a B frame before it fails; other B frames are not read yet."""
    data, shown = encoded(tmp_path / "a.mkv", "mpeg4", {"g": "12", "bf": "2"})
    packets = list(video_packets(data))
    for number in (4, 5, 20):
        at = data.index(packets[number])
        damaged = data[: at + 8] + b"\xff" * 24 + data[at + 32 :]
        found = check(damaged, shown)
        assert len(found) == LENGTH
        assert any(frame is None for frame in found.values())


@needs_h264
def test_a_raw_stream_whose_first_keyframe_is_lost_warns_and_begins_with_the_next(tmp_path):
    data, shown = encoded(tmp_path / "a.h264", "libx264", GOP)
    first = next(video_packets(data))
    for keep in (0, 60):
        damaged = data[:keep] + bytes(len(first) - keep) + data[len(first) :]
        with pytest.warns(UserWarning, match="the beginning of the video in memory is damaged: its frame 0 is"):
            _ = open_source(damaged)[0]
        for found in (agree(damaged), check(damaged, shown[12:])):
            assert len(found) == LENGTH - 12
            assert all(frame is not None for frame in found.values())


# ---- zeros and checksums of still pictures


@pytest.mark.parametrize("suffix", ["avi", "mkv"])
def test_zeros_within_a_jpeg_picture(tmp_path, suffix):
    data, shown = encoded(tmp_path / f"a.{suffix}", "mjpeg", {"huffman": "default"})
    packet = list(video_packets(data))[7]
    at = data.index(packet) + len(packet) // 2
    found = check(data[:at] + bytes(200) + data[at + 200 :], shown)
    assert [i for i, frame in found.items() if frame is None] == [7]


@pytest.mark.parametrize("huffman", ["default", "optimal"])
def test_even_jpeg_pictures_are_whole(tmp_path, huffman):
    frames = [np.full((256, 256, 3), value, np.uint8) for value in (0, 90, 255)]
    frames.append(np.concatenate([frames[0][:128], np.random.default_rng(0).integers(0, 255, (128, 256, 3), np.uint8)]))
    path = tmp_path / "a.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25, options={"huffman": huffman})
        stream.height, stream.width, stream.pix_fmt = 256, 256, "yuvj420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    data = path.read_bytes()
    assert not any(jpeg.has_zeros(packet) for packet in video_packets(data))
    assert all(frame is not None for frame in agree(data).values())


def test_zeros_outside_the_picture_of_a_jpeg_are_nothing():
    header = b"\xff\xd8\xff\xe0\x00\x82" + bytes(128) + b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00"
    assert not jpeg.has_zeros(header + b"\x12\x34\xff\xd9" + bytes(500))
    assert jpeg.has_zeros(header + b"\x12" + bytes(500) + b"\x34\xff\xd9")
    assert not jpeg.has_zeros(bytes(500))
    assert not jpeg.has_zeros(b"\xff\xd8\xff\xda" + bytes(500))


def test_checksums_of_png_pictures(tmp_path):
    path = tmp_path / "a.mov"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("png", rate=25)
        stream.height, stream.width, stream.pix_fmt = 32, 64, "rgb24"
        for frame in numbered(6):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    data = bytearray(path.read_bytes())
    packet = list(video_packets(bytes(data)))[3]
    data[bytes(data).index(packet) + packet.index(b"IDAT") - 6] ^= 1
    found = agree(bytes(data))
    assert [i for i, frame in found.items() if frame is None] == [3]


# ---- files that are cut off


def test_a_program_stream_that_is_cut_off_warns(tmp_path):
    data, _ = encoded(tmp_path / "a.mpg", "mpeg2video", GOP)
    assert not ends_within_packet(data)
    assert not ends_within_packet(data + bytes(4096))
    assert not ends_within_packet(b"")
    assert all(ends_within_packet(data[:-cut]) for cut in (1, 4, 100))
    assert not any(ends_within_packet(data[start:]) for start in range(0, 4000, 500))
    cut = data[: len(data) * 2 // 3 // 2048 * 2048 + 100]
    for video in (cut, str(tmp_path / "cut.mpg")):
        (tmp_path / "cut.mpg").write_bytes(cut)
        with pytest.warns(UserWarning, match="is cut off: it ends after [0-9]+ frames"):
            len(open_source(video))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        len(open_source(data))
