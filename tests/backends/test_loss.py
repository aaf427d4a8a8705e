"""Losses: values computed by hand, float64 references, numerical gradients, and labels out of range."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuconv import ops
from gpuconv.dtypes import FLOAT_NAMES, accumulation_dtype, as_dtype
from tests.gradients import numerical_gradient
from tests.tolerance import SMALLEST, UNIT_ROUNDOFF, assert_within

pytestmark = pytest.mark.usefixtures("oracle_and_numpy")

LOSSES = [
    (ops.softmax_cross_entropy, {}),
    (ops.softmax_cross_entropy, {"label_smoothing": 0.1}),
    (ops.softmax_cross_entropy, {"label_smoothing": 1.0}),
    (ops.svm_hinge, {}),
    (ops.svm_hinge, {"delta": 0.25}),
]
IDS = ["-".join([loss.__name__, *(f"{k}={v}" for k, v in options.items())]) for loss, options in LOSSES]


def batch(n, classes, dtype="float64", seed=0, scale=3):
    generator = np.random.default_rng(seed)
    scores = (generator.normal(size=(n, classes)) * scale).astype(as_dtype(dtype))
    return scores, generator.integers(0, classes, n)


def test_softmax_cross_entropy_gives_the_values_computed_by_hand():
    logits = np.log([[1.0, 2.0, 5.0], [4.0, 4.0, 2.0]])
    loss, dlogits = ops.softmax_cross_entropy(logits, np.array([2, 0]))
    np.testing.assert_allclose(loss, -(np.log(5 / 8) + np.log(4 / 10)) / 2)
    np.testing.assert_allclose(dlogits, [[1 / 16, 2 / 16, -3 / 16], [-0.3, 0.2, 0.1]])


def test_label_smoothing_gives_the_values_computed_by_hand():
    logits = np.log([[1.0, 2.0, 5.0]])
    loss, dlogits = ops.softmax_cross_entropy(logits, np.array([1]), label_smoothing=0.3)
    np.testing.assert_allclose(loss, -(0.1 * np.log(1 / 8) + 0.8 * np.log(2 / 8) + 0.1 * np.log(5 / 8)))
    np.testing.assert_allclose(dlogits, [[1 / 8 - 0.1, 2 / 8 - 0.8, 5 / 8 - 0.1]])


@pytest.mark.parametrize("label_smoothing", [0.0, 0.3])
@pytest.mark.parametrize("dtype", FLOAT_NAMES)
def test_a_one_hot_row_gives_the_results_of_its_label(dtype, label_smoothing):
    scores, labels = batch(7, 5, "float32")
    value, gradient = ops.softmax_cross_entropy(scores, labels, label_smoothing=label_smoothing)
    rows = np.eye(5)[labels].astype(as_dtype(dtype))
    soft, soft_gradient = ops.softmax_cross_entropy(scores, rows, label_smoothing=label_smoothing)
    np.testing.assert_allclose(soft, value, rtol=1e-6)
    np.testing.assert_allclose(soft_gradient, gradient, rtol=1e-6, atol=1e-7)


def test_soft_targets_give_the_values_computed_by_hand():
    logits = np.log([[1.0, 2.0, 5.0]])
    loss, dlogits = ops.softmax_cross_entropy(logits, np.array([[0.5, 0.0, 0.25]]))
    np.testing.assert_allclose(loss, -(0.5 * np.log(1 / 8) + 0.25 * np.log(5 / 8)))
    np.testing.assert_allclose(dlogits, 0.75 * np.array([[1 / 8, 2 / 8, 5 / 8]]) - [[0.5, 0, 0.25]])
    ruled_out = ops.softmax_cross_entropy(np.array([[0.0, -np.inf, 0.0]]), np.array([[0.5, 0.0, 0.5]]))[0]
    np.testing.assert_allclose(ruled_out, np.log(2))
    assert np.isnan(ops.softmax_cross_entropy(logits, np.array([[0.5, np.nan, 0.5]]))[0])


@pytest.mark.parametrize("label_smoothing", [0.0, 0.3])
def test_gradients_of_soft_targets_agree_with_numerical_ones(label_smoothing):
    scores, _ = batch(5, 3)
    targets = np.random.default_rng(1).random((5, 3))
    _, dscores = ops.softmax_cross_entropy(scores, targets, label_smoothing=label_smoothing)
    numerical = numerical_gradient(
        lambda: ops.softmax_cross_entropy(scores, targets, label_smoothing=label_smoothing)[0], scores, np.ones(())
    )
    np.testing.assert_allclose(dscores, numerical, rtol=1e-6, atol=1e-9)


def test_weights_and_ignored_rows_give_the_values_computed_by_hand():
    logits = np.log([[1.0, 2.0, 5.0], [4.0, 4.0, 2.0], [np.nan, 1, 1]])
    weight = np.array([0.5, 1.0, 3.0])
    loss, dlogits = ops.softmax_cross_entropy(logits, np.array([2, 0, -1]), weight, ignore_index=-1)
    np.testing.assert_allclose(loss, -(3 * np.log(5 / 8) + 0.5 * np.log(4 / 10)) / 3.5)
    np.testing.assert_allclose(dlogits[0], np.array([1 / 8, 2 / 8, -3 / 8]) * 3 / 3.5)
    np.testing.assert_allclose(dlogits[1], np.array([-0.6, 0.4, 0.2]) * 0.5 / 3.5)
    np.testing.assert_array_equal(dlogits[2], 0)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.3])
def test_loss_and_gradient_are_0_if_every_row_is_ignored_or_has_weight_0(label_smoothing):
    for labels, weight, ignored in (([7, 7], None, 7), ([1, 1], [1.0, 0.0, 2.0], None)):
        weight = None if weight is None else np.array(weight)
        options = dict(label_smoothing=label_smoothing, ignore_index=ignored)
        loss, dlogits = ops.softmax_cross_entropy(np.ones((2, 3)), np.array(labels), weight, **options)
        assert loss == 0
        np.testing.assert_array_equal(dlogits, np.zeros((2, 3)))


def test_a_wrong_label_beside_ignored_ones_is_refused():
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 3\), received -2 at index 2"):
        ops.softmax_cross_entropy(np.zeros((4, 3)), np.array([0, -1, -2, 1]), ignore_index=-1)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int64", "uint64"])
def test_ignored_labels_of_any_integer_dtype_count_for_nothing(dtype):
    scores, labels = batch(7, 5)
    labels[2:4] = 100
    value, dscores = ops.softmax_cross_entropy(scores, labels.astype(dtype), ignore_index=100)
    counted = np.delete(np.arange(7), [2, 3])
    expected, expected_gradient = ops.softmax_cross_entropy(scores[counted], labels[counted])
    np.testing.assert_allclose(value, expected, rtol=1e-14)
    np.testing.assert_allclose(dscores[counted], expected_gradient, rtol=1e-12, atol=1e-16)
    assert not dscores[2:4].any()
    totals = np.zeros(4)
    ops.add_metrics(totals, value, scores, labels, ignore_index=100)
    np.testing.assert_allclose(totals, [value * 5, (scores.argmax(1) == labels).sum(), 5, 1])


def test_svm_hinge_gives_the_values_computed_by_hand():
    """The example of CS231n's notes, whose loss is 8, and an image that is classified correctly by a wide margin."""
    scores = np.array([[13.0, -7.0, 11.0], [0.0, 50.0, 1.0]])
    loss, dscores = ops.svm_hinge(scores, np.array([0, 1]), delta=10.0)
    assert loss == 8 / 2
    np.testing.assert_array_equal(dscores, [[-0.5, 0, 0.5], [0, 0, 0]])


