"""Damaged and odd video files: no index shifts, no wrong picture goes for a good one, all ways of reading agree."""

from __future__ import annotations

import io
import random
import re
import warnings
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from i2vpp.errors import FrameDecodeError, VideoError
from i2vpp.session.video import open_source
from i2vpp.session.video_file import decoder
from media import number_of, numbered, usual_priority, write_video

LENGTH = 36
GOP = {"g": "12", "bf": "2", "sc_threshold": "0"}
VPX = {"g": "12", "cpu-used": "8", "deadline": "realtime"}
X265 = {"x265-params": "keyint=12:bframes=2:log-level=none:pools=1", "preset": "ultrafast"}
FORMATS = {
    "mp4": ("libx264", GOP),
    "mkv": ("libx264", GOP),
    "ts": ("libx264", GOP),
    "avi": ("mpeg4", {"g": "12"}),
    "b.avi": ("mpeg4", {"g": "12", "bf": "2"}),
    "mpeg4.mkv": ("mpeg4", {"g": "12", "bf": "2"}),
    "mjpeg.avi": ("mjpeg", {}),
    "mjpeg.mkv": ("mjpeg", {}),
    "webm": ("libvpx-vp9", VPX),
    "hevc.mp4": ("libx265", X265),
    "hevc.mkv": ("libx265", X265),
    "mpeg2.ts": ("mpeg2video", GOP),
}


def textured(length: int = LENGTH) -> list[np.ndarray]:
    """Numbered frames over a moving texture, so that packets are large and wrong pictures look wrong."""
    noise = np.kron(np.random.default_rng(0).integers(0, 255, (24, 96, 3), np.uint8), np.ones((4, 4, 1), np.uint8))
    frames = []
    for i, frame in enumerate(numbered(length, 64, 96)):
        frame[24:] = noise[24:64, 2 * i : 2 * i + 96]
        frames.append(frame)
    return frames


@usual_priority()
def encoded(
    path: Path, codec: str, options: dict[str, str], *, start: int = 0, **of_format: str
) -> tuple[bytes, list[np.ndarray]]:
    """Return a file of textured frames, and what it shows.

    Args:
        path: the file.
        codec: FFmpeg's name of the encoder.
        options: of the encoder.
        start: when the first frame is shown, in frames.
        of_format: options of the file's format.
    """
    with av.open(str(path), "w", options=of_format) as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width, stream.bit_rate = 64, 96, 500_000
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for i, array in enumerate(textured()):
            frame = av.VideoFrame.from_ndarray(array, format="rgb24")
            frame.pts = start + i
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with av.open(str(path)) as container:
        return path.read_bytes(), [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[bytes, list[np.ndarray]]]:
    """Files of all formats, and what they show."""
    folder, files = tmp_path_factory.mktemp("whole"), {}
    for suffix, (codec, options) in FORMATS.items():
        if codec not in av.codecs_available:
            continue
        files[suffix] = encoded(folder / f"a.{suffix}", codec, options)
        assert len(files[suffix][1]) == LENGTH
    return files


def difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(int) - b.astype(int)).mean())


def read(source, order) -> dict[int, np.ndarray | None]:
    """Read frames; None for those that are said to be bad."""
    found = {}
    for i in order:
        try:
            found[i] = source[i]
        except FrameDecodeError as error:
            assert f"frame {i} of " in str(error)
            found[i] = None
        except IndexError:
            break
    return found


