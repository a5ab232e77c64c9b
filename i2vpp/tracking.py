"""The inner loop: the model's verbs played over a session's frames and objects. Holds no state of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from i2vpp.memory.selection import Moment, Selection, Similarity
from i2vpp.modeling.i2vpp import I2VPP, MEMORY_MASK_BIAS, MEMORY_MASK_SCALE
from i2vpp.session.records import DrawnMask
from i2vpp.session.state import Clicks, FrameRecord, InferenceState, ObjectTrack
from i2vpp.structures import (
    ABSENT_LOGIT,
    Conditioned,
    FrameFeatures,
    FrameMemory,
    FrameResult,
    MaskPrediction,
    MemoryTokens,
    Prompt,
    Recall,
)
from i2vpp.utils.masks import fill_holes, raise_small_parts

OBJECTS_PER_BATCH = 16
MEMORY_CELLS_PER_BATCH = 2**17  # 4 objects at 1024 pixels: larger batches need more memory and are no faster
PREVIOUS_LOGIT_LIMIT = 32.0
SMALL_AREA = 64  # cells of the mask logits: 4 of the image features
MOST_OF_IT = 0.9  # of the pixels of a mask


class Found(NamedTuple):
    """What was found of B objects on one frame, and what is remembered of it: the tensors of their records.

    Args:
        decoded: mask logits [B, 1, 4h, 4w] as decoded, in float16.
        logits: the masks as they are returned, holes filled, float32.
        object_score: [B] logits.
        iou: predicted IoU [B].
        pointer: object pointer [B, D].
        values: memory features [B, M, h, w].
        foreground: [B, h, w] bool.
    """

    decoded: Tensor
    logits: Tensor
    object_score: Tensor
    iou: Tensor
    pointer: Tensor
    values: Tensor
    foreground: Tensor

    @property
    def memory(self) -> FrameMemory:
        """What is remembered."""
        return FrameMemory(values=self.values, foreground=self.foreground, pointer=self.pointer)

    def split(self) -> list[Found]:
        """Return the same object by object, with storage of its own: that of a removed object is free at once."""
        if len(self.iou) == 1:
            return [self]
        return [Found(*parts) for parts in zip(*([x.clone() for x in field.split(1)] for field in self), strict=True)]


def find(model: I2VPP, features: FrameFeatures, memory: MemoryTokens) -> Found:
    """Find B objects on a frame without prompts, by what is remembered of them."""
    return remember(model, features, model.decode(model.condition(features, memory), Prompt()), prompted=False)


def remember(model: I2VPP, features: FrameFeatures, prediction: MaskPrediction, *, prompted: bool) -> Found:
    """Fill the holes of a prediction's masks, and make memory of it."""
    logits = fill_holes(prediction.logits, model.config.fill_hole_area)
    memory = model.memorise(features, prediction, logits, prompted=prompted)
    return Found(
        decoded=prediction.logits.half(),
        logits=logits,
        object_score=prediction.object_score,
        iou=prediction.iou,
        pointer=memory.pointer,
        values=memory.values,
        foreground=memory.foreground,
    )


class Runner:
    """Runs what every tracked frame goes through, operation by operation; `CompiledRunner` does it faster.

    Args:
        model: in eval mode.
    """

    def __init__(self, model: I2VPP) -> None:
        self.model = model

    def encode(self, clip: Tensor) -> FrameFeatures:
        """See `I2VPP.encode`; B = 1."""
        return self.model.encode(clip)

    def fit(self, recall: Recall) -> Recall:
        """Return what is read as a recall of a shape that the runner likes, with the same meaning."""
        return recall

    def find(self, features: FrameFeatures, recalls: Sequence[Recall]) -> Found:
        """See `find`; the recalls have been through `fit` and are of equal shape."""
        return find(self.model, features, self.model.read_memory(recalls))


