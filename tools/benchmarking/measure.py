"""What tracking costs: seconds per frame, whole and by part of the network, and seconds and memory of live sessions."""

from __future__ import annotations

import io
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import av
import numpy as np
import torch
from numpy.typing import NDArray

from i2vpp.build_i2vpp import build_i2vpp_video_predictor, tune_allocator
from i2vpp.errors import UntrainedWarning
from i2vpp.execution.part_times import ENCODER, device_clock, measure_parts
from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
from i2vpp.utils.machine import device_name, peak_memory
from tools.benchmarking.floors import MATMUL_SIDES, matmul_flop_per_second, network_flop

TRACK_STEP = "track step"
"""The one part of a compiled predictor for all that follows the image encoder."""

DISTINCT = 8
"""Number of different frames of a live session; they repeat, so that the video itself takes no memory."""

WINDOW = 50
"""Number of latest frames whose times are reported for a length of a live session."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One combination that is measured, in a process of its own.

    Args:
        config: name or path of a model config.
        device: as PyTorch calls it.
        dtype: name of a data type; None for the choice of the predictor.
        objects: number of tracked objects.
        image_size: side of the network's input in pixels; None for that of the config.
        overrides: `key=value` changes of the config.
        width: width of the synthetic video in pixels, even.
        height: height of the synthetic video in pixels, even.
        warmup: number of frames that are tracked first and not measured.
        frames: number of frames that are measured whole, and again by part.
        threads: number of PyTorch's CPU threads; None for its choice.
        compiled: build the predictor with `vos_optimized`.
        video_lengths: numbers of frames after which a live session is measured, ascending; only for `measure_stream`.
        matmul_sides: sides of the matrix products that are tried for the floor, ascending.
    """

    config: str = "i2vpp-infer"
    device: str = "cpu"
    dtype: str | None = None
    objects: int = 1
    image_size: int | None = None
    overrides: tuple[str, ...] = ()
    width: int = 1280
    height: int = 720
    warmup: int = 14
    frames: int = 5
    threads: int | None = None
    compiled: bool = False
    video_lengths: tuple[int, ...] = ()
    matmul_sides: tuple[int, ...] = MATMUL_SIDES

    def __str__(self) -> str:
        size = f"{self.image_size} px" if self.image_size else ""
        return " ".join(filter(None, [self.config, size, self.device, self.dtype, f"{self.objects} objects"]))

    @property
    def all_overrides(self) -> list[str]:
        """All changes of the config, that of the image size included."""
        return [*self.overrides, *([f"model.image_size={self.image_size}"] if self.image_size else [])]


def measure_frames(case: Case) -> dict[str, Any]:
    """Measure tracked frames of a synthetic video.

    Args:
        case: the combination; call this in a new process for a meaningful peak of memory.

    Returns:
        A member of `cases` of the JSON file; docs/benchmark.md explains its keys.

    Raises:
        I2VPPError: the library refuses the combination.
    """
    at_start = peak_memory(torch.device("cpu"))
    predictor = build(case)
    now = device_clock(predictor.device)
    begun = now()
    if case.compiled:
        predictor.warm_up(case.objects)
    compile_seconds = now() - begun
    with predictor.init_state(make_video(case, 1 + case.warmup + 2 * case.frames)) as state:
        for obj_id, mask in enumerate(disc_masks(case), start=1):
            predictor.add_new_mask(state, 0, obj_id, mask)
        results = predictor.propagate_in_video(state, 1, progress=False)
        seconds = [_seconds(partial(next, results), now) for _ in range(case.warmup + case.frames)]
        peak = peak_memory(predictor.device)
        splits = []
        for _ in range(case.frames):
            with measure_parts(predictor, state, now) as split:
                next(results)
            splits.append(split)
        last = case.warmup + case.frames
        selection = predictor.selector.select(
            state.frame_time(last, reverse=False), [0], range(1, last), lambda frames: np.zeros(len(frames))
        )
    memory = {"memory_frames": len(selection.spatial), "memory_pointers": len(selection.pointers)}
    flop = network_flop(predictor.model.config, objects=case.objects, **memory)
    if case.compiled:
        encoder = flop.pop(ENCODER)
        flop = {ENCODER: encoder, TRACK_STEP: sum(flop.values())}
    rate = matmul_flop_per_second(predictor.device, predictor.dtype, case.matmul_sides, now)
    times = percentiles(seconds[case.warmup :])
    return {
        **describe(case, predictor),
        **memory,
        **times,
        "frame_seconds": seconds[case.warmup :],
        "compile_seconds": compile_seconds if case.compiled else None,
        "parts": {part: median(split[part] for split in splits) for part in splits[0]},
        "parts_flop": flop,
        "flop": sum(flop.values()),
        "matmul_flop_per_second": rate,
        "floor_seconds": sum(flop.values()) / rate,
        "times_floor": times["seconds_per_frame"] * rate / sum(flop.values()),
        "peak_memory_bytes": peak,
        "process_bytes_at_start": at_start,
    }


