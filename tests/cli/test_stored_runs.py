"""Stored runs on the command line: data that moved or changed, invalid entries, NaN weights."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from gpuconv import checkpoint
from gpuconv.cli import main, run_settings, runs
from gpuconv.cli.errors import UserError
from gpuconv.data import Dataset, cifar10, from_spec
from gpuconv.layers import Input, Linear, Sequential
from gpuconv.training import RunDirectory
from tests.cli.command import on_numpy
from tests.training.nested_values import changed

Image = pytest.importorskip("PIL.Image")


TINY = ["--model", "seed-net", "--epochs", "2"]


def photo(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Photos, and a run that trained on them under a relative path."""
    folder = tmp_path_factory.mktemp("home")
    for number, name in enumerate(["cats", "dogs"]):
        for image in range(20):
            photo(folder / "photos" / name / f"{image:03}.png", 100 * number + image)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train", "--data", "folder:photos", *TINY, "--run-dir", "run"]) == 0
    return folder


@pytest.fixture
def work(home, work):
    """A copy of `home` as the current folder; the run still names the photos in `home`."""
    shutil.copytree(home, work, dirs_exist_ok=True)
    return work


def test_a_run_finds_its_data_from_any_folder(work, home, capsys, monkeypatch):
    (work / "elsewhere").mkdir()
    monkeypatch.chdir(work / "elsewhere")
    assert "test accuracy" in on_numpy(capsys, "train", "--resume", "../run")
    assert "warning" not in on_numpy(capsys, "evaluate", "../run")
    stored = RunDirectory("../run").settings()["options"]["command"]["data"]
    assert stored == f"folder:{home / 'photos'},split=name"


def test_the_option_data_gives_the_new_location_of_moved_images(work, capsys):
    run = changed_run(work, "settings.options.command.data", f"folder:{work / 'gone'},split=name")
    for command in (["evaluate", run], ["train", "--resume", run]):
        output = on_numpy(capsys, *command, status=2)
        assert "gone" in output
        assert "if the run's data has moved, give its location by --data" in output
        assert "warning" not in on_numpy(capsys, *command, "--data", "folder:photos")
    assert "gone" in on_numpy(capsys, "evaluate", run, "--data", "folder:gone", status=2)


def test_the_option_data_gives_the_new_location_of_moved_cifar10_files(tmp_path, monkeypatch, capsys):
    def small_cifar10(directory):
        if not Path(directory).is_dir():
            raise FileNotFoundError(f"no CIFAR-10 in {directory}")
        draw = np.random.default_rng(0)
        labels = np.arange(24) % 10
        images = Dataset(draw.integers(0, 256, (24, 32, 32, 3)).astype(np.uint8), labels, cifar10.CLASSES, "cifar10")
        return images.subset(slice(16)), images.subset(slice(16, None))

    monkeypatch.setattr(cifar10, "load", small_cifar10)
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    assert "test accuracy" in on_numpy(capsys, "train", "--data", "cifar10:data", *TINY, "--run-dir", "run")
    Path("data").rename("moved")
    assert "no CIFAR-10 in" in on_numpy(capsys, "train", "--resume", "run", status=2)
    for command in (["evaluate", "run"], ["train", "--resume", "run"]):
        assert "warning" not in on_numpy(capsys, *command, "--data", "cifar10:moved")


def changed_run(work, path, value):
    """Changes one value of the run in `work`, in run.json and in the checkpoint's state. Returns the run's path."""
    run = RunDirectory(work / "run")
    content = json.loads(run.settings_file.read_text())
    loaded = checkpoint.load(run.last)
    run.settings_file.write_text(json.dumps(changed(content, path, value)))
    checkpoint.save(run.last, checkpoint.Checkpoint(loaded.tensors, changed(loaded.state, path, value)))
    return run.path


