"""What is to be tracked in SA-V's validation and test sets, or in a set of the same layout.

    <images>/<video>/00000.jpg, 00001.jpg, ...                    all frames
    <annotations>/<video>/<object>/00000.png, 00004.png, ...      binary masks of some frames
    <mask_info>/<video>/<object>.npy                              the same masks in one file, in place of the PNGs

Only names are read before an object is tracked; images and masks are read when its job begins.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from i2vpp.data.files import list_files, list_folders, list_images, read_items, require_folder
from i2vpp.data.frame_folders import IMAGE_SUFFIXES, natural_key
from i2vpp.data.masks import Mask, read_object
from i2vpp.errors import DataError, NoDataError
from sav_dataset.names import some
from test_pvs.mask_info import SUFFIX, read_mask_info

IMAGES = "JPEGImages_24fps"


@dataclass(frozen=True, kw_only=True, eq=False)
class FrameMask:
    """The mask of an object on an annotated frame.

    Args:
        frame: name of the frame.
        mask: the mask [H, W]; empty where the frame does not show the object.
        path: the file that holds it.
    """

    frame: str
    mask: Mask
    path: Path


@dataclass(frozen=True, kw_only=True)
class SavObject:
    """An object of a video that is to be tracked.

    Args:
        video: name of the video.
        name: name of the object.
        frames: folder of all frames of the video.
        masks: the object's folder of PNGs, or its mask_info file.
    """

    video: str
    name: str
    frames: Path
    masks: Path

    def images(self) -> dict[str, Path]:
        """List the frames of the video by name, in order.

        Raises:
            DataError: there are none.
        """
        images = list_images(self.frames)
        if not images:
            raise DataError(f"{self.frames} holds no frame; frames are files with suffix {', '.join(IMAGE_SUFFIXES)}")
        return images

    def first_mask(self, frames: Sequence[str]) -> FrameMask | None:
        """Find the first annotated frame that shows the object.

        Args:
            frames: names of all frames of the video.

        Returns:
            The frame with its mask; None if no annotated frame shows the object.

        Raises:
            DataError: there are no masks, one is of a frame that does not exist, is damaged, or shows several objects.
        """
        return next((found for found in self._frame_masks(frames) if found.mask.any()), None)

    def annotated(self, frames: Sequence[str]) -> set[str]:
        """Name the frames of the video on which any object has a mask; `frames` are the names of all frames."""
        if self.masks.suffix == SUFFIX:
            return set(self._names(list(read_mask_info(self.masks)), frames))
        folder = self.masks.parent
        return {frame for name in list_folders(folder) for frame in list_files(folder / name, (".png",))}

    def _frame_masks(self, frames: Sequence[str]) -> Iterator[FrameMask]:
        """Read the masks of the object, in order; a PNG is not read before its turn."""
        if self.masks.suffix == SUFFIX:
            masks = read_mask_info(self.masks)
            for frame, mask in zip(self._names(list(masks), frames), masks.values(), strict=True):
                yield FrameMask(frame=frame, mask=mask, path=self.masks)
            return
        files = list_files(self.masks, (".png",))
        if not files:
            raise DataError(f"{self.masks} holds no mask 00000.png")
        self._check_frames(list(files), frames)
        for frame, path in files.items():
            yield FrameMask(frame=frame, mask=read_object(path), path=path)

    def _names(self, indices: Sequence[int], frames: Sequence[str]) -> list[str]:
        """Return the names of the frames with these indices; the names are the indices, with zeros before them."""
        by_index = {int(frame): frame for frame in frames if frame.isdecimal()}
        names = [by_index.get(index, f"{index:05d}") for index in indices]
        self._check_frames(names, frames)
        return names

    def _check_frames(self, annotated: Sequence[str], frames: Sequence[str]) -> None:
        missing = sorted(set(annotated).difference(frames), key=natural_key)
        if missing:
            raise DataError(
                f"{self.masks} has masks of frames that {self.frames} lacks: {some(missing)}; a mask has the name of "
                "its frame"
            )


def find_objects(
    images: Path, annotations: Path, *, names: Path | None = None, videos: Sequence[str] = ()
) -> list[SavObject]:
    """List the objects of all annotated videos, in order.

    Args:
        images: folder of the videos' folders of frames.
        annotations: folder of the videos' folders of object folders or of mask_info files.
        names: file with the names of the videos to take, one a line, such as `sav_test.txt`.
        videos: names of the videos to take; empty: all.

    Returns:
        The objects of the videos that both `names` and `videos` take.

    Raises:
        NoDataError: a folder is missing, or no object is left.
        DataError: a video that is asked for has no annotation, or no object folders.
    """
    require_folder(images, "frames")
    there = list_folders(require_folder(annotations, "annotations"))
    taken = set(there)
    for asked, of in ((names and read_items(names), names), (set(videos), "--videos")):
        if asked:
            if unknown := sorted(set(asked).difference(there), key=natural_key):
                raise DataError(
                    f"{len(unknown)} of {len(asked)} videos of {of} have no folder in {annotations}: "
                    f"{some(unknown)}; it holds {some(there)}"
                )
            taken &= set(asked)
    objects = [
        SavObject(video=video, name=name, frames=images / video, masks=path)
        for video in there
        if video in taken
        for name, path in _masks_by_object(annotations / video).items()
    ]
    if not objects:
        raise NoDataError(f"{annotations} holds no object to track; expected <video>/<object>/00000.png")
    return objects


def _masks_by_object(video: Path) -> dict[str, Path]:
    masks = {name: video / name for name in list_folders(video)} or list_files(video, (SUFFIX,))
    if not masks and list_files(video, (".png",)):
        raise DataError(
            f"{video} holds PNGs of all objects of a video, not a folder for each object as SA-V has it; "
            "tools/vos_inference.py tracks such sets"
        )
    return masks