def test_a_margin_of_exactly_0_has_no_gradient():
    loss, dscores = ops.svm_hinge(np.array([[2.0, 1.0, 1.5]]), np.array([0]))
    assert loss == 0.5
    np.testing.assert_array_equal(dscores, [[-1, 0, 1]])


@pytest.mark.parametrize("classes", [1, 2, 10, 1000])
def test_equal_scores_have_the_loss_of_guessing(classes):
    scores, labels = np.full((3, classes), -4.5), np.array([0, classes - 1, classes // 2])
    np.testing.assert_allclose(ops.softmax_cross_entropy(scores, labels)[0], np.log(classes), atol=1e-15)
    np.testing.assert_allclose(ops.svm_hinge(scores, labels)[0], classes - 1)


@pytest.mark.parametrize(("loss", "options"), LOSSES, ids=IDS)
@pytest.mark.parametrize(("n", "classes"), [(1, 1), (1, 7), (5, 3), (7, 11)])
def test_gradients_agree_with_numerical_ones(loss, options, n, classes):
    scores, labels = batch(n, classes)
    _, dscores = loss(scores, labels, **options)
    numerical = numerical_gradient(lambda: loss(scores, labels, **options)[0], scores, np.ones(()))
    np.testing.assert_allclose(dscores, numerical, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("dtype", FLOAT_NAMES)
@pytest.mark.parametrize(("loss", "options"), LOSSES, ids=IDS)
def test_every_dtype_is_within_its_bound(loss, options, dtype):
    n, classes = 13, 17
    scores, labels = batch(n, classes, dtype)
    value, dscores = loss(scores, labels, **options)
    assert isinstance(value, np.ndarray)
    assert (value.shape, value.dtype, dscores.dtype) == ((), accumulation_dtype(scores.dtype), scores.dtype)
    expected, expected_gradient = loss(scores.astype(np.float64), labels, **options)
    unit = UNIT_ROUNDOFF["float64" if dtype == "float64" else "float32"]
    # The loss is a mean over n images of sums over the classes; each term is at most about 20.
    assert_within(value, expected, 2 * (n + classes) * 20 * unit)
    bound = UNIT_ROUNDOFF[dtype] * abs(expected_gradient) + 4 * classes * unit / n + SMALLEST[dtype]
    assert_within(dscores, expected_gradient, bound)


@pytest.mark.parametrize("dtype", FLOAT_NAMES)
@pytest.mark.parametrize(("loss", "options"), LOSSES, ids=IDS)
def test_out_may_be_strided_or_the_scores(loss, options, dtype):
    scores, labels = batch(7, 5, dtype)
    original = scores.copy()
    value, expected = loss(scores, labels, **options)
    np.testing.assert_array_equal(scores, original)
    out = np.full((5, 14), np.nan, scores.dtype).T[::2]
    again, dscores = loss(scores, labels, **options, out=out)
    assert dscores is out
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(again, value)
    assert loss(scores, labels, **options, out=scores)[1] is scores
    np.testing.assert_array_equal(scores, expected)


@pytest.mark.parametrize("shape", [None, (1,), ()], ids=["float", "array of one element", "array of rank 0"])
@pytest.mark.parametrize(("loss", "options"), LOSSES, ids=IDS)
def test_grad_scale_multiplies_the_gradient_before_it_is_rounded(loss, options, shape):
    scores, labels = batch(7, 5, "float16")
    wide = scores.astype(np.float64)
    value, gradient = loss(wide, labels, **options)
    factor = 72000.0  # beyond float16; a power of 2 would not show whether the gradient was rounded before
    scale = factor if shape is None else np.full(shape, factor)
    scaled_value, scaled = loss(scores, labels, **options, grad_scale=scale)
    np.testing.assert_allclose(scaled_value, value, rtol=1e-5)
    np.testing.assert_allclose(scaled.astype(float), factor * gradient, rtol=1.01 * 2.0**-11, atol=2.0**-12)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_huge_scores_do_not_overflow(dtype):
    scores = np.array([[1e30, -1e30, 0.0], [1e4, 1e4 - 1, -1e4]], dtype)
    loss, dlogits = ops.softmax_cross_entropy(scores, np.array([0, 1]))
    np.testing.assert_allclose(loss, (0 + np.log1p(np.e)) / 2, rtol=1e-6)
    assert np.isfinite(dlogits).all()


def test_infinite_and_nan_scores_give_the_values_computed_by_hand():
    scores = np.array([[0.0, -np.inf, 0.0]])
    loss, dlogits = ops.softmax_cross_entropy(scores, np.array([0]))  # a class with score -inf adds nothing
    np.testing.assert_allclose(loss, np.log(2))
    np.testing.assert_allclose(dlogits, [[-0.5, 0, 0.5]])
    assert ops.softmax_cross_entropy(scores, np.array([1]))[0] == np.inf
    for bad in (np.nan, np.inf):
        scores[0, 2] = bad
        assert np.isnan(ops.softmax_cross_entropy(scores, np.array([0]))[0])
    assert np.isnan(ops.svm_hinge(np.array([[0.0, np.nan]]), np.array([0]))[0])


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64", "uint64"])
@pytest.mark.parametrize("loss", [ops.softmax_cross_entropy, ops.svm_hinge])
def test_labels_of_any_integer_dtype_give_the_same_bits(loss, dtype):
    scores, labels = batch(7, 5)
    expected, expected_gradient = loss(scores, labels)
    value, dscores = loss(scores, labels.astype(dtype))
    assert value == expected
    np.testing.assert_array_equal(dscores, expected_gradient)


@pytest.mark.parametrize("label", [-1, 3, 1000])
@pytest.mark.parametrize("loss", [ops.softmax_cross_entropy, ops.svm_hinge])
def test_a_label_out_of_range_is_refused(loss, label):
    out = np.full((4, 3), 7.0)
    with pytest.raises(ValueError, match=rf"labels must lie in \[0, 3\), received {label} at index 2"):
        loss(np.zeros((4, 3)), np.array([0, 2, label, 99]), out=out)
    assert (out == 7).all(), "a refused call must write nothing"


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 99), st.floats(0, 1), st.floats(0, 5))
def test_losses_agree_with_their_definitions(n, classes, seed, label_smoothing, delta):
    scores, labels = batch(n, classes, seed=seed)
    p = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    t = (1 - label_smoothing) * np.eye(classes)[labels] + label_smoothing / classes
    loss, dlogits = ops.softmax_cross_entropy(scores, labels, label_smoothing=label_smoothing)
    np.testing.assert_allclose(loss, -(t * np.log(p)).sum() / n, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(dlogits, (p - t) / n, atol=1e-14)

    expected = sum(
        max(0, scores[i, j] - scores[i, labels[i]] + delta) for i in range(n) for j in range(classes) if j != labels[i]
    )
    loss, dscores = ops.svm_hinge(scores, labels, delta=delta)
    np.testing.assert_allclose(loss, expected / n, rtol=1e-12)
    np.testing.assert_allclose(dscores.sum(1), 0, atol=1e-15)
