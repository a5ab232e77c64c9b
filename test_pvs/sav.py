"""What is to be tracked in SA-V's validation and test sets, or in a set of the same layout.

    <images>/<video>/00000.jpg, 00001.jpg, ...                    all frames
    <annotations>/<video>/<object>/00000.png, 00004.png, ...      binary masks of some frames
    <mask_info>/<video>/<object>.npy                              the same masks in one file, in place of the PNGs

Nothing but names is read before an object is worked on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from i2vpp.data.files import list_files, list_folders, list_images, read_items, require_folder
from i2vpp.data.frame_folders import IMAGE_SUFFIXES, natural_key
from i2vpp.data.masks import Mask, read_object
from i2vpp.errors import DataError, NoDataError
from test_pvs.mask_info import SUFFIX, read_mask_info

IMAGES = "JPEGImages_24fps"
ANNOTATIONS = "Annotations_6fps"
SHOWN = 5  # names in an error


@dataclass(frozen=True, kw_only=True, eq=False)
class FirstMask:
    """Where an object is prompted.

    Args:
        frame: name of the first annotated frame that shows the object.
        mask: there [H, W], not empty.
        path: of the file that holds it.
    """

    frame: str
    mask: Mask
    path: Path


@dataclass(frozen=True, kw_only=True)
class SavObject:
    """An object of a video.

    Args:
        video: name of the video.
        name: of the object.
        frames: folder of all frames of the video.
        masks: of the object: folder of PNGs, or mask_info file.
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

    def first_mask(self, frames: Sequence[str]) -> FirstMask | None:
        """Find the first annotated frame that shows the object; None if none does.

        Args:
            frames: names of all frames of the video.

        Raises:
            DataError: there are no masks, one is of a frame that does not exist, is damaged, or shows several objects.
        """
        if self.masks.suffix == SUFFIX:
            return self._first_of_file(frames)
        files = list_files(self.masks, (".png",))
        if not files:
            raise DataError(f"{self.masks} holds no mask 00000.png")
        self._check_frames(list(files), frames)
        for frame, path in files.items():
            if (mask := read_object(path)).any():
                return FirstMask(frame=frame, mask=mask, path=path)
        return None

    def annotated(self, frames: Sequence[str]) -> set[str]:
        """Name the frames of the video on which any object has a mask."""
        if self.masks.suffix == SUFFIX:
            return set(self._names(list(read_mask_info(self.masks)), frames))
        return {name for folder in list_folders(self.masks.parent) for name in self._listed(folder)}

    def _listed(self, folder: str) -> dict[str, Path]:
        return list_files(self.masks.parent / folder, (".png",))

    def _first_of_file(self, frames: Sequence[str]) -> FirstMask | None:
        masks = read_mask_info(self.masks)
        names = self._names(list(masks), frames)
        for frame, mask in zip(names, masks.values(), strict=True):
            if mask.any():
                return FirstMask(frame=frame, mask=mask, path=self.masks)
        return None

    def _names(self, indices: Sequence[int], frames: Sequence[str]) -> list[str]:
        """Translate frame indices, which frames are named by."""
        by_index = {int(frame): frame for frame in frames if frame.isdecimal()}
        names = [by_index.get(index, f"{index:05d}") for index in indices]
        self._check_frames(names, frames)
        return names

    def _check_frames(self, annotated: Sequence[str], frames: Sequence[str]) -> None:
        missing = sorted(set(annotated).difference(frames), key=natural_key)
        if missing:
            raise DataError(
                f"{self.masks} has masks of frames that {self.frames} lacks: {_some(missing)}; a mask has the name of "
                "its frame"
            )


@dataclass(frozen=True, kw_only=True)
class SavFolders:
    """Where a set lies.

    Args:
        images: folder of frame folders.
        annotations: folder of the videos' folders of object folders; or of mask_info.
    """

    images: Path
    annotations: Path

    def objects(self, *, names: Path | None = None, videos: Sequence[str] = ()) -> list[SavObject]:
        """List the objects of all annotated videos, in order.

        Args:
            names: file with the names of the videos to take, one a line, such as `sav_test.txt`.
            videos: names of the videos to take; empty: all.

        Raises:
            NoDataError: a folder is missing, or no object is left.
            DataError: a video that is asked for has no annotation, or no object folders.
        """
        require_folder(self.images, "frames")
        there = list_folders(require_folder(self.annotations, "annotations"))
        taken = set(there)
        for asked, of in ((names and read_items(names), names), (set(videos), "--videos")):
            if asked:
                if unknown := sorted(set(asked).difference(there), key=natural_key):
                    raise DataError(
                        f"{len(unknown)} of {len(asked)} videos of {of} have no folder in {self.annotations}: "
                        f"{_some(unknown)}; it holds {_some(there) or 'nothing'}"
                    )
                taken &= set(asked)
        objects = [found for video in there if video in taken for found in self._objects(video)]
        if not objects:
            raise NoDataError(f"{self.annotations} holds no object to track; expected <video>/<object>/00000.png")
        return objects

    def _objects(self, video: str) -> list[SavObject]:
        folder = self.annotations / video
        masks = {name: folder / name for name in list_folders(folder)} or list_files(folder, (SUFFIX,))
        if not masks and list_files(folder, (".png",)):
            raise DataError(
                f"{folder} holds PNGs of all objects of a video, not a folder for each object as SA-V has it; "
                "tools/vos_inference.py tracks such sets"
            )
        return [
            SavObject(video=video, name=name, frames=self.images / video, masks=path) for name, path in masks.items()
        ]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
