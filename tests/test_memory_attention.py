"""Cross-attention to memory in its four ways: fused, in tiles, in parts, and over pooled tokens."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from i2vpp.config import ModelConfig
from i2vpp.errors import ConfigError
from i2vpp.modeling import inference as inference_module
from i2vpp.modeling.attention import Attention
from i2vpp.modeling.inference import MAX_LOGIT, attend_in_parts, attend_in_tiles
from i2vpp.modeling.memory_attention import MemoryAttention, pool_tokens
from i2vpp.modeling.memory_prompt_generator import MemoryPromptGenerator
from i2vpp.modeling.position_encoding import rotary_table, rotate, sine_map
from i2vpp.structures import FrameFeatures, MemoryTokens

GRID = torch.Size((4, 6))
CELLS = 24


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def memory(*, batch: int = 2, groups: int = 3, weights: bool = False) -> MemoryTokens:
    tokens = groups * CELLS + 8
    return MemoryTokens(
        values=draw(batch, tokens, 64),
        position=draw(1, tokens, 64).expand(batch, -1, -1),
        foreground=torch.arange(tokens).expand(batch, -1) % 3 != 0,
        num_pointer_tokens=8,
        log_weights=torch.randint(1, 4, (batch, tokens)).float().log() if weights else None,
    )


def without_positions(values: Tensor) -> MemoryTokens:
    """Memory tokens [B, N, 64], the last 8 of pointers, all of them of the object."""
    everywhere = torch.ones(values.shape[:2], dtype=torch.bool)
    return MemoryTokens(values=values, position=torch.zeros_like(values), foreground=everywhere, num_pointer_tokens=8)


def exact(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Attention in float64, in its textbook form."""
    logits = q.double() @ k.double().T / q.shape[-1] ** 0.5
    if bias is not None:
        logits = logits + bias.double()
    return logits.softmax(-1) @ v.double()


# ---- in tiles


@pytest.mark.parametrize("tile", [(2048, 2**22), (7, 7 * 5 * 4), (7, 1)], ids=["one", "some", "key by key"])
@pytest.mark.parametrize("with_bias", [False, True])
def test_tiles_give_what_attention_is(monkeypatch, tile, with_bias):
    monkeypatch.setattr(inference_module, "TILE_QUERIES", tile[0])
    monkeypatch.setattr(inference_module, "TILE_BYTES", tile[1])
    q, k, v = draw(40, 16), draw(33, 16) + 3, draw(33, 9)
    bias = None
    if with_bias:
        bias = torch.randint(1, 5, (33,)).float().log()
        bias[4] = float("-inf")  # a key that only fills up
    found = attend_in_tiles(q, k, v, bias)
    assert found is not None
    torch.testing.assert_close(found.double(), exact(q, k, v, bias), atol=2e-6, rtol=1e-5)


def test_tiles_in_bfloat16_stay_within_its_precision():
    q, k, v = (x.bfloat16() for x in (2 * draw(64, 128), draw(2048, 128), draw(2048, 128)))
    truth = exact(q, k, v)
    found = attend_in_tiles(q, k, v)
    assert found is not None
    assert found.dtype == torch.bfloat16
    assert (found.double() - truth).norm() < 0.012 * truth.norm()  # 8 bits: 0.004


def test_large_logits_are_left_to_fused_attention():
    q, k = draw(8, 16), draw(9, 16)
    largest = q.norm(dim=-1).max() * (k - k.mean(0)).norm(dim=-1).max() / 4 * math.log2(math.e)
    for factor, fits in ((0.99, True), (1.01, False)):
        found = attend_in_tiles(q * factor * MAX_LOGIT / largest, k, k)
        assert (found is not None) == fits
    far = exact(q * 0.99 * MAX_LOGIT / largest, k, k)
    torch.testing.assert_close(
        attend_in_tiles(q * 0.99 * MAX_LOGIT / largest, k, k).double(), far, atol=1e-4, rtol=1e-3
    )


@pytest.mark.parametrize("biases", [1, 2])
@pytest.mark.parametrize("scale", [1.0, 1000.0])  # the second one is too large for tiles, but where values are zero
def test_the_layer_is_the_same_in_tiles_and_fused(monkeypatch, scale, biases):
    layer = Attention(32, heads=1, inner_width=16, kv_width=8).eval()
    with torch.no_grad():
        layer.q_proj.weight.mul_(scale)
        layer.k_proj.bias.zero_()
    q, k = draw(1, 48, 32), draw(2, 32, 8) * torch.tensor([1.0, 0.0])[:, None, None]
    kwargs = {
        "q_rotary": rotary_table(16, 6, 8, q.device),
        "k_rotary": rotary_table(16, 4, 6, q.device),
        "k_unturned": 8,
    }
    bias = draw(biases, 1, 1, 32)
    used = []

    def spy(*args):
        used.append(attend_in_tiles(*args))
        return used[-1]

    monkeypatch.setattr(inference_module, "attend_in_tiles", spy)
    with torch.no_grad():
        fused = layer(q, k, k, bias=bias, **kwargs)
        assert used == [], "few queries"
        monkeypatch.setattr(inference_module, "MANY_QUERIES", dict.fromkeys(inference_module.MANY_QUERIES, 1))
        tiles = layer(q, k, k, bias=bias, **kwargs)
    assert [means is not None for means in used] == [scale == 1, True], "one object after the other"
    torch.testing.assert_close(tiles, fused, atol=2e-5, rtol=1e-4)
    layer(q, k, k, bias=bias, **kwargs).sum().backward()
    assert len(used) == 2, "gradients need fused attention"


