"""Threads that run calls from a queue, so that the event loop never blocks."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class Workers:
    """Threads that run the calls of one queue in order; started when they are first needed.

    They are daemon threads, unlike those of a ThreadPoolExecutor, so that the server can end while the network runs.

    Args:
        name: name of the threads.
        count: how many.
    """

    def __init__(self, name: str, count: int = 1) -> None:
        self._name = name
        self._count = count
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._closed = False

    def submit(self, task: Callable[..., T], *args: Any, **kwargs: Any) -> Future[T]:
        """Put a call into the queue.

        Args:
            task: what is called.
            args: its arguments.
            kwargs: its keyword arguments.

        Returns:
            A future of its result, which can be cancelled until the call has begun.

        Raises:
            RuntimeError: the workers are closed.
        """
        future: Future[T] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(task(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001 - not swallowed: raised by whoever waits for the result
                future.set_exception(error)

        with self._lock:
            if self._closed:
                raise RuntimeError(f"{self._name}: closed")
            self._queue.put(run)
            if len(self._threads) < self._count:
                thread = threading.Thread(target=self._work, name=self._name, daemon=True)
                self._threads.append(thread)
                thread.start()
        return future

    def close(self) -> None:
        """Have the threads end after the calls that are queued; a second call does nothing."""
        with self._lock:
            if not self._closed:
                self._closed = True
                for _ in self._threads:
                    self._queue.put(None)

    def join(self) -> None:
        """Wait for the threads of closed workers."""
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (task := self._queue.get()) is not None:
            task()
            del task  # it holds its arguments and, through the future, its result
