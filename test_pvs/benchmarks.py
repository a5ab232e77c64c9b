"""The benchmarks of semi-supervised video object segmentation: where their files lie, and which frames they require.

A benchmark is a few lines in `BENCHMARKS`. Paths are relative to the folder that the benchmark is unpacked to; where
packages differ there are several, and the first one that exists counts.

Every object is given by its mask on the first annotated frame that shows it. Masks of later frames, which some
benchmarks (DAVIS) come with, are never used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np

from i2vpp.data.files import frame_size, list_files, list_folders, list_images, read_items, read_json, require_folder
from i2vpp.data.frame_folders import IMAGE_SUFFIXES, natural_key
from i2vpp.data.masks import BACKGROUND, IGNORED, VideoMasks
from i2vpp.errors import DataError, NoDataError
from i2vpp.evaluation.protocol import GivenObject

MERGED_OBJECT = 1
"""Id of the only object where a benchmark takes all objects of a video for one."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """Where the files of a part of a benchmark lie.

    Args:
        images: folder of frame folders.
        annotations: folder of mask folders.
        lists: file with the names of the videos, one a line; empty: all that have annotations.
        required: JSON file that names the frames to hand in, YouTube-VOS's `meta.json`; None: all frames.
    """

    images: tuple[str, ...]
    annotations: tuple[str, ...]
    lists: tuple[str, ...] = ()
    required: str | None = None


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A benchmark with palette PNGs as masks.

    Args:
        title: as it is written.
        splits: its parts; the first is the default.
        merged: all objects of a video are one.
    """

    title: str
    splits: Mapping[str, Split]
    merged: bool = False

    @property
    def default_split(self) -> str:
        """Name of the first part."""
        return next(iter(self.splits))

    def split(self, name: str | None) -> Split:
        """Return a part by its name; None for the default.

        Raises:
            NoDataError: it has no such part.
        """
        found = self.splits.get(name or self.default_split)
        if found is None:
            raise NoDataError(f"{self.title} has no split {name!r}; allowed: {', '.join(self.splits)}")
        return found


def _davis(year: int, *splits: str, extra: tuple[str, ...] = ()) -> dict[str, Split]:
    lists = (f"ImageSets/{year}/{{}}.txt", *extra)
    return {
        name: Split(
            images=("JPEGImages/480p",),
            annotations=("Annotations/480p",),
            lists=tuple(file.format(name) for file in lists),
        )
        for name in splits
    }


def _subset(*folders: str, masks: str | None = None, required: bool = False) -> Split:
    """Describe a part in a folder of its own (or another name of it); `masks`: in another folder than the images."""
    return Split(
        images=tuple(f"{folder}/JPEGImages" for folder in folders),
        annotations=tuple(f"{masks or folder}/Annotations" for folder in folders),
        required=f"{masks or folders[0]}/meta.json" if required else None,
    )


_YOUTUBE_VOS = {
    "valid": _subset("valid", required=True),
    "valid_all_frames": _subset("valid_all_frames", masks="valid", required=True),
    "test": _subset("test", required=True),
    "test_all_frames": _subset("test_all_frames", masks="test", required=True),
}

BENCHMARKS: Mapping[str, Benchmark] = {
    "davis2016": Benchmark(
        title="DAVIS 2016",
        splits=_davis(2016, "val", "train", extra=("ImageSets/{}.txt", "ImageSets/480p/{}.txt")),
        merged=True,
    ),
    "davis2017": Benchmark(title="DAVIS 2017", splits=_davis(2017, "val", "train", "test-dev", "test-challenge")),
    "mose": Benchmark(title="MOSE", splits={"valid": _subset("valid"), "train": _subset("train")}),
    "ytvos2018": Benchmark(title="YouTube-VOS 2018", splits=_YOUTUBE_VOS),
    "ytvos2019": Benchmark(title="YouTube-VOS 2019", splits=_YOUTUBE_VOS),
    "lvos": Benchmark(title="LVOS", splits={"valid": _subset("valid", "val"), "test": _subset("test")}),
}


