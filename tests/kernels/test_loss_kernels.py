"""Softmax, softmax cross-entropy and the SVM hinge loss."""

import numpy as np
import pytest

from gpuconv import asarray, ops, to_numpy
from gpuconv.backends.cuda.ops import class_rows, loss
from gpuconv.backends.cuda.ops.block_counters import block_counters
from gpuconv.dtypes import FLOAT_NAMES, as_dtype
from gpuconv.verify.bounds import UNIT_ROUNDOFF
from gpuconv.verify.oracle import expected_results
from gpuconv.verify.rules.base import as_float64
from tests.kernels.agreement import accumulation, assert_same_bits, expected, on_device, random
from tests.tolerance import assert_within, elementwise_bound, sum_bound

# (N, classes), and the dtypes. A lane has one value of a row, a few, many, or more than fit in registers.
SHAPES = {
    "one class": ((1, 1), FLOAT_NAMES),
    "two classes": ((5, 2), FLOAT_NAMES),
    "ten classes": ((37, 10), FLOAT_NAMES),
    "a full warp": ((9, 32), FLOAT_NAMES),
    "one more than a warp": ((3, 33), ("float32", "float64")),
    "a hundred": ((5, 100), ("float32", "float64")),
    "a thousand": ((3, 1000), ("float32", "bfloat16")),
    "a long row": ((2, 2503), ("float32", "bfloat16")),
    "more blocks than a block has threads": ((2111, 17), ("float32",)),
}
cases = pytest.mark.parametrize(
    ("shape", "dtype"), [(shape, dtype) for shape, dtypes in SHAPES.values() for dtype in dtypes]
)
every_loss = pytest.mark.parametrize(
    ("name", "options"),
    [("softmax_cross_entropy", {}), ("softmax_cross_entropy", {"label_smoothing": 0.2}), ("svm_hinge", {})],
)
both_losses = pytest.mark.parametrize("name", ["softmax_cross_entropy", "svm_hinge"])


def scores_and_labels(rng, shape, dtype):
    return 4 * random(rng, shape, dtype), rng.integers(0, shape[1], shape[0])


def softmax_parts(logits):
    """z, the scores minus the largest of their row; the largest magnitude of z in each row; and the probabilities."""
    z = as_float64(logits) - as_float64(logits).max(1, keepdims=True)
    return z, np.abs(z).max(1, keepdims=True), np.exp(z) / np.exp(z).sum(1, keepdims=True)


@cases
def test_softmax_is_within_its_bound(device, rng, shape, dtype):
    x, _ = scores_and_labels(rng, shape, dtype)
    z, _, p = softmax_parts(x)  # an absolute error of z becomes a relative error of exp(z)
    assert_within(on_device("softmax", device, x), p, sum_bound(dtype, shape[1] + 8, p * (1 + np.abs(z))))


@cases
@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_softmax_cross_entropy_is_within_its_bound(device, rng, shape, dtype, label_smoothing):
    logits, labels = scores_and_labels(rng, shape, dtype)
    value, gradient = on_device("softmax_cross_entropy", device, logits, labels, label_smoothing=label_smoothing)
    value64, gradient64 = expected("softmax_cross_entropy", logits, labels, label_smoothing=label_smoothing)
    z, largest, p = softmax_parts(logits)
    assert value.shape == ()
    assert value.dtype.name == accumulation(dtype)
    rows, classes = shape
    bound = sum_bound(accumulation(dtype), classes + rows, (1 + largest + np.log(classes)).mean())
    assert_within(value, value64, bound, "loss")
    target = label_smoothing / classes + (1 - label_smoothing) * np.eye(classes)[labels]
    bound = sum_bound(accumulation(dtype), classes + 8, (p * (1 + np.abs(z)) + target) / rows)
    assert_within(gradient, gradient64, bound + elementwise_bound(dtype, gradient64), "gradient")


