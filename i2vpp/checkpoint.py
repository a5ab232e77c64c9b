"""Checkpoints: strict loading and saving under the published names, and the import of TinySAM and MobileSAM.

A checkpoint is a file of `torch.save` that holds `{"model": state_dict}`; ours add `"meta"`, and training adds more.
A safetensors file holds the same entries, and `meta` and `card` as its metadata.
Files are read as plain data (`weights_only`): a pickle that wants to run code is refused, never executed. A damaged
file is refused as well: see `i2vpp.weights.formats` for checksums, `i2vpp.weights.checks` for values.
What is read may be named by its path, by a folder that holds `model.safetensors`, or by a name such as `i2vpp-demo`;
see `find_checkpoint`.
"""

from __future__ import annotations

import operator
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from i2vpp.errors import CheckpointError
from i2vpp.utils.brief import brief
from i2vpp.utils.files import atomic_write
from i2vpp.utils.notices import warn_user
from i2vpp.weights.checks import (
    FORMAT,
    card_of,
    check_entries,
    check_format,
    check_hash,
    check_values,
    content_hash,
    meta_of,
    trained_image_size,
)
from i2vpp.weights.files import find_checkpoint
from i2vpp.weights.formats import read_content, write_content

_LISTED = 8  # names listed in an error, of each kind
_HINTS = {
    "tinysam/mobilesam": "It looks like a TinySAM or MobileSAM checkpoint, which is an image model: "
    "import_image_model loads it as the start of training.",
    "sam2": "It looks like a SAM 2 checkpoint; that is another network, whose weights SAM-I2V++ cannot use.",
    "i2vpp": "It looks like a SAM-I2V++ checkpoint: load_checkpoint loads it.",
}

