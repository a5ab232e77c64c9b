"""The part of the HTTP interface that is about files: formats, downloads, uploads, and what can be imported."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from i2vpp.annotate.exchange.formats.registry import FORMATS
from i2vpp.annotate.exchange.offers import EXPORT_FOLDER, offered
from i2vpp.annotate.exchange.uploads import UPLOAD_FOLDER, receive, target_of
from i2vpp.annotate.exchange.zip_stream import zip_pieces
from i2vpp.annotate.problems import NotFoundError
from i2vpp.annotate.session import VideoSession
from i2vpp.annotate.web.answers import WithSession, answer_json, run
from i2vpp.annotate.workspace import Workspace


def exchange_routes(workspace: Workspace, with_session: WithSession) -> list[Route]:
    """Return the routes.

    Args:
        workspace: the videos.
        with_session: makes a handler of one that is given the session of the video in the path.
    """

    async def upload(request: Request) -> Response:
        """Take a file in, and say what it is: a video of the list, or masks to import."""
        library = workspace.library
        target = target_of(request.path_params["name"], library, workspace.output)
        name = await receive(request.stream(), target)
        if target.parent != library.root:
            return answer_json(request, {"masks": f"{UPLOAD_FOLDER}/{name}"})
        videos = await workspace.list_again()
        video = next((one for one in videos if one.name == name), None)
        return answer_json(request, {"video": None if video is None else video.id})

    return [
        Route("/api/formats", formats),
        Route("/api/uploads/{name}", upload, methods=["PUT"]),
        Route("/api/videos/{id}/importable", with_session(importable)),
        Route("/api/videos/{id}/exports/{kind}.zip", with_session(download)),
    ]


async def formats(request: Request) -> Response:
    """List the formats of exports."""
    listed = [{"name": one.name, "title": one.title, "hint": one.hint} for one in FORMATS.values()]
    return answer_json(request, {"formats": listed})


async def importable(request: Request, session: VideoSession) -> Response:
    """List what masks can be imported from."""
    return answer_json(request, {"sources": await run(session.store_worker, offered, session)})


async def download(request: Request, session: VideoSession) -> Response:
    """Send the latest export of a format as a zip."""
    kind = request.path_params["kind"]
    folder = session.context.output / EXPORT_FOLDER / session.video.file_name / kind
    if kind not in FORMATS or not folder.is_dir():
        raise NotFoundError("there is no such export; export first")
    name = f"{Path(session.video.name).stem}-{kind}".encode("utf-8", "replace").decode()
    headers = {
        "content-disposition": f"attachment; filename*=utf-8''{quote(name)}.zip",
        "cache-control": "no-store",
    }
    return StreamingResponse(zip_pieces(folder, name), media_type="application/zip", headers=headers)
