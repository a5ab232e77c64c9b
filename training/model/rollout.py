"""Play a batch of clips through the model, by the same calls as in prediction.

The order is the predictor's: prompted frames first, without memory; then the other frames in time, each reading the
memory of the frames before it. A frame that the simulated user corrects becomes a conditioning frame.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from i2vpp.memory.bank import MemoryBank
from i2vpp.memory.selection import FrameTime, RecentFrames
from i2vpp.modeling.i2vpp import I2VPP
from i2vpp.session.frames import clip_indices, normalise
from i2vpp.structures import Conditioned, FrameFeatures, FrameMemory, MaskPrediction, Prompt
from i2vpp.tracking import PREVIOUS_LOGIT_LIMIT, with_small_parts
from i2vpp.utils.masks import fill_holes
from training.config import UserConfig
from training.dataset.clips import ClipBatch
from training.loss_fns import StepOutput
from training.model.simulated_user import (
    Clicks,
    PromptPlan,
    append_clicks,
    correction_click,
    first_click,
    noisy_box,
    object_generators,
    plan_prompts,
)

MAX_POINTERS = 16
"""Frames whose object pointers are read; a shorter clip reads fewer, and normalises their distance by its length."""


@dataclass(kw_only=True, eq=False)
class FrameOutcome:
    """What happened on one frame of a rollout.

    Args:
        steps: the decoding steps, in order; none where the mask itself was the prompt.
        logits: the final mask of every object [B, 1, 4h, 4w], holes filled.
        prompts: prompts in order: kind, and coords [B, P, 2] with labels [B, P], or the mask [B, S, S] and None.
    """

    logits: Tensor
    steps: list[StepOutput] = field(default_factory=list)
    prompts: list[tuple[str, Tensor, Tensor | None]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True, eq=False)
class Rollout:
    """A played batch: the user's plan, and the outcome of every frame in time order."""

    plan: PromptPlan
    frames: tuple[FrameOutcome, ...]

    @property
    def steps(self) -> list[list[StepOutput]]:
        """Decoding steps, frame by frame."""
        return [frame.steps for frame in self.frames]


