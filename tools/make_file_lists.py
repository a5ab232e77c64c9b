#!/usr/bin/env python3
"""Write the lists of items that the training recipes use, from the datasets at hand.

    python tools/make_file_lists.py sav --images /data/sav_train
    python tools/make_file_lists.py sa1b --images /data/sa1b --random 10000 --seed 0
    python tools/make_file_lists.py palette --images /data/DAVIS/JPEGImages/480p --random 5 -o held_out.txt
    python tools/make_file_lists.py palette --images /data/DAVIS/JPEGImages/480p --exclude held_out.txt -o rest.txt

A list goes into `include` or `exclude` of a source: one item a line, `#` begins a comment. Nothing is opened: which
items are broken is said by the validator. The same folders and options give the same list.
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
from i2vpp.utils.parser import Parser
from training.config import SourceConfig
from training.dataset.build import FILE_SOURCES, build_source
from training.dataset.file_source import FileSource

EXIT_FAILED = 1
LISTS = Path(__file__).resolve().parent.parent / "training" / "txt"
DEFAULT_NAMES = {"sav": "sav_train.txt", "sa1b": "sa1b_10k.txt"}


def choose(names: Sequence[str], *, limit: int | None, random: int | None, seed: int) -> list[str]:
    """Return `random` names drawn with `seed`, the first `limit` ones, or all, in natural order.

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
    """Write a list, comments first; the file appears only when it is complete."""
    with atomic_write(path, "w") as file:
        file.writelines(f"{line}\n" for line in [*(f"# {c}" for c in comments), *names])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    argv = sys.argv[1:] if argv is None else argv
    arguments = _parser().parse_args(argv)
    try:
        path = make_list(arguments, argv)
    except (I2VPPError, OSError) as error:
        print(f"make_file_lists: error: {error}", file=sys.stderr)
        return EXIT_FAILED
    print(path)
    return 0


def make_list(arguments: argparse.Namespace, argv: Sequence[str]) -> Path:
    """Write the list that was asked for and return its path.

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


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="make_file_lists", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=sorted(FILE_SOURCES), help="kind of the source, as in a recipe")
    parser.add_argument("--images", required=True, metavar="FOLDER", help="as in a recipe")
    parser.add_argument("--annotations", metavar="PATH", help="as in a recipe; default: beside the images")
    parser.add_argument("--exclude", metavar="LIST", help="items that are left out")
    some = parser.add_mutually_exclusive_group()
    some.add_argument("--limit", type=_count, metavar="N", help="the first N items only")
    some.add_argument("--random", type=_count, metavar="N", help="N items drawn at random")
    parser.add_argument("--seed", type=int, default=0, help="of --random; default: %(default)s")
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="default: training/txt/sav_train.txt, sa1b_10k.txt or <kind>.txt"
    )
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be an integer of 1 or more; got {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
