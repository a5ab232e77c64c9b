"""Fetch the published checkpoints: resumed where it broke off, checked, and only then given their final name."""

from __future__ import annotations

import http.client
import importlib
import urllib.error
import urllib.request
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from tqdm import tqdm

from i2vpp.checkpoint import inspect_checkpoint
from i2vpp.errors import CheckpointError, I2VPPError
from i2vpp.utils.files import file_sha256, move_into_place
from i2vpp.utils.suggest import how_to_install

_DRIVE = "https://drive.google.com/drive/folders/1oN16mGGndbX7a7Gj5wWWyFDN9QHxMMoU"
_PLACES = (
    _DRIVE,
    "https://1drv.ms/f/c/f6d9d790b8550d3f/IgC1qxQ-jAg0RJ9dopj3TnX3ARPwJol7D68-Jo4TPuPYwSo",
    "https://pan.baidu.com/s/15-ipIqjfrz0Qm5iOEh4R_g?pwd=pami",
)
_CHUNK = 1 << 20  # bytes
_TIMEOUT = 30.0  # seconds without an answer


class DownloadError(I2VPPError):
    """A checkpoint that cannot be fetched; the message says where it lies and where to put it."""


@dataclass(frozen=True, kw_only=True)
class DownloadSource:
    """Where a checkpoint comes from.

    Args:
        file: name under which it is published and saved.
        kind: what `inspect_checkpoint` must say that it is.
        places: web pages from which a person can fetch it.
        url: of the file itself; without it, the file is looked up in the public Google Drive folder.
        sha256: of the file, in hexadecimal digits; None where nobody has published one.
    """

    file: str
    kind: str
    places: tuple[str, ...]
    url: str | None = None
    sha256: str | None = None


SOURCES = {
    "sam-i2vpp_8gpu": DownloadSource(file="sam-i2vpp_8gpu.pt", kind="i2vpp", places=_PLACES),
    "sam-i2vpp_32gpu": DownloadSource(file="sam-i2vpp_32gpu.pt", kind="i2vpp", places=_PLACES),
    "tinysam": DownloadSource(
        file="tinysam.pth",
        kind="tinysam/mobilesam",
        places=("https://huggingface.co/xinghaochen/tinysam/tree/main",),
        url="https://huggingface.co/xinghaochen/tinysam/resolve/main/tinysam.pth",
    ),
}


def download(name: str, folder: str | PathLike[str] = "checkpoints") -> Path:
    """Fetch a checkpoint into the folder, unless it is there already.

    Args:
        name: `sam-i2vpp_8gpu`, `sam-i2vpp_32gpu` or `tinysam`; with or without `.pt`, `.pth`.
        folder: made if need be.

    Returns:
        Path of the file, which has been checked to hold what its name says; see `describe_check`.

    Raises:
        DownloadError: unknown name, no network, no `gdown` for files on Google Drive, or not the right content. What
            had arrived of the right file is kept beside the target, and the next call goes on from there.
    """
    source = _source(name)
    target = Path(folder) / source.file
    part = target.with_name(f"{target.name}.part")
    try:
        if target.exists():
            problem = _problem(target, source)
            if problem:  # it may be the user's own work, so it is not replaced
                raise DownloadError(f"{target} exists but is not that file, move it away first: {problem}")
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.url is not None:
            _fetch(source.url, part)
        else:
            _fetch_from_drive(source.file, part)
        problem = _problem(part, source)
        if problem:
            part.unlink(missing_ok=True)  # nothing to go on from
            raise DownloadError(f"what was sent is not that file: {problem}")
        move_into_place(part, target)
    except (OSError, http.client.HTTPException, DownloadError) as error:
        kept = f"\n{part} is kept: the next try goes on from there" if part.exists() else ""
        raise DownloadError(
            f"cannot fetch {source.file}: {error}{kept}",
            f"By hand: fetch it from {' or '.join(source.places)} and save it as {target.absolute()}",
        ) from error
    return target


def download_all(folder: str | PathLike[str] = "checkpoints") -> list[Path]:
    """Fetch all checkpoints; where some fail, the others are fetched before the error is raised."""
    paths: list[Path] = []
    problems: list[str] = []
    for name in SOURCES:
        try:
            paths.append(download(name, folder))
        except DownloadError as error:
            problems += error.args
    if problems:
        raise DownloadError(*problems)
    return paths


def describe_check(name: str) -> str:
    """Say in one sentence how far `download` has checked the file of a name."""
    source = _source(name)
    if source.sha256 is not None:
        return f"{source.file}: its SHA-256 is the known one, {source.sha256}"
    return f"{source.file}: no SHA-256 is known to compare it with; its checksums, entries and values are right"


def _source(name: str) -> DownloadSource:
    source = SOURCES.get(name.removesuffix(".pth").removesuffix(".pt"))
    if source is None:
        raise DownloadError(f"unknown checkpoint {name!r}; there are {', '.join(SOURCES)}")
    return source


def _problem(path: Path, source: DownloadSource) -> str:
    """What is wrong with a file that should be the checkpoint; empty if nothing is."""
    try:
        info = inspect_checkpoint(path, expected=None if source.kind == "i2vpp" else {})
    except CheckpointError as error:
        return str(error)
    if info.kind != source.kind:
        return f"its kind is {info.kind}, not {source.kind}"
    if source.kind == "i2vpp" and not info.fits:
        return (
            f"of its entries {len(info.missing)} are missing, {len(info.unexpected)} unexpected and "
            f"{len(info.misshapen)} of another shape"
        )
    if source.sha256 is not None and (found := file_sha256(path)) != source.sha256:
        return f"its SHA-256 is {found}, not {source.sha256}"
    return ""


def _fetch(url: str, part: Path) -> None:
    """Bring `part` to the full content of the URL; what it holds already is not fetched again."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        if error.headers.get("Content-Range") == f"bytes */{have}":
            return  # all of it was there
        part.unlink()
        return _fetch(url, part)
    with response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            have = 0  # the server sends the whole file
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        with (
            part.open("ab" if have else "wb") as file,
            tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=part.stem, disable=None) as progress,
        ):
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                progress.update(len(chunk))
    arrived = part.stat().st_size
    if total is not None and arrived != total:
        raise DownloadError(f"the connection broke off after {arrived:,} of {total:,} bytes")


def _fetch_from_drive(name: str, part: Path) -> None:
    try:
        gdown = importlib.import_module("gdown")
    except ImportError as error:
        raise DownloadError(f"files on Google Drive need gdown: {how_to_install('download')}") from error
    try:
        listed = gdown.download_folder(url=_DRIVE, skip_download=True, quiet=True, use_cookies=False)
        ids = {Path(entry.path).name: entry.id for entry in listed}
        if name not in ids:
            raise DownloadError(f"the Google Drive folder holds {', '.join(sorted(ids)) or 'nothing'}")
        gdown.download(id=ids[name], output=str(part), resume=True, use_cookies=False)
    except gdown.exceptions.DownloadError as error:
        raise DownloadError(f"Google Drive: {error}") from error
