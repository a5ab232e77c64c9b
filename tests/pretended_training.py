"""One training step on a pretended GPU and on the CPU; `test_pretended_cuda.py` starts it in a process of its own.

    python tests/pretended_training.py build/null_guard.so

Prints a JSON object: how far the losses, gradients and new weights of two ways are apart, relative to their size.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any


def load_null_guard(path: str) -> ctypes.CDLL:
    """Load `null_guard.cpp`'s library with those of PyTorch that it needs; to be called before torch is imported."""
    spec = importlib.util.find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    for name in ("libc10.so", "libtorch_cpu.so"):
        ctypes.CDLL(str(Path(spec.origin).parent / "lib" / name), mode=ctypes.RTLD_GLOBAL)
    return ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)


guard = load_null_guard(sys.argv[1])

import copy  # noqa: E402 - torch comes after the guard
from dataclasses import dataclass  # noqa: E402

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

guard.install_guard()

from media import moving_disc  # noqa: E402
from pretended_cuda import ACTIVE, PretendedCuda, PretendedTensor, pretended_cuda  # noqa: E402
from test_pretended_cuda import small_model  # noqa: E402
from training.config import LossConfig, OptimizerConfig, UserConfig  # noqa: E402
from training.dataset.clips import ClipBatch  # noqa: E402
from training.model.objective import Objective  # noqa: E402
from training.model.rollout import ClipRollout  # noqa: E402
from training.optimizer import build_optimizer, clip_gradients, train_mode, trainable  # noqa: E402

SIZE = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class Learnt:
    """What a step gives: its loss, and the gradients and new weights in one tensor each."""

    loss: Tensor
    gradients: Tensor
    weights: Tensor


class Rollout(ClipRollout):
    """Recomputes as it computes: PyTorch's backward pass runs without the mode that sees calls of functions."""

    def recomputed(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """See `ClipRollout.recomputed`."""

        def seen(*arguments: Any, **options: Any) -> Any:
            with ACTIVE[-1].in_this_thread() if ACTIVE else nullcontext():
                return function(*arguments, **options)

        return super().recomputed(seen, *arguments, **options)


def batch() -> ClipBatch:
    """Two clips of three frames, of one object each."""
    videos = [moving_disc(3, SIZE, SIZE, seed=seed) for seed in (1, 2)]
    frames = torch.stack([torch.tensor(image).permute(2, 0, 1) for images, _ in videos for image in images])
    return ClipBatch(
        names=("a", "b"),
        frames=frames.unflatten(0, (2, 3)),
        masks=torch.stack([torch.stack([torch.tensor(mask) for mask in masks]) for _, masks in videos]),
        clip_of_object=torch.arange(2),
        seeds=(3, 4),
        step_seed=5,
    )


def learn(name: str, *, recompute: bool = False, dropout: bool = False) -> Learnt:
    """Make one step on a device, by the calls of the trainer."""
    device, config = torch.device(name), OptimizerConfig(dropout=dropout)
    model = copy.deepcopy(small_model()).to(device)
    objective = Objective(Rollout(model, UserConfig(corrections=1), recompute=recompute))
    optimizer = build_optimizer(model, config)
    train_mode(model, config)
    loss = objective(batch().to(device, non_blocking=True)).total(LossConfig())
    loss.backward()
    gradients = [values(x.grad) for x in trainable(model) if x.grad is not None]
    assert len(gradients) > 400
    clip_gradients(trainable(model), config.clip_norm)
    optimizer.step()
    return Learnt(
        loss=values(loss),
        gradients=torch.cat([x.flatten() for x in gradients]),
        weights=torch.cat([values(x).flatten() for x in trainable(model)]),
    )


def values(x: Tensor) -> Tensor:
    """Numbers of a tensor, in a tensor of the CPU."""
    x = x.detach()
    return (x.values if isinstance(x, PretendedTensor) else x).clone()


def on_gpu(device: PretendedCuda, *, recompute: bool, dropout: bool = False) -> Learnt:
    """Make the step on the pretended GPU, from the same random state each time."""
    device.random_state = torch.Generator().manual_seed(9).get_state()
    return learn("cuda:0", recompute=recompute, dropout=dropout)


def distance(a: Learnt, b: Learnt) -> dict[str, float]:
    """Distances of all that two steps give, relative to the first one's size."""
    return {
        name: float((getattr(a, name) - getattr(b, name)).norm() / getattr(a, name).norm())
        for name in ("loss", "gradients", "weights")
    }


def main() -> None:
    """Compare a CPU with the GPU, and recomputed activations with those that are kept, without dropout and with it."""
    cpu = learn("cpu")
    with torch.autograd.set_multithreading_enabled(False), pretended_cuda() as device:
        kept = on_gpu(device, recompute=False)
        recomputed = on_gpu(device, recompute=True)
        dropped = on_gpu(device, recompute=False, dropout=True)
        again = on_gpu(device, recompute=True, dropout=True)
    found = {
        "cpu, gpu": distance(cpu, kept),
        "kept, recomputed": distance(kept, recomputed),
        "kept, recomputed, with dropout": distance(dropped, again),
        "without dropout, with it": distance(kept, dropped),
    }
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
