"""Files of true masks, one per object of an SA-V video, as SAM-I2V++'s evaluation keeps them.

Such a file is what `numpy.save` makes of a dict `{frame index: {0: mask}}`: a pickle. Frame indices count all frames of
the video, masks are bool [H, W], and one that is zero everywhere stands for a frame that does not show the object.

A pickle may run any code when it is loaded. Here nothing that a file names is ever called: the few NumPy names that
such files need are replaced by stand-ins, and whatever else is named is refused.
"""

from __future__ import annotations

import pickle
import tokenize
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from i2vpp.data.mask_arrays import parse_mask_array
from i2vpp.errors import DataError
from i2vpp.utils.arrays import Mask
from i2vpp.utils.files import atomic_write

SUFFIX = ".npy"
OBJECT = 0  # the key of the only mask of a frame

_NUMBERS = {"b1", *(f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)), "f2", "f4", "f8"}
_OBJECTS = {"O", "O8", "O4"}
_BROKEN = (pickle.UnpicklingError, EOFError, OSError, ValueError, TypeError, LookupError, AttributeError,
           ArithmeticError, MemoryError, RecursionError, SyntaxError, tokenize.TokenError)  # fmt: skip
"""What damaged files make `numpy.lib.format` and `pickle` raise."""


def write_mask_info(path: Path, masks: Mapping[int, Mask]) -> None:
    """Write the masks of one object; the file appears only when it is whole.

    Args:
        path: of the file.
        masks: masks [H, W] by frame index.

    Raises:
        OSError: it cannot be written.
    """
    frames = {int(frame_idx): {OBJECT: masks[frame_idx]} for frame_idx in sorted(masks)}
    with atomic_write(path) as file:
        np.save(file, frames, allow_pickle=True)  # type: ignore[arg-type]  # wraps a dict in a 0-d array


def read_mask_info(path: Path) -> dict[int, Mask]:
    """Read the masks [H, W] of one object by frame index, in order; also files of NumPy 1 and published ones.

    Raises:
        DataError: the file cannot be read, is no such file, or holds anything but arrays, dicts and numbers.
    """
    try:
        with path.open("rb") as file:
            frames = _read_frames(file)
            return {frame_idx: _mask(frames[frame_idx], f"frame {frame_idx}") for frame_idx in sorted(frames)}
    except _BROKEN as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
        raise DataError(f"cannot read {path} as mask_info: {reason}") from error


def _read_frames(file: BinaryIO) -> dict[int, Any]:
    """Return what the file holds for each frame index."""
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(file)
    if dtype != np.dtype(object):
        raise ValueError(f"it holds an array of {dtype} {list(shape)}, not a dict {{frame index: {{0: mask}}}}")
    found = _plain(_Unpickler(file).load())
    if not isinstance(found, dict):
        raise ValueError(f"it holds {_kind(found)}, not a dict {{frame index: {{0: mask}}}}")
    frames = {_plain(key): value for key, value in found.items()}
    if wrong := [key for key in frames if not isinstance(key, int) or isinstance(key, bool) or key < 0]:
        raise ValueError(f"its keys must be frame indices, 0 and on; got {wrong[0]!r}")
    if not frames:
        raise ValueError("it holds no frame")
    return frames


def _mask(entry: Any, where: str) -> Mask:
    masks = [_plain(mask) for mask in entry.values()] if isinstance(entry, dict) else []
    if len(masks) != 1:
        raise ValueError(f"{where} must hold a dict with one mask, {{0: mask}}; got {_kind(entry)}")
    mask = masks[0]
    if not isinstance(mask, np.ndarray) or mask.ndim != 2 or 0 in mask.shape:
        raise ValueError(f"the mask of {where} must be an array [H, W]; got {_kind(mask)}")
    return parse_mask_array(mask, height=mask.shape[0], width=mask.shape[1])


def _kind(value: Any) -> str:
    """Describe a value in a few words."""
    if isinstance(value, np.ndarray):
        return f"an array of shape {list(value.shape)}"
    return f"{type(value).__name__} of length {len(value)}" if hasattr(value, "__len__") else type(value).__name__


# ---- pickles without their code


class _StandIn:
    """Stands for a NumPy type or function that a pickle calls; keeps its arguments and calls nothing."""

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError(f"unexpected state for {type(self).__name__[1:]}")


class _DType(_StandIn):
    """`numpy.dtype`: bool, integers, floats and objects only; its byte order comes as state."""

    def __init__(self, name: str, align: bool = False, copy: bool = True) -> None:
        if name not in _NUMBERS | _OBJECTS:
            raise pickle.UnpicklingError(f"it holds an array of type {name!r}; only numbers are allowed")
        self.dtype = np.dtype(name if name in _NUMBERS else object)

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 5 or state[2:5] != (None, None, None):
            raise pickle.UnpicklingError("it holds an array of a structured type; only numbers are allowed")
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class _Array(_StandIn):
    """`numpy.ndarray` and `_reconstruct`, which makes an empty array; the content comes as state."""

    def __init__(self, subtype: Any = None, shape: Any = None, typecode: Any = None) -> None:
        self.content: Any = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        if dtype.dtype != np.dtype(object):
            values = np.frombuffer(data, dtype.dtype)
            self.content = values.reshape(shape, order="F" if fortran else "C")
        elif shape == () and isinstance(data, list) and len(data) == 1:
            self.content = data[0]  # `numpy.save` wraps a dict like this
        else:
            raise pickle.UnpicklingError(f"it holds an array of {list(shape)} objects; only numbers are allowed")


class _Scalar(_StandIn):
    """`scalar`, which makes a NumPy number."""

    def __init__(self, dtype: _DType, data: bytes) -> None:
        if dtype.dtype == np.dtype(object):
            raise pickle.UnpicklingError("it holds an object; only arrays, dicts and numbers are allowed")
        self.content = np.frombuffer(data, dtype.dtype)[0].item()


_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")  # of NumPy 1 and 2
_ALLOWED: dict[tuple[str, str], type[_StandIn]] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _DType,
    **{(module, "_reconstruct"): _Array for module in _MODULES},
    **{(module, "scalar"): _Scalar for module in _MODULES},
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if (found := _ALLOWED.get((module_name, global_name))) is None:
            raise pickle.UnpicklingError(
                f"it names {module_name}.{global_name}; only NumPy arrays, dicts and numbers are allowed, as anything "
                "else could run code. Delete the file, or make it anew: python tools/save_gt_mask.py"
            )
        return found


def _plain(value: Any) -> Any:
    """Return what a stand-in stands for; other values are returned as they are."""
    return value.content if isinstance(value, (_Array, _Scalar)) else value
