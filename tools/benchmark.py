#!/usr/bin/env python3
"""Measure how fast i2vpp tracks, where the time goes, and how far that is from what the machine could do.

    python tools/benchmark.py --config i2vpp-infer,i2vpp-512 --objects 1,5 --json outputs/benchmark.json

Every combination runs in a process of its own, so that peaks of memory do not mix. The weights are untrained: cost
depends on sizes only, not on what the network sees: an object judged absent goes the same way through decoder, hole
filling and memory encoder. docs/benchmark.md says how to read the tables.
"""

from __future__ import annotations

import argparse
import datetime
import io
import itertools
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import wraps
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import av
import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from tqdm import tqdm

from i2vpp import tracking
from i2vpp.build_i2vpp import best_device, build_i2vpp_video_predictor
from i2vpp.cli import DTYPES
from i2vpp.config import load_config
from i2vpp.errors import I2VPPError
from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
from i2vpp.modeling.i2vpp import I2VPP
from i2vpp.session.frames import FrameStore
from i2vpp.session.state import InferenceState
from i2vpp.structures import FrameMemory

EXIT_FAILED, EXIT_USAGE = 1, 2

FULL_MEMORY = 14
"""With so many tracked frames behind it, a frame reads full memory: 1 prompted and 6 selected tracked frames."""

PARTS = (
    "frames", "image trunk", "temporal integrator", "select", "read memory", "memory attention", "memory prompts",
    "decode", "fill holes", "memorise", "resize", "other",
)  # fmt: skip

WEIGHTS = "untrained; cost depends on sizes only"


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
            track.records[frame_idx] = replace(record, logits=record.logits.clone())
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
    places: list[tuple[Any, str, str]] = [
        (FrameStore, "clip", "frames"),
        (model.image_encoder.trunk_image, "forward", "image trunk"),
        (model.image_encoder.trunk_video, "forward", "temporal integrator"),
        (type(state.similarity), "add", "select"),
        (type(state.selector), "select", "select"),
        (I2VPP, "read_memory", "read memory"),
        (model.memory_attention, "forward", "memory attention"),
        (model.memory_prompt_generator, "forward", "memory prompts"),
        (I2VPP, "decode", "decode"),
        (tracking, "fill_holes", "fill holes"),
        (I2VPP, "memorise", "memorise"),
        (tracking.Tracker, "result", "resize"),
    ]
    with ExitStack() as stack:
        for owner, name, part in places:
            stack.enter_context(patch.object(owner, name, wrapped(getattr(owner, name), part)))
        switch("other")
        try:
            yield shares
        finally:
            switch(None)


def clock(device: torch.device) -> Callable[[], float]:
    """Return a clock in seconds that first waits for all that was started on `device`."""
    wait = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}.get(device.type, lambda: None)

    def now() -> float:
        wait()
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
    """Return the FLOP/s of the best of several square matrix products: 2048 wide on a CPU, 8192 elsewhere."""
    side = 2048 if device.type == "cpu" else 8192
    a, b = (torch.rand(side, side, device=device).to(dtype) for _ in range(2))
    now = clock(device)
    times: list[float] = []
    while len(times) < 3 or (len(times) < 20 and sum(times) < 2.0):
        start = now()
        a @ b
        times.append(now() - start)
    return 2 * side**3 / min(times)


def peak_memory(device: torch.device) -> int | None:
    """Return the most bytes so far: on CUDA of PyTorch's tensors, else of the process; None where nobody says.

    Linux is asked for VmHWM: `ru_maxrss` of a child process starts at its parent's size.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if sys.platform == "darwin":
        import resource  # noqa: PLC0415 - not on Windows

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return None


def device_name(device: torch.device) -> str:
    """Return what the device is called."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()


