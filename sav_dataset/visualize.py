#!/usr/bin/env python3
"""Show the annotations of an SA-V video: an overlay video of all annotated frames and a contact sheet.

    python -m sav_dataset.visualize data/sav_train/sav_000/sav_000001.mp4 --manual
    python -m sav_dataset.visualize data/sav_test/JPEGImages_24fps/sav_000262

The annotations are JSON beside the video (training set), or PNG masks in `Annotations_6fps` (validation and test sets);
`--annotations` names another place. Writes `overlay.mp4`, at 6 frames per second, and `sheet.png`.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from i2vpp.errors import DataError, I2VPPError
from i2vpp.utils.files import atomic_write
from i2vpp.utils.overlay_video import OverlayWriter
from i2vpp.utils.parser import Parser, integer
from i2vpp.utils.visualize import contact_sheet, overlay
from sav_dataset.layouts import ANNOTATIONS
from sav_dataset.png_video import PngVideo
from training.dataset.sav import FIRST_ID, STEP, SavVideo

FPS = 6
CELL_AREA = 360 * 270
"""Pixels of a picture of the contact sheet, whatever its shape."""
SHEET_WIDTH = 1500


def open_video(video: Path, annotations: Path | None, kinds: Sequence[str]) -> SavVideo | PngVideo:
    """Open a video with its annotations.

    Args:
        video: mp4 file or folder of frames.
        annotations: JSON file, folder of JSON files or folder of PNG masks; None: where SA-V has them.
        kinds: which of a video's JSON files are wanted, "manual", "auto" or both.

    Returns:
        The video; its frames and masks are read when they are asked for.

    Raises:
        DataError: there are no annotations, or they cannot be used.
    """
    if not video.exists():
        raise DataError(f"{video} does not exist; give an mp4 file or a folder of frames")
    if annotations is not None and annotations.is_file():
        return SavVideo(video.stem, video, [annotations])
    name = video.name.removesuffix(".mp4")
    folders = [annotations] if annotations is not None else [video.parent]
    if annotations is None and video.parent.parent.is_dir():
        folders.append(video.parent.parent / ANNOTATIONS)
    for folder in folders:
        if files := [path for kind in kinds if (path := folder / f"{name}_{kind}.json").is_file()]:
            return SavVideo(name, video, files)
        for masks in (folder / name, folder):
            if masks != video and any(masks.glob("[0-9]*/*.png")):
                return PngVideo(name, video, masks)
    wanted = ", ".join(f"{name}_{kind}.json" for kind in kinds)
    raise DataError(
        f"no annotations of {video}: neither {wanted} nor <object>/00000.png in {' or '.join(map(str, folders))}; "
        "name their file or folder with --annotations"
    )


def choose_objects(video: SavVideo | PngVideo, wanted: Collection[int] | None) -> list[int]:
    """Return the objects to draw.

    Args:
        video: that shows them.
        wanted: ids of objects; None stands for all.

    Returns:
        Ids of objects, in order.

    Raises:
        DataError: the video has no object, or not the wanted ones.
    """
    there = video.obj_ids
    missing = sorted(set(wanted or ()).difference(there))
    if missing or not there:
        raise DataError(
            f"{video.name} has no object {', '.join(map(str, missing))}; it has {', '.join(map(str, there)) or 'none'}"
        )
    return there if wanted is None else sorted(wanted)


def draw(video: SavVideo | PngVideo, t: int, obj_ids: Collection[int]) -> NDArray[np.uint8]:
    """Draw objects on an annotated frame; small ones over large ones, so that all can be seen.

    Args:
        video: that shows them.
        t: index among the annotated frames.
        obj_ids: the objects to draw.

    Returns:
        The picture, RGB uint8 [H, W, 3].
    """
    image = video.image(t)
    masks = {obj_id: mask for obj_id, mask in video.masks(t).items() if obj_id in obj_ids}
    if not masks:
        return image
    order = sorted(masks, key=lambda obj_id: -np.count_nonzero(masks[obj_id]))
    return overlay(image, np.stack([masks[obj_id] for obj_id in order]), order, labels=True)


def visualize(
    video: SavVideo | PngVideo, output: Path, *, obj_ids: Collection[int], num_pictures: int = 12
) -> list[Path]:
    """Write an overlay video and a contact sheet.

    Args:
        video: to be drawn.
        output: folder of the two files; it is made if need be.
        obj_ids: the objects to draw.
        num_pictures: number of frames on the contact sheet, at most.

    Returns:
        The paths of the two files.

    Raises:
        OSError: a file cannot be written.
    """
    output.mkdir(parents=True, exist_ok=True)
    on_sheet = set(np.linspace(0, len(video) - 1, min(num_pictures, len(video))).round().astype(int).tolist())
    pictures, captions = [], []
    paths = [output / "overlay.mp4", output / "sheet.png"]
    writer = OverlayWriter(paths[0], FPS)
    try:
        for t in tqdm(range(len(video)), unit="frame", disable=None):
            picture = draw(video, t, obj_ids)
            writer.add(picture)
            if t in on_sheet:
                pictures.append(picture)
                captions.append(f"frame {_frame_number(video, t)}")
    finally:
        writer.close()
    height, width = pictures[0].shape[:2]
    cell_width = max(120, round((CELL_AREA * width / height) ** 0.5))
    columns = max(1, SHEET_WIDTH // cell_width)
    with atomic_write(paths[1]) as file:
        contact_sheet(pictures, columns, captions=captions, cell_width=cell_width).save(file, format="PNG")
    return paths


def _frame_number(video: SavVideo | PngVideo, t: int) -> int:
    return int(video.frame_name(t)) if isinstance(video, PngVideo) else STEP * t


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = Parser(prog="python -m sav_dataset.visualize", description="Show the annotations of an SA-V video.")
    parser.add_argument("video", type=Path, help="mp4 file or folder of frames")
    parser.add_argument("--annotations", type=Path, help="JSON file, or folder of JSON files or of PNG masks")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--manual", action="store_true", help="only <video>_manual.json (default: both)")
    kind.add_argument("--auto", action="store_true", help="only <video>_auto.json")
    ids = f"{FIRST_ID['manual']}, ... are manual, {FIRST_ID['auto']}, ... automatic"
    parser.add_argument("--objects", type=int, nargs="+", metavar="ID", help=f"only these: {ids}")
    parser.add_argument("--pictures", type=integer(1), default=12, metavar="N",
                        help="frames on the contact sheet (%(default)s)")  # fmt: skip
    parser.add_argument("-o", "--output", type=Path, help="folder (default: outputs/sav/<video>)")
    args = parser.parse_args(arguments)
    kinds = ["manual"] if args.manual else ["auto"] if args.auto else list(FIRST_ID)
    try:
        video = open_video(args.video, args.annotations, kinds)
        obj_ids = choose_objects(video, args.objects)
        output = args.output or Path("outputs") / "sav" / video.name
        paths = visualize(video, output, obj_ids=obj_ids, num_pictures=args.pictures)
    except (I2VPPError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{len(video)} annotated frames, {len(obj_ids)} objects: {', '.join(map(str, paths))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
