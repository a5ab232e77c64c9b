from __future__ import annotations

import functools
import gc
import http.server
import struct
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest

from i2vpp.errors import FrameDecodeError, VideoError
from i2vpp.session.video import open_source
from i2vpp.session.video_file import decoder
from media import number_of, numbered, numbers, read_all, turned, write_video

GOP = {"g": "12", "bf": "2"}
FORMATS = [
    ("mp4", "libx264", GOP),
    ("mp4", "mpeg4", GOP),
    ("ts", "libx264", GOP),
    ("mkv", "libx264", GOP),
    ("mpg", "mpeg2video", GOP),  # times of packets differ after seeking
    ("avi", "libx264", GOP),  # no presentation times
    ("h264", "libx264", GOP),  # no times at all
    ("webm", "libvpx-vp9", {"g": "12"}),
]


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "a.mp4", numbered(60), options=GOP)


@pytest.fixture
def decoded(monkeypatch) -> list[int]:
    """The indices of all frames that video files decode."""
    seen: list[int] = []
    original = decoder._decode

    def spy(*args, **kwargs):
        for index, frame in original(*args, **kwargs):
            seen.append(index)
            yield index, frame

    monkeypatch.setattr(decoder, "_decode", spy)
    return seen


@pytest.mark.parametrize(("suffix", "codec", "options"), FORMATS)
def test_random_and_backward_reading_equal_reading_in_order(tmp_path, monkeypatch, suffix, codec, options):
    path = write_video(tmp_path / f"a.{suffix}", numbered(60), codec=codec, options=options)
    in_order = read_all(open_source(path))
    assert [number_of(frame) for frame in in_order] == list(range(60))
    monkeypatch.setattr(decoder, "CACHE_BYTES", 40_000)
    shuffled = np.random.default_rng(0).permutation(60).tolist()
    for order in (shuffled, range(59, -1, -1)):
        source = open_source(path)
        for i in order:
            np.testing.assert_array_equal(source[i], in_order[i], err_msg=f"frame {i}")
        assert len(source) == 60
    with pytest.raises(IndexError, match="has 60 frames, not a frame 60"):
        source[60]


def test_header_of_a_video(video):
    source = open_source(str(video))
    assert (source.height, source.width, source.fps, source.seekable) == (32, 64, 24.0, True)
    assert source.known_length is None
    assert source[0].dtype == np.uint8
    assert len(source) == source.known_length == 60
    assert open_source(source) is source


def test_reading_in_order_decodes_no_more_than_needed(video, decoded):
    source = open_source(video)
    assert not decoded
    assert numbers(source, range(20)) == list(range(20))
    assert decoded == list(range(20))
    assert source.known_length is None
    read_all(source)
    assert source.known_length == 60


def test_small_steps_ahead_decode_on(video, decoded):
    source = open_source(video)
    assert numbers(source, [0, 5, 3, 4, 6]) == [0, 5, 3, 4, 6]
    assert decoded == list(range(7))


def test_tracking_backwards_decodes_each_group_of_pictures_once(video, decoded):
    source = open_source(video)
    assert numbers(source, range(59, -1, -1)) == list(range(59, -1, -1))
    assert len(decoded) <= 60 + 1  # frame 0 is read first, for the size


def test_far_jump_decodes_from_the_keyframe_before(tmp_path, decoded):
    path = write_video(tmp_path / "a.mp4", numbered(120), options={"g": "12", "keyint_min": "12", "sc_threshold": "0"})
    assert numbers(open_source(path), [100, 101, 30]) == [100, 101, 30]
    assert decoded == [0, *range(96, 102), *range(24, 31)]


def test_decoded_frames_are_bounded_in_bytes(video, monkeypatch):
    monkeypatch.setattr(decoder, "CACHE_BYTES", 40_000)
    source = open_source(video)
    for i in (59, 30, 45):
        source[i]
        assert source._decoded_bytes <= 40_000 or len(source._decoded) == decoder.RECENT_FRAMES
    assert source._decoded_bytes == sum(decoder._num_bytes(frame) for frame in source._decoded.values())
    read_all(source)
    assert len(source._decoded) <= decoder.RECENT_FRAMES


def test_end_of_a_file_needs_no_length(video):
    source = open_source(video)
    with pytest.raises(IndexError, match="not a frame 1000000"):
        source[10**6]
    with pytest.raises(IndexError, match="start at 0"):
        source[-1]


