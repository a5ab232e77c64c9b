"""Pictures of an evaluation: J and F over time, and the true and predicted masks of the worst objects.

Needs matplotlib, which is in the extra `eval`.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from i2vpp.data.files import check_size, list_images, read_image
from i2vpp.errors import DataError, I2VPPError
from i2vpp.utils.files import atomic_write
from i2vpp.utils.suggest import how_to_install
from i2vpp.utils.visualize import contact_sheet, overlay
from sav_dataset.layouts import pair
from sav_dataset.results import Evaluation
from sav_dataset.rules import Scoring
from sav_dataset.scoring import Item, ObjectResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = {"J": "#2166ac", "F": "#d6604d"}
POINTS = 50
"""Of the curves over all objects, from the first scored frame of an object to its last."""
SHEET_FRAMES, SHEET_COLUMNS = 8, 4


def require_matplotlib() -> Any:
    """Return `matplotlib.figure`, or raise I2VPPError that says how to install it."""
    try:
        return importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise I2VPPError(f"plots need matplotlib: {how_to_install('eval')}") from error


def draw_plots(
    evaluation: Evaluation,
    folder: Path,
    *,
    worst: int = 10,
    videos: Collection[str] | None = None,
    images: Path | None = None,
) -> list[Path]:
    """Draw `over_time.png`, and with images `<rank>_<video>_<object>.png` for each chosen object.

    Args:
        evaluation: its masks are read again for contact sheets.
        folder: gets the pictures.
        worst: so many objects are drawn, the worst first.
        videos: draw all objects of these instead.
        images: folder of the videos' frames, `<images>/<video>/<frame>.jpg`.

    Returns:
        The files that were written.

    Raises:
        DataError: a video was not scored, or a file cannot be used.
    """
    objects = _chosen(evaluation, worst, videos)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "over_time.png"]
    with atomic_write(paths[0]) as file:
        over_time(evaluation.objects, objects).savefig(file, format="png")
    if images is None:
        return paths
    settings = evaluation.settings
    pairing = pair(
        Path(settings["gt_root"]),
        Path(settings["pred_root"]),
        scoring=Scoring(
            rule=settings["rule"], skip_ends=settings["skip_first_and_last_frame"], merge=settings["merge_objects"]
        ),
        layout=settings["layout"],
        only={result.video for result in objects},
    )
    items = {item.name: item for item in pairing.items}
    for rank, result in enumerate(objects, 1):
        item = items.get(result.name) or items[result.video]
        paths.append(folder / f"{rank:03d}_{result.video}_{result.object}.png")
        with atomic_write(paths[-1]) as file:
            draw_sheet(item, result, images / result.video).save(file, format="PNG")
    return paths


def _chosen(evaluation: Evaluation, worst: int, videos: Collection[str] | None) -> list[ObjectResult]:
    if videos is None:
        return evaluation.worst(worst)
    scored = {result.video for result in evaluation.objects}
    if lost := sorted(set(videos) - scored):
        raise DataError(f"cannot plot {', '.join(lost)}: not among the {len(scored)} scored videos")
    return [result for result in evaluation.objects if result.video in videos]


def over_time(everything: Sequence[ObjectResult], chosen: Sequence[ObjectResult], *, columns: int = 2) -> Figure:
    """Plot J and F over time: on top the mean over all objects, below one panel for each chosen object.

    Args:
        everything: results of all objects.
        chosen: results of the objects that get a panel.
        columns: number of panels in a row.

    Returns:
        The figure, a matplotlib `Figure`.

    Raises:
        I2VPPError: matplotlib is not installed.
    """
    rows = 1 + -(-len(chosen) // columns)
    figure: Figure = require_matplotlib().Figure(figsize=(11, 2.2 * rows + 0.6), dpi=110, layout="constrained")
    grid = figure.add_gridspec(rows, columns)
    _plot_mean(figure.add_subplot(grid[0, :]), everything)
    for position, result in enumerate(chosen):
        _plot_object(figure.add_subplot(grid[1 + position // columns, position % columns]), result)
    return figure


def _plot_mean(axes: Axes, objects: Sequence[ObjectResult]) -> None:
    share = np.linspace(0, 1, POINTS)
    for name, color in COLORS.items():
        curves = np.stack([_stretched(r.frame_j if name == "J" else r.frame_f, share) for r in objects])
        mean = curves.mean(axis=0)
        axes.plot(100 * share, mean, color=color, label=f"{name}, mean {mean.mean():.1f}")
        axes.fill_between(100 * share, *np.quantile(curves, (0.25, 0.75), axis=0), color=color, alpha=0.12, linewidth=0)
    axes.set_title(f"all {len(objects)} objects: mean, and the middle half of them", fontsize=10)
    axes.set_xlabel("position between the first and the last scored frame, %", fontsize=9)
    _dress(axes)
    axes.legend(loc="lower left", fontsize=9, frameon=False, ncols=2)


def _stretched(values: Sequence[float], share: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.interp(share, np.linspace(0, 1, len(values)), values)


def _plot_object(axes: Axes, result: ObjectResult) -> None:
    numbered = all(frame.isdecimal() for frame in result.frames)
    x = [int(frame) for frame in result.frames] if numbered else list(range(len(result.frames)))
    marker = "." if len(x) < 3 else ""  # a line needs two points
    axes.plot(x, result.frame_j, color=COLORS["J"], marker=marker)
    axes.plot(x, result.frame_f, color=COLORS["F"], marker=marker, linewidth=1)
    axes.set_title(f"{result.name}: J {result.j:.1f}, F {result.f:.1f}", fontsize=10)
    axes.set_xlabel("frame", fontsize=9)
    _dress(axes)


def _dress(axes: Axes) -> None:
    axes.set_ylim(-2, 102)
    axes.margins(x=0.01)
    axes.tick_params(labelsize=8)
    axes.grid(visible=True, alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def draw_sheet(item: Item, result: ObjectResult, images: Path) -> Image.Image:
    """Draw an object on some frames, from the first to the last scored one: true mask above, prediction below.

    Args:
        item: that the object belongs to.
        result: of the object.
        images: folder of the video's frames.

    Returns:
        The pictures in rows, with their frames and scores below.

    Raises:
        DataError: a frame is missing, or a file cannot be used.
    """
    files = list_images(images)
    chosen = np.unique(np.linspace(0, len(result.frames) - 1, SHEET_FRAMES).round().astype(int)).tolist()
    pictures = [_draw_frame(item, result.object, result.frames[t], images, files) for t in chosen]
    captions = [f"{result.frames[t]}: J {result.frame_j[t]:.0f}, F {result.frame_f[t]:.0f}" for t in chosen]
    return contact_sheet(pictures, SHEET_COLUMNS, captions=captions, cell_width=400)


def _draw_frame(item: Item, obj: str, frame: str, images: Path, files: Mapping[str, Path]) -> NDArray[np.uint8]:
    if frame not in files:
        raise DataError(f"{images} lacks frame {frame}; give the folder of the videos' frames")
    image = read_image(files[frame])
    pred, truth = item.masks(obj, frame)
    height, width = truth.shape
    check_size((height, width), of=f"mask {item.truths[frame]}", image=files[frame], image_size=image.shape[:2])
    colors = (2, 3)  # so that the two can be told apart
    return np.concatenate(
        [overlay(image, mask[None], [color]) for mask, color in zip((truth, pred), colors, strict=True)]
    )
