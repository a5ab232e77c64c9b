"""`annotations.json`, COCO's instance annotations of all frames with any annotation.

Each mask is an annotation with compressed run lengths; `track_id` is the object, the same on all frames, and `video_id`
and `frame_id` of an image place it in the video. `score` is the predicted IoU and `object_score` the logit of
`i2vpp track`, where they are known. An object that is known to be absent on a frame has no annotation there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from i2vpp.annotate.exchange.formats.base import (
    Footage,
    Format,
    JsonList,
    Writer,
    coco_categories,
    coco_scores,
    coco_segment,
)
from i2vpp.annotate.exchange.formats.reading import Reading, Region, TargetVideo, fields
from i2vpp.annotate.storage.labels import UNLABELLED
from i2vpp.annotate.storage.store import Annotation
from i2vpp.annotate.storage.values import StoredMask
from i2vpp.data.rle import is_crowd

VIDEO_ID = 1
TRACK_KEYS = ("track_id", "instance_id")


class CocoWriter(Writer):
    """Writes one JSON file, annotation by annotation."""

    def __init__(self, folder: Path, annotation: Annotation, footage: Footage, every: int) -> None:
        super().__init__(folder, annotation, footage, every)
        self._file: JsonList = JsonList(folder / "annotations.json", "annotations")
        self._images: list[dict[str, Any]] = []
        self._count = 0

    def add(self, frame: int, masks: Mapping[int, StoredMask]) -> None:
        """Write the masks of a frame."""
        if not masks:
            return
        height, width = self._size
        image = {"id": frame + 1, "file_name": self._footage.file(frame), "height": height, "width": width}
        self._images.append({**image, "video_id": VIDEO_ID, "frame_id": frame})
        for obj_id, stored, mask in self._present(masks):
            self._count += 1
            entry = {
                "id": self._count,
                "image_id": frame + 1,
                "category_id": self._classes.of_object[obj_id] + 1,
                "track_id": obj_id,
                "iscrowd": 0,
                **coco_segment(mask),
                "name": self._objects[obj_id].name,
                **coco_scores(stored),
            }
            self._file.append(entry)

    def close(self) -> None:
        """Write what is not known before, and close the file."""
        height, width = self._size
        video = {"id": VIDEO_ID, "name": self._video, "height": height, "width": width, "length": self._footage.frames}
        rest = {"images": self._images, "videos": [video], "categories": coco_categories(self._classes)}
        self._file.finish({**rest, "info": {"description": self._video}, "licenses": []})


def read_coco(path: Path, content: Any, target: TargetVideo) -> Reading | None:
    """Read COCO's instance annotations.

    Args:
        path: the file, for messages.
        content: what is in it.
        target: the video.

    Returns:
        The regions; None if the file is of another format.

    Raises:
        MaskFolderError: something does not fit.
    """
    if not (isinstance(content, dict) and isinstance(content.get("images"), list) and "annotations" in content):
        return None
    frames: dict[Any, int] = {}
    for place, image in enumerate(content["images"]):
        where = f"{path.name}, image {place}"
        _, name, height, width = fields(image, where, id=int, file_name=str, height=int, width=int)
        target.check_size(height, width, where)
        number = image.get("frame_id") if target.frame_names is None else None
        frames[image["id"]] = target.frame(name if number is None else number, where)
    return Reading(regions=_regions(path, content, frames, target), frames=frozenset(frames.values()))


def _regions(path: Path, content: Any, frames: Mapping[Any, int], target: TargetVideo) -> Iterator[Region]:
    names = category_names(path, content)
    (annotations,) = fields(content, path.name, annotations=list)
    for place, entry in enumerate(annotations):
        where = f"{path.name}, annotation {place}"
        image, category = fields(entry, where, image_id=(int, str), category_id=(int, str))
        if is_crowd(entry):
            continue
        if image not in frames:
            fields({}, f"{where}: no image has the id {image!r:.40}; it", image_id=int)
        owner = next((entry[key] for key in TRACK_KEYS if isinstance(entry.get(key), int)), None)
        name = entry.get("name")
        yield Region(
            frame=frames[image],
            mask=target.draw(entry.get("segmentation"), where),
            label=names.get(category),
            owner=owner,
            name=name if isinstance(name, str) else None,
        )


def category_names(path: Path, content: Any) -> dict[Any, str | None]:
    """Return the classes of COCO's categories by id; the class of objects without one is None.

    Args:
        path: the file, for messages.
        content: what is in it.

    Raises:
        MaskFolderError: a category has no name.
    """
    (categories,) = fields(content, path.name, categories=list)
    found = {}
    for place, entry in enumerate(categories):
        _, name = fields(entry, f"{path.name}, category {place}", id=(int, str), name=str)
        found[entry["id"]] = None if name == UNLABELLED else name
    return found


COCO = Format(
    name="coco",
    title="COCO",
    hint="one JSON file: images, run lengths, classes, scores; track_id is the object",
    writer=CocoWriter,
    reader=read_coco,
)
