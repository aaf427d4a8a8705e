"""Batch normalization after or before a convolution. The epilogue of conv2d sums the statistics of the norm that
follows. The epilogue of conv2d_dgrad sums the gradients of the norm that comes before (`norm_below`)."""

from contextlib import nullcontext
from itertools import cycle

import numpy as np
import pytest

from gpuconv import asarray, ops, to_numpy
from gpuconv.activations import ACTIVATIONS
from gpuconv.algorithms import UnservedError, serving
from gpuconv.backends.cuda import emulator
from gpuconv.backends.cuda.ops import norm
from gpuconv.dtypes import FLOAT_NAMES, accumulation_dtype, as_dtype
from gpuconv.problems import Conv2dProblem
from gpuconv.profiling import launches
from gpuconv.verify.conv_problems import conv, random_arrays
from gpuconv.verify.oracle import expected_results
from tests.kernels.agreement import accumulation, assert_same_bits, on_device
from tests.tolerance import assert_within

# --- statistics --------------------------------------------------------------------------------


def conv_norm_arrays(case: Conv2dProblem, dtype: str):
    x, w, bias, _ = random_arrays(case, as_dtype(dtype))
    rng, wide_dtype = np.random.default_rng(6), accumulation_dtype(as_dtype(dtype))
    gamma, beta, mean = (rng.standard_normal(case.k).astype(wide_dtype) for _ in range(3))
    return [x, w, bias, gamma, beta, mean, rng.uniform(0.5, 2, case.k).astype(wide_dtype)]


@pytest.mark.parametrize("pool", [1, 2])
@pytest.mark.parametrize("merged", [False, True], ids=["one launch", "merged by an earlier launch"])
@pytest.mark.parametrize("channels", [(8, 72), (3, 5)])
def test_statistics_of_every_float32_algorithm_agree_with_the_oracle(device, monkeypatch, channels, merged, pool):
    if merged:
        monkeypatch.setattr(norm, "_MOST_CHUNKS", 3)
        monkeypatch.setattr(norm, "_MERGED_CHUNKS", 2)
    case = conv(2, 9, 13, *channels, (3, 2), padding=((1, 1), (0, 2)))
    arrays = conv_norm_arrays(case, "float32")
    options = case.window | dict(activation="silu", pool=pool)
    expected = expected_results("conv2d_batch_norm", arrays, options)
    for algorithm in serving("float32"):
        moved = [asarray(a.copy(), device) for a in arrays]
        results = ops.conv2d_batch_norm(*moved, **options, algo=algorithm.name)
        for reference, result in zip(expected, [*results, *moved[-2:]], strict=True):
            assert_within(to_numpy(result), reference.value, reference.bound, f"{algorithm.name} {reference.name}")


def test_the_variance_is_right_despite_a_large_bias(device):
    """The mean is more than a thousand times the deviation: sums of squares would lose the variance."""
    case = conv(4, 8, 8, 4, 8, (1, 1))
    arrays = conv_norm_arrays(case, "float32")
    arrays[2] = np.full(8, 5000, np.float32)
    expected = expected_results("conv2d_batch_norm", arrays, case.window)
    moved = [asarray(a, device) for a in arrays]
    results = ops.conv2d_batch_norm(*moved, **case.window)
    inv_std = next(reference for reference in expected if reference.name == "inv_std")
    np.testing.assert_allclose(to_numpy(results[3]), inv_std.value, rtol=1e-3)


def test_statistics_have_the_same_bits_in_several_thread_orders(device):
    case = conv(2, 9, 13, 4, 40, (3, 3))
    for pool in (1, 2):
        arrays = conv_norm_arrays(case, "float32")
        assert_same_bits("conv2d_batch_norm", device, *arrays, pool=pool, **case.window)


def test_statistics_have_no_memory_errors(device):
    if device != "emulated":
        pytest.skip("only the emulator has a checker")
    for case in (conv(1, 5, 6, 4, 12, (3, 2)), conv(1, 7, 6, 3, 11, (3, 2))):
        for pool in (1, 2):
            options = case.window | dict(pool=pool)
            with emulator.configure(sanitize="checked", seed=7):
                results = on_device("conv2d_batch_norm", device, *conv_norm_arrays(case, "float32"), **options)
            expected = expected_results("conv2d_batch_norm", conv_norm_arrays(case, "float32"), options)
            for reference, result in zip(expected, results):
                assert_within(result, reference.value, reference.bound, reference.name)


# --- sums of the backward pass ----------------------------------------------------------------


