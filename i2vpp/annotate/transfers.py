"""Exports and imports of an open video, as its jobs."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

from i2vpp.annotate.exports import KINDS, export
from i2vpp.annotate.formats.base import Footage
from i2vpp.annotate.formats.registry import FORMATS
from i2vpp.annotate.imports import import_masks, may_hold_masks
from i2vpp.annotate.jobs import EXPORT, IMPORT, Job
from i2vpp.annotate.library import is_below, shown_name
from i2vpp.annotate.problems import NotFoundError, RequestError
from i2vpp.annotate.session import VideoSession

EXPORT_FOLDER = "exports"
PROMPTED = ("first", "all")
MOST_FOLDERS = 200  # that the page offers


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
    """Start the job that adds the objects of a folder of masks.

    Args:
        session: the video.
        name: name of the folder, below that of `--masks` or, if it holds no masks there, below the opened folder.
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
    others = False
    for root in session.context.mask_roots:
        folder = root / name
        if not is_below(root, folder):
            raise RequestError(f"{name!r:.200} lies outside the folders that masks may be imported from")
        if not _is_folder(folder):
            continue
        if not may_hold_masks(folder):
            others = True
            continue
        if any(path.is_symlink() and not is_below(root, path) for path in folder.rglob("*")):
            raise RequestError(f"{name!r:.200} holds a link that leads out of the opened folder")
        return folder
    if others:
        raise NotFoundError(
            f"the folder {name!r:.200} holds no masks: they are PNGs, or folders of PNGs named by numbers"
        )
    raise NotFoundError(f"there is no folder {name!r:.200}, neither in that of --masks nor in the opened folder")


def mask_folders(session: VideoSession) -> list[str]:
    """Return the names of folders that masks could be imported from, those called like the video first.

    Only the folders right below those that masks may come from are listed, and the video's frames are not.

    Args:
        session: the video.
    """
    found: dict[str, None] = {}
    for root in session.context.mask_roots:
        try:
            folders = sorted(path for path in root.iterdir() if path.is_dir() and is_below(root, path))
        except OSError:
            continue
        named = [path for path in folders if path != session.video.path and may_hold_masks(path)]
        found |= dict.fromkeys(shown_name(path.name) for path in named)
    stem = session.video.path.stem
    return sorted(found, key=lambda name: (name not in (session.video.name, stem), name))[:MOST_FOLDERS]


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # a name that no file can have
        return False
