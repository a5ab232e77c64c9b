"""Writes the folder of an export: graphs, manifest and the runtime of one file."""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from i2vpp.build_i2vpp import build_i2vpp
from i2vpp.checkpoint import CheckpointInfo, inspect_checkpoint
from i2vpp.config import ModelConfig
from i2vpp.errors import CheckpointError, ExportError
from i2vpp.export import manifest, onnx_passes, quantisation, writer
from i2vpp.export.choices import FORMATS, OPSETS, PRECISIONS
from i2vpp.export.graphs import GRAPHS, Graph
from i2vpp.modeling.i2vpp import I2VPP
from i2vpp.session.video import FrameSource, open_source
from i2vpp.utils.files import atomic_write

RUNTIME = "i2vpp_onnx.py"
SUFFIXES = {"onnx": ".onnx", "torch-export": ".pt2"}
ALL_FILES = {manifest.NAME, RUNTIME} | {graph.name + suffix for graph in GRAPHS for suffix in SUFFIXES.values()}
"""Names of all files that exports consist of."""


@dataclass(frozen=True, kw_only=True)
class ExportChoice:
    """How a checkpoint is exported.

    Args:
        file_format: one of `FORMATS`.
        precision: one of `PRECISIONS`.
        opset: version of ONNX's standard operators.
        calibration: video or folder of frames that the ranges of 8-bit numbers are taken from; None for the bundled
            clip.

    Raises:
        ExportError: a value is none of those, or does not go with the others, or a package is missing.
    """

    file_format: str = "onnx"
    precision: str = "fp32"
    opset: int = OPSETS[0]
    calibration: Path | None = None

    def __post_init__(self) -> None:
        for name, value, known in (
            ("--format", self.file_format, FORMATS),
            ("--precision", self.precision, PRECISIONS),
            ("--opset", self.opset, OPSETS),
        ):
            if value not in known:
                raise ExportError(f"{name} must be one of {', '.join(map(str, known))}; got {value}")
        if self.calibration is not None and self.precision != "int8":
            raise ExportError("--calibration is for --precision int8 only")
        if self.calibration is not None and not self.calibration.exists():
            raise ExportError(f"--calibration {self.calibration} does not exist: name a video or a folder of frames")
        writer.check_version()
        if self.file_format == "onnx":
            writer.check_packages()
        elif self.precision != "fp32":
            raise ExportError(f"--precision {self.precision} is of ONNX only: leave it out for {self.file_format}")
        elif self.opset != OPSETS[0]:
            raise ExportError(f"--opset {self.opset} is of ONNX only: leave it out for {self.file_format}")


def check_folder(folder: Path, *, overwrite: bool) -> None:
    """Check that an export may be written into a folder.

    Args:
        folder: the folder.
        overwrite: replace an earlier export.

    Raises:
        ExportError: there is something in it, or it is a file. The files of an export that broke off may be replaced.
    """
    if folder.exists() and not folder.is_dir():
        raise ExportError(f"{folder} is a file: choose a folder")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not (folder / manifest.NAME).is_file():
        if {path.name for path in folder.iterdir()} <= ALL_FILES:
            return
        raise ExportError(f"{folder} is not empty and holds no export: choose another folder")
    if not overwrite:
        raise ExportError(f"{folder} holds an export already: choose another folder, or pass --overwrite")


def licence_of(info: CheckpointInfo, given: str | None) -> str:
    """Return the licence of a checkpoint's weights, which its card says, or the user.

    Args:
        info: the checkpoint.
        given: what the user says; None to read the card.

    Raises:
        CheckpointError: neither says it.
    """
    licence = given or info.card.get("licence") or info.card.get("license")
    if not licence:
        raise CheckpointError(
            f"{info.path} has no card that says its licence, which goes with the exported weights: pass "
            "--licence 'TEXT', with what you know of it"
        )
    return licence


def load(checkpoint: Path, *, image_size: int | None) -> tuple[I2VPP, CheckpointInfo]:
    """Build the network that is exported, in float32 on the CPU.

    Args:
        checkpoint: path or name of a checkpoint.
        image_size: side of the network's input in pixels; None for the one that the checkpoint was trained at.

    Returns:
        The network and the description of its checkpoint.

    Raises:
        I2VPPError: there is no such checkpoint or size.
    """
    info = inspect_checkpoint(checkpoint)
    size = () if image_size is None else (f"model.image_size={image_size}",)
    model = build_i2vpp(None, info.path, "cpu", hydra_overrides_extra=size)
    check_exportable(model.config)
    return model, info


def check_exportable(config: ModelConfig) -> None:
    """Check that the exported tracker can do what a config says, or raise ExportError."""
    if config.selection.mode == "recent":
        raise ExportError("model.selection.mode 'recent' is not exported: choose 'sample' or 'top'")


