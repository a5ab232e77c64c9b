"""The tables of an annotation file, and undo and redo over them.

Every value is a row with the key (object, frame). A step of the history keeps the other value of each row that it
changed: the value before the step while the step is done, and the value after it while the step is undone. Undo and
redo therefore are the same exchange of rows.

The run lengths of masks lie in a table of their own and are never copied: each entry belongs to one row, of `masks` or
of the history, and is deleted with it. This is why undoing a long propagation takes no time.
"""

from __future__ import annotations

import sqlite3

from i2vpp.annotate.storage.values import Change, Touched

MAX_STEPS = 200
MAX_BYTES = 1 << 29
"""Bytes of masks that the history keeps. Beyond that the oldest steps are deleted, except for the last one."""

NO_FRAME = -1
_MASK = ("area INTEGER", "score REAL", "iou REAL", "bytes INTEGER", "runs INTEGER")
MASK_TABLES = ("masks", "tracked")
TRACK_TABLES = (*MASK_TABLES, "prompts", "tracking", "reviewed")
"""The tables whose rows are about one object on one frame; together they are the object's track."""
COLUMNS = {
    "objects": ("name TEXT", "color TEXT", "hidden INTEGER", "locked INTEGER"),
    "ids": ("used INTEGER",),
    "prompts": ("value TEXT",),
    "masks": _MASK,
    "tracked": _MASK,
    "labels": ("name TEXT", "color TEXT"),
    "classes": ("label INTEGER",),
    "tracking": ("reverse INTEGER", "stale INTEGER"),
    "reviewed": ("accepted INTEGER",),
}
"""Tables by name, with what their rows hold beside the key; `objects` and `ids` have the frame NO_FRAME. `ids` has the
ids of all objects that were ever added, deleted ones included; undoing an addition takes its id out. `tracked` has the
masks that prompted frames had before they were prompted. The runs of a mask are a row of the table `runs`, where they
take `bytes` bytes. `labels` have the frame NO_FRAME, too, and their number in the place of the object; `classes` has
the number of the label of each object that has one. `tracking` says of masks that came from tracking in which
direction, and whether a correction has made them stale since; on a prompted frame it is about the mask in `tracked`.
`reviewed` has a row for each object on each frame that a person has accepted."""

_EXCHANGED = 0  # number of no step; rows have it while they are exchanged


def names(table: str) -> str:
    """Return the names of a table's own columns, as SQL."""
    return ", ".join(column.split()[0] for column in COLUMNS[table])


def create_table(connection: sqlite3.Connection, table: str) -> None:
    """Make an empty table of `COLUMNS`, and the one of its rows in the history.

    Args:
        connection: connection to the file.
        table: one of `COLUMNS`.
    """
    own = ", ".join(COLUMNS[table])
    connection.execute(
        f"CREATE TABLE {table} (object INTEGER, frame INTEGER, {own}, PRIMARY KEY (frame, object)) WITHOUT ROWID"
    )
    connection.execute(
        f"CREATE TABLE past_{table} (step INTEGER, object INTEGER, frame INTEGER, present INTEGER, {own}, "
        "PRIMARY KEY (step, frame, object)) WITHOUT ROWID"
    )


def create_tables(connection: sqlite3.Connection) -> None:
    """Make all empty tables."""
    for table in COLUMNS:
        create_table(connection, table)
    connection.execute("CREATE TABLE runs (id INTEGER PRIMARY KEY, data BLOB)")
    connection.execute("CREATE TABLE steps (number INTEGER PRIMARY KEY, label TEXT, joint TEXT, bytes INTEGER)")
    connection.execute("CREATE TABLE position (step INTEGER)")
    connection.execute("INSERT INTO position VALUES (0)")


