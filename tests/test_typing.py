"""What a type checker, and thus an editor, knows about a call."""

import json
import re
import shutil
import subprocess
import sys
import textwrap
from inspect import signature
from pathlib import Path

import pytest

from gpuconv.training.optimizers import OPTIMIZERS, Groups
from gpuconv.training.protocols import OptimizerSettings
from tests.sources import ROOT

DEFINITIONS = """\
import numpy as np
import gpuconv as gc
from gpuconv import ops
x = np.ones((1, 4, 4, 3), np.float32)
w = np.ones((2, 3, 3, 3), np.float32)
labels = np.zeros(3, np.int64)
"""

RIGHT = """\
y: np.ndarray = ops.conv2d(x, w, stride=(1, 2), padding=((0, 1), (2, 3)), activation="relu", out=x)
ops.conv2d(x, w, None, padding="same", algo="simt-64x64", tf32=True)
ops.conv2d_wgrad(y, x, kernel_size=(3, 3), accumulate=True, out=w)
np.abs(ops.relu(x)) + 1
pooled, argmax = ops.max_pool2d(x, kernel_size=2)
pooled.T @ argmax
loss, dx = ops.softmax_cross_entropy(x, labels, grad_scale=2)
print(float(loss), dx.max())
ops.sgd_step([x, w], (x, w), lr=0.1, weight_decay=[0.1, 0.2])
ops.adam_step([x], [x], [x], [x], lr=np.ones(1), step=np.ones(1, np.int64))
ops.relu(gc.asarray(x, "cuda"))
a = gc.layers.ReLU().forward(x)
ops.relu(a) * 2 - 1 / a.T @ a
print(float(a[0].sum()), a.reshape(2, -1).copy(), bool((a > 0).all()), np.maximum(x, a + 1))
x[argmax] -= 0.1 * a
with gc.oracle():
    gc.ops.add(x, x)
gc.training.SGD(momentum=0.9)
precision: str = gc.Sequential(gc.layers.Linear(3), gc.layers.ReLU(), seed=1, precision="tf32").precision
gc.Sequential(layers=[gc.layers.ReLU()], name="relus", frozen=True)
"""

WRONG = {
    "ops.conv2d(x, w, strid=2)": 'Unexpected keyword argument "strid" for "conv2d"; did you mean "stride"?',
    "ops.conv2d(x, w, None, 2)": 'Too many positional arguments for "conv2d"',
    "ops.conv2d(x, w, stride=2.5)": 'Argument "stride" to "conv2d" has incompatible type "float"',
    "ops.max_pool2d(x)": 'Missing positional argument "kernel_size" in call to "max_pool2d"',
    "ops.relu(3)": '"relu" cannot be "int"',
    "ops.relu('x')": '"relu" cannot be "str"',
    "ops.relu(None)": '"relu" cannot be "None"',
    "ops.linear(x, 3.0)": '"linear" cannot be',
    "ops.linear_backward(x, w)": "has no attribute",
    "ops.dropout(x, p='0.5', seed=1)": 'Argument "p" to "dropout" has incompatible type "str"; expected "float"',
    "ops.sgd_step([x], [x])": 'Missing named argument "lr" for "sgd_step"',
    "ops.sgd_step([x], 3, lr=0.1)": 'Argument 2 to "sgd_step" has incompatible type "int"',
    "a.shap": '"Array" has no attribute "shap"',
    "(a * 2).shap": '"Array" has no attribute "shap"',
    "argmax.shap": '"Array" has no attribute "shap"',
    "loss.shap": 'has no attribute "shap"',
    "gc.Sequential()": 'Missing positional argument "layers" in call to "Sequential"',
    "gc.Sequential([], sed=1)": 'Unexpected keyword argument "sed" for "Sequential"',
    "gc.training.SGD(momentum='0.9')": 'Argument "momentum" to "SGD" has incompatible type "str"',
}