def measure_stream(case: Case) -> dict[str, Any]:
    """Measure a live session (`init_stream`), which is as long as the largest of the video lengths.

    Args:
        case: the combination; call this in a new process for meaningful numbers of memory.

    Returns:
        A member of `streams` of the JSON file; docs/benchmark.md explains its keys.

    Raises:
        I2VPPError: the library refuses the combination.
    """
    predictor = build(case)
    now = device_clock(predictor.device)
    frames = list(make_frames(case, DISTINCT))
    latest: deque[float] = deque(maxlen=WINDOW)
    checkpoints = []
    with predictor.init_stream() as stream:
        stream.step(frames[0])
        for obj_id, mask in enumerate(disc_masks(case), start=1):
            stream.add_new_mask(obj_id, mask)
        for number in range(2, case.video_lengths[-1] + 1):
            frame = frames[(number - 1) % DISTINCT]
            latest.append(_seconds(partial(stream.step, frame), now))
            if number in case.video_lengths:
                on_gpu = predictor.device.type == "cuda"
                memory = {
                    "resident_bytes": resident_memory(),
                    "device_bytes": torch.cuda.memory_allocated(predictor.device) if on_gpu else None,
                }
                checkpoints.append({"frames": number, **percentiles(latest), **memory})
    return {**describe(case, predictor), "checkpoints": checkpoints}


def build(case: Case) -> I2VPPVideoPredictor:
    """Build the predictor of a combination with random weights, the same ones in every process.

    Raises:
        I2VPPError: the library refuses the combination.
    """
    if case.threads is not None:
        torch.set_num_threads(case.threads)
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UntrainedWarning)
        predictor = build_i2vpp_video_predictor(
            case.config,
            device=case.device,
            hydra_overrides_extra=case.all_overrides,
            vos_optimized=case.compiled,
            dtype=case.dtype,
        )
    tune_allocator(predictor)  # as the command `i2vpp track` does
    return predictor


def describe(case: Case, predictor: I2VPPVideoPredictor) -> dict[str, Any]:
    """Return the combination as JSON, with the values that the library chose."""
    return {
        **asdict(case),
        "image_size": predictor.image_size,
        "device": str(predictor.device),
        "device_name": device_name(predictor.device),
        "dtype": str(predictor.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
    }


# ---- time and memory


def _seconds(work: Callable[[], object], now: Callable[[], float]) -> float:
    start = now()
    work()
    return now() - start


def percentiles(seconds: Iterable[float]) -> dict[str, float]:
    """Return median and 95th percentile (linear between the nearest two)."""
    middle, high = np.percentile(list(seconds), [50, 95])
    return {"seconds_per_frame": float(middle), "p95_seconds": float(high)}


def resident_memory() -> int | None:
    """Return the bytes of memory that the process takes now; None on systems without /proc."""
    statm = Path("/proc/self/statm")
    if not statm.is_file():
        return None
    import resource  # noqa: PLC0415 - does not exist on Windows

    return int(statm.read_text(encoding="ascii").split()[1]) * resource.getpagesize()


# ---- the synthetic video


def disc_masks(case: Case, t: int = 0) -> list[NDArray[np.bool_]]:
    """Return the masks [H, W] of the objects, discs that move up and down, on frame t."""
    y, x = np.mgrid[: case.height, : case.width].astype(np.float32)
    radius = max(2.0, min(case.height / 8, case.width / (3 * case.objects)))
    rows = [case.height * (0.5 + 0.25 * np.sin(0.1 * t + number)) for number in range(case.objects)]
    columns = [(number + 0.5) / case.objects * case.width for number in range(case.objects)]
    return [(x - column) ** 2 + (y - row) ** 2 <= radius**2 for row, column in zip(rows, columns, strict=True)]


def make_frames(case: Case, count: int) -> Iterator[NDArray[np.uint8]]:
    """Yield `count` RGB frames [H, W, 3] of the discs over a texture."""
    y, x = np.mgrid[: case.height, : case.width].astype(np.float32)
    texture = 90 + 40 * np.sin(x / 17) * np.cos(y / 23) + 20 * np.sin(x * y / 5000)
    background = np.stack([texture, 0.8 * texture, 200 - texture], axis=2).astype(np.uint8)
    for t in range(count):
        frame = background.copy()
        for number, mask in enumerate(disc_masks(case, t)):
            frame[mask] = (250, 220 - 20 * (number % 8), 60 + 20 * (number % 8))
        yield frame


def make_video(case: Case, count: int) -> bytes:
    """Return the content of an H.264 file of `count` frames."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=24, options={"preset": "ultrafast", "crf": "23"})
        stream.width, stream.height, stream.pix_fmt = case.width, case.height, "yuv420p"
        for frame in make_frames(case, count):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()
