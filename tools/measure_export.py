#!/usr/bin/env python3
"""Measure exports of `i2vpp export`: J&F, size and speed, beside each other and beside PyTorch.

    python tools/measure_export.py outputs/fp32 outputs/int8 --davis data/DAVIS --frames 50
    python tools/measure_export.py outputs/fp32 outputs/int8 --checkpoint i2vpp-demo --speed 4 --objects 1,5

Accuracy is that of sequences with one object in DAVIS's folders, from the mask of the first frame. Speed is the time of
a frame of the bundled clip, taken in turns, so that other work on the machine affects all alike.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the i2vpp of this clone, whatever is installed

import numpy as np
import torch
from PIL import Image

from i2vpp.build_i2vpp import build_i2vpp_video_predictor
from i2vpp.data.masks import Mask
from i2vpp.errors import DataError, I2VPPError
from i2vpp.evaluation.metrics import ObjectScore, score_object
from i2vpp.export.i2vpp_onnx import I2VPPOnnx, I2VPPOnnxError
from i2vpp.session.video import open_source
from i2vpp.utils.machine import cpu_computes_bfloat16
from i2vpp.utils.parser import Parser, integer

CLIP = Path(__file__).resolve().parent.parent / "i2vpp" / "assets" / "bunny.mp4"
RESOLUTION = "480p"
WARM_UP = 8
"""Frames before the first that is timed: from then on, as much memory is read as ever."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is measured: an export, or PyTorch.

    Args:
        name: name in the tables.
        start: opens a new session, see Session.
    """

    name: str
    start: Callable[[], Session]


class Session:
    """A session of an export or of PyTorch with the same methods.

    Args:
        session: an `I2VPPOnnx` or a `StreamSession`.
    """

    def __init__(self, session: Any) -> None:
        self._session = session
        self._add = session.add_mask if isinstance(session, I2VPPOnnx) else session.add_new_mask

    def step(self, frame: Any) -> list[Mask]:
        """Push a frame uint8 RGB [H, W, 3] and return the masks of all objects [H, W]."""
        return [np.asarray(mask).reshape(frame.shape[:2]) > 0 for mask in self._session.step(frame).masks]

    def prompt(self, obj_id: int, mask: Mask) -> None:
        """Add an object.

        Args:
            obj_id: its number.
            mask: its mask [H, W] on the current frame.
        """
        self._add(obj_id, mask)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0 done, 1 something cannot be read."""
    arguments = build_parser().parse_args(argv)
    try:
        subjects = list(_subjects(arguments))
        if arguments.davis is not None:
            for folder in arguments.exports:
                _print_accuracy(folder, arguments)
        for count in arguments.objects if arguments.speed else ():
            _print_speed(subjects, count, arguments.speed)
    except (I2VPPError, I2VPPOnnxError, OSError) as error:
        print(f"measure_export.py: error: {error}", file=sys.stderr)
        return 1
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parser = Parser(description="Measure exports: J&F, size and speed.")
    parser.add_argument("exports", metavar="DIR", type=Path, nargs="+", help="folders of `i2vpp export`")
    parser.add_argument("--davis", metavar="FOLDER", type=Path, help="dataset with JPEGImages and Annotations")
    parser.add_argument("--list", default="val", help="its list in ImageSets (%(default)s)")
    parser.add_argument("--frames", type=integer(3), default=50, help="first frames of each sequence (%(default)s)")
    parser.add_argument("--speed", metavar="ROUNDS", type=integer(1), help="also measure speed, so many rounds")
    parser.add_argument("--objects", type=_numbers, default=[1], help="numbers of objects for it, such as 1,5")
    parser.add_argument("--threads", type=integer(1), default=1, help="threads that compute (%(default)s)")
    parser.add_argument("--checkpoint", help="also measure the speed of PyTorch, with this checkpoint")
    return parser


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _subjects(arguments: argparse.Namespace) -> Iterator[Subject]:
    def exported(folder: Path) -> Callable[[], Session]:
        return lambda: Session(I2VPPOnnx(folder, threads=arguments.threads))

    def in_torch(dtype: str, size: int) -> Callable[[], Session]:
        override = [f"model.image_size={size}"]
        predictor = build_i2vpp_video_predictor(
            None, arguments.checkpoint, "cpu", hydra_overrides_extra=override, dtype=dtype
        )
        return lambda: Session(predictor.init_stream())

    if arguments.checkpoint is not None and arguments.speed:
        torch.set_num_threads(arguments.threads)
        size = I2VPPOnnx(arguments.exports[0]).side
        # Without instructions for it, a frame in bfloat16 takes minutes.
        for dtype in ("float32", *(["bfloat16"] if cpu_computes_bfloat16() else [])):
            yield Subject(name=f"PyTorch {dtype}, {size} px", start=in_torch(dtype, size))
    for folder in arguments.exports:
        described = I2VPPOnnx(folder).manifest
        name = f"onnxruntime {described['precision']}, {described['image_size']} px"
        yield Subject(name=name, start=exported(folder))


