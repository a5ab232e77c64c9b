"""The module that turns a batch into its loss; DDP wraps it."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from training.dataset.clips import ClipBatch
from training.loss_fns import LossTerms, clip_loss
from training.model.rollout import ClipRollout, FrameOutcome


class Objective(nn.Module):
    """Plays a batch and sums up its loss.

    Args:
        rollout: plays clips.
        loss_scale: side of the masks that are compared, over the side of the input.

    Attributes:
        played: how the frames of the latest batch ended, for pictures; without the graph.
    """

    def __init__(self, rollout: ClipRollout, *, loss_scale: float = 1.0) -> None:
        super().__init__()
        self.rollout = rollout
        self.loss_scale = loss_scale
        self.played: tuple[FrameOutcome, ...] = ()

    def forward(self, batch: ClipBatch) -> LossTerms:
        """Return the loss terms summed over objects, frames and steps.

        Nothing else is returned: DDP would wait for gradients of whatever hangs on its outputs.
        """
        rollout = self.rollout(batch)
        self.played = tuple(replace(frame, logits=frame.logits.detach(), steps=[]) for frame in rollout.frames)
        return clip_loss(rollout.steps, batch.masks, batch.ignored, scale=self.loss_scale)
