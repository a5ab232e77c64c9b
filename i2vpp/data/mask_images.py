"""One image of masks: decoding it to values or colours, whatever its format, and bringing its masks to another size."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from i2vpp.data.soft_edges import has_soft_edges
from i2vpp.errors import DataError
from i2vpp.utils.arrays import Mask

Values: TypeAlias = "NDArray[np.integer[Any]]"

BACKGROUND, IGNORED = 0, 255

FORMATS = ("PNG", "BMP", "GIF", "JPEG", "PPM", "TIFF", "WEBP")
"""Formats that are read. Pillow reads others by starting external programs, which is not safe for unknown files."""

WHITE, MAX_VALUE = 255, 65535
MAX_SKEW = 0.02
"""Relative difference of two aspect ratios that rounding explains; a mask that differs more is of another picture."""

_GREY_STEPS = {"L;2": 85, "L;4": 17}
"""Pillow spreads grey values of 2 and 4 bits over 0 to 255 by these factors, by the name of the raw mode."""

NAMED = 5  # values in a message


class SoftEdgesError(DataError):
    """A mask whose values are no object ids: some come from blur, resizing or JPEG."""


@dataclass(frozen=True, kw_only=True)
class FrameSize:
    """The size that masks must have.

    Args:
        height: height in pixels.
        width: width in pixels.
        of: what the size belongs to, for messages.
        resize: masks of another size, but of the same aspect ratio, are resized; otherwise they are refused.
    """

    height: int
    width: int
    of: str = "the video"
    resize: bool = False

    def check(self, what: str, height: int, width: int) -> None:
        """Check that a mask has this size, or may be resized to it.

        Args:
            what: what the message calls the mask.
            height: mask height in pixels.
            width: mask width in pixels.

        Raises:
            DataError: it has another size and may not be resized.
        """
        if (height, width) == (self.height, self.width):
            return
        sizes = f"{what} is {width} x {height} pixels, but {self.of} is {self.width} x {self.height}"
        if not self.resize:
            raise DataError(sizes)
        if not height or not width or abs(math.log(width * self.height / height / self.width)) > MAX_SKEW:
            raise DataError(f"{sizes}, which is no other size of the same picture")

    def fit(self, ids: Values) -> Values:
        """Return object ids [H, W] at this size, see `resize_ids`."""
        return ids if ids.shape == (self.height, self.width) else resize_ids(ids, self.height, self.width)


def resize_ids(ids: Values, height: int, width: int) -> Values:
    """Resize object ids [H, W]: each pixel gets the id that covers most of it, and no object disappears.

    An object that covers most of no pixel, because it is thin or small, gets the pixels that it covers most.

    Args:
        ids: [H, W].
        height: height of the result in pixels.
        width: width of the result in pixels.

    Returns:
        The ids [height, width], of the same dtype.
    """
    found = np.zeros((height, width), ids.dtype)
    most = np.zeros((height, width), np.float32)
    covered = {}
    for obj_id in np.unique(ids).tolist():
        part = Image.fromarray((ids == obj_id).astype(np.float32))
        cover = np.asarray(part.resize((width, height), Image.Resampling.BILINEAR))
        found[cover > most] = obj_id
        most = np.maximum(most, cover)
        if obj_id != BACKGROUND:
            covered[obj_id] = cover.max(), np.flatnonzero(cover == cover.max())
    lost = set(covered).difference(np.unique(found).tolist())
    for obj_id in sorted(lost):
        found.flat[covered[obj_id][1]] = obj_id
    return found


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskImage:
    """What is in a mask image, before its values are given a meaning.

    Args:
        name: name of the image, for messages.
        pixels: integer values [H, W], or RGB [H, W, 3] of an image that is not grey all over; 0 where transparent.
        indexed: the values are those of a palette, or of black and white.
        rgb: the image has red, green and blue; a grey one is kept as values all the same.
        smooth: values may come from smoothing, which a palette or black and white rule out.
    """

    name: str
    pixels: Values
    indexed: bool = False
    rgb: bool = False
    smooth: bool = True

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.pixels.shape[0], self.pixels.shape[1]

    @cached_property
    def values(self) -> list[int]:
        """All values but 0, in order; of a colour image red * 65536 + green * 256 + blue."""
        codes = self.codes
        found = np.flatnonzero(np.bincount(codes.ravel())) if codes.dtype == np.uint8 else np.unique(codes)  # faster
        return [value for value in found.tolist() if value]

    @property
    def codes(self) -> Values:
        """The values [H, W], or colours as one number each."""
        if self.pixels.ndim == 2:
            return self.pixels
        return (self.pixels.astype(np.int32) << np.array([16, 8, 0])).sum(axis=2)

    @cached_property
    def soft(self) -> bool:
        """Whether its edges are smoothed, see `has_soft_edges`."""
        return self.smooth and len(self.values) > 1 and has_soft_edges(self.pixels)

    def check_hard(self) -> None:
        """Raise SoftEdgesError if the edges are smoothed."""
        if self.soft:
            what = "colours" if self.pixels.ndim == 3 else "grey values"
            raise SoftEdgesError(
                f"mask {self.name} has soft edges, as blur, JPEG or resizing makes them: {len(self.values)} {what}, "
                "which are no objects; save it as PNG, and resize it with nearest neighbours"
            )

    def one_object(self) -> Mask:
        """Return the mask [H, W] of all that it shows but 255 beside others; soft edges are cut at half the maximum."""
        if self.soft:
            strength = self.pixels.max(axis=2) if self.pixels.ndim == 3 else self.pixels
            return np.asarray(strength.astype(np.int32) * 2 > strength.max())
        shown = self.codes != BACKGROUND
        if self.pixels.ndim == 2 and len(self.values) > 1:
            shown &= self.pixels != IGNORED
        return np.asarray(shown)

    def only_object(self) -> Mask:
        """Return the mask [H, W] of an image that must show one object; soft edges are cut at half the maximum.

        Raises:
            DataError: it shows several.
        """
        if len(self.values) > 1 and not self.soft:
            named = ", ".join(map(str, self.values[:NAMED])) + (", ..." if len(self.values) > NAMED else "")
            what = f"{len(self.values)} colours" if self.pixels.ndim == 3 else f"the values {named} beside 0"
            raise DataError(f"mask {self.name} holds {what}; it must be of one object, with one value")
        return self.one_object()


def read_mask_image(path: Path, size: FrameSize | None = None) -> MaskImage:
    """Read a mask image.

    Args:
        path: the file.
        size: size that it must have, which is checked before it is decoded; None for any.

    Raises:
        DataError: it cannot be read, is no image, or has another size; the message names the file.
    """
    with _opened(path) as image:
        if size is not None:
            size.check(f"mask {path}", image.height, image.width)
        return mask_image(image, str(path))


def may_have_colours(path: Path) -> bool:
    """Return whether an image has more than one channel, by its header.

    Raises:
        DataError: it cannot be read, or is no image.
    """
    with _opened(path) as image:
        return len(image.getbands()) >= 3


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open an image; whatever goes wrong then, also while it is decoded in the block, is a DataError."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            yield image
    except DataError:
        raise
    except Exception as error:  # damaged files make Pillow raise almost anything
        reason = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
        raise DataError(f"cannot read the mask {path}: {reason}") from error


def mask_image(image: Image.Image, name: str) -> MaskImage:
    """Take a mask out of an image that Pillow has opened.

    Args:
        image: image of any mode.
        name: name of the image, for messages.

    Returns:
        Its values or colours.

    Raises:
        DataError: it holds numbers that are no values of a mask.
    """
    mode, step = image.mode, _grey_step(image)
    if mode in ("1", "P", "PA"):
        indices = np.asarray(image).astype(np.uint8)
        smooth = mode == "P" and _is_grey_ramp(image)  # Pillow makes it of grey images
        return MaskImage(name=name, pixels=_opaque_indices(indices, image), indexed=True, smooth=smooth)
    if mode[0] in "IF":
        return MaskImage(name=name, pixels=_wide(np.asarray(image), name))
    if "transparency" in image.info and mode in ("L", "RGB"):  # one value or colour of a PNG
        image = image.convert("LA" if mode == "L" else "RGBA")
    elif mode not in ("L", "LA", "RGB", "RGBA"):
        image = image.convert("LA" if mode == "La" else "RGBA" if mode == "RGBa" else "RGB")
    pixels = np.asarray(image)
    if image.mode in ("LA", "RGBA"):
        pixels = _over_black(pixels[..., :-1], pixels[..., -1])
    if pixels.ndim == 3 and (pixels == pixels[..., :1]).all():
        pixels = pixels[..., 0]
    if step > 1 and not np.isin(pixels, (BACKGROUND, WHITE)).all():
        pixels = pixels // step
    return MaskImage(name=name, pixels=pixels, rgb=image.mode.startswith("RGB"))


def _grey_step(image: Image.Image) -> int:
    """Return the factor by which Pillow is going to spread the grey values of an image that is not loaded yet."""
    tiles = getattr(image, "tile", None)
    return _GREY_STEPS.get(str(tiles[0][3]), 1) if tiles else 1


def _is_grey_ramp(image: Image.Image) -> bool:
    """Whether the palette shows each index as a grey of that value."""
    colours = np.array(image.getpalette() or [-1] * 3).reshape(-1, 3)
    return bool((colours == np.arange(len(colours))[:, None]).all())


def _opaque_indices(indices: NDArray[np.uint8], image: Image.Image) -> NDArray[np.uint8]:
    """Return palette indices [H, W], or black and white as 0 and 1; what is transparent is background."""
    if image.mode == "PA":
        return np.where(indices[..., 1] == 0, BACKGROUND, indices[..., 0]).astype(np.uint8)
    transparency = image.info.get("transparency") if image.mode == "P" else None
    if isinstance(transparency, int):
        hidden = [transparency]
    else:
        hidden = [index for index, alpha in enumerate(transparency or b"") if alpha == 0]
    return np.where(np.isin(indices, hidden), BACKGROUND, indices).astype(np.uint8)


def _wide(values: NDArray[Any], name: str) -> Values:
    """Check grey values of more than 8 bits; black and white of 16 bits becomes that of 8."""
    if not np.issubdtype(values.dtype, np.integer):
        raise DataError(f"mask {name} holds {values.dtype}; masks must hold integers")
    values = values.astype(np.int64)
    if values.size and (values.min() < 0 or values.max() > MAX_VALUE):
        raise DataError(f"mask {name} has values from {values.min()} to {values.max()}; allowed: 0 to {MAX_VALUE}")
    if np.isin(values, (BACKGROUND, MAX_VALUE)).all():
        values = np.where(values == MAX_VALUE, WHITE, BACKGROUND)
    return values.astype(np.uint16 if values.size and values.max() > WHITE else np.uint8)


def _over_black(colours: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Put an image [H, W, C] on black; one that is black itself shows its object by its opacity alone."""
    if not colours[alpha > 0].any() and alpha.any() and not alpha.all():
        return alpha
    if ((alpha == 0) | (alpha == WHITE)).all():
        shown = colours * (alpha > 0)[..., None]
    else:
        shown = np.rint(colours * (alpha[..., None] / WHITE)).astype(np.uint8)
    return shown[..., 0] if shown.shape[2] == 1 else shown
