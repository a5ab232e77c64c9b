#!/usr/bin/env python3
"""Make the gallery of the documentation: docs/gallery.md, and its pictures in docs/gallery/, from the bundled clip.

    python tools/make_gallery.py                    # everything; two minutes of a CPU core
    python tools/make_gallery.py --only boxes       # one picture, and the page
    python tools/make_gallery.py --page             # the page alone

The page shows the code that is executed here: an example is the text of its code or command, and a few lines that lay
out a picture of what it made.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the i2vpp of this clone, whatever is installed

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from i2vpp.cli import main as run_i2vpp
from i2vpp.utils.files import atomic_write
from i2vpp.utils.parser import Parser
from i2vpp.utils.visualize import contact_sheet

REPO = Path(__file__).resolve().parent.parent
PAGE = REPO / "docs" / "gallery.md"
PICTURES = PAGE.with_suffix("")
WIDTH = 720
"""Width of the pictures in pixels."""

JPEG_QUALITY = 70
COMMAND_WIDTH = 96
"""Commands are broken after so many characters on the page."""


INTRODUCTION = """\
# Gallery

All pictures are of the bundled clip and of `i2vpp-demo`, the small checkpoint that comes with the repository, its
mistakes included. Above each picture is the code or the command that made it, run in a clone in this order; `python
tools/make_gallery.py` makes this page. It begins with the frames of the clip, one of which becomes a file:

```python
{setup}
```
"""

SETUP = """\
from pathlib import Path

import av

with av.open("i2vpp/assets/bunny.mp4") as clip:
    frames = [frame.to_image() for frame in clip.decode(video=0)]

image = frames[121]
Path("outputs/gallery").mkdir(parents=True, exist_ok=True)
image.save("outputs/gallery/rabbit.png")"""


@dataclass(frozen=True, kw_only=True)
class Example:
    """A picture of the gallery, and what made it.

    Args:
        name: name of the picture's file, without suffix.
        title: heading on the page.
        text: what is to be seen.
        command: a command line of `i2vpp`; empty where there is none.
        code: Python that the page shows; empty where there is a command.
        layout: Python that sets `picture`, run after the others; empty where `code` sets it.
    """

    name: str
    title: str
    text: str
    command: str = ""
    code: str = ""
    layout: str = ""


EXAMPLES = (
    Example(
        name="candidates",
        title="An image, one click, three masks",
        text="A click may mean a thing or a part of it: there are three masks, with the IoU that the network predicts.",
        code="""\
import numpy as np

from i2vpp import build_i2vpp_image_predictor
from i2vpp.utils.visualize import contact_sheet, draw_prompt, overlay

predictor = build_i2vpp_image_predictor(ckpt_path="i2vpp-demo")
predictor.set_image(image)
masks, scores, _ = predictor.predict(point_coords=[[205, 190]], point_labels=[1])

clicked = draw_prompt(np.array(image), [(205, 190)], [1])
captions = [f"predicted IoU {score:.2f}" for score in scores]
picture = contact_sheet([overlay(clicked, mask[None], [1]) for mask in masks], 3, captions=captions)""",
    ),
    Example(
        name="boxes",
        title="An image, several boxes",
        text="Boxes, as a detector gives them, are decoded together.",
        code="""\
boxes = np.array([[95, 30, 290, 310], [40, 225, 150, 300], [398, 158, 572, 220]])
result = predictor.predict(box=boxes, multimask_output=False)

picture = result.plot(image)""",
    ),
    Example(
        name="cutouts",
        title="Cut-outs",
        text="Objects alone, as PNGs that are transparent around them. Here a checkerboard shows through.",
        command="i2vpp segment outputs/gallery/rabbit.png -o outputs/gallery/cutouts --overwrite "
        "--box 95,30,290,310 --box 398,158,572,220,0,2 --cutouts",
        layout="""\
cutouts = sorted(Path("outputs/gallery/cutouts/cutouts").glob("*.png"))
picture = contact_sheet([on_checkerboard(Image.open(path)) for path in cutouts], 2)""",
    ),
    Example(
        name="everything",
        title="Automatic masks",
        text="Everything that is found on an image without a prompt.",
        command="i2vpp segment outputs/gallery/rabbit.png -o outputs/gallery/everything --overwrite --everything "
        "--points-per-side 12 --iou-threshold 0.5 --stability-threshold 0.5",
        layout='picture = Image.open("outputs/gallery/everything/overlays/rabbit.png")',
    ),
    Example(
        name="objects",
        title="A video, several objects",
        text="Boxes and clicks on the first frame; four frames of `overlay.mp4`.",
        command="i2vpp track i2vpp/assets/bunny.mp4 -o outputs/gallery/objects --overwrite "
        "--box 118,127,262,280 --negative 240,165 --box 30,186,121,268,0,2 --point 72,228,0,2 --negative 88,165,0,2 "
        "--max-frames 9",
        layout="""\
with av.open("outputs/gallery/objects/overlay.mp4") as video:
    tracked = [frame.to_image() for frame in video.decode(video=0)]
shown = (0, 3, 6, 9)
picture = contact_sheet([tracked[i] for i in shown], 2, captions=[f"frame {i}" for i in shown])""",
    ),
    Example(
        name="masks",
        title="Masks as files",
        text="The same command writes index masks with the palette of DAVIS: pixels hold the number of the object.",
        code="""\
