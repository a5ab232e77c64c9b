"""Seconds, or another count such as allocations, that each part of the work on a tracked frame takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch

from i2vpp.execution.runner import Runner
from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
from i2vpp.session.state import InferenceState
from i2vpp.tracking import Tracker

FRAMES, ENCODER, SELECTION, RESULT, OTHER = "frames", "image encoder", "selection", "result", "other"

NETWORK = ("memory tokens", "memory attention", "memory prompts", "mask decoder", "memory encoder")
PARTS = (FRAMES, ENCODER, SELECTION, *NETWORK, RESULT, OTHER)
"""The parts in the order of a tracked frame. "frames" decodes and resizes; "selection" compares frames, chooses
memories and encodes evicted ones again; "result" resizes masks to the video's size; "other" is everything else."""

COMPILED_PARTS = (FRAMES, ENCODER, SELECTION, "track step", RESULT, OTHER)
"""The parts of a predictor whose step is compiled: no clock can stand inside of compiled code."""


@contextmanager
def measure_parts(
    predictor: I2VPPVideoPredictor, inference_state: InferenceState, meter: Callable[[], float] | None = None
) -> Iterator[dict[str, float]]:
    """Share out among the parts of the work what a meter counts in a `with` block.

    While parts are nested, the innermost counts, so the shares add up to the whole. Methods of the predictor, the
    session and the network are replaced by measured ones for the block; nothing else may run on them meanwhile.

    Args:
        predictor: does the work.
        inference_state: the session that is worked on in the block.
        meter: returns a number that grows, such as a clock; default: seconds, after waiting for the device.

    Yields:
        What each of PARTS or COMPILED_PARTS takes, in the meter's unit; complete after the block.
    """
    tracker = predictor._tracker
    shares = dict.fromkeys(PARTS if type(tracker.runner) is Runner else COMPILED_PARTS, 0.0)
    count = meter or device_clock(tracker.model.device)
    running = [OTHER]
    last = count()

    def charge() -> None:
        """Charge the innermost running part with what was counted since the last call."""
        nonlocal last
        now = count()
        shares[running[-1]] += now - last
        last = now

    def measured(function: Callable[..., Any], part: str) -> Callable[..., Any]:
        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            charge()
            running.append(part)
            try:
                return function(*args, **kwargs)
            finally:
                charge()
                running.pop()

        return call

    places = _places(tracker, inference_state)
    before = [vars(owner).get(name) for owner, name, _ in places]
    for owner, name, part in places:
        setattr(owner, name, measured(getattr(owner, name), part))
    try:
        yield shares
    finally:
        for (owner, name, _), attribute in zip(places, before, strict=True):
            if attribute is None:
                delattr(owner, name)  # of the instance, so that the method of its class is used again
            else:
                setattr(owner, name, attribute)
        charge()


def device_clock(device: torch.device) -> Callable[[], float]:
    """Return a clock in seconds that first waits for all work on a device."""

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        elif device.type == "mps":
            torch.mps.synchronize()
        return time.perf_counter()

    return now


def _places(tracker: Tracker, state: InferenceState) -> list[tuple[Any, str, str]]:
    """Return instance, method and part for everything that is measured."""
    runner, model = tracker.runner, tracker.model
    places: list[tuple[Any, str, str]] = [
        (state.frames, "clip", FRAMES),
        (runner, "encode", ENCODER),
        (state.similarity, "add", SELECTION),
        (tracker, "select_memory", SELECTION),
        (tracker, "result", RESULT),
    ]
    if type(runner) is not Runner:
        return [*places, (runner, "track_step", "track step")]
    return [
        *places,
        (model, "memory_tokens", "memory tokens"),
        (model.memory_attention, "forward", "memory attention"),
        (model.memory_prompt_generator, "forward", "memory prompts"),
        (model, "decode", "mask decoder"),
        (model, "encode_memory", "memory encoder"),
    ]
