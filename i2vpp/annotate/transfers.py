"""Exports and imports of an open video, as its jobs."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

from i2vpp.annotate.exports import KINDS, Footage, Kind, export
from i2vpp.annotate.imports import import_masks
from i2vpp.annotate.jobs import EXPORT, IMPORT, Job
from i2vpp.annotate.library import is_below
from i2vpp.annotate.problems import NotFoundError, RequestError
from i2vpp.annotate.session import VideoSession

EXPORT_FOLDER = "exports"
NAMES: dict[Kind, str] = {"sav": "SA-V masks", "davis": "DAVIS masks", "coco": "COCO RLE", "overlay": "overlay video"}
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
    session.jobs.start(
        Job(EXPORT, f"Export {NAMES[kind]}"), session.files_worker, lambda job: _export(job, session, kind, every)
    )


def _export(job: Job, session: VideoSession, kind: Kind, every: int) -> dict[str, Any]:
    output = session.context.output
    with closing(session.open_frames()) as source:
        footage = Footage(
            frames=session.frames,
            read_frame=source.__getitem__,
            fps=session.fps,
            time=source.time,
            frame_names=session.context.library.frame_names(session.video),
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
    return {"folder": folder.relative_to(output).as_posix(), "files": count}


def start_import(session: VideoSession, name: Any, prompted: Any) -> None:
    """Start the job that adds the objects of a folder of masks.

    Args:
        session: the video.
        name: name of the folder, below the opened folder or that of `--masks`.
        prompted: frames whose masks are prompts, too: `first` of each object, or `all`.

    Raises:
        NotFoundError: there is no such folder there.
        RequestError: the folder lies elsewhere, or an argument has a wrong type or value.
        BusyError: another job is running.
    """
    if not isinstance(name, str):
        raise RequestError(f"folder must be the name of a folder; got {name!r:.40}")
    if prompted not in PROMPTED:
        raise RequestError(f"prompts must be one of {', '.join(PROMPTED)}; got {prompted!r:.40}")
    folder = _find(session, name)
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


def _find(session: VideoSession, name: str) -> Path:
    """Return the folder of that name; nothing of it may lie outside the folders that masks may come from."""
    for root in session.context.mask_roots:
        folder = root / name
        if not is_below(root, folder):
            raise RequestError(f"{name!r:.200} lies outside the folders that masks may be imported from")
        if _is_folder(folder):
            if any(path.is_symlink() and not is_below(root, path) for path in folder.rglob("*")):
                raise RequestError(f"{name!r:.200} holds a link that leads out of the opened folder")
            return folder
    raise NotFoundError(f"there is no folder {name!r:.200}, neither in the opened folder nor in that of --masks")


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # a name that no file can have
        return False
