"""The state of a run on disk: how its masks are made, which jobs are done or failed, and which are being made.

OUT/.run/run.json                how the run is made; what changes masks must be the same on a restart
OUT/.run/units/<job>.json        the `JobRecord` of a finished job, or its error; called units since the first version,
                                 so that runs of all versions can be resumed and scored
OUT/.run/locks/<job>.lock        locked by the process that makes the job; the system unlocks it when the process ends
"""

from __future__ import annotations

import json
import platform
import shutil
import socket
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import torch
from filelock import FileLock, Timeout

from i2vpp import __version__
from i2vpp.errors import RunError
from i2vpp.runs.settings import RUN_FOLDER, flat_settings
from i2vpp.utils.files import atomic_write


@dataclass(frozen=True, kw_only=True)
class Job:
    """What one process makes in one go: a video or an object with all its masks.

    Args:
        name: path below the output folder of the folder that it makes: `<video>` or `<video>/<object>`.
        frames: number of frames to be tracked; the job's weight in the progress bar.
    """

    name: str
    frames: int


@dataclass(frozen=True, kw_only=True)
class JobRecord:
    """What a finished job took; `i2vpp.runs.runner.Meter` makes it.

    Args:
        frames: number of tracked frames; 0 for a job that had nothing to do and wrote nothing.
        seconds: from reading the first frame to the last mask; loading weights is not counted.
        peak_memory: in bytes: of the device on CUDA, otherwise the resident set of the process.
        device: name of the device.
        note: what the user should know, such as why there was nothing to do; reported at the end of the run.
    """

    frames: int
    seconds: float
    peak_memory: int
    device: str = ""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a job could not be made.

    Args:
        error: type and message of the exception.
        attempt: random text that differs between attempts, so that a new failure can be told from an earlier one.
    """

    error: str
    attempt: str


class DoJob(Protocol):
    """Makes the jobs of one process, one after the other."""

    def __call__(self, job: Job, folder: Path, on_frame: Callable[[], None]) -> JobRecord:
        """Make the files of a job.

        Args:
            job: what to make.
            folder: gets the files; it exists and is empty, and gets its final name when the job is done.
            on_frame: to be called after each frame.

        Returns:
            What the job took.
        """


class RunStore:
    """The state of a run on disk, shared by all processes and machines that work on it.

    Args:
        out: output folder of the run.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self._run = out / RUN_FOLDER
        self._records = self._run / "units"

    def open(
        self, settings: Mapping[str, object], jobs: Sequence[Job], *, overwrite: bool = False
    ) -> dict[str, Failure]:
        """Begin the run, or go on with it.

        Args:
            settings: what the masks depend on; plain data.
            jobs: of this start; a later start may have other jobs.
            overwrite: delete what an earlier run has made.

        Returns:
            Failures of earlier starts by the name of the job; these jobs are tried again.

        Raises:
            RunError: the folder has other contents, or was made with other settings; nothing is changed then.
        """
        _check_names(jobs)
        self.prepare(overwrite=overwrite)
        with FileLock(self._run / "lock"):
            self._check_settings(json.loads(json.dumps(settings)))
        states = {job.name: self.look(job) for job in jobs}
        return {name: state for name, state in states.items() if isinstance(state, Failure)}

    def prepare(self, *, overwrite: bool = False) -> None:
        """Make the folder; with `overwrite`, delete what runs have made in it.

        Raises:
            RunError: the folder has other contents, or processes work in it that is to be overwritten.
        """
        if self.out.exists() and not self.out.is_dir():
            raise RunError(f"the output {self.out} is a file; name a folder")
        # The order matters: a process that begins the run at the same time makes `.run` before anything else, so that
        # `.run` is there whenever something else is.
        if self.out.is_dir() and any(self.out.iterdir()) and not self._run.is_dir():
            raise RunError(
                f"the output folder {self.out} is not empty and was not made by an evaluation (it has no "
                f"{RUN_FOLDER}); name another one, which is made if need be"
            )
        self._run.mkdir(parents=True, exist_ok=True)
        if overwrite:
            with FileLock(self._run / "lock"):
                self._clear()

    def look(self, job: Job) -> JobRecord | Failure | None:
        """Return the record of a finished job, or why it failed; None if it is still to be made.

        Raises:
            RunError: its record is damaged.
        """
        path = self._record(job)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            state = Failure(**content) if "error" in content else JobRecord(**content)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise RunError(f"{path} is damaged ({error}); delete it, and its job is made again") from error
        if isinstance(state, JobRecord) and state.frames and not (self.out / job.name).is_dir():
            return None
        return state

    @contextmanager
    def claim(self, name: str) -> Iterator[bool]:
        """Lock the job of a name in the block; yields False, and locks nothing, if another process has locked it."""
        path = self._run / "locks" / f"{name}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, timeout=0)
        try:
            lock.acquire()
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def make(self, job: Job, do_job: DoJob, on_frame: Callable[[], None]) -> JobRecord:
        """Make a job in a temporary folder, rename the folder and record the job; a failure leaves no files.

        Args:
            job: to be made; locked by `claim`.
            do_job: makes its files.
            on_frame: called after each frame.

        Returns:
            What `do_job` returned.
        """
        folder = self.out / job.name
        partial = _partial(folder)
        _remove(partial)
        partial.mkdir(parents=True)
        try:
            record = do_job(job, partial, on_frame)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        _remove(folder)  # left by an attempt that was ended between the renaming and the record
        if record.frames:
            partial.rename(folder)
        else:
            _remove(partial)
        _write_json(self._record(job), asdict(record))
        return record

    def fail(self, job: Job, error: BaseException) -> None:
        """Record why a job could not be made.

        Args:
            job: locked by `claim`.
            error: what `make` raised.

        Raises:
            RunError: the disk is full or broken; the message says why the job failed, too.
        """
        text = f"{type(error).__name__}: {' '.join(str(error).split()) or 'no message'}"
        try:
            _write_json(self._record(job), asdict(Failure(error=text, attempt=uuid.uuid4().hex)))
        except OSError as problem:
            raise RunError(
                f"{job.name} failed ({text}), which cannot be recorded in {self.out} ({problem}); when that is mended, "
                "the same command goes on"
            ) from error

    def _record(self, job: Job) -> Path:
        return self._records / f"{job.name}.json"

    def _check_settings(self, settings: Mapping[str, Any]) -> None:
        path = self._run / "run.json"
        earlier = self._settings(path) if path.exists() else None
        if earlier not in (None, settings) and not any(self._records.rglob("*.json")):
            self._clear()  # the earlier start has made nothing, so its settings need not be kept
            earlier = None
        if earlier is None:
            _write_json(path, {"settings": settings, **_circumstances()})
            return
        then, now = flat_settings(earlier), flat_settings(settings)
        if different := [key for key in {**then, **now} if _shown(then, key) != _shown(now, key)]:
            changes = "; ".join(f"{key} was {_shown(then, key)} and is now {_shown(now, key)}" for key in different)
            raise RunError(
                f"{self.out} holds masks that were made otherwise: {changes}. Name another output folder, or pass "
                "--overwrite to delete what is there and begin anew"
            )

    @staticmethod
    def _settings(path: Path) -> Mapping[str, Any]:
        try:
            settings: dict[str, Any] = dict(json.loads(path.read_text(encoding="utf-8"))["settings"])
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"{path} is damaged ({error!r}); name another output, or pass --overwrite") from error
        return settings

    def _clear(self) -> None:
        """Delete what runs have made here: the folders of all jobs that have a lock file, as every begun job has."""
        locks = self._run / "locks"
        names = [path.relative_to(locks).as_posix().removesuffix(".lock") for path in locks.rglob("*.lock")]
        for name in names:
            with self.claim(name) as mine:
                if not mine:
                    raise RunError(
                        f"{self.out} cannot be begun anew: another process is making {name} there now; end it first"
                    )
        (self._run / "run.json").unlink(missing_ok=True)
        _remove(self._records)
        for name in names:
            folder = self.out / name
            _remove(folder)
            _remove(_partial(folder))
            if folder.parent != self.out and folder.parent.is_dir() and not any(folder.parent.iterdir()):
                folder.parent.rmdir()


def _check_names(jobs: Sequence[Job]) -> None:
    names = {job.name for job in jobs}
    if len(names) < len(jobs):
        raise RunError("two jobs have one name; names of videos and objects must differ")
    for name in names:
        path = PurePosixPath(name)
        if not path.parts or path.is_absolute() or any(part.startswith(".") for part in path.parts):
            raise RunError(f"{name!r} cannot name a job: a video's or object's name may not begin with a dot or slash")
        if above := names.intersection(parent.as_posix() for parent in path.parents):
            raise RunError(f"job {name} would lie in the folder of job {above.pop()}")


def _circumstances() -> dict[str, Any]:
    """Return what is recorded of a run, but need not be the same on a restart."""
    return {
        "command": sys.argv,
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "versions": {"i2vpp": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }


def _shown(values: Mapping[str, Any], key: str) -> str:
    return json.dumps(values[key]) if key in values else "not set"


def _write_json(path: Path, content: object) -> None:
    with atomic_write(path, "w") as file:
        file.write(json.dumps(content, indent=2) + "\n")


def _partial(folder: Path) -> Path:
    """Return where a folder is while it is made."""
    return folder.with_name(f".{folder.name}.partial")


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