# Where the parts of the image model go, and what it may lack: the classifier that nothing reads.
_IMAGE_MODEL_PARTS = {
    "image_encoder.": "image_encoder.trunk_image.",
    "prompt_encoder.": "sam_prompt_encoder.",
    "mask_decoder.": "sam_mask_decoder.",
}
_IMAGE_MODEL_LACKS = (
    "sam_mask_decoder.obj_score_token.",
    "sam_mask_decoder.pred_obj_score_head.",
    "image_encoder.trunk_image.norm_head.",
    "image_encoder.trunk_image.head.",
)

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """Description of a checkpoint file.

    Args:
        path: path of the file.
        size: size of the file in bytes.
        kind: `i2vpp`, `tinysam/mobilesam`, `sam2` or `unknown`, judged by the names of the entries.
        num_entries: number of entries of the state dict.
        num_parameters: number of floating-point values in them, running statistics included.
        dtypes: number of entries of each dtype.
        parts: number of floating-point values of each top-level part of the network.
        image_size: input size that the weights were trained at, where the file records it.
        card: notes on licence, data, results and limits by heading, where the file has any.
        checked: the checksums that were compared: `CRC-32` of every record, `SHA-256` of weights and card, or `none`.
        missing: names that the network has and the file lacks.
        unexpected: names that the file has and the network lacks.
        misshapen: names whose shapes differ.
    """

    path: Path
    size: int
    kind: str
    num_entries: int
    num_parameters: int
    dtypes: Mapping[str, int]
    parts: Mapping[str, int]
    image_size: int | None
    card: Mapping[str, str]
    checked: str
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshapen: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether the file holds exactly the entries of the network."""
        return not (self.missing or self.unexpected or self.misshapen)


@dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint:
    """A checkpoint file that was read and found undamaged; its entries are not compared with a network yet.

    Args:
        path: path of the file.
        content: its top-level entries, tensors on the CPU (mapped from the file where its form allows).
        checked: see `CheckpointInfo`.
    """

    path: Path
    content: Mapping[str, Any]
    checked: str

    @property
    def image_size(self) -> int | None:
        """Input size in pixels that the weights were trained at, where the file says so."""
        return trained_image_size(self.content, self.path)

    def state(self) -> dict[str, Tensor]:
        """Return the entries of the network, which lie under `model` or, in image models, at the top."""
        return _state_dict(self.content, self.path)


CheckpointSource = str | os.PathLike[str] | Checkpoint


def open_checkpoint(source: CheckpointSource) -> Checkpoint:
    """Read a checkpoint once, for several of the functions of this module; all of them take it in place of a path.

    Args:
        source: path, folder or name; see `find_checkpoint`.

    Raises:
        CheckpointError: there is no such file, it is damaged, or it is not a checkpoint of plain data.
    """
    if isinstance(source, Checkpoint):
        return source
    path = find_checkpoint(source)
    content, has_checksums = read_content(path)
    check_format(content, path)
    trained_image_size(content, path)
    checked = ["CRC-32"] if has_checksums else []
    if "sha256" in meta_of(content):
        check_hash(_state_dict(content, path), content, path)
        checked.append("SHA-256")
    return Checkpoint(path=path, content=content, checked=", ".join(checked) or "none")


def load_checkpoint(model: nn.Module, path: CheckpointSource, *, image_size: int | None = None) -> CheckpointInfo:
    """Load a published checkpoint, or one of ours, into the model; every entry must fit.

    A warning is given where the file has no checksum, so that damage cannot be noticed: files from before PyTorch 1.6,
    and safetensors files that `save_checkpoint` has not written.

    Args:
        model: model whose state dict has the published names.
        path: path or name of a file with `{"model": state_dict}`, or with the bare state dict, or of safetensors.
        image_size: size that the model runs at; a warning is given where the file records another one.

    Returns:
        Description of the file.

    Raises:
        CheckpointError: the file is missing, unreadable, damaged or does not fit. The model is then unchanged.
    """
    checkpoint = open_checkpoint(path)
    return _load(model, checkpoint, checkpoint.state(), _shapes(model.state_dict()), image_size=image_size)


def _load(
    model: nn.Module,
    checkpoint: Checkpoint,
    state: dict[str, Tensor],
    expected: Mapping[str, Shape],
    *,
    wanted: str = "i2vpp",
    image_size: int | None = None,
) -> CheckpointInfo:
    """Load entries into the model after all checks; other entries of the model stay as they are.

    Args:
        model: the network.
        checkpoint: the file.
        state: its entries, under the names of the network.
        expected: names and shapes that the entries must have.
        wanted: kind of the file.
        image_size: size that the model runs at, or None.
    """
    info = _describe(checkpoint, state, expected)
    if not info.fits:
        raise CheckpointError(*_misfit(info, state, expected, _kind(checkpoint.state()), wanted=wanted))
    check_values(state, model.state_dict(), info.path)
    if image_size is not None and info.image_size not in (None, image_size):
        warn_user(
            f"{info.path} was trained at image_size {info.image_size}, but the model runs at {image_size}; pass no "
            f'config, or the override "model.image_size={info.image_size}"'
        )
    if info.checked == "none":
        warn_user(
            f"{info.path} has no checksum, so that damaged weights in it would not be noticed; files of "
            "`save_checkpoint` have one"
        )
    model.load_state_dict(state, strict=False)  # `info.fits` has compared the names
    return info


def save_checkpoint(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    image_size: int,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write `{"model": state_dict, "meta": {...}, **extra}`; the file appears under its name only when it is complete.

    Args:
        model: whose state dict is saved.
        path: of the file; its folder is made if need be. A name that ends in `.safetensors` chooses that form.
        image_size: what the model was trained at, recorded in `meta` with a SHA-256 of the content.
        extra: more top-level entries, of tensors and plain Python data only; in a safetensors file `card` only.

    Raises:
        CheckpointError: `extra` uses a reserved name, or holds objects that could not be loaded again; or no network
            can have the image size.
        OSError: the file cannot be written; an earlier one is whole.
    """
    extra = dict(extra or {})
    reserved = sorted(extra.keys() & {"model", "meta"})
    if reserved:
        raise CheckpointError(
            f"extra must not hold {', '.join(map(repr, reserved))}: save_checkpoint writes that itself"
        )
    path = Path(path)
    with suppress(TypeError):  # what is no integer is refused below
        image_size = operator.index(image_size)  # an integer of NumPy could not be loaded again
    trained_image_size({"meta": {"image_size": image_size}}, path)
    state = model.state_dict()
    meta: dict[str, Any] = {"format": FORMAT, "image_size": image_size}
    meta["sha256"] = content_hash(state, {"meta": meta, **extra})
    with atomic_write(path) as file:
        write_content(file, {"model": state, "meta": meta, **extra}, suffix=path.suffix)
        file.flush()
        try:
            open_checkpoint(file.name)  # better to fail now than when the training is to be resumed
        except CheckpointError as error:
            raise CheckpointError(f"{path} was not saved, it could not be loaded again: {error}") from error


