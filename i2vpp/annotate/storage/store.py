"""Annotation: the objects, prompts and masks of one video in one SQLite file, with undo and redo.

The file is the only source of truth; the memory of a model is rebuilt from it. Every change is one transaction, which
is stored as a whole or not at all, also when the process is killed.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from i2vpp.annotate.errors import AnnotationError, StaleRevisionError
from i2vpp.annotate.storage.cells import Cell, doubtful_frame, read_cells, video_state
from i2vpp.annotate.storage.changes import ChangeLog
from i2vpp.annotate.storage.edit import OBJECTS, Edit, Extent, to_object
from i2vpp.annotate.storage.files import in_words, open_file
from i2vpp.annotate.storage.history import History
from i2vpp.annotate.storage.labels import Label, LabelChoice, labels_of, offer_labels
from i2vpp.annotate.storage.values import NAN, Change, ObjectInfo, Prompts, StoredMask, Summary, Touched

_MASKS = "SELECT object, area, score, iou, data FROM {0} JOIN runs ON {0}.runs = runs.id"


class Annotation:
    """The annotation of one video. Threads may share it; no other process can open it at the same time.

    A step is what one undo takes back. The last 200 steps are kept.

    Args:
        path: path of the file; it is made, with its folder, if it does not exist.
        height: video height in pixels.
        width: video width in pixels.
        frames: how many the video has, if that is known.
        video: name of the video; None: any.

    Attributes:
        video: the name, None if it was never given.
        frames: how many, None if that was never given.

    Raises:
        AnnotationError: the file is damaged, no annotation, of another video, in use, or cannot be written. It is left
            as it is.
        DiskFullError: no space is left.
    """

    def __init__(
        self, path: Path, *, height: int, width: int, frames: int | None = None, video: str | None = None
    ) -> None:
        self.path = path
        self.height, self.width = height, width
        self._lock = threading.RLock()
        self._connection = open_file(path)
        self._history = History(self._connection)
        self._log = ChangeLog()
        self._summary: tuple[int, Summary] | None = None  # with its revision
        try:
            with self._transaction():
                self.video, self.frames = self._claim(video, frames)
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> Annotation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; further calls do nothing."""
        with self._lock:
            self._connection.close()

    @property
    def revision(self) -> int:
        """A number that grows with every committed change."""
        return int(self._one("SELECT revision FROM video")[0])

    @property
    def undo_label(self) -> str | None:
        """Label of the step that `undo` takes back."""
        with self._reading():
            return self._history.labels()[0]

    @property
    def redo_label(self) -> str | None:
        """Label of the step that `redo` does again."""
        with self._reading():
            return self._history.labels()[1]

    def objects(self) -> list[ObjectInfo]:
        """Return all objects in the order of their ids."""
        return [to_object(row) for row in self._rows(f"{OBJECTS} ORDER BY object")]

    def labels(self) -> list[Label]:
        """Return all labels in the order of their numbers."""
        with self._reading():
            return labels_of(self._connection.execute)

    def offer_labels(self, choices: Sequence[LabelChoice]) -> None:
        """Add the labels that are not there yet by name. This is no step to undo, and no change for who looks on.

        Args:
            choices: names and colours.

        Raises:
            DiskFullError: no space is left.
        """
        with self._transaction():
            offer_labels(self._connection.execute, choices)

    def prompts(self) -> dict[int, dict[int, Prompts]]:
        """Return all prompts by object and frame."""
        found: dict[int, dict[int, Prompts]] = {}
        for obj_id, frame, value in self._rows("SELECT object, frame, value FROM prompts ORDER BY object, frame"):
            found.setdefault(obj_id, {})[frame] = Prompts.from_json(json.loads(value))
        return found

    def mask(self, obj_id: int, frame: int) -> StoredMask | None:
        """Return the mask of an object on a frame; None where there is none, which is not the same as an empty mask.

        Args:
            obj_id: the object.
            frame: index of the frame.
        """
        return self._one_mask("masks", obj_id, frame)

    def tracked(self, obj_id: int, frame: int) -> StoredMask | None:
        """Return the mask that a prompted frame had before it was prompted; None if there was none.

        Args:
            obj_id: the object.
            frame: index of the frame.
        """
        return self._one_mask("tracked", obj_id, frame)

    def masks(self, frame: int) -> dict[int, StoredMask]:
        """Return all masks of a frame by object."""
        rows = self._rows(f"{_MASKS.format('masks')} WHERE frame = ? ORDER BY object", frame)
        return {obj_id: self._mask(*row) for obj_id, *row in rows}

    def cells(self, obj_id: int | None = None, *, first: int = 0, last: int | None = None) -> list[Cell]:
        """Return what is known of objects on frames where they have a mask or are accepted, by objects and frames.

        Args:
            obj_id: only of this object; None: of all objects, on all frames.
            first: only from this frame on.
            last: only up to this frame; None: to the end.
        """
        with self._reading():
            return read_cells(self._connection.execute, obj_id, first=first, last=last)

    def accepted(self) -> dict[int, set[int]]:
        """Return the frames on which objects are accepted, by object."""
        found: dict[int, set[int]] = {}
        for obj_id, frame in self._rows("SELECT object, frame FROM reviewed"):
            found.setdefault(obj_id, set()).add(frame)
        return found

    def prompts_on(self, obj_id: int, frame: int) -> Prompts:
        """Return the prompts of an object on a frame.

        Args:
            obj_id: the object.
            frame: index of the frame.
        """
        found = self._one("SELECT value FROM prompts WHERE frame = ? AND object = ?", frame, obj_id)
        return Prompts() if found is None else Prompts.from_json(json.loads(found[0]))

    def summary(self) -> Summary:
        """Return what the list of videos shows; it is counted anew only after a change."""
        with self._reading():
            if self._summary is None or self._summary[0] != self.revision:
                self._summary = self.revision, _summary(self._connection)
            return self._summary[1]

    def doubtful(self, after: int, *, obj_ids: Collection[int] | None = None) -> int | None:
        """Return the next frame that a person should look at, see `next_doubtful`; None if there is none.

        Args:
            after: index of a frame; later frames come first, then those from the beginning.
            obj_ids: the objects that are considered; None: all.
        """
        return doubtful_frame([cell for cell in self.cells() if obj_ids is None or cell.obj_id in obj_ids], after)

    @contextmanager
    def edit(self, label: str, *, expected: int | None = None, joint: str | None = None) -> Iterator[Edit]:
        """Change the annotation in one transaction, which is one step to undo. Other threads wait for the block to end.

        An exception in the block takes all its changes back. A block that changes nothing is no step.

        Args:
            label: label of the step, for people, such as "Add object".
            expected: the revision that the change was made in view of; None: any. Joint steps (below) since then are
                no conflict.
            joint: name of a step that consists of several transactions, such as the frames of one propagation. The
                edit joins the last step if that has the same name, otherwise it begins one.

        Yields:
            The edit, whose methods change the annotation.

        Raises:
            StaleRevisionError: something was changed since `expected`.
            PromptError: unknown object or frame, or a value that makes no sense.
            DiskFullError: no space is left.
        """
        extent = Extent(height=self.height, width=self.width, frames=self.frames)
        edit = Edit(self._connection, self._history, extent, label=label, joint=joint)
        with self._lock:
            with self._transaction():
                self._check_revision(expected)
                yield edit
                if edit.changed:
                    self._history.trim()
                    self._advance(joint=joint is not None)
            if edit.changed:
                self._log.note(self.revision, edit.touched)

    def undo(self, *, expected: int | None = None) -> Change | None:
        """Take the last step back; return what that has changed, None if there is no step."""
        return self._travel(self._history.undo, expected)

    def redo(self, *, expected: int | None = None) -> Change | None:
        """Do the step again that was undone last; return what that has changed, None if there is no step."""
        return self._travel(self._history.redo, expected)

    def _travel(self, move: Callable[[], Change | None], expected: int | None) -> Change | None:
        with self._lock:
            with self._transaction():
                self._check_revision(expected)
                change = move()
                if change is not None:
                    self._advance(joint=False)
            if change is not None:
                self._log.note(self.revision, change)
        return change

    def changes(self, since: int) -> Touched | None:
        """Return what was changed since a revision; None where that is not known any more, or too much to list."""
        with self._reading():
            return self._log.since(since, self.revision)

    @contextmanager
    def still(self) -> Iterator[None]:
        """Keep other threads from changing anything meanwhile, so that several reads show one state."""
        with self._lock:
            yield

    def propagation(self) -> tuple[str, int] | None:
        """Return what `set_propagation` noted, and the frames done since (`Edit.set_done`); None after its end."""
        found = self._one("SELECT value, done FROM propagation")
        return None if found is None else (str(found[0]), int(found[1]))

    def set_propagation(self, value: str | None) -> None:
        """Note, outside the history, that a propagation has begun, or that it has ended (None).

        Args:
            value: text that tells what is left to do, should it break off.
        """
        with self._transaction():
            self._connection.execute("DELETE FROM propagation")
            if value is not None:
                self._connection.execute("INSERT INTO propagation VALUES (?, 0)", (value,))

    def _claim(self, video: str | None, frames: int | None) -> tuple[str | None, int | None]:
        """Check that the file is of this video, or note what it is made for; return its name and length."""
        sql = self._connection.execute
        if video is not None:  # names of files may hold bytes that are not UTF-8
            video = video.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        row = sql("SELECT name, height, width, frames FROM video").fetchone()
        if row is None:
            sql("INSERT INTO video VALUES (?, ?, ?, ?, 0, 0)", (video, self.height, self.width, frames))
            return video, frames
        name, height, width, known = row
        here = _describe(video if name is not None else None, self.height, self.width, frames if known else None)
        there = _describe(name if video is not None else None, height, width, known if frames else None)
        if here != there:
            raise AnnotationError(
                f"{self.path} holds annotations of {there}, but this is {here}; choose another output folder, "
                "or open the video that they were made for"
            )
        sql("UPDATE video SET name = coalesce(name, ?), frames = coalesce(frames, ?)", (video, frames))
        return video or name, known if frames is None else frames

    def check_revision(self, expected: int) -> None:
        """Raise StaleRevisionError where `edit` with that `expected` would do so."""
        with self._transaction():
            self._check_revision(expected)

    def _check_revision(self, expected: int | None) -> None:
        now, settled = self._connection.execute("SELECT revision, settled FROM video").fetchone()
        if expected is not None and not settled <= expected <= now:
            raise StaleRevisionError(
                f"the annotation was changed meanwhile (revision {now}, expected {expected}); look at it and try again"
            )

    def _advance(self, *, joint: bool) -> None:
        self._connection.execute("UPDATE video SET revision = revision + 1")
        if not joint:
            self._connection.execute("UPDATE video SET settled = revision")

    def _one_mask(self, table: str, obj_id: int, frame: int) -> StoredMask | None:
        rows = self._rows(f"{_MASKS.format(table)} WHERE frame = ? AND object = ?", frame, obj_id)
        return self._mask(*rows[0][1:]) if rows else None

    def _mask(self, area: int, score: float | None, iou: float | None, packed: bytes) -> StoredMask:
        try:
            runs = zlib.decompress(packed)
        except zlib.error as error:
            raise AnnotationError(f"{self.path} is damaged: a mask cannot be unpacked ({error})") from error
        return StoredMask(runs=runs, area=area, score=_number(score), iou=_number(iou))

    def _rows(self, sql: str, *values: Any) -> list[Any]:
        with self._reading():
            return self._connection.execute(sql, values).fetchall()

    def _one(self, sql: str, *values: Any) -> Any:
        with self._reading():
            return self._connection.execute(sql, values).fetchone()

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with self._lock, in_words(self.path):
            yield

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock, in_words(self.path):
            if self._connection.in_transaction:
                raise RuntimeError("edits do not nest")
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            finally:
                if self._connection.in_transaction:  # SQLite itself rolls back when the disk is full
                    self._connection.execute("ROLLBACK")


