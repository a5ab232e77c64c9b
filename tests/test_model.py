"""The model's verbs, by their definitions."""

import dataclasses

import pytest
import torch

from i2vpp.config import ModelConfig
from i2vpp.modeling.backbones.tiny_vit import ConvNorm
from i2vpp.modeling.i2vpp import I2VPP
from i2vpp.structures import (
    ABSENT_LOGIT,
    FrameFeatures,
    FrameMemory,
    MemoryFrame,
    MemoryPointer,
    Prompt,
    SelectedMemory,
)
from models import SIDE, parity_weights
from parity.det_weights import normal

GRID = SIDE // 16


@pytest.fixture(scope="module")
def model(device: torch.device) -> I2VPP:
    model = I2VPP(ModelConfig(image_size=SIDE)).eval()
    model.load_state_dict(parity_weights())
    return model.to(device)


@pytest.fixture
def features(model: I2VPP) -> FrameFeatures:
    with torch.no_grad():
        return model.encode(normal(1, 1, 3, 3, SIDE, SIDE).to(model.device))


def memory_of(seed: int, device: torch.device, batch: int = 1) -> FrameMemory:
    return FrameMemory(
        values=normal(seed, batch, 64, GRID, GRID).bfloat16().to(device),
        foreground=normal(seed + 1, batch, GRID, GRID).to(device) > 0,
        pointer=normal(seed + 2, batch, 256).to(device),
    )


def selected_memory(*memories: tuple[FrameMemory, int], weight: int = 1) -> SelectedMemory:
    """The first memory has the weight `weight`."""
    counts = [weight] + [1] * (len(memories) - 1)
    return SelectedMemory(
        spatial=tuple(MemoryFrame(memory=m, slot=s, weight=c) for (m, s), c in zip(memories, counts, strict=True)),
        pointers=tuple(
            MemoryPointer(pointer=m.pointer, offset=1 - s / 7, weight=c)
            for (m, s), c in zip(memories, counts, strict=True)
        ),
    )


@torch.no_grad()
def test_counted_copies_equal_real_copies(model: I2VPP, features: FrameFeatures) -> None:
    a, b = memory_of(10, model.device), memory_of(20, model.device)
    counted = model.condition_on_memory(features, model.memory_tokens([selected_memory((a, 0), (b, 6), weight=4)]))
    real = model.condition_on_memory(
        features, model.memory_tokens([selected_memory((a, 0), (a, 0), (a, 0), (a, 0), (b, 6))])
    )
    torch.testing.assert_close(counted.embedding, real.embedding, rtol=0, atol=2e-5)
    torch.testing.assert_close(counted.memory_prompts, real.memory_prompts, rtol=0, atol=2e-5)


@torch.no_grad()
def test_objects_with_other_slots_and_copies_share_a_batch(model: I2VPP, features: FrameFeatures) -> None:
    a, b, c = (memory_of(seed, model.device) for seed in (10, 20, 30))
    memories = [selected_memory((a, 0), (b, 6), weight=3), selected_memory((b, 0), (c, 5))]
    together = model.condition_on_memory(features, model.memory_tokens(memories))
    for i, selected in enumerate(memories):
        alone = model.condition_on_memory(features, model.memory_tokens([selected]))
        torch.testing.assert_close(together.embedding[i : i + 1], alone.embedding, rtol=0, atol=2e-5)
        torch.testing.assert_close(together.memory_prompts[i : i + 1], alone.memory_prompts, rtol=0, atol=2e-5)


@torch.no_grad()
def test_a_selected_memory_may_hold_a_batch_of_objects(model: I2VPP, features: FrameFeatures) -> None:
    both = memory_of(10, model.device, batch=2)
    single = [FrameMemory(values=both.values[i : i + 1], foreground=both.foreground[i : i + 1],
                          pointer=both.pointer[i : i + 1]) for i in range(2)]  # fmt: skip
    batched = model.memory_tokens([selected_memory((both, 0), weight=2)])
    separate = model.memory_tokens([selected_memory((m, 0), weight=2) for m in single])
    for field in dataclasses.fields(batched):
        got, want = getattr(batched, field.name), getattr(separate, field.name)
        assert torch.equal(got, want) if isinstance(got, torch.Tensor) else got == want


