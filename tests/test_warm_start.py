"""The start of training from an image model, also from one that is there as ONNX files only."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from i2vpp.checkpoint import load_checkpoint
from i2vpp.config import ModelConfig
from i2vpp.modeling.backbones.tiny_vit import ConvNorm, WindowAttention, offset_ids
from i2vpp.modeling.i2vpp import I2VPP
from i2vpp.modeling.layers import LayerNorm2d
from models import SIDE
from training import exported_image_model, warm_start
from training.model.initialise import initialise
from training.model.pass_through import begin_as_image_model

onnx = pytest.importorskip("onnx")

THEIRS = {
    "image_encoder.trunk_image.": "image_encoder.",
    "sam_prompt_encoder.": "prompt_encoder.",
    "sam_mask_decoder.": "mask_decoder.",
}
UNUSED = ("norm_head", "image_encoder.head", "obj_score", "num_batches_tracked")


def image_model(seed: int = 0) -> I2VPP:
    """A network with random weights, normalisations included, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = I2VPP(ModelConfig(image_size=SIDE)).eval()
        initialise(model, seed=seed)
        for module in model.modules():
            if isinstance(module, ConvNorm):
                module.bn.running_mean.normal_(0, 0.1)
                module.bn.running_var.uniform_(0.5, 2)
                torch.nn.init.uniform_(module.bn.weight, 0.5, 1.5)
                torch.nn.init.normal_(module.bn.bias, 0, 0.1)
            elif isinstance(module, WindowAttention):
                torch.nn.init.normal_(module.attention_biases)
        norm = model.image_encoder.trunk_image.neck[-1]
        torch.nn.init.uniform_(norm.weight, 0.05, 0.15)  # features have about this spread in trained image models
        torch.nn.init.normal_(norm.bias, 0, 0.02)
    return model


