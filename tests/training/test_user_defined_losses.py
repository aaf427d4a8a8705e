"""User-defined losses: what they may return, and how they train."""

from __future__ import annotations

import re
from functools import partial

import numpy as np
import pytest

from gpuconv import losses, models, ops
from gpuconv.data import synthetic
from gpuconv.dtypes import as_dtype
from gpuconv.layers import Conv2D, Input, Sequential
from gpuconv.training import SettingsError, Trainer, evaluate
from tests import toy_run


def fit(train=None, net=None, **options):
    trainer = Trainer(net or toy_run.net(), "sgd", **options)
    trainer.fit(train or toy_run.loader(), epochs=2, progress=False)
    return trainer


def test_a_loss_for_maps_of_scores_must_say_that_it_does_not_classify():
    def distance(scores, targets):
        return ((scores - targets) ** 2).mean(), 2 * (scores - targets) / scores.size

    net = Sequential([Input((6, 5, 1)), Conv2D(2, 3, padding=1)])
    images, targets = np.zeros((6, 6, 5, 1), np.float32), np.ones((6, 6, 5, 2), np.float32)
    message = r"distance classifies, .*, and it gives \(N, 6, 5, 2\); .* the attribute classifies = False"
    with pytest.raises(ValueError, match=message):
        Trainer(net, "sgd", loss=distance)
    distance.classifies = False
    history = Trainer(net, "sgd", loss=distance).fit((images, targets), epochs=1, progress=False)
    assert history[-1]["train_loss"] == 1


@pytest.mark.filterwarnings("ignore")  # PyTorch's of labels that cannot be written
def test_a_loss_may_use_pytorch():
    torch = pytest.importorskip("torch")

    def cross_entropy(scores, labels):
        scores = torch.from_numpy(scores).requires_grad_()
        loss = torch.nn.functional.cross_entropy(scores, torch.from_numpy(labels))
        loss.backward()
        return loss, scores.grad.numpy()

    found, expected = (fit(loss=loss).history for loss in (cross_entropy, "softmax"))
    np.testing.assert_allclose(found[-1]["train_loss"], expected[-1]["train_loss"], rtol=1e-5)
    message = "the gradient of the loss must be on the scores' device, numpy; <lambda> returned Tensor"
    with pytest.raises(TypeError, match=message):
        fit(loss=lambda scores, labels: (0.0, torch.from_numpy(scores)))


def softmax(scores, labels, kind=np.float64):
    """A loss as in a course assignment: it computes in float64 and returns a number of the given kind."""
    shares = np.exp(scores - scores.max(axis=1, keepdims=True), dtype=np.float64)
    shares /= shares.sum(axis=1, keepdims=True)
    loss = -np.log(shares[np.arange(len(labels)), labels]).mean()
    shares[np.arange(len(labels)), labels] -= 1
    return kind(loss), shares / len(labels)


def test_a_loss_may_return_any_kind_of_number_and_a_float64_gradient():
    expected = fit(loss="softmax").history
    for kind in (np.float64, np.float32, float, np.float16, lambda x: np.array([x]), lambda x: np.array(x, np.float64)):
        history = fit(loss=lambda scores, labels, kind=kind: softmax(scores, labels, kind)).history
        for record, reference in zip(history, expected, strict=True):
            assert record["train_loss"] == pytest.approx(reference["train_loss"], rel=2e-3)
            assert record["train_accuracy"] == reference["train_accuracy"]
    assert evaluate(toy_run.net(), toy_run.held_out(), loss=softmax).loss == pytest.approx(
        evaluate(toy_run.net(), toy_run.held_out()).loss, rel=1e-6
    )


def test_a_loss_whose_value_or_gradient_is_no_real_number_is_refused():
    for value in (None, "0.5", 1j, np.complex64(1j), np.array(1j), {}):
        with pytest.raises(TypeError, match=f"a loss is one number, .*; <lambda> returned {re.escape(repr(value))}"):
            fit(loss=lambda scores, labels, value=value: (value, np.zeros_like(scores)))
    with pytest.raises(TypeError, match="must hold real numbers; <lambda> returned complex64"):
        fit(loss=lambda scores, labels: (0.5, scores * np.complex64(1j)))


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


def test_the_gradient_of_a_loss_that_takes_no_grad_scale_is_scaled():
    scores, labels = np.eye(3, dtype=np.float16), np.arange(3)
    _, gradient = losses.apply(losses.get("softmax"), scores, labels, np.array([1024.0]))
    _, scaled = losses.apply(softmax, scores, labels, np.array([1024.0]))
    assert scaled.dtype == np.float16
    np.testing.assert_allclose(scaled, gradient, rtol=2e-3)


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


@pytest.mark.parametrize("loss", [partial(ops.svm_hinge, delta=2.0), losses.get("svm", delta=2.0)])
def test_any_callable_is_a_loss_and_its_options_are_stored(tmp_path, loss):
    trainer = Trainer(toy_run.net(), "sgd", loss=loss)
    assert len(toy_run.fit(trainer, epochs=1, run_dir=tmp_path / "run")) == 1
    other = Trainer(toy_run.net(), "sgd", loss=partial(ops.svm_hinge, delta=3.0))
    with pytest.raises(SettingsError, match=r"loss is .*delta=2.0.* there and .*delta=3.0.* here"):
        toy_run.fit(other, epochs=1, run_dir=tmp_path / "run", resume=True)


def test_a_user_defined_loss_may_train_on_one_class():
    one, _ = synthetic.load(8, size=(8, 8, 3), classes=1)

    def shrink(scores, labels):
        return np.zeros((), np.float32), scores

    trainer = Trainer(models.build("seed-net", (8, 8, 3), 1), loss=shrink)
    assert len(trainer.fit(one, epochs=1, progress=False)) == 1
