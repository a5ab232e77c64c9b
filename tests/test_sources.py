from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from i2vpp.data.frame_folders import natural_key
from i2vpp.errors import FrameDecodeError, VideoError
from i2vpp.session.video import LiveSource, open_source
from media import number_of, numbered_frame, numbers, read_all
from models import default_dtype


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
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
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


def test_natural_order_of_any_name():
    names = ["a.jpg", "B2.jpg", "b10.jpg", "1²2.jpg", "1²10.jpg", "²", "٣.jpg", "4.jpg"]
    want = ["1²2.jpg", "1²10.jpg", "٣.jpg", "4.jpg", "a.jpg", "B2.jpg", "b10.jpg", "²"]
    assert sorted(names, key=natural_key) == want
    assert sorted(map(Path, names), key=natural_key) == list(map(Path, want))


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
        (
            np.full_like(RGB, 1, dtype=np.float32) + np.float32(2e-7),
            "holds floats from 1.0000002 to 1.0000002",
        ),
        (np.full_like(RGB, np.nan, dtype=float), "holds floats from nan to nan"),
        (np.zeros((4, 5, 4), np.uint8), r"has shape \[4, 5, 4\]; allowed: "),
        (np.zeros((0, 5, 3), np.uint8), r"has shape \[0, 5, 3\]"),
        (torch.zeros(1, 3, 4, 5), r"has shape \[1, 3, 4, 5\]"),
        (None, "is of type NoneType; allowed: an image path"),
    ],
    ids=["dtype", "range", "just outside", "nan", "rgba", "empty", "batch", "none"],
)
def test_frames_that_are_refused(frame, message):
    with pytest.raises(VideoError, match=message):
        open_source([frame])[0]


@pytest.mark.parametrize("frame", [
    RGB[:, ::-1][:, ::-1], RGB[::-1].copy()[::-1], np.asfortranarray(RGB),
    torch.from_numpy(RGB).bfloat16() / 255, torch.from_numpy(RGB).permute(2, 0, 1).bfloat16() / 255,
    torch.from_numpy(RGB).half() / 255, torch.from_numpy(RGB).double().requires_grad_() / 255,
    (RGB / 255).astype(">f4"), (RGB / 255).astype(">f8")[:, ::-1][:, ::-1], np.float16(RGB / 255),
    np.longdouble(RGB / 255),
], ids=str)  # fmt: skip
def test_frames_of_any_strides_byte_order_and_float_type(frame):
    with default_dtype(torch.float64):
        source = open_source([frame])
        np.testing.assert_array_equal(source[0], RGB)
        assert source[0].dtype == np.uint8
        assert source[0].flags.c_contiguous


def test_a_stack_of_bfloat16():
    stack = torch.from_numpy(np.stack([RGB] * 2)).permute(0, 3, 1, 2).bfloat16() / 255
    np.testing.assert_array_equal(open_source(stack)[1], RGB)


def test_a_sparse_tensor_is_refused():
    with pytest.raises(VideoError, match=r"frame 0 of .* cannot be read from a tensor"):
        open_source([torch.from_numpy(GREY).float().to_sparse()])[0]


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


def test_whether_there_is_a_frame_is_known_without_reading_it(tmp_path):
    paths = [tmp_path / f"{n}.png" for n in range(3)]  # none of them exists
    live = LiveSource()
    for n in range(3):
        live.append(numbered_frame(n))
    for source in (open_source(paths), open_source(iter(paths)), live):
        for i in (0, 2, 1):
            source.check(i)
        for i in (3, -1):
            with pytest.raises(IndexError, match=rf"frame {i}"):
                source.check(i)


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
    with pytest.raises(VideoError, match="keep must be a whole number from 1 on; got 0"):
        LiveSource(keep=0)
