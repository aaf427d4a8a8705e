"""`gpuconv.checks.compare`: a user's implementation of an operation against the oracle."""

import re

import numpy as np
import pytest

import gpuconv as gc
from gpuconv import ops
from gpuconv.types import Array as Volume

ArrayLike = int  # not NumPy's type of this name

CASES = [dict(x=(2, 5, 4, 3), w=(4, 3, 3, 3), padding=1), dict(x=(1, 6, 6, 2), w=(2, 2, 2, 2), bias=(2,), stride=2)]


def conv_with_loops(x, w, bias=None, *, stride=1, padding=0):
    """A convolution of (N, C, H, W) with loops, as a student might write it."""
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    k, _, r, s = w.shape
    p, q = (x.shape[2] - r) // stride + 1, (x.shape[3] - s) // stride + 1
    y = np.empty((len(x), k, p, q))
    for i in range(p):
        for j in range(q):
            window = x[:, :, i * stride : i * stride + r, j * stride : j * stride + s]
            y[:, :, i, j] = np.tensordot(window, w, ([1, 2, 3], [1, 2, 3]))
    return y if bias is None else y + bias[:, None, None]


def test_a_correct_function_passes_in_either_layout():
    comparison = gc.checks.compare(conv_with_loops, ops.conv2d, CASES, layout="NCHW")
    assert comparison.passed
    assert all(0 <= case.error < 1e-14 for case in comparison)
    assert comparison[1].case == "x 1x6x6x2, w 2x2x2x2, bias 2, stride=2"
    assert gc.checks.compare(ops.conv2d, ops.conv2d, CASES, dtype="float32").passed
    assert gc.checks.compare(
        ops.batch_norm,
        ops.batch_norm,
        [dict(x=(4, 3), gamma=(3,), beta=(3,), running_mean=np.zeros(3), running_var=np.ones(3), training=True)],
    ).passed


def test_a_positional_option_is_not_treated_as_an_array():
    assert gc.checks.compare(ops.max_pool2d, ops.max_pool2d, [dict(x=(1, 4, 4, 2), kernel_size=(2, 2))]).passed


def test_wrong_results_are_reported():
    def shifted(x, w, **options):
        y = conv_with_loops(x, w, **options)
        y[0, 1, 2, 3] += 0.5
        return y

    results = {
        "off": (shifted, r"^the result\[0, 1, 2, 3\] is -?[\d.]+, expected -?[\d.]+ within"),
        "raises": (lambda x, w, padding: x.no, "no attribute"),
        "shape": (lambda x, w, padding: x, r"the result has shape \(2, 3, 5, 4\), not \(2, 4, 5, 4\)"),
        "nan": (lambda x, w, padding: conv_with_loops(x, w, padding=padding) * np.nan, "is nan, expected"),
        "complex": (
            lambda x, w, padding: conv_with_loops(x, w, padding=padding) + 0j,
            "is complex128, not real numbers",
        ),
        "three": (lambda x, w, padding: (x, x, x), "3 results, not 1"),
        "none": (lambda x, w, padding: None, "the result is NoneType, not an array of numbers"),
        "list": (lambda x, w, padding: [x, None], "the result is list, not an array of numbers"),
    }
    for name, (mine, message) in results.items():
        comparison = gc.checks.compare(mine, ops.conv2d, CASES[:1], layout="NCHW")
        assert not comparison.passed, name
        assert re.search(message, comparison[0].details), name
        assert "WRONG" in str(comparison)
        assert "WRONG" in comparison._repr_html_()


def test_the_argument_names_in_a_case_may_be_in_capitals():
    assert gc.checks.compare(lambda x: np.maximum(x, 0), ops.relu, [dict(X=(3,))]).passed
    with pytest.raises(ValueError, match="argument of relu 'x' is given twice, the second time as 'X'"):
        gc.checks.compare(lambda x: np.maximum(x, 0), ops.relu, [dict(x=(3,), X=(4,))])


def test_an_infinite_tolerance_accepts_every_error():
    (comparison,) = gc.checks.compare(lambda x: x + 7, ops.relu, [dict(x=(3,))], tolerance=np.inf)
    assert comparison.passed
    assert comparison.error > 1


def test_results_that_are_not_arrays_are_named_if_there_are_as_many_as_expected():
    def with_two_caches(x, *_, **__):
        return x, {}, 3

    case = dict(x=(4, 3), gamma=(3,), beta=(3,), running_mean=(3,), running_var=np.ones(3), training=True)
    (comparison,) = gc.checks.compare(with_two_caches, ops.batch_norm, [case])
    assert comparison.details == "results after the first are dict, int, not arrays like the operation's"


