"""What tracking one frame costs: seconds and FLOPs by part, peak memory, and the floor that the machine sets.

`tools/benchmark.py` is the command; `measure` here does its work for one combination of config, device and objects.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import wraps
from statistics import median
from typing import Any
from unittest.mock import patch

import av
import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from i2vpp import tracking
from i2vpp.build_i2vpp import build_i2vpp_video_predictor
from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
from i2vpp.modeling.i2vpp import I2VPP
from i2vpp.session.frames import FrameStore
from i2vpp.session.state import InferenceState
from i2vpp.structures import FrameMemory
from i2vpp.utils.machine import device_name, peak_memory

FULL_MEMORY = 14
"""With so many tracked frames behind it, a frame reads full memory: 1 prompted and 6 selected tracked frames."""

PARTS = (
    "frames",
    "image trunk",
    "temporal integrator",
    "select",
    "read memory",
    "memory attention",
    "memory prompts",
    "decode",
    "fill holes",
    "memorise",
    "resize",
    "other",
)
"""In the order of a tracked frame; docs/benchmark.md says what each of them is."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One combination.

    Args:
        config: name or path of a model config.
        device: as PyTorch calls it.
        dtype: name of a dtype; None for the predictor's choice.
        objects: how many objects are tracked.
    """

    config: str
    device: str
    dtype: str | None
    objects: int


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What all combinations have in common.

    Args:
        overrides: of config values, `key=value` each.
        width: of the video in pixels.
        height: of the video in pixels.
        history: tracked frames in memory before the first one that is run.
        warmup: frames that are tracked and not measured.
        frames: frames that are measured, once as a whole and once (other ones) part by part.
        threads: of PyTorch on the CPU; None for its choice.
    """

    overrides: tuple[str, ...] = ()
    width: int = 1280
    height: int = 720
    history: int = FULL_MEMORY
    warmup: int = 2
    frames: int = 5
    threads: int | None = None

    @property
    def first_tracked(self) -> int:
        """Index of the first frame that is run: frame 0 is prompted, `history` frames are filled in."""
        return self.history + 1

    @property
    def num_frames(self) -> int:
        """Length of the video; the last frame is the one whose FLOPs are counted."""
        return self.first_tracked + self.warmup + 2 * self.frames + 1


# ---- a video with its objects


def make_video(settings: Settings, objects: int) -> tuple[bytes, list[np.ndarray]]:
    """Encode a video of discs on a texture; return its bytes and the discs' bool masks [H, W] on frame 0."""
    y, x = np.mgrid[: settings.height, : settings.width].astype(np.float32)
    texture = 90 + 40 * np.sin(x / 17) * np.cos(y / 23) + 20 * np.sin(x * y / 5000)
    background = np.stack([texture, 0.8 * texture, 200 - texture], axis=2).astype(np.uint8)
    radius = max(2.0, min(settings.height / 8, settings.width / (3 * objects)))

    def disc(number: int, t: int) -> np.ndarray:
        centre_x = (number + 0.5) / objects * settings.width
        centre_y = settings.height * (0.5 + 0.25 * np.sin(0.1 * t + number))
        inside: np.ndarray = (x - centre_x) ** 2 + (y - centre_y) ** 2 <= radius**2
        return inside

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        options = {"preset": "ultrafast", "crf": "23"}
        stream = container.add_stream("libx264", rate=24, options=options)
        stream.width, stream.height, stream.pix_fmt = settings.width, settings.height, "yuv420p"
        for t in range(settings.num_frames):
            frame = background.copy()
            for number in range(objects):
                frame[disc(number, t)] = (250, 220 - 20 * (number % 8), 60 + 20 * (number % 8))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue(), [disc(number, 0) for number in range(objects)]


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
            memory, record = track.bank.conditioning[0], track.records[0]
            copy = FrameMemory(
                values=memory.values.clone(), foreground=memory.foreground.clone(), pointer=memory.pointer.clone()
            )
            track.bank.put(frame_idx, copy, prompted=False)
            track.records[frame_idx] = replace(record, decoded=record.decoded.clone(), logits=record.logits.clone())
            track.visited.add(frame_idx)