@torch.no_grad()
def test_absent_objects(model: I2VPP, features: FrameFeatures) -> None:
    head = model.sam_mask_decoder.pred_obj_score_head.layers[-1]
    conditioned = model.condition_on_memory(features, None)
    assert model.decode(conditioned, Prompt()).object_score > 0
    bias = head.bias.data.clone()
    try:
        head.bias.data.fill_(-20)
        absent = model.decode(conditioned, Prompt())
    finally:
        head.bias.data.copy_(bias)
    assert absent.object_score < 0
    assert (absent.logits == ABSENT_LOGIT).all()
    assert torch.equal(absent.pointer, model.no_obj_ptr)
    present = dataclasses.replace(absent, object_score=-absent.object_score)
    memories = [model.encode_memory(features, p, p.logits, conditioning=False) for p in (absent, present)]
    difference = (memories[0].values.float() - memories[1].values.float())[0, :, 0, 0]
    torch.testing.assert_close(difference, model.no_obj_embed_spatial[0], rtol=0.05, atol=0.02)
    assert not memories[0].foreground.any()


@torch.no_grad()
def test_an_adopted_mask_is_the_output(model: I2VPP, features: FrameFeatures) -> None:
    masks = torch.zeros(2, 1, SIDE, SIDE, device=model.device)
    masks[0, :, 16:48, 8:40] = 1
    adopted = model.use_mask_as_output(features, masks)
    assert adopted.object_score.tolist() == [10, -10]
    assert adopted.iou.tolist() == [1, 1]
    assert torch.equal(adopted.logits > 0, masks[:, :, 2::4, 2::4] > 0)
    assert float(adopted.logits.amax()) == pytest.approx(10)
    assert torch.equal(adopted.pointer[1:], model.no_obj_ptr)
    assert not torch.equal(adopted.pointer[:1], model.no_obj_ptr)


@pytest.mark.parametrize(("points", "masks"), [(0, 3), (1, 3), (2, 1), (5, 1)])
@torch.no_grad()
def test_few_points_are_ambiguous(model: I2VPP, features: FrameFeatures, points: int, masks: int) -> None:
    prompt = Prompt()
    if points:
        coords = torch.full((1, points, 2), 20.0, device=model.device)
        prompt = Prompt(coords=coords, labels=torch.ones(1, points, dtype=torch.int32, device=model.device))
    prediction = model.decode(model.condition_on_memory(features, None), prompt)
    assert prediction.candidates.shape[1] == masks
    assert float(prediction.iou) in [pytest.approx(v) for v in prediction.candidate_ious[0].tolist()]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision_stays_near_float32(model: I2VPP, features: FrameFeatures, dtype: torch.dtype) -> None:
    def way() -> torch.Tensor:
        clip = normal(1, 1, 3, 3, SIDE, SIDE).to(model.device)
        found = model.encode(clip)
        prediction = model.decode(model.condition_on_memory(found, None), Prompt())
        memory = model.encode_memory(found, prediction, prediction.logits, conditioning=True)
        selected = selected_memory((memory, 0), weight=3)
        return model.decode(model.condition_on_memory(found, model.memory_tokens([selected])), Prompt()).logits

    exact = way()
    with torch.autocast(model.device.type, dtype=dtype):
        half = way()
    assert half.dtype == torch.float32
    assert float((half - exact).norm() / exact.norm()) < 0.15


@pytest.mark.parametrize("image_size", [80, 256, 400])
@torch.no_grad()
def test_any_multiple_of_16(image_size: int) -> None:
    model = I2VPP(ModelConfig(image_size=image_size)).eval()
    features = model.encode(normal(1, 1, 3, 3, image_size, image_size))
    prediction = model.decode(model.condition_on_memory(features, None), Prompt())
    memory = model.encode_memory(features, prediction, prediction.logits, conditioning=True)
    tracked = model.decode(
        model.condition_on_memory(features, model.memory_tokens([selected_memory((memory, 0))])), Prompt()
    )
    assert tracked.logits.shape[-1] == image_size // 4
    assert tracked.logits.isfinite().all()


