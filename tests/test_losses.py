"""Losses by name: values by hand, options and descriptions."""

import dataclasses
import math

import numpy as np
import pytest

from gpuconv import checks, losses
from gpuconv.layers import Input, Linear, Sequential, Sigmoid
from gpuconv.training import Trainer, config_file, evaluate, lr_find
from tests.defaults import IMMUTABLE_VALUE, dataclass_flags, expect_defaults

SCORES = np.array([[3.2, 5.1, -1.7], [1.0, 1.0, 1.0]])
LABELS = np.array([0, 2])


@pytest.mark.usefixtures("oracle_and_numpy")
def test_softmax_gives_the_loss_and_gradient_computed_by_hand():
    loss, dscores = losses.get("softmax")(SCORES, LABELS)
    p = math.exp(3.2) / (math.exp(3.2) + math.exp(5.1) + math.exp(-1.7))
    np.testing.assert_allclose(loss, (-math.log(p) + math.log(3)) / 2, rtol=1e-14)
    np.testing.assert_allclose(dscores[0, 0], (p - 1) / 2, rtol=1e-13)
    np.testing.assert_allclose(dscores[1], [1 / 6, 1 / 6, -1 / 3], rtol=1e-13)


@pytest.mark.usefixtures("oracle_and_numpy")
def test_svm_gives_the_loss_and_gradient_computed_by_hand():
    """The right class has the score 3.2 in the first sample, so the score 5.1 costs 5.1 - 3.2 + 1 = 2.9, and -1.7 costs
    nothing. In the second sample all scores are equal, and each of the 2 wrong ones costs 1."""
    loss, dscores = losses.get("svm")(SCORES, LABELS)
    np.testing.assert_allclose(loss, (2.9 + 2.0) / 2, rtol=1e-14)
    np.testing.assert_array_equal(dscores, [[-0.5, 0.5, 0], [0.5, 0.5, -1]])


def test_options_reach_the_op():
    smooth, _ = losses.get("softmax", label_smoothing=0.3)(SCORES, LABELS)
    z = SCORES - np.log(np.exp(SCORES).sum(1, keepdims=True))
    target = 0.7 * np.eye(3)[LABELS] + 0.1
    np.testing.assert_allclose(smooth, -(target * z).sum(1).mean(), rtol=1e-14)
    wide, _ = losses.get("SVM", delta=10.0)(SCORES, LABELS)
    # 5.1 - 3.2 + 10 = 11.9; -1.7 - 3.2 + 10 = 5.1; the second sample has two wrong classes, 10 each
    np.testing.assert_allclose(wide, (11.9 + 5.1 + 20) / 2, rtol=1e-14)


