"""Mean IoU of a network's masks for one box and one click on held-out photos.

    python -m training.image_validation i2vpp-demo --data data [--image-size 512] [--dtype bfloat16]

The photos are named in `training/txt/heldout_photos.txt`. A photo is encoded as a clip of one frame, exactly as the
video predictor treats frame 0. Every object is given by its tight box, and again by a click on the pixel nearest to its
centroid.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from i2vpp.build_i2vpp import DTYPES, best_device, build_i2vpp
from i2vpp.data.files import read_items
from i2vpp.errors import I2VPPError
from i2vpp.evaluation.clicks import central_click
from i2vpp.evaluation.metrics import jaccard
from i2vpp.evaluation.protocol import bounding_box
from i2vpp.i2vpp_image_predictor import I2VPPImagePredictor
from i2vpp.modeling.i2vpp import I2VPP
from i2vpp.utils.machine import parse_device
from i2vpp.utils.parser import Parser
from training.dataset.clips import AnnotatedVideo
from training.dataset.coco import CocoImages
from training.dataset.file_source import FileSource
from training.dataset.image_mask import ImageMaskPairs

HELD_OUT = Path(__file__).parent / "txt" / "heldout_photos.txt"
SMALLEST = 0.002  # least share of the photo that a scored object covers
MOST_OBJECTS = 5  # objects that are scored of a photo, the largest ones


@dataclass(frozen=True, kw_only=True)
class ImageScores:
    """Mean IoU over objects.

    Args:
        box: given by the tight box.
        point: given by the pixel nearest to the centroid, best of three masks by predicted IoU.
        objects: how many objects were scored.
    """

    box: float
    point: float
    objects: int


def held_out_photos(data: Path) -> list[AnnotatedVideo]:
    """Open the held-out photos of DUTS and COCO128.

    Args:
        data: folder with `more/duts_tr500` and `coco128`.

    Raises:
        NoDataError: a folder is missing.
    """
    names = read_items(HELD_OUT)
    sources: list[FileSource] = [
        ImageMaskPairs(data / "more" / "duts_tr500" / "images", name="duts"),
        CocoImages(data / "coco128" / "images", name="coco128"),
    ]
    return [source[i] for source in sources for i, name in enumerate(source.names) if name in names]


def score_photos(model: I2VPP, photos: Iterable[AnnotatedVideo], *, dtype: torch.dtype = torch.bfloat16) -> ImageScores:
    """Score a network in evaluation mode; its present mode is restored.

    Args:
        model: the network.
        photos: items of one frame with masks; objects that cover less than 0.2 % of a photo are left out.
        dtype: data type of the image encoder's arithmetic.

    Returns:
        Mean IoUs over the largest objects of each photo; NaN where no object is large enough.
    """
    training = model.training
    model.eval()
    predictor = I2VPPImagePredictor(model, dtype=dtype)
    boxes: list[float] = []
    points: list[float] = []
    for photo in photos:
        predictor.set_image(photo.image(0))
        for mask in _objects(photo):
            click = central_click(mask)
            found, _, _ = predictor.predict(box=bounding_box(mask), multimask_output=False)
            boxes.append(jaccard(found[0] > 0, mask))
            found, ious, _ = predictor.predict([(click.x, click.y)], [1])
            points.append(jaccard(found[ious.argmax()] > 0, mask))
    model.train(training)
    mean = {
        name: float(np.mean(values)) if values else math.nan for name, values in (("box", boxes), ("point", points))
    }
    return ImageScores(**mean, objects=len(boxes))


def _objects(photo: AnnotatedVideo) -> Iterator[NDArray[np.bool_]]:
    masks = sorted(photo.masks(0).values(), key=lambda mask: -int(mask.sum()))
    yield from (mask for mask in masks[:MOST_OBJECTS] if mask.mean() >= SMALLEST)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = Parser(prog="python -m training.image_validation", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("checkpoint", help="path or name of a checkpoint")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder with more/duts_tr500 and coco128")
    parser.add_argument("--image-size", type=int, help="side of the input; default: what the checkpoint was trained at")
    parser.add_argument("--override", action="append", default=[], metavar="KEY=VALUE",
                        help="change a value of the model config; may be repeated")  # fmt: skip
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps (default: the best there is)")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16", help="of the image encoder (default: bfloat16)")
    options = parser.parse_args(arguments)
    try:
        size = [f"model.image_size={options.image_size}"] if options.image_size else []
        device = best_device() if options.device == "auto" else parse_device(options.device)
        overrides = [*size, *options.override]
        model = build_i2vpp(None, options.checkpoint, device=device, hydra_overrides_extra=overrides)
        photos = tqdm(held_out_photos(options.data), unit="photo")
        scores = score_photos(model, photos, dtype=DTYPES[options.dtype])
    except I2VPPError as error:
        parser.exit(1, f"error: {error}\n")
    sys.stdout.write(f"{scores.objects} objects: mean IoU of a box {scores.box:.4f}, of a point {scores.point:.4f}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
