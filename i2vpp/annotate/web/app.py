"""The HTTP interface of the page, in JSON. Every blocking call runs in a worker thread of its video."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from i2vpp.annotate.errors import StaleRevisionError
from i2vpp.annotate.exchange.transfers import start_export, start_import
from i2vpp.annotate.frames import MAX_WIDTH, MIN_WIDTH
from i2vpp.annotate.jobs import PROPAGATE
from i2vpp.annotate.problems import EXPECTED, NotFoundError, RequestError
from i2vpp.annotate.session import VideoSession
from i2vpp.annotate.storage.values import Prompts
from i2vpp.annotate.web.answers import (
    Handler,
    SessionHandler,
    answer_json,
    answer_state,
    known_to,
    packed,
    picture,
    read,
    revision,
    run,
    unless_gone,
    whole,
)
from i2vpp.annotate.web.exchange_routes import exchange_routes
from i2vpp.annotate.web.label_routes import label_routes
from i2vpp.annotate.web.security import Gate, Guard, Refused
from i2vpp.annotate.web.track_routes import listed_objects, track_routes
from i2vpp.annotate.workspace import Workspace
from i2vpp.utils.json_values import json_flag, json_integer

MEDIA_TYPES = {
    ".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml", ".png": "image/png",
    ".json": "application/json", ".woff2": "font/woff2", ".ico": "image/x-icon",
}  # fmt: skip

log = logging.getLogger(__name__)


def make_app(workspace: Workspace, guard: Guard) -> ASGIApp:
    """Return the application behind the checks of `Gate`.

    Args:
        workspace: the videos; started and stopped with the application.
        guard: which requests are let in.
    """

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        workspace.start()
        yield
        await workspace.stop()

    routes = Routes(workspace)
    answers: dict[Any, Any] = dict.fromkeys([*EXPECTED, IndexError], routes.answer_problem)
    answers |= {Refused: answer_refused, HTTPException: answer_unknown, Exception: answer_bug}
    return Gate(Starlette(routes=routes.table(), exception_handlers=answers, lifespan=lifespan), guard=guard)


async def answer_refused(request: Request, refused: Refused) -> Response:
    """Answer a request whose body turned out too large while it was read."""
    return answer_json(request, {"error": refused.reason}, refused.status)


async def answer_unknown(request: Request, error: HTTPException) -> Response:
    """Answer a request for a path or method that does not exist."""
    return answer_json(request, {"error": error.detail}, error.status_code, error.headers)


async def answer_bug(request: Request, __: Exception) -> Response:
    """Answer after an unexpected exception; Starlette raises it again, so that it gets into the log."""
    return answer_json(request, {"error": "an error in the program; the server's log tells more"}, 500)


class Routes:
    """The handlers of all requests. Each takes the request, and the session of the video where that has to be open.

    Args:
        workspace: the videos.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._static = static_files()

    def table(self) -> list[Route]:
        """Return all routes."""
        video, obj = "/api/videos/{id}", "/api/videos/{id}/objects/{obj:int}"
        return [
            Route("/", self.page),
            Route("/static/{name:path}", self.static),
            Route("/api/library", self.library),
            Route("/api/events", self.events),
            Route(video, self._with(self.state)),
            Route(f"{video}/open", self._with(self.open), methods=["POST"]),
            Route(f"{video}/close", self.close, methods=["POST"]),
            Route(f"{video}/thumbnail", self.thumbnail),
            Route(f"{video}/frames/{{t:int}}", self._with(self.frame)),
            Route(f"{video}/masks/{{t:int}}", self._with(self.masks)),
            Route(f"{video}/doubtful", self._with(self.doubtful)),
            Route(f"{video}/objects", self._with(self.add_object), methods=["POST"]),
            Route(obj, self._with(self.change_object), methods=["PATCH"]),
            Route(obj, self._with(self.delete_object), methods=["DELETE"]),
            Route(f"{obj}/prompts/{{t:int}}", self._with(self.set_prompts), methods=["PUT"]),
            *label_routes(self._with),
            *track_routes(self._with),
            *exchange_routes(self._workspace, self._with),
            Route(f"{video}/undo", self._with(partial(self.travel, "undo")), methods=["POST"]),
            Route(f"{video}/redo", self._with(partial(self.travel, "redo")), methods=["POST"]),
            Route(f"{video}/propagate", self._with(self.propagate), methods=["POST"]),
            Route(f"{video}/go-on", self._with(self.go_on), methods=["POST"]),
            Route(f"{video}/export", self._with(self.export), methods=["POST"]),
            Route(f"{video}/import", self._with(self.import_masks), methods=["POST"]),
            Route(f"{video}/cancel", self._with(self.cancel), methods=["POST"]),
        ]

    def _with(self, handler: SessionHandler) -> Handler:
        """Return a handler that opens the video first, and that answers stale requests with the present state."""

        async def handle(request: Request) -> Response:
            async with self._workspace.use(request.path_params["id"]) as session:
                try:
                    return await handler(request, session)
                except StaleRevisionError as error:
                    state = await run(session.store_worker, session.state)
                    return answer_json(request, {"error": self._workspace.problems.words(error), "state": state}, 409)

        return handle

    async def answer_problem(self, request: Request, error: Exception) -> Response:
        """Answer with the status and the message of an expected error."""
        status = self._workspace.problems.status(error)
        if status >= 500:
            log.warning("%s", error, exc_info=error)
        return answer_json(request, {"error": self._workspace.problems.words(error)}, status)

    # ---- page, list, events

    async def page(self, request: Request) -> Response:
        """Answer with the page itself."""
        return self._file(request, "index.html")

    async def static(self, request: Request) -> Response:
        """Answer with a file of the page; only those found at the start are served, so no path can lead elsewhere."""
        return self._file(request, request.path_params["name"])

    def _file(self, request: Request, name: str) -> Response:
        if name not in self._static:
            raise NotFoundError("there is no such file")
        file, media_type = self._static[name]
        return packed(request, file.read_bytes(), media_type, {"cache-control": "no-cache"})

    async def library(self, request: Request) -> Response:
        """List the videos."""
        videos = await self._workspace.describe()
        return answer_json(request, {"videos": videos, "model": self._workspace.describe_model()})

    async def thumbnail(self, request: Request) -> Response:
        """Answer with a small picture of a video."""
        return picture(await unless_gone(request, self._workspace.thumbnail(request.path_params["id"])))

    async def events(self, _: Request) -> Response:
        """Send events until the page is closed."""
        if self._workspace.events.full:
            raise RequestError("too many pages are open", 503)
        stream = self._workspace.events.listen()
        return StreamingResponse(stream, media_type="text/event-stream", headers={"cache-control": "no-store"})

    async def close(self, request: Request) -> Response:
        """Close a video."""
        await self._workspace.close(request.path_params["id"])
        return answer_json(request, {})

    # ---- looking at a video

    async def state(self, request: Request, session: VideoSession) -> Response:
        """Answer with the state of a video, or with what changed since a revision."""
        known = request.query_params.get("since")
        return await answer_state(request, session, None if known is None else whole(known, "since", 0))

    async def open(self, request: Request, session: VideoSession) -> Response:
        """Open a video."""
        now = session.store.revision
        self._workspace.events.send(type="video", id=session.video.id, since=now, revision=now)
        return await answer_state(request, session)

    async def frame(self, request: Request, session: VideoSession) -> Response:
        """Answer with a frame as JPEG."""
        t = request.path_params["t"]
        session.check_frame(t)
        width = whole(request.query_params.get("width", str(session.width)), "width", MIN_WIDTH, MAX_WIDTH)
        small = "strip" in request.query_params
        workers, reader = (
            (session.thumbnail_worker, session.thumbnail_reader)
            if small
            else (session.frame_worker, session.frame_reader)
        )
        jpeg = reader.held(t, min(width, session.width)) or await unless_gone(
            request, workers.submit(reader.jpeg, t, width)
        )
        return picture(jpeg)

    async def masks(self, request: Request, session: VideoSession) -> Response:
        """Answer with the masks of a frame as run lengths."""
        body = await run(session.store_worker, session.masks, request.path_params["t"])
        tag = f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'
        headers = {"etag": tag, "cache-control": "private, no-cache"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return packed(request, body, "application/octet-stream", headers)

    async def doubtful(self, request: Request, session: VideoSession) -> Response:
        """Answer with the next frame that a person should look at."""
        after = whole(request.query_params.get("after", "-1"), "after", -1)
        return answer_json(request, {"frame": await run(session.store_worker, session.doubtful, after)})

    # ---- changing it

    async def add_object(self, request: Request, session: VideoSession) -> Response:
        """Add an object."""
        body = await read(request, {"revision", "name", "color"})
        known = revision(body)
        created = await run(session.store_worker, session.add_object, known, body.get("name"), body.get("color"))
        return await answer_state(request, session, known, created=created)

    async def change_object(self, request: Request, session: VideoSession) -> Response:
        """Change an object's name, colour or flags."""
        body = await read(request, {"revision", "name", "color", "hidden", "locked"})
        changes = {key: body[key] for key in ("name", "color", "hidden", "locked") if body.get(key) is not None}
        for flag in ("hidden", "locked"):
            json_flag(flag, changes.get(flag, False))
        workers = session.store_worker
        if "locked" in changes:
            session.jobs.stop(PROPAGATE)
            workers = session.model_worker
        known = revision(body)
        await run(workers, session.change_object, request.path_params["obj"], known, changes)
        return await answer_state(request, session, known)

    async def delete_object(self, request: Request, session: VideoSession) -> Response:
        """Delete an object."""
        expected = whole(request.query_params.get("revision", ""), "revision", 0)
        session.jobs.stop(PROPAGATE)
        await run(session.model_worker, session.delete_object, request.path_params["obj"], expected)
        return await answer_state(request, session, expected)

    async def set_prompts(self, request: Request, session: VideoSession) -> Response:
        """Replace the prompts of an object on a frame."""
        body = await read(request, {"revision", "points", "box", "strokes", "imported"})
        expected = revision(body)
        given = {key: body[key] for key in ("points", "box", "strokes", "imported") if key in body}
        prompts = Prompts.from_json({"imported": bool(given.get("strokes")), **given})
        session.jobs.stop(PROPAGATE)
        where = request.path_params["obj"], request.path_params["t"]
        await run(session.model_worker, session.set_prompts, *where, expected, prompts)
        return await answer_state(request, session, expected)

    async def travel(self, move: str, request: Request, session: VideoSession) -> Response:
        """Take the last step back, or do the step again that was undone last: `move` is `undo` or `redo`."""
        body = await read(request, {"revision"})
        session.jobs.stop(PROPAGATE)
        known = revision(body)
        await run(session.model_worker, session.travel, move, known)
        return await answer_state(request, session, known)

    async def propagate(self, request: Request, session: VideoSession) -> Response:
        """Start a job that tracks objects."""
        body = await read(request, {"revision", "start", "direction", "stop", "objects"})
        objects, stop = listed_objects(body), body.get("stop")
        known = revision(body)
        await run(
            session.store_worker,
            session.start_propagation,
            known,
            start=json_integer("start", body.get("start")),
            direction=body.get("direction", "forward"),
            stop=None if stop is None else json_integer("stop", stop),
            obj_ids=objects,
        )
        return await answer_state(request, session, known)

    async def go_on(self, request: Request, session: VideoSession) -> Response:
        """Go on with the propagation that broke off, or give it up."""
        body = await read(request, {"revision", "give_up"})
        known = revision(body)
        if json_flag("give_up", body.get("give_up", False)):
            await run(session.store_worker, session.store.set_propagation, None)
        else:
            await run(session.store_worker, session.go_on, known)
        return await answer_state(request, session, known)

    async def export(self, request: Request, session: VideoSession) -> Response:
        """Start a job that writes masks to files."""
        body = await read(request, {"kind", "every", "revision"})
        every = 1 if body.get("every") is None else json_integer("every", body["every"])
        await run(session.store_worker, start_export, session, body.get("kind"), every)
        return await answer_state(request, session, known_to(body))

    async def import_masks(self, request: Request, session: VideoSession) -> Response:
        """Start a job that reads masks from files."""
        body = await read(request, {"folder", "prompts", "revision"})
        await run(session.store_worker, start_import, session, body.get("folder"), body.get("prompts", "first"))
        return await answer_state(request, session, known_to(body))

    async def cancel(self, request: Request, session: VideoSession) -> Response:
        """Ask the running job to end."""
        body = await read(request, {"revision"}) if await request.body() else {}
        session.jobs.stop()
        return await answer_state(request, session, known_to(body))


def static_files() -> dict[str, tuple[Path, str]]:
    """List the files of the page by their names below `static`, with their media types."""
    folder = Path(__file__).resolve().parents[1] / "static"
    return {
        file.relative_to(folder).as_posix(): (file, MEDIA_TYPES[file.suffix])
        for file in folder.rglob("*")
        if file.suffix in MEDIA_TYPES
    }
