"""Policies that choose which memory frames are read for the frame being tracked.

A selector works on frame indices only: it is tested without tensors, and a new idea is a new selector. Time runs in the
direction of tracking: in reverse, "before" means a higher frame index, and nothing else changes.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np

from i2vpp.config import NON_CONDITIONING_SLOTS, SelectionConfig

Similarity = Callable[[Sequence[int]], np.ndarray]
"""Cosine similarities [n] between the current frame's embedding and those of n frames."""

LOCAL_POOL, GLOBAL_POOL = 0, 1


@dataclass(frozen=True, kw_only=True)
class FrameTime:
    """The frame being tracked and the direction of tracking, in which ages are counted.

    Args:
        frame_idx: the frame.
        last_frame: index of the video's last frame; needed in reverse only.
        reverse: tracking runs towards frame 0.
    """

    frame_idx: int
    last_frame: int | None = None
    reverse: bool = False

    def __post_init__(self) -> None:
        if self.reverse and self.last_frame is None:
            raise ValueError("FrameTime: last_frame is needed in reverse")

    @property
    def elapsed(self) -> int:
        """Number of frames of the video that were passed before this one."""
        return self.last_frame - self.frame_idx if self.reverse and self.last_frame is not None else self.frame_idx

    def age(self, frame_idx: int) -> int:
        """Return the age of a frame, in frames before this one; negative for a frame after it."""
        return frame_idx - self.frame_idx if self.reverse else self.frame_idx - frame_idx

    def frame_at(self, age: int) -> int:
        """Return the index of the frame that has an age."""
        return self.frame_idx + age if self.reverse else self.frame_idx - age

    def span(self, oldest: int, newest: int) -> range:
        """Return the indices of frames by age.

        Args:
            oldest: largest age.
            newest: smallest age.

        Returns:
            The indices, from the oldest to the newest frame.
        """
        step = -1 if self.reverse else 1
        return range(self.frame_at(oldest), self.frame_at(newest) + step, step)


@dataclass(frozen=True, kw_only=True)
class SpatialPick:
    """A frame whose memory features are read: temporal slot 0 (conditioning) or 1..6 (non-conditioning), and weight."""

    frame_idx: int
    slot: int
    weight: int = 1


