"""What the values and colours of mask files mean, in every format and over all masks of a video."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter
from PIL.Image import Resampling

from i2vpp.data.mask_images import read_mask_image
from i2vpp.data.masks import FrameSize, SoftEdgesError, VideoMasks, read_object, read_objects, resize_ids
from i2vpp.errors import DataError
from i2vpp.utils.visualize import davis_palette

HEIGHT, WIDTH = 24, 32
Y, X = np.mgrid[:HEIGHT, :WIDTH]
ONE, TWO = (X - 9) ** 2 + (Y - 10) ** 2 <= 36, (X - 23) ** 2 + (Y - 12) ** 2 <= 25
IDS = (ONE * 1 + TWO * 2).astype(np.uint8)
COLOURS = {0: (0, 0, 0), 1: (0, 255, 0), 2: (255, 0, 0)}  # in the order of red, green, blue


def palette(values: np.ndarray, colours: bytes | None = None) -> Image.Image:
    image = Image.fromarray(values.astype(np.uint8))
    image.putpalette(davis_palette() if colours is None else colours)
    return image


def colours(values: np.ndarray, of: dict[int, tuple[int, ...]]) -> np.ndarray:
    found = np.zeros((*values.shape, len(of[0])), np.uint8)
    for value, colour in of.items():
        found[values == value] = colour
    return found


def grey_of_few_bits(values: np.ndarray, bits: int) -> bytes:
    """Make a grey PNG of 2 or 4 bits, which Pillow does not write."""
    rows = np.zeros((len(values), values.shape[1] * bits // 8), np.uint8)
    for i in range(8 // bits):
        rows |= values[:, i :: 8 // bits].astype(np.uint8) << (8 - bits * (i + 1))
    header = struct.pack(">IIBBBBB", values.shape[1], len(values), bits, 0, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    chunks = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def save(path: Path, image: Image.Image | np.ndarray | bytes, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(image, bytes):
        path.write_bytes(image)
    else:
        (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(path, **options)
    return path


def davis(values: np.ndarray, mode: str = "RGB") -> Image.Image:
    return palette(values).convert("RGB").convert(mode)


ALPHA = np.where(IDS > 0, 255, 0).astype(np.uint8)
HARD: dict[str, tuple[Any, dict[int, np.ndarray], dict[str, Any]]] = {
    "palette": (palette(IDS), {1: ONE, 2: TWO}, {}),
    "palette, one id": (palette(ONE * 7), {7: ONE}, {}),
    "palette, 255 alone": (palette(ONE * 255), {1: ONE}, {}),
    "palette, 255 beside others": (palette(ONE * 4 + TWO * 255), {4: ONE}, {}),
    "palette, background transparent": (palette(IDS), {1: ONE, 2: TWO}, {"transparency": 0}),
    "palette, another background": (palette(IDS + (IDS == 0) * 9), {1: ONE, 2: TWO}, {"transparency": 9}),
    "palette, see-through objects": (palette(IDS), {1: ONE, 2: TWO}, {"transparency": bytes([0, 120, 120])}),
    "palette, few bits": (palette(IDS, bytes(range(12))), {1: ONE, 2: TWO}, {"bits": 2}),
    "grey, one value": (ONE.astype(np.uint8) * 60, {1: ONE}, {}),
    "grey, 255": (ONE.astype(np.uint8) * 255, {1: ONE}, {}),
    "grey, ids": (IDS * 3, {3: ONE, 6: TWO}, {}),
    "grey, 255 beside others": ((ONE * 4 + TWO * 255).astype(np.uint8), {4: ONE}, {}),
    "black and white": (Image.fromarray(ONE), {1: ONE}, {}),
    "16 bits": (IDS.astype(np.uint16) * 300, {300: ONE, 600: TWO}, {}),
    "16 bits, white": (ONE.astype(np.uint16) * 65535, {1: ONE}, {}),
    "4 bits": (grey_of_few_bits(IDS, 4), {1: ONE, 2: TWO}, {}),
    "2 bits": (grey_of_few_bits(IDS, 2), {1: ONE, 2: TWO}, {}),
    "4 bits, white": (grey_of_few_bits(ONE * 15, 4), {1: ONE}, {}),
    "grey and alpha": (Image.fromarray(np.dstack([IDS, ALPHA]), "LA"), {1: ONE, 2: TWO}, {}),
    "grey and opaque alpha": (Image.fromarray(np.dstack([IDS, ALPHA * 0 + 255]), "LA"), {1: ONE, 2: TWO}, {}),
    "transparent white around": (np.dstack([np.where(IDS, IDS, 255)] * 3 + [ALPHA]), {1: ONE, 2: TWO}, {}),
    "grey, transparent value": (IDS + (IDS == 0) * np.uint8(9), {1: ONE, 2: TWO}, {"transparency": 9}),
    "colours": (colours(IDS, COLOURS), {1: ONE, 2: TWO}, {}),
    "colours and alpha": (np.dstack([colours(IDS, COLOURS), ALPHA]), {1: ONE, 2: TWO}, {}),
    "one colour": (colours(IDS, {**COLOURS, 2: (0, 255, 0)}), {1: ONE | TWO}, {}),
    "grey as colours": (np.dstack([IDS * 5] * 3), {5: ONE, 10: TWO}, {}),
    "white as colours": (np.dstack([ONE * np.uint8(255)] * 3), {1: ONE}, {}),
    "DAVIS's colours": (davis(IDS * 4), {4: ONE, 8: TWO}, {}),
    "DAVIS's colours and alpha": (davis(IDS * 4, "RGBA"), {4: ONE, 8: TWO}, {}),
    "black on nothing": (np.dstack([np.zeros((*IDS.shape, 3), np.uint8), ALPHA]), {1: ONE | TWO}, {}),
}  # fmt: skip


@pytest.mark.parametrize("kind", HARD)
def test_the_objects_of_a_prompt(tmp_path: Path, kind: str) -> None:
    image, expected, options = HARD[kind]
    path = save(tmp_path / "mask.png", image, **options)
    found = read_objects(path)
    assert sorted(found) == sorted(expected)
    for obj_id, mask in expected.items():
        np.testing.assert_array_equal(found[obj_id], mask, err_msg=str(obj_id))
    (named,) = read_objects(path, 9).values()
    np.testing.assert_array_equal(named, np.any(list(expected.values()), axis=0))


@pytest.mark.parametrize("suffix", ["bmp", "gif", "tiff", "webp"])
def test_other_formats(tmp_path: Path, suffix: str) -> None:
    options = {"lossless": True} if suffix == "webp" else {}
    path = save(tmp_path / f"mask.{suffix}", Image.fromarray(colours(IDS, COLOURS)), **options)
    if suffix == "gif":  # a palette in the order of Pillow
        path = save(path, palette(IDS))
    found = read_objects(path)
    assert sorted(found) == [1, 2]
    np.testing.assert_array_equal(found[2], TWO)


def test_an_animation_shows_its_first_image(tmp_path: Path) -> None:
    path = save(tmp_path / "mask.png", palette(IDS), save_all=True, append_images=[palette(IDS[::-1])])
    np.testing.assert_array_equal(read_objects(path)[1], ONE)


# ---- soft edges


def jpeg(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80)
    return Image.open(file)


SOFTENED: dict[str, Callable[[Image.Image], Image.Image]] = {
    "blur": lambda image: image.filter(ImageFilter.GaussianBlur(0.8)),
    "jpeg": jpeg,
    "resized": lambda image: image.resize((48, 36), Resampling.BILINEAR).resize((WIDTH, HEIGHT), Resampling.LANCZOS),
}
MODES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "grey": lambda image: image,
    "rgb": lambda image: image.convert("RGB"),
    "alpha": lambda image: image.convert("LA"),
    "transparent": lambda image: Image.merge("LA", (Image.new("L", image.size, 255), image)),
    "colour": lambda image: Image.merge("RGB", (image, Image.new("L", image.size), image)),
    "16 bits": lambda image: Image.fromarray(np.asarray(image).astype(np.uint16) * 257),
    "grey palette": lambda image: image.convert("P"),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("how", SOFTENED)
def test_soft_edges_are_refused_or_cut_at_half_the_maximum(tmp_path: Path, how: str, mode: str) -> None:
    soft = SOFTENED[how](Image.fromarray(ONE.astype(np.uint8) * 255))
    path = save(tmp_path / "mask.png", MODES[mode](soft))
    with pytest.raises(SoftEdgesError, match=r"mask .*mask\.png has soft edges, .* \d+ (grey v|colours)"):
        read_objects(path)
    with pytest.raises(SoftEdgesError):
        VideoMasks([path]).ids(path)
    for mask in (read_objects(path, 3)[3], read_object(path)):
        assert np.count_nonzero(mask != ONE) <= 8
        np.testing.assert_array_equal(mask, np.asarray(soft.convert("L")) > 127)


def test_masks_of_one_object_must_show_one(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read_object(save(tmp_path / "one.png", ONE.astype(np.uint8) * 3)), ONE)
    assert not read_object(save(tmp_path / "none.png", IDS * 0)).any()
    for name, image in (("ids.png", IDS), ("rgb.png", colours(IDS, COLOURS)), ("palette.png", palette(IDS))):
        with pytest.raises(DataError, match=rf"mask .*{name} holds .*; it must be of one object"):
            read_object(save(tmp_path / name, image))


# ---- what cannot be read


def truncated(path: Path) -> None:
    data = save(path, np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)).read_bytes()
    path.write_bytes(data[: len(data) // 2])


def bomb(path: Path, side: int = 30784) -> None:
    header = struct.pack(">IIBBBBB", side, side, 16, 0, 0, 0, 0)
    body, data = b"IHDR" + header, b"IDAT" + zlib.compress(b"")
    chunks = (
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in (body, data)
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def postscript(path: Path) -> None:
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 24\nshowpage\n")


def many_colours(path: Path) -> None:
    values = np.arange(400).reshape(20, 20).repeat(3, axis=0).repeat(3, axis=1)
    save(path, np.dstack([values // 20 * 12, values % 20 * 12, values % 7]).astype(np.uint8))


UNREADABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "cannot read the mask .*: No such file"),
    "a folder": (lambda path: path.mkdir(), "cannot read the mask"),
    "empty": (lambda path: path.write_bytes(b""), "cannot read the mask .*: cannot identify"),
    "text": (lambda path: path.write_text("no image"), "cannot read the mask .*: cannot identify"),
    "truncated": (truncated, "cannot read the mask"),
    "947 megapixels": (bomb, r"cannot read the mask .*: Image size \(947654656 pixels\) exceeds"),
    "PostScript": (postscript, "cannot read the mask .*: cannot identify"),
    "floats": (lambda path: save(path, ONE.astype(np.float32), format="TIFF"), "holds float32; masks must"),
    "negative": (lambda path: save(path, ONE * np.int32(-3), format="TIFF"), "values from -3 to 0; allowed: 0 to"),
    "too large": (lambda path: save(path, ONE * np.int32(70000), format="TIFF"), "has values from 0 to 70000"),
    "black": (lambda path: save(path, IDS * 0), "the mask .* is empty: it shows no object"),
    "transparent": (lambda path: save(path, np.dstack([IDS] * 3 + [IDS * 0])), "is empty: it shows no object"),
    "many colours": (many_colours, "has soft edges, .*: 399 colours"),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNREADABLE)
def test_what_cannot_be_read_is_one_line(tmp_path: Path, kind: str) -> None:
    make, message = UNREADABLE[kind]
    make(tmp_path / "mask.png")
    with pytest.raises(DataError, match=message) as caught:
        read_objects(tmp_path / "mask.png")
    assert "mask.png" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_damaged_files_never_end_in_another_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = [palette(IDS), Image.fromarray(IDS), Image.fromarray(colours(IDS, COLOURS)), Image.fromarray(ONE)]
    for i in range(160):
        data = bytearray(save(tmp_path / "whole.png", images[i % len(images)]).read_bytes())
        for _ in range(1 + i % 4):
            data[rng.integers(len(data))] = rng.integers(256)
        path = save(tmp_path / f"{i}.png", bytes(data[: len(data) - i % 9]))
        try:
            read_mask_image(path)
        except DataError as error:
            assert str(path) in str(error)


# ---- all masks of a video


def read_all(files: list[Path], **options: Any) -> list[np.ndarray]:
    masks = VideoMasks(files, **options)
    return [masks.ids(path) for path in files]


def test_colours_mean_the_same_on_all_frames(tmp_path: Path) -> None:
    files = [
        save(tmp_path / "0.png", colours(TWO * 2, COLOURS)),
        save(tmp_path / "1.png", colours(IDS, COLOURS)),
        save(tmp_path / "2.png", np.zeros((*IDS.shape, 3), np.uint8)),
    ]
    for found, expected in zip(read_all(files), (TWO * 2, IDS, IDS * 0), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_davis_colours_are_indices_where_no_other_colour_is(tmp_path: Path) -> None:
    files = [save(tmp_path / "0.png", davis(ONE * 5)), save(tmp_path / "1.png", davis(TWO * 7))]  # 7 is grey
    first, second = read_all(files)
    np.testing.assert_array_equal(first, ONE * 5)
    np.testing.assert_array_equal(second, TWO * 7)
    files.append(save(tmp_path / "2.png", colours(ONE * 1, {0: (0, 0, 0), 1: (1, 2, 3)})))
    assert [np.unique(ids).tolist() for ids in read_all(files)] == [[0, 2], [0, 3], [0, 1]]


def test_colours_may_be_those_of_other_masks_of_the_video(tmp_path: Path) -> None:
    truths = VideoMasks([save(tmp_path / "true.png", colours(IDS, COLOURS))])
    pred = save(tmp_path / "pred.png", colours(TWO * 2, COLOURS))
    np.testing.assert_array_equal(VideoMasks([pred], like=truths).ids(pred), TWO * 2)
    other = save(tmp_path / "other.png", colours(IDS, {**COLOURS, 1: (9, 9, 200)}))
    with pytest.raises(DataError, match=r"other\.png has the colour #0909c8, which no true mask"):
        VideoMasks([other], like=truths).ids(other)


def test_255_is_an_object_where_no_mask_has_another_one(tmp_path: Path) -> None:
    files = [save(tmp_path / "0.png", palette(IDS * 0)), save(tmp_path / "1.png", palette(ONE * 255))]
    np.testing.assert_array_equal(read_all(files)[1], ONE)
    np.testing.assert_array_equal(read_all(files, lone_255=False)[1], ONE * 255)
    files.append(save(tmp_path / "2.png", palette(TWO * 2)))
    np.testing.assert_array_equal(read_all(files)[1], ONE * 255)


# ---- sizes


def test_sizes_that_differ_are_refused_or_resized(tmp_path: Path) -> None:
    path = save(tmp_path / "mask.png", IDS.repeat(2, 0).repeat(2, 1))
    size = FrameSize(height=HEIGHT, width=WIDTH)
    with pytest.raises(DataError, match=r"mask .*mask\.png is 64 x 48 pixels, but the video is 32 x 24"):
        VideoMasks([path]).ids(path, size)
    resizing = FrameSize(height=HEIGHT, width=WIDTH, of="its image a.jpg", resize=True)
    np.testing.assert_array_equal(VideoMasks([path]).ids(path, resizing), IDS)
    with pytest.raises(DataError, match=r"is 24 x 32 pixels, but its image a\.jpg is 32 x 24, which is no other size"):
        read_object(save(tmp_path / "turned.png", ONE.T), resizing)


@pytest.mark.parametrize("size", [(12, 16), (5, 7), (48, 64), (37, 50), (24, 32)])
def test_resized_ids_stay_ids(size: tuple[int, int]) -> None:
    ids = IDS.copy()
    ids[2, :] = 7  # a line that covers most of no pixel
    ids[20, 3] = 40
    ids[21:, 30:] = 41
    found = resize_ids(ids, *size)
    assert found.shape == size
    assert np.unique(found).tolist() == [0, 1, 2, 7, 40, 41]
    whole = np.asarray(Image.fromarray((ids == 1).astype(np.float32)).resize(size[::-1], Resampling.BOX))
    assert np.mean((found == 1) == (whole > 0.5)) > 0.9
