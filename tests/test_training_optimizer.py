"""Freezing, parameter groups, schedule, training mode, skipped steps and the moving average."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from i2vpp.config import ModelConfig
from i2vpp.errors import ConfigError, RunError
from i2vpp.modeling.i2vpp import I2VPP
from i2vpp.structures import FrameFeatures, MemoryFrame, MemoryPointer, Prompt, SelectedMemory
from training.config import OptimizerConfig
from training.ema import EMA
from training.optimizer import (
    SkipCounter,
    build_optimizer,
    check,
    clip_gradients,
    freeze,
    parameter_groups,
    schedule,
    set_batch_norm,
    set_rates,
    train_mode,
    trainable,
    unused_parameters,
)

CONFIG = OptimizerConfig()


def network(device: str = "meta") -> I2VPP:
    with torch.device(device):
        return I2VPP(ModelConfig(image_size=64))


def group_of(groups: list[dict[str, Any]]) -> dict[str, str]:
    """Group of each parameter, by its name."""
    return {name: group["name"] for group in groups for name in group["parameters"]}


def test_each_trainable_parameter_is_in_exactly_one_group() -> None:
    model = network()
    freeze(model, [])
    groups = parameter_groups(model, CONFIG)
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(parameter) for parameter in trainable(model)}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for group in groups:
        assert [names[id(parameter)] for parameter in group["params"]] == group["parameters"]
    assert len({group["name"] for group in groups}) == len(groups)


def test_rates_fall_from_layer_to_layer_of_the_trunk() -> None:
    model = network()
    freeze(model, [])
    groups = parameter_groups(model, CONFIG)
    where, rate = group_of(groups), {group["name"]: group["lr"] for group in groups}
    trunk = "image_encoder.trunk_image"
    depths = {
        f"{trunk}.patch_embed.seq.0.c.weight": 0,
        f"{trunk}.layers.0.blocks.0.conv1.c.weight": 1,
        f"{trunk}.layers.0.blocks.1.conv1.c.weight": 2,
        f"{trunk}.layers.0.downsample.conv1.c.weight": 2,
        f"{trunk}.layers.1.blocks.0.mlp.fc1.weight": 3,
        f"{trunk}.layers.2.blocks.0.mlp.fc1.weight": 5,
        f"{trunk}.layers.2.blocks.5.mlp.fc1.weight": 10,
        f"{trunk}.layers.2.downsample.conv3.c.weight": 10,
        f"{trunk}.layers.3.blocks.1.mlp.fc1.weight": 12,
        f"{trunk}.neck.2.weight": 13,
    }
    for name, depth in depths.items():
        assert where[name] == f"trunk.{depth}.decay"
        assert rate[where[name]] == pytest.approx(6e-5 * 0.9 ** (13 - depth))
    assert rate["trunk.13.decay"] == 6e-5
    assert rate["trunk.0.no_decay"] == pytest.approx(1.5251192e-05)
    rest = {name for name in where if not name.startswith(trunk)}
    assert {where[name] for name in rest} == {"rest.decay", "rest.no_decay"}
    assert rate["rest.decay"] == rate["rest.no_decay"] == 3e-4


def test_only_kernels_of_linear_and_convolutional_layers_decay() -> None:
    model = network()
    freeze(model, [])
    groups = parameter_groups(model, CONFIG)
    assert {group["weight_decay"] for group in groups if group["name"].endswith(".decay")} == {0.1}
    assert {group["weight_decay"] for group in groups if group["name"].endswith(".no_decay")} == {0.0}
    where, parameters = group_of(groups), dict(model.named_parameters())
    decaying = {name for name, group in where.items() if group.endswith(".decay")}
    assert all(name.endswith(".weight") and parameters[name].ndim >= 2 for name in decaying)
    still = {name for name in where if name not in decaying and parameters[name].ndim >= 2}
    exceptions = ("attention_biases", "embed", "embeddings", "token", "tokens", "_ptr", "_enc", "_spatial")
    assert all(any(part in name for part in exceptions) for name in still), sorted(still)
    assert where["memory_encoder.fuser.layers.0.gamma"] == "rest.no_decay"
    assert where["sam_mask_decoder.output_upscaling.0.weight"] == "rest.decay"
    assert where["image_encoder.trunk_video.temporal_stem.weight"] == "rest.decay"


def test_exactly_the_unused_parameters_get_no_gradient() -> None:
    torch.manual_seed(0)
    model = network("cpu")
    train_mode(model, CONFIG)

    def features() -> FrameFeatures:
        return model.encode(torch.randn(1, 3, 3, 64, 64))

    first = features()
    plain = model.condition_on_memory(first, None)
    clicks = Prompt(coords=torch.tensor([[[10.0, 20.0]]]), labels=torch.ones(1, 1, dtype=torch.int32))
    clicked = model.decode(plain, clicks)
    memory = model.encode_memory(first, clicked, clicked.logits, conditioning=False)
    selected = SelectedMemory(
        spatial=(MemoryFrame(memory=memory, slot=0),), pointers=(MemoryPointer(pointer=memory.pointer, offset=1.0),)
    )
    second = features()
    read = model.condition_on_memory(second, model.memory_tokens([selected]), auxiliary=True)
    tracked = model.decode(read, Prompt(mask=clicked.logits.detach()), multimask=False)
    adopted = model.use_mask_as_output(second, torch.ones(1, 1, 64, 64))
    assert read.auxiliary is not None
    outputs = [
        read.auxiliary,
        adopted.pointer,
        *(part for p in (clicked, tracked) for part in (p.candidates, p.candidate_ious, p.object_score)),
    ]
    torch.stack([output.float().sum() for output in outputs]).sum().backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    unused = {id(parameter) for parameter in unused_parameters(model)}
    assert without == {name for name, parameter in model.named_parameters() if id(parameter) in unused}
    assert len(without) == 9


def test_frozen_parts_are_in_no_group() -> None:
    model = network()
    freeze(model, ["image_encoder.trunk_image", "no_obj_ptr", "memory_encoder.out_proj.bias"])
    where = group_of(parameter_groups(model, CONFIG))
    assert not [name for name in where if name.startswith("image_encoder.trunk_image")]
    assert not {"no_obj_ptr", "memory_encoder.out_proj.bias", "no_mem_pos_enc"} & where.keys()
    assert "memory_encoder.out_proj.weight" in where


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("image_encoder.trunk_imge", "no part 'image_encoder.trunk_imge'; did you mean 'image_encoder.trunk_image'"),
        ("zzz", "no part 'zzz'; its parts are image_encoder, memory_attention"),
        ("", "no part ''"),
    ],
)
def test_a_part_that_does_not_exist_cannot_be_frozen(name: str, told: str) -> None:
    with pytest.raises(ConfigError, match=rf"optimizer\.freeze: .*{told}"):
        freeze(network(), [name])


def test_something_must_be_left_to_train() -> None:
    model = network()
    everything = [name for name, _ in model.named_parameters()]
    freeze(model, everything)
    with pytest.raises(ConfigError, match="nothing is left to train"):
        build_optimizer(model, replace(CONFIG, freeze=everything))


def test_the_optimizer_is_adamw_with_the_betas_of_the_config() -> None:
    model = network()
    freeze(model, [])
    optimizer = build_optimizer(model, replace(CONFIG, betas=[0.8, 0.95]))
    assert type(optimizer) is torch.optim.AdamW
    assert all(group["betas"] == (0.8, 0.95) for group in optimizer.param_groups)


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("learning_rate", 0.0, "a positive number"),
        ("trunk_learning_rate", math.nan, "a positive number"),
        ("trunk_layer_decay", 1.5, "above 0 and at most 1"),
        ("weight_decay", -0.1, "not negative"),
        ("clip_norm", -1.0, "not negative"),
        ("betas", [0.9], "two numbers"),
        ("betas", [0.9, 1.0], "two numbers from 0 to below 1"),
        ("accumulate", 0, "at least 1"),
        ("warmup_steps", -1, "not negative"),
        ("ema", 1.0, "below 1"),
        ("batch_norm", "eval", "one of frozen, train, sync"),
    ],
)
def test_values_that_make_no_sense_are_refused(key: str, value: Any, allowed: str) -> None:
    with pytest.raises(ConfigError, match=rf"optimizer\.{key} must be .*{allowed}.*; got "):
        check(replace(CONFIG, **{key: value}))


def test_the_schedule_warms_up_and_follows_a_cosine() -> None:
    config = OptimizerConfig(warmup_steps=4, final_ratio=0.1)
    factors = [schedule(step, 12, config) for step in (0, 1, 2, 3, 4, 6, 8, 10, 12, 99)]
    # 0.1 + 0.9 * (1 + cos(pi * k / 4)) / 2
    expected = [0.2, 0.4, 0.6, 0.8, 1.0, 0.8681980515, 0.55, 0.2318019485, 0.1, 0.1]
    assert factors == pytest.approx(expected)
    assert schedule(0, 10, CONFIG) == 1.0
    assert schedule(5, 10, CONFIG) == pytest.approx(0.505)
    assert schedule(2, 2, OptimizerConfig(warmup_steps=2)) == 1.0  # a run that is all warm-up


def test_rates_are_a_function_of_the_step_alone() -> None:
    model = network()
    freeze(model, [])
    optimizer = build_optimizer(model, CONFIG)
    for step in (7, 5):  # there and back
        shown = set_rates(optimizer, step, 10, CONFIG)
    rate = {group["name"]: group["lr"] for group in optimizer.param_groups}
    assert shown == rate["rest.decay"] == pytest.approx(3e-4 * 0.505)
    assert rate["trunk.12.decay"] == pytest.approx(6e-5 * 0.9 * 0.505)


def small_trunk_modes(config: OptimizerConfig, *, frozen: str = "") -> tuple[I2VPP, dict[str, bool]]:
    model = network()
    freeze(model, [frozen] if frozen else [])
    model.eval()
    train_mode(set_batch_norm(model, config.batch_norm), config)
    return model, {name: module.training for name, module in model.named_modules()}


BATCH_NORM = "image_encoder.trunk_image.patch_embed.seq.0.bn"
DROPOUT = "memory_attention.layers.0.dropout"
ATTENTION = "memory_attention.layers.0.cross_attn_image"


def test_frozen_batch_norms_stay_in_evaluation() -> None:
    model, training = small_trunk_modes(CONFIG)
    norms = {name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert BATCH_NORM in norms
    assert {name for name, on in training.items() if not on} == norms


def test_dropout_can_be_switched_off() -> None:
    _, training = small_trunk_modes(OptimizerConfig(dropout=False, batch_norm="train"))
    assert not training[DROPOUT]
    assert not training[ATTENTION]
    assert training[BATCH_NORM]
    assert training["sam_mask_decoder"]


def test_without_dropout_a_pass_is_deterministic() -> None:
    torch.manual_seed(0)
    layer = network("cpu").memory_attention.layers[0]

    def two_passes(config: OptimizerConfig) -> bool:
        train_mode(layer, config)
        q, memory = torch.ones(1, 4, 256), torch.randn(1, 6, 64, generator=torch.Generator().manual_seed(0))
        results = [layer.dropout(layer.cross_attn_image(q, memory, memory)) for _ in range(2)]
        return bool(torch.equal(*results))

    assert two_passes(OptimizerConfig(dropout=False))
    assert not two_passes(OptimizerConfig(dropout=True))


def test_batch_norms_of_frozen_parts_keep_their_statistics() -> None:
    _, training = small_trunk_modes(OptimizerConfig(batch_norm="train"), frozen="image_encoder.trunk_image.patch_embed")
    assert not training[BATCH_NORM]
    assert training["image_encoder.trunk_image.layers.3.blocks.0.local_conv.bn"]


def test_batch_norm_modes_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="needs CUDA devices, and the model is on 'meta'; choose 'frozen' or 'train'"):
        set_batch_norm(network(), "sync")
    with pytest.raises(ConfigError, match="batch_norm must be one of frozen, train, sync; got 'Sync'"):
        set_batch_norm(network(), "Sync")


@pytest.mark.gpu
def test_synchronised_batch_norms_keep_their_names() -> None:
    model = network("cuda")
    names = list(model.state_dict())
    synced = set_batch_norm(model, "sync")
    assert list(synced.state_dict()) == names
    assert isinstance(synced.get_submodule(BATCH_NORM), nn.SyncBatchNorm)


def with_gradient(*values: float) -> nn.Parameter:
    parameter = nn.Parameter(torch.zeros(len(values)))
    parameter.grad = torch.tensor(values)
    return parameter


def test_gradients_are_clipped_and_their_norm_reported() -> None:
    a, b = with_gradient(3.0, 0.0), with_gradient(4.0)
    assert float(clip_gradients(iter([a, b]), 0)) == 5.0
    assert a.grad is not None and a.grad.tolist() == [3.0, 0.0]
    assert float(clip_gradients([a, b], 0.5)) == 5.0
    assert a.grad.tolist() == pytest.approx([0.3, 0.0])
    assert not clip_gradients([with_gradient(math.nan, 1.0)], 0.5).isfinite()
    assert not clip_gradients([with_gradient(math.inf, 1.0)], 0).isfinite()


def test_skipped_steps_end_the_run_only_in_a_row() -> None:
    counter = SkipCounter(3, total=5)
    for _ in range(2):
        counter.skip("loss is nan")
        counter.skip("loss is nan")
        counter.ok()
    assert counter.total == 9
    counter.skip("loss is nan")
    counter.skip("loss is nan")
    with pytest.raises(RunError, match=r"3 steps in a row .* because the gradient is inf .*learning_rate"):
        counter.skip("the gradient is inf")
    assert counter.total == 12


def test_the_moving_average_is_the_hand_computed_one() -> None:
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    weight = model[0].weight
    mean = model[1].running_mean
    assert isinstance(weight, nn.Parameter) and isinstance(mean, torch.Tensor)
    nn.init.constant_(weight, 1.0)
    ema = EMA(model, decay=0.15)
    nn.init.constant_(weight, 2.0)
    mean.fill_(7.0)
    ema.update(model)  # decay 1 / 10
    assert ema.shadow["0.weight"].item() == pytest.approx(0.1 * 1 + 0.9 * 2)
    assert ema.shadow["1.running_mean"].item() == 7.0
    ema.update(model)  # decay 0.15, below 2 / 11
    assert ema.shadow["0.weight"].item() == pytest.approx(0.15 * 1.9 + 0.85 * 2)

    other = EMA(model, decay=0.15)
    other.load(ema.shadow, ema.updates)
    assert other.updates == 2
    assert other.shadow["0.weight"].equal(ema.shadow["0.weight"])


def test_the_average_leaves_the_model_as_it_was() -> None:
    model = nn.Linear(2, 2)
    ema = EMA(model, decay=0.9)
    average = model.weight.detach().clone()
    nn.init.zeros_(model.weight)
    with pytest.raises(KeyError), ema.applied(model):
        assert model.weight.equal(average)
        raise KeyError
    assert not model.weight.any()
    assert ema.shadow["weight"].equal(average)


def test_an_average_of_another_network_or_dtype_is_refused() -> None:
    ema = EMA(nn.Linear(2, 2), decay=0.9)
    with pytest.raises(ValueError, match="another network; different are bias"):
        ema.load(EMA(nn.Linear(2, 2, bias=False), decay=0.9).shadow, updates=0)
    with pytest.raises(ValueError, match=r"must be float32, got torch\.bfloat16"):
        EMA(nn.Linear(2, 2, dtype=torch.bfloat16), decay=0.9)
