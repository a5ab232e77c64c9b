"""Where true and predicted masks lie: the layouts of SA-V and of DAVIS.

sav:   <root>/<video>/<object>/<frame>.png   one binary PNG per object, so objects may overlap
davis: <root>/<video>/<frame>.png            PNGs whose values are object ids (DAVIS, MOSE, YouTube-VOS, LVOS)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from sav_dataset.scoring import Item, PaletteVideo, SavObject
from training.dataset.errors import DataError
from training.dataset.files import list_files, list_folders, require_folder

Layout: TypeAlias = Literal["sav", "davis"]

LAYOUTS: tuple[Layout, ...] = get_args(Layout)
PNG = (".png",)
NAMED = 5  # names in a message


@dataclass(frozen=True, kw_only=True)
class Missing:
    """Predictions that are not there.

    Args:
        videos: left out of the scores.
        objects: names `<video>/<object>` whose folder is missing; scored as empty.
        frames: by `<video>` or `<video>/<object>`, frames that are scored as empty.
    """

    videos: tuple[str, ...] = ()
    objects: tuple[str, ...] = ()
    frames: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.videos or self.objects or self.frames)


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """Ground truth and predictions, put together.

    Args:
        layout: of both.
        items: what is to be scored, in order.
        missing: predictions that are not there.
    """

    layout: Layout
    items: tuple[Item, ...]
    missing: Missing


def find_layout(root: Path, videos: Sequence[str]) -> Layout:
    """Tell the layout of true masks by their folders.

    Raises:
        DataError: there are no PNGs, or those of some videos lie as in SA-V and those of others as in DAVIS.
    """
    first: dict[Layout, str] = {}
    for video in videos:
        if layout := _layout_of(root / video):
            first.setdefault(layout, video)
    if len(first) == 1:
        return next(iter(first))
    if first:
        raise DataError(
            f"{root} mixes two layouts: {first['davis']} holds PNGs, {first['sav']} a folder per object; "
            "name the one to score with --layout"
        )
    raise DataError(f"{root} holds no PNGs <video>/<frame>.png (DAVIS) or <video>/<object>/<frame>.png (SA-V)")


def pair(
    gt_root: Path,
    pred_root: Path,
    *,
    layout: Layout | None = None,
    skip_ends: bool = True,
    merge: bool = False,
    only: Collection[str] | None = None,
) -> Pairing:
    """Put true and predicted masks together.

    Args:
        gt_root: folder of the videos' true masks.
        pred_root: folder of the videos' predicted masks.
        layout: of both; None: found out.
        skip_ends: see `SavObject` and `PaletteVideo`.
        merge: see `PaletteVideo`.
        only: names of the videos that count; None: all of the ground truth.

    Raises:
        DataError: a folder is missing or does not have this layout.
    """
    videos = list_folders(require_folder(gt_root, "true masks"))
    if only is not None:
        if lost := sorted(set(only).difference(videos)):
            raise DataError(f"{gt_root} lacks {len(lost)} of {len(only)} listed videos: {some(lost)}")
        videos = [video for video in videos if video in only]
    layout = layout or find_layout(gt_root, videos)
    if merge and layout == "sav":
        raise DataError("objects can be merged only in the layout of DAVIS (--merge_objects)")
    found = list_folders(require_folder(pred_root, "predictions"))
    there = [video for video in videos if video in found]
    if not there:
        raise DataError(
            f"{pred_root} has none of the {len(videos)} videos of {gt_root} ({some(videos)}); it holds {some(found)}"
        )
    items: list[Item] = []
    for video in there:
        if layout == "sav":
            items += _sav_objects(gt_root / video, pred_root / video, skip_ends)
        else:
            items.append(_palette_video(gt_root / video, pred_root / video, skip_ends, merge))
    absent = [item.name for item in items if layout == "sav" and item.scored_frames and not item.predictions]
    gaps = {item.name: tuple(frame for frame in item.scored_frames if frame not in item.predictions) for item in items}
    missing = Missing(
        videos=tuple(video for video in videos if video not in found),
        objects=tuple(absent),
        frames={name: frames for name, frames in gaps.items() if frames and name not in absent},
    )
    return Pairing(layout=layout, items=tuple(items), missing=missing)


def _sav_objects(truths: Path, preds: Path, skip_ends: bool) -> list[SavObject]:
    names = list_folders(truths)
    if other := [name for name in names if not name.isdecimal()]:
        raise DataError(
            f"folders in {truths} must be named by object ids such as 000, got {other[0]}; "
            f"is {truths.parent} the folder that holds the videos?"
        )
    if not names:
        raise DataError(f"{truths} holds no masks <object>/<frame>.png")
    found = list_folders(preds)
    if not set(names) & set(found) and _layout_of(preds) == "davis":
        raise DataError(_other_layout(preds, "PNGs", f"in {truths} each object has a folder, as in SA-V"))
    return [
        SavObject(
            video=truths.name,
            object=name,
            truths=list_files(truths / name, PNG),
            predictions=list_files(preds / name, PNG) if name in found else {},
            skip_ends=skip_ends,
        )
        for name in names
    ]


def _palette_video(truths: Path, preds: Path, skip_ends: bool, merge: bool) -> PaletteVideo:
    frames, predictions = list_files(truths, PNG), list_files(preds, PNG)
    if not frames:
        raise DataError(f"{truths} holds no masks <frame>.png")
    if not predictions and _layout_of(preds) == "sav":
        raise DataError(_other_layout(preds, "a folder per object", f"{truths} holds PNGs, as in DAVIS"))
    return PaletteVideo(video=truths.name, truths=frames, predictions=predictions, skip_ends=skip_ends, merge=merge)


def _layout_of(video: Path) -> Layout | None:
    if list_files(video, PNG):
        return "davis"
    return "sav" if any(list_files(video / name, PNG) for name in list_folders(video)) else None


def _other_layout(preds: Path, held: str, truths: str) -> str:
    return f"the predictions {preds} hold {held}, but {truths}; write predictions in the layout of the ground truth"


def some(names: Sequence[str]) -> str:
    """Name the first few, for a message."""
    return (", ".join(names[:NAMED]) or "nothing") + (", ..." if len(names) > NAMED else "")
