"""`tasks.json` and `labeling_config.xml` of Label Studio: a task per frame, each mask a brush region.

The run lengths are those of Label Studio's brush, which are of four equal channels. `data.frame` is the frame and
`data.image` its file, which Label Studio has to be shown, too. A region's id holds the object, its note the name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray

from i2vpp.annotate.errors import MaskFolderError
from i2vpp.annotate.exchange.formats.base import Footage, Format, Writer
from i2vpp.annotate.exchange.formats.reading import Reading, Region, TargetVideo, fields
from i2vpp.annotate.storage.labels import UNLABELLED
from i2vpp.annotate.storage.masks import RUN
from i2vpp.annotate.storage.store import Annotation
from i2vpp.annotate.storage.values import StoredMask

CONFIG_FILE = "labeling_config.xml"
CHANNELS = 4
WORD = 8  # bits of a value
SIZES = (4, 8, 12, 16)  # bits that the length of a run can have
_HEADER = 32 + 5 + 4 * len(SIZES)  # bits: number of values, size of one less 1, sizes of lengths less 1
_OBJECT = re.compile(r"object-(\d+)-frame-\d+")


class LabelStudioWriter(Writer):
    """Writes a list of tasks, task by task."""

    def __init__(self, folder: Path, annotation: Annotation, footage: Footage, every: int) -> None:
        super().__init__(folder, annotation, footage, every)
        self._file = (folder / "tasks.json").open("w", encoding="utf-8")
        self._file.write("[")
        self._first = True
        colors = {label.name: label.color for label in annotation.labels()}
        labels = "".join(
            f"    <Label value={quoteattr(name)} background={quoteattr(colors.get(name, '#808080'))}/>\n"
            for name in self._classes.names
        )
        (folder / CONFIG_FILE).write_text(
            '<View>\n  <Image name="image" value="$image" zoom="true"/>\n'
            f'  <BrushLabels name="tag" toName="image">\n{labels}  </BrushLabels>\n</View>\n',
            encoding="utf-8",
        )

    def add(self, frame: int, masks: Mapping[int, StoredMask]) -> None:
        """Write the task of a frame."""
        if not masks:
            return
        height, width = self._size
        results = []
        for obj_id, stored, _ in self._present(masks):
            name = self._classes.names[self._classes.of_object[obj_id]]
            result = {
                "id": f"object-{obj_id}-frame-{frame}",
                "type": "brushlabels",
                "from_name": "tag",
                "to_name": "image",
                "original_width": width,
                "original_height": height,
                "image_rotation": 0,
                "value": {"format": "rle", "rle": list(pack(stored.runs)), "brushlabels": [name]},
                "meta": {"text": [self._objects[obj_id].name]},
            }
            results.append(result)
        task = {
            "data": {"image": self._footage.file(frame), "video": self._video, "frame": frame},
            "annotations": [{"result": results}],
        }
        self._file.write(("\n" if self._first else ",\n") + json.dumps(task, ensure_ascii=False))
        self._first = False

    def close(self) -> None:
        """Finish and close the file."""
        self._file.write("]\n")
        self._file.close()


def pack(runs: bytes) -> bytes:
    """Return the run lengths of a mask as Label Studio packs those of its brush.

    After the header, a run is the bit 1, which of `SIZES` its length has, the length less 1, and the value.

    Args:
        runs: see `encode_runs`.
    """
    lengths = np.frombuffer(runs, RUN).astype(np.int64) * CHANNELS
    bits = [f"{int(lengths.sum()):032b}{WORD - 1:05b}", *(f"{size - 1:04b}" for size in SIZES)]
    most = 1 << SIZES[-1]
    for place, length in enumerate(lengths.tolist()):
        value = f"{255 if place % 2 else 0:08b}"
        for part in [most] * (length // most) + ([length % most] if length % most else []):
            which = next(i for i, size in enumerate(SIZES) if part <= 1 << size)
            bits.append(f"1{which:02b}{part - 1:0{SIZES[which]}b}{value}")
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big")


def unpack(packed: bytes) -> NDArray[np.uint8]:
    """Return the values that were packed: the four channels of each pixel.

    Args:
        packed: see `pack`; values may also stand one by one, after the bit 0.

    Raises:
        ValueError: it ends early, or is longer than it says.
    """
    text = "".join(f"{byte:08b}" for byte in packed)
    if len(text) < _HEADER:
        raise ValueError("it ends early")
    total, word = int(text[:32], 2), int(text[32:37], 2) + 1
    sizes = [int(text[37 + 4 * i : 41 + 4 * i], 2) + 1 for i in range(4)]
    if word != WORD:
        raise ValueError(f"its values have {word} bits")
    at, done = _HEADER, 0
    parts: list[NDArray[np.uint8]] = []
    while done < total:
        size = sizes[int(text[at + 1 : at + 3] or "0", 2)]
        count = int(text[at + 3 : at + 3 + size] or "0", 2) + 1
        start = at + 3 + size
        words = 1 if text[at : at + 1] == "1" else count
        at = start + WORD * words
        if at > len(text) or done + count > total:
            raise ValueError("it ends early")
        values = np.frombuffer(int(text[start:at], 2).to_bytes(words, "big"), np.uint8)
        parts.append(np.repeat(values, count) if words == 1 else values)
        done += count
    return np.concatenate(parts) if parts else np.zeros(0, np.uint8)


def read_label_studio(path: Path, content: Any, target: TargetVideo) -> Reading | None:
    """Read tasks with brush and polygon regions; other regions are left out.

    Args:
        path: the file, for messages.
        content: what is in it.
        target: the video.

    Returns:
        The regions; None if the file is of another format.

    Raises:
        MaskFolderError: something does not fit.
    """
    if not (isinstance(content, list) and content and isinstance(content[0], dict) and "data" in content[0]):
        return None
    tasks: list[tuple[str, int, list[Any]]] = []
    for place, task in enumerate(content):
        where = f"{path.name}, task {place}"
        (data,) = fields(task, where, data=dict)
        number = data.get("frame") if target.frame_names is None else None
        frame = target.frame(data.get("image", "") if number is None else number, where)
        drafts = task.get("annotations") or task.get("predictions") or []
        if drafts:
            (results,) = fields(drafts[0] if isinstance(drafts, list) else None, where, result=list)
            tasks.append((where, frame, results))
    return Reading(regions=_regions(tasks, target), frames=frozenset(frame for _, frame, _ in tasks))


def _regions(tasks: list[tuple[str, int, list[Any]]], target: TargetVideo) -> Iterator[Region]:
    for where, frame, results in tasks:
        for result in results:
            (kind,) = fields(result, where, type=str)
            value = result.get("value")
            if kind not in ("brushlabels", "polygonlabels") or not isinstance(value, dict):
                continue
            height, width = fields(result, where, original_height=int, original_width=int)
            target.check_size(height, width, where)
            label = next((one for one in value.get(kind) or [] if isinstance(one, str)), None)
            match = _OBJECT.fullmatch(str(result.get("id")))
            meta = result.get("meta")
            notes = meta.get("text") if isinstance(meta, dict) else None
            yield Region(
                frame=frame,
                mask=_brush(value, where, target) if kind == "brushlabels" else _polygon(value, where, target),
                label=None if label == UNLABELLED else label,
                owner=int(match[1]) if match else None,
                name=notes[0] if isinstance(notes, list) and notes and isinstance(notes[0], str) else None,
            )


def _brush(value: Mapping[str, Any], where: str, target: TargetVideo) -> StoredMask:
    try:
        pixels = unpack(bytes(value["rle"])).reshape(target.height, target.width, CHANNELS)
    except (KeyError, TypeError, ValueError) as error:
        raise MaskFolderError(f"{where}: the run lengths of a brush region are damaged ({error})") from error
    return StoredMask.of(pixels[:, :, CHANNELS - 1] > 127)


def _polygon(value: Mapping[str, Any], where: str, target: TargetVideo) -> StoredMask:
    try:
        corners = np.array(value["points"], np.float64).reshape(-1, 2) / 100 * (target.width, target.height)
    except (KeyError, TypeError, ValueError) as error:
        raise MaskFolderError(f"{where}: the points of a polygon must be pairs of numbers, in per cent") from error
    return target.draw([corners.ravel().tolist()], where)


LABEL_STUDIO = Format(
    name="label_studio",
    title="Label Studio",
    hint="tasks.json, a task per frame with brush regions, and the labelling configuration",
    writer=LabelStudioWriter,
    reader=read_label_studio,
)
