"""Live sessions: frames are pushed one by one, masks come back at once, memory stays constant."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Protocol

from i2vpp.errors import PromptError
from i2vpp.session.state import InferenceState
from i2vpp.session.video import FrameLike, LiveSource
from i2vpp.structures import FrameResult


class Predictor(Protocol):
    """The methods of `I2VPPVideoPredictor` that a live session calls; that class imports this module."""

    def track_frame(self, *args: Any, **kwargs: Any) -> FrameResult:
        """See `I2VPPVideoPredictor.track_frame`."""
        ...

    def add_new_points_or_box(self, *args: Any, **kwargs: Any) -> FrameResult:
        """See `I2VPPVideoPredictor.add_new_points_or_box`."""
        ...

    def add_new_mask(self, *args: Any, **kwargs: Any) -> FrameResult:
        """See `I2VPPVideoPredictor.add_new_mask`."""
        ...

    def remove_object(self, *args: Any, **kwargs: Any) -> object:
        """See `I2VPPVideoPredictor.remove_object`."""
        ...


class StreamSession:
    """The session of a camera; made by `I2VPPVideoPredictor.init_stream`, a context manager.

    Its masks equal those of tracking a recording of the same frames. Prompts go to the current frame. `state` is an
    ordinary session: all other methods of the predictor work on it, as far as its frames are still held.

    Args:
        predictor: predictor that tracks the frames.
        state: session over `source`.
        source: source that takes the frames.
    """

    def __init__(self, predictor: Predictor, state: InferenceState, source: LiveSource) -> None:
        self.state = state
        self._predictor = predictor
        self._source = source

    def __enter__(self) -> StreamSession:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    @property
    def frame_idx(self) -> int:
        """Index of the current frame, or -1 before the first one."""
        return len(self._source) - 1

    def step(self, frame: FrameLike) -> FrameResult:
        """Push the next frame and track all objects on it.

        Args:
            frame: uint8 RGB [H, W, 3], PIL image, tensor or path; all of one size.

        Returns:
            Masks of all objects; none before the first prompt.
        """
        with self.state.lock:
            self.state.check_open()
            self._source.append(frame)
            return self._predictor.track_frame(self.state, self.frame_idx)

    def add_new_points_or_box(self, obj_id: int, **prompt: Any) -> FrameResult:
        """Prompt an object on the current frame; see `I2VPPVideoPredictor.add_new_points_or_box`."""
        with self.state.lock:
            return self._predictor.add_new_points_or_box(self.state, self._current(), obj_id, **prompt)

    def add_new_mask(self, obj_id: int, mask: Any) -> FrameResult:
        """Prompt an object with its mask on the current frame.

        Args:
            obj_id: any integer.
            mask: see `I2VPPVideoPredictor.add_new_mask`.

        Returns:
            Masks of all objects on the current frame.
        """
        with self.state.lock:
            return self._predictor.add_new_mask(self.state, self._current(), obj_id, mask)

    def remove_object(self, obj_id: int) -> None:
        """Stop tracking an object."""
        self._predictor.remove_object(self.state, obj_id, strict=True, need_output=False)

    def close(self) -> None:
        """Release the frames and everything known about them."""
        self.state.close()

    def _current(self) -> int:
        self.state.check_open()
        if self.frame_idx < 0:
            raise PromptError("There is no frame to prompt yet: push one with step(frame) first.")
        return self.frame_idx
