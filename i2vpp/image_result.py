"""What the image predictor returns: SAM 2's tuple, which also draws itself."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from i2vpp.utils.visualize import plot

if TYPE_CHECKING:
    from PIL import Image


class ImageResult(NamedTuple):
    """Masks of an image. Unpacks like SAM 2's tuple: `masks, scores, low_res = predictor.predict(...)`.

    Args:
        masks: [C, H, W], or [B, C, H, W] for B objects: float32, 0 and 1, or logits.
        scores: predicted IoUs [C] or [B, C].
        low_res: low-resolution logits [C, s, s] or [B, C, s, s].
    """

    masks: NDArray[np.float32]
    scores: NDArray[np.float32]
    low_res: NDArray[np.float32]

    @property
    def best(self) -> NDArray[np.bool_]:
        """The mask of the highest predicted IoU of each object: bool [B, H, W], [1, H, W] for one object."""
        several = self.masks.ndim == 4
        masks, scores = (self.masks, self.scores) if several else (self.masks[None], self.scores[None])
        found: NDArray[np.bool_] = masks[np.arange(len(masks)), scores.argmax(1)] > 0
        return found

    def plot(self, image: Any = None, *, alpha: float = 0.5, labels: bool | None = None) -> Image.Image:
        """Draw the best mask of each object; a notebook shows the picture that is returned.

        Args:
            image: the picture below the masks: uint8 RGB [H, W, 3] or a PIL image of the masks' size; None for a dark
                background.
            alpha: strength of the tint, 0 to 1.
            labels: write their number, from 1 on, into the objects; default: where there are several.

        Returns:
            A PIL image, RGB, W x H.

        Raises:
            ValueError: `image` is no uint8 RGB picture of the masks' size.
        """
        masks = self.best
        numbered = len(masks) > 1 if labels is None else labels
        return plot(image, masks, range(1, len(masks) + 1), alpha=alpha, labels=numbered)

    def save(self, path: str | PathLike[str], image: Any = None) -> None:
        """Write the picture of `plot` to a file, whose suffix says its format.

        Args:
            path: path of the file.
            image: as of `plot`.

        Raises:
            ValueError: as of `plot`, or the suffix is of no format that Pillow writes.
            OSError: the file cannot be written.
        """
        self.plot(image).save(path)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self.masks, dtype=dtype) if not copy else np.array(self.masks, dtype=dtype)

    def __repr__(self) -> str:
        areas = (self.masks > 0).sum((-2, -1)).tolist()
        height, width = self.masks.shape[-2:]
        scores = np.round(self.scores.astype(float), 3).tolist()
        return f"ImageResult({width} x {height}, areas {areas}, scores {scores})"
