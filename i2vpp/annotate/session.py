"""One open video: its store, its frames, and the memory of the network."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from i2vpp.annotate.frames import FrameReader, JpegCache
from i2vpp.annotate.jobs import PROPAGATE, Job, JobRunner
from i2vpp.annotate.labels import LabelChoice
from i2vpp.annotate.library import Library, Video
from i2vpp.annotate.model import Model
from i2vpp.annotate.problems import EXPECTED, NotFoundError, Problems
from i2vpp.annotate.prompting import Prompter
from i2vpp.annotate.store import Annotation
from i2vpp.annotate.times import frame_durations
from i2vpp.annotate.tracks import ModelTracks
from i2vpp.annotate.values import ObjectInfo, Prompts
from i2vpp.annotate.views import masks, news, remaining, state
from i2vpp.annotate.workers import Workers
from i2vpp.errors import PromptError
from i2vpp.session.video import FrameSource

DIRECTIONS = ("forward", "backward", "both")
STORE_SUFFIX = ".sqlite"


@dataclass(frozen=True, kw_only=True)
class ServerContext:
    """What all videos of a server share.

    Args:
        library: the videos.
        output: folder of the stores and exports.
        masks: another folder that masks may be imported from.
        model: the network.
        cache: cache of JPEGs.
        problems: finds the messages for errors.
        send: sends an event to all pages, see `Events.send`.
        labels: every video gets them, beside those that it has.
    """

    library: Library
    output: Path
    masks: Path | None
    model: Model
    cache: JpegCache
    problems: Problems
    send: Callable[..., None]
    labels: Sequence[LabelChoice] = ()

    @property
    def mask_roots(self) -> list[Path]:
        """The folders that masks may be imported from; the one that was named for that comes first."""
        return [*([] if self.masks is None else [self.masks.resolve()]), self.library.root]

    def store_path(self, video: Video) -> Path:
        """Return the file of a video's annotation."""
        return self.output / f"{video.file_name}{STORE_SUFFIX}"


