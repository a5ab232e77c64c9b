"""Finding predictions that have other names than the true masks: 0001.png for 00001.png, folder 0 for 000.

Names that differ only in the zeros before their number, or in upper and lower case, are the same. Other differences are
errors wherever predictions may be all there under other names: they must never be scored as missing, nor as those of
another frame.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from i2vpp.errors import DataError

NAMED = 5  # names in a message

Parts: TypeAlias = tuple[str, int | None, str]
"""What is before the last number of a name, that number, and what is behind it; upper and lower case are alike."""

_LAST_NUMBER = re.compile(r"(.*?)([0-9]+)([^0-9]*)", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Match:
    """Which predictions belong to which true masks.

    Args:
        found: names of predictions by the names of the true masks, as far as they are there.
        late: the first true name, where its prediction alone is missing and the predictions' numbers begin one later:
            the predictions either leave out the first frame, or are numbered from 1 where the truth is from 0.
    """

    found: dict[str, str]
    late: str | None = None


def same_names(truths: Sequence[str], preds: Collection[str], where: Path) -> dict[str, str]:
    """Find the predictions that are named like true masks, but for zeros before the number, and for case.

    Args:
        truths: names of frames, objects or videos.
        preds: names of predictions.
        where: folder of the predictions, for messages.

    Returns:
        The names of predictions by the names of the true masks, as far as there are any.

    Raises:
        DataError: several predictions fit a name.
    """
    by_parts = _by_parts(preds)
    ambiguous = {parts for parts, names in _by_parts(truths).items() if len(names) > 1}
    found = {}
    for name in truths:
        parts = _parts(name)
        fitting = [name] * (name in preds) if parts in ambiguous else by_parts.get(parts, [])
        if len(fitting) > 1:
            raise DataError(f"{', '.join(sorted(fitting))} in {where} all stand for {name}; keep one of them")
        if fitting:
            found[name] = fitting[0]
    return found


def match_names(truths: Sequence[str], preds: Collection[str], *, what: str, where: Path) -> Match:
    """Find the predictions of the frames of a video, of its objects, or of videos.

    Args:
        truths: names of the annotated ones, in order.
        preds: names of the predicted ones.
        what: of which they are the names: "frames", "objects" or "videos".
        where: folder of the predictions, for messages.

    Returns:
        Which predictions belong to which true masks.

    Raises:
        DataError: predictions are there, but under names that do not say which is which.
    """
    found = same_names(truths, preds, where) or _by_number_alone(truths, preds)
    missing = [name for name in truths if name not in found]
    if not missing or not preds:
        return Match(found=found)
    problem = f"the {what} in {where} have other names than the true masks ({some(truths)}): they are {some(preds)}"
    if not found:
        raise DataError(f"{problem}; none fits. Name predictions like the true masks")
    left = {_parts(name)[1] for name in set(preds).difference(found.values())} - {None}
    if same := [name for name in missing if _parts(name)[1] in left]:
        raise DataError(f"{problem}; what is that of {same[0]}? Name predictions like the true masks")
    shift = _shift(truths, preds)
    if shift is not None and (len(preds) == len(truths) or (shift and _is_consecutive(truths))):
        counted = f", and the numbers begin {abs(shift)} {'later' if shift > 0 else 'earlier'}" if shift else ""
        raise DataError(
            f"{problem}{counted}; {missing[0]} is missing. Name predictions like the true masks, and delete others"
        )
    return Match(found=found, late=missing[0] if shift == 1 and missing == list(truths[:1]) else None)


def some(names: Collection[str]) -> str:
    """Name the first few, for a message."""
    return (", ".join(list(names)[:NAMED]) or "nothing") + (", ..." if len(names) > NAMED else "")


def _parts(name: str) -> Parts:
    match = _LAST_NUMBER.fullmatch(name.casefold())
    return (match[1], int(match[2]), match[3]) if match else (name.casefold(), None, "")


def _by_parts(names: Collection[str]) -> dict[Parts, list[str]]:
    grouped: dict[Parts, list[str]] = defaultdict(list)
    for name in names:
        grouped[_parts(name)].append(name)
    return grouped


def _numbers(names: Collection[str]) -> dict[int, str] | None:
    """Return names by their number; None where a number is missing or there twice, or the text around it changes."""
    parts = {name: _parts(name) for name in names}
    numbers = {number: name for name, (_, number, _) in parts.items() if number is not None}
    patterns = {(before, behind) for before, _, behind in parts.values()}
    return numbers if len(numbers) == len(parts) and len(patterns) == 1 else None


def _by_number_alone(truths: Collection[str], preds: Collection[str]) -> dict[str, str]:
    """Match `frame_1`, `frame_2` to `00001`, `00002`: all names are alike but for their number."""
    true, found = _numbers(truths), _numbers(preds)
    return {name: found[number] for number, name in true.items() if number in found} if true and found else {}


def _shift(truths: Collection[str], preds: Collection[str]) -> int | None:
    """Return how much later the predictions' numbers begin; None where not all true names have one that much later.

    Where there are as many predictions as true masks, those need not be there: other numbers are other numbers.
    """
    true, found = _numbers(truths), _numbers(preds)
    if not true or not found:
        return None
    shift = min(found) - min(true)
    return shift if len(true) == len(found) or all(number + shift in found for number in true) else None


def _is_consecutive(names: Collection[str]) -> bool:
    numbers = _numbers(names)
    return numbers is not None and max(numbers) - min(numbers) == len(numbers) - 1 > 0
