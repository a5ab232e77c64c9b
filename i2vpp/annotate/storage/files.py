"""The SQLite file of an annotation: made, recognised, opened by one process at a time."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from i2vpp.annotate.errors import AnnotationError, DiskFullError, is_disk_full
from i2vpp.annotate.storage.history import NO_FRAME, create_table, create_tables

APPLICATION_ID = 0x69327670  # "i2vp", in the header of the file
VERSION = 4
READABLE = (1, 2, 3, VERSION)
"""Versions of files that are opened; earlier ones get what they lack. Version 2 has brought labels, version 3 ids that
undo gives back, the masks below prompts, and the propagation that runs, version 4 what was accepted, and the direction
of tracking and whether a mask is stale."""
LOCK_SECONDS = 2.0


def open_file(path: Path) -> sqlite3.Connection:
    """Open or make an annotation file; any other file is left as it is.

    Raises:
        AnnotationError: the file is damaged, no annotation, in use, or cannot be written.
        DiskFullError: no space is left.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # An empty file is new, too: SQLite makes one before it writes, and the process may have been killed in between.
        new = not path.exists() or not path.stat().st_size
    except OSError as error:
        raise _explained(path, error) from error
    with in_words(path):
        if not new:
            _check_kind(path)
        connection = sqlite3.connect(path, timeout=LOCK_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            # One process at a time. This mode also needs no file of shared memory, which network disks do not support.
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            if new:
                _create(connection)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            problem = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if problem != "ok":
                raise sqlite3.DatabaseError(problem)
            if connection.execute("PRAGMA user_version").fetchone()[0] < VERSION:
                _migrate(connection)
        except BaseException:
            connection.close()
            raise
        return connection


def _check_kind(path: Path) -> None:
    """Raise AnnotationError unless this is an annotation file; nothing is locked or written.

    The file is read through SQLite and not with `open`: POSIX drops all locks of a process on a file when the process
    closes any handle of it, and only SQLite knows whether this process has the file open already.
    """
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
            (application,) = connection.execute("PRAGMA application_id").fetchone()
            (version,) = connection.execute("PRAGMA user_version").fetchone()
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):
            raise
        raise AnnotationError(
            f"{path} is no annotation file, or it is damaged; it is left as it is, move it away"
        ) from error
    if application != APPLICATION_ID:
        raise AnnotationError(f"{path} is a SQLite file of another program; it is left as it is, move it away")
    if version not in READABLE:
        raise AnnotationError(
            f"{path} is an annotation file of version {version}; this i2vpp reads versions up to {VERSION}: update it"
        )


_PROPAGATION = "CREATE TABLE propagation (value TEXT, done INTEGER)"  # the one that runs; at most one row


def _migrate(connection: sqlite3.Connection) -> None:
    """Bring a file of an earlier version to the present one, with its history."""
    connection.execute("BEGIN IMMEDIATE")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version < 2:
        _add_tables(connection, "labels", "classes")
    if version < 3:
        _add_ids(connection)
        _add_tables(connection, "tracked")
        connection.execute(_PROPAGATION)
    _add_tables(connection, "tracking", "reviewed")
    connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.execute("COMMIT")


def _add_tables(connection: sqlite3.Connection, *tables: str) -> None:
    for table in tables:
        create_table(connection, table)


def _add_ids(connection: sqlite3.Connection) -> None:
    """Bring the ids of all objects that were ever added into the history; before version 3 they were outside of it."""
    sql = connection.execute
    create_table(connection, "ids")
    sql("INSERT INTO ids SELECT id, ?, 1 FROM used_ids", (NO_FRAME,))
    sql("DROP TABLE used_ids")
    # Steps that are done and added an object: it was not there before. Undoing them takes the id out.
    sql(
        "INSERT INTO past_ids SELECT min(step), object, frame, 0, NULL FROM past_objects "
        "WHERE step <= (SELECT step FROM position) AND NOT present GROUP BY object"
    )
    # Objects whose addition is undone: only steps that can be done again know them.
    sql(
        "INSERT INTO past_ids SELECT min(step), object, frame, 1, 1 FROM past_objects "
        "WHERE object NOT IN (SELECT object FROM objects) AND object NOT IN "
        "(SELECT object FROM past_objects WHERE step <= (SELECT step FROM position)) GROUP BY object"
    )
    sql(
        "DELETE FROM ids WHERE object IN "
        "(SELECT object FROM past_ids WHERE present AND step > (SELECT step FROM position))"
    )


def _create(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    create_tables(connection)
    connection.execute(
        "CREATE TABLE video (name TEXT, height INTEGER, width INTEGER, frames INTEGER, revision INTEGER, "
        "settled INTEGER)"
    )
    connection.execute(_PROPAGATION)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.execute("COMMIT")


@contextmanager
def in_words(path: Path) -> Iterator[None]:
    """Turn the errors of SQLite into AnnotationError and DiskFullError."""
    try:
        yield
    except sqlite3.Error as error:
        raise _explained(path, error) from error


def _explained(path: Path, error: sqlite3.Error | OSError) -> AnnotationError:
    reason = str(error)
    if is_disk_full(error):
        return DiskFullError(f"no space is left on the disk of {path}; nothing was changed. Free some and try again")
    if "locked" in reason:
        return AnnotationError(
            f"{path} is in use, probably by another annotator; close that, or choose another output folder"
        )
    if "closed database" in reason:
        return AnnotationError(f"{path} was closed")
    if type(error) is sqlite3.DatabaseError:
        return AnnotationError(f"{path} is damaged ({reason}); it is left as it is, move it away")
    return AnnotationError(f"cannot use {path}: {reason}")
