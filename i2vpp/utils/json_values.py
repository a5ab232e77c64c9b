"""Checks of the values in JSON that people or pages write; every error is a PromptError that names the value."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from i2vpp.errors import PromptError
from i2vpp.utils.brief import brief
from i2vpp.utils.suggest import did_you_mean

FARTHEST = 1e6
"""Largest absolute coordinate in pixels. Strokes may leave the frame, but no drawing reaches further than this."""

_LONGEST = 100  # characters of a value in a message


def json_object(name: str, value: Any, allowed: Collection[str]) -> dict[str, Any]:
    """Return a JSON object that has no other keys than the allowed ones.

    Args:
        name: name of the value, for messages.
        value: what `json.loads` returned.
        allowed: all keys; any of them may be missing.

    Raises:
        PromptError: it is no object, or has another key.
    """
    keys = sorted(allowed)
    if not isinstance(value, dict):
        raise PromptError(f"{name} must be an object with {', '.join(keys)}; got {shown_json(value)}")
    for key in value:
        if key not in allowed:
            raise PromptError(f"unknown key {brief(key)} in {name}; {did_you_mean(key, keys)}")
    return value


def json_list(name: str, value: Any) -> list[Any]:
    """Return a JSON list.

    Args:
        name: name of the value, for messages.
        value: what `json.loads` returned.

    Raises:
        PromptError: it is anything else.
    """
    if not isinstance(value, list):
        raise PromptError(f"{name} must be a list; got {shown_json(value)}")
    return value


def json_flag(name: str, value: Any) -> bool:
    """Return a JSON boolean.

    Args:
        name: name of the value, for messages.
        value: what `json.loads` returned.

    Raises:
        PromptError: it is anything else.
    """
    if not isinstance(value, bool):
        raise PromptError(f"{name} must be true or false; got {shown_json(value)}")
    return value


def json_integer(name: str, value: Any, *, least: int = 0) -> int:
    """Return a JSON integer that JavaScript can hold, which is one below 2^53.

    Args:
        name: name of the value, for messages.
        value: what `json.loads` returned; booleans and floats such as 1.0 are refused.
        least: smallest number allowed.

    Raises:
        PromptError: it is anything else.
    """
    if type(value) is not int or not least <= value < 2**53:
        raise PromptError(f"{name} must be an integer of {least} or more; got {shown_json(value)}")
    return value


def json_numbers(name: str, value: Any, form: str) -> list[float]:
    """Return a JSON list of as many finite numbers as `form` names.

    Args:
        name: name of the value, for messages.
        value: what `json.loads` returned.
        form: what the numbers are, such as `x, y`; a single one stands by itself, not in a list.

    Raises:
        PromptError: it is anything else, or a number is larger than `FARTHEST`.
    """
    count = form.count(",") + 1
    numbers = [value] if count == 1 else value
    if (
        not isinstance(numbers, list)
        or len(numbers) != count
        or not all(type(number) in (int, float) and abs(number) <= FARTHEST for number in numbers)
    ):
        words = "a finite number" if count == 1 else f"{count} finite numbers ({form})"
        raise PromptError(f"{name} must be {words} in pixels; got {shown_json(value)}")
    return [float(number) for number in numbers]


def shown_json(value: Any) -> str:
    """Return the beginning of a value as it is spelled in JSON, for a message."""
    try:
        text = json.dumps(value, default=repr)
    except (RecursionError, ValueError):
        return brief(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
