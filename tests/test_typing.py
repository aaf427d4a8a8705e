"""What a type checker, and with it an editor, knows of a call."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

GIVEN = """\
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
with gc.oracle():
    gc.ops.add(x, x)
gc.training.SGD(momentum=0.9)
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
    "gc.training.SGD(lrr=1)": 'Unexpected keyword argument "lrr" for "SGD"; did you mean "lr"?',
    "gc.layers.Conv2D(3, 3, strid=2)": 'Unexpected keyword argument "strid" for "Conv2D"; did you mean "stride"?',
    "gc.training.SGD(momentum='0.9')": 'Argument "momentum" to "SGD" has incompatible type "str"',
}


@pytest.mark.slow
def test_a_wrong_argument_is_an_error_before_the_program_runs(tmp_path):
    pytest.importorskip("mypy")
    program = tmp_path / "program.py"
    program.write_text(GIVEN + RIGHT + "\n".join(WRONG))
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--cache-dir", tmp_path / "cache", "--no-pretty", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    lines = program.read_text().splitlines()
    found = {}
    for number, message in re.findall(r"program\.py:(\d+): error: (.*)", done.stdout):
        found.setdefault(lines[int(number) - 1], message)
    for call, words in WRONG.items():
        assert words in found.get(call, ""), call
    assert found.keys() == WRONG.keys(), done.stdout + done.stderr