# ---- meters


@contextmanager
def split_by_part(
    predictor: I2VPPVideoPredictor, state: InferenceState, meter: Callable[[], float]
) -> Iterator[dict[str, float]]:
    """Share out among the PARTS what a meter (a clock, a FLOP counter) counts in the `with` block.

    While parts are nested, the innermost counts: the shares add up to the whole. The library is not changed for it: its
    methods are wrapped for the time of the block.
    """
    shares = dict.fromkeys(PARTS, 0.0)
    running: list[str] = []
    last = 0.0

    def switch(part: str | None) -> None:
        """Charge the running part; then go on with `part`, or end the running one."""
        nonlocal last
        now = meter()
        if running:
            shares[running[-1]] += now - last
        last = now
        if part is None:
            running.pop()
        else:
            running.append(part)

    def wrapped(function: Callable[..., Any], part: str) -> Callable[..., Any]:
        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            switch(part)
            try:
                return function(*args, **kwargs)
            finally:
                switch(None)

        return call

    model = predictor.model
    places: dict[tuple[Any, str], str] = {
        (FrameStore, "clip"): "frames",
        (model.image_encoder.trunk_image, "forward"): "image trunk",
        (model.image_encoder.trunk_video, "forward"): "temporal integrator",
        (type(state.similarity), "add"): "select",
        (type(state.selector), "select"): "select",
        (I2VPP, "read_memory"): "read memory",
        (model.memory_attention, "forward"): "memory attention",
        (model.memory_prompt_generator, "forward"): "memory prompts",
        (I2VPP, "decode"): "decode",
        (tracking, "fill_holes"): "fill holes",
        (I2VPP, "memorise"): "memorise",
        (tracking.Tracker, "result"): "resize",
    }
    with ExitStack() as stack:
        for (owner, name), part in places.items():
            stack.enter_context(patch.object(owner, name, wrapped(getattr(owner, name), part)))
        switch("other")
        try:
            yield shares
        finally:
            switch(None)


def clock(device: torch.device) -> Callable[[], float]:
    """Return a clock in seconds that first waits for all that was started on `device`."""

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        elif device.type == "mps":
            torch.mps.synchronize()
        return time.perf_counter()

    return now