def export(
    model: I2VPP, folder: Path, choice: ExportChoice, *, checkpoint: Mapping[str, Any], progress: bool = False
) -> Iterable[Path]:
    """Write a network's export into a folder, file by file; the manifest comes last.

    Args:
        model: the network, in eval mode, on the CPU, with float32 weights.
        folder: the folder; it is made if need be.
        choice: how.
        checkpoint: section of the manifest, see `manifest.describe_checkpoint`.
        progress: show a progress bar.

    Yields:
        The path of each file once it is written.

    Raises:
        ExportError: a graph cannot be written in that way.
        OSError: a file cannot be written.
    """
    if choice.precision == "int8":
        yield from _export_int8(model, folder, choice, checkpoint, progress=progress)
        return
    graphs = [kind(model).eval() for kind in GRAPHS]
    suffix = SUFFIXES[choice.file_format]
    names = {graph.name: f"{graph.name}{suffix}" for graph in graphs}
    # All of them first: an earlier export stays if one cannot be written.
    bar = tqdm(graphs, desc="exporting", unit="graph", disable=not progress)
    contents = [_content(graph, choice) for graph in bar]
    _clear(folder)
    for name, content in zip(names.values(), contents, strict=True):
        yield _write(folder / name, content)
    written: dict[str, Any] = {"file_format": choice.file_format, "precision": choice.precision}
    if choice.file_format == "onnx":
        written["opset"] = choice.opset
        runtime = files("i2vpp.export").joinpath(RUNTIME).read_bytes()
        yield _write(folder / RUNTIME, runtime)
    described = manifest.describe(model.config, graphs, names, checkpoint=checkpoint, written=written)
    yield _write(folder / manifest.NAME, _as_json(described))


def _export_int8(
    model: I2VPP, folder: Path, choice: ExportChoice, checkpoint: Mapping[str, Any], *, progress: bool
) -> Iterable[Path]:
    """Export with float32 weights into a temporary folder, and quantise; weights that are not in 8 bits are halved."""
    frames = _calibration_frames(choice.calibration)  # first, since the rest takes minutes
    with tempfile.TemporaryDirectory() as temporary:
        whole = Path(temporary)
        unquantised = replace(choice, precision="fp32", calibration=None)
        written = export(model, whole, unquantised, checkpoint=checkpoint, progress=progress)
        files_of = {path.name: path for path in written}
        quantised = quantisation.quantise_folder(whole, frames)
        described = json.loads(files_of.pop(manifest.NAME).read_bytes())
        contents = {name: quantised.get(path.stem) or path.read_bytes() for name, path in files_of.items()}
        contents = {name: _halved(content) if name != RUNTIME else content for name, content in contents.items()}
        _clear(folder)
        for name, content in contents.items():
            yield _write(folder / name, content)
        yield _write(folder / manifest.NAME, _as_json({**described, "precision": choice.precision}))


def _clear(folder: Path) -> None:
    """Remove an earlier export, its manifest first: without that, what is left is none."""
    for name in (manifest.NAME, *sorted(ALL_FILES - {manifest.NAME})):
        (folder / name).unlink(missing_ok=True)


def _calibration_frames(video: Path | None) -> list[Any]:
    """Return the first frames of a video, of which the first is prompted and the others are tracked.

    Raises:
        ExportError: there is only one.
    """
    with _calibration_clip(video) as clip, closing(open_source(clip)) as source:
        wanted = itertools.takewhile(partial(_has_frame, source), range(quantisation.CALIBRATION_FRAMES))
        frames = [np.ascontiguousarray(source[i]) for i in wanted]
    if len(frames) < 2:
        raise ExportError(f"--calibration {video} must hold two frames or more; it holds {len(frames)}")
    return frames


def _calibration_clip(video: Path | None) -> AbstractContextManager[Path]:
    """Return the video that ranges are taken from: the user's, or the bundled clip."""
    return as_file(files("i2vpp") / "assets" / "bunny.mp4") if video is None else nullcontext(video)


def _has_frame(source: FrameSource, index: int) -> bool:
    try:
        source.check(index)
    except IndexError:
        return False
    return True


def _as_json(described: Mapping[str, Any]) -> bytes:
    return (json.dumps(described, indent=2, ensure_ascii=False) + "\n").encode()


def _content(graph: Graph, choice: ExportChoice) -> bytes:
    program = writer.to_program(graph, fused_attention=choice.file_format != "onnx")
    if choice.file_format != "onnx":
        return writer.save_program(program)
    model = writer.to_onnx(graph, program, opset=choice.opset)
    if choice.precision == "fp16":
        onnx_passes.halve_weights(model)
    return bytes(model.SerializeToString())


def _halved(content: bytes) -> bytes:
    import onnx  # noqa: PLC0415 - an extra

    model = onnx.load_from_string(content)
    onnx_passes.halve_weights(model)
    return bytes(model.SerializeToString())


def _write(path: Path, content: bytes) -> Path:
    with atomic_write(path) as file:
        file.write(content)
    return path
