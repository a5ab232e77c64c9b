"""`annotations.xml`, "CVAT for video 1.1", masks as run lengths inside their boxes.

CVAT has no mask that goes through several frames and keeps of a track of masks the first one only. So each mask is a
track of one frame, and the masks of an object are a group, whose number is the object's id.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import quoteattr

import numpy as np

from i2vpp.annotate.errors import MaskFolderError
from i2vpp.annotate.exchange.formats.base import Footage, Format, Writer
from i2vpp.annotate.exchange.formats.reading import Reading, Region, TargetVideo
from i2vpp.annotate.storage.labels import UNLABELLED
from i2vpp.annotate.storage.masks import decode_runs, encode_runs
from i2vpp.annotate.storage.store import Annotation
from i2vpp.annotate.storage.values import StoredMask
from i2vpp.utils.arrays import Mask

SHAPES = ("mask", "polygon")
_RUNS = np.dtype("<u4")


class CvatWriter(Writer):
    """Writes one XML file, track by track."""

    def __init__(self, folder: Path, annotation: Annotation, footage: Footage, every: int) -> None:
        super().__init__(folder, annotation, footage, every)
        self._file = (folder / "annotations.xml").open("w", encoding="utf-8")
        self._count = 0
        colors = {label.name: label.color for label in annotation.labels()}
        self._file.write('<?xml version="1.0" encoding="utf-8"?>\n')
        self._file.write(f"<annotations>\n<version>1.1</version>\n{self._meta(colors)}\n")

    def _meta(self, colors: Mapping[str, str]) -> str:
        meta = ElementTree.Element("meta")
        task = ElementTree.SubElement(meta, "task")
        texts = {"name": self._video, "size": self._footage.frames, "mode": "interpolation"}
        ends = {"start_frame": 0, "stop_frame": self._footage.frames - 1}
        for tag, text in {**texts, **ends}.items():
            ElementTree.SubElement(task, tag).text = str(text)
        labels = ElementTree.SubElement(task, "labels")
        for name in self._classes.names:
            label = ElementTree.SubElement(labels, "label")
            ElementTree.SubElement(label, "name").text = name
            ElementTree.SubElement(label, "color").text = colors.get(name, "#808080")
            ElementTree.SubElement(label, "attributes")
        size = ElementTree.SubElement(task, "original_size")
        for tag, pixels in zip(("height", "width"), self._size, strict=True):
            ElementTree.SubElement(size, tag).text = str(pixels)
        return ElementTree.tostring(meta, encoding="unicode")

    def add(self, frame: int, masks: Mapping[int, StoredMask]) -> None:
        """Write the masks of a frame."""
        for obj_id, _, mask in self._present(masks):
            label = quoteattr(self._classes.names[self._classes.of_object[obj_id]])
            self._file.write(f'<track id="{self._count}" label={label} source="manual" group_id="{obj_id}">\n')
            shape = _attributes(mask)
            self._file.write(f'<mask frame="{frame}" keyframe="1" outside="0" {shape}></mask>\n')
            if frame + 1 < self._footage.frames:
                self._file.write(f'<mask frame="{frame + 1}" keyframe="1" outside="1" {shape}></mask>\n')
            self._file.write("</track>\n")
            self._count += 1

    def close(self) -> None:
        """Finish and close the file."""
        self._file.write("</annotations>\n")
        self._file.close()


def _attributes(mask: Mask) -> str:
    """Return what says where a mask is: run lengths of its box, row by row and background first, and the box."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, left = int(rows[0]), int(columns[0])
    cut = np.ascontiguousarray(mask[top : rows[-1] + 1, left : columns[-1] + 1])
    runs = ", ".join(map(str, np.frombuffer(encode_runs(cut), _RUNS).tolist()))
    return (
        f'occluded="0" rle="{runs}" left="{left}" top="{top}" width="{cut.shape[1]}" height="{cut.shape[0]}" '
        'z_order="0"'
    )


def read_cvat(path: Path, content: Any, target: TargetVideo) -> Reading | None:
    """Read an XML file of CVAT, for video or for images: masks and polygons. Other shapes are left out.

    Args:
        path: the file.
        content: not used.
        target: the video.

    Returns:
        The regions; None if the file is no XML file.
    """
    if path.suffix.lower() != ".xml":
        return None
    return Reading(regions=_regions(path, target))


def _regions(path: Path, target: TargetVideo) -> Iterator[Region]:
    try:
        events = ElementTree.iterparse(path, events=("start", "end"))
        track = 0
        root: ElementTree.Element | None = None
        for event, element in events:
            if root is None:
                root = element
                if root.tag != "annotations":
                    raise MaskFolderError(f"{path.name} is no file of CVAT: it begins with <{root.tag[:40]}>")
            if event == "end" and element.tag in ("track", "image"):
                track += 1
                yield from _of_element(element, track, path, target)
                root.clear()  # what was read need not be kept
    except ElementTree.ParseError as error:
        raise MaskFolderError(f"{path.name} is no XML: {error}") from error


def _of_element(element: ElementTree.Element, number: int, path: Path, target: TargetVideo) -> Iterator[Region]:
    """Yield the regions of a track, or those of an image."""
    is_track = element.tag == "track"
    where = f"{path.name}, {element.tag} {element.get('id', number)}"
    frame = 0 if is_track else target.frame(element.get("name", ""), where)
    for shape in element:
        if shape.tag not in SHAPES or shape.get("outside") == "1":
            continue
        if is_track:
            frame = target.frame(_whole(shape, "frame", where), where)
        group = (element if is_track else shape).get("group_id", "0")
        alone = f"track {number}" if is_track and shape.tag != "mask" else None
        label = (element if is_track else shape).get("label")
        yield Region(
            frame=frame,
            mask=_mask(shape, where, target),
            label=None if label == UNLABELLED else label,
            owner=alone if group == "0" or not group.isdecimal() else int(group),
        )


def _mask(shape: ElementTree.Element, where: str, target: TargetVideo) -> StoredMask:
    if shape.tag == "polygon":
        try:
            pairs = [tuple(map(float, pair.split(","))) for pair in shape.get("points", "").split(";")]
        except ValueError as error:
            raise MaskFolderError(f"{where}: the points of a polygon must be x,y;x,y;...") from error
        return target.draw([[value for pair in pairs for value in pair]], where)
    left, top, width, height = (_whole(shape, key, where) for key in ("left", "top", "width", "height"))
    if left + width > target.width or top + height > target.height or not width * height:
        raise MaskFolderError(f"{where}: a mask leaves the frame, which has {target.width} x {target.height} pixels")
    whole = np.zeros((target.height, target.width), bool)
    try:
        runs = np.array(shape.get("rle", "").split(","), np.int64).astype(_RUNS).tobytes()
        whole[top : top + height, left : left + width] = decode_runs(runs, (height, width))
    except (ValueError, OverflowError) as error:
        raise MaskFolderError(f"{where}: the run lengths do not fill the box of the mask") from error
    return StoredMask.of(whole)


def _whole(shape: ElementTree.Element, key: str, where: str) -> int:
    text = shape.get(key, "")
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise MaskFolderError(f"{where}: {key} must be a whole number, got {text!r:.40}")
    return int(text)


CVAT = Format(
    name="cvat",
    title="CVAT for video 1.1",
    hint="one XML file of masks as run lengths; the masks of an object are a group, as CVAT has no tracks of masks",
    writer=CvatWriter,
    reader=read_cvat,
)