def test_a_callable_is_returned_unchanged():
    loss = losses.SVMHinge(2.0)
    assert losses.get(loss) is loss
    for own in (lambda scores, labels: 0, lambda *arguments: 0, lambda scores, labels, grad_scale: 0, min, {}.get):
        assert losses.get(own) is own


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: losses.get("sofmax"), ValueError, "did you mean 'softmax'"),
        (lambda: losses.get(lambda scores: 0), TypeError, r"called with \(scores, labels\), but takes \(scores\)"),
        (lambda: losses.get("cross_entropyy"), ValueError, "did you mean 'cross-entropy'"),
        (lambda: losses.SoftmaxCrossEntropy(1.5), ValueError, "label_smoothing must lie in"),
        (lambda: losses.SVMHinge(-1.0), ValueError, "delta must lie in"),
        (lambda: losses.get("svm")(SCORES, LABELS.astype(float)), TypeError, "labels must be integers"),
        (lambda: losses.get("softmax")(SCORES, np.array([0, 3])), ValueError, "label"),
        (lambda: losses.get("softmax")(SCORES[:0], LABELS[:0]), ValueError, "at least one sample"),
        (lambda: losses.SoftmaxCrossEntropy(weight=[1, -1]), ValueError, r"weight\[1\] must lie in \[0.0, inf\)"),
        (lambda: losses.SoftmaxCrossEntropy(weight=[1, "x"]), TypeError, r"weight\[1\] must be a number, received 'x'"),
        (lambda: losses.SoftmaxCrossEntropy(weight="1/x"), ValueError, "is written like '1/2/0.5', received '1/x'"),
        (lambda: losses.SoftmaxCrossEntropy(weight=[]), ValueError, "weight must hold a number for each class"),
        (lambda: losses.SoftmaxCrossEntropy(ignore_index=0.5), TypeError, "ignore_index must be an integer"),
        (lambda: losses.Huber(0), ValueError, "delta must be above 0, received 0"),
        (lambda: losses.BinaryCrossEntropy(np.nan), ValueError, "pos_weight must lie in"),
    ],
)
def test_bad_arguments_of_losses_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_losses_compare_by_value_and_have_the_documented_defaults():
    defaults = {
        "SoftmaxCrossEntropy": {"label_smoothing": 0.0, "weight": None, "ignore_index": None},
        "SVMHinge": {"delta": 1.0},
        "MeanSquaredError": {},
        "Huber": {"delta": 1.0},
        "BinaryCrossEntropy": {"pos_weight": None},
    }
    expect_defaults({"losses": defaults})
    for name, flags in dataclass_flags([f"losses:{name}" for name in defaults]):
        assert flags == IMMUTABLE_VALUE, name


def test_pytorchs_name_is_accepted_and_pytorchs_losses_are_refused():
    assert losses.get("cross_entropy", label_smoothing=0.1) == losses.SoftmaxCrossEntropy(0.1)
    torch = pytest.importorskip("torch")

    class Subclass(torch.nn.CrossEntropyLoss):
        pass

    for theirs in (torch.nn.CrossEntropyLoss(), Subclass(), torch.nn.functional.cross_entropy):
        with pytest.raises(TypeError, match=r"takes PyTorch's tensors.*'softmax'"):
            losses.get(theirs)


def test_a_stored_description_gives_the_loss_again():
    for loss in (
        losses.SoftmaxCrossEntropy(0.1, weight=np.array([1, 2.5]), ignore_index=-100),
        losses.MeanSquaredError(),
        losses.Huber(0.5),
        losses.BinaryCrossEntropy("1/2"),
        losses.BinaryCrossEntropy(3),
        losses.SoftmaxCrossEntropy(np.float32(0.1), ignore_index=np.int64(3)),
        losses.SVMHinge(np.float32(0.1)),
        losses.Huber(np.float32(0.1)),
    ):
        assert losses.read(losses.describe(loss)) == loss
        hash(loss)
    assert losses.read("SoftmaxCrossEntropy(label_smoothing=0.1)") == losses.SoftmaxCrossEntropy(0.1)


def test_a_users_loss_with_the_name_of_one_of_ours_is_not_read_as_ours():
    theirs = dataclasses.make_dataclass("Huber", [("delta", float, 1.0)], namespace={"__call__": lambda *given: given})
    described = losses.describe(theirs(2.0))
    assert described == f"{theirs.__module__}.Huber(delta=2.0)"
    with pytest.raises(ValueError, match="is not one of gpuconv's"):
        losses.read(described)


def test_a_short_form_is_read():
    loss = losses.get("softmax:weight=1/2/0.5,ignore_index=2")
    assert loss == losses.SoftmaxCrossEntropy(weight=[1, 2, 0.5], ignore_index=2)
    assert config_file._short_form("softmax", loss) == "softmax:weight=1.0/2.0/0.5,ignore_index=2"
    assert losses.get("Softmax:ignore_index=-100") == losses.SoftmaxCrossEntropy(ignore_index=-100)
    assert losses.get("bce:pos_weight=2") == losses.BinaryCrossEntropy(2.0)
    assert losses.get("svm:delta=2", delta=3.0) == losses.SVMHinge(3.0)
    for text in ("softmax:1", "softmax,svm", "softmax:0.1,svm"):
        with pytest.raises(ValueError, match="a loss is written like"):
            losses.get(text)
    with pytest.raises(ValueError, match=r"unknown option of svm 'x' \(known: delta\)"):
        losses.get("svm:x=1")