def flop_counter() -> FlopCounterMode:
    """Return PyTorch's counter (2 per multiply-add; matrix products, convolutions, attention), attention on a CPU too.

    Without the entry, PyTorch versions that do not know the CPU's fused attention would count it as nothing.
    """

    def attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return sdpa_flop_count(query, key, value)

    on_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return FlopCounterMode(display=False, custom_mapping={on_cpu: attention})


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return the FLOP/s of the best square matrix product of those that fit into a second, or of the only one.

    The matrices are 2048 wide on a CPU and 8192 elsewhere.
    """
    side = 2048 if device.type == "cpu" else 8192
    a, b = (torch.rand(side, side, device=device).to(dtype) for _ in range(2))
    now = clock(device)
    times: list[float] = []
    while not times or (len(times) < 20 and sum(times) < 1.0):
        start = now()
        a @ b
        times.append(now() - start)
    return 2 * side**3 / min(times)


# ---- one combination


def measure(case: Case, settings: Settings, step: Callable[[], object] = lambda: None) -> dict[str, Any]:
    """Measure one combination; call it in a fresh process for a meaningful peak of memory.

    Args:
        case: the combination.
        settings: of the benchmark.
        step: called after each of `num_steps` steps.

    Returns:
        What a member of `cases` in the JSON file holds; docs/benchmark.md lists it.
    """
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    baseline = peak_memory(torch.device("cpu"))
    torch.manual_seed(0)
    overrides = list(settings.overrides)
    predictor = build_i2vpp_video_predictor(
        case.config, device=case.device, hydra_overrides_extra=overrides, dtype=case.dtype
    )
    device, now = predictor.device, clock(predictor.device)
    video, masks = make_video(settings, case.objects)
    with predictor.init_state(video) as state:
        for obj_id, mask in enumerate(masks, start=1):
            predictor.add_new_mask(state, 0, obj_id, mask)
        fill_memory(state, settings.history)
        step()
        frame_seconds = time_frames(predictor, state, settings, now, step)
        peak = peak_memory(device)
        first = settings.first_tracked + settings.warmup + settings.frames
        timings = [split_frame(predictor, state, first + i, now, step) for i in range(settings.frames)]
        predictor.model.requires_grad_(False)  # the counter's module hooks stumble over views of parameters
        with flop_counter() as counter:
            flop = split_frame(predictor, state, settings.num_frames - 1, counter.get_total_flops, step)
        groups, pointers = memory_shape(state, first)
    rate = matmul_rate(device, predictor.dtype)
    step()
    seconds = median(frame_seconds)
    floor = sum(flop.values()) / rate
    return {
        "config": case.config,
        "image_size": predictor.image_size,
        "device": str(device),
        "device_name": device_name(device),
        "dtype": str(predictor.dtype).removeprefix("torch."),
        "objects": case.objects,
        "threads": torch.get_num_threads(),
        "memory_groups": groups,
        "memory_pointers": pointers,
        "seconds_per_frame": seconds,
        "fps": 1 / seconds,
        "frame_seconds": frame_seconds,
        "parts": {part: median(timing[part] for timing in timings) for part in PARTS},
        "parts_seconds_per_frame": median(sum(timing.values()) for timing in timings),
        "parts_flop": {part: int(flop[part]) for part in PARTS},
        "peak_memory_bytes": peak,
        "peak_memory_of": "tensors on the device" if device.type == "cuda" else "process, with Python and PyTorch",
        "process_bytes_at_start": baseline,
        "flop_per_frame": int(sum(flop.values())),
        "matmul_flop_per_second": rate,
        "floor_seconds": floor,
        "share_of_floor": floor / seconds,
    }


def num_steps(settings: Settings) -> int:
    """Return how often `measure` calls `step`."""
    return 1 + settings.warmup + 2 * settings.frames + 1 + 1


def time_frames(
    predictor: I2VPPVideoPredictor,
    state: InferenceState,
    settings: Settings,
    now: Callable[[], float],
    step: Callable[[], object],
) -> list[float]:
    """Return the seconds of each measured frame as users see them: whole frames, the next ones decoded ahead."""
    count = settings.warmup + settings.frames
    results = predictor.propagate_in_video(state, settings.first_tracked, count - 1, progress=False)
    seconds = []
    for _ in range(count):
        start = now()
        next(results)
        seconds.append(now() - start)
        step()
    state.frames.hint(range(0))
    return seconds[settings.warmup :]


def split_frame(
    predictor: I2VPPVideoPredictor,
    state: InferenceState,
    frame_idx: int,
    meter: Callable[[], float],
    step: Callable[[], object],
) -> dict[str, float]:
    """Track one frame without anything in the background; return what the meter counts by part."""
    with split_by_part(predictor, state, meter) as shares:
        predictor.track_frame(state, frame_idx)
    step()
    return shares


def memory_shape(state: InferenceState, frame_idx: int) -> tuple[int, int]:
    """Return how many frames' memory features and pointers were read for a frame that has been tracked."""
    bank = next(iter(state.tracks.values())).bank
    selection = state.selector.select(
        state.moment(frame_idx, reverse=False),
        list(bank.conditioning),
        bank,
        lambda frames: state.similarity.get(frame_idx, frames),
    )
    return len(selection.spatial), len(selection.pointers)
