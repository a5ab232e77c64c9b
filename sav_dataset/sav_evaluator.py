#!/usr/bin/env python3
"""Score predicted masks: J, F and J&F as the benchmarks SA-V and DAVIS define them.

    python sav_dataset/sav_evaluator.py --data data/sav_test --predictions outputs/sav_test
    python sav_dataset/sav_evaluator.py --annotations DAVIS/Annotations/480p --predictions outputs/davis

J and F are averaged over the frames that count for an object (--rule), then over all objects. Missing videos are left
out and named; missing objects and frames count as empty masks, unless --strict is given.

Exit status: 0 scored, 1 not, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # `sav_dataset` is no installed package

from i2vpp.data.files import read_items, require_folder
from i2vpp.data.masks import IGNORED
from i2vpp.errors import DataError, I2VPPError
from i2vpp.evaluation.metrics import TOLERANCE
from i2vpp.utils.parser import Parser, integer
from i2vpp.utils.signals import EXIT_INTERRUPTED
from i2vpp.utils.suggest import did_you_mean
from sav_dataset.groups import attribute_table, read_attributes, read_categories, read_seen, seen_table
from sav_dataset.layouts import ANNOTATIONS, LAYOUTS, Layout, pair
from sav_dataset.parallel import map_jobs
from sav_dataset.plots import draw_plots, require_matplotlib
from sav_dataset.report import WITHOUT_STRICT, describe_missing, describe_uncounted, notes, objects_text, report
from sav_dataset.results import Evaluation, Table, read_run, write_csv, write_frames_csv, write_json, write_text
from sav_dataset.rules import RULES, Rule, Scoring
from sav_dataset.scoring import Item, Scored, score_or_problem

EXIT_FAILED = 1
FRAMES_PER_PROCESS = 300
"""Another process is started for each so many frames, as its start takes some seconds."""
NAMED = 10  # broken files in a message
RULE_HELP = (
    "frames that count for an object: from the first scored one on which truth or prediction shows it; after the first "
    "true mask that shows it; or all, as in DAVIS's toolkit (%(default)s)"
)


def evaluate(  # noqa: PLR0913 - the evaluator's one entry: every argument is an option of the command
    gt_root: Path | str,
    pred_root: Path | str,
    *,
    layout: Layout | None = None,
    videos: Collection[str] | None = None,
    merge_objects: bool = False,
    skip_first_and_last_frame: bool = True,
    rule: Rule = "published",
    strict: bool = False,
    num_processes: int | None = None,
    progress: bool = False,
) -> Evaluation:
    """Score predicted masks.

    Args:
        gt_root: folder of the videos' true masks.
        pred_root: folder of the videos' predicted masks.
        layout: "sav" (`<video>/<object>/<frame>.png`) or "davis" (`<video>/<frame>.png`); None: found out.
        videos: names of those that count; None: all of `gt_root`.
        merge_objects: all values of a PNG but 0 are one object, as in DAVIS 2016; "davis" only.
        skip_first_and_last_frame: leave out the first and the last annotated frame: of a video, in SA-V of an object.
        rule: which of the others count for an object that is not always there; see `Scoring`.
        strict: missing predictions, and objects that are in no scored frame, are errors.
        num_processes: that score; None: one per core if there is enough to do. The result is the same.
        progress: show a progress bar on stderr.

    Returns:
        Scores of all objects, and what should be known beside them.

    Raises:
        DataError: there is no such rule, or what is there does not fit; the message names files.
    """
    if rule not in RULES:
        raise DataError(f"rule = {rule!r}; {did_you_mean(rule, RULES)}")
    gt_root, pred_root = Path(gt_root), Path(pred_root)
    scoring = Scoring(rule=rule, skip_ends=skip_first_and_last_frame, merge=merge_objects)
    pairing = pair(gt_root, pred_root, scoring=scoring, layout=layout, only=videos)
    if strict and pairing.missing:
        raise DataError(f"{describe_missing(pairing.missing)}; without --strict {WITHOUT_STRICT}")
    run = read_run(pred_root)
    scored = _score_all(pairing.items, num_processes, progress)
    evaluation = Evaluation(
        objects=tuple(result for part in scored for result in part.objects),
        missing=pairing.missing,
        never_seen=tuple(name for part in scored for name in part.never_seen),
        unscored=tuple(name for part in scored for name in part.unscored),
        strange={item.video: part.strange for item, part in zip(pairing.items, scored, strict=True) if part.strange},
        remarks=pairing.remarks + _remark_on_merging(scoring, scored, run),
        settings={
            "rule": rule,
            "gt_root": str(gt_root),
            "pred_root": str(pred_root),
            "layout": pairing.layout,
            "merge_objects": merge_objects,
            "skip_first_and_last_frame": skip_first_and_last_frame,
            "boundary_tolerance": TOLERANCE,
        },
        run=run,
    )
    if not evaluation.objects:
        raise DataError(f"no frame is left to score in {gt_root}: {describe_uncounted(evaluation)}")
    if strict and (evaluation.never_seen or evaluation.unscored):
        raise DataError(describe_uncounted(evaluation))
    return evaluation


def _remark_on_merging(scoring: Scoring, scored: Sequence[Scored], run: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Warn where the objects of a video are one in the predictions, as in DAVIS 2016, but are scored one by one."""
    values = {value for part in scored for value in part.values}
    made_for_2016 = run is not None and run.get("settings", {}).get("dataset") == "davis2016"
    differs = any(part.strange or len(part.objects + part.unscored + part.never_seen) > 1 for part in scored)
    if scoring.merge or not differs or not (made_for_2016 or values in ({1}, {IGNORED})):
        return ()
    why = "they were made for DAVIS 2016" if made_for_2016 else f"they hold no value but 0 and {values.pop()}"
    return (
        f"the predictions seem to have one object per video ({why}), the true masks have others: score them with "
        "--merge-objects, if all objects of a video are one as in DAVIS 2016",
    )


