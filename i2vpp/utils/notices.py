"""Warnings of this project: in Python they name the user's line, and commands show them as plain sentences."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from i2vpp.errors import I2VPPWarning

_PACKAGE = str(Path(__file__).resolve().parent.parent) + os.sep


def warn_user(message: str, category: type[Warning] = I2VPPWarning) -> None:
    """Issue a warning that names the line outside of the package from which the package was called.

    Python shows a repeated warning of one text once per line.

    Args:
        message: one sentence.
        category: category of the warning.
    """
    level, frame = 1, sys._getframe()  # the only way to know the caller before Python 3.12
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


@contextmanager
def plain_warnings(prefix: str = "", *, silent: bool = False) -> Iterator[None]:
    """Show this project's warnings as sentences, without the line of code that they come from, as commands do.

    Args:
        prefix: what stands before `warning: `.
        silent: show none, as in all processes of a run but the first.
    """
    before = warnings.formatwarning

    def sentence(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
    ) -> str:
        if issubclass(category, I2VPPWarning):
            return f"{prefix}warning: {message}\n"
        return before(message, category, filename, lineno, line)

    with warnings.catch_warnings():
        if silent:
            warnings.simplefilter("ignore", I2VPPWarning)
        warnings.formatwarning = sentence
        try:
            yield
        finally:
            warnings.formatwarning = before
