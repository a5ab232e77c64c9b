"""`masks.json`, run lengths by object and frame, as `i2vpp track --json` writes them, see `RleWriter`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from i2vpp.annotate.errors import MaskFolderError
from i2vpp.annotate.exchange.formats.base import Footage, Format, Writer
from i2vpp.annotate.exchange.formats.reading import Reading, Region, TargetVideo
from i2vpp.annotate.storage.store import Annotation
from i2vpp.annotate.storage.values import StoredMask
from i2vpp.structures import FrameResult
from i2vpp.utils.result_files import RleWriter, VideoInfo


class TrackWriter(Writer):
    """Writes run lengths by object and frame."""

    def __init__(self, folder: Path, annotation: Annotation, footage: Footage, every: int) -> None:
        super().__init__(folder, annotation, footage, every)
        video = VideoInfo(height=self._size[0], width=self._size[1], fps=footage.fps, num_frames=footage.frames)
        names = {info.id: info.name for info in self._objects.values()}
        self._file = RleWriter(folder / "masks.json", video, names)

    def add(self, frame: int, masks: Mapping[int, StoredMask]) -> None:
        """Write the masks of a frame."""
        if masks:
            stack = torch.from_numpy(np.stack([mask.decode(*self._size) for mask in masks.values()]))
            scores = torch.tensor([mask.score for mask in masks.values()], dtype=torch.float32)
            ious = torch.tensor([mask.iou for mask in masks.values()], dtype=torch.float32)
            self._file.add(FrameResult(frame, list(masks), stack[:, None], scores, ious))


def read_rle(path: Path, content: Any, target: TargetVideo) -> Reading | None:
    """Read run lengths by object and frame.

    Args:
        path: the file, for messages.
        content: what is in it.
        target: the video.

    Returns:
        The regions; None if the file is of another format.
    """
    if not (isinstance(content, dict) and isinstance(content.get("objects"), dict) and "video" in content):
        return None
    return Reading(regions=_regions(path, content["objects"], target))


def _regions(path: Path, objects: Mapping[str, Any], target: TargetVideo) -> Iterator[Region]:
    for obj_id, frames in objects.items():
        where = f"{path.name}, object {obj_id:.40}"
        if not (isinstance(frames, dict) and obj_id.isdecimal() and len(obj_id) < 10):
            raise MaskFolderError(f"{where}: it must be a number, and have masks by frame")
        for frame, segment in frames.items():
            number = TargetVideo(height=1, width=1, frames=target.frames).frame(frame, where)
            yield Region(frame=number, mask=target.draw(segment, f"{where}, frame {frame:.40}"), owner=int(obj_id))


RLE = Format(
    name="rle",
    title="Run lengths",
    hint="one JSON file by object and frame, as “i2vpp track --json” writes it",
    writer=TrackWriter,
    reader=read_rle,
)