class Tracker:
    """Encodes, prompts and tracks frames.

    Args:
        runner: of a model in eval mode.
        dtype: of the heavy arithmetic; the tracker sets autocast itself, whatever is set around it.
    """

    def __init__(self, runner: Runner, *, dtype: torch.dtype) -> None:
        self.runner = runner
        self.dtype = dtype

    @property
    def model(self) -> I2VPP:
        """The network."""
        return self.runner.model

    def precision(self) -> torch.autocast:
        """Return the context in which the model runs."""
        if self.dtype == torch.float32:
            return torch.autocast(self.model.device.type, enabled=False)
        return torch.autocast(self.model.device.type, dtype=self.dtype)

    def features(self, state: InferenceState, frame_idx: int) -> FrameFeatures:
        """Encode a frame, once for all objects."""
        cached = state.features.get(frame_idx)
        if cached is not None:
            return cached
        features = self.runner.encode(state.frames.clip(frame_idx))
        state.keep_features(frame_idx, features)
        if state.selector.uses_similarity:
            self._hold_key(state, frame_idx, features)
        return features

    def _hold_key(self, state: InferenceState, frame_idx: int, features: FrameFeatures) -> None:
        state.similarity.add(frame_idx, features.embedding.to(state.device or features.embedding.device))

    @torch.no_grad()
    def prompt_clicks(self, state: InferenceState, track: ObjectTrack, frame_idx: int, clicks: Clicks) -> None:
        """Predict an object from clicks on a frame and remember it."""
        state.check_not_skipped(frame_idx)
        device = self.model.device
        with self.precision():
            features = self.features(state, frame_idx)
            previous = track.records.get(frame_idx)
            limit = PREVIOUS_LOGIT_LIMIT
            prompt = Prompt(
                coords=clicks.coords[None].to(device),
                labels=clicks.labels[None].to(device),
                mask=None if previous is None else self._mask(previous).clamp(-limit, limit),
            )
            reverse = previous is not None and previous.reverse
            conditioned = self._condition_prompted(state, track, features, frame_idx, reverse=reverse)
            found = remember(self.model, features, self.model.decode(conditioned, prompt), prompted=True)
        self._keep([track], frame_idx, found, prompted=True, reverse=reverse)

    @torch.no_grad()
    def prompt_mask(self, state: InferenceState, track: ObjectTrack, frame_idx: int, mask: Tensor) -> None:
        """Take a mask [1, 1, H, W] of 0 and 1, of any size, as the object's mask on a frame and remember it."""
        state.check_not_skipped(frame_idx)
        size = (self.model.image_size, self.model.image_size)
        mask = drawn = mask.to(self.model.device)
        if mask.shape[-2:] != size:
            resized = F.interpolate(mask, size, mode="bilinear", align_corners=False, antialias=True)
            mask = (raise_small_parts(resized) >= 0.5).float()
        previous = track.records.get(frame_idx)
        with self.precision():
            features = self.features(state, frame_idx)
            prediction = with_small_parts(self.model.adopt_mask(features, mask))
            found = remember(self.model, features, prediction, prompted=True)
        reverse = previous is not None and previous.reverse
        self._keep([track], frame_idx, found, prompted=True, reverse=reverse)
        if _loses(found.logits, drawn > 0):
            record = replace(track.records[frame_idx], drawn=DrawnMask.of(drawn[0, 0] > 0))
            track.records[frame_idx] = record

    @torch.no_grad()
    def track(self, state: InferenceState, frame_idx: int, *, reverse: bool) -> None:
        """Find all objects on a frame; prompted ones keep what the prompts gave."""
        pending = []
        for track in state.tracks.values():
            if track.bank.conditioning:
                track.visited.add(frame_idx)
                if frame_idx not in track.bank.conditioning:
                    pending.append(track)
        if not pending:
            return
        with self.precision():
            features = self.features(state, frame_idx)
            moment = state.moment(frame_idx, reverse=reverse)
            similarity = self._similarity(state, frame_idx)
            recalls = [self.runner.fit(self._recall(state, track, moment, similarity)) for track in pending]
            cells = features.embedding[0, 0].numel()
            for tracks, batch in _batches(pending, recalls, cells):
                found = self.runner.find(features, batch)
                self._keep(tracks, frame_idx, found, prompted=False, reverse=reverse)
        state.evict(frame_idx)

    @torch.no_grad()
    def result(self, state: InferenceState, frame_idx: int) -> FrameResult:
        """Collect what is known of all objects on a frame, at the video's size."""
        device = self.model.device
        records = [track.records.get(frame_idx) for track in state.tracks.values()]
        side = self.model.image_size // 4
        nothing = torch.full((1, 1, side, side), ABSENT_LOGIT, dtype=torch.float32, device=device)
        unknown = torch.full((1,), torch.nan, dtype=torch.float32, device=device)
        logits = [nothing if r is None else self._mask(r) for r in records] or [nothing[:0]]
        scores = [unknown if r is None else r.object_score.to(device) for r in records] or [unknown[:0]]
        ious = [unknown if r is None else r.iou.to(device) for r in records] or [unknown[:0]]
        size = (state.video_height, state.video_width)
        masks = F.interpolate(torch.cat(logits), size, mode="bilinear", align_corners=False)
        for record, mask in zip(records, masks, strict=True):
            if record is not None and record.drawn is not None:
                record.drawn.show(mask[0])
        return FrameResult(
            frame_idx=frame_idx,
            obj_ids=state.obj_ids,
            masks=masks,
            object_scores=torch.cat(scores),
            predicted_ious=torch.cat(ious),
            bad_frame=state.source.is_bad(frame_idx),
        )

    def _mask(self, record: FrameRecord) -> Tensor:
        """Mask logits [1, 1, 4h, 4w] of a record, holes filled."""
        if record.logits is not None:
            return record.logits
        return self._fill_holes(record.decoded.to(self.model.device, torch.float32))

    def _fill_holes(self, logits: Tensor) -> Tensor:
        return fill_holes(logits, self.model.config.fill_hole_area)

    def _condition_prompted(
        self, state: InferenceState, track: ObjectTrack, features: FrameFeatures, frame_idx: int, *, reverse: bool
    ) -> Conditioned:
        """Read memory for a prompted frame: only if the frame has been tracked before."""
        if frame_idx not in track.visited or not track.bank.conditioning:
            return self.model.condition(features, None)
        moment = state.moment(frame_idx, reverse=reverse)
        recall = self._recall(state, track, moment, self._similarity(state, frame_idx))
        return self.model.condition(features, self.model.read_memory([recall]))

    def _similarity(self, state: InferenceState, frame_idx: int) -> Similarity:
        """Return what a selector asks about a frame; it is worked out once for all objects that ask the same."""

        @cache
        def answer(frames: tuple[int, ...]) -> np.ndarray:
            for f in state.similarity.missing(frame_idx, frames):
                self._compare(state, frame_idx, f)
            return state.similarity.get(frame_idx, frames)

        return lambda frames: answer(tuple(frames)).copy()  # selectors add noise to it, or sort it

    def _recall(self, state: InferenceState, track: ObjectTrack, moment: Moment, similarity: Similarity) -> Recall:
        selection: Selection = state.selector.select(moment, list(track.bank.conditioning), track.bank, similarity)
        return track.bank.recall(selection, lambda f: self._rebuild(state, track, f))

    def _compare(self, state: InferenceState, frame_idx: int, other: int) -> None:
        """Make the similarity of two frames known whose keys were not held at the same time."""
        for f in (other, frame_idx):
            self._hold_key(state, f, self.features(state, f))

    def _rebuild(self, state: InferenceState, track: ObjectTrack, frame_idx: int) -> FrameMemory:
        """Make the evicted memory of a tracked frame again."""
        record = track.records[frame_idx]
        found = record.prediction(self.model.device)
        return self.model.memorise(self.features(state, frame_idx), found, self._mask(record), prompted=False)

    @staticmethod
    def _keep(tracks: Sequence[ObjectTrack], frame_idx: int, found: Found, *, prompted: bool, reverse: bool) -> None:
        """Remember what was found of B objects, each in its own track."""
        for track, one in zip(tracks, found.split(), strict=True):
            track.bank.put(frame_idx, one.memory, prompted=prompted)
            track.records[frame_idx] = FrameRecord(
                decoded=one.decoded,
                logits=one.logits,
                object_score=one.object_score,
                iou=one.iou,
                pointer=one.pointer,
                reverse=reverse,
            )


