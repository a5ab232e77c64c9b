#!/usr/bin/env python3
"""Pack training data into one small folder or zip file: frames at training size, re-encoded, with palette PNG masks.

    python tools/pack_dataset.py --kind palette --images DAVIS/JPEGImages/480p --short-side 512 -o packed.zip
    python tools/pack_dataset.py -c configs/i2vpp-demo.yaml --short-side 256 --format webp --every 2 -o packed.zip

Each source becomes `JPEGImages/<video>/00000.jpg` (or `.webp`, a third smaller) and `Annotations/<video>/00000.png`, to
be read as kind `palette`; with -c in a folder of its own, named like the source. Still images become videos of one
frame. Only annotated frames are packed, and larger ones are made smaller, never the reverse.

A palette mask gives each pixel to one object. Where objects overlap (SA-1B), the smaller one is painted over the
larger one, which loses those pixels. Of each video the --max-objects largest ones are kept, as they come into sight.
Items that cannot be read are left out and named.
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # `training` is no installed package

from i2vpp.errors import DataError, I2VPPError, NoDataError
from i2vpp.utils.files import atomic_write, remove_leftovers
from i2vpp.utils.parser import Parser
from i2vpp.utils.visualize import davis_palette
from training.config import SourceConfig
from training.dataset.build import FILE_SOURCES, build_source
from training.dataset.clips import AnnotatedVideo, Source
from training.recipes import load_recipe

EXIT_FAILED = 1
MOST_OBJECTS = 254
"""Values of a palette mask: 0 is the background, 255 stands for "ignore"."""

FORMATS = {"jpeg": ".jpg", "webp": ".webp"}
NAMED = 10  # items that cannot be read, in the summary


@dataclass(frozen=True, kw_only=True)
class Packing:
    """How frames and masks are written.

    Args:
        short_side: of larger frames afterwards, in pixels.
        format: of the frames, one of `FORMATS`.
        quality: of the frames, 1 to 95.
        max_objects: of a video.
        every: so many annotated frames are one step to the next that is packed.
    """

    short_side: int
    format: str
    quality: int
    max_objects: int
    every: int


class Sink(Protocol):
    """Where files go."""

    def write(self, name: str, content: bytes) -> None:
        """Write a file; `name` has slashes."""


class Folder:
    """Files of a folder."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, name: str, content: bytes) -> None:
        """Write a file and the folders that it needs."""
        path = self._path / name
        with atomic_write(path) as file:
            file.write(content)


class Zip:
    """Members of a zip file; JPEG and PNG cannot be compressed further, so they are stored."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive

    def write(self, name: str, content: bytes) -> None:
        """Append a member, with a fixed date: equal data give equal files."""
        self._archive.writestr(zipfile.ZipInfo(name), content)


@contextmanager
def opened(path: Path) -> Iterator[Sink]:
    """Open a sink that appears under `path` when the block ends without an error, and leaves nothing otherwise.

    Raises:
        I2VPPError: there is something at `path` already.
    """
    if path.exists():
        raise I2VPPError(f"{path} exists already; delete it or name another -o")
    if path.suffix == ".zip":
        remove_leftovers(path)
        with atomic_write(path) as file, zipfile.ZipFile(file, "w") as archive:
            yield Zip(archive)
        return
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield Folder(partial)
        partial.replace(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


# ---- one video


class Numbers:
    """The values that the objects of a video have in its masks: 1 and on, the larger first as they come into sight.

    Args:
        most: objects that get one.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._of: dict[int, int] = {}

    def paint(self, masks: Mapping[int, NDArray[np.bool_]], size: tuple[int, int]) -> NDArray[np.uint8]:
        """Return the index mask [h, w] of a frame: its objects, the smaller painted over the larger."""
        index = np.zeros(size, np.uint8)
        resized = {obj_id: resize_mask(mask, size) for obj_id, mask in masks.items()}
        for obj_id, mask in sorted(resized.items(), key=lambda item: (-int(item[1].sum()), item[0])):
            if obj_id not in self._of and len(self._of) < self._most and mask.any():
                self._of[obj_id] = len(self._of) + 1
            if obj_id in self._of:
                index[mask] = self._of[obj_id]
        return index


