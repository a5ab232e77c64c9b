#!/usr/bin/env python3
"""Write the lists of items that the training recipes use, from the datasets at hand.

    python tools/make_file_lists.py sav --images /data/sav_train
    python tools/make_file_lists.py sa1b --images /data/sa1b --random 10000 --seed 0
    python tools/make_file_lists.py palette --images /data/DAVIS/JPEGImages/480p --random 5 -o held_out.txt
    python tools/make_file_lists.py palette --images /data/DAVIS/JPEGImages/480p --exclude held_out.txt -o rest.txt

A source of a recipe names a list as `include` or `exclude`: one item a line, `#` begins a comment. No item is opened;
`python -m training.dataset.validate` finds broken ones. The same folders and options give the same list.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # `training` is no installed package

from i2vpp.data.frame_folders import natural_key
from i2vpp.errors import I2VPPError, NoDataError
from i2vpp.utils.files import atomic_write
from i2vpp.utils.parser import Parser, integer
from training.config import SourceConfig
from training.dataset.build import FILE_SOURCES, build_source
from training.dataset.file_source import FileSource

EXIT_FAILED = 1
LISTS = Path(__file__).resolve().parent.parent / "training" / "txt"
DEFAULT_NAMES = {"sav": "sav_train.txt", "sa1b": "sa1b_10k.txt"}


def choose(names: Sequence[str], *, limit: int | None, random: int | None, seed: int) -> list[str]:
    """Choose some of a source's items.

    Args:
        names: of all items.
        limit: number of items from the beginning; None for all.
        random: number of items that are drawn; None to draw none.
        seed: of the draw.

    Returns:
        The chosen names in natural order: `video2` before `video10`.

    Raises:
        NoDataError: more names are asked for at random than there are.
    """
    names = sorted(names, key=natural_key)
    if random is None:
        return names[:limit]
    if random > len(names):
        raise NoDataError(f"--random {random}: there are only {len(names)} items; ask for at most so many")
    drawn = np.random.default_rng(seed).choice(len(names), size=random, replace=False)
    return [names[i] for i in sorted(drawn)]


def write_list(path: Path, names: Sequence[str], comments: Sequence[str]) -> None:
    """Write a list; the file appears only when it is complete.

    Args:
        path: of the file; missing folders are made.
        names: of the items.
        comments: lines without `#`, which come first.
    """
    with atomic_write(path, "w") as file:
        file.writelines(f"{line}\n" for line in [*(f"# {c}" for c in comments), *names])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0 done, 1 nothing was written, 2 wrong usage."""
    argv = sys.argv[1:] if argv is None else argv
    arguments = build_parser().parse_args(argv)
    try:
        path = make_list(arguments, argv)
    except (I2VPPError, OSError) as error:
        print(f"make_file_lists: error: {error}", file=sys.stderr)
        return EXIT_FAILED
    print(path)
    return 0


def make_list(arguments: argparse.Namespace, argv: Sequence[str]) -> Path:
    """Write the list that the command line describes.

    Args:
        arguments: of the command line, parsed.
        argv: the command line, for a comment in the list.

    Returns:
        The path of the list.

    Raises:
        I2VPPError: a folder is missing, holds no item, or too few of them.
    """
    kind = arguments.kind
    source = build_source(
        kind,
        SourceConfig(kind=kind, images=arguments.images, annotations=arguments.annotations, exclude=arguments.exclude),
    )
    assert isinstance(source, FileSource)
    names = choose(source.names, limit=arguments.limit, random=arguments.random, seed=arguments.seed)
    how = f", drawn with seed {arguments.seed}" if arguments.random else ""
    comments = [
        f"{len(names)} of {len(source)} items of kind {kind}{how}",
        shlex.join(["python", "tools/make_file_lists.py", *argv]),
    ]
    path = Path(arguments.output or LISTS / DEFAULT_NAMES.get(kind, f"{kind}.txt"))
    write_list(path, names, comments)
    return path


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(prog="make_file_lists", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=sorted(FILE_SOURCES), help="kind of the source, as in a recipe")
    parser.add_argument("--images", required=True, metavar="FOLDER", help="as in a recipe")
    parser.add_argument("--annotations", metavar="PATH", help="as in a recipe (beside the images)")
    parser.add_argument("--exclude", metavar="LIST", help="list of items that are left out")
    some = parser.add_mutually_exclusive_group()
    some.add_argument("--limit", type=integer(1), metavar="N", help="only the first N items")
    some.add_argument("--random", type=integer(1), metavar="N", help="N items drawn at random")
    parser.add_argument("--seed", type=int, default=0, help="seed of --random (%(default)s)")
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="(training/txt/sav_train.txt, sa1b_10k.txt or <kind>.txt)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
