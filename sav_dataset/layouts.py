"""Where true and predicted masks lie: the layouts of SA-V and of DAVIS.

sav:   <root>/<video>/<object>/<frame>.png   one binary PNG per object, so objects may overlap
davis: <root>/<video>/<frame>.png            PNGs whose values are object ids (DAVIS, MOSE, YouTube-VOS, LVOS)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from i2vpp.data.files import list_files, list_folders, require_folder
from i2vpp.data.frame_folders import IMAGE_SUFFIXES, natural_key
from i2vpp.errors import DataError
from sav_dataset.names import match_names, same_names, some
from sav_dataset.rules import Scoring
from sav_dataset.scoring import Item, PaletteItem, SavItem

Layout: TypeAlias = Literal["sav", "davis"]

LAYOUTS: tuple[Layout, ...] = get_args(Layout)
PNG = (".png",)
ANNOTATIONS = "Annotations_6fps"
"""Name of the folder of true masks in SA-V's validation and test sets."""

OTHER_FORMATS = {*IMAGE_SUFFIXES, ".tif", ".tiff", ".gif", ".npy", ".npz"}.difference(PNG)
"""In which predictions may have been written by mistake."""


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
        remarks: what should be known of how predictions were found.
    """

    layout: Layout
    items: tuple[Item, ...]
    missing: Missing
    remarks: tuple[str, ...] = ()


def find_layout(root: Path, videos: Sequence[str]) -> Layout:
    """Find out the layout of true masks.

    Args:
        root: folder of the videos' true masks.
        videos: names of the videos to look at.

    Returns:
        The layout of all videos that hold PNGs.

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
    scoring: Scoring,
    layout: Layout | None = None,
    only: Collection[str] | None = None,
) -> Pairing:
    """Put true and predicted masks together.

    Args:
        gt_root: folder of the videos' true masks.
        pred_root: folder of the videos' predicted masks.
        scoring: which frames count, and whether objects are merged.
        layout: of both; None: found out.
        only: names of the videos that count; None: all of the ground truth.

    Returns:
        What is to be scored, and which predictions are missing.

    Raises:
        DataError: a folder is missing or does not have this layout, or predictions do not have the true masks' names.
    """
    videos = list_folders(require_folder(gt_root, "true masks"))
    if only is not None:
        if lost := sorted(set(only).difference(videos)):
            raise DataError(f"{gt_root} lacks {len(lost)} of {len(only)} listed videos: {some(lost)}")
        videos = [video for video in videos if video in only]
    layout = layout or find_layout(gt_root, videos)
    if scoring.merge and layout == "sav":
        raise DataError("objects can be merged only in the layout of DAVIS (--merge-objects)")
    found = list_folders(require_folder(pred_root, "predictions"))
    there = same_names(videos, found, pred_root)
    if not there:
        raise DataError(
            f"{pred_root} has none of the {len(videos)} videos of {gt_root} ({some(videos)}); it holds {some(found)}"
        )
    if any(named != video for video, named in there.items()):
        match_names(videos, found, what="videos", where=pred_root)  # refuses numbers that begin later
    finder = _Finder(pred_root=pred_root, scoring=scoring)
    finder.note(there, pred_root)
    items: list[Item] = []
    for video, named in there.items():
        if layout == "sav":
            items += finder.sav_objects(gt_root / video, pred_root / named)
        else:
            items.append(finder.palette_video(gt_root / video, pred_root / named))
    scored = {item.name: item.scored_frames for item in items}
    if any(scored.values()) and not any(frame in item.predictions for item in items for frame in scored[item.name]):
        raise DataError(f"{pred_root} has no prediction of any of the {sum(map(len, scored.values()))} scored frames")
    absent = [item.name for item in items if layout == "sav" and scored[item.name] and not item.predictions]
    gaps = {item.name: tuple(f for f in scored[item.name] if f not in item.predictions) for item in items}
    missing = Missing(
        videos=tuple(video for video in videos if video not in there),
        objects=tuple(absent),
        frames={name: frames for name, frames in gaps.items() if frames and name not in absent},
    )
    return Pairing(layout=layout, items=tuple(items), missing=missing, remarks=finder.remarks())