def test_whether_there_is_a_frame_is_known_without_decoding_up_to_it(video, decoded, monkeypatch):
    monkeypatch.setattr(decoder, "PATIENCE", 8)
    source = open_source(video)
    source.check(0)
    source.check(5)
    assert decoded == [*range(6)]
    assert source.known_length is None
    source.check(3)
    source.check(40)
    for i in (60, 10**6, -1):
        with pytest.raises(IndexError, match=f"frame {i}"):
            source.check(i)
    assert decoded == [*range(6)]
    source.close()
    with pytest.raises(VideoError, match=r"a\.mp4 is closed"):
        source.check(3)


@pytest.mark.parametrize("pts", [[3 * i + (i % 5 == 0) for i in range(40)], [100 + i for i in range(40)]])
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_uneven_and_late_times(tmp_path, pts, suffix):
    path = write_video(tmp_path / f"a.{suffix}", numbered(40), options=GOP, pts=pts)
    source = open_source(path)
    assert len(source) == 40
    order = [0, 39, 17, 18, 16, 5, 38, 12, 11]
    assert numbers(source, order) == order


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_time_of_a_frame_is_that_of_its_timestamp(tmp_path, suffix):
    pts = [100 + 3 * i + (i % 5 == 0) for i in range(40)]
    path = write_video(tmp_path / f"a.{suffix}", numbered(40), options=GOP, pts=pts)
    expected = [(time - pts[0]) / 24 for time in pts]
    source = open_source(path)
    forward = []
    for i in range(40):
        source[i]
        forward.append(source.time(i))
    for times in (forward, [open_source(path).time(i) for i in range(40)]):
        assert times == pytest.approx(expected, abs=1e-3)
    for i in (40, -1):
        with pytest.raises(IndexError, match=f"has 40 frames, not a frame {i}"):
            source.time(i)


def test_time_of_a_frame_without_timestamps_is_counted(tmp_path):
    source = open_source(write_video(tmp_path / "a.avi", numbered(40), options=GOP))
    assert [source.time(i) for i in (0, 6, 39)] == pytest.approx([0, 6 / 24, 39 / 24])


def test_frames_that_are_no_video_have_no_time():
    assert open_source(numbered(2)).time(1) is None
    assert open_source(iter(numbered(2))).time(1) is None


def test_recording_that_starts_between_keyframes(tmp_path):
    whole = write_video(tmp_path / "a.ts", numbered(60), options={**GOP, "sc_threshold": "0"}).read_bytes()
    cut = whole[len(whole) // 3 // 188 * 188 :]
    in_order = [number_of(frame) for frame in read_all(open_source(cut))]
    assert in_order == list(range(in_order[0], 60))
    assert 0 < in_order[0] < 40
    source = open_source(cut)
    assert len(source) == len(in_order)
    assert numbers(source, range(len(source) - 1, -1, -1)) == in_order[::-1]


# (x, y) -> (a x + c y, b x + d y), as the matrix a, b, 0, c, d, 0 of an mp4 track header
TURNS = {
    "90": ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),
    "180": ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
    "270": ((0, -1, 1, 0), lambda image: np.rot90(image, 1)),
    "mirror": ((-1, 0, 0, 1), lambda image: image[:, ::-1]),
    "transpose": ((0, 1, 1, 0), lambda image: image.transpose(1, 0, 2)),
}


@pytest.mark.parametrize("turn", TURNS)
def test_display_matrix_is_honoured(video, turn):
    matrix, expected = TURNS[turn]
    source, upright = open_source(turned(video.read_bytes(), matrix)), open_source(video)
    assert source[37].shape == (source.height, source.width, 3)
    for i in (37, 5):
        np.testing.assert_array_equal(source[i], expected(upright[i]))


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, "file"])
def test_video_in_memory(video, kind):
    with video.open("rb") as file:
        source = open_source(file if kind == "file" else kind(video.read_bytes()))
        assert numbers(source, [0, 50, 7, 59]) == [0, 50, 7, 59]
        source.close()
        assert not file.closed


def test_url(video):
    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=video.parent))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        source = open_source(f"{url}/a.mp4")
        assert numbers(source, [0, 1, 40, 3]) == [0, 1, 40, 3]
        assert len(source) == 60
        source.close()
        with pytest.raises(VideoError, match=r"none\.mp4 cannot be opened as a video"):
            open_source(f"{url}/none.mp4")
    finally:
        server.shutdown()
        server.server_close()