# ---- videos


@dataclass(frozen=True, kw_only=True)
class VosVideo:
    """A video with palette PNGs as masks of some or all frames. Holds paths only.

    Args:
        name: of the video.
        frames: all frames by name, in order.
        annotations: masks by the name of their frame, in order.
        merged: all objects are one.
        required: names of the frames to write; None: all.
        resize_masks: masks of another size than their frames are resized; otherwise they are refused.
    """

    name: str
    frames: Mapping[str, Path]
    annotations: Mapping[str, Path]
    merged: bool = False
    required: frozenset[str] | None = None
    resize_masks: bool = False

    @property
    def written(self) -> Mapping[int, str]:
        """Names of the frames to write, by their index among all frames."""
        return {i: name for i, name in enumerate(self.frames) if self.required is None or name in self.required}

    @property
    def length(self) -> int:
        """How many frames have to be looked at: all up to the last one to write."""
        return max(self.written, default=-1) + 1

    def objects(self) -> list[GivenObject]:
        """Read the objects, in the order of their frames and then of their ids.

        Raises:
            DataError: there is no object, a mask cannot be read, or has another size than its frame.
        """
        found: dict[int, GivenObject] = {}
        indices = {name: i for i, name in enumerate(self.frames)}
        masks = VideoMasks(self.annotations.values())
        for name, path in self.annotations.items():
            ids = masks.ids(path, replace(frame_size(self.frames[name]), resize=self.resize_masks))
            if self.merged:  # DAVIS 2016 itself has 0 and 255, the copy inside DAVIS 2017 one value per object
                ids = np.where(ids != BACKGROUND, MERGED_OBJECT, BACKGROUND)
            for obj_id in {*np.unique(ids).tolist()} - {BACKGROUND, IGNORED, *found}:
                found[obj_id] = GivenObject(obj_id=obj_id, frame_idx=indices[name], mask=ids == obj_id)
        if not found:
            raise DataError(
                f"video {self.name}: no object in its masks, such as {next(iter(self.annotations.values()))}"
            )
        return sorted(found.values(), key=lambda given: (given.frame_idx, given.obj_id))


@dataclass(frozen=True, kw_only=True)
class Folders:
    """Where the frames and the masks of one video lie."""

    images: Path
    annotations: Path


@dataclass(frozen=True, kw_only=True)
class VosVideos:
    """The videos of a benchmark or of an own folder; the files of a video are listed when it is opened.

    Args:
        folders: by the video's name, in order.
        merged: all objects of a video are one.
        required: names of the frames to write, by the video's name; None: all.
        resize_masks: see `VosVideo`.
    """

    folders: Mapping[str, Folders]
    merged: bool = False
    required: Mapping[str, frozenset[str]] | None = None
    resize_masks: bool = False

    def open(self, name: str) -> VosVideo:
        """List the files of a video.

        Raises:
            DataError: it has no frame, no mask, masks without a frame, or not the required frames.
        """
        where = self.folders[name]
        frames, masks = list_images(where.images), list_files(where.annotations, (".png",))
        if not frames:
            raise DataError(f"{where.images} holds no frame; expected files with suffix {', '.join(IMAGE_SUFFIXES)}")
        if not masks:
            raise DataError(f"{where.annotations} holds no mask (*.png) to tell the objects of the video {name}")
        if lost := [path.name for stem, path in masks.items() if stem not in frames]:
            raise DataError(
                f"no frame in {where.images} for {len(lost)} masks in {where.annotations}, the first is {lost[0]}"
            )
        required = None if self.required is None else self.required.get(name, frozenset())
        if required is not None:
            if not required:
                raise DataError(f"the benchmark's meta.json requires no frame of the video {name}")
            if absent := sorted(required - frames.keys(), key=natural_key):
                raise DataError(
                    f"{where.images} lacks {len(absent)} frames that the benchmark's meta.json requires, the first is "
                    f"{absent[0]}"
                )
        return VosVideo(
            name=name,
            frames=frames,
            annotations=masks,
            merged=self.merged,
            required=required,
            resize_masks=self.resize_masks,
        )


