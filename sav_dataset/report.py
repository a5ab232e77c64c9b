"""The report of an evaluation: tables in Markdown, and notes on what the means leave out."""

from __future__ import annotations

from collections.abc import Sequence

from sav_dataset.layouts import Missing
from sav_dataset.names import some
from sav_dataset.results import MEASURES, Evaluation, Table, measures
from sav_dataset.scoring import ObjectResult

WITHOUT_STRICT = "missing videos are left out, missing objects and frames count as empty masks"


def describe_missing(missing: Missing) -> str:
    """Say which predictions are missing; empty if none is."""
    gaps = [f"{name} ({len(frames)}, the first is {frames[0]})" for name, frames in missing.frames.items()]
    parts = (
        (len(missing.videos), "videos", missing.videos),
        (len(missing.objects), "objects", missing.objects),
        (sum(map(len, missing.frames.values())), "frames", gaps),
    )
    return "; ".join(f"{count} {what} without predictions: {some(names)}" for count, what, names in parts if count)


def describe_uncounted(evaluation: Evaluation) -> str:
    """Say which objects are not scored on frames that show them; empty if there is none."""
    return "; ".join(filter(None, (_describe_never_seen(evaluation), _describe_unscored(evaluation))))


def _describe_never_seen(evaluation: Evaluation) -> str:
    if not (names := evaluation.never_seen):
        return ""
    counted = (
        "they do not count by the published rule"
        if evaluation.settings.get("rule") == "published"
        else "frames score 100 where the prediction is empty too, else 0"
    )
    return f"{len(names)} objects are in no scored frame of the ground truth: {some(names)}; {counted}"


def _describe_unscored(evaluation: Evaluation) -> str:
    names = evaluation.unscored
    too_few = f"{len(names)} objects do not count, as they are annotated on too few frames: {some(names)}"
    return too_few if names else ""


def notes(evaluation: Evaluation) -> list[str]:
    """Say what should be known beside the mean."""
    missing = evaluation.missing
    strange = [f"{video} ({', '.join(map(str, values))})" for video, values in evaluation.strange.items()]
    failed = evaluation.run["failed"] if evaluation.run else []
    found = [
        f"{describe_missing(missing)}; {WITHOUT_STRICT}" if missing else "",
        _describe_never_seen(evaluation),
        _describe_unscored(evaluation),
        f"predictions hold values that are no object of the ground truth, ignored: {some(strange)}" if strange else "",
        *evaluation.remarks,
        f"{len(failed)} jobs of the run failed: {some(failed)}" if failed else "",
    ]
    return list(filter(None, found))


def report(evaluation: Evaluation, tables: Sequence[Table], *, worst: int) -> str:
    """Return the result in Markdown.

    Args:
        evaluation: to be shown.
        tables: means over parts, shown below the mean.
        worst: so many objects are listed, the worst first.

    Returns:
        Tables and sentences, without a final line break.
    """
    left_out = len(evaluation.missing.videos)
    overall = "all objects" + (f" ({left_out} videos missing)" if left_out else "")
    parts = [table_text(Table(title="mean over", rows={overall: evaluation.mean}))]
    if "rule" in evaluation.settings:
        parts.append(f"Rule: {evaluation.settings['rule']}")
    parts += [table_text(table) for table in tables]
    if worst:
        objects = evaluation.worst(worst)
        parts.append(objects_text(f"worst {len(objects)} of {len(evaluation.objects)}", objects))
    if evaluation.run and evaluation.run["FPS"]:
        devices = ", ".join(evaluation.run["devices"]) or "device not known"
        memory = evaluation.run["peak_memory"] / 2**30
        parts.append(f"Predictions: {evaluation.run['FPS']:.1f} frames/s, peak memory {memory:.2f} GiB ({devices})")
    return "\n\n".join(parts)


# ---- tables


def table_text(table: Table) -> str:
    """Return a table of means in Markdown, its columns aligned."""
    rows = [
        (name, str(mean.videos), str(mean.objects), *(f"{value:.1f}" for value in measures(mean).values()))
        for name, mean in table.rows.items()
    ]
    return markdown((table.title, "videos", "objects", *MEASURES), rows)


def objects_text(title: str, objects: Sequence[ObjectResult]) -> str:
    """Return a table of objects in Markdown.

    Args:
        title: of the first column.
        objects: one row each.

    Returns:
        The table with aligned columns: name, scored frames, J&F, J and F.
    """
    rows = [(r.name, str(len(r.frames)), *(f"{value:.1f}" for value in measures(r).values())) for r in objects]
    return markdown((title, "frames", *MEASURES), rows)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown.

    Args:
        header: titles of the columns.
        rows: their cells; all columns but the first hold numbers.

    Returns:
        The table with aligned columns, without a final line break.
    """
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [
        [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        for row in (header, rule, *rows)
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