def test_functions_may_also_return_a_cache():
    """In the assignments of CS231n, forward returns (out, cache)."""

    def conv(x, w, b=None, *, stride=1, padding=0):
        return conv_with_loops(x, w, b, stride=stride, padding=padding), (x, w, b)

    def pool(x, kernel_size):
        n, c, h, w = x.shape
        return x.reshape(n, c, h // kernel_size, kernel_size, w // kernel_size, kernel_size).max(axis=(3, 5))

    pools = [dict(x=(2, 6, 4, 3), kernel_size=2)]
    for mine, op, cases, message in (
        (conv, ops.conv2d, CASES, "cache not compared"),
        (lambda x: (np.maximum(x, 0), x), ops.relu, [dict(x=(2, 5))], "cache not compared"),
        (pool, ops.max_pool2d, pools, "the first of 2 results compared"),
        (lambda x, kernel_size: (pool(x, kernel_size), (x, 2)), ops.max_pool2d, pools, "cache not compared"),
        (lambda x, kernel_size: (pool(x, kernel_size), x), ops.max_pool2d, pools, "cache not compared"),
        (lambda x, kernel_size: (pool(x, kernel_size), None), ops.max_pool2d, pools, "cache not compared"),
        (
            lambda x, w, b: (x @ w.T + b, {"x": x}),
            ops.linear,
            dict(x=(4, 3), w=(2, 3), bias=(2,)),
            "cache not compared",
        ),
    ):
        comparison = gc.checks.compare(mine, op, cases, layout="NCHW")
        assert comparison.passed, str(comparison)
        assert [case.details for case in comparison] == [message] * len(comparison)
    wrong = gc.checks.compare(
        lambda x, kernel_size: (0 * pool(x, kernel_size), x), ops.max_pool2d, pools, layout="NCHW"
    )
    assert not wrong.passed
    wrong = gc.checks.compare(
        lambda x, w, b=None, **options: (conv_with_loops(x, w, b), x), ops.conv2d, CASES, layout="NCHW"
    )
    assert not wrong.passed


def test_further_results_are_compared():
    def pool(x, kernel_size):
        y, argmax = ops.max_pool2d(x, kernel_size)
        return y, (argmax + 1) % 4

    cases = [dict(x=(2, 6, 4, 3), kernel_size=2)]
    assert gc.checks.compare(ops.max_pool2d, ops.max_pool2d, cases)[0].details == ""
    assert not gc.checks.compare(pool, ops.max_pool2d, cases).passed


def test_a_function_cannot_change_its_case():
    def spoils(x, w, padding):
        x[...] = 0
        return np.zeros((2, 4, 5, 4))

    x = np.ones((2, 5, 4, 3))
    assert not gc.checks.compare(spoils, ops.conv2d, [dict(x=x, w=(4, 3, 3, 3), padding=1)]).passed
    assert x.all()


def test_bad_cases_layouts_and_tolerances_are_refused():
    with pytest.raises(ValueError, match="layout must be one of NHWC, NCHW, received 'CHWN'"):
        gc.checks.compare(conv_with_loops, ops.conv2d, CASES, layout="CHWN")
    with pytest.raises(ValueError, match="unknown argument of conv2d 'pading'; did you mean 'padding'"):
        gc.checks.compare(conv_with_loops, ops.conv2d, [dict(x=(2, 5, 5, 3), w=(4, 3, 3, 3), pading=1)])
    for tolerance, error, message in (
        (-1, ValueError, r"tolerance must lie in \[0.0, inf\), received -1"),
        ("1e-6", TypeError, "tolerance must be a number, received '1e-6'"),
    ):
        with pytest.raises(error, match=message):
            gc.checks.compare(conv_with_loops, ops.conv2d, CASES, tolerance=tolerance)
    relu = [dict(x=(3,))]
    for arguments, options, error, message in (
        ((ops.relu, "relu", relu), {}, TypeError, "compare takes two functions, received str"),
        ((5, ops.relu, relu), {}, TypeError, "compare takes two functions, received int"),
        ((ops.relu, ops.relu, [3]), {}, TypeError, "a case is a dictionary of arguments by name, received int"),
        ((ops.relu, ops.relu, [dict(x=[1.5])]), {}, TypeError, r"x\[0\], a size, must be an integer, received 1.5"),
        ((ops.relu, ops.relu, [dict(x=(2, -1))]), {}, ValueError, r"x\[1\], a size, must be at least 0, received -1"),
        ((ops.relu, ops.relu, relu), {"seed": "1"}, TypeError, "seed must be an integer, received '1'"),
    ):
        with pytest.raises(error, match=message):
            gc.checks.compare(*arguments, **options)
    with pytest.raises(ValueError, match="there is no case"):
        gc.checks.compare(conv_with_loops, ops.conv2d, [])
    with pytest.raises(ValueError, match="channels"):
        gc.checks.compare(conv_with_loops, ops.conv2d, [dict(x=(1, 4, 4, 3), w=(1, 2, 2, 2))])


def test_array_arguments_are_recognized_by_type_not_by_annotation_text():
    def double(x: "Volume", times: "ArrayLike" = 2):
        return times * ops.add(x, x)

    assert gc.checks.compare(double, double, [dict(x=(2, 3), times=4)]).passed


def test_nan_and_infinity_are_accepted_where_the_oracle_has_them():
    x = np.array([[np.nan, np.inf, -np.inf, 2.0]])
    comparison = gc.checks.compare(lambda x: np.maximum(x, 0), ops.relu, [dict(x=x)])
    assert (comparison[0].error, comparison[0].passed) == (0, True)
    for wrong in (np.nan_to_num, lambda x: -x, lambda x: x + 1e-9):
        assert not gc.checks.compare(lambda x, wrong=wrong: wrong(np.maximum(x, 0)), ops.relu, [dict(x=x)]).passed


def test_a_function_is_compared_in_bfloat16():
    assert gc.checks.compare(ops.relu, ops.relu, [dict(x=(3, 4))], dtype="bfloat16").passed


def test_an_operation_that_changes_its_arrays_changes_copies():
    mean, var = np.zeros(3), np.ones(3)
    case = dict(x=(4, 3), gamma=(3,), beta=(3,), running_mean=mean, running_var=var, training=True)
    received = []

    def mine(x, gamma, beta, running_mean, running_var, *, training):
        received.append((running_mean.copy(), running_var.copy()))
        return ops.batch_norm(x, gamma, beta, running_mean, running_var, training=training)

    assert gc.checks.compare(mine, ops.batch_norm, [case]).passed
    for found, kept in zip(received[0], (mean, var)):
        np.testing.assert_array_equal(found, kept)
    assert (mean.tolist(), var.tolist()) == ([0.0] * 3, [1.0] * 3)


def test_keyword_only_arrays_are_drawn_copied_and_laid_out_like_the_others():
    addend, before = np.zeros((2, 4, 5, 3)), np.ones((2, 4, 5, 3))
    case = dict(x=(2, 4, 5, 3), gamma=(3,), beta=(3,), running_mean=(3,), running_var=np.ones(3), training=False)
    shapes = []

    def mine(x, gamma, beta, running_mean, running_var, *, training, addend, out=None):
        shapes.append((addend.shape, None if out is None else out.shape))
        addend += 1  # the caller's array must not change
        normalized = (x.transpose(0, 2, 3, 1) - running_mean) / np.sqrt(running_var + 1e-5)
        y = (gamma * normalized + beta).transpose(0, 3, 1, 2) + addend - 1
        return y, running_mean, 1 / np.sqrt(running_var + 1e-5)

    found = gc.checks.compare(
        mine, ops.batch_norm, [case | dict(addend=(2, 4, 5, 3)), case | dict(addend=addend, out=before)], layout="NCHW"
    )
    assert found.passed, found
    assert shapes == [((2, 3, 4, 5), None), ((2, 3, 4, 5), (2, 3, 4, 5))]
    assert not addend.any()
    assert (before == 1).all()
    assert ", addend 2x4x5x3, training=False" in found[0].case
    assert ", addend 2x4x5x3, out 2x4x5x3, training=False" in found[1].case


def test_a_list_of_arrays_is_copied():
    params = [np.ones(3), np.ones(2)]

    def mine(params, grads, *, lr):
        for param, grad in zip(params, grads):
            param -= lr * grad

    def op(params: list[Volume], grads: list[Volume], *, lr: float) -> Volume:
        mine(params, grads, lr=lr)
        return np.concatenate(params)

    found = gc.checks.compare(op, op, [dict(params=params, grads=[np.ones(3), np.ones(2)], lr=0.5)])
    assert found.passed
    assert found[0].case == "params 3+2, grads 3+2, lr=0.5"
    assert all((param == 1).all() for param in params)
