"""What tests of the export share: a small network, its graphs run by PyTorch in place of onnxruntime, a session."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from torch.export import ExportedProgram

from i2vpp.build_i2vpp import build_i2vpp_video_predictor
from i2vpp.cli import main
from i2vpp.export import manifest, writer
from i2vpp.export.choices import FORMATS
from i2vpp.export.graphs import GRAPHS, Graph
from i2vpp.export.i2vpp_onnx import I2VPPOnnx
from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
from i2vpp.modeling import inference
from i2vpp.session.video import open_source

REPO = Path(__file__).resolve().parent.parent
CLIP = REPO / "i2vpp" / "assets" / "bunny.mp4"
SIDE = 64
PIXELS = 3
"""Masks may differ by so many pixels, or have an IoU of at least IOU."""
IOU = 0.999


@lru_cache(maxsize=2)
def demo_predictor(*overrides: str, side: int = SIDE) -> I2VPPVideoPredictor:
    """The demonstration's network in float32, at a small image size."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it was trained at another size
        return build_i2vpp_video_predictor(
            None,
            REPO / "checkpoints" / "i2vpp-demo.pt",
            "cpu",
            hydra_overrides_extra=[f"model.image_size={side}", *overrides],
            dtype="float32",
        )


def export_demo(factory: pytest.TempPathFactory, side: int = SIDE, file_format: str = "onnx") -> Path:
    """Export the demonstration's weights, once for all tests and test workers, and return the folder.

    That takes minutes, so all formats are written from graphs that are traced once. The environment variable
    I2VPP_EXPORTED_64 or I2VPP_EXPORTED_256 may name a folder of an earlier ONNX export of that size, which is returned
    in its place.
    """
    named = os.environ.get(f"I2VPP_EXPORTED_{side}")
    if named and file_format == "onnx":
        return Path(named)
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # of the whole run; each worker has a folder in it
    folder = root / f"export-{side}"
    with FileLock(f"{folder}.lock"):
        if not all((folder / name / manifest.NAME).is_file() for name in formats_at(side)):
            _export_all_formats(folder, side)
    return folder / file_format


def formats_at(side: int) -> Sequence[str]:
    """The formats that are exported for tests."""
    return FORMATS if side == SIDE else ("onnx",)


def _export_all_formats(folder: Path, side: int) -> None:
    programs: dict[str, ExportedProgram] = {}
    to_program = writer.to_program

    def trace_once(graph: Graph, *, fused_attention: bool) -> ExportedProgram:
        if graph.name not in programs:
            programs[graph.name] = to_program(graph, fused_attention=fused_attention)
        return programs[graph.name]

    checkpoint = REPO / "checkpoints" / "i2vpp-demo.pt"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "to_program", trace_once)
        patch.setattr(inference, "PART_QUERIES", (side // 16) ** 2 // 2 - 1)  # three parts
        for name in formats_at(side):
            options = ["-o", str(folder / name), "--image-size", str(side), "--format", name]
            assert main(["export", str(checkpoint), *options]) == 0


class TorchSession:
    """Stands for a session of onnxruntime; the graph is run by PyTorch."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.names = [port.name for port in graph.inputs()]

    def run(self, _names: None, feeds: dict[str, Any]) -> list[Any]:
        assert set(feeds) == set(self.names)
        assert all(feed.dtype == np.float32 for feed in feeds.values()), "all inputs are float32"
        with torch.no_grad():
            outputs = self.graph(*(torch.from_numpy(np.ascontiguousarray(feeds[name])) for name in self.names))
        return [x.numpy() for x in (outputs if isinstance(outputs, tuple) else (outputs,))]


def write_manifest(folder: Path, predictor: I2VPPVideoPredictor) -> list[Graph]:
    """Write `i2vpp.json` with empty files for the graphs, which are returned."""
    graphs = [kind(predictor.model).eval() for kind in GRAPHS]
    files = {graph.name: f"{graph.name}.onnx" for graph in graphs}
    for name in files.values():
        (folder / name).touch()
    written = {"file_format": "onnx", "precision": "fp32"}
    described = manifest.describe(predictor.model.config, graphs, files, checkpoint={}, written=written)
    (folder / manifest.NAME).write_text(json.dumps(described))
    return graphs


def torch_tracker(folder: Path, predictor: I2VPPVideoPredictor) -> I2VPPOnnx:
    """The tracker of an export with graphs run by PyTorch."""
    graphs = write_manifest(folder, predictor)
    tracker = I2VPPOnnx(folder)
    tracker.sessions = {graph.name: TorchSession(graph) for graph in graphs}
    return tracker


def clip_frames(count: int) -> list[Any]:
    """The first frames of the bundled clip."""
    with closing(open_source(CLIP)) as source:
        return [np.ascontiguousarray(source[i]) for i in range(count)]


Step = tuple[int, str, tuple[Any, ...], dict[str, Any]]
"""Frame, method of both trackers, positional and named arguments."""


def session(frames: Sequence[Any], trackers: Sequence[Any], steps: Sequence[Step]) -> Iterator[tuple[str, list[Any]]]:
    """Push frames to trackers and prompt them; yield what happened, and all results.

    Args:
        frames: the frames.
        trackers: a `StreamSession` and an `I2VPPOnnx`, whose methods differ in name.
        steps: prompts, by frame.
    """
    ours = {"add_new_points_or_box": "add_points_or_box", "add_new_mask": "add_mask"}
    for i, frame in enumerate(frames):
        yield f"step {i}", [tracker.step(frame) for tracker in trackers]
        for _, name, args, kwargs in (step for step in steps if step[0] == i):
            methods = [getattr(t, ours.get(name, name) if isinstance(t, I2VPPOnnx) else name) for t in trackers]
            results = [method(*args, **kwargs) for method in methods]
            if results[0] is not None:
                yield f"{name} on frame {i}", results


def assert_equal_masks(what: str, live: Any, exported: Any) -> None:
    """Compare the masks of all objects on a frame."""
    assert list(live.obj_ids) == exported.obj_ids, what
    for obj_id, a, b in zip(exported.obj_ids, live.masks[:, 0].numpy() > 0, exported.masks > 0, strict=True):
        differing, union = int((a != b).sum()), int((a | b).sum())
        iou = 1.0 if union == 0 else int((a & b).sum()) / union
        assert differing <= PIXELS or iou >= IOU, f"{what}: object {obj_id} differs by {differing} pixels, IoU {iou}"
    scores = live.object_scores.numpy(), live.predicted_ious.numpy()
    np.testing.assert_allclose(exported.object_scores, scores[0], atol=0.01, err_msg=what)
    np.testing.assert_allclose(exported.predicted_ious, scores[1], atol=0.01, err_msg=what)