def test_float16_whose_exponentials_would_overflow_is_left_to_fused_attention(monkeypatch):
    monkeypatch.setattr(inference_module, "MANY_QUERIES", dict.fromkeys(inference_module.MANY_QUERIES, 1))
    layer = Attention(32, heads=1, inner_width=16, kv_width=8).eval()
    q, k = draw(1, 48, 32), draw(1, 32, 8)
    with torch.no_grad():
        largest = (layer.q_proj(q) @ layer.k_proj(k).transpose(1, 2) / 4).max()
        for parameter in layer.q_proj.parameters():
            parameter.mul_(25 / largest)  # below MAX_LOGIT, but e^25 is no float16
        wanted = layer(q, k, k)
        found = layer.half()(q.half(), k.half(), k.half())
    assert found.isfinite().all()
    torch.testing.assert_close(found.float(), wanted, atol=0.05, rtol=0.05)


# ---- in parts, for exports


@pytest.mark.parametrize("queries", [7, 10, 1024], ids=["uneven", "even", "one part"])
@pytest.mark.parametrize("with_bias", [False, True])
def test_parts_give_what_attention_is(monkeypatch, queries, with_bias):
    monkeypatch.setattr(inference_module, "PART_QUERIES", queries)
    q, k, v = draw(2, 1, 40, 16), draw(2, 1, 33, 16) + 3, draw(2, 1, 33, 9)
    bias = None
    if with_bias:
        bias = torch.randint(1, 5, (2, 1, 1, 33)).float().log()
        bias[:, :, :, 4] = float("-inf")  # a key that only fills up
    found = attend_in_parts(q, k, v, bias)
    expected = [exact(q[i, 0], k[i, 0], v[i, 0], None if bias is None else bias[i, 0, 0]) for i in range(2)]
    torch.testing.assert_close(found[:, 0].double(), torch.stack(expected), atol=2e-6, rtol=1e-5)


def test_a_layer_in_parts_gives_what_it_gives_fused():
    layer = Attention(32, heads=1, inner_width=16, kv_width=64).eval()
    q, tokens, bias = draw(2, 24, 32), draw(2, 40, 64), draw(2, 1, 1, 40)
    table = rotary_table(16, 4, 6, q.device)
    rotary = {"q_rotary": table, "k_rotary": table, "k_unturned": 16}
    fused = layer(q, tokens, tokens, bias=bias, **rotary)
    layer.in_parts = True
    torch.testing.assert_close(layer(q, tokens, tokens, bias=bias, **rotary), fused, atol=1e-5, rtol=1e-4)


# ---- memory prompts


@pytest.mark.parametrize("weights", [False, True])
def test_memory_prompts_are_a_masked_cross_attention(weights):
    """The projections moved to the queries' side give what the layer gives in its plain form."""
    generator = MemoryPromptGenerator().eval()
    tokens = memory(weights=weights)
    x = generator.norm_fg_ca(generator.query_embedding_fg.weight[None])
    bias = tokens.foreground if not weights else tokens.log_weights.masked_fill(~tokens.foreground, float("-inf"))
    keys = tokens.values + tokens.position
    with torch.no_grad():
        plain = generator.cross_attn(
            x.expand(2, -1, -1),
            keys,
            tokens.values,
            bias=bias[:, None, None, :],
            q_rotary=rotary_table(256, 1, 3, x.device),
            k_rotary=rotary_table(256, *GRID, x.device),
            k_unturned=8,
        )
        gathered = generator._gather(x, tokens, GRID)
    torch.testing.assert_close(gathered, plain, atol=2e-5, rtol=1e-4)
    assert (plain[0] - plain[1]).abs().max() > 0.01, "objects differ"


def test_memory_prompts_of_an_object_that_was_never_seen_are_numbers():
    """Without pointers, the mask leaves nothing to attend to: what is gathered is zero, for this object only."""
    generator = MemoryPromptGenerator()
    foreground = torch.ones(2, CELLS, dtype=torch.bool)
    foreground[0] = False
    values = draw(2, CELLS, 64).requires_grad_()
    tokens = MemoryTokens(values=values, position=draw(2, CELLS, 64), foreground=foreground, num_pointer_tokens=0)
    prompts = generator(tokens, GRID)
    assert prompts.isfinite().all()
    assert (prompts[0] - prompts[1]).abs().max() > 0.01
    prompts.sum().backward()
    assert values.grad[0].abs().max() == 0
    assert values.grad[1].isfinite().all()
    assert values.grad[1].abs().max() > 0