def read_checkpoint(path: CheckpointSource) -> dict[str, Any]:
    """Return all that a checkpoint file holds, tensors on the CPU (mapped from the file where its form allows).

    Raises:
        CheckpointError: there is no such file, it is damaged, or it is not a checkpoint of plain data.
    """
    return dict(open_checkpoint(path).content)


def inspect_checkpoint(path: CheckpointSource, expected: Mapping[str, Shape] | None = None) -> CheckpointInfo:
    """Describe a checkpoint without loading it into a model.

    Args:
        path: path or name of a SAM-I2V++, TinySAM, MobileSAM or SAM 2 checkpoint.
        expected: names and shapes to compare with; by default those of SAM-I2V++.

    Returns:
        Description of the file.

    Raises:
        CheckpointError: the file is missing, unreadable or damaged, or holds the network's entries with values that
            are not finite.
    """
    checkpoint = open_checkpoint(path)
    if expected is None:
        expected = published_entries()
    state = checkpoint.state()
    info = _describe(checkpoint, state, expected)
    if info.fits:
        check_values(state, state, info.path)
    return info


def published_entries() -> dict[str, Shape]:
    """Names and shapes of all entries of a SAM-I2V++ checkpoint."""
    from i2vpp.config import ModelConfig  # noqa: PLC0415 - the network is needed here only
    from i2vpp.modeling.i2vpp import I2VPP  # noqa: PLC0415

    with torch.device("meta"):
        return _shapes(I2VPP(ModelConfig()).state_dict())


def import_image_model(model: nn.Module, path: CheckpointSource) -> list[str]:
    """Start training from TinySAM or MobileSAM: load its image encoder, prompt encoder and mask decoder.

    Args:
        model: a SAM-I2V++ network.
        path: of `tinysam.pth` or `mobile_sam.pt`; or a name.

    Returns:
        Names of the model's entries that the file does not hold; they keep their initialisation.

    Raises:
        CheckpointError: the file is missing, unreadable or not of such a model. The model is then unchanged.
    """
    checkpoint = open_checkpoint(path)
    state = checkpoint.state()
    own = model.state_dict()
    mapped = {_own_name(name): value for name, value in state.items() if not name.endswith(".attention_bias_idxs")}
    expected = {
        name: shape
        for name, shape in _shapes(own).items()
        if name.startswith(tuple(_IMAGE_MODEL_PARTS.values()))
        and (name in mapped or not name.startswith(_IMAGE_MODEL_LACKS))
    }
    _load(model, checkpoint, mapped, expected, wanted="tinysam/mobilesam")
    return [name for name in own if name not in mapped]


def load_parts(model: nn.Module, path: CheckpointSource) -> list[str]:
    """Load a file that holds some of the network's entries under their names, such as its prompt encoder and decoder.

    Args:
        model: a SAM-I2V++ network.
        path: of a file of `torch.save` with those entries; or a name.

    Returns:
        Names of the model's entries that the file does not hold; they stay as they are.

    Raises:
        CheckpointError: the file is missing, unreadable or holds an entry that does not fit. The model is then
            unchanged.
    """
    checkpoint = open_checkpoint(path)
    state = checkpoint.state()
    own = model.state_dict()
    _load(model, checkpoint, state, {name: shape for name, shape in _shapes(own).items() if name in state})
    return [name for name in own if name not in state]


