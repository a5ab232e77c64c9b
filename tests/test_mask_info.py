"""Files of true masks: what is written is read back, and nothing in them is ever run."""

from __future__ import annotations

import io
import os
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from i2vpp.errors import DataError
from test_pvs.mask_info import read_mask_info, write_mask_info

HEIGHT, WIDTH = 4, 6
SQUARE = np.zeros((HEIGHT, WIDTH), bool)
SQUARE[1:3, 2:5] = True
EMPTY = np.zeros_like(SQUARE)


def save(path: Path, content: Any) -> Path:
    with path.open("wb") as file:
        np.save(file, content, allow_pickle=True)
    return path


def save_pickle(path: Path, pickled: bytes) -> Path:
    """Write an .npy file of one object, whose pickle is given."""
    with io.BytesIO() as buffer:
        np.lib.format.write_array_header_1_0(buffer, {"descr": "|O", "fortran_order": False, "shape": ()})
        path.write_bytes(buffer.getvalue() + pickled)
    return path


def test_what_is_written_is_read_back_also_by_numpy(tmp_path):
    path = tmp_path / "video" / "000.npy"
    write_mask_info(path, {8: SQUARE, 0: EMPTY, 4: ~SQUARE})
    found = read_mask_info(path)
    assert list(found) == [0, 4, 8]
    for frame_idx, mask in ((0, EMPTY), (4, ~SQUARE), (8, SQUARE)):
        assert found[frame_idx].dtype == bool
        np.testing.assert_array_equal(found[frame_idx], mask)
    plain = np.load(path, allow_pickle=True).item()
    assert list(plain) == [0, 4, 8]
    np.testing.assert_array_equal(plain[8][0], SQUARE)
    assert [file.name for file in path.parent.iterdir()] == ["000.npy"]


@pytest.mark.parametrize(
    "mask", [SQUARE.astype(np.uint8) * 255, np.asfortranarray(SQUARE), SQUARE.astype(">i4"), SQUARE.astype(np.float32)]
)
def test_masks_of_other_types_and_orders(tmp_path, mask):
    path = save(tmp_path / "a.npy", {np.int64(3): {0: mask}})
    found = read_mask_info(path)
    assert [type(key) for key in found] == [int]
    np.testing.assert_array_equal(found[3], SQUARE)


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_files_of_numpy_1_and_2(tmp_path, module, protocol):
    """Both name the same functions in different modules; a pickle of protocol 3 names them in plain lines."""
    wrapped = np.array(None, dtype=object)
    wrapped[()] = {0: {0: SQUARE}, 4: {0: EMPTY}}
    pickled = pickle.dumps(wrapped, protocol=protocol)
    (here,) = set(re.findall(rb"numpy\._?core\.multiarray", pickled))
    if protocol == 4:  # length of the name before it, and of all that follows at the start
        frame = pickled[11:].replace(bytes([len(here)]) + here, bytes([len(module)]) + module)
        renamed = pickled[:3] + len(frame).to_bytes(8, "little") + frame
    else:
        renamed = pickled.replace(here + b"\n", module + b"\n")
    assert module in renamed
    found = read_mask_info(save_pickle(tmp_path / "a.npy", renamed))
    np.testing.assert_array_equal(found[0], SQUARE)
    np.testing.assert_array_equal(found[4], EMPTY)


class Malicious:
    def __init__(self, target: Path) -> None:
        self._target = target

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self._target),)


@pytest.mark.parametrize("hide", [lambda bad: bad, lambda bad: {0: {0: bad}}, lambda bad: {0: {0: SQUARE}, 1: [bad]}])
def test_a_pickle_that_wants_to_run_code_is_refused(tmp_path, hide):
    target = tmp_path / "made by the pickle"
    path = save(tmp_path / "a.npy", hide(Malicious(target)))
    with pytest.raises(DataError, match=rf"a\.npy as mask_info: it names {os.mkdir.__module__}\.mkdir; only NumPy arr"):
        read_mask_info(path)
    assert not target.exists()
    np.load(path, allow_pickle=True)  # it is a real threat
    assert target.exists()


