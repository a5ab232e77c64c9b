"""The notebooks in `examples/`: they run as they are and show pictures; their outputs are small and of their code."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

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
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (700, 700, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


class Notes:
    """Stands for the predictor: notes the prompts, and its results are pictures in the colour of their number."""

    def __init__(self) -> None:
        self.prompts: list[tuple[list[tuple[float, float]], list[int]]] = []

    def add_new_points_or_box(self, state: Any, *, points: Any, labels: Any, **_: Any) -> Any:
        self.prompts.append((list(points), list(labels)))
        return SimpleNamespace(plot=lambda picture: np.full((40, 60, 3), len(self.prompts), np.uint8))


def test_clicks_on_the_widget_become_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cell as it runs where ipympl is installed, on a canvas without a window."""
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    from matplotlib import pyplot
    from matplotlib.backend_bases import MouseEvent

    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setattr(pyplot, "show", lambda: None)
    cells = run_notebooks.code_cells(run_notebooks.read(REPO / "examples" / "video_predictor.ipynb"))
    (cell,) = [cell for cell in cells if "%matplotlib ipympl" in cell.source]
    frame = np.zeros((40, 60, 3), np.uint8)
    state = SimpleNamespace(frame=lambda i: frame)
    names: dict[str, Any] = {"predictor": Notes(), "state": state, "draw_prompt": lambda *_: frame}
    exec(cell.source.replace("%matplotlib ipympl", "pass"), names)
    figure, axes = names["figure"], names["axes"]
    figure.canvas.draw()
    for button, place in ((1, (30, 20)), (3, (10.5, 5)), (1, (-20, -20))):  # the last one beside the picture
        x, y = axes.transData.transform(place)
        figure.canvas.callbacks.process(
            "button_press_event", MouseEvent("button_press_event", figure.canvas, x, y, button)
        )
    (first, first_labels), (both, both_labels) = names["predictor"].prompts
    assert (first_labels, both_labels) == ([1], [1, 0])
    assert np.allclose(first, [(30, 20)])
    assert np.allclose(both, [(30, 20), (10.5, 5)])
    assert (names["picture"].get_array() == 2).all(), "the picture of the second prompt is shown"
    pyplot.close(figure)
