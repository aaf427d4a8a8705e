"""The training loop: what it learns, counts and records, and when it stops."""

import json
import math
from functools import partial

import numpy as np
import pytest

from gpuconv import backends, losses, models, ops
from gpuconv.data import Dataset, Loader, Normalization, synthetic
from gpuconv.layers import BatchNorm, Conv2D, Flatten, GlobalAvgPool2D, Input, Linear, Sequential
from gpuconv.training import (
    Callback,
    DataError,
    DivergedError,
    EarlyStopping,
    SettingsError,
    Trainer,
    callback_base,
    callbacks,
    checkpoint,
    evaluate,
)
from gpuconv.training.running_metrics import Totals
from tests.training import toy_run


def test_a_net_overfits_20_samples():
    data = toy_run.images(20)
    trainer = Trainer(toy_run.net(), "adam", lr=0.01)
    history = trainer.fit(data, epochs=40, batch_size=10, progress=False)
    assert history[-1]["train_accuracy"] == 1
    assert history[-1]["train_loss"] < 0.1 * history[0]["train_loss"]


@pytest.mark.parametrize("optimizer", ["sgd:momentum=0.9,nesterov=true", "adagrad", "rmsprop", "adam", "adamw", "lion"])
@pytest.mark.parametrize("loss", ["softmax", "svm"])
def test_every_optimizer_and_loss_learns(optimizer, loss):
    history = toy_run.fit(toy_run.trainer(optimizer=optimizer, lr=0.03, loss=loss), epochs=4)
    assert history[-1]["train_loss"] < 0.7 * history[0]["train_loss"]


def test_two_runs_give_the_same_bits():
    one, other = toy_run.trainer(), toy_run.trainer()
    toy_run.fit(one)
    toy_run.fit(other)
    assert one.records == other.records
    assert toy_run.same_arrays(one.net.state_dict(), other.net.state_dict())
    third = toy_run.trainer(seed=1)
    toy_run.fit(third)
    assert not toy_run.same_arrays(one.net.state_dict(), third.net.state_dict())


def test_records_are_means_over_the_samples_of_their_steps():
    """The means are recomputed here from the scores of each step."""
    trainer, seen = toy_run.trainer(), []
    loss = trainer.loss

    def recording_loss(scores, labels):
        value, gradient = loss(scores, labels)
        seen.append((float(value), float((scores.argmax(1) == labels).sum()), len(labels)))
        return value, gradient

    trainer.loss = recording_loss
    toy_run.fit(trainer, epochs=2, metrics_every=2, validation=None)
    value, correct, count = np.array(seen).T
    assert count.tolist() == [5, 5, 5, 5, 2] * 2
    spans = {2: (0, 2), 4: (2, 4), 6: (5, 6), 8: (6, 8), 10: (8, 10)}
    for record in trainer.records:
        of_epoch = record["event"] == "epoch"
        first, last = (record["step"] - 5, record["step"]) if of_epoch else spans[record["step"]]
        span, prefix = slice(first, last), "train_" if of_epoch else ""
        assert record[f"{prefix}loss"] == pytest.approx((value * count)[span].sum() / count[span].sum(), rel=1e-12)
        assert record[f"{prefix}accuracy"] == correct[span].sum() / count[span].sum()
    assert [record["step"] for record in trainer.records] == [2, 4, 5, 6, 8, 10, 10]


def test_held_out_metrics_are_those_of_evaluate():
    trainer = toy_run.trainer()
    last = toy_run.fit(trainer, test=toy_run.held_out())[-1]
    evaluation = evaluate(trainer.net, toy_run.held_out())
    assert (last["validation_loss"], last["validation_accuracy"]) == (evaluation.loss, evaluation.accuracy)
    assert (last["test_loss"], last["test_accuracy"]) == (evaluation.loss, evaluation.accuracy)


def test_the_schedule_gets_the_step_number_of_the_whole_run():
    trainer = toy_run.trainer(lr=2.0, optimizer="sgd", schedule="step:1,gamma=0.5")
    trainer.optimizer.lr = 2e-3
    toy_run.fit(trainer, metrics_every=1)
    rates = [record["lr"] for record in trainer.records if record["event"] == "step"]
    assert rates == [2e-3] * 5 + [1e-3] * 5 + [5e-4] * 5


