"""Folders of images: which of their files are the frames of a video, and in which order.

Frames are the files with an image suffix, in the natural order of their names without suffix. Hidden files, among them
the `._` files of macOS, never are. In a folder of several image formats, masks may lie beside the frames:

- files of one name, such as `00000.jpg` and `00000.png`, are a frame and its mask (upper and lower case are alike).
  The frames' format is the one in colour where the other one holds grey or palette images; else the one with more
  files; else the one that comes first in `_PREFERENCE`, as SAM 2 reads the JPEG files of a folder only. Further files
  of the masks' format are masks, too;
- a format that holds grey or palette images only, beside one that holds colour images, is one of masks.

Where masks were found that have no frame of their name, a warning says so. Otherwise images of different names are
frames, whatever their format.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from PIL import Image

from i2vpp.errors import VideoError
from i2vpp.utils.notices import warn_user

_FORMATS = {
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".png": "png",
    ".bmp": "bmp",
    ".webp": "webp",
    ".tif": "tiff",
    ".tiff": "tiff",
}
IMAGE_SUFFIXES = tuple(_FORMATS)

_PREFERENCE = ("jpeg", "webp", "tiff", "bmp", "png")
"""Of formats that look alike, with as many files each, the one of the frames comes first here."""

_PALETTE, _GREY, _COLOUR = range(3)
_LOOKS = {"1": _PALETTE, "P": _PALETTE, "PA": _PALETTE, "L": _GREY, "LA": _GREY, "La": _GREY, "I": _GREY, "F": _GREY}
_SAMPLES = 8
"""Images of each format that are looked at in a folder of several formats."""

_NAMED = 3
"""Files named in a warning."""


def natural_key(path_or_name: str | os.PathLike[str]) -> tuple[list[str | int], str]:
    """Key for sorting file names so that `frame_2` comes before `frame_10`; upper and lower case are alike."""
    name = os.fspath(path_or_name)
    parts = re.split(r"(\d+)", name.lower())  # text and digits alternate, so that only like types are compared
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name


def is_image(path: Path) -> bool:
    """Whether a file has the name of an image: an image suffix, and no dot in front."""
    return path.suffix.lower() in _FORMATS and not path.name.startswith(".")


def list_frames(folder: Path, *, recursive: bool = False) -> dict[str, Path]:
    """Find the frames in a folder, see the rules above.

    Args:
        folder: folder that is searched.
        recursive: look into subfolders, too; the rules are applied to each of them. Hidden folders are left out.

    Returns:
        The files by their name without suffix, relative to `folder`, such as `00000` or `part1/photo7`; in natural
        order of these names. Empty where there is no image.

    Raises:
        VideoError: the folder cannot be listed, or two files of one name have one format.
    """
    folders = walk_files(folder, is_image, recursive=recursive)
    return by_name(folder, (path for files in folders for path in _without_masks(files)))


def holds_image(folder: Path) -> bool:
    """Whether a folder can be listed and holds an image; long folders are not read to their end."""
    try:
        with os.scandir(folder) as entries:
            return any(is_image(Path(entry.name)) and entry.is_file() for entry in entries)
    except OSError:
        return False


def walk_files(folder: Path, matches: Callable[[Path], bool], *, recursive: bool) -> Iterator[list[Path]]:
    """Yield the matching files of a folder, then of each of its subfolders that is not hidden.

    Args:
        folder: folder that is searched.
        matches: function that says by a path whether the file is wanted.
        recursive: whether to look into subfolders, too.

    Raises:
        VideoError: a folder cannot be listed.
    """

    def fail(error: OSError) -> None:
        raise VideoError(f"cannot list the folder {error.filename}: {error.strerror}") from error

    for root, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        folders[:] = [name for name in folders if recursive and not name.startswith(".")]
        yield [path for name in names if matches(path := Path(root, name))]


def by_name(folder: Path, paths: Iterable[Path]) -> dict[str, Path]:
    """Return files by their name without suffix, relative to a folder, in natural order of these names.

    Args:
        folder: folder that all files lie in.
        paths: the files.

    Raises:
        VideoError: two files have one name.
    """
    found: dict[str, Path] = {}
    for path in paths:
        other = found.setdefault(path.relative_to(folder).with_suffix("").as_posix(), path)
        if other != path:
            raise VideoError(f"{other} and {path.name} stand for the same item; keep one of them")
    return {name: found[name] for name in sorted(found, key=natural_key)}


def _without_masks(files: Sequence[Path]) -> Sequence[Path]:
    """Return the frames among the images of one folder."""
    by_format: dict[str, list[Path]] = defaultdict(list)
    for path in files:
        by_format[_FORMATS[path.suffix.lower()]].append(path)
    if len(by_format) < 2:
        return files
    looks = {name: _look(sorted(paths)) for name, paths in by_format.items()}
    order = sorted(by_format, key=lambda name: (-looks[name], -len(by_format[name]), _PREFERENCE.index(name)))
    frames: list[Path] = []
    stems: set[str] = set()
    masks: list[Path] = []
    for name in order:
        own = {path.stem.casefold() for path in by_format[name]}
        if own & stems or looks[name] < _COLOUR == looks[order[0]]:
            masks += by_format[name]
        else:
            frames += by_format[name]
            stems |= own
    _report(sorted((path for path in masks if path.stem.casefold() not in stems), key=natural_key))
    return frames


def _report(masks: Sequence[Path]) -> None:
    """Warn of masks that are known by nothing but their format: they have no frame of the same name."""
    if masks:
        names = ", ".join(path.name for path in masks[:_NAMED]) + (", ..." if len(masks) > _NAMED else "")
        warn_user(
            f"folder {masks[0].parent}: {len(masks)} images are taken for masks, not for frames, as the frames have "
            f"another format ({names}); if they are frames, convert all to one format"
        )


def _look(paths: Sequence[Path]) -> int:
    """Tell what images of one format are, by the headers of some: in colour if any is, or if none can be read."""
    step = max(1, len(paths) // _SAMPLES)
    return max(_modes(paths[::step]), default=_COLOUR)


def _modes(paths: Iterable[Path]) -> Iterator[int]:
    for path in paths:
        try:
            with Image.open(path) as image:
                yield _LOOKS.get(image.mode.partition(";")[0], _COLOUR)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            continue  # the error is raised when the frame itself is read