@cases
@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_softmax_cross_entropy_of_soft_targets_is_within_its_bound(device, rng, shape, dtype, label_smoothing):
    logits, _ = scores_and_labels(rng, shape, dtype)
    rows, classes = shape
    targets = rng.dirichlet(np.ones(classes), rows).astype(as_dtype(dtype))
    value, gradient = on_device("softmax_cross_entropy", device, logits, targets, label_smoothing=label_smoothing)
    value64, gradient64 = expected("softmax_cross_entropy", logits, targets, label_smoothing=label_smoothing)
    z, largest, p = softmax_parts(logits)
    bound = sum_bound(accumulation(dtype), 2 * classes + rows, (1 + largest + np.log(classes)).mean())
    assert_within(value, value64, bound, "loss")
    target = label_smoothing / classes + (1 - label_smoothing) * as_float64(targets)
    bound = sum_bound(accumulation(dtype), 2 * classes + 8, (p * (1 + np.abs(z)) + target) / rows)
    assert_within(gradient, gradient64, bound + elementwise_bound(dtype, gradient64), "gradient")
    assert_same_bits("softmax_cross_entropy", device, logits, targets)


def test_gradients_of_soft_targets_may_overwrite_the_scores_or_the_targets(device, rng):
    scores, _ = scores_and_labels(rng, (6, 10), "float32")
    targets = rng.random((6, 20), np.float32)
    value, gradient = on_device("softmax_cross_entropy", device, scores, targets[:, ::2].copy())
    for over_targets in (False, True):
        logits, rows = asarray(scores, device), asarray(targets, device)[:, ::2]
        in_place = ops.softmax_cross_entropy(logits, rows, out=rows if over_targets else logits)
        np.testing.assert_array_equal(to_numpy(in_place[0]), value)
        np.testing.assert_array_equal(to_numpy(in_place[1]), gradient)


@pytest.mark.parametrize("soft", [False, True], ids=["labels", "soft"])
@pytest.mark.parametrize("shape", [(37, 10), (3, 1000), (2111, 17)])
def test_class_weights_agree_with_the_oracle_over_many_blocks(device, rng, shape, soft):
    """`gpuconv verify` checks the bounds. This test has many blocks, several thread orders, and gradients written over
    the scores or the weights."""
    scores, labels = scores_and_labels(rng, shape, "float32")
    options = {"label_smoothing": 0.1} | ({} if soft else {"ignore_index": 3})
    targets = rng.random(shape, np.float32) if soft else labels
    weight = rng.random(shape[1], np.float32)
    value, gradient = on_device("softmax_cross_entropy", device, scores, targets, weight, **options)
    value64, gradient64 = expected("softmax_cross_entropy", scores, targets, weight, **options)
    np.testing.assert_allclose(value, value64, rtol=1e-5)
    np.testing.assert_allclose(gradient, gradient64, rtol=1e-4, atol=1e-5 / shape[0])
    assert_same_bits("softmax_cross_entropy", device, scores, targets, weight, **options)
    for overwrites_weights in (False, True):  # else the gradient overwrites the scores
        memory = asarray(np.stack([scores, np.broadcast_to(weight, shape)]), device)
        out = memory[int(overwrites_weights)]
        in_place = ops.softmax_cross_entropy(memory[0], asarray(targets, device), memory[1, 0], out=out, **options)
        np.testing.assert_array_equal(to_numpy(in_place[0]), value)
        np.testing.assert_array_equal(to_numpy(out), gradient)


def test_an_ignored_row_may_hold_nan_and_a_label_out_of_range_makes_nan(device, rng, monkeypatch):
    monkeypatch.setattr(loss, "_refuse_wrong_labels", lambda labels, classes, ignored=None: None)
    scores, labels = scores_and_labels(rng, (5, 7), "float32")
    scores[1], labels[1] = np.nan, -1
    value, gradient = on_device("softmax_cross_entropy", device, scores, labels, ignore_index=-1)
    value64, gradient64 = expected("softmax_cross_entropy", scores, labels, ignore_index=-1)
    np.testing.assert_allclose(value, value64, rtol=1e-5)
    np.testing.assert_allclose(gradient, gradient64, rtol=1e-5, atol=1e-7)
    labels[3] = 7
    value, gradient = on_device("softmax_cross_entropy", device, scores, labels, ignore_index=-1)
    assert np.isnan(value)
    assert np.isnan(gradient[3]).all()
    np.testing.assert_array_equal(gradient[1], 0)
    assert np.isfinite(gradient[[0, 2, 4]]).all()