def test_the_schedule_sets_the_size_of_the_step():
    trainer = toy_run.trainer(optimizer="sgd", lr=0.1, schedule="warmup:2")
    before = {name: value.copy() for name, value in trainer.net.params().items()}
    toy_run.fit(trainer, epochs=1, train=toy_run.loader(batch_size=22))  # one step, at half the rate
    for name, value in trainer.net.params().items():
        np.testing.assert_allclose(value, before[name] - 0.05 * trainer.net.grads()[name], rtol=1e-5, atol=1e-7)


def test_a_step_reads_nothing_back_from_the_device(monkeypatch):
    """A step that waited for the device could not be captured."""
    trainer = toy_run.trainer()
    x, y = next(iter(toy_run.loader().epoch(0)))
    trainer.optimizer.advance()

    def refuse(*_):
        raise AssertionError("a step read from the device")

    monkeypatch.setattr(backends, "to_numpy", refuse)
    monkeypatch.setattr(Totals, "read", refuse)
    trainer.step(x, y)


def test_the_device_is_synchronized_every_metrics_every_steps(monkeypatch):
    reads, read = [], Totals.read
    trainer = toy_run.trainer()
    monkeypatch.setattr(Totals, "read", lambda self: reads.append(trainer.steps) or read(self))
    toy_run.fit(trainer, epochs=2, metrics_every=4, validation=None)
    assert reads == [4, 5, 8, 10]


def test_epochs_are_the_total_over_several_calls_of_fit():
    trainer = toy_run.trainer(schedule=None)
    toy_run.fit(trainer, epochs=1)
    toy_run.fit(trainer, epochs=3)
    uninterrupted = toy_run.trainer(schedule=None)
    toy_run.fit(uninterrupted, epochs=3)
    assert trainer.records == uninterrupted.records
    assert toy_run.fit(trainer, epochs=3) == uninterrupted.history


# --- nonfinite losses --------------------------------------------------------------------------


class Poisoned:
    """A user's loader whose batch number `step` (from 1, over all epochs) holds NaN; step 99 is never reached."""

    def __init__(self, step):
        self.inner, self.step = toy_run.loader(), step

    def __len__(self):
        return len(self.inner)

    def epoch(self, epoch, start_batch=0):
        for batch, (x, y) in enumerate(self.inner.epoch(epoch, start_batch), epoch * len(self) + start_batch + 1):
            yield (x * np.float32("nan") if batch == self.step else x), y


@pytest.mark.parametrize("metrics_every", [1, 3, 50])
@pytest.mark.parametrize("step", [6, 8, 10])
def test_nan_names_its_step_and_keeps_the_last_checkpoint(tmp_path, step, metrics_every):
    trainer = toy_run.trainer()
    message = rf"not finite at step {step} \(epoch 2\).*last\.safetensors was saved before that"
    with pytest.raises(DivergedError, match=message):
        toy_run.fit(trainer, train=Poisoned(step), metrics_every=metrics_every, run_dir=tmp_path / "run")
    last_checkpoint = checkpoint.load(tmp_path / "run" / "last.safetensors")
    assert last_checkpoint.state["epoch"] == 1
    assert all(np.isfinite(array).all() for array in last_checkpoint.tensors.values())
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines == trainer.records
    assert max(line["step"] for line in lines) < step


def test_nan_between_readings_is_never_saved(tmp_path):
    with pytest.raises(DivergedError, match="step 6"):
        toy_run.fit(
            toy_run.trainer(), train=Poisoned(6), metrics_every=50, checkpoint_every=1, run_dir=tmp_path / "run"
        )
    assert checkpoint.load(tmp_path / "run" / "last.safetensors").state["epoch"] == 1


def test_an_overflow_stops_the_run_without_a_warning():
    with pytest.raises(DivergedError, match="A lower learning rate"):
        toy_run.fit(toy_run.trainer(optimizer="sgd", lr=1e30, schedule=None))


