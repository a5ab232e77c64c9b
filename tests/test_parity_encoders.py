"""The image encoder and the memory encoder against the published network's own outputs, and by their definitions."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from i2vpp.modeling.backbones.image_encoder import ImageEncoder
from i2vpp.modeling.backbones.temporal_feature_integrator import TemporalFeatureIntegrator, TemporalNet
from i2vpp.modeling.backbones.tiny_vit import ConvNorm, TinyViT, offset_ids
from i2vpp.modeling.memory_encoder import MemoryEncoder
from i2vpp.modeling.position_encoding import sine_map
from i2vpp.structures import FrameFeatures
from parity.det_weights import fill, normal

# Greatest difference over greatest value. Measured in float32 on a CPU: 2.2e-6 in the worst component; position maps 0.
TOLERANCE = 1e-5
NEVER_READ = (
    "image_encoder.trunk_image.norm_head.",
    "image_encoder.trunk_image.head.",
    "image_encoder.trunk_video.integration2temporal_nets.2.",
)


class Encoders(nn.Module):
    """Both encoders under the names that they have in a checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.image_encoder = ImageEncoder(TinyViT(), TemporalFeatureIntegrator())
        self.memory_encoder = MemoryEncoder()


@pytest.fixture(scope="module")
def encoders() -> Encoders:
    return fill(Encoders())  # type: ignore[return-value]


@pytest.fixture(scope="module")
def expected(parity: Path) -> dict[str, np.ndarray]:
    with np.load(parity / "components.npz") as arrays:
        return {name: arrays[name] for name in arrays.files if name.startswith(("trunk_", "image_", "memory_enc"))}


@pytest.fixture(scope="module")
def image() -> Tensor:
    return normal(1, 1, 3, 1024, 1024)


@pytest.fixture(scope="module")
def maps(encoders: Encoders, image: Tensor) -> tuple[Tensor, ...]:
    with torch.inference_mode():
        return encoders.image_encoder.trunk_image(image)


@pytest.fixture(scope="module")
def features(encoders: Encoders, image: Tensor) -> FrameFeatures:
    with torch.inference_mode():
        return encoders.image_encoder(image, normal(2, 1, 3, 3, 1024, 1024))


def check(expected: dict[str, np.ndarray], name: str, value: Tensor, part: tuple[slice, ...]) -> None:
    """Compare the stored part, and mean, deviation, greatest value and L2 norm of the whole."""
    mean, deviation, greatest, norm = expected[f"{name}.stats"]
    stored = torch.from_numpy(expected[name])
    assert value[part].shape == stored.shape
    assert (value[part] - stored).abs().max().item() <= TOLERANCE * greatest
    whole = value.double()
    assert whole.mean().item() == pytest.approx(mean, abs=TOLERANCE * deviation)
    assert whole.std().item() == pytest.approx(deviation, rel=TOLERANCE)
    assert whole.abs().max().item() == pytest.approx(greatest, rel=TOLERANCE)
    assert whole.norm().item() == pytest.approx(norm, rel=1e-3)  # stored from a float32 sum


@pytest.mark.parametrize("index", range(5))
def test_image_trunk_parity(expected: dict[str, np.ndarray], maps: tuple[Tensor, ...], index: int) -> None:
    step = maps[index].shape[-1] // 16
    check(expected, f"trunk_image.{index}", maps[index], np.s_[:, ::8, ::step, ::step])


def test_image_encoder_parity(expected: dict[str, np.ndarray], features: FrameFeatures) -> None:
    check(expected, "image_encoder.backbone_fpn.0", features.embedding, np.s_[:, ::8, ::4, ::4])
    check(expected, "image_encoder.vision_pos_enc.0", features.position, np.s_[:, ::8, ::4, ::4])


def test_memory_encoder_parity(expected: dict[str, np.ndarray], encoders: Encoders) -> None:
    mask = torch.sigmoid(normal(4, 2, 1, 1024, 1024)) * 20 - 10
    with torch.inference_mode():
        values = encoders.memory_encoder(normal(3, 2, 256, 64, 64), mask)
    check(expected, "memory_encoder.vision_features", values, np.s_[:, ::2, ::4, ::4])
    position = sine_map(64, 64, 64, torch.device("cpu")).expand(2, -1, -1, -1)
    check(expected, "memory_encoder.vision_pos_enc", position, np.s_[:, ::4, ::4, ::4])


def test_state_dict_names_and_shapes(encoders: Encoders, parity: Path) -> None:
    published = json.loads((parity / "state_dict_shapes.json").read_text())
    wanted = {
        name: shape for name, shape in published.items() if name.startswith(("image_encoder.", "memory_encoder."))
    }
    assert {name: list(value.shape) for name, value in encoders.state_dict().items()} == wanted


@pytest.mark.parametrize(("height", "width"), [(64, 64), (256, 256), (64, 112)])
def test_other_sizes(encoders: Encoders, height: int, width: int) -> None:
    rows, columns = height // 16, width // 16
    with torch.inference_mode():
        maps = encoders.image_encoder.trunk_image(normal(1, 2, 3, height, width))
        features = encoders.image_encoder(normal(1, 2, 3, height, width), normal(2, 2, 3, 3, height, width))
        values = encoders.memory_encoder(features.embedding, normal(4, 2, 1, height, width))
    shapes = [(2, 64, 4 * rows, 4 * columns), (2, 128, 2 * rows, 2 * columns)]
    shapes += [(2, channels, rows, columns) for channels in (160, 320, 256)]
    assert [tuple(x.shape) for x in maps] == shapes
    assert features.embedding.shape == (2, 256, rows, columns)
    assert features.position.shape == (1, 256, rows, columns)
    assert values.shape == (2, 64, rows, columns)
    assert all(x.isfinite().all() for x in (*maps, features.embedding, values))


