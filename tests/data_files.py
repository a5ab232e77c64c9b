"""Little datasets for tests: images, masks and annotations of 6 x 8 pixels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from training.config import SourceConfig
from training.dataset.build import build_source
from training.dataset.clips import Source

HEIGHT, WIDTH = 6, 8
SQUARE = np.zeros((HEIGHT, WIDTH), bool)
SQUARE[1:4, 2:5] = True


def write_image(path: Path, height: int = HEIGHT, width: int = WIDTH, value: int = 90) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), value, np.uint8)).save(path)
    return path


def write_mask(path: Path, values: np.ndarray, mode: str = "P") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values.astype(np.uint8))
    if mode == "P":
        image.putpalette(list(range(256)) * 3)  # of all values: Pillow saves no more bits than the palette needs
    image.save(path)
    return path


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def rle(mask: np.ndarray) -> dict[str, Any]:
    """Uncompressed COCO RLE."""
    flat = mask.T.ravel()
    changes = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate([[0], changes, [flat.size]])).tolist()
    return {"size": list(mask.shape), "counts": [0, *runs] if flat[0] else runs}


def build(kind: str, images: Path, **keys: Any) -> Source:
    keys = {key: str(value) if isinstance(value, Path) else value for key, value in keys.items()}
    return build_source("mine", SourceConfig(kind=kind, images=str(images), **keys))
