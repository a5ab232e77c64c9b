"""Read every annotated image and mask of a dataset before a run does, and list every broken item.

    python -m training.dataset.validate --kind palette --images DAVIS/JPEGImages/480p --include train.txt
    python -m training.dataset.validate -c configs/i2vpp-train.yaml

Exit status: 0 all is well, 1 something is broken, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from i2vpp.data.files import Size
from i2vpp.data.masks import Mask
from i2vpp.data.rle import LazyMasks
from i2vpp.errors import ConfigError, DataError, I2VPPError, NoDataError
from i2vpp.utils.files import atomic_write
from i2vpp.utils.notices import plain_warnings
from i2vpp.utils.parser import Parser
from training.config import SourceConfig, TrainConfig
from training.dataset.build import KINDS, PROCEDURAL, build_source
from training.dataset.clips import AnnotatedVideo, Source, problems_of
from training.dataset.errors import item_errors
from training.dataset.file_source import FileSource, name_of

EXIT_BROKEN, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is wrong with an item, or with a whole source, whose name is then that of the item."""

    item: str
    problem: str


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was read of a source.

    Args:
        source: its name.
        items: videos or images.
        frames: annotated frames that could be read, image and masks.
        objects: distinct objects of all items.
        problems: everything that is broken, in the order of the items.
    """

    source: str
    items: int = 0
    frames: int = 0
    objects: int = 0
    problems: tuple[Problem, ...] = ()

    @property
    def broken(self) -> int:
        """Items with a problem."""
        return len({problem.item for problem in self.problems})


def validate_source(source: Source, *, workers: int = 0, progress: bool = False) -> Report:
    """Read every annotated frame of every item of a source.

    Args:
        source: the source to be read.
        workers: processes that read; 0: this one.
        progress: show a progress bar on stderr.

    Returns:
        The counts and all problems; `items` counts broken items too.
    """
    checks = DataLoader(_Checks(source), batch_size=None, num_workers=min(workers, len(source)))
    reports = list(tqdm(checks, desc=source.name, unit="item", disable=not progress))
    missing, entries = (source.missing, source.problems) if isinstance(source, FileSource) else ([], [])
    problems = [Problem(item=item, problem="to be included, but not there") for item in missing]
    problems += [Problem(item=source.name, problem=text) for text in entries]
    return Report(
        source=source.name,
        items=len(reports),
        frames=sum(report.frames for report in reports),
        objects=sum(report.objects for report in reports),
        problems=(*problems, *(problem for report in reports for problem in report.problems)),
    )


class _Checks(Dataset[Report]):
    """The reports on a source's items one by one, so that PyTorch's loader shares the reading between processes."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Report:
        source = self._source
        item = name_of(source, index)
        try:
            with item_errors(item):
                return _check(source[index], source.name)
        except I2VPPError as error:
            return Report(source=source.name, items=1, problems=(Problem(item=item, problem=str(error)),))


class _Reading:
    """What is learnt about a video while its frames are read."""

    def __init__(self) -> None:
        self.frames = 0
        self.sizes: dict[Size, int] = {}  # first frame of each size
        self.named: set[int] = set()
        self.seen: set[int] = set()
        self.problems: dict[str, None] = {}  # an ordered set: a file that all frames share is reported once

    def read(self, video: AnnotatedVideo, t: int) -> None:
        """Read a frame; the masks are read even where the image is broken."""
        try:
            with item_errors(f"the image of annotated frame {t}"):
                image = video.image(t)
            self.sizes.setdefault((image.shape[0], image.shape[1]), t)
        except I2VPPError as error:
            self.problems[str(error)] = None
            image = None
        try:
            with item_errors(f"the annotation of frame {t}"):
                masks = video.masks(t)
                shapes = _sizes(masks)
        except I2VPPError as error:
            self.problems[str(error)] = None
            return
        self.seen.update(masks)
        self.named.update(masks, masks.empty if isinstance(masks, LazyMasks) else ())
        if image is None:
            return
        self.frames += 1
        for number, shape in shapes.items():
            if shape != image.shape[:2]:
                self.problems[
                    f"annotated frame {t}: the mask of object {number} is {shape[1]} x {shape[0]} pixels, but the "
                    f"image is {image.shape[1]} x {image.shape[0]}"
                ] = None


def _sizes(masks: Mapping[int, Mask]) -> Mapping[int, tuple[int, ...]]:
    """Return the height and width of each mask; run lengths are not drawn, since they may claim any size."""
    return masks.sizes() if isinstance(masks, LazyMasks) else {number: mask.shape for number, mask in masks.items()}


