"""gpuconv train: what it passes to the library, what it prints, and how it ends."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import numpy as np
import pytest

from gpuconv import backends, losses, models
from gpuconv.cli import main
from gpuconv.data import Loader, Normalization, load
from gpuconv.training import Trainer
from tests.cli.small_run import CHOSEN, DATA, TINY_RUN, train


@pytest.fixture
def averaged_run(passed_to, drawn, work, capsys):
    """The lines that a run in the folder `run` prints. The final test averages over mirrored views."""
    assert main(["train", *CHOSEN, "--tta", "mirror", "--run-dir", "run", "--checkpoint-every", "2"]) == 0
    return capsys.readouterr().out.splitlines()


def first_epoch(output):
    """The number of the first epoch's line."""
    return next(number for number, line in enumerate(output) if line.startswith("epoch 1/2"))


def test_train_prints_its_settings_epochs_files_and_result(averaged_run):
    epochs_at = first_epoch(averaged_run)
    net = models.build("seed-net", (9, 7, 3), 4)
    assert averaged_run[:epochs_at] == [
        "data       synthetic: 20 images to train on, 4 to test on, 9x7x3, 4 classes",
        "device     numpy (as you asked)",
        f"model      seed-net: {sum(value.size for value in net.params().values()):,} parameters",
        "recipe     2 epochs, batches of 7, adam:beta1=0.5 lr 0.25, cosine, augment flip,shift:1, "
        "loss softmax:label_smoothing=0.2, float32, seed 3, tta mirror",
        "run        run",
        "",
    ]
    assert averaged_run[epochs_at + 1].startswith("epoch 2/2")
    plain = averaged_run[epochs_at + 1].rpartition("accuracy ")[2].split("%")[0]
    averaged = averaged_run[-1].removeprefix("test accuracy ")
    assert averaged_run[epochs_at + 2 :] == [
        "",
        "checkpoint run/last.safetensors",
        "metrics    run/metrics.jsonl, metrics.csv",
        "pictures   run/: curves.png, activations.png, filters.png",
        "try next   gpuconv evaluate run",
        "           gpuconv predict IMAGE --run-dir run",
        "",
        f"averaging  mirror; without it the test accuracy is {float(plain):.2f}%",
        f"test accuracy {averaged}",
    ]


@pytest.mark.usefixtures("averaged_run")
def test_train_passes_its_options_on(passed_to):
    train, test = load(DATA)
    (((trained, optimizer), training),) = passed_to["Trainer"]
    assert optimizer == "adam:beta1=0.5"
    assert {name: training[name] for name in ("lr", "schedule", "seed", "precision", "graph")} == {
        "lr": 0.25,
        "schedule": "cosine",
        "seed": 3,
        "precision": "float32",
        "graph": None,
    }
    assert training["loss"] == "softmax:label_smoothing=0.2"
    ((trained_on, batch_size), loading), ((tested_on, test_batch_size), test_loading), *_ = passed_to["Loader"]
    np.testing.assert_array_equal(trained_on.images, train.images)
    np.testing.assert_array_equal(tested_on.images, test.images)
    for options in (loading, test_loading):
        np.testing.assert_array_equal(options.pop("normalization").mean, Normalization.from_dataset(train).mean)
    assert (batch_size, str(loading.pop("augmentation"))) == (7, "flip,shift:1")
    assert loading == {"seed": 3, "device": "numpy", "dtype": np.float32}
    assert (test_batch_size, test_loading) == (7, {"shuffle": False, "device": "numpy", "dtype": np.float32})
    (((_,), fitting),) = passed_to["fit"]
    del fitting["settings"]
    assert isinstance(fitting.pop("test"), Loader)
    assert fitting == {"epochs": 2, "run_dir": "run", "resume": False, "checkpoint_every": 2, "callbacks": []}
    (((evaluated, loader), options),) = passed_to["evaluate"]
    assert evaluated is trained
    assert (loader.dataset.name, options) == (test.name, {"loss": losses.get(training["loss"]), "tta": "mirror"})


@pytest.mark.usefixtures("averaged_run")
def test_train_stores_its_options_and_what_predictions_need():
    normalization = Normalization.from_dataset(load(DATA)[0])
    stored = json.loads(Path("run/run.json").read_text())["settings"]["options"]
    assert stored["command"] == {
        "data": DATA,
        "model": "seed-net",
        "seed": 3,
        "epochs": 2,
        "batch_size": 7,
        "optimizer": "adam:beta1=0.5",
        "lr": 0.25,
        "schedule": "cosine",
        "augment": "flip,shift:1",
        "loss": "softmax:label_smoothing=0.2",
        "whiten": 0,
        "tta": "mirror",
        "precision": "float32",
        "test": "",
    }
    assert {name: stored[name] for name in ("classes", "mean", "std", "input_shape")} == {
        "classes": [f"class {label}" for label in range(4)],
        "mean": normalization.mean.tolist(),
        "std": normalization.std.tolist(),
        "input_shape": [9, 7, 3],
    }


