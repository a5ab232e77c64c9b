"""Errors for pages: an HTTP status, and a message without paths outside of the opened folder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from i2vpp.annotate.errors import AnnotationError, DiskFullError, StaleRevisionError, is_disk_full
from i2vpp.annotate.tracking.model import ModelError
from i2vpp.errors import I2VPPError, VideoError

EXPECTED = (I2VPPError, OSError, RuntimeError, MemoryError)
"""Errors of bad input, of a disk or of a GPU, which may happen. Any other exception is a bug."""

_ABSOLUTE = re.compile(r"(?<![\w.:/])(?:/|[A-Za-z]:\\)(?:[^\s/\\'\"]+[/\\])+([^\s/\\'\"]*)")


class BusyError(I2VPPError):
    """Another job is running; it has to end, or to be cancelled, first."""


class NotFoundError(I2VPPError):
    """There is no such video, frame or file."""


class RequestError(I2VPPError):
    """A request that makes no sense.

    Args:
        message: message for the page.
        status: HTTP status.
    """

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


_STATUS: tuple[tuple[type[BaseException], int], ...] = (
    (NotFoundError, 404),
    (StaleRevisionError, 409),
    (BusyError, 409),
    (DiskFullError, 507),
    (AnnotationError, 500),
    (ModelError, 503),
    (VideoError, 422),
    (I2VPPError, 400),
    (IndexError, 404),
)


class Problems:
    """Finds the messages for errors.

    Args:
        opened: the opened folder; paths in it are shown relative to it.
        others: folders that are not to be shown; paths in them are cut to what lies in them.
    """

    def __init__(self, opened: Path, others: Sequence[Path] = ()) -> None:
        folders = {str(path) for base in (opened, *others) for path in (base, base.absolute(), base.resolve())}
        self._folders = sorted((f for f in folders if len(f) > 1), key=len, reverse=True)

    def status(self, error: BaseException) -> int:
        """Return the status of HTTP for an error."""
        if isinstance(error, RequestError):
            return error.status
        if is_disk_full(error):
            return 507
        return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)

    def words(self, error: BaseException) -> str:
        """Return an error's message without paths beyond the opened folder."""
        if is_disk_full(error) and not isinstance(error, I2VPPError):
            return "no space is left on the disk; nothing was changed. Free some and try again"
        if isinstance(error, OSError) and error.strerror:
            named = f" ({Path(str(error.filename)).name})" if error.filename else ""
            return f"the file system says: {error.strerror}{named}"
        if isinstance(error, MemoryError) or "out of memory" in str(error):
            return f"no memory is left: {self.hide(_first_line(error))} Annotations are kept; try with fewer objects."
        if isinstance(error, I2VPPError):
            return self.hide(str(error))
        return f"the network failed: {self.hide(_first_line(error))}; annotations are kept"

    def hide(self, text: str) -> str:
        """Return text without paths beyond the opened folder."""
        for folder in self._folders:
            text = text.replace(f"{folder}/", "").replace(folder, Path(folder).name)
        return _ABSOLUTE.sub(r"\1", text)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
