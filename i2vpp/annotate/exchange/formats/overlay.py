"""`overlay.mp4`, the objects that are not hidden in their colours; overlaps as in the DAVIS layout."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from PIL import ImageColor

from i2vpp.annotate.exchange.formats.base import Footage, Format, Writer, resolve_overlaps
from i2vpp.annotate.storage.store import Annotation
from i2vpp.annotate.storage.values import StoredMask
from i2vpp.utils.overlay_video import OverlayWriter
from i2vpp.utils.visualize import overlay


class OverlayFile(Writer):
    """Writes a video to look at."""

    def __init__(self, folder: Path, annotation: Annotation, footage: Footage, every: int) -> None:
        super().__init__(folder, annotation, footage, every)
        self._file = OverlayWriter(folder / "overlay.mp4", None if footage.fps is None else footage.fps / every)
        self._colors = {info.id: _rgb(info.color) for info in self._objects.values() if not info.hidden}

    def add(self, frame: int, masks: Mapping[int, StoredMask]) -> None:
        """Write a frame."""
        shown = {obj_id: mask for obj_id, mask in masks.items() if obj_id in self._colors}
        index, labels = resolve_overlaps(shown, self._size), len(self._colors) > 1
        picture = overlay(self._footage.read_frame(frame), index, list(shown), labels=labels, colors=self._colors)
        self._file.add(picture, self._footage.time(frame))


def _rgb(color: str) -> tuple[int, int, int]:
    red, green, blue = ImageColor.getrgb(color)[:3]
    return red, green, blue


OVERLAY = Format(name="overlay", title="Overlay video", hint="an mp4 to look at", writer=OverlayFile)