def test_a_short_form_is_read_wherever_a_loss_is_taken():
    net = Sequential([Input((3,)), Linear(3)], seed=0)
    data = np.eye(3, dtype=np.float32), np.arange(3)
    short, made = "softmax:label_smoothing=0.5", losses.SoftmaxCrossEntropy(0.5)
    assert Trainer(net, "sgd", lr=0.1, loss=short).loss == made
    assert evaluate(net, data, loss=short).loss == evaluate(net, data, loss=made).loss
    assert checks.first_loss(net, *data, loss=short) == checks.first_loss(net, *data, loss=made)
    found = [lr_find(net, data, loss=loss, steps=3).losses for loss in (short, made)]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("device", ["numpy", "emulated"])
def test_a_loss_of_the_user_may_work_in_place(device):
    """The last layer keeps its output, the scores, for its backward pass."""

    def squared(scores, targets):
        error = scores - targets
        return (error * error).mean(), 2 / error.size * error

    def in_place(scores, targets):
        scores -= targets
        return (scores * scores).mean(), 2 / scores.size * scores

    random = np.random.default_rng(0)
    data = random.random((8, 4)).astype(np.float32), random.random((8, 3)).astype(np.float32)
    histories = []
    for loss in (squared, in_place):
        net = Sequential([Input((4,)), Linear(3), Sigmoid()], seed=0, device=device)
        histories.append(Trainer(net, "sgd", lr=1.0, loss=loss).fit(data, epochs=3, batch_size=4, progress=False))
    assert histories[0] == histories[1]


def test_the_error_for_weights_that_are_no_numbers_names_the_option():
    for name, make in (("weight", losses.SoftmaxCrossEntropy), ("pos_weight", losses.BinaryCrossEntropy)):
        with pytest.raises(ValueError, match=f"{name} is written like '1/2/0.5', received '1/b'"):
            make(**{name: "1/b"})


def test_an_unknown_option_of_a_loss_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown option of svm 'label_smoothing' \(known: delta\)"):
        losses.get("svm", label_smoothing=0.1)
    assert losses.get("softmax", **{"Label-Smoothing": 0.1}) == losses.get("softmax", label_smoothing=0.1)


def test_a_subclass_with_its_own_call_is_a_loss_of_the_user_and_one_with_other_options_is_ours():
    class Halved(losses.SoftmaxCrossEntropy):
        def __call__(self, scores, labels):
            loss, dscores = losses.SoftmaxCrossEntropy()(scores, labels)
            seen.append(scores.dtype)
            return float(loss) / 2, dscores / 2

    class Smoothed(losses.SoftmaxCrossEntropy):
        def __init__(self):
            super().__init__(label_smoothing=0.1)

    seen: list = []
    for dtype in ("float16", "float32"):
        scores = SCORES.astype(dtype)
        loss, dscores = losses.apply(Halved(), scores, LABELS, 4.0)
        expected, gradient = losses.apply(losses.SoftmaxCrossEntropy(), scores, LABELS, 2.0)
        assert (loss.shape, loss.dtype, dscores.dtype, seen.pop()) == ((), "float32", dtype, "float32")
        np.testing.assert_allclose(loss, expected / 2, rtol=1e-6)
        np.testing.assert_allclose(dscores, gradient, rtol=1e-3)
    losses.expect_targets(Halved(), np.zeros(3, "U1"), (3,))
    assert losses.takes_probabilities(Halved(ignore_index=1))
    assert losses.is_ours(Smoothed())
    with pytest.raises(TypeError, match="takes integers of shape"):
        losses.expect_targets(Smoothed(), np.zeros(3), (3,))


def test_a_single_number_as_labels_is_refused():
    with pytest.raises(TypeError, match=r"received labels of float64 and shape \(\)"):
        losses.expect_targets(losses.get("mse"), np.ones(()), (3,))