@pytest.mark.parametrize(
    "pickled",
    [
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cnumpy\nload\n(S'x'\ntR.",
        b"cnumpy.core.multiarray\n_reconstruct.__globals__\n.",
        b"ctest_pvs.mask_info\n_Unpickler\n.",
    ],
)
def test_other_names_are_refused(tmp_path, pickled):
    with pytest.raises(DataError, match=r"it names .*; only NumPy arrays, dicts and numbers are allowed"):
        read_mask_info(save_pickle(tmp_path / "a.npy", pickled))


def test_stand_ins_cannot_be_changed_by_a_file(tmp_path):
    """BUILD on a type with a dict would set attributes of the type itself."""
    state = b"(dS'dtype'\nI1\ns"  # {"dtype": 1}
    path = save_pickle(tmp_path / "a.npy", b"cnumpy\ndtype\n" + state + b"b.")
    with pytest.raises(DataError, match=r"a.npy as mask_info"):
        read_mask_info(path)
    np.testing.assert_array_equal(read_mask_info(save(tmp_path / "b.npy", {0: {0: SQUARE}}))[0], SQUARE)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (SQUARE, r"it holds an array of bool \[4, 6\], not a dict"),
        ([1, "a"], r"not a dict \{frame index: \{0: mask\}\}"),
        ({}, "it holds no frame"),
        ({"a": {0: SQUARE}}, "its keys must be frame indices, 0 and on; got 'a'"),
        ({-1: {0: SQUARE}}, "frame indices, 0 and on; got -1"),
        ({2: SQUARE}, r"frame 2 must hold a dict with one mask, \{0: mask\}"),
        ({2: {0: SQUARE, 1: SQUARE}}, r"frame 2 must hold a dict with one mask, \{0: mask\}; got dict of length 2"),
        ({2: {0: SQUARE[0]}}, r"the mask of frame 2 must be an array \[H, W\]; got an array of shape \[6\]"),
        ({2: {0: 1.5}}, r"the mask of frame 2 must be an array \[H, W\]; got float"),
        ({2: {0: np.array(["a"])}}, "it holds an array of type 'U1'; only numbers are allowed"),
        ({2: {0: np.zeros(2, "f4,i4")}}, "it holds an array of type 'V8'; only numbers are allowed"),
        ({2: {0: np.array([None, None])}}, r"it holds an array of \[2\] objects; only numbers are allowed"),
    ],
)
def test_other_content_is_named(tmp_path, content, message):
    if not isinstance(content, np.ndarray):
        wrapped = np.array(None, dtype=object)
        wrapped[()] = content
        content = wrapped
    with pytest.raises(DataError, match=message):
        read_mask_info(save(tmp_path / "a.npy", content))


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.9])
def test_damaged_files_are_named(tmp_path, share):
    whole = save(tmp_path / "a.npy", {0: {0: SQUARE}, 4: {0: EMPTY}}).read_bytes()
    cut = tmp_path / "cut.npy"
    cut.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(DataError, match=r"cannot read .*cut.npy as mask_info: "):
        read_mask_info(cut)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match=r"cannot read .*none.npy as mask_info: No such file"):
        read_mask_info(tmp_path / "none.npy")


@pytest.mark.filterwarnings("ignore:Reading `.npy`")
def test_flipped_bytes_never_raise_anything_else(tmp_path):
    whole = bytearray(save(tmp_path / "a.npy", {0: {0: SQUARE}, 4: {0: EMPTY}}).read_bytes())
    random = np.random.default_rng(0)
    path = tmp_path / "b.npy"
    refused = 0
    for _ in range(1000):
        flipped = whole.copy()
        flipped[random.integers(len(whole))] = random.integers(256)
        path.write_bytes(flipped)
        try:
            read_mask_info(path)
        except DataError:
            refused += 1
    assert refused > 250