def _score_all(items: Sequence[Item], num_processes: int | None, progress: bool) -> list[Scored]:
    """Score all items, in order; one DataError says what is wrong with any of them."""
    total = sum(len(item.scored_frames) for item in items)
    if num_processes is None:
        num_processes = min(_usable_cores(), math.ceil(total / FRAMES_PER_PROCESS))
    results: list[Scored] = []
    problems: list[str] = []
    with tqdm(total=total, unit="frame", disable=None if progress else True) as bar:
        for item, result in zip(items, map_jobs(score_or_problem, items, num_processes), strict=True):
            bar.update(len(item.scored_frames))
            if isinstance(result, str):
                problems.append(result)
            else:
                results.append(result)
    if problems:
        more = [f"... and {len(problems) - NAMED} more"] if len(problems) > NAMED else []
        raise DataError(*problems[:NAMED], *more)
    return results


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# ---- the command


ALIASES = {
    "--gt_root": "--annotations",
    "--pred_root": "--predictions",
    "--num_processes": "--processes",
    "--videos": "--list",
    "--do_not_skip_first_and_last_frame": "--do-not-skip-first-and-last-frame",
    "--merge_objects": "--merge-objects",
    "--frames_csv": "--frames-csv",
    "--plot_videos": "--plot-videos",
}
"""The published spellings of options, and those of earlier versions."""