def cpu_name() -> str:
    """Return the processor's name."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


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


def run_worker(request: Path, reply: Path) -> int:
    """Measure what the file `request` asks for and write the result to the file `reply`."""
    asked = json.loads(request.read_text(encoding="utf-8"))
    case, settings = Case(**asked["case"]), Settings(**asked["settings"])
    with tqdm(total=num_steps(settings), desc=asked["label"], unit="step", leave=False) as bar:
        result = measure(case, settings, bar.update)
    reply.write_text(json.dumps(result), encoding="utf-8")
    return 0


# ---- all combinations


def run_cases(cases: Sequence[Case], settings: Settings) -> Iterator[dict[str, Any]]:
    """Measure each combination in a process of its own; where one ends badly, only `case` and `failed` are known."""
    with tempfile.TemporaryDirectory() as folder:
        request, reply = Path(folder) / "request.json", Path(folder) / "reply.json"
        for number, case in enumerate(cases, start=1):
            label = f"[{number}/{len(cases)}] {case.config} {case.dtype or ''} {case.device} {case.objects} obj"
            asked = {"case": asdict(case), "settings": asdict(settings), "label": label}
            request.write_text(json.dumps(asked), encoding="utf-8")
            reply.unlink(missing_ok=True)
            command = [sys.executable, str(Path(__file__).resolve()), "--worker", str(request), str(reply)]
            status = subprocess.run(command, check=False).returncode
            if status or not reply.exists():
                yield {**asdict(case), "failed": f"the process ended with status {status}"}
            else:
                yield json.loads(reply.read_text(encoding="utf-8"))


def about(command: Sequence[str], settings: Settings) -> dict[str, Any]:
    """Return what a reader of the numbers has to know."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(command),
        "i2vpp": version("i2vpp"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cpu_count": os.cpu_count(),
        "weights": WEIGHTS,
        "settings": asdict(settings),
    }


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return an aligned Markdown table; the first column is text, the others are numbers."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first, *others = (
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "| " + " | ".join([first, *others]) + " |"

    rule = [("-" * (width - 1) + ":") if i else "-" * width for i, width in enumerate(widths)]
    return "\n".join([line(header), line(rule), *map(line, rows)])


def format_parts(result: dict[str, Any]) -> str:
    """Return the table of parts of one combination."""
    total, rate = result["parts_seconds_per_frame"], result["matmul_flop_per_second"]
    header = ["part", "ms", "share", "GFLOP", "GFLOP/s", "floor / time"]
    rows = []
    for part in PARTS:
        seconds, flop = result["parts"][part], result["parts_flop"][part]
        speed = (
            [f"{flop / 1e9:.2f}", f"{flop / seconds / 1e9:.1f}", f"{flop / rate / seconds:.0%}"] if flop else [""] * 3
        )
        rows.append([part, f"{1000 * seconds:.2f}", f"{seconds / total:.1%}", *speed])
    return format_table(header, rows)


def format_summary(results: Sequence[dict[str, Any]]) -> str:
    """Return the table of all combinations."""
    header = ["config", "device", "dtype", "objects", "s/frame", "FPS", "peak MiB",
              "GFLOP", "matmul GFLOP/s", "floor s", "floor / time"]  # fmt: skip
    rows = []
    for r in results:
        row = [r["config"], r["device"], r["dtype"] or "", str(r["objects"])]
        if "failed" in r:
            rows.append([*row, "failed", *[""] * (len(header) - len(row) - 1)])
            continue
        peak = r["peak_memory_bytes"]
        row += [f"{r['seconds_per_frame']:.4f}", f"{r['fps']:.2f}", "" if peak is None else f"{peak / 2**20:.0f}"]
        row += [f"{r['flop_per_frame'] / 1e9:.1f}", f"{r['matmul_flop_per_second'] / 1e9:.0f}"]
        rows.append([*row, f"{r['floor_seconds']:.4f}", f"{r['share_of_floor']:.0%}"])
    return format_table(header, rows)


