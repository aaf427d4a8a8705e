"""Convolution, activation and pool in one kernel, and gradients through its mask, against the separate kernels."""

from __future__ import annotations

import numpy as np
import pytest

from gpuconv import asarray, ops, to_numpy, verify
from gpuconv.algorithms import Algorithm, serving
from gpuconv.backends.cuda import emulator
from gpuconv.backends.cuda.runtime.capability import capability_named
from gpuconv.dtypes import FLOAT_NAMES, accumulation_dtype, as_dtype
from gpuconv.problems import Conv2dProblem
from gpuconv.profiling import launches
from gpuconv.verify.conv_problems import conv, random_arrays
from gpuconv.verify.oracle import expected_results
from tests.kernels.agreement import assert_same_bits, on_device
from tests.kernels.convolutions import arguments, dtype_and_options, force_algorithm, problem
from tests.tolerance import assert_within, sum_bound

pools = pytest.mark.parametrize("pool", [1, 2])
channels = pytest.mark.parametrize(
    "channels", [(16, 72), (5, 67), (4, 6, 3)], ids=["vectors", "single numbers", "groups"]
)


def separate_ops(case: Conv2dProblem, x, w, bias, dy, pool: int):
    """Run conv2d, relu and max_pool2d forward and backward. Return y and the gradient of the convolution's output."""
    unpooled = ops.conv2d(x, w, bias, activation="relu", **case.window)
    if pool == 1:
        return unpooled, ops.relu_backward(dy, unpooled)
    y, argmax = ops.max_pool2d(unpooled, kernel_size=2)
    gradient = ops.max_pool2d_backward(dy, argmax, input_shape=unpooled.shape, kernel_size=2)
    return y, ops.relu_backward(gradient, unpooled)


