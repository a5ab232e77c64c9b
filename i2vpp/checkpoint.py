"""Checkpoints: strict loading and saving under the published names, and the import of TinySAM and MobileSAM.

A checkpoint is a file of `torch.save` that holds `{"model": state_dict}`; ours add `"meta"`, and training adds more.
Files are read as plain data (`weights_only`): a pickle that wants to run code is refused, never executed.
What is read may be named by its path or by a name such as `i2vpp-demo`; see `find_checkpoint`.
"""

from __future__ import annotations

import os
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from i2vpp.checkpoint_files import find_checkpoint
from i2vpp.errors import CheckpointError

FORMAT = 1  # version of what `save_checkpoint` writes

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
    """What a checkpoint file holds.

    Args:
        path: the file.
        size: of the file, in bytes.
        kind: `i2vpp`, `tinysam/mobilesam`, `sam2` or `unknown`, judged by the names of the entries.
        num_entries: entries of the state dict.
        num_parameters: floating-point values in them, running statistics included.
        dtypes: how many entries have each dtype.
        parts: floating-point values of each top-level part of the network.
        image_size: the input size the weights were trained at, where the file says so.
        card: notes on licence, data, results and limits by heading, where the file has any.
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
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshapen: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether the file holds exactly the entries of the network."""
        return not (self.missing or self.unexpected or self.misshapen)


def load_checkpoint(model: nn.Module, path: str | os.PathLike[str], *, image_size: int | None = None) -> CheckpointInfo:
    """Load a published checkpoint, or one of ours, into the model; every entry must fit.

    Args:
        model: whose state dict has the published names.
        path: of a file with `{"model": state_dict}`, or with the bare state dict; or a name.
        image_size: what the model runs at; a warning is given where the file says that it was trained at another.

    Raises:
        CheckpointError: the file is missing, unreadable or does not fit. The model is then unchanged.
    """
    path = find_checkpoint(path)
    content = read_checkpoint(path)
    expected = _shapes(model.state_dict())
    state = _state_dict(content, path)
    info = _describe(path, content, state, expected)
    if not info.fits:
        raise CheckpointError(_misfit(info, state, expected, info.kind))
    if image_size is not None and info.image_size not in (None, image_size):
        warnings.warn(
            f"{info.path} was trained at image_size {info.image_size}, but the model runs at {image_size}; pass no "
            f'config, or the override "model.image_size={info.image_size}"',
            stacklevel=2,
        )
    model.load_state_dict(state, strict=True)
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
        path: of the file; its folder is made if need be.
        image_size: what the model was trained at, recorded in `meta`.
        extra: more top-level entries, of tensors and plain Python data only.

    Raises:
        CheckpointError: `extra` uses a reserved name, or holds objects that could not be loaded again.
    """
    extra = dict(extra or {})
    reserved = sorted(extra.keys() & {"model", "meta"})
    if reserved:
        raise CheckpointError(
            f"extra must not hold {', '.join(map(repr, reserved))}: save_checkpoint writes that itself"
        )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    content = {"model": model.state_dict(), "meta": {"format": FORMAT, "image_size": image_size}, **extra}
    try:
        with temporary.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        try:
            read_checkpoint(temporary)  # better to fail now than when the training is to be resumed
        except CheckpointError as error:
            raise CheckpointError(f"{path} was not saved, it could not be loaded again: {error}") from error
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return all that a checkpoint file holds, tensors on the CPU (mapped from the file where its form allows).

    Raises:
        CheckpointError: there is no such file, or it is not a checkpoint of plain data.
    """
    path = find_checkpoint(path)
    zipped = _check_readable(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # the parsers behind torch.load raise nearly anything on a file that is not theirs
        raise CheckpointError(_unreadable(path, error)) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a checkpoint ({{'model': state_dict}})")
    version = _meta(content).get("format", FORMAT)
    if not isinstance(version, int) or version > FORMAT:
        raise CheckpointError(f"{path} has format {version!r}; this version of i2vpp reads up to {FORMAT}: update it")
    return content


def inspect_checkpoint(path: str | os.PathLike[str], expected: Mapping[str, Shape] | None = None) -> CheckpointInfo:
    """Say what a checkpoint holds, without loading it into a model.

    Args:
        path: of a SAM-I2V++, TinySAM, MobileSAM or SAM 2 checkpoint; or a name.
        expected: names and shapes to compare with; by default those of SAM-I2V++.

    Raises:
        CheckpointError: the file is missing or unreadable.
    """
    path = find_checkpoint(path)
    content = read_checkpoint(path)
    if expected is None:
        expected = published_entries()
    return _describe(path, content, _state_dict(content, path), expected)


def published_entries() -> dict[str, Shape]:
    """Names and shapes of all entries of a SAM-I2V++ checkpoint."""
    from i2vpp.config import ModelConfig  # noqa: PLC0415 - the network is needed here only
    from i2vpp.modeling.i2vpp import I2VPP  # noqa: PLC0415

    with torch.device("meta"):
        return _shapes(I2VPP(ModelConfig()).state_dict())


def import_image_model(model: nn.Module, path: str | os.PathLike[str]) -> list[str]:
    """Start training from TinySAM or MobileSAM: load its image encoder, prompt encoder and mask decoder.

    Args:
        model: a SAM-I2V++ network.
        path: of `tinysam.pth` or `mobile_sam.pt`; or a name.

    Returns:
        Names of the model's entries that the file does not hold; they keep their initialisation.

    Raises:
        CheckpointError: the file is missing, unreadable or not of such a model. The model is then unchanged.
    """
    path = find_checkpoint(path)
    content = read_checkpoint(path)
    state = _state_dict(content, path)
    own = _shapes(model.state_dict())
    mapped = {_own_name(name): value for name, value in state.items() if not name.endswith(".attention_bias_idxs")}
    expected = {
        name: shape
        for name, shape in own.items()
        if name.startswith(tuple(_IMAGE_MODEL_PARTS.values()))
        and (name in mapped or not name.startswith(_IMAGE_MODEL_LACKS))
    }
    info = _describe(path, content, mapped, expected)
    if not info.fits:
        raise CheckpointError(_misfit(info, mapped, expected, _kind(state), wanted="tinysam/mobilesam"))
    model.load_state_dict(mapped, strict=False)
    return [name for name in own if name not in mapped]


def load_parts(model: nn.Module, path: str | os.PathLike[str]) -> list[str]:
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
    path = find_checkpoint(path)
    content = read_checkpoint(path)
    state = _state_dict(content, path)
    own = _shapes(model.state_dict())
    expected = {name: shape for name, shape in own.items() if name in state}
    info = _describe(path, content, state, expected)
    if not info.fits:
        raise CheckpointError(_misfit(info, state, expected, _kind(state)))
    model.load_state_dict(state, strict=False)
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


def _check_readable(path: Path) -> bool:
    """Raise if the file is empty or cut off; return whether it has the zip form that can be mapped into memory."""
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path} is empty: an interrupted download or copy?")
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return False
    try:
        zipfile.ZipFile(path).close()
    except Exception as error:  # zipfile raises several kinds on damaged directories
        raise CheckpointError(
            f"{path} is cut off or damaged ({path.stat().st_size:,} bytes): an interrupted download or copy?"
        ) from error
    return True