from PIL import Image

picture = Image.open("outputs/gallery/objects/masks/00009.png")""",
    ),
    Example(
        name="correction",
        title="A video, corrected",
        text="Every eleventh frame of the clip. The arm is missing; a click brings it back, also on the next frame.",
        code="""\
from i2vpp import build_i2vpp_video_predictor

predictor = build_i2vpp_video_predictor(ckpt_path="i2vpp-demo")
chosen = frames[0:44:11]
with predictor.init_state(chosen) as state:
    predictor.add_new_points_or_box(state, frame_idx=0, obj_id=1, box=(118, 127, 262, 280))
    before = list(predictor.propagate_in_video(state, progress=False))
    predictor.add_new_points_or_box(state, frame_idx=2, obj_id=1, points=[(120, 140)], labels=[1])
    after = list(predictor.propagate_in_video(state, start_frame_idx=2, progress=False))

pictures = [result.plot(chosen[result.frame_idx]) for result in (*before[2:], *after)]
picture = contact_sheet(pictures, 2, captions=["before", "before", "the click", "the next frame"])""",
    ),
    Example(
        name="alpha",
        title="A video with alpha",
        text="`--alpha` writes PNGs, `--alpha webm` and `--alpha mov` videos that are transparent around the objects.",
        command="i2vpp track i2vpp/assets/bunny.mp4 -o outputs/gallery/alpha --overwrite --alpha "
        "--box 118,127,262,280 --negative 240,165 --max-frames 5 --no-overlay",
        layout="""\
cutouts = sorted(Path("outputs/gallery/alpha/cutouts").glob("*.png"))[::5]
picture = contact_sheet([on_checkerboard(Image.open(path)) for path in cutouts], 2)""",
    ),
)


def on_checkerboard(cutout: Image.Image) -> Image.Image:
    """Return an RGBA picture over grey squares, as RGB."""
    rows, columns = np.indices((cutout.height, cutout.width)) // 12
    grey: NDArray[np.uint8] = np.where((rows + columns) % 2, 205, 245).astype(np.uint8)
    board = Image.fromarray(np.dstack([grey] * 3)).convert("RGBA")
    board.alpha_composite(cutout.convert("RGBA"))
    return board.convert("RGB")


def render(examples: Sequence[Example] = EXAMPLES) -> str:
    """Return the text of the page."""
    sections = [INTRODUCTION.format(setup=SETUP)]
    for example in examples:
        together = re.sub(r"(--\S+) (?!-)", "\\1\0", example.command)  # an option stays with its value
        lines = textwrap.wrap(together, COMMAND_WIDTH, break_on_hyphens=False)
        command = " \\\n    ".join(lines).replace("\0", " ")
        shown = f"```sh\n{command}\n```" if lines else f"```python\n{example.code}\n```"
        sections.append(
            f"## {example.title}\n\n{example.text}\n\n{shown}\n\n![{example.title}](gallery/{example.name}.jpg)\n"
        )
    return "\n".join(sections)


def make_picture(example: Example, names: dict[str, Any]) -> Image.Image:
    """Run an example in the folder of the clone.

    Args:
        example: to be run.
        names: variables of the examples before it, which its code adds to.

    Returns:
        The picture, RGB.

    Raises:
        RuntimeError: its command failed, with what it printed.
    """
    if example.command and (status := run_i2vpp([*shlex.split(example.command)[1:], "--quiet"])):
        raise RuntimeError(f"exit status {status}: {example.command}")
    exec(compile(example.code, example.name, "exec"), names)
    inside = {"av": av, "contact_sheet": contact_sheet, "Image": Image, "on_checkerboard": on_checkerboard, **names}
    exec(compile(example.layout, f"layout of {example.name}", "exec"), inside)
    picture: Image.Image = inside["picture"]
    return picture.convert("RGB")


def start() -> dict[str, Any]:
    """Return the variables that examples begin with, in the folder of the clone."""
    os.chdir(REPO)
    names: dict[str, Any] = {}
    exec(compile(SETUP, "setup", "exec"), names)
    return names


def save(pictures: Mapping[str, Image.Image]) -> None:
    """Write pictures by name, at the gallery's size."""
    for name, picture in pictures.items():
        height = round(picture.height * WIDTH / picture.width)
        small = picture.resize((WIDTH, height), Image.Resampling.LANCZOS)
        with atomic_write(PICTURES / f"{name}.jpg") as file:
            small.save(file, "JPEG", quality=JPEG_QUALITY, optimize=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = Parser(prog="python tools/make_gallery.py", description=__doc__,
                    formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--only", choices=[example.name for example in EXAMPLES], action="append",
                        help="write this picture only; may be repeated")  # fmt: skip
    parser.add_argument("--page", action="store_true", help="write the page only")
    options = parser.parse_args(arguments)
    with atomic_write(PAGE, "w") as file:
        file.write(render())
    if options.page:
        return 0
    names = start()
    for example in EXAMPLES:
        picture = make_picture(example, names)
        if not options.only or example.name in options.only:
            save({example.name: picture})
            print(PICTURES / f"{example.name}.jpg", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
