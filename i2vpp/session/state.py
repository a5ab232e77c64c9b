"""The state of one video: frames, features, and the prompts, masks and memories of each object."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from i2vpp.errors import PromptError, SessionError
from i2vpp.memory.bank import MemoryBank
from i2vpp.memory.selection import FrameTime, MemorySelector
from i2vpp.memory.similarity import SimilarityTable
from i2vpp.session import sam2_keys
from i2vpp.session.frames import FrameStore
from i2vpp.session.records import FrameRecord, RecordArchive
from i2vpp.session.video import FrameSource
from i2vpp.structures import FrameFeatures
from i2vpp.utils.brief import brief
from i2vpp.utils.values import whole_number

__all__ = ["Clicks", "FrameRecord", "InferenceState", "MemoryUse", "ObjectStatus", "ObjectTrack"]

FEATURE_CAPACITY = 4


@dataclass(kw_only=True)
class Clicks:
    """The clicks and box of one object on one frame, in pixels of the network's input.

    Args:
        coords: [P, 2] float32.
        labels: [P] int32, box corners (2, 3) first.
    """

    coords: Tensor
    labels: Tensor

    @property
    def has_box(self) -> bool:
        """Whether the first two points are a box's corners."""
        return bool((self.labels >= 2).any())


@dataclass(kw_only=True)
class ObjectTrack:
    """One object.

    Args:
        bank: its memories.
        clicks: clicks by prompted frame; None for a frame that was prompted with a mask.
        records: masks and scores by frame, of prompted and tracked frames alike.
        visited: frames that a propagation has passed since the object exists.
        label: what the object is called, if it has been told.
    """

    bank: MemoryBank
    clicks: dict[int, Clicks | None] = field(default_factory=dict)
    records: dict[int, FrameRecord] = field(default_factory=dict)
    visited: set[int] = field(default_factory=set)
    label: str | None = None

    def mark_visited(self, frames: Iterable[int]) -> None:
        """Treat frames as passed by a propagation, which passes an object only if it has a prompt."""
        if self.bank.conditioning:
            self.visited.update(frames)

    def forget(self, frame_idx: int) -> None:
        """Remove prompts, mask and memory of a frame."""
        self.bank.drop(frame_idx)
        self.clicks.pop(frame_idx, None)
        self.records.pop(frame_idx, None)
        self.visited.discard(frame_idx)


@dataclass(frozen=True, kw_only=True)
class ObjectStatus:
    """What a session holds of an object on a frame.

    Args:
        prompted: the object has prompts on the frame.
        tracked: a propagation has passed the frame since the object exists, or it was marked as tracked.
        has_mask: there is a mask of the object on the frame.
        reverse: this mask was tracked towards frame 0.
    """

    prompted: bool = False
    tracked: bool = False
    has_mask: bool = False
    reverse: bool = False


@dataclass(frozen=True, kw_only=True)
class MemoryUse:
    """Memory that a session takes, in bytes, on all devices together.

    Args:
        memories: memory features and pointers of all objects.
        records: masks, scores and pointers of all objects.
        similarity: keys of the frames and known similarities.
        features: encoder features of the latest frames.
        frames: resized frames and the latest clip.
    """

    memories: int
    records: int
    similarity: int
    features: int
    frames: int

    @property
    def total(self) -> int:
        """Sum of all parts."""
        return self.memories + self.records + self.similarity + self.features + self.frames


def _num_bytes(tensors: Iterable[Tensor]) -> int:
    storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors}
    return sum(storages.values())


