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
import torch
from PIL import Image

from i2vpp.errors import FrameDecodeError, VideoError
from i2vpp.session import decoder
from i2vpp.session.video import LiveSource, open_source
from media import number_of, numbered, numbered_frame, write_video

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


def read_all(source) -> list[np.ndarray]:
    frames = []
    while True:
        try:
            frames.append(source[len(frames)])
        except IndexError:
            return frames


def numbers(source, indices) -> list[int]:
    return [number_of(source[i]) for i in indices]


# ---- video files


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


@pytest.mark.parametrize("pts", [[3 * i + (i % 5 == 0) for i in range(40)], [100 + i for i in range(40)]])
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_uneven_and_late_times(tmp_path, pts, suffix):
    path = write_video(tmp_path / f"a.{suffix}", numbered(40), options=GOP, pts=pts)
    source = open_source(path)
    assert len(source) == 40
    order = [0, 39, 17, 18, 16, 5, 38, 12, 11]
    assert numbers(source, order) == order


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
    (a, b, c, d), expected = TURNS[turn]
    data = video.read_bytes()
    one = 1 << 16
    identity = struct.pack(">9i", one, 0, 0, 0, one, 0, 0, 0, 1 << 30)
    assert data.count(identity) >= 1
    at = data.index(identity, data.index(b"tkhd"))
    turned = data[:at] + struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30) + data[at + 36 :]
    source, upright = open_source(turned), open_source(video)
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


def test_missing_file(tmp_path):
    with pytest.raises(
        VideoError, match=r"nothing\.mp4' does not exist; give a video file, a folder of images or a URL"
    ):
        open_source(tmp_path / "nothing.mp4")


@pytest.mark.parametrize(
    ("video", "message"),
    [
        (b"", "cannot be opened as a video"),
        ([], "video is empty"),
        (np.zeros((0, 8, 8, 3), np.uint8), "video is empty"),
        (np.zeros((8, 8, 3), np.uint8), r"shape \[8, 8, 3\]; allowed: \[T, H, W, 3\].*put a single frame into a list"),
        (Image.new("RGB", (8, 8)), "video is of type Image; allowed: a path or URL"),
        (7, "video is of type int; allowed: a path or URL"),
        (None, "video is of type NoneType"),
        ("", "video '' does not exist"),
    ],
    ids=str,
)
def test_things_that_are_no_video(video, message):
    with pytest.raises(VideoError, match=message):
        open_source(video)


# ---- images


def test_folder_in_natural_order(tmp_path):
    for n in (0, 1, 2, 10, 11, 100):
        Image.fromarray(numbered_frame(n)).save(tmp_path / f"frame_{n}.{'PNG' if n % 2 else 'jpg'}")
    (tmp_path / "notes.txt").write_text("not a frame")
    source = open_source(tmp_path)
    assert [number_of(frame) for frame in read_all(source)] == [0, 1, 2, 10, 11, 100]
    assert (len(source), source.height, source.width, source.fps) == (6, 32, 64, None)


def test_folder_without_images(tmp_path):
    (tmp_path / "a.mp4").touch()
    with pytest.raises(VideoError, match=r"holds no image; frames must be files with suffix \.jpg, \.jpeg, \.png"):
        open_source(tmp_path)


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_images_of_two_sizes(tmp_path, order):
    for n, width in enumerate((8, 9)):
        Image.new("RGB", (width, 6)).save(tmp_path / f"{n}.png")
    source = open_source(tmp_path)
    for i in order:
        if i == 0:
            assert source[0].shape == (6, 8, 3)
            continue
        with pytest.raises(VideoError, match=r"1\.png\) is 9 x 6 pixels, but the first frame is 8 x 6"):
            source[1]


@pytest.mark.parametrize("damaged", [0, 1])
def test_damaged_image(tmp_path, damaged):
    for n in range(3):
        Image.fromarray(numbered_frame(n)).save(tmp_path / f"{n}.png")
    path = tmp_path / f"{damaged}.png"
    path.write_bytes(path.read_bytes()[:60])
    source = open_source(tmp_path)
    assert number_of(source[2]) == 2
    with pytest.raises(FrameDecodeError, match=rf"frame {damaged} of folder .* cannot be read from .*{damaged}\.png"):
        source[damaged]
    assert number_of(source[1 - damaged]) == 1 - damaged


def test_missing_image_of_a_list(tmp_path):
    with pytest.raises(FrameDecodeError, match=r"frame 0 of .* cannot be read from .*none\.png: .*No such file"):
        open_source([tmp_path / "none.png"])[0]


