"""The part of the HTTP interface that is about review, ranges of frames, and whole tracks."""

from __future__ import annotations

from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from i2vpp.annotate import ranges
from i2vpp.annotate.jobs import PROPAGATE
from i2vpp.annotate.problems import RequestError
from i2vpp.annotate.session import VideoSession
from i2vpp.annotate.web.answers import WithSession, answer_state, read, revision, run
from i2vpp.utils.json_values import json_flag, json_integer


def track_routes(with_session: WithSession) -> list[Route]:
    """Return the routes.

    Args:
        with_session: makes a handler of one that is given the session of the video in the path.
    """
    video, obj = "/api/videos/{id}", "/api/videos/{id}/objects/{obj:int}"
    changes = {"clear": ranges.clear, "absent": ranges.declare_absent}
    return [
        Route(f"{video}/propagate-missing", with_session(propagate_missing), methods=["POST"]),
        Route(f"{video}/review", with_session(review), methods=["PUT"]),
        *(
            Route(f"{video}/ranges/{name}", with_session(partial(change_range, change)), methods=["POST"])
            for name, change in changes.items()
        ),
        Route(f"{obj}/copy/{{t:int}}", with_session(copy), methods=["POST"]),
        Route(f"{obj}/merge", with_session(merge), methods=["POST"]),
        Route(f"{obj}/cut", with_session(cut), methods=["POST"]),
        Route(f"{obj}/swap", with_session(swap), methods=["POST"]),
    ]


def listed_objects(body: dict[str, Any]) -> list[int] | None:
    """Return the ids in a body's `objects`, None for all; raise RequestError if they are none."""
    objects = body.get("objects")
    if objects is not None and not (isinstance(objects, list) and all(type(i) is int for i in objects)):
        raise RequestError("objects must be a list of ids, or null for all")
    return objects


def _span(body: dict[str, Any]) -> ranges.Span:
    first, last = (json_integer(key, body.get(key)) for key in ("first", "last"))
    return ranges.Span(first=first, last=last)


async def propagate_missing(request: Request, session: VideoSession) -> Response:
    """Start a job that tracks objects where their masks are missing or stale."""
    body = await read(request, {"revision", "objects"})
    known, objects = revision(body), listed_objects(body)
    await run(session.store_worker, session.start_missing, known, objects)
    return await answer_state(request, session, known)


async def review(request: Request, session: VideoSession) -> Response:
    """Accept objects on frames, or set them to do; also while a job runs."""
    body = await read(request, {"revision", "first", "last", "objects", "accepted"})
    known, span, objects = revision(body), _span(body), listed_objects(body)
    accepted = json_flag("accepted", body.get("accepted"))
    await run(session.store_worker, ranges.accept, session, known, span, objects, accepted=accepted)
    return await answer_state(request, session, known)


async def change_range(change: Any, request: Request, session: VideoSession) -> Response:
    """Change the masks of objects on frames by one of the functions of `ranges`."""
    body = await read(request, {"revision", "first", "last", "objects"})
    known, span, objects = revision(body), _span(body), listed_objects(body)
    session.jobs.check_idle()  # in the worker it would wait for the end of a propagation
    await run(session.model_worker, change, session, known, span, objects)
    return await answer_state(request, session, known)


async def copy(request: Request, session: VideoSession) -> Response:
    """Copy an object's mask to the frame in the path from another one, `source`."""
    body = await read(request, {"revision", "source"})
    known = revision(body)
    source = json_integer("source", body.get("source"))
    session.jobs.stop(PROPAGATE)
    where = request.path_params["obj"], request.path_params["t"]
    await run(session.model_worker, ranges.copy_mask, session, *where, revision=known, source=source)
    return await answer_state(request, session, known)


async def merge(request: Request, session: VideoSession) -> Response:
    """Add the track of another object to an object."""
    body = await read(request, {"revision", "other"})
    known, other = revision(body), json_integer("other", body.get("other"))
    session.jobs.check_idle()
    await run(session.model_worker, ranges.merge, session, known, request.path_params["obj"], other)
    return await answer_state(request, session, known)


async def cut(request: Request, session: VideoSession) -> Response:
    """Make a new object of what an object is from a frame on."""
    body = await read(request, {"revision", "frame"})
    known, frame = revision(body), json_integer("frame", body.get("frame"))
    session.jobs.check_idle()
    created = await run(session.model_worker, ranges.cut, session, known, request.path_params["obj"], frame)
    return await answer_state(request, session, known, created=created)


async def swap(request: Request, session: VideoSession) -> Response:
    """Exchange the tracks of two objects from a frame on."""
    body = await read(request, {"revision", "other", "frame"})
    known = revision(body)
    other, frame = (json_integer(key, body.get(key)) for key in ("other", "frame"))
    session.jobs.check_idle()
    await run(session.model_worker, ranges.swap, session, known, request.path_params["obj"], other, frame)
    return await answer_state(request, session, known)
