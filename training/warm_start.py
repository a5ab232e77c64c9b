"""Write a checkpoint that segments as TinySAM or MobileSAM and tracks roughly, before any training.

    python -m training.warm_start mobile_sam.pt --images data/ecssd/images --image-size 512 -o start.pt

The image model's encoder, prompt encoder and mask decoder are loaded; the temporal feature integrator begins as the
identity (`training.model.pass_through`), the memory parts by comparing what looks alike (`training.model.matching`),
for which some images show what features look like. Training goes on from it by `start.checkpoint=start.pt`.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from i2vpp.checkpoint import import_image_model, save_checkpoint
from i2vpp.config import ModelConfig
from i2vpp.data.files import list_images
from i2vpp.errors import I2VPPError, NoDataError
from i2vpp.modeling.i2vpp import I2VPP
from i2vpp.session.frames import normalise
from i2vpp.utils.parser import Parser
from training.model.initialise import initialise
from training.model.matching import begin_as_matching
from training.model.pass_through import begin_as_image_model
from training.utils.disk import writing
from training.utils.network_input import read_frame

MOST_IMAGES = 24


def warm_start(image_model: Path, images: Path, *, image_size: int, seed: int = 0) -> I2VPP:
    """Build a network whose first masks are those of an image model.

    Args:
        image_model: `tinysam.pth` or `mobile_sam.pt`.
        images: folder of images; up to `MOST_IMAGES` are encoded, evenly spaced among them.
        image_size: side of the network's input in pixels.
        seed: of what is drawn.

    Returns:
        The network, in evaluation mode, float32 on the CPU.

    Raises:
        CheckpointError: the image model is missing or unreadable.
        NoDataError: there is no image.
        DataError: an image cannot be read.
    """
    paths = list(list_images(images).values())
    if not paths:
        raise NoDataError(f"no images in {images}; give a folder of image files")
    paths = paths[:: math.ceil(len(paths) / MOST_IMAGES)]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = I2VPP(ModelConfig(image_size=image_size)).eval()
        initialise(model, seed=seed)
        import_image_model(model, image_model)
        begin_as_image_model(model)
        stills = (normalise(read_frame(path, image_size).float())[None, :, None] for path in paths)
        embeddings = [model.encode(still.expand(-1, -1, 3, -1, -1)).embedding for still in stills]
        begin_as_matching(model, torch.cat(embeddings))
    return model


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = Parser(prog="python -m training.warm_start", description=__doc__,
                    formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("image_model", type=Path, help="tinysam.pth or mobile_sam.pt")
    parser.add_argument("--images", type=Path, required=True, help="folder of any photos")
    parser.add_argument("--image-size", type=int, default=512, help="side of the input (default 512)")
    parser.add_argument("-o", "--output", "--out", dest="out", type=Path, required=True, help="checkpoint to write")
    options = parser.parse_args(arguments)
    try:
        model = warm_start(options.image_model, options.images, image_size=options.image_size)
        with writing(options.out, "Make room, or write to another disk"):
            save_checkpoint(model, options.out, image_size=options.image_size)
    except I2VPPError as error:
        parser.exit(1, f"error: {error}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
