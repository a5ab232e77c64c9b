"""The network, built once in the background while pages are already open."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from i2vpp.annotate.workers import Workers
from i2vpp.errors import I2VPPError
from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor


class ModelError(I2VPPError):
    """There is no network to run: it could not be built, or it failed while it ran."""


class Model:
    """A predictor that is built in a thread of its own.

    Args:
        build: makes the predictor; called once, in that thread.
        checkpoint: name of the weights for pages.
    """

    def __init__(self, build: Callable[[], I2VPPVideoPredictor], *, checkpoint: str) -> None:
        self._build = build
        self._checkpoint = checkpoint
        self._future: Future[I2VPPVideoPredictor] | None = None
        self._lock = threading.Lock()

    def start(self, on_change: Callable[[], None] = lambda: None) -> None:
        """Begin to build unless that was done before; call `on_change` once the predictor is ready or has failed."""
        with self._lock:
            if self._future is not None:
                return
            worker = Workers("i2vpp-build")
            self._future = worker.submit(self._build)
            worker.close()
        self._future.add_done_callback(lambda _: on_change())

    def predictor(self) -> I2VPPVideoPredictor:
        """Return the predictor; waits until it is built.

        Raises:
            ModelError: it could not be built; the message says why.
        """
        self.start()
        assert self._future is not None
        try:
            return self._future.result()
        except (I2VPPError, OSError, RuntimeError, ValueError, MemoryError, ImportError) as error:
            raise ModelError(f"there is no network: {error}") from error

    def describe(self) -> dict[str, Any]:
        """Return what pages show of the model, with a revision that is larger once it is no longer loading."""
        if self._future is None or not self._future.done():
            return {"revision": 0, "loading": True}
        try:
            predictor = self.predictor()
        except ModelError as error:
            return {"revision": 1, "error": str(error)}
        return {
            "revision": 1,
            "checkpoint": self._checkpoint,
            "device": str(predictor.device),
            "dtype": str(predictor.dtype).removeprefix("torch."),
            "image_size": predictor.image_size,
        }
