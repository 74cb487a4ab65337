"""The notebooks run from top to bottom, in a kernel of their own, as Jupyter would run them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))


def cells_of(notebook: Path) -> list[dict[str, Any]]:
    return json.loads(notebook.read_text(encoding="utf-8"))["cells"]


def run_notebook(path: Path, folder: Path) -> list[dict[str, Any]]:
    """The outputs of all cells, which are run in ``folder``; whatever a cell raises is raised here."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}}).execute()
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def texts_of(outputs: list[dict[str, Any]]) -> list[str]:
    """What they say in plain text."""
    return [str(output["text"] if "text" in output else output.get("data", {}).get("text/plain", "")) for output in outputs]


def test_there_are_notebooks() -> None:
    assert {"first_steps", "watching_a_run"} <= {notebook.stem for notebook in NOTEBOOKS}


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_kept_without_output(notebook: Path) -> None:
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in cells_of(notebook))


@pytest.mark.slow
@pytest.mark.corpus
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run_from_top_to_bottom(notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    # The kernel chooses its own way to draw; that of the tests draws nothing.
    monkeypatch.delenv("MPLBACKEND", raising=False)
    outputs = run_notebook(notebook, tmp_path)
    lines = [text for text in texts_of(outputs) if re.match(r"step (\d+)/\1  100 %", text)]
    assert len(lines) == 1, "a fit shows one line, which has changed in place"
    kinds = {kind for output in outputs for kind in output.get("data", {})}
    assert "image/png" in kinds
    assert any("<audio" in str(output.get("data", {}).get("text/html", "")) for output in outputs)
    assert not [output for output in outputs if output["output_type"] == "error"]
    if notebook.stem == "watching_a_run":
        (run,) = (tmp_path / "runs").glob("*-notebook-*")
        told = " ".join(" ".join(texts_of(outputs)).split())
        assert told.count(run.name) >= 2, "in the list of runs, and where it is watched"
        assert "('finished', 120, {'metric': 'val/loss'" in told
