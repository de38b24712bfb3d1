"""Runs notebooks from their first cell to their last, and stores the outputs of their cells.

    python tools/run_notebooks.py notebooks/*.ipynb

Without --output the outputs are stored in the notebooks themselves. The metadata has no language version and
no timings of cells; a digest of the code tells which sources the outputs belong to. Figures are stored in 256
colours, which halves their size.

    python tools/run_notebooks.py notebooks/pecan_tpu.ipynb --output=out.ipynb \
        --parameters='{"WORKDIR": "copy"}'

sets variables at the end of the cell with the tag `parameters`. The program ends with status 1 if a cell
fails or writes to standard error, such as a warning.
"""

import argparse
import base64
import copy
import hashlib
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode
from PIL import Image


class NotebookError(Exception):
    """A notebook that does not run from its first cell to its last."""


def digest(notebook: NotebookNode) -> str:
    """sha256 of the code cells' sources, in order."""
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256("\n\n".join(sources).encode()).hexdigest()


def execute(notebook: NotebookNode, folder: Path, parameters: dict[str, Any]) -> NotebookNode:
    """Runs a notebook.

    Args:
      notebook: format 4; the outputs that it has are ignored.
      folder: working directory of the run.
      parameters: values set at the end of the cell with the tag `parameters`; they are not stored.

    Returns:
      A copy of the notebook with the outputs of all its cells.

    Raises:
      NotebookError: a cell failed or wrote to standard error, or there are parameters and no such cell.
    """
    done = copy.deepcopy(notebook)
    done.cells = [_with(cell, parameters) for cell in done.cells]
    if parameters and not any(_takes_parameters(cell) for cell in notebook.cells):
        raise NotebookError("has no cell with the tag `parameters`; add one, or leave out --parameters.")
    # A progress bar is one line on a screen and hundreds in a file. Without it its widget is not needed.
    environment = {**os.environ, "TQDM_DISABLE": "1", "PYTHONWARNINGS": "ignore:IProgress not found"}
    client = NotebookClient(
        done,
        timeout=None,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        coalesce_streams=True,
    )
    try:
        client.execute(env=environment)
    except CellExecutionError as error:
        raise NotebookError(str(error)) from None
    for cell, given in zip(done.cells, notebook.cells, strict=True):
        cell.source, cell.metadata = given.source, given.metadata
        for output in cell.get("outputs", ()):
            if output.output_type == "stream" and output.name == "stderr":
                raise NotebookError(f"cell {cell.id} wrote to standard error:\n{output.text}")
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = _smaller(output.data["image/png"])
    done.metadata = {**notebook.metadata, "outputs_of": digest(notebook)}
    return done


def _takes_parameters(cell: NotebookNode) -> bool:
    return "parameters" in cell.metadata.get("tags", ())


def _with(cell: NotebookNode, parameters: dict[str, Any]) -> NotebookNode:
    """The cell without outputs, and with the parameters at its end if it has the tag."""
    if cell.cell_type != "code":
        return cell
    lines = [f"{name} = {value!r}" for name, value in parameters.items()] if _takes_parameters(cell) else []
    source = "\n".join([cell.source, *lines])
    return NotebookNode({**cell, "source": source, "outputs": [], "execution_count": None})


def _smaller(figure: str) -> str:
    """A PNG in base64, with a palette instead of three bytes per pixel."""
    image = Image.open(io.BytesIO(base64.b64decode(figure))).convert("RGB")
    stored = io.BytesIO()
    image.quantize(256, dither=Image.Dither.NONE).save(stored, "PNG", optimize=True)
    return base64.b64encode(stored.getvalue()).decode()


def main() -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(description="Runs notebooks and stores their outputs.")
    parser.add_argument("notebooks", nargs="+", type=Path)
    parser.add_argument("--output", type=Path, help="file of the copy; default: the notebook itself")
    parser.add_argument("--parameters", type=json.loads, default={}, help="a JSON object")
    given = parser.parse_args()
    if len(given.notebooks) > 1 and (given.output or given.parameters):
        parser.error("--output and --parameters are for one notebook; give one.")
    if given.parameters and not given.output:
        parser.error("--parameters without --output would store outputs of other values; give --output.")
    for path in given.notebooks:
        notebook = nbformat.read(path, as_version=4)
        try:
            done = execute(notebook, path.resolve().parent, given.parameters)
        except NotebookError as error:
            print(f"{path}: {error}", file=sys.stderr)
            return 1
        nbformat.validate(done)
        target = given.output or path
        nbformat.write(done, target)
        print(f"{target}: {target.stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
