"""Pictures of masks and prompts: overlays, prompt markers, contact sheets and the palette of index masks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

UInt8 = NDArray[np.uint8]
Color = tuple[int, int, int]

POSITIVE: Color = (46, 204, 94)
NEGATIVE: Color = (235, 64, 52)
WHITE: Color = (255, 255, 255)
INK: Color = (16, 18, 24)
SMOOTHING = 4
"""Markers are drawn this many times larger and scaled down, which smooths their edges."""


def davis_palette() -> bytes:
    """Return the 256 RGB colours (768 bytes) of DAVIS and Pascal VOC index masks.

    Bit 3n of an index is bit 7 - n of its red value, bit 3n + 1 of green, bit 3n + 2 of blue.
    """

    def channel(index: int, offset: int) -> int:
        return sum((index >> (3 * n + offset) & 1) << (7 - n) for n in range(8))

    return bytes(channel(index, offset) for index in range(256) for offset in range(3))


def object_color(obj_id: int) -> Color:
    """Return the RGB colour of an object: equally bright for all ids, hues a golden angle apart."""
    hue = math.radians(15 + 137.508 * (obj_id - 1))
    return _oklch(0.70, 0.19, hue)


def _oklch(lightness: float, chroma: float, hue: float) -> Color:
    """Convert a colour of Björn Ottosson's Oklab space (polar form, hue in radians) to sRGB, clipped."""
    a, b = chroma * math.cos(hue), chroma * math.sin(hue)
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3

    def encode(linear: float) -> int:
        linear = min(max(linear, 0.0), 1.0)
        gamma = 12.92 * linear if linear <= 0.0031308 else 1.055 * linear ** (1 / 2.4) - 0.055
        return round(255 * gamma)

    return (
        encode(4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short),
        encode(-1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short),
        encode(-0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short),
    )


def overlay(
    frame: UInt8,  # [H, W, 3]
    masks: NDArray[np.generic],
    obj_ids: Sequence[int],
    *,
    alpha: float = 0.5,
    contour: bool = True,
    labels: bool = False,
    colors: Mapping[int, Color] | None = None,
) -> UInt8:
    """Tint objects on a frame; the frame itself is left as it is.

    Args:
        frame: RGB.
        masks: [O, H, W] bool, one mask per id, or an index map [H, W] whose pixels hold object ids.
        obj_ids: the ids to draw, in painting order.
        alpha: strength of the tint, 0 to 1.
        contour: outline every object, light inside and dark outside, so that it shows on any background.
        labels: write the id into every object.
        colors: colours of the objects by id; others have `object_color`.

    Raises:
        ValueError: shapes or the number of ids that do not fit together.
    """
    image = _rgb(frame).copy()
    thickness = max(1, round(min(image.shape[:2]) / 240)) if contour else 0
    drawn = list(_object_masks(masks, obj_ids, image.shape[:2]))
    painted = {obj_id: (colors or {}).get(obj_id) or object_color(obj_id) for obj_id in obj_ids}
    for obj_id, mask in drawn:
        _paint(image, mask, painted[obj_id], alpha, thickness)
    return _draw_labels(image, drawn, painted) if labels else image


def plot(
    frame: UInt8 | Image.Image | None, masks: NDArray[np.bool_], obj_ids: Sequence[int], *, alpha: float, labels: bool
) -> Image.Image:
    """Return the overlay of masks on a frame as a PIL image.

    Args:
        frame: uint8 RGB [H, W, 3], a PIL image of that size, or None for a dark background.
        masks: [O, H, W].
        obj_ids: ids of the O masks.
        alpha: strength of the tint, 0 to 1.
        labels: write the id into every object.

    Raises:
        ValueError: shapes or the number of ids that do not fit together.
    """
    if frame is None:
        frame = np.full((*masks.shape[1:], 3), INK, np.uint8)
    elif isinstance(frame, Image.Image):
        frame = np.array(frame.convert("RGB"))
    return Image.fromarray(overlay(frame, masks, obj_ids, alpha=alpha, labels=labels))


def plot_records(
    records: Sequence[Mapping[str, Any]], image: UInt8 | Image.Image | None = None, *, alpha: float = 0.5
) -> Image.Image:
    """Draw automatic masks, smaller ones over larger ones.

    Args:
        records: what `I2VPPAutomaticMaskGenerator.generate` returned, with `output_mode="binary_mask"`.
        image: uint8 RGB [H, W, 3] or a PIL image of the masks' size; None for a dark background.
        alpha: strength of the tint, 0 to 1.

    Returns:
        A PIL image, RGB, W x H.

    Raises:
        ValueError: there is neither a record nor an image, or they do not fit together.
    """
    if not records and image is None:
        raise ValueError("there is nothing to draw: neither a record nor an image")
    masks = [record["segmentation"] for record in sorted(records, key=lambda record: -record["area"])]
    if any(not isinstance(mask, np.ndarray) for mask in masks):
        raise ValueError("the records must hold masks: output_mode='binary_mask'")
    size = image.size[::-1] if isinstance(image, Image.Image) else masks[0].shape if image is None else image.shape[:2]
    stacked = np.stack(masks) if masks else np.zeros((0, *size), bool)
    return plot(image, stacked, range(1, len(masks) + 1), alpha=alpha, labels=False)