def test_gradients_reach_every_parameter_that_is_read() -> None:
    model = I2VPP(ModelConfig(image_size=SIDE)).train()
    clip = normal(1, 2, 3, 3, SIDE, SIDE)
    features = model.encode(clip)
    masks = (normal(3, 2, 1, SIDE, SIDE) > 0).float()
    adopted = model.use_mask_as_output(features, masks)
    points = Prompt(coords=torch.full((2, 4, 2), 20.0), labels=torch.tensor([[2, 3, 0, 1]] * 2), mask=adopted.logits)
    clicked = model.decode(model.condition_on_memory(features, None), points)
    empty = dataclasses.replace(clicked, object_score=clicked.object_score * 0 - 1)
    memories = [model.encode_memory(features, p, p.logits, conditioning=True) for p in (adopted, empty)]
    selected = selected_memory((memories[0], 0), *((memories[1], slot) for slot in range(1, 7)))
    conditioned = model.condition_on_memory(features, model.memory_tokens([selected]), auxiliary=True)
    tracked = model.decode(conditioned, Prompt())
    predictions = (clicked, tracked)
    loss = sum(
        p.candidates.mean() + p.candidate_ious.mean() + p.object_score.mean() + p.pointer.mean() for p in predictions
    )
    (loss + conditioned.auxiliary.mean() + adopted.pointer.mean()).backward()
    unread = {name for name, p in model.named_parameters() if p.grad is None}
    never = ("image_encoder.trunk_image.norm_head", "image_encoder.trunk_image.head", "no_mem_pos_enc",
             "image_encoder.trunk_video.integration2temporal_nets.2", "no_obj_ptr")  # fmt: skip
    assert all(name.startswith(never) for name in unread), unread


# ---- what is computed from weights alone


@pytest.fixture
def layer() -> ConvNorm:
    torch.manual_seed(0)
    layer = ConvNorm(3, 4, 3).eval()
    for values in (layer.bn.weight, layer.bn.bias, layer.bn.running_mean, layer.bn.running_var):
        torch.nn.init.uniform_(values, 0.5, 1.5)
    return layer


def test_a_folded_norm_follows_its_weights(layer: ConvNorm) -> None:
    x = normal(1, 1, 3, 8, 8)

    def check() -> None:
        torch.testing.assert_close(layer(x), layer.bn(layer.c(x)), atol=1e-4, rtol=1e-4)

    with torch.inference_mode():
        check()
        first = layer(x)
        layer.bn.running_mean.add_(1)
        check()
        assert (layer(x) - first).abs().max() > 0.1
    with torch.no_grad():
        layer.c.weight.mul_(2)
        check()
        layer.load_state_dict({name: 3 * values for name, values in layer.state_dict().items()})
        check()
    torch.optim.SGD(layer.parameters(), lr=0.1).zero_grad()
    layer(x).sum().backward()
    assert layer.c.weight.grad is not None
    with torch.no_grad():
        layer.c.weight -= layer.c.weight.grad
        check()
        layer.double().float()
        check()


def test_a_folded_norm_is_computed_once(layer: ConvNorm, monkeypatch: pytest.MonkeyPatch) -> None:
    x = normal(1, 1, 3, 8, 8)
    used = []
    original = torch.rsqrt
    monkeypatch.setattr(torch, "rsqrt", lambda *args: used.append(1) or original(*args))
    for mode in (torch.inference_mode, torch.no_grad, torch.inference_mode):
        with mode():
            exact = layer(x)
    assert used == [1]
    for _ in range(2):
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            rough = layer(x)
    assert used == [1, 1], "once for each dtype"
    assert 0 < (rough - exact).abs().max() < 0.1
    layer(x)
    layer(x)
    assert used == [1, 1, 1, 1], "with gradients every time"