def serving_convolution(case: Conv2dProblem, precision: str) -> list[Algorithm]:
    """The algorithms that serve this convolution. Algorithms in clusters need multiples of 8 channels and filters
    in each group."""
    multiples_of_8 = not any(number // case.groups % 8 for number in (case.c, case.k))
    return [
        algorithm
        for algorithm in serving(precision, few_channels=case.few_channels)
        if multiples_of_8 or algorithm.cluster == 1
    ]


def random_inputs(case: Conv2dProblem, pool: int, dtype: str = "float32", integers: bool = False):
    """x, w, bias, and dy with the shape of the pooled output. integers: round all but dy, so that sums are exact and
    windows contain ties."""
    x, w, bias, _ = random_arrays(case, as_dtype(dtype))
    if integers:
        x, w, bias = (np.round(a.astype(np.float32)).astype(a.dtype) for a in (x, w, bias))
    n, p, q, k = case.y_shape
    dy = np.random.default_rng(9).standard_normal((n, p // pool, q // pool, k)).astype(as_dtype(dtype))
    return x, w, bias, dy


def assert_the_same(
    device, case: Conv2dProblem, pool: int, dtype: str = "float32", integers=False, between=lambda: None
):
    """Fused and separate kernels give the same bits, forward and backward.

    between: called between forward and backward.
    """
    x, w, bias, dy = (asarray(a, device) for a in random_inputs(case, pool, dtype, integers))
    y, gradient = separate_ops(case, x, w, bias, dy, pool)
    fused, mask = ops.conv2d_relu(x, w, bias, pool=pool, **case.window)
    np.testing.assert_array_equal(to_numpy(fused), to_numpy(y))
    between()
    dx = ops.conv2d_dgrad(gradient, w, input_shape=x.shape, **case.window)
    masked = case.window | dict(mask=mask, pool=pool)
    np.testing.assert_array_equal(to_numpy(ops.conv2d_dgrad(dy, w, input_shape=x.shape, **masked)), to_numpy(dx))

    db, fused_db = (asarray(np.full(case.k, 7, as_dtype(dtype)), device) for _ in range(2))
    options = dict(kernel_size=case.kernel_size)
    dw = ops.conv2d_wgrad(gradient, x, db=db, **options, **case.window)
    fused_dw = ops.conv2d_wgrad(dy, x, db=fused_db, **options, **masked)
    np.testing.assert_array_equal(to_numpy(fused_dw), to_numpy(dw))
    np.testing.assert_array_equal(to_numpy(fused_db), to_numpy(db))


@pytest.mark.parametrize(
    ("channels", "dtype", "tf32"),
    [
        ((16, 72), "float16", False),
        ((5, 67), "bfloat16", False),
        ((4, 6, 3), "bfloat16", False),
        ((3, 37), "bfloat16", False),
        ((3, 37), "float32", False),
        ((8, 12), "float32", True),
        ((5, 9), "float64", False),
    ],
)
def test_a_pool_without_relu_before_batch_norm_has_the_bits_of_separate_kernels(device, channels, dtype, tf32):
    """Every algorithm gives the bits of conv2d and max_pool2d, for integers, whose sums are exact. The gradient has the
    same bits through the mask as through max_pool2d_backward."""
    case = problem(*channels)
    x, w, bias, dy = (asarray(a, device) for a in random_inputs(case, 2, dtype, integers=True))
    options = case.window | dict(tf32=tf32)
    unpooled = ops.conv2d(x, w, bias, **options)
    pooled, argmax = ops.max_pool2d(unpooled, kernel_size=2)
    _, correct_mask = ops.conv2d_relu(x, w, bias, pool=2, activation=None, **options)
    mean = to_numpy(pooled).astype(float).mean((0, 1, 2))
    for algorithm in serving_convolution(case, "tf32" if tf32 else dtype):
        if not algorithm.runs_on(capability_named(device)):
            continue
        vectors = np.ones((4, case.k), accumulation_dtype(as_dtype(dtype)))
        device_vectors = [asarray(a, device) for a in vectors]
        results = ops.conv2d_batch_norm(x, w, bias, *device_vectors, pool=2, algo=algorithm.name, **options)
        np.testing.assert_array_equal(to_numpy(results[1]), to_numpy(pooled), algorithm.name)
        np.testing.assert_array_equal(to_numpy(results[4]), to_numpy(correct_mask), algorithm.name)
        np.testing.assert_allclose(to_numpy(results[2]), mean, rtol=1e-5, atol=1e-5, err_msg=algorithm.name)
    gradient = ops.max_pool2d_backward(dy, argmax, input_shape=unpooled.shape, kernel_size=2)
    masked = ops.conv2d_dgrad(dy, w, input_shape=x.shape, mask=correct_mask, pool=2, **options)
    expected = ops.conv2d_dgrad(gradient, w, input_shape=x.shape, **options)
    np.testing.assert_array_equal(to_numpy(masked), to_numpy(expected))


@pytest.mark.parametrize(
    ("channels", "dtype", "tf32"),
    [
        ((16, 72), "float16", False),
        ((5, 67), "bfloat16", False),
        ((4, 6, 3), "bfloat16", False),
        ((3, 37), "bfloat16", False),
        ((3, 40), "float32", False),
        ((8, 12), "float32", True),
        ((5, 9), "float64", False),
    ],
)
def test_an_activation_and_its_saved_input_have_the_bits_of_separate_kernels(device, channels, dtype, tf32):
    """Every algorithm gives the bits of conv2d and of the activation's own kernel, in one launch."""
    case = problem(*channels)
    x, w, bias, _ = (asarray(a, device) for a in random_inputs(case, 1, dtype, integers=True))
    options = case.window | dict(tf32=tf32)
    before = ops.conv2d(x, w, bias, **options)  # sums of integers are exact
    for number, algorithm in enumerate(serving_convolution(case, "tf32" if tf32 else dtype)):
        if not algorithm.runs_on(capability_named(device)):
            continue
        activation = ("gelu", "silu", "hard_swish")[number % 3]
        with launches.record_launches() as launched:
            y, saved = ops.conv2d_relu(x, w, bias, activation=activation, algo=algorithm.name, **options)
        assert len(launched) == 1
        np.testing.assert_array_equal(to_numpy(saved), to_numpy(before), algorithm.name)
        np.testing.assert_array_equal(to_numpy(y), to_numpy(getattr(ops, activation)(before)), algorithm.name)
        fractions = x * x.dtype.type(0.3)
        y, saved = ops.conv2d_relu(fractions, w, bias, activation=activation, algo=algorithm.name, **options)
        np.testing.assert_array_equal(to_numpy(y), to_numpy(getattr(ops, activation)(saved)), algorithm.name)


@pytest.mark.parametrize("channels", [(8, 12), (5, 7), (3, 10), (2, 3, 2)])
def test_an_activation_and_its_saved_input_have_no_memory_errors(device, channels):
    if device != "emulated":
        pytest.skip("only the emulator has a checker")
    c, k, groups = (*channels, 1)[:3]
    case = conv(1, 5, 6, c * groups, k * groups, (3, 2), padding=((1, 0), (2, 1)), groups=groups)
    for dtype in ("float32", "bfloat16"):
        x, w, bias, _ = random_inputs(case, 1, dtype)
        assert_same_bits("conv2d_relu", device, x, w, bias, activation="gelu", **case.window)
        with emulator.configure(sanitize="checked", seed=7):
            checked_results = on_device("conv2d_relu", device, x, w, bias, activation="gelu", **case.window)
        plain = on_device("conv2d_relu", device, x, w, bias, activation="gelu", **case.window)
        for checked, unchecked in zip(checked_results, plain, strict=True):
            np.testing.assert_array_equal(checked, unchecked)


@pools
@channels
def test_every_float32_algorithm_has_the_bits_of_separate_kernels(device, monkeypatch, channels, pool):
    for algorithm in serving("float32"):
        force_algorithm(monkeypatch, algorithm)
        assert_the_same(device, problem(*channels), pool)


@pools
@pytest.mark.parametrize("dtype", FLOAT_NAMES)
def test_ties_in_a_window_have_the_bits_of_separate_kernels(device, dtype, pool):
    for channels in ((8, 16), (3, 5)):
        assert_the_same(device, conv(2, 7, 9, *channels, (1, 1)), pool, dtype, integers=True)


@pools
@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_the_first_algorithm_of_a_dtype_has_the_bits_of_separate_kernels(device, monkeypatch, dtype, pool):
    force_algorithm(monkeypatch, serving(dtype)[0])
    assert_the_same(device, problem(16, 72), pool, dtype)


@pools
@pytest.mark.parametrize("channels", [(8, 12), (3, 5)])
def test_split_gradients_have_the_bits_of_separate_kernels(device, monkeypatch, channels, pool):
    assert_the_same(
        device, problem(*channels, groups=2), pool, between=lambda: force_algorithm(monkeypatch, most_parts=3)
    )


@pools
@pytest.mark.parametrize("channels", [(8, 12), (3, 5)])
def test_memory_accesses_stay_within_bounds(device, monkeypatch, channels, pool):
    if device != "emulated":
        pytest.skip("only the emulator has a checker")
    case = conv(1, 5, 6, *channels, (3, 2), padding=((1, 0), (2, 1)))
    with emulator.configure(sanitize="checked", seed=7):
        for split_k in (1, 3):
            force_algorithm(monkeypatch)
            assert_the_same(
                device, case, pool, between=lambda split_k=split_k: force_algorithm(monkeypatch, most_parts=split_k)
            )


def test_memory_accesses_on_tensor_cores_stay_within_bounds(device):
    """On tensor cores the mask is written from the fragments, and moments are summed from y."""
    if device != "emulated":
        pytest.skip("only the emulator has a checker")
    of_vectors = [c for c in verify.cases(("tiny",)) if c.name.startswith("2x2x3x8-8x1x1 ")]
    chosen = [c for c in of_vectors if c.name.endswith("pool") or c.op == "conv2d_batch_norm"]
    assert {c.op for c in chosen} == {"conv2d_relu", "conv2d_dgrad", "conv2d_wgrad", "conv2d_batch_norm"}
    with emulator.configure(sanitize="checked", seed=7), launches.record_launches() as launched:
        for case in chosen:
            outcome = verify.run_case(case, "bfloat16", device)
            assert outcome.passed, outcome.failure
    assert len([launch for launch in launched if launch.kernel.name.endswith("_mma")]) == len(chosen) == 5


@pools
def test_thread_orders_and_repeats_give_the_same_bits(device, pool):
    for case in (problem(16, 24), problem(5, 7)):
        x, w, bias, dy = random_inputs(case, pool)
        for activation in ("relu", None):
            assert_same_bits("conv2d_relu", device, x, w, bias, pool=pool, activation=activation, **case.window)
        mask = np.random.default_rng(3).integers(0, 256, case.mask_shape(pool), np.uint8)
        masked = case.window | dict(mask=asarray(mask, device), pool=pool)
        assert_same_bits("conv2d_dgrad", device, dy, w, input_shape=x.shape, **masked)
        assert_same_bits("conv2d_wgrad", device, dy, x, kernel_size=case.kernel_size, **masked)


@pools
@pytest.mark.parametrize("activation", ["relu", None])
def test_infinities_and_nan_pass_through(device, pool, activation):
    x = np.random.default_rng(4).standard_normal((2, 6, 6, 4)).astype(np.float32)
    x[0, 1, 2, 3], x[0, 3, 0, 1], x[1, 4, 4, 0] = np.nan, np.inf, -np.inf
    w = np.ones((5, 1, 1, 4), np.float32)
    options = dict(pool=pool, activation=activation)
    y, mask = on_device("conv2d_relu", device, x, w, **options)
    expected, correct_mask = ops.conv2d_relu(x, w, **options)
    for special in (np.isnan, np.isposinf, np.isneginf):
        np.testing.assert_array_equal(special(y), special(expected))
    np.testing.assert_array_equal(mask, correct_mask)


@pools
def test_strided_views_and_a_mask_at_an_odd_address_change_no_bit(device, pool):
    case = problem(8, 12)
    x, w, bias, dy = random_inputs(case, pool)
    options = dict(pool=pool, **case.window)
    expected, correct_mask = on_device("conv2d_relu", device, x, w, bias, **options)
    out = asarray(np.repeat(np.full(expected.shape, 7, np.float32), 2, axis=-1), device)[..., ::2]
    strided = asarray(np.repeat(x, 2, axis=-1), device)[..., ::2]
    result, mask = ops.conv2d_relu(strided, asarray(w, device), asarray(bias, device), **options, out=out)
    assert result is out
    np.testing.assert_array_equal(to_numpy(out), expected)
    np.testing.assert_array_equal(to_numpy(mask), correct_mask)
    # A mask at an odd address, where several bytes cannot be read at once.
    odd = asarray(np.concatenate([np.zeros(1, np.uint8), correct_mask.reshape(-1)]), device)[1:].reshape(mask.shape)
    dx = on_device("conv2d_dgrad", device, dy, w, input_shape=x.shape, mask=mask, **options)
    moved = on_device("conv2d_dgrad", device, dy, w, input_shape=x.shape, mask=odd, **options)
    np.testing.assert_array_equal(moved, dx)


@pytest.mark.parametrize("split_k", [1, 3])
def test_db_accumulates_with_dw(device, monkeypatch, split_k):
    force_algorithm(monkeypatch, most_parts=split_k)
    case = problem(8, 12)
    x, _, _, dy = random_inputs(case, 1)
    before = np.random.default_rng(1).standard_normal(case.k).astype(np.float32)
    db, dw = asarray(np.repeat(before, 2), device), asarray(np.ones(case.w_shape, np.float32), device)
    window = case.window | dict(kernel_size=case.kernel_size)
    ops.conv2d_wgrad(asarray(dy, device), asarray(x, device), out=dw, db=db[::2], accumulate=True, **window)
    wide = dy.astype(np.float64)
    bound = sum_bound(np.float32, dy.size // case.k + 1, ops.bias_grad(np.abs(wide)) + np.abs(before))
    assert_within(to_numpy(db)[::2], ops.bias_grad(wide) + before, bound)
    np.testing.assert_array_equal(to_numpy(db)[1::2], before)
    (gradient,) = expected_results("conv2d_wgrad", [dy, x], window)
    value = 1 + gradient.value
    assert_within(to_numpy(dw), value, gradient.bound + 2.0**-22 * np.abs(value))


@pytest.mark.parametrize("op", ["conv2d_dgrad", "conv2d_wgrad"])
@pytest.mark.parametrize("precision", ["bfloat16", "tf32"])
def test_gradients_on_tensor_cores_go_through_a_mask(device, rng, op, precision):
    """dy counts as zero where its mask bit is not set, in one group and in three."""
    dtype, tf32_option = dtype_and_options(precision)
    for case in (
        problem(24, 40),
        problem(8, 16, groups=3),
        conv(2, 11, 9, 24, 16, (3, 4), stride=(2, 3), padding=((2, 0), (1, 3)), dilation=(1, 2)),
        conv(2, 7, 9, 8, 12, 3, padding=1),
    ):
        (dy, other), window = arguments(op, case, dtype)
        keeps = rng.integers(0, 2, dy.shape).astype(bool)
        (expected,) = expected_results(op, [np.where(keeps, dy, np.zeros_like(dy)), other], window | tf32_option)
        by_group = keeps.reshape(*dy.shape[:3], case.groups, -1)
        mask = asarray(np.packbits(by_group, axis=-1, bitorder="little").reshape(*dy.shape[:3], -1), device)
        for checks in (dict(), dict(sanitize="checked", seed=5)):
            with emulator.configure(**checks):
                gradient = on_device(op, device, dy, other, **window, mask=mask, algo="mma-64x64", **tf32_option)
                assert_within(gradient, expected.value, expected.bound, f"{op} {case}")