@dataclass(frozen=True, kw_only=True)
class _Finder:
    """Finds the predictions of videos, and collects those that have other names than the true masks.

    Args:
        pred_root: folder of the videos' predicted masks.
        scoring: which frames count, and whether objects are merged.
        renamed: predictions that were found by their number, with the name that was looked for.
        late: folders of predictions that may be numbered from 1; see `Match`.
    """

    pred_root: Path
    scoring: Scoring
    renamed: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)

    def sav_objects(self, truths: Path, preds: Path) -> list[SavItem]:
        """Find the objects of a video in the layout of SA-V."""
        names = list_folders(truths)
        if other := [name for name in names if not name.isdecimal()]:
            raise DataError(
                f"folders in {truths} must be named by object ids such as 000, got {other[0]}; "
                f"is {truths.parent} the folder that holds the videos?"
            )
        if not names:
            raise DataError(f"{truths} holds no masks <object>/<frame>.png")
        found = list_folders(preds)
        if _layout_of(preds) == "davis" and not same_names(names, found, preds):
            raise DataError(_other_layout(preds, "PNGs", f"in {truths} each object has a folder, as in SA-V"))
        match = match_names(names, found, what="objects", where=preds)
        self.note(match.found, preds)
        frames = {name: list_files(truths / name, PNG) for name in names}
        return [
            SavItem(
                video=truths.name,
                object=name,
                truths=frames[name],
                predictions=self._predictions(frames[name], preds / match.found[name]) if name in match.found else {},
                scoring=self.scoring,
            )
            for name in names
        ]

    def palette_video(self, truths: Path, preds: Path) -> PaletteItem:
        """Find the masks of a video in the layout of DAVIS."""
        frames = list_files(truths, PNG)
        if not frames:
            raise DataError(f"{truths} holds no masks <frame>.png")
        if _layout_of(preds) == "sav":
            raise DataError(_other_layout(preds, "a folder per object", f"{truths} holds PNGs, as in DAVIS"))
        return PaletteItem(
            video=truths.name, truths=frames, predictions=self._predictions(frames, preds), scoring=self.scoring
        )

    def _predictions(self, truths: Mapping[str, Path], folder: Path) -> dict[str, Path]:
        """Find the predicted masks of the annotated frames in a folder."""
        files = list_files(folder, PNG)
        match = match_names(list(truths), files, what="frames", where=folder)
        _check_format([name for name in truths if name not in match.found], files, folder)
        self.note(match.found, folder)
        if match.late:
            self.late.append(f"{folder.relative_to(self.pred_root)} ({match.late})")
        return {frame: files[name] for frame, name in match.found.items()}

    def note(self, found: Mapping[str, str], folder: Path) -> None:
        """Collect the predictions of a folder that have other names than the true masks, by which `found` has them."""
        where = folder.relative_to(self.pred_root)
        self.renamed.extend(f"{where / pred} for {truth}" for truth, pred in found.items() if pred != truth)

    def remarks(self) -> tuple[str, ...]:
        """Say how predictions were found."""
        found = []
        if self.renamed:
            found.append(f"{len(self.renamed)} predictions have other names and were matched: {some(self.renamed)}")
        if self.late:
            found.append(
                f"predictions in {len(self.late)} folders lack the first annotated frame and have the next one: "
                f"{some(self.late)}; should they be numbered from 1, number them like the true masks"
            )
        return tuple(found)


def _check_format(missing: Sequence[str], files: Collection[str], folder: Path) -> None:
    """Raise DataError if the predictions that are missing in a folder seem to be there in another format than PNG."""
    if not missing:
        return
    others = {path.stem: path.name for path in folder.iterdir() if path.suffix.lower() in OTHER_FORMATS}
    if not others.keys().isdisjoint(files):
        return  # frames or overlays beside the masks
    if others and (not files or same_names(missing, others, folder)):
        example = min(others.values(), key=natural_key)
        raise DataError(
            f"{folder} lacks the masks of {len(missing)} frames, but holds files that are no PNGs, such as {example}; "
            "write predictions as PNG, because other formats change or hide the values"
        )


def _layout_of(video: Path) -> Layout | None:
    if list_files(video, PNG):
        return "davis"
    return "sav" if any(list_files(video / name, PNG) for name in list_folders(video)) else None


def _other_layout(preds: Path, held: str, truths: str) -> str:
    return f"the predictions {preds} hold {held}, but {truths}; write predictions in the layout of the ground truth"
