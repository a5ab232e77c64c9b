"""The notebooks in `examples/`: they run as they are, show pictures, and are kept without outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from conftest import REPO

NOTEBOOKS = sorted((REPO / "examples").glob("*.ipynb"))


def read(path: Path) -> Any:
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def by_id(path: Path) -> str:
    return path.name


def test_there_is_a_quick_start() -> None:
    assert "quickstart.ipynb" in [path.name for path in NOTEBOOKS]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=by_id)
def test_a_notebook_is_kept_without_outputs(path: Path) -> None:
    """Outputs would be most of the file, and another in every commit: `jupyter nbconvert --clear-output --inplace`."""
    cells = [cell for cell in read(path).cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in cells)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=by_id)
def test_a_notebook_runs_as_it_is(path: Path, tmp_path: Path) -> None:
    """From another folder, in a kernel of its own; every cell may take minutes on a busy machine."""
    client = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = read(path)
    client.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 3
    complaints = [output.text for output in outputs if output.get("name") == "stderr"]
    assert not [text for text in complaints if "it/s" not in text and "s/it" not in text], complaints
