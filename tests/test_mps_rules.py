"""What PyTorch lacks on MPS (Apple's GPUs), refused while a session and a training step run on another device.

A session on the pretended GPU stands for one on MPS: the network takes the same way on both but for `rotate`, which
uses complex numbers on CUDA. A training step runs on the CPU.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.torch_version import TorchVersion
from torch.utils._python_dispatch import TorchDispatchMode

from i2vpp.build_i2vpp import MPS_TORCH, best_device, choose_device
from i2vpp.errors import ConfigError
from media import moving_disc
from operation_counts import tensors_in
from pretended_cuda import PretendedTensor, pretended_cuda
from test_pretended_cuda import predictor_on
from test_rollout import FRAMES, SIZE, batch_of
from training.config import LossConfig, OptimizerConfig, UserConfig
from training.model.objective import Objective
from training.model.rollout import ClipRollout
from training.optimizer import build_optimizer, clip_gradients, train_mode, trainable

REPO = Path(__file__).resolve().parent.parent
CODE_FOLDERS = ("i2vpp", "training", "tools", "test_pvs", "sav_dataset")

MISSING: dict[str, tuple[int, int] | None] = {
    "_upsample_bilinear2d_aa": (2, 7),  # pytorch/pytorch pull request 145526
    "_linalg_eigh": None,  # pull request 185954; issue 151874 until then
    "_linalg_svd": None,  # the same pull request; on the CPU with a warning before
    "linalg_eig": None,  # pull request 195278 was open
    "_upsample_bicubic2d_aa_backward": None,  # pull request 169785
}
"""Operators that MPS lacks, and the version of PyTorch that has them; None is taken for every version."""
DTYPES = {torch.float64, torch.complex128}
"""Metal has no numbers of 64 bits with a fraction."""


class LackingOnMps(TorchDispatchMode):
    """Raises, in its `with` block, at what MPS lacks."""

    def __init__(self, version: tuple[int, int] = MPS_TORCH, *, everywhere: bool = False) -> None:
        super().__init__()
        self.version = version
        self.everywhere = everywhere  # also on the CPU

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = tensors_in(args, kwargs or {}, out)
        if self.everywhere or any(isinstance(x, PretendedTensor) for x in tensors):
            name = func.overloadpacket.__name__
            since = MISSING.get(name, (0, 0))
            if since is None or self.version < since:
                raise NotImplementedError(f"MPS lacks {name}")
            if any(x.dtype in DTYPES and (self.everywhere or isinstance(x, PretendedTensor)) for x in tensors):
                raise TypeError(f"MPS lacks the numbers of {name}")
        return out


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there, so none is pretended")
def test_a_session_needs_nothing_that_mps_lacks() -> None:
    frames, masks = moving_disc(4, seed=5)
    with pretended_cuda(), LackingOnMps():
        predictor = predictor_on("cuda")
        with predictor.init_state(frames) as state:
            predictor.add_new_points_or_box(state, 0, 1, points=[[12, 24]], labels=[1])
            predictor.add_new_mask(state, 0, 2, masks[0])
            for t in (1, 2):
                predictor.track_frame(state, t)
        with pytest.raises(NotImplementedError, match="MPS lacks _upsample_bilinear2d_aa"):
            with LackingOnMps((2, 6)), predictor.init_state(frames) as state:
                predictor.add_new_mask(state, 0, 2, masks[0])


def test_a_training_step_needs_nothing_that_mps_lacks() -> None:
    model = predictor_on("cpu").model
    batch = batch_of(np.stack(moving_disc(FRAMES, SIZE, SIZE)[0]))
    optimizer = build_optimizer(model, OptimizerConfig())
    train_mode(model, OptimizerConfig())
    with LackingOnMps(everywhere=True):
        loss = Objective(ClipRollout(model, UserConfig(corrections=1)))(batch).total(LossConfig())
        loss.backward()
        clip_gradients(trainable(model), 1.0)
        optimizer.step()


def test_what_is_missing_would_be_refused() -> None:
    with LackingOnMps(everywhere=True):
        with pytest.raises(NotImplementedError, match="MPS lacks _linalg_eigh"):
            torch.linalg.eigh(torch.eye(2))
        with pytest.raises(TypeError, match="MPS lacks the numbers of"):
            torch.ones(2).double()


def test_an_older_pytorch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert (best_device().type, choose_device("mps").type) == ("mps", "mps")
    monkeypatch.setattr(torch, "__version__", TorchVersion("2.6.1"))
    assert best_device().type == "cpu"
    with pytest.raises(ConfigError, match=r"'mps' needs PyTorch 2\.7 or newer.*this is 2\.6\.1: update PyTorch, or"):
        choose_device("mps")


def copies_that_never_block(source: str) -> list[int]:
    """Lines of calls with a constant `non_blocking=True`."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    words = [word for call in calls for word in call.keywords if word.arg == "non_blocking"]
    return [word.value.lineno for word in words if isinstance(word.value, ast.Constant) and word.value.value]


def test_no_copy_leaves_the_device_out_of_account() -> None:
    """A copy to MPS that does not block reads its source later, when a temporary tensor's memory is freed."""
    assert copies_that_never_block("x.to(d, non_blocking=True)\nx.to(d, non_blocking=d.type == 'cuda')") == [1]
    for folder in CODE_FOLDERS:
        for path in sorted((REPO / folder).rglob("*.py")):
            assert not copies_that_never_block(path.read_text(encoding="utf-8")), path
