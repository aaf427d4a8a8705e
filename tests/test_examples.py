"""The examples run unchanged."""

import ast
import json
import runpy

import pytest

from tests.parallel import mpiexec
from tests.sources import ROOT

EXAMPLES = ROOT / "examples"
NEEDS = {"from_pytorch": "torch", "student": "matplotlib", "teacher": "matplotlib", "to_onnx": "onnxruntime"}
PROGRAMS = sorted(path.stem for path in EXAMPLES.glob("*.py") if path.stem != "two_processes")
NOTEBOOKS = sorted(path.stem for path in EXAMPLES.glob("*.ipynb"))


def test_every_example_is_listed():
    listed = (EXAMPLES / "README.md").read_text()
    for path in EXAMPLES.iterdir():
        assert path.name == "README.md" or path.is_dir() or f"`{path.name}`" in listed, path.name


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_runs(name, capsys, tmp_path, monkeypatch):
    pytest.importorskip(NEEDS.get(name, "gpuconv"))
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert capsys.readouterr().out.strip()
    assert not [*tmp_path.iterdir()]


@pytest.mark.slow
def test_the_program_of_two_processes_runs():
    done = mpiexec.run(2, EXAMPLES / "two_processes.py")
    assert done.returncode == 0, done.stderr
    assert "2 processes: " in done.stdout
    assert "the bits of one process" in done.stdout


def cells(name):
    """The source of each code cell."""
    book = json.loads((EXAMPLES / f"{name}.ipynb").read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in book["cells"] if cell["cell_type"] == "code"]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_stored_without_results(name):
    book = json.loads((EXAMPLES / f"{name}.ipynb").read_text(encoding="utf-8"))
    assert (book["nbformat"], book["nbformat_minor"]) == (4, 5)
    for cell in book["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
    assert len({cell["id"] for cell in book["cells"]}) == len(book["cells"])


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_and_its_results_have_a_rich_display(name, monkeypatch, tmp_path):
    pytest.importorskip(NEEDS.get(name, "gpuconv"))
    monkeypatch.chdir(tmp_path)
    names: dict = {"__name__": "__main__"}
    shown = [value for value in (_result(source, names) for source in cells(name)) if value is not None]
    html = [text for value in shown if (text := getattr(value, "_repr_html_", lambda: None)()) is not None]
    pictures = [value._repr_png_() for value in shown if hasattr(value, "_repr_png_")]
    assert len(html) >= 2
    assert all("<table>" in text or "<svg" in text for text in html)
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)
    assert not [*tmp_path.iterdir()]


def _result(source, names):
    """The value of a cell's last expression, which a notebook displays."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    return None if last is None else eval(compile(ast.Expression(last.value), "cell", "eval"), names)


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_jupyter_runs_a_notebook(name, tmp_path):
    """Figures are inline, and so is the progress bar of `teacher`. `researcher` defines a layer, saves and loads it."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    pytest.importorskip(NEEDS.get(name, "gpuconv"))
    book = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)
    nbformat.validate(book)
    nbclient.NotebookClient(book, timeout=300, resources={"metadata": {"path": tmp_path}}).execute()
    outputs = [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]
    kinds = [kind for output in outputs for kind in output.get("data", {})]
    assert kinds.count("text/html") >= 2
    drawn = sum("gc.plots." in source for source in cells(name))
    assert kinds.count("image/png") == drawn
    if name == "teacher":
        printed = "".join(output.text for output in outputs if output.output_type == "stream")
        assert "epoch 1/" in printed
        # The progress bar is a widget where ipywidgets is installed.
        assert "step/s" in printed or "application/vnd.jupyter.widget-view+json" in kinds
    assert not [*tmp_path.iterdir()]
