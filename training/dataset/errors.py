"""Turn any error in reading an item into a DataError of that item."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from i2vpp.errors import DataError, I2VPPError

_LONGEST = 300  # characters of another library's message


@contextmanager
def item_errors(item: str) -> Iterator[None]:
    """Make a DataError of whatever the reading of an item raises, so that it is a failure of that item alone.

    Decoders and parsers raise nearly anything on files that somebody else wrote. Errors of this package pass as they
    are. MemoryError passes too, since it is about the machine, and so do interrupts.

    Args:
        item: names the item in the message.

    Raises:
        DataError: instead of any other exception than those.
    """
    try:
        yield
    except (I2VPPError, MemoryError):
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        raise DataError(f"{item} cannot be read ({type(error).__name__}: {text[:_LONGEST]})") from error