def cut_out(frame: UInt8 | Image.Image, mask: NDArray[np.bool_]) -> Image.Image:
    """Return what a mask shows of a frame, transparent elsewhere.

    Args:
        frame: uint8 RGB [H, W, 3], or a PIL image of that size.
        mask: bool [H, W].

    Returns:
        A PIL image, RGBA, W x H; black where it is transparent.

    Raises:
        ValueError: frame and mask do not fit together.
    """
    pixels = _rgb(np.array(frame.convert("RGB")) if isinstance(frame, Image.Image) else frame)
    if mask.shape != pixels.shape[:2]:
        raise ValueError(f"mask must be [H, W] = {pixels.shape[:2]}, got {mask.shape}")
    alpha = np.where(mask, np.uint8(255), np.uint8(0))
    return Image.fromarray(np.dstack([pixels * mask[..., None], alpha]))


def _rgb(image: UInt8) -> UInt8:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image must be uint8 [H, W, 3], got {image.dtype} {image.shape}")
    return image


def _object_masks(
    masks: NDArray[np.generic], obj_ids: Sequence[int], size: tuple[int, ...]
) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    if masks.shape[-2:] != tuple(size) or masks.ndim not in (2, 3):
        raise ValueError(f"masks must be [O, H, W] or [H, W] with H, W = {tuple(size)}, got {masks.shape}")
    if masks.ndim == 3 and len(masks) != len(obj_ids):
        raise ValueError(f"{len(masks)} masks but {len(obj_ids)} obj_ids")
    for position, obj_id in enumerate(obj_ids):
        yield obj_id, (masks == obj_id) if masks.ndim == 2 else masks[position].astype(bool)