# ---- rotation


def test_rotation_is_the_same_under_the_compiler(monkeypatch):
    x, table = draw(2, 24, 16), rotary_table(16, 4, 6, torch.device("cpu"))
    eager = rotate(x, table)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(rotate(x, table), eager)
    torch.testing.assert_close(eager.norm(dim=-1), x.norm(dim=-1))


def test_coarse_cells_lie_at_their_centres():
    fine, coarse = (rotary_table(8, *size, torch.device("cpu"), stride) for size, stride in (((4, 6), 1), ((2, 3), 2)))
    angle = torch.atan2(*fine.flip(-1).unbind(-1)).view(4, 6, 4)
    centre = angle.unflatten(0, (2, 2)).unflatten(2, (3, 2)).mean((1, 3)).flatten(0, 1)
    torch.testing.assert_close(coarse[..., 0], centre.cos())
    torch.testing.assert_close(coarse[..., 1], centre.sin())


# ---- pooled tokens


@pytest.mark.parametrize("weights", [False, True])
def test_pooling_means_squares_and_keeps_their_weight(weights):
    tokens = memory(weights=weights)
    pooled = pool_tokens(tokens, GRID, 2)
    assert pooled.values.shape == (2, 3 * 6 + 8, 64)
    square = [0, 1, 6, 7]  # the first one of the first frame
    torch.testing.assert_close(pooled.values[:, 0], tokens.values[:, square].mean(1))
    torch.testing.assert_close(pooled.position[:, 0], tokens.position[:, square].mean(1))
    last = [2 * CELLS + cell for cell in (16, 17, 22, 23)]  # the last one of the last frame
    torch.testing.assert_close(pooled.values[:, 17], tokens.values[:, last].mean(1))
    torch.testing.assert_close(pooled.values[:, 18:], tokens.values[:, -8:])
    before = torch.ones(2, 80) if tokens.log_weights is None else tokens.log_weights.exp()
    torch.testing.assert_close(pooled.log_weights.exp()[:, 0], before[:, square].sum(1))
    torch.testing.assert_close(pooled.log_weights.exp().sum(1), before.sum(1))
    assert pool_tokens(tokens, GRID, 1) is tokens


def test_pooling_changes_nothing_where_squares_are_even():
    """All cells of a square alike, and positions left out: the mean of a square says all that its cells say."""
    cells = draw(1, 3, 2, 3, 64).repeat_interleave(2, 2).repeat_interleave(2, 3).flatten(1, 3)
    values = torch.cat([cells, draw(1, 8, 64)], dim=1)
    tokens = without_positions(values)
    layer = MemoryAttention(num_layers=1).eval().layers[0].cross_attn_image
    x, bias = draw(1, CELLS, 256), pool_tokens(tokens, GRID, 2).log_weights
    with torch.no_grad():
        full = layer(x, tokens.values, tokens.values)
        pooled = layer(x, *[pool_tokens(tokens, GRID, 2).values] * 2, bias=bias[:, None, None])
    torch.testing.assert_close(pooled, full, atol=1e-5, rtol=1e-4)


def test_pooled_attention_is_near_the_full_one_on_smooth_memory():
    smooth = F.interpolate(draw(6, 64, 2, 3), scale_factor=2, mode="bilinear").flatten(2).transpose(1, 2)
    spatial = smooth.unflatten(0, (2, 3)).flatten(1, 2)
    values = torch.cat([spatial, draw(2, 8, 64)], dim=1)
    tokens = without_positions(values)
    features = FrameFeatures(embedding=draw(1, 256, *GRID), position=sine_map(256, *GRID, torch.device("cpu")))
    network = MemoryAttention(num_layers=2).eval()
    found = {}
    with torch.no_grad():
        for side in (1, 2):
            network.pooling = side
            found[side] = network(features, tokens)[0]
    assert found[2].shape == found[1].shape
    error = (found[2] - found[1]).norm() / (found[1] - found[1].mean(1, keepdim=True)).norm()
    assert 0 < error < 0.05


def test_pooling_must_fit_the_grid():
    assert ModelConfig(image_size=64, memory_pooling=2).memory_pooling == 2
    with pytest.raises(
        ConfigError, match=r"memory_pooling must be an integer .* divides model.image_size / 16 = 5; got 2"
    ):
        ModelConfig(image_size=80, memory_pooling=2)
    for wrong in (0, 1.5, True):
        with pytest.raises(ConfigError, match="memory_pooling"):
            ModelConfig(memory_pooling=wrong)
