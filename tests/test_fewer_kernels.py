"""A GPU's ways, with fewer and larger operations, give what the network's own operations give; run here on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
from i2vpp.modeling import inference
from i2vpp.modeling.attention import Attention, CrissCrossAttention
from i2vpp.modeling.i2vpp import I2VPP
from i2vpp.modeling.inference import convert_weights, fewer_kernels, precision
from i2vpp.modeling.memory_attention import ScaleAdapter
from i2vpp.structures import FrameMemory, MemoryFrame, MemoryPointer, SelectedMemory
from i2vpp.utils.masks import fill_holes
from media import moving_disc
from models import SIDE, make_predictor

FRAMES, MASKS = moving_disc(9, seed=5)
SHORT = ("model.selection.global_window=6", "model.selection.local_window=2")


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Take the ways of a GPU on the CPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inference, "FEWER_KERNELS_ON", frozenset({"cpu"}))
        yield


def track(predictor: I2VPPVideoPredictor) -> list[Tensor]:
    """Masks of three objects that were prompted in all ways, on frames with partly and with fully filled memory."""
    with predictor.init_state(FRAMES) as state:
        predictor.add_new_mask(state, 0, 1, MASKS[0])
        predictor.add_new_points_or_box(state, 0, 2, points=[[12, 24]], labels=[1])
        predictor.add_new_points_or_box(state, 0, 3, box=[4, 4, 30, 40])
        return [result.masks for result in predictor.propagate_in_video(state, progress=False)]


def scrambled(module: nn.Module) -> nn.Module:
    """The module in evaluation with all weights drawn at random: some are 0 or 1 when they are made."""
    generator = torch.Generator().manual_seed(3)
    for parameter in module.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    return module.eval()


@pytest.fixture(scope="module")
def expected() -> list[Tensor]:
    return track(make_predictor(*SHORT, dtype="float32"))


def test_they_are_for_inference_on_a_gpu() -> None:
    x = torch.zeros(1)
    assert not fewer_kernels(x)
    with as_on_a_gpu():
        assert not fewer_kernels(x)  # gradients are wanted
        with torch.no_grad():
            assert fewer_kernels(x)
            assert not torch.compile(lambda x: x + fewer_kernels(x), backend="eager")(x).any()


def test_a_session_gives_the_same_masks(expected: list[Tensor]) -> None:
    with as_on_a_gpu():
        for masks, wanted in zip(track(make_predictor(*SHORT, dtype="float32")), expected, strict=True):
            torch.testing.assert_close(masks, wanted, atol=2e-3, rtol=1e-4)


def conditioned(model: I2VPP, dtype: torch.dtype, memory: FrameMemory) -> tuple[Tensor, ...]:
    """Embedding, embedding after memory attention, memory prompts and new memory of a frame."""
    clip = torch.randn(1, 3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2))
    selected = SelectedMemory(
        spatial=(MemoryFrame(memory=memory, slot=0), MemoryFrame(memory=memory, slot=3, weight=2)),
        pointers=(MemoryPointer(pointer=memory.pointer, offset=1.0),),
    )
    with torch.no_grad(), precision(model.device, dtype, model.no_mem_embed):
        features = model.encode(clip)
        after = model.condition_on_memory(features, model.memory_tokens([selected]))
        prediction = model.use_mask_as_output(features, (clip[:, :1, 0] > 0).float())
        new = model.encode_memory(features, prediction, prediction.logits, conditioning=False)
    return features.embedding, after.embedding, after.memory_prompts, new.values


def some_memory() -> FrameMemory:
    generator = torch.Generator().manual_seed(4)
    side = SIDE // 16
    return FrameMemory(
        values=torch.randn(1, 64, side, side, generator=generator).bfloat16(),
        foreground=torch.rand(1, side, side, generator=generator) > 0.5,
        pointer=torch.randn(1, 256, generator=generator),
    )


def convert(model: I2VPP) -> None:
    """Convert the weights as for CUDA."""
    in_float32 = (model.sam_prompt_encoder, model.sam_mask_decoder, model.obj_ptr_proj, model.memory_prompt_generator)
    convert_weights(model, torch.bfloat16, in_float32=in_float32)


class KernelsToCopy(TorchDispatchMode):
    """Counts convolutions over maps of one layout with kernels of another; cuDNN copies such kernels."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution.default:
            layout = torch.channels_last if args[1].dim() == 4 else torch.channels_last_3d
            self.count += not args[1].is_contiguous(memory_format=layout)
        return func(*args, **(kwargs or {}))


def test_no_kernel_of_a_convolution_is_copied() -> None:
    model, memory = make_predictor(dtype="float32").model, some_memory()
    with as_on_a_gpu(), KernelsToCopy() as before:
        conditioned(model, torch.float32, memory)
    convert(model)
    with as_on_a_gpu(), KernelsToCopy() as after:
        conditioned(model, torch.bfloat16, memory)
    assert before.count > 30
    assert after.count == 0


def test_weights_in_bfloat16_need_no_autocast() -> None:
    """Without autocast, sums of residuals are rounded, too; that adds little to the errors."""
    memory = some_memory()
    model = make_predictor(dtype="float32").model
    exact = conditioned(model, torch.float32, memory)
    rounded = conditioned(make_predictor(dtype="bfloat16").model, torch.bfloat16, memory)
    convert(model)
    assert model.sam_mask_decoder.iou_token.weight.dtype == torch.float32
    ways = [conditioned(model, torch.bfloat16, memory)]
    with as_on_a_gpu():
        ways.append(conditioned(model, torch.bfloat16, memory))

    def error(of: Tensor, wanted: Tensor) -> float:
        return float((of.float() - wanted.float()).std() / wanted.float().std())

    for way in ways:
        for one, usual, wanted in zip(way, rounded, exact, strict=True):
            assert error(one, wanted) < 1.7 * error(usual, wanted) + 1e-3


@pytest.mark.parametrize("batch", [1, 2])
def test_the_parts_agree_on_any_grid(batch: int) -> None:
    grid = torch.Size((3, 5))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, 32, *grid, generator=generator)
    tokens = x.flatten(2).transpose(1, 2)
    across, adapter = scrambled(CrissCrossAttention(32, 8)), scrambled(ScaleAdapter(32))
    attention = scrambled(Attention(32, heads=4))
    with torch.no_grad():
        plain = (
            across(x),
            adapter(tokens, grid),
            attention(tokens, tokens, tokens),
            attention(tokens, tokens, 2 * tokens),
        )
        with as_on_a_gpu():
            joined = (
                across(x),
                adapter(tokens, grid),
                attention(tokens, tokens, tokens),
                attention(tokens, tokens, 2 * tokens),
            )
    for one, other in zip(joined, plain, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_holes_of_any_shape_are_found() -> None:
    """Against a search from every pixel, on noise with components of all areas."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 1, 24, 24, generator=generator) + 0.4
    filled = fill_holes(logits, 8)
    for image, result in zip(logits[:, 0], filled[:, 0], strict=True):
        small = torch.zeros_like(image, dtype=torch.bool)
        for start in (image <= 0).nonzero().tolist():
            component, waiting = {tuple(start)}, [tuple(start)]
            while waiting:
                y, x = waiting.pop()
                around = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} - component
                new = [(a, b) for a, b in around if 0 <= a < 24 and 0 <= b < 24 and image[a, b] <= 0]
                component.update(new)
                waiting += new
            small[start[0], start[1]] = len(component) <= 8
        assert small.any()
        torch.testing.assert_close(result, torch.where(small, 0.1, image))
