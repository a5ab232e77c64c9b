"""Errors of the disk, which may be full, become one RunError that says what to do."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from i2vpp.errors import RunError
from i2vpp.utils.files import remove_leftovers

RESUME = (
    "Make room, or move the run's folder to another disk and set run.folder; then start again: the run resumes from "
    "its last checkpoint"
)


@contextmanager
def writing(path: Path, hint: str = RESUME) -> Iterator[None]:
    """Clear what killed processes left beside `path`, and turn errors of the disk into one clear RunError.

    Args:
        path: the file that is written in the block, by `i2vpp.utils.files.atomic_write`.
        hint: end of the message, which says what to do.

    Raises:
        RunError: the file could not be written, for example because the disk is full; the previous one is whole.
    """
    try:
        remove_leftovers(path)
        yield
    except (OSError, RuntimeError) as error:
        # Where a write fails, torch's writer fails again on closing the file and hides the first error.
        cause = error.__context__ if isinstance(error, RuntimeError) else error
        if not isinstance(cause, OSError):
            raise
        folder = next(parent for parent in path.parents if parent.exists())
        previous = "the file written before is whole" if path.exists() else "there is no earlier one"
        raise RunError(
            f"{path} could not be saved: {cause.strerror or cause} "
            f"({shutil.disk_usage(folder).free / 2**20:,.0f} MB free there); {previous}. {hint}"
        ) from error


@contextmanager
def appending(path: Path) -> Iterator[None]:
    """Turn errors of the disk into one clear RunError where records are added to a file or a folder.

    Args:
        path: file or folder of the records.

    Raises:
        RunError: something could not be written.
    """
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{path} could not be written: {error.strerror or error}; make room, then start again: the run resumes "
            "from its last checkpoint"
        ) from error