def summarize(path: Path) -> Summary:
    """Count objects and annotated frames of a file that no Annotation has open.

    Raises:
        AnnotationError: the file is damaged, no annotation, or in use.
    """
    if not path.exists():
        raise AnnotationError(f"{path} does not exist")
    with in_words(path), closing(open_file(path)) as connection:
        return _summary(connection)


def _summary(connection: sqlite3.Connection) -> Summary:
    objects = [to_object(row) for row in connection.execute(OBJECTS)]
    (annotated,) = connection.execute("SELECT count(DISTINCT frame) FROM masks").fetchone()
    frames, width, height = connection.execute("SELECT frames, width, height FROM video").fetchone()
    state = video_state(read_cells(connection.execute), len(objects), watched(objects), frames)
    return Summary(objects=len(objects), annotated=annotated, frames=frames, width=width, height=height, state=state)


def watched(objects: Sequence[ObjectInfo]) -> set[int]:
    """Return the objects that can be doubtful."""
    return {info.id for info in objects if not (info.hidden or info.locked)}


def _describe(video: str | None, height: int, width: int, frames: int | None) -> str:
    name = "a video" if video is None else repr(video)
    return f"{name} of {width} x {height} pixels" + ("" if frames is None else f" and {frames} frames")


def _number(value: float | None) -> float:
    return NAN if value is None else value
