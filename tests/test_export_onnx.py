"""The graphs in ONNX and as programs of `torch.export`, against the modules that they are made from."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import distribution
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from exported import CLIP, REPO, SIDE, Step, assert_equal_masks, clip_frames, demo_predictor, export_demo, session
from i2vpp.cli import main
from i2vpp.export import folder as export_folder
from i2vpp.export import onnx_passes, writer
from i2vpp.export.choices import OPSETS
from i2vpp.export.graphs import GRAPHS, Graph, Port, example
from i2vpp.export.i2vpp_onnx import I2VPPOnnx
from i2vpp.modeling.attention import Attention
from i2vpp.utils.files import file_sha256

onnx = pytest.importorskip("onnx", reason="the extra `export` is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")
pytest.importorskip("onnxscript", reason="the extra `export` is not installed")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # tracing and writing the graphs takes a minute or two

DEMO = REPO / "checkpoints" / "i2vpp-demo.pt"
LENGTHS = [
    {"objects": objects, "frames": frames, "pointers": pointers, "clicks": clicks}
    for objects, (frames, pointers, clicks) in product((1, 2, 5), ((1, 1, 1), (4, 9, 3), (7, 2, 6)))
]
TOLERANCE = 1e-4
RABBIT = (118, 127, 262, 280)

Graphs = dict[str, Graph]


@pytest.fixture(scope="module")
def graphs() -> Graphs:
    return {kind.name: kind(demo_predictor().model).eval() for kind in GRAPHS}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the command writes."""
    return export_demo(tmp_path_factory)


def open_onnx(model: bytes | str) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run_onnx(opened: Any, graph: Graph, inputs: tuple[torch.Tensor, ...]) -> list[Any]:
    names = [port.name for port in graph.inputs()]
    return opened.run(None, {name: x.numpy() for name, x in zip(names, inputs, strict=True)})


def assert_agree(graph: Graph, results: list[Any], inputs: tuple[torch.Tensor, ...], tolerance: float) -> None:
    with torch.no_grad():
        expected = graph(*inputs)
    expected = expected if isinstance(expected, tuple) else (expected,)
    for port, a, b in zip(graph.outputs(), results, expected, strict=True):
        rounding = 2**-7 * b.abs().max().item() if port.name == "values" else 0.0  # the module rounds to bfloat16
        np.testing.assert_allclose(a, b.numpy(), rtol=0, atol=tolerance + rounding, err_msg=f"{graph.name} {port.name}")


@pytest.mark.parametrize("name", [kind.name for kind in GRAPHS])
def test_each_graph_agrees_with_its_module(name: str, exported: Path, graphs: Graphs) -> None:
    graph, opened = graphs[name], open_onnx(str(exported / f"{name}.onnx"))
    for seed, lengths in enumerate(LENGTHS):
        inputs = list(example(graph.inputs(), lengths, seed=seed))
        if name == "prompt" and seed % 2:  # objects without memory or a previous mask
            inputs[-1][0] = inputs[4][-1] = 0
        results = run_onnx(opened, graph, tuple(inputs))
        assert_agree(graph, results, tuple(inputs), TOLERANCE)
        assert all(np.isfinite(result).all() for result in results)


def test_masks_equal_those_of_the_predictor(exported: Path) -> None:
    frames = clip_frames(12)
    mask = np.zeros(frames[0].shape[:2], bool)
    mask[186:268, 30:121] = True
    steps: list[Step] = [
        (0, "add_new_points_or_box", (1,), {"box": RABBIT}),
        (0, "add_new_mask", (2, mask), {}),
        (4, "add_new_points_or_box", (3,), {"points": [[72, 228], [88, 165]], "labels": [1, 0]}),
        (6, "add_new_points_or_box", (1,), {"points": [[190, 210]], "labels": [1]}),
    ]
    with demo_predictor().init_stream() as stream:
        for what, (live, found) in session(frames, [stream, I2VPPOnnx(exported, threads=1)], steps):
            assert_equal_masks(what, live, found)


def test_the_manifest_describes_what_was_written(exported: Path) -> None:
    described = json.loads((exported / "i2vpp.json").read_text(encoding="utf-8"))
    assert described["checkpoint"]["sha256"] == file_sha256(DEMO)
    assert "research" in described["checkpoint"]["licence"]
    assert (described["image_size"], described["precision"], described["opset"]) == (SIDE, "fp32", 18)
    assert set(described["graphs"]) == {"encoder", "track", "prompt", "mask"}
    for graph in described["graphs"].values():
        model = onnx.load(exported / graph["file"])
        assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)], "standard operators only"
        for ports, values in ((graph["inputs"], model.graph.input), (graph["outputs"], model.graph.output)):
            axes = [[d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim] for value in values]
            assert [port["shape"] for port in ports] == axes
            assert [port["name"] for port in ports] == [value.name for value in values]
        assert str(REPO).encode() not in (exported / graph["file"]).read_bytes(), "no paths of this machine"
        assert not any(node.op_type == "Cast" and node.attribute[0].i == 16 for node in model.graph.node), "bfloat16"


@pytest.mark.parametrize("opset", OPSETS[1:])
def test_other_opsets_compute_the_same(opset: int, exported: Path, graphs: Graphs) -> None:
    for name, graph in graphs.items():
        model = writer.at_opset(onnx.load(exported / f"{name}.onnx"), name, opset)
        assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset)]
        inputs = example(graph.inputs(), LENGTHS[4])
        assert_agree(graph, run_onnx(open_onnx(model.SerializeToString()), graph, inputs), inputs, TOLERANCE)


