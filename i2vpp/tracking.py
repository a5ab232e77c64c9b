"""The tracker calls the verbs of the model for the frames and objects of a session. It holds no state of its own."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import replace
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from i2vpp.execution.runner import ObjectOutput, Runner, encode_output
from i2vpp.memory.selection import FrameTime, Selection, Similarity
from i2vpp.modeling.i2vpp import I2VPP, MEMORY_MASK_BIAS, MEMORY_MASK_SCALE, mask_logits
from i2vpp.modeling.inference import precision
from i2vpp.session.records import DrawnMask
from i2vpp.session.state import Clicks, FrameRecord, InferenceState, ObjectTrack
from i2vpp.structures import (
    ABSENT_LOGIT,
    Conditioned,
    FrameFeatures,
    FrameMemory,
    FrameResult,
    MaskPrediction,
    Prompt,
    SelectedMemory,
)
from i2vpp.utils.masks import fill_holes, raise_small_parts

PREVIOUS_LOGIT_LIMIT = 32.0
"""Largest absolute logit of the previous mask that the decoder is given together with clicks."""

SMALL_AREA = 64
SHOWN_SHARE = 0.9
"""A drawn mask is kept at the video's size if it covers fewer cells of the mask logits than SMALL_AREA (4 cells of the
image features), or if its logits show less than SHOWN_SHARE of its pixels."""


class Tracker:
    """Encode, prompt and track frames.

    Args:
        runner: runs a model in eval mode.
        dtype: data type of encoder, memory attention and memory encoder (float32, bfloat16, float16). The tracker sets
            autocast itself and overrides an autocast that is set around it.
    """

    def __init__(self, runner: Runner, *, dtype: torch.dtype) -> None:
        self.runner = runner
        self.dtype = dtype

    @property
    def model(self) -> I2VPP:
        """The network."""
        return self.runner.model

    def precision(self) -> torch.autocast:
        """Return the autocast context in which the model runs."""
        return precision(self.model.device, self.dtype, self.model.no_mem_embed)

    def features(self, state: InferenceState, frame_idx: int) -> FrameFeatures:
        """Encode a frame once for all objects.

        Args:
            state: the session.
            frame_idx: the frame.

        Returns:
            The features, from the cache of the session if they are there.
        """
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
        """Predict an object from clicks on a frame and keep the output as a conditioning memory.

        Args:
            state: the session.
            track: the object.
            frame_idx: the frame.
            clicks: clicks and box, in pixels of the network's input.
        """
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
            conditioned = self._condition(state, track, features, frame_idx, reverse=reverse)
            output = encode_output(self.model, features, self.model.decode(conditioned, prompt), conditioning=True)
        self._keep(track, frame_idx, output, conditioning=True, reverse=reverse)

    @torch.no_grad()
    def use_mask(
        self,
        state: InferenceState,
        track: ObjectTrack,
        frame_idx: int,
        mask: Tensor,
        *,
        conditioning: bool = True,
        reverse: bool = False,
    ) -> None:
        """Use a mask as an object's output on a frame and encode it as a memory.

        Args:
            state: the session.
            track: the object.
            frame_idx: the frame.
            mask: [1, 1, H, W] of 0 and 1, of any size.
            conditioning: the mask is a prompt; the frame keeps the direction in which it was tracked before.
            reverse: direction in which the mask was tracked, if it is no prompt.
        """
        state.check_not_skipped(frame_idx)
        size = (self.model.image_size, self.model.image_size)
        mask = drawn = mask.to(self.model.device)
        if mask.shape[-2:] != size:
            resized = F.interpolate(mask, size, mode="bilinear", align_corners=False, antialias=True)
            mask = (raise_small_parts(resized) >= 0.5).float()
        previous = track.records.get(frame_idx)
        with self.precision():
            features = self.features(state, frame_idx)
            prediction = with_small_parts(self.model.use_mask_as_output(features, mask))
            output = encode_output(self.model, features, prediction, conditioning=conditioning)
        if conditioning:
            reverse = previous is not None and previous.reverse
        self._keep(track, frame_idx, output, conditioning=conditioning, reverse=reverse)
        if _is_too_coarse(output.logits, drawn > 0):
            record = replace(track.records[frame_idx], drawn=DrawnMask.of(drawn[0, 0] > 0))
            track.records[frame_idx] = record

    @torch.no_grad()
    def track(
        self, state: InferenceState, frame_idx: int, *, reverse: bool, obj_ids: Container[int] | None = None
    ) -> None:
        """Track objects on a frame; an object that was prompted on it keeps the output of its prompts.

        Args:
            state: the session.
            frame_idx: the frame.
            reverse: tracking runs towards frame 0.
            obj_ids: the objects; None for all.
        """
        chosen = state.chosen(obj_ids)
        pending = []
        for track in chosen.values():
            if track.bank.conditioning:
                track.visited.add(frame_idx)
                if frame_idx not in track.bank.conditioning:
                    pending.append(track)
        if not pending:
            return
        with self.precision():
            features = self.features(state, frame_idx)
            now = state.frame_time(frame_idx, reverse=reverse)
            similarity = self._similarity(state, frame_idx)
            selected = [self.select_memory(state, track, now, similarity) for track in pending]
            outputs = self.runner.track_step(features, selected)
        for track, output in zip(pending, outputs, strict=True):
            self._keep(track, frame_idx, output, conditioning=False, reverse=reverse)
        state.evict(frame_idx, chosen.values())

    @torch.no_grad()
    def result(self, state: InferenceState, frame_idx: int, obj_ids: Container[int] | None = None) -> FrameResult:
        """Collect masks and scores of objects on a frame.

        Args:
            state: the session.
            frame_idx: the frame.
            obj_ids: the objects; None for all.

        Returns:
            Masks at the video's size.
        """
        device = self.model.device
        chosen = state.chosen(obj_ids)
        records = [track.records.get(frame_idx) for track in chosen.values()]
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
            obj_ids=list(chosen),
            masks=masks,
            object_scores=torch.cat(scores),
            predicted_ious=torch.cat(ious),
            bad_frame=state.source.is_bad(frame_idx),
        )

    def _mask(self, record: FrameRecord) -> Tensor:
        """Mask logits [1, 1, 4h, 4w] of a record, holes filled."""
        if record.logits is not None:
            return record.logits
        return fill_holes(record.decoded.to(self.model.device, torch.float32), self.model.config.fill_hole_area)

    def _condition(
        self, state: InferenceState, track: ObjectTrack, features: FrameFeatures, frame_idx: int, *, reverse: bool
    ) -> Conditioned:
        """Condition the features of a prompted frame on memory only if the frame was tracked before."""
        if frame_idx not in track.visited or not track.bank.conditioning:
            return self.model.condition_on_memory(features, None)
        now = state.frame_time(frame_idx, reverse=reverse)
        selected = self.select_memory(state, track, now, self._similarity(state, frame_idx))
        return self.model.condition_on_memory(features, self.model.memory_tokens([selected]))

    def _similarity(self, state: InferenceState, frame_idx: int) -> Similarity:
        """Return the similarity function of a frame for the selector; values are computed once for all objects."""

        @cache
        def answer(frames: tuple[int, ...]) -> np.ndarray:
            for f in state.similarity.missing(frame_idx, frames):
                self._compare(state, frame_idx, f)
            return state.similarity.get(frame_idx, frames)

        return lambda frames: answer(tuple(frames)).copy()  # selectors add noise to it, or sort it

    def select_memory(
        self, state: InferenceState, track: ObjectTrack, now: FrameTime, similarity: Similarity
    ) -> SelectedMemory:
        """Select and fetch the memories of one object for a frame.

        Args:
            state: the session.
            track: the object.
            now: the frame being tracked.
            similarity: of the frame to others.

        Returns:
            The memories; one that was evicted is encoded again.
        """
        selection: Selection = state.selector.select(now, list(track.bank.conditioning), track.bank, similarity)
        return track.bank.fetch(selection, lambda f: self._rebuild(state, track, f))

    def _compare(self, state: InferenceState, frame_idx: int, other: int) -> None:
        """Compute the similarity of two frames whose keys were not held at the same time."""
        for f in (other, frame_idx):
            self._hold_key(state, f, self.features(state, f))

    def _rebuild(self, state: InferenceState, track: ObjectTrack, frame_idx: int) -> FrameMemory:
        """Encode the evicted memory of a non-conditioning frame again."""
        record = track.records[frame_idx]
        features, prediction = self.features(state, frame_idx), record.prediction(self.model.device)
        return self.model.encode_memory(features, prediction, self._mask(record), conditioning=False)

    @staticmethod
    def _keep(track: ObjectTrack, frame_idx: int, output: ObjectOutput, *, conditioning: bool, reverse: bool) -> None:
        """Store the output of one object as memory and record."""
        track.bank.put(frame_idx, output.memory, conditioning=conditioning)
        track.records[frame_idx] = FrameRecord(
            decoded=output.decoded,
            logits=output.logits,
            object_score=output.object_score,
            iou=output.iou,
            pointer=output.pointer,
            reverse=reverse,
        )


def with_small_parts(prediction: MaskPrediction) -> MaskPrediction:
    """Return the prediction of a given mask with logits that keep parts which are too small or thin for the grid."""
    coverage = (prediction.logits - MEMORY_MASK_BIAS) / MEMORY_MASK_SCALE  # of each cell: see `use_mask_as_output`
    kept = raise_small_parts(coverage)
    logits = torch.where(kept == coverage, prediction.logits, mask_logits(kept))
    return replace(prediction, logits=logits, candidates=logits)


def _is_too_coarse(logits: Tensor, drawn: Tensor) -> bool:
    """Return whether logits [1, 1, 4h, 4w] made from a mask [1, 1, H, W] are too coarse to show it."""
    area = int(drawn.sum())
    if not area:
        return False
    if area * logits.numel() < SMALL_AREA * drawn.numel():
        return True
    shown = F.interpolate(logits, drawn.shape[-2:], mode="bilinear", align_corners=False) > 0
    return int((shown & drawn).sum()) < SHOWN_SHARE * area