# ---- the command


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0 done, 1 a combination failed, 2 wrong usage."""
    arguments = build_parser().parse_args(argv)
    if arguments.worker:
        return run_worker(*arguments.worker)
    try:
        settings = _settings(arguments)
        cases = _cases(arguments)
    except (I2VPPError, ValueError) as error:
        print(f"benchmark.py: error: {error}", file=sys.stderr)
        return EXIT_USAGE
    report = about([Path(sys.argv[0]).name, *(sys.argv[1:] if argv is None else argv)], settings)
    print(f"{report['cpu']}, {report['cpu_count']} cores; torch {report['torch']}; weights: {WEIGHTS}\n")
    results: list[dict[str, Any]] = []
    for result in run_cases(cases, settings):
        results.append(result)
        if "failed" not in result:
            title = f"{result['config']}, {result['device_name']}, {result['dtype']}, {result['objects']} object(s)"
            print(f"{title}, {result['memory_groups']} memory frames\n\n{format_parts(result)}\n", flush=True)
        if arguments.json is not None:  # after each combination: a long run that is broken off keeps what is done
            arguments.json.parent.mkdir(parents=True, exist_ok=True)
            arguments.json.write_text(json.dumps({**report, "cases": results}, indent=2) + "\n", encoding="utf-8")
    print(format_summary(results))
    return EXIT_FAILED if any("failed" in result for result in results) else 0


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; options with several values take comma lists and may be repeated."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_argument_group("combinations (comma lists, repeatable)")
    which.add_argument("--config", action="append", help="names or paths of model configs (i2vpp-infer)")
    which.add_argument("--dtype", action="append", help=f"{', '.join(DTYPES)} (the predictor's choice)")
    which.add_argument("--device", action="append", help="cpu, cuda, cuda:1, mps (the best there is)")
    which.add_argument("--objects", action="append", help="numbers of objects (1)")
    default = Settings()
    parser.add_argument("--frames", metavar="N", type=int, default=default.frames, help="measured (%(default)s)")
    parser.add_argument("--warmup", metavar="N", type=int, default=default.warmup, help="not measured (%(default)s)")
    parser.add_argument("--history", metavar="N", type=int, default=default.history,
                        help="tracked frames in memory from the start, filled in cheaply; 14 (the default) give full "
                        "memory, 210 also all that is compared in long videos")  # fmt: skip
    parser.add_argument("--video", metavar="WxH", default=f"{default.width}x{default.height}",
                        help="size of the synthetic video (%(default)s)")  # fmt: skip
    parser.add_argument("--threads", metavar="N", type=int, help="of PyTorch on the CPU (its choice)")
    parser.add_argument("--override", metavar="KEY=VALUE", action="append", default=[],
                        help="change a config value, such as model.selection.mode=top; may be repeated")  # fmt: skip
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all results to FILE")
    parser.add_argument("--worker", nargs=2, type=Path, help=argparse.SUPPRESS)
    return parser


def _settings(arguments: argparse.Namespace) -> Settings:
    least = {"frames": 1, "warmup": 0, "history": 0, "threads": 1}
    for name, allowed in least.items():
        value = getattr(arguments, name)
        if value is not None and value < allowed:
            raise ValueError(f"--{name} must be at least {allowed}; got {value}")
    width, _, height = arguments.video.partition("x")
    if not (width.isdecimal() and height.isdecimal()) or any(int(s) < 16 or int(s) % 2 for s in (width, height)):
        raise ValueError(f"--video must be WxH, even numbers of at least 16; got {arguments.video!r}")
    numbers = {name: getattr(arguments, name) for name in least}
    return Settings(overrides=tuple(arguments.override), width=int(width), height=int(height), **numbers)


def _cases(arguments: argparse.Namespace) -> list[Case]:
    configs = _split(arguments.config) or ["i2vpp-infer"]
    dtypes: list[Any] = _split(arguments.dtype) or [None]
    devices = _split(arguments.device) or [str(best_device())]
    objects = _split(arguments.objects) or ["1"]
    for config in configs:
        load_config(config, arguments.override)
    for dtype in dtypes:
        if dtype is not None and dtype not in DTYPES:
            raise ValueError(f"--dtype must be one of {', '.join(DTYPES)}; got {dtype!r}")
    for count in objects:
        if not count.isdecimal() or int(count) < 1:
            raise ValueError(f"--objects must be integers of 1 or more; got {count!r}")
    for device in devices:
        _check_device(device)
    return [
        Case(config=config, device=device, dtype=dtype, objects=int(count))
        for device, config, dtype, count in itertools.product(devices, configs, dtypes, objects)
    ]


def _split(lists: list[str] | None) -> list[str]:
    return [entry.strip() for text in lists or [] for entry in text.split(",") if entry.strip()]


def _check_device(name: str) -> None:
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"--device must be cpu, cuda, cuda:N or mps; got {name!r}") from None
    counts = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (device.index or 0) >= counts.get(device.type, 0):
        there = [f"{kind} ({count})" for kind, count in counts.items() if count]
        raise ValueError(f"--device: there is no {name!r} here; there are {', '.join(there)}")


if __name__ == "__main__":
    sys.exit(main())
