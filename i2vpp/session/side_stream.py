"""Encode the next frame of a video on a CUDA stream of its own, while objects are tracked on the present one."""

from __future__ import annotations

from collections.abc import Callable

import torch

from i2vpp.structures import FrameFeatures


class SideStream:
    """The features of one frame that are computed beside the other work of a session, and the stream that does it.

    Work on the side begins when what is queued on the caller's stream is done, and the caller's stream waits for it
    before it uses the result. So either of them may use memory that the other one has released.
    """

    def __init__(self) -> None:
        self._stream: torch.cuda.Stream | None = None
        self._frame_idx: int | None = None
        self._features: FrameFeatures | None = None

    def start(self, frame_idx: int, encode: Callable[[], FrameFeatures], device: torch.device) -> None:
        """Queue the work on a frame; the host does not wait for it.

        Args:
            frame_idx: the frame; nothing is done if its features are there or on their way.
            encode: computes its features.
            device: a CUDA device.
        """
        if self._frame_idx == frame_idx:
            return
        if self._stream is None:
            self._stream = torch.cuda.Stream(device)
        self._stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(self._stream):
            self._features = encode()
        self._frame_idx = frame_idx

    def take(self, frame_idx: int) -> FrameFeatures | None:
        """Let the caller's stream wait for the work on the side, and hand out the features if they are of a frame.

        Args:
            frame_idx: the frame that is to be used now.

        Returns:
            Its features; None if they have not been computed here.
        """
        if self._stream is None:
            return None
        here = torch.cuda.current_stream(self._stream.device)
        here.wait_stream(self._stream)
        if self._frame_idx != frame_idx or self._features is None:
            return None
        features, self._features, self._frame_idx = self._features, None, None
        features.embedding.record_stream(here)
        return features

    def close(self) -> None:
        """Release the features."""
        self._features, self._frame_idx = None, None