@pytest.mark.usefixtures("averaged_run")
def test_train_draws_the_filters_and_the_activations_of_a_test_image(passed_to, drawn):
    _, test = load(DATA)
    (((trained, _), _),) = passed_to["Trainer"]
    (_, filters_file, (filters_net,), _), (_, activations_file, arguments, options) = drawn
    activations_net, image, _, classes = arguments
    assert (filters_file, activations_file) == ("filters.png", "activations.png")
    assert filters_net is activations_net is trained
    np.testing.assert_array_equal(image, test.images[0])
    assert (classes, options["truth"]) == (test.classes, test.labels[0])
    assert options["title"] == "seed-net looks at a test image of synthetic"


@pytest.mark.usefixtures("drawn", "work")
def test_without_averaging_the_net_is_not_evaluated_again(passed_to, capsys):
    assert main(["train", *CHOSEN, "--no-graph"]) == 0
    output = capsys.readouterr().out.splitlines()
    assert output[4:6] == ["run        runs/synthetic-seed-net-1", ""]
    assert not any(line.startswith("averaging") for line in output)
    assert passed_to["Trainer"][-1][1]["graph"] is False
    assert passed_to["evaluate"] == []


def test_a_resumed_run_prints_what_the_first_run_printed(averaged_run, passed_to, capsys):
    assert main(["train", "--resume", "run", "--device", "numpy"]) == 0
    resumed, run_at = capsys.readouterr().out.splitlines(), first_epoch(averaged_run) - 2
    assert resumed[:run_at] == averaged_run[:run_at]
    assert resumed[run_at : run_at + 2] == ["run        run (continued)", ""]
    assert resumed[-9:] == averaged_run[-9:]
    assert passed_to["fit"][-1][1]["resume"] is True


def test_the_initial_weights_follow_from_the_seed(tmp_path, monkeypatch):
    initial = {}

    def fit(self, *arguments, **options):
        initial.update({name: np.array(value) for name, value in self.net.params().items()})
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "fit", fit)
    assert main(["train", *CHOSEN, "--run-dir", str(tmp_path / "run")]) == 130
    for name, value in models.build("seed-net", (9, 7, 3), 4, seed=3).params().items():
        np.testing.assert_array_equal(initial[name], value)


def test_the_first_filters_are_whitened_unless_a_checkpoint_holds_them(monkeypatch, tmp_path):
    seen = []

    def stop(self, *_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(models, "whiten", lambda net, images: seen.append(images))
    monkeypatch.setattr(Trainer, "fit", stop)
    train, _ = load(DATA)
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "last.safetensors").touch()
    for directory, options, expected in (
        ("new", ("--whiten", "5"), 5),
        ("begun", ("--whiten", "5"), 0),
        ("new", (), 0),
        (None, ("--whiten", "5"), 5),
    ):
        monkeypatch.chdir(tmp_path)
        run_dir = ["--run-dir", directory] if directory else []
        assert main(["train", *CHOSEN, *options, *run_dir]) == 130
        assert [len(images) for images in seen] == ([expected] if expected else [])
        if seen:
            np.testing.assert_array_equal(seen.pop(), Normalization.from_dataset(train)(train.images[:5]))


def test_a_run_ended_by_a_signal_exits_with_128_plus_its_number(monkeypatch, drawn, tmp_path, capsys):
    step_on = Trainer.step_on

    def signaled(self, batches, **options):
        step_on(self, batches, **options)
        signal.raise_signal(number)

    monkeypatch.setattr(Trainer, "step_on", signaled)
    for number in (signal.SIGINT, signal.SIGTERM):
        assert main(["train", *CHOSEN, "--run-dir", str(tmp_path / number.name)]) == 128 + number
        captured = capsys.readouterr()
        assert "test accuracy" not in captured.out
        assert "interrupted after step 1; saved to" in captured.err
    assert drawn == []


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


def test_train_prints_which_device_auto_chose_and_why(tmp_path, capsys):
    device, reason = backends.choose()
    if device != "numpy":
        pytest.skip("this machine has a GPU")
    assert main(["train", *TINY_RUN, "--device", "auto", "--epochs", "1", "--run-dir", str(tmp_path / "run")]) == 0
    assert f"numpy ({reason})" in capsys.readouterr().out
