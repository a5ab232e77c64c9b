"""What follows from measured numbers: percentiles, floors, the cost of an object."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

import numpy as np

IDENTITY = ("config", "image_size", "device", "dtype", "objects", "compiled", "overrides")
"""What tells combinations apart."""


def percentiles(seconds: Iterable[float]) -> dict[str, float]:
    """Return median and 95th percentile (linear between the nearest two)."""
    middle, high = np.percentile(list(seconds), [50, 95])
    return {"seconds_per_frame": float(middle), "p95_seconds": float(high)}


def derive(measured: dict[str, Any]) -> dict[str, Any]:
    """Return measured numbers of one combination together with what follows from them.

    A floor is the time that the work would take at the machine's rate: FLOPs (as executed, as published) at that of the
    best matrix product, bytes at that of a copy.
    """
    result = {**measured, **percentiles(measured["frame_seconds"])}
    seconds = result["seconds_per_frame"]
    kinds = {
        "floor": ("flop", "matmul_flop_per_second"),
        "published_floor": ("published_flop", "matmul_flop_per_second"),
        "memory_floor": ("bytes", "copy_bytes_per_second"),
    }
    for floor, (work, rate) in kinds.items():
        parts = result[f"parts_{work}"]
        result[f"{work}_per_frame"] = sum(parts.values())
        result[f"{floor}_seconds"] = sum(parts.values()) / result[rate]
        result[f"parts_{floor}_seconds"] = {part: count / result[rate] for part, count in parts.items()}
    result["fps"] = 1 / seconds
    result["times_floor"] = seconds / result["floor_seconds"]
    result["times_published_floor"] = seconds / result["published_floor_seconds"]
    result["compile_seconds"] = _compile_seconds(result) if result["compiled"] else None
    result["parts_seconds_per_frame"] = sum(result["parts"].values())
    result["first_masks"] = [
        {**found, "frames": (found["seconds"] - found["open_seconds"]) / seconds} for found in result["first_masks"]
    ]
    return result


def _compile_seconds(result: dict[str, Any]) -> float:
    """What building, prompting and warming up took beyond as many steady frames; building includes the weights."""
    first = [result["build_seconds"], result["prompt_seconds"], *result["warmup_seconds"]]
    steady = result["seconds_per_frame"] * (result["objects"] + len(result["warmup_seconds"]))
    return float(max(0.0, sum(first) - steady))


def pool(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Combine results of one combination from several processes: all frames together, medians of everything else."""
    pooled = {key: _pooled([result[key] for result in rounds]) for key in rounds[0]}
    pooled["frame_seconds"] = [seconds for result in rounds for seconds in result["frame_seconds"]]
    return derive(pooled)


def _pooled(values: Sequence[Any]) -> Any:
    """Median of numbers, also inside mappings and lists; anything else is the same in all rounds."""
    first = values[0]
    if isinstance(first, dict):
        return {key: _pooled([value[key] for value in values if key in value]) for key in first}
    if isinstance(first, list):
        return [_pooled(column) for column in zip(*values, strict=False)]
    if isinstance(first, int | float) and any(value != first for value in values):
        return median(values)
    return first


def object_costs(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Fit `shared + n x per object` seconds to combinations that differ in the number n of objects only.

    The line goes through the medians by least squares. An object's floor is what it adds to the published FLOPs, at
    the median of the matrix-product rates.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        if "failed" not in result:
            groups.setdefault(str([result[key] for key in IDENTITY if key != "objects"]), []).append(result)
    return [_line(group) for group in groups.values() if len({result["objects"] for result in group}) > 1]


def _line(group: Sequence[dict[str, Any]]) -> dict[str, Any]:
    counts = [result["objects"] for result in group]
    per_object, shared = np.polyfit(counts, [result["seconds_per_frame"] for result in group], 1)
    flop = np.polyfit(counts, [result["published_flop_per_frame"] for result in group], 1)[0]
    floor = flop / median(result["matmul_flop_per_second"] for result in group)
    most = max(group, key=lambda result: int(result["objects"]))
    return {
        **{key: group[0][key] for key in IDENTITY if key != "objects"},
        "objects": sorted(counts),
        "shared_seconds": float(shared),
        "seconds_per_object": float(per_object),
        "published_floor_per_object": float(floor),
        "times_shared_and_floors": float(most["seconds_per_frame"] / (shared + most["objects"] * floor)),
    }
