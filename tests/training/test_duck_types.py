"""User-defined losses, optimizers, schedules, metrics and callbacks without a base class."""

from __future__ import annotations

import json
import re
import warnings
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from gpuconv import losses, ops
from gpuconv.dtypes import as_dtype
from gpuconv.metrics import TopK
from gpuconv.notices import Notice
from gpuconv.training import SGD, Callback, EarlyStopping, SettingsError, Trainer, UncapturedWarning, evaluate
from gpuconv.training.schedules import Cosine
from tests.training import toy_run


def fit(optimizer="sgd", net=None, epochs=2, train=None, validation=None, **options):
    run = {name: options.pop(name) for name in ("run_dir", "resume", "callbacks") if name in options}
    trainer = Trainer(net or toy_run.net(), optimizer, **options)
    trainer.fit(train or toy_run.loader(), epochs=epochs, validation=validation, progress=False, **run)
    return trainer


def assert_same(one, other):
    assert one.records == other.records
    assert toy_run.same_arrays(one.net.state_dict(), other.net.state_dict())


# --- losses --------------------------------------------------------------------------------------


def softmax(scores, labels, kind=np.float64):
    """A loss as in a course assignment: it computes in float64 and returns a NumPy scalar."""
    shares = np.exp(scores - scores.max(axis=1, keepdims=True), dtype=np.float64)
    shares /= shares.sum(axis=1, keepdims=True)
    loss = -np.log(shares[np.arange(len(labels)), labels]).mean()
    shares[np.arange(len(labels)), labels] -= 1
    return kind(loss), shares / len(labels)


def test_a_loss_may_return_any_number_and_any_float_gradient():
    expected = fit(loss="softmax").history
    for kind in (np.float64, np.float32, float, np.float16, lambda x: np.array([x]), lambda x: np.array(x, np.float64)):
        history = fit(loss=lambda scores, labels, kind=kind: softmax(scores, labels, kind)).history
        for record, reference in zip(history, expected, strict=True):
            assert record["train_loss"] == pytest.approx(reference["train_loss"], rel=2e-3)
            assert record["train_accuracy"] == reference["train_accuracy"]
    assert evaluate(toy_run.net(), toy_run.held_out(), loss=softmax).loss == pytest.approx(
        evaluate(toy_run.net(), toy_run.held_out()).loss, rel=1e-6
    )


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_a_user_defined_loss_trains_16_bit_nets(precision):
    seen = []

    def mine(scores, labels):
        seen.append(scores.dtype.name)
        return softmax(scores, labels)

    with_scale = partial(ops.softmax_cross_entropy, label_smoothing=0.0)
    run = {"precision": precision, "train": toy_run.loader(dtype=as_dtype(precision))}
    expected = fit(loss="softmax", **run).history
    for loss in (mine, with_scale):
        for record, reference in zip(fit(loss=loss, **run).history, expected, strict=True):
            assert record["train_loss"] == pytest.approx(reference["train_loss"], rel=2e-2)
    assert {*seen} == {"float32"}


def test_a_loss_without_a_scale_has_its_gradient_scaled():
    scores, labels = np.eye(3, dtype=np.float16), np.arange(3)
    _, gradient = losses.apply(losses.get("softmax"), scores, labels, np.array([1024.0]))
    _, scaled = losses.apply(softmax, scores, labels, np.array([1024.0]))
    assert scaled.dtype == np.float16
    np.testing.assert_allclose(scaled, gradient, rtol=2e-3)


def test_a_class_instead_of_an_instance_is_refused():
    for name, kind in (("loss", losses.SVMHinge), ("schedule", Cosine), ("optimizer", SGD), ("metrics", [TopK])):
        with pytest.raises(TypeError, match=r"received the class \w+; call it"):
            Trainer(toy_run.net(), **{name: kind})


def test_a_built_in_loss_is_passed_on_unchanged():
    scores, labels = np.ones((2, 3), np.float32), np.array([0, 1])
    loss = losses.get("softmax")
    for result, expected in zip(losses.apply(loss, scores, labels), loss(scores, labels), strict=True):
        np.testing.assert_array_equal(result, expected)


