"""Runs that cannot be resumed: the error names the difference, and nothing changes."""

import dataclasses

import numpy as np
import pytest

from gpuconv import checkpoint
from gpuconv.training import CheckpointError, SettingsError, Trainer
from tests import toy_run


def relabeled():
    """The same images with other labels."""
    data = toy_run.images()
    return dataclasses.replace(data, labels=(data.labels + 1) % 3)


@pytest.mark.parametrize(
    ("trainer_options", "fit_options", "message"),
    [
        ({"lr": 0.02}, {}, "optimizer.lr is 0.01 there and 0.02 here"),
        ({"optimizer": "sgd"}, {}, 'optimizer.optimizer is "adam" there and "sgd" here'),
        ({"schedule": "cosine"}, {}, 'schedule is "one-cycle.*" there and "cosine.*" here'),
        ({"loss": "svm"}, {}, "loss is .*SoftmaxCrossEntropy.* there and .*SVMHinge"),
        ({"seed": 4}, {}, "net.seed is 0 there and 4 here.*; seed is 0 there and 4 here"),
        ({}, {"epochs": 5, "metrics_every": 3}, "epochs is 3 there and 5 here; .*metrics_every is 2 there and 3 here"),
        ({}, {"settings": {"data": "other"}}, 'options.data is absent there and "other" here'),
        ({}, {"train": toy_run.loader(seed=9)}, "train.seed is 3 there and 9 here"),
        ({}, {"train": toy_run.loader(batch_size=6)}, "train.batch_size is 5 there and 6 here"),
        ({}, {"train": toy_run.loader(toy_run.images(seed=8))}, "train.checksum is .* there and .* here"),
        ({}, {"train": toy_run.loader(relabeled())}, "train.checksum is .* there and .* here"),
        ({}, {"validation": None}, "validation is .* there and null here"),
    ],
    ids=[
        "rate",
        "optimizer",
        "schedule",
        "loss",
        "seed",
        "epochs",
        "settings",
        "loader's seed",
        "batch size",
        "images",
        "labels",
        "validation",
    ],
)
def test_different_settings_are_named_before_anything_changes(stopped_run, trainer_options, fit_options, message):
    trainer = toy_run.trainer(**trainer_options)
    state = {name: value.copy() for name, value in trainer.net.state_dict().items()}
    before = toy_run.contents(stopped_run)
    with pytest.raises(SettingsError, match=message):
        toy_run.fit(trainer, run_dir=stopped_run, resume=True, **fit_options)
    assert toy_run.same_arrays(trainer.net.state_dict(), state)
    assert (trainer.steps, trainer.records) == (0, [])
    assert toy_run.contents(stopped_run) == before


def test_the_error_for_another_net_names_the_first_difference(stopped_run):
    other = Trainer(toy_run.net(filters=5), "adam", lr=0.01, schedule="one-cycle")
    before = toy_run.contents(stopped_run)
    with pytest.raises(CheckpointError, match=r"of another net: layers\[1\]\.out_channels is 4 there and 5 here"):
        toy_run.fit(other, run_dir=stopped_run, resume=True)
    assert toy_run.contents(stopped_run) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("net.conv1.weight"), "conv1.weight is missing"),
        (lambda t: t.update({"net.more": np.zeros(2)}), "more is not part of this net"),
        (lambda t: t.update({"net.conv1.bias": np.zeros(9, "f4")}), r"conv1.bias has shape \(9,\) there and \(4,\)"),
        (lambda t: t.update({"net.conv1.bias": np.zeros(4)}), "conv1.bias is float64 there and float32 here"),
        (lambda t: t.pop("optimizer.exp_avg.conv1.bias"), "'exp_avg.conv1.bias' is missing"),
    ],
)
def test_mismatched_arrays_are_named(stopped_run, change, message):
    loaded = checkpoint.load(stopped_run / "last.safetensors")
    change(loaded.tensors)
    checkpoint.save(stopped_run / "last.safetensors", loaded)
    trainer = toy_run.trainer()
    state = {name: value.copy() for name, value in trainer.net.state_dict().items()}
    with pytest.raises(CheckpointError, match=message):
        toy_run.fit(trainer, run_dir=stopped_run, resume=True)
    assert toy_run.same_arrays(trainer.net.state_dict(), state)


def test_a_truncated_checkpoint_is_not_resumed(stopped_run):
    path = stopped_run / "last.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="is truncated, corrupt or not a safetensors file"):
        toy_run.fit(toy_run.trainer(), run_dir=stopped_run, resume=True)


def test_a_directory_that_holds_a_run_is_not_overwritten(stopped_run):
    before = toy_run.contents(stopped_run)
    with pytest.raises(FileExistsError, match="already holds a run"):
        toy_run.fit(toy_run.trainer(), run_dir=stopped_run)
    assert toy_run.contents(stopped_run) == before


def test_a_directory_without_a_run_is_not_resumed(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no run"):
        toy_run.fit(toy_run.trainer(), run_dir=tmp_path, resume=True)


def test_a_missing_checkpoint_is_reported_and_nothing_is_overwritten(stopped_run):
    (stopped_run / "last.safetensors").unlink()
    before = {path: path.read_bytes() for path in stopped_run.iterdir()}
    trainer = toy_run.trainer()
    with pytest.raises(
        CheckpointError,
        match=r"last\.safetensors is missing, but the run had begun and wrote best.* Put the checkpoint back",
    ):
        toy_run.fit(trainer, run_dir=stopped_run, resume=True)
    assert {path: path.read_bytes() for path in stopped_run.iterdir()} == before
    (stopped_run / "last.safetensors").symlink_to("nowhere")
    with pytest.raises(CheckpointError, match=r"is missing"):
        toy_run.fit(trainer, run_dir=stopped_run, resume=True)
    (stopped_run / "last.safetensors").unlink()
    (stopped_run / "best.safetensors").rename(stopped_run / "last.safetensors")
    toy_run.fit(trainer, run_dir=stopped_run, resume=True)
    assert trainer.epoch == 3
