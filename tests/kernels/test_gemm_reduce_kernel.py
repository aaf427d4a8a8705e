"""The sum over split-K partial results: kernels/gemm_reduce.cu."""

from __future__ import annotations

import numpy as np
import pytest

from gpuconv import backends
from gpuconv.backends.cuda.gemm.reduce import reduce_splits
from gpuconv.dtypes import accumulation_dtype, as_dtype
from gpuconv.integers import ceil_div

# Numbers of outputs: up to the 1024 that one block computes, and more. Some are not multiples of a vector's width.
SIZES = (1, 7, 1020, 1024, 1025, 4100)
SPLITS = (1, 2, 8, 9, 31)  # added up by one, two or four groups of threads


def reduced(device, dtype, size, split_k, *, second_size=0, bias=None, accumulate=False, skipped=0, activation=None):
    """The kernel's outputs for random partial sums, and the right ones in float64. second_size: the length of a
    second output. skipped: elements in memory before the output."""
    rng, dtype = np.random.default_rng(size + split_k), as_dtype(dtype)
    pitch = size + ceil_div(second_size, 4) * 4
    partials = rng.standard_normal((split_k, pitch)).astype(accumulation_dtype(dtype))
    old = rng.standard_normal(size).astype(dtype)
    out = backends.asarray(np.concatenate([np.zeros(skipped, dtype), old]), device)[skipped:]
    second = backends.asarray(np.full(second_size, np.nan, dtype), device) if second_size else None
    reduce_splits(
        out,
        backends.asarray(partials, device),
        second,
        activation=activation,
        accumulate=accumulate,
        bias=None if bias is None else backends.asarray(bias.astype(dtype), device),
    )
    exact = partials.astype(np.float64).sum(axis=0)
    expected = exact[:size] + (0 if bias is None else np.resize(bias.astype(dtype).astype(np.float64), size))
    expected = np.maximum(expected, 0) if activation == "relu" else expected
    expected = expected + (old.astype(np.float64) if accumulate else 0)
    sums = [backends.to_numpy(array) for array in (out, second) if array is not None]
    return sums, [expected, exact[size : size + second_size]][: len(sums)]


def assert_agree(results, dtype):
    step = {"float64": 2e-15, "float32": 1e-6, "float16": 1e-3, "bfloat16": 8e-3}[dtype]
    for total, expected in zip(*results):
        np.testing.assert_allclose(total.astype(np.float64), expected, rtol=2 * step, atol=40 * step)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_every_size_and_number_of_splits_agrees_with_float64(device, dtype):
    for size in SIZES:
        for split_k in SPLITS:
            assert_agree(reduced(device, dtype, size, split_k), dtype)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_a_second_output_agrees_with_float64(device, dtype):
    for size, second_size in ((1024, 4), (1020, 8), (1021, 3), (1024, 3), (4, 1030)):
        assert_agree(reduced(device, dtype, size, 9, second_size=second_size), dtype)


def test_bias_activation_and_accumulation_agree_with_float64(device):
    for columns in (1, 3, 8, 64):
        bias = np.random.default_rng(columns).standard_normal(columns)
        for size in (columns * 17, columns * 1028):
            results = reduced(device, "float32", size, 3, bias=bias, activation="relu", accumulate=True)
            assert_agree(results, "float32")


def test_an_unaligned_output_agrees_with_float64(device):
    assert_agree(reduced(device, "float32", 1024, 9, skipped=1), "float32")