def norm_below(case, dtype, activation=None, seed=0):
    """Arrays and options of batch_norm_backward for a norm below a convolution, which reads the norm's output."""
    rng = np.random.default_rng(seed)
    wide_dtype = accumulation(dtype)
    dy, x, w = (rng.standard_normal(shape).astype(dtype) for shape in (case.y_shape, case.x_shape, case.w_shape))
    gamma, beta, mean = (rng.standard_normal(case.c).astype(wide_dtype) for _ in range(3))
    inv_std = rng.uniform(0.5, 2, case.c).astype(wide_dtype)
    options = case.window | dict(w=w, activation=activation, beta=beta if activation else None, training=True)
    return [dy, x, gamma, mean, inv_std], options


def options_on(device, options):
    return {name: asarray(value, device) if isinstance(value, np.ndarray) else value for name, value in options.items()}


def assert_norm_below(device, case, dtype="float32", activation=None, **more):
    arrays, options = norm_below(case, dtype, activation)
    expected = expected_results("batch_norm_backward", arrays, options | more)
    results = on_device("batch_norm_backward", device, *arrays, **options_on(device, options), **more)
    for reference, result in zip(expected, results, strict=True):
        assert_within(result, reference.value, reference.bound, f"{case} {dtype} {more} {reference.name}")


CONVOLUTIONS_ABOVE = {
    "plain": conv(2, 9, 13, 8, 24, (3, 2), padding=((1, 1), (0, 2))),
    "phases": conv(2, 9, 10, 16, 8, (3, 2), stride=(2, 3), padding=1),
    "phases without taps": conv(1, 9, 9, 8, 8, (1, 1), stride=2),
    "groups": conv(2, 5, 7, 48, 32, 3, padding=1, groups=2),
    "beyond a tile": conv(1, 17, 19, 136, 16, 1),
    "single numbers": conv(2, 7, 6, 37, 5, 3, padding=1),
}


@pytest.mark.parametrize("name", CONVOLUTIONS_ABOVE)
def test_backward_sums_of_every_algorithm_agree_with_the_oracle(device, monkeypatch, name):
    monkeypatch.setattr(norm, "_MOST_CHUNKS", 3)
    monkeypatch.setattr(norm, "_MERGED_CHUNKS", 2)
    for dtype, tf32 in (("float32", False), ("float32", True), ("float16", False)):
        for algorithm in serving("tf32" if tf32 else dtype):
            if "conv2d_dgrad" in algorithm.kernels and (device == "emulated" or algorithm.proved):
                refused = algorithm.cluster > 1 and name == "single numbers"  # clusters move only 16 bytes at once
                with pytest.raises(UnservedError) if refused else nullcontext():
                    assert_norm_below(device, CONVOLUTIONS_ABOVE[name], dtype, algo=algorithm.name, tf32=tf32)


def test_backward_sums_of_every_activation_agree_with_the_oracle(device):
    for activation, dtype in zip(ACTIVATIONS, cycle(FLOAT_NAMES)):
        assert_norm_below(device, CONVOLUTIONS_ABOVE["phases"], dtype, activation)
    assert_norm_below(device, CONVOLUTIONS_ABOVE["groups"], activation="silu")


def test_backward_sums_are_computed_by_the_dgrad_kernel(device):
    arrays, options = norm_below(CONVOLUTIONS_ABOVE["plain"], "float32")
    with launches.record_launches() as launched:
        on_device("batch_norm_backward", device, *arrays, **options_on(device, options), algo="simt-64x32")
    kernels = [launch.kernel.name for launch in launched]
    assert kernels == ["conv2d_dgrad_simt", "batch_norm_backward_finish", "batch_norm_backward_dx"]


def test_backward_sums_of_no_images_are_zero(device):
    arrays, options = norm_below(conv(0, 5, 7, 3, 2, 3), "float32")
    dx, dgamma, dbeta = on_device("batch_norm_backward", device, *arrays, **options_on(device, options))
    assert dx.shape == (0, 5, 7, 3)
    assert not dgamma.any()
    assert not dbeta.any()


def test_backward_sums_have_the_same_bits_in_several_thread_orders(device):
    for name, activation in (("phases", "gelu"), ("beyond a tile", None)):
        arrays, options = norm_below(CONVOLUTIONS_ABOVE[name], "float32", activation)
        assert_same_bits("batch_norm_backward", device, *arrays, **options_on(device, options))


def test_backward_sums_have_no_memory_errors(device):
    if device != "emulated":
        pytest.skip("only the emulator has a checker")
    for name in ("phases", "single numbers"):
        with emulator.configure(sanitize="checked", seed=7):
            assert_norm_below(device, CONVOLUTIONS_ABOVE[name], activation="relu")
