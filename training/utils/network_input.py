"""Image files as the network's input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from i2vpp.data.files import read_image


def read_frame(path: Path, side: int) -> Tensor:
    """Read an image as a square, as the predictor does.

    Args:
        path: an image file.
        side: side of the network's input in pixels.

    Returns:
        uint8 RGB [3, side, side].

    Raises:
        DataError: the image cannot be read.
    """
    square = Image.fromarray(read_image(path)).resize((side, side), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(square)).movedim(-1, 0).contiguous()
