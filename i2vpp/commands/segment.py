"""`i2vpp segment`: prompted or automatic masks of still images, written as they come."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from i2vpp.commands import prompts as prompt_args
from i2vpp.commands.everything import add_grid_options, build_generator, without_effect
from i2vpp.errors import I2VPPError, PromptError
from i2vpp.model_choice import ModelChoice, build_predictor
from i2vpp.prompts import files as prompt_files
from i2vpp.utils.brief import counted
from i2vpp.utils.suggest import how_to_install

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from i2vpp.data.rle import RunLengths
    from i2vpp.i2vpp_image_predictor import I2VPPImagePredictor
    from i2vpp.prompts.checks import ObjectPrompt

MOST_OBJECTS = 255
"""Objects in a mask PNG of one byte a pixel; of automatic masks, those of the highest predicted IoU are written."""

TEXT = """\
Segment still images: objects that are given by clicks and boxes in pixels of the image, upright as its EXIF orientation
says, or everything that is found (--everything). Prompts apply to every image; objects count from 1.
"""

EXAMPLES = """\
examples:
  i2vpp segment dog.jpg -o outputs/dog --box 90,40,400,360
  i2vpp segment dog.jpg -o outputs/two --point 420,310 --point 600,200,0,2
  i2vpp segment photos/ -o outputs/photos --everything --cutouts --json

