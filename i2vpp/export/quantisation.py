"""8-bit arithmetic for the image encoder and the memory attention of an ONNX export, by onnxruntime's quantiser."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from i2vpp.export.i2vpp_onnx import I2VPPOnnx

CALIBRATION_FRAMES = 12
"""Number of frames that the ranges of activations are taken from."""

PARTS = {"encoder": "", "track": "model.memory_attention."}
"""By graph: beginning of the names of the nodes that compute with 8 bits. What decodes masks and encodes memory, a
small part of the work, stays in float32, and so do the graphs of prompts, which run once."""

NOT_IN_8_BITS = (
    "model.image_encoder.trunk_image.patch_embed.",
    "model.image_encoder.trunk_image.neck.2.",
    "model.image_encoder.trunk_video.input_linears.",
)
"""Beginnings of the names of nodes that stay in float32 all the same. Few channels of the trunk's maps have far larger
values than the others, and small weights; one step of 8 bits for all channels loses the others. They cost next to no
time, and with them in 8 bits the embedding is off by half of its spread."""

OPERATORS = ("Conv", "Gemm", "MatMul")


class _Recorder:
    """A session of onnxruntime that keeps what it is given."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.feeds: list[dict[str, Any]] = []

    def run(self, names: Any, feeds: dict[str, Any]) -> Any:
        """Keep the inputs and run the session.

        Args:
            names: names of the outputs, or None for all.
            feeds: inputs by name.

        Returns:
            The outputs.
        """
        self.feeds.append(feeds)
        return self._session.run(names, feeds)


class _Feeds:
    """What onnxruntime's quantiser reads inputs from."""

    def __init__(self, feeds: Iterable[dict[str, Any]]) -> None:
        self._feeds: Iterator[dict[str, Any]] = iter(feeds)

    def get_next(self) -> dict[str, Any] | None:
        """Return the next inputs, or None after the last ones."""
        return next(self._feeds, None)


def record(folder: Path, frames: Iterable[Any]) -> dict[str, list[dict[str, Any]]]:
    """Track what is in the middle of the first frame, and record what the graphs are given.

    Args:
        folder: an export with float32 weights.
        frames: uint8 RGB frames [H, W, 3].

    Returns:
        The inputs of each run, by graph.
    """
    tracker = I2VPPOnnx(folder)
    recorders = {name: _Recorder(tracker.session(name)) for name in PARTS}
    tracker.sessions.update(recorders)
    for i, frame in enumerate(frames):
        tracker.step(frame)
        if i == 0:
            height, width = frame.shape[:2]
            tracker.add_points_or_box(1, box=[width / 4, height / 4, 3 * width / 4, 3 * height / 4])
    return {name: recorder.feeds for name, recorder in recorders.items()}


def quantise(path: Path, feeds: Sequence[dict[str, Any]], part: str) -> bytes:
    """Quantise a graph: weights by channel, activations by the ranges that given inputs lead to.

    Args:
        path: ONNX file with float32 weights.
        feeds: inputs of some runs.
        part: beginning of the names of the nodes that are quantised, but for `NOT_IN_8_BITS`.

    Returns:
        The content of the new file.
    """
    import onnx  # noqa: PLC0415 - an extra
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static  # noqa: PLC0415 - an extra

    model = onnx.load(path)
    names = (node.name for node in model.graph.node if node.op_type in OPERATORS)
    chosen = [name for name in names if name.startswith(part) and not name.startswith(NOT_IN_8_BITS)]
    with tempfile.TemporaryDirectory() as folder:
        quantised = Path(folder, "quantised.onnx")
        quantize_static(
            path,
            quantised,
            _Feeds(feeds),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(OPERATORS),
            nodes_to_quantize=chosen,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return quantised.read_bytes()


def quantise_folder(folder: Path, frames: Iterable[Any]) -> dict[str, bytes]:
    """Quantise the graphs of an export.

    Args:
        folder: an export with float32 weights.
        frames: two or more frames to take ranges from, uint8 RGB [H, W, 3].

    Returns:
        The content of the new files, by graph.
    """
    feeds = record(folder, frames)
    return {name: quantise(folder / f"{name}.onnx", feeds[name], part) for name, part in PARTS.items()}
