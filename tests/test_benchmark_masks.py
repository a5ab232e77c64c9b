"""`tools/benchmark_masks.py`: what it charges to encoder, decoder and the rest, and what it says of mistakes."""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
import pytest

from i2vpp import I2VPPAutomaticMaskGenerator
from models import make_predictor
from tools import benchmark_masks
from tools.benchmark_masks import PARTS, measure

IMAGE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


class Slow:
    """A generator whose parts take known times."""

    def encode(self) -> None:
        time.sleep(0.02)

    def decode(self) -> None:
        time.sleep(0.05)

    def generate(self, image: Any) -> list[int]:
        self.encode()
        self.decode()
        self.decode()
        time.sleep(0.03)
        return [1, 2, 3]


def test_every_second_is_charged_once() -> None:
    slow = Slow()
    started = time.perf_counter()
    times = measure(slow, IMAGE, (slow, "encode"), (slow, "decode"))
    whole = time.perf_counter() - started
    assert times.masks == 3
    assert times.wall["image encoder"] >= 0.02
    assert times.wall["mask decoder"] >= 0.1
    assert times.wall["rest"] >= 0.03
    assert sum(times.wall.values()) <= whole
    assert not vars(slow), "the methods of the class are used again"


def test_the_generator_is_measured_as_it_is() -> None:
    generator = I2VPPAutomaticMaskGenerator(
        make_predictor(), points_per_side=3, pred_iou_thresh=0, stability_score_thresh=0, points_per_batch=4
    )
    times = measure(generator, IMAGE, (generator.predictor, "set_image"), (generator.predictor, "decode_prompts"))
    assert times.masks == len(generator.generate(IMAGE)) > 0
    assert all(times.cpu[part] > 0 for part in PARTS)
    line = benchmark_masks.report("i2vpp, 64 px", times)
    assert line.startswith("i2vpp, 64 px")
    assert line.split()[-1] == str(times.masks)


def test_a_missing_package_or_checkpoint_is_one_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="1"):
        benchmark_masks.main(["--checkpoint", "no-such-thing"])
    assert "error: " in capsys.readouterr().err
    monkeypatch.setattr(
        benchmark_masks, "measure_ours", lambda *_: benchmark_masks.Times(cpu=dict.fromkeys(PARTS, 1.0))
    )
    monkeypatch.setitem(sys.modules, "sam2", None)
    with pytest.raises(SystemExit, match="1"):
        benchmark_masks.main(["--sam2", "configs/sam2.1/sam2.1_hiera_t.yaml"])
    said = capsys.readouterr()
    assert "i2vpp, 1024 px" in said.out
    assert "pip install sam2" in said.err
