"""Types of arrays that many modules share. Importing them loads NumPy only, so that scoring works without PyTorch."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Mask: TypeAlias = "NDArray[np.bool_]"
"""A mask [H, W]: True on the pixels of an object."""
