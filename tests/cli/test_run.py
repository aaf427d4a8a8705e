"""The command line end to end, in one run directory: train, interrupt, resume, evaluate, predict."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from gpuconv.cli import main, run_settings, runs
from tests import pictures

pytest.importorskip("safetensors")
pytest.importorskip("tqdm")

# Training takes seconds: there are 96 images of 9x7, and the net has a convolution, a ReLU, a pool and an FC layer.
DATA = "synthetic:n=96,size=9x7x3,classes=4"
TINY = ["--data", DATA, "--model", "seed-net", "--batch-size", "32", "--device", "numpy"]


def train(*options):
    return main(["train", *TINY, *map(str, options)])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    directory = tmp_path_factory.mktemp("trained") / "run"
    with pictures.drawn():
        assert train("--epochs", 2, "--run-dir", directory) == 0
    return directory


def last_line(capsys):
    return capsys.readouterr().out.rstrip("\n").rpartition("\n")[2]


def test_train_prints_data_device_and_epochs_and_ends_with_the_test_accuracy(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert train("--epochs", 2) == 0
    output = capsys.readouterr().out
    assert "96 images to train on, 19 to test on, 9x7x3, 4 classes" in output
    assert re.search(r"^device +numpy \(as you asked\)$", output, re.M)
    epoch = r"^epoch (\d)/2  loss [\d.]+  accuracy [\d.]+%  test loss [\d.]+  test accuracy ([\d.]+)%"
    epochs = re.findall(epoch, output, re.M)
    assert [number for number, _ in epochs] == ["1", "2"]
    assert output.endswith(f"\ntest accuracy {epochs[-1][1]}%\n")
    assert re.fullmatch(r"test accuracy \d+\.\d\d%", output.splitlines()[-1])
    assert "gpuconv evaluate runs/synthetic-seed-net-1" in output


@pytest.mark.slow
@pytest.mark.parametrize("name", ["my run", "it's  a run", "-run", "caf\udce9"], ids=repr)
def test_the_commands_that_are_printed_work_when_pasted(name, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert train("--epochs", 1, f"--run-dir={name}") == 0
    hints = [line for line in capfd.readouterr().out.splitlines() if "gpuconv evaluate" in line or "IMAGE" in line]
    assert train("--epochs", 1, f"--run-dir={name}") == 2
    hints += re.findall("`(.*?)`", capfd.readouterr().err)
    assert [hint[hint.index("gpuconv") :].split()[1] for hint in hints] == ["evaluate", "predict", "train"]
    for hint in hints:
        print_arguments = "gpuconv() { printf '%s\\0' \"$@\"; }; "
        shell = print_arguments + hint[hint.index("gpuconv") :]
        arguments = subprocess.run(["bash", "-c", shell], stdout=subprocess.PIPE, check=True).stdout.split(b"\0")
        assert arguments[-2].removeprefix(b"./") == os.fsencode(name)


def test_a_run_is_never_overwritten(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert train("--epochs", 1) == 0
    assert sorted(os.listdir("runs")) == ["synthetic-seed-net-1", "synthetic-seed-net-2"]
    before = (tmp_path / "runs/synthetic-seed-net-1/last.safetensors").read_bytes()
    assert train("--epochs", 1, "--run-dir", "runs/synthetic-seed-net-1") == 2
    assert "already holds a run" in capsys.readouterr().err
    assert (tmp_path / "runs/synthetic-seed-net-1/last.safetensors").read_bytes() == before


def test_a_run_directory_holds_checkpoints_metrics_and_pictures(trained):
    pytest.importorskip("matplotlib")
    names = {path.name for path in trained.iterdir()}
    assert names == {
        "run.json",
        "config.toml",
        "last.safetensors",
        "best.safetensors",
        "metrics.jsonl",
        "metrics.csv",
        "curves.png",
        "activations.png",
        "filters.png",
    }
    assert all(path.stat().st_size > 10_000 for path in trained.glob("*.png"))
    records = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records if record["event"] == "epoch"] == [1, 2]


def test_train_prints_which_device_auto_chose_and_why(tmp_path, capsys):
    from gpuconv import backends

    device, reason = backends.choose()
    if device != "numpy":
        pytest.skip("this machine has a GPU")
    assert main(["train", *TINY[:-2], "--epochs", "1", "--run-dir", str(tmp_path / "run")]) == 0
    assert f"numpy ({' '.join(reason.split())})" in capsys.readouterr().out


def test_the_same_seed_leaves_the_same_bytes(tmp_path, trained):
    train("--epochs", 2, "--run-dir", tmp_path / "same")
    train("--epochs", 2, "--run-dir", tmp_path / "other", "--seed", 1)
    weights = trained.joinpath("last.safetensors").read_bytes()
    assert (tmp_path / "same/last.safetensors").read_bytes() == weights
    assert (tmp_path / "other/last.safetensors").read_bytes() != weights


@pytest.mark.slow
def test_an_interrupted_run_is_resumed_and_gives_the_same_bytes(tmp_path, capsys):
    command = [sys.executable, "-m", "gpuconv", "train", *TINY, "--epochs", "60", "--run-dir", str(tmp_path / "my run")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "my run/metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, output = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"gpuconv train --resume '{tmp_path / 'my run'}'" in output
    assert "Traceback" not in output
    assert main(["train", "--resume", str(tmp_path / "my run"), "--device", "numpy"]) == 0
    assert train("--epochs", 60, "--run-dir", tmp_path / "uninterrupted") == 0
    resumed, uninterrupted = (tmp_path / name / "last.safetensors" for name in ("my run", "uninterrupted"))
    assert resumed.read_bytes() == uninterrupted.read_bytes()


@pytest.mark.kernels
def test_a_run_with_graphs_leaves_the_same_bytes(tmp_path, monkeypatch):
    from gpuconv.backends.cuda.runtime.graph import EmulatedRecorder

    captures, capture = [], EmulatedRecorder.capture
    monkeypatch.setattr(
        EmulatedRecorder, "capture", lambda *arguments: captures.append(arguments) or capture(*arguments)
    )
    data = ["--data", "synthetic:n=24,size=6x6x1,classes=3", "--model", "seed-net", "--batch-size", "4"]
    checkpoints = []
    for graph in ("--graph", "--no-graph", None):
        run, before = tmp_path / str(graph), len(captures)
        option = [] if graph is None else [graph]
        assert main(["train", *data, "--device", "emulated", "--epochs", "2", "--run-dir", str(run), *option]) == 0
        assert (len(captures) > before) == (graph == "--graph")
        checkpoints.append((run / "last.safetensors").read_bytes())
    assert checkpoints[0] == checkpoints[1] == checkpoints[2]


def test_a_graph_is_refused_on_numpy(tmp_path, capsys):
    assert train("--graph", "--run-dir", tmp_path / "run") == 2
    assert "graph=True captures the launches of a CUDA or the emulated device, and the net is on numpy" in (
        capsys.readouterr().err
    )
    assert not (tmp_path / "run").exists()


def test_resume_refuses_other_settings_and_names_them(trained, capsys):
    before = {path: path.read_bytes() for path in trained.iterdir()}
    assert main(["train", "--resume", str(trained), "--epochs", "5", "--lr", "0.5", "--model", "seed-net"]) == 2
    output = capsys.readouterr().err
    assert "--epochs is 2 there, 5 here" in output
    assert "--lr is " in output
    assert "--model" not in output
    assert {path: path.read_bytes() for path in trained.iterdir()} == before


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("epochs", -1, "--epochs: expected a whole number of at least 1, received '-1'"),
        ("epochs", "2", "--epochs must be int, received '2'"),
        ("batch_size", None, "--batch-size: expected a whole number of at least 1, received 'None'"),
        ("model", None, "--model must be str, received None"),
        ("lr", 0, "--lr: expected a number above 0, received '0'"),
        ("optimizer", "adm", "did you mean 'adam'?"),
    ],
)
def test_invalid_stored_settings_are_named(trained, tmp_path, capsys, name, value, message):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    content = json.loads((run / "run.json").read_text())
    content["settings"]["options"]["command"][name] = value
    (run / "run.json").write_text(json.dumps(content))
    before = {path: path.read_bytes() for path in run.iterdir()}
    assert main(["train", "--resume", str(run)]) == 2
    error = capsys.readouterr().err
    assert f"the settings stored in {run / 'run.json'} cannot be used: options.command: " in error
    assert message in error
    assert error.count("\n") == 1
    assert {path: path.read_bytes() for path in run.iterdir()} == before


def test_a_run_is_resumed_with_its_own_settings_and_another_checkpoint_interval(trained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    content = json.loads((run / "run.json").read_text())
    command = content["settings"]["options"]["command"]
    assert main(["train", "--resume", str(run), "--model", "Seed_Net", "--checkpoint-every", "2"]) == 0
    settings = runs.settings_to_resume(str(run), {})
    (run / "run.json").write_text(json.dumps(content).replace('"model": "seed-net"', '"model": "Seed_Net"'))
    assert command["model"] == settings.model == "seed-net"
    assert runs.settings_to_resume(str(run), {"model": "seed-net"}).model == "Seed_Net"


def test_a_full_disk_gives_one_line_that_names_the_file(tmp_path, monkeypatch, capsys):

    def disk_full(*_):
        raise OSError(28, "No space left on device")

    calls, sync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda number: disk_full() if len(calls) > 10 else calls.append(sync(number)))
    monkeypatch.setattr("gpuconv.plots.saving.save", disk_full)  # must not hide the message
    assert train("--epochs", 9, "--run-dir", tmp_path / "run") == 2
    error = capsys.readouterr().err
    assert re.search(r"^gpuconv: error: cannot write .*safetensors: No space left on device", error)
    assert error.count("\n") == 1


def test_resuming_a_finished_run_prints_its_result(trained, capsys):
    assert main(["train", "--resume", str(trained)]) == 0
    assert re.fullmatch(r"test accuracy \d+\.\d\d%", last_line(capsys))


def test_evaluate_agrees_with_training_and_counts_the_classes(trained, capsys):
    assert main(["train", "--resume", str(trained)]) == 0
    accuracy = last_line(capsys)
    assert main(["evaluate", str(trained)]) == 0
    output = capsys.readouterr().out
    assert output.splitlines()[-1] == accuracy
    rows = re.findall(r"^class (\d) +(\d+) +(\d+) +[\d.]+ %", output, re.M)
    assert [int(label) for label, _, _ in rows] == [0, 1, 2, 3]
    images, right = (sum(int(row[column]) for row in rows) for column in (1, 2))
    assert images == 19
    assert accuracy == f"test accuracy {100 * right / 19:.2f}%"


def test_evaluate_averages_over_views_on_request(trained, capsys):
    assert main(["evaluate", str(trained), "--tta", "mirror+shift"]) == 0
    assert "over 6 views of each image" in capsys.readouterr().out
    assert main(["evaluate", str(trained), "--tta", "miror"]) == 2
    assert "did you mean 'mirror'?" in capsys.readouterr().err


def test_evaluate_refuses_other_images(trained, capsys):
    assert main(["evaluate", str(trained), "--data", "digits"]) == 2
    assert "the net takes images of (9, 7, 3)" in capsys.readouterr().err


def images(folder, *sizes, mode="RGB"):
    Image = pytest.importorskip("PIL.Image")
    random = np.random.default_rng(3)
    for number, (height, width) in enumerate(sizes):
        pixels = random.integers(0, 256, (height, width, 3)).astype(np.uint8)
        Image.fromarray(pixels).convert(mode).save(folder / f"{number}.png")
        yield str(folder / f"{number}.png")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "1", "P"])
def test_predict_prints_the_top_five_of_each_image_in_order(trained, tmp_path, capsys, mode):
    files = list(images(tmp_path, (9, 7), (30, 41), mode=mode))
    assert main(["predict", *files, "--run-dir", str(trained)]) == 0
    output = capsys.readouterr().out
    converted = "" if mode == "RGB" else f"converted from {mode} to RGB"
    assert f"{files[0]}{converted and f' ({converted})'}\n" in output
    assert f"{files[1]} (resized from 30x41 to 9x7{converted and f', {converted}'})\n" in output
    scores = [float(score) for score in re.findall(r"^  class \d +([\d.]+) %", output, re.M)]
    assert len(scores) == 2 * 4  # four classes
    for start in (0, 4):
        assert scores[start : start + 4] == sorted(scores[start : start + 4], reverse=True)
        assert sum(scores[start : start + 4]) == pytest.approx(100, abs=0.03)


def test_predict_says_when_colors_are_lost(tmp_path, capsys):
    run = str(tmp_path / "run")
    gray = ["--data", "synthetic:n=20,size=8x8x1", "--model", "seed-net"]
    assert main(["train", *gray, "--epochs", "1", "--run-dir", run]) == 0
    (color,) = images(tmp_path, (8, 8))
    assert main(["predict", color, "--run-dir", run]) == 0
    assert f"{color} (converted from RGB to L, colors converted to gray)" in capsys.readouterr().out


def test_predict_continues_after_an_unreadable_image(trained, tmp_path, capsys):
    (good,) = images(tmp_path, (9, 7))
    (tmp_path / "bad.png").write_bytes(b"no picture")
    assert main(["predict", str(tmp_path / "bad.png"), good, "--run-dir", str(trained)]) == 1
    captured = capsys.readouterr()
    assert "bad.png as an image" in captured.err
    assert good in captured.out


def test_predict_draws_the_activations_of_an_image(trained, tmp_path):
    pytest.importorskip("matplotlib")
    (image,) = images(tmp_path, (9, 7))
    assert main(["predict", image, "--run-dir", str(trained), "--picture", str(tmp_path / "inside.png")]) == 0
    assert (tmp_path / "inside.png").read_bytes().startswith(b"\x89PNG")


def test_predict_refuses_a_picture_that_is_not_png_before_any_work(tmp_path, capsys):
    assert main(["predict", "a.png", "--run-dir", "nowhere", "--picture", str(tmp_path / "p.jpg")]) == 2
    captured = capsys.readouterr()
    assert f"must end in .png, received {tmp_path / 'p.jpg'}" in captured.err
    assert not captured.out
    assert main(["predict", "a.png", "--run-dir", "nowhere", "--picture", str(tmp_path / "none" / "p.png")]) == 2
    assert f"{tmp_path / 'none' / 'p.png'}: the folder to put it in does not exist" in capsys.readouterr().err


def test_predict_prints_question_marks_where_a_terminal_cannot_encode_its_bars(trained, tmp_path):
    (image,) = images(tmp_path, (9, 7))
    command = [sys.executable, "-m", "gpuconv", "predict", image, "--run-dir", str(trained)]
    environment = os.environ | {"PYTHONIOENCODING": "cp1252"}
    done = subprocess.run(command, capture_output=True, encoding="cp1252", env=environment, timeout=60)
    assert done.returncode == 0, done.stderr
    assert re.search(r"class \d +[\d.]+ %  \?+$", done.stdout, re.M)


def test_the_newest_run_is_the_default(tmp_path, monkeypatch, trained, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate"]) == 2
    assert "there is none in ./runs" in capsys.readouterr().err
    for number, name in enumerate(["newer", "older"]):
        shutil.copytree(trained, tmp_path / "runs" / name)
        os.utime(tmp_path / "runs" / name / "last.safetensors", (0, 10_000 - number))
    assert main(["evaluate"]) == 0
    assert "runs/newer" in capsys.readouterr().out


def test_without_matplotlib_training_says_so_once_and_continues(tmp_path):
    code = "import sys; sys.modules['matplotlib'] = None; from gpuconv.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "train", *TINY, "--epochs", "1", "--run-dir", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("pictures need matplotlib") == 1
    assert "test accuracy" in done.stdout.splitlines()[-1]


@pytest.mark.usefixtures("pictures")
def test_pictures_that_cannot_be_drawn_are_reported_and_affect_nothing_else(tmp_path, monkeypatch, capsys):
    from gpuconv import plots

    def broken(*_, **__):
        raise RuntimeError("latex\nis missing")

    monkeypatch.setattr(plots, "filters", broken)
    monkeypatch.setattr(plots, "curves", broken)
    assert train("--epochs", 1, "--run-dir", tmp_path / "run") == 0
    captured = capsys.readouterr()
    for name in ("curves", "filters"):
        assert captured.err.count(f"no {name}.png: RuntimeError: latex is missing\n") == 1
    assert "activations.png" in captured.out
    assert "test accuracy" in captured.out.splitlines()[-1]


@pytest.mark.parametrize("model", ["three-layer", "tiny-vgg", "resnet20"])
def test_pictures_show_the_volumes_and_first_filters_of_any_net(model):
    """One column for each layer or residual block that changes the volume; an FC layer at the start has filters too."""
    from gpuconv import models
    from gpuconv.cli import pictures
    from gpuconv.training.image_activations import activations_of

    net = models.build(model, (8, 12, 3), 4)
    x = np.random.default_rng(1).normal(size=(1, 8, 12, 3)).astype(np.float32)
    volumes, scores = activations_of(net, x)
    assert [name for name, _ in volumes] == [
        name for name, _ in net.children() if not name.startswith(("input", "flatten", "dropout"))
    ]
    assert scores.sum() == pytest.approx(1)
    name, weight = pictures.first_filters(net)
    if model == "three-layer":
        assert (name, weight.shape) == ("fc1", (100, 8, 12, 3))
        np.testing.assert_array_equal(weight.reshape(100, -1), net.params()["fc1.weight"])
    else:
        np.testing.assert_array_equal(weight, net.params()["conv1.weight"])


def test_the_first_filters_may_follow_a_normalization_layer():
    from gpuconv.cli import pictures
    from gpuconv.layers import BatchNorm, Conv2D, Input, Sequential

    net = Sequential([Input((4, 4, 3)), BatchNorm(), Conv2D(5, 3)])
    name, weight = pictures.first_filters(net)
    assert name == "conv1"
    np.testing.assert_array_equal(weight, net.params()["conv1.weight"])


@pytest.mark.slow
def test_a_resumed_run_whitens_its_filters_only_if_it_has_no_checkpoint(tmp_path, monkeypatch):
    from gpuconv import models

    seen = []
    monkeypatch.setattr(models, "whiten", lambda net, images: seen.append(images.shape))
    run = tmp_path / "run"
    assert train("--epochs", 1, "--whiten", 7, "--run-dir", run) == 0
    assert seen.pop() == (7, 9, 7, 3)
    assert main(["train", "--resume", str(run), "--device", "numpy"]) == 0
    assert seen == []
    for path in run.iterdir():  # as if it had been killed before its first checkpoint
        if path.name != "run.json":
            path.unlink()
    assert main(["train", "--resume", str(run), "--device", "numpy"]) == 0
    assert seen == [(7, 9, 7, 3)]
    assert train("--epochs", 1, "--run-dir", tmp_path / "plain") == 0
    assert len(seen) == 1


def test_a_net_without_filters_gets_no_filter_picture(tmp_path):
    from gpuconv.cli import pictures
    from gpuconv.layers import Flatten, GlobalAvgPool2D, Input, Linear, MaxPool2D, Sequential

    for layers_after_input in (
        [MaxPool2D(2)],
        [MaxPool2D(2), Flatten(), Linear(2)],
        [MaxPool2D(2), Flatten(), Linear(48), Linear(2)],  # the last layer reads as many values as the image has
        [GlobalAvgPool2D(), Flatten(), Linear(2)],
    ):
        net = Sequential([Input((4, 4, 3)), *layers_after_input])
        assert pictures.first_filters(net) is None
        pictures.draw_filters(tmp_path / "filters.png", net)
    assert list(tmp_path.iterdir()) == []


def test_a_stored_net_whose_input_is_not_an_image_is_refused():
    from gpuconv.cli.errors import UserError
    from gpuconv.layers import Input, Linear, Sequential

    net = Sequential([Input((4,)), Linear(2)])
    options = {
        "command": dataclasses.asdict(run_settings.with_recipe({})),
        "classes": ["a", "b"],
        "mean": [0.0],
        "std": [1.0],
        "input_shape": [4],
    }
    with pytest.raises(UserError, match=r"options.input_shape: \(4,\), and the net takes \(4,\)"):
        runs.run_of({"options": options, "net": net.config()}, "run.json")
