"""From the modules of `graphs` to files: programs of `torch.export`, and ONNX by way of them."""

from __future__ import annotations

import importlib.util
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.export import Dim, ExportedProgram

from i2vpp.errors import ExportError
from i2vpp.export import onnx_passes
from i2vpp.export.choices import OPSETS
from i2vpp.export.graphs import Graph, example
from i2vpp.modeling.attention import Attention
from i2vpp.utils.suggest import how_to_install

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
"""What writing ONNX needs beside PyTorch; the extra `export` brings it."""

EXAMPLE = {"objects": 2, "frames": 3, "pointers": 5, "clicks": 4}
"""Lengths that the graphs are traced with: all different and none of them 1, which PyTorch would treat as fixed."""

TOO_OLD = (2, 6)
"""The newest version of PyTorch of which it is known that it cannot trace the graphs for lengths that vary."""

WRITTEN_WITH = "2.15"
"""A version of PyTorch that traces and converts all graphs."""

LONGEST = 4096
"""Largest length that the program is made for; nothing in an ONNX file depends on it."""


def check_version() -> None:
    """Check that PyTorch is not too old to trace the graphs.

    Raises:
        ExportError: it is.
    """
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version <= TOO_OLD:
        raise ExportError(
            f"PyTorch {torch.__version__} cannot trace the graphs; {WRITTEN_WITH} can, and reads the same checkpoints: "
            "export in an environment of its own"
        )


def check_packages() -> None:
    """Check that the packages which ONNX files are written with are installed.

    Raises:
        ExportError: one is missing.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ExportError(
            f"writing ONNX needs {' and '.join(missing)}, which {'are' if len(missing) > 1 else 'is'} not installed: "
            f"{how_to_install('export')}; --format torch-export does without"
        )


def to_program(graph: Graph, *, fused_attention: bool = True) -> ExportedProgram:
    """Trace a graph with `torch.export`.

    Args:
        graph: the graph, in eval mode.
        fused_attention: leave attention to memory to the fused operation of whatever runs the program.

    Returns:
        The program; the axes that `Port` names may vary in it.

    Raises:
        ExportError: PyTorch cannot do that.
    """
    ports = graph.inputs()
    inputs = example(ports, EXAMPLE)
    with torch.no_grad(), warnings.catch_warnings(), _attention(graph, in_parts=not fused_attention):
        warnings.simplefilter("ignore")
        graph(*inputs)  # fills caches of tables with tensors, which tracing would fill with placeholders
        try:
            return torch.export.export(graph, inputs, dynamic_shapes=_axes(graph), strict=False)
        except Exception as error:  # whatever a version of PyTorch that is not known fails with
            raise ExportError(
                f"PyTorch {torch.__version__} cannot trace the graph {graph.name!r}; {WRITTEN_WITH} can: "
                f"{str(error).strip().partition(chr(10))[0]}"
            ) from error


@contextmanager
def _attention(graph: Graph, *, in_parts: bool) -> Iterator[None]:
    """Set `in_parts` of all attention layers for a while."""
    layers = [layer for layer in graph.modules() if isinstance(layer, Attention)]
    try:
        for layer in layers:
            layer.in_parts = in_parts
        yield
    finally:
        for layer in layers:
            layer.in_parts = False


def _axes(graph: Graph) -> tuple[Any, ...]:
    """Return the axes of each input that may vary, nested as the arguments of `forward` are."""
    lengths = {name: Dim(name, min=1, max=LONGEST) for name in EXAMPLE}
    by_port = [{i: lengths[a] for i, a in enumerate(port.shape) if isinstance(a, str)} for port in graph.inputs()]
    named = len(by_port) - graph.num_variadic
    return (*by_port[:named], *([tuple(by_port[named:])] if graph.num_variadic else []))


def save_program(program: ExportedProgram) -> bytes:
    """Return a program as `torch.export.load` reads it."""
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


def to_onnx(graph: Graph, program: ExportedProgram, *, opset: int) -> Any:
    """Convert a program to ONNX.

    Args:
        graph: the graph that was traced.
        program: the program.
        opset: version of the standard operators; no others are used.

    Returns:
        An `onnx.ModelProto`, its constants folded.

    Raises:
        ExportError: this PyTorch cannot convert the graph, or onnx not to the opset.
    """
    import onnx  # noqa: PLC0415 - an extra

    inputs, outputs = ([port.name for port in ports] for ports in (graph.inputs(), graph.outputs()))
    with torch.no_grad(), warnings.catch_warnings(), _silent():
        warnings.simplefilter("ignore")
        try:
            converted = torch.onnx.export(
                program,
                dynamo=True,
                input_names=inputs,
                output_names=outputs,
                opset_version=OPSETS[0],
                optimize=False,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise ExportError(
                f"PyTorch {torch.__version__} cannot convert the graph {graph.name!r} to ONNX; {WRITTEN_WITH} can"
            ) from error
    assert converted is not None
    model = converted.model_proto
    onnx_passes.name_nodes(model)
    model = onnx_passes.fold(model)
    onnx_passes.split_at_once(model)
    onnx_passes.leave_out_bfloat16(model)
    model = at_opset(model, graph.name, opset)
    onnx_passes.name_axes(model.graph.input, graph.inputs())
    onnx_passes.name_axes(model.graph.output, graph.outputs())
    onnx.checker.check_model(model)
    return model


def at_opset(model: Any, name: str, opset: int) -> Any:
    """Convert a model to another version of the standard operators.

    Args:
        model: an `onnx.ModelProto`.
        name: name of its graph.
        opset: version that is wanted.

    Returns:
        The model, which is a new one if the version differs.

    Raises:
        ExportError: onnx cannot do that.
    """
    from onnx import version_converter  # noqa: PLC0415 - an extra

    if model.opset_import[0].version == opset:
        return model
    try:
        return version_converter.convert_version(model, opset)
    except RuntimeError as error:
        raise ExportError(f"onnx cannot write the graph {name!r} for opset {opset}: {error}") from error


@contextmanager
def _silent() -> Iterator[None]:
    """Keep PyTorch's exporter from logging about what it skips."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir", "torch.onnx")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