def _parser() -> Parser:
    parser = Parser(description="Score predicted masks: J, F and J&F as the benchmarks SA-V and DAVIS define them.")
    add = parser.add_argument
    truth = parser.add_mutually_exclusive_group(required=True)
    truth.add_argument("--data", type=Path, metavar="DIR", help=f"folder of SA-V's val or test set, with {ANNOTATIONS}")
    truth.add_argument("--annotations", type=Path, metavar="DIR", help="folder of the videos' true masks")
    add("--predictions", type=Path, required=True, metavar="DIR", help="folder of the videos' predicted masks")
    add("--layout", choices=LAYOUTS, help="sav: <video>/<object>/<frame>.png, davis: <video>/<frame>.png (found out)")
    add("--list", type=Path, metavar="FILE", help="names of the videos that count, one a line (all annotated ones)")
    add("--merge-objects", action="store_true", help="all values but 0 are one object, as in DAVIS 2016")
    add("--do-not-skip-first-and-last-frame", action="store_true", help="score them, too")
    add("--rule", choices=RULES, default="published", help=RULE_HELP)
    add("--strict", action="store_true", help="missing predictions and objects that are in no scored frame are errors")
    add("--processes", type=integer(1), metavar="N", help="that score (one per core, if there is enough to do)")
    add("--worst", type=integer(0), default=10, metavar="N",
        help="objects to show in the table and in --plots (%(default)s)")  # fmt: skip
    add = parser.add_argument_group("files to write").add_argument
    add("--json", type=Path, metavar="FILE", help="everything, also how the predictions were made")
    add("--csv", type=Path, metavar="FILE", help="one line per object")
    add("--frames-csv", type=Path, metavar="FILE", help="one line per object and frame")
    add("--markdown", type=Path, metavar="FILE", help="the tables that are shown, and one of all objects")
    add("--plots", type=Path, metavar="DIR", help="J and F over time, as PNG")
    add("--plot-videos", nargs="+", metavar="VIDEO", help="plot these instead of the worst objects")
    add("--images", type=Path, metavar="DIR", help="folder of the videos' frames: --plots draws masks")
    add = parser.add_argument_group("means over parts").add_argument
    add("--attributes", type=Path, metavar="FILE", help="JSON {video: [attribute]}, or DAVIS's db_info.yaml")
    add("--meta", type=Path, metavar="FILE", help="meta.json of YouTube-VOS, with the objects' categories")
    add("--seen", type=Path, metavar="FILE",
        help="meta.json of the training set, or a list of categories (../train/meta.json)")  # fmt: skip
    parser.add_aliases(ALIASES)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = _parser()
    args = parser.parse_args(arguments)
    if args.seen is not None and args.meta is None:
        parser.error("--seen needs --meta, which names the categories of the scored objects")
    if args.plots is None and (args.images or args.plot_videos):
        parser.error("--images and --plot-videos belong to --plots")
    try:
        _run(args)
    except (I2VPPError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


def _run(args: argparse.Namespace) -> None:
    attributes = read_attributes(args.attributes) if args.attributes else None
    categories, seen = _read_meta(args.meta, args.seen) if args.meta else ({}, frozenset())
    if args.plots:
        require_matplotlib()
    if args.images:
        require_folder(args.images, "frames")
    annotations = args.annotations or args.data / ANNOTATIONS
    require_folder(annotations, "true masks")
    require_folder(args.predictions, "predictions")  # before the folder of a result file in it is made
    for path in (args.json, args.csv, args.frames_csv, args.markdown):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
    evaluation = evaluate(
        annotations,
        args.predictions,
        layout=args.layout,
        videos=read_items(args.list) if args.list else None,
        merge_objects=args.merge_objects,
        skip_first_and_last_frame=not args.do_not_skip_first_and_last_frame,
        rule=args.rule,
        strict=args.strict,
        num_processes=args.processes,
        progress=True,
    )
    tables: list[Table] = []
    try:
        if attributes is not None:
            tables.append(attribute_table(evaluation, attributes))
        if categories:
            tables.append(seen_table(evaluation, categories, seen))
    finally:  # what was scored is not lost where a table cannot be made
        _write(args, evaluation, tables)
    if args.plots:
        try:
            paths = draw_plots(evaluation, args.plots, worst=args.worst, videos=args.plot_videos, images=args.images)
        except OSError as error:
            raise I2VPPError(f"cannot write plots to {args.plots}: {error.strerror or error}") from error
        for path in paths:
            print(f"wrote {path}")


def _read_meta(meta: Path, seen: Path | None) -> tuple[dict[tuple[str, str], str], frozenset[str]]:
    beside = meta.absolute().parent.parent / "train" / "meta.json"
    if seen is None and not beside.is_file():
        raise DataError(
            f"which categories has the training set? {beside} is not there; name its meta.json, or a list, with --seen"
        )
    return read_categories(meta), read_seen(seen or beside)


def _write(args: argparse.Namespace, evaluation: Evaluation, tables: Sequence[Table]) -> None:
    text = report(evaluation, tables, worst=args.worst)
    print(text)
    for note in notes(evaluation):
        print(f"note: {note}", file=sys.stderr)
    everything = objects_text("object", evaluation.objects)
    writers: list[tuple[Path | None, Callable[[Path], None]]] = [
        (args.json, lambda path: write_json(path, evaluation, tables)),
        (args.csv, lambda path: write_csv(path, evaluation)),
        (args.frames_csv, lambda path: write_frames_csv(path, evaluation)),
        (args.markdown, lambda path: write_text(path, f"{text}\n\n{everything}\n")),
    ]
    problems = []
    for path, write in writers:
        try:
            if path is not None:
                write(path)
                print(f"wrote {path}", file=sys.stderr)  # stdout has the tables alone
        except OSError as error:  # the other files are still worth a try
            problems.append(f"cannot write {path}: {error.strerror or error}")
    if problems:
        raise I2VPPError("; ".join(problems))


if __name__ == "__main__":
    sys.exit(main())
