"""`<frame>.png`, palette PNGs of object ids as DAVIS has them, of the frames with any annotation.

Where objects overlap, the one with the smaller mask on that frame lies on top, of equal ones the higher id.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from i2vpp.annotate.exchange.formats.base import Footage, Format, Writer, resolve_overlaps
from i2vpp.annotate.storage.store import Annotation
from i2vpp.annotate.storage.values import StoredMask
from i2vpp.utils.result_files import MaskWriter


class DavisWriter(Writer):
    """Writes PNGs of all objects."""

    def __init__(self, folder: Path, annotation: Annotation, footage: Footage, every: int) -> None:
        super().__init__(folder, annotation, footage, every)
        self._files = MaskWriter(folder, footage.name)

    def add(self, frame: int, masks: Mapping[int, StoredMask]) -> None:
        """Write the masks of a frame."""
        if masks:
            self._files.add(frame, resolve_overlaps(masks, self._size))


DAVIS = Format(
    name="davis",
    title="DAVIS PNGs",
    hint="one palette PNG per frame with all objects; where they overlap, the smaller one lies on top",
    writer=DavisWriter,
)
