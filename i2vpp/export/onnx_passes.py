"""Changes of an ONNX model after PyTorch has written it; none of them changes what it computes, but for rounding."""

from __future__ import annotations

import ast
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from i2vpp.export.graphs import Port

SMALLEST_HALVED = 64
"""Weights of fewer elements stay in float32 in an export with float16 weights."""


def name_nodes(model: Any) -> None:
    """Begin the names of nodes with those of the modules that they come from.

    Args:
        model: an `onnx.ModelProto` as PyTorch writes it, changed in place.
    """
    for node in model.graph.node:
        notes = {note.key: note.value for note in node.metadata_props}
        modules = ast.literal_eval(notes.get("pkg.torch.onnx.name_scopes", "[]"))[:-1]
        node.name = f"{modules[-1] if modules else ''}.{node.name}"


def fold(model: Any) -> Any:
    """Compute what depends on weights alone, and leave out what has no effect, by onnxruntime.

    Args:
        model: an `onnx.ModelProto`.

    Returns:
        The new model, which uses standard operators only.
    """
    import onnx  # noqa: PLC0415 - an extra
    import onnxruntime  # noqa: PLC0415 - an extra

    with tempfile.TemporaryDirectory() as folder:
        path, folded = Path(folder, "graph.onnx"), Path(folder, "folded.onnx")
        onnx.save(model, path)
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(folded)
        options.log_severity_level = 3  # of what it leaves out, nobody needs to know
        onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        model = onnx.load(folded)
    used = {node.domain for node in model.graph.node}
    standard = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(standard)
    return model


def split_at_once(model: Any) -> None:
    """Replace splits into a sequence, whose elements are then taken one by one, by splits with several outputs.

    Args:
        model: a folded `onnx.ModelProto`, changed in place.
    """
    from onnx import helper, numpy_helper  # noqa: PLC0415 - an extra

    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    sequences = {node.output[0]: node for node in model.graph.node if node.op_type == "SplitToSequence"}
    taken: dict[str, dict[int, str]] = {name: {} for name in sequences}
    for node in model.graph.node:
        if node.op_type == "SequenceAt":
            taken[node.input[0]][int(numpy_helper.to_array(constants[node.input[1]]))] = node.output[0]
    nodes = []
    for node in model.graph.node:
        if node.op_type == "SplitToSequence":
            (axis,) = (attribute.i for attribute in node.attribute if attribute.name == "axis")
            parts, sizes = taken[node.output[0]], numpy_helper.to_array(constants[node.input[1]])
            if sizes.ndim == 0:  # the length of every part
                sizes = np.full(1 + max(parts), sizes)
            outputs = [parts.get(i, f"{node.output[0]}_{i}") for i in range(len(sizes))]
            split = numpy_helper.from_array(sizes, f"{node.output[0]}_sizes")
            model.graph.initializer.append(split)
            inputs = [node.input[0], split.name]
            nodes.append(helper.make_node("Split", inputs, outputs, name=node.name, axis=axis))
        elif node.op_type != "SequenceAt":
            nodes.append(node)
    _replace_nodes(model, nodes)


def leave_out_bfloat16(model: Any) -> None:
    """Leave out rounding to bfloat16, which few runtimes can do; whoever keeps memory features rounds them.

    Args:
        model: an `onnx.ModelProto`, changed in place.
    """
    from onnx import TensorProto  # noqa: PLC0415 - an extra

    def to(node: Any) -> int:
        return next((a.i for a in node.attribute if a.name == "to"), 0) if node.op_type == "Cast" else 0

    rounded = {node.output[0]: node.input[0] for node in model.graph.node if to(node) == TensorProto.BFLOAT16}
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = rounded.get(name, name)
    _replace_nodes(model, [node for node in model.graph.node if node.output[0] not in rounded])
    del model.graph.value_info[:]


def name_axes(values: Sequence[Any], ports: Sequence[Port]) -> None:
    """Give the axes of inputs or outputs the lengths and names of their ports.

    Args:
        values: inputs or outputs of an `onnx.GraphProto`, changed in place.
        ports: their descriptions.
    """
    for value, port in zip(values, ports, strict=True):
        for dimension, axis in zip(value.type.tensor_type.shape.dim, port.shape, strict=True):
            dimension.Clear()
            if isinstance(axis, str):
                dimension.dim_param = axis
            else:
                dimension.dim_value = axis


def halve_weights(model: Any) -> None:
    """Store the float32 weights of an ONNX model in float16; they are widened when the model is loaded.

    The steps of what is in 8 bits stay in float32; rounding one would shift all values that it multiplies.

    Args:
        model: an `onnx.ModelProto`, changed in place.
    """
    from onnx import TensorProto, helper, numpy_helper  # noqa: PLC0415 - an extra

    of_8_bits = ("QuantizeLinear", "DequantizeLinear")
    steps = {name for node in model.graph.node if node.op_type in of_8_bits for name in node.input}
    casts = []
    for tensor in model.graph.initializer:
        halved = tensor.data_type == TensorProto.FLOAT and tensor.name not in steps
        values = numpy_helper.to_array(tensor) if halved else np.empty(0)
        if values.size < SMALLEST_HALVED or np.abs(values).max() > np.finfo(np.float16).max:
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}_float16"))
        casts.append(helper.make_node("Cast", [tensor.name], [name], name=f"{name}_widen", to=TensorProto.FLOAT))
    _replace_nodes(model, [*casts, *model.graph.node])


def _replace_nodes(model: Any, nodes: Sequence[Any]) -> None:
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    read = {name for node in copies for name in node.input} | {output.name for output in model.graph.output}
    kept = [
        type(tensor).FromString(tensor.SerializeToString()) for tensor in model.graph.initializer if tensor.name in read
    ]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
