"""Work off the request thread: threads with a queue."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class Workers:
    """Threads that work off one queue in order; started when first needed.

    Daemon threads, unlike those of a ThreadPoolExecutor: a step of the network must not keep the server from ending.

    Args:
        name: of the threads.
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
        """Queue a call; the future can be cancelled until it has begun.

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
        """Let the threads end after what is queued; a second call does nothing."""
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