@dataclass(frozen=True, kw_only=True)
class PointerPick:
    """A frame whose object pointer is read, with its normalised temporal offset and weight."""

    frame_idx: int
    offset: float
    weight: int = 1


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The frames that are read for one object on one frame."""

    spatial: tuple[SpatialPick, ...]
    pointers: tuple[PointerPick, ...]


class MemorySelector(Protocol):
    """A policy that selects memories.

    `window` is the largest age at which non-conditioning frames may be read (older memories may be dropped).
    `uses_similarity` tells whether the session has to compare frame embeddings.
    """

    window: int
    uses_similarity: bool

    def select(
        self, now: FrameTime, conditioning: Sequence[int], non_conditioning: Container[int], similarity: Similarity
    ) -> Selection:
        """Choose memories.

        Args:
            now: the frame being tracked.
            conditioning: the object's conditioning frames, those that were prompted; never empty.
            non_conditioning: the object's other frames with a memory.
            similarity: similarity of the current frame to others; called only when there is something to choose.

        Returns:
            The chosen frames.
        """


class SimilaritySampling:
    """The published policy: all conditioning frames, and others by similarity from a local and a global window.

    Args:
        config: sizes of windows and picks; mode `sample` draws without replacement with the softmax of the
            similarities as probabilities, mode `top` takes the most similar. Draws depend on seed, frame and pool only.
    """

    uses_similarity = True

    def __init__(self, config: SelectionConfig) -> None:
        self.config = config
        self.window = config.local_window + config.global_window

    def select(
        self, now: FrameTime, conditioning: Sequence[int], non_conditioning: Container[int], similarity: Similarity
    ) -> Selection:
        """See `MemorySelector`; the weight of the first conditioning frame stands for frames that do not exist yet."""
        config = self.config
        ordered = sorted(conditioning, key=now.age, reverse=True)
        local = [f for f in now.span(config.local_window, 1) if f in non_conditioning]
        distant = [f for f in now.span(self.window, config.local_window + 1) if f in non_conditioning]
        slots = {
            **self._pick(distant, config.num_global, 1, now, GLOBAL_POOL, similarity),
            **self._pick(local, config.num_local, 1 + config.num_global, now, LOCAL_POOL, similarity),
        }
        length = max(0, min(now.elapsed - 1, config.num_global + config.num_local))
        padding = max(0, length - len(slots))

        spatial = [SpatialPick(frame_idx=f, slot=0) for f in ordered]
        spatial[0] = SpatialPick(frame_idx=ordered[0], slot=0, weight=1 + padding)
        spatial += [SpatialPick(frame_idx=f, slot=slot) for f, slot in slots.items()]

        past = [f for f in ordered if now.age(f) >= 0]
        pointers = [PointerPick(frame_idx=f, offset=1.0) for f in past]
        pointers += [PointerPick(frame_idx=f, offset=1 - slot / (length + 1)) for f, slot in slots.items()]
        if not pointers:
            pointers = [PointerPick(frame_idx=ordered[0], offset=1.0)]
        missing = len(ordered) + len(slots) + padding - len(pointers)
        first = pointers[0]
        pointers[0] = PointerPick(frame_idx=first.frame_idx, offset=first.offset, weight=1 + missing)
        return Selection(spatial=tuple(spatial), pointers=tuple(pointers))

    def _pick(
        self, frames: list[int], count: int, first_slot: int, now: FrameTime, pool: int, similarity: Similarity
    ) -> dict[int, int]:
        """Choose `count` of `frames` (oldest first) and give them slots in time order."""
        if len(frames) > count:
            score = np.asarray(similarity(frames), dtype=np.float64)
            if self.config.mode == "sample":  # the Gumbel trick: top-k of noisy log-weights draws without replacement
                score = score + _noise(self.config.seed, now.elapsed, pool, len(frames))
            best = np.argsort(-score, kind="stable")[:count]
            frames = [frames[i] for i in sorted(best)]
        return {f: slot for slot, f in enumerate(frames, start=first_slot)}


@lru_cache(maxsize=8)
def _noise(seed: int, frame: int, pool: int, size: int) -> np.ndarray:
    """Return Gumbel noise [size]; most objects of a frame need the same noise, hence the cache."""
    return np.random.default_rng((seed, frame, pool)).gumbel(size=size)


class RecentFrames:
    """SAM 2's policy, used in training: all conditioning frames and the latest others; no similarity.

    Args:
        num_frames: largest age at which memory features are read.
        max_pointers: object pointers reach `max_pointers - 1` frames back, and their distance is normalised by that:
            the smaller of 16 and the length of a training clip (8 in the published recipe).
    """

    uses_similarity = False

    def __init__(self, num_frames: int = NON_CONDITIONING_SLOTS, *, max_pointers: int = 8) -> None:
        self.num_frames = num_frames
        self.pointer_span = max_pointers - 1
        self.window = max(num_frames, self.pointer_span)

    def select(
        self, now: FrameTime, conditioning: Sequence[int], non_conditioning: Container[int], similarity: Similarity
    ) -> Selection:
        """See `MemorySelector`."""
        ordered = sorted(conditioning, key=now.age, reverse=True)
        spatial = [SpatialPick(frame_idx=f, slot=0) for f in ordered]
        for age in range(self.num_frames, 0, -1):
            if now.frame_at(age) in non_conditioning:
                spatial.append(SpatialPick(frame_idx=now.frame_at(age), slot=NON_CONDITIONING_SLOTS + 1 - age))
        frames = [f for f in ordered if now.age(f) >= 0]
        frames += [f for f in map(now.frame_at, range(1, self.pointer_span + 1)) if f in non_conditioning]
        pointers = (PointerPick(frame_idx=f, offset=now.age(f) / self.pointer_span) for f in frames)
        return Selection(spatial=tuple(spatial), pointers=tuple(pointers))


def build_selector(config: SelectionConfig) -> MemorySelector:
    """Return the selector of a configuration."""
    return RecentFrames() if config.mode == "recent" else SimilaritySampling(config)
