"""What the activations of a training step take, and when they are recomputed instead of kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from i2vpp.config import ModelConfig
from i2vpp.memory.bank import MemoryBank
from i2vpp.memory.selection import FrameTime, RecentFrames
from i2vpp.modeling.i2vpp import I2VPP
from i2vpp.structures import Prompt
from pretended_cuda import PretendedTensor, pretended_cuda
from training.config import ClipConfig, DataConfig, OptimizerConfig, RunConfig, SourceConfig, TrainConfig, UserConfig
from training.dataset.clips import ClipBatch
from training.loss_fns import StepOutput, _step_loss, _target
from training.model.activations import GIB, KEPT, MIB, choose_recompute, kept_bytes
from training.model.objective import Objective
from training.model.rollout import ClipRollout
from training.optimizer import freeze, set_batch_norm, train_mode
from training.recipes import load_recipe


class FusedAttention(torch.autograd.Function):
    """Keeps what fused attention on a GPU keeps, and computes nothing."""

    @staticmethod
    def forward(context: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return a tensor of the result's shape."""
        batch = torch.broadcast_shapes(q.shape[:2], k.shape[:2])
        out = q.new_empty(*batch, q.shape[2], v.shape[3])
        context.save_for_backward(q, k, v, out, q.new_empty(*out.shape[:3], dtype=torch.float32))
        return out


def attend(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, **_: Any) -> Tensor:
    """Stand for `F.scaled_dot_product_attention`, with autocast's casts."""
    dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else q.dtype
    out: Tensor = FusedAttention.apply(*(x.to(dtype) for x in (q, k, v)))
    return out


def storage(x: Tensor) -> torch.UntypedStorage:
    return (x.values if isinstance(x, PretendedTensor) else x).untyped_storage()


