"""What requests bring and what answers consist of: JSON both ways, pictures, compression."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response

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
PACKED_BYTES = 1000  # answers of so many bytes are compressed
PACKING = 1  # level of gzip: masks and states are packed for every request


def answer_json(
    request: Request, content: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Answer with JSON.

    Args:
        request: what is answered.
        content: dictionaries, lists, strings and numbers. Bytes of file names that are not UTF-8 are escaped.
        status: HTTP status.
        headers: further headers.
    """
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    body = text.encode("utf-8", "backslashreplace")  # in a JSON string that is an escape, too
    return packed(request, body, "application/json", headers or {}, status)


def packed(request: Request, body: bytes, media_type: str, headers: Mapping[str, str], status: int = 200) -> Response:
    """Answer with bytes, compressed where the browser takes that and it is worth it.

    Args:
        request: what is answered.
        body: the bytes.
        media_type: their type.
        headers: further headers.
        status: HTTP status.
    """
    found = {**headers, "vary": "accept-encoding"}
    if len(body) >= PACKED_BYTES and "gzip" in request.headers.get("accept-encoding", ""):
        body = gzip.compress(body, PACKING)
        found["content-encoding"] = "gzip"
    return Response(body, status, found, media_type)


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


async def answer_state(request: Request, session: VideoSession, since: int | None = None, **more: Any) -> Response:
    """Answer with the state of a video.

    Args:
        request: what is answered.
        session: the video.
        since: the revision that the page knows: the answer has what changed since then; None: all.
        more: further entries.
    """
    return answer_json(request, {**await run(session.store_worker, session.state, since), **more})


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


def known_to(body: dict[str, Any]) -> int | None:
    """Return the revision that the page knew, where the request does not depend on it; None where it is not told."""
    return None if body.get("revision") is None else revision(body)


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
