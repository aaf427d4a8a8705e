"""`gpuconv.checks`: gradient checks and sanity checks of a net."""

import math
from functools import partial

import numpy as np
import pytest

from gpuconv import checks, losses, models, ops
from gpuconv.checks import gradients, sanity_checks
from gpuconv.layers import (
    BatchNorm,
    Conv2D,
    ConvTranspose2D,
    Dropout,
    Flatten,
    Input,
    Linear,
    ReLU,
    Residual,
    Sequential,
    Tanh,
)
from gpuconv.training.optimizers import Adam


def data(count=32, shape=(8, 8, 1), classes=10):
    rng = np.random.default_rng(6)
    return rng.normal(size=(count, *shape)).astype(np.float32), rng.integers(0, classes, count)


def small_net():
    return Sequential(
        [
            Input((5, 6, 2)),
            Conv2D(3, 3),
            Tanh(),
            Residual([Conv2D(4, 3, padding=1), BatchNorm()], [Conv2D(4, 1)]),
            Dropout(0.3),
            Flatten(),
            Linear(3),
        ]
    )


def test_a_correct_net_passes_and_is_not_changed():
    net = small_net()
    before = {key: value.copy() for key, value in net.state_dict().items()}
    results = checks.gradient_check(net, samples=7)
    assert [result.name for result in results] == ["x", *net.params()]
    assert all(result.passed and result.worst < 1e-5 for result in results)
    assert results[0].checked == 7
    for key, value in net.state_dict().items():
        np.testing.assert_array_equal(value, before[key])
    assert net.dtype == np.float32


def test_a_single_layer_is_checked_at_a_shape_and_at_given_values():
    assert all(result.passed for result in checks.gradient_check(Conv2D(2, 3), input_shape=(4, 5, 3), samples=None))
    x = np.full((1, 4), 3.0)
    (result,) = checks.gradient_check(Tanh(), x, input_shape=(4,))
    assert (result.checked, result.passed) == (4, True)
    with pytest.raises(ValueError, match="give input_shape"):
        checks.gradient_check(Conv2D(2, 3))


@pytest.mark.parametrize("kind", [Conv2D, ConvTranspose2D])
def test_a_layer_whose_algorithm_does_not_serve_float64_is_checked(kind):
    assert checks.gradient_check(kind(4, 3, algo="mma-128x64"), input_shape=(4, 4, 2), samples=5).passed


@pytest.fixture
def wrong_layers():
    class WrongReLU(ReLU, op="relu"):
        def backward(self, dy, *, input_grad=True):
            return 1.001 * super().backward(dy)

    class WrongBias(Linear):
        def backward(self, dy, *, input_grad=True):
            dx = super().backward(dy)
            self.gradient("bias")[0] += 1e-3
            return dx

    return WrongReLU, WrongBias


def test_a_layer_checked_at_a_shape_given_as_a_list_keeps_its_weights():
    layer = Linear(3)
    layer.build((4,), seed=3)
    for shape in ((4,), [4]):
        np.testing.assert_array_equal(gradients._float64_copy(layer, shape)["weight"], layer["weight"])


def test_a_wrong_backward_fails_for_the_wrong_gradient(wrong_layers):
    relu, linear = wrong_layers
    (result,) = checks.gradient_check(relu(), input_shape=(4, 3))
    assert not result.passed
    assert 5e-4 < result.worst < 2e-3
    failed = [result.name for result in checks.gradient_check(linear(3), input_shape=(4,)) if not result.passed]
    assert failed == ["bias"]


@pytest.mark.parametrize("loss", ["softmax", "svm"])
def test_the_sanity_suite_passes_on_a_correct_net(loss):
    net = models.build("digits-net", seed=1)
    before = {key: value.copy() for key, value in net.state_dict().items()}
    first, regularized, overfit, ratio = checks.sanity(net, *data(), loss=loss, optimizer=Adam(lr=1e-4))
    assert first.passed
    assert abs(first.value - {"softmax": math.log(10), "svm": 9.0}[loss]) < 0.05
    assert regularized.passed
    assert overfit.passed, overfit
    assert "100% right" in overfit.details
    assert ratio.passed, ratio
    assert "conv1.weight" in ratio.details
    for key, value in net.state_dict().items():
        np.testing.assert_array_equal(value, before[key])