def test_frames_of_a_batch_are_independent(encoders: Encoders) -> None:
    image, clip = normal(1, 2, 3, 64, 64), normal(2, 2, 3, 3, 64, 64)
    with torch.inference_mode():
        both = encoders.image_encoder(image, clip).embedding
        second = encoders.image_encoder(image[1:], clip[1:]).embedding
    torch.testing.assert_close(both[1:], second, atol=1e-4, rtol=0)


def test_image_encoder_names_bad_sizes(encoders: Encoders) -> None:
    with pytest.raises(ValueError, match=r"image: sides must be multiples of 16, got 64x72"):
        encoders.image_encoder(torch.zeros(1, 3, 64, 72), torch.zeros(1, 3, 3, 64, 72))
    with pytest.raises(ValueError, match=r"clip: frames must be 64x64 as the image, got \(1, 3, 3, 32, 64\)"):
        encoders.image_encoder(torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 3, 32, 64))


def test_memory_encoder_shares_one_embedding(encoders: Encoders) -> None:
    embedding, mask = normal(3, 1, 256, 4, 4), normal(4, 3, 1, 64, 64)
    with torch.inference_mode():
        shared = encoders.memory_encoder(embedding, mask)
        repeated = encoders.memory_encoder(embedding.expand(3, -1, -1, -1), mask)
    torch.testing.assert_close(shared, repeated, atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_stays_close(encoders: Encoders, device: torch.device, dtype: torch.dtype) -> None:
    image, clip, mask = (
        x.to(device) for x in (normal(1, 1, 3, 64, 64), normal(2, 1, 3, 3, 64, 64), normal(4, 2, 1, 64, 64))
    )
    model = encoders.to(device)
    try:
        with torch.inference_mode():
            exact = model.image_encoder(image, clip)
            exact_values = model.memory_encoder(exact.embedding, mask)
            with torch.autocast(device.type, dtype=dtype):
                features = model.image_encoder(image, clip)
                values = model.memory_encoder(features.embedding, mask)
    finally:
        encoders.to("cpu")
    assert features.position.dtype == torch.float32
    for rounded, reference in ((features.embedding, exact.embedding), (values, exact_values)):
        assert (rounded.float() - reference).norm() <= 0.05 * reference.norm()


def test_gradients_reach_all_that_is_read() -> None:
    model = fill(Encoders()).train()
    features = model.image_encoder(normal(1, 1, 3, 64, 64), normal(2, 1, 3, 3, 64, 64))
    values = model.memory_encoder(features.embedding, normal(4, 2, 1, 64, 64))
    values.square().sum().backward()
    without = {name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()}
    assert without == {name for name, _ in model.named_parameters() if name.startswith(NEVER_READ)}


def _distances_by_first_appearance(window: int) -> Iterator[int]:
    cells = [(y, x) for y in range(window) for x in range(window)]
    ids: dict[tuple[int, int], int] = {}
    for a in cells:
        for b in cells:
            yield ids.setdefault((abs(a[0] - b[0]), abs(a[1] - b[1])), len(ids))


@pytest.mark.parametrize("window", [1, 3, 7])
def test_offsets_are_numbered_by_first_appearance(window: int) -> None:
    ids = offset_ids(window, torch.device("cpu"))
    assert ids.flatten().tolist() == list(_distances_by_first_appearance(window))


def test_conv_norm_is_convolution_then_normalisation() -> None:
    layer = fill(ConvNorm(8, 16, 3, stride=2, groups=4))
    x = normal(1, 2, 8, 10, 12)
    wanted = layer.bn(F.conv2d(x, layer.c.weight, stride=2, padding=1, groups=4))
    torch.testing.assert_close(layer(x), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("slices", [1, 2, 3, 6])
def test_temporal_net_is_its_definition_and_last_only_agrees(slices: int) -> None:
    net, clip = fill(TemporalNet(8)), normal(2, 2, 8, slices, 5, 6)
    x = clip
    for step in range(3):
        layers = net.temporal_net[step]
        hidden = net.lns[step](x.movedim(1, -1)).movedim(-1, 1)
        hidden = layers[f"c_fc1_{step}"](hidden)
        x = x + layers[f"c_fc2_{step}"](hidden * torch.sigmoid(1.702 * hidden))
        x = x * torch.sigmoid(1.702 * x)
    torch.testing.assert_close(net(clip), x, atol=1e-5, rtol=0)
    torch.testing.assert_close(net(clip, last_only=True)[:, :, -1], x[:, :, -1], atol=1e-5, rtol=0)


def test_fresh_integrator_weights() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        trunk = TemporalFeatureIntegrator()
    convolutions = [module for module in trunk.modules() if isinstance(module, nn.Conv2d | nn.Conv3d)]
    assert all(not module.bias.any() for module in convolutions)
    assert all(module.weight.std().item() == pytest.approx(0.02, rel=0.05) for module in convolutions)