def open_benchmark(benchmark: Benchmark, root: Path, split: str | None = None) -> VosVideos:
    """Find the videos of a benchmark, in natural order.

    Args:
        benchmark: one of `BENCHMARKS`.
        root: folder that it is unpacked to.
        split: name of a part; None for the default.

    Returns:
        The videos of the part.

    Raises:
        NoDataError: the split, a folder or a list is not there, or there is no video.
        DataError: a list or the JSON file cannot be read.
    """
    where = benchmark.split(split)
    require_folder(root, benchmark.title)
    images, annotations = _first(root, where.images, benchmark), _first(root, where.annotations, benchmark)
    names = _read_list(_first(root, where.lists, benchmark)) if where.lists else list_folders(annotations)
    if not names:
        raise NoDataError(f"{annotations} holds no video of {benchmark.title}; expected <video>/00000.png")
    return VosVideos(
        folders={name: Folders(images=images / name, annotations=annotations / name) for name in names},
        merged=benchmark.merged,
        required=None if where.required is None else _required(_first(root, (where.required,), benchmark)),
    )


def open_folder(images: Path, annotations: Path, names: Path | None = None) -> VosVideos:
    """Find the videos of an own folder: frames of one video, or a folder of such folders.

    Args:
        images: `*.jpg` (or another image format), or `<video>/*.jpg`.
        annotations: masks of the objects, at least of one frame, as palette or grey PNGs of object ids: `*.png` for one
            video, `<video>/*.png` for several. Videos without a folder here are left out.
        names: file with the names of the videos, one a line; None: all.

    Returns:
        The videos.

    Raises:
        NoDataError: a folder is missing, or there is no video.
        DataError: a folder or the list cannot be read.
    """
    require_folder(images, "frames")
    require_folder(annotations, "masks")
    if list_images(images):
        if names is not None:
            raise NoDataError(f"{images} holds the frames of one video; a list of videos ({names}) goes with several")
        return VosVideos(folders={images.resolve().name: Folders(images=images, annotations=annotations)})
    with_masks = set(list_folders(annotations))
    listed = _read_list(names) if names else [name for name in list_folders(images) if name in with_masks]
    if not listed:
        raise NoDataError(
            f"no video in {images} has masks in {annotations}; expected <frames>/*.jpg and <masks>/*.png, or "
            "<frames>/<video>/*.jpg and <masks>/<video>/*.png"
        )
    return VosVideos(folders={name: Folders(images=images / name, annotations=annotations / name) for name in listed})


def _first(root: Path, candidates: Sequence[str], benchmark: Benchmark) -> Path:
    for candidate in candidates:
        if (path := root / candidate).exists():
            return path
    raise NoDataError(f"{root} is no folder of {benchmark.title} or not complete: it lacks {' and '.join(candidates)}")


def _read_list(path: Path) -> list[str]:
    """Read names of videos; DAVIS 2016 lists `/JPEGImages/480p/<video>/00000.jpg` and the mask for each frame."""
    lines = read_items(path)
    names = {PurePosixPath(line.split()[0]).parent.name if line.startswith("/") else line for line in lines}
    return sorted(names, key=natural_key)


def _required(path: Path) -> dict[str, frozenset[str]]:
    """Read `{"videos": {video: {"objects": {id: {"frames": [...]}}}}}`: a frame is required if any object has it."""
    content = read_json(path)
    try:
        return {
            video: frozenset(str(frame) for one in entry["objects"].values() for frame in one["frames"])
            for video, entry in content["videos"].items()
        }
    except (KeyError, TypeError, AttributeError) as error:
        expected = '{"videos": {<video>: {"objects": {<id>: {"frames": [...]}}}}}'
        raise DataError(f"{path} is no meta.json of YouTube-VOS, which holds {expected}") from error