class Exported:
    """Write an image model as an exporter does: as operators that are named after layers and hold values."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.values: list[Any] = []

    def node(self, kind: str, layer: str, *values: torch.Tensor | tuple[str, torch.Tensor]) -> None:
        names = []
        for value in values:
            name, tensor = value if isinstance(value, tuple) else (f"onnx::{kind}_{len(self.values)}", value)
            self.values.append(onnx.numpy_helper.from_array(tensor.detach().numpy(), name))
            names.append(name)
        path = "/" + "/".join(self._scopes(layer)) + f"/{kind}"
        self.nodes.append(onnx.helper.make_node(kind, ["x", *names], [f"y{len(self.nodes)}"], name=path))

    def constant(self, layer: str, value: torch.Tensor) -> None:
        """A value that is the output of an operator of its own, added in the layer."""
        name = f"{layer}.constant"
        tensor = onnx.numpy_helper.from_array(value.detach().numpy(), name)
        self.nodes.append(onnx.helper.make_node("Constant", [], [name], name=f"/{layer}/Constant", value=tensor))
        path = "/" + "/".join(self._scopes(layer)) + "/Add"
        self.nodes.append(onnx.helper.make_node("Add", ["x", name], [f"y{len(self.nodes)}"], name=path))

    def _scopes(self, layer: str) -> list[str]:
        """`neck.1` -> `neck`, `neck.1`: an index repeats the name of its container."""
        scopes: list[str] = []
        for part in layer.split("."):
            if not part.isdigit():
                scopes.append(part)
            elif scopes[-1] in ("layers", "blocks", "output_hypernetworks_mlps"):
                scopes[-1] += f".{part}"
            else:
                scopes.append(f"{scopes[-1]}.{part}")
        return scopes

    def write(self, path: Path) -> Path:
        graph = onnx.helper.make_graph(self.nodes, "exported", [], [], self.values)
        onnx.save(onnx.helper.make_model(graph), path)
        return path


def export(model: I2VPP, folder: Path) -> tuple[Path, Path]:
    """Write trunk, prompt encoder and mask decoder of a network as the two ONNX files of an exported image model."""
    encoder, decoder = Exported(), Exported()
    for name, module in model.named_modules():
        theirs = next((to + name.removeprefix(ours) for ours, to in THEIRS.items() if name.startswith(ours)), "")
        if not theirs or any(word in theirs for word in UNUSED):
            continue
        part, layer = theirs.split(".", 1)
        graph = encoder if part == "image_encoder" else decoder
        own = layer if part == "image_encoder" else theirs  # of values that keep their names
        layer = layer.replace(".mlp.layers.0", ".mlp.lin1").replace(".mlp.layers.1", ".mlp.lin2")
        own = own.replace(".mlp.layers.0", ".mlp.lin1").replace(".mlp.layers.1", ".mlp.lin2")
        if own.startswith("prompt_encoder."):
            own = f"model.{own}"
        if isinstance(module, ConvNorm):
            bn = module.bn
            scale = bn.weight / (bn.running_var + bn.eps).sqrt()
            kernel = module.c.weight * scale[:, None, None, None]
            graph.node("Conv", f"{layer}.c", kernel, bn.bias - bn.running_mean * scale)
        elif isinstance(module, WindowAttention):
            graph.constant(layer, module.attention_biases[:, offset_ids(module.window, torch.device("cpu"))])
        elif isinstance(module, LayerNorm2d):
            graph.node("Mul", layer, module.weight[:, None, None])
            graph.node("Add", layer, module.bias[:, None, None])
        elif isinstance(module, torch.nn.Linear) and "hypernetworks" not in layer and "iou_prediction" not in layer:
            graph.node("MatMul", layer, module.weight.T)
            graph.node("Add", layer, (f"{own}.bias", module.bias))
        elif (isinstance(module, torch.nn.Conv2d) and ".bn" not in layer and not layer.endswith(".c")) or isinstance(
            module, torch.nn.Linear | torch.nn.ConvTranspose2d | torch.nn.LayerNorm
        ):
            values = [(f"{own}.{key}", value) for key, value in module.named_parameters()]
            graph.node("Conv", layer, *values)
        elif isinstance(module, torch.nn.Embedding) and layer not in ("iou_token", "mask_tokens", "no_mask_embed"):
            graph.node("Mul", layer, (f"{own}.weight", module.weight))
    prompts, mask_decoder = model.sam_prompt_encoder, model.sam_mask_decoder
    gaussian = "positional_encoding_gaussian_matrix"
    matrix = getattr(prompts.pe_layer, gaussian)
    decoder.node("MatMul", "pe_layer", (f"model.prompt_encoder.pe_layer.{gaussian}", matrix))
    decoder.node("Mul", "Mul_9", prompts.no_mask_embed.weight[:, :, None, None])
    decoder.node("Expand", "Expand", torch.cat([mask_decoder.iou_token.weight, mask_decoder.mask_tokens.weight])[None])
    return encoder.write(folder / "encoder.onnx"), decoder.write(folder / "decoder.onnx")


@torch.no_grad()
def test_exported_image_model_computes_the_same(tmp_path) -> None:
    theirs = image_model()
    encoder, decoder = export(theirs, tmp_path)
    out = tmp_path / "mobile_sam.pt"
    assert exported_image_model.main(["--encoder", str(encoder), "--decoder", str(decoder), "-o", str(out)]) == 0
    ours = I2VPP(ModelConfig(image_size=SIDE)).eval()
    warm_start.import_image_model(ours, out)
    x = torch.randn(1, 3, SIDE, SIDE)
    for a, b in zip(theirs.image_encoder.trunk_image(x), ours.image_encoder.trunk_image(x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    state = theirs.state_dict()
    for name, value in ours.state_dict().items():
        if name.startswith(("sam_prompt_encoder.", "sam_mask_decoder.")) and "obj_score" not in name:
            assert torch.equal(value, state[name]), name


@torch.no_grad()
def test_first_features_are_those_of_the_image_model() -> None:
    model = image_model()
    begin_as_image_model(model)
    clip = torch.randn(2, 3, 3, SIDE, SIDE)
    features = model.image_encoder.trunk_image(clip[:, :, -1])[-1]
    embedding = model.encode(clip).embedding + model.no_mem_embed.view(1, -1, 1, 1)
    assert (embedding - features).abs().max() < 0.05 * features.abs().max()


def test_all_of_the_integrator_learns_after_a_step() -> None:
    model = image_model()
    begin_as_image_model(model)
    clip = torch.randn(1, 3, 3, SIDE, SIDE)
    learner = torch.optim.SGD(model.image_encoder.trunk_video.parameters(), lr=0.1)
    for _ in range(3):
        learner.zero_grad()
        model.encode(clip).embedding.square().mean().backward()
        learner.step()
    silent = [
        name
        for name, parameter in model.image_encoder.trunk_video.named_parameters()
        if not name.startswith("integration2temporal_nets.2.")  # which the forward pass never reads
        and (parameter.grad is None or not parameter.grad.any())
    ]
    assert silent == []


def test_warm_start_writes_a_checkpoint_to_train_from(tmp_path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for k in range(2):
        Image.fromarray(rng.integers(0, 255, (40, 60, 3), np.uint8)).save(photos / f"{k}.png")
    encoder, decoder = export(image_model(), tmp_path)
    image_weights, out = tmp_path / "mobile_sam.pt", tmp_path / "start.pt"
    torch.save(exported_image_model.rebuild(encoder, decoder), image_weights)
    command = [str(image_weights), "--images", str(photos), "--image-size", str(SIDE), "-o", str(out)]
    assert warm_start.main(command) == 0
    model = I2VPP(ModelConfig(image_size=SIDE))
    assert load_checkpoint(model, out).image_size == SIDE
    first = {name: value.clone() for name, value in model.state_dict().items()}
    assert warm_start.main(command) == 0
    load_checkpoint(model, out)
    assert all(torch.equal(value, first[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("missing", "encoder.onnx is not a file; docs/training.md"),
        ("text", "not an ONNX file, or damaged"),
        ("swapped", "are not TinySAM or MobileSAM: what they hold does not fit"),
    ],
)
def test_files_that_are_no_exported_image_model(damage, message, tmp_path, capsys) -> None:
    encoder, decoder = export(image_model(), tmp_path)
    if damage == "missing":
        encoder.unlink()
    elif damage == "text":
        encoder.write_text("an error page")
    else:
        decoder = encoder
    with pytest.raises(SystemExit) as exit_:
        exported_image_model.main(["--encoder", str(encoder), "--decoder", str(decoder), "-o", str(tmp_path / "o.pt")])
    assert exit_.value.code == 1
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "o.pt").exists()


def test_no_images(tmp_path, capsys) -> None:
    with pytest.raises(SystemExit):
        warm_start.main([str(tmp_path / "mobile_sam.pt"), "--images", str(tmp_path), "-o", str(tmp_path / "o.pt")])
    assert "give a folder of image files" in capsys.readouterr().err
