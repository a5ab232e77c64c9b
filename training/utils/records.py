"""The records of a run: a progress bar, `metrics.jsonl`, TensorBoard and the time of each part of a step."""

from __future__ import annotations

import json
import math
import sys
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from i2vpp.utils.files import atomic_write
from training.utils.disk import appending, writing

METRICS = "metrics.jsonl"
_TOLD = 10  # skipped things of a kind that are reported one by one
_RECENT = 20  # steps over which the line of progress averages


class Stopwatch:
    """Splits wall-clock time into named parts and the rest.

    A GPU's kernels run asynchronously: their time counts where the program waits for a result.
    """

    def __init__(self, *, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._lap = now()
        self._parts: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Count the time inside the block for a part, such as `data` or `step`."""
        start = self._now()
        try:
            yield
        finally:
            self._parts[part] += self._now() - start

    def lap(self) -> dict[str, float]:
        """Return the seconds since the last lap: `all`, each part, and the `rest`."""
        now = self._now()
        seconds = {"all": now - self._lap, **self._parts}
        seconds["rest"] = seconds["all"] - sum(self._parts.values())
        self._lap = now
        self._parts.clear()
        return seconds


class Records:
    """The records of a run; a context manager. Of several ranks only the main one writes.

    Args:
        folder: folder of the run.
        total_steps: steps of the whole run.
        main: whether this rank writes.
        start: steps made before, in the run that is resumed; later records are dropped, so each step appears once.
    """

    def __init__(self, folder: Path, *, total_steps: int, main: bool = True, start: int = 0) -> None:
        self.stopwatch = Stopwatch()
        self.skipped: Counter[str] = Counter()
        self._main = main
        if not main:
            return
        self._folder = folder
        self._recent: deque[dict[str, float]] = deque(maxlen=_RECENT)
        # In a file, every update is a line of its own, so there are few.
        seconds = 0.1 if sys.stderr.isatty() else 30.0
        self._bar = tqdm(total=total_steps, initial=start, unit="step", dynamic_ncols=True, mininterval=seconds)
        with writing(folder / METRICS):
            folder.mkdir(parents=True, exist_ok=True)
            _truncate(folder / METRICS, start)
            self._metrics = (folder / METRICS).open("a", encoding="utf-8", buffering=1)
        with appending(folder):
            self._board = _tensorboard(folder / "tensorboard", start)
        if self._board is None:
            self.message("no TensorBoard records: the package is not installed (pip install tensorboard)")

    def __enter__(self) -> Records:
        self.stopwatch.lap()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write out everything."""
        if not self._main:
            return
        self._bar.close()
        with appending(self._folder):
            try:
                self._metrics.close()
            finally:
                if self._board is not None:
                    self._board.close()

    def step(self, step: int, scalars: Mapping[str, float], *, frames: int) -> None:
        """Record an optimiser step and the time since the last one.

        Args:
            step: number of the step, from 1.
            scalars: `loss` and `lr`, which are shown in the line of progress, and whatever else; names with a slash
                are grouped by TensorBoard.
            frames: played in this step on all ranks.
        """
        seconds = self.stopwatch.lap()
        if not self._main:
            return
        values = {
            **scalars,
            "frames": float(frames),
            **{f"seconds/{part}": value for part, value in seconds.items()},
            **{f"skipped/{what}": float(count) for what, count in self.skipped.items()},
        }
        self._write(step, values)
        self._recent.append({"frames": frames, "all": seconds["all"], "data": seconds.get("data", 0.0)})
        self._bar.set_postfix_str(self._line(scalars), refresh=False)
        self._bar.update(step - self._bar.n)

    def scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Record values that are not of every step, such as scores of a validation, in a line of their own.

        Args:
            step: number of the step, from 1.
            scalars: values by name.
        """
        if self._main:
            self._write(step, scalars)

    def picture(self, step: int, name: str, image: NDArray[np.uint8]) -> None:
        """Show a picture [H, W, 3] in TensorBoard.

        Args:
            step: number of the step, from 1.
            name: name of the picture in TensorBoard.
            image: RGB uint8 [H, W, 3].
        """
        if self._main and self._board is not None:
            with appending(self._folder):
                self._board.add_image(name, image, step, dataformats="HWC")

    def message(self, text: str) -> None:
        """Write a line above the line of progress."""
        if self._main:
            self._bar.write(text, file=sys.stderr)

    def skip(self, what: str, text: str) -> None:
        """Count things that were skipped (`items`, `steps`) and say why; after ten of a kind they are only counted.

        Args:
            what: kind of the thing, such as `items` or `steps`.
            text: reason.
        """
        self.skipped[what] += 1
        if self.skipped[what] <= _TOLD:
            last = f" (further skipped {what} are only counted)" if self.skipped[what] >= _TOLD else ""
            self.message(f"skipped {what}: {text}{last}")

    def _write(self, step: int, values: Mapping[str, float]) -> None:
        # JSON has no NaN and no infinity.
        plain = {name: value if math.isfinite(value) else None for name, value in values.items()}
        line = json.dumps({"step": step, "time": round(time.time(), 3), **plain})
        with appending(Path(self._metrics.name)):
            self._metrics.write(f"{line}\n")
        if self._board is not None:
            with appending(self._folder):
                for name, value in values.items():
                    self._board.add_scalar(name, value, step)

    def _line(self, scalars: Mapping[str, float]) -> str:
        total = {key: sum(step[key] for step in self._recent) for key in ("frames", "all", "data")}
        seconds = max(total["all"], 1e-9)
        parts = [f"loss {scalars['loss']:.4g}"] if "loss" in scalars else []
        parts += [f"{total['frames'] / seconds:.1f} frames/s", f"data {total['data'] / seconds:.0%}"]
        parts += [f"lr {scalars['lr']:.2e}"] if "lr" in scalars else []
        parts += [f"{count} {what} skipped" for what, count in self.skipped.items()]
        return ", ".join(parts)


def _truncate(path: Path, step: int) -> None:
    """Drop records of steps after `step`, and a last line that was cut off."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    with atomic_write(path, "w") as file:
        file.writelines(line for line in lines if _step_of(line) <= step)


def _step_of(line: str) -> float:
    """Step of a record, or infinity for a line that was cut off."""
    try:
        step = float(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return math.inf
    return step if line.endswith("\n") else math.inf


def _tensorboard(folder: Path, start: int) -> Any:
    """Open a writer, or return None where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - optional, and slow to import
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=start + 1)
