"""The results of an evaluation, and their files: JSON and CSV. All scores are in percent."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from i2vpp.data.files import read_json
from i2vpp.errors import DataError
from i2vpp.runs.settings import RUN_FOLDER
from i2vpp.utils.files import atomic_write
from sav_dataset.layouts import Missing
from sav_dataset.scoring import ObjectResult

MEASURES = ("J&F", "J", "F")


@dataclass(frozen=True, kw_only=True)
class Mean:
    """Mean over objects, in percent; nan where there are none.

    Args:
        videos: that these objects are in.
        objects: how many.
        j: mean J.
        f: mean F.
    """

    videos: int
    objects: int
    j: float
    f: float

    @classmethod
    def over(cls, objects: Sequence[ObjectResult]) -> Mean:
        """Average over objects, each of which counts alike."""
        count = len(objects)
        return cls(
            videos=len({result.video for result in objects}),
            objects=count,
            j=math.fsum(result.j for result in objects) / count if count else math.nan,
            f=math.fsum(result.f for result in objects) / count if count else math.nan,
        )

    @property
    def jf(self) -> float:
        """J&F, the mean of both."""
        return (self.j + self.f) / 2


def measures(rated: Mean | ObjectResult) -> dict[str, float]:
    """Return the values of `MEASURES` by name."""
    return dict(zip(MEASURES, (rated.jf, rated.j, rated.f), strict=True))


@dataclass(frozen=True, kw_only=True)
class Table:
    """Means over parts of the objects.

    Args:
        title: what the rows are.
        rows: means by name.
    """

    title: str
    rows: Mapping[str, Mean]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Scores of predictions.

    Args:
        objects: one result per object, in order.
        missing: predictions that are not there.
        never_seen: objects that are in no scored frame of the ground truth; the rule says if they count.
        unscored: objects that do not count, as they have no frame to score.
        strange: by video, values of predicted index masks that are no object of the ground truth; they are ignored.
        remarks: what else should be known, such as names of predictions that differ from those of the true masks.
        settings: how it was scored.
        run: how the predictions were made, where that is known (`read_run`).
    """

    objects: tuple[ObjectResult, ...]
    missing: Missing = field(default_factory=Missing)
    never_seen: tuple[str, ...] = ()
    unscored: tuple[str, ...] = ()
    strange: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    run: Mapping[str, Any] | None = None

    @property
    def mean(self) -> Mean:
        """The mean over all objects."""
        return Mean.over(self.objects)

    @property
    def j(self) -> float:
        """Mean J over all objects."""
        return self.mean.j

    @property
    def f(self) -> float:
        """Mean F over all objects."""
        return self.mean.f

    @property
    def jf(self) -> float:
        """J&F, the mean of both."""
        return self.mean.jf

    def worst(self, count: int) -> list[ObjectResult]:
        """Return the objects with the lowest J&F, the worst first."""
        return sorted(self.objects, key=lambda result: result.jf)[:count]


def read_run(pred_root: Path) -> dict[str, Any] | None:
    """Read how predictions were made, from the records of `test_pvs` beside them; None where there are none.

    Returns:
        The contents of `.run/run.json`, and what its jobs took: `frames`, `seconds` (of all processes), `FPS` (frames
        per second of a process), `peak_memory` (bytes, of the job that took most), `devices` and `failed` (names).

    Raises:
        DataError: a file is damaged.
    """
    path = pred_root / RUN_FOLDER / "run.json"
    if not path.is_file():
        return None
    folder = path.parent / "units"  # the records of the run's jobs; see i2vpp/runs/store.py
    records = {file.relative_to(folder).with_suffix("").as_posix(): read_json(file) for file in folder.rglob("*.json")}
    made = [record for record in records.values() if "error" not in record]
    try:
        frames, seconds = sum(record["frames"] for record in made), sum(record["seconds"] for record in made)
        peak_memory = max((record["peak_memory"] for record in made), default=None)
    except (KeyError, TypeError) as error:
        raise DataError(f"a record in {folder} is damaged ({type(error).__name__}: {error}); delete it") from error
    return {
        **read_json(path),
        "frames": frames,
        "seconds": seconds,
        "FPS": frames / seconds if seconds else None,
        "peak_memory": peak_memory,
        "devices": sorted({record["device"] for record in made if record.get("device")}),
        "failed": sorted(name for name, record in records.items() if "error" in record),
    }


