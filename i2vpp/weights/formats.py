"""The two forms of a checkpoint file, and the check that a file is undamaged before anything in it is used.

`torch.save` writes a zip archive with a CRC-32 for each record, but `torch.load` does not compare them: that is done
here. Files of torch.save from before 1.6 and safetensors files have no checksums; ours in either form carry a SHA-256
of their content in `meta` (see `i2vpp.weights.checks`).
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from i2vpp.errors import CheckpointError

SAFETENSORS = ".safetensors"

_ZIP_MAGIC = b"PK\x03\x04"
_OLD_MAGIC = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19"  # of torch.save before 1.6, near the beginning of the file
_DATA = "/data/"  # in the names of the records that hold a tensor's values
_OURS = ("meta", "card")  # metadata that we write into every safetensors file
_HEAD = 32  # bytes in which a file's form shows
_CHUNK = 1 << 20  # bytes
_ADVICE = "an interrupted download or copy? Fetch or copy it again"


def read_content(path: Path) -> tuple[dict[str, Any], bool]:
    """Read a checkpoint file of any form as plain data; nothing in it is executed.

    Args:
        path: of a file of torch.save (zip archive, or the form from before PyTorch 1.6) or of safetensors.

    Returns:
        The top-level entries, tensors on the CPU, and whether the form has checksums, which were compared then. Entries
        of a safetensors file lie under `model`, and its metadata, where we wrote them, under `meta` and `card`.

    Raises:
        CheckpointError: the file cannot be read, is damaged, or is not a checkpoint of plain data.
    """
    try:
        head = _head(path)
        if _is_safetensors(path, head):
            return _read_safetensors(path), False
        zipped = head.startswith(_ZIP_MAGIC) or zipfile.is_zipfile(path)
        if zipped:
            _compare_checksums(path)
        elif _OLD_MAGIC not in head:
            raise CheckpointError(f"{path} is not a PyTorch checkpoint: {_no_form(head)}; nothing in it was executed")
        content = _load(path, zipped=zipped)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a checkpoint ({{'model': state_dict}})")
    return content, zipped


def write_content(file: IO[bytes], content: Mapping[str, Any], *, suffix: str) -> None:
    """Write a checkpoint in the form that belongs to the suffix of its name.

    Args:
        file: open for writing.
        content: `model`, `meta` and more; a safetensors file holds `model`, `meta` and `card` only.
        suffix: `.safetensors`, or any other for `torch.save`.

    Raises:
        CheckpointError: an entry has no place in a safetensors file.
        OSError: the file cannot be written.
    """
    if suffix != SAFETENSORS:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            # Where a write fails, torch's writer fails again on closing the file and hides the first error.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
        return
    more = sorted(content.keys() - {"model", *_OURS})
    if more:
        raise CheckpointError(
            f"a {SAFETENSORS} file holds weights and a card only, not {', '.join(map(repr, more))}; save it as .pt"
        )
    # Copies, as entries that share memory or have gaps are refused by safetensors.
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in content["model"].items()}
    try:
        metadata = {key: json.dumps(content.get(key, {}), ensure_ascii=False) for key in _OURS}
        written = safetensors.torch.save(tensors, {"format": "pt", **metadata})
    except (TypeError, ValueError) as error:  # ValueError also for text that is no Unicode
        raise CheckpointError(f"the card of a {SAFETENSORS} file must be text by heading: {error}") from error
    file.write(written)


def _head(path: Path) -> bytes:
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path} is empty: {_ADVICE}")
    with path.open("rb") as file:
        return file.read(_HEAD)


def _is_safetensors(path: Path, head: bytes) -> bool:
    """Judge by the suffix, or by the length of the JSON header and its first bracket, with which such a file begins."""
    length = int.from_bytes(head[:8], "little")
    return path.suffix == SAFETENSORS or (head[8:9] == b"{" and 2 <= length <= path.stat().st_size - 8)


def _no_form(head: bytes) -> str:
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it is a web page"
    if head.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS, whose file `git lfs pull` fetches"
    return "not a file of torch.save with plain tensors, nor of safetensors"


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except Exception as error:  # its own error class, and others where torch lacks a dtype
        raise CheckpointError(f"{path} is cut off, damaged or no safetensors file ({error}): {_ADVICE}") from error
    described = {key: _described(path, key, metadata[key]) for key in _OURS if key in metadata}
    if described and "sha256" not in described.get("meta", {}):
        raise CheckpointError(f"{path} is damaged: its metadata lacks what i2vpp writes (meta.sha256): {_ADVICE}")
    return {"model": tensors, **described}


def _described(path: Path, key: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: its metadata {key!r} must be a JSON object; got {text[:40]!r}")
    return value


def _load(path: Path, *, zipped: bool) -> Any:
    """Unpickle plain data; a zip archive is mapped into memory, not read."""
    try:
        with path.open("rb") as file:
            # The stream is read by the old form only, and tells whether the file ends where it should.
            content = torch.load(path if zipped else file, map_location="cpu", weights_only=True, mmap=zipped)
            surplus = not zipped and bool(file.read(1))
    except Exception as error:  # the parsers behind torch.load raise nearly anything on a file that is not theirs
        raise CheckpointError(_unreadable(path, error, zipped=zipped)) from error
    if surplus:
        raise CheckpointError(f"{path} goes on after its last tensor: {_ADVICE}")
    return content


def _unreadable(path: Path, error: Exception, *, zipped: bool) -> str:
    forbidden = re.search(r"GLOBAL\s+(\S+)", str(error))
    if forbidden:
        return (
            f"{path} holds Python objects ({forbidden[1]}) next to its tensors; loading them would run code, so the "
            "file is refused and nothing in it was executed"
        )
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    if "weights" in reason.lower():  # torch's advice to load the file unsafely
        reason = "not a file of torch.save with plain tensors"
    what = "damaged, or not a PyTorch checkpoint" if zipped else "not a PyTorch checkpoint"
    return f"{path} is {what}: {reason}; nothing in it was executed"


def _compare_checksums(path: Path) -> None:
    """Compare every record of the archive with its CRC-32, and its place with that of the others.

    Raises:
        CheckpointError: the archive is cut off, or a record is damaged; the message names its entry where it is known.
    """
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            names = {record.filename for record in records}
            # torch reads the bytes where they lie, and the first record of a name; no file of torch.save needs the rest
            if len(names) < len(records) or sum(record.file_size for record in records) > size:
                raise zipfile.BadZipFile("its records overlap")
            if any(r.file_size != r.compress_size for r in records if r.compress_type == zipfile.ZIP_STORED):
                raise zipfile.BadZipFile("its directory contradicts itself")
            packed = [record.filename for record in records if record.compress_type != zipfile.ZIP_STORED]
            if packed:
                raise CheckpointError(
                    f"{path} is not as torch.save writes it: its record {packed[0]!r} is compressed; save the "
                    "checkpoint again"
                )
            damaged = [record for record in records if not _is_whole(archive, record)]
    except CheckpointError:
        raise
    except Exception as error:  # zipfile raises several kinds on damaged directories
        raise CheckpointError(f"{path} is cut off or damaged ({size:,} bytes): {_ADVICE}") from error
    if damaged:
        more = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
        raise CheckpointError(
            f"{path} is damaged: {_entry_of(path, damaged, records)}{more} does not match its checksum: {_ADVICE}"
        )


def _is_whole(archive: zipfile.ZipFile, record: zipfile.ZipInfo) -> bool:
    try:
        with archive.open(record) as content:
            while content.read(_CHUNK):
                pass
    except (zipfile.BadZipFile, EOFError):
        return False
    return True


def _entry_of(path: Path, damaged: list[zipfile.ZipInfo], records: list[zipfile.ZipInfo]) -> str:
    """Name the first damaged record, and the tensors in it where the records that say which they are are whole.

    Mapped into memory, the tensors' storages lie in the order of the records.
    """
    name = f"record {damaged[0].filename!r}"
    if not all(_DATA in record.filename for record in damaged):
        return name
    places: dict[int, list[str]] = {}
    for entry, value in _tensors(_load(path, zipped=True)):
        places.setdefault(value.untyped_storage().data_ptr(), []).append(entry)
    stored = sorted((r for r in records if _DATA in r.filename), key=lambda record: record.header_offset)
    if len(places) != len(stored):
        return name
    return f"entry {', '.join(places[sorted(places)[stored.index(damaged[0])]])} ({name})"


def _tensors(content: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield all strided tensors in nested mappings and lists, with dotted names; `model.` in front is left out."""
    waiting: list[tuple[str, Any]] = [("", content)]
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, Mapping):
            waiting += [(f"{name}.{key}", inner) for key, inner in value.items()]
        elif isinstance(value, (list, tuple)):
            waiting += [(f"{name}.{index}", inner) for index, inner in enumerate(value)]
        elif isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta:
            yield name.removeprefix(".").removeprefix("model."), value
