"""Options of `gpuconv train` beyond the recipe's: a validation part, initial weights, settings files."""

from __future__ import annotations

import json
import math
import re
import sys

import numpy as np
import pytest

from gpuconv.cli import main
from tests.cli.command import output_of
from tests.cli.small_run import TINY_DATA, TINY_RUN

pytest.importorskip("safetensors")
pytest.importorskip("tqdm")

pytestmark = pytest.mark.usefixtures("work")


def metrics(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


# --- a part to validate on -----------------------------------------------------------------------


def test_with_a_validation_part_the_test_images_are_used_once_at_the_end(work, capsys):
    out = output_of(capsys, "train", *TINY_RUN, "--epochs", 2, "--validation", 0.25, "--run-dir", "run")
    assert "72 images to train on, 24 to validate on, 19 to test on" in out
    assert "validation 0.25" in out
    epochs, test = metrics(work / "run")[:-1], metrics(work / "run")[-1]
    assert test["event"] == "test"
    assert all("validation_loss" in record and "test_loss" not in record for record in epochs)
    assert f"test accuracy {100 * test['test_accuracy']:.2f}%" in out.splitlines()
    before = (work / "run" / "last.safetensors").read_bytes()
    assert "test accuracy" in output_of(capsys, "train", "--resume", "run")
    assert metrics(work / "run")[-1] == test
    assert (work / "run" / "last.safetensors").read_bytes() == before
    assert "--validation is 0.25 there, 0.5 here" in output_of(
        capsys, "train", "--resume", "run", "--validation", 0.5, status=2
    )
    main(["evaluate", "run", "--device", "numpy"])
    out, err = capsys.readouterr()
    assert "warning" not in err  # the data is that of the run
    assert f"test accuracy {100 * test['test_accuracy']:.2f}%" in out
    for wrong in ("1", "-0.1", "nan", "half"):
        assert f"expected a fraction from 0 to below 1, received '{wrong}'" in output_of(
            capsys, "train", *TINY_RUN, f"--validation={wrong}", status=2
        )


def test_early_stopping_is_by_validation_accuracy_or_training_loss(work, capsys):
    unchanging = [*TINY_RUN, "--lr", 1e-12, "--schedule", "constant", "--epochs", 9, "--early-stopping", 2]
    out = output_of(capsys, "train", *unchanging, "--validation", 0.25, "--run-dir", "judged")
    assert "early stopping 2" in out
    assert "early stopping: no better validation_accuracy in 2 epochs" in out
    assert [record["event"] for record in metrics(work / "judged")] == ["epoch"] * 3 + ["test"]
    output_of(capsys, "train", "--resume", "judged")  # it stays stopped
    assert [record["event"] for record in metrics(work / "judged")] == ["epoch"] * 3 + ["test"]
    output_of(capsys, "train", *TINY_RUN, "--epochs", 3, "--early-stopping", 2, "--run-dir", "learning")
    assert len(metrics(work / "learning")) == 3


def test_a_plateau_lowers_the_rate_and_is_stored_with_the_run(work, capsys):
    unchanging = [*TINY_RUN, "--lr", 1e-12, "--schedule", "constant", "--epochs", 3]
    for validation in ([], ["--validation", 0]):
        error = output_of(capsys, "train", *unchanging, *validation, "--plateau", 1, "--run-dir", "run", status=2)
        assert "watches validation_loss, and there is no validation data; give --validation 0.1 too, or watch" in error
        assert not (work / "run").exists()
    assert "did you mean 'train_loss'" in output_of(
        capsys, "train", *unchanging, "--plateau", "1,watch=trainloss", status=2
    )
    out = output_of(capsys, "train", *unchanging, "--validation", 0.25, "--plateau", "0,factor=0.5", "--run-dir", "run")
    assert "plateau 0,factor=0.5" in out
    lines = [line for line in out.splitlines() if line.startswith("epoch")]
    assert ["  rate x 0.5 " in line for line in lines] == [False, True, False]
    assert "  rate x 0.25 " in lines[2]
    assert [record["lr"] for record in metrics(work / "run")[:-1]] == [1e-12, 1e-12, 5e-13]
    assert 'plateau = "0,factor=0.5"' in (work / "run" / "config.toml").read_text()
    output_of(capsys, "train", "--resume", "run")
    by_config = [*unchanging, "--config", "run/config.toml", "--run-dir", "again"]
    assert "plateau 0,factor=0.5" in output_of(capsys, "train", *by_config)
    output_of(capsys, "train", *unchanging, "--plateau", "0,watch=train_loss", "--run-dir", "trained")
    assert metrics(work / "trained")[-1]["plateau"] == pytest.approx(0.01)


def test_clipping_is_stored_with_the_run(work, capsys):
    assert "must be above 0" in output_of(capsys, "train", *TINY_RUN, "--clip", 0, "--run-dir", "run", status=2)
    assert not (work / "run").exists()
    for clip in ("1e-9", "value:1e-9"):
        run = f"run-{clip[0]}"
        out = output_of(
            capsys, "train", *TINY_RUN, "--epochs", 1, "--lr", 1, "--optimizer", "sgd", "--clip", clip, "--run-dir", run
        )
        assert f", clip {clip}" in out
        assert f'clip = "{clip}"' in (work / run / "config.toml").read_text()
        assert metrics(work / run)[-1]["train_loss"] == pytest.approx(2.3, abs=0.3)
        output_of(capsys, "train", "--resume", run)


def test_the_average_of_the_weights_is_tested_stored_and_evaluated(work, capsys):
    assert "from 0 to below 1" in output_of(capsys, "train", *TINY_RUN, "--ema", 1, "--run-dir", "run", status=2)
    out = output_of(capsys, "train", *TINY_RUN, "--epochs", 2, "--ema", 0.9, "--run-dir", "run")
    assert ", ema 0.9" in out
    assert "ema = 0.9" in (work / "run" / "config.toml").read_text()
    accuracy = re.findall(r"test accuracy +([0-9.]+%)", out)[-1]
    assert f"test accuracy {accuracy}" in output_of(capsys, "evaluate", "run", "--which", "last")
    output_of(capsys, "train", "--resume", "run")


def test_accumulated_batches_are_stored_with_the_run(work, capsys):
    assert "of at least 1" in output_of(capsys, "train", *TINY_RUN, "--accumulate", 0, "--run-dir", "run", status=2)
    out = output_of(capsys, "train", *TINY_RUN, "--epochs", 1, "--accumulate", 2, "--shards", 2, "--run-dir", "both")
    assert ", 2 shards, 2 batches per update" in out
    out = output_of(capsys, "train", *TINY_RUN, "--epochs", 1, "--accumulate", 2, "--run-dir", "run")
    assert ", 2 batches per update" in out
    assert "accumulate = 2" in (work / "run" / "config.toml").read_text()
    output_of(capsys, "train", *TINY_RUN, "--epochs", 1, "--run-dir", "single")
    steps = metrics(work / "single")[-1]["step"]
    assert metrics(work / "run")[-1]["step"] == math.ceil(steps / 2)
    output_of(capsys, "train", "--resume", "run")


def test_shards_are_stored_with_the_run(work, capsys):
    out = output_of(capsys, "train", *TINY_RUN, "--epochs", 1, "--shards", 2, "--run-dir", "cut")
    assert ", 2 shards" in out
    assert "shards = 2" in (work / "cut" / "config.toml").read_text()
    stored = json.loads((work / "cut" / "run.json").read_text())["settings"]
    assert (stored["shards"], stored["options"]["command"]["shards"]) == (2, 2)
    output_of(capsys, "train", "--resume", "cut")
    for wrong in ("3", "-2", "two"):
        assert f"received '{wrong}'" in output_of(capsys, "train", *TINY_RUN, f"--shards={wrong}", status=2)


def test_batch_norm_over_all_ranks_is_stored_with_the_run(work, capsys):
    assert "must be 1 or 0, received '2'" in output_of(capsys, "train", *TINY_RUN, "--sync-batch-norm", "2", status=2)
    out = output_of(capsys, "train", *TINY_RUN, "--epochs", 1, "--sync-batch-norm", "--run-dir", "run")
    assert ", batch norm over all ranks" in out
    assert "sync_batch_norm = 1" in (work / "run" / "config.toml").read_text()
    output_of(capsys, "train", "--resume", "run")
    out = output_of(capsys, "train", *TINY_RUN, "--epochs", 1, "--sync-batch-norm", "--shards", 2, "--run-dir", "cut")
    assert ", 2 shards, batch norm over all ranks" in out


# --- initial weights -----------------------------------------------------------------------------


def weights(path):
    from gpuconv import load

    return {name: np.array(value) for name, value in load(path).state_dict().items()}


@pytest.mark.slow
def test_training_starts_from_the_weights_of_a_run_a_checkpoint_or_a_saved_net(work, capsys):
    from gpuconv import load

    output_of(capsys, "train", *TINY_RUN, "--epochs", 1, "--seed", 5, "--run-dir", "first")
    load("first").save("saved.safetensors")
    unchanging = [*TINY_RUN, "--lr", 1e-30, "--schedule", "constant", "--epochs", 1]
    for number, path in enumerate(("first", "first/last.safetensors", "saved.safetensors")):
        assert "weights of /" in output_of(capsys, "train", *unchanging, "--weights", path, "--run-dir", f"run{number}")
        for name, value in weights("first").items():
            np.testing.assert_array_equal(weights(f"run{number}")[name], value)
    before = (work / "run0" / "last.safetensors").read_bytes()
    (work / "first").rename(work / "gone")  # the checkpoint of run0 holds the weights
    assert "test accuracy" in output_of(capsys, "train", "--resume", "run0")
    assert (work / "run0" / "last.safetensors").read_bytes() == before
    for path, message in (
        ("nowhere", "'.*nowhere' does not exist; a saved net or a run directory is expected"),
        ("gone/run.json", "truncated, corrupt or not a safetensors file"),
        (".", "holds no run"),
    ):
        err = output_of(capsys, "train", *unchanging, "--weights", path, "--run-dir", "not", status=2)
        assert re.search(message, err)
    five_classes = [*unchanging, "--data", TINY_DATA.replace("classes=4", "classes=5")]
    err = output_of(capsys, "train", *five_classes, "--weights", "gone", "--run-dir", "not", status=2)
    assert re.search(r"fc1.weight has shape \(4, \d+\) there and \(5, \d+\) here", err)
    err = output_of(
        capsys, "train", *unchanging, "--model", "three-layer", "--weights", "gone", "--run-dir", "not", status=2
    )
    assert "is not part of this net" in err or "is missing" in err or "has shape" in err
    assert not (work / "not").exists()


# --- settings files ------------------------------------------------------------------------------


def test_a_run_writes_a_settings_file_that_reproduces_it(work, capsys):
    output_of(
        capsys, "train", *TINY_RUN, "--epochs", 2, "--validation", 0.25, "--seed", 3, "--lr", 0.02, "--run-dir", "one"
    )
    output_of(capsys, "train", "--config", "one/config.toml", "--device", "numpy", "--run-dir", "two")
    for name in ("metrics.jsonl", "metrics.csv", "last.safetensors", "run.json", "config.toml"):
        assert (work / "one" / name).read_bytes() == (work / "two" / name).read_bytes(), name
    out = output_of(capsys, "train", "--config", "one/config.toml", "--epochs", 1, "--run-dir", "three")
    assert "recipe     1 epochs" in out
    out = output_of(capsys, "train", "--config", "one/config.toml", "--optimizer", "adam:lr=0.25", "--run-dir", "four")
    assert "adam:lr=0.25 lr 0.25" in out
    assert "test accuracy" in output_of(capsys, "train", "--resume", "one", "--config", "one/config.toml")
    assert "--seed is 3 there, 4 here" in output_of(
        capsys, "train", "--resume", "one", "--config", "one/config.toml", "--seed", 4, status=2
    )


def test_every_text_is_read_back_from_the_settings_file(work):
    from gpuconv.cli import config, run_settings
    from gpuconv.training import config_file

    for path in ('a "b" \\ c', "\x7f\t\x01", "caf\udce9", "\U0001f600 é", "#=[x]", "'''"):
        settings = run_settings.to_store(
            run_settings.with_recipe({"data": f"cifar10:/{path}", "lr": 1e-05, "weights": f"/{path}"})
        )
        (work / "c.toml").write_bytes(
            config_file.text({"options": {"command": settings}}).encode("utf-8", "surrogateescape")
        )
        assert config.read("c.toml") == settings


def test_a_settings_file_is_checked_before_anything_is_created(work, capsys):
    for text, message in (
        ("epoch = 3", "unknown setting 'epoch'; did you mean 'epochs'?"),
        ("Batch-Size = 2\nbatch_sise = 3", "unknown setting 'batch_sise'; did you mean 'batch_size'?"),
        ("epochs = '3'", "epochs must be a number, received '3'"),
        ("epochs = true", "received True"),
        ("epochs = 1.5", "epochs: expected a whole number of at least 1, received '1.5'"),
        ("lr = -1", "lr: expected a number above 0"),
        ("lr = nan", "lr: expected a number above 0"),
        ("model = 3", "model must be text, received 3"),
        ("[train]\nlr = 1", "unknown setting 'train'"),
        ("lr = [1]", "lr must be a number, received [1]"),
        ("lr = ", "c.toml is not valid TOML: Invalid value"),
        (f"epochs = {'9' * 5000}", "c.toml is not valid TOML: Exceeds the limit"),
        ("batch-size = 1\nbatch_size = 2", "c.toml: batch_size is given twice"),
        ("lr = 1\nlr = 2", "Cannot overwrite a value"),
        ("model = 'tiny-vg'", "did you mean 'tiny-vgg'?"),
        ("recipe = 'digit-net'", "did you mean 'digits-net'"),
        ("\xff" * 3, "c.toml is not valid TOML"),
    ):
        (work / "c.toml").write_bytes(text.encode("latin1"))
        err = output_of(capsys, "train", "--config", "c.toml", "--run-dir", "run", status=2)
        assert message in err, (text, err)
    for path, message in (("none.toml", "No such file"), (".", "is not a regular file")):
        assert message in output_of(capsys, "train", "--config", path, "--run-dir", "run", status=2)
    assert [path.name for path in work.iterdir()] == ["c.toml"]
    (work / "c.toml").write_text(f'recipe = "default"\nmodel = "seed-net"\ndata = "{TINY_DATA}"\nepochs = 1\n')
    assert "recipe     1 epochs, batches of 64" in output_of(capsys, "train", "--config", "c.toml", "--run-dir", "run")


# --- nets in files -------------------------------------------------------------------------------

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

def maps():
    return Sequential([Input((4, 4, 3)), Conv2D(3, 3)])

def larger():
    return Sequential([Input((3, 3, 3), larger=True), Conv2D(4, 3), GlobalAvgPool2D(), Flatten()])
"""


@pytest.fixture
def my_net(work, request):
    name = f"my_net_{len(request.node.name)}_{abs(hash(request.node.name))}"  # unique: modules are imported only once
    (work / f"{name}.py").write_text(NET)
    yield f"{name}.py"
    sys.modules.pop(name, None)
    sys.path[:] = [folder for folder in sys.path if folder != str(work)]


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
    assert f"is run only if you name it: --model {work}/{my_net}:build" in err
    assert "test accuracy" in output_of(capsys, "train", "--resume", "build", "--model", f"{my_net}:build")
    output_of(capsys, "train", *options, "--model", f"{my_net}:build")
    assert (work / "runs" / f"synthetic-{my_net[:-3]}-1").is_dir()
    assert "conv1" in output_of(capsys, "summary", "--model", f"{my_net}:build", "--input", "9x7x3", "--classes", 4)
    assert "conv1" in output_of(capsys, "summary", "--model", f"{my_net}:fixed")


def test_a_file_without_a_usable_net_gives_an_error_of_one_line(work, my_net, capsys):
    (work / "wrong_syntax.py").write_text("def build(:")
    (work / "json.py").write_text("")
    for model, message in (
        (f"{my_net}:broken", r"broken failed: ZeroDivisionError: division by zero \(line 14; --debug shows more\)"),
        (f"{my_net}:nothing", "must return a net, or a list of layers; it returned NoneType"),
        (f"{my_net}:biuld", "unknown function of .* 'biuld'; did you mean 'build'"),
        ("none.py:build", "none.py: no such file"),
        ("wrong_syntax.py:build", "cannot be imported: SyntaxError"),
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
