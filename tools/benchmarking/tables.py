"""Markdown tables of results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

WHOLE = "whole frame"


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, texts: int) -> str:
    """Return an aligned Markdown table; the first `texts` columns are text, the others are numbers."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(f"{cells[i]:{'<' if i < texts else '>'}{w}}" for i, w in enumerate(widths)) + " |"

    rule = ["-" * w if i < texts else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return "\n".join([line(header), line(rule), *map(line, rows)])


def name_config(result: dict[str, Any]) -> str:
    """Name a combination's config together with all that changes it."""
    size = f"{result['image_size']} px" if result.get("image_size") else ""
    changed = [override for override in result.get("overrides", []) if not (size and "model.image_size=" in override)]
    return ", ".join(filter(None, [result["config"], size, "compiled" if result.get("compiled") else "", *changed]))


def name_case(result: dict[str, Any]) -> str:
    """Name a combination."""
    count = result["objects"]
    return f"{name_config(result)}, {result['device']}, {result['dtype']}, {count} object{'' if count == 1 else 's'}"


def mebibytes(count: float | None) -> str:
    """Write bytes as MiB; nothing where they are not known."""
    return "" if count is None else f"{count / 2**20:.0f}"


def format_summary(results: Sequence[dict[str, Any]]) -> str:
    """Return the table of all combinations."""
    numbers: dict[str, Callable[[dict[str, Any]], str]] = {
        "s/frame": lambda r: f"{r['seconds_per_frame']:.4f}",
        "p95 s": lambda r: f"{r['p95_seconds']:.4f}",
        "FPS": lambda r: f"{r['fps']:.2f}",
        "peak MiB": lambda r: mebibytes(r["peak_memory_bytes"]),
        "GFLOP": lambda r: f"{r['flop_per_frame'] / 1e9:.1f}",
        "published": lambda r: f"{r['published_flop_per_frame'] / 1e9:.1f}",
        "GFLOP/s": lambda r: f"{r['matmul_flop_per_second'] / 1e9:.0f}",
        "copy GB/s": lambda r: f"{r['copy_bytes_per_second'] / 1e9:.1f}",
        "floor s": lambda r: f"{r['floor_seconds']:.4f}",
        "x floor": lambda r: f"{r['times_floor']:.2f}",
        "published floor s": lambda r: f"{r['published_floor_seconds']:.4f}",
        "x published floor": lambda r: f"{r['times_published_floor']:.2f}",
    }
    if any(result.get("compiled") for result in results):
        numbers["compile s"] = lambda r: f"{r['compile_seconds']:.1f}"
    return _of_combinations(results, numbers)


def _of_combinations(results: Sequence[dict[str, Any]], numbers: dict[str, Callable[[dict[str, Any]], str]]) -> str:
    rows = [
        [name_config(r), r["device"] or "", r["dtype"] or "", str(r["objects"])]
        + ["failed" if "failed" in r else text(r) for text in numbers.values()]
        for r in results
    ]
    return format_table(["config", "device", "dtype", "objects", *numbers], rows, texts=3)


def format_parts(result: dict[str, Any]) -> str:
    """Return the table of parts of one combination; the last row is the whole frame."""
    whole = result["parts_seconds_per_frame"]
    rows = []
    for part in [*result["parts"], WHOLE]:
        seconds = _of_part(result, "parts", "parts_seconds_per_frame", part)
        flop = _of_part(result, "parts_flop", "flop_per_frame", part)
        published = _of_part(result, "parts_published_flop", "published_flop_per_frame", part)
        moved = _of_part(result, "parts_bytes", "bytes_per_frame", part)
        compute, as_published, memory = (
            _of_part(result, f"parts_{kind}_seconds", f"{kind}_seconds", part)
            for kind in ("floor", "published_floor", "memory_floor")
        )
        rows.append(
            [part, _milliseconds(seconds), f"{seconds / whole:.1%}", _giga(flop), _milliseconds(compute)]
            + [_giga(published), _milliseconds(as_published), f"{moved / 1e6:.1f}" if moved else ""]
            + [_milliseconds(memory), _limit(compute, memory), _times(seconds, max(compute, memory))]
        )
    header = ["part", "ms", "share", "GFLOP", "floor ms", "published GFLOP", "published floor ms"]
    return format_table([*header, "MB", "memory floor ms", "limit", "x higher floor"], rows, texts=1)


def _of_part(result: dict[str, Any], by_part: str, of_all: str, part: str) -> float:
    return float(result[of_all] if part == WHOLE else result[by_part][part])


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.2f}" if seconds else ""


def _giga(count: float) -> str:
    return f"{count / 1e9:.2f}" if count else ""


def _times(seconds: float, floor: float) -> str:
    """How many floors a time is; nothing for floors that the table shows as 0.00."""
    return f"{seconds / floor:.2f}" if floor > 5e-6 else ""


def _limit(compute: float, memory: float) -> str:
    """Which of the two resources the executed work needs for longer."""
    return "" if not compute and not memory else "memory" if memory > compute else "compute"


def format_first_masks(result: dict[str, Any]) -> str:
    """Return the table of first masks of one combination; "" where none were measured."""
    rows = [
        [f"{found['prompt']} on frame {found['frame_idx']}"]
        + [_milliseconds(found[key]) for key in ("seconds", "open_seconds", "decode_seconds")]
        + [f"{found['frames']:.2f}"]
        for found in result["first_masks"]
    ]
    header = ["first mask", "ms", "opening ms", "decoding ms", "frames"]
    return format_table(header, rows, texts=1) if rows else ""


def format_streams(results: Sequence[dict[str, Any]]) -> str:
    """Return the table of live sessions, one row for each length that was looked at."""
    rows = []
    for result in results:
        names = [name_config(result), result["device"] or "", result["dtype"] or "", str(result["objects"])]
        if "failed" in result:
            rows.append([*names, *["failed"] * 6])
            continue
        first = result["checkpoints"][0]
        for point in result["checkpoints"]:
            kind = "resident_bytes" if point["device_bytes"] is None else "device_bytes"
            grown = "" if point[kind] is None else f"{point[kind] / first[kind] - 1:+.1%}"
            numbers = [str(point["frames"]), f"{point['seconds_per_frame']:.4f}", f"{point['p95_seconds']:.4f}"]
            memory = [mebibytes(point["resident_bytes"]), mebibytes(point["device_bytes"]), grown]
            rows.append([*names, *numbers, *memory])
    header = ["config", "device", "dtype", "objects", "frames", "s/frame", "p95 s", "resident MiB", "device MiB"]
    return format_table([*header, "growth"], rows, texts=3)


def format_object_costs(costs: Sequence[dict[str, Any]]) -> str:
    """Return the table of what the frame and what an object costs; "" without any."""
    rows = [
        [name_config(cost), cost["device"], cost["dtype"], ", ".join(map(str, cost["objects"]))]
        + [_milliseconds(cost[f"{name}"]) for name in ("shared_seconds", "seconds_per_object")]
        + [_milliseconds(cost["published_floor_per_object"]), f"{cost['times_shared_and_floors']:.2f}"]
        for cost in costs
    ]
    header = ["config", "device", "dtype", "objects", "shared ms", "ms per object", "published floor ms"]
    return format_table([*header, "x (shared + floors)"], rows, texts=4) if rows else ""
