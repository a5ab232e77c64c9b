"""Results written in the background, while the network works on the next frames."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Queue

from i2vpp.structures import FrameResult
from i2vpp.utils.signals import uninterrupted
from i2vpp.utils.writers import PreparedFrame, ResultWriter

PREPARING_THREADS = 2
WAITING = 4
"""Number of frames that may wait to be written. Tracking then waits for the writer: a frame holds its masks at the
video's size."""


class BackgroundWriter:
    """Writes what a `ResultWriter` writes, in threads of its own.

    Two threads draw and encode, and one writes the frames in the order of tracking, each to all files before the next
    one. So the files hold the same frames as without threads, also after an error. Signals reach the main thread
    only, so that they interrupt no file.

    Args:
        writer: the writer; nothing else may use it until `close` has returned.
    """

    def __init__(self, writer: ResultWriter) -> None:
        self._writer = writer
        self._pool = ThreadPoolExecutor(PREPARING_THREADS, thread_name_prefix="i2vpp-draw")
        self._queue: Queue[Future[PreparedFrame] | None] = Queue(WAITING)
        self._failure: Future[None] = Future()
        self._told = False
        self._thread = threading.Thread(target=self._work, name="i2vpp-write", daemon=True)
        self._thread.start()
        self._closed = False

    def add(self, result: FrameResult) -> None:
        """Have a frame written to all files; waits while very many frames are waiting.

        Raises:
            OSError: a file could not be written, at this or at an earlier frame. Frames after that one are dropped.
        """
        self._check()
        frame = self._writer.read(result.frame_idx)  # here, where the video is read already: it is decoded in order
        with uninterrupted():
            self._queue.put(self._pool.submit(self._writer.prepare, result, frame))
        self._check()

    def close(self, progress: Callable[[list[int]], Iterable[int]] = iter) -> None:
        """Wait for the frames that were added, and finish all files; a second call does nothing.

        Args:
            progress: see `ResultWriter.close`.

        Raises:
            OSError, I2VPPError: a frame could not be written, or a file cannot be finished.
        """
        if self._closed:
            return
        self._closed = True
        with uninterrupted():
            self._queue.put(None)
            self._thread.join()
            self._pool.shutdown()
        try:
            self._check()
        finally:
            self._writer.close(progress)

    def _check(self) -> None:
        if self._failure.done() and not self._told:
            self._told = True
            self._failure.result()

    def _work(self) -> None:
        """Write frames until `close`; after a failure, drop them."""
        while (prepared := self._queue.get()) is not None:
            if self._failure.done():
                continue
            try:
                self._writer.write(prepared.result())
            except BaseException as error:  # noqa: BLE001 - not swallowed: `add` or `close` raises it
                self._failure.set_exception(error)
