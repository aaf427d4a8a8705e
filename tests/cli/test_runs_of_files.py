"""Runs whose nets have layers from a user's file, in commands that read a run."""

import os
import sys

import numpy as np
import pytest
from PIL import Image

import gpuconv as gc
from gpuconv.layers.registry import LAYERS
from tests.cli.command import output_of

FILE = """
from dataclasses import dataclass
import numpy as np
from gpuconv.layers import Input, Flatten, Layer, Linear, Sequential

@dataclass(eq=False, repr=False)
class Halved{number}(Layer):
    by: float = 2.0

    def forward(self, x, training=False):
        return x / np.float32(self.by)

    def backward(self, dy, *, input_grad=True):
        return dy / np.float32(self.by) if input_grad else None

def build(input_shape, classes):
    return [Flatten(), Halved{number}(), Linear(classes)]
"""


def forget(path):
    """The file counts as not imported, as in a new process."""
    sys.modules.pop(path.stem, None)
    for name in [name for name in LAYERS if name.startswith(f"{path.stem}.")]:
        del LAYERS[name]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / f"net_{abs(hash(str(tmp_path)))}.py"
    path.write_text(FILE.format(number=1), encoding="utf-8")
    yield path
    forget(path)


def train_by_command(file, folder, capsys):
    output_of(capsys, "train", "--model", file, "--epochs", 1, "--run-dir", folder, "--device", "numpy")


def train_in_python(file, folder, capsys):
    from gpuconv.cli import nets

    train, test = gc.data.load("digits")
    net = nets.build(f"{file}:build", (8, 8, 1), 10)
    trainer = gc.Trainer(net)
    trainer.fit(train, epochs=1, test=test, run_dir=folder, progress=False)


@pytest.mark.slow
@pytest.mark.parametrize("train", [train_by_command, train_in_python], ids=lambda function: function.__name__)
def test_commands_run_the_file_of_a_net_only_if_model_names_it(train, file, tmp_path, capsys):
    run, device = tmp_path / "run", ["--device", "numpy"]
    train(file, run, capsys)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "x.png")
    commands = [
        ["evaluate", run, *device],
        ["predict", tmp_path / "x.png", "--run-dir", run, *device],
        ["summary", "--run-dir", run],
        ["train", "--resume", run, *device],
    ]
    moved = tmp_path / "elsewhere" / file.name
    moved.parent.mkdir()
    moved.write_text(file.read_text(encoding="utf-8"), encoding="utf-8")
    for command in commands:
        forget(file)
        refused = output_of(capsys, *command, status=2)
        assert "is run only if you name it: --model" in refused
        assert file.stem not in sys.modules
        for model in (file, f"{file}:build", moved):
            forget(file)
            output_of(capsys, *command, "--model", model)
    forget(file)
    assert "a run has its own net" in output_of(capsys, "evaluate", run, "--model", "digits-net", status=2)
    assert "no such file" in output_of(capsys, "evaluate", run, "--model", tmp_path / "gone.py", status=2)
    file.write_text("1 / 0", encoding="utf-8")
    assert "ZeroDivisionError" in output_of(capsys, "evaluate", run, "--model", file, status=2)


def test_live_runs_the_file_of_a_net_only_if_model_names_it(file, tmp_path, capsys, monkeypatch):
    from gpuconv import live

    served = []
    monkeypatch.setattr(live, "expect_installed", lambda: None)
    monkeypatch.setattr(live, "Session", lambda *sets, **options: options)
    monkeypatch.setattr(live, "serve", lambda session, **options: served.append(session()))
    train_by_command(file, tmp_path / "run", capsys)
    forget(file)
    command = ["live", tmp_path / "run", "--device", "numpy"]
    assert "is run only if you name it" in output_of(capsys, *command, status=2)
    output_of(capsys, *command, "--model", file)
    assert served[0]["run_dir"] == tmp_path / "run"


def test_a_file_whose_layer_changed_is_refused(file, tmp_path, capsys, monkeypatch):
    """Python's bytecode cache cannot tell: the file keeps its size and its time of modification."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    train_by_command(file, tmp_path / "run", capsys)
    forget(file)
    before = file.stat()
    file.write_text(FILE.format(number=2), encoding="utf-8")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    output = output_of(capsys, "evaluate", tmp_path / "run", "--model", file, "--device", "numpy", status=2)
    assert f"{file.stem}.Halved1" in output