@pytest.mark.parametrize(
    ("loss", "loss_of_a_guess"),
    [
        ("Softmax", math.log(10)),
        (losses.get("svm", delta=5.0), 45.0),
        (losses.get("softmax", label_smoothing=0.2), math.log(10)),
        (partial(ops.svm_hinge, delta=3.0), 27.0),
    ],
)
def test_the_sanity_suite_takes_any_loss_with_its_own_settings(loss, loss_of_a_guess):
    net = models.build("digits-net", seed=1)
    first, regularized, overfit, _ = checks.sanity(net, *data(), loss=loss)
    assert first.passed
    assert first.value == pytest.approx(loss_of_a_guess, rel=0.01)
    assert first.expected.startswith(f"{loss_of_a_guess:.4f}")
    assert regularized.passed
    assert overfit.passed, overfit


def test_the_first_loss_is_that_of_guessing_only_for_losses_of_classes():
    net, (x, labels) = models.build("digits-net", seed=1), data()
    targets = np.eye(10, dtype=np.float32)[labels]
    of_classes = checks.first_loss(net, x, labels)
    assert of_classes.expected == f"{math.log(10):.4f}, that of guessing among 10 classes"
    for loss, value in (("mse", 0.1), (losses.get("huber", delta=1.0), 0.05), ("bce", math.log(2))):
        assert checks.first_loss(net, x, targets, loss=loss).expected == f"{value:.4f}, that of scores of 0"


def test_the_first_loss_is_checked_with_frozen_weights_too():
    net, (x, labels) = models.build("digits-net", seed=1), data()
    expected = checks.first_loss(net, x, labels)
    for frozen in (net["fc1"], net):
        frozen.freeze()
        assert checks.first_loss(net, x, labels) == expected


def test_smoothed_labels_have_a_minimum_loss_above_zero():
    """Scores whose softmax equals the smoothed targets have a gradient of zero and the smallest possible loss, which
    `overfits` subtracts."""
    scores = np.log(np.full((1, 4), 0.05) + 0.8 * np.eye(4)[:1])
    loss, slope = ops.softmax_cross_entropy(scores, np.array([0]), label_smoothing=0.2)
    np.testing.assert_allclose(slope, 0, atol=1e-15)
    smoothed, plain = (losses.get("softmax", label_smoothing=label_smoothing) for label_smoothing in (0.2, 0.0))
    labels = np.array([0])
    assert sanity_checks._loss_of_perfect_scores(smoothed, labels, 4) == pytest.approx(float(loss), rel=1e-14)
    assert (
        sanity_checks._loss_of_perfect_scores(plain, labels, 4)
        == sanity_checks._loss_of_perfect_scores(losses.get("svm"), labels, 4)
        == 0
    )


@pytest.mark.parametrize(
    ("soft", "settings"),
    [
        pytest.param(False, {}, id="class-numbers"),
        pytest.param(False, {"ignore_index": 2}, id="ignored-label"),
        pytest.param(False, {"weight": [1, 10, 0.5]}, id="weighted-class-numbers"),
        pytest.param(True, {}, id="probabilities"),
        pytest.param(True, {"weight": [1, 10, 0.5]}, id="weighted-probabilities"),
    ],
)
def test_the_minimum_of_softmax_is_that_of_its_smoothed_and_weighted_targets(soft, settings):
    loss, labels = losses.get("softmax", label_smoothing=0.1, **settings), np.array([0, 0, 1, 2, 0])
    if soft:
        labels = 0.7 * np.eye(3)[labels] + 0.1
    targets = np.array(settings.get("weight", [1.0] * 3)) * (0.9 * (labels if soft else np.eye(3)[labels]) + 0.1 / 3)
    least, slope = loss(np.log(targets), labels)
    np.testing.assert_allclose(slope, 0, atol=1e-15)
    assert sanity_checks._loss_of_perfect_scores(loss, labels, 3) == pytest.approx(float(least), rel=1e-12)