def test_a_nan_gradient_is_not_saved(tmp_path):
    trainer = toy_run.trainer(optimizer="sgd")
    loss, calls = trainer.loss, []

    def broken(scores, labels):
        calls.append(1)
        value, gradient = loss(scores, labels)
        return value, gradient * np.float32("inf") if len(calls) == 10 else gradient

    trainer.loss = broken
    with pytest.raises(DivergedError, match=r"conv1\.weight is not finite after step 10"):
        toy_run.fit(trainer, validation=None, run_dir=tmp_path / "run")
    assert checkpoint.load(tmp_path / "run" / "last.safetensors").state["epoch"] == 1


def test_a_nan_validation_loss_stops_the_run():
    trainer = toy_run.trainer()
    trainer.net.state_dict()["norm1.running_mean"].fill(np.nan)
    with pytest.raises(DivergedError, match="validation loss is nan after step 5"):
        toy_run.fit(trainer)


# --- callbacks ---------------------------------------------------------------------------------


class Listener(Callback):
    def __init__(self):
        self.events = []

    def on_start(self, trainer):
        self.events.append("start")

    def on_step(self, trainer, record):
        self.events.append(trainer.steps if record is None else (trainer.steps, record["event"]))

    def on_epoch(self, trainer, record):
        self.events.append((trainer.epoch, record["event"]))

    def on_stop(self, trainer, reason):
        self.events.append(reason)


def test_callbacks_receive_all_events_in_order():
    listener = Listener()
    toy_run.fit(toy_run.trainer(), epochs=1, metrics_every=3, callbacks=[listener])
    assert listener.events == ["start", 1, 2, (3, "step"), 4, 5, (1, "epoch"), "finished"]


def test_a_callback_stops_the_run_after_the_step():
    class Stop(Callback):
        def on_step(self, trainer, record):
            if trainer.steps == 7:
                trainer.stop("enough")

    trainer, listener = toy_run.trainer(), Listener()
    toy_run.fit(trainer, callbacks=[Stop(), listener])
    assert (trainer.steps, trainer.stop_reason, listener.events[-1]) == (7, "enough", "enough")


def test_callbacks_are_told_about_a_failure():
    class Fail(Callback):
        def on_step(self, trainer, record):
            raise RuntimeError("broken callback")

    listener = Listener()
    with pytest.raises(RuntimeError, match="broken callback"):
        toy_run.fit(toy_run.trainer(), callbacks=[Fail(), listener])
    assert listener.events[-1] == "failed"


@pytest.fixture
def best_is_epoch_2(monkeypatch):
    monkeypatch.setattr(callbacks, "monitored_measure", lambda record: ("score", -abs(record["epoch"] - 2)))


@pytest.mark.usefixtures("best_is_epoch_2")
def test_early_stopping_counts_epochs_since_the_best(capsys):
    trainer = toy_run.trainer()
    toy_run.fit(trainer, epochs=20, callbacks=[EarlyStopping(3)], progress=True)
    assert trainer.epoch == 5
    assert "early stopping: no better score in 3 epochs" in capsys.readouterr().out
    with pytest.raises(ValueError, match="received 0"):
        EarlyStopping(0)


@pytest.mark.usefixtures("best_is_epoch_2")
def test_a_run_that_was_stopped_early_stays_stopped(tmp_path):
    for resume in (False, True):
        trainer = toy_run.trainer()
        toy_run.fit(trainer, epochs=20, callbacks=[EarlyStopping(3)], run_dir=tmp_path / "run", resume=resume)
        assert trainer.epoch == 5
        assert "early stopping" in trainer.stop_reason


def test_best_is_the_state_after_the_best_epoch(tmp_path):
    trainer, states = toy_run.trainer(), {}

    class Remember(Callback):
        def on_epoch(self, trainer, record):
            states[record["epoch"]] = {name: value.copy() for name, value in trainer.net.state_dict().items()}

    history = toy_run.fit(trainer, epochs=6, callbacks=[Remember()], run_dir=tmp_path / "run")
    accuracies = [record["validation_accuracy"] for record in history]
    best = 1 + accuracies.index(max(accuracies))
    assert toy_run.same_arrays(checkpoint.load(tmp_path / "run" / "best.safetensors").part("net"), states[best])
    assert toy_run.same_arrays(checkpoint.load(tmp_path / "run" / "last.safetensors").part("net"), states[6])