def test_live_url_cannot_be_read_again(video, monkeypatch):
    monkeypatch.setattr(decoder, "STREAMING", ("file",))
    source = open_source(f"file://{video}")
    assert not source.seekable
    assert numbers(source, range(20)) == list(range(20))
    with pytest.raises(VideoError, match="is a live stream: frames that have passed cannot be read again"):
        source[2]
    assert number_of(source[20]) == 20


def test_threads_may_share_a_source(video):
    source, wrong = open_source(video), []

    def read(seed):
        for i in np.random.default_rng(seed).integers(0, 60, 30).tolist():
            if number_of(source[i]) != i:
                wrong.append(i)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_forgotten_source_is_freed_at_once(video):
    source = open_source(video)
    source[0], source[59], source[20]
    alive, container = weakref.ref(source), source._container
    gc.disable()
    try:
        del source
        assert alive() is None
        with pytest.raises(AssertionError, match="not open"):  # PyAV's way to say that it is closed
            next(container.demux(video=0))
    finally:
        gc.enable()


def test_closed_video(video):
    source = open_source(video)
    source[0]
    source.close()
    source.close()
    for use in (lambda: source[0], lambda: source[9], lambda: len(source)):
        with pytest.raises(VideoError, match=r"a\.mp4 is closed"):
            use()


# ---- damaged files


def test_damaged_frames_are_named_and_the_others_stay_readable(tmp_path):
    path = write_video(tmp_path / "a.mkv", numbered(40), options={"g": "1"})
    data, count = bytearray(path.read_bytes()), 0
    whole = read_all(open_source(path))
    with decoder.av.open(str(path)) as container:
        for packet in container.demux(video=0):
            if packet.pts is not None and count == 20:
                at = data.index(bytes(packet))
                data[at : at + packet.size] = bytes(packet.size)
            count += 1
    for order in (range(40), range(39, -1, -1)):
        source, damaged = open_source(data), []
        for i in order:
            try:
                np.testing.assert_array_equal(source[i], whole[i])
            except FrameDecodeError as error:
                damaged.append(i)
                assert f"frame {i} of the video in memory cannot be decoded" in str(error)
        assert damaged == [20]
        assert len(source) == 40


def test_file_that_breaks_off(tmp_path):
    path = write_video(tmp_path / "a.mp4", numbered(60), options=GOP)
    with decoder.av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.pts is not None]
        end = packets[30].pos + packets[30].size // 2
        start = packets[0].pos
    data = path.read_bytes()
    moov = data.index(b"moov") - 4
    header, media = data[moov:], data[:moov]
    at = header.index(b"stco") + 12  # move the index to the front, as web videos have it, then cut
    offset = struct.unpack(">I", header[at : at + 4])[0]
    assert offset == start
    header = header[:at] + struct.pack(">I", offset + len(header)) + header[at + 4 :]
    source = open_source(media[: start - 8] + header + media[start - 8 : end])
    frames = [number_of(source[i]) for i in range(30)]
    assert frames == list(range(30))
    with pytest.raises(FrameDecodeError, match=r"frame 3[0-9] of the video in memory cannot be decoded"):
        read_all(source)
    assert len(source) in (31, 32)
    with pytest.raises(IndexError):
        source[len(source)]
    assert number_of(source[3]) == 3


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.mp4", b"", "empty.mp4 cannot be opened as a video"),
        ("text.mp4", b"hello\n" * 99, "text.mp4 cannot be opened as a video.*check that it is one"),
        ("text.txt", b"hello\n" * 99, "text.txt holds no video stream"),
        ("cut.mp4", None, "cut.mp4 cannot be opened as a video.*complete"),
    ],
)
def test_files_that_are_no_video(tmp_path, video, name, content, message):
    data = video.read_bytes()
    path = tmp_path / name
    path.write_bytes(data[: len(data) // 2] if content is None else content)
    with pytest.raises(VideoError, match=message):
        open_source(path)


def test_a_rate_that_cannot_be_is_not_believed(shared_data: Path) -> None:
    source = open_source(str(shared_data / "cases" / "overlay_rate" / "pal.dv"))
    assert source.fps == 25.0
