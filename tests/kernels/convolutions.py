"""Convolutions on a device: their arguments, the comparison with the oracle, and an algorithm that they must use."""

from __future__ import annotations

import numpy as np
import pytest

from gpuconv import asarray, ops, to_numpy
from gpuconv.algorithms import Algorithm, serving
from gpuconv.backends.cuda.gemm import tuner
from gpuconv.backends.cuda.gemm.plan import NEWEST, Plan, tiles_of
from gpuconv.dtypes import as_dtype
from gpuconv.integers import ceil_div
from gpuconv.problems import Conv2dProblem
from gpuconv.verify.conv_problems import conv, random_arrays
from gpuconv.verify.oracle import expected_results
from tests.kernels.agreement import on_device
from tests.tolerance import assert_within, sum_bound

DIRECTIONS = ("conv2d", "conv2d_dgrad", "conv2d_wgrad")
directions = pytest.mark.parametrize("op", DIRECTIONS)


def problem(c: int, k: int, groups: int = 1) -> Conv2dProblem:
    """A convolution with uneven padding and dilation. Its 168 output pixels and 198 input pixels are no multiple of a
    tile's rows."""
    window = dict(padding=((1, 1), (0, 2)), dilation=(2, 1), groups=groups)
    return conv(2, 9, 11, c * groups, k * groups, (3, 2), **window)


def dtype_and_options(precision: str):
    """The dtype of a precision, and the options that make an op compute in it."""
    return ("float32", dict(tf32=True)) if precision == "tf32" else (precision, {})


def arguments(op: str, case: Conv2dProblem, dtype: str = "float32"):
    """The op's arrays and options for a case."""
    x, w, bias, dy = random_arrays(case, as_dtype(dtype))
    return {
        "conv2d": ([x, w, bias], case.window),
        "conv2d_dgrad": ([dy, w], case.window | dict(input_shape=case.x_shape)),
        "conv2d_wgrad": ([dy, x], case.window | dict(kernel_size=case.kernel_size)),
    }[op]


def assert_right(op: str, device: str, case: Conv2dProblem, dtype: str = "float32", **options):
    """Run a direction, compare it with the oracle, and return the result."""
    arrays, given_options = arguments(op, case, dtype)
    (expected,) = expected_results(op, arrays, given_options | options)
    result = on_device(op, device, *arrays, **given_options | options)
    assert result.dtype == as_dtype(dtype)
    assert_within(result, expected.value, expected.bound, f"{op} {case}")
    return result


def assert_wgrad_right(device: str, case: Conv2dProblem, dtype: str):
    """Run conv2d_wgrad with db and compare both gradients with the oracle."""
    (dy, x), options = arguments("conv2d_wgrad", case, dtype)
    (expected,) = expected_results("conv2d_wgrad", [dy, x], options)
    db = asarray(np.zeros(case.k, dy.dtype), device)
    assert_within(on_device("conv2d_wgrad", device, dy, x, **options, db=db), expected.value, expected.bound, "dw")
    wide = dy.astype(np.float64)
    bound = sum_bound(dtype, dy.size // case.k + 1, ops.bias_grad(np.abs(wide)))
    assert_within(to_numpy(db), ops.bias_grad(wide), bound, "db")


def force_algorithm(
    monkeypatch, algorithm: Algorithm | None = None, most_parts: int = 1, most_blocks: int | None = None
):
    """Makes every product use this algorithm, on a GPU too.

    algorithm: None for the last one that serves the product. most_parts: the most parts into which
    the depth is split, if the product allows split-K. most_blocks: the most blocks, or clusters, of a split, for
    algorithms whose blocks compute several tiles."""
    monkeypatch.setenv("GPUCONV_AUTOTUNE", "0")

    def planned(product, algo="auto", capability=NEWEST):
        chosen = algorithm or serving(product.precision)[-1]
        across, down = tiles_of(product, chosen)
        step = max(16, chosen.block_k)
        per_split = max(1, ceil_div(ceil_div(product.k, most_parts if product.split_k else 1), step)) * step
        tiles, split_k = across * down * product.batches, max(1, ceil_div(product.k, per_split))
        blocks = min(tiles, (most_blocks or tiles) * chosen.cluster)
        return Plan(chosen, across, down, tiles, split_k, per_split, 0.0, chosen.smem_bytes, blocks)

    monkeypatch.setattr(tuner, "plan", planned)
    monkeypatch.setattr(tuner, "known_choices", {})
