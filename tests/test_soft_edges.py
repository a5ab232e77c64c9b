"""Values between an object and the background are told from object ids, whatever made them."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from PIL.Image import Resampling

from i2vpp.data.soft_edges import has_soft_edges

RESAMPLING = {"bilinear": Resampling.BILINEAR, "bicubic": Resampling.BICUBIC, "lanczos": Resampling.LANCZOS}
SIZES = [(48, 64), (130, 170)]


def canvas(size: tuple[int, int], mode: str = "L") -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new(mode, size[::-1])
    return image, ImageDraw.Draw(image)


def hard(size: tuple[int, int]) -> Iterator[tuple[str, Image.Image]]:
    """Draw masks without soft edges: one object, of several shapes, or several objects."""
    height, width = size
    for radius in (height // 12, height // 5, height // 2 - 2):
        image, draw = canvas(size)
        draw.ellipse((width / 2 - radius, height / 2 - radius, width / 2 + radius, height / 2 + radius), fill=255)
        yield f"disc of {radius}", image
    image, draw = canvas(size)
    draw.rectangle((width // 4 + 1, height // 4, width // 2, height // 2 + 1), fill=255)
    yield "square", image
    image, draw = canvas(size)
    draw.fontmode = "1"
    draw.text((4, height // 3), "Mask 8", fill=255, font=ImageFont.load_default(size=height // 4))
    yield "text", image
    image, draw = canvas(size)
    for i, value in enumerate((60, 120, 180, 240)):
        draw.ellipse((i * width // 4 + 2, height // 4, i * width // 4 + width // 5, height // 2), fill=value)
    yield "four objects", image


def softened(image: Image.Image) -> Iterator[tuple[str, Image.Image]]:
    for sigma in (0.6, 1, 2, 5):
        yield f"blur {sigma}", image.filter(ImageFilter.GaussianBlur(sigma))
    for quality in (30, 75, 95):
        for sampling in (0, 2):
            file = io.BytesIO()
            image.save(file, "JPEG", quality=quality, subsampling=sampling)
            yield f"JPEG {quality}, {sampling}", Image.open(file).convert(image.mode)
    for name, method in RESAMPLING.items():
        for factor in (0.33, 0.5, 0.7, 1.5, 2, 5):
            size = (round(image.width * factor), round(image.height * factor))
            yield f"{name} x {factor}", image.resize(size, method)


def coloured(image: Image.Image) -> Image.Image:
    """Give each value of a grey image a colour."""
    colours = np.zeros((256, 3), np.uint8)
    colours[[60, 120, 180, 240, 255]] = [(230, 25, 75), (60, 180, 75), (255, 225, 25), (0, 130, 200), (255, 0, 0)]
    return Image.fromarray(colours[np.asarray(image)])


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("mode", ["grey", "colour"])
def test_soft_edges_are_found(size: tuple[int, int], mode: str) -> None:
    missed = []
    for shape, image in hard(size):
        drawn = coloured(image) if mode == "colour" else image
        assert not has_soft_edges(np.asarray(drawn)), shape
        missed += [f"{shape}, {how}" for how, soft in softened(drawn) if not has_soft_edges(np.asarray(soft))]
    assert missed == []


def test_the_blur_of_a_large_mask() -> None:
    y, x = np.mgrid[:1080, :1920]
    disc = Image.fromarray((np.hypot(y - 540, x - 960) < 300).astype(np.uint8) * 255)
    assert has_soft_edges(np.asarray(disc.filter(ImageFilter.GaussianBlur(60))))
    assert has_soft_edges(
        np.asarray(disc.resize((64, 36), Resampling.NEAREST).resize((1920, 1080), Resampling.BILINEAR))
    )


# ---- maps of ids


def regions(size: tuple[int, int], ids: np.ndarray, seed: int = 0) -> np.ndarray:
    """Fill a map with touching objects around random points."""
    centres = np.random.default_rng(seed).random((len(ids), 2)) * size
    y, x = np.mgrid[: size[0], : size[1]]
    distances = (y[..., None] - centres[:, 0]) ** 2 + (x[..., None] - centres[:, 1]) ** 2
    return ids[distances.argmin(axis=2)].astype(np.uint8)


def id_maps(size: tuple[int, int]) -> Iterator[tuple[str, np.ndarray]]:
    height, width = size
    rng = np.random.default_rng(1)
    for count in (2, 3, 10, 40, 120, 254):
        ids = rng.permutation(np.arange(1, 255))[:count]
        yield f"{count} touching", regions(size, ids)
        yield f"{count} touching, in order", regions(size, np.arange(1, count + 1))
        yield f"{count} among background", regions(size, np.where(rng.random(count) < 0.4, 0, ids))
    y, x = np.mgrid[:height, :width]
    radius = np.hypot(y - height / 2, x - width / 2)
    for ring in (2, 3, 5):
        yield f"nested, rings of {ring}", np.clip(height // 2 // ring - radius // ring, 0, None).astype(np.uint8)
    for side in (4, 5, 10):
        yield f"tiles of {side}", ((y // side * (width // side + 1) + x // side) % 40 + 1).astype(np.uint8)
    for count in (4, 16, 40):
        image, draw = canvas(size)
        for i in range(1, count + 1):
            cx, cy, r = rng.random() * width, rng.random() * height, rng.random() * height / 6 + 1
            draw.ellipse((cx - r, cy - r, cx + r, cy + r), fill=i)
        yield f"{count} overlapping discs", np.asarray(image)
    for count in (3, 8, 15):
        image, draw = canvas(size)
        for i in range(1, count + 1):
            draw.line((rng.random() * width, rng.random() * height, rng.random() * width, rng.random() * height), i)
        yield f"{count} lines, one pixel wide", np.asarray(image)
    image, draw = canvas(size)
    for i in range(1, 20):
        draw.line((2, i * height // 20, width - 3, i * height // 20), 255 - i)
    yield "lines side by side", np.asarray(image)
    image, draw = canvas(size)
    draw.ellipse((5, 5, height - 10, height - 10), fill=2, outline=1)
    yield "an object one pixel wide around another one", np.asarray(image)
    objects = regions(size, np.array([0, 0, 1, 2, 3, 15, 7]))
    border = np.zeros(size, bool)
    border[:, 1:] |= objects[:, 1:] != objects[:, :-1]
    border[1:] |= objects[1:] != objects[:-1]
    yield "ignored borders", np.where(border, 255, objects).astype(np.uint8)
    image, draw = canvas(size)
    draw.fontmode = "1"
    for i, letter in enumerate("abcdefgh"):
        draw.text((i * width // 8, height // 3), letter, fill=i + 1, font=ImageFont.load_default(size=height // 5))
    yield "letters", np.asarray(image)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_maps_of_ids_stay_maps_of_ids(size: tuple[int, int]) -> None:
    wrong = [what for what, ids in id_maps(size) if has_soft_edges(ids)]
    colours = np.random.default_rng(2).permutation(2**24)[:256]
    colours[0] = 0
    rgb = np.stack([colours >> 16, colours >> 8 & 255, colours & 255], axis=1).astype(np.uint8)
    wrong += [f"{what}, in colours" for what, ids in id_maps(size) if has_soft_edges(rgb[ids])]
    thin = "an object one pixel wide around another one"  # which it is not where values are as large as those of edges
    wide = [(f"{what}, of 16 bits", ids.astype(np.uint16) * 250) for what, ids in id_maps(size) if what != thin]
    wrong += [what for what, ids in wide if has_soft_edges(ids)]
    assert wrong == []
