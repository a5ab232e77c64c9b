"""`open_source` turns whatever a user calls a video into a `FrameSource`."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO, TypeAlias, cast

import numpy as np
import torch
from PIL import Image

from i2vpp.data.frame_folders import IMAGE_SUFFIXES, holds_image, list_frames
from i2vpp.errors import VideoError
from i2vpp.session.animation import HEAD_BYTES, AnimatedImage, is_animated_webp, may_be_animated
from i2vpp.session.sources import FrameIterator, FrameLike, FrameList, FrameSource, LiveSource
from i2vpp.session.video_file.decoder import VideoFile
from i2vpp.utils.files import exists

__all__ = ["FrameLike", "FrameSource", "LiveSource", "VideoLike", "open_source"]

VideoLike: TypeAlias = (
    "str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | np.ndarray | torch.Tensor"
    " | Iterable[FrameLike] | FrameSource"
)
"""Types of a video; see `open_source`."""


def open_source(video: VideoLike) -> FrameSource:
    """Open a video; frames are decoded later, one by one.

    Args:
        video: path or URL of a video file; its bytes, or a binary file object; a folder of images (jpg, jpeg, png, bmp,
            webp, tif or tiff, in natural order: `frame_2` before `frame_10`; see `i2vpp.data.frame_folders`); a list
            or an iterator of frames (image paths, PIL images, arrays, tensors); one array or tensor [T, H, W, 3] or
            [T, 3, H, W]; or a FrameSource, which is returned.

    Raises:
        VideoError: there is nothing there, or nothing that can be read as a video.
    """
    if isinstance(video, FrameSource):
        return video
    if isinstance(video, (str, os.PathLike)):
        return _open_path(os.fspath(video))
    if isinstance(video, (bytes, bytearray, memoryview)):
        return _open_file(io.BytesIO(video), "the video in memory")
    if hasattr(video, "read"):
        return _open_file(cast(BinaryIO, video), str(getattr(video, "name", "the video file object")))
    if isinstance(video, (np.ndarray, torch.Tensor, Sequence)):
        return _open_list(cast("Sequence[FrameLike]", video))
    if isinstance(video, Iterable) and not isinstance(video, Image.Image):
        return FrameIterator(iter(video), "the frame iterator")
    raise VideoError(
        f"video is of type {type(video).__name__}; allowed: a path or URL, bytes or a binary file, a folder of images, "
        "a list or iterator of frames, one array or tensor [T, H, W, 3] or [T, 3, H, W]"
    )


def _open_path(path: str) -> FrameSource:
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", path):
        return VideoFile(path, path)
    if not path or not exists(path):
        raise VideoError(f"video {path!r} does not exist; give a video file, a folder of images or a URL")
    if not Path(path).is_dir():
        return _open_file(str(Path(path).absolute()), path)  # absolute: FFmpeg takes "a:b" for a protocol
    return _open_folder(Path(path))


def _open_folder(folder: Path) -> FrameSource:
    frames = list_frames(folder)
    if not frames:
        inside = sorted(entry.name for entry in folder.iterdir() if holds_image(entry))
        hint = f"; its folders {', '.join(inside[:3])} hold images: give one of them" if inside else ""
        raise VideoError(
            f"folder {folder} holds no image; frames must be files with suffix {', '.join(IMAGE_SUFFIXES)}{hint}"
        )
    return FrameList(list(frames.values()), f"folder {folder}", names=list(frames))


def _open_file(video: str | BinaryIO, name: str) -> FrameSource:
    """Open a file: with FFmpeg, or with Pillow where that is an animated image that FFmpeg cannot read."""
    try:
        if not isinstance(video, str):
            video.seek(0)
            head = video.read(HEAD_BYTES)
        elif Path(video).is_file():  # not from a pipe, which cannot be read twice
            with Path(video).open("rb") as file:
                head = file.read(HEAD_BYTES)
        else:
            head = b""
    except OSError as error:
        raise VideoError(f"{name} cannot be opened as a video: {error.strerror or error}") from error
    if is_animated_webp(head):
        return AnimatedImage(video, name)
    if not may_be_animated(head):
        return VideoFile(video, name)
    try:
        source = VideoFile(video, name)
        _ = source.height  # decodes a frame, which shows whether FFmpeg can read the file
    except VideoError:
        with contextlib.suppress(VideoError):
            return AnimatedImage(video, name)
        raise
    return source


def _open_list(frames: Sequence[FrameLike] | np.ndarray | torch.Tensor) -> FrameSource:
    if isinstance(frames, (np.ndarray, torch.Tensor)) and frames.ndim != 4:
        raise VideoError(
            f"video is one array or tensor of shape {list(frames.shape)}; allowed: [T, H, W, 3] or [T, 3, H, W]; "
            "put a single frame into a list"
        )
    if not len(frames):
        raise VideoError("video is empty; it must hold at least one frame")
    return FrameList(frames, "the video in memory")