@pytest.mark.parametrize(
    ("label", "ignore_index"),
    [(np.iinfo(np.int64).min, None), (np.iinfo(np.uint64).max, -1)],
    ids=["the least int64", "the largest uint64, read as -1"],
)
def test_an_extreme_wrong_label_is_not_ignored(device, rng, monkeypatch, label, ignore_index):
    monkeypatch.setattr(loss, "_refuse_wrong_labels", lambda labels, classes, ignored=None: None)
    scores, labels = scores_and_labels(rng, (3, 7), "float32")
    labels = labels.astype(np.asarray(label).dtype)
    labels[1] = label
    value, gradient = on_device("softmax_cross_entropy", device, scores, labels, ignore_index=ignore_index)
    assert np.isnan(value)
    assert np.isnan(gradient[1]).all()


@cases
def test_svm_hinge_is_within_its_bound(device, rng, shape, dtype):
    scores, labels = scores_and_labels(rng, shape, dtype)
    value, gradient = on_device("svm_hinge", device, scores, labels, delta=0.75)
    value64, gradient64 = expected("svm_hinge", scores, labels, delta=0.75)
    rows, classes = shape
    magnitudes = np.abs(as_float64(scores))
    magnitude = (magnitudes + magnitudes[np.arange(rows), labels, None] + 0.75).sum() / rows
    assert_within(value, value64, sum_bound(accumulation(dtype), classes + rows, magnitude), "loss")
    assert_within(gradient, gradient64, sum_bound(dtype, 2, np.abs(gradient64)), "gradient")


@both_losses
@pytest.mark.parametrize("shape", [(1111, 3), (5, 100)])
def test_every_thread_order_gives_the_same_bits(device, rng, name, shape):
    assert_same_bits(name, device, *scores_and_labels(rng, shape, "float32"))
    assert_same_bits("softmax", device, *scores_and_labels(rng, shape, "float32")[:1])


@both_losses
def test_blocks_process_several_rows_if_there_are_many(device, rng, name, monkeypatch):
    scores, labels = scores_and_labels(rng, (1111, 3), "float32")
    value, gradient = on_device(name, device, scores, labels)
    probabilities = on_device("softmax", device, scores)
    monkeypatch.setattr(class_rows, "_MOST_BLOCKS", 3)
    fewer = on_device(name, device, scores, labels)
    np.testing.assert_array_equal(fewer[1], gradient)
    np.testing.assert_allclose(fewer[0], value, rtol=1e-5)
    np.testing.assert_array_equal(on_device("softmax", device, scores), probabilities)


@both_losses
def test_the_block_counter_is_reset_to_zero(device, rng, name):
    scores, labels = (asarray(a, device) for a in scores_and_labels(rng, (1111, 3), "float32"))
    values = {float(to_numpy(getattr(ops, name)(scores, labels)[0])) for _ in range(3)}
    assert len(values) == 1
    np.testing.assert_array_equal(to_numpy(block_counters(scores)), 0)


@both_losses
@pytest.mark.parametrize("labels_dtype", ["uint8", "int32"])
def test_uint8_and_int32_labels_give_the_bits_of_int64_labels(device, rng, name, labels_dtype):
    scores, labels = scores_and_labels(rng, (9, 7), "float32")
    others = on_device(name, device, scores, labels.astype(labels_dtype))
    for a, b in zip(on_device(name, device, scores, labels), others):
        np.testing.assert_array_equal(a, b)


