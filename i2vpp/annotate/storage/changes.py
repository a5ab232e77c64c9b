"""What the latest changes of an annotation were, so that pages need not fetch all of it after each."""

from __future__ import annotations

from collections import deque

from i2vpp.annotate.storage.values import Touched

MAX_STEPS = 256
MAX_KEYS = 400
"""Objects, prompts and masks of all changes that are listed at once; with more, a page fetches everything."""


class ChangeLog:
    """The latest changes by their revisions, which grow by one with each change."""

    def __init__(self) -> None:
        self._changes: deque[tuple[int, Touched]] = deque(maxlen=MAX_STEPS)

    def note(self, revision: int, touched: Touched) -> None:
        """Add a change.

        Args:
            revision: the revision that it led to.
            touched: what it changed.
        """
        self._changes.append((revision, touched))

    def since(self, revision: int, now: int) -> Touched | None:
        """Return what changed between two revisions; None where that is not known, or too much.

        Args:
            revision: the earlier revision.
            now: the later revision, that of the latest change.
        """
        listed = [touched for number, touched in self._changes if number > revision]
        if len(listed) != now - revision:
            return None
        found = Touched()
        for touched in reversed(listed):
            if len(touched) + len(found) > MAX_KEYS:
                return None
            found |= touched
        return found
