#!/usr/bin/env python3
"""Measure the automatic mask generator: seconds an image, and what of it image encoder and mask decoder take.

    python tools/benchmark_masks.py                                        # at 512 and 1024 pixels
    python tools/benchmark_masks.py --size 1024 --sam2 configs/sam2.1/sam2.1_hiera_t.yaml

The image is a frame of the bundled clip; both thresholds are 0, so that every mask is drawn and compared. With `--sam2`
SAM 2's own generator follows in the same process, where the package sam2 is installed: without `--sam2-checkpoint` with
random weights, whose masks are noise, so that only its encoder and decoder compare. CPU seconds of one thread
(OMP_NUM_THREADS=1) hardly depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the i2vpp of this clone, whatever is installed

import av
import numpy as np
import torch
from numpy.typing import NDArray

from i2vpp import I2VPPAutomaticMaskGenerator, build_i2vpp_image_predictor
from i2vpp.build_i2vpp import DTYPES
from i2vpp.errors import I2VPPError
from i2vpp.utils.parser import Parser, comma_list, integer

EXIT_FAILED = 1
CLIP = Path(__file__).resolve().parent.parent / "i2vpp" / "assets" / "bunny.mp4"
PARTS = ("image encoder", "mask decoder", "rest")


@dataclass(kw_only=True)
class Times:
    """Seconds that the parts of a call took.

    Args:
        wall: by the clock, by part.
        cpu: of all threads of the process, by part.
        masks: number of masks that were found.
    """

    wall: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    cpu: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    masks: int = 0


@contextmanager
def _timed(owner: Any, name: str, times: Times, part: str) -> Iterator[None]:
    """Charge a method of an object to a part instead of the rest, within a `with` block."""
    method: Callable[..., Any] = getattr(owner, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            return method(*args, **kwargs)
        finally:
            for seconds, spent in ((times.wall, time.perf_counter() - wall), (times.cpu, time.process_time() - cpu)):
                seconds[part] += spent
                seconds["rest"] -= spent

    setattr(owner, name, call)
    try:
        yield
    finally:
        delattr(owner, name)  # of the instance, so that the method of its class is used again


def measure(generator: Any, image: NDArray[np.uint8], encoder: tuple[Any, str], decoder: tuple[Any, str]) -> Times:
    """Measure a generator on an image.

    Args:
        generator: has SAM 2's `generate`.
        image: uint8 RGB [H, W, 3].
        encoder: object and name of the method that encodes an image.
        decoder: object and name of the method that decodes clicks.
    """
    times = Times()
    with _timed(*encoder, times, "image encoder"), _timed(*decoder, times, "mask decoder"):
        wall, cpu = time.perf_counter(), time.process_time()
        times.masks = len(generator.generate(image))
        times.wall["rest"] += time.perf_counter() - wall
        times.cpu["rest"] += time.process_time() - cpu
    return times


def measure_ours(image: NDArray[np.uint8], options: argparse.Namespace, size: int) -> Times:
    """Measure `I2VPPAutomaticMaskGenerator` at an input size."""
    predictor = build_i2vpp_image_predictor(
        ckpt_path=options.checkpoint, hydra_overrides_extra=[f"model.image_size={size}"], dtype=options.dtype
    )
    generator = I2VPPAutomaticMaskGenerator(
        predictor, points_per_side=options.points_per_side, pred_iou_thresh=0, stability_score_thresh=0
    )
    return measure(generator, image, (generator.predictor, "set_image"), (generator.predictor, "decode_prompts"))


def measure_sam2(image: NDArray[np.uint8], options: argparse.Namespace) -> Times:
    """Measure `SAM2AutomaticMaskGenerator`, whose input size is 1024 pixels, on the CPU."""
    from sam2.automatic_mask_generator import SAM2AutomaticMaskGenerator  # noqa: PLC0415 - where it is installed
    from sam2.build_sam import build_sam2  # noqa: PLC0415

    model = build_sam2(options.sam2, options.sam2_checkpoint, device="cpu")
    generator = SAM2AutomaticMaskGenerator(
        model, points_per_side=options.points_per_side, pred_iou_thresh=0, stability_score_thresh=0
    )
    return measure(generator, image, (generator.predictor, "set_image"), (model.sam_mask_decoder, "forward"))


def report(name: str, times: Times) -> str:
    """Return a line of the table."""
    wall, cpu = sum(times.wall.values()), sum(times.cpu.values())
    shares = "  ".join(f"{times.cpu[part]:6.2f} ({times.cpu[part] / cpu:4.0%})" for part in PARTS)
    return f"{name:28}  {wall:6.2f} s  {cpu:6.2f} CPU s  {shares}  {times.masks:4}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = Parser(prog="python tools/benchmark_masks.py", description=__doc__,
                    formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--checkpoint", default="i2vpp-demo", help="path or name (default: i2vpp-demo)")
    parser.add_argument("--size", type=comma_list(integer(1)), default=(512, 1024), metavar="N,N",
                        help="input sizes in pixels (default: 512,1024)")  # fmt: skip
    parser.add_argument("--points-per-side", type=integer(1), default=16, metavar="N", help="default: 16")
    parser.add_argument(
        "--dtype", choices=DTYPES, default="float32", help="data type of the image encoder (default: float32)"
    )
    parser.add_argument("--rounds", type=integer(1), default=1, metavar="N", help="repeat everything (default: 1)")
    parser.add_argument("--sam2", metavar="CONFIG", help="config of SAM 2 to measure beside")
    parser.add_argument("--sam2-checkpoint", metavar="FILE", help="its weights (default: random ones)")
    options = parser.parse_args(arguments)
    with av.open(str(CLIP)) as clip:
        image = next(clip.decode(video=0)).to_ndarray(format="rgb24")
    print(f"{options.points_per_side ** 2} clicks, image of {image.shape[1]} x {image.shape[0]} pixels, "
          f"{torch.get_num_threads()} threads; CPU seconds of: {', '.join(PARTS)}; masks")  # fmt: skip
    warnings.filterwarnings("ignore", ".*was trained at image_size")  # times do not depend on it
    try:
        for _ in range(options.rounds):
            for size in options.size:
                print(report(f"i2vpp, {size} px", measure_ours(image, options, size)), flush=True)
            if options.sam2:
                print(report(f"{Path(options.sam2).stem}, 1024 px", measure_sam2(image, options)), flush=True)
    except I2VPPError as error:
        parser.exit(EXIT_FAILED, f"error: {error}\n")
    except ModuleNotFoundError as error:
        parser.exit(EXIT_FAILED, f"error: --sam2 needs SAM 2's package: pip install sam2 ({error})\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