def test_logs_hold_every_record(tmp_path):
    trainer = toy_run.trainer()
    history = toy_run.fit(trainer, run_dir=tmp_path / "run")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == trainer.records
    table = [line.split(",") for line in (tmp_path / "run" / "metrics.csv").read_text().splitlines()]
    assert table[0] == [key for key in history[0] if key != "event"]
    assert [float(value) for value in table[-1]] == [history[-1][key] for key in table[0]]
    assert len(table) == 4


def test_each_epoch_is_printed_in_one_line(capsys):
    toy_run.fit(toy_run.trainer(), test=toy_run.held_out(), progress=True)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    for number, line in enumerate(lines, 1):
        assert line.startswith(f"epoch {number}/3  loss ")
        assert "  validation accuracy " in line
        assert "  test accuracy " in line


@pytest.mark.usefixtures("pictures")
def test_curves_are_drawn_if_matplotlib_is_installed(tmp_path):
    pytest.importorskip("matplotlib")
    toy_run.fit(toy_run.trainer(), run_dir=tmp_path / "run")
    assert (tmp_path / "run" / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("pictures")
def test_missing_matplotlib_is_logged_once(tmp_path, monkeypatch, caplog):
    from gpuconv import plots

    def missing(*_):
        raise plots.PlotError("pictures need matplotlib")

    monkeypatch.setattr(plots, "curves", missing)
    toy_run.fit(toy_run.trainer(), callbacks=[callbacks.Curves(tmp_path / "curves.png", seconds=0)])
    assert caplog.messages == ["no curves.png: pictures need matplotlib"]


@pytest.mark.usefixtures("pictures")
@pytest.mark.parametrize(
    "error",
    [ValueError("backend"), KeyError("font"), DeprecationWarning("old"), OSError(28, "full"), MemoryError()],
    ids=lambda error: type(error).__name__,
)
def test_curves_that_cannot_be_drawn_are_logged_once_and_do_not_end_the_run(error, tmp_path, monkeypatch, caplog):
    from gpuconv import plots

    def broken(*_):
        raise error

    monkeypatch.setattr(plots, "curves", broken)
    trainer = toy_run.trainer()
    toy_run.fit(trainer, callbacks=[callbacks.Curves(tmp_path / "curves.png", seconds=0)])
    assert trainer.stop_reason == "finished"
    assert caplog.text.count("no curves.png: ") == 1


@pytest.mark.usefixtures("pictures")
def test_curves_are_drawn_again_once_they_can_be(tmp_path, caplog):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "curves.png"
    picture.mkdir()

    class Clear(Callback):
        def on_stop(self, trainer, reason):
            picture.rmdir()

    toy_run.fit(toy_run.trainer(), callbacks=[Clear(), callbacks.Curves(picture, seconds=0)])
    assert "no curves.png" in caplog.text
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_only_started_callbacks_get_the_end_event_and_the_first_error_is_raised():
    class Broken(Callback):
        def on_start(self, trainer):
            raise RuntimeError("no start")

    class NoEnd(Callback):
        def on_stop(self, trainer, reason):
            raise OSError("no end")

    first, last = Listener(), Listener()
    with pytest.raises(RuntimeError, match="no start") as raised:
        toy_run.fit(toy_run.trainer(), callbacks=[NoEnd(), first, Broken(), last])
    assert (first.events, last.events) == (["start", "failed"], [])
    assert raised.value.__notes__ == ["NoEnd could not end: no end"]


def test_a_callback_need_not_have_every_method():
    class Steps:
        def __init__(self):
            self.seen = []

        def on_step(self, trainer, record):
            self.seen.append(trainer.steps)

    class Nothing:
        def on_epoch(self, trainer, record):
            pass

    steps = Steps()
    toy_run.fit(toy_run.trainer(), epochs=1, callbacks=[steps, Nothing()])
    assert steps.seen == [1, 2, 3, 4, 5]
    next_steps = [callback_base.next_step(callback, None) for callback in (steps, Nothing(), Callback(), Listener())]
    assert next_steps == [1, None, None, 1]


@pytest.mark.parametrize("loss", [partial(ops.svm_hinge, delta=2.0), losses.get("svm", delta=2.0)])
def test_any_callable_is_a_loss_and_its_options_are_stored(tmp_path, loss):
    trainer = Trainer(toy_run.net(), "sgd", loss=loss)
    assert len(toy_run.fit(trainer, epochs=1, run_dir=tmp_path / "run")) == 1
    other = Trainer(toy_run.net(), "sgd", loss=partial(ops.svm_hinge, delta=3.0))
    with pytest.raises(SettingsError, match=r"loss is .*delta=2.0.* there and .*delta=3.0.* here"):
        toy_run.fit(other, epochs=1, run_dir=tmp_path / "run", resume=True)


# --- arguments ---------------------------------------------------------------------------------


def other_images():
    return toy_run.loader(Dataset(np.zeros((4, 3, 3, 1), np.uint8), np.arange(4) % 3, ["a", "b", "c"], "narrow"))


def more_classes():
    data = toy_run.images()
    return toy_run.loader(Dataset(data.images, data.labels + 1, ["other", *data.classes], "more"))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"epochs": -1}, ValueError, "epochs must be at least 0"),
        ({"epochs": 1.5}, TypeError, "epochs must be an integer"),
        ({"metrics_every": 0}, ValueError, "metrics_every must be at least 1"),
        ({"checkpoint_every": 0}, ValueError, "checkpoint_every must be at least 1"),
        ({"train": other_images}, DataError, "train does not fit: the net takes .* 6 x 5 x 1 .* received 3 x 3 x 1"),
        ({"validation": other_images}, DataError, "validation does not fit: the net takes volumes"),
        ({"test": more_classes}, DataError, "test does not fit: the net has 3 classes, .* received 3 from"),
        ({"resume": True}, ValueError, "resume=True needs run_dir"),
        ({"validation": "digits"}, TypeError, r"validation must be \(images, labels\), .*; received str"),
        ({"train": Poisoned(99), "validation": toy_run.images()}, TypeError, "give validation as a Loader too"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_made(tmp_path, options, error, message):
    trainer = toy_run.trainer()
    before = {key: value.copy() for key, value in trainer.net.state_dict().items()}
    options = {name: value() if callable(value) else value for name, value in options.items()}
    directory = {} if "resume" in options else {"run_dir": tmp_path / "run"}
    with pytest.raises(error, match=message):
        toy_run.fit(trainer, **directory, **options)
    assert trainer.steps == 0
    assert toy_run.same_arrays(trainer.net.state_dict(), before)
    assert not list(tmp_path.iterdir())


def test_a_last_batch_without_statistics_is_refused_before_anything_is_made(tmp_path):
    net = Sequential([Input((6, 5, 1)), Flatten(), Linear(4), BatchNorm(), Linear(3)])
    with pytest.raises(ValueError, match=r"norm1 needs statistics .* batch size than 7 for 22 images, or drop that"):
        Trainer(net).fit(toy_run.images(), batch_size=7, epochs=1, run_dir=tmp_path / "run", progress=False)
    assert not list(tmp_path.iterdir())
    Trainer(net).fit(toy_run.images(), validation=toy_run.images(1), batch_size=11, epochs=1, progress=False)


def test_sizes_that_only_seem_mismatched_are_accepted():
    data = Dataset(toy_run.images().images, np.arange(22) % 2, ["a", "b"], "two")
    normalization = Normalization.from_dataset(data)

    class Cropped(Loader):
        def epoch(self, epoch=0, start_batch=0):
            return ((np.ascontiguousarray(x[:, :4, :4]), y) for x, y in super().epoch(epoch, start_batch))

    def logistic(scores, labels):
        probability = 1 / (1 + np.exp(-scores[:, 0]))
        loss = -np.log(np.where(labels == 1, probability, 1 - probability)).mean()
        return np.asarray(loss, np.float32), ((probability - labels)[:, None] / len(labels)).astype(np.float32)

    inner = Sequential([Input((4, 3, 3)), Flatten(), Linear(2)])
    convolutional = [Input((3, 3, 1), larger=True), Conv2D(4, 3), BatchNorm(), GlobalAvgPool2D(), Flatten(), Linear(2)]
    for layers, train, options in (
        ([Input((4, 4, 1)), Flatten(), Linear(2)], Cropped(data, 5, normalization=normalization), {}),
        ([Input((6, 5, 1)), Flatten(), Linear(1)], data, {"loss": logistic}),
        ([Input((6, 5, 1)), Conv2D(3, 3), inner], data, {}),
        (convolutional, Loader(data, 7, normalization=normalization), {}),
    ):
        assert len(Trainer(Sequential(layers), **options).fit(train, epochs=1, progress=False)) == 1


def test_a_net_that_accepts_larger_inputs_trains_on_larger_images():
    layers = [Input((4, 4, 1), larger=True), Conv2D(3, 3), GlobalAvgPool2D(), Flatten()]
    assert len(Trainer(Sequential(layers)).fit(toy_run.images(), epochs=1, progress=False)) == 1
    with pytest.raises(ValueError, match="or larger maps, received 3 x 3 x 1"):
        Trainer(Sequential(layers)).fit(other_images(), epochs=1, progress=False)


def test_a_loader_with_fewer_batches_than_its_length_is_named():
    class Short(Poisoned):
        def epoch(self, epoch, start_batch=0):
            yield from list(super().epoch(epoch, start_batch))[:2]

    with pytest.raises(ValueError, match="gave only 2 batches, and its length is 5"):
        toy_run.fit(toy_run.trainer(), train=Short(99))


def test_unknown_names_are_refused():
    for options in ({"optimizer": "adm"}, {"loss": "softmx"}, {"schedule": "cosin"}):
        with pytest.raises(ValueError, match="did you mean"):
            Trainer(toy_run.net(), **options)


@pytest.mark.parametrize("loss", ["softmax", "svm"])
def test_data_with_a_single_class_is_refused_before_a_run_starts(loss, tmp_path):
    one, _ = synthetic.load(8, size=(8, 8, 3), classes=1)
    two, _ = synthetic.load(8, size=(8, 8, 3), classes=2)
    for data, classes, message in (
        (one, 1, "has one class, 'class 0'"),
        (one, 9, "has one class"),
        (two, 1, "one score"),
    ):
        trainer = Trainer(models.build("seed-net", (8, 8, 3), classes), loss=loss)
        with pytest.raises(DataError, match=f"{message}.*nothing to classify; training needs at least two classes"):
            trainer.fit(data, epochs=1, run_dir=tmp_path / "run", progress=False)
    assert not list(tmp_path.iterdir())


def test_a_user_defined_loss_may_train_on_one_class():
    one, _ = synthetic.load(8, size=(8, 8, 3), classes=1)

    def shrink(scores, labels):
        return np.zeros((), np.float32), scores

    trainer = Trainer(models.build("seed-net", (8, 8, 3), 1), loss=shrink)
    assert len(trainer.fit(one, epochs=1, progress=False)) == 1


def test_labels_out_of_range_are_refused():
    narrow = Sequential([Input((6, 5, 1)), Flatten(), Linear(2)])
    with pytest.raises(ValueError, match="label"):
        Trainer(narrow).fit(toy_run.images(), epochs=1, progress=False)


def test_the_first_loss_is_the_log_of_the_number_of_classes():
    trainer = toy_run.trainer(optimizer="sgd", lr=0.0, schedule=None)
    trainer.net.params()["fc1.weight"].fill(0)
    history = toy_run.fit(trainer, epochs=1)
    assert history[0]["train_loss"] == pytest.approx(math.log(3), rel=1e-6)
    assert losses.get("softmax") == trainer.loss
