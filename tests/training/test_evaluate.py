"""Evaluation: sums over uneven batches, confusion, averaging over augmented copies."""

import numpy as np
import pytest

from gpuconv import losses
from gpuconv.data import Loader, Normalization
from gpuconv.training import evaluate
from gpuconv.training.evaluate import averaged_scores, views
from gpuconv.training.metrics import Totals
from tests.training import small


def batches(batch_size):
    data = small.images(13, seed=2)
    return Loader(data, batch_size, normalization=Normalization.from_dataset(data), shuffle=False)


@pytest.mark.parametrize("loss", ["softmax", "svm"])
def test_the_batch_size_does_not_matter(loss):
    net = small.net()
    x, labels = next(iter(batches(13).epoch(0)))
    scores = net.forward(x)
    expected = float(losses.get(loss)(scores, labels)[0])
    for size in (13, 5, 1):
        found = evaluate(net, batches(size), loss=loss)
        assert found.samples == 13
        assert found.loss == pytest.approx(expected, rel=1e-5)
        assert found.accuracy == (scores.argmax(1) == labels).mean()
        assert found.confusion is None


def test_confusion_counts_true_classes_in_rows():
    net = small.net()
    x, labels = next(iter(batches(13).epoch(0)))
    chosen = net.forward(x).argmax(1)
    expected = np.array([[((labels == i) & (chosen == j)).sum() for j in range(3)] for i in range(3)])
    found = evaluate(net, batches(4), confusion=True)
    np.testing.assert_array_equal(found.confusion, expected)
    assert np.trace(found.confusion) / 13 == pytest.approx(found.accuracy)


def test_evaluation_changes_nothing():
    net = small.net()
    before = {name: value.copy() for name, value in net.state_dict().items()}
    evaluate(net, batches(4), flip=True, shift=1)
    assert small.same_arrays(net.state_dict(), before)


def test_views_are_the_batch_its_shifts_and_their_mirrors():
    x = np.arange(2 * 3 * 4 * 1, dtype=np.float32).reshape(2, 3, 4, 1) + 1
    found = list(views(x, flip=True, shift=2))
    assert len(found) == 10
    np.testing.assert_array_equal(found[0], x)
    np.testing.assert_array_equal(found[5], x[:, :, ::-1])
    up, down, left, right = np.zeros((4, *x.shape), np.float32)
    up[:, 0], down[:, 2] = x[:, 2], x[:, 0]
    left[:, :, :2], right[:, :, 2:] = x[:, :, 2:], x[:, :, :2]
    for view, expected in zip(found[1:5], (up, down, left, right)):
        np.testing.assert_array_equal(view, expected)
    right_of_mirror = np.zeros_like(x)
    right_of_mirror[:, :, 2:] = x[:, :, ::-1][:, :, :2]
    np.testing.assert_array_equal(found[9], right_of_mirror)
    assert all(view.flags.c_contiguous and view.dtype == x.dtype for view in found)
    assert len(list(views(x, shift=1))) == 5
    assert len(list(views(x))) == 1
    with pytest.raises(ValueError, match="smaller than the image"):
        list(views(x, shift=3))


def test_scores_are_averaged_over_the_views():
    net = small.net()
    x, _ = next(iter(batches(13).epoch(0)))
    expected = np.mean([net.forward(view) for view in views(x, flip=True, shift=1)], axis=0)
    np.testing.assert_allclose(averaged_scores(net, x, flip=True, shift=1), expected, rtol=1e-5, atol=1e-6)
    found = evaluate(net, batches(6), flip=True, shift=1)
    _, labels = next(iter(batches(13).epoch(0)))
    assert found.accuracy == (expected.argmax(1) == labels).mean()


def test_nothing_to_evaluate_on_is_an_error():
    class Empty:
        def epoch(self, epoch):
            return iter(())

    with pytest.raises(ValueError, match="nothing to evaluate on"):
        evaluate(small.net(), Empty())


def test_totals_count_the_steps_before_the_first_loss_that_is_not_finite():
    totals = Totals("numpy")
    scores, labels = np.array([[1.0, 2.0], [3.0, 3.0]]), np.array([1, 1])
    for loss in (1.5, 0.5, np.inf, 1.0):
        totals.add(np.array(loss), scores, labels)
    found = totals.read()
    assert found.finite_steps == 2
    assert found.samples == 8
    assert found.correct == 4  # the first of equal scores is chosen
    assert found.loss_sum == np.inf
