#!/usr/bin/env python3
"""Pack training data into one small folder or zip file: frames at training size, re-encoded, with palette PNG masks.

    python tools/pack_dataset.py --kind palette --images DAVIS/JPEGImages/480p --short-side 512 -o packed.zip
    python tools/pack_dataset.py -c configs/i2vpp-demo.yaml --short-side 256 --format webp --every 2 -o packed.zip

Each source becomes `JPEGImages/<video>/00000.jpg` (or `.webp`, a third smaller) and `Annotations/<video>/00000.png`,
which the kind `palette` reads; with -c each source has a folder with its name. Still images become videos of one frame.
Only annotated frames are packed. Frames are reduced in size, never enlarged.

A palette mask gives each pixel to one object; pixels that are not labelled stay 255.
Where objects overlap (SA-1B), the smaller one is painted over the larger one, which loses those pixels. Of each video,
at most --max-objects objects are kept: those of earlier frames first, and of one frame the larger ones first. Items
that cannot be read are left out and listed at the end.
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # `training` is no installed package

from i2vpp.data.masks import BACKGROUND, IGNORED
from i2vpp.errors import DataError, I2VPPError, NoDataError
from i2vpp.utils.files import atomic_write, remove_leftovers
from i2vpp.utils.parser import Parser, integer
from i2vpp.utils.visualize import davis_palette
from training.config import SourceConfig
from training.dataset.build import FILE_SOURCES, build_source
from training.dataset.clips import AnnotatedVideo, Source, ignored_pixels
from training.dataset.errors import item_errors
from training.dataset.file_source import name_of
from training.recipes import load_recipe

EXIT_FAILED = 1
MOST_OBJECTS = 254
"""Values of a palette mask: 0 is the background, 255 stands for "ignore"."""

FORMATS = {"jpeg": ".jpg", "webp": ".webp"}
NAMED = 10  # how many items that cannot be read are listed at the end


@dataclass(frozen=True, kw_only=True)
class Packing:
    """How frames and masks are written.

    Args:
        short_side: length in pixels to which the short side of larger frames is reduced.
        format: image format of the frames, one of `FORMATS`.
        quality: quality of the frames as Pillow counts it, 1 to 95.
        max_objects: largest number of objects of a video.
        every: step between the annotated frames that are packed.
    """

    short_side: int
    format: str
    quality: int
    max_objects: int
    every: int


class Sink(Protocol):
    """A folder or an archive that files are written to."""

    def write(self, name: str, content: bytes) -> None:
        """Write a file.

        Args:
            name: relative path with slashes.
            content: of the file.
        """


class Folder:
    """A sink that writes files into a folder."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, name: str, content: bytes) -> None:
        """See `Sink`; missing folders are made."""
        with atomic_write(self._path / name) as file:
            file.write(content)


class Zip:
    """A sink that appends members to a zip file, uncompressed: JPEG, WebP and PNG cannot be compressed further."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive

    def write(self, name: str, content: bytes) -> None:
        """See `Sink`; the date is always the same, so that equal data give equal archives."""
        self._archive.writestr(zipfile.ZipInfo(name), content)


@contextmanager
def opened(path: Path) -> Iterator[Sink]:
    """Open a sink that appears under `path` when the block ends without an error, and leaves nothing otherwise.

    Args:
        path: new folder, or new file that ends in `.zip`.

    Raises:
        I2VPPError: `path` exists already.
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


class ObjectValues:
    """The values of a video's objects in its palette masks: 1, 2, ... in the order in which they first appear.

    Args:
        most: largest number of objects that get a value; later ones become background.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: dict[int, int] = {}

    def paint(self, masks: Mapping[int, NDArray[np.bool_]], size: tuple[int, int]) -> NDArray[np.uint8]:
        """Return the palette mask of a frame: its objects, the smaller painted over the larger.

        Args:
            masks: [H, W] by object id.
            size: (h, w) of the palette mask.

        Returns:
            [h, w], 0 for background.
        """
        index = np.zeros(size, np.uint8)
        resized = {obj_id: resize_mask(mask, size) for obj_id, mask in masks.items()}
        for obj_id, mask in sorted(resized.items(), key=lambda item: (-int(item[1].sum()), item[0])):
            if obj_id not in self._values and len(self._values) < self._most and mask.any():
                self._values[obj_id] = len(self._values) + 1
            if obj_id in self._values:
                index[mask] = self._values[obj_id]
        return index


def resize_mask(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Resize a mask [H, W] to `size` (h, w), antialiased; a pixel belongs to the object if half of it does."""
    if mask.shape == size:
        return mask
    grey = Image.fromarray(mask.astype(np.uint8) * 255).resize(size[::-1], Image.Resampling.BILINEAR)
    return np.asarray(grey) >= 128


