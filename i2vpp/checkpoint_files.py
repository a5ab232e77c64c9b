"""Which file a checkpoint is: users give a path, or a name that is looked up in the `checkpoints` folders."""

from __future__ import annotations

import os
from pathlib import Path

from i2vpp.errors import CheckpointError

PUBLISHED = ("sam-i2vpp_8gpu", "sam-i2vpp_32gpu", "tinysam")  # what `i2vpp download` knows
DEMO = "i2vpp-demo"  # comes with the repository, and is too large for the wheel
SUFFIXES = (".pt", ".pth")
FOLDER = "checkpoints"


def find_checkpoint(name_or_path: str | os.PathLike[str]) -> Path:
    """Return the file that is meant by a path or by a name such as `i2vpp-demo`.

    A name has no folder and no suffix. A file that is called so wins; else `NAME.pt` and `NAME.pth` are looked up in
    each of `checkpoint_folders()`.

    Raises:
        CheckpointError: there is no such file; the message says what there is, and how to get what is not there.
    """
    path = Path(name_or_path)
    if path.exists() and not path.is_dir():
        return path
    is_name = bool(path.name) and path == Path(path.name) and not path.suffix
    found = named_checkpoint(path.name) if is_name else None
    if found is not None:
        return found
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder, not a checkpoint file")
    if is_name:
        raise CheckpointError(_unknown(path.name))
    raise CheckpointError(
        f"checkpoint {path} does not exist (looked from {Path.cwd()}); {_how_to_get(path.stem, path.parent)}"
    )


def named_checkpoint(name: str) -> Path | None:
    """Return the first `NAME.pt` or `NAME.pth` in `checkpoint_folders()`; None if there is none."""
    places = (folder / f"{name}{suffix}" for folder in checkpoint_folders() for suffix in SUFFIXES)
    return next((path for path in places if path.is_file()), None)


def checkpoint_folders() -> list[Path]:
    """Where names are looked up: `checkpoints` in the working folder, then in the checkout that i2vpp is imported from.

    An i2vpp installed from a wheel has no checkout.
    """
    roots = [Path.cwd()]
    root = Path(__file__).resolve().parent.parent
    if root != roots[0] and (root / "pyproject.toml").is_file():
        roots.append(root)
    return [root / FOLDER for root in roots]


def _unknown(name: str) -> str:
    folders = checkpoint_folders()
    files = (file for folder in folders if folder.is_dir() for file in folder.iterdir() if file.suffix in SUFFIXES)
    there = sorted({file.stem for file in files})
    return (
        f"there is no checkpoint {name!r}: no file of that name in {Path.cwd()}, and no "
        f"{' or '.join(f'{name}{suffix}' for suffix in SUFFIXES)} in {' or '.join(map(str, folders))} "
        f"(there: {', '.join(there) or 'no checkpoint'}); {_how_to_get(name, folders[0])}"
    )


def _how_to_get(name: str, folder: Path) -> str:
    if name == DEMO:
        return (
            f"it comes with the git repository of i2vpp, not with the installed package: copy {FOLDER}/{DEMO}.pt "
            f"from a checkout into {folder}"
        )
    names = [name] if name in PUBLISHED else PUBLISHED
    return f"{' or '.join(f'`i2vpp download {name}`' for name in names)} fetches one"
