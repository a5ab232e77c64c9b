"""Rebuild the weights of MobileSAM or TinySAM from its image encoder and mask decoder exported to ONNX.

    python -m training.exported_image_model --encoder encoder.onnx --decoder decoder.onnx -o mobile_sam.pt

Exporters fold batch normalisation into the convolution before it, transpose the matrices of linear layers and expand
attention biases. Each operator's name says which layer it was: what it holds gets that layer's name and shape again,
and a folded normalisation becomes one that only adds. The file is laid out as `mobile_sam.pt`, for
`start.image_model`. Needs the package onnx.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from i2vpp.checkpoint import import_image_model
from i2vpp.errors import CheckpointError, I2VPPError, NoDataError
from i2vpp.modeling.i2vpp import I2VPP
from i2vpp.utils.files import atomic_write
from i2vpp.utils.parser import Parser
from training.utils.disk import writing

BATCH_NORM_EPS = 1e-5
_ENCODER, _PROMPTS, _DECODER = "image_encoder.", "prompt_encoder.", "mask_decoder."
_PROMPT_LAYERS = ("pe_layer", "point_embeddings", "not_a_point_embed", "mask_downscaling")
_WHOLE = (".weight", ".bias", "_matrix")  # ends of names of values that exporters keep under their own name


def rebuild(encoder: Path, decoder: Path) -> dict[str, Tensor]:
    """Read the weights out of two ONNX files.

    Args:
        encoder: the image encoder, a TinyViT-5M, with names of operators as PyTorch's exporter gives them.
        decoder: prompt encoder and mask decoder as SAM's export script writes them, opset 17 or later.

    Returns:
        Entries under the names of `mobile_sam.pt`, float32, but for those that an exporter leaves out because no
        result depends on them.

    Raises:
        NoDataError: a file or the package onnx is missing.
        CheckpointError: a file is not such a graph.
    """
    state = _layers(_operators(encoder), _encoder_name)
    heads = _operators(decoder)
    state |= _layers(heads, _head_name) | _lone_embeddings(heads)
    return state


def _operators(path: Path) -> list[tuple[str, str, list[tuple[str, Tensor]]]]:
    """Name, kind and stored values (with their names) of each operator that has any, in the order of the graph."""
    if not path.is_file():
        raise NoDataError(f"{path} is not a file; docs/training.md says where exported image models come from")
    try:
        import onnx  # noqa: PLC0415 - needed by this command alone
        from onnx import numpy_helper  # noqa: PLC0415
    except ImportError as error:
        raise NoDataError("reading ONNX files needs the package onnx: pip install onnx") from error
    try:
        graph = onnx.load(path).graph
    except Exception as error:  # protobuf's own error classes
        raise CheckpointError(f"{path} is not an ONNX file, or damaged: {error}") from error

    def tensor(value: Any) -> Tensor:
        return torch.from_numpy(numpy_helper.to_array(value).copy())

    stored = {value.name: tensor(value) for value in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].HasField("t"):
            stored[node.output[0]] = tensor(node.attribute[0].t)
    found = [
        (node.name, node.op_type, [(name, stored[name]) for name in node.input if name in stored])
        for node in graph.node
    ]
    return [(name, kind, values) for name, kind, values in found if values]


def _layers(
    operators: Sequence[tuple[str, str, list[tuple[str, Tensor]]]], own_name: Callable[[str], str]
) -> dict[str, Tensor]:
    """The entries of all layers whose operators hold values.

    Args:
        operators: see `_operators`.
        own_name: turns a layer's path in the graph, or a value's name, into the layer's name in the checkpoint.
    """
    state: dict[str, Tensor] = {}
    for path, kind, values in operators:
        layer = own_name(_module_path(path))
        for name, value in values:
            if name.endswith(_WHOLE):
                state[own_name(name)] = value
            elif kind == "Conv":
                state |= _conv_norm(layer.removesuffix(".c"), value)
            elif kind == "MatMul" and value.ndim == 2 and name.startswith("onnx::"):
                state[f"{layer}.weight"] = value.T.contiguous()
            elif kind == "Add" and layer.endswith(".attn"):
                state[f"{layer}.attention_biases"] = _per_distance(value)
            elif kind in ("Mul", "Add") and value.ndim == 3 and name.startswith("onnx::"):
                state[layer + (".weight" if kind == "Mul" else ".bias")] = value.flatten()
    return state


def _module_path(operator: str) -> str:
    """`/neck/neck.1/Mul` -> `neck.1`: the operator is dropped, and a container that its child's name repeats."""
    parts: list[str] = []
    for part in operator.strip("/").split("/")[:-1]:
        if parts and part.startswith(parts[-1] + "."):
            parts.pop()
        parts.append(part)
    return ".".join(parts)