def check(data: bytes, shown: list[np.ndarray]) -> dict[int, np.ndarray | None]:
    """Read a damaged file in order, by `len` and at random: the ways agree, and what is shown is right."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        forward = read(open_source(data), range(1000))
        source = open_source(data)
        assert len(source) == len(forward)
        shuffled = random.Random(0).sample(range(len(source)), len(source))
        jumping = read(source, shuffled)
    for i, frame in forward.items():
        assert (frame is None) == (jumping[i] is None), f"frame {i} is bad by one way of reading only"
        if frame is not None:
            assert difference(frame, shown[i]) < 2, f"frame {i} is wrong"
            np.testing.assert_array_equal(frame, jumping[i])
    return forward


def video_packets(data: bytes) -> Iterator[bytes]:
    with av.open(io.BytesIO(data)) as container:
        for packet in container.demux(video=0):
            if packet.size:
                yield bytes(packet)


@pytest.mark.parametrize("suffix", FORMATS)
def test_whole_files_are_whole(whole, suffix):
    data, shown = whole[suffix]
    assert all(frame is not None for frame in check(data, shown).values())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("suffix", [s for s in FORMATS if "mjpeg" not in s])
def test_zeroed_blocks(whole, suffix, seed):
    """A lost sector, or a hole in a download; of JPEG, zeros within a picture are valid data."""
    data, shown = whole[suffix]
    damaged, rng = bytearray(data), random.Random(seed)
    start = rng.randrange(len(data) // 4, len(data) * 3 // 4)
    damaged[start : start + 600] = bytes(600)
    if "mkv" in suffix and not any(packet in data[start + 600 :] for packet in video_packets(data)):
        pytest.skip("nothing is left to find after the hole")
    found = check(damaged, shown)
    assert len(found) == LENGTH
    good = [i for i, frame in found.items() if frame is not None]
    assert len(good) >= LENGTH // 3
    assert len(good) < LENGTH


@pytest.mark.parametrize("suffix", [s for s in FORMATS if not s.endswith("ts")])
def test_first_keyframe_zeroed(whole, suffix):
    """Frames of the first group of pictures are bad, and all others keep their indices."""
    data, shown = whole[suffix]
    first = next(video_packets(data))
    at = data.index(first)
    keep = 8 if suffix.startswith("hevc") or "mp4" in suffix else 0
    damaged = data[: at + keep] + bytes(len(first) - keep) + data[at + len(first) :]
    found = check(damaged, shown)
    assert len(found) == LENGTH
    assert found[0] is None
    assert sum(frame is not None for frame in found.values()) >= LENGTH - 16


@pytest.mark.parametrize("suffix", ["ts", "mpeg2.ts"])
def test_packets_left_out(whole, tmp_path, suffix):
    data, shown = whole[suffix]
    (tmp_path / f"whole.{suffix}").write_bytes(data)
    path = tmp_path / f"a.{suffix}"
    with av.open(str(tmp_path / f"whole.{suffix}")) as source, av.open(str(path), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        for number, packet in enumerate(p for p in source.demux(stream) if p.size):
            if number not in (16, 17):
                packet.stream = copy
                target.mux(packet)
    found = check(path.read_bytes(), shown)
    assert len(found) == LENGTH
    assert all(found[i] is not None for i in [*range(12), *range(27, LENGTH)])


@pytest.mark.parametrize("suffix", ["mkv", "avi", "mjpeg.avi", "ts", "webm"])
def test_a_file_that_is_cut_off_warns(whole, suffix):
    data, shown = whole[suffix]
    cut = data[: len(data) * 2 // 3 // 188 * 188 + 100]
    check(cut, shown)
    for use in (lambda source: read(source, range(1000)), len):
        with pytest.warns(UserWarning, match="the video in memory is cut off: it ends after [0-9]+ frames"):
            use(open_source(cut))


def test_lost_chunks_of_an_avi_file_without_index(whole):
    """The number of frames in the header tells how many are lost, the hole in the file where."""
    data, shown = whole["mjpeg.avi"]
    packets = list(video_packets(data))
    start, end = data.index(packets[10]) - 8, data.index(packets[13]) - 8
    index = data.index(b"idx1")
    damaged = data[:start] + bytes(end - start) + data[end:index] + bytes(len(data) - index)
    found = check(damaged, shown)
    assert [i for i, frame in found.items() if frame is None] == [10, 11, 12]
    assert len(found) == LENGTH


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "webm"])
def test_damage_is_told_from_what_builds_on_it(whole, suffix):
    data, _ = whole[suffix]
    packet = list(video_packets(data))[14]
    at = data.index(packet)
    source = open_source(data[: at + 10] + bytes(len(packet) - 10) + data[at + len(packet) :])
    reasons = {}
    for i in range(LENGTH):
        try:
            source[i]
        except FrameDecodeError as error:
            reasons[i] = re.sub(".*cannot be decoded: ", "", str(error))
    assert "its data are damaged" in reasons.values()
    assert set(reasons.values()) <= {"its data are damaged", "frames before it are damaged"}
    assert set(reasons) <= set(range(12, 24))


# ---- odd files


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
def test_titles_in_any_encoding(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "XXXX"
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width, stream.pix_fmt = 32, 64, "yuv420p"
        for image in numbered(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    data = path.read_bytes()
    assert b"XXXX" in data
    assert len(open_source(data.replace(b"XXXX", b"caf\xe9"))) == 5


def test_an_unknown_codec_is_said(tmp_path):
    data = write_video(tmp_path / "a.avi", numbered(5), codec="mpeg4").read_bytes()
    with pytest.raises(VideoError, match=r"the video in memory (holds|cannot be opened|.*no frame)"):
        open_source(data.replace(b"FMP4", b"QQQQ"))[0]


def test_nothing_can_be_decoded(tmp_path):
    data = write_video(tmp_path / "a.mkv", numbered(6), codec="mpeg4").read_bytes()
    for packet in video_packets(data):
        data = data.replace(packet, bytes(len(packet)))
    for use in (len, lambda s: s.height):
        source = open_source(data)
        if use is len:
            assert use(source) == 6
        else:
            with pytest.raises(VideoError, match="no frame of the video in memory can be decoded"):
                use(source)


@pytest.mark.parametrize("first", [0, 1])
def test_a_size_that_changes_midway_is_scaled_to_the_first(tmp_path, first):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.height, stream.width, stream.pix_fmt = 32, 64, "yuvj420p"
        other = av.CodecContext.create("mjpeg", "w")
        other.height, other.width, other.pix_fmt, other.time_base = 64, 128, "yuvj420p", Fraction(1, 25)
        for i in range(8):
            encoder, size = (stream, (32, 64)) if i < 4 else (other, (64, 128))
            frame = av.VideoFrame.from_ndarray(numbered(8, *size)[i], format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 25)
            for packet in encoder.encode(frame):
                packet.stream = stream
                container.mux(packet)
    source = open_source(path)
    for i in [6, 0, 1, 7, 3] if first else range(8):
        assert source[i].shape == (32, 64, 3)
        assert number_of(source[i]) == i
    assert (source.height, source.width) == (32, 64)


def test_a_camera_with_small_errors_in_each_keyframe_is_read(tmp_path, monkeypatch):
    """Such streams are not damaged: the decoder then need not report each error."""
    path = write_video(tmp_path / "a.mp4", numbered(40), options={"g": "8"})
    opened = []
    original = decoder.open_decoder

    class Fussy:
        def __init__(self, context):
            self.context = context

        def decode(self, packet):
            if packet is not None and packet.is_keyframe:
                raise av.error.InvalidDataError(1, "quirk")
            return self.context.decode(packet)

        def flush_buffers(self):
            self.context.flush_buffers()

    def fussy(stream, *, is_strict):
        opened.append(is_strict)
        context = original(stream, is_strict=is_strict)
        return Fussy(context) if is_strict else context

    monkeypatch.setattr(decoder, "open_decoder", fussy)
    source = open_source(path)
    assert [number_of(source[i]) for i in range(40)] == list(range(40))
    assert False in opened
    assert len(source) == 40


def test_nothing_of_an_undamaged_file_is_listed_when_it_is_read_in_order(tmp_path):
    source = open_source(write_video(Path(tmp_path) / "a.mkv", numbered(60), options=GOP))
    for i in range(50):
        source[i]
    assert source.known_length is None


@pytest.mark.skipif("libx264" not in av.codecs_available, reason="needs an encoder of H.264")
def test_after_a_hole_in_a_raw_stream_no_frame_is_shown_in_a_wrong_place(tmp_path):
    data, shown = encoded(tmp_path / "a.h264", "libx264", GOP)
    for start in (len(data) // 3, len(data) // 2):
        found = check(data[:start] + bytes(900) + data[start + 900 :], shown)
        good = [i for i, frame in found.items() if frame is not None]
        assert good == list(range(len(good)))
        assert len(good) > 6


def test_a_hole_in_a_program_stream_shifts_no_frame(tmp_path):
    data, shown = encoded(tmp_path / "a.mpg", "mpeg2video", GOP)
    for start in range(len(data) // 5, len(data) * 3 // 4, len(data) // 12):
        found = read(open_source(data[:start] + bytes(900) + data[start + 900 :]), range(1000))
        assert len(found) == LENGTH
        assert sum(frame is not None for frame in found.values()) >= 12
        for i, frame in found.items():
            assert frame is None or difference(frame, shown[i]) < 2, f"frame {i} is wrong"
