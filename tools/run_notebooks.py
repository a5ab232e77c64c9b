#!/usr/bin/env python3
"""Execute the notebooks of `examples/` and keep their outputs in them, small.

    python tools/run_notebooks.py                                 # all of them; or: make notebooks
    python tools/run_notebooks.py examples/image_predictor.ipynb

Each runs in a kernel of this Python, in an empty folder that is deleted afterwards. Pictures are kept as JPEG, progress
bars and times are left out. The notebook then holds a digest of the code that was executed, by which the tests see
that no cell was changed since.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import json
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the i2vpp of this clone, whatever is installed

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from PIL import Image

from i2vpp.utils.files import atomic_write
from i2vpp.utils.parser import Parser

EXIT_FAILED = 1
EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
MOST_BYTES = 300_000
"""Largest size of a notebook with its outputs."""

CELL_SECONDS = 600
JPEG_QUALITY = 55
MOST_PIXELS = 125_000
"""Number of pixels that a picture is scaled down to."""

KERNEL = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
BAR = re.compile(r"\d+%\|")
WIDGET = "application/vnd.jupyter.widget-view+json"


class NotebookError(Exception):
    """A cell failed, or the outputs are too large."""


def read(path: Path) -> Any:
    """Return a valid notebook.

    Raises:
        nbformat.ValidationError: it is none.
    """
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def code_cells(notebook: Any) -> list[Any]:
    """Return the cells with code, in order."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def digest(notebook: Any) -> str:
    """Return the SHA-256 of the code of all cells."""
    code = json.dumps([cell.source for cell in code_cells(notebook)])
    return hashlib.sha256(code.encode()).hexdigest()


def execute(notebook: Any, folder: Path) -> None:
    """Execute all cells in a kernel of their own, which leaves their outputs in the notebook.

    Args:
        notebook: as `read` returns it.
        folder: where the kernel runs.

    Raises:
        NotebookError: a cell raised an error.
    """
    client = NotebookClient(
        notebook, timeout=CELL_SECONDS, store_widget_state=False, resources={"metadata": {"path": str(folder)}}
    )
    try:
        client.execute()
    except CellExecutionError as error:
        raise NotebookError(str(error)) from error


def tidy(notebook: Any) -> None:
    """Make outputs small and independent of when and where they were made, and note which code made them."""
    for cell in code_cells(notebook):
        cell.metadata.pop("execution", None)
        kept = [_small(output) for output in cell.outputs if WIDGET not in output.get("data", {})]
        cell.outputs = [output for output in kept if output.output_type != "stream" or output.text.strip()]
    notebook.metadata = nbformat.from_dict({**KERNEL, "i2vpp": {"executed": digest(notebook)}})


def without_bars(text: str) -> str:
    """Return what a terminal printed without progress bars, and of lines that were written over, what is left."""
    lines = [line.rstrip("\r").rsplit("\r", 1)[-1] for line in text.split("\n")]
    kept = "\n".join(line for line in lines if not line.isspace() and not BAR.search(line))  # spaces: a bar that went
    return re.sub(r"\n{3,}", "\n\n", kept)


def _small(output: Any) -> Any:
    """Return an output without progress bars, whose picture, if it has one, is a JPEG of moderate size only."""
    if output.output_type == "stream":
        output.text = without_bars(output.text)
    data = output.get("data", {})
    picture = data.pop("image/png", None)
    picture = data.pop("image/jpeg", None) or picture
    if picture is None:
        return output
    image = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")
    scale = (MOST_PIXELS / (image.width * image.height)) ** 0.5
    if scale < 1:
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=JPEG_QUALITY, optimize=True)
    data["image/jpeg"] = base64.b64encode(file.getvalue()).decode("ascii")
    data["text/plain"] = f"<{image.width} x {image.height} picture>"
    return output


def run(path: Path) -> int:
    """Execute a notebook, replace its outputs and return the number of its bytes.

    Raises:
        NotebookError: a cell failed, or the outputs are too large; the file stays as it was.
    """
    notebook = read(path)
    with tempfile.TemporaryDirectory() as folder:
        execute(notebook, Path(folder))
    tidy(notebook)
    text = nbformat.writes(notebook) + "\n"
    if len(text.encode()) > MOST_BYTES:
        raise NotebookError(f"{path}: {len(text.encode())} bytes with its outputs; at most {MOST_BYTES}: show less")
    with atomic_write(path) as file:
        file.write(text.encode())
    return len(text.encode())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = Parser(prog="python tools/run_notebooks.py", description=__doc__,
                    formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("notebooks", type=Path, nargs="*", metavar="NOTEBOOK", help="default: all of examples/")
    for path in parser.parse_args(arguments).notebooks or sorted(EXAMPLES.glob("*.ipynb")):
        started = time.perf_counter()
        try:
            size = run(path)
        except (NotebookError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return EXIT_FAILED
        print(f"{path}: {time.perf_counter() - started:.0f} s, {size // 1000} KB", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