class History:
    """Steps that can be undone and done again; call it inside a transaction only.

    Args:
        connection: connection to a file with the tables of `create_tables`.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._sql = connection.execute

    def labels(self) -> tuple[str | None, str | None]:
        """Return the labels of the steps that undo and redo would take, None where there is none."""
        return self._label(self._position()), self._label(self._position() + 1)

    def begin(self, label: str, joint: str | None) -> int:
        """Delete the undone steps and return the number of the step that changes belong to.

        Args:
            label: label of the step, for people.
            joint: if the last step has this name, it is continued; otherwise, or if it is None, a new step begins.

        Returns:
            The number of the step.
        """
        position = self._position()
        self._forget("> ?", position)
        last = self._sql("SELECT joint FROM steps WHERE number = ?", (position,)).fetchone()
        if joint is not None and last is not None and last[0] == joint:
            return position
        self._sql("INSERT INTO steps VALUES (?, ?, ?, 0)", (position + 1, label, joint))
        self._sql("UPDATE position SET step = ?", (position + 1,))
        return position + 1

    def keep(self, step: int, table: str, obj_id: int, frame: int) -> None:
        """Keep a row that is about to be changed, unless the step has kept it before.

        Args:
            step: number of the step, see `begin`.
            table: one of `COLUMNS`.
            obj_id: object id in the key of the row.
            frame: frame in the key of the row.
        """
        row = f"FROM {table} WHERE object = ? AND frame = ?"
        kept = self._sql(
            f"INSERT OR IGNORE INTO past_{table} SELECT ?, ?, ?, object IS NOT NULL, {names(table)} "
            f"FROM (SELECT 1) LEFT JOIN (SELECT * {row})",
            (step, obj_id, frame, obj_id, frame),
        ).rowcount
        if table in MASK_TABLES and kept:
            size = f"coalesce((SELECT bytes {row}), 0)"
            self._sql(f"UPDATE steps SET bytes = bytes + {size} WHERE number = ?", (obj_id, frame, step))
        elif table in MASK_TABLES:  # the mask was made by this same step, so undo never needs it
            self._sql(f"DELETE FROM runs WHERE id = (SELECT runs {row})", (obj_id, frame))

    def trim(self) -> None:
        """Delete the oldest steps beyond `MAX_STEPS` or `MAX_BYTES`."""
        steps = self._sql("SELECT number, bytes FROM steps ORDER BY number DESC").fetchall()
        total = 0
        for count, (number, size) in enumerate(steps):
            total += size
            if count and (count >= MAX_STEPS or total > MAX_BYTES):
                self._forget("<= ?", number)
                return

    def undo(self) -> Change | None:
        """Take the last step back and return what that has changed; None if there is no step."""
        position = self._position()
        return self._exchange(position, position - 1)

    def redo(self) -> Change | None:
        """Do the next undone step again and return what that has changed; None if there is no such step."""
        position = self._position()
        return self._exchange(position + 1, position + 1)

    def _position(self) -> int:
        return int(self._sql("SELECT step FROM position").fetchone()[0])

    def _label(self, step: int) -> str | None:
        found = self._sql("SELECT label FROM steps WHERE number = ?", (step,)).fetchone()
        return None if found is None else str(found[0])

    def _forget(self, which: str, step: int) -> None:
        self._sql(f"DELETE FROM steps WHERE number {which}", (step,))
        for table in MASK_TABLES:
            self._sql(f"DELETE FROM runs WHERE id IN (SELECT runs FROM past_{table} WHERE step {which})", (step,))
        for table in COLUMNS:
            self._sql(f"DELETE FROM past_{table} WHERE step {which}", (step,))

    def _exchange(self, step: int, position: int) -> Change | None:
        label = self._label(step)
        if label is None:
            return None
        keys = {table: self._exchange_rows(table, step) for table in COLUMNS}
        sizes = " + ".join(
            f"(SELECT coalesce(sum(bytes), 0) FROM past_{table} WHERE step = :step)" for table in MASK_TABLES
        )
        self._sql(f"UPDATE steps SET bytes = {sizes} WHERE number = :step", {"step": step})
        self._sql("UPDATE position SET step = ?", (position,))
        return Change(label=label, **vars(Touched.of(keys)))

    def _exchange_rows(self, table: str, step: int) -> list[tuple[int, int]]:
        """Exchange the rows of a step with those of the table; return their keys."""
        own, past = names(table), f"past_{table}"
        keys = self._sql(f"SELECT object, frame FROM {past} WHERE step = ?", (step,)).fetchall()
        self._sql(
            f"INSERT INTO {past} SELECT ?, p.object, p.frame, t.object IS NOT NULL, "
            f"{', '.join(f't.{name}' for name in own.split(', '))} "
            f"FROM {past} p LEFT JOIN {table} t ON t.object = p.object AND t.frame = p.frame WHERE p.step = ?",
            (_EXCHANGED, step),
        )
        self._sql(
            f"DELETE FROM {table} WHERE (frame, object) IN (SELECT frame, object FROM {past} WHERE step = ?)", (step,)
        )
        self._sql(
            f"INSERT INTO {table} SELECT object, frame, {own} FROM {past} WHERE step = ? AND present",
            (step,),
        )
        self._sql(f"DELETE FROM {past} WHERE step = ?", (step,))
        self._sql(f"UPDATE {past} SET step = ? WHERE step = ?", (step, _EXCHANGED))
        return keys
