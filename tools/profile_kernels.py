"""Print what tracked frames spend most time on: the ten longest kernels of a GPU, or operators on a CPU.

    python tools/profile_kernels.py --config i2vpp-infer --objects 5

The weights are untrained, and so is what is found; the work is the same.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from i2vpp.build_i2vpp import best_device, build_i2vpp_video_predictor, choose_device
from i2vpp.errors import I2VPPError
from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
from i2vpp.utils.notices import plain_warnings
from i2vpp.utils.parser import Parser, integer

SIZE = 480, 854
ROWS = 10


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    arguments = build_parser().parse_args(argv)
    with plain_warnings(silent=True):
        try:
            device = choose_device(arguments.device)
            predictor = build_i2vpp_video_predictor(
                arguments.config, None, device, hydra_overrides_extra=arguments.override, dtype=arguments.dtype
            )
        except I2VPPError as error:
            print(f"profile_kernels.py: error: {error}", file=sys.stderr)
            return 1
        print(profile_frames(predictor, objects=arguments.objects, warmup=arguments.warmup, frames=arguments.frames))
    return 0


def profile_frames(predictor: I2VPPVideoPredictor, *, objects: int, warmup: int, frames: int) -> str:
    """Profile tracked frames of a made-up video.

    Args:
        predictor: the predictor.
        objects: number of objects.
        warmup: frames that are tracked before.
        frames: frames that are profiled.

    Returns:
        A table of the longest kernels, or operators on a CPU.
    """
    rng = np.random.default_rng(0)
    video = rng.integers(0, 255, (1 + warmup + frames, *SIZE, 3), np.uint8)
    on_gpu = predictor.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with predictor.init_state(video) as state:
        for obj_id in range(objects):
            predictor.add_new_points_or_box(state, 0, obj_id, points=[[20 + 30 * obj_id, 200]], labels=[1])
        for t in range(1, 1 + warmup):
            predictor.track_frame(state, t)
        with profile(activities=activities) as seen:
            for t in range(1 + warmup, 1 + warmup + frames):
                predictor.track_frame(state, t)
            if on_gpu:
                torch.cuda.synchronize(predictor.device)
    order = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    return str(seen.key_averages().table(sort_by=order, row_limit=ROWS, max_name_column_width=60))


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(
        prog="profile_kernels.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config", default="i2vpp-infer", help="name or path of a model config (%(default)s)")
    add("--override", metavar="KEY=VALUE", action="append", default=[], help="change a value of the config")
    add("--objects", metavar="N", type=integer(1), default=1, help="number of objects (%(default)s)")
    add("--warmup", metavar="N", type=integer(0), default=20, help="frames to track before (%(default)s)")
    add("--frames", metavar="N", type=integer(1), default=5, help="frames to profile (%(default)s)")
    add("--device", default=str(best_device()), help="cpu, cuda, cuda:1, mps (%(default)s)")
    add("--dtype", help="float32, bfloat16, float16 (the choice of the predictor)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