def test_an_invalid_result_of_a_loss_is_named():
    for returned, error, message in (
        (0.5, TypeError, r"a loss returns \(loss, gradient .*\); broken returned float"),
        ((1, 2, 3), TypeError, "broken returned 3 values"),
        ((np.ones(5), np.ones((5, 3))), ValueError, r"one number, the mean .* of shape \(5,\) \(.mean\(\) makes one\)"),
        ((1.0, np.ones((5, 2))), ValueError, r"scores' shape \(5, 3\); broken returned shape \(5, 2\)"),
        ((1.0, None), ValueError, "broken returned NoneType"),
    ):

        def broken(scores, labels, returned=returned):
            return returned

        net = toy_run.net()
        before = {name: value.copy() for name, value in net.params().items()}
        with pytest.raises(error, match=message):
            fit(net=net, loss=broken)
        assert toy_run.same_arrays(net.params(), before)


# --- optimizers ----------------------------------------------------------------------------------


class Plain:
    """The shortest optimizer that trains."""

    def __init__(self, lr=0.01):
        self.lr = lr

    def step(self, params, grads):
        for name, param in params.items():
            param -= np.float32(self.lr) * grads[name]


class Rebinding(Plain):
    """Puts new arrays into the dictionary, and takes the rate as an argument."""

    def step(self, params, grads, lr):
        for name in params:
            params[name] = params[name] - np.float32(lr) * grads[name]


class Momentum(Plain):
    def __init__(self, lr=0.01):
        super().__init__(lr)
        self._velocity = {}

    def step(self, params, grads):
        for name, param in params.items():
            velocity = self._velocity.setdefault(name, np.zeros_like(param))
            velocity *= np.float32(0.9)
            velocity += grads[name]
            param -= np.float32(self.lr) * velocity


class Stored(Momentum):
    def state_dict(self):
        return {f"velocity.{name}": value for name, value in self._velocity.items()}

    def load_state_dict(self, state):
        self._velocity = {name.removeprefix("velocity."): np.array(value) for name, value in state.items()}


