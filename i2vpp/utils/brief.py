"""Values and numbers in messages: short and on one line; showing a value never fails."""

from __future__ import annotations

from reprlib import Repr

LONGEST = 200
"""Characters of a value in a message."""

_REPR = Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = LONGEST


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: `1 frame`, `2 frames`.

    Args:
        number: 0 or more.
        noun: in the singular; its plural ends in s.
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def brief(value: object) -> str:
    """Return `repr(value)`, shortened where it is long or deeply nested.

    Python refuses to write out integers of more than 4,300 digits; their length is said instead.
    """
    if isinstance(value, int) and value.bit_length() > 1024:
        return f"an integer of {value.bit_length()} bits"
    try:
        text = _REPR.repr(value)
    except (ValueError, RecursionError):  # such an integer, inside a list or mapping
        return f"a {type(value).__name__}"
    text = " ".join(text.split()) if "\n" in text else text  # arrays and tensors are written in rows
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