RGB = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
GREY = np.array([[0, 100, 255], [1, 2, 3]], np.uint8)
GREY_RGB = np.stack([GREY] * 3, -1)


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (RGB, RGB),
        (Image.fromarray(RGB), RGB),
        (torch.from_numpy(RGB), RGB),
        (torch.from_numpy(RGB).permute(2, 0, 1), RGB),
        (torch.from_numpy(RGB).permute(2, 0, 1) / 255, RGB),
        (torch.from_numpy(RGB).half() / 255, RGB),
        (RGB / 255, RGB),
        (GREY, GREY_RGB),
        (Image.fromarray(GREY), GREY_RGB),
        (Image.fromarray(GREY.astype(np.uint16) * 257), GREY_RGB),
        (Image.fromarray(GREY).convert("P"), GREY_RGB),
        (Image.fromarray(np.dstack([RGB, RGB[..., :1]])), RGB),
    ],
    ids=["array", "pil", "hwc", "chw", "float", "half", "float64", "grey", "pil-grey", "pil-16", "palette", "rgba"],
)
def test_frames_of_any_kind(frame, expected):
    source = open_source([frame, frame])
    np.testing.assert_array_equal(source[1], expected)
    assert source[1].dtype == np.uint8
    assert source[1].flags.c_contiguous


def test_image_files_of_16_bits(tmp_path):
    Image.fromarray(GREY.astype(np.uint16) * 257).save(tmp_path / "a.png")
    np.testing.assert_array_equal(open_source(tmp_path)[0], GREY_RGB)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (RGB.astype(np.int32), r"frame 0 of .* has dtype int32; allowed: .*uint8 or float in \[0, 1\]"),
        (RGB.astype(np.float32), "holds floats from 0 to 59"),
        (np.full_like(RGB, np.nan, dtype=float), "holds floats from nan to nan"),
        (np.zeros((4, 5, 4), np.uint8), r"has shape \[4, 5, 4\]; allowed: "),
        (np.zeros((0, 5, 3), np.uint8), r"has shape \[0, 5, 3\]"),
        (torch.zeros(1, 3, 4, 5), r"has shape \[1, 3, 4, 5\]"),
        (None, "is of type NoneType; allowed: an image path"),
    ],
    ids=["dtype", "range", "nan", "rgba", "empty", "batch", "none"],
)
def test_frames_that_are_refused(frame, message):
    with pytest.raises(VideoError, match=message):
        open_source([frame])[0]


@pytest.mark.parametrize("stack", [np.stack([RGB] * 2), torch.from_numpy(np.stack([RGB] * 2)).permute(0, 3, 1, 2)])
def test_one_array_of_all_frames(stack):
    source = open_source(stack)
    assert len(source) == 2
    np.testing.assert_array_equal(source[1], RGB)
    with pytest.raises(IndexError, match="has 2 frames, not a frame 2"):
        source[2]


def test_mixed_list(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    for frame in read_all(open_source((RGB, tmp_path / "a.png", str(tmp_path / "a.png"), torch.from_numpy(RGB)))):
        np.testing.assert_array_equal(frame, RGB)


# ---- iterators


def test_generator_is_read_as_far_as_needed():
    made = []

    def frames():
        buffer = np.empty((32, 64, 3), np.uint8)  # used again for each frame
        for n in range(10):
            made.append(n)
            buffer[:] = numbered_frame(n)
            yield buffer

    source = open_source(frames())
    assert made == []
    assert source.height == 32
    assert made == [0]
    assert numbers(source, [3, 1, 0, 2]) == [3, 1, 0, 2]
    assert made == [0, 1, 2, 3]
    assert source.known_length is None
    assert len(source) == source.known_length == 10
    with pytest.raises(IndexError, match="has 10 frames, not a frame 10"):
        source[10]


def test_generator_that_fails():
    def frames():
        yield RGB
        raise RuntimeError("camera unplugged")

    source = open_source(frames())
    assert source[0].shape == RGB.shape
    for _ in range(2):
        with pytest.raises(RuntimeError, match="camera unplugged"):
            source[1]
    assert source[0].shape == RGB.shape


def test_generator_without_frames():
    source = open_source(iter(()))
    with pytest.raises(VideoError, match="the frame iterator holds no frame"):
        _ = source.width


# ---- live streams


def test_live_stream_keeps_the_newest_frames():
    source = LiveSource()
    with pytest.raises(VideoError, match="holds no frame yet: append one first"):
        _ = source.height
    assert [source.append(numbered_frame(n)) for n in range(5)] == [0, 1, 2, 3, 4]
    assert (len(source), source.height, source.width, source.seekable) == (5, 32, 64, False)
    assert numbers(source, [2, 3, 4]) == [2, 3, 4]
    with pytest.raises(VideoError, match="frame 1 has left the live stream: it holds frames 2 to 4"):
        source[1]
    with pytest.raises(IndexError, match="has 5 frames so far, not a frame 5"):
        source[5]


def test_live_stream_checks_frames_when_they_arrive():
    source = LiveSource(keep=1)
    source.append(torch.from_numpy(RGB))
    with pytest.raises(VideoError, match="frame 1 of the live stream is 3 x 2 pixels, but the first frame is 5 x 4"):
        source.append(GREY)
    with pytest.raises(VideoError, match="frame 1 of the live stream is of type int"):
        source.append(1)
    assert len(source) == 1
    with pytest.raises(VideoError, match="keep = 0"):
        LiveSource(keep=0)
