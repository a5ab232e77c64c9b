"""Frames of more than 8 bits: one range for all frames of a video, said once."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import ExifTags, Image

from i2vpp.data.files import read_image
from i2vpp.errors import FrameDecodeError
from i2vpp.session.deep_images import ValueRange, deep_values
from i2vpp.session.images import open_image
from i2vpp.session.sources import LiveSource, to_rgb
from i2vpp.session.video import open_source
from training.dataset.file_source import FileVideo

RAMP = np.linspace(0, 1, 64 * 8).reshape(8, 64)
RGB16 = (np.stack([RAMP, RAMP[::-1], RAMP.T.reshape(8, 64)], -1) * 65535).round().astype(np.uint16)


def ramp(high: float, kind: str, low: float = 0.0) -> Image.Image:
    """Return an image of values from `low` to `high`, of a PIL mode."""
    values = low + RAMP * (high - low)
    if kind == "F":
        return Image.fromarray(values.astype(np.float32))
    return Image.fromarray(values.round().astype({"I;16": np.uint16, "I": np.int32}[kind]))


def is_full_ramp(frame: np.ndarray) -> bool:
    """Whether a frame [8, 64, 3] runs from black to white evenly, each channel alike, within a rounding."""
    assert frame.dtype == np.uint8
    return bool((np.abs(frame - (RAMP * 255)[..., None]) <= 1).all())


KINDS = [
    ("I;16", 0, 65535),
    ("I;16", 0, 16383),
    ("I;16", 0, 4095),
    ("I;16", 0, 1023),
    ("I", 0, 255),
    ("I", 0, 4095),
    ("I", 0, 65535),
    ("I", -1000, 3000),
    ("I", 0, 10_000_000),
    ("F", 0, 1),
    ("F", 0, 255),
    ("F", 20.5, 36.75),
    ("F", -1, 1),
    ("F", 0, 4095),
]


@pytest.mark.parametrize(("kind", "low", "high"), KINDS)
@pytest.mark.parametrize("place", ["tif", "png", "list", "iterator", "live", "alone", "training"])
@pytest.mark.filterwarnings("ignore:.*more than 8 bits")
def test_the_range_of_the_values_becomes_black_to_white(
    tmp_path: Path, kind: str, low: float, high: float, place: str
) -> None:
    image = ramp(high, kind, low)
    path = tmp_path / f"0.{'png' if place == 'png' else 'tif'}"
    if place == "png" and kind != "I;16":
        return  # a PNG holds 16 bits at most
    image.save(path)
    live = LiveSource()
    live.append(image)
    sources: dict[str, Callable[[], Any]] = {
        "tif": lambda: open_source(tmp_path)[0],
        "png": lambda: open_source(tmp_path)[0],
        "list": lambda: open_source([image])[0],
        "iterator": lambda: open_source(iter([image]))[0],
        "live": lambda: live[0],
        "alone": lambda: to_rgb(image, "an image"),
        "training": lambda: read_image(path),
    }
    assert is_full_ramp(sources[place]())


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1]])
@pytest.mark.parametrize("reader", ["library", "training"])
def test_a_dark_frame_stays_dark_whatever_is_read_first(tmp_path: Path, order: list[int], reader: str) -> None:
    for i, high in enumerate((4095, 200, 2000)):
        ramp(high, "I;16").save(tmp_path / f"{i}.png")
    files = tuple(sorted(tmp_path.iterdir()))
    video = FileVideo(name="clip", images=files, annotations=files, read=lambda mask, image: {})
    read = open_source(tmp_path).__getitem__ if reader == "library" else video.image
    with pytest.warns(
        UserWarning, match=r"more than 8 bits \(seen: 0 to 4095\) .*, 0 becomes black and 4095 white"
    ) as said:
        frames = {i: read(i) for i in order}
    assert sum("more than 8 bits" in str(one.message) for one in said) == 1
    assert {i: int(frame.max()) for i, frame in frames.items()} == {i: {0: 255, 1: 12, 2: 125}[i] for i in order}


def test_a_damaged_frame_does_not_decide(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(b"nothing")
    for i in (1, 2):
        ramp(4095, "I;16").save(tmp_path / f"{i}.png")
    with pytest.warns(UserWarning, match="4095 white"):
        assert is_full_ramp(open_source(tmp_path)[2])


@pytest.mark.parametrize("high", [100, 255])
def test_values_of_8_bits_are_taken_as_they_are_and_nothing_is_said(high: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert int(open_source([ramp(high, "I")])[0].max()) == high


def test_no_number_is_black() -> None:
    values = np.array([[np.nan, 2.0], [4.0, np.inf]], np.float32)
    with pytest.warns(UserWarning, match="seen: 2 to 4"):
        assert open_source([Image.fromarray(values)])[0][..., 0].tolist() == [[0, 0], [255, 255]]
    with pytest.warns(UserWarning, match="seen: 0 to 0"):
        assert not open_source([Image.fromarray(np.full((2, 2), np.nan, np.float32))])[0].any()


def test_a_constant_image_has_a_range() -> None:
    with pytest.warns(UserWarning, match="more than 8 bits"):
        assert open_source([Image.fromarray(np.full((2, 2), 7.5, np.float32))])[0].max() == 0
    assert ValueRange.of(0, 0, floating=False) == ValueRange(0, 255)


COLOURS = np.stack([RAMP, RAMP[::-1], 1 - RAMP], -1)
WRITTEN = {"rgb.png": "rgb48be", "rgba.png": "rgba64be", "la.png": "ya16be", "lzw.tif": "rgb48le",
           "rgba.tif": "rgba64le", "rgb.ppm": "rgb48be"}  # fmt: skip


def write_16_bits(path: Path, pixels: np.ndarray, pixel_format: str) -> None:
    """Write [H, W, C] uint16 of any alpha; Pillow reads such files, but does not write them."""
    height, width, channels = pixels.shape
    frame = av.VideoFrame(width, height, pixel_format)
    (plane,) = frame.planes
    rows = np.zeros((height, plane.line_size), np.uint8)
    data = pixels.astype(">u2" if pixel_format.endswith("be") else "<u2")
    rows[:, : 2 * width * channels] = data.reshape(height, -1).view(np.uint8)
    plane.update(rows.tobytes())
    options = {"compression_algo": "lzw"} if path.name.startswith("lzw") else {}
    with av.open(str(path), "w", format="image2") as container:
        stream = container.add_stream({".png": "png", ".tif": "tiff", ".ppm": "ppm"}[path.suffix], options=options)
        stream.height, stream.width, stream.pix_fmt = height, width, pixel_format
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.mark.parametrize("high", [1023, 4095, 65535])
@pytest.mark.parametrize("place", ["folder", "list", "opened", "iterator", "alone", "training", "image", "in memory"])
@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.filterwarnings("ignore:.*more than 8 bits")
def test_the_range_of_the_colours_becomes_black_to_white(tmp_path: Path, name: str, place: str, high: int) -> None:
    if place == "folder" and name.endswith("ppm"):
        return  # no format of frames in folders
    colours = COLOURS[..., :1] if "la" in name else COLOURS
    alpha = np.random.default_rng(0).random((*RAMP.shape, 1))
    has_alpha = WRITTEN[name].startswith(("rgba", "ya"))
    pixels = np.concatenate([colours, alpha], -1) if has_alpha else colours
    path = tmp_path / name
    write_16_bits(path, (pixels * high).round().astype(np.uint16), WRITTEN[name])
    sources: dict[str, Callable[[], Any]] = {
        "folder": lambda: open_source(tmp_path)[0],
        "list": lambda: open_source([str(path)])[0],
        "opened": lambda: open_source([Image.open(path)])[0],
        "iterator": lambda: open_source(iter([Image.open(path)]))[0],
        "alone": lambda: to_rgb(Image.open(path), "an image"),
        "training": lambda: read_image(path),
        "image": lambda: open_image(path),
        "in memory": lambda: open_image(path.read_bytes()),
    }
    found = sources[place]()
    assert found.dtype == np.uint8
    assert np.abs(found - colours * 255).max() <= 1


def test_colours_of_12_bits_are_scaled_alike_in_all_frames_and_it_is_said_once(tmp_path: Path) -> None:
    for i, high in enumerate((200, 4095)):
        write_16_bits(tmp_path / f"{i}.png", (COLOURS * high).round().astype(np.uint16), "rgb48be")
    source = open_source(tmp_path)
    with pytest.warns(UserWarning, match=r"more than 8 bits \(seen: 0 to 4095\) .* and 4095 white") as said:
        assert [int(source[i].max()) for i in (0, 1, 0)] == [12, 255, 12]
    assert sum("more than 8 bits" in str(one.message) for one in said) == 1


def test_a_photo_of_16_bits_is_turned_upright(tmp_path: Path) -> None:
    write_16_bits(tmp_path / "a.tif", (COLOURS * 4095).round().astype(np.uint16), "rgb48le")
    image = Image.open(tmp_path / "a.tif")
    image.getexif()[ExifTags.Base.Orientation] = 6
    with pytest.warns(UserWarning, match="4095 white"):
        turned = open_image(image)
    assert np.abs(turned - np.rot90(COLOURS, -1) * 255).max() <= 1


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "L", "1", "CMYK"])
def test_images_of_8_bits_and_what_is_decoded_already_are_not_read_again(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray((COLOURS * 255).astype(np.uint8)).convert(mode)
    image.save(tmp_path / "a.tif")
    with Image.open(tmp_path / "a.tif") as found:
        assert deep_values(found) is None
    write_16_bits(tmp_path / "b.png", (COLOURS * 65535).astype(np.uint16), "rgb48be")
    with Image.open(tmp_path / "b.png") as decoded:
        decoded.load()
        assert deep_values(decoded) is None


def test_a_file_of_16_bits_that_ffmpeg_cannot_read_is_left_to_pillow(tmp_path: Path) -> None:
    write_16_bits(tmp_path / "a.png", (COLOURS * 4095).round().astype(np.uint16), "rgb48be")
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[: data.index(b"IDAT") + 20])
    with pytest.raises(FrameDecodeError, match=r"a\.png"):
        open_source(tmp_path)[0]


@pytest.mark.parametrize("byte_order", ["<u2", ">u2"])
def test_plain_tiffs_in_colour_of_either_byte_order(tmp_path: Path, byte_order: str) -> None:
    write_rgb16_tiff(tmp_path / "0.tif", RGB16, byte_order)
    with pytest.warns(UserWarning, match="65535 white"):
        found = open_source(tmp_path)[0]
    assert np.abs(found - RGB16 / 257).max() <= 0.5


def write_rgb16_tiff(path: Path, pixels: np.ndarray, byte_order: str) -> None:
    """Write [H, W, 3] uint16 as an uncompressed TIFF; Pillow reads such files, but does not write them."""
    order = "little" if byte_order == "<u2" else "big"
    height, width, _ = pixels.shape
    data = pixels.astype(byte_order).tobytes()
    bits = b"".join((16).to_bytes(2, order) for _ in range(3))
    tags = {256: (4, 1, width), 257: (4, 1, height), 258: (3, 3, None), 259: (3, 1, 1), 262: (3, 1, 2),
            273: (4, 1, None), 277: (3, 1, 3), 278: (4, 1, height), 279: (4, 1, len(data))}  # fmt: skip
    bits_at = 8 + 2 + 12 * len(tags) + 4
    tags[258], tags[273] = (3, 3, bits_at), (4, 1, bits_at + len(bits))
    entries = b""
    for tag, (kind, count, value) in tags.items():
        assert value is not None
        field = value.to_bytes(2, order) + b"\0\0" if kind == 3 and count == 1 else value.to_bytes(4, order)
        entries += tag.to_bytes(2, order) + kind.to_bytes(2, order) + count.to_bytes(4, order) + field
    head = (b"II" if order == "little" else b"MM") + (42).to_bytes(2, order) + (8).to_bytes(4, order)
    path.write_bytes(head + len(tags).to_bytes(2, order) + entries + bytes(4) + bits + data)
