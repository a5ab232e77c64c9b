"""What is checked of a checkpoint's content: its SHA-256 where one was recorded, its size, and each entry's values."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from i2vpp.config import IMAGE_SIZES, is_image_size
from i2vpp.errors import CheckpointError
from i2vpp.utils.brief import brief

FORMAT = 1  # version of what `save_checkpoint` writes

_FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_INTEGERS = (torch.int64, torch.int32)


def meta_of(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the metadata that `save_checkpoint` has written; empty for files of others."""
    meta = content.get("meta")
    return meta if isinstance(meta, Mapping) else {}


def card_of(content: Mapping[str, Any]) -> dict[str, str]:
    """Return the notes of a checkpoint by heading; values that are neither text nor number are left out."""
    card = content.get("card")
    if not isinstance(card, Mapping):
        return {}
    return {
        key: str(text) for key, text in card.items() if isinstance(key, str) and isinstance(text, str | int | float)
    }


def trained_image_size(content: Mapping[str, Any], path: Path) -> int | None:
    """Return the input size that the weights were trained at, where the file records it.

    Args:
        content: the top-level entries of the file.
        path: path of the file, for messages.

    Returns:
        The side in pixels, or None.

    Raises:
        CheckpointError: the network cannot have such a size.
    """
    size = meta_of(content).get("image_size")
    if size is None or is_image_size(size):
        return size
    raise CheckpointError(f"{path}: its entry meta.image_size must be {IMAGE_SIZES}; got {brief(size)}")


def check_format(content: Mapping[str, Any], path: Path) -> None:
    """Check that no newer version of i2vpp wrote the file.

    Args:
        content: the top-level entries of the file.
        path: path of the file, for messages.

    Raises:
        CheckpointError: a newer version wrote it.
    """
    version = meta_of(content).get("format", FORMAT)
    if not isinstance(version, int) or isinstance(version, bool) or not 1 <= version <= FORMAT:
        raise CheckpointError(
            f"{path} has format {brief(version)}; this version of i2vpp reads up to {FORMAT}: update it"
        )


def check_entries(state: Mapping[str, Tensor], path: Path) -> None:
    """Check that every entry is an ordinary tensor of numbers; values are not read.

    Args:
        state: the entries of the network.
        path: path of the file, for messages.

    Raises:
        CheckpointError: an entry is sparse, quantised, without values (meta) or of a dtype that weights do not have.
    """
    for name, value in state.items():
        if value.is_meta:
            problem = "holds no values (a meta tensor)"
        elif value.layout != torch.strided:
            problem = f"is a {_short(value.layout)} tensor; weights must be dense"
        elif value.dtype not in _FLOATS + _INTEGERS:
            problem = f"is {_short(value.dtype)}; weights must be {', '.join(map(_short, _FLOATS))}"
        else:
            continue
        raise CheckpointError(f"{path}: entry {name} {problem}")


def check_values(state: Mapping[str, Tensor], own: Mapping[str, Tensor], path: Path) -> None:
    """Check that every entry can become the network's entry of its name.

    Args:
        state: entries of the file, of the right shapes; see `check_entries`.
        own: entries of the network, at least those of the file.
        path: of the file, for messages.

    Raises:
        CheckpointError: NaN, infinity, a number too large for the network's dtype, or integers where it has fractions
            or the other way round.
    """
    for name, value in state.items():
        wanted = own[name].dtype
        if value.is_floating_point() != wanted.is_floating_point:
            raise CheckpointError(
                f"{path}: entry {name} is {_short(value.dtype)} where the network has {_short(wanted)}; "
                "whatever made the file has cast it"
            )
        if not value.numel() or not wanted.is_floating_point:
            continue
        low, high = (float(number) for number in value.detach().aminmax())
        if not (low >= torch.finfo(wanted).min and high <= torch.finfo(wanted).max):  # nor do NaNs compare
            raise CheckpointError(
                f"{path}: entry {name} has values that are not finite in {_short(wanted)} (from {low:.4g} to "
                f"{high:.4g}): the training diverged, or the file is damaged"
            )


def content_hash(state: Mapping[str, Tensor], content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of weights, image size and card; it does not depend on the form of the file.

    Args:
        state: the entries of the network, in any order.
        content: top-level entries, of which `meta.image_size` and `card` are hashed.

    Returns:
        Hexadecimal digits.
    """
    described = [meta_of(content).get("image_size"), card_of(content)]
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for name in sorted(state):
        value = state[name].detach()
        digest.update(f"\n{name} {_short(value.dtype)} {list(value.shape)}\n".encode())
        digest.update(value.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_hash(state: Mapping[str, Tensor], content: Mapping[str, Any], path: Path) -> None:
    """Compare the content with the SHA-256 that was recorded when the file was written, in `meta.sha256`.

    Args:
        state: the entries of the network.
        content: the top-level entries of the file.
        path: path of the file, for messages.

    Raises:
        CheckpointError: they differ.
    """
    for name, value in state.items():
        # Repeated values take no place in a file: without this check, a small one could be hashed for hours.
        if value.numel() * value.itemsize > value.untyped_storage().nbytes():
            raise CheckpointError(f"{path}: entry {name} repeats stored values, which no file of i2vpp does")
    if meta_of(content)["sha256"] != content_hash(state, content):
        raise CheckpointError(
            f"{path} is damaged or was changed: its content does not match the SHA-256 that was recorded when it was "
            "written (meta.sha256); fetch or copy it again"
        )


def _short(kind: object) -> str:
    return str(kind).removeprefix("torch.")
