"""Labels: the kinds of things (classes) that objects are of, each with a colour, in the order of their numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from i2vpp.annotate.storage.history import NO_FRAME
from i2vpp.annotate.storage.values import ObjectInfo, check_color, check_name
from i2vpp.errors import I2VPPError, PromptError
from i2vpp.utils.visualize import object_color

MAX_LABELS = 1000
UNLABELLED = "object"
"""Class, in exports, of objects that have no label."""

_LINE = re.compile(r"(.*?)(?:\s+(#[0-9a-fA-F]{6}))?")
_Sql = Callable[..., Any]  # sqlite3.Connection.execute


@dataclass(frozen=True, kw_only=True)
class LabelChoice:
    """A label that a person can choose: its name, and its colour as `#rrggbb`; None: any."""

    name: str
    color: str | None = None


@dataclass(frozen=True, kw_only=True)
class Label:
    """A label of a video: what the store calls it, its name, and its colour as `#rrggbb`."""

    number: int
    name: str
    color: str


@dataclass(frozen=True, kw_only=True)
class Classes:
    """The classes that exports number from 0 on.

    Args:
        names: their names, each once.
        of_object: position in `names` of each object's class, by object id.
    """

    names: tuple[str, ...]
    of_object: Mapping[int, int]

    @classmethod
    def of(cls, labels: Iterable[Label], objects: Sequence[ObjectInfo]) -> Classes:
        """Number labels in their order, unused ones included; objects without one are of a class of their own.

        Args:
            labels: labels in the order of their numbers.
            objects: the objects.
        """
        named = {label.number: label.name for label in labels}
        of = {info.id: UNLABELLED if info.label is None else named[info.label] for info in objects}
        names = tuple(dict.fromkeys([*named.values(), *(name for name in of.values() if name == UNLABELLED)]))
        place = {name: i for i, name in enumerate(names)}
        return cls(names=names, of_object={obj_id: place[name] for obj_id, name in of.items()})


def read_labels(path: Path) -> list[LabelChoice]:
    """Read a text file with a name in each line, and after it, if it is to have a certain colour, `#rrggbb`.

    Empty lines are left out, and those that begin with `#`.

    Raises:
        I2VPPError: it cannot be read, or a line is no label; the message names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise I2VPPError(f"cannot read the labels in {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise I2VPPError(f"{path} is no text in UTF-8; write one label a line") from error
    found: dict[str, LabelChoice] = {}
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        match = _LINE.fullmatch(text)
        try:
            name = check_name(match[1] if match else text)
        except PromptError as error:
            raise I2VPPError(f"{path}, line {number}: {error}") from error
        if name in found:
            raise I2VPPError(f"{path}, line {number}: the label {name!r} is there twice; remove one")
        found[name] = LabelChoice(name=name, color=match[2] if match else None)
    if not 1 <= len(found) <= MAX_LABELS:
        raise I2VPPError(f"{path} holds {len(found)} labels; 1 to {MAX_LABELS} are allowed, one a line")
    return list(found.values())


def labels_of(sql: _Sql) -> list[Label]:
    """Return all labels of a store."""
    rows = sql("SELECT object, name, color FROM labels ORDER BY object").fetchall()
    return [Label(number=number, name=name, color=color) for number, name, color in rows]


def label_of(sql: _Sql, number: int) -> Label:
    """Return a label of a store.

    Args:
        sql: runs a statement.
        number: number of the label.

    Raises:
        PromptError: there is no such label.
    """
    for label in labels_of(sql):
        if label.number == number:
            return label
    raise PromptError(f"there is no label {number}")


def new_label(sql: _Sql, name: Any, color: Any) -> Label:
    """Return a label that can be added: its number is beyond all that the store or its history knows.

    Args:
        sql: runs a statement.
        name: its name.
        color: `#rrggbb`, or None.

    Raises:
        PromptError: a bad name or colour, one of that name exists, or there are `MAX_LABELS`.
    """
    name = check_name(name)
    present = labels_of(sql)
    _refuse_twin(present, name)
    if len(present) >= MAX_LABELS:
        raise PromptError(f"there are {MAX_LABELS} labels, which is the most; delete one first")
    last = "SELECT max(object) FROM (SELECT object FROM labels UNION ALL SELECT object FROM past_labels)"
    number = (sql(last).fetchone()[0] or 0) + 1
    shade = "#{:02x}{:02x}{:02x}".format(*object_color(number)) if color is None else color
    return Label(number=number, name=name, color=check_color(shade))


def changed_label(sql: _Sql, old: Label, name: Any, color: Any) -> Label:
    """Return a label with another name or colour.

    Args:
        sql: runs a statement.
        old: the label.
        name: its new name; None: the old one.
        color: its new colour; None: the old one.

    Raises:
        PromptError: the name or colour is not allowed, or another label has that name.
    """
    new = replace(
        old,
        name=old.name if name is None else check_name(name),
        color=old.color if color is None else check_color(color),
    )
    _refuse_twin([label for label in labels_of(sql) if label.number != old.number], new.name)
    return new


def offer_labels(sql: _Sql, choices: Sequence[LabelChoice]) -> None:
    """Add labels that are not there yet by name, in their order, outside of the history.

    Args:
        sql: runs a statement.
        choices: names and colours.
    """
    present = {label.name for label in labels_of(sql)}
    for choice in choices:
        if choice.name not in present:
            label = new_label(sql, choice.name, choice.color)
            sql("INSERT INTO labels VALUES (?, ?, ?, ?)", (label.number, NO_FRAME, label.name, label.color))


def _refuse_twin(labels: Iterable[Label], name: str) -> None:
    if any(label.name == name for label in labels):
        raise PromptError(f"there is a label {name!r} already; choose another name")
