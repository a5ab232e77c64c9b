"""The videos that can be annotated: one, or those of a folder. Nothing is decoded to list them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from i2vpp.data.frame_folders import IMAGE_SUFFIXES, holds_image, is_image, list_frames, natural_key
from i2vpp.errors import VideoError
from i2vpp.session.video import FrameSource, open_source
from i2vpp.utils.files import exists

VIDEO_SUFFIXES = (
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".wmv", ".flv", ".ogv", ".3gp",
)  # fmt: skip
ID_LENGTH = 16
MAX_FILE_NAME = 180  # bytes; SQLite and the exports add suffixes, and file systems allow 255


@dataclass(frozen=True, kw_only=True)
class Video:
    """A video that can be annotated.

    Args:
        id: its name in URLs. It stays the same after a restart, but is another one once the file has changed, because
            browsers keep frames by it for a while.
        name: name of the file or folder.
        path: path of the file or folder.
    """

    id: str
    name: str
    path: Path

    @property
    def shown_name(self) -> str:
        """The name for people: bytes of it that are not UTF-8 are escaped, as in `\\xe9`."""
        return shown_name(self.name)

    @property
    def file_name(self) -> str:
        """A file name for what belongs to the video, without suffix; no two videos of a folder share it."""
        raw = self.name.encode("utf-8", "surrogateescape")
        if len(raw) <= MAX_FILE_NAME:
            return self.name
        return f"{raw[: MAX_FILE_NAME - ID_LENGTH - 1].decode('utf-8', 'ignore')}-{_digest(self.name)}"


@dataclass(frozen=True)
class Library:
    """The videos below one folder, as it was when they were listed.

    Args:
        root: the opened folder; nothing outside it is ever read as a video.
        videos: the videos in natural order.
        left_out: names of links that lead out of the folder.
        opened: what was opened: the folder, or the video.
    """

    root: Path
    videos: list[Video]
    left_out: list[str]
    opened: Path

    @property
    def takes_videos(self) -> bool:
        """Whether what was opened is a folder of videos, which others can be added to."""
        return self.opened.is_dir() and all(video.path != self.root for video in self.videos)

    def listed_again(self) -> list[Video]:
        """Return the videos that are there now; files that were written to have other ids than before."""
        try:
            return open_library(self.opened).videos
        except (VideoError, OSError):  # nothing is there at the moment
            return []

    def open(self, video: Video) -> FrameSource:
        """Open a video's frames; every call opens it anew.

        Raises:
            VideoError: it cannot be read, or leads out of the opened folder by now.
        """
        check_below(self.root, video.path)
        if video.path.is_dir():
            for file in video.path.iterdir():
                if file.is_symlink():
                    check_below(self.root, file)
        return open_source(video.path)

    def frame_names(self, video: Video) -> list[str] | None:
        """Return the names of a frame folder's files without suffix; None for video files."""
        return list(list_frames(video.path)) if video.path.is_dir() else None

    def frame_files(self, video: Video) -> list[str] | None:
        """Return the names of a frame folder's files; None for video files."""
        return [file.name for file in list_frames(video.path).values()] if video.path.is_dir() else None


def open_library(path: Path) -> Library:
    """List what can be annotated: the file, the folder of frames, or the videos and folders of frames in the folder.

    Raises:
        VideoError: there is nothing there, or nothing that could be a video.
    """
    if not exists(path):
        raise VideoError(f"{path} does not exist; give a video file, a folder of frames, or a folder of either")
    if path.is_file():
        resolved = path.resolve()
        return Library(resolved.parent, [_video(path.name, resolved)], [], path)
    root = path.resolve()
    entries = sorted((entry for entry in root.iterdir() if not entry.name.startswith(".")), key=natural_key)
    files = [entry for entry in entries if entry.is_file()]
    movies = [file for file in files if _is_movie(file)]
    if not movies and any(is_image(file) for file in files):
        return Library(root, [_video(root.name or "frames", root)], [], path)
    inside = [entry for entry in entries if is_below(root, entry)]
    videos = [_video(entry.name, entry) for entry in inside if entry in movies or holds_image(entry)]
    left_out = [entry.name for entry in entries if entry not in inside]
    if not videos:
        outside = f" (left out, as they lead out of it: {', '.join(map(shown_name, left_out[:3]))})" if left_out else ""
        raise VideoError(
            f"there is no video in {path}{outside}: looked for files with suffix {', '.join(VIDEO_SUFFIXES)} and for "
            f"folders with images ({', '.join(IMAGE_SUFFIXES)}); deeper folders are not searched"
        )
    return Library(root, videos, left_out, path)


def shown_name(name: str) -> str:
    """Return the name of a file with those bytes escaped, as in `\\xe9`, that are not UTF-8 and cannot be shown."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def is_below(root: Path, path: Path) -> bool:
    """Whether a path lies in a folder, after links and `..` are followed.

    Args:
        root: the folder, resolved already.
        path: any path; one that cannot be resolved does not lie there.
    """
    try:
        return path.resolve().is_relative_to(root)
    except (OSError, RuntimeError, ValueError):  # a loop of links, a name that no file can have
        return False


def check_below(root: Path, path: Path) -> None:
    """Refuse a path that does not lie in a folder, after links are followed.

    Args:
        root: the folder, resolved already.
        path: any path.

    Raises:
        VideoError: it lies elsewhere.
    """
    if not is_below(root, path):
        raise VideoError(f"{path.name} leads out of the opened folder")


def _video(name: str, path: Path) -> Video:
    stat = path.stat()
    return Video(id=_digest(f"{path} {stat.st_size} {stat.st_mtime_ns}"), name=name, path=path)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:ID_LENGTH]


def _is_movie(file: Path) -> bool:
    return file.suffix.lower() in VIDEO_SUFFIXES
