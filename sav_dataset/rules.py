"""Which frames count for an object: evaluators define J and F alike, but differ where an object is not shown."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

Rule: TypeAlias = Literal["published", "first-appearance", "davis"]

RULES: tuple[Rule, ...] = get_args(Rule)


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """How the objects of a video are scored. In the layout of SA-V every object is a video of its own in this respect.

    Args:
        rule: which frames count for an object; a frame on which both masks are empty has J = F = 1.
            "published": those from the first scored frame on which the true or the predicted mask shows the object;
            none if no true mask of a scored frame shows it. This is the rule of SA-V's published evaluator.
            "first-appearance": those after the first true mask that shows the object, which is the one that it is given
            on; what is predicted before is ignored. This is how we understand YouTube-VOS and LVOS.
            "davis": all scored frames, also those before the object appears, as in DAVIS's own toolkit.
        skip_ends: leave out the first and the last annotated frame of the video; otherwise "first-appearance" also
            counts the frame that an object is given on.
        merge: all values of an index mask but 0 are one object, as in DAVIS 2016.
    """

    rule: Rule = "published"
    skip_ends: bool = True
    merge: bool = False

    def scored_frames(self, annotated: Collection[str]) -> Sequence[str]:
        """Return the frames, of a video's annotated ones in order, on which an object may count."""
        names = list(annotated)
        return names[1:-1] if self.skip_ends else names

    def counted_frames(self, annotated: Collection[str], shown: Collection[str], seen: Collection[str]) -> list[str]:
        """Return the frames that count for an object.

        Args:
            annotated: names of the video's annotated frames, in order.
            shown: those on which the true mask shows the object.
            seen: scored frames on which the true or the predicted mask shows the object.

        Returns:
            Names of frames, in order; empty where the object does not count.
        """
        scored = list(self.scored_frames(annotated))
        if self.rule == "davis":
            return scored
        if self.rule == "published":
            first = next((t for t, frame in enumerate(scored) if frame in seen), len(scored))
            return scored[first:] if any(frame in shown for frame in scored) else []
        names = list(annotated)
        first = next((t for t, frame in enumerate(names) if frame in shown), len(names))
        before = set(names[: first + self.skip_ends])
        return [frame for frame in scored if frame not in before]
