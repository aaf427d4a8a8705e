"""The examples run as they stand, and type checkers accept them."""

import json
import runpy
import shutil
import subprocess
import sys
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


@pytest.fixture
def strict(tmp_path):
    """What `mypy --strict` says of files, as of an installed gpuconv, whose own files are not its business."""
    api = pytest.importorskip("mypy.api")
    settings = tmp_path / "mypy.ini"
    settings.write_text(
        f"[mypy]\nstrict = true\nmypy_path = {ROOT}\ncache_dir = {tmp_path}\n"
        "[mypy-gpuconv.*]\nfollow_imports = silent\n"
    )
    return lambda *files: api.run(["--config-file", str(settings), *map(str, files)])[0]


@pytest.mark.slow
def test_mypy_accepts_the_examples_and_sees_mistakes(strict, tmp_path):
    programs = [EXAMPLES / f"{name}.py" for name in PROGRAMS if name not in NEEDS]
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "import gpuconv as gc\n"
        "gc.training.SGD(lrr=1)\n"
        "gc.Sequnetial\n"
        "gc.layers.Conv2D(3, 3, paddding=1)\n"
        "gc.load(3)\n"
        "gc.ops.relu\n"
    )
    said = strict(*programs, wrong)
    assert [line.partition(": ")[0].rpartition(":")[2] for line in said.splitlines() if ": error:" in line] == [
        "2",
        "3",
        "4",
        "5",
    ], said
    assert 'Unexpected keyword argument "lrr" for "SGD"' in said
    assert all("wrong.py" in line for line in said.splitlines() if ": error:" in line)


@pytest.mark.slow
def test_pyright_accepts_the_examples_and_sees_mistakes(tmp_path):
    pyright = shutil.which("pyright")
    if pyright is None:
        pytest.skip("pyright is not installed")
    for name in PROGRAMS:
        if name not in NEEDS:
            shutil.copy(EXAMPLES / f"{name}.py", tmp_path)
    (tmp_path / "wrong.py").write_text("import gpuconv as gc\n\ngc.training.SGD(lrr=1)\n")
    settings = {"typeCheckingMode": "strict", "extraPaths": [str(ROOT)]}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [pyright, "--pythonpath", sys.executable, "--outputjson", "-p", str(tmp_path)]
    found = json.loads(subprocess.run(command, capture_output=True, text=True).stdout)["generalDiagnostics"]
    assert [(Path(each["file"]).name, each["rule"]) for each in found if each["severity"] == "error"] == [
        ("wrong.py", "reportCallIssue")
    ], found
