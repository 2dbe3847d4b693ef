"""The notebooks: executed on small settings, in a folder of their own."""

import re

import nbclient
import nbformat
import pytest

from tests.conftest import ROOT

NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
LARGEST = 300_000  # bytes of a notebook with its pictures
# Words that a notebook's output must have: it did what it is for.
PRINTS = {
    "two-frameworks": "copy.pth           bit for bit the same",
    "inside-alexnet": "test top-1",
    "your-own-photographs": "most often confused",
}


def text_of(notebook):
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    return "".join(output.get("text", "") for output in outputs)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_committed_with_their_pictures_and_small(path):
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    assert path.stat().st_size < LARGEST
    assert PRINTS[path.stem] in text_of(notebook)
    assert "Traceback" not in text_of(notebook)
    assert not re.search(r"/(home|tmp|root|work)/", path.read_text())
    assert "\\u001b" not in path.read_text(), "colors of a terminal"


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path, tmp_path, monkeypatch):
    for name, value in (("WIDTH", "0.0625"), ("EPOCHS", "1")):
        monkeypatch.setenv(f"ALEXNET_{name}", value)
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(path, 4)
    client = nbclient.NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": tmp_path}}
    )
    client.execute()
    assert PRINTS[path.stem] in text_of(notebook)
