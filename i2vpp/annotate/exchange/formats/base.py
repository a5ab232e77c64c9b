"""What a format of exported files consists of."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from i2vpp.annotate.errors import MaskFolderError
from i2vpp.annotate.exchange.formats.reading import Reader
from i2vpp.annotate.storage.labels import Classes
from i2vpp.annotate.storage.store import Annotation
from i2vpp.annotate.storage.values import StoredMask
from i2vpp.utils.arrays import Mask
from i2vpp.utils.result_files import require_coco

UInt8 = NDArray[np.uint8]

IMAGE_SUFFIX = ".jpg"  # of frames that are no files; they can be taken out of a video under these names


@dataclass(frozen=True, kw_only=True)
class Footage:
    """The video that was annotated.

    Args:
        frames: how many there are.
        read_frame: returns a frame as uint8 RGB [H, W, 3]; called for overlays only.
        fps: frames per second; None where the source has no clock.
        time: returns when a frame is shown, in seconds from the start; None where that is not known.
        frame_names: names of the frames' files without suffix; None: indices with five digits.
        frame_files: names of the frames' files; None: the names above with `IMAGE_SUFFIX`.

    Raises:
        MaskFolderError: two frames have one name.
    """

    frames: int
    read_frame: Callable[[int], UInt8]
    fps: float | None = None
    time: Callable[[int], float | None] = lambda frame: None
    frame_names: Sequence[str] | None = None
    frame_files: Sequence[str] | None = None

    def __post_init__(self) -> None:
        seen = Counter(self.frame_names or ())
        if twice := [name for name, count in seen.items() if count > 1]:
            raise MaskFolderError(
                f"two frames are called {twice[0]!r}, so that their masks would overwrite each other; rename one"
            )

    def name(self, frame: int) -> str:
        """Return what a frame's files are called, without suffix."""
        return f"{frame:05d}" if self.frame_names is None else self.frame_names[frame]

    def file(self, frame: int) -> str:
        """Return what the image of a frame is called."""
        return f"{self.name(frame)}{IMAGE_SUFFIX}" if self.frame_files is None else self.frame_files[frame]


class Writer(ABC):
    """Writes the masks of an annotation, frame by frame, into a folder.

    Args:
        folder: empty folder.
        annotation: what is exported.
        footage: the video.
        every: only frames 0, n, 2n, ... come.
    """

    def __init__(self, folder: Path, annotation: Annotation, footage: Footage, every: int) -> None:
        self._folder, self._footage, self._every = folder, footage, every
        self._size = annotation.height, annotation.width
        self._video = annotation.video or "video"
        self._objects = {info.id: info for info in annotation.objects()}
        self._classes = Classes.of(annotation.labels(), list(self._objects.values()))
        self._file: Any = None  # the only file that has to be closed, where there is one

    @abstractmethod
    def add(self, frame: int, masks: Mapping[int, StoredMask]) -> None:
        """Write the masks of a frame, by object id; an empty one says that the object is known to be absent."""

    def close(self) -> None:
        """Finish the files."""
        if self._file is not None:
            self._file.close()

    def _present(self, masks: Mapping[int, StoredMask]) -> Iterator[tuple[int, StoredMask, Mask]]:
        """Yield id, mask, and mask as bool [H, W] of objects that are there; those added meanwhile are left out."""
        for obj_id, mask in masks.items():
            if mask.area and obj_id in self._objects:
                yield obj_id, mask, mask.decode(*self._size)


@dataclass(frozen=True, kw_only=True)
class Format:
    """A format of files.

    Args:
        name: its name in requests, and of its folder.
        title: its name for people.
        hint: what its files are, and what of an annotation they cannot hold.
        writer: makes what writes an annotation.
        reader: reads files of this format; None: they cannot be imported.
    """

    name: str
    title: str
    hint: str
    writer: Callable[[Path, Annotation, Footage, int], Writer]
    reader: Reader | None = None


class JsonList:
    """A JSON object in a file, one of whose values is a list that is written entry by entry; the others come last.

    Args:
        path: the file.
        key: name of the list.
    """

    def __init__(self, path: Path, key: str) -> None:
        self._file = path.open("w", encoding="utf-8")
        self._file.write(f'{{"{key}": [')
        self._first = True

    def append(self, entry: Any) -> None:
        """Write an entry."""
        self._file.write(("\n" if self._first else ",\n") + json.dumps(entry, ensure_ascii=False, allow_nan=False))
        self._first = False

    def finish(self, rest: Mapping[str, Any]) -> None:
        """Write the other values and close the file."""
        others = [f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in rest.items()]
        self._file.write(",\n".join(["]", *others]) + "}\n")
        self._file.close()

    def close(self) -> None:
        """Close the file as it is."""
        self._file.close()


def resolve_overlaps(masks: Mapping[int, StoredMask], size: tuple[int, int]) -> UInt8:
    """Return an index mask, in which a smaller mask covers a larger one, and of equal ones the higher id the lower.

    Args:
        masks: masks by object id.
        size: height and width in pixels.

    Returns:
        [H, W] object ids; 0 is the background.
    """
    index = np.zeros(size, np.uint8)
    for obj_id in sorted(masks, key=lambda one: (-masks[one].area, one)):
        index[masks[obj_id].decode(*size)] = obj_id
    return index


def coco_segment(mask: Mask) -> dict[str, Any]:
    """Return `segmentation`, `area` and `bbox` of a mask [H, W], as COCO has them; run lengths are compressed."""
    coco = require_coco()
    rle = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {
        "segmentation": {"size": list(mask.shape), "counts": rle["counts"].decode("ascii")},
        "area": int(coco.area(rle)),
        "bbox": [float(value) for value in coco.toBbox(rle)],
    }


def coco_scores(mask: StoredMask) -> dict[str, float]:
    """Return `score`, the predicted IoU, and `object_score`, a logit that is positive where the object is seen.

    Those that are not known, such as of a painted mask, are left out.
    """
    values = {"score": mask.iou, "object_score": mask.score}
    return {key: round(value, 6) for key, value in values.items() if not math.isnan(value)}


def coco_categories(classes: Classes) -> list[dict[str, Any]]:
    """Return the classes as COCO's categories, numbered from 1 on."""
    return [{"id": number, "name": name, "supercategory": ""} for number, name in enumerate(classes.names, 1)]