class InferenceState:
    """One video and the objects tracked in it; made by `I2VPPVideoPredictor.init_state`.

    A context manager: after `close` it holds no memory and its methods raise SessionError.

    Args:
        source: source of the frames.
        frames: the same frames as network input.
        selector: selector of the memories that are read.
        device: device on which memories are kept; None for the device on which they are made.
    """

    def __init__(
        self, source: FrameSource, frames: FrameStore, selector: MemorySelector, *, device: torch.device | None = None
    ) -> None:
        self.source = source
        self.frames = frames
        self.selector = selector
        self.device = device
        self.lock = threading.RLock()
        self.tracks: dict[int, ObjectTrack] = {}
        self.features: OrderedDict[int, FrameFeatures] = OrderedDict()
        self.similarity = SimilarityTable(selector.window, forget=not source.seekable)
        self._archive = RecordArchive()
        self._closed = False

    def __enter__(self) -> InferenceState:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __getitem__(self, name: str) -> Any:
        """Look up one of the names that SAM 2's users know; see docs/sam2.md."""
        return sam2_keys.answer(self, name)

    def __contains__(self, name: object) -> bool:
        return name in sam2_keys.ANSWERED

    def __iter__(self) -> Iterator[str]:
        return iter(sam2_keys.ANSWERED)

    def __setitem__(self, name: str, value: object) -> None:
        raise SessionError(f"{name!r} cannot be set: a session is changed by the predictor's methods only.")

    def keys(self) -> list[str]:
        """Return the names that `state[name]` answers to."""
        return list(self)

    def get(self, name: str, default: Any = None) -> Any:
        """Return `state[name]`, or a default.

        Args:
            name: name that SAM 2's users know.
            default: returned if the session does not answer to the name.

        Returns:
            The value.
        """
        return self[name] if name in self else default

    @property
    def obj_ids(self) -> list[int]:
        """Ids of all objects, in the order in which they were added."""
        return list(self.tracks)

    @property
    def labels(self) -> dict[int, str]:
        """What objects are called, by id; objects without a label are left out."""
        return {obj_id: track.label for obj_id, track in self.tracks.items() if track.label is not None}

    def set_label(self, obj_id: int, label: str | None) -> None:
        """Say what an object is called; it keeps the label until it is removed.

        Args:
            obj_id: the object.
            label: any text; None for no label.

        Raises:
            PromptError: there is no such object.
        """
        with self.lock:
            self.track(obj_id).label = label

    @property
    def num_frames(self) -> int:
        """Length of the video; the first call may have to read the whole file."""
        return len(self.source)

    @property
    def video_height(self) -> int:
        """Height of the frames in pixels."""
        return self.source.height

    @property
    def video_width(self) -> int:
        """Width of the frames in pixels."""
        return self.source.width

    @property
    def fps(self) -> float | None:
        """Frames per second, if the source knows."""
        return self.source.fps

    def frame(self, frame_idx: int) -> np.ndarray:
        """Return a copy of a frame as uint8 RGB [H, W, 3]."""
        return self.source[self.check_frame(frame_idx)].copy()

    def check_open(self) -> None:
        """Raise SessionError if the session is closed."""
        if self._closed:
            raise SessionError("This session is closed; start a new one with predictor.init_state(video).")

    def check_frame(self, frame_idx: int, *, name: str = "frame_idx") -> int:
        """Check the index of a frame.

        Args:
            frame_idx: the index.
            name: name of the argument, for messages.

        Returns:
            The index as Python's int.

        Raises:
            SessionError: the session is closed.
            PromptError: there is no such frame.
        """
        self.check_open()
        frame_idx = whole_number(name, frame_idx, least=0)
        try:
            self.source.check(frame_idx)
        except IndexError:
            raise PromptError(f"{name}={frame_idx} is past the end: the video has {self.num_frames} frames.") from None
        return frame_idx

    @property
    def bad_frames(self) -> list[int]:
        """Frames found so far that cannot be decoded, with `on_bad_frame` other than "raise"."""
        return self.source.bad_frames

    def check_not_skipped(self, frame_idx: int) -> None:
        """Raise PromptError if the frame cannot be decoded and is to have no result."""
        if self.source.skips and self.source.is_bad(frame_idx):
            raise PromptError(
                f"frame_idx={frame_idx} cannot be decoded and is skipped: prompt another frame, or open the video with "
                "on_bad_frame='repeat' to see the frame before in its place."
            )

    def track(self, obj_id: int) -> ObjectTrack:
        """Return an object, or raise PromptError if there is none of that id."""
        obj_id = whole_number("obj_id", obj_id)
        if obj_id not in self.tracks:
            raise PromptError(f"There is no object {obj_id!r} in this session; known objects: {self.obj_ids}.")
        return self.tracks[obj_id]

    def check_obj_ids(self, obj_ids: Iterable[int] | None, *, adding: int | None = None) -> frozenset[int] | None:
        """Return object ids as Python's ints; None stands for all objects.

        Args:
            obj_ids: the ids, or None.
            adding: an object that the session need not have yet.

        Returns:
            The ids, or None.

        Raises:
            PromptError: the session has no object of one of the ids.
        """
        if obj_ids is None:
            return None
        if not isinstance(obj_ids, Iterable) or isinstance(obj_ids, str):
            raise PromptError(f"obj_ids must be a list of object ids, or None for all; got {brief(obj_ids)}")
        ids = frozenset(whole_number("obj_id", obj_id) for obj_id in obj_ids)
        for obj_id in ids - {adding}:
            self.track(obj_id)
        return ids

    def chosen(self, obj_ids: Container[int] | None) -> dict[int, ObjectTrack]:
        """Return the objects of some ids, or all for None, in the order in which they were added to the session."""
        return {i: track for i, track in self.tracks.items() if obj_ids is None or i in obj_ids}

    def object_status(self, obj_id: int, frame_idx: int) -> ObjectStatus:
        """Return what the session holds of an object on a frame.

        Args:
            obj_id: the object; there need not be one of that id.
            frame_idx: the frame.

        Returns:
            The status; all False without such an object.
        """
        track = self.tracks.get(whole_number("obj_id", obj_id))
        if track is None:
            return ObjectStatus()
        record = track.records.get(frame_idx)
        return ObjectStatus(
            prompted=frame_idx in track.clicks,
            tracked=frame_idx in track.visited,
            has_mask=record is not None,
            reverse=record is not None and record.reverse,
        )

    def mark_tracked(self, obj_id: int, frames: Iterable[int]) -> None:
        """Treat frames as tracked: a click on such a frame reads memory, as for any frame that was tracked before.

        Args:
            obj_id: an object with prompts; for one without any, nothing changes.
            frames: indices of the frames.

        Raises:
            PromptError: there is no such object or frame.
        """
        with self.lock:
            self.track(obj_id).mark_visited([self.check_frame(f) for f in frames])

    def frame_time(self, frame_idx: int, *, reverse: bool) -> FrameTime:
        """Return a frame together with the direction of tracking.

        Args:
            frame_idx: the frame.
            reverse: tracking runs towards frame 0.

        Returns:
            The value that selectors are called with.
        """
        return FrameTime(frame_idx=frame_idx, last_frame=self.num_frames - 1 if reverse else None, reverse=reverse)

    def keep_features(self, frame_idx: int, features: FrameFeatures) -> None:
        """Cache the features of a frame; the latest 4 frames are kept.

        Args:
            frame_idx: the frame.
            features: its features.
        """
        self.features[frame_idx] = features
        while len(self.features) > FEATURE_CAPACITY:
            self.features.popitem(last=False)

    def evict(self, frame_idx: int, tracks: Iterable[ObjectTrack]) -> None:
        """Make records compact whose memory the selector cannot read from a frame on.

        In a live stream such a frame is forgotten, as its memory could not be made again.

        Args:
            frame_idx: the frame that was tracked.
            tracks: the objects that were tracked.
        """
        window = self.selector.window
        evicted = [(track, f) for track in tracks for f in track.bank.evict(frame_idx, window)]
        if self.source.seekable:
            self._archive.add([(track.records, f) for track, f in evicted])
        else:
            for track, f in evicted:
                track.forget(f)

    def memory_use(self) -> MemoryUse:
        """Return how much memory the session takes at present."""
        tracks = self.tracks.values()
        return MemoryUse(
            memories=_num_bytes(x for track in tracks for x in track.bank.tensors()),
            records=_num_bytes(x for track in tracks for record in track.records.values() for x in record.tensors()),
            similarity=self.similarity.num_bytes,
            features=_num_bytes(
                x for features in self.features.values() for x in (features.embedding, features.position)
            ),
            frames=self.frames.num_bytes,
        )

    def reset(self) -> None:
        """Remove all objects; the video stays open."""
        self.check_open()
        self.tracks.clear()

    def close(self) -> None:
        """Release the video and everything known about it; a second call does nothing."""
        self._closed = True
        self.tracks.clear()
        self._archive = RecordArchive()
        self.features.clear()
        self.similarity = SimilarityTable(0)
        self.frames.close()
        self.source.close()
