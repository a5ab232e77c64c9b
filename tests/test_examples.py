"""The notebooks in `examples/`: they run as they are and show pictures; their outputs are small and of their code."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from conftest import REPO

pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")
import nbformat

from tools import run_notebooks

NOTEBOOKS = sorted((REPO / "examples").glob("*.ipynb"))
AGAIN = "run make notebooks"


def by_id(path: Path) -> str:
    return path.name


def outputs(notebook: Any) -> list[Any]:
    return [output for cell in run_notebooks.code_cells(notebook) for output in cell.outputs]


def complaints(notebook: Any) -> list[str]:
    """What was printed to standard error, without progress bars."""
    texts = [run_notebooks.without_bars(output.text) for output in outputs(notebook) if output.get("name") == "stderr"]
    return [text for text in texts if text.strip()]


def test_the_notebooks_are_those_that_users_of_sam_2_look_for() -> None:
    names = ["automatic_masks.ipynb", "finetune.ipynb", "image_predictor.ipynb", "video_predictor.ipynb"]
    assert [path.name for path in NOTEBOOKS] == names


@pytest.mark.parametrize("path", NOTEBOOKS, ids=by_id)
def test_the_outputs_are_those_of_the_code(path: Path) -> None:
    notebook = run_notebooks.read(path)
    cells = run_notebooks.code_cells(notebook)
    assert notebook.metadata["i2vpp"]["executed"] == run_notebooks.digest(notebook), AGAIN
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), AGAIN
    assert not [output for output in outputs(notebook) if output.output_type == "error"]
    assert not complaints(notebook)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=by_id)
def test_the_outputs_are_small_and_say_nothing_of_the_machine(path: Path) -> None:
    assert path.stat().st_size <= run_notebooks.MOST_BYTES
    text = path.read_text(encoding="utf-8")
    assert not [word for word in ("/home/", "/root/", "/work/", "image/png") if word in text]
    kinds = {kind for output in outputs(run_notebooks.read(path)) for kind in output.get("data", {})}
    assert kinds == {"image/jpeg", "text/plain"}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=by_id)
def test_a_notebook_runs_as_it_is(path: Path, tmp_path: Path) -> None:
    """From another folder, in a kernel of its own; every cell may take minutes on a busy machine."""
    notebook = run_notebooks.read(path)
    kept = [output.output_type for output in outputs(notebook)]
    run_notebooks.execute(notebook, tmp_path)
    run_notebooks.tidy(notebook)
    assert [output.output_type for output in outputs(notebook)] == kept, AGAIN
    assert sum("image/jpeg" in output.get("data", {}) for output in outputs(notebook)) >= 2
    assert not complaints(notebook)


def test_a_failing_cell_is_an_error_and_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "broken.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 / 0")]), path)
    before = path.read_bytes()
    with pytest.raises(run_notebooks.NotebookError, match="ZeroDivisionError"):
        run_notebooks.run(path)
    assert path.read_bytes() == before


def test_pictures_become_small_and_bars_go() -> None:
    code = "from PIL import Image"
    picture = nbformat.v4.new_output("display_data", {"image/png": noise(), "text/plain": "<PIL ... at 0x7f0123>"})
    bar = nbformat.v4.new_output(
        "stream", name="stderr", text="\r  0%|   | 0/2\r100%|###| 2/2 [00:01<00:00, 1.2it/s]\n"
    )
    said = nbformat.v4.new_output("stream", name="stdout", text="10%\rdone\n 50%|##  | 1/2\n")
    cell = nbformat.v4.new_code_cell(code, outputs=[picture, bar, said], execution_count=1)
    cell.metadata["execution"] = {"iopub.execute_input": "2026-01-01T00:00:00Z"}
    notebook = nbformat.v4.new_notebook(cells=[cell])
    run_notebooks.tidy(notebook)
    small, rest = outputs(notebook)
    assert set(small.data) == {"image/jpeg", "text/plain"}
    assert small.data["text/plain"] == "<354 x 354 picture>"
    assert len(base64.b64decode(small.data["image/jpeg"])) < len(base64.b64decode(noise())) / 10
    assert rest.text == "done\n"
    assert not cell.metadata
    assert notebook.metadata["i2vpp"]["executed"] == run_notebooks.digest(notebook)
    cell.source += "  # changed"
    assert notebook.metadata["i2vpp"]["executed"] != run_notebooks.digest(notebook)


def noise() -> str:
    """A PNG of 700 x 700 pixels as base64."""
    import io

    import numpy as np
    from PIL import Image

    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (700, 700, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
