"""The learning rate drops where PyTorch's ReduceLROnPlateau lowers it, and a resumed run has the same rate."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from gpuconv.training import Plateau, SettingsError, Trainer
from gpuconv.training.callbacks import describe
from tests import toy_run

FLAT = "0,factor=0.5,threshold=0.5,watch=train_loss"  # lowers the rate after nearly every epoch


def history(values, measure="validation_loss"):
    return [{measure: value} for value in values]


def test_the_rate_drops_after_more_epochs_without_improvement_than_the_patience():
    plateau = Plateau(patience=1, factor=0.5)
    losses = [1.0, 0.9, 0.9, 0.95, 0.9, 0.9, 0.1, 0.1, 0.1]
    rates = [plateau.rate(history(losses[:epochs])) for epochs in range(len(losses) + 1)]
    assert rates == [1, 1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125]


def test_an_accuracy_improves_by_rising():
    plateau = Plateau(patience=0, factor=0.5, watch="validation-accuracy")
    rates = [plateau.rate(history(values, "validation_accuracy")) for values in ([0.0], [0.5, 0.6], [0.6, 0.5, 0.7])]
    assert rates == [1.0, 1.0, 0.5]


@pytest.mark.parametrize("watch", ["validation_loss", "validation_accuracy"])
@pytest.mark.parametrize("options", [{}, {"patience": 0}, {"patience": 2, "factor": 0.3}, {"threshold": 0.2}])
def test_the_rate_agrees_with_pytorch(watch, options):
    torch = pytest.importorskip("torch")
    mode = "max" if watch.endswith("accuracy") else "min"
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode, **{"patience": 10} | options, eps=0)
    plateau = Plateau(**options, watch=watch)
    values = np.random.default_rng(3).uniform(0, 1, 80).round(2).tolist() + [0.5] * 40
    values[10:14] = [0.0, 1.0, 1.0, 0.0]
    for epochs, value in enumerate(values, 1):
        theirs.step(value)
        expected = optimizer.param_groups[0]["lr"]
        assert plateau.rate(history(values[:epochs], watch)) == pytest.approx(expected, rel=1e-12)
    assert expected < 1


def test_the_short_form_is_read_back():
    for text, expected in {
        "5": Plateau(5),
        "5,factor=0.5": Plateau(5, 0.5),
        "factor=0.5,patience=5": Plateau(5, 0.5),
        "watch=train_accuracy,threshold=0": Plateau(watch="train_accuracy", threshold=0),
        "factor=0.5,threshold=0.25": Plateau(factor=np.float32(0.5), threshold=np.float32(0.25)),
    }.items():
        assert Plateau.of(text) == expected
        assert Plateau.of(str(expected)) == expected
    assert (Plateau.of(None), Plateau.of("none"), Plateau.of(7), Plateau.of(Plateau(7))) == (
        None,
        None,
        Plateau(7),
        Plateau(7),
    )


def test_invalid_plateaus_are_refused():
    for wrong, message in {
        "": "empty part",
        "five": "neither a number nor key=value",
        "-1": "patience must be at least 0, received -1",
        "1.5": "patience must be an integer, received 1.5",
        "inf": "patience must be an integer",
        "1e300": "patience must be below",
        "5,0.5": "a plateau is written like '5,factor=0.5', received '5,0.5'",
        "5,cosine": "a plateau is written like",
        "5,patience=3": "multiple values",
        "5,factor=0": r"factor must lie in \(0, 1\), received 0",
        "5,factor=1": "factor must lie in",
        "5,factor=half": "factor must be a number",
        "5,threshold=nan": "threshold must lie in",
        "5,gamma=0.5": r"unknown setting of a plateau 'gamma' \(known: patience, factor",
        "5,watch=validation_los": "did you mean 'validation_loss'",
        "5,watch=3": "the measure is chosen by name",
    }.items():
        with pytest.raises(ValueError, match=message):
            Plateau.of(wrong)
    for wrong in (True, 1.5, [3], Plateau):
        with pytest.raises(TypeError, match="patience must be an integer"):
            Plateau.of(wrong)


def test_the_watched_measure_must_be_recorded(tmp_path):
    message = "watches validation_loss, and there is no validation data; give validation=0.1 too, or watch=train_loss"
    for validation in (None, 0.0):
        with pytest.raises(ValueError, match=message):
            toy_run.fit(toy_run.trainer(plateau=5), validation=validation, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("watch", ["train_accuracy", "validation_accuracy"])
def test_an_accuracy_is_not_watched_with_a_loss_that_does_not_classify(watch, tmp_path):
    trainer = Trainer(toy_run.net(), "sgd", loss="mse", plateau=f"watch={watch}")
    instead = watch.replace("accuracy", "loss")
    message = f"watches {watch}, and the loss MeanSquaredError.. does not classify; give watch={instead}"
    images = toy_run.images().images.astype(np.float32)
    targets = np.zeros((len(images), *trainer.net.output_shape), np.float32)
    with pytest.raises(ValueError, match=message):
        trainer.fit((images, targets), epochs=1, validation=0.25, run_dir=tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_an_epoch_whose_labels_are_all_ignored_brings_no_improvement():
    plateau = Plateau(patience=0, factor=0.5, watch="train_accuracy")
    records = history([0.5, None, 0.6], "train_accuracy")
    assert [plateau.rate(records[:count]) for count in (1, 2, 3)] == [1, 0.5, 0.5]


def test_an_optimizer_without_a_rate_is_refused():
    class NoRate:
        def step(self, params, grads): ...

    with pytest.raises(ValueError, match=r"NoRate has no attribute lr.* so the plateau patience=5.* have no effect"):
        Trainer(toy_run.net(), NoRate(), plateau=5)


@pytest.mark.parametrize("optimizer", ["sgd", "filters -> sgd:lr=0.5 @ cosine; * -> sgd:lr=2"], ids=["one", "groups"])
def test_the_factor_multiplies_every_schedule(optimizer):
    rates = {}
    for plateau in (None, FLAT):
        trainer = toy_run.trainer(optimizer=optimizer, lr=1e-9, schedule="linear", plateau=plateau)
        at_starts = rates[plateau] = []  # the rates at the start of each epoch

        def keep(trainer, record=None, at_starts=at_starts):
            at_starts.append(trainer.rates())

        toy_run.fit(trainer, callbacks=[SimpleNamespace(on_start=keep, on_epoch=keep)], validation=None)
    assert rates[FLAT] == [
        [factor * rate for rate in group] for factor, group in zip([1, 1, 0.5, 0.25], rates[None], strict=True)
    ]
    assert [record["plateau"] for record in trainer.history] == [1.0, 0.5, 0.25]
    lines = [describe(record, 3).split("  ")[-1] for record in trainer.history]
    assert lines[0].startswith("accuracy")
    assert lines[1:] == ["rate x 0.5", "rate x 0.25"]


def test_steps_use_the_lower_rate():
    """The bits are those of a schedule that falls after the same epochs."""
    lowered = toy_run.trainer(lr=1e-5, schedule=None, plateau=FLAT)
    toy_run.fit(lowered)
    scheduled = toy_run.trainer(lr=1e-5, schedule=lambda step, total, epoch: 0.5 ** max(0, step // epoch - 1))
    toy_run.fit(scheduled)
    assert lowered.plateau_rate == 0.25
    assert toy_run.same_arrays(lowered.net.state_dict(), scheduled.net.state_dict())
    assert [record["lr"] for record in lowered.records] == [record["lr"] for record in scheduled.records]


def test_a_resumed_run_goes_on_with_the_same_bits(tmp_path):
    def fit(name, stop=None, **options):
        trainer = toy_run.trainer(lr=1e-6, plateau=FLAT)
        toy_run.fit(trainer, epochs=4, run_dir=tmp_path / name, callbacks=[toy_run.StopAt(stop)], **options)
        return trainer

    uninterrupted = fit("whole")
    assert uninterrupted.plateau_rate == 0.125
    fit("cut", stop=13)
    assert fit("cut", resume=True).plateau_rate == 0.125
    assert toy_run.contents(tmp_path / "whole") == toy_run.contents(tmp_path / "cut")
    with pytest.raises(SettingsError, match=r'plateau is "patience=0.*" there and null here'):
        toy_run.fit(toy_run.trainer(lr=1e-6), epochs=4, run_dir=tmp_path / "cut", resume=True)


def test_a_run_without_a_plateau_stores_none(tmp_path):
    toy_run.fit(toy_run.trainer(), epochs=1, run_dir=tmp_path / "run")
    assert "plateau" not in json.loads((tmp_path / "run" / "run.json").read_text())["settings"]
    assert "plateau" not in (tmp_path / "run" / "metrics.jsonl").read_text()