def test_a_correct_net_passes_with_class_weights_and_label_smoothing():
    x, labels = data(20, classes=1)
    labels[-2:] = 1
    net, loss = models.build("digits-net", classes=2, seed=1), "softmax:label_smoothing=0.1,weight=1/10"
    first = checks.first_loss(net, x, labels, loss=loss)
    assert first.passed, first
    assert first.expected == "0.8245, that of scores of 0"
    overfit = checks.overfits(net, x, labels, loss=loss)
    assert overfit.passed, overfit


@pytest.mark.parametrize("weight_decay", [1e-3, 3.0, 1e6])
def test_a_step_on_the_penalty_lowers_it_for_every_weight_decay(weight_decay):
    result = checks.regularization(models.build("digits-net"), *data(4), weight_decay=weight_decay)
    assert result.passed, result


def test_wrong_options_of_checks_are_refused():
    net = Sequential([Input((4,)), Linear(3)])
    x, labels = np.ones((2, 4), np.float32), np.array([0, 1])
    for call, error, message in (
        (lambda: checks.gradient_check(Tanh), TypeError, "received the class Tanh; call it"),
        (lambda: checks.gradient_check(net, samples=0), ValueError, "samples must be at least 1, received 0"),
        (lambda: checks.gradient_check(net, samples="all"), TypeError, "samples must be an integer, received 'all'"),
        (lambda: checks.gradient_check(3), TypeError, "layer must be a layer or a net, received int"),
        (lambda: checks.gradient_check(net, x[:0]), ValueError, r"x must hold at least one sample, .* \(0, 4\)"),
        (lambda: checks.regularization(net, x, labels, weight_decay="a"), TypeError, "weight_decay must be a number"),
        (lambda: checks.regularization(net, x, labels, weight_decay=0), ValueError, "weight_decay must be above 0"),
        (lambda: checks.gradient_check(net, step=0), ValueError, "step must be above 0, received 0"),
        (lambda: checks.gradient_check(net, tolerance=-1), ValueError, "tolerance must lie in"),
        (lambda: checks.gradient_check(net, training="no"), TypeError, "training must be True or False, received 'no'"),
        (lambda: checks.overfits(net, x, labels, steps=0), ValueError, "steps must be at least 1, received 0"),
        (
            lambda: checks.update_ratio(net, x, labels, optimizer="adam"),
            TypeError,
            r"step\(params, grads\), received str",
        ),
        (lambda: checks.sanity(net, None, labels, optimizer="adam"), TypeError, r"step\(params, grads\), received str"),
        (lambda: checks.sanity(net, None, labels, optimizer=Adam), TypeError, r"step\(params, grads\), received type"),
        (lambda: checks.first_loss(Sequential([Input((4,))]), x, labels), ValueError, "no layer with weights"),
        (lambda: checks.overfits(net, x, labels, steps="all"), TypeError, "steps must be an integer, received 'all'"),
    ):
        with pytest.raises(error, match=message):
            call()


def test_a_net_with_a_single_score_is_refused():
    net = models.build("seed-net", (8, 8, 3), 1)
    for loss in ("softmax", "svm"):
        with pytest.raises(ValueError, match="nothing to classify"):
            checks.sanity(net, np.zeros((20, 8, 8, 3), np.float32), np.zeros(20, np.int64), loss=loss)


def test_a_wrong_loss_fails_the_check_of_the_first_loss(monkeypatch):
    original = ops.softmax_cross_entropy
    monkeypatch.setattr(
        ops, "softmax_cross_entropy", lambda *args, **options: (2 * original(*args, **options)[0], None)
    )
    assert not checks.first_loss(models.build("digits-net"), *data()).passed


