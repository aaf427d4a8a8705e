"""Both gradients and the output of a convolution, compared with the definition."""

import functools

import numpy as np

from gpuconv import ops
from gpuconv.verify.conv_problems import random_arrays, reduction
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
    """Every direction by the definition in float64: of the arrays, and of their absolute values (the magnitude)."""
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
    arrays = random_arrays(case, dtype)
    expected, magnitude = by_definition(case, dtype)
    for direction, actual in (*directions(case, *arrays).items(), *both_gradients(case, *arrays).items()):
        assert actual.dtype == dtype
        bound = sum_bound(dtype, reduction(case, direction) + 1, magnitude[direction])
        assert_within(actual, expected[direction], bound, f"{direction} of {case}")
