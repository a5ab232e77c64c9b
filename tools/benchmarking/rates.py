"""What the machine can do, measured in the process that is measured: matrix products and copies."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from benchmarking.cases import MATMUL_SIDES

REPEATS = 5
LEAST_GAIN = 1.02  # a larger product that is not faster by this much: there is nothing left to win
LONGEST = 60.0  # seconds that one size may take, as far as the one before can tell


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What the machine reached.

    Args:
        matmul: FLOP/s of the best square matrix product, 2 per multiply-add.
        matmul_by_side: FLOP/s of every product that was tried, by its side.
        copy: bytes/s of a copy too large for any cache, what is read and what is written both counted.
    """

    matmul: float
    matmul_by_side: dict[int, float]
    copy: float


def clock(device: torch.device) -> Callable[[], float]:
    """Return a clock in seconds that first waits for all that was started on `device`."""

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        elif device.type == "mps":
            torch.mps.synchronize()
        return time.perf_counter()

    return now


def machine_rates(device: torch.device, dtype: torch.dtype, sides: Sequence[int] = MATMUL_SIDES) -> Rates:
    """Measure with all threads that PyTorch has at present; every figure is the median of five.

    Sizes grow until one is no better than the one before by 2 %, or the next one would take more than a minute: a CPU
    is at its best long before the sizes that a GPU needs.
    """

    def product_seconds(side: int) -> float:
        a, b = (torch.rand(side, side, device=device).to(dtype) for _ in range(2))
        return _median_seconds(device, lambda: a @ b)

    by_side = matmul_rates(sides, product_seconds)
    return Rates(matmul=max(by_side.values()), matmul_by_side=by_side, copy=_copy_rate(device))


def matmul_rates(sides: Sequence[int], seconds_of: Callable[[int], float]) -> dict[int, float]:
    """Return FLOP/s by side, as far as `machine_rates` goes; `seconds_of` a side is the time of one product."""
    rates: dict[int, float] = {}
    for side in sides:
        earlier, seconds = max(rates.values(), default=0.0), seconds_of(side)
        rates[side] = 2 * side**3 / seconds
        if rates[side] < LEAST_GAIN * earlier or 8 * seconds * (REPEATS + 1) > LONGEST:
            break
    return rates


def _copy_rate(device: torch.device) -> float:
    size = 2**28 if device.type == "cpu" else 2**30  # a GPU copies the smaller one in little more than a launch takes
    source, target = (torch.ones(size, dtype=torch.uint8, device=device) for _ in range(2))
    return 2 * size / _median_seconds(device, lambda: target.copy_(source))


def _median_seconds(device: torch.device, work: Callable[[], object]) -> float:
    """Median of REPEATS, after one that is thrown away."""
    now = clock(device)
    work()
    seconds = []
    for _ in range(REPEATS):
        start = now()
        work()
        seconds.append(now() - start)
    return median(seconds)


def resident_memory() -> int | None:
    """Return the bytes of memory that the process takes now; None where /proc does not say."""
    statm = Path("/proc/self/statm")
    if not statm.is_file():
        return None
    import resource  # noqa: PLC0415 - not on Windows

    return int(statm.read_text(encoding="ascii").split()[1]) * resource.getpagesize()
