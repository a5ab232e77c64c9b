"""`instances.json`, video instance segmentation as YouTube-VIS has it: an annotation per object, a mask per frame.

The frames of the file are those that were exported. A frame on which an object is absent, or not annotated, has null.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from i2vpp.annotate.errors import MaskFolderError
from i2vpp.annotate.exchange.formats.base import Footage, Format, JsonList, Writer, coco_categories, coco_segment
from i2vpp.annotate.exchange.formats.coco import VIDEO_ID, category_names
from i2vpp.annotate.exchange.formats.reading import Reading, Region, TargetVideo, fields
from i2vpp.annotate.storage.store import Annotation
from i2vpp.annotate.storage.values import StoredMask


class YouTubeVisWriter(Writer):
    """Keeps the run lengths of all masks and writes them object by object in the end."""

    def __init__(self, folder: Path, annotation: Annotation, footage: Footage, every: int) -> None:
        super().__init__(folder, annotation, footage, every)
        self._file: JsonList = JsonList(folder / "instances.json", "annotations")
        self._frames = range(0, footage.frames, every)
        self._segments: dict[int, dict[int, dict[str, Any]]] = {}  # by object and frame

    def add(self, frame: int, masks: Mapping[int, StoredMask]) -> None:
        """Keep the masks of a frame."""
        for obj_id, _, mask in self._present(masks):
            self._segments.setdefault(obj_id, {})[frame] = coco_segment(mask)

    def close(self) -> None:
        """Write and close the file."""
        height, width = self._size
        for number, (obj_id, segments) in enumerate(sorted(self._segments.items()), 1):
            listed = [segments.get(frame, {}) for frame in self._frames]
            entry = {
                "id": number,
                "video_id": VIDEO_ID,
                "category_id": self._classes.of_object[obj_id] + 1,
                "iscrowd": 0,
                "height": height,
                "width": width,
                "segmentations": [one.get("segmentation") for one in listed],
                "areas": [one.get("area") for one in listed],
                "bboxes": [one.get("bbox") for one in listed],
                "track_id": obj_id,
                "name": self._objects[obj_id].name,
            }
            self._file.append(entry)
        files = [self._footage.file(frame) for frame in self._frames]
        video = {"id": VIDEO_ID, "height": height, "width": width, "length": len(files), "file_names": files}
        rest = {"videos": [{**video, "frame_ids": list(self._frames)}], "categories": coco_categories(self._classes)}
        self._file.finish({**rest, "info": {"description": self._video}, "licenses": []})


def read_youtube_vis(path: Path, content: Any, target: TargetVideo) -> Reading | None:
    """Read a file of one video.

    Args:
        path: the file, for messages.
        content: what is in it.
        target: the video.

    Returns:
        The regions; None if the file is of another format.

    Raises:
        MaskFolderError: something does not fit.
    """
    if not (isinstance(content, dict) and isinstance(content.get("videos"), list) and "images" not in content):
        return None
    if len(content["videos"]) != 1:
        raise MaskFolderError(f"{path.name} is of {len(content['videos'])} videos; leave the one that is open in it")
    (video,) = content["videos"]
    where = f"{path.name}, video"
    files, height, width = fields(video, where, file_names=list, height=int, width=int)
    target.check_size(height, width, where)
    numbers = video.get("frame_ids") if target.frame_names is None else None
    frames = [target.frame(one, where) for one in (files if numbers is None else numbers)]
    return Reading(regions=_regions(path, content, frames, target))


def _regions(path: Path, content: Any, frames: list[int], target: TargetVideo) -> Iterator[Region]:
    names = category_names(path, content)
    (annotations,) = fields(content, path.name, annotations=list)
    for place, entry in enumerate(annotations):
        where = f"{path.name}, annotation {place}"
        category, segments = fields(entry, where, category_id=(int, str), segmentations=list)
        if len(segments) != len(frames):
            raise MaskFolderError(f"{where} has {len(segments)} masks; the video in the file has {len(frames)} frames")
        name = entry.get("name")
        for frame, segment in zip(frames, segments, strict=True):
            if segment:
                yield Region(
                    frame=frame,
                    mask=target.draw(segment, where),
                    label=names.get(category),
                    owner=number if isinstance(number := entry.get("track_id"), int) else f"annotation {place}",
                    name=name if isinstance(name, str) else None,
                )


YOUTUBE_VIS = Format(
    name="youtube_vis",
    title="YouTube-VIS",
    hint="one JSON file for video instance segmentation: an entry per object, run lengths per frame",
    writer=YouTubeVisWriter,
    reader=read_youtube_vis,
)
