"""What the HTTP interface needs for every request: reading bodies and queries, working in threads, answering."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from i2vpp.annotate.problems import RequestError
from i2vpp.annotate.session import VideoSession
from i2vpp.annotate.workers import Workers
from i2vpp.utils.json_values import json_integer, json_object

T = TypeVar("T")
Handler = Callable[[Request], Awaitable[Response]]
SessionHandler = Callable[[Request, VideoSession], Awaitable[Response]]
WithSession = Callable[[SessionHandler], Handler]
"""Makes a handler of one that is given the session of the video in the path."""

FRAME_SECONDS = 3600  # for which a browser may keep a frame
GONE = 499  # status of an answer whose browser has closed the connection; nginx's number for that


async def run(workers: Workers, task: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Run a call in a worker thread and wait for its result without blocking the event loop.

    Args:
        workers: the thread.
        task: what is called.
        args: its arguments.
        kwargs: its keyword arguments.

    Returns:
        Its result; an exception is raised again.
    """
    return await asyncio.wrap_future(workers.submit(task, *args, **kwargs))


async def unless_gone(request: Request, future: Future[Any]) -> Any:
    """Wait for a result, or until the browser has closed the connection, as it does for frames that are scrubbed over.

    Args:
        request: whose connection is watched.
        future: result of the work; it is cancelled if it has not begun when the browser leaves.

    Returns:
        The result, or None if the browser left first.
    """
    result: asyncio.Future[Any] = asyncio.wrap_future(future)
    gone: asyncio.Future[Any] = asyncio.ensure_future(left(request))
    try:
        await asyncio.wait({result, gone}, return_when=asyncio.FIRST_COMPLETED)
        return result.result() if result.done() else None
    finally:
        gone.cancel()
        result.cancel()


def picture(jpeg: bytes | None) -> Response:
    """Answer with a JPEG; None means that the browser has closed the connection."""
    if jpeg is None:
        return Response(status_code=GONE)
    return Response(jpeg, media_type="image/jpeg", headers={"cache-control": f"private, max-age={FRAME_SECONDS}"})


async def left(request: Request) -> None:
    """Wait until the browser has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def answer_state(session: VideoSession, **more: Any) -> Response:
    """Answer with the state of a video."""
    return JSONResponse({**await run(session.store_worker, session.state), **more})


async def read(request: Request, allowed: set[str]) -> dict[str, Any]:
    """Read the body of a request: a JSON object.

    Args:
        request: its body may be limited, see `Gate`.
        allowed: the keys that the object may have.

    Raises:
        RequestError: the body is not JSON.
        PromptError: it is no object, or has another key.
    """
    text = await request.body()
    try:
        body = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise RequestError("the body is not JSON") from error
    return json_object("the body", body, allowed)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def revision(body: dict[str, Any]) -> int:
    """Return the revision of the store that the page knew when it made the request."""
    return json_integer("revision", body.get("revision"))


def whole(text: str, key: str, low: int, high: int = 2**53) -> int:
    """Return an integer from the query of a URL.

    Args:
        text: its digits, with a minus sign where `low` is negative.
        key: its name, for the message.
        low: smallest number allowed.
        high: largest number allowed.

    Raises:
        RequestError: it is no such integer.
    """
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdecimal() and len(digits) < 17 and low <= int(text) <= high):
        raise RequestError(f"{key} must be an integer from {low} to {high}; got {text!r:.40}")
    return int(text)
