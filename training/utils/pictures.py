"""A picture of a rollout: prompts, predicted and true masks of every frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from i2vpp.prompts.checks import BOX_LABELS
from i2vpp.utils.visualize import contact_sheet, draw_prompt, overlay

WIDTH = 256
"""Side of a cell in pixels; frames are scaled to it before anything is drawn on them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DrawnPrompt:
    """What the simulated user drew on one frame for one object, in pixels of the network's input.

    Args:
        points: clicks (x, y).
        labels: labels of the clicks: 1 positive, 0 negative.
        box: (x0, y0, x1, y1).
        mask: bool [S, S].
    """

    points: Sequence[tuple[float, float]] = ()
    labels: Sequence[int] = ()
    box: tuple[float, float, float, float] | None = None
    mask: Tensor | None = None

    @staticmethod
    def of(prompts: Sequence[tuple[str, Tensor, Tensor | None]], index: int) -> DrawnPrompt:
        """Gather what one object was given on one frame.

        Args:
            prompts: as `FrameOutcome.prompts` holds them: kind, and coords [B, P, 2] with labels [B, P], or the mask
                [B, S, S] without labels.
            index: index of the object among the B.
        """
        mask, drawn = None, []
        for _, values, labels in prompts:
            if labels is None:
                mask = values[index]
            else:
                pairs = zip(values[index].tolist(), labels[index].tolist(), strict=True)
                drawn += [((x, y), int(label)) for (x, y), label in pairs if label >= 0]
        corners = [value for point, label in drawn if label in BOX_LABELS for value in point]
        clicks = [(point, label) for point, label in drawn if label not in BOX_LABELS]
        return DrawnPrompt(
            points=[point for point, _ in clicks],
            labels=[label for _, label in clicks],
            box=(corners[0], corners[1], corners[2], corners[3]) if corners else None,
            mask=mask,
        )

    @property
    def description(self) -> str:
        """What kinds of prompts they are."""
        kinds = ["mask"] if self.mask is not None else []
        kinds += ["box"] if self.box is not None else []
        count = len(self.points)
        kinds += [f"{count} click{'s' if count > 1 else ''}"] if count else []
        return " + ".join(kinds)


def rollout_picture(
    frames: Tensor,  # [T, 3, S, S] uint8
    truth: Tensor,  # [T, S, S] bool
    prediction: Tensor,  # [T, s, s]
    prompts: Sequence[DrawnPrompt],
) -> NDArray[np.uint8]:
    """Draw one object's rollout, a row for each frame: prompt, prediction with its IoU, truth.

    Args:
        frames: RGB at the size of the network's input.
        truth: the object's masks.
        prediction: mask logits of any size, positive = object, or bool.
        prompts: prompts of each frame.

    Returns:
        RGB picture [rows, columns, 3].

    Raises:
        ValueError: different numbers of frames.
    """
    count = len(frames)
    if not count == len(truth) == len(prediction) == len(prompts):
        raise ValueError(
            f"rollout_picture: {count} frames, {len(truth)} true masks, {len(prediction)} predicted masks, "
            f"{len(prompts)} prompts; allowed: as many of each"
        )
    scale = WIDTH / frames.shape[-1]
    images, true, predicted = _images(frames), _masks(truth), _masks(prediction)
    cells, captions = [], []
    for t, (image, prompt) in enumerate(zip(images, prompts, strict=True)):
        cells += [
            _draw(image, prompt, scale),
            overlay(image, predicted[t, None], [1]),
            overlay(image, true[t, None], [1]),
        ]
        captions += [f"frame {t}: {prompt.description}".rstrip(": "), _score(predicted[t], true[t]), "truth"]
    return np.array(contact_sheet(cells, 3, captions=captions, cell_width=WIDTH, gap=4))


def _images(frames: Tensor) -> NDArray[np.uint8]:
    """Scale frames: uint8 [T, WIDTH, WIDTH, 3]."""
    scaled = F.interpolate(frames.cpu().float(), (WIDTH, WIDTH), mode="bilinear", align_corners=False, antialias=True)
    return scaled.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()


def _masks(masks: Tensor) -> NDArray[np.bool_]:
    """Scale masks or their logits: bool [T, WIDTH, WIDTH]."""
    masks = masks.detach().cpu()
    logits = masks.float() - 0.5 if masks.dtype == torch.bool else masks.float()
    scaled = F.interpolate(logits[:, None], (WIDTH, WIDTH), mode="bilinear", align_corners=False)
    return (scaled[:, 0] > 0).numpy()


def _draw(image: NDArray[np.uint8], prompt: DrawnPrompt, scale: float) -> NDArray[np.uint8]:
    if prompt.mask is not None:
        image = overlay(image, _masks(prompt.mask[None]), [2])
    points = [(scale * x, scale * y) for x, y in prompt.points]
    box = None if prompt.box is None else [scale * value for value in prompt.box]
    return draw_prompt(image, points, prompt.labels, box)


def _score(predicted: NDArray[np.bool_], true: NDArray[np.bool_]) -> str:
    if not true.any():
        return "absent: predicted all the same" if predicted.any() else "absent, as predicted"
    return f"prediction, IoU {(predicted & true).sum() / (predicted | true).sum():.2f}"
