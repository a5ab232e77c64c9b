"""Which file a checkpoint is: users give a path, or a name that is looked up in the `checkpoints` folders."""

from __future__ import annotations

import os
from pathlib import Path

from i2vpp.errors import CheckpointError
from i2vpp.utils.brief import brief

DOWNLOADABLE = ("sam-i2vpp_8gpu", "sam-i2vpp_32gpu", "tinysam")  # what `i2vpp download` knows
DEMO = "i2vpp-demo"  # comes with the repository, and is too large for the wheel
SUFFIXES = (".pt", ".pth", ".safetensors")
PRETRAINED = (
    "model.safetensors"  # the file that a folder given as a checkpoint must hold; so do repositories of the Hub
)
FOLDER = "checkpoints"

_LISTED = 8  # files listed in an error


def find_checkpoint(name_or_path: str | os.PathLike[str]) -> Path:
    """Return the file that is meant by a path, by a folder, or by a name such as `i2vpp-demo`.

    A name has no folder and no suffix. A file that is called so wins; else `NAME.pt`, `NAME.pth`, `NAME.safetensors`
    and `NAME/model.safetensors` are looked up in each of `checkpoint_folders()`. A folder stands for the
    `model.safetensors` in it.

    Raises:
        CheckpointError: there is no such file; the message says what there is, and how to get what is not there.
    """
    if not isinstance(name_or_path, str | os.PathLike) or isinstance(os.fspath(name_or_path), bytes):
        raise CheckpointError(
            f"a checkpoint must be a path or a name, such as 'sam-i2vpp_32gpu'; got {type(name_or_path).__name__} "
            f"{brief(name_or_path)}"
        )
    path = Path(name_or_path)
    try:
        return _find(path)
    except (OSError, ValueError) as error:  # a name that no file can have, or a folder that may not be read
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"checkpoint {brief(str(path))} cannot be looked up: {error}") from error


def _find(path: Path) -> Path:
    if path.exists() and not path.is_dir():
        return path
    is_name = bool(path.name) and path == Path(path.name) and not path.suffix
    found = named_checkpoint(path.name) if is_name else None
    if found is not None:
        return found
    if path.is_dir():
        if (path / PRETRAINED).is_file():
            return path / PRETRAINED
        files = sorted(file.name for file in path.iterdir() if file.suffix in SUFFIXES)
        there = f"name one of its files: {', '.join(files[:_LISTED])}" if files else f"and holds no {PRETRAINED}"
        raise CheckpointError(f"{path} is a folder, not a checkpoint file; {there}")
    if is_name:
        raise CheckpointError(_unknown(path.name))
    raise CheckpointError(
        f"checkpoint {path} does not exist (looked from {Path.cwd()}); {_how_to_get(path.stem, path.parent)}"
    )


def named_checkpoint(name: str) -> Path | None:
    """Return the first file of a name in `checkpoint_folders()`, see `find_checkpoint`; None if there is none."""
    files = (*(f"{name}{suffix}" for suffix in SUFFIXES), f"{name}/{PRETRAINED}")
    places = (folder / file for folder in checkpoint_folders() for file in files)
    return next((path for path in places if path.is_file()), None)


def checkpoint_folders() -> list[Path]:
    """Where names are looked up: `checkpoints` in the working folder, then in the checkout that i2vpp is imported from.

    An i2vpp installed from a wheel has no checkout.
    """
    roots = [Path.cwd()]
    root = Path(__file__).resolve().parents[2]
    if root != roots[0] and (root / "pyproject.toml").is_file():
        roots.append(root)
    return [root / FOLDER for root in roots]


def where_weights_are() -> str:
    """Say where weights come from, as the end of a message."""
    return (
        f"`i2vpp download {DOWNLOADABLE[1]}` fetches the authors' weights, and {DEMO}, a small demonstration, is "
        f"{FOLDER}/{DEMO}.pt of i2vpp's git repository"
    )


def demo_checkpoint() -> Path:
    """Return the demonstration's weights, which commands take where no checkpoint is named.

    Raises:
        CheckpointError: they are not here.
    """
    found = named_checkpoint(DEMO)
    if found is None:
        raise CheckpointError(
            f"there are no weights: no --checkpoint is given, and {DEMO}.pt is not in "
            f"{' or '.join(map(str, checkpoint_folders()))}; {where_weights_are()}; --untrained runs without weights, "
            "and its masks mean nothing"
        )
    return found


def _unknown(name: str) -> str:
    folders = checkpoint_folders()
    files = (file for folder in folders if folder.is_dir() for file in folder.iterdir() if file.suffix in SUFFIXES)
    there = sorted({file.stem for file in files})
    return (
        f"there is no checkpoint {name!r}: no file of that name in {Path.cwd()}, and no "
        f"{', '.join(f'{name}{suffix}' for suffix in SUFFIXES)} in {' or '.join(map(str, folders))} "
        f"(there: {', '.join(there) or 'no checkpoint'}); {_how_to_get(name, folders[0])}"
    )


def _how_to_get(name: str, folder: Path) -> str:
    if name == DEMO:
        return (
            f"it comes with the git repository of i2vpp, not with the installed package: copy {FOLDER}/{DEMO}.pt "
            f"from a checkout into {folder}"
        )
    names = [name] if name in DOWNLOADABLE else DOWNLOADABLE
    return f"{' or '.join(f'`i2vpp download {name}`' for name in names)} fetches one"