def _print_accuracy(folder: Path, arguments: argparse.Namespace) -> None:
    """Print a line of J&F, size and speed of an export."""
    names = (arguments.davis / "ImageSets" / f"{arguments.list}.txt").read_text(encoding="utf-8").split()
    scores, seconds = [], []
    for name in names:
        session = Session(I2VPPOnnx(folder, threads=arguments.threads))
        score, times = _follow(session, arguments.davis, name, arguments.frames)
        scores.append(score)
        seconds += times
    mean = {key: 100 * statistics.fmean(getattr(score, key) for score in scores) for key in ("jf", "j", "f")}
    size = sum(file.stat().st_size for file in folder.glob("*.onnx")) / 2**20
    result = {**mean, "MiB": size, "seconds": statistics.median(seconds), "sequences": len(names)}
    print(f"{folder}: {json.dumps({key: round(value, 3) for key, value in result.items()})}", flush=True)


def _follow(session: Session, davis: Path, name: str, count: int) -> tuple[ObjectScore, list[float]]:
    """Track the object of a sequence; return its score and the seconds of each frame after the first."""
    pictures = sorted((davis / "JPEGImages" / RESOLUTION / name).glob("*.jpg"))[:count]
    if len(pictures) < 3:
        raise DataError(f"{davis} holds fewer than 3 frames of {name} in JPEGImages/{RESOLUTION}")
    predicted, truths, seconds = [], [], []
    for i, picture in enumerate(pictures):
        annotation = davis / "Annotations" / RESOLUTION / name / f"{picture.stem}.png"
        truth = np.asarray(Image.open(annotation).convert("L")) > 0
        frame = np.asarray(Image.open(picture).convert("RGB"))
        before = time.perf_counter()
        masks = session.step(frame)
        seconds.append(time.perf_counter() - before)
        if i == 0:
            session.prompt(1, truth)
        predicted.append(masks[0] if i else truth)
        truths.append(truth)
    return score_object(predicted, truths), seconds[1:]


def _print_speed(subjects: Sequence[Subject], objects: int, rounds: int) -> None:
    """Print the seconds of a frame with several objects, measured in turns."""
    with closing(open_source(CLIP)) as source:
        frames = [np.ascontiguousarray(source[i]) for i in range(WARM_UP + rounds)]
    height, width = frames[0].shape[:2]
    sessions = [subject.start() for subject in subjects]
    seconds: list[list[float]] = [[] for _ in subjects]
    for i, frame in enumerate(frames):
        for session, times in zip(sessions, seconds, strict=True):
            before = time.perf_counter()
            session.step(frame)
            if i >= WARM_UP:
                times.append(time.perf_counter() - before)
            for obj_id in range(1, objects + 1) if i == 0 else ():
                mask = np.zeros((height, width), bool)
                mask[height // 4 : -height // 4, obj_id * width // (objects + 2) :][:, : width // 6] = True
                session.prompt(obj_id, mask)
    for subject, times in zip(subjects, seconds, strict=True):
        ratio = statistics.median(times) / statistics.median(seconds[0])
        print(
            f"{objects} objects, {subject.name}: {statistics.median(times):.3f} s, {ratio:.2f} of the first", flush=True
        )


if __name__ == "__main__":
    sys.exit(main())
