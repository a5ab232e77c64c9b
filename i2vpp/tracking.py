"""The inner loop: the model's verbs played over a session's frames and objects. Holds no state of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from i2vpp.memory.selection import Moment, Selection
from i2vpp.modeling.i2vpp import I2VPP
from i2vpp.session.state import Clicks, FrameRecord, InferenceState, ObjectTrack
from i2vpp.structures import (
    ABSENT_LOGIT,
    Conditioned,
    FrameFeatures,
    FrameMemory,
    FrameResult,
    MaskPrediction,
    Prompt,
    Recall,
)
from i2vpp.utils.masks import fill_holes

OBJECTS_PER_BATCH = 16
PREVIOUS_LOGIT_LIMIT = 32.0


class Tracker:
    """Encodes, prompts and tracks frames.

    Args:
        model: in eval mode.
        dtype: of the heavy arithmetic; the tracker sets autocast itself, whatever is set around it.
    """

    def __init__(self, model: I2VPP, *, dtype: torch.dtype) -> None:
        self.model = model
        self.dtype = dtype

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
        features = self.model.encode(state.frames.clip(frame_idx))
        state.keep_features(frame_idx, features)
        if state.selector.uses_similarity:
            self._hold_key(state, frame_idx, features)
        return features

    def _hold_key(self, state: InferenceState, frame_idx: int, features: FrameFeatures) -> None:
        state.similarity.add(frame_idx, features.embedding.to(state.device or features.embedding.device))

    @torch.no_grad()
    def prompt_clicks(self, state: InferenceState, track: ObjectTrack, frame_idx: int, clicks: Clicks) -> None:
        """Predict an object from clicks on a frame and remember it."""
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
            prediction = self.model.decode(conditioned, prompt)
            self._keep([track], frame_idx, features, prediction, prompted=True, reverse=reverse)

    @torch.no_grad()
    def prompt_mask(self, state: InferenceState, track: ObjectTrack, frame_idx: int, mask: Tensor) -> None:
        """Take a mask [1, 1, H, W] of 0 and 1, of any size, as the object's mask on a frame and remember it."""
        size = (self.model.image_size, self.model.image_size)
        mask = mask.to(self.model.device)
        if mask.shape[-2:] != size:
            resized = F.interpolate(mask, size, mode="bilinear", align_corners=False, antialias=True)
            mask = (resized >= 0.5).float()
        previous = track.records.get(frame_idx)
        with self.precision():
            features = self.features(state, frame_idx)
            prediction = self.model.adopt_mask(features, mask)
            reverse = previous is not None and previous.reverse
            self._keep([track], frame_idx, features, prediction, prompted=True, reverse=reverse)

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
            for tracks, recalls in _batches(pending, [self._recall(state, track, moment) for track in pending]):
                conditioned = self.model.condition(features, self.model.read_memory(recalls))
                prediction = self.model.decode(conditioned, Prompt())
                self._keep(tracks, frame_idx, features, prediction, prompted=False, reverse=reverse)
        state.evict(frame_idx)

    @torch.no_grad()
    def result(self, state: InferenceState, frame_idx: int) -> FrameResult:
        """Collect what is known of all objects on a frame, at the video's size."""
        device = self.model.device
        records = [track.records.get(frame_idx) for track in state.tracks.values()]
        side = self.model.image_size // 4
        nothing = torch.full((1, 1, side, side), ABSENT_LOGIT, device=device)
        unknown = torch.full((1,), torch.nan, device=device)
        logits = [nothing if r is None else self._mask(r) for r in records] or [nothing[:0]]
        scores = [unknown if r is None else r.object_score.to(device) for r in records] or [unknown[:0]]
        ious = [unknown if r is None else r.iou.to(device) for r in records] or [unknown[:0]]
        size = (state.video_height, state.video_width)
        return FrameResult(
            frame_idx=frame_idx,
            obj_ids=state.obj_ids,
            masks=F.interpolate(torch.cat(logits), size, mode="bilinear", align_corners=False),
            object_scores=torch.cat(scores),
            predicted_ious=torch.cat(ious),
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
        recall = self._recall(state, track, state.moment(frame_idx, reverse=reverse))
        return self.model.condition(features, self.model.read_memory([recall]))

    def _recall(self, state: InferenceState, track: ObjectTrack, moment: Moment) -> Recall:
        def similarity(frames: Sequence[int]) -> np.ndarray:
            for f in state.similarity.missing(moment.frame_idx, frames):
                self._compare(state, moment.frame_idx, f)
            return state.similarity.get(moment.frame_idx, frames)

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

    def _keep(
        self,
        tracks: Sequence[ObjectTrack],
        frame_idx: int,
        features: FrameFeatures,
        prediction: MaskPrediction,
        *,
        prompted: bool,
        reverse: bool,
    ) -> None:
        """Remember a prediction of B objects, each in its own track."""
        stored = self._fill_holes(prediction.logits)
        memory = self.model.memorise(features, prediction, stored, prompted=prompted)
        for i, track in enumerate(tracks):
            one = slice(i, i + 1)
            track.bank.put(
                frame_idx,
                FrameMemory(values=memory.values[one], foreground=memory.foreground[one], pointer=memory.pointer[one]),
                prompted=prompted,
            )
            track.records[frame_idx] = FrameRecord(
                decoded=prediction.logits[one].half(),
                logits=stored[one],
                object_score=prediction.object_score[one],
                iou=prediction.iou[one],
                pointer=prediction.pointer[one],
                reverse=reverse,
            )


def _batches(
    tracks: Sequence[ObjectTrack], recalls: Sequence[Recall]
) -> Iterator[tuple[list[ObjectTrack], list[Recall]]]:
    """Group objects whose recalls have the same shape."""
    groups: dict[tuple[int, int], list[tuple[ObjectTrack, Recall]]] = {}
    for track, recall in zip(tracks, recalls, strict=True):
        groups.setdefault(recall.shape, []).append((track, recall))
    for members in groups.values():
        for start in range(0, len(members), OBJECTS_PER_BATCH):
            chunk = members[start : start + OBJECTS_PER_BATCH]
            yield [track for track, _ in chunk], [recall for _, recall in chunk]
