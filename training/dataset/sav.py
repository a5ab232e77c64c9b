"""SA-V's training set: videos or their frames, with masklets in JSON on every fourth frame."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from i2vpp.data.files import list_images, read_image, read_json, require_folder
from i2vpp.data.frame_folders import is_image, natural_key
from i2vpp.data.masks import Mask
from i2vpp.data.rle import LazyMasks, RunLengths, parse_segmentation
from i2vpp.errors import DataError, VideoError
from i2vpp.session.video_file.decoder import VideoFile
from training.dataset.file_source import FileSource

STEP = 4
"""Video frames from one annotated frame to the next: 24 against 6 per second."""

FIRST_ID = {"manual": 1, "auto": 10_001}
"""Object ids start here, for each kind of annotation file; the masklets of a file follow in their order."""

VIDEO_SUFFIX = ".mp4"
_COUNTS = ("video_frame_count", "video_height", "video_width")


@dataclass(frozen=True, kw_only=True, eq=False)
class Masklets:
    """One annotation file.

    Args:
        path: the file, for messages.
        height: height of the video and of all masks in pixels.
        width: width of the video and of all masks in pixels.
        rles: COCO RLE, by annotated frame and object; None for an absent object.
        first_id: id of the file's first object.
    """

    path: Path
    height: int
    width: int
    rles: Sequence[Sequence[Any]]
    first_id: int

    @property
    def obj_ids(self) -> range:
        """The objects of the file, whether present on a frame or not."""
        return range(self.first_id, self.first_id + len(self.rles[0]))

    def runs(self, t: int) -> dict[int, RunLengths]:
        """Read the masks of all objects on annotated frame t, by object id; those of absent objects are empty.

        An absent object may be written as an empty mask or as null, and a frame without objects as null.

        Raises:
            DataError: a mask is damaged or of another size than the video.
        """
        size = (self.height, self.width)
        found = {obj_id: RunLengths.nothing(size) for obj_id in self.obj_ids}
        for obj_id, rle in zip(self.obj_ids, self.rles[t], strict=True):
            if rle is None:
                continue
            where = f"{self.path}: object {obj_id - self.first_id} on annotated frame {t}"
            found[obj_id] = runs = parse_segmentation(rle, size=size, where=where)
            if runs.size != size:
                height, width = runs.size
                raise DataError(
                    f"{where}: the mask is {width} x {height} pixels, but the video {self.width} x {self.height}"
                )
        return found


def read_masklets(path: Path) -> Masklets:
    """Read `<video>_manual.json` or `<video>_auto.json`; no mask is decoded.

    Raises:
        DataError: the file is missing or no JSON, lacks keys, or its numbers do not fit together.
    """
    content = read_json(path)
    missing = [key for key in (*_COUNTS, "masklet") if not isinstance(content, dict) or key not in content]
    if missing:
        raise DataError(f"{path} lacks {', '.join(missing)}; is it an annotation file of SA-V's training set?")
    num_frames, height, width = (_count(content[key], f"{path}: {key}") for key in _COUNTS)
    rles = content["masklet"]
    if not isinstance(rles, list) or not rles or not all(isinstance(frame, (list, NoneType)) for frame in rles):
        raise DataError(f"{path}: masklet must be a list over annotated frames of lists over objects")
    lengths = sorted({len(frame) for frame in rles if frame is not None})
    if len(lengths) > 1:
        raise DataError(f"{path}: annotated frames list {lengths[0]} to {lengths[-1]} masks; all must list all objects")
    if STEP * (len(rles) - 1) >= num_frames:
        raise DataError(
            f"{path}: {len(rles)} annotated frames, one in {STEP}, do not fit into a video of {num_frames} frames"
        )
    rles = [[None] * max(lengths, default=0) if frame is None else frame for frame in rles]
    kind = "auto" if path.stem.endswith("_auto") else "manual"
    return Masklets(path=path, height=height, width=width, rles=rles, first_id=FIRST_ID[kind])


def _count(value: object, what: str) -> int:
    """Return a whole number from 1 on; SA-V writes 480.0 as well as 480."""
    if isinstance(value, (int, float)) and 1 <= value < 2**31 and value == int(value):
        return int(value)
    raise DataError(f"{what} = {reprlib.repr(value)}; it must be a whole number from 1 on")


class SavVideo:
    """One video of SA-V's training set; its annotation files are read at once, frames and masks when asked for.

    Annotated frame t is frame 4 t of the video.

    Args:
        name: name of the video.
        frames: the mp4 file, or a folder of frames named by their index in the video; every fourth one is enough.
        annotations: one or both of its annotation files.

    Raises:
        DataError: the annotations cannot be used, see `read_masklets`, or do not fit each other.
    """

    def __init__(self, name: str, frames: Path, annotations: Sequence[Path]) -> None:
        self.name = name
        self._frames = frames
        self._masklets = [read_masklets(path) for path in annotations]
        self._read: Callable[[int], NDArray[np.uint8]] | None = None
        first, *others = self._masklets
        for other in others:
            here, there = ((len(m.rles), m.width, m.height) for m in (first, other))
            if here != there:
                raise DataError(
                    f"{first.path} and {other.path} are of different videos: {here[0]} and {there[0]} annotated "
                    f"frames, {here[1]} x {here[2]} and {there[1]} x {there[2]} pixels"
                )

    def __len__(self) -> int:
        """Count the annotated frames."""
        return len(self._masklets[0].rles)

    @property
    def obj_ids(self) -> list[int]:
        """All objects, in the order of their ids."""
        return sorted(obj_id for masklets in self._masklets for obj_id in masklets.obj_ids)

    def image(self, t: int) -> NDArray[np.uint8]:
        """Read annotated frame t as RGB [H, W, 3]; the first call opens the video.

        Raises:
            DataError: it cannot be read, or has another size than the annotations say.
        """
        self._check(t)
        self._read = self._read or self._open()
        try:
            image = self._read(STEP * t)
        except (VideoError, IndexError) as error:
            raise DataError(f"cannot read frame {STEP * t} of {self._frames}: {error}") from error
        height, width = image.shape[:2]
        first = self._masklets[0]
        if (height, width) != (first.height, first.width):
            raise DataError(
                f"frame {STEP * t} of {self._frames} is {width} x {height} pixels, "
                f"but its masks in {first.path} are {first.width} x {first.height}"
            )
        return image

    def masks(self, t: int) -> Mapping[int, Mask]:
        """Read the masks [H, W] of the objects that are present on annotated frame t, by object id.

        Raises:
            DataError: a mask is damaged or of another size than the video.
        """
        self._check(t)
        return LazyMasks({obj_id: runs for masklets in self._masklets for obj_id, runs in masklets.runs(t).items()})

    def _check(self, t: int) -> None:
        if not 0 <= t < len(self):
            raise IndexError(f"{self.name} has {len(self)} annotated frames, not a frame {t}")

    def _open(self) -> Callable[[int], NDArray[np.uint8]]:
        """Return what reads the frame with a given index of the video."""
        if not self._frames.is_dir():
            try:
                return VideoFile(str(self._frames.absolute()), str(self._frames)).__getitem__
            except VideoError as error:
                raise DataError(str(error)) from error
        files = {int(name): path for name, path in list_images(self._frames).items() if name.isdecimal()}
        missing = [i for i in range(0, STEP * len(self), STEP) if i not in files]
        if missing:
            raise DataError(
                f"{self._frames} lacks {len(missing)} of {len(self)} annotated frames, the first is {missing[0]:05d}; "
                f"frames are named by their index in the video: annotated ones are 0, {STEP}, {2 * STEP}, ..."
            )
        return lambda i: read_image(files[i])


class SavVideos(FileSource):
    """The videos of SA-V's training set under a folder, at any depth.

    Args:
        images: folder of `<video>.mp4` files or of folders `<video>/00000.jpg`, ...; where there are both for a video,
            the folder is used.
        annotations: folder of `<video>_manual.json` and `<video>_auto.json`, one or both for each video, at any depth;
            None: `images`.
        include: see `FileSource`, as for the other arguments.

    Raises:
        NoDataError: a folder is missing.
        DataError: a folder cannot be listed.
    """

    def _list(self, images: Path, annotations: Path | None) -> tuple[Iterable[str], Path]:
        self._annotations = require_folder(annotations or images, "masklets")
        self._frames: dict[str, Path] = {}
        for path in _walk(require_folder(images, "videos")):
            if path.suffix != ".json" and (path.suffix != VIDEO_SUFFIX or path.stem not in self._frames):
                self._frames[path.name.removesuffix(VIDEO_SUFFIX)] = path
        self._files = {path.stem: path for path in _walk(self._annotations) if path.suffix == ".json"}
        names = sorted(self._frames, key=natural_key)
        return names, images

    def _open(self, item: str) -> SavVideo:
        stems = [f"{item}_{kind}" for kind in FIRST_ID]
        files = [self._files[stem] for stem in stems if stem in self._files]
        if not files:
            raise DataError(
                f"{self._annotations} holds no annotation of {item}: neither {stems[0]}.json nor {stems[1]}.json"
            )
        return SavVideo(item, self._frames[item], files)


def _is_frame(path: Path) -> bool:
    return is_image(path) and path.stem.isdecimal()


def _walk(folder: Path) -> Iterator[Path]:
    """Find mp4 and JSON files and folders of frames; hidden ones are left out.

    A folder of frames is known by the first one met in it: the millions of frames of the whole set are not listed.
    """
    found, folders = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                path = Path(entry.path)
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    folders.append(path)
                elif _is_frame(path):
                    yield folder
                    return
                elif path.suffix in (VIDEO_SUFFIX, ".json"):
                    found.append(path)
    except OSError as error:
        raise DataError(f"cannot list the folder {folder}: {error.strerror}") from error
    yield from sorted(found)
    for inner in sorted(folders):
        yield from _walk(inner)
