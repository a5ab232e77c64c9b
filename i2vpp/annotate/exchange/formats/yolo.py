"""YOLO segmentation: `data.yaml` and `labels/train/<frame>.txt`, a polygon in each line.

A line is the number of the class and the corners x, y as shares of width and height. It has a single outline: holes are
filled, and several parts of an object are joined by lines without an area. Ids, names and scores of objects are not in
it. A frame on which all objects are known to be absent has an empty file, an unannotated one has none. The images that
the labels belong to are not written; `data.yaml` expects them in `images/train`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml  # type: ignore[import-untyped]

from i2vpp.annotate.errors import MaskFolderError
from i2vpp.annotate.exchange.formats.base import Footage, Format, Writer
from i2vpp.annotate.exchange.formats.outlines import joined, outlines
from i2vpp.annotate.exchange.formats.reading import Reading, Region, TargetVideo
from i2vpp.annotate.storage.labels import UNLABELLED
from i2vpp.annotate.storage.store import Annotation
from i2vpp.annotate.storage.values import StoredMask
from i2vpp.errors import I2VPPError
from i2vpp.utils.yaml_files import read_yaml

DIGITS = 6
DATA_FILES = ("data.yaml", "data.yml")
_LINE = re.compile(r"\d+(?: +-?[0-9.]+(?:e-?\d+)?){6,}")


class YoloWriter(Writer):
    """Writes a text file per frame."""

    def __init__(self, folder: Path, annotation: Annotation, footage: Footage, every: int) -> None:
        super().__init__(folder, annotation, footage, every)
        self._labels = folder / "labels" / "train"
        self._labels.mkdir(parents=True)
        names = dict(enumerate(self._classes.names))
        data = {"path": ".", "train": "images/train", "val": "images/train", "names": names}
        with (folder / DATA_FILES[0]).open("w", encoding="utf-8") as file:
            yaml.safe_dump(data, file, allow_unicode=True, sort_keys=False)

    def add(self, frame: int, masks: Mapping[int, StoredMask]) -> None:
        """Write the masks of a frame."""
        if not masks:
            return
        height, width = self._size
        lines = []
        for obj_id, _, mask in self._present(masks):
            corners = (joined(outlines(mask)) / (width, height)).clip(0, 1).round(DIGITS)
            numbers = " ".join(f"{value:.{DIGITS}f}" for value in corners.ravel())
            lines.append(f"{self._classes.of_object[obj_id]} {numbers}\n")
        (self._labels / f"{self._footage.name(frame)}.txt").write_text("".join(lines), encoding="utf-8")


def read_yolo(path: Path, content: Any, target: TargetVideo) -> Reading | None:
    """Read the text files of a folder with `data.yaml`; the objects of a class are followed by their overlap.

    Args:
        path: the folder, or its `data.yaml`.
        content: not used.
        target: the video.

    Returns:
        The regions; None if there is no such file.

    Raises:
        MaskFolderError: something does not fit.
    """
    data = path if path.name in DATA_FILES else next((path / n for n in DATA_FILES if (path / n).is_file()), None)
    if data is None or not data.is_file():
        return None
    names = _names(data)
    files = {}
    for file in sorted((data.parent / "labels").rglob("*.txt")):
        files[file] = target.frame(file.name, file.name)
    if not files:
        raise MaskFolderError(f"there is no labels/*.txt beside {data.name}")
    return Reading(regions=_regions(files, names, target), frames=frozenset(files.values()))


def _names(data: Path) -> dict[int, str]:
    try:
        names = read_yaml(data)["names"]
        listed = names.items() if isinstance(names, dict) else enumerate(names)
        return {int(number): str(name) for number, name in listed}
    except (OSError, I2VPPError, TypeError, KeyError, ValueError) as error:
        raise MaskFolderError(f"{data.name} has no list `names` of the classes") from error


def _regions(files: Mapping[Path, int], names: Mapping[int, str], target: TargetVideo) -> Iterator[Region]:
    size = np.array([target.width, target.height])
    for file, frame in files.items():
        for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            where = f"{file.name}, line {number}"
            text = " ".join(line.split())
            if not text:
                continue
            if not _LINE.fullmatch(text):
                raise MaskFolderError(f"{where} is no polygon: the number of a class and three or more corners x y")
            kind, *values = text.split()
            if len(values) % 2 or int(kind) not in names:
                raise MaskFolderError(f"{where} has half a corner, or data.yaml has no class {kind:.20}")
            corners = (np.array(values, np.float64).reshape(-1, 2) * size).ravel().tolist()
            name = names[int(kind)]
            label = None if name == UNLABELLED else name
            yield Region(frame=frame, mask=target.draw([corners], where), label=label)


YOLO = Format(
    name="yolo",
    title="YOLO segmentation",
    hint="data.yaml and a text file of polygons per frame; holes are filled, parts joined by lines, ids are lost",
    writer=YoloWriter,
    reader=read_yolo,
)
