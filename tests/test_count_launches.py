"""What a tracked frame asks of a GPU: kernels, casts, waits and copies, counted without one."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
import torch

from tools import count_launches
from tools.benchmarking.shapes import shapes_only_gpu
from tools.count_launches import HEIGHT, WIDTH, FrameCount, count_frame, table

OPTIONS = ["--config", "i2vpp-256"]


@lru_cache
def counted(objects: int) -> FrameCount:
    """A frame at 256 px: which operations run does not depend on the size, but for padding."""
    return count_frame("i2vpp-256", objects=objects)


def test_every_kind_of_use_is_counted() -> None:
    with shapes_only_gpu() as counts, torch.no_grad():
        x = torch.ones(4, 8, device="cuda")
        y = (x.half() @ x.half().T).unsqueeze(0)
        assert (counts.launches, counts.casts, counts.views, counts.waits) == (4, 2, 2, [])
        assert y.shape == (1, 4, 4)
        assert y.dtype == torch.float16
        assert y.device == torch.device("cuda", 0)
        assert bool(y.any())
        assert len(counts.waits) == 1
        counts.reset()
        torch.zeros(10).to("cuda", non_blocking=True)
        assert (counts.bytes_up, counts.waits) == (40, [])
        torch.zeros(10).to("cuda")
        assert len(counts.waits) == 1
        assert x.cpu().device.type == "cpu"
        assert (counts.bytes_down, len(counts.waits)) == (128, 2)
        x.add_(1)[0] = 2
        assert counts.operations == {"add_": 1, "fill_": 1}


def test_tensors_of_two_devices_do_not_mix() -> None:
    with shapes_only_gpu(), torch.no_grad():
        with pytest.raises(RuntimeError, match=r"add: tensors on cuda:0 and on the CPU, at .*test_count_launches\.py"):
            torch.ones(3, device="cuda") + torch.ones(3)
        with pytest.raises(TypeError, match="copied to the CPU first"):
            np.asarray(torch.ones(3, device="cuda"))


def test_nothing_remains_of_the_device() -> None:
    with shapes_only_gpu():
        assert torch.cuda.is_available()
    assert torch.cuda.is_available() == (torch.cuda.device_count() > 0)
    assert type(torch.ones(2)) is torch.Tensor


def test_the_parts_add_up() -> None:
    count = counted(1)
    assert sum(count.parts.values()) == sum(count.lines.values()) == count.launches
    assert count.casts < count.launches


def test_a_frame_asks_little_of_a_gpu() -> None:
    """Bounds on what docs/performance.md states; numbers at 1024 px are the same but for padded windows."""
    one = counted(1)
    assert one.launches <= 760
    assert one.casts <= 25
    assert len(one.waits) == 1, one.waits
    assert "cpu_copy" in one.waits[0]
    assert one.bytes_up < 1.05 * 3 * HEIGHT * WIDTH, "the frame as it is, and some numbers"


@pytest.mark.slow
def test_five_objects_are_one_batch() -> None:
    assert counted(5).launches <= 860
    assert len(counted(5).waits) == 1


def test_the_command_prints_tables(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(count_launches, "count_frame", lambda config, *, objects, dtype: counted(objects))
    assert count_launches.main([*OPTIONS, "--lines", "3"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert rows[2].split("|")[1].strip() == "1"
    assert sum(".py:" in row for row in rows) == 3
    assert table([counted(1)]) in "\n".join(rows)


def test_an_unknown_config_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert count_launches.main(["--config", "i2vpp-257"]) == count_launches.EXIT_FAILED
    assert capsys.readouterr().err.startswith("count_launches.py: error: config 'i2vpp-257' is neither")