def _own_name(name: str) -> str:
    """Published name of an entry of the image model; a name that has no place is returned as it is."""
    for theirs, ours in _IMAGE_MODEL_PARTS.items():
        if name.startswith(theirs):
            name = ours + name.removeprefix(theirs)
            break
    if name.startswith("sam_mask_decoder."):
        name = name.replace(".mlp.lin1.", ".mlp.layers.0.").replace(".mlp.lin2.", ".mlp.layers.1.")
    return name


def _state_dict(content: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    state = content.get("model", content)
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        found = ", ".join(map(brief, list(content)[:_LISTED])) or "none"
        what = "its key 'model' holds no state dict" if "model" in content else "it has no key 'model'"
        raise CheckpointError(f"{path} is not a checkpoint of this network: {what}; keys found: {found}")
    state = {str(name): value for name, value in state.items()}
    check_entries(state, path)
    return state


def _shapes(state: Mapping[str, Tensor]) -> dict[str, Shape]:
    return {name: tuple(value.shape) for name, value in state.items()}


def _kind(names: Iterable[str]) -> str:
    names = list(names)

    def has(prefix: str) -> bool:
        return any(name.startswith(prefix) for name in names)

    if has("image_encoder.trunk_image.") and has("sam_mask_decoder."):
        return "i2vpp"
    if has("image_encoder.patch_embed.seq.") and has("mask_decoder."):
        return "tinysam/mobilesam"
    if has("image_encoder.trunk.") and has("sam_mask_decoder."):
        return "sam2"
    return "unknown"


def _describe(checkpoint: Checkpoint, state: Mapping[str, Tensor], expected: Mapping[str, Shape]) -> CheckpointInfo:
    shapes = _shapes(state)
    parts: Counter[str] = Counter()
    for name, value in state.items():
        if value.is_floating_point():
            parts[name.partition(".")[0]] += value.numel()
    return CheckpointInfo(
        path=checkpoint.path,
        size=checkpoint.path.stat().st_size,
        kind=_kind(state),
        num_entries=len(state),
        num_parameters=sum(parts.values()),
        dtypes=dict(Counter(str(value.dtype).removeprefix("torch.") for value in state.values())),
        parts=dict(parts),
        image_size=checkpoint.image_size,
        card=card_of(checkpoint.content),
        checked=checkpoint.checked,
        missing=tuple(name for name in expected if name not in shapes),
        unexpected=tuple(name for name in shapes if name not in expected),
        misshapen=tuple(name for name in shapes if name in expected and shapes[name] != tuple(expected[name])),
    )


def _misfit(
    info: CheckpointInfo,
    state: Mapping[str, Tensor],
    expected: Mapping[str, Shape],
    kind: str,
    *,
    wanted: str = "i2vpp",
) -> list[str]:
    """Lines of a message that lists what does not fit, one for each sort, and what the file may be instead."""
    found = _shapes(state)
    sorts = {
        "missing": [f"{name} {list(expected[name])}" for name in info.missing],
        "unexpected": [f"{name} {list(found[name])}" for name in info.unexpected],
        "of another shape": [
            f"{name} is {list(found[name])} and must be {list(expected[name])}" for name in info.misshapen
        ],
    }
    lines = [f"{info.path} does not fit the network ({info.num_entries} entries, {len(expected)} expected)"]
    for sort, entries in sorts.items():
        if entries:
            more = f", and {len(entries) - _LISTED} more" if len(entries) > _LISTED else ""
            lines.append(f"  {len(entries)} {sort}: {', '.join(entries[:_LISTED])}{more}")
    if kind != wanted and kind in _HINTS:
        lines.append(_HINTS[kind])
    return lines