# ---- JSON


def write_json(path: Path, evaluation: Evaluation, tables: Iterable[Table] = ()) -> None:
    """Write everything into one JSON file, with a line for each object.

    Args:
        path: of the file.
        evaluation: to be written; `read_evaluation` reads it again.
        tables: means over parts, which are written beside it.

    Raises:
        OSError: the file cannot be written.
    """
    content = {
        **_scores(evaluation.mean),
        "settings": dict(evaluation.settings),
        "missing": asdict(evaluation.missing),
        "never_seen": evaluation.never_seen,
        "unscored": evaluation.unscored,
        "strange": dict(evaluation.strange),
        "remarks": evaluation.remarks,
        "run": evaluation.run,
        "tables": {table.title: {name: _scores(mean) for name, mean in table.rows.items()} for table in tables},
    }
    objects = ",\n  ".join(json.dumps(_object_content(result)) for result in evaluation.objects)
    head = json.dumps(content, indent=1, default=str).removesuffix("\n}")
    write_text(path, f'{head},\n "objects": [\n  {objects}\n ]\n}}\n')


def read_evaluation(path: Path) -> Evaluation:
    """Read a file that `write_json` wrote.

    Raises:
        DataError: it is no such file.
    """
    content = read_json(path)
    try:
        return Evaluation(
            objects=tuple(_object_from(entry) for entry in content["objects"]),
            missing=Missing(
                videos=tuple(content["missing"]["videos"]),
                objects=tuple(content["missing"]["objects"]),
                frames={name: tuple(frames) for name, frames in content["missing"]["frames"].items()},
            ),
            never_seen=tuple(content["never_seen"]),
            unscored=tuple(content["unscored"]),
            strange={video: tuple(values) for video, values in content["strange"].items()},
            remarks=tuple(content.get("remarks", ())),  # of files from before there were any
            settings=content["settings"],
            run=content["run"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} holds no results of an evaluation ({type(error).__name__}: {error}); "
            "give a file that sav_dataset/sav_evaluator.py --json wrote"
        ) from error


def _scores(mean: Mean) -> dict[str, float | int | None]:
    rated = {name: None if math.isnan(value) else value for name, value in measures(mean).items()}
    return {**rated, "num_objects": mean.objects, "num_videos": mean.videos}


def _object_content(result: ObjectResult) -> dict[str, Any]:
    return {
        "video": result.video,
        "object": result.object,
        **measures(result),
        "frames": result.frames,
        "frame_J": result.frame_j,
        "frame_F": result.frame_f,
    }


def _object_from(entry: Mapping[str, Any]) -> ObjectResult:
    return ObjectResult(
        video=entry["video"],
        object=entry["object"],
        frames=tuple(entry["frames"]),
        frame_j=tuple(entry["frame_J"]),
        frame_f=tuple(entry["frame_F"]),
    )


# ---- CSV


def write_csv(path: Path, evaluation: Evaluation) -> None:
    """Write a CSV file with a line for each object.

    Args:
        path: of the file.
        evaluation: to be written.

    Raises:
        OSError: the file cannot be written.
    """
    rows = ((r.video, r.object, len(r.frames), *measures(r).values()) for r in evaluation.objects)
    _write_rows(path, ("video", "object", "frames", *MEASURES), rows)


def write_frames_csv(path: Path, evaluation: Evaluation) -> None:
    """Write a CSV file with a line for each object and scored frame.

    Args:
        path: of the file.
        evaluation: to be written.

    Raises:
        OSError: the file cannot be written.
    """
    rows = (
        (result.video, result.object, frame, (j + f) / 2, j, f)
        for result in evaluation.objects
        for frame, j, f in zip(result.frames, result.frame_j, result.frame_f, strict=True)
    )
    _write_rows(path, ("video", "object", "frame", *MEASURES), rows)


def _write_rows(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, text.getvalue())


# ---- files


def write_text(path: Path, text: str) -> None:
    """Write a text file, which replaces an earlier one only when it is complete.

    Args:
        path: of the file.
        text: its content.

    Raises:
        OSError: the file cannot be written.
    """
    with atomic_write(path, "w") as file:
        file.write(text)
