"""What tracking one frame costs: seconds, FLOPs and bytes by part, peak memory, and the machine's rates beside them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from statistics import median
from typing import Any

import torch

from benchmarking.cases import Case, Settings
from benchmarking.first_mask import first_masks, num_first_masks
from benchmarking.meters import (
    Places,
    TrafficCounter,
    by_part,
    flop_counter,
    split_by_part,
    tracking_places,
    uncompiled,
)
from benchmarking.predictors import build, describe
from benchmarking.published import published_flop
from benchmarking.rates import Rates, clock, machine_rates
from benchmarking.results import derive
from benchmarking.videos import disc_masks, make_video
from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
from i2vpp.session.state import InferenceState
from i2vpp.utils.machine import peak_memory

Step = Callable[[], object]


def measure(case: Case, settings: Settings, step: Step = lambda: None) -> dict[str, Any]:
    """Measure one combination; call it in a fresh process for a meaningful peak of memory.

    Args:
        case: the combination.
        settings: of the benchmark.
        step: called after each of `num_steps` steps.

    Returns:
        What a member of `cases` in the JSON file holds; docs/benchmark.md lists it.

    Raises:
        I2VPPError: of the library, or what is asked for cannot be measured.
    """
    baseline = peak_memory(torch.device("cpu"))
    start = clock(torch.device("cpu"))()
    predictor = build(case, settings)
    now = clock(predictor.device)
    build_seconds = now() - start
    video = make_video(settings, case.objects)
    with predictor.init_state(video) as state:
        start = now()
        for obj_id, mask in enumerate(disc_masks(settings, case.objects), start=1):
            predictor.add_new_mask(state, 0, obj_id, mask)
        prompt_seconds = now() - start
        fill_memory(state, settings.history)
        step()
        seconds = time_frames(predictor, state, settings, step)
        peak = peak_memory(predictor.device)
        rates = machine_rates(predictor.device, predictor.dtype, settings.matmul_sides)  # between what they are set to
        step()
        waits = first_masks(predictor, settings, video, step)
        parts = measure_parts(predictor, state, settings, step)
        groups, pointers = memory_shape(state, settings.num_frames - 1)
    published = published_flop(predictor.model.config, objects=case.objects, groups=groups, pointers=pointers)
    on_gpu = predictor.device.type == "cuda"
    return derive(
        {
            **describe(predictor, case, settings),
            "memory_groups": groups,
            "memory_pointers": pointers,
            "frame_seconds": seconds[settings.warmup :],
            "warmup_seconds": seconds[: settings.warmup],
            "build_seconds": build_seconds,
            "prompt_seconds": prompt_seconds,
            "first_masks": waits,
            "parts": parts.seconds,
            "parts_flop": parts.flop,
            "parts_published_flop": by_part(published, compiled=settings.compiled),
            "parts_bytes": parts.bytes,
            "peak_memory_bytes": peak,
            "peak_memory_of": "tensors on the device" if on_gpu else "process, with Python and PyTorch",
            "process_bytes_at_start": baseline,
            **_rates(rates),
        }
    )


def num_steps(settings: Settings) -> int:
    """Return how often `measure` calls `step`."""
    return 1 + settings.warmup + settings.frames + 1 + settings.frames + 2 + num_first_masks(settings)


def _rates(rates: Rates) -> dict[str, Any]:
    return {
        "matmul_flop_per_second": rates.matmul,
        "matmul_flop_per_second_by_side": {str(side): rate for side, rate in rates.matmul_by_side.items()},
        "copy_bytes_per_second": rates.copy,
    }


def fill_memory(state: InferenceState, history: int) -> None:
    """Let frames 1 to `history` look as if they had been tracked, without running the network on them.

    Every object gets copies of its memory and record of frame 0, which must be prompted, under each of the frames, and
    the frames' similarity keys are those of frame 0. So the next frame reads as much memory as in a long video, and the
    values are real ones: selection, shapes and memory use are those of tracking, only the masks mean nothing.
    """
    embedding = state.features[0].embedding
    for frame_idx in range(1, history + 1):
        if state.selector.uses_similarity:
            state.similarity.add(frame_idx, embedding)
        for track in state.tracks.values():
            track.bank.put(frame_idx, _copy(track.bank.conditioning[0]), conditioning=False)
            track.records[frame_idx] = _copy(track.records[0])
            track.visited.add(frame_idx)


def _copy(value: Any) -> Any:
    """Copy a frozen dataclass together with its tensors."""
    tensors = {field.name: getattr(value, field.name) for field in fields(value)}
    return replace(value, **{name: x.clone() for name, x in tensors.items() if isinstance(x, torch.Tensor)})


def time_frames(
    predictor: I2VPPVideoPredictor, state: InferenceState, settings: Settings, step: Step = lambda: None
) -> list[float]:
    """Return the seconds of each frame, warm-up included, as users see them: whole, the next ones decoded ahead."""
    count, now = settings.warmup + settings.frames, clock(predictor.device)
    results = predictor.propagate_in_video(state, settings.first_tracked, count - 1, progress=False)
    seconds = []
    for _ in range(count):
        start = now()
        next(results)
        seconds.append(now() - start)
        step()
    state.frames.hint(range(0))
    return seconds


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What the parts of a frame take."""

    seconds: dict[str, float]
    flop: dict[str, int]
    bytes: dict[str, int]


def measure_parts(
    predictor: I2VPPVideoPredictor, state: InferenceState, settings: Settings, step: Step = lambda: None
) -> Parts:
    """Track the frames after those of `time_frames` one by one; return medians of seconds, and counts of the last two.

    Nothing runs in the background meanwhile. What is compiled is timed compiled, and counted operation by operation.
    """
    compiled = settings.compiled

    def track(frame_idx: int, meter: Callable[[], float], places: Places) -> dict[str, float]:
        with split_by_part(places, meter) as shares:
            predictor.track_frame(state, frame_idx)
        step()
        return by_part(shares, compiled=compiled)

    first = settings.first_tracked + settings.warmup + settings.frames
    now, places = clock(predictor.device), tracking_places(predictor, state, compiled=compiled)
    timings = [track(first + i, now, places) for i in range(settings.frames)]
    predictor.model.requires_grad_(False)  # the counter's module hooks stumble over views of parameters
    with uncompiled(predictor) if compiled else nullcontext():
        places = tracking_places(predictor, state)
        with flop_counter() as flops:
            flop = track(settings.num_frames - 2, flops.get_total_flops, places)
        with TrafficCounter() as traffic:
            moved = track(settings.num_frames - 1, lambda: traffic.total, places)
    return Parts(
        seconds={part: median(timing[part] for timing in timings) for part in timings[0]},
        flop={part: int(count) for part, count in flop.items()},
        bytes={part: int(count) for part, count in moved.items()},
    )


def memory_shape(state: InferenceState, frame_idx: int) -> tuple[int, int]:
    """Return how many frames' memory features and pointers were read for a frame that has been tracked."""
    bank = next(iter(state.tracks.values())).bank
    selection = state.selector.select(
        state.frame_time(frame_idx, reverse=False),
        list(bank.conditioning),
        bank,
        lambda frames: state.similarity.get(frame_idx, frames),
    )
    return len(selection.spatial), len(selection.pointers)
