"""Edit: changes of an annotation inside one transaction."""

from __future__ import annotations

import json
import math
import sqlite3
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from i2vpp.annotate.storage.history import COLUMNS, MASK_TABLES, NO_FRAME, TRACK_TABLES, History, names
from i2vpp.annotate.storage.labels import Label, changed_label, label_of, new_label
from i2vpp.annotate.storage.staleness import dependent_frames
from i2vpp.annotate.storage.values import ObjectInfo, Prompts, StoredMask, Touched, check_color, check_name
from i2vpp.errors import PromptError
from i2vpp.utils.result_files import MAX_OBJECT_ID
from i2vpp.utils.visualize import object_color

COMPRESSION = 1
TrackRows = Mapping[str, "tuple[Any, ...] | None"]
"""The rows of one object on one frame, by the tables of `TRACK_TABLES`; None where a table has none."""

OBJECTS = f"SELECT object, {names('objects')}, label FROM objects LEFT JOIN classes USING (object, frame)"
"""The query whose rows `to_object` reads."""


@dataclass(frozen=True, kw_only=True)
class Extent:
    """The size of a video in pixels, and its number of frames where that is known."""

    height: int
    width: int
    frames: int | None


class Edit:
    """Changes inside one transaction; made by `Annotation.edit`."""

    def __init__(
        self, connection: sqlite3.Connection, history: History, extent: Extent, *, label: str, joint: str | None
    ) -> None:
        self._sql = connection.execute
        self._history = history
        self._extent = extent
        self._label, self._joint = label, joint
        self._step: int | None = None
        self._keys: dict[str, set[tuple[int, int]]] = {table: set() for table in COLUMNS}

    @property
    def changed(self) -> bool:
        """Whether anything was changed yet."""
        return self._step is not None

    @property
    def touched(self) -> Touched:
        """What was changed so far."""
        return Touched.of(self._keys)

    def add_object(self, name: str | None = None, color: str | None = None, *, obj_id: int | None = None) -> ObjectInfo:
        """Add an object; the id of an object that was deleted is not used again, that of an undone addition is.

        Args:
            name: None: `Object <id>`.
            color: `#rrggbb`; None: one that differs from the other objects'.
            obj_id: the preferred id; the smallest free one is taken if it was used before.

        Returns:
            The new object.

        Raises:
            PromptError: a bad name or colour, or all 255 ids were used.
        """
        self._begin()  # ids that only undone steps know are free from now on
        used = {row[0] for row in self._sql("SELECT object FROM ids")}
        free = [i for i in range(1, MAX_OBJECT_ID + 1) if i not in used]
        if not free:
            raise PromptError(
                f"all {MAX_OBJECT_ID} object ids of this video were used; ids of deleted objects do not come back"
            )
        number = obj_id if obj_id in free else free[0]
        assert number is not None
        info = ObjectInfo(
            id=number,
            name=check_name(f"Object {number}" if name is None else name),
            color=check_color("#{:02x}{:02x}{:02x}".format(*object_color(number)) if color is None else color),
        )
        self._put("ids", number, NO_FRAME, (1,))
        self._put("objects", number, NO_FRAME, (info.name, info.color, info.hidden, info.locked))
        return info

    def change_object(
        self,
        obj_id: int,
        *,
        name: str | None = None,
        color: str | None = None,
        hidden: bool | None = None,
        locked: bool | None = None,
    ) -> ObjectInfo:
        """Change fields of an object; those that are None stay as they are.

        Args:
            obj_id: the object.
            name: 1 to 100 printable characters.
            color: `#rrggbb`.
            hidden: whether it is not drawn.
            locked: whether its prompts and masks are not to be changed.

        Returns:
            The object after the change.

        Raises:
            PromptError: there is no such object, or the name or colour is not allowed.
        """
        old = self._object(obj_id)
        new = replace(
            old,
            name=old.name if name is None else check_name(name),
            color=old.color if color is None else check_color(color),
            hidden=old.hidden if hidden is None else bool(hidden),
            locked=old.locked if locked is None else bool(locked),
        )
        if new != old:
            self._put("objects", obj_id, NO_FRAME, (new.name, new.color, new.hidden, new.locked))
        return new

    def add_label(self, name: str, color: str | None = None) -> Label:
        """Add a label.

        Args:
            name: 1 to 100 printable characters.
            color: `#rrggbb`; None: one that differs from the other labels'.

        Returns:
            The new label.

        Raises:
            PromptError: a bad name or colour, one of that name exists, or there are `MAX_LABELS`.
        """
        label = new_label(self._sql, name, color)
        self._put("labels", label.number, NO_FRAME, (label.name, label.color))
        return label

    def change_label(self, number: int, *, name: str | None = None, color: str | None = None) -> Label:
        """Change fields of a label; those that are None stay as they are.

        Args:
            number: the label.
            name: 1 to 100 printable characters.
            color: `#rrggbb`.

        Returns:
            The label after the change.

        Raises:
            PromptError: there is no such label, the name or colour is not allowed, or another one has that name.
        """
        old = label_of(self._sql, number)
        new = changed_label(self._sql, old, name, color)
        if new != old:
            self._put("labels", number, NO_FRAME, (new.name, new.color))
        return new

    def delete_label(self, number: int) -> None:
        """Delete a label; the objects that have it have none then."""
        label_of(self._sql, number)
        for (obj_id,) in self._sql("SELECT object FROM classes WHERE label = ?", (number,)).fetchall():
            self._put("classes", obj_id, NO_FRAME, None)
        self._put("labels", number, NO_FRAME, None)

    def set_label(self, obj_id: int, number: int | None) -> None:
        """Give an object a label, or none.

        Args:
            obj_id: the object.
            number: number of the label; None: it has none.

        Raises:
            PromptError: there is no such object or label.
        """
        if number is not None:
            label_of(self._sql, number)
        if number != self._object(obj_id).label:
            self._put("classes", obj_id, NO_FRAME, None if number is None else (number,))

    def delete_object(self, obj_id: int) -> None:
        """Delete an object with its prompts and masks."""
        self._object(obj_id)
        for table in (*TRACK_TABLES, "classes", "objects"):
            for (frame,) in self._sql(f"SELECT frame FROM {table} WHERE object = ?", (obj_id,)).fetchall():
                self._put(table, obj_id, frame, None)

    def set_prompts(self, obj_id: int, frame: int, prompts: Prompts) -> None:
        """Set all prompts of an object on a frame. The mask is left as it is.

        Args:
            obj_id: the object.
            frame: index of the frame.
            prompts: replace all earlier ones there; empty prompts delete them.

        Raises:
            PromptError: there is no such object or frame, or a prompt lies outside the frame.
        """
        self._check_key(obj_id, frame)
        prompts = prompts.inside(self._extent.height, self._extent.width)
        value = json.dumps(prompts.to_json()) if prompts else None
        old = self._sql("SELECT value FROM prompts WHERE object = ? AND frame = ?", (obj_id, frame)).fetchone()
        if value != (old[0] if old else None):
            self._put("prompts", obj_id, frame, None if value is None else (value,))

    def set_mask(self, obj_id: int, frame: int, mask: StoredMask | None) -> None:
        """Set the mask of an object on a frame. The prompts are left as they are.

        Where the object was accepted it is to do again, unless the mask is the same as before.

        Args:
            obj_id: the object.
            frame: index of the frame.
            mask: replaces an earlier one; None deletes it.

        Raises:
            PromptError: there is no such object or frame.
            ValueError: the mask has another size than the video.
        """
        if self.is_accepted(obj_id, frame) and self._runs(obj_id, frame) != (None if mask is None else mask.runs):
            self._put("reviewed", obj_id, frame, None)
        self._put_mask("masks", obj_id, frame, mask)

    def track(self, obj_id: int, frame: int, mask: StoredMask, *, reverse: bool) -> None:
        """Set the mask that tracking has found. Where the object is accepted nothing is changed.

        Args:
            obj_id: the object.
            frame: index of the frame; the object has no prompts there.
            mask: the mask.
            reverse: whether it was tracked towards frame 0.

        Raises:
            PromptError: there is no such object or frame.
            ValueError: the mask has another size than the video.
        """
        if not self.is_accepted(obj_id, frame):
            self._put_mask("masks", obj_id, frame, mask)
            self._put("tracking", obj_id, frame, (reverse, False))

    def mark_stale(self, obj_id: int, frame: int) -> None:
        """Mark the masks that depend on an object's mask on a frame as stale, see `dependent_frames`.

        Args:
            obj_id: the object.
            frame: index of the frame whose mask was corrected.
        """
        ways = dict(self._sql("SELECT frame, reverse FROM tracking WHERE object = ?", (obj_id,)))
        masks = (row[0] for row in self._sql("SELECT frame FROM masks WHERE object = ?", (obj_id,)).fetchall())
        prompted = {row[0] for row in self._sql("SELECT frame FROM prompts WHERE object = ?", (obj_id,))}
        known = {other: ways.get(other) for other in masks if other not in prompted or other in ways}
        stale = {row[0] for row in self._sql("SELECT frame FROM tracking WHERE object = ? AND stale", (obj_id,))}
        for other, reverse in dependent_frames(frame, known, prompted).items():
            if other not in stale:
                self._put("tracking", obj_id, other, (reverse, True))

    def accept(self, obj_id: int, frame: int, accepted: bool) -> None:
        """Note whether a person has accepted what is stored of an object on a frame; nothing else is changed.

        Args:
            obj_id: the object.
            frame: index of the frame.
            accepted: False: it is to do.

        Raises:
            PromptError: there is no such object or frame.
        """
        self._check_key(obj_id, frame)
        if accepted != self.is_accepted(obj_id, frame):
            self._put("reviewed", obj_id, frame, (1,) if accepted else None)

    def is_accepted(self, obj_id: int, frame: int) -> bool:
        """Whether an object is accepted on a frame.

        Args:
            obj_id: the object.
            frame: index of the frame.
        """
        found = self._sql("SELECT 1 FROM reviewed WHERE object = ? AND frame = ?", (obj_id, frame)).fetchone()
        return found is not None

    def set_tracked(self, obj_id: int, frame: int, mask: StoredMask | None) -> None:
        """Set the mask that a prompted frame had before it was prompted, see `Annotation.tracked`.

        Args:
            obj_id: the object.
            frame: index of the frame.
            mask: replaces an earlier one; None deletes it.

        Raises:
            PromptError: there is no such object or frame.
            ValueError: the mask has another size than the video.
        """
        self._put_mask("tracked", obj_id, frame, mask)

    def track_frames(self, obj_id: int, first: int, last: int) -> list[int]:
        """Return the frames on which anything is stored of an object, in order.

        Args:
            obj_id: the object.
            first: the first frame that is considered.
            last: the last one.
        """
        tables = " UNION ".join(f"SELECT object, frame FROM {table}" for table in TRACK_TABLES)
        found = self._sql(
            f"SELECT frame FROM ({tables}) WHERE object = ? AND frame BETWEEN ? AND ? ORDER BY frame",
            (obj_id, first, last),
        )
        return [row[0] for row in found.fetchall()]

    def track_rows(self, obj_id: int, frame: int) -> TrackRows:
        """Return all that is stored of an object on a frame.

        Args:
            obj_id: the object.
            frame: index of the frame.
        """
        found = {}
        for table in TRACK_TABLES:
            query = f"SELECT {names(table)} FROM {table} WHERE object = ? AND frame = ?"
            found[table] = self._sql(query, (obj_id, frame)).fetchone()
        return found

    def put_track_rows(self, obj_id: int, frame: int, rows: TrackRows) -> None:
        """Replace all that is stored of an object on a frame.

        Args:
            obj_id: the object.
            frame: index of the frame.
            rows: what `track_rows` returned in this edit, also of another object; {} deletes everything.
        """
        self._check_key(obj_id, frame)
        old = self.track_rows(obj_id, frame)
        for table in TRACK_TABLES:
            row = rows.get(table)
            if row is not None and table in MASK_TABLES:  # the runs of a mask belong to one row
                copy = self._sql("INSERT INTO runs (data) SELECT data FROM runs WHERE id = ?", (row[-1],)).lastrowid
                row = (*row[:-1], copy)
            if row is not None or old[table] is not None:
                self._put(table, obj_id, frame, row)

    def set_done(self, frames: int) -> None:
        """Note how far the propagation is, see `Annotation.propagation`; this is no part of a step."""
        self._sql("UPDATE propagation SET done = ?", (frames,))

    def _put_mask(self, table: str, obj_id: int, frame: int, mask: StoredMask | None) -> None:
        self._check_key(obj_id, frame)
        if mask is None:
            if self._sql(f"SELECT 1 FROM {table} WHERE object = ? AND frame = ?", (obj_id, frame)).fetchone():
                self._put(table, obj_id, frame, None)
            return
        mask.check_size(self._extent.height, self._extent.width)
        packed = zlib.compress(mask.runs, COMPRESSION)
        runs = self._sql("INSERT INTO runs (data) VALUES (?)", (packed,)).lastrowid
        self._put(table, obj_id, frame, (mask.area, _known(mask.score), _known(mask.iou), len(packed), runs))

    def _runs(self, obj_id: int, frame: int) -> bytes | None:
        query = "SELECT data FROM masks JOIN runs ON masks.runs = runs.id WHERE object = ? AND frame = ?"
        found = self._sql(query, (obj_id, frame)).fetchone()
        return None if found is None else zlib.decompress(found[0])

    def _begin(self) -> int:
        """Return the step that this edit is; it is begun by the first change."""
        if self._step is None:
            self._step = self._history.begin(self._label, self._joint)
        return self._step

    def _put(self, table: str, obj_id: int, frame: int, row: tuple[Any, ...] | None) -> None:
        """Write or delete (None) a row."""
        self._history.keep(self._begin(), table, obj_id, frame)
        self._keys[table].add((obj_id, frame))
        if row is None:
            self._sql(f"DELETE FROM {table} WHERE object = ? AND frame = ?", (obj_id, frame))
        else:
            places = ", ".join("?" * (len(row) + 2))
            self._sql(f"INSERT OR REPLACE INTO {table} VALUES ({places})", (obj_id, frame, *row))

    def _object(self, obj_id: int) -> ObjectInfo:
        row = self._sql(f"{OBJECTS} WHERE object = ?", (obj_id,)).fetchone()
        if row is None:
            raise PromptError(f"there is no object {obj_id}")
        return to_object(row)

    def _check_key(self, obj_id: int, frame: int) -> None:
        self._object(obj_id)
        frames = self._extent.frames
        if frame < 0 or (frames is not None and frame >= frames):
            last = "" if frames is None else f" to {frames - 1}"
            raise PromptError(f"there is no frame {frame}; frames are 0{last}")


def to_object(row: tuple[Any, ...]) -> ObjectInfo:
    """Make an ObjectInfo of a row of `OBJECTS`."""
    obj_id, name, color, hidden, locked, label = row
    return ObjectInfo(id=obj_id, name=name, color=color, hidden=bool(hidden), locked=bool(locked), label=label)


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
