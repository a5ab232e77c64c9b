"""`prompts.json`, clicks and boxes as `i2vpp track --prompts` reads them.

Where a frame was also painted on or imported, the mask itself is the prompt, as a PNG beside the file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from i2vpp.annotate.exchange.formats.base import Footage, Format, Writer
from i2vpp.annotate.storage.store import Annotation
from i2vpp.annotate.storage.values import StoredMask
from i2vpp.utils.result_files import write_png

PROMPTS_FILE = "prompts.json"


class PromptsWriter(Writer):
    """Collects the prompts of each frame and writes them in the end."""

    def __init__(self, folder: Path, annotation: Annotation, footage: Footage, every: int) -> None:
        super().__init__(folder, annotation, footage, every)
        self._prompts = annotation.prompts()
        self._entries: list[dict[str, Any]] = []

    def add(self, frame: int, masks: Mapping[int, StoredMask]) -> None:
        """Collect the prompts of a frame."""
        for obj_id, frames in self._prompts.items():
            if (given := frames.get(frame)) is None:
                continue
            entry: dict[str, Any] = {"frame": frame, "object": obj_id}
            mask = masks.get(obj_id)
            if (given.strokes or given.imported) and mask is not None and mask.area:
                name = f"object_{obj_id:03d}_frame_{frame:05d}.png"
                write_png(self._folder / name, Image.fromarray(mask.decode(*self._size).astype(np.uint8) * 255))
                self._entries.append({**entry, "mask": name})
            elif given.points or given.box:
                if given.points:
                    entry["points"] = [[x, y] for x, y, _ in given.points]
                    entry["labels"] = [label for _, _, label in given.points]
                if given.box:
                    entry["box"] = list(given.box)
                self._entries.append(entry)

    def close(self) -> None:
        """Write the file."""
        text = ",\n ".join(json.dumps(entry) for entry in self._entries)
        (self._folder / PROMPTS_FILE).write_text(f"[{text}]\n", encoding="utf-8")


PROMPTS = Format(
    name="prompts",
    title="Prompts",
    hint="clicks and boxes as JSON for “i2vpp track --prompts”; painted and imported masks as PNGs beside it",
    writer=PromptsWriter,
)
