"""The examples run as they stand."""

import json
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
NEEDS = {"from_pytorch": "torch", "to_onnx": "onnxruntime"}
PROGRAMS = sorted(path.stem for path in EXAMPLES.glob("*.py"))


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
@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_runs_and_its_results_have_html(path):
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    names: dict = {}
    shown = []
    for cell in cells:
        *lines, last = "".join(cell["source"]).splitlines()
        exec("\n".join(lines), names)
        shown.append(_result(last, names))
    html = [value._repr_html_() for value in shown if hasattr(value, "_repr_html_")]
    assert len(html) >= 4
    assert all("<table>" in text or "<svg" in text for text in html)


def _result(line, names):
    try:
        return eval(line, names)
    except SyntaxError:
        return exec(line, names)
