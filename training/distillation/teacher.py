"""Write down what a teacher's image encoder says about photos: one embedding each, to be distilled.

    python -m training.distillation.teacher --model encoder.onnx --images DIR [DIR ...] --out embeddings

The teacher is SAM 2's image encoder as an ONNX file: input `image` [1, 3, 1024, 1024], ImageNet-normalised; output
`image_embed` [1, 256, 64, 64], no-memory embedding included. Needs the package onnxruntime. An interrupted run goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from i2vpp.errors import I2VPPError
from i2vpp.session.frames import MEAN, STD
from training.dataset.errors import NoDataError
from training.dataset.files import read_image

INDEX = "index.json"
SIDE = 1024
SUFFIXES = {".jpg", ".jpeg", ".png"}


def find_images(folders: Sequence[Path], *, every: int) -> list[Path]:
    """List the images below folders, every n-th of each folder of files, so that videos do not outweigh photos."""
    found: list[Path] = []
    for root in folders:
        by_folder: dict[Path, list[Path]] = {}
        for path in sorted(root.rglob("*")):
            if path.suffix.lower() in SUFFIXES:
                by_folder.setdefault(path.parent, []).append(path)
        found += [path for files in by_folder.values() for path in files[::every]]
    if not found:
        raise NoDataError(f"no images below {', '.join(map(str, folders))}; give folders of jpg or png files")
    return found


def normalise(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Turn RGB [H, W, 3] into the teacher's input [1, 3, 1024, 1024]."""
    square = Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    pixels = (np.asarray(square, np.float32) / 255 - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])


def embed(model: Path, images: Sequence[Path], out: Path) -> None:
    """Write `<out>/<digest of the path>.npy`, float16 [256, 64, 64], for every image, and an index of them."""
    out.mkdir(parents=True, exist_ok=True)
    session = _session(model)
    index_file = out / INDEX
    index: dict[str, str] = json.loads(index_file.read_text(encoding="utf-8")) if index_file.exists() else {}
    for path in tqdm(images, desc="teacher", unit="image"):
        name = f"{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]}.npy"
        if name in index:
            continue
        embedding = session.run(["image_embed"], {"image": normalise(read_image(path))})[0][0]
        temporary = out / f".{name}"
        np.save(temporary, embedding.astype(np.float16))
        temporary.replace(out / name)
        index[name] = str(path.resolve())
        _write(index_file, index)


def _write(path: Path, index: dict[str, str]) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(index), encoding="utf-8")
    temporary.replace(path)


def _session(model: Path) -> Any:
    if not model.is_file():
        raise NoDataError(f"--model {model} is not a file; docs/training.md says where a teacher comes from")
    try:
        import onnxruntime  # noqa: PLC0415 - needed by this command alone
    except ImportError as error:
        raise NoDataError("the teacher needs onnxruntime: pip install onnxruntime") from error
    return onnxruntime.InferenceSession(str(model), providers=onnxruntime.get_available_providers())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m training.distillation.teacher", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--model", type=Path, required=True, help="the encoder, ONNX")
    parser.add_argument("--images", type=Path, nargs="+", required=True, help="folders, searched recursively")
    parser.add_argument("--every", type=int, default=1, help="take every n-th image of a folder (default 1)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the embeddings")
    options = parser.parse_args(arguments)
    try:
        embed(options.model, find_images(options.images, every=options.every), options.out)
    except I2VPPError as error:
        parser.exit(1, f"error: {error}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
