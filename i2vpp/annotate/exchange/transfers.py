"""Exports and imports of an open video, as its jobs."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

from i2vpp.annotate.exchange.exports import KINDS, export
from i2vpp.annotate.exchange.formats.base import Footage
from i2vpp.annotate.exchange.formats.registry import FORMATS
from i2vpp.annotate.exchange.imports import import_masks
from i2vpp.annotate.exchange.offers import EXPORT_FOLDER, find_source
from i2vpp.annotate.exchange.prompt_import import import_prompts, prompts_file
from i2vpp.annotate.jobs import EXPORT, IMPORT, Job
from i2vpp.annotate.library import shown_name
from i2vpp.annotate.problems import RequestError
from i2vpp.annotate.session import VideoSession

PROMPTED = ("first", "all")


def start_export(session: VideoSession, kind: Any, every: int) -> None:
    """Start the job that writes a video's masks to `exports/<video>/<kind>` of the output folder.

    An earlier export there is replaced.

    Args:
        session: the video.
        kind: kind of the files, see `export`.
        every: only every n-th frame.

    Raises:
        RequestError: an unknown kind.
        BusyError: another job is running.
    """
    if kind not in KINDS:
        raise RequestError(f"kind must be one of {', '.join(KINDS)}; got {kind!r:.40}")
    if every < 1:
        raise RequestError("every must be 1 or more")
    job = Job(EXPORT, f"Export {FORMATS[kind].title}")
    session.jobs.start(job, session.files_worker, lambda job: _export(job, session, kind, every))


def _export(job: Job, session: VideoSession, kind: str, every: int) -> dict[str, Any]:
    output = session.context.output
    with closing(session.open_frames()) as source:
        footage = Footage(
            frames=session.frames,
            read_frame=source.__getitem__,
            fps=session.fps,
            time=source.time,
            frame_names=session.context.library.frame_names(session.video),
            frame_files=session.context.library.frame_files(session.video),
        )
        folder = export(
            session.store,
            output / EXPORT_FOLDER / session.video.file_name / kind,
            kind,
            footage=footage,
            every=every,
            progress=lambda done, total: session.jobs.step(job, done, total),
            cancelled=lambda: job.stopping,
        )
    count = sum(1 for path in folder.rglob("*") if path.is_file())
    return {"folder": shown_name(folder.relative_to(output).as_posix()), "files": count}


def start_import(session: VideoSession, name: Any, prompted: Any) -> None:
    """Start the job that adds the objects of a folder of masks, or of a file.

    Args:
        session: the video.
        name: its name, below that of `--masks` or, if it holds no masks there, below the opened folder; or below
            `uploads/` or `exports/`.
        prompted: frames whose masks are prompts, too: `first` of each object, or `all`.

    Raises:
        NotFoundError: there is none there.
        RequestError: it lies elsewhere, or an argument has a wrong type or value.
        BusyError: another job is running.
    """
    if not isinstance(name, str):
        raise RequestError(f"folder must be the name of a folder or file; got {name!r:.40}")
    if prompted not in PROMPTED:
        raise RequestError(f"prompts must be one of {', '.join(PROMPTED)}; got {prompted!r:.40}")
    folder = find_source(session.context, name)
    if (prompts := prompts_file(folder)) is not None:
        job = Job(IMPORT, f"Import {folder.name}")
        session.jobs.start(job, session.model_worker, lambda job: import_prompts(session, prompts, job))
        return
    session.jobs.start(
        Job(IMPORT, f"Import {folder.name}"), session.files_worker, lambda job: _import(job, session, folder, prompted)
    )


def _import(job: Job, session: VideoSession, folder: Path, prompted: Any) -> dict[str, Any]:
    imported = import_masks(
        session.store,
        folder,
        frame_names=session.context.library.frame_names(session.video),
        prompts=prompted,
        progress=lambda done, total: session.jobs.step(job, done, total),
        cancelled=lambda: job.stopping,
    )
    return {"objects": [info.id for info in imported.objects], "masks": imported.masks}