class Saved:
    """Sums up the storages that the backward pass would need, parameters left out."""

    def __init__(self, parts: nn.Module) -> None:
        self.weights = {storage(p)._cdata for p in parts.parameters()}
        self.kept: dict[int, torch.UntypedStorage] = {}

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count from here."""
        with torch.autograd.graph.saved_tensors_hooks(self._keep, lambda x: x):
            yield

    def _keep(self, x: Tensor) -> Tensor:
        if storage(x)._cdata not in self.weights:
            self.kept[storage(x)._cdata] = storage(x)  # held, so that no other storage gets its address
        return x

    @property
    def mib(self) -> float:
        """All of them together."""
        return sum(kept.nbytes() for kept in self.kept.values()) / MIB


def counted_parts(precision: str, side: int) -> dict[str, float]:
    """MiB of each part at a size; only shapes are computed."""
    found: dict[str, float] = {}
    model = set_batch_norm(I2VPP(ModelConfig(image_size=side)).to("cuda"), "frozen")
    train_mode(model, OptimizerConfig())

    def count(name: str, function: Any) -> Any:
        saved = Saved(model)
        with saved.counted():
            out = function()
        found[name] = saved.mib
        return out

    dtype = getattr(torch, precision)
    with torch.autocast("cuda", dtype=dtype, enabled=precision != "float32"):
        features = count("encode", lambda: model.encode(torch.zeros(1, 3, 3, side, side, device="cuda")))
        prompt = Prompt(coords=torch.zeros(1, 1, 2, device="cuda"), labels=torch.ones(1, 1, device="cuda").int())
        plain = model.condition_on_memory(features, None)
        prediction = count("decode", lambda: model.decode(plain, prompt))
        given = (features, prediction, prediction.logits)
        memory = count("memory", lambda: model.encode_memory(*given, conditioning=True))
        bank = MemoryBank()
        for t in range(7):
            bank.put(t, memory, conditioning=t == 0)
        nothing: Any = None
        selection = RecentFrames(max_pointers=8).select(FrameTime(frame_idx=7), [0], bank, nothing)
        selected = [bank.fetch(selection, nothing)]
        read = count(
            "read",
            lambda: model.condition_on_memory(features, model.memory_tokens(selected), auxiliary=True),
        )
    target = _target(torch.zeros(1, side, side, dtype=torch.bool, device="cuda"), None, 1.0)
    count("loss", lambda: _step_loss(StepOutput(prediction=prediction, auxiliary=None), target))
    count("auxiliary", lambda: _step_loss(StepOutput(prediction=prediction, auxiliary=read.auxiliary), target))
    return found | {"auxiliary": found["auxiliary"] - found["loss"]}


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_what_is_kept_is_what_is_said(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pretended_cuda(shapes_only=True):
        monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attend)
        found = counted_parts(precision, 1024)
        monkeypatch.undo()
    for name, mib in found.items():
        assert mib == pytest.approx(getattr(KEPT[precision], name), rel=0.01, abs=0.5), name


def recipe(**clip: int) -> TrainConfig:
    source = SourceConfig(batch_size=1, clip=ClipConfig(**clip))
    return TrainConfig(
        model=ModelConfig(image_size=112),
        run=RunConfig(precision="float32"),
        user=UserConfig(mask=0.0, max_prompted=1, max_corrected=1, corrections=2),
        data=DataConfig(sources={"a": source}),
    )


def test_a_step_keeps_what_is_estimated() -> None:
    """On a CPU, where attention within windows keeps its weights as well, and all else is the same."""
    objects = 2
    config = recipe(num_frames=3, max_objects=objects)
    side = config.model.image_size
    model = set_batch_norm(I2VPP(config.model), "frozen")
    model.eval()
    masks = torch.zeros(objects, 3, side, side, dtype=torch.bool)
    masks[:, :, 20:90, 30:80] = True
    batch = ClipBatch(
        names=("a",),
        frames=torch.randint(0, 256, (1, 3, 3, side, side), dtype=torch.uint8),
        masks=masks,
        clip_of_object=torch.zeros(objects, dtype=torch.int64),
        seeds=tuple(range(objects)),
        step_seed=0,
    )
    found = {}
    for recompute in (False, True):
        saved = Saved(model)
        with saved.counted():
            Objective(ClipRollout(model, config.user, recompute=recompute))(batch)
        found[recompute] = saved.mib * MIB
    assert 0.8 < found[False] / kept_bytes(config) < 1.2
    assert found[True] < 0.2 * found[False]


def test_what_does_not_learn_keeps_nothing() -> None:
    config = recipe(num_frames=8, max_objects=1)
    assert kept_bytes(config, encoder_learns=False) < 0.5 * kept_bytes(config)
    with pretended_cuda(shapes_only=True):
        model = I2VPP(config.model).to("cuda")
        free = kept_bytes(config) // 2 + 2 * GIB
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.cuda, "mem_get_info", lambda *_: (free, free), raising=False)
            freeze(model, ["image_encoder"])
            assert not choose_recompute(config, model, torch.device("cuda:0")).recompute


@pytest.mark.parametrize(
    ("name", "gib", "recompute"),
    [("i2vpp-train", 16, True), ("i2vpp-train", 23.2, False), ("i2vpp-train", 80, False), ("i2vpp-finetune", 24, True)],
)
def test_recomputation_follows_the_free_memory(
    name: str, gib: float, recompute: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = ["data.sources.own.images=mine"] if name == "i2vpp-finetune" else []
    config = load_recipe(name, overrides)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (int(gib * GIB), 24 * GIB))
    model = I2VPP(ModelConfig(image_size=64))
    choice = choose_recompute(config, model, torch.device("cuda:0"))
    assert choice.recompute == recompute
    assert choice.reason.endswith(f"; {gib:.1f} GiB are free")
    config.run.recompute = "always"
    assert choose_recompute(config, model, torch.device("cuda:0")).recompute


@pytest.mark.parametrize(("setting", "recompute"), [("auto", True), ("always", True), ("never", False)])
def test_a_cpu_is_not_asked_for_its_memory(setting: str, recompute: bool) -> None:
    config = recipe(num_frames=3)
    config.run.recompute = setting
    choice = choose_recompute(config, I2VPP(config.model), torch.device("cpu"))
    assert (choice.recompute, choice.reason) == (recompute, "")