class VideoSession:
    """An open video. Its methods block: call each in the worker that the comment above its group names.

    Args:
        video: the video.
        context: what all videos share.

    Raises:
        VideoError: it cannot be read.
        AnnotationError: its store cannot be used.
    """

    def __init__(self, video: Video, context: ServerContext) -> None:
        self.video = video
        self.context = context
        self.frame_reader = FrameReader(video.id, self.open_frames, context.cache)
        self.thumbnail_reader = FrameReader(video.id, self.open_frames, context.cache)
        self.model_worker = Workers(f"i2vpp-model-{video.id}")  # runs the network and what has to wait for it
        self.store_worker = Workers(f"i2vpp-store-{video.id}")  # short reads and changes of the store
        self.frame_worker = Workers(f"i2vpp-frames-{video.id}")
        self.thumbnail_worker = Workers(f"i2vpp-thumbnails-{video.id}")
        self.files_worker = Workers(f"i2vpp-files-{video.id}")  # exports and imports
        self._tracks: ModelTracks | None = None
        self._closing = False  # then a propagation breaks off, as when the server is killed
        self.jobs = JobRunner(self._tell_job, self.tell, context.problems)
        try:
            source = self.frame_reader.source
            self.height, self.width, self.fps = source.height, source.width, source.fps
            self.frames = len(source)
            self.durations = frame_durations(source)
            self.store = Annotation(
                context.store_path(video), height=self.height, width=self.width, frames=self.frames, video=video.name
            )
            self.store.offer_labels(context.labels)
        except BaseException:
            self.frame_reader.close()
            raise
        self._told = self.store.revision
        self._prompter = Prompter(self.store, self._ready_tracks)

    def open_frames(self) -> FrameSource:
        """Open the frames once more: every thread reads from a source of its own."""
        return self.context.library.open(self.video)

    @property
    def has_tracks(self) -> bool:
        """Whether the network holds memory of this video."""
        return self._tracks is not None

    def close(self) -> Future[None]:
        """Stop the job, keep what is done, and free everything. Returns at once; the future is done at the end."""
        self._closing = True
        self.jobs.stop()
        closed = self.model_worker.submit(self._close)
        self.model_worker.close()
        return closed

    def _close(self) -> None:
        for reader, worker in ((self.frame_reader, self.frame_worker), (self.thumbnail_reader, self.thumbnail_worker)):
            worker.submit(reader.close)
            worker.close()
        for worker in (self.store_worker, self.files_worker):
            worker.close()
        self.store_worker.join()
        self.files_worker.join()
        try:
            self._drop_tracks()
        finally:
            self.store.close()

    def tell(self, **more: Any) -> None:
        """Tell all pages what changed in the store since this was last called, see `views.news`."""
        with self.store.still():
            event = news(self, self._told)
            self._told = event["revision"]
        self.context.send(type="video", **event, **more)

    # ---- reading; in `store_worker`

    def state(self, since: int | None = None) -> dict[str, Any]:
        """Return what a page shows of the video, see `views.state`."""
        return state(self, since)

    def masks(self, frame: int) -> bytes:
        """Return a frame's masks, see `views.masks`."""
        self.check_frame(frame)
        return masks(self.store, frame)

    def doubtful(self, after: int) -> int | None:
        """Return the next frame that a person should look at; hidden and locked objects are ignored."""
        counted = [info.id for info in self.store.objects() if not (info.hidden or info.locked)]
        return self.store.doubtful(after, obj_ids=counted)

    def check_frame(self, frame: int) -> None:
        """Raise NotFoundError if there is no such frame."""
        if not 0 <= frame < self.frames:
            raise NotFoundError(f"there is no frame {frame}; the video has frames 0 to {self.frames - 1}")

    # ---- objects; in `store_worker`, or in `model_worker` where the network has to forget something

    def add_object(self, revision: int, name: str | None, color: str | None) -> int:
        """Add an object and return its id.

        Args:
            revision: revision of the store that the wish was made in view of.
            name: name, see `Edit.add_object`.
            color: colour, see `Edit.add_object`.
        """
        with self.store.edit("Add object", expected=revision) as edit:
            info = edit.add_object(name, color)
        self.tell()
        return info.id

    def change_object(self, obj_id: int, revision: int, changes: dict[str, Any]) -> None:
        """Change fields of an object. To lock it, stop the propagation first and call this in `model_worker`.

        Args:
            obj_id: the object.
            revision: revision of the store that the wish was made in view of.
            changes: any of `name`, `color`, `hidden` and `locked`.
        """
        info = self._object(obj_id)
        with self.store.edit(f"Change {info.name}", expected=revision) as edit:
            edit.change_object(obj_id, **changes)
        self.tell()

    def delete_object(self, obj_id: int, revision: int) -> None:
        """Delete an object with all its masks; in `model_worker`.

        Args:
            obj_id: the object.
            revision: revision of the store that the wish was made in view of.
        """
        info = self._object(obj_id)
        with self.store.edit(f"Delete {info.name}", expected=revision) as edit:
            edit.delete_object(obj_id)
        self._forget([obj_id])
        self.tell()

    # ---- what needs the network; in `model_worker`

    def set_prompts(
        self, obj_id: int, frame: int, revision: int, prompts: Prompts, *, joint: str | None = None
    ) -> None:
        """Set an object's prompts on a frame and recompute its mask there.

        Without prompts the frame has the mask again that it had before it was prompted, or none.

        Args:
            obj_id: the object.
            frame: index of the frame.
            revision: revision of the store that the wish was made in view of.
            prompts: replace all earlier ones there.
            joint: the step that this is a part of, see `Annotation.edit`; None: a step of its own.

        Raises:
            PromptError: the object is locked, or a prompt lies outside the frame.
            NotFoundError: there is no such object or frame.
            StaleRevisionError: the store was changed since that revision.
        """
        info = self._object(obj_id)
        self.check_frame(frame)
        if info.locked:
            raise PromptError(f"{info.name} is locked; unlock it first")
        self.store.check_revision(revision)  # before the network runs, which takes long
        prompts = prompts.inside(self.height, self.width)
        old = self.store.prompts_on(obj_id, frame)
        stays = prompts.imported and not (prompts.points or prompts.box)
        prompts = replace(prompts, imported=old.imported and stays)
        if prompts == old:
            return
        try:
            below = (self.store.tracked if old else self.store.mask)(obj_id, frame)  # comes back without prompts
            found = self._prompter.answer(obj_id, frame, old, prompts).stored() if prompts else below
            with self.store.edit(_prompt_label(info, frame, old, prompts), joint=joint) as edit:
                edit.set_prompts(obj_id, frame, prompts)
                edit.set_mask(obj_id, frame, found)
                if not old or not prompts:
                    edit.set_tracked(obj_id, frame, below if prompts else None)
        except EXPECTED as error:
            self._recover(error, [obj_id])
            raise
        self.tell()

    def travel(self, move: str, revision: int) -> None:
        """Take the last step back, or do the step again that was undone last.

        Args:
            move: `undo` or `redo`.
            revision: revision of the store that the wish was made in view of.

        Raises:
            StaleRevisionError: the store was changed since that revision.
        """
        change = {"undo": self.store.undo, "redo": self.store.redo}[move](expected=revision)
        if change is not None:
            # Masks that changed without their prompts came from tracking; the network must not go on from them.
            unprompted = {obj_id for obj_id, _ in change.masks - change.prompts}
            self._forget(unprompted | change.objects)
        self.tell()

    # ---- jobs

    def start_propagation(
        self, revision: int, *, start: int, direction: str, stop: int | None, obj_ids: Sequence[int] | None
    ) -> None:
        """Track objects through the video as a job; in `store_worker`.

        Args:
            revision: revision of the store that the wish was made in view of.
            start: the first frame.
            direction: `forward`, `backward` or `both`.
            stop: the last frame, None for the end of the video.
            obj_ids: the objects; None for all that have prompts and are not locked.
        """
        self.store.check_revision(revision)
        ways = self._way(start, direction, stop)
        chosen = self._propagated(obj_ids)
        name = f"Propagate {chosen[0].name}" if len(chosen) == 1 else f"Propagate {len(chosen)} objects"
        self._start_propagation(name, [info.id for info in chosen], ways)

    def go_on(self, revision: int) -> None:
        """Go on with the propagation that broke off when the server ended, as a job; in `store_worker`.

        Args:
            revision: revision of the store that the wish was made in view of.

        Raises:
            NotFoundError: none did.
        """
        self.store.check_revision(revision)
        found = self.store.propagation()
        if found is None:
            raise NotFoundError("no propagation broke off")
        value = json.loads(found[0])
        there = {info.id for info in self.store.objects()}
        chosen = self._propagated([obj_id for obj_id in value["objects"] if obj_id in there])
        ways = remaining([range(*way) for way in value["ways"]], found[1])
        self._start_propagation(value["label"], [info.id for info in chosen], ways)

    def _start_propagation(self, label: str, obj_ids: list[int], ways: list[range]) -> None:
        text = json.dumps({"label": label, "objects": obj_ids, "ways": [[w.start, w.stop, w.step] for w in ways]})

        def task(job: Job) -> dict[str, Any]:
            self.store.set_propagation(text)
            try:
                return self._propagate(job, obj_ids, ways)
            finally:
                if not self._closing:
                    self.store.set_propagation(None)

        self.jobs.start(Job(PROPAGATE, label, sum(map(len, ways))), self.model_worker, task)

    def _propagate(self, job: Job, obj_ids: Sequence[int], ways: Sequence[range]) -> dict[str, Any]:
        step = uuid.uuid4().hex
        try:
            tracked = self._ready_tracks().propagate(obj_ids, ways, stopping=lambda: job.stopping)
            with closing(tracked) as results:
                for done, (frame, found) in enumerate(results, start=1):
                    with self.store.edit(job.label, joint=step) as edit:
                        for obj_id, one in found.items():
                            edit.set_mask(obj_id, frame, one.stored())
                        edit.set_done(done)
                    if found:
                        self.tell(tracked=frame)
                    self.jobs.step(job, done)
                    if job.stopping:
                        break
        except EXPECTED as error:
            self._recover(error, obj_ids)
            raise
        return {"frames": job.done}

    def _way(self, start: int, direction: str, stop: int | None) -> list[range]:
        if direction not in DIRECTIONS:
            raise PromptError(f"direction must be one of {', '.join(DIRECTIONS)}; got {direction!r:.40}")
        for frame in (start, *(() if stop is None else (stop,))):
            self.check_frame(frame)
        if direction == "both" and stop is None:
            return [range(start, self.frames), *([range(start - 1, -1, -1)] if start else [])]
        if direction == "both":
            direction = "backward" if stop is not None and stop < start else "forward"
        last = stop if stop is not None else self.frames - 1 if direction == "forward" else 0
        step = 1 if direction == "forward" else -1
        if (last - start) * step < 0:
            raise PromptError(f"frame {last} does not lie {direction} of frame {start}")
        return [range(start, last + step, step)]

    def _propagated(self, obj_ids: Sequence[int] | None) -> list[ObjectInfo]:
        """Return the objects that are to be propagated; the prompted ones of those that are not locked."""
        prompted = self.store.prompts()
        named = self.store.objects() if obj_ids is None else [self._object(i) for i in dict.fromkeys(obj_ids)]
        chosen = [info for info in named if not info.locked and info.id in prompted]
        if not chosen:
            raise PromptError("nothing to propagate: none of the objects has a prompt and is unlocked")
        return chosen

    # ---- internals

    def _object(self, obj_id: int) -> ObjectInfo:
        for info in self.store.objects():
            if info.id == obj_id:
                return info
        raise NotFoundError(f"there is no object {obj_id}")

    def _ready_tracks(self) -> ModelTracks:
        if self._tracks is None:
            predictor = self.context.model.predictor()
            self._tracks = ModelTracks(predictor, self.open_frames(), self.store)
        return self._tracks

    def _forget(self, obj_ids: Collection[int]) -> None:
        if self._tracks is not None:
            for obj_id in obj_ids:
                self._tracks.forget(obj_id)

    def _drop_tracks(self) -> None:
        if self._tracks is not None:
            self._tracks.close()
            self._tracks = None

    def _recover(self, error: BaseException, obj_ids: Collection[int]) -> None:
        """After an error, have the network forget whatever its memory may hold that the store does not."""
        if isinstance(error, RuntimeError | MemoryError):
            self._drop_tracks()
        else:
            self._forget(obj_ids)

    def _tell_job(self, job: dict[str, Any]) -> None:
        self.context.send(type="job", id=self.video.id, job=job)


def _prompt_label(info: ObjectInfo, frame: int, old: Prompts, new: Prompts) -> str:
    if not new:
        what = "Clear"
    elif new.strokes != old.strokes:
        changed = set(new.strokes) ^ set(old.strokes)
        what = "Polygon" if all(stroke.radius is None for stroke in changed) else "Brush"
    elif new.box != old.box:
        what = "Box"
    else:
        what = "Points"
    return f"{what}: {info.name}, frame {frame}"
