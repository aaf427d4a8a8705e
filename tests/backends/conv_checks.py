"""Checks of the output and both gradients of a convolution: against the definition, and with infinities and NaN."""

import functools

import numpy as np

from gpuconv import ops
from gpuconv.verify.conv_problems import conv, random_arrays, reduction
from tests.backends import conv_definition as definition
from tests.tolerance import assert_within, sum_bound


def directions(case, x, w, bias, dy):
    """Each direction's result from the ops."""
    return {
        "fprop": ops.conv2d(x, w, bias, **case.window),
        "dgrad": ops.conv2d_dgrad(dy, w, input_shape=case.x_shape, **case.window),
        "wgrad": ops.conv2d_wgrad(dy, x, kernel_size=case.kernel_size, **case.window),
    }


def both_gradients(case, x, w, bias, dy):
    """Both gradients from one call."""
    dx, dw = ops.conv2d_backward(dy, x, w, **case.window)
    return {"dgrad": dx, "wgrad": dw}


@functools.cache
def by_definition(case, dtype):
    """Every direction by the definition in float64. The first results are those of the arrays. The second results are
    those of their absolute values, the magnitudes for the error bounds."""
    arrays = [a.astype(np.float64) for a in random_arrays(case, dtype)]
    return [
        {
            "fprop": definition.fprop(case, x, w, bias),
            "dgrad": definition.dgrad(case, dy, w),
            "wgrad": definition.wgrad(case, dy, x),
        }
        for x, w, bias, dy in (arrays, map(abs, arrays))
    ]


def check_by_definition(case, dtype=np.float64):
    """Every direction of a case agrees with the definition, within the bound of its sums."""
    arrays = random_arrays(case, dtype)
    expected, magnitude = by_definition(case, dtype)
    for direction, actual in (*directions(case, *arrays).items(), *both_gradients(case, *arrays).items()):
        assert actual.dtype == dtype
        bound = sum_bound(dtype, reduction(case, direction) + 1, magnitude[direction])
        assert_within(actual, expected[direction], bound, f"{direction} of {case}")


def check_windows_of_a_nonfinite_input(value):
    """An infinite or NaN pixel of x reaches only the outputs of the windows that read it. Such a pixel of dy reaches
    only the pixels of dx that its window reads."""
    x, w, _, _ = random_arrays(conv(1, 8, 8, 2, 3, 3))
    x[0, 4, 4, 1] = value
    finite = np.isfinite(ops.conv2d(x, w, padding=1))
    reads = np.zeros((1, 8, 8, 3), bool)
    reads[:, 3:6, 3:6] = True
    np.testing.assert_array_equal(finite, ~reads)
    dx, _ = ops.conv2d_backward(x, np.ones_like(x), np.ones((2, 3, 3, 2)), padding=1)
    np.testing.assert_array_equal(np.isfinite(dx), ~reads[..., :2])


def check_taps_of_a_nonfinite_input(value, padding):
    """A pixel that is infinite or NaN reaches only the gradients of the taps that read it."""
    x, w, _, _ = random_arrays(conv(1, 8, 8, 2, 3, 3))
    x[0, 0, 0, 1] = value  # read by tap (0, 0) without padding, and by taps (0..1, 0..1) with padding
    _, dw = ops.conv2d_backward(np.ones((1, 6 + 2 * padding, 6 + 2 * padding, 3)), x, w, padding=padding)
    reads = np.zeros(w.shape, bool)
    reads[:, : 1 + padding, : 1 + padding, 1] = True
    np.testing.assert_array_equal(np.isfinite(dw), ~reads)