def _paint(image: UInt8, mask: NDArray[np.bool_], color: Color, alpha: float, thickness: int) -> None:
    """Tint the mask's pixels in place and draw its contour; thickness 0 leaves the contour out."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return
    margin = thickness + 1
    window = (
        slice(max(rows[0] - margin, 0), rows[-1] + margin + 1),
        slice(max(columns[0] - margin, 0), columns[-1] + margin + 1),
    )
    part, inside = image[window], mask[window]
    _blend(part, inside, color, alpha)
    if thickness:
        edge = inside & _grow(~inside, thickness)
        _blend(part, edge, _mix(color, WHITE, 0.15), 0.95)
        _blend(part, _grow(inside, max(1, thickness // 2)) & ~inside, INK, 0.7)


def _mix(color: Color, other: Color, share: float) -> Color:
    red, green, blue = (round(own + share * (new - own)) for own, new in zip(color, other, strict=True))
    return red, green, blue


def _blend(image: UInt8, where: NDArray[np.bool_], color: Color, alpha: float) -> None:
    pixels = image[where].astype(np.float32)
    image[where] = (pixels + alpha * (np.array(color, np.float32) - pixels) + 0.5).astype(np.uint8)


def _grow(mask: NDArray[np.bool_], steps: int) -> NDArray[np.bool_]:
    """Dilate by a diamond; what lies outside the array counts as unset."""
    for _ in range(steps):
        grown = mask.copy()
        grown[1:] |= mask[:-1]
        grown[:-1] |= mask[1:]
        grown[:, 1:] |= mask[:, :-1]
        grown[:, :-1] |= mask[:, 1:]
        mask = grown
    return mask


def _draw_labels(image: UInt8, drawn: Sequence[tuple[int, NDArray[np.bool_]]], colors: Mapping[int, Color]) -> UInt8:
    canvas = Image.fromarray(image)
    draw = ImageDraw.Draw(canvas)
    font_size = max(11, round(min(image.shape[:2]) / 26))
    for obj_id, mask in drawn:
        rows, columns = np.nonzero(mask)
        if not len(rows):
            continue
        middle = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
        _tag(draw, (int(columns[middle]), int(rows[middle])), str(obj_id), colors[obj_id], font_size)
    return np.array(canvas)


def _tag(draw: ImageDraw.ImageDraw, center: tuple[int, int], text: str, color: Color, font_size: int) -> None:
    """Write text on a rounded plate."""
    font = ImageFont.load_default(font_size)
    x, y = center
    half_width = max(draw.textlength(text, font=font) / 2 + 0.4 * font_size, 0.75 * font_size)
    half_height = 0.75 * font_size
    plate = (x - half_width, y - half_height, x + half_width, y + half_height)
    draw.rounded_rectangle(plate, half_height, fill=_mix(color, INK, 0.75), outline=_mix(color, WHITE, 0.5))
    draw.text((x, y), text, fill=WHITE, font=font, anchor="mm")


def draw_prompt(
    image: UInt8,  # [H, W, 3]
    points: Sequence[Sequence[float]] = (),
    labels: Sequence[int] = (),
    box: Sequence[float] | None = None,
    *,
    color: Color = (255, 208, 48),
) -> UInt8:
    """Return the image with clicks (green star: positive, red disc: negative) and the outline of a box.

    Args:
        image: RGB.
        points: x, y in pixels.
        labels: labels of the points, 1 positive, 0 negative.
        box: x0, y0, x1, y1 in pixels.
        color: colour of the outline.

    Raises:
        ValueError: the image is no uint8 RGB image, or there is not one label per point.
    """
    if len(points) != len(labels):
        raise ValueError(f"{len(points)} points but {len(labels)} labels")
    canvas = Image.fromarray(_rgb(image))
    short_side = min(image.shape[:2])
    if box is not None:
        _draw_box(ImageDraw.Draw(canvas), box, color, max(2, round(short_side / 220)))
    for point, label in zip(points, labels, strict=True):
        _stamp(canvas, point, positive=label > 0, radius=max(6, round(short_side / 36)))
    return np.array(canvas)


def _draw_box(draw: ImageDraw.ImageDraw, box: Sequence[float], color: Color, width: int) -> None:
    left, top, right, bottom = (round(value) for value in box)
    draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=INK, width=width + 2)
    draw.rectangle((left, top, right, bottom), outline=color, width=width)


def _stamp(canvas: Image.Image, point: Sequence[float], *, positive: bool, radius: int) -> None:
    """Paste a smooth marker centred on the point."""
    half = radius + 2
    tile = Image.new("RGBA", (2 * half * SMOOTHING,) * 2)
    draw = ImageDraw.Draw(tile)
    center, size = half * SMOOTHING, radius * SMOOTHING
    for shrink, color in ((1.0, INK), (0.9, WHITE), (0.7, POSITIVE if positive else NEGATIVE)):
        if positive:
            draw.polygon(_star(center, shrink * 1.1 * size), fill=color)
        else:
            reach = shrink * 0.8 * size
            draw.ellipse((center - reach, center - reach, center + reach, center + reach), fill=color)
    if not positive:
        bar = (center - 0.3 * size, center - 0.09 * size, center + 0.3 * size, center + 0.09 * size)
        draw.rectangle(bar, fill=WHITE)
    tile = tile.resize((2 * half, 2 * half), Image.Resampling.LANCZOS)
    canvas.paste(tile, (round(point[0]) - half, round(point[1]) - half), tile)


def _star(center: float, radius: float) -> list[tuple[float, float]]:
    corners = []
    for corner in range(10):
        angle, reach = math.pi * (corner / 5 - 0.5), radius * (1.0 if corner % 2 == 0 else 0.5)
        corners.append((center + reach * math.cos(angle), center + reach * math.sin(angle)))
    return corners


def contact_sheet(
    images: Sequence[UInt8 | Image.Image],
    columns: int,
    *,
    captions: Sequence[str] | None = None,
    cell_width: int = 480,
    gap: int = 10,
) -> Image.Image:
    """Lay images out in a grid, row by row.

    Args:
        images: uint8 RGB [H, W, 3], or PIL images.
        columns: largest number of columns.
        captions: captions, one per image.
        cell_width: width that images are scaled to, in pixels.
        gap: distance between images, in pixels.

    Raises:
        ValueError: there is no image or column, or not one caption per image.
    """
    if not images or columns < 1:
        raise ValueError(f"a contact sheet needs images and at least one column, got {len(images)} and {columns}")
    if captions is not None and len(captions) != len(images):
        raise ValueError(f"{len(images)} images but {len(captions)} captions")
    cells = [_fit_width(image, cell_width) for image in images]
    columns = min(columns, len(cells))
    cell_height = max(cell.height for cell in cells)
    rows = math.ceil(len(cells) / columns)
    size = (columns * (cell_width + gap) + gap, rows * (cell_height + gap) + gap)
    sheet = Image.new("RGB", size, INK)
    draw = ImageDraw.Draw(sheet)
    for index, cell in enumerate(cells):
        row, column = divmod(index, columns)
        left, top = gap + column * (cell_width + gap), gap + row * (cell_height + gap)
        sheet.paste(cell, (left, top + (cell_height - cell.height) // 2))
        if captions is not None:
            _caption(draw, (left, top), captions[index], max(11, cell_width // 30))
    return sheet


def _fit_width(image: UInt8 | Image.Image, width: int) -> Image.Image:
    picture = image.convert("RGB") if isinstance(image, Image.Image) else Image.fromarray(_rgb(image))
    height = max(1, round(picture.height * width / picture.width))
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def _caption(draw: ImageDraw.ImageDraw, corner: tuple[int, int], text: str, font_size: int) -> None:
    font = ImageFont.load_default(font_size)
    left, top = corner
    width = draw.textlength(text, font=font) + font_size
    draw.rectangle((left, top, left + width, top + 1.6 * font_size), fill=INK)
    draw.text((left + width / 2, top + 0.8 * font_size), text, fill=WHITE, font=font, anchor="mm")
