"""One open video: its store, its frames, and the memory of the network."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from i2vpp.annotate.frames import FrameReader, JpegCache
from i2vpp.annotate.jobs import PROPAGATE, Job, JobRunner
from i2vpp.annotate.library import Library, Video
from i2vpp.annotate.problems import EXPECTED, NotFoundError, Problems
from i2vpp.annotate.storage.labels import LabelChoice
from i2vpp.annotate.storage.store import Annotation, watched
from i2vpp.annotate.storage.values import ObjectInfo, Prompts, joint_name
from i2vpp.annotate.times import frame_durations
from i2vpp.annotate.tracking.model import Model
from i2vpp.annotate.tracking.plans import Leg, Plan, legs_of_missing, ways
from i2vpp.annotate.tracking.prompting import Prompter
from i2vpp.annotate.tracking.tracks import ModelTracks
from i2vpp.annotate.views import masks, news, state
from i2vpp.annotate.workers import Workers
from i2vpp.errors import PromptError
from i2vpp.session.video import FrameSource

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
        return self.store.doubtful(after, obj_ids=watched(self.store.objects()))

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
        info = self.info(obj_id)
        with self.store.edit(f"Change {info.name}", expected=revision) as edit:
            edit.change_object(obj_id, **changes)
        self.tell()

    def delete_object(self, obj_id: int, revision: int) -> None:
        """Delete an object with all its masks; in `model_worker`.

        Args:
            obj_id: the object.
            revision: revision of the store that the wish was made in view of.
        """
        info = self.info(obj_id)
        with self.store.edit(f"Delete {info.name}", expected=revision) as edit:
            edit.delete_object(obj_id)
        self.forget([obj_id])
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
        info = self.info(obj_id)
        self.check_frame(frame)
        refuse_locked([info])
        self.store.check_revision(revision)  # before the network runs, which takes long
        prompts = prompts.inside(self.height, self.width)
        old = self.store.prompts_on(obj_id, frame)
        stays = prompts.imported and not (prompts.points or prompts.box)
        prompts = replace(prompts, imported=old.imported and stays)
        if prompts == old:
            return
        try:
            before = self.store.mask(obj_id, frame)
            below = self.store.tracked(obj_id, frame) if old else before  # comes back without prompts
            found = self._prompter.answer(obj_id, frame, old, prompts).stored() if prompts else below
            with self.store.edit(_prompt_label(info, frame, old, prompts), joint=joint) as edit:
                edit.set_prompts(obj_id, frame, prompts)
                edit.set_mask(obj_id, frame, found)
                if not old or not prompts:
                    edit.set_tracked(obj_id, frame, below if prompts else None)
                if found is None or before is None or found.runs != before.runs:
                    edit.mark_stale(obj_id, frame)
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
            self.forget(unprompted | change.objects)
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
        for frame in (start, *(() if stop is None else (stop,))):
            self.check_frame(frame)
        runs = ways(start, direction, stop, self.frames)
        chosen = self._propagated(obj_ids)
        ids = tuple(info.id for info in chosen)
        plan = Plan(label=f"Propagate {joint_name(chosen)}", legs=tuple(Leg(frames=run, obj_ids=ids) for run in runs))
        plan = plan.only(ids, self.store.accepted())
        if not plan:
            raise PromptError("nothing to propagate: all of these frames are accepted; set them to do first")
        self._start_propagation(plan)

    def start_missing(self, revision: int, obj_ids: Sequence[int] | None) -> None:
        """Track objects where their masks are missing or stale, and nowhere else, as a job; in `store_worker`.

        Args:
            revision: revision of the store that the wish was made in view of.
            obj_ids: the objects; None for all that have prompts and are not locked.
        """
        self.store.check_revision(revision)
        chosen = self._propagated(obj_ids)
        prompts = self.store.prompts()
        legs = legs_of_missing(self.store.cells(), {info.id: prompts[info.id] for info in chosen}, self.frames)
        if not legs:
            raise PromptError("nothing to propagate: no mask of these objects is missing or stale")
        self._start_propagation(Plan(label=f"Propagate what is missing of {joint_name(chosen)}", legs=tuple(legs)))

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
        plan = Plan.from_json(found[0]).after(found[1])
        there = {info.id for info in self.store.objects()}
        chosen = self._propagated([obj_id for obj_id in plan.obj_ids if obj_id in there])
        self._start_propagation(plan.only([info.id for info in chosen], self.store.accepted()))

    def _start_propagation(self, plan: Plan) -> None:
        def task(job: Job) -> dict[str, Any]:
            self.store.set_propagation(plan.to_json())
            try:
                return self._propagate(job, plan)
            finally:
                if not self._closing:
                    self.store.set_propagation(None)

        self.jobs.start(Job(PROPAGATE, plan.label, len(plan)), self.model_worker, task)

    def _propagate(self, job: Job, plan: Plan) -> dict[str, Any]:
        step = uuid.uuid4().hex
        try:
            tracked = self._ready_tracks().propagate(plan, stopping=lambda: job.stopping)
            with closing(tracked) as results:
                for done, found in enumerate(results, start=1):
                    with self.store.edit(job.label, joint=step) as edit:
                        for obj_id, one in found.objects.items():
                            edit.track(obj_id, found.frame, one.stored(), reverse=found.reverse)
                        edit.set_done(done)
                    if found.objects:
                        self.tell(tracked=found.frame)
                    self.jobs.step(job, done)
                    if job.stopping:
                        break
        except EXPECTED as error:
            self._recover(error, plan.obj_ids)
            raise
        return {"frames": job.done}

    def _propagated(self, obj_ids: Sequence[int] | None) -> list[ObjectInfo]:
        """Return the objects that are to be propagated; the prompted ones of those that are not locked."""
        prompted = self.store.prompts()
        chosen = [info for info in self.infos(obj_ids) if not info.locked and info.id in prompted]
        if not chosen:
            raise PromptError("nothing to propagate: none of the objects has a prompt and is unlocked")
        return chosen

    # ---- internals

    def info(self, obj_id: int) -> ObjectInfo:
        """Return an object; raise NotFoundError if there is none."""
        for info in self.store.objects():
            if info.id == obj_id:
                return info
        raise NotFoundError(f"there is no object {obj_id}")

    def infos(self, obj_ids: Sequence[int] | None) -> list[ObjectInfo]:
        """Return objects by their ids, None for all; raise NotFoundError if one is missing."""
        return self.store.objects() if obj_ids is None else [self.info(i) for i in dict.fromkeys(obj_ids)]

    def _ready_tracks(self) -> ModelTracks:
        if self._tracks is None:
            predictor = self.context.model.predictor()
            self._tracks = ModelTracks(predictor, self.open_frames(), self.store)
        return self._tracks

    def forget(self, obj_ids: Collection[int]) -> None:
        """Have the network forget objects; in `model_worker`."""
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
            self.forget(obj_ids)

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


def refuse_locked(infos: Sequence[ObjectInfo]) -> None:
    """Raise PromptError if one of the objects is locked."""
    for info in infos:
        if info.locked:
            raise PromptError(f"{info.name} is locked; unlock it first")