def test_the_minimum_of_a_users_loss_takes_only_its_label_smoothing_into_account():
    class OfFirstColumn(losses.SoftmaxCrossEntropy):
        def __call__(self, scores, labels, grad_scale=None):
            raise AssertionError

    smoothed = np.array([0.1 / 4 + 0.9, *[0.1 / 4] * 3])
    least = sanity_checks._loss_of_perfect_scores(OfFirstColumn(label_smoothing=0.1), np.zeros((5, 2), int), 4)
    assert least == pytest.approx(-np.sum(smoothed * np.log(smoothed)))


def test_a_net_that_cannot_distinguish_its_images_does_not_overfit():
    x, labels = data(20)
    result = checks.overfits(models.build("digits-net"), np.zeros_like(x), labels, steps=20)
    assert not result.passed
    assert result.details.endswith("at step 20")


def test_nan_ends_the_overfitting_at_once():
    x, labels = data(20)
    x[3, 2, 2] = np.nan
    result = checks.overfits(models.build("digits-net"), x, labels)
    assert not result.passed
    assert result.details.endswith("at step 1")


def test_a_loss_of_the_user_may_return_a_number_and_a_gradient_of_another_dtype():
    def own(scores, labels):
        loss, dscores = losses.get("softmax")(scores, labels)
        return float(loss), dscores.astype(np.float64)

    net = models.build("digits-net")
    results = [checks.sanity(net, *data(), loss=each, overfit_steps=3) for each in ("softmax", own)]
    softmax, own_softmax = ([each.value for each in found] for found in results)
    assert own_softmax == softmax


def test_the_check_of_the_first_loss_takes_a_weighted_loss_of_probabilities():
    x, labels = data()
    weighted = losses.get("softmax", weight=[1] * 5 + [3] * 5)
    result = checks.first_loss(models.build("digits-net"), x, np.eye(10, dtype=np.float32)[labels], loss=weighted)
    assert result.passed
    assert result.expected.endswith("that of scores of 0")


@pytest.mark.parametrize("check", [checks.first_loss, checks.regularization, checks.overfits, checks.update_ratio])
def test_a_check_refuses_unbuilt_nets_names_of_nets_and_labels_that_are_all_ignored(check):
    x, labels = data(3)
    labels[:] = -1
    with pytest.raises(ValueError, match="all 3 labels are -1, which the loss ignores"):
        check(models.build("digits-net"), x, labels, loss=losses.get("softmax", ignore_index=-1))
    with pytest.raises(RuntimeError, match="the net has no shapes yet"):
        check(Sequential([Linear(10)]), x, labels)
    with pytest.raises(TypeError, match=r"gpuconv.models.build\('digits-net'\) builds the net of that name"):
        check("digits-net", x, labels)


def test_the_ratio_of_updates_needs_a_net_with_weights():
    x, labels = data(3, (2,), 2)
    with pytest.raises(ValueError, match=r"of two or more dimensions.* only \['norm1.weight', 'norm1.bias'\]"):
        checks.update_ratio(Sequential([Input((2,)), BatchNorm()]), x, labels)


def test_the_overfitting_check_does_not_count_ignored_labels():
    x, labels = data(20)
    labels[::4] = -1
    result = checks.overfits(models.build("digits-net"), x, labels, loss=losses.get("softmax", ignore_index=-1))
    assert result.passed
    assert result.details.startswith("100% right")


def test_the_overfitting_check_mentions_no_labels_for_a_loss_of_targets():
    x, _ = data(4)
    targets = np.zeros((4, 10), np.float32)
    result = checks.overfits(models.build("digits-net"), x, targets, loss="mse", steps=1)
    assert result.details == "at step 1"
    assert "label" not in result.expected


def test_a_learning_rate_too_high_or_too_low_fails_the_check_of_the_update_ratio():
    net = models.build("digits-net")
    high, low = (checks.update_ratio(net, *data(), optimizer=Adam(lr=lr)) for lr in (0.1, 1e-7))
    assert not high.passed
    assert not low.passed
    assert high.value > 1e-2
    assert low.value < 1e-4
