"""The simulated user: which frames of a clip it prompts, how, and where it clicks.

What holds for a whole step is drawn from one NumPy generator; clicks and boxes of each object come from the object's
own torch generator, on the CPU and always with the same number of draws. So an object gets the same clicks on every
device, in whatever batch it comes. Coordinates are pixels x, y of the network's input. No call waits for the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from i2vpp.prompts.checks import BOX_LABELS
from training.config import UserConfig

Clicks: TypeAlias = tuple[Tensor, Tensor]  # coordinates [B, P, 2] float32, and labels [B, P] int32

_BITS = 31  # of a random integer; products with pixel counts fit into 64 bits


@dataclass(frozen=True, kw_only=True)
class PromptPlan:
    """What the user does on a clip.

    Args:
        kind: kind of the first prompt on each prompted frame.
        prompted: frames that are prompted, in order; the first one is 0.
        corrected: frames whose mistakes are then clicked on, in order; all prompted ones and maybe more, or none where
            masks are given.
    """

    kind: Literal["mask", "click", "box"]
    prompted: tuple[int, ...]
    corrected: tuple[int, ...]


def plan_prompts(num_frames: int, config: UserConfig, rng: np.random.Generator) -> PromptPlan:
    """Decide what is prompted on a clip.

    A still image (one frame) is always clicked on or boxed: a mask prompt is itself the output, which has no loss.

    Args:
        num_frames: T of the clip.
        config: settings of the user.
        rng: random generator of the step.
    """
    is_mask = rng.random() < config.mask
    kind: Literal["click", "box"] = "box" if rng.random() < config.box else "click"
    num_prompted = int(rng.integers(1, min(config.max_prompted, num_frames), endpoint=True))
    most_corrected = min(max(config.max_corrected, num_prompted), num_frames)
    num_corrected = int(rng.integers(num_prompted, most_corrected, endpoint=True))
    order = [0, *(1 + rng.permutation(num_frames - 1)).tolist()]  # so that prompted frames are corrected first
    prompted = tuple(sorted(order[:num_prompted]))
    if is_mask and num_frames > 1:
        given = prompted[: num_frames - 1]  # one frame must be left that is tracked
        return PromptPlan(kind="mask", prompted=given, corrected=())
    return PromptPlan(kind=kind, prompted=prompted, corrected=tuple(sorted(order[:num_corrected])))


def object_generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """Make the generators of objects from `ClipBatch.seeds`."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def first_click(truth: Tensor, generators: Sequence[torch.Generator], ignored: Tensor | None = None) -> Clicks:
    """Click somewhere on each object; where it is absent, a negative click anywhere.

    Args:
        truth: bool [B, S, S].
        generators: one random generator per object.
        ignored: bool [B, S, S], pixels that are not clicked on unless an image has no others; None: there are none.

    Returns:
        Coordinates [B, 1, 2] float32 and labels [B, 1] int32, on the device of `truth`.
    """
    return _click(_or_everything(truth, ignored), truth, generators)


def correction_click(
    truth: Tensor,
    predicted: Tensor,
    generators: Sequence[torch.Generator],
    config: UserConfig,
    ignored: Tensor | None = None,
) -> Clicks:
    """Click on a mistake of each mask: positive on a false negative, negative on a false positive.

    With probability `config.from_object`, and where there is no mistake, the click goes to the object; where that is
    absent, anywhere (negative).

    Args:
        truth: bool [B, S, S].
        predicted: bool [B, S, S].
        generators: one random generator per object.
        config: settings of the user.
        ignored: see `first_click`.

    Returns:
        Coordinates [B, 1, 2] float32 and labels [B, 1] int32, on the device of `truth`.
    """
    chance = torch.stack([torch.rand((), generator=generator) for generator in generators])
    mistakes = truth ^ predicted
    if ignored is not None:
        mistakes &= ~ignored
    from_object = _sent(chance < config.from_object, truth.device) | ~_any(mistakes)
    region = torch.where(from_object[:, None, None], _or_everything(truth, ignored), mistakes)
    return _click(region, truth, generators)


