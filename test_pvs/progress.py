"""The progress bar of a run."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

from test_pvs.team import Team


class Bar:
    """The progress bar over the frames of all units, whoever tracks them.

    Args:
        team: of the run.
        hidden: where another process of the machine shows it.
    """

    def __init__(self, team: Team, *, hidden: bool) -> None:
        self._team = team
        self._open = list(team.units)
        self._settled = 0  # frames of settled units
        self._under_way = 0
        self._next = 0.0  # when to look what others have done
        self._look()
        self._bar = tqdm(
            total=sum(unit.frames for unit in team.units),
            initial=self._settled,
            unit="frame",
            smoothing=0.05,  # units of others come all at once
            mininterval=0.5 if sys.stderr.isatty() else 15,  # a log is not flooded
            disable=hidden,
        )

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def show(self, under_way: int, *, look: bool = False) -> None:
        """Bring the bar up to date.

        Args:
            under_way: frames of units that are not finished.
            look: see what others have done, which is otherwise seen every few seconds.
        """
        if self._bar.disable:
            return
        if look or under_way < self._under_way or time.monotonic() > self._next:
            self._look()
        self._under_way = under_way
        there, total = len(self._team.units) - len(self._open), len(self._team.units)
        self._bar.set_postfix_str(f"{there}/{total} units", refresh=False)
        self._bar.update(min(self._settled + under_way, self._bar.total) - self._bar.n)

    def _look(self) -> None:
        begin = time.monotonic()
        settled = {unit for unit in self._open if self._team.is_settled(unit)}
        self._settled += sum(unit.frames for unit in settled)
        self._open = [unit for unit in self._open if unit not in settled]
        now = time.monotonic()
        self._next = now + max(2.0, 20 * (now - begin))  # a slow disk is not asked all the time