@pytest.mark.parametrize("change", ["added", "removed", "renamed", "redrawn", "swapped"])
def test_evaluate_warns_of_changed_data_and_resume_refuses_it(work, capsys, change):
    cats = work / "photos" / "cats"
    trained = {image.tobytes() for image in from_spec.load("folder:photos")[0].images}
    if change == "added":
        for number in range(9):
            photo(cats / f"000-{number}.png", 1000 + number)
    elif change == "removed":
        (cats / "000.png").unlink()
    elif change == "renamed":
        for path in list(cats.iterdir()):
            path.rename(cats / f"new-{path.name}")
    elif change == "redrawn":
        photo(cats / "003.png", 1000)
    else:
        (cats / "001.png").rename(work / "kept.png")
        (work / "photos" / "dogs" / "001.png").rename(cats / "001.png")
        (work / "kept.png").rename(work / "photos" / "dogs" / "001.png")
    output = on_numpy(capsys, "evaluate", "run", "--data", "folder:photos")
    assert "gpuconv: warning: the data differs from that of the run, which had " in output
    assert "the run may have been trained on some of these test images" in output
    seen = [image.tobytes() in trained for image in from_spec.load("folder:photos")[1].images]
    assert any(seen) == (change == "renamed")  # a new name can move an image between the parts
    before = {path: path.read_bytes() for path in (work / "run").iterdir()}
    output = on_numpy(capsys, "train", "--resume", "run", "--data", "folder:photos", status=2)
    assert "cannot be continued with other settings: train." in output or "settings: test." in output
    assert {path: path.read_bytes() for path in (work / "run").iterdir()} == before


def test_the_warning_of_changed_data_states_the_numbers_of_images(work, capsys):
    photo(work / "photos" / "cats" / "more.png", 1000)
    output = on_numpy(capsys, "evaluate", "run", "--data", "folder:photos")
    assert "which had 33 images to train on and 7 to test on; this data has 34 and 7: " in output


def test_evaluate_warns_if_test_images_were_trained_on(work, capsys):
    """The folder "copied" holds copies of the images that the run was trained on, among others."""
    shutil.copytree("photos", "copied")
    photo(work / "copied" / "cats" / "new.png", 1000)
    trained = len(from_spec.load("folder:photos")[0])
    for options in (["--test", "folder:copied"], ["--data", "folder:copied,test=1"]):
        output = on_numpy(capsys, "evaluate", "run", *options)
        assert f"warning: the run was trained on {trained} of these 41 images\n" in output
    for number in range(4):
        photo(work / "new" / ("cats", "dogs")[number % 2] / f"{number}.png", 2000 + number)
    assert "warning" not in on_numpy(capsys, "evaluate", "run", "--test", "folder:new")
    run = changed_run(work, "settings.options.command.data", f"folder:{work / 'gone'},split=name")
    assert "it is unknown whether " in on_numpy(capsys, "evaluate", run, "--test", "folder:new")
    run = changed_run(work, "settings.options.command.data", f"folder:{work / 'copied'},split=name")
    assert "its training images have changed" in on_numpy(capsys, "evaluate", run, "--test", "folder:new")


def test_a_class_that_was_added_or_renamed_is_refused(work, capsys):
    (work / "photos" / "cats").rename(work / "photos" / "kittens")
    for name, difference in (
        ("", "it lacks 'cats' and has unknown 'kittens'"),
        ("birds", "it lacks 'cats' and has unknown 'birds', 'kittens'"),
    ):
        if name:
            photo(work / "photos" / name / "0.png", 1)
            photo(work / "photos" / name / "1.png", 2)
        on_numpy(capsys, "train", "--resume", "run", "--data", "folder:photos", status=2)
        assert difference in on_numpy(capsys, "evaluate", "run", "--data", "folder:photos", status=2)