@pytest.mark.slow
def test_a_wrong_argument_is_an_error_before_the_program_runs(tmp_path):
    pytest.importorskip("mypy")
    program = tmp_path / "program.py"
    program.write_text(DEFINITIONS + RIGHT + "\n".join(WRONG))
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--cache-dir", tmp_path / "cache", "--no-pretty", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    lines = program.read_text().splitlines()
    errors = {}
    for number, message in re.findall(r"program\.py:(\d+): error: (.*)", done.stdout):
        errors.setdefault(lines[int(number) - 1], message)
    for call, words in WRONG.items():
        assert words in errors.get(call, ""), call
    assert errors.keys() == WRONG.keys(), done.stdout + done.stderr


# --- user programs under `mypy --strict` and strict pyright --------------------------------------

PROGRAMS = Path(__file__).parent / "typing"
UNTYPED = "onnxruntime"  # has no annotations, so a program that imports it cannot pass strict checks
PAGES = [ROOT / "README.md", *(ROOT / "docs" / f"{name}.md" for name in ("nets", "layers", "training", "profiling"))]

PREAMBLE = """\
# mypy: allow-untyped-defs, allow-untyped-calls
# pyright: standard
from typing import Any
import numpy as np
import gpuconv as gc
train, test = gc.data.load("digits")
images = test.images
x = gc.asarray(np.zeros((1, 8, 8, 1), np.float32))
net = gc.models.build("digits-net")
trainer = gc.Trainer(net)
state: dict[str, Any] = {}
my_conv: Any = None
module: Any = None
"""


@pytest.fixture
def programs(tmp_path):
    """A folder with the examples that do not import UNTYPED, the code from the docs pages, and `tests/typing`."""
    for path in (*(ROOT / "examples").glob("*.py"), *PROGRAMS.glob("*.py")):
        if f"import {UNTYPED}" not in path.read_text():
            shutil.copy(path, tmp_path)
    for page in PAGES:
        blocks = re.findall(r"^ *```python\n(.*?)^ *```", page.read_text(), re.M | re.S)
        assert blocks, page
        (tmp_path / f"{page.stem}_page.py").write_text(PREAMBLE + "".join(map(textwrap.dedent, blocks)))
    return tmp_path


def wrong_lines():
    """The lines of `typing/wrong.py` that are wrong."""
    lines = (PROGRAMS / "wrong.py").read_text().splitlines()
    return {("wrong.py", number) for number, line in enumerate(lines, 1) if line.endswith("# error")}


@pytest.mark.slow
def test_mypy_accepts_examples_and_pages_and_finds_mistakes(programs):
    api = pytest.importorskip("mypy.api")
    settings = programs / "mypy.ini"  # errors in gpuconv's own files are silent, as for an installed package
    settings.write_text(
        f"[mypy]\nstrict = true\nmypy_path = {ROOT}\ncache_dir = {programs}/cache\n"
        "[mypy-gpuconv.*]\nfollow_imports = silent\n"
    )
    output = api.run(["--config-file", str(settings), *map(str, programs.glob("*.py"))])[0]
    reported = re.findall(r"([^/\n]+):(\d+): error: ", output)
    assert {(name, int(line)) for name, line in reported} == wrong_lines(), output
    assert 'Unexpected keyword argument "lrr" for "SGD"; did you mean "lr"?' in output


@pytest.mark.slow
def test_pyright_accepts_examples_and_pages_and_finds_mistakes(programs):
    pyright = shutil.which("pyright")
    if pyright is None:
        pytest.skip("pyright is not installed")
    settings = {"typeCheckingMode": "strict", "extraPaths": [str(ROOT)]}
    (programs / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [pyright, "--pythonpath", sys.executable, "--outputjson", "-p", str(programs)]
    result = json.loads(subprocess.run(command, capture_output=True, text=True).stdout)["generalDiagnostics"]
    errors = [entry for entry in result if entry["severity"] == "error"]
    assert {(Path(error["file"]).name, error["range"]["start"]["line"] + 1) for error in errors} == wrong_lines(), (
        errors
    )


def test_the_settings_known_to_type_checkers_are_those_of_the_optimizers():
    kinds = (*OPTIMIZERS.values(), Groups)
    assert OptimizerSettings.__annotations__.keys() == {name for kind in kinds for name in signature(kind).parameters}