@both_losses
@pytest.mark.parametrize("wrong", [-1, 7, 2**40])
def test_a_label_out_of_range_makes_its_row_and_the_loss_nan(device, rng, name, wrong, monkeypatch):
    """On a GPU the host does not read the labels, so it cannot refuse them."""
    monkeypatch.setattr(loss, "_refuse_wrong_labels", lambda labels, classes, ignored=None: None)
    scores, labels = scores_and_labels(rng, (5, 7), "float32")
    _, reference = expected_results(name, [scores, labels], {})
    labels[3] = wrong
    value, gradient = on_device(name, device, scores, labels)
    assert np.isnan(value)
    assert np.isnan(gradient[3]).all()
    assert_within(*(np.delete(each, 3, 0) for each in (gradient, reference.value, reference.bound)), "gradient")


@both_losses
def test_the_emulated_device_refuses_a_label_out_of_range(rng, name):
    scores, labels = scores_and_labels(rng, (5, 7), "float32")
    labels[3] = 7
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 7\), received 7 at index 3"):
        on_device(name, "emulated", scores, labels)


@both_losses
@pytest.mark.parametrize("classes", [7, 2503])
def test_gradients_may_overwrite_the_scores_and_fill_views(device, rng, name, classes):
    scores, labels = scores_and_labels(rng, (6, classes), "float32")
    value, gradient = on_device(name, device, scores[:, ::2].copy(), labels // 2)
    wide_scores, wide_labels = asarray(scores, device), asarray(np.repeat(labels // 2, 2), device)
    view = wide_scores[:, ::2]
    value_of_view, gradient_in_view = getattr(ops, name)(view, wide_labels[::2], out=view)
    assert gradient_in_view is view
    np.testing.assert_array_equal(to_numpy(value_of_view), value)
    np.testing.assert_array_equal(to_numpy(wide_scores)[:, ::2], gradient)
    np.testing.assert_array_equal(to_numpy(wide_scores)[:, 1::2], scores[:, 1::2])

    memory = asarray(scores, device)
    in_place = getattr(ops, name)(memory, asarray(labels, device), out=memory)
    assert in_place[1] is memory
    for a, b in zip(in_place, on_device(name, device, scores, labels)):
        np.testing.assert_array_equal(to_numpy(a), b)


@every_loss
@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf, 1e4])
def test_infinite_and_nan_scores_agree_with_the_oracle(device, rng, name, options, special):
    scores, labels = scores_and_labels(rng, (4, 5), "float32")
    labels[:] = [0, 1, 2, 3]
    scores[1, 4], scores[2, 2] = special, special  # of a wrong class, and of the right one
    with np.errstate(all="ignore"):
        value64, gradient64 = expected(name, scores, labels, **options)
        probabilities = expected("softmax", scores)
    value, gradient = on_device(name, device, scores, labels, **options)
    np.testing.assert_allclose(value, value64, rtol=1e-5)
    np.testing.assert_allclose(gradient, gradient64, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(on_device("softmax", device, scores), probabilities, rtol=1e-5, atol=1e-7)


@every_loss
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_scores_at_the_limits_of_16_bit_floats_agree_with_the_oracle(device, name, options, dtype):
    """Differences of scores, and the loss of a row, exceed the range of float16; the gradient does not."""
    scores = np.array([[60000, -60000, 59000, 0], [-60000, 60000, 1, 2], [60000] * 4]).astype(as_dtype(dtype))
    labels = np.array([0, 0, 3])
    value, gradient = on_device(name, device, scores, labels, **options)
    value64, gradient64 = expected(name, scores, labels, **options)
    assert value64 > 20000
    np.testing.assert_allclose(value, value64, rtol=1e-6)
    np.testing.assert_allclose(as_float64(gradient), gradient64, rtol=2 * UNIT_ROUNDOFF[dtype], atol=1e-7)


def test_a_margin_of_exactly_zero_has_no_gradient(device):
    scores = np.array([[2.0, 1.0, 1.5]], np.float32)
    value, gradient = on_device("svm_hinge", device, scores, np.array([0]))
    assert value == 0.5
    np.testing.assert_array_equal(gradient, [[-1, 0, 1]])


def test_softmax_of_an_empty_array_is_empty(device):
    for shape in ((0, 5), (3, 0)):
        assert on_device("softmax", device, np.zeros(shape, np.float32)).shape == shape