def with_small_parts(prediction: MaskPrediction) -> MaskPrediction:
    """Return an adopted mask in whose logits the parts that are too small or thin for their grid are not lost."""
    coverage = (prediction.logits - MEMORY_MASK_BIAS) / MEMORY_MASK_SCALE  # the share of each cell: see `adopt_mask`
    kept = raise_small_parts(coverage)
    logits = torch.where(kept == coverage, prediction.logits, kept * MEMORY_MASK_SCALE + MEMORY_MASK_BIAS)
    return replace(prediction, logits=logits, candidates=logits)


def _loses(logits: Tensor, drawn: Tensor) -> bool:
    """Whether logits [1, 1, 4h, 4w] are too coarse for a mask [1, 1, H, W] that they were made of."""
    area = int(drawn.sum())
    if not area:
        return False
    if area * logits.numel() < SMALL_AREA * drawn.numel():
        return True
    shown = F.interpolate(logits, drawn.shape[-2:], mode="bilinear", align_corners=False) > 0
    return int((shown & drawn).sum()) < MOST_OF_IT * area


def _batches(
    tracks: Sequence[ObjectTrack], recalls: Sequence[Recall], cells: int
) -> Iterator[tuple[list[ObjectTrack], list[Recall]]]:
    """Group objects whose recalls have the same shape, in batches of nearly equal size; a memory has `cells` cells."""
    groups: dict[tuple[int, int], list[tuple[ObjectTrack, Recall]]] = {}
    for track, recall in zip(tracks, recalls, strict=True):
        groups.setdefault(recall.shape, []).append((track, recall))
    for (memories, _), members in groups.items():
        most = min(OBJECTS_PER_BATCH, max(1, MEMORY_CELLS_PER_BATCH // (memories * cells)))
        count = -(-len(members) // most)
        for i in range(count):
            batch = members[i * len(members) // count : (i + 1) * len(members) // count]
            yield [track for track, _ in batch], [recall for _, recall in batch]
