"""YAML from files and command lines: read as plain data, with limits that keep a small text from becoming huge data.

An alias (`*name`) repeats an earlier node (`&name`); ten lines of aliases of aliases stand for millions of values. What
is counted here is therefore the data that a text expands to, before anything is built from it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from i2vpp.errors import ConfigError

MAX_BYTES = 1 << 18
MAX_VALUES = 10_000  # scalars, lists and mappings, with aliases expanded
MAX_DEPTH = 32  # of nested lists and mappings

_SHOWN = 300  # characters of a parser's message


def read_yaml(path: Path) -> Any:
    """Return the content of a YAML file; see `parse_yaml` and `read_yaml_text`.

    Raises:
        ConfigError: see these two.
    """
    return parse_yaml(read_yaml_text(path), str(path))


def read_yaml_text(path: Path) -> str:
    """Return the text of a YAML file in UTF-8, with or without a byte order mark, after `check_yaml`.

    Raises:
        ConfigError: the file cannot be read, is larger than 256 KiB, not UTF-8, or its text is refused.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from error
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{path} is larger than {MAX_BYTES:,} bytes, too large for a config")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    check_yaml(text, str(path))
    return text


def parse_yaml(text: str, source: str) -> Any:
    """Return what a YAML text holds: mappings, lists, text, numbers, booleans, dates and None.

    Args:
        text: one YAML document; an empty one is None.
        source: how to call it in messages.

    Raises:
        ConfigError: the text is not YAML, a key is there twice, or it is too large or too deep.
    """
    check_yaml(text, source)
    try:
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, TypeError) as error:  # tags such as !!int raise the last two
        raise ConfigError(f"{source} is not valid YAML: {_one_line(error)}") from error


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Refuses a key that is there twice, of which PyYAML takes the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"found duplicate key {key.value}", key.start_mark
                    )
                seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


def check_yaml(text: str, source: str) -> None:
    """Refuse a YAML text that is not YAML, or that expands to more than a config needs; nothing is built from it.

    Args:
        text: one or more YAML documents.
        source: how to call it in messages.

    Raises:
        ConfigError: the text is refused.
    """
    if len(text) > MAX_BYTES:
        raise ConfigError(f"{source} is longer than {MAX_BYTES:,} characters, too long for a config")
    expansion = _Expansion()
    try:
        problem = next(filter(None, map(expansion.add, yaml.parse(text, Loader=yaml.SafeLoader))), None)
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # escapes of impossible characters raise the last two
        raise ConfigError(f"{source} is not valid YAML: {_one_line(error)}") from error
    if problem:
        raise ConfigError(f"{source} {problem}")


class _Expansion:
    """Counts the values that a stream of YAML events stands for, each alias as often as what it repeats."""

    def __init__(self) -> None:
        self._values = 0
        self._sizes: dict[str, int] = {}  # values of each anchored node that is complete
        self._open: list[tuple[str | None, int]] = []  # of each open list or mapping: anchor, and the values before it

    def add(self, event: Any) -> str | None:
        """Count an event; return what is wrong with the text so far, None if nothing is."""
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._sizes:
                inside = any(anchor == event.anchor for anchor, _ in self._open)
                return f"has an alias, *{event.anchor}, {'inside' if inside else 'without'} the node that it repeats"
            self._values += self._sizes[event.anchor]
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = self._open.pop()
            self._note(anchor, self._values - before)
        elif isinstance(event, yaml.CollectionStartEvent):
            self._sizes.pop(event.anchor, None)
            self._open.append((event.anchor, self._values))
            self._values += 1
        elif isinstance(event, yaml.ScalarEvent):
            self._note(event.anchor, 1)
            self._values += 1
        if len(self._open) > MAX_DEPTH:
            return f"is nested more than {MAX_DEPTH} levels deep, too deep for a config"
        if self._values > MAX_VALUES:
            return f"holds more than {MAX_VALUES:,} values with its aliases, too many for a config"
        return None

    def _note(self, anchor: str | None, size: int) -> None:
        if anchor is not None:
            self._sizes[anchor] = size


def _one_line(error: Exception) -> str:
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= _SHOWN else f"{words[:_SHOWN]}..."