def pack_video(video: AnnotatedVideo, packing: Packing) -> dict[str, bytes]:
    """Encode the frames and palette masks of a video.

    Args:
        video: to be read.
        packing: how frames and masks are written.

    Returns:
        Contents of files by name, such as `00000.jpg` and `00000.png`.

    Raises:
        DataError: the video cannot be read, or no object is visible in it.
    """
    values = ObjectValues(packing.max_objects)
    files: dict[str, bytes] = {}
    seen = False
    for t in range(0, len(video), packing.every):
        image = Image.fromarray(video.image(t))
        factor = min(1.0, packing.short_side / min(image.size))
        width, height = (max(1, round(side * factor)) for side in image.size)
        masks = video.masks(t)
        index = values.paint(masks, (height, width))
        seen = seen or bool(index.any())
        if (ignored := ignored_pixels(masks)) is not None:
            index[resize_mask(ignored, (height, width)) & (index == BACKGROUND)] = IGNORED
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
class Totals:
    """Numbers of what was packed so far.

    Args:
        videos: number of videos.
        frames: number of frames.
        size: bytes of all files.
    """

    videos: int = 0
    frames: int = 0
    size: int = 0


def pack_source(source: Source, sink: Sink, packing: Packing, *, prefix: str, totals: Totals) -> list[str]:
    """Pack all videos of a source that can be read.

    Args:
        source: to be read.
        sink: receives the files.
        packing: how frames and masks are written.
        prefix: start of all names: empty, or a folder with a slash at its end.
        totals: increased by what was packed.

    Returns:
        A message for each video that cannot be read.

    Raises:
        NoDataError: two videos would get the same name.
    """
    failures, names = [], set[str]()
    for i in tqdm(range(len(source)), desc=source.name, unit="video"):
        try:
            with item_errors(name_of(source, i)):
                video = source[i]
                files = pack_video(video, packing)
        except I2VPPError as error:
            failures.append(str(error))
            continue
        except MemoryError:
            failures.append(f"{name_of(source, i)} cannot be read: there is not enough memory")
            continue
        name = video.name.replace("/", "_")
        if name in names:
            raise NoDataError(f"two videos of {source.name} would be named {name}; pack their folders one by one")
        names.add(name)
        for file, content in files.items():
            folder = "Annotations" if file.endswith(".png") else "JPEGImages"
            sink.write(f"{prefix}{folder}/{name}/{file}", content)
        totals.videos += 1
        totals.frames += len(files) // 2
        totals.size += sum(map(len, files.values()))
    return failures


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0 done, 1 nothing was packed, 2 wrong usage."""
    arguments = build_parser().parse_args(argv)
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
    """Pack what the command line names and print how much it is.

    Args:
        arguments: of the command line.
        packing: how frames and masks are written.

    Raises:
        I2VPPError: nothing can be packed, or the output exists.
    """
    if arguments.config:
        recipe = load_recipe(arguments.config, arguments.override)
        configs = {f"{name}/": source for name, source in recipe.data.sources.items() if source.kind in FILE_SOURCES}
        if not configs:
            raise NoDataError(f"the recipe {arguments.config} has no source of files to pack")
    else:
        paths = {key: getattr(arguments, key) for key in ("images", "annotations", "include", "exclude")}
        configs = {"": SourceConfig(kind=arguments.kind, **paths)}
    sources = {prefix: build_source(prefix.rstrip("/") or arguments.kind, c) for prefix, c in configs.items()}
    totals, failures, output = Totals(), list[str](), Path(arguments.output)
    with opened(output) as sink:
        for prefix, source in sources.items():
            failures += pack_source(source, sink, packing, prefix=prefix, totals=totals)
        if not totals.videos:
            raise NoDataError(f"nothing could be packed; the first of {len(failures)} failures: {failures[0]}")
    size = f"{totals.size / 2**20:.1f} MiB" if totals.size >= 2**20 else f"{totals.size / 2**10:.1f} KiB"
    print(f"{output}: {totals.videos} videos, {totals.frames} frames, {size}")
    if failures:
        more = f"\n  and {len(failures) - NAMED} more" if len(failures) > NAMED else ""
        listed = "".join(f"\n  {failure}" for failure in failures[:NAMED])
        print(f"left out: {len(failures)} videos{listed}{more}", file=sys.stderr)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(prog="pack_dataset", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "-c", "--config", metavar="RECIPE", help="recipe: all its sources that consist of files are packed"
    )
    what.add_argument("--kind", choices=sorted(FILE_SOURCES), help="kind of the one source that is packed")
    add = parser.add_argument
    add("--override", metavar="KEY=VALUE", action="append", default=[],
        help="with -c: change a value of the recipe, such as a source's images; may be repeated")  # fmt: skip
    for key in ("images", "annotations", "include", "exclude"):
        add(f"--{key}", metavar="PATH", help="with --kind: as in a recipe")
    add("-o", "--output", required=True, metavar="PATH", help="new folder, or new file that ends in .zip")
    add("--format", choices=FORMATS, default="jpeg", help="image format of the frames (%(default)s)")
    for name, default, most, text in (
        ("short-side", 512, 100_000, "length in pixels to which the short side of larger frames is reduced"),
        ("quality", 85, 95, "quality of the frames, 1 to 95"),
        ("every", 1, 100_000, "pack every N-th annotated frame"),
        ("max-objects", MOST_OBJECTS, MOST_OBJECTS, "largest number of objects of a video"),
    ):
        add(f"--{name}", type=integer(1, most), default=default, metavar="N", help=f"{text} (%(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
