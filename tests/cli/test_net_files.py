"""Nets from a function in a user's file, and the commands that read runs whose nets have layers from such a file."""

import json
import os
import re
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

import gpuconv as gc
from gpuconv.layers.registry import LAYERS
from tests.cli.command import output_of
from tests.cli.small_run import TINY_DATA, TINY_RUN, weights

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
    """Undo the import of the file, as if in a new process."""
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
        assert "is run only if you name the file: --model" in refused
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
    assert "is run only if you name the file" in output_of(capsys, *command, status=2)
    output_of(capsys, *command, "--model", file)
    assert served[0]["run_dir"] == tmp_path / "run"


def test_export_runs_the_file_of_a_net_only_if_model_names_it(file, tmp_path, capsys):
    pytest.importorskip("onnx")
    train_by_command(file, tmp_path / "run", capsys)
    forget(file)
    command = ["export", tmp_path / "run", tmp_path / "net.onnx"]
    refused = output_of(capsys, *command, status=2)
    assert "Halved1', which a file of yours defines" in refused
    assert "the file's code is run only if you name the file: --model FILE.py" in refused
    assert file.stem not in sys.modules
    assert "the layer Halved1 has no ONNX form" in output_of(capsys, *command, "--model", file, status=2)


def test_a_file_whose_layer_changed_is_refused(file, tmp_path, capsys, monkeypatch):
    """The file keeps its size and its time of modification, so Python's bytecode cache misses the change."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    train_by_command(file, tmp_path / "run", capsys)
    forget(file)
    before = file.stat()
    file.write_text(FILE.format(number=2), encoding="utf-8")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    output = output_of(capsys, "evaluate", tmp_path / "run", "--model", file, "--device", "numpy", status=2)
    assert f"{file.stem}.Halved1" in output


NET = """
from gpuconv.layers import Conv2D, Flatten, GlobalAvgPool2D, Linear, ReLU, Sequential, Input

def build(input_shape, classes, seed=0):
    return Sequential([Input(input_shape), Conv2D(3, 3, padding=1), ReLU(), Flatten(), Linear(classes)], seed=seed)

def layers(shape, count):
    return [Conv2D(3, 3, padding=1), ReLU(), Flatten(), Linear(count)]

def fixed():
    return build((9, 7, 3), 4)

def broken(input_shape, classes):
    return 1 / 0

def nothing(input_shape, classes):
    return None

def no_layers(input_shape, classes):
    return []

def leaves(input_shape, classes):
    raise SystemExit(0)

def maps():
    return Sequential([Input((4, 4, 3)), Conv2D(3, 3)])

def with_defaults(input_shape=(9, 7, 3), classes=4):
    return build(input_shape, classes)

def shape_by_position(shape=(9, 7, 3), /, count=4):
    return build(shape, count)

def larger():
    return Sequential([Input((3, 3, 3), larger=True), Conv2D(4, 3), GlobalAvgPool2D(), Flatten()])