class ClipRollout(nn.Module):
    """Play clips through the model.

    Args:
        model: the network; its mode (train or eval) is set by the caller.
        user: frequencies of the simulated user's prompts.
        auxiliary: compute the memory attention's deep-supervision masks.
        recompute: recompute each frame in the backward pass instead of keeping its activations.
    """

    def __init__(self, model: I2VPP, user: UserConfig, *, auxiliary: bool = True, recompute: bool = False) -> None:
        super().__init__()
        self.model = model
        self.user = user
        self.auxiliary = auxiliary
        self.recompute = recompute

    def forward(self, batch: ClipBatch, plan: PromptPlan | None = None) -> Rollout:
        """Play a batch.

        Args:
            batch: the clips.
            plan: which frames are prompted, and how; None to draw a plan from the batch's `step_seed`.

        Returns:
            The outcome of every frame.
        """
        if plan is None:
            plan = plan_prompts(batch.num_frames, self.user, np.random.default_rng(batch.step_seed))
        return _Play(self, batch, plan).run()

    def encode(self, batch: ClipBatch) -> list[FrameFeatures]:
        """Encode all frames; features [B, D, h, w] for every frame, one per object."""
        frames = normalise(batch.frames.float()).transpose(1, 2)  # [C, 3, T, S, S]
        clips = [frames[:, :, list(clip_indices(t))] for t in range(batch.num_frames)]
        if self.recompute:
            encoded = [self.recomputed(self.model.encode, clip) for clip in clips]
        else:
            whole = self.model.encode(torch.cat(clips))
            encoded = [
                FrameFeatures(embedding=part, position=whole.position)
                for part in whole.embedding.split(batch.frames.shape[0])
            ]
        return [FrameFeatures(embedding=f.embedding[batch.clip_of_object], position=f.position) for f in encoded]

    def recomputed(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Call a function whose activations are recomputed in the backward pass, where that is wanted.

        `checkpoint` saves the random state of a device, and restores its autocast, only if it finds a tensor of that
        device among its positional arguments. It does not look into our dataclasses. So a parameter goes with them:
        without it, the recomputation on a GPU would draw other dropout masks, and the gradients would be wrong.

        Args:
            function: called once now and, if activations are recomputed, once more in the backward pass.
            arguments: positional arguments of the function.
            options: keyword arguments of the function.

        Returns:
            What the function returns.
        """
        if not (self.recompute and torch.is_grad_enabled()):
            return function(*arguments, **options)

        def beside_a_tensor(_: Tensor, *arguments: Any, **options: Any) -> Any:
            return function(*arguments, **options)

        return checkpoint(beside_a_tensor, self.model.no_mem_embed, *arguments, use_reentrant=False, **options)


class _Play:
    """One batch being played, with the memory of its objects."""

    def __init__(self, rollout: ClipRollout, batch: ClipBatch, plan: PromptPlan) -> None:
        self.rollout = rollout
        self.model = rollout.model
        self.batch = batch
        self.plan = plan
        self.bank = MemoryBank()
        self.selector = RecentFrames(max_pointers=max(2, min(MAX_POINTERS, batch.num_frames)))
        self.generators = object_generators(batch.seeds)

    def run(self) -> Rollout:
        """Play all frames."""
        features = self.rollout.encode(self.batch)
        order = [*self.plan.prompted, *(t for t in range(self.batch.num_frames) if t not in self.plan.prompted)]
        outcomes: dict[int, FrameOutcome] = {}
        for t in order:
            outcomes[t] = self._play(t, features[t])
        return Rollout(plan=self.plan, frames=tuple(outcomes[t] for t in sorted(outcomes)))

    def _play(self, t: int, features: FrameFeatures) -> FrameOutcome:
        prompted = t in self.plan.prompted
        if prompted and self.plan.kind == "mask":
            truth = self.batch.masks[:, t]
            prediction = with_small_parts(self.model.use_mask_as_output(features, truth[:, None].float()))
            outcome = FrameOutcome(logits=self._filled(prediction), prompts=[("mask", truth, None)])
        else:
            conditioned = self._condition(t, features, with_memory=not prompted)
            clicks = self._first_prompt(t) if prompted else None
            prediction = self._decode(
                conditioned, Prompt() if clicks is None else Prompt(coords=clicks[0], labels=clicks[1])
            )
            step = StepOutput(prediction=prediction, auxiliary=conditioned.auxiliary)
            outcome = FrameOutcome(logits=self._filled(prediction), steps=[step])
            if clicks is not None:
                outcome.prompts.append((self.plan.kind, *clicks))
            if t in self.plan.corrected:
                prediction = self._correct(t, outcome, conditioned, clicks, prediction)
        given = prompted or t in self.plan.corrected
        memory = self.rollout.recomputed(
            self.model.encode_memory, features, prediction, outcome.logits, conditioning=given
        )
        self.bank.put(t, memory, conditioning=given)
        return outcome

    def _condition(self, t: int, features: FrameFeatures, *, with_memory: bool) -> Conditioned:
        if not with_memory:
            return self.model.condition_on_memory(features, None)
        selection = self.selector.select(
            FrameTime(frame_idx=t), list(self.bank.conditioning), self.bank, _no_similarity
        )
        selected = self.bank.fetch(selection, _no_rebuild)

        def read(features: FrameFeatures) -> Conditioned:
            return self.model.condition_on_memory(
                features, self.model.memory_tokens([selected]), auxiliary=self.rollout.auxiliary
            )

        conditioned: Conditioned = self.rollout.recomputed(read, features)
        return conditioned

    def _first_prompt(self, t: int) -> Clicks:
        truth = self.batch.masks[:, t]
        if self.plan.kind == "box":
            return noisy_box(truth, self.generators, self.rollout.user)
        return first_click(truth, self.generators, self._ignored(t))

    def _ignored(self, t: int) -> Tensor | None:
        return None if self.batch.ignored is None else self.batch.ignored[:, t]

    def _correct(
        self,
        t: int,
        outcome: FrameOutcome,
        conditioned: Conditioned,
        clicks: Clicks | None,
        prediction: MaskPrediction,
    ) -> MaskPrediction:
        """Let the user click on mistakes, one after the other; every click is a decoding step of its own."""
        truth = self.batch.masks[:, t]
        for _ in range(self.rollout.user.corrections):
            shown = F.interpolate(outcome.logits, truth.shape[-2:], mode="bilinear", align_corners=False)[:, 0] > 0
            new = correction_click(truth, shown, self.generators, self.rollout.user, self._ignored(t))
            clicks = append_clicks(clicks, new)
            previous = outcome.logits.clamp(-PREVIOUS_LOGIT_LIMIT, PREVIOUS_LOGIT_LIMIT)
            prediction = self._decode(conditioned, Prompt(coords=clicks[0], labels=clicks[1], mask=previous))
            outcome.logits = self._filled(prediction)
            outcome.steps.append(StepOutput(prediction=prediction, auxiliary=None))
            outcome.prompts.append(("click", *new))
        return prediction

    def _decode(self, conditioned: Conditioned, prompt: Prompt) -> MaskPrediction:
        prediction: MaskPrediction = self.rollout.recomputed(self.model.decode, conditioned, prompt)
        return prediction

    def _filled(self, prediction: MaskPrediction) -> Tensor:
        return fill_holes(prediction.logits, self.model.config.fill_hole_area)


def _no_similarity(frames: Sequence[int]) -> np.ndarray:
    raise AssertionError("RecentFrames compares no frames")


def _no_rebuild(frame_idx: int) -> FrameMemory:
    raise AssertionError("a rollout evicts no memory")