def resize_mask(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return a mask at size (h, w): antialiased, then cut at one half."""
    if mask.shape == size:
        return mask
    grey = Image.fromarray(mask.astype(np.uint8) * 255).resize(size[::-1], Image.Resampling.BILINEAR)
    return np.asarray(grey) >= 128


def pack_video(video: AnnotatedVideo, packing: Packing) -> dict[str, bytes]:
    """Return the files of a video by their names within its folder: such as `00000.jpg` and `00000.png`.

    Raises:
        DataError: it cannot be read, or no object shows in it.
    """
    numbers = Numbers(packing.max_objects)
    files: dict[str, bytes] = {}
    seen = False
    for t in range(0, len(video), packing.every):
        image = Image.fromarray(video.image(t))
        factor = min(1.0, packing.short_side / min(image.size))
        width, height = (max(1, round(side * factor)) for side in image.size)
        index = numbers.paint(video.masks(t), (height, width))
        seen = seen or bool(index.any())
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BICUBIC)
        files[f"{t:05d}{FORMATS[packing.format]}"] = _encode(image, packing.format, quality=packing.quality)
        mask = Image.fromarray(index).convert("P")
        mask.putpalette(davis_palette())
        files[f"{t:05d}.png"] = _encode(mask, "png")
    if not seen:
        raise DataError(f"{video.name}: no object shows in it")
    return files


def _encode(image: Image.Image, format_: str, **options: int) -> bytes:
    with io.BytesIO() as buffer:
        image.save(buffer, format=format_, optimize=True, **options)
        return buffer.getvalue()


# ---- whole sources


@dataclass(kw_only=True)
class Tally:
    """What was packed so far."""

    videos: int = 0
    frames: int = 0
    size: int = 0  # bytes


def pack_source(source: Source, sink: Sink, packing: Packing, *, prefix: str, tally: Tally) -> list[str]:
    """Pack all videos of a source and return a message for each that cannot be read; `tally` counts the others."""
    failures, names = [], set[str]()
    for i in tqdm(range(len(source)), desc=source.name, unit="video"):
        try:
            video = source[i]
            files = pack_video(video, packing)
        except DataError as error:
            failures.append(str(error))
            continue
        name = video.name.replace("/", "_")
        if name in names:
            raise NoDataError(f"two videos of {source.name} would be named {name}; pack their folders one by one")
        names.add(name)
        for file, content in files.items():
            folder = "Annotations" if file.endswith(".png") else "JPEGImages"
            sink.write(f"{prefix}{folder}/{name}/{file}", content)
        tally.videos += 1
        tally.frames += len(files) // 2
        tally.size += sum(map(len, files.values()))
    return failures


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    arguments = _parser().parse_args(argv)
    packing = Packing(
        **{name: getattr(arguments, name) for name in ("short_side", "format", "quality", "max_objects", "every")}
    )
    try:
        pack(arguments, packing)
    except (I2VPPError, OSError) as error:
        print(f"pack_dataset: error: {error}", file=sys.stderr)
        return EXIT_FAILED
    return 0


def pack(arguments: argparse.Namespace, packing: Packing) -> None:
    """Pack what was asked for and print how much it is.

    Raises:
        I2VPPError: nothing can be packed, or the output exists.
    """
    if arguments.config:
        recipe = load_recipe(arguments.config)
        configs = {f"{name}/": source for name, source in recipe.data.sources.items() if source.kind in FILE_SOURCES}
        if not configs:
            raise NoDataError(f"the recipe {arguments.config} has no source of files to pack")
    else:
        paths = {key: getattr(arguments, key) for key in ("images", "annotations", "include", "exclude")}
        configs = {"": SourceConfig(kind=arguments.kind, **paths)}
    sources = {prefix: build_source(prefix.rstrip("/") or arguments.kind, c) for prefix, c in configs.items()}
    tally, failures, output = Tally(), list[str](), Path(arguments.output)
    with opened(output) as sink:
        for prefix, source in sources.items():
            failures += pack_source(source, sink, packing, prefix=prefix, tally=tally)
        if not tally.videos:
            raise NoDataError(f"nothing could be packed; the first of {len(failures)} failures: {failures[0]}")
    size = f"{tally.size / 2**20:.1f} MiB" if tally.size >= 2**20 else f"{tally.size / 2**10:.1f} KiB"
    print(f"{output}: {tally.videos} videos, {tally.frames} frames, {size}")
    if failures:
        more = f"\n  and {len(failures) - NAMED} more" if len(failures) > NAMED else ""
        listed = "".join(f"\n  {failure}" for failure in failures[:NAMED])
        print(f"left out: {len(failures)} videos{listed}{more}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="pack_dataset", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("-c", "--config", metavar="FILE", help="recipe: all sources that consist of files are packed")
    what.add_argument("--kind", choices=sorted(FILE_SOURCES), help="kind of the one source that is packed")
    for key in ("images", "annotations", "include", "exclude"):
        parser.add_argument(f"--{key}", metavar="PATH", help="with --kind: as in a recipe")
    parser.add_argument("-o", "--output", required=True, metavar="PATH", help="new folder, or new file ending in .zip")
    parser.add_argument("--format", choices=FORMATS, default="jpeg", help="of the frames; default: jpeg")
    numbers = {
        "short-side": (512, 100_000, "larger frames are reduced to it, in pixels"),
        "quality": (85, 95, "of the frames, 1 to 95"),
        "every": (1, 100_000, "take every N-th annotated frame"),
        "max-objects": (MOST_OBJECTS, MOST_OBJECTS, f"kept of each video, at most {MOST_OBJECTS}"),
    }
    for name, (default, most, text) in numbers.items():
        parser.add_argument(
            f"--{name}", type=_up_to(most), default=default, metavar="N", help=f"{text}; default: {default}"
        )
    return parser


def _up_to(most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdecimal() or not 1 <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"must be an integer, 1 to {most}; got {text!r}")
        return int(text)

    return number


if __name__ == "__main__":
    sys.exit(main())
