"""Memory attention, memory prompts, prompt encoder and mask decoder against the published network's own outputs."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from i2vpp.modeling.i2vpp import I2VPP
from i2vpp.structures import FrameFeatures, MemoryTokens, Prompt
from models import parity_weights
from parity.det_weights import normal

TOLERANCE = 1e-5  # greatest difference over greatest value; measured: 3e-6 in the worst component
GRID = (64, 64)
NUM_POINTERS = 12
NUM_TOKENS = 3 * 4096 + NUM_POINTERS


@pytest.fixture(scope="module")
def model() -> I2VPP:
    model = I2VPP().eval()
    model.load_state_dict(parity_weights())
    return model


@pytest.fixture(scope="module")
def expected(parity: Path) -> dict[str, np.ndarray]:
    with np.load(parity / "components.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def memory() -> MemoryTokens:
    return MemoryTokens(
        values=normal(5, NUM_TOKENS, 2, 64).transpose(0, 1),
        position=normal(6, NUM_TOKENS, 2, 64).transpose(0, 1),
        foreground=(normal(9, NUM_TOKENS, 2, 1) > 0.5)[..., 0].T,
        num_pointer_tokens=NUM_POINTERS,
    )


@pytest.fixture(scope="module")
def prompt() -> Prompt:
    return Prompt(
        coords=normal(10, 2, 5, 2).sigmoid() * 1024,
        labels=torch.tensor([[2, 3, 1, 0, -1], [1, 1, 0, 0, -1]]),
        mask=normal(12, 2, 1, 256, 256) * 4,
    )


def check(name: str, got: Tensor, part: Tensor, expected: dict[str, np.ndarray]) -> None:
    """Compare the recorded part of an output, and the statistics of all of it."""
    recorded = torch.from_numpy(expected[name])
    assert part.shape == recorded.shape
    torch.testing.assert_close(part, recorded, rtol=0, atol=TOLERANCE * float(recorded.abs().max()))
    if f"{name}.stats" in expected:
        mean, std, peak, norm = expected[f"{name}.stats"].tolist()
        stats = [float(got.mean()), float(got.std()), float(got.abs().max())]
        assert stats == pytest.approx([mean, std, peak], rel=1e-4, abs=1e-5 * peak)
        assert float(got.double().norm()) == pytest.approx(norm, rel=1e-3)


@torch.inference_mode()
def test_state_dict_has_the_published_names_and_shapes(model: I2VPP, parity: Path) -> None:
    published = json.loads((parity / "state_dict_shapes.json").read_text())
    assert {name: list(value.shape) for name, value in model.state_dict().items()} == published
    assert len(published) == 929
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(19.04e6, abs=5e3)


@torch.inference_mode()
def test_memory_attention(model: I2VPP, memory: MemoryTokens, expected: dict[str, np.ndarray]) -> None:
    current, position = (normal(seed, 4096, 2, 256).permute(1, 2, 0).unflatten(2, GRID) for seed in (7, 8))
    # The recording has a position map per object, FrameFeatures one for all: what is added to the features is the same.
    features = FrameFeatures(embedding=current + 0.1 * position, position=torch.zeros_like(position[:1]))
    embedding, masks = model.memory_attention(features, memory, auxiliary=True)
    tokens = embedding.flatten(2).permute(2, 0, 1)
    check("memory_attention.features", tokens, tokens[::64, :, ::4], expected)
    check("memory_attention.masks", masks, masks[:, :, ::32, ::32], expected)
    assert model.memory_attention(features, memory)[1] is None


@torch.inference_mode()
def test_memory_prompt_generator(model: I2VPP, memory: MemoryTokens, expected: dict[str, np.ndarray]) -> None:
    generator = model.memory_prompt_generator
    prompts = generator(memory, torch.Size(GRID))
    check("memory_prompt_generator", prompts, prompts, expected)
    none = generator.without_memory(2)
    check("memory_prompt_generator.no_memory", none, none, expected)


@torch.inference_mode()
def test_prompt_encoder(model: I2VPP, prompt: Prompt, expected: dict[str, np.ndarray]) -> None:
    encoder, grid = model.sam_prompt_encoder, torch.Size(GRID)
    sparse = encoder.sparse(prompt, batch=2, image_size=1024)
    check("prompt_encoder.sparse", sparse, sparse, expected)
    dense = encoder.dense(prompt, grid=grid)
    check("prompt_encoder.dense", dense, dense[:, ::8, ::4, ::4], expected)
    none = encoder.dense(Prompt(), grid=grid).expand(2, -1, -1, -1)
    check("prompt_encoder.dense_no_mask", none, none[:, ::8, ::16, ::16], expected)
    position = encoder.pe_layer.grid(*GRID)
    check("prompt_encoder.dense_pe", position, position[:, ::8, ::4, ::4], expected)


@pytest.mark.parametrize(("name", "multimask"), [("multimask", True), ("single", False)])
@torch.inference_mode()
def test_mask_decoder(
    model: I2VPP, prompt: Prompt, expected: dict[str, np.ndarray], name: str, multimask: bool
) -> None:
    encoder, grid = model.sam_prompt_encoder, torch.Size(GRID)
    prompts = torch.cat(
        [encoder.sparse(prompt, batch=2, image_size=1024), torch.from_numpy(expected["memory_prompt_generator"])], dim=1
    )
    image = normal(13, 2, 256, 64, 64) + encoder.dense(prompt, grid=grid)
    out = model.sam_mask_decoder(image, encoder.pe_layer.grid(*GRID), prompts, multimask=multimask)
    check(f"mask_decoder.{name}.masks", out.logits, out.logits[:, :, ::8, ::8], expected)
    check(f"mask_decoder.{name}.iou", out.ious, out.ious, expected)
    check(f"mask_decoder.{name}.tokens", out.tokens, out.tokens, expected)
    check(f"mask_decoder.{name}.object_score", out.object_score[:, None], out.object_score[:, None], expected)
