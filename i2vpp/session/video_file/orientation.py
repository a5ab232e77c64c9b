"""Turning decoded pictures as the display matrix of their file asks."""

from __future__ import annotations

import struct
from typing import Any

import av
import numpy as np


def display_matrix(frame: av.VideoFrame) -> tuple[int, ...] | None:
    """Return the 3 x 3 matrix (x, y, 1) -> (x, y, 1), row by row, that turns the decoded picture, or None."""
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    return None if matrix is None else struct.unpack("<9i", bytes(matrix))


def is_turned(matrix: tuple[int, ...] | None) -> bool:
    """Whether height and width change places in a display matrix."""
    return matrix is not None and abs(matrix[1]) > abs(matrix[0])


def upright(rgb: np.ndarray, matrix: tuple[int, ...] | None) -> np.ndarray:
    """Turn and mirror a picture in steps of 90 degrees.

    Args:
        rgb: decoded picture [H, W, 3].
        matrix: display matrix; None leaves the picture as it is.

    Returns:
        The picture [H, W, 3] or [W, H, 3], contiguous if it was turned or mirrored.
    """
    if matrix is None:
        return rgb
    to_x_from_x, to_y_from_y = matrix[0], matrix[4]
    if is_turned(matrix):
        rgb = rgb.transpose(1, 0, 2)
        to_x_from_x, to_y_from_y = matrix[3], matrix[1]
    return np.ascontiguousarray(rgb[:: -1 if to_y_from_y < 0 else 1, :: -1 if to_x_from_x < 0 else 1])
