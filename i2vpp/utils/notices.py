"""Warnings that point at the user's own line."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

_PACKAGE = str(Path(__file__).resolve().parent.parent) + os.sep


def warn_user(message: str, category: type[Warning] = UserWarning) -> None:
    """Issue a warning that names the line outside of the package from which the package was called.

    Python shows a repeated warning of one text once per line.

    Args:
        message: one sentence.
        category: of the warning.
    """
    level, frame = 1, sys._getframe()  # the only way to know the caller before Python 3.12
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
