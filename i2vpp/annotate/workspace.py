"""All videos of a server: which of them are open, and what the list shows of the others."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from i2vpp.annotate.errors import AnnotationError
from i2vpp.annotate.events import Events
from i2vpp.annotate.frames import FrameReader, JpegCache
from i2vpp.annotate.library import Library, Video
from i2vpp.annotate.problems import BusyError, NotFoundError, Problems
from i2vpp.annotate.session import ServerContext, VideoSession
from i2vpp.annotate.storage.cells import UNTOUCHED
from i2vpp.annotate.storage.labels import LabelChoice
from i2vpp.annotate.storage.store import summarize
from i2vpp.annotate.storage.values import Summary
from i2vpp.annotate.tracking.model import Model
from i2vpp.annotate.workers import Workers
from i2vpp.errors import I2VPPError

MAX_OPEN = 3
"""Open videos; each holds decoded frames and the network's memory. The least recently used is closed for another."""

log = logging.getLogger(__name__)

THUMBNAIL_WIDTH = 240
CLOSING_SECONDS = 0.8
LIST_SECONDS = 2.0  # the folder is listed again at most so often
ERROR_SECONDS = 60.0  # for which the list shows why a video could not be opened


class Workspace:
    """The videos of a library, opened when they are asked for. To be used in one event loop.

    Args:
        library: the videos.
        output: folder of annotations and exports.
        model: the network.
        masks: another folder that masks may be imported from.
        labels: labels that every video gets.
        max_open: how many videos are open at most.
    """

    def __init__(
        self,
        library: Library,
        output: Path,
        model: Model,
        *,
        masks: Path | None = None,
        labels: Sequence[LabelChoice] = (),
        max_open: int = MAX_OPEN,
    ) -> None:
        self.library = library
        self.output = output
        self.model = model
        self.events = Events()
        self.problems = Problems(library.root, [output, *([] if masks is None else [masks]), Path.cwd(), Path.home()])
        self._max_open = max_open
        self._context = ServerContext(
            library=library,
            output=output,
            masks=masks,
            model=model,
            cache=JpegCache(),
            problems=self.problems,
            send=self.events.send,
            labels=labels,
        )
        self._open: OrderedDict[str, VideoSession] = OrderedDict()  # the latest used last
        self._videos = {video.id: video for video in library.videos}
        self._gone: set[str] = set()  # ids of videos that were listed once
        self._listed = time.monotonic()
        self._opening: dict[str, Video] = {}
        self._users: dict[str, int] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._errors: dict[str, tuple[float, str]] = {}  # when and why, by id, videos could not be opened
        self._sizes: dict[str, dict[str, Any]] = {}  # what the list shows, by id, of videos that have been open
        self._summaries: dict[str, tuple[tuple[int, ...], Summary]] = {}
        self._library_workers = Workers("i2vpp-library", 2)
        self._thumbnail_workers = Workers("i2vpp-thumbnails", 2)
        self._leaving: set[Future[None]] = set()

    def start(self) -> None:
        """Begin to send events and to build the network."""
        self.events.start()
        self.model.start(self._tell_model)

    async def stop(self) -> None:
        """Close everything. Running jobs are stopped and their results kept; a step of the network may go on."""
        self.events.close()
        for video_id in list(self._open):
            self._leaving.add(self._open.pop(video_id).close())
        self._library_workers.close()
        self._thumbnail_workers.close()
        end = time.monotonic() + CLOSING_SECONDS
        while not self.stopped and time.monotonic() < end:
            await asyncio.sleep(0.02)

    @property
    def stopped(self) -> bool:
        """Whether all videos that were closed have freed what they held."""
        return all(future.done() for future in self._leaving)

    def _tell_model(self) -> None:
        about = self.model.describe()
        if "error" in about:
            log.warning("%s", about["error"])
        self.events.send(type="model", model=self.describe_model())

    def describe_model(self) -> dict[str, Any]:
        """Return what pages show of the network."""
        about = self.model.describe()
        return {**about, "error": self.problems.hide(about["error"])} if "error" in about else about

    # ---- open videos

    @asynccontextmanager
    async def use(self, video_id: str) -> AsyncIterator[VideoSession]:
        """Hold a video open, opening it first if it is not.

        Raises:
            NotFoundError: there is no such video.
            BusyError: too many videos are busy.
            I2VPPError: it cannot be opened.
        """
        video = self._video(video_id)
        async with self._lock(video_id):
            session = self._open.get(video_id) or await self._open_session(video)
            self._open.move_to_end(video_id)
            self._users[video_id] = self._users.get(video_id, 0) + 1
        try:
            yield session
        finally:
            self._users[video_id] -= 1

    async def close(self, video_id: str) -> None:
        """Stop a video's job and close it once no request uses it. It opens again when it is next asked for."""
        self._video(video_id)
        async with self._lock(video_id):
            session = self._open.get(video_id)
            if session is None:
                return
            session.jobs.stop()
            while self._users.get(video_id):
                await asyncio.sleep(0.02)
            await self._close(video_id)
        self.events.send(type="video", id=video_id, revision=None)

    async def _open_session(self, video: Video) -> VideoSession:
        if len(self._open) + len(self._opening) >= self._max_open:
            await self._make_room()
        self._opening[video.id] = video
        try:
            session = await asyncio.wrap_future(self._library_workers.submit(VideoSession, video, self._context))
        except (I2VPPError, OSError) as error:
            self._note_error(video, error)
            raise
        finally:
            del self._opening[video.id]
        self._errors.pop(video.id, None)
        self._sizes[video.id] = {
            "frames": session.frames, "width": session.width, "height": session.height, "fps": session.fps
        }  # fmt: skip
        self._open[video.id] = session
        return session

    async def _make_room(self) -> None:
        for video_id, session in self._open.items():
            if not session.jobs.busy and not self._users.get(video_id) and not self._lock(video_id).locked():
                async with self._lock(video_id):
                    await self._close(video_id)
                return
        raise BusyError(f"{len(self._open)} videos are open and busy; close one, or wait")

    async def _close(self, video_id: str) -> None:
        future = self._open.pop(video_id).close()
        self._leaving.add(future)
        await asyncio.wrap_future(future)
        self._leaving.discard(future)

    def _lock(self, video_id: str) -> asyncio.Lock:
        return self._locks.setdefault(video_id, asyncio.Lock())

    def _video(self, video_id: str) -> Video:
        if video_id in self._videos:
            return self._videos[video_id]
        if video_id in self._gone:
            raise NotFoundError("this video was changed on the disk, or is gone; choose it in the list again")
        raise NotFoundError("there is no such video")

    def _note_error(self, video: Video, error: BaseException) -> None:
        self._errors[video.id] = time.monotonic(), self.problems.words(error)

    def _error(self, video: Video) -> str | None:
        """Return why a video could not be opened, for a while after that was tried."""
        when, words = self._errors.get(video.id, (0.0, None))
        return words if words is not None and time.monotonic() - when < ERROR_SECONDS else None

    # ---- the list

    async def list_again(self) -> list[Video]:
        """Look what videos there are now; return them."""
        self._listed = time.monotonic()
        self._take_over(await asyncio.wrap_future(self._library_workers.submit(self.library.listed_again)))
        return list(self._videos.values())

    async def describe(self) -> list[dict[str, Any]]:
        """Return what the list of videos shows."""
        if time.monotonic() - self._listed > LIST_SECONDS:
            await self.list_again()
        videos = list(self._videos.values())
        return await asyncio.wrap_future(self._library_workers.submit(self._describe, videos, dict(self._open)))

    def _take_over(self, found: list[Video]) -> None:
        """Have the list follow the folder; videos that are open keep their ids, whatever happens to their files."""
        used = {session.video.path: session.video for session in self._open.values()}
        used |= {video.path: video for video in self._opening.values()}
        listed = [used.pop(video.path, video) for video in found]
        videos = {video.id: video for video in [*listed, *used.values()]}
        self._gone |= self._videos.keys() - videos.keys()
        self._videos = videos

    def _describe(self, videos: list[Video], opened: dict[str, VideoSession]) -> list[dict[str, Any]]:
        entries = []
        for video in videos:
            session = opened.get(video.id)
            error = self._error(video)
            summary: Summary | None = None
            try:
                summary = session.store.summary() if session is not None else self._summary(video)
            except AnnotationError as problem:
                error = error or self.problems.words(problem)
            entries.append(
                {"id": video.id, "name": video.shown_name, "opened": session is not None,
                 **self._size(video, summary), "error": error}
            )  # fmt: skip
        return entries

    def _size(self, video: Video, summary: Summary | None) -> dict[str, Any]:
        """Return size and progress as far as they are known: from this run, or else from the store."""
        stored = {key: getattr(summary, key, None) for key in ("frames", "width", "height")}
        size = self._sizes.get(video.id, {**stored, "fps": None})
        return {
            **size,
            "objects": getattr(summary, "objects", 0),
            "annotated": getattr(summary, "annotated", 0),
            "state": getattr(summary, "state", UNTOUCHED),
        }

    def _summary(self, video: Video) -> Summary | None:
        """Read the summary from the store of a video that is not open, unless the file has not changed since."""
        path = self._context.store_path(video)
        if not path.exists():
            return None
        stat = path.stat()
        version = (stat.st_mtime_ns, stat.st_size)
        known = self._summaries.get(video.id)
        if known is None or known[0] != version:
            known = self._summaries[video.id] = (version, summarize(path))
        return known[1]

    def thumbnail(self, video_id: str) -> Future[bytes]:
        """Return a future of a small JPEG of a video's first frame; the video is closed again after that."""
        return self._thumbnail_workers.submit(self._thumbnail, self._video(video_id))

    def _thumbnail(self, video: Video) -> bytes:
        reader = FrameReader(video.id, lambda: self.library.open(video), self._context.cache)
        try:
            return reader.held(0, THUMBNAIL_WIDTH) or reader.jpeg(0, THUMBNAIL_WIDTH)
        except I2VPPError as error:
            self._note_error(video, error)
            raise
        finally:
            reader.close()
