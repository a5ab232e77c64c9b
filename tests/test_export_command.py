"""`i2vpp export`: what it refuses, and in what words."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from exported import REPO
from i2vpp.checkpoint import save_checkpoint
from i2vpp.cli import main
from i2vpp.export import folder, writer
from i2vpp.export.graphs import EncoderGraph, Graph
from models import SIDE, make_predictor

DEMO = str(REPO / "checkpoints" / "i2vpp-demo.pt")


@pytest.fixture(scope="module")
def without_card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "mine.pt"
    save_checkpoint(make_predictor().model, path, image_size=SIDE)
    return path


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--opset", "9"], "--opset must be one of 18, 19, 20, 21, 22, 23; got 9"),
        (["--image-size", "100"], "model.image_size must be an integer, a multiple of 16, from 64 to 4096; got 100"),
        (["--calibration", "x.mp4"], "--calibration is for --precision int8 only"),
        (["--calibration", "x.mp4", "--precision", "int8"], "--calibration x.mp4 does not exist: name a video or"),
        (["--format", "torch-export", "--precision", "fp16"], "--precision fp16 is of ONNX only"),
        (["--format", "torch-export", "--opset", "21"], "--opset 21 is of ONNX only"),
    ],
)
def test_what_cannot_be_exported_is_refused(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", DEMO, "-o", str(tmp_path / "out"), *options]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("error:") == 1
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_without_card_needs_a_licence(
    without_card: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(without_card), "-o", str(tmp_path)]) == 1
    assert "mine.pt has no card that says its licence" in capsys.readouterr().err
    info = folder.inspect_checkpoint(without_card)
    assert folder.licence_of(info, "mine alone") == "mine alone"


def test_missing_packages_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else find_spec(name))
    assert main(["export", DEMO, "-o", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert 'writing ONNX needs onnxscript, which is not installed: pip install ".[export]" in a clone' in error


@pytest.mark.parametrize("name", ["onnx", "onnxscript", "onnxruntime"])
def test_any_of_them_may_be_missing(name: str, tmp_path: Path) -> None:
    """In a process of its own, in which the package cannot be imported; the other format does without it."""
    code = (
        f"import sys; sys.modules[{name!r}] = None; from i2vpp.cli import main; "
        f"code = main(['export', {DEMO!r}, '-o', {str(tmp_path)!r}]); "
        "from i2vpp.export.folder import ExportChoice; ExportChoice(file_format='torch-export'); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 1
    assert f"writing ONNX needs {name}, which is not installed" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_version_of_pytorch_that_is_too_old_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "__version__", "2.6.0+cu124")
    for file_format in ("onnx", "torch-export"):
        assert main(["export", DEMO, "-o", str(tmp_path), "--format", file_format]) == 1
        assert "PyTorch 2.6.0+cu124 cannot trace the graphs; 2.15 can" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_graph_that_pytorch_cannot_convert_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise torch.onnx.OnnxExporterError("a long story")

    monkeypatch.setattr(torch.onnx, "export", fail)
    graph = EncoderGraph(make_predictor().model)
    program: Any = None  # nothing looks at it before the exporter does
    with pytest.raises(folder.ExportError, match=r"cannot convert the graph 'encoder' to ONNX; 2\.15 can"):
        writer.to_onnx(graph, program, opset=18)


def test_a_graph_that_pytorch_cannot_trace_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise RuntimeError("a symbol is not known\nand a long story")

    monkeypatch.setattr(torch.export, "export", fail)
    with pytest.raises(
        folder.ExportError, match=r"cannot trace the graph 'encoder'; 2\.15 can: a symbol is not known$"
    ):
        writer.to_program(EncoderGraph(make_predictor().model))


@pytest.mark.parametrize(
    ("sizes", "found"),
    [
        ([(9, 6)], "must hold two frames or more; it holds 1"),
        ([(9, 6), (9, 8)], "all frames of a video must have one size"),
        ([], "holds no image"),
    ],
)
def test_too_few_frames_for_int8_are_refused_at_once(
    sizes: list[tuple[int, int]],
    found: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(writer, "to_program", lambda *_, **__: pytest.fail("a graph is traced"))
    frames = tmp_path / "frames"
    frames.mkdir()
    for i, size in enumerate(sizes):
        Image.new("RGB", size).save(frames / f"{i}.png")
    options = ["--precision", "int8", "--calibration", str(frames)]
    assert main(["export", DEMO, "-o", str(tmp_path / "out"), *options]) == 1
    error = capsys.readouterr().err
    assert found in error
    assert error.count("error:") == 1


def test_a_file_is_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").write_text("mine")
    assert main(["export", DEMO, "-o", str(tmp_path / "out"), "--overwrite"]) == 1
    assert "out is a file: choose a folder" in capsys.readouterr().err


def test_nothing_is_left_of_an_earlier_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "_content", lambda *_: b"graph")
    model = make_predictor().model
    for file_format, suffix in (("onnx", "onnx"), ("torch-export", "pt2"), ("onnx", "onnx")):
        choice = folder.ExportChoice(file_format=file_format)
        written = {path.name for path in folder.export(model, tmp_path, choice, checkpoint={})}
        assert {path.name for path in tmp_path.iterdir()} == written
        assert f"track.{suffix}" in written


def test_an_earlier_export_stays_if_a_graph_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "i2vpp.json").write_text("{}")
    (tmp_path / "track.onnx").write_text("earlier")

    def fail_later(graph: Graph, _choice: folder.ExportChoice) -> bytes:
        if graph.name == "mask":
            raise folder.ExportError("cannot")
        return b"graph"

    monkeypatch.setattr(folder, "_content", fail_later)
    with pytest.raises(folder.ExportError, match="cannot"):
        list(folder.export(make_predictor().model, tmp_path, folder.ExportChoice(), checkpoint={}))
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"i2vpp.json": "{}", "track.onnx": "earlier"}


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert main(["export", DEMO, "-o", str(tmp_path)]) == 1
    assert "is not empty and holds no export: choose another folder" in capsys.readouterr().err
    (tmp_path / "i2vpp.json").write_text("{}")
    assert main(["export", DEMO, "-o", str(tmp_path)]) == 1
    assert "holds an export already: choose another folder, or pass --overwrite" in capsys.readouterr().err


def test_an_export_that_broke_off_is_made_again(tmp_path: Path) -> None:
    for name in ("encoder.onnx", "mask.pt2", "i2vpp_onnx.py"):
        (tmp_path / name).write_bytes(b"half")
    folder.check_folder(tmp_path, overwrite=False)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(folder.ExportError, match="is not empty and holds no export"):
        folder.check_folder(tmp_path, overwrite=True)


def test_a_choice_that_does_not_exist_is_refused_in_python_too() -> None:
    with pytest.raises(folder.ExportError, match="--precision must be one of fp32, fp16, int8; got fp8"):
        folder.ExportChoice(precision="fp8")


def test_a_mode_that_the_runtime_lacks_is_refused() -> None:
    config: Any = make_predictor("model.selection.mode=recent").model.config
    with pytest.raises(folder.ExportError, match="'recent' is not exported: choose 'sample' or 'top'"):
        folder.check_exportable(config)
