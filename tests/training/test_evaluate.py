"""Evaluation: the same results for every batch size, the confusion matrix, and what is left unchanged."""

import numpy as np
import pytest

from gpuconv import losses
from gpuconv.data import Normalization
from gpuconv.layers import Input, Linear, Sequential
from gpuconv.training import evaluate
from tests import toy_run


@pytest.mark.parametrize("loss", ["softmax", "svm"])
def test_results_do_not_depend_on_the_batch_size(loss):
    net = toy_run.net()
    x, labels = next(iter(toy_run.held_out(9).epoch(0)))
    scores = net.forward(x)
    expected = float(losses.get(loss)(scores, labels)[0])
    for size in (9, 4, 1):
        evaluation = evaluate(net, toy_run.held_out(size), loss=loss)
        assert evaluation.samples == 9
        assert evaluation.loss == pytest.approx(expected, rel=1e-5)
        assert evaluation.accuracy == (scores.argmax(1) == labels).mean()
        assert evaluation.confusion is None


def test_confusion_counts_true_classes_in_rows():
    net = toy_run.net()
    x, labels = next(iter(toy_run.held_out(9).epoch(0)))
    chosen = net.forward(x).argmax(1)
    expected = np.array([[((labels == i) & (chosen == j)).sum() for j in range(3)] for i in range(3)])
    evaluation = evaluate(net, toy_run.held_out(4), confusion=True)
    np.testing.assert_array_equal(evaluation.confusion, expected)
    assert np.trace(evaluation.confusion) / 9 == pytest.approx(evaluation.accuracy)


def test_evaluation_changes_nothing():
    net = toy_run.net()
    before = {name: value.copy() for name, value in net.state_dict().items()}
    evaluate(net, toy_run.held_out(4), tta="mirror+shift")
    assert toy_run.same_arrays(net.state_dict(), before)


def test_wrong_options_are_refused():
    data = toy_run.images()
    for options, message in (
        ({"confusion": "no"}, "confusion must be True or False, received 'no'"),
        ({"normalization": 3}, r"normalization is a gpuconv.data.Normalization\(mean, std\).* received int"),
        ({"ranks": 3}, "ranks is a gpuconv.parallel.Ranks, received int"),
    ):
        with pytest.raises(TypeError, match=message):
            evaluate(toy_run.net(), data, **options)


def test_a_normalization_that_nothing_needs_may_have_any_shape():
    net = Sequential([Input((12,)), Linear(3)])
    batches = [(np.linspace(-2, 2, 48, dtype=np.float32).reshape(4, 12), np.arange(4) % 3)]
    assert evaluate(net, batches, normalization=Normalization([99], [50])).loss == evaluate(net, batches).loss


def test_a_normalization_must_fit_the_images():
    data, wrong = toy_run.images(), Normalization([1.0] * 5, [1.0] * 5)
    with pytest.raises(ValueError, match="normalization is for other images: mean has shape"):
        evaluate(toy_run.net(), data, normalization=wrong)


def test_evaluating_on_no_images_is_an_error():
    class Empty:
        def epoch(self, epoch):
            return iter(())

    with pytest.raises(ValueError, match="nothing to evaluate"):
        evaluate(toy_run.net(), Empty())
