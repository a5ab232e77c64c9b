"""Write photos and a teacher's embeddings of them into a folder, for distillation.

    python -m training.distillation.teacher --model encoder.onnx --images DIR [DIR ...] -o embeddings

The teacher is SAM 2's image encoder as an ONNX file: input `image` [1, 3, 1024, 1024], ImageNet-normalised; output
`image_embed` [1, 256, 64, 64], no-memory embedding included. Needs the package onnxruntime. An interrupted run goes on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from i2vpp.data.files import list_images, read_image, read_items
from i2vpp.errors import I2VPPError, NoDataError
from i2vpp.session.frames import MEAN, STD
from i2vpp.utils.parser import Parser
from training.distillation.embeddings import EmbeddingWriter

SIDE = 1024


def find_images(folders: Sequence[Path], *, every: int, exclude: frozenset[str] = frozenset()) -> list[Path]:
    """List the images below folders.

    Args:
        folders: searched recursively.
        every: take every n-th image of each folder of files, so that videos do not outweigh photos.
        exclude: names of images without suffix that are left out, such as those that are held out.

    Raises:
        NoDataError: there is no image.
    """
    found: list[Path] = []
    for root in folders:
        by_folder: dict[Path, list[Path]] = {}
        for path in list_images(root, recursive=True).values():
            if path.stem not in exclude:
                by_folder.setdefault(path.parent, []).append(path)
        found += [path for files in by_folder.values() for path in files[::every]]
    if not found:
        raise NoDataError(f"no images below {', '.join(map(str, folders))}; give folders of image files")
    return found


def normalise(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Turn RGB [H, W, 3] into the teacher's input [1, 3, 1024, 1024]."""
    square = Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    pixels = (np.asarray(square, np.float32) / 255 - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])


def embed(model: Path, images: Sequence[Path], out: Path) -> None:
    """Append the embeddings of all images that the folder `out` does not hold yet.

    Args:
        model: the teacher's ONNX file.
        images: image files.
        out: folder of the embeddings; created if it is missing.

    Raises:
        NoDataError: the model or onnxruntime is missing.
        DataError: an image cannot be read.
    """
    session = _session(model)
    with EmbeddingWriter(out) as writer:
        known = set(writer.images)
        todo = [image.resolve() for image in images if image.resolve() not in known]
        for image in tqdm(todo, desc="teacher", unit="image"):
            pixels = read_image(image)
            writer.add(image, pixels, session.run(["image_embed"], {"image": normalise(pixels)})[0][0])


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
    parser = Parser(prog="python -m training.distillation.teacher", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--model", type=Path, required=True, help="the encoder, ONNX")
    parser.add_argument("--images", type=Path, nargs="+", required=True, help="folders, searched recursively")
    parser.add_argument("--every", type=int, default=1, help="take every n-th image of a folder (default 1)")
    parser.add_argument("--exclude", type=Path, help="list of names of images that are left out, one a line")
    parser.add_argument("-o", "--output", "--out", dest="out", type=Path, required=True, help="folder to write")
    options = parser.parse_args(arguments)
    try:
        exclude = frozenset() if options.exclude is None else read_items(options.exclude)
        embed(options.model, find_images(options.images, every=options.every, exclude=exclude), options.out)
    except I2VPPError as error:
        parser.exit(1, f"error: {error}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
