"""The part of the HTTP interface that is about labels."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from i2vpp.annotate.session import VideoSession
from i2vpp.annotate.web.answers import WithSession, answer_state, read, revision, run
from i2vpp.utils.json_values import json_integer


def label_routes(with_session: WithSession) -> list[Route]:
    """Return the routes.

    Args:
        with_session: makes a handler of one that is given the session of the video in the path.
    """
    labels = "/api/videos/{id}/labels"
    return [
        Route(labels, with_session(add_label), methods=["POST"]),
        Route(f"{labels}/{{label:int}}", with_session(change_label), methods=["PATCH"]),
        Route(f"{labels}/{{label:int}}", with_session(delete_label), methods=["DELETE"]),
        Route("/api/videos/{id}/objects/{obj:int}/label", with_session(set_label), methods=["PUT"]),
    ]


async def add_label(request: Request, session: VideoSession) -> Response:
    """Add a label, and give it to an object in the same step, if one is named."""
    body = await read(request, {"revision", "name", "color", "object"})
    obj_id = None if body.get("object") is None else json_integer("object", body["object"])
    choice = body.get("name"), body.get("color")
    known = revision(body)
    created = await run(session.store_worker, _add, session, known, choice, obj_id)
    return await answer_state(request, session, known, created=created)


def _add(session: VideoSession, expected: int, choice: tuple[Any, Any], obj_id: int | None) -> int:
    with session.store.edit("Add class", expected=expected) as edit:
        label = edit.add_label(*choice)
        if obj_id is not None:
            edit.set_label(obj_id, label.number)
    session.tell()
    return label.number


async def change_label(request: Request, session: VideoSession) -> Response:
    """Change the name or the colour of a label."""
    body = await read(request, {"revision", "name", "color"})
    changes = {key: body[key] for key in ("name", "color") if body.get(key) is not None}
    known = revision(body)
    await run(session.store_worker, _change, session, known, request.path_params["label"], changes)
    return await answer_state(request, session, known)


def _change(session: VideoSession, expected: int, number: int, changes: dict[str, Any]) -> None:
    with session.store.edit("Change class", expected=expected) as edit:
        edit.change_label(number, **changes)
    session.tell()


async def delete_label(request: Request, session: VideoSession) -> Response:
    """Delete a label; its objects have none then."""
    body = await read(request, {"revision"})
    known = revision(body)
    await run(session.store_worker, _delete, session, known, request.path_params["label"])
    return await answer_state(request, session, known)


def _delete(session: VideoSession, expected: int, number: int) -> None:
    with session.store.edit("Delete class", expected=expected) as edit:
        edit.delete_label(number)
    session.tell()


async def set_label(request: Request, session: VideoSession) -> Response:
    """Give an object a label, by its number, or none, by 0."""
    body = await read(request, {"revision", "label"})
    number = json_integer("label", body.get("label")) or None
    known = revision(body)
    await run(session.store_worker, _set, session, known, request.path_params["obj"], number)
    return await answer_state(request, session, known)


def _set(session: VideoSession, expected: int, obj_id: int, number: int | None) -> None:
    with session.store.edit("Change class", expected=expected) as edit:
        edit.set_label(obj_id, number)
    session.tell()