def test_a_run_of_version_0_1_0_keeps_its_split(work, capsys):
    """Version 0.1.0 stored a relative path and no rule for the split. It split the images by the order of the files."""
    on_numpy(capsys, "train", "--data", "folder:photos,split=order", *TINY, "--run-dir", "old")
    run = RunDirectory("old")
    content, loaded = json.loads(run.settings_file.read_text()), checkpoint.load(run.last)
    for settings in (content["settings"], loaded.state["settings"]):
        settings["options"]["command"]["data"] = "folder:photos"
    run.settings_file.write_text(json.dumps(content))
    checkpoint.save(run.last, loaded)
    assert "warning" not in on_numpy(capsys, "evaluate", "old")
    assert "warning" not in on_numpy(capsys, "evaluate", "old", "--data", "folder:photos")
    assert "test accuracy" in on_numpy(capsys, "train", "--resume", "old")
    assert "warning" in on_numpy(capsys, "evaluate", "old", "--data", "folder:photos,split=name")


# --- invalid entries ---------------------------------------------------------------------------

WRONG = [  # an entry of run.json and of the checkpoint's state, its new value, the message
    ("settings.options.command.loss", "hinge", "options.command: unknown loss 'hinge'"),
    ("settings.options.command.data", ..., "options.command: data is missing"),
    ("settings.options.command.swa", 0.9, "options.command: this version of gpuconv does not know swa"),
    ("settings.options.command.epochs", 10**30, "options.command: --epochs: expected a whole number below 2^63"),
    ("settings.options.command.model", ["lenet"], "options.command: --model must be str"),
    ("settings.options.command.model", "lenett", "did you mean 'lenet'"),
    ("settings.options.command.tta", "flip", "options.command: unknown test-time augmentation 'flip'"),
    ("settings.options.command.data", "fodler:x", "options.command: unknown data set 'fodler'"),
    ("settings.options.command", 3, "options.command must be an object, received 3"),
    ("settings.options.classes", ["cats"], "options.classes: 1 names, and the net has outputs of shape (2,)"),
    ("settings.options.classes", ["cats", 3], "options.classes[1] must be text, received 3"),
    ("settings.options.classes", ..., "options: classes is missing"),
    ("settings.options.mean", [1.0], "options: mean must be of shape (3,) or (8, 8, 3), received (1,)"),
    ("settings.options.mean", "1", 'options.mean must be a number, or numbers in lists, received "1"'),
    ("settings.options.std", [1, 0, 1], "options: std must be positive"),
    ("settings.options.std", [[1], [1, 2]], "options: "),
    ("settings.options.input_shape", [8, 8], "options.input_shape: (8, 8), and the net takes (8, 8, 3)"),
    ("settings.options.views", 2, "this version of gpuconv does not know options.views"),
    ("settings.epochs", None, "settings.epochs must be a whole number"),
]


def test_an_invalid_entry_gives_an_error_of_one_line(work, capsys):
    run = RunDirectory(work / "run")
    content, loaded = json.loads(run.settings_file.read_text()), checkpoint.load(run.last)
    valid = run.last.read_bytes()
    photo(work / "x.png", 1)
    reading = [["evaluate", "run"], ["predict", "x.png", "--run-dir", "run"], ["summary", "--run-dir", "run"]]
    for path, new, words in WRONG:
        run.settings_file.write_text(json.dumps(changed(content, path, new)))
        run.last.write_bytes(valid)
        for command in (["train", "--resume", "run"], *reading):
            output = on_numpy(capsys, *command, status=2)
            assert words in output
            assert "run.json" in output
        run.settings_file.write_text(json.dumps(content))
        checkpoint.save(run.last, checkpoint.Checkpoint(loaded.tensors, changed(loaded.state, path, new)))
        for command in reading:
            output = on_numpy(capsys, *command, status=2)
            assert words in output
            assert "last.safetensors" in output


# An entry of the net's config, its new value, the message. The changed config describes no net, or not the stored one.
NETS = [
    ("net.layers.1.out_channels", 10**15, "of another net"),
    ("net.layers.1.out_channels", -1, "net: "),
    ("net.layers.1.layer", "Conv3D", "unknown layer 'Conv3D'; did you mean 'Conv2D'"),
    ("net.layers.1.kernel", 3, "net: unknown option of Conv2D 'kernel'; did you mean 'kernel_size'"),
    ("net.layers.1.weight_init", 7, "net: "),
    ("net.layers", [], "net: "),
    ("net.layers", [{"layer": "Flatten"}], "net: the net does not begin with an Input"),
    ("net", {"layer": "ReLU"}, "net: "),
    ("net.precision", "float8", "net: unknown precision 'float8'"),
    ("net.layers.1.name", "other", "of another net"),
]


