"""Copying a mask to another frame: the mask of a still object needs no network."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from i2vpp.annotate.jobs import PROPAGATE
from i2vpp.annotate.problems import NotFoundError
from i2vpp.annotate.session import VideoSession
from i2vpp.annotate.storage.values import Prompts
from i2vpp.annotate.web.answers import WithSession, answer_state, read, revision, run
from i2vpp.errors import PromptError
from i2vpp.utils.json_values import json_integer


def copy_routes(with_session: WithSession) -> list[Route]:
    """Return the route that copies a mask.

    Args:
        with_session: makes a handler of one that is given the session of the video in the path.
    """
    path = "/api/videos/{id}/objects/{obj:int}/copy/{t:int}"
    return [Route(path, with_session(copy), methods=["POST"])]


async def copy(request: Request, session: VideoSession) -> Response:
    """Copy an object's mask to the frame in the path from another one, `source`."""
    body = await read(request, {"revision", "source"})
    known = revision(body)
    source = json_integer("source", body.get("source"))
    session.jobs.stop(PROPAGATE)
    where = request.path_params["obj"], request.path_params["t"]
    await run(session.model_worker, copy_mask, session, *where, revision=known, source=source)
    return await answer_state(request, session, known)


def copy_mask(session: VideoSession, obj_id: int, frame: int, *, revision: int, source: int) -> None:
    """Make an object's mask on one frame a prompt on another, in place of its prompts there; in `model_worker`.

    Args:
        session: the video.
        obj_id: the object.
        frame: the frame that gets the mask.
        revision: revision of the store that the wish was made in view of.
        source: the frame that has it.

    Raises:
        NotFoundError: there is no such object or frame, or no mask to copy.
        PromptError: the object is locked.
        StaleRevisionError: the store was changed since that revision.
    """
    session.check_frame(frame)
    session.check_frame(source)
    store = session.store
    info = next((info for info in store.objects() if info.id == obj_id), None)
    if info is None:
        raise NotFoundError(f"there is no object {obj_id}")
    if info.locked:
        raise PromptError(f"{info.name} is locked; unlock it first")
    mask = store.mask(obj_id, source)
    if mask is None:
        raise NotFoundError(f"{info.name} has no mask on frame {source} to copy")
    before = store.mask(obj_id, frame)
    prompted = bool(store.prompts_on(obj_id, frame))
    with store.edit(f"Copy: {info.name}, frame {source} to {frame}", expected=revision) as edit:
        edit.set_prompts(obj_id, frame, Prompts(imported=True))
        edit.set_mask(obj_id, frame, mask)
        if not prompted:
            edit.set_tracked(obj_id, frame, before)  # comes back without prompts
        edit.mark_stale(obj_id, frame)
    session.tell()