def assert_close(one, other):
    for param, expected in zip(one.net.params().values(), other.net.params().values(), strict=True):
        np.testing.assert_allclose(param, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("schedule", [None, "cosine", "step:1,gamma=0.5"])
def test_an_object_with_step_is_an_optimizer_under_every_schedule(schedule):
    expected = fit(SGD(lr=0.02), schedule=schedule)
    for optimizer in (Plain(0.02), Rebinding(0.02)):
        trainer = fit(optimizer, schedule=schedule)
        assert_close(trainer, expected)
        assert [record["lr"] for record in trainer.records] == [record["lr"] for record in expected.records]
    assert_close(fit(Momentum(0.02), schedule=schedule), fit(SGD(lr=0.02, momentum=0.9), schedule=schedule))


@pytest.mark.parametrize(("kind", "stores_its_state"), [(Stored, True), (Momentum, False)])
def test_a_resumed_run_restores_the_optimizer_state_or_says_that_there_is_none(kind, stores_its_state, tmp_path):
    uninterrupted = fit(kind(0.02), epochs=3)
    fit(kind(0.02), epochs=3, run_dir=tmp_path / "run", callbacks=[toy_run.StopAt(7, "enough")])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        resumed = fit(kind(0.02), epochs=3, run_dir=tmp_path / "run", resume=True)
    notices = [str(warning.message) for warning in caught if issubclass(warning.category, Notice)]
    if stores_its_state:
        assert_same(resumed, uninterrupted)
        assert notices == []
    else:
        assert notices == ["Momentum has no state_dict and load_state_dict, so its state starts from scratch"]
    with pytest.raises(SettingsError, match=r"optimizer.lr is 0.02 there and 0.5 here"):
        fit(kind(0.5), epochs=3, run_dir=tmp_path / "run", resume=True)


def test_on_a_device_a_user_defined_optimizer_steps_on_the_host_with_a_warning():
    class WrappedSGD:
        """Takes device arrays and uses gpuconv's ops."""

        lr = 0.01

        def __init__(self):
            self.inner = SGD(lr=0.01)

        def step(self, params, grads):
            self.inner.step(params, grads)

    from tests.training.test_graph import loader

    net = toy_run.net().to("emulated")
    with pytest.warns(UncapturedWarning, match=r"the optimizer .*WrappedSGD steps on the host"):
        trainer = fit(WrappedSGD(), net=net, epochs=1, train=loader(batch_size=11), graph=True)
    expected = fit(SGD(lr=0.01), net=toy_run.net().to("emulated"), epochs=1, train=loader(batch_size=11))
    assert trainer.records == expected.records


def test_objects_that_are_not_optimizers_are_refused():
    class NoStep:
        lr = 0.1

    class Torch:
        lr = 0.1

        def step(self):
            pass

    class NoRate:
        def step(self, params, grads):
            pass

    for wrong in (None, NoStep(), Torch(), 0.1):
        with pytest.raises(TypeError, match=r"an object with step\(params, grads\).*received " + type(wrong).__name__):
            Trainer(toy_run.net(), wrong)
    with pytest.raises(TypeError, match=r"received the class Plain; call it: Plain\(\)"):
        Trainer(toy_run.net(), Plain)
    with pytest.raises(ValueError, match="already built"):
        Trainer(toy_run.net(), Plain(), lr=0.1)
    with pytest.raises(ValueError, match=r"NoRate has no attribute lr.* the schedule cosine.* would have no effect"):
        Trainer(toy_run.net(), NoRate(), schedule="cosine")
    Trainer(toy_run.net(), NoRate())


# --- schedules -----------------------------------------------------------------------------------


def test_a_function_of_the_step_is_a_schedule():
    def by_step(step):
        return 1 / (1 + step)

    def by_share(step, total):
        return 1 - step / total

    class ByEpoch:
        def __call__(self, step, total, epoch):
            return 0.5 ** (step // epoch)

    rates = {}
    for schedule in (by_step, by_share, ByEpoch(), lambda step, total=0, epoch=1: np.float64(0.25)):
        trainer = Trainer(toy_run.net(), SGD(lr=1e-3), schedule=schedule)
        trainer.fit(toy_run.loader(), epochs=2, metrics_every=1, progress=False)
        rates[str(trainer.schedule)] = [r["lr"] for r in trainer.records if r["event"] == "step"]
    assert rates["by_step"] == pytest.approx([1e-3 / (1 + step) for step in range(10)])
    assert rates["by_share"] == pytest.approx([1e-3 * (1 - step / 10) for step in range(10)])
    assert rates["ByEpoch"] == [1e-3] * 5 + [5e-4] * 5
    assert rates["<lambda>"] == [2.5e-4] * 10
    for wrong, message in ((lambda: 1, "received <lambda>"), (lambda a, b, c, d: 1, r"\(step, total, epoch\)")):
        with pytest.raises(TypeError, match=message):
            Trainer(toy_run.net(), schedule=wrong)
    for value in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="the factor of schedule <lambda>"):
            fit(schedule=lambda step, value=value: value)


def test_a_run_is_continued_with_a_function_of_the_same_name(tmp_path):
    def halving(step):
        return 0.5 ** (step // 5)

    def cosine(step, total):  # not gpuconv's schedule of this name
        return 1 - step / total

    stops = SimpleNamespace(on_epoch=lambda trainer, record: trainer.stop("enough"))
    for schedule in (halving, cosine):
        run, options = tmp_path / schedule.__name__, {"epochs": 3, "progress": False}
        uninterrupted = toy_run.trainer(schedule=schedule)
        uninterrupted.fit(toy_run.loader(), **options)
        toy_run.trainer(schedule=schedule).fit(toy_run.loader(), run_dir=run, callbacks=[stops], **options)
        for other_schedule in ("cosine", None, lambda step: 1.0):
            with pytest.raises(SettingsError, match=rf'schedule is ".*{schedule.__name__}" there'):
                toy_run.trainer(schedule=other_schedule).fit(toy_run.loader(), run_dir=run, resume=True, **options)
        resumed = toy_run.trainer(schedule=schedule)
        resumed.fit(toy_run.loader(), run_dir=run, resume=True, **options)
        assert toy_run.same_arrays(resumed.net.state_dict(), uninterrupted.net.state_dict())


# --- metrics and callbacks -----------------------------------------------------------------------


def test_metrics_of_a_trainer_are_in_the_records_of_held_out_data(tmp_path, capsys):
    def spread(scores, labels):
        return scores.std()

    trainer = Trainer(toy_run.net(), metrics=["top-2", "per-class", spread])
    history = trainer.fit(toy_run.loader(), epochs=2, validation=toy_run.held_out(), run_dir=tmp_path / "run")
    for record in history:
        assert record["validation_accuracy"] <= record["validation_top_2"] <= 1
        assert len(record["validation_per_class"]) == 3
        assert record["validation_spread"] > 0
        assert "train_top_2" not in record
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines == history
    heading = (tmp_path / "run" / "metrics.csv").read_text().splitlines()[0]
    assert heading.endswith("validation_loss,validation_accuracy,validation_top_2,validation_spread")
    assert f"validation top 2 {history[-1]['validation_top_2']:.4f}" in capsys.readouterr().out
    resumed = Trainer(toy_run.net(), metrics=["top-2"])
    resumed.fit(toy_run.loader(), epochs=2, validation=toy_run.held_out(), run_dir=tmp_path / "run", resume=True)
    assert resumed.history == history
    with pytest.raises(ValueError, match="top_2 is measured on validation or test data, and neither is given"):
        resumed.fit(toy_run.loader(), epochs=2, progress=False)


@pytest.mark.slow
def test_the_first_example_of_the_training_page_runs(capsys):
    text = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    names = {}
    exec(re.search(r"```python\n(.*?)```", text, re.S)[1], names)
    assert names["trainer"].tested["test_accuracy"] > 0.9
    assert names["history"][-1]["validation_margin"] > 0


class UnknownHook:
    def on_epoch_ends(self, trainer, record):
        raise AssertionError


class MisspelledHook(Callback):
    def on_epochs(self, trainer, record):
        raise AssertionError

    def on_stop(self, trainer, reason):
        raise AssertionError


class HookWithoutTrainer:
    def on_start(self, trainer):
        pass

    def on_epoch(self, record):
        raise AssertionError


class HookWithMore(Callback):
    def on_stop(self, trainer, reason, more):
        raise AssertionError


def test_a_hook_of_another_signature_is_refused_before_anything_is_trained(tmp_path):
    trainer = Trainer(toy_run.net())
    before = {name: array.copy() for name, array in trainer.net.state_dict().items()}
    for wrong, message in (
        (HookWithoutTrainer(), r"HookWithoutTrainer.on_epoch is called with \(trainer, record\), but takes \(record\)"),
        (
            HookWithMore(),
            r"HookWithMore.on_stop is called with \(trainer, reason\), but takes \(trainer, reason, more\)",
        ),
    ):
        with pytest.raises(TypeError, match=message):
            trainer.fit(toy_run.loader(), epochs=1, callbacks=[wrong], run_dir=tmp_path / "run", progress=False)
    assert toy_run.same_arrays(trainer.net.state_dict(), before)
    assert not [*tmp_path.iterdir()]


def test_parameters_of_hooks_may_have_defaults_and_other_names():
    calls = []

    class Named:
        def on_step(self, *anything):
            calls.append(len(anything))

        def on_epoch(self, run, record, verbose=True):
            calls.append(record["epoch"])

    callback = Named()
    callback.on_start = calls.append  # a function written in C, set on the object only
    trainer = fit(callbacks=[callback], epochs=1)
    assert calls == [trainer, *[2] * trainer.batches, 1]


def test_an_object_without_any_hook_is_refused_as_a_callback():
    for wrong, message in (
        ([print], "any of on_start, .*received <built-in function print>"),
        ([EarlyStopping], r"the class EarlyStopping; call it"),
        ([None], "any of on_start, .*received None"),
        ([Callback()], "any of on_start, .*received <.*Callback"),
        ([UnknownHook()], r"UnknownHook.on_epoch_ends would never be called: .*did you mean 'on_epoch'"),
        ([MisspelledHook()], r"MisspelledHook.on_epochs would never be called: .*did you mean 'on_epoch'"),
        (EarlyStopping(3), "a list, received EarlyStopping"),
    ):
        with pytest.raises(TypeError, match=message):
            fit(callbacks=wrong)
