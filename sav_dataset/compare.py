#!/usr/bin/env python3
"""Compare two evaluations object by object, with an interval for the mean difference.

    python -m sav_dataset.compare A.json B.json

Both are files that `sav_dataset/sav_evaluator.py --json` wrote, of the same dataset. Differences are B minus A over the
objects that both scored. The interval comes from a bootstrap over videos, because objects of one video rise and fall
together: it holds the mean difference over other videos of this kind with 95 % confidence.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # `sav_dataset` is no installed package

from i2vpp.errors import DataError, I2VPPError
from i2vpp.runs.settings import flat_settings
from i2vpp.utils.parser import Parser, integer
from sav_dataset.names import some
from sav_dataset.report import markdown
from sav_dataset.results import MEASURES, Evaluation, measures, read_evaluation
from sav_dataset.scoring import ObjectResult

CONFIDENCE = 0.95
SAME_SETTINGS = ("rule", "layout", "merge_objects", "skip_first_and_last_frame", "boundary_tolerance")
CHUNK = 1000  # bootstrap samples at a time


@dataclass(frozen=True, kw_only=True)
class Change:
    """An object in two evaluations, in percent.

    Args:
        before: its result in A.
        after: its result in B.
    """

    before: ObjectResult
    after: ObjectResult

    def values(self, measure: str) -> tuple[float, float]:
        """Return "J&F", "J" or "F" in A and in B."""
        return measures(self.before)[measure], measures(self.after)[measure]

    def difference(self, measure: str) -> float:
        """Return B minus A of "J&F", "J" or "F"."""
        before, after = self.values(measure)
        return after - before


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The mean of B minus A over objects, in percent points.

    Args:
        a: mean of A.
        b: mean of B.
        mean: of the differences.
        low: lower end of the interval.
        high: upper end of the interval.
    """

    a: float
    b: float
    mean: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two evaluations of the same dataset, object by object.

    Args:
        changes: objects that both scored.
        only_a: names of objects that only A scored.
        only_b: names of objects that only B scored.
    """

    changes: tuple[Change, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]

    def difference(self, measure: str, *, samples: int = 10000, seed: int = 0) -> Difference:
        """Average the differences, with a bootstrap interval over videos.

        Args:
            measure: "J&F", "J" or "F".
            samples: of the bootstrap.
            seed: of the bootstrap.

        Returns:
            The means of A, of B and of the differences, with the interval of the latter.
        """
        before, after = np.array([change.values(measure) for change in self.changes]).T
        differences = after - before
        _, video = np.unique([change.before.video for change in self.changes], return_inverse=True)
        sums, counts = np.bincount(video, weights=differences), np.bincount(video)
        generator = np.random.default_rng(seed)
        means = []
        for start in range(0, samples, CHUNK):
            drawn = generator.integers(len(counts), size=(min(CHUNK, samples - start), len(counts)))
            means.append(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
        low, high = np.quantile(np.concatenate(means), ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
        return Difference(
            a=float(before.mean()),
            b=float(after.mean()),
            mean=float(differences.mean()),
            low=float(low),
            high=float(high),
        )


def compare(a: Evaluation, b: Evaluation) -> Comparison:
    """Put two evaluations of the same dataset together.

    Args:
        a: the evaluation that is compared with.
        b: the evaluation whose gains and losses are wanted.

    Returns:
        The objects that both scored, and the names of those that one scored alone.

    Raises:
        DataError: they were scored in different ways or on different frames, or share no object.
    """
    for name in SAME_SETTINGS:
        ways = [evaluation.settings.get(name, "not recorded") for evaluation in (a, b)]
        if ways[0] != ways[1]:
            raise DataError(
                f"A and B were scored in different ways: {name} is {ways[0]} and {ways[1]}; score one of them again"
            )
    before = {(result.video, result.object): result for result in a.objects}
    after = {(result.video, result.object): result for result in b.objects}
    both = [key for key in before if key in after]
    if not both:
        names = [some([result.name for result in evaluation.objects]) for evaluation in (a, b)]
        raise DataError(f"A and B share no object: A scored {names[0]}, B {names[1]}")
    changes = tuple(Change(before=before[key], after=after[key]) for key in both)
    for change in changes:
        if change.before.frames != change.after.frames:
            raise DataError(
                f"{change.before.name} was scored on {len(change.before.frames)} frames in A and on other "
                f"{len(change.after.frames)} in B; compare results of the same ground truth"
            )
    return Comparison(
        changes=changes,
        only_a=tuple(result.name for key, result in before.items() if key not in after),
        only_b=tuple(result.name for key, result in after.items() if key not in before),
    )


def changed_settings(a: Mapping[str, Any] | None, b: Mapping[str, Any] | None) -> list[str]:
    """Name the settings in which the runs that made the predictions differ.

    Args:
        a: how the predictions of A were made (`Evaluation.run`); None where it is not known.
        b: the same of B.

    Returns:
        A line `key: value in A -> value in B` for each; empty where one run is not known.
    """
    first, second = (flat_settings((run or {}).get("settings", {})) for run in (a, b))
    if not first or not second:
        return []
    keys = [key for key in {**first, **second} if first.get(key) != second.get(key)]
    return [f"{key}: {first.get(key)} -> {second.get(key)}" for key in keys]


def report(comparison: Comparison, *, measure: str, samples: int, seed: int, top: int) -> str:
    """Return the comparison in Markdown.

    Args:
        comparison: of two evaluations.
        measure: "J&F", "J" or "F", by which objects are ranked.
        samples: of the bootstrap.
        seed: of the bootstrap.
        top: so many of the objects that gained and of those that lost most are listed.

    Returns:
        Tables and a sentence, without a final line break.
    """
    changes = comparison.changes
    rows = []
    for name in MEASURES:
        found = comparison.difference(name, samples=samples, seed=seed)
        interval = f"{found.low:+.2f} to {found.high:+.2f}"
        rows.append((name, f"{found.a:.2f}", f"{found.b:.2f}", f"{found.mean:+.2f}", interval))
    differences = [change.difference(measure) for change in changes]
    gained, lost = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    videos = len({change.before.video for change in changes})
    parts = [
        markdown((f"{len(changes)} objects, {videos} videos", "A", "B", "B - A", f"{CONFIDENCE:.0%} interval"), rows),
        f"{measure}: {gained} objects gained, {lost} lost, {len(changes) - gained - lost} did not change.",
    ]
    ranked = sorted(changes, key=lambda change: change.difference(measure))
    for title, part in (
        ("gained most", [change for change in reversed(ranked) if change.difference(measure) > 0]),
        ("lost most", [change for change in ranked if change.difference(measure) < 0]),
    ):
        if part and top:
            parts.append(markdown((title, "A", "B", "B - A"), [_row(change, measure) for change in part[:top]]))
    return "\n\n".join(parts)


def _row(change: Change, measure: str) -> tuple[str, str, str, str]:
    before, after = change.values(measure)
    return change.before.name, f"{before:.1f}", f"{after:.1f}", f"{after - before:+.1f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = Parser(
        prog="python -m sav_dataset.compare", description="Compare two evaluations object by object: B minus A."
    )
    parser.add_argument("a", type=Path, metavar="A.json", help="written by sav_evaluator.py --json")
    parser.add_argument("b", type=Path, metavar="B.json")
    parser.add_argument("--measure", choices=MEASURES, default="J&F", help="that ranks the objects (%(default)s)")
    parser.add_argument("--top", type=integer(0), default=10, metavar="N", help="objects of either kind (%(default)s)")
    parser.add_argument("--samples", type=integer(1), default=10000, metavar="N", help="of the bootstrap (%(default)s)")
    parser.add_argument("--seed", type=integer(0), default=0, metavar="N", help="of the bootstrap (%(default)s)")
    args = parser.parse_args(arguments)
    try:
        a, b = read_evaluation(args.a), read_evaluation(args.b)
        comparison = compare(a, b)
    except I2VPPError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"A: {args.a}\nB: {args.b}")
    for change in changed_settings(a.run, b.run):
        print(f"   {change}")
    print(f"\n{report(comparison, measure=args.measure, samples=args.samples, seed=args.seed, top=args.top)}")
    for name, only in (("A", comparison.only_a), ("B", comparison.only_b)):
        if only:
            print(f"note: {len(only)} objects are in {name} only and do not count: {some(only)}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