def test_a_config_of_an_impossible_or_another_net_gives_an_error_of_one_line(work, capsys):
    run = RunDirectory(work / "run")
    loaded = checkpoint.load(run.last)
    for path, new, words in NETS:
        checkpoint.save(run.last, checkpoint.Checkpoint(loaded.tensors, changed(loaded.state, path, new)))
        assert words in on_numpy(capsys, "summary", "--run-dir", "run", status=2)
        on_numpy(capsys, "train", "--resume", "run", status=2)


def test_weights_of_nan_and_scores_that_overflow_are_refused(work, capsys):
    run = RunDirectory(work / "run")
    loaded = checkpoint.load(run.last)
    photo(work / "x.png", 1)
    tensors = {name: array.copy() for name, array in loaded.tensors.items()}
    tensors["net.conv1.weight"].flat[5] = np.nan
    checkpoint.save(run.last, checkpoint.Checkpoint(tensors, loaded.state))
    commands = [["evaluate", "run"], ["predict", "x.png", "--run-dir", "run"], ["summary", "--run-dir", "run"]]
    for command in (["train", "--resume", "run"], *commands):
        assert "last.safetensors: conv1.weight holds NaN (1 of 324 values)" in on_numpy(capsys, *command, status=2)
    tensors = {name: array.copy() for name, array in loaded.tensors.items()}
    for name in ("net.conv1.weight", "net.fc1.weight"):
        tensors[name].fill(3e38)  # finite weights whose scores are not finite
    checkpoint.save(run.last, checkpoint.Checkpoint(tensors, loaded.state))
    with np.errstate(over="ignore", invalid="ignore"):
        assert "the net's scores are not finite" in on_numpy(capsys, "evaluate", "run", status=2)
        assert "scores of x.png are not finite" in on_numpy(capsys, "predict", "x.png", "--run-dir", "run", status=2)


def test_a_missing_checkpoint_is_reported(work, capsys):
    run = RunDirectory(work / "run")
    run.last.unlink()
    before = {path: path.read_bytes() for path in run.path.iterdir()}
    for command in (["train", "--resume", "run"], ["evaluate", "run"], ["summary", "--run-dir", "run"]):
        assert "last.safetensors" in on_numpy(capsys, *command, status=2)
    assert {path: path.read_bytes() for path in run.path.iterdir()} == before


def test_a_missing_setting_has_its_default(work, capsys):
    run = RunDirectory(work / "run")
    content, loaded = json.loads(run.settings_file.read_text()), checkpoint.load(run.last)
    older = copy.deepcopy(loaded.state)
    for settings in (content["settings"], older["settings"]):
        for name in ("whiten", "tta", "precision"):
            del settings["options"]["command"][name]
        del settings["precision"], settings["validation"], settings["loss_scale"]
    run.settings_file.write_text(json.dumps(content))
    checkpoint.save(run.last, checkpoint.Checkpoint(loaded.tensors, older))
    assert "warning" not in on_numpy(capsys, "evaluate", "run")
    assert "test accuracy" in on_numpy(capsys, "train", "--resume", "run")


def test_a_stored_net_whose_input_is_not_an_image_is_refused():
    net = Sequential([Input((4,)), Linear(2)])
    options = {
        "command": dataclasses.asdict(run_settings.with_recipe({})),
        "classes": ["a", "b"],
        "mean": [0.0],
        "std": [1.0],
        "input_shape": [4],
    }
    with pytest.raises(UserError, match=r"options.input_shape: \(4,\) is not the shape \(H, W, C\) of an image"):
        runs.run_of({"options": options, "net": net.config()}, "run.json")


def test_a_net_is_opened_on_the_requested_device(trained):
    assert [runs.open_run(trained, device).net.device for device in ("numpy", "emulated")] == ["numpy", "emulated"]
