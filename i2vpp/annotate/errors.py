"""What can go wrong with annotations on disk."""

from __future__ import annotations

import errno
import sqlite3

from i2vpp.errors import I2VPPError


class AnnotationError(I2VPPError):
    """A file of annotations that cannot be used: damaged, foreign, of another video, locked, not writable."""


class StaleRevisionError(AnnotationError):
    """A request was made in view of a state that has changed since; nothing was done."""


class DiskFullError(AnnotationError):
    """No space is left; nothing was changed, and what was stored before stays readable."""


class MaskFolderError(I2VPPError):
    """Masks that cannot be imported, or a folder that cannot be exported to; the message names the file."""


class CancelledError(I2VPPError):
    """An export or import was cancelled; nothing of it is left."""


def is_disk_full(error: BaseException) -> bool:
    """Whether an error of the file system, of SQLite or of FFmpeg says that no space (or quota) is left."""
    if isinstance(error, sqlite3.Error):
        return "disk is full" in str(error)
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