def _encoder_name(name: str) -> str:
    return _ENCODER + name


def _head_name(name: str) -> str:
    name = name.removeprefix("model.")
    if name.startswith((_PROMPTS, _DECODER)):
        return name
    return (_PROMPTS if name.startswith(_PROMPT_LAYERS) else _DECODER) + name


def _conv_norm(layer: str, value: Tensor) -> dict[str, Tensor]:
    """A folded convolution (its kernel or its bias) as a convolution without bias and a normalisation that adds it."""
    if value.ndim == 4:
        return {f"{layer}.c.weight": value}
    return {
        f"{layer}.bn.weight": torch.full_like(value, math.sqrt(1 + BATCH_NORM_EPS)),
        f"{layer}.bn.bias": value,
        f"{layer}.bn.running_mean": torch.zeros_like(value),
        f"{layer}.bn.running_var": torch.ones_like(value),
        f"{layer}.bn.num_batches_tracked": torch.tensor(0),
    }


def _per_distance(biases: Tensor) -> Tensor:
    """Biases [heads, cells, cells] of all pairs as [heads, distances], which the first cell has once each, in order."""
    return biases[:, 0].clone()


def _lone_embeddings(operators: Sequence[tuple[str, str, list[tuple[str, Tensor]]]]) -> dict[str, Tensor]:
    """The embeddings that belong to no layer: IoU token and mask tokens as one value, and that of a missing mask."""
    state = {}
    for _, kind, values in operators:
        for _, value in values:
            if kind == "Expand" and value.ndim == 3 and value.shape[1] > 1:
                state[f"{_DECODER}iou_token.weight"] = value[0, :1]
                state[f"{_DECODER}mask_tokens.weight"] = value[0, 1:]
            elif kind == "Mul" and value.ndim == 4:
                state[f"{_PROMPTS}no_mask_embed.weight"] = value.flatten(1)
    return state


def _check(path: Path, exported: Sequence[Path]) -> None:
    """Refuse a file that lacks an entry of the image model or has another's."""
    try:
        import_image_model(I2VPP(), path)
    except CheckpointError as error:
        found = str(error).replace(str(path), "what they hold")
        raise CheckpointError(f"{' and '.join(map(str, exported))} are not TinySAM or MobileSAM: {found}") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = Parser(prog="python -m training.exported_image_model", description=__doc__,
                    formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--encoder", type=Path, required=True, help="the image encoder, ONNX")
    parser.add_argument("--decoder", type=Path, required=True, help="prompt encoder and mask decoder, ONNX")
    parser.add_argument("-o", "--output", "--out", dest="out", type=Path, required=True, help="file to write")
    options = parser.parse_args(arguments)
    try:
        state = rebuild(options.encoder, options.decoder)
        with writing(options.out, "Make room, or write to another disk"), atomic_write(options.out) as file:
            torch.save(state, file)
            file.flush()
            _check(Path(file.name), (options.encoder, options.decoder))
    except I2VPPError as error:
        parser.exit(1, f"error: {error}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