def _check(video: AnnotatedVideo, source: str) -> Report:
    reading = _Reading()
    for t in range(len(video)):
        reading.read(video, t)
    problems = [*reading.problems, *problems_of(video)]
    if not len(video):
        problems.append("no annotated frame")
    if len(reading.sizes) > 1:
        sizes = ", ".join(f"{width} x {height} from {t} on" for (height, width), t in reading.sizes.items())
        problems.append(f"the annotated frames have different sizes: {sizes}")
    if never := sorted(reading.named - reading.seen):
        problems.append(f"annotated objects that never appear: {', '.join(map(str, never))}")
    if not reading.seen and not problems:
        problems.append("no object on any frame (0 is background; in palette masks 255 means `ignore`)")
    return Report(
        source=source,
        items=1,
        frames=reading.frames,
        objects=len(reading.seen),
        problems=tuple(Problem(item=video.name, problem=problem) for problem in problems),
    )


# ---- the command


@plain_warnings()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    try:
        arguments = _parser().parse_args(argv)
        configs = _configs(arguments)
        if arguments.json:
            arguments.json.parent.mkdir(parents=True, exist_ok=True)
        reports = []
        for name, config in configs.items():
            reports.append(_validate(name, config, arguments.processes))
            print("\n".join(_lines(reports[-1])), flush=True)
        if not configs:
            print(f"the recipe {arguments.config} reads no files")
        if arguments.json:
            with atomic_write(arguments.json, "w") as file:
                json.dump({"sources": [asdict(report) for report in reports]}, file, indent=2)
                file.write("\n")
    except SystemExit as end:  # argparse has printed help, or what is wrong
        return int(end.code or 0)
    except (I2VPPError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    return EXIT_BROKEN if any(report.problems for report in reports) else 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m training.dataset.validate",
        description="Read every annotated image and mask of a dataset and list every broken item.",
        epilog="exit status: 0 all is well, 1 something is broken, 2 wrong usage, 130 interrupted",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--kind", choices=[kind for kind in KINDS if kind != PROCEDURAL], help="kind of the dataset")
    what.add_argument("-c", "--config", metavar="RECIPE", help="recipe whose datasets are read, such as configs/x.yaml")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="with -c: changes to the recipe")
    parser.add_argument("--override", action="append", default=[], metavar="KEY=VALUE", help="the same")
    parser.add_argument("--images", help="folder of images, of frame folders or of mp4 files")
    parser.add_argument("--annotations", help="folder or file of annotations; default: as the dataset is published")
    parser.add_argument("--include", help="file with one item a line, the only ones read")
    parser.add_argument("--exclude", help="file with one item a line, not read")
    parser.add_argument("--processes", "--workers", type=int, default=os.cpu_count() or 1,
                        help="that read; 0: this one; default: one per core")  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report to a file, too")
    return parser


def _configs(arguments: argparse.Namespace) -> Mapping[str, SourceConfig]:
    """Return the sources to be read, by name."""
    files = {key: getattr(arguments, key) for key in ("images", "annotations", "include", "exclude")}
    overrides = [*arguments.overrides, *arguments.override]
    if arguments.processes < 0:
        raise ConfigError(f"--processes must not be negative; got {arguments.processes}")
    if arguments.kind:
        if overrides:
            raise ConfigError(f"{overrides[0]!r}: only recipes (-c) can be changed by KEY=VALUE")
        if not arguments.images:
            raise ConfigError(f"--kind {arguments.kind} needs --images")
        return {arguments.kind: SourceConfig(kind=arguments.kind, **files)}
    if given := [f"--{key}" for key, value in files.items() if value]:
        raise ConfigError(f"{', '.join(given)}: a recipe (-c) names its own files; change them by KEY=VALUE")
    from training.recipes import load_recipe  # noqa: PLC0415 - Hydra is only needed for recipes

    return dict(_of_recipe(load_recipe(arguments.config, overrides)))


def _of_recipe(recipe: TrainConfig) -> Iterator[tuple[str, SourceConfig]]:
    """Yield the sources that consist of files, and the sequences of the validation as one more."""
    yield from ((name, config) for name, config in recipe.data.sources.items() if config.kind != PROCEDURAL)
    if recipe.validation.images:
        yield "(validation)", recipe.validation.source()


def _validate(name: str, config: SourceConfig, workers: int) -> Report:
    """Open and read a source; one that cannot be opened is a problem like others, so that the next ones are read."""
    try:
        with item_errors(name):
            source = build_source(name, config)
    except (NoDataError, DataError) as error:
        return Report(source=name, problems=(Problem(item=name, problem=str(error)),))
    return validate_source(source, workers=workers, progress=True)


def _lines(report: Report) -> Iterator[str]:
    yield from (f"BROKEN {problem.item}: {problem.problem}" for problem in report.problems)
    yield (
        f"{report.source}: {report.items} items, {report.frames} frames, {report.objects} objects; "
        f"{report.broken or 'nothing'} broken"
    )


if __name__ == "__main__":
    sys.exit(main())