"""


@pytest.fixture
def my_net(work, request):
    name = f"my_net_{len(request.node.name)}_{abs(hash(request.node.name))}"  # unique: modules are imported only once
    (work / f"{name}.py").write_text(NET)
    yield f"{name}.py"
    sys.modules.pop(name, None)
    sys.path[:] = [folder for folder in sys.path if not folder.startswith(str(work))]


@pytest.mark.parametrize("function", ["with_defaults", "shape_by_position"])
def test_a_parameter_has_its_default_if_its_value_is_not_known(work, my_net, capsys, function):
    for options, shape, classes in (
        ([], [9, 7, 3], 4),
        (["--classes", 5], [9, 7, 3], 5),
        (["--input", "8x8x1"], [8, 8, 1], 4),
        (["--input", "8x8x1", "--classes", 5], [8, 8, 1], 5),
    ):
        output = output_of(capsys, "summary", "--model", f"{my_net}:{function}", *options, "--json")
        layers = json.loads(output)["layers"]
        assert (layers[0]["output_shape"], layers[-1]["output_shape"]) == (shape, [classes])


def test_a_file_is_found_in_the_home_directory(work, my_net, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(work))
    monkeypatch.chdir("/")
    assert "conv1" in output_of(capsys, "summary", f"--model=~/{my_net}:fixed")


def test_the_option_to_add_for_a_file_with_spaces_can_be_pasted_into_a_shell(work, my_net, capsys):
    folder = work / "my nets"
    folder.mkdir()
    shutil.copy(my_net, folder)
    output_of(capsys, "train", *TINY_RUN, "--epochs", 1, "--model", f"{folder / my_net}:build", "--run-dir", "run")
    err = output_of(capsys, "train", "--resume", "run", status=2)
    assert f"name the file: --model '{folder / my_net}:build'" in err


def test_a_net_from_a_function_in_a_file_is_trained_evaluated_and_resumed(work, my_net, capsys):
    options = [*TINY_RUN, "--epochs", 1, "--seed", 2]
    for name in ("build", "layers"):
        output_of(capsys, "train", *options, "--model", f"{my_net}:{name}", "--run-dir", name)
    for name, value in weights("build").items():
        np.testing.assert_array_equal(weights("layers")[name], value)
    for name in ("fixed", "larger"):
        output_of(capsys, "train", *options, "--model", f"{my_net}:{name}", "--run-dir", name)
    assert "test accuracy" in output_of(capsys, "evaluate", "build", "--device", "numpy")
    err = output_of(capsys, "train", "--resume", "build", status=2)
    assert f"is run only if you name the file: --model {work}/{my_net}:build" in err
    assert "test accuracy" in output_of(capsys, "train", "--resume", "build", "--model", f"{my_net}:build")
    output_of(capsys, "train", *options, "--model", f"{my_net}:build")
    assert (work / "runs" / f"synthetic-{my_net[:-3]}-1").is_dir()
    assert "conv1" in output_of(capsys, "summary", "--model", f"{my_net}:build", "--input", "9x7x3", "--classes", 4)
    assert "conv1" in output_of(capsys, "summary", "--model", f"{my_net}:fixed")


def test_a_file_without_a_usable_net_gives_an_error_of_one_line(work, my_net, capsys):
    (work / "wrong_syntax.py").write_text("def build(:")
    (work / "json.py").write_text("")
    (work / "leaves.py").write_text("import sys\nsys.exit('it needs another library')")
    for model, message in (
        (f"{my_net}:broken", r"broken failed: ZeroDivisionError: division by zero \(line 14; --debug shows more\)"),
        (f"{my_net}:nothing", "must return a net, or a list of layers; it returned NoneType"),
        (f"{my_net}:no_layers", "must return a net, or a list of layers; it returned an empty list"),
        (f"{my_net}:biuld", "unknown function of .* 'biuld'; did you mean 'build'"),
        ("none.py:build", "none.py: no such file"),
        ("wrong_syntax.py:build", "cannot be imported: SyntaxError"),
        ("leaves.py:build", r"cannot be imported: SystemExit: it needs another library \(line 2;"),
        (f"{my_net}:leaves", r"leaves failed: SystemExit: 0 \(line"),
        ("json.py:build", "another module is named 'json'"),
    ):
        err = output_of(
            capsys, "train", "--data", TINY_DATA, "--model", model, "--device", "numpy", "--run-dir", "run", status=2
        )
        assert re.search(message, err), err
    other = ["--data", TINY_DATA.replace("classes=4", "classes=5"), "--model", f"{my_net}:fixed", "--run-dir", "run"]
    assert "must give 5 scores, one for each class, but gives (4,)" in output_of(capsys, "train", *other, status=2)
    other = ["--data", TINY_DATA.replace("9x7x3", "9x8x3"), "--model", f"{my_net}:fixed", "--run-dir", "run"]
    assert "the net takes volumes of 9 x 7 x 3" in output_of(capsys, "train", *other, status=2)
    output = output_of(capsys, "summary", "--model", f"{my_net}:fixed", "--input", "8x8x3", status=2)
    assert "fixed makes a net for 9 x 7 x 3, whatever --input is; received 8 x 8 x 3" in output
    for command in ("summary", "profile", "prove"):
        output = output_of(capsys, command, "--model", f"{my_net}:build", status=2)
        assert "give its parameters defaults (gpuconv summary also takes --input and --classes)" in output, command
    for command in ("profile", "prove"):
        output = output_of(capsys, command, "--model", f"{my_net}:maps", status=2)
        assert "maps must give scores, one for each class, but gives (2, 2, 3)" in output, command
    assert not (work / "run").exists()