def _unreadable(path: Path, error: Exception) -> str:
    forbidden = re.search(r"GLOBAL\s+(\S+)", str(error))
    if forbidden:
        return (
            f"{path} holds Python objects ({forbidden[1]}) next to its tensors; loading them would run code, so the "
            "file is refused and nothing in it was executed"
        )
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    if "weights" in reason.lower():  # torch's advice to load the file unsafely
        reason = "not a file of torch.save with plain tensors"
    return f"{path} is not a PyTorch checkpoint: {reason}; nothing in it was executed"


def _meta(content: Mapping[str, Any]) -> Mapping[str, Any]:
    meta = content.get("meta")
    return meta if isinstance(meta, Mapping) else {}


def _state_dict(content: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """The entries of the network, which lie under `model` or, in image models, at the top."""
    state = content.get("model", content)
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        found = ", ".join(map(repr, list(content)[:_LISTED])) or "none"
        what = "its key 'model' holds no state dict" if "model" in content else "it has no key 'model'"
        raise CheckpointError(f"{path} is not a checkpoint of this network: {what}; keys found: {found}")
    return {str(name): value for name, value in state.items()}


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


def _describe(
    path: Path,
    content: Mapping[str, Any],
    state: Mapping[str, Tensor],
    expected: Mapping[str, Shape],
) -> CheckpointInfo:
    shapes = _shapes(state)
    parts: Counter[str] = Counter()
    for name, value in state.items():
        if value.is_floating_point():
            parts[name.partition(".")[0]] += value.numel()
    image_size, card = _meta(content).get("image_size"), content.get("card")
    return CheckpointInfo(
        path=path,
        size=path.stat().st_size,
        kind=_kind(state),
        num_entries=len(state),
        num_parameters=sum(parts.values()),
        dtypes=dict(Counter(str(value.dtype).removeprefix("torch.") for value in state.values())),
        parts=dict(parts),
        image_size=image_size if isinstance(image_size, int) else None,
        card={str(key): str(text) for key, text in card.items()} if isinstance(card, Mapping) else {},
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
) -> str:
    """Message that lists what does not fit, a line for each sort, and what the file may be instead."""
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
    return "\n".join(lines)
