"""A part of the training data is used for validation; the test data is then used only once."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gpuconv import checkpoint
from gpuconv.data import Augmentation, Loader, Normalization
from gpuconv.training import Callback, SettingsError, Trainer, evaluate
from tests import toy_run

DATA = toy_run.images(60)


def fit(train=DATA, seed=3, **options):
    trainer = Trainer(toy_run.net(), "adam", lr=0.01, seed=seed)
    options = {"epochs": 3, "batch_size": 8, "progress": False, "validation": 0.25} | options
    trainer.fit(train, **options)
    return trainer


def test_the_part_equals_that_of_dataset_split_with_the_same_seed():
    rest, part = DATA.split(0.25, seed=3)
    expected = fit(rest, validation=part)
    assert [len(samples) for samples in (rest, part)] == [45, 15]
    for train in (DATA, (DATA.images, DATA.labels)):
        trainer = fit(train)
        assert trainer.history == expected.history
        assert toy_run.same_arrays(trainer.net.state_dict(), expected.net.state_dict())
        assert trainer.history != fit(train, seed=4).history


def test_the_part_of_a_loader_is_neither_augmented_nor_shuffled():
    rest, part = DATA.split(0.25, seed=3)
    options = {"normalization": Normalization.from_dataset(rest), "augmentation": Augmentation(shift=1), "seed": 3}
    plain = {"normalization": options["normalization"], "shuffle": False}
    expected = fit(Loader(rest, 8, **options), validation=Loader(part, 8, **plain))
    assert fit(Loader(DATA, 8, drop_last=False, **options)).history == expected.history


@pytest.mark.parametrize("form", ["pairs", "floats"])
def test_a_part_of_pairs_and_of_float_arrays_is_split_off_too(form):
    floats = Normalization.from_dataset(DATA)(DATA.images)
    train = [*zip(floats, DATA.labels)] if form == "pairs" else (floats, DATA.labels)
    trainer = fit(train)
    assert trainer.fit_settings["train"]["images"] == 45
    assert trainer.fit_settings["validation"]["images"] == 15
    assert trainer.history == fit(train).history


def test_a_part_of_0_means_no_validation():
    test = toy_run.images(9, seed=5)
    expected = fit(validation=None, test=test)
    for none in (0, 0.0, np.float32(0), np.int64(0)):
        trainer = fit(validation=none, test=test)
        assert trainer.history == expected.history
        assert toy_run.same_arrays(trainer.net.state_dict(), expected.net.state_dict())
        assert trainer.fit_settings == expected.fit_settings
    assert trainer.tested is None
    assert "test_accuracy" in trainer.history[0]  # tested after each epoch, as there is no validation data
    assert not any(name.startswith("validation") for name in trainer.history[0])


def test_the_test_data_is_used_once(tmp_path, capsys):
    read_batches = []
    test = toy_run.images(9, seed=5)

    class Counted(Loader):
        def epoch(self, epoch=0, start_batch=0):
            read_batches.append(len(self.dataset))
            return super().epoch(epoch, start_batch)

    held_out = Counted(test, 9, normalization=Normalization.from_dataset(DATA.split(0.25, seed=3)[0]), shuffle=False)
    trainer = fit(test=held_out, run_dir=tmp_path / "run", progress=True)
    assert read_batches == [9]
    assert not any("test_loss" in record for record in trainer.history)
    assert all("validation_accuracy" in record for record in trainer.history)
    evaluation = evaluate(trainer.net, held_out)
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last == trainer.tested
    assert last == {
        "event": "test",
        "step": 18,
        "epoch": 3,
        "test_loss": evaluation.loss,
        "test_accuracy": evaluation.accuracy,
    }
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"test loss {evaluation.loss:.4f}  test accuracy ")
    resumed = fit(test=held_out, run_dir=tmp_path / "run", resume=True)
    assert resumed.tested == trainer.tested
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1]) == last
    with pytest.raises(SettingsError, match=r"validation.images is 15 there and 6 here"):
        fit(test=held_out, run_dir=tmp_path / "run", resume=True, validation=0.1)


def test_an_interrupted_run_does_not_use_the_test_data(tmp_path):
    trainer = fit(test=toy_run.images(9, seed=5), run_dir=tmp_path / "run", callbacks=[toy_run.StopAt(4)])
    assert trainer.tested is None
    resumed = fit(test=toy_run.images(9, seed=5), run_dir=tmp_path / "run", resume=True)
    uninterrupted = fit(test=toy_run.images(9, seed=5))
    assert (resumed.tested, resumed.history) == (uninterrupted.tested, uninterrupted.history)
    assert resumed.tested["epoch"] == 3


def test_the_best_epoch_is_judged_by_the_validation_part(tmp_path):
    kept = toy_run.Remember()
    trainer = fit(epochs=5, run_dir=tmp_path / "run", callbacks=[kept], test=toy_run.images(9, seed=5))
    accuracies = [record["validation_accuracy"] for record in trainer.history]
    best = 1 + accuracies.index(max(accuracies))
    assert toy_run.same_arrays(checkpoint.load(tmp_path / "run" / "best.safetensors").part("net"), kept.states[best])


def test_an_invalid_part_is_refused(tmp_path):
    for part, error, message in (
        (1, ValueError, "a part of train between 0 and 1, received 1"),
        (-0.1, ValueError, "received -0.1"),
        (float("nan"), ValueError, "received nan"),
        (True, TypeError, "validation must be .*; received bool"),
    ):
        with pytest.raises(error, match=message):
            fit(validation=part, run_dir=tmp_path / "run")
    batches = [(np.zeros((4, 6, 5, 1), np.float32), [0, 1, 2, 0])]
    for train in (batches, toy_run.UserLoader()):
        with pytest.raises(TypeError, match="splits a data set, and train gives batches"):
            fit(train, run_dir=tmp_path / "run")
    one_each = toy_run.images(60).subset([int(np.flatnonzero(DATA.labels == label)[0]) for label in range(3)])
    with pytest.raises(ValueError, match="the validation part of 'lines' would be empty"):
        fit(one_each, run_dir=tmp_path / "run")
    assert not [*tmp_path.iterdir()]


def test_a_run_that_a_callback_stops_for_a_while_does_not_use_the_test_data():
    class Stop(Callback):
        def __init__(self, may_continue):
            self.may_continue = may_continue

        def on_step(self, trainer, record):
            if trainer.steps == 4:
                trainer.stop("enough", may_continue=self.may_continue)
                trainer.stop("the first reason counts", may_continue=not self.may_continue)

    for may_continue in (True, False):
        trainer = fit(test=toy_run.images(9, seed=5), callbacks=[Stop(may_continue)])
        assert (trainer.stop_reason, trainer.tested is None) == ("enough", may_continue)
