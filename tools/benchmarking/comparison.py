"""Two results beside each other."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from benchmarking.cases import BenchmarkError
from benchmarking.meters import by_part
from benchmarking.results import IDENTITY
from benchmarking.tables import WHOLE, format_table, mebibytes, name_case

COMPARABLE = ("width", "height", "decoded", "history", "threads")
"""Settings that change what a frame costs."""

Pair = tuple[dict[str, Any], dict[str, Any]]


def check_settings(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Check that two reports measured the same work.

    Raises:
        BenchmarkError: a setting that changes the cost of a frame differs.
    """
    different = [
        f"{name} {before['settings'][name]} against {after['settings'][name]}"
        for name in COMPARABLE
        if before["settings"][name] != after["settings"][name]
    ]
    if different:
        raise BenchmarkError(
            f"the two files were measured with different settings: {', '.join(different)}; measure one of them again"
        )


def match(before: dict[str, Any], after: dict[str, Any], *, ignore: Collection[str] = ()) -> list[Pair]:
    """Pair the combinations of two reports.

    Args:
        before: a report.
        after: another one.
        ignore: names among IDENTITY in which paired combinations may differ.

    Raises:
        BenchmarkError: none of them fit together, or more than one fits.
    """
    earlier, later = (_by_identity(report["cases"], ignore) for report in (before, after))
    pairs = [(earlier[key], later[key]) for key in earlier if key in later]
    if not pairs:
        there = ["; ".join(map(name_case, report["cases"])) for report in (before, after)]
        raise BenchmarkError(f"the two files have no combination in common: {there[0]} against {there[1]}")
    return pairs


def _by_identity(results: Sequence[dict[str, Any]], ignore: Collection[str]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for result in results:
        key = str([result[name] for name in IDENTITY if name not in ignore])
        if key in found:
            raise BenchmarkError(
                f"one file has two combinations that cannot be told apart: {name_case(found[key])} and "
                f"{name_case(result)}"
            )
        found[key] = result
    return found


def format_comparison(pairs: Sequence[Pair]) -> str:
    """Return the table of combinations, then a table of parts for each of them."""
    parts = [f"{name_case(after)}\n\n{_parts(before, after)}" for before, after in pairs]
    return "\n\n".join([_whole(pairs), *parts])


def _whole(pairs: Sequence[Pair]) -> str:
    rows = []
    for before, after in pairs:
        memory = [before["peak_memory_bytes"], after["peak_memory_bytes"]]
        more = "" if None in memory else f"{memory[1] / memory[0]:.2f}"
        rows.append(
            [name_case(after), *_ratio(before["seconds_per_frame"], after["seconds_per_frame"], digits=4)]
            + _ratio(before["times_published_floor"], after["times_published_floor"], digits=2)
            + [*map(mebibytes, memory), more]
        )
    header = ["combination", "s before", "s after", "faster", "x floor before", "x floor after", "faster, by floors"]
    return format_table([*header, "MiB before", "MiB after", "memory"], rows, texts=1)


def _parts(before: dict[str, Any], after: dict[str, Any]) -> str:
    """The table of one combination; parts that take less than a microsecond in both are left out."""
    rows = [
        [part, *_ratio(1000 * first, 1000 * second, digits=2)]
        + _ratio(first / before["published_floor_seconds"], second / after["published_floor_seconds"], digits=3)
        for part, first, second in _times(before, after)
        if max(first, second) > 1e-6
    ]
    header = ["part", "ms before", "ms after", "faster", "x floor before", "x floor after", "faster, by floors"]
    return format_table(header, rows, texts=1)


def _times(before: dict[str, Any], after: dict[str, Any]) -> Iterator[tuple[str, float, float]]:
    first, second = before["parts"], after["parts"]
    if first.keys() != second.keys():  # one of them was compiled
        first, second = by_part(first, compiled=True), by_part(second, compiled=True)
    for part in first:
        yield part, first[part], second[part]
    yield WHOLE, before["parts_seconds_per_frame"], after["parts_seconds_per_frame"]


def _ratio(before: float, after: float, *, digits: int) -> list[str]:
    """Both numbers, and how many times smaller the second is."""
    return [f"{before:.{digits}f}", f"{after:.{digits}f}", f"{before / after:.2f}" if after else ""]