def test_float16_weights_halve_the_files(exported: Path, graphs: Graphs) -> None:
    for name, graph in graphs.items():
        model = onnx.load(exported / f"{name}.onnx")
        onnx_passes.halve_weights(model)
        content = model.SerializeToString()
        assert len(content) < 0.56 * (exported / f"{name}.onnx").stat().st_size
        inputs = example(graph.inputs(), LENGTHS[4])
        if name == "encoder":
            assert_agree(graph, run_onnx(open_onnx(content), graph, inputs), inputs, 0.05)


def test_eight_bits_find_nearly_the_same_masks(exported: Path, tmp_path: Path) -> None:
    frames, calibration, small = clip_frames(6), tmp_path / "frames", tmp_path / "int8"
    calibration.mkdir()
    for i, frame in enumerate(frames[:4]):
        Image.fromarray(frame).save(calibration / f"{i}.png")
    options = ["--image-size", str(SIDE), "--precision", "int8", "--calibration", str(calibration)]
    with pytest.MonkeyPatch.context() as patch:  # the graphs in float32 are those that there are
        patch.setattr(export_folder, "_content", lambda graph, _: (exported / f"{graph.name}.onnx").read_bytes())
        assert main(["export", str(DEMO), "-o", str(small), *options]) == 0
    sizes = {file.stem: file.stat().st_size / (exported / file.name).stat().st_size for file in small.glob("*.onnx")}
    assert sizes["encoder"] < 0.4
    assert max(sizes.values()) < 0.55, "what is not in 8 bits is in float16"
    assert json.loads((small / "i2vpp.json").read_text(encoding="utf-8"))["precision"] == "int8"
    trackers = I2VPPOnnx(exported, threads=1), I2VPPOnnx(small, threads=1)
    for i, frame in enumerate(frames):
        for tracker in trackers:
            tracker.step(frame)
            if i == 0:
                tracker.add_points_or_box(1, box=RABBIT)
    a, b = (tracker.step(frames[-1]).masks[0] > 0 for tracker in trackers)
    assert (a & b).sum() / (a | b).sum() > 0.95


def test_programs_of_torch_export_agree_as_well(graphs: Graphs, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = export_demo(tmp_path_factory, file_format="torch-export")
    described = json.loads((folder / "i2vpp.json").read_text(encoding="utf-8"))
    assert described["file_format"] == "torch-export"
    assert not (folder / "i2vpp_onnx.py").exists()
    for name, graph in graphs.items():
        program = torch.export.load(folder / described["graphs"][name]["file"]).module()
        for lengths in (LENGTHS[0], LENGTHS[8]):
            inputs = example(graph.inputs(), lengths)
            with torch.no_grad():
                found = program(*inputs)
            results = [x.numpy() for x in (found if isinstance(found, tuple) else (found,))]
            assert_agree(graph, results, inputs, TOLERANCE)


@pytest.mark.parametrize("fused", [True, False])
def test_attention_to_memory_is_fused_unless_told_otherwise(fused: bool) -> None:
    attention = Attention(16, heads=1)

    class OneLayer(Graph):
        def __init__(self) -> None:
            nn.Module.__init__(self)
            self.layer = attention

        def inputs(self) -> tuple[Port, ...]:
            return (Port(name="q", shape=("objects", 6, 16)), Port(name="k", shape=("objects", "pointers", 16)))

        def forward(self, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
            return attention(q, k, k)

    program = writer.to_program(OneLayer().eval(), fused_attention=fused)
    operations = {str(node.target) for node in program.graph.nodes}
    assert ("aten.scaled_dot_product_attention.default" in operations) == fused
    assert ("aten.softmax.int" in operations) != fused
    assert not attention.in_parts, "the network is as it was"


def make_environment(folder: Path) -> Path:
    """Make an environment with NumPy, onnxruntime, Pillow and PyAV only, linked from this one; return its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=120)
    (target,) = folder.glob("lib/python*/site-packages")
    for name in ("numpy", "onnxruntime", "flatbuffers", "packaging", "protobuf", "pillow", "av"):
        found = distribution(name)
        for part in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
            if not (target / part).exists():
                (target / part).symlink_to(Path(str(found.locate_file(part))))
    return folder / "bin" / "python"


def test_an_environment_without_pytorch_tracks_the_clip(exported: Path, tmp_path: Path) -> None:
    python = make_environment(tmp_path / "venv")
    hidden = subprocess.run([python, "-c", "import torch"], capture_output=True, check=False, timeout=60)
    assert hidden.returncode != 0, "PyTorch is there"
    box = ",".join(map(str, RABBIT))
    command = [python, exported / "i2vpp_onnx.py", CLIP, "--box", box, "-o", tmp_path / "out", "--max-frames", "5"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    masks = sorted((tmp_path / "out" / "masks").glob("*.png"))
    assert [mask.stem for mask in masks] == [f"{i:05}" for i in range(5)]
    assert len(list((tmp_path / "out" / "overlay").glob("*.jpg"))) == 5
    tracker, frames = I2VPPOnnx(exported, threads=1), clip_frames(5)
    for i, frame in enumerate(frames):
        result = tracker.step(frame)
        if i == 0:
            result = tracker.add_points_or_box(1, box=RABBIT)
        assert int((np.asarray(Image.open(masks[i])) != (result.masks[0] > 0)).sum()) <= 3