def noisy_box(truth: Tensor, generators: Sequence[torch.Generator], config: UserConfig) -> Clicks:
    """Draw a box around each object, roughly.

    A tight box runs from the first column and row of the object to just behind the last ones, so that even a single
    pixel has an area. Each of its four coordinates moves by uniform noise. An absent object is boxed as if it filled
    the image, because a box of no area is nothing that a user can draw.

    Args:
        truth: bool [B, S, S].
        generators: one random generator per object.
        config: settings of the user.

    Returns:
        Corners [B, 2, 2] float32, x0, y0 and x1, y1, within [0, S], and labels [B, 2] int32, 2 and 3.
    """
    region = _or_everything(truth)
    x0, x1 = _extent(region.any(dim=1))
    y0, y1 = _extent(region.any(dim=2))
    corners = torch.stack([x0, y0, x1, y1], dim=1).float().unflatten(1, (2, 2))
    largest = ((corners[:, 1:] - corners[:, :1]) * config.box_noise).clamp(max=config.box_noise_pixels)  # [B, 1, 2]
    unit = torch.stack([torch.rand(2, 2, generator=generator) for generator in generators])
    unit = _sent(unit, truth.device)
    moved = (corners + (2 * unit - 1) * largest).clamp(0, truth.shape[-1])
    ordered = torch.stack([moved.amin(dim=1), moved.amax(dim=1)], dim=1)  # noise may swap corners
    labels = torch.tensor(BOX_LABELS, dtype=torch.int32).repeat(len(truth), 1)
    return ordered, _sent(labels, truth.device)


def append_clicks(clicks: Clicks | None, new: Clicks) -> Clicks:
    """Add clicks behind earlier ones, so that box corners stay first.

    Args:
        clicks: coordinates [B, P, 2] and labels [B, P]; None where nothing was clicked yet.
        new: coordinates [B, N, 2] and labels [B, N], 0 or 1.

    Returns:
        Coordinates [B, P + N, 2] and labels [B, P + N].
    """
    if clicks is None:
        return new
    return torch.cat([clicks[0], new[0]], dim=1), torch.cat([clicks[1], new[1]], dim=1)


def _sent(values: Tensor, device: torch.device) -> Tensor:
    """Copy a temporary tensor to a device; a GPU need not be waited for, but MPS would read what is freed by then."""
    return values.to(device, non_blocking=device.type == "cuda")


def _any(masks: Tensor) -> Tensor:
    return masks.flatten(1).any(dim=1)


def _or_everything(truth: Tensor, ignored: Tensor | None = None) -> Tensor:
    """Object masks; where the object is absent, the whole image, without ignored pixels unless there are no others."""
    everything = ~_any(truth)[:, None, None]
    if ignored is not None:
        everything = everything & (~ignored | ignored.flatten(1).all(dim=1)[:, None, None])
    return truth | everything


def _click(region: Tensor, truth: Tensor, generators: Sequence[torch.Generator]) -> Clicks:
    """Pick a pixel of each region, which must not be empty; it is positive if it lies on the object."""
    index = _pick(region.flatten(1), generators)
    width = region.shape[-1]
    coords = torch.stack([index % width, index // width], dim=1).float()
    return coords[:, None], truth.flatten(1).gather(1, index[:, None]).int()


def _pick(region: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Pick one True element of each row of [B, N], uniformly; integers alone, so exactly the same on every device."""
    if len(generators) != len(region):
        raise ValueError(f"one generator per object: {len(region)} objects, {len(generators)} generators")
    draws = torch.stack([torch.randint(2**_BITS, (), generator=generator) for generator in generators])
    ranks = region.cumsum(dim=1, dtype=torch.int32)  # of the True elements, from 1
    chosen = (_sent(draws, region.device) * ranks[:, -1].long()) >> _BITS
    return (ranks <= chosen[:, None]).sum(dim=1)


def _extent(occupied: Tensor) -> tuple[Tensor, Tensor]:
    """First True place, and the one behind the last, of each row of [B, S]; no row is empty."""
    places = torch.arange(occupied.shape[1], device=occupied.device)
    first = torch.where(occupied, places, occupied.shape[1]).amin(dim=1)
    return first, torch.where(occupied, places, -1).amax(dim=1) + 1