written to the output folder, image by image:
  masks/NAME.png        pixel value = object id, with the palette of DAVIS; the stronger object wins an overlap
  overlays/NAME.png     the image with tinted objects
  scores.json           {"NAME": {"image": ..., "size": [H, W], "objects": [{"id", "predicted_iou", "area", "bbox"}]}}
  cutouts/NAME_ID.png   with --cutouts: each object alone, cut to its bbox, transparent around it
  rle/NAME.json         with --json: {"size": [H, W], "objects": {"1": {"size": [H, W], "counts": "..."}}}, COCO RLE
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what only this command has."""
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="image file, folder of images, or URL")
    parser.add_argument("-o", "--output", metavar="OUT", type=Path, required=True, help="folder for the results")
    parser.add_argument("--overwrite", action="store_true", help="write into a folder that is not empty")
    what = parser.add_argument_group("what to segment")
    for option, parse, form, text in (
        ("--point", prompt_args.positive_point, prompt_args.POINT_FORM, "a click on the object; the frame is 0"),
        ("--negative", prompt_args.negative_point, prompt_args.POINT_FORM, "a click beside the object"),
        ("--box", prompt_args.box, prompt_args.BOX_FORM, "a box around the object"),
    ):
        what.add_argument(option, metavar=form, type=parse, action="append", default=[], help=text)
    what.add_argument("--prompts", metavar="FILE.json", type=Path, help="a file of prompts, as of `i2vpp track`")
    what.add_argument("--everything", action="store_true", help="find masks without prompts")
    outputs = parser.add_argument_group("what to write")
    switch = argparse.BooleanOptionalAction
    outputs.add_argument("--masks", action=switch, default=True, help="indexed PNGs (on)")
    outputs.add_argument("--overlay", action=switch, default=True, help="pictures of tinted objects (on)")
    outputs.add_argument("--cutouts", action="store_true", help="objects alone, as PNGs with alpha")
    outputs.add_argument("--json", action="store_true", help=f"COCO RLE; needs {how_to_install('coco')}")
    found = parser.add_argument_group("with --everything")
    add_grid_options(found)


def read_prompts(arguments: argparse.Namespace) -> list[ObjectPrompt]:
    """Return the prompts of the options, one of each object; none with `--everything`.

    Raises:
        PromptError: a prompt is of another frame than 0, or a mask.
    """
    given = [*arguments.point, *arguments.negative, *arguments.box]
    if arguments.prompts is not None:
        given += prompt_files.read_prompts_file(arguments.prompts)
    if arguments.everything == bool(given):
        arguments.usage_error("say what to segment: either --everything, or --point, --box or --prompts")
    if (wrong := without_effect(arguments)) is not None:
        arguments.usage_error(wrong)
    for prompt in given:
        if prompt.frame_idx:
            raise PromptError(f"frame must be 0 for an image; got {prompt.frame_idx}")
        if prompt.mask is not None:
            raise PromptError(f"a mask is no prompt of an image; object {prompt.obj_id} has one")
        if prompt.obj_id > MOST_OBJECTS:
            raise PromptError(f"object must be at most {MOST_OBJECTS} in a mask PNG; got {prompt.obj_id}")
    return prompt_args.merge(given)


def list_images(images: Sequence[str]) -> dict[str, str]:
    """Return the images by name: those that are named, and those in folders that are named.

    Raises:
        I2VPPError: a folder holds no image, or two images have one name.
    """
    from i2vpp.data.frame_folders import list_frames  # noqa: PLC0415 - Pillow, which `i2vpp --help` does not wait for

    found: dict[str, str] = {}
    for image in images:
        inside = {Path(image).stem: image}
        if Path(image).is_dir():
            inside = {name: str(path) for name, path in list_frames(Path(image)).items()}
            if not inside:
                raise I2VPPError(f"folder {image} holds no image")
        for name, path in inside.items():
            if found.setdefault(name, path) != path:
                raise I2VPPError(f"{found[name]} and {path} have one name, so their results would be one file")
    return found


def run(arguments: argparse.Namespace, choice: ModelChoice, prompts: Sequence[ObjectPrompt]) -> int:
    """Segment the images and return the exit status: 1 if one could not be segmented; the others are written.

    Args:
        arguments: the options of `add_options`.
        choice: the network.
        prompts: what to segment; nothing for everything.
    """
    from tqdm import tqdm  # noqa: PLC0415 - keeps `i2vpp --help` instant

    from i2vpp.execution.compilation import CompiledRunner  # noqa: PLC0415 - PyTorch takes seconds to import
    from i2vpp.execution.runner import Runner  # noqa: PLC0415
    from i2vpp.i2vpp_image_predictor import I2VPPImagePredictor  # noqa: PLC0415
    from i2vpp.utils.files import atomic_write  # noqa: PLC0415
    from i2vpp.utils.result_files import require_coco  # noqa: PLC0415

    images = list_images(arguments.images)
    if arguments.json:
        require_coco()
    network = build_predictor(choice)
    runner = CompiledRunner if choice.compile else Runner
    predictor = I2VPPImagePredictor(network, runner=runner)
    scores: dict[str, Any] = {}
    failed = 0
    arguments.output.mkdir(parents=True, exist_ok=True)
    for name, image in tqdm(images.items(), unit="image", disable=arguments.quiet or len(images) == 1):
        try:
            scores[name] = {"image": image, **_segment(predictor, name, image, prompts, arguments)}
        except I2VPPError as error:
            failed += 1
            tqdm.write(f"i2vpp: {image}: {error}", file=sys.stderr)
        if scores:  # where no image could be read, the folder stays empty, and the corrected command can use it
            with atomic_write(arguments.output / "scores.json", "w") as file:
                json.dump(scores, file, indent=1)
    objects = sum(len(entry["objects"]) for entry in scores.values())
    print(f"wrote {counted(len(scores), 'image')} with {counted(objects, 'object')} to {arguments.output}")
    return 1 if failed else 0


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageObject:
    """An object on an image.

    Args:
        entry: what scores.json says of it.
        runs: its mask, overlaps included.
    """

    entry: dict[str, Any]
    runs: RunLengths

    @property
    def obj_id(self) -> int:
        """Its id."""
        return int(self.entry["id"])


def _segment(
    predictor: I2VPPImagePredictor,
    name: str,
    image: str,
    prompts: Sequence[ObjectPrompt],
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    """Write the chosen files of an image and return its entry in scores.json."""
    from PIL import Image  # noqa: PLC0415 - see `run`

    from i2vpp.session.images import open_image  # noqa: PLC0415
    from i2vpp.utils.result_files import write_png  # noqa: PLC0415
    from i2vpp.utils.visualize import davis_palette, draw_prompt, overlay  # noqa: PLC0415

    out = arguments.output
    pixels = open_image(image)
    if prompts:
        ids, objects = _prompted(predictor, pixels, prompts)
    else:
        ids, objects = _everything(predictor, pixels, arguments)
    if arguments.masks:
        indexed = Image.fromarray(ids)
        indexed.putpalette(davis_palette())
        write_png(_made(out / "masks") / f"{name}.png", indexed)
    if arguments.overlay:
        picture = overlay(pixels, ids, [one.obj_id for one in objects], labels=bool(prompts))
        for prompt in prompts:
            picture = draw_prompt(picture, prompt.points, prompt.labels, prompt.box)
        write_png(_made(out / "overlays") / f"{name}.png", Image.fromarray(picture))
    if arguments.cutouts:
        for one in objects:
            if one.runs.area:
                write_png(_made(out / "cutouts") / f"{name}_{one.obj_id}.png", _cut_out(pixels, one))
    if arguments.json:
        _write_rle(_made(out / "rle") / f"{name}.json", objects, ids.shape)
    return {"size": list(ids.shape), "objects": [one.entry for one in objects]}


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


def _cut_out(pixels: NDArray[np.uint8], one: ImageObject) -> Image.Image:
    """Return an object alone, transparent around it, at the size of its box."""
    from i2vpp.utils.visualize import cut_out  # noqa: PLC0415 - see `run`

    x, y, width, height = one.entry["bbox"]
    return cut_out(pixels, one.runs.decode()).crop((x, y, x + width, y + height))


def _write_rle(path: Path, objects: Sequence[ImageObject], size: tuple[int, ...]) -> None:
    """Write the masks of an image as COCO RLE."""
    from i2vpp.utils.files import atomic_write  # noqa: PLC0415 - see `run`
    from i2vpp.utils.result_files import require_coco  # noqa: PLC0415

    coco = require_coco()
    masks = {}
    for one in objects:
        rle = coco.frPyObjects({"size": list(size), "counts": one.runs.lengths.tolist()}, *size)
        masks[str(one.obj_id)] = {"size": list(size), "counts": rle["counts"].decode("ascii")}
    with atomic_write(path, "w") as file:
        json.dump({"size": list(size), "objects": masks}, file)


def _prompted(
    predictor: I2VPPImagePredictor, pixels: NDArray[np.uint8], prompts: Sequence[ObjectPrompt]
) -> tuple[NDArray[np.uint8], list[ImageObject]]:
    """Return the map of object ids [H, W], and the objects; the higher logit wins an overlap."""
    import numpy as np  # noqa: PLC0415 - see `run`

    from i2vpp.data.rle import RunLengths  # noqa: PLC0415

    predictor.set_image(pixels)
    highest = np.zeros(pixels.shape[:2], np.float32)
    ids = np.zeros(pixels.shape[:2], np.uint8)
    objects = []
    for prompt in prompts:
        logits, ious, _ = predictor.predict(
            prompt.points or None,
            prompt.labels or None,
            prompt.box,
            multimask_output=len(prompt.points) == 1 and prompt.box is None,
            return_logits=True,
        )
        best = int(ious.argmax())
        ids[logits[best] > highest] = prompt.obj_id
        highest = np.maximum(highest, logits[best])
        mask = logits[best] > 0
        entry = _entry(prompt.obj_id, float(ious[best]), mask)
        objects.append(ImageObject(entry=entry, runs=RunLengths.encode(mask)))
    return ids, objects


def _entry(obj_id: int, iou: float, mask: NDArray[np.bool_]) -> dict[str, Any]:
    from i2vpp.automatic_mask_generator import box_around  # noqa: PLC0415 - see `run`

    x0, y0, x1, y1 = box_around(mask) if mask.any() else (0, 0, 0, 0)
    return {"id": obj_id, "predicted_iou": iou, "area": int(mask.sum()), "bbox": [x0, y0, x1 - x0, y1 - y0]}


def _everything(
    predictor: I2VPPImagePredictor, pixels: NDArray[np.uint8], arguments: argparse.Namespace
) -> tuple[NDArray[np.uint8], list[ImageObject]]:
    """Return the map of object ids [H, W], smaller objects over larger ones, and the objects."""
    import numpy as np  # noqa: PLC0415 - see `run`

    from i2vpp.data.rle import parse_segmentation  # noqa: PLC0415

    generator = build_generator(predictor, arguments, output_mode="uncompressed_rle")
    records = sorted(generator.generate(pixels)[:MOST_OBJECTS], key=lambda record: -record["area"])
    size = (pixels.shape[0], pixels.shape[1])
    ids = np.zeros(size, np.uint8)
    objects = []
    for obj_id, record in enumerate(records, 1):
        runs = parse_segmentation(record.pop("segmentation"), size=size, where="a mask")
        ids[runs.decode()] = obj_id
        objects.append(ImageObject(entry={"id": obj_id, **record}, runs=runs))
    return ids, objects
