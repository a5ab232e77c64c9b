"""Events sent to all open pages, as Server-Sent Events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

KEEP_ALIVE_SECONDS = 15.0
MAX_WAITING = 1000
"""Messages that may wait for one page. With more, its connection is closed; it reconnects and fetches all anew."""

MAX_LISTENERS = 64


class Events:
    """Messages from any thread to all listeners of one event loop."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._queues: set[asyncio.Queue[str | None]] = set()
        self._closed = False

    @property
    def full(self) -> bool:
        """Whether no listener can be added."""
        return len(self._queues) >= MAX_LISTENERS

    def start(self) -> None:
        """Deliver in the running event loop from now on."""
        self._loop = asyncio.get_running_loop()

    def send(self, **message: Any) -> None:
        """Send a message; from any thread. Without listeners it is lost."""
        loop = self._loop
        if loop is not None and not loop.is_closed():
            try:
                loop.call_soon_threadsafe(self._deliver, f"data: {json.dumps(message)}\n\n")
            except RuntimeError:  # the loop was closed after the check above: there is no listener any more
                return

    def close(self) -> None:
        """End all connections. To be called in the event loop's thread."""
        self._closed = True
        self._deliver('data: {"type": "bye"}\n\n')
        self._deliver(None)

    async def listen(self) -> AsyncIterator[str]:
        """Yield messages as they are sent over the wire, until `close`."""
        waiting: asyncio.Queue[str | None] = asyncio.Queue()
        if self._closed:
            return
        self._queues.add(waiting)
        try:
            yield "retry: 1000\n\n"
            while True:
                try:
                    message = await asyncio.wait_for(waiting.get(), KEEP_ALIVE_SECONDS)
                except asyncio.TimeoutError:
                    message = ": still here\n\n"
                if message is None:
                    return
                yield message
        finally:
            self._queues.discard(waiting)

    def _deliver(self, message: str | None) -> None:
        for waiting in list(self._queues):
            if waiting.qsize() >= MAX_WAITING:
                self._queues.discard(waiting)
                waiting.put_nowait(None)
            else:
                waiting.put_nowait(message)
